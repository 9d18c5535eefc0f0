"""``ProcessorMixin``: processors of the user's own, made of whichever parts their constructor names."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Self, cast, get_type_hints

from omniform.core.batch import Batch
from omniform.core.errors import ConfigError, InputError, UnknownArgumentError, brief, listed, nearest
from omniform.core.file_names import PROCESSOR_FILE
from omniform.inputs.audio import FeatureExtractionMixin
from omniform.inputs.images import ImageProcessingMixin
from omniform.inputs.processors.base import TEXT_OPTIONS, Parts, Processor
from omniform.inputs.processors.chat import write_templates
from omniform.inputs.processors.kwargs import (
    AudioKwargs,
    CommonKwargs,
    ImagesKwargs,
    ProcessingKwargs,
    TextKwargs,
    VideosKwargs,
)
from omniform.inputs.processors.options import Part
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer

MODALITIES: Final = ("image_processor", "video_processor", "feature_extractor", "tokenizer")
"""Words in the names of a constructor's arguments that are parts (``tokenizer``, ``qformer_tokenizer``)."""

_KINDS: Final = {"image_processor": ImageProcessingMixin, "feature_extractor": FeatureExtractionMixin}
_GROUPS: Final[Mapping[str, type]] = {
    "text_kwargs": TextKwargs,
    "images_kwargs": ImagesKwargs,
    "audio_kwargs": AudioKwargs,
    "videos_kwargs": VideosKwargs,
}


_READERS: Final = {
    "text": "tokenizer", "images": "image_processor", "videos": "video_processor", "audio": "feature_extractor",
}  # fmt: skip


def modality_of(name: str) -> str | None:
    """What kind of part an argument of this name is; None for none."""
    return None if name == "audio_tokenizer" else next((word for word in MODALITIES if word in name), None)


class ProcessorMixin(Processor):
    """Base of processors of the user's own; every processor is an instance of it.

    The parts are the arguments of its constructor that are called like one (``tokenizer``, ``image_processor``,
    ``feature_extractor``, or with a word in front), or what ``attributes`` lists; they are handed on by position or by
    name. ``<part>_class`` names the class that loads one, where it is not the Auto class. Other arguments of the
    constructor that are kept as attributes are its settings, in ``processor_config.json``.

    Args:
        args: the parts, in order.
        kwargs: the same by name; ``chat_template``, and what ``optional_attributes`` lists.

    Raises:
        InputError: a part is missing, or is something else.
        UnknownArgumentError: an argument that is none of them.
    """

    attributes: ClassVar[Sequence[str]] = ()
    optional_attributes: ClassVar[Sequence[str]] = ("chat_template",)
    valid_processor_kwargs: ClassVar[type] = ProcessingKwargs
    needs = ()

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return True if cls is ProcessorMixin and Processor in other.__mro__ else NotImplemented

    def __init__(self, *args: object, **kwargs: object) -> None:
        kind, names = type(self).__name__, self.get_attributes()
        template = kwargs.pop("chat_template", None)
        optional = [name for name in self.optional_attributes if name != "chat_template" and name in kwargs]
        for name in optional:
            setattr(self, name, kwargs.pop(name))
        strange = [name for name in kwargs if name not in names]
        if strange or len(args) > len(names):
            known = [*names, "chat_template", *self.optional_attributes]
            found = strange[0] if strange else f"{len(args)} parts"
            remedy = nearest(strange[0], known) if strange else f"Its parts are {listed(names)}."
            raise UnknownArgumentError(f"{kind} has no part {found!r}", remedy=remedy)
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        self.tokenizer = cast(Tokenizer, None)
        for name in names:
            self.check_argument_for_proper_class(name, given.get(name))
            setattr(self, name, given[name])
        own = self.tokenizer.chat_template if isinstance(self.tokenizer, Tokenizer) else None
        self.chat_template = cast(ChatTemplates, own if template is None else template)

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The names of the parts, in the constructor's order."""
        if cls.attributes:
            return list(cls.attributes)
        named = [name for name in inspect.signature(cls.__init__).parameters if modality_of(name) is not None]
        own = [base for base in cls.__mro__ if ProcessorMixin in base.__mro__ and base is not ProcessorMixin]
        hints = [name.removesuffix("_class") for base in own for name in vars(base) if name.endswith("_class")]
        return named or [name for name in dict.fromkeys(hints) if modality_of(name) is not None]

    def check_argument_for_proper_class(self, argument_name: str, argument: object) -> None:
        """Raise :class:`InputError` if this is not what a part of that name is."""
        word = modality_of(argument_name) or ""
        wanted = _KINDS.get(word)
        fits = isinstance(argument, wanted) if wanted is not None else argument is not None
        if word == "tokenizer":
            fits = callable(argument) and not isinstance(argument, tuple(_KINDS.values()))
        if not fits:
            raise InputError(
                f"a {type(self).__name__} has no such {word or 'part'}"
                if argument is not None
                else "a part is missing",
                where=f"{type(self).__name__}: {argument_name}",
                expected=wanted.__name__ if wanted is not None else f"a {word or argument_name}",
                found=type(argument).__name__,
                remedy=f"Its parts are, in this order: {listed(self.get_attributes())}.",
            )

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Not asked: such a processor is made of its own constructor's arguments."""
        raise InputError("a processor of the user's own is loaded by from_pretrained", where=cls.__name__)

    @classmethod
    def from_args_and_dict(cls, args: Sequence[object], processor_dict: Mapping[str, object], **kwargs: object) -> Self:
        """Make it of its parts and the object in its file, some settings changed.

        Raises:
            ConfigError: its constructor refuses them.
            UnknownArgumentError: it has no such setting.
        """
        takes = {p.name: p for p in inspect.signature(cls.__init__).parameters.values()}
        names = [*cls.get_attributes(), "self"]
        settings = {n: v for n, v in processor_dict.items() if n in takes and n not in names}
        optional = {n: v for n, v in processor_dict.items() if n in cls.optional_attributes}
        own = {n: v for n, v in kwargs.items() if n in takes or n in (*cls.optional_attributes, "chat_template")}
        if any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            settings |= optional
        try:
            made = cls(*args, **{**settings, **own})
        except (TypeError, AttributeError) as error:
            if isinstance(error, UnknownArgumentError):
                raise
            raise ConfigError(
                f"a {cls.__name__} cannot be made of these settings", where=cls.__name__, found=str(error)
            ) from error
        for name in kwargs.keys() - own.keys():
            if name not in vars(made):
                raise UnknownArgumentError(
                    f"{cls.__name__} has no setting {name!r}", remedy=nearest(name, [*vars(made), *takes])
                )
            setattr(made, name, kwargs[name])
        return made

    # -- what it is ----------------------------------------------------------------------------------------------------

    def _parts(self) -> dict[str, ImageProcessingMixin | FeatureExtractionMixin]:  # type: ignore[override]
        held = {name: vars(self).get(name) for name in self.get_attributes()}
        return {n: part for n, part in held.items() if isinstance(part, (ImageProcessingMixin, FeatureExtractionMixin))}

    def _known(self) -> dict[Part, frozenset[str]]:
        known: dict[Part, frozenset[str]] = {"text": TEXT_OPTIONS | TextKwargs.__annotations__.keys()}
        for part in self._parts().values():
            pictures = isinstance(part, ImageProcessingMixin)
            names = ImagesKwargs.__annotations__ if pictures else AudioKwargs.__annotations__
            known["images" if pictures else "audio"] = frozenset(names)
        return known

    @property
    def model_input_names(self) -> list[str]:
        """The entries that a full batch has."""
        parts = [vars(self)[name] for name in self.get_attributes()]
        return list(dict.fromkeys(name for part in parts for name in part.model_input_names))

    # -- calls ---------------------------------------------------------------------------------------------------------

    def __call__(
        self,
        images: object = None,
        text: object = None,
        videos: object = None,
        audio: object = None,
        **kwargs: object,
    ) -> Batch:
        """Hand each input to the part that reads it; a subclass may do more.

        Raises:
            InputError: there is nothing to read, or no part for it.
        """
        given = {"text": text, "images": images, "videos": videos, "audio": audio}
        options = self._merge_kwargs(self.valid_processor_kwargs, None, **kwargs)
        made: dict[str, object] = {}
        for name, value in given.items():
            part = vars(self).get(_READERS[name])
            if value is not None and part is None:
                raise InputError(f"a {type(self).__name__} has no part for this", where=name, found=brief(value))
            if value is not None:
                made.update(cast("Callable[..., Mapping[str, object]]", part)(value, **options[f"{name}_kwargs"]))
        if all(value is None for value in given.values()):
            raise InputError("there is nothing to read", where=type(self).__name__, expected="text, images or audio")
        kind = options["text_kwargs"].get("return_tensors")
        return Batch(made, tensor_type=cast("str | None", kind))

    def _merge_kwargs(
        self,
        ModelProcessorKwargs: type = ProcessingKwargs,
        tokenizer_init_kwargs: Mapping[str, object] | None = None,
        **kwargs: object,
    ) -> dict[str, dict[str, object]]:
        """The options of each part, sorted from a call's: its own group's over plain ones over the class's defaults.

        Args:
            ModelProcessorKwargs: names the options (its annotations) and their defaults (``_defaults``).
            tokenizer_init_kwargs: the tokenizer's settings, over the defaults of texts.

        Raises:
            InputError: an option is given both plainly and in its group.
            UnknownArgumentError: no part has such an option.
        """
        named = _options_of(ModelProcessorKwargs)
        usual = cast("Mapping[str, Mapping[str, object]]", vars(ModelProcessorKwargs).get("_defaults", {}))
        common = {
            **usual.get("common_kwargs", {}),
            **cast("Mapping[str, object]", kwargs.pop("common_kwargs", None) or {}),
        }
        groups = {name: cast("Mapping[str, object]", kwargs.pop(name, None) or {}) for name in _GROUPS}
        used: set[str] = set()
        found: dict[str, dict[str, object]] = {}
        for group, names in named.items():
            mine = {**usual.get(group, {})}
            if group == "text_kwargs":
                mine |= {n: v for n, v in (tokenizer_init_kwargs or {}).items() if n in names and v is not None}
            plain = {name: value for name, value in kwargs.items() if name in names}
            twice = plain.keys() & groups[group].keys()
            if twice:
                raise InputError("the option is given twice", where=min(twice), found=f"directly and in {group}")
            used |= plain.keys()
            found[group] = {**mine, **common, **groups[group], **plain}
        strange = [name for name in kwargs if name not in used]
        if strange:
            everywhere = {name for names in named.values() for name in names}
            raise UnknownArgumentError(
                f"{type(self).__name__} has no argument {strange[0]!r}", remedy=nearest(strange[0], everywhere)
            )
        return {**found, "common_kwargs": common}

    # -- files ---------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, object]:
        """What is saved: the parts besides tokenizers, and the constructor's other arguments.

        Raises:
            ConfigError: an argument of the constructor is not kept as an attribute.
        """
        kind = type(self)
        parts = set(self.get_attributes())
        plain = {
            name: p for name, p in inspect.signature(kind.__init__).parameters.items() if name not in ("self", *parts)
        }
        wanted = [
            n for n, p in plain.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and n != "chat_template"
        ]
        lost = [name for name in wanted if name not in vars(self)]
        if lost:
            raise ConfigError(
                "an argument of the constructor is not kept",
                where=kind.__name__,
                expected=f"an attribute {lost[0]!r}",
                found=f"none; in all {listed(lost)}",
                remedy="Set it as self." + f"{lost[0]}, so that it is saved.",
            )
        kept = [*wanted, *(n for n in self.optional_attributes if n != "chat_template" and n in vars(self))]
        made = {name: part.to_dict() for name, part in self._parts().items()}
        return {**made, **{name: vars(self)[name] for name in kept}, "processor_class": kind.__name__}

    def to_json_string(self) -> str:
        """The text of ``processor_config.json``."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    def save_files(self, folder: Path) -> None:
        """Write the tokenizers' files, ``processor_config.json`` and the chat templates into a folder."""
        for part in self._parts().values():
            part.check_kept()
        text = self.to_json_string()
        for name in self.get_attributes():
            if modality_of(name) == "tokenizer":
                home = folder if name == "tokenizer" else folder / name
                home.mkdir(exist_ok=True)
                vars(self)[name].save_files(home)
        (folder / PROCESSOR_FILE).write_text(text, encoding="utf-8")
        own = self.tokenizer.chat_template if isinstance(self.tokenizer, Tokenizer) else None
        if self.chat_template is not None and self.chat_template != own:
            write_templates(folder, self.chat_template)

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}={vars(self)[name]!r:.200}" for name in self.get_attributes())
        return f"{type(self).__name__}({parts})"


def _options_of(kind: type) -> dict[str, frozenset[str]]:
    """The options of each group, those that a class of kwargs adds included."""
    try:
        hints = get_type_hints(kind)
    except (NameError, TypeError):  # names that are there for type checkers only
        hints = {}
    named: dict[str, frozenset[str]] = {}
    for group, usual in _GROUPS.items():
        own = hints.get(group, usual)
        extra = own.__annotations__ if isinstance(own, type) else {}
        named[group] = frozenset({*usual.__annotations__, *extra, *CommonKwargs.__annotations__})
    return named
