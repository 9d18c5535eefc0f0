"""Which file holds which family. Files are imported when a checkpoint names their family, never before."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TypeVar

from omniform.architectures.family import Family
from omniform.architectures.model import Model
from omniform.core.collector import paused
from omniform.core.config import ModelConfig
from omniform.core.errors import ConfigError, UnknownNameError, nearest
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap

M = TypeVar("M", bound=Model)
S = TypeVar("S")

FAMILIES: dict[str, str] = {
    "bert": "bert:FAMILY",
    "clip": "clip:FAMILY",
    "clip_text_model": "clip:TEXT",
    "clip_vision_model": "clip:VISION",
    "gpt2": "gpt2:FAMILY",
    "detr": "detr:FAMILY",
    "llama": "llama:FAMILY",
    "llava": "llava:FAMILY",
    "mistral": "mistral:FAMILY",
    "t5": "t5:FAMILY",
    "whisper": "whisper:FAMILY",
    "vit": "vit:FAMILY",
}
"""Module and name of every family, by ``model_type``."""

_REGISTERED: dict[str, Family] = {}


def register(family: Family) -> None:
    """Add a family of the user's own; its ``model_type`` must be new."""
    if family.model_type in FAMILIES or family.model_type in _REGISTERED:
        raise ConfigError("this model_type is taken", where="register", found=repr(family.model_type))
    _REGISTERED[family.model_type] = family


def known_families() -> list[str]:
    """Every ``model_type`` that can be loaded."""
    return sorted((*FAMILIES, *_REGISTERED))


def family(model_type: str, *, where: str = "config.json") -> Family:
    """The family of a ``model_type``.

    Raises:
        UnknownNameError: there is none.
    """
    if model_type in _REGISTERED:
        return _REGISTERED[model_type]
    if model_type not in FAMILIES:
        raise UnknownNameError(
            "unknown model_type", where=where, found=repr(model_type), remedy=nearest(model_type, known_families())
        )
    module, name = FAMILIES[model_type].split(":")
    with paused():
        found = vars(import_module(f"omniform.models.{module}"))[name]
    assert isinstance(found, Family)
    return found


def config_of(raw: Mapping[str, object], *, where: str = "config.json", default: str | None = None) -> ModelConfig:
    """A typed config from the raw mapping of a ``config.json``.

    Args:
        default: the ``model_type`` to assume where the mapping names none.

    Raises:
        ConfigError: no family is named, or a value is not supported.
        UnknownNameError: an unknown family.
    """
    model_type = raw.get("model_type", default)
    if not isinstance(model_type, str):
        raise ConfigError(
            "model_type is missing" if model_type is None else "model_type must be a string",
            where=where,
            expected=f"one of {', '.join(known_families())}",
            found=None if model_type is None else repr(model_type),
        )
    return ModelConfig(raw, family(model_type, where=where).read, where=where)


class Part:
    """A nested config that names its own family: a vision tower, a language model.

    Args:
        reader: the nested object.
        default: its family where it names none.

    Attributes:
        config: its config.
        family: its family.
        where: the file and the key that it stands in.
    """

    def __init__(self, reader: ConfigReader, default: str) -> None:
        raw = dict(reader.raw)
        raw.setdefault("model_type", default)
        self.where = reader.where
        self.config = config_of(raw, where=self.where)
        self.family = family(self.config.model_type, where=self.where)

    @classmethod
    def of(cls, r: ConfigReader, name: str, default: Mapping[str, object], *, legacy: str | None = None) -> Part:
        """Read the nested object ``name``; the whole config then gives it as an attribute with attributes of its own.

        Args:
            default: stands in where the object is missing; its ``model_type``, where the object names none.
            legacy: an older key, which counts where a file holds both.
        """
        old = None if legacy is None else r.mapping(legacy)
        nested = r.sub(name, default) if old is None else ConfigReader(old, where=f"{r.where}: {legacy}")
        part = cls(nested, str(default["model_type"]))
        r.values[name] = part.config
        return part

    def spec(self, kind: type[S]) -> S:
        """The part's typed config, which must be of the given kind.

        Raises:
            ConfigError: the named family is another.
        """
        if not isinstance(self.config.spec, kind):
            raise ConfigError("this family does not fit here", where=self.where, found=repr(self.config.model_type))
        return self.config.spec

    @property
    def keys(self) -> KeyMap:
        """Where the part's weights live in a checkpoint of its own."""
        return self.family.base.keys(self.config.spec)

    def build_as(self, kind: type[M]) -> M:
        """The part's base model, which must be of the given kind.

        Raises:
            ConfigError: the named family is of another kind.
        """
        model = self.family.base.build(self.config.spec, self.config.common)
        if not isinstance(model, kind):
            raise ConfigError(
                "this family does not fit here",
                where=self.where,
                expected=f"a {kind.__name__}",
                found=f"{self.config.model_type!r}, a {type(model).__name__}",
            )
        return model

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Part) and self.config == other.config

    def __hash__(self) -> int:
        return hash(self.config.model_type)
