"""What a family file ends with: the :class:`Family` and its architectures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, Self, TypeVar, cast

from omniform.architectures.model import Model
from omniform.architectures.named import PreTrainedModel, family_class, model_class, returned
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap, Rule

C = TypeVar("C")
S = TypeVar("S")

Rules = KeyMap | Callable[[C], KeyMap]
"""Where weights live; a function of the config, where it depends on that."""

_NONE: Mapping[str, Rule] = {}

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
    "image-text-retrieval",
    "object-detection",
    "image-segmentation",
    "semantic-segmentation",
    "instance-segmentation",
    "universal-segmentation",
    "depth-estimation",
    "mask-generation",
    "video-classification",
    "backbone",
    "audio-classification",
    "audio-frame-classification",
    "audio-xvector",
    "audio-tokenization",
    "ctc",
    "text-to-spectrogram",
    "text-to-waveform",
    "speech-seq2seq",
    "visual-question-answering",
    "document-question-answering",
    "zero-shot-object-detection",
    "image-text-to-text",
    "multimodal-lm",
    "text-encoding",
    "text-embedding",
    "image-embedding",
    "audio-embedding",
]
"""What an architecture does; each Auto class asks for one."""

Padding = Literal["fixed", "learned"]
"""What training does to the vector of the padding token."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """One class name that a ``config.json`` may list: how to build it and where its weights are.

    Attributes:
        name: the ecosystem's class name, ``"LlamaForCausalLM"``.
        tasks: what it does; an Auto class asks for one of them.
        build: makes the model from the family's typed config and the common part.
        keys: where its weights live.
        prefix: what its base model is called inside its checkpoints.
        skeleton: the class of what ``build`` returns.
    """

    name: str
    tasks: tuple[Task, ...]
    build: Callable[[object, Common], Model]
    keys: Callable[[object], KeyMap]
    prefix: str = ""
    skeleton: type[Model] = Model


Begins = Callable[[ModelConfig, str], Beginning | None]
"""How a family's fresh tensors begin, by the config and what the model calls them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Public:
    """What a family tells the world: the names that the ecosystem knows it by, and its row in README's table.

    The index of names (``models/index.py``), the tables of the Auto classes and README's table are generated from this.

    Attributes:
        config: its config's class name, ``"LlamaConfig"``.
        pretrained: class name of the base of its models, where it is not the config's with ``PreTrainedModel``.
        tokenizer: class name of its tokenizer; empty for none.
        image_processor: class name of its image processor.
        video_processor: class name of its video processor.
        feature_extractor: class name of its feature extractor.
        processor: class name of its processor.
        row: what its models do, in README's words; empty for a part of another family, which has no row.
        padding: what training does to the padding token's vector where it is read: ``fixed`` leaves it as it is, as
            tables with a ``padding_idx`` do.
        usual: attributes that the ecosystem reads of its configs and that its maths has no use for, with their values.
        labels: how many classes a head tells apart where the config does not say.
    """

    config: str = ""
    pretrained: str = ""
    tokenizer: str = ""
    image_processor: str = ""
    video_processor: str = ""
    feature_extractor: str = ""
    processor: str = ""
    row: str = ""
    padding: Padding = "fixed"
    usual: Mapping[str, object] = field(default_factory=dict)
    labels: int = 2


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models: one ``model_type``, one file.

    Attributes:
        model_type: the name in ``config.json``.
        read: turns a config into the family's typed one.
        architectures: by class name; the first is the base model.
        public: what it tells the world.
        module: the file that its classes are found in.
        begins: how fresh tensors begin, by the config and their paths; None, or no answer, for the general rule.
        config_class: the class of its configs.
        classes: the class of every architecture, by name.
        parts: classes of configs that stand inside its own, and are no family's.
    """

    model_type: str
    read: Callable[[ConfigReader], object]
    architectures: Mapping[str, Architecture]
    public: Public = Public()
    module: str = __name__
    begins: Begins | None = None
    parts: tuple[type[ModelConfig], ...] = ()
    config_class: type[ModelConfig] = field(init=False, repr=False, compare=False)
    base_class: type[PreTrainedModel] = field(init=False, repr=False, compare=False)
    classes: Mapping[str, type[PreTrainedModel]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        named = self.public.config or f"{self.model_type.title().replace('_', '')}Config"
        body = {
            "__module__": self.module,
            "__qualname__": named,
            "__doc__": f"Config of ``{self.model_type}`` models; see :class:`~omniform.core.config.ModelConfig`.",
            "model_type": self.model_type,
            "reader": staticmethod(self.read),
            "usual": self.public.usual,
            "labels": self.public.labels,
            "begins": None if self.begins is None else staticmethod(self.begins),
            "learns_padding": self.public.padding == "learned",
        }
        config_class = type(named, (ModelConfig,), body)
        prefix = next(iter(self.prefixes), "model")
        base_name = self.public.pretrained or f"{named.removesuffix('Config')}PreTrainedModel"
        base = family_class(base_name, config_class, self.module, prefix)
        made = {name: model_class(name, self, a, base, self.module) for name, a in self.architectures.items()}
        for name, value in (("config_class", config_class), ("base_class", base), ("classes", made)):
            object.__setattr__(self, name, value)

    @property
    def names(self) -> dict[str, type]:
        """Every class of this family by name."""
        base, parts = self.base_class, {part.__name__: part for part in self.parts}
        return {self.config_class.__name__: self.config_class, base.__name__: base, **self.classes, **parts}

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


def part_config(name: str, model_type: str, read: Callable[[ConfigReader], object]) -> type[ModelConfig]:
    """The class of configs of a part that only one family has, and that no model is built of by itself.

    Args:
        name: the ecosystem's, ``"SamMaskDecoderConfig"``.
        read: turns such a config into a typed one.
    """
    body = {
        "__module__": sys._getframe(1).f_globals["__name__"],
        "__qualname__": name,
        "__doc__": f"Config of ``{model_type}``, a part of others; see :class:`~omniform.core.config.ModelConfig`.",
        "model_type": model_type,
        "reader": staticmethod(read),
    }
    return type(name, (ModelConfig,), body)


def part_of(r: ConfigReader, name: str, config: type[ModelConfig], kind: type[S]) -> S:
    """Read the nested object ``name`` as such a config; what is missing has the part's defaults.

    Args:
        kind: of the typed config that it is turned into.
    """
    nested = r.sub(name, {})
    made = config.from_raw({"model_type": config.model_type, **nested.raw}, where=nested.where)
    r.values[name] = made
    assert isinstance(made.spec, kind)
    return made.spec


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
        keys: Rules[C],
        *,
        prefix: str,
    ) -> None:
        self._model_type = model_type
        self._read = read
        self._keys = keys
        self._prefix = prefix
        self._architectures: dict[str, Architecture] = {}
        self._public = Public()
        self._begins: Begins | None = None
        self._parts: tuple[type[ModelConfig], ...] = ()

    def public(
        self,
        *,
        config: str,
        pretrained: str = "",
        tokenizer: str = "",
        image_processor: str = "",
        video_processor: str = "",
        feature_extractor: str = "",
        processor: str = "",
        row: str = "",
        padding: Padding = "fixed",
        usual: Mapping[str, object] | None = None,
        labels: int = 2,
    ) -> Self:
        """The names that the ecosystem knows this family by, and its row in README; see :class:`Public`."""
        self._public = Public(
            config=config,
            pretrained=pretrained,
            tokenizer=tokenizer,
            image_processor=image_processor,
            video_processor=video_processor,
            feature_extractor=feature_extractor,
            processor=processor,
            row=row,
            padding=padding,
            usual=usual or {},
            labels=labels,
        )
        return self

    def begins(self, rule: Begins) -> Builder[C]:
        """How fresh tensors begin where the general rule does not say; see :class:`Family`."""
        self._begins = rule
        return self

    def parts(self, *configs: type[ModelConfig]) -> Builder[C]:
        """Classes of configs that stand inside the family's own, and are no family's; see :func:`part_config`."""
        self._parts = configs
        return self

    def base(self, name: str, build: Callable[[C], Model], *also: Task) -> Builder[C]:
        """The model without a head; ``also``: what else it does as it is."""
        tasks: tuple[Task, ...] = ("base", *also)
        return self.architecture(name, tasks, lambda c, _: build(c), self._base_keys, skeleton=returned(build))

    def head(
        self,
        name: str,
        task: Task | tuple[Task, ...],
        build: Callable[[C, Common], Model],
        rules: Mapping[str, Rule] | KeyMap = _NONE,
        *,
        prefix: str | None = None,
    ) -> Builder[C]:
        """A model with a head, its base at ``model`` on our side and at the prefix on the Hub's.

        Args:
            rules: where the head's own weights live, from our path to the checkpoint's; a :class:`KeyMap` where they
                have old spellings too.
            prefix: where this head's checkpoints hold the base, if not where the family's others do.
        """
        own = rules if isinstance(rules, KeyMap) else KeyMap(rules)
        inside = self._prefix if prefix is None else prefix
        tasks = (task,) if isinstance(task, str) else task
        return self.architecture(
            name, tasks, build, lambda c: self._base_keys(c).under("model", inside) | own, prefix=inside
        )

    def backbone(self, name: str, build: Callable[[C], Model], keys: Rules[C] | None = None) -> Builder[C]:
        """The model as a backbone; ``keys``: where its weights live, if not where the base model's do."""
        table = self._base_keys if keys is None else keys
        return self.architecture(name, ("backbone",), lambda c, _: build(c), table, skeleton=returned(build))

    def architecture(
        self,
        name: str,
        tasks: tuple[Task, ...],
        build: Callable[[C, Common], Model],
        keys: Rules[C],
        *,
        prefix: str = "",
        skeleton: type[Model] | None = None,
    ) -> Builder[C]:
        """Any other architecture, with its own key map; ``skeleton``: what is built, where ``build`` does not say."""
        table = (lambda _: keys) if isinstance(keys, KeyMap) else keys
        self._architectures[name] = Architecture(
            name,
            tasks,
            cast(Callable[[object, Common], Model], build),
            cast(Callable[[object], KeyMap], table),
            prefix,
            skeleton or returned(build),
        )
        return self

    def done(self) -> Family:
        """The family. Its classes become names of the file that calls, so that they can be imported and pickled."""
        module = sys._getframe(1).f_globals["__name__"]
        family = Family(
            self._model_type, self._read, dict(self._architectures), self._public, module, self._begins, self._parts
        )
        vars(sys.modules[module]).update(family.names)
        if module.startswith("omniform.models."):
            vars(sys.modules[module]).setdefault("__path__", [])  # ``modeling_llama`` and its like are found below it
        return family

    def _base_keys(self, c: C) -> KeyMap:
        return self._keys if isinstance(self._keys, KeyMap) else self._keys(c)
