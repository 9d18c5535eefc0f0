"""What a class of somebody's own must be for the Auto class that its checkpoint names it for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from torch import nn

from omniform.core.auto_class import AutoNamed
from omniform.core.config import ModelConfig
from omniform.core.errors import CodeError
from omniform.inputs.audio import FeatureExtractionMixin
from omniform.inputs.images import ImageProcessingMixin
from omniform.inputs.processors import Processor
from omniform.inputs.text.tokenizer import Tokenizer

Home = Literal["omniform", "transformers", "plain"]
"""Whose bases a class inherits from."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of thing that an Auto class loads.

    Attributes:
        word: what it is called.
        ours: omniform's base.
        theirs: the name of the base in transformers.
    """

    word: str
    ours: type
    theirs: tuple[str, ...]


_MODEL: Final = Kind("model", nn.Module, ("PreTrainedModel",))
_KINDS: Final = {
    "AutoConfig": Kind("config", ModelConfig, ("PreTrainedConfig", "PretrainedConfig")),
    "AutoTokenizer": Kind("tokenizer", Tokenizer, ("PreTrainedTokenizerBase",)),
    "AutoImageProcessor": Kind("image processor", ImageProcessingMixin, ("ImageProcessingMixin", "BaseImageProcessor")),
    "AutoVideoProcessor": Kind("video processor", ImageProcessingMixin, ("BaseVideoProcessor",)),
    "AutoFeatureExtractor": Kind("feature extractor", FeatureExtractionMixin, ("FeatureExtractionMixin",)),
    "AutoProcessor": Kind("processor", Processor, ("ProcessorMixin",)),
}


def kind_of(auto: str) -> Kind:
    """What an Auto class loads."""
    return _KINDS.get(auto, _MODEL)


def home_of(kind: type) -> Home:
    """Whose bases a class inherits from."""
    for base in kind.__mro__:
        top = base.__module__.partition(".")[0]
        if top == "transformers":
            return "transformers"
        if top == "omniform" and not base.__module__.startswith("omniform.modules."):
            return "omniform"
    return "plain"


def keeps(found: object, auto: str, where: str) -> type:
    """Check that what a checkpoint names for an Auto class is such a class.

    Raises:
        CodeError: it is something else.
    """
    wanted = kind_of(auto)
    if not isinstance(found, type):
        raise _broken(auto, wanted, where, f"a {type(found).__name__}")
    for other in (*_KINDS.values(), _MODEL):
        if other.word != wanted.word and _is(found, other) and not _is(found, wanted):
            raise _broken(auto, wanted, where, f"a {other.word}: {found.__name__}")
    if _is(found, wanted) and home_of(found) != "plain":
        return found
    if any("from_pretrained" in vars(base) for base in found.__mro__):
        return found
    raise CodeError(
        "this class cannot be loaded",
        where=where,
        expected=f"a subclass of omniform's or transformers' base of {wanted.word}s, or a class with a classmethod "
        "from_pretrained(name_or_path, **kwargs)",
        found=found.__name__,
    )


def register(kind: type, auto: str) -> None:
    """Have what a class saves bring its code along, as it came with it."""
    if issubclass(kind, AutoNamed):
        kind._auto_class = auto
    elif home_of(kind) == "transformers":
        base = next((base for base in kind.__mro__ if "register_for_auto_class" in vars(base)), None)
        if base is not None:
            vars(base)["register_for_auto_class"].__get__(None, kind)(auto)


def _is(found: type, kind: Kind) -> bool:
    names = {base.__name__ for base in found.__mro__ if base.__module__.partition(".")[0] == "transformers"}
    return issubclass(found, kind.ours) or bool(names.intersection(kind.theirs))


def _broken(auto: str, wanted: Kind, where: str, found: str) -> CodeError:
    return CodeError(
        f"what is named for {auto} is no {wanted.word}", where=where, expected=f"a class of {wanted.word}s", found=found
    )
