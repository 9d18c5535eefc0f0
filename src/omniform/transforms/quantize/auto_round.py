"""AutoRound's checkpoints, which lie as GPTQ's or AWQ's do: read, computed, and saved as they were."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence

import torch
from torch import nn

from omniform.core.errors import ConfigError, brief
from omniform.transforms.quantize.config import QuantizationConfigMixin, register_quantization_config
from omniform.transforms.quantize.formats import FormatQuantizer
from omniform.transforms.quantize.placing import spellings
from omniform.transforms.quantize.quantizer import register_quantizer
from omniform.weights.formats.awq import Gemm
from omniform.weights.formats.base import Format
from omniform.weights.formats.gptq import BITS, Gptq
from omniform.weights.keymap import KeyMap


@register_quantization_config("auto-round")
class AutoRoundConfig(QuantizationConfigMixin):
    """Settings of a checkpoint of AutoRound.

    Args:
        bits: 2 to 8; 2, 3, 4 and 8 are read.
        group_size: inputs that share a scale; -1 for all.
        sym: whether the code of nought is the middle one.
        backend: whose kernels others compute with; here the library's own do.
        kwargs: ``packing_format`` (``"auto_round:auto_gptq"``, ``"auto_round:auto_awq"``, ``"auto_round"``),
            ``extra_config`` (other settings of some layers, by name), and what else the file says: kept.

    Raises:
        ConfigError: there are no such bits or groups.
    """

    quant_method = "auto-round"

    def __init__(
        self, bits: int = 4, group_size: int = 128, sym: bool = True, backend: str = "auto", **kwargs: object
    ) -> None:
        if bits not in range(2, 9):
            raise ConfigError("no such whole numbers", where="bits", expected="2 to 8", found=bits)
        if group_size != -1 and group_size <= 0:
            raise ConfigError("no such groups", where="group_size", expected="-1, or more than 0", found=group_size)
        self.bits, self.group_size, self.sym, self.backend = bits, group_size, sym, backend
        self.packing_format: object = "auto_round:gptq"
        for name, value in kwargs.items():
            setattr(self, name, value)
        self.quant_method = "auto-round"

    def get_loading_attributes(self) -> dict[str, object]:
        """Whose kernels: the caller's."""
        return {"backend": self.backend}

    def of_layer(self, name: str) -> Mapping[str, object]:
        """What is different about a layer."""
        rules = vars(self).get("extra_config")
        for pattern, changes in rules.items() if isinstance(rules, Mapping) else ():
            if isinstance(changes, Mapping) and (pattern == name or re.fullmatch(pattern, name)):
                return changes
        return {}


@register_quantizer("auto-round")
class AutoRoundQuantizer(FormatQuantizer):
    """Reads and saves them."""

    requires_calibration = True
    quantization_config: AutoRoundConfig
    _held: Container[str] = ()
    _prefixes: Sequence[str] = ()

    def keeping(
        self, model: nn.Module, keys: KeyMap, holds: Container[str], prefixes: Sequence[str], dtype: torch.dtype
    ) -> KeyMap:
        self._held, self._prefixes = holds, prefixes
        said = vars(self.quantization_config)
        kind, acts = str(said.get("data_type", "int")), said.get("act_bits")
        if not kind.startswith("int") or (isinstance(acts, int) and acts < 16):
            raise ConfigError(
                "this kind of AutoRound's checkpoints is not read",
                where="quantization_config",
                expected="weights of data_type int, activations of 16 bits",
                found=f"{kind}, activations of {acts} bits",
                remedy="Load the checkpoint that it was made from.",
            )
        return super().keeping(model, keys, holds, prefixes, dtype)

    def format_of(self, name: str, layer: nn.Linear) -> Format | None:
        spelled = next((one for one in spellings(name, self._prefixes) if f"{one}.qweight" in self._held), None)
        if spelled is None:
            return None
        settings = self.quantization_config
        own = settings.of_layer(spelled) or settings.of_layer(name)
        bits, group = own.get("bits", settings.bits), own.get("group_size", settings.group_size)
        packing = str(settings.packing_format)
        awq = "awq" in packing
        if type(bits) is not int or type(group) is not int or bits not in ((4,) if awq else BITS):
            raise ConfigError(
                "no such whole numbers are read",
                where=name,
                expected="4 bits" if awq else "2, 3, 4 or 8 bits",
                found=f"{brief(bits)} bits, groups of {brief(group)}, packed as {packing}",
            )
        if awq:
            return Gemm(group)
        # AutoGPTQ's first version holds zeros less one; AutoRound's own packing and the second version do not.
        return Gptq(bits, group, 1 if "gptq" in packing and "gptqmodel" not in packing else 2)
