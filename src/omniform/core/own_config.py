"""Configs of the user's own: :class:`PreTrainedConfig`, whose subclasses keep their keys as plain attributes.

A family's config is read by its family's reader and keeps the file verbatim. A class of the user's own is its own
reader: what its constructor, or its annotated fields, make of the keys of a file is the config, and its attributes are
what is saved. The contract is the ecosystem's, so that a class written for it works when its import is changed.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
from abc import ABCMeta
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Self, cast, dataclass_transform

import torch

from omniform.core.config import Common, ModelConfig, plain, read_common
from omniform.core.config_keys import ATTRIBUTES
from omniform.core.errors import ConfigError, brief, listed
from omniform.core.reader import ConfigReader

# What every config has, with the values that are not written where they were not changed.
_BASE: Mapping[str, object] = {
    "architectures": None, "chunk_size_feed_forward": 0, "dtype": None, "id2label": {0: "LABEL_0", 1: "LABEL_1"},
    "is_encoder_decoder": False, "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "output_attentions": False,
    "output_hidden_states": False, "problem_type": None, "return_dict": True,
}  # fmt: skip
_NOTES = ("_name_or_path", "_where", "_common", "_owner", "_attn_implementation", "_commit_hash", "_auto_class")
_DROPPED = ("model_type", "_commit_hash", "_attn_implementation_internal", "_attn_implementation_autoset")
_FLOAT = "__float__"


@dataclass_transform(kw_only_default=True)
class PreTrainedConfig(ModelConfig, metaclass=ABCMeta):
    """Base of configs of the user's own; every config is an instance of it.

    A subclass names its ``model_type``, takes its keys in its constructor and hands the rest to this one; or it
    annotates them with their defaults (``width: int = 64``) and has no constructor. Configs within it are named in
    ``sub_configs`` and are saved as objects.

    Args:
        settings: keys; those that a subclass does not take are kept as they are.

    Raises:
        ConfigError: labels that contradict each other.
    """

    sub_configs: ClassVar[Mapping[str, type]] = {}
    """Configs within this one: made of objects that are given, or of their own defaults, if the constructor has not."""
    attribute_map: ClassVar[Mapping[str, str]] = {}
    """Other names of keys: ``{"num_hidden_layers": "n_layers"}``."""
    base_config_key: ClassVar[str] = ""
    has_no_defaults_at_init: ClassVar[bool] = False
    keys_to_ignore_at_inference: ClassVar[tuple[str, ...] | list[str]] = ("past_key_values",)
    is_composition: ClassVar[bool] = False

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        # Families' configs do not inherit from this class, which knows how to keep what they keep otherwise.
        return True if cls is PreTrainedConfig and issubclass(other, ModelConfig) else NotImplemented

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(cls, init=False, repr=False, eq=False, kw_only=True)
        if "__init__" not in vars(cls):
            cls.__init__ = _from_fields(cls.__init__)  # type: ignore[method-assign]

    def __init__(self, **settings: object) -> None:
        self._take(settings)

    def __post_init__(self, **settings: object) -> None:
        """What a class without a constructor does once its annotated fields are set, with the keys that are left."""
        self._take(settings)

    def _take(self, given: dict[str, object]) -> None:
        kind = type(self)
        settings = {name: value for name, value in given.items() if name not in _DROPPED}
        for name, made in kind.sub_configs.items():
            value = settings.pop(name, self.__dict__.get(name))
            if value is None or isinstance(value, Mapping):
                self.__dict__[name] = _nested(made, {} if value is None else value)
            else:
                self.__dict__[name] = value
        self._name_or_path = str(settings.pop("name_or_path", settings.pop("_name_or_path", "")))
        old = settings.pop("torch_dtype", None)
        for name, usual in _BASE.items():
            # What was set before this constructor was called counts, as a field's default does.
            value = settings.pop(name, self.__dict__.get(name, copy.copy(usual)))
            setattr(self, name, old if name == "dtype" and value is None else value)
        number, labels = settings.pop("num_labels", None), given.get("id2label")
        if isinstance(number, int) and labels is None:
            self.num_labels = number
        elif number is not None and isinstance(labels, Mapping) and number != len(labels):
            raise ConfigError(
                "num_labels contradicts id2label", where=kind.__name__, expected=len(labels), found=number
            )
        if labels is not None and given.get("label2id") is None and isinstance(self.id2label, Mapping):
            self.label2id = {label: key for key, label in self.id2label.items()}
        for name, value in settings.items():
            setattr(self, "_attn_implementation" if name == "attn_implementation" else name, value)

    # -- reading -----------------------------------------------------------------------------------------------------

    @classmethod
    def from_raw(
        cls,
        raw: Mapping[str, object],
        *,
        where: str = "config.json",
        read: Callable[[ConfigReader], object] | None = None,
        name_or_path: str = "",
    ) -> Self:
        """From the mapping of a ``config.json``; ``read`` is not asked: the class reads itself."""
        config = cls._made(raw, where)
        config._name_or_path = name_or_path
        return config

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, object], **changes: object) -> Self:
        """From a mapping, some keys of it changed; a mapping for a nested config changes only what it holds.

        Args:
            changes: keys to change; ``return_unused_kwargs=True`` gives back those that the config does not have too.

        Raises:
            ConfigError: the class's constructor refuses the keys.
        """
        if not isinstance(config_dict, Mapping):
            raise ConfigError("not a mapping", where=cls.__name__, found=type(config_dict).__name__)
        pair = changes.pop("return_unused_kwargs", False) is True
        for one in ("num_labels", "output_attentions", "attn_implementation"):
            if one in changes:
                config_dict = {**config_dict, one: changes.pop(one)}
        config = cls._made(config_dict, cls.__name__)
        known = config.known if pair else changes.keys()
        config.update({name: value for name, value in changes.items() if name in known})
        left = {name: value for name, value in changes.items() if name not in known}
        return cast(Self, (config, left)) if pair else config

    @classmethod
    def _made(cls, raw: Mapping[str, object], where: str) -> Self:
        keys = cast("dict[str, object]", _floats_read(copy.deepcopy(dict(raw))))
        keys.pop("model_type", None)
        labels = keys.get("id2label")
        if isinstance(labels, Mapping) and keys.get("num_labels") not in (None, len(labels)):
            keys.pop("num_labels")  # as files of old releases have it: the labels count
        try:
            return cls(**keys)
        except (TypeError, AttributeError) as error:
            raise ConfigError(
                f"a {cls.__name__} cannot be made of these keys",
                where=where,
                found=str(error),
                remedy="Every argument of the constructor needs a default, and **kwargs takes the others.",
            ) from error

    # -- attributes --------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: object) -> None:
        name = type(self).attribute_map.get(name, name)
        if name == "torch_dtype":
            name = "dtype"
        if name == "id2label" and isinstance(value, Mapping):
            value = {int(key) if str(key).lstrip("-").isdecimal() else key: label for key, label in value.items()}
        if name == "dtype" and isinstance(value, str):
            found = vars(torch).get(value.removeprefix("torch."))
            value = found if isinstance(found, torch.dtype) else value
        object.__setattr__(self, name, value)
        if name != "_common":
            self.__dict__.pop("_common", None)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        spelled = type(self).attribute_map.get(name, name)
        if spelled in self.__dict__:
            return cast(object, self.__dict__[spelled])
        if spelled != name:
            return cast(object, object.__getattribute__(self, spelled))
        if name == "torch_dtype":
            return self.__dict__.get("dtype")
        if name in ATTRIBUTES and name != "tie_word_embeddings":  # unsaid, nothing is tied
            return ATTRIBUTES[name]
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    def get(self, name: str, default: object = None) -> object:
        """The value of a key or an attribute, or ``default`` where there is none."""
        with contextlib.suppress(AttributeError):
            return cast(object, getattr(self, name))
        return default

    @property
    def num_labels(self) -> int:
        """How many classes a classification head tells apart."""
        labels = self.__dict__.get("id2label")
        return len(labels) if isinstance(labels, Mapping) else type(self).labels

    @num_labels.setter
    def num_labels(self, number: int) -> None:
        if number != len(self.__dict__.get("id2label") or ()):
            self.id2label = {i: f"LABEL_{i}" for i in range(number)}
            self.label2id = {f"LABEL_{i}": i for i in range(number)}

    @property
    def name_or_path(self) -> str:
        """The folder or the Hub id that this config came from; empty if it was made."""
        return str(self.__dict__.get("_name_or_path", ""))

    @name_or_path.setter
    def name_or_path(self, name: str) -> None:
        self._name_or_path = str(name)

    @property
    def use_return_dict(self) -> bool:
        """Whether models return objects with named entries, unless a call says otherwise."""
        return self.__dict__.get("return_dict") is not False

    # -- what omniform reads of any config ---------------------------------------------------------------------------

    @property
    def raw(self) -> dict[str, object]:  # type: ignore[override]
        """Every key as JSON holds it."""
        return self.to_dict()

    @property
    def spec(self) -> object:  # type: ignore[override]
        """The config itself: its own model reads it."""
        return self

    @property
    def common(self) -> Common:  # type: ignore[override]
        """What all families share; read anew after a key has changed."""
        if "_common" not in self.__dict__:
            reader = ConfigReader({**self.to_dict(), "architectures": self.architectures}, where=type(self).__name__)
            self.__dict__["_common"] = read_common(reader, type(self).labels)
        return cast(Common, self.__dict__["_common"])

    @property
    def unknown(self) -> tuple[str, ...]:  # type: ignore[override]
        """Nothing: what the class does not take, it keeps."""
        return ()

    @property
    def known(self) -> frozenset[str]:  # type: ignore[override]
        """Keys that the config has, under any of their names, and those that every config has."""
        own = {name for name in self.__dict__ if name not in _NOTES}
        also = {
            name for kind in type(self).__mro__ for name, value in vars(kind).items() if isinstance(value, property)
        }
        more = ("num_labels", "torch_dtype", "attn_implementation", "name_or_path", *type(self).attribute_map)
        return frozenset({*own, *also, *ATTRIBUTES, *more})

    @property
    def parts(self) -> Mapping[str, ModelConfig]:  # type: ignore[override]
        """The configs within this one, by key."""
        return {name: value for name, value in self.__dict__.items() if isinstance(value, ModelConfig)}

    def replace(self, **changes: object) -> Self:
        """A copy with some keys changed."""
        made = copy.deepcopy(self)
        made.update(changes)
        return made

    def update(self, config_dict: Mapping[str, object]) -> None:
        """Change several keys at once; a mapping for a nested config changes only what it holds."""
        for name, value in config_dict.items():
            now = self.__dict__.get(name)
            if isinstance(now, ModelConfig) and isinstance(value, Mapping):
                value = type(now).from_dict({**now.to_dict(), **value})
            setattr(self, "_attn_implementation" if name == "attn_implementation" else name, value)

    # -- writing -----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, object]:
        """Every key with its value, as JSON holds it; nested configs as mappings."""
        kept = {name: value for name, value in self.__dict__.items() if name not in _NOTES}
        written = {name: plain(name, value, whole=True) for name, value in kept.items()}
        return {**written, "model_type": type(self).model_type}

    def to_diff_dict(self) -> dict[str, object]:
        """What is saved: the class's own keys, and of those that every config has the ones that were changed."""
        usual = _BASE
        written = {name: value for name, value in self.to_dict().items() if name not in usual or value != usual[name]}
        for name, part in self.parts.items():
            written[name] = {**part.to_diff_dict(), "model_type": part.model_type}
        return dict(sorted(written.items()))

    def to_json_string(self, use_diff: bool = True) -> str:
        """The JSON text: as it is saved, or with every key."""
        keys = _floats_written(self.to_diff_dict() if use_diff else self.to_dict())
        return json.dumps(keys, indent=2, sort_keys=True) + "\n"

    def to_save(self) -> dict[str, object]:
        """What goes into ``config.json``.

        Raises:
            ConfigError: what is written would be read as another config: the class does not keep what it is given.
        """
        found = cast("dict[str, object]", json.loads(self.to_json_string()))
        again = json.loads(type(self)._made(found, type(self).__name__).to_json_string())
        lost = sorted(name for name in found.keys() | again.keys() if found.get(name) != again.get(name))
        if lost:
            raise ConfigError(
                "what this config saves is read as another one",
                where=type(self).__name__,
                expected=f"{lost[0]} to stay {brief(found.get(lost[0]))}",
                found=f"{brief(again.get(lost[0]))}; in all {listed(lost)}",
                remedy="Its constructor must keep every argument as an attribute of that name, and give **kwargs on.",
            )
        return found

    def __iter__(self) -> Iterator[str]:
        return iter([name for name in self.__dict__ if name not in _NOTES])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PreTrainedConfig) and type(self) is type(other) and self.to_dict() == other.to_dict()

    __hash__ = None

    def __reduce__(self) -> tuple[object, ...]:
        return _empty, (type(self),), dict(self.__dict__)

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


PretrainedConfig = PreTrainedConfig


def _empty(kind: type[PreTrainedConfig]) -> PreTrainedConfig:
    return kind.__new__(kind)


def is_own(kind: type[ModelConfig]) -> bool:
    """Whether a class of configs is somebody's own, which reads itself."""
    return PreTrainedConfig in kind.__mro__


def _from_fields(above: Callable[..., None]) -> Callable[..., None]:
    """A constructor that sets the annotated fields of a class and hands what is left to ``__post_init__``."""

    def construct(self: PreTrainedConfig, **settings: object) -> None:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        if not fields:
            above(self, **settings)
            return
        for field in fields:
            if field.name in settings:
                value = settings.pop(field.name)
            elif field.default is not dataclasses.MISSING:
                value = field.default
            elif field.default_factory is not dataclasses.MISSING:
                value = field.default_factory()
            else:
                raise TypeError(f"{type(self).__name__} needs a {field.name!r}")
            setattr(self, field.name, value)
        self.__post_init__(**settings)

    return construct


def _nested(kind: type, keys: Mapping[str, object]) -> object:
    if issubclass(kind, ModelConfig):
        return kind.from_dict(keys)
    if keys.get("model_type") is None:  # an Auto class, which has nothing to go by
        return dict(keys)
    make = cast("Callable[..., object]", vars(kind)["for_model"].__get__(None, kind))
    return make(**keys)


def _floats_written(value: object) -> object:
    """Numbers that JSON has no word for, as the ecosystem writes them."""
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, dict):
        return {key: _floats_written(inner) for key, inner in value.items()}
    return [_floats_written(inner) for inner in value] if isinstance(value, list) else value


def _floats_read(value: object) -> object:
    if isinstance(value, dict):
        if value.keys() == {_FLOAT} and value[_FLOAT] in ("NaN", "Infinity", "-Infinity"):
            return float(value[_FLOAT])
        return {key: _floats_read(inner) for key, inner in value.items()}
    return [_floats_read(inner) for inner in value] if isinstance(value, list) else value
