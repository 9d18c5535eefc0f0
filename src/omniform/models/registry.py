"""Which file holds which family. Files are imported when a checkpoint names their family, never before.

Families of the user's own are registered, or found in the packages that are installed beside omniform: an entry point
of the group ``omniform.families`` is called like the ``model_type`` and leads to a :class:`Family`, or to a function
that registers what is needed. Such entry points are read when a ``model_type`` is unknown, so they cost nothing before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar, cast

from omniform.architectures.family import Architecture, Family
from omniform.architectures.model import Model
from omniform.core.collector import paused
from omniform.core.config import ModelConfig
from omniform.core.errors import ConfigError, InputError, UnknownNameError, nearest
from omniform.core.reader import ConfigReader
from omniform.models.index import FAMILIES
from omniform.weights.keymap import KeyMap

logger = logging.getLogger("omniform")

M = TypeVar("M", bound=Model)
S = TypeVar("S")

_REGISTERED: dict[str, Family] = {}
_CONFIGS: dict[str, type[ModelConfig]] = {}


def register(family: Family) -> None:
    """Add a family of the user's own; its ``model_type`` must be new."""
    if family.model_type in FAMILIES or family.model_type in _REGISTERED:
        raise ConfigError("this model_type is taken", where="register", found=repr(family.model_type))
    _REGISTERED[family.model_type] = family


def is_again(old: type, new: type) -> bool:
    """Whether a class is the other one, or what its definition made when it was run once more, as in a notebook."""
    if old is new:
        return True
    return "<locals>" not in new.__qualname__ and (old.__module__, old.__qualname__) == (
        new.__module__,
        new.__qualname__,
    )


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
    known = _CONFIGS.get(model_type)
    again = known is not None and is_again(known, config)
    if not exist_ok and not again and (model_type in FAMILIES or model_type in _REGISTERED or known is not None):
        raise ConfigError("this model_type is taken", where="register", found=repr(model_type))
    _CONFIGS[model_type] = config


def config_class(model_type: str) -> type[ModelConfig] | None:
    """The class of a ``model_type``'s configs; None where nobody knows it."""
    if not is_known(model_type):
        return None
    return _CONFIGS[model_type] if model_type in _CONFIGS else family(model_type).config_class


def is_known(model_type: str) -> bool:
    """Whether a ``model_type`` can be loaded; packages of the user's are asked for one that omniform does not know."""
    if model_type in FAMILIES or model_type in _REGISTERED or model_type in _CONFIGS:
        return True
    _discover(model_type)
    return model_type in _REGISTERED or model_type in _CONFIGS


def is_users(model_type: object) -> bool:
    """Whether the user has registered a family or a class of configs for a ``model_type``."""
    return isinstance(model_type, str) and (model_type in _REGISTERED or model_type in _CONFIGS)


GROUP = "omniform.families"
"""The group of entry points in which installed packages name families of their own."""


def _discover(model_type: str) -> None:
    """Register what an installed package declares for a ``model_type``.

    Raises:
        UnknownNameError: a package declares it, and cannot be imported or registers something else.
    """
    for point in entry_points(group=GROUP, name=model_type):
        try:
            found = point.load()
            if not isinstance(found, Family):
                cast("Callable[[], object]", found)()
            elif found.model_type == model_type:
                _REGISTERED[model_type] = found
        except Exception as error:  # code of the user's own, which may do anything
            raise _broken(point, f"{type(error).__name__}: {error}") from error
        if model_type not in _REGISTERED and model_type not in _CONFIGS:
            said = f"a family of {found.model_type!r}" if isinstance(found, Family) else "a function that does not"
            raise _broken(point, said)
        return


def _broken(point: EntryPoint, found: str) -> UnknownNameError:
    home = "" if point.dist is None else f" of {point.dist.name}"
    return UnknownNameError(
        f"the entry point{home} for model_type {point.name!r} does not give that family",
        where=f"{GROUP}: {point.value}",
        expected="a Family of that model_type, or a function without arguments that registers it",
        found=found[:300],
    )


PICTURES_OF = {"sam2_video": "sam2"}
"""Types whose part for single pictures is a family of its own, and is what is loaded of them."""

MEMORY = (
    "memory_", "mask_downsampler_", "num_maskmem", "sigmoid_", "enable_", "multimask_", "max_object_pointers",
    "max_cond_frame_num", "rope_parameters", "image_size",
)  # fmt: skip
"""Beginnings of the keys that the rest of such types reads: a video's memory of its earlier pictures."""


def of_pictures(raw: Mapping[str, object], where: str) -> Mapping[str, object]:
    """The part for single pictures of a config for videos, said in one warning; other configs as they are."""
    named = raw.get("model_type")
    if not isinstance(named, str) or named not in PICTURES_OF or is_known(named):
        return raw
    logger.warning("%s: of %s the part for single pictures is read; video memory waits", where, named)
    return {k: v for k, v in raw.items() if not k.startswith(MEMORY)} | {"model_type": PICTURES_OF[named]}


def _declared() -> list[str]:
    return [point.name for point in entry_points(group=GROUP)]


def known_families() -> list[str]:
    """Every ``model_type`` that can be loaded."""
    return sorted({*FAMILIES, *_REGISTERED, *_CONFIGS})


def family(model_type: str, *, where: str = "config.json") -> Family:
    """The family of a ``model_type``.

    Raises:
        UnknownNameError: there is none.
    """
    if not is_known(model_type):
        names = [*known_families(), *_declared()]
        raise UnknownNameError(
            "unknown model_type", where=where, found=repr(model_type), remedy=nearest(model_type, names)
        )
    if model_type in _REGISTERED:
        return _REGISTERED[model_type]
    if model_type not in FAMILIES:
        raise UnknownNameError(
            "this model_type has a class of configs of the user's own, and no family",
            where=where,
            found=repr(model_type),
            remedy="Register the class of its models with the Auto class that is to load it.",
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
    raw = of_pictures(raw, where)
    # timm's own configs name no type; what they hold of its pretrained networks tells.
    usual = "timm_wrapper" if default is None and "pretrained_cfg" in raw else default
    model_type = raw.get("model_type", usual)
    if not isinstance(model_type, str):
        raise ConfigError(
            "model_type is missing" if model_type is None else "model_type must be a string",
            where=where,
            expected=f"one of {', '.join(known_families())}",
            found=None if model_type is None else repr(model_type),
        )
    if model_type not in FAMILIES:
        is_known(model_type)  # or its package has not been asked yet
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
    def of(
        cls,
        r: ConfigReader,
        name: str,
        default: Mapping[str, object],
        *,
        legacy: str | None = None,
        beside: Collection[str] = (),
    ) -> Part:
        """Read the nested object ``name``; the whole config then gives it as an attribute with attributes of its own.

        Args:
            default: stands in where the object is missing; its ``model_type``, where the object names none.
            legacy: an older key, which counts where a file holds both.
            beside: keys of the object that are the whole's, and that its own family does not read.
        """
        old = None if legacy is None else r.mapping(legacy)
        nested = r.sub(name, default) if old is None or legacy is None else r.within(old, legacy)
        if not nested.raw.keys().isdisjoint(beside):
            nested = r.within({key: value for key, value in nested.raw.items() if key not in beside}, name)
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

    def model(self, architecture: Architecture | None = None) -> Model:
        """The part as one of its family's architectures, as its base model if none is said."""
        name = self.family.base.name if architecture is None else architecture.name
        made: Model = self.family.classes[name](self.config)
        return made

    def build_as(self, kind: type[M]) -> M:
        """The part's base model, which must be of the given kind.

        Raises:
            ConfigError: the named family is of another kind.
        """
        model = self.model()
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
