"""What a family file ends with: the :class:`Family` and its architectures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, cast

from omniform.architectures.model import Model
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap

C = TypeVar("C")

Task = Literal[
    "base",
    "causal-lm",
    "masked-lm",
    "pre-training",
    "seq2seq-lm",
    "sequence-classification",
    "token-classification",
    "question-answering",
    "multiple-choice",
    "next-sentence-prediction",
    "image-classification",
    "masked-image-modeling",
    "zero-shot-image-classification",
    "object-detection",
    "image-segmentation",
    "audio-classification",
    "speech-seq2seq",
    "image-text-to-text",
    "multimodal-lm",
    "text-encoding",
    "text-embedding",
    "image-embedding",
]
"""What an architecture does; each Auto class asks for one."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """One class name that a ``config.json`` may list: how to build it and where its weights are.

    Attributes:
        name: the ecosystem's class name, ``"LlamaForCausalLM"``.
        tasks: what it does; an Auto class asks for one of them.
        build: makes the model from the family's typed config and the common part.
        keys: where its weights live.
        prefix: what its base model is called inside its checkpoints.
    """

    name: str
    tasks: tuple[Task, ...]
    build: Callable[[object, Common], Model]
    keys: Callable[[object], KeyMap]
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models: one ``model_type``, one file.

    Attributes:
        model_type: the name in ``config.json``.
        read: turns a config into the family's typed one.
        architectures: by class name; the first is the base model.
    """

    model_type: str
    read: Callable[[ConfigReader], object]
    architectures: Mapping[str, Architecture]

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What the base model is called inside checkpoints of its heads (``"model"``, ``"bert"``).

        Base and head checkpoints are loaded into one another by adding or removing it.
        """
        return tuple(dict.fromkeys(a.prefix for a in self.architectures.values() if a.prefix))

    @property
    def base(self) -> Architecture:
        """The model without a task head."""
        return next(iter(self.architectures.values()))


class Builder(Generic[C]):
    """Collects a family's architectures while keeping the type of its config.

    Args:
        model_type: the name in ``config.json``.
        read: the family's config reader.
        keys: where the base model's weights live, in a checkpoint of the base model; or a function of the config.
        prefix: what the base model is called inside checkpoints of its heads.
    """

    def __init__(
        self,
        model_type: str,
        read: Callable[[ConfigReader], C],
        keys: KeyMap | Callable[[C], KeyMap],
        *,
        prefix: str,
    ) -> None:
        self._model_type = model_type
        self._read = read
        self._keys = keys
        self._prefix = prefix
        self._architectures: dict[str, Architecture] = {}

    def base(self, name: str, build: Callable[[C], Model], *also: Task) -> Builder[C]:
        """The model without a head; ``also``: what else it does as it is."""
        return self.architecture(name, ("base", *also), lambda c, _: build(c), self._base_keys)

    def head(
        self,
        name: str,
        task: Task,
        build: Callable[[C, Common], Model],
        rules: Mapping[str, str] | None = None,
        *,
        prefix: str | None = None,
    ) -> Builder[C]:
        """A model with a head, its base at ``model`` on our side and at the prefix on the Hub's.

        Args:
            rules: where the head's own weights live, from our path to the checkpoint's.
            prefix: where this head's checkpoints hold the base, if not where the family's others do.
        """
        own = KeyMap(rules or {})
        inside = self._prefix if prefix is None else prefix
        return self.architecture(
            name, (task,), build, lambda c: self._base_keys(c).under("model", inside) | own, prefix=inside
        )

    def architecture(
        self,
        name: str,
        tasks: tuple[Task, ...],
        build: Callable[[C, Common], Model],
        keys: KeyMap | Callable[[C], KeyMap],
        *,
        prefix: str = "",
    ) -> Builder[C]:
        """Any other architecture, with its own key map."""
        table = (lambda _: keys) if isinstance(keys, KeyMap) else keys
        self._architectures[name] = Architecture(
            name,
            tasks,
            cast(Callable[[object, Common], Model], build),
            cast(Callable[[object], KeyMap], table),
            prefix,
        )
        return self

    def done(self) -> Family:
        """The family."""
        return Family(self._model_type, self._read, dict(self._architectures))

    def _base_keys(self, c: C) -> KeyMap:
        return self._keys if isinstance(self._keys, KeyMap) else self._keys(c)
