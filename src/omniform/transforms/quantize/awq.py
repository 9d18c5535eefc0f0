"""AWQ checkpoints, as AutoAWQ, llm-awq and GPTQModel write them: read, computed as they lie, and saved as they were."""

from __future__ import annotations

from collections.abc import Container, Sequence

import torch
from torch import nn

from omniform.core.errors import ConfigError
from omniform.transforms.quantize.config import QuantizationConfigMixin, register_quantization_config
from omniform.transforms.quantize.formats import FormatQuantizer
from omniform.transforms.quantize.placing import Chosen, spellings
from omniform.transforms.quantize.quantizer import register_quantizer, should_convert_module
from omniform.transforms.quantize.scaled import divided
from omniform.weights.formats.awq import AwqFormat, Gemm, Gemv, GemvFast
from omniform.weights.formats.base import Format
from omniform.weights.keymap import KeyMap

FORMATS = ("gemm", "gemv", "gemv_fast", "llm-awq")

BACKENDS = (
    "autoawq", "auto", "auto_trainable", "machete", "marlin", "exllama_v2", "exllama_v1", "gemm", "gemm_triton",
    "gemv", "gemv_fast", "torch_awq", "torch_fused_awq",
)  # fmt: skip
"""Kernels of others, by name; here the library's own compute, whichever is named."""


@register_quantization_config("awq")
class AwqConfig(QuantizationConfigMixin):
    """Settings of an AWQ checkpoint; of those that making one takes, none is looked at here.

    Args:
        bits: of a code; 4.
        group_size: inputs that share a scale; -1 for all.
        zero_point: whether groups have zero points.
        backend: whose kernels others compute with; ``llm-awq`` is the format of that name.
        modules_to_not_convert: names of modules that the checkpoint holds as they are.
        kwargs: ``format`` or ``version`` (``gemm``, ``gemv``, ``gemv_fast``, ``llm-awq``), what GPTQ's settings have,
            and what other releases say.

    Raises:
        ConfigError: a format, a backend or a number that is none.
    """

    quant_method = "awq"

    def __init__(
        self,
        bits: int = 4,
        group_size: int = 128,
        zero_point: bool = True,
        backend: str = "auto",
        modules_to_not_convert: Sequence[str] | None = None,
        **kwargs: object,
    ) -> None:
        format = str(kwargs.get("version") or kwargs.get("format") or "gemm").lower()
        backend = str(backend or "auto").lower()
        if backend == "llm-awq":
            format, backend = "llm-awq", "auto"
        for name, value, known in (("version", format, FORMATS), ("backend", backend, BACKENDS)):
            if value not in known:
                raise ConfigError("AWQ has no such", where=name, expected=", ".join(known), found=repr(value))
        if bits != 4:
            raise ConfigError("AWQ has no such codes", where="bits", expected="4", found=bits)
        if type(group_size) is not int or (group_size != -1 and group_size <= 0):
            raise ConfigError("no such groups", where="group_size", expected="-1, or more than 0", found=group_size)
        self.quant_method = "awq"
        self.bits, self.group_size, self.zero_point = bits, group_size, zero_point
        self.backend = "auto" if backend == "autoawq" else backend
        self.format = format
        self.modules_to_not_convert = None if modules_to_not_convert is None else list(modules_to_not_convert)
        for name, usual in _MAKING.items():
            setattr(self, name, kwargs.get(name, usual))

    def get_loading_attributes(self) -> dict[str, object]:
        """Whose kernels, and how long inputs are: the caller's."""
        return {name: vars(self)[name] for name in ("max_input_length", "backend")}

    def to_dict(self) -> dict[str, object]:
        """All settings by name; the format by its older name too."""
        return {**super().to_dict(), "version": self.format}


_MAKING: dict[str, object] = {
    "tokenizer": None, "dataset": None, "damp_percent": 0.1, "desc_act": False, "act_group_aware": True, "sym": True,
    "true_sequential": True, "meta": None, "model_seqlen": None, "block_name_to_quantize": None,
    "module_name_preceding_first_block": None, "batch_size": 1, "pad_token_id": None, "max_input_length": None,
    "cache_block_outputs": True, "modules_in_block_to_quantize": None,
}  # fmt: skip
"""What settings of GPTQ say of how a checkpoint was made, kept as it is."""


@register_quantizer("awq")
class AwqQuantizer(FormatQuantizer):
    """Reads and saves them."""

    requires_calibration = True
    quantization_config: AwqConfig
    _held: Container[str] = ()  # the keys of the checkpoint
    _prefixes: Sequence[str] = ()  # what those may lack at their beginning, or have too many of

    def keeping(
        self, model: nn.Module, keys: KeyMap, holds: Container[str], prefixes: Sequence[str], dtype: torch.dtype
    ) -> KeyMap:
        self._held, self._prefixes = holds, prefixes
        return super().keeping(model, keys, holds, prefixes, dtype)

    def beside(
        self, model: nn.Module, layers: Sequence[Chosen], holds: Container[str], prefixes: Sequence[str]
    ) -> KeyMap:
        return divided(model, layers, holds, prefixes)

    def format_of(self, name: str, layer: nn.Linear) -> Format | None:
        settings = self.quantization_config
        if not should_convert_module(name, settings.modules_to_not_convert):
            return None
        if not self._holds(name, "qweight"):
            return None
        return self._layout(name)(settings.group_size, settings.zero_point)

    def _holds(self, name: str, tensor: str) -> bool:
        return any(f"{one}.{tensor}" in self._held for one in spellings(name, self._prefixes))

    def _layout(self, name: str) -> type[AwqFormat]:
        """llm-awq's older files are as GEMM's; its newer ones have zero points that are scaled."""
        made = self.quantization_config.format
        if made == "llm-awq":
            return GemvFast if self._holds(name, "scaled_zeros") else Gemm
        return {"gemm": Gemm, "gemv": Gemv, "gemv_fast": GemvFast}[made]
