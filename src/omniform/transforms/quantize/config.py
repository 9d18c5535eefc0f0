"""How a quantized checkpoint says what was done to it: ``quantization_config`` in its ``config.json``."""

from __future__ import annotations

import copy
import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Self, TypeVar

from omniform.core.errors import ConfigError, InputError, RepoError, UnknownArgumentError, brief, nearest
from omniform.core.plain_settings import PlainSettings

C = TypeVar("C", bound="type[QuantizationConfigMixin]")

_CONFIGS: dict[str, type[QuantizationConfigMixin]] = {}


@dataclass(frozen=True, slots=True)
class Texts:
    """What a method learns from, as its settings say.

    Attributes:
        dataset: texts, rows of ids, a text file's path or a known set's name; None where there are none.
        tokenizer: what makes ids of texts, or where one is found; None for the model's own.
        length: tokens of a row; None for what the model reads.
    """

    dataset: object
    tokenizer: object = None
    length: int | None = None


class QuantizationConfigMixin(PlainSettings):
    """Base of the settings of one method of quantizing; a user's own sets its fields in ``__init__``.

    Attributes:
        quant_method: the method's name, under which it is registered.
    """

    quant_method: str

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, object], return_unused_kwargs: bool = False, **kwargs: object
    ) -> Self | tuple[Self, dict[str, object]]:
        """The settings that a ``config.json`` holds.

        Args:
            config_dict: by name; ``quant_method`` is the class's own.
            return_unused_kwargs: return the keywords beside it that are no settings, instead of refusing them.
            kwargs: settings to change.

        Raises:
            ConfigError: a name that the class does not take.
            UnknownArgumentError: a keyword that is no setting.
        """
        try:
            config = cls(**config_dict)
        except TypeError as error:
            said = {name: value for name, value in config_dict.items() if name != "quant_method"}
            try:
                config = cls(**said)
            except TypeError:
                raise ConfigError(
                    f"{cls.__name__} does not take these settings",
                    where="quantization_config",
                    found=brief(dict(config_dict)),
                    remedy=str(error),
                ) from error
        unused = config.update(**kwargs)
        if return_unused_kwargs:
            return config, unused
        if unused:
            first = next(iter(unused))
            raise UnknownArgumentError(f"{cls.__name__} has no setting {first!r}", remedy=nearest(first, vars(config)))
        return config

    def to_dict(self) -> dict[str, object]:
        """All settings by name."""
        found = copy.deepcopy(vars(self))
        if "quant_method" not in found and isinstance(vars(type(self)).get("quant_method"), str):
            found["quant_method"] = self.quant_method
        return {name: str(value.value) if isinstance(value, Enum) else value for name, value in found.items()}

    def to_diff_dict(self) -> dict[str, object]:
        """The same; a class of the user's own may leave out what is usual."""
        return self.to_dict()

    def __iter__(self) -> Iterator[tuple[str, object]]:
        return iter(self.to_dict().items())

    def to_json_string(self, use_diff: bool = True) -> str:
        """The settings as JSON."""
        return json.dumps(self.to_diff_dict() if use_diff else self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write them.

        Raises:
            RepoError: the file cannot be written.
        """
        try:
            Path(json_file_path).write_text(self.to_json_string(use_diff=False), encoding="utf-8")
        except OSError as error:
            raise RepoError("the file cannot be written", where=str(json_file_path), found=error.strerror) from error

    def update(self, **kwargs: object) -> dict[str, object]:
        """Change settings; returns the keywords that are none."""
        known = vars(self)
        for name in kwargs.keys() & known.keys():
            setattr(self, name, kwargs[name])
        return {name: value for name, value in kwargs.items() if name not in known}

    def get_loading_attributes(self) -> dict[str, object]:
        """Settings of how it is loaded, which the caller's own take precedence over the file's in."""
        return {}

    def texts(self) -> Texts | None:
        """What the method learns from where it quantizes; None for a method that learns from nothing.

        One that does has settings ``dataset`` and ``tokenizer``, and is given what they mean: see
        :attr:`HfQuantizer.learn_from`.
        """
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]


def register_quantization_config(method: str) -> Callable[[C], C]:
    """Have ``quantization_config`` of a method read as a class of the user's own; a decorator.

    Raises:
        ConfigError: the method has one.
        InputError: this is no class of settings.
    """

    def register(config: C) -> C:
        if not (isinstance(config, type) and issubclass(config, QuantizationConfigMixin)):
            raise InputError(
                "not a class of settings",
                where="register_quantization_config",
                expected="a subclass of QuantizationConfigMixin",
                found=brief(config),
            )
        if method in _CONFIGS:
            raise ConfigError("this method has its settings", where="register_quantization_config", found=repr(method))
        _CONFIGS[method] = config
        return config

    return register


def method_of(settings: Mapping[str, object]) -> str:
    """The method that settings in a file are of.

    Raises:
        ConfigError: they do not say.
    """
    method = settings.get("quant_method", _implied(settings))
    if not isinstance(method, str):
        raise ConfigError(
            "no method is named", where="quantization_config", expected="quant_method", found=brief(method)
        )
    return method


def _implied(settings: Mapping[str, object]) -> str | None:
    """The method of settings that name none: those of 2022 were of one alone."""
    return "bitsandbytes" if settings.get("load_in_8bit") or settings.get("load_in_4bit") else None


BUILT_IN: Mapping[str, str] = {
    "gptq": "gptq",
    "bitsandbytes": "bitsandbytes",
    "native": "native",
    "awq": "awq",
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "hqq": "hqq",
    "mxfp4": "mxfp4",
    "compressed-tensors": "compressed",
    "modelopt": "modelopt",
    "torchao": "torchao",
    "quanto": "quanto",
    "auto-round": "auto_round",
}
"""The methods that this library knows, to the module beside this one that registers them, imported when one is met."""


ELSEWHERE: Mapping[str, str] = {
    "aqlm": "sums of codebooks' vectors",
    "bitnet": "weights of three numbers, activations of eight bits",
    "eetq": "int8 in the order of a GPU's kernels",
    "fouroversix": "four-bit floats of NVIDIA's",
    "fp_quant": "four-bit floats of rotated weights",
    "gemma": "Gemma's own integers",
    "higgs": "vectors of rotated weights",
    "metal": "integers in the order of Apple's kernels",
    "mxfp8": "eight-bit floats with powers of two",
    "nvfp4": "four-bit floats of NVIDIA's",
    "quark": "AMD's own layouts",
    "sinq": "integers with scales of two axes",
    "spqr": "integers with sparse outliers",
    "vptq": "codebooks' vectors",
}
"""The methods that the ecosystem knows and this library does not, to what they are."""


def unknown(method: object, what: str) -> ConfigError:
    """The error of a method that nobody registered: what it is, what is known, and what to do."""
    told = f", {ELSEWHERE[method]}" if isinstance(method, str) and method in ELSEWHERE else ""
    close = nearest(method, registered_methods()) if isinstance(method, str) and not told else None
    return ConfigError(
        what,
        where="quantization_config",
        expected=f"null, or a method that is registered: {', '.join(registered_methods())}",
        found=f"{brief(method)}{told}",
        remedy="Load the checkpoint that it was made from, with quantization_config= for fewer bits, or register a "
        f"quantizer of your own.{f' {close}' if close else ''}",
    )


def known(method: object) -> bool:
    """Whether a method is registered, or known to this library, which registers it then."""
    if isinstance(method, str) and method in BUILT_IN:
        importlib.import_module(f"omniform.transforms.quantize.{BUILT_IN[method]}")
    return method in _CONFIGS


def is_registered(settings: object) -> bool:
    """Whether settings in a file are of a method that somebody registered, or that this library knows."""
    return isinstance(settings, Mapping) and known(settings.get("quant_method", _implied(settings)))


def registered_methods() -> list[str]:
    """The methods whose settings can be read."""
    return sorted({*_CONFIGS, *BUILT_IN})


def settings_from(settings: Mapping[str, object]) -> QuantizationConfigMixin:
    """Settings in a file as their class.

    Raises:
        ConfigError: no method, or one that nobody registered.
    """
    method = method_of(settings)
    known(method)
    if method not in _CONFIGS:
        raise unknown(method, "no such method of quantizing is registered")
    found = _CONFIGS[method].from_dict(settings)
    assert isinstance(found, QuantizationConfigMixin)
    return found
