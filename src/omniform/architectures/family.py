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
    "text-encoding",
    "text-projection",
    "vision-projection",
]
"""What an architecture does; each Auto class asks for one."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """One class name that a ``config.json`` may list: how to build it and where its weights are.

    Attributes:
        name: the ecosystem's class name, ``"LlamaForCausalLM"``.
        task: what it does.
        build: makes the model from the family's typed config and the common part.
        keys: where its weights live.
    """

    name: str
    task: Task
    build: Callable[[object, Common], Model]
    keys: Callable[[object], KeyMap]


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models: one ``model_type``, one file.

    Attributes:
        model_type: the name in ``config.json``.
        read: turns a config into the family's typed one.
        architectures: by class name; the first is the base model.
        prefix: what the base model is called inside checkpoints of its heads (``"model"``, ``"bert"``); base and head
            checkpoints are loaded into one another by adding or removing it.
        sub_configs: names of nested configs.
    """

    model_type: str
    read: Callable[[ConfigReader], object]
    architectures: Mapping[str, Architecture]
    prefix: str = ""

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

    def base(self, name: str, build: Callable[[C], Model], task: Task = "base") -> Builder[C]:
        """The model without a head."""
        return self.architecture(name, task, lambda c, _: build(c), self._base_keys)

    def head(
        self, name: str, task: Task, build: Callable[[C, Common], Model], rules: Mapping[str, str] | None = None
    ) -> Builder[C]:
        """A model with a head, its base at ``model`` on our side and at the prefix on the Hub's.

        Args:
            rules: where the head's own weights live, from our path to the checkpoint's.
        """
        own = KeyMap(rules or {})
        return self.architecture(name, task, build, lambda c: self._base_keys(c).under("model", self._prefix) | own)

    def architecture(
        self, name: str, task: Task, build: Callable[[C, Common], Model], keys: KeyMap | Callable[[C], KeyMap]
    ) -> Builder[C]:
        """Any other architecture, with its own key map."""
        table = (lambda _: keys) if isinstance(keys, KeyMap) else keys
        self._architectures[name] = Architecture(
            name,
            task,
            cast(Callable[[object, Common], Model], build),
            cast(Callable[[object], KeyMap], table),
        )
        return self

    def done(self) -> Family:
        """The family."""
        return Family(self._model_type, self._read, dict(self._architectures), self._prefix)

    def _base_keys(self, c: C) -> KeyMap:
        return self._keys if isinstance(self._keys, KeyMap) else self._keys(c)
