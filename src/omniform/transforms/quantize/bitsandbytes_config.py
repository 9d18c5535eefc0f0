"""Settings of LLM.int8(), FP4 and NF4."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch

from omniform.core.errors import ConfigError, InputError, brief
from omniform.transforms.quantize.config import QuantizationConfigMixin, register_quantization_config

STORED = ("float16", "float32", "int8", "uint8", "float64", "bfloat16")
"""Dtypes that packed bytes may be kept as."""


@register_quantization_config("bitsandbytes")
class BitsAndBytesConfig(QuantizationConfigMixin):
    """Settings of quantizing as bitsandbytes does; the package is not needed.

    Args:
        load_in_8bit: LLM.int8().
        load_in_4bit: FP4 or NF4.
        llm_int8_threshold: magnitude from which on an input is an outlier, and multiplied as it is; 0 for none.
        llm_int8_skip_modules: names of modules that stay as they are, of 4 bits too; the head and what is tied by
            default.
        llm_int8_enable_fp32_cpu_offload: keep what ``device_map`` places on the CPU or the disk beside another device
            as it is. Where there is no other device, all is quantized.
        llm_int8_has_fp16_weight: keep weights as they are, and round them to multiply.
        bnb_4bit_compute_dtype: dtype that torch multiplies in while it is trained; float32 by default. The kernels
            multiply numbers as they are, and sum in float32.
        bnb_4bit_quant_type: ``"fp4"`` or ``"nf4"``.
        bnb_4bit_use_double_quant: whether scales are quantized too.
        bnb_4bit_quant_storage: dtype that packed bytes are kept as; uint8 by default.
        kwargs: what other releases say; not looked at.

    Raises:
        ConfigError: 8 and 4 bits together, or a setting that cannot be.
        InputError: a setting of another type.
    """

    quant_method = "bitsandbytes"

    def __init__(
        self,
        load_in_8bit: bool = False,
        load_in_4bit: bool = False,
        llm_int8_threshold: float = 6.0,
        llm_int8_skip_modules: list[str] | None = None,
        llm_int8_enable_fp32_cpu_offload: bool = False,
        llm_int8_has_fp16_weight: bool = False,
        bnb_4bit_compute_dtype: torch.dtype | str | None = None,
        bnb_4bit_quant_type: str = "fp4",
        bnb_4bit_use_double_quant: bool = False,
        bnb_4bit_quant_storage: torch.dtype | str | None = None,
        **kwargs: object,
    ) -> None:
        self.quant_method = "bitsandbytes"
        _both(load_in_8bit, load_in_4bit)
        self._load_in_8bit, self._load_in_4bit = load_in_8bit, load_in_4bit
        self.llm_int8_threshold = llm_int8_threshold
        self.llm_int8_skip_modules = llm_int8_skip_modules
        self.llm_int8_enable_fp32_cpu_offload = llm_int8_enable_fp32_cpu_offload
        self.llm_int8_has_fp16_weight = llm_int8_has_fp16_weight
        self.bnb_4bit_quant_type = bnb_4bit_quant_type
        self.bnb_4bit_use_double_quant = bnb_4bit_use_double_quant
        self.bnb_4bit_compute_dtype = _dtype("bnb_4bit_compute_dtype", bnb_4bit_compute_dtype, torch.float32)
        self.bnb_4bit_quant_storage = _dtype("bnb_4bit_quant_storage", bnb_4bit_quant_storage, torch.uint8)
        self.post_init()

    @property
    def load_in_8bit(self) -> bool:
        """Whether LLM.int8() is asked for."""
        return self._load_in_8bit

    @load_in_8bit.setter
    def load_in_8bit(self, value: bool) -> None:
        _is("load_in_8bit", value, bool)
        _both(value, self._load_in_4bit)
        self._load_in_8bit = value

    @property
    def load_in_4bit(self) -> bool:
        """Whether FP4 or NF4 is asked for."""
        return self._load_in_4bit

    @load_in_4bit.setter
    def load_in_4bit(self, value: bool) -> None:
        _is("load_in_4bit", value, bool)
        _both(self._load_in_8bit, value)
        self._load_in_4bit = value

    def post_init(self) -> None:
        """Check the settings.

        Raises:
            ConfigError, InputError: see the class.
        """
        for name in ("load_in_4bit", "load_in_8bit", "llm_int8_enable_fp32_cpu_offload", "llm_int8_has_fp16_weight",
                     "bnb_4bit_use_double_quant"):  # fmt: skip
            _is(name, getattr(self, name), bool)
        _is("llm_int8_threshold", self.llm_int8_threshold, float)
        if not self.llm_int8_threshold >= 0:
            raise ConfigError("no magnitude", where="llm_int8_threshold", expected="0 for none, or more",
                              found=self.llm_int8_threshold)  # fmt: skip
        if self.llm_int8_skip_modules is not None:
            _is("llm_int8_skip_modules", self.llm_int8_skip_modules, list)
        _is("bnb_4bit_quant_type", self.bnb_4bit_quant_type, str)
        if self.bnb_4bit_quant_type not in ("fp4", "nf4"):
            raise ConfigError(
                "no such four bits", where="bnb_4bit_quant_type", expected="fp4 or nf4", found=self.bnb_4bit_quant_type
            )
        if str(self.bnb_4bit_quant_storage).removeprefix("torch.") not in STORED:
            raise ConfigError("packed bytes are not kept as such", where="bnb_4bit_quant_storage",
                              expected=", ".join(STORED), found=self.bnb_4bit_quant_storage)  # fmt: skip

    def is_quantizable(self) -> bool:
        """Whether anything is asked for."""
        return self.load_in_8bit or self.load_in_4bit

    def quantization_method(self) -> str | None:
        """``"llm_int8"``, ``"fp4"``, ``"nf4"``; None for none."""
        return "llm_int8" if self.load_in_8bit else self.bnb_4bit_quant_type if self.load_in_4bit else None

    def update(self, **kwargs: object) -> dict[str, object]:
        rest = super().update(**kwargs)
        for name in ("load_in_8bit", "load_in_4bit"):
            if name in rest:
                setattr(self, name, rest.pop(name))
        return rest

    def to_dict(self) -> dict[str, object]:
        found = super().to_dict()
        for name in ("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage"):
            found[name] = str(found[name]).removeprefix("torch.")
        return {**found, "load_in_4bit": self.load_in_4bit, "load_in_8bit": self.load_in_8bit}

    def to_diff_dict(self) -> dict[str, object]:
        """Those that are not the usual ones."""
        usual = BitsAndBytesConfig().to_dict()
        return {name: value for name, value in self.to_dict().items() if value != usual[name]}

    def __repr__(self) -> str:
        return f"{type(self).__name__} {json.dumps(self.to_dict(), indent=2, sort_keys=True)}\n"


FIELDS = frozenset(BitsAndBytesConfig.__init__.__annotations__) - {"return", "kwargs"}
"""The settings by name."""


def bits_asked(given: dict[str, object]) -> Mapping[str, object] | None:
    """The settings that keywords of loading ask for, which are taken out; None where they ask for none.

    Raises:
        InputError: there are other settings beside them; neither true nor false.
    """
    bits = {name: given.pop(name) for name in ("load_in_8bit", "load_in_4bit") if name in given}
    for name, value in bits.items():
        if value is not None:
            _is(name, value, bool)
    if not any(bits.values()):
        return None
    if given.get("quantization_config") is not None:
        raise InputError(
            "the bits are asked for twice",
            where="quantization_config",
            expected=f"either {', '.join(bits)}, or quantization_config",
            found="both",
        )
    more = {name: given.pop(name) for name in [*given] if name in FIELDS}
    return {"quant_method": "bitsandbytes", **{n: v for n, v in bits.items() if v is not None}, **more}


def _both(eight: object, four: object) -> None:
    if eight and four:
        raise ConfigError(
            "8 and 4 bits are asked for together",
            where="quantization_config",
            expected="load_in_8bit or load_in_4bit",
            found="both",
        )


def _is(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise InputError("of another type", where=name, expected=kind.__name__, found=brief(value))


def _dtype(name: str, given: object, usual: torch.dtype) -> torch.dtype:
    if given is None:
        return usual
    found = getattr(torch, given, None) if isinstance(given, str) else given
    if not isinstance(found, torch.dtype):
        raise InputError("no such dtype", where=name, expected="a dtype of torch or its name", found=brief(given))
    return found
