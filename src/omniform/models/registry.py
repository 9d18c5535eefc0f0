"""Which file holds which family. Files are imported when a checkpoint names their family, never before."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TypeVar

from omniform.architectures.family import Family
from omniform.architectures.model import Model
from omniform.architectures.named import PreTrainedModel
from omniform.core.collector import paused
from omniform.core.config import ModelConfig
from omniform.core.errors import ConfigError, InputError, UnknownNameError, nearest
from omniform.core.reader import ConfigReader
from omniform.models.index import FAMILIES
from omniform.weights.keymap import KeyMap

M = TypeVar("M", bound=Model)
S = TypeVar("S")

_REGISTERED: dict[str, Family] = {}
_CONFIGS: dict[str, type[ModelConfig]] = {}
_CLASSES: dict[tuple[str, type[ModelConfig]], type[PreTrainedModel]] = {}


def register(family: Family) -> None:
    """Add a family of the user's own; its ``model_type`` must be new."""
    if family.model_type in FAMILIES or family.model_type in _REGISTERED:
        raise ConfigError("this model_type is taken", where="register", found=repr(family.model_type))
    _REGISTERED[family.model_type] = family


def register_config(model_type: str, config: object, *, exist_ok: bool = False) -> None:
    """Read configs of a ``model_type`` by a class of the user's own.

    Raises:
        InputError: this is no class of configs, or one of another ``model_type``.
        ConfigError: the ``model_type`` is taken.
    """
    if not (isinstance(config, type) and issubclass(config, ModelConfig)) or not isinstance(model_type, str):
        raise InputError("not a class of configs", where="AutoConfig.register", found=f"{model_type!r}, {config!r:.80}")
    if config.model_type != model_type:
        raise InputError(
            "the class says another model_type",
            where=config.__name__,
            expected=repr(model_type),
            found=repr(config.model_type),
        )
    if not exist_ok and (model_type in FAMILIES or model_type in _REGISTERED or model_type in _CONFIGS):
        raise ConfigError("this model_type is taken", where="register", found=repr(model_type))
    _CONFIGS[model_type] = config


def register_class(auto: str, config: object, model: object, *, exist_ok: bool = False) -> None:
    """Have an Auto class load checkpoints whose configs are of a class as a class of the user's own.

    Raises:
        InputError: these are no classes of configs and models.
        ConfigError: it has a model for that class.
    """
    if not (isinstance(config, type) and issubclass(config, ModelConfig)) or not (
        isinstance(model, type) and issubclass(model, PreTrainedModel)
    ):
        raise InputError(
            "a class of configs and one of models are needed", where=f"{auto}.register", found=f"{config!r}, {model!r}"
        )
    if not exist_ok and (auto, config) in _CLASSES:
        raise ConfigError("there is a model for this class of configs", where=f"{auto}.register", found=repr(config))
    _CLASSES[auto, config] = model


def registered_class(auto: str, config: type[ModelConfig]) -> type[PreTrainedModel] | None:
    """The user's own class that an Auto class loads for configs of a class; None where there is none."""
    return _CLASSES.get((auto, config))


def known_families() -> list[str]:
    """Every ``model_type`` that can be loaded."""
    return sorted({*FAMILIES, *_REGISTERED, *_CONFIGS})


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
    if model_type in _CONFIGS:
        return _CONFIGS[model_type].from_dict(raw)
    return family(model_type, where=where).config_class.from_raw(raw, where=where)


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
        raw: dict[str, object] = {"model_type": default, **reader.raw}
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
        model: Model = self.family.classes[self.family.base.name](self.config)
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
