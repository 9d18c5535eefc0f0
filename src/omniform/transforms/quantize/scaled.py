"""Quantized layers whose input is divided first: what AWQ puts behind an activation (``act.scales``)."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from omniform.core.errors import WeightsError
from omniform.transforms.quantize.layers import QuantLinear
from omniform.transforms.quantize.placing import Chosen, spellings
from omniform.weights.keymap import KeyMap, Rule
from omniform.weights.links import Link

NAMES = ("act.scales", "gelu_impl.scales")
"""What files call them, beside the layer that reads the activation (``mlp.act.scales``, ``mlp.down_proj.qweight``)."""


class DividedLinear(QuantLinear):
    """A quantized layer of an input that is divided, number by number: its matrix was multiplied by as much.

    Attributes:
        input_scales: what the input is divided by. Shape: [in].
    """

    input_scales: Tensor

    @property
    def KEPT(self) -> frozenset[str]:  # noqa: N802 # see KeepsDtypes
        return super().KEPT | {"input_scales"}

    @property
    def first(self) -> str:
        return "its inputs are divided (act.scales)"

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The numbers that the input as it comes is multiplied by. Shape: [out, in]; float32."""
        return super().weight / self.input_scales.float()

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., in] to [..., out]."""
        return super().forward((x / self.input_scales.to(x.dtype)).contiguous())


def divided(model: nn.Module, layers: Sequence[Chosen], holds: Container[str], prefixes: Sequence[str]) -> KeyMap:
    """Have those quantized layers divide their input for which a checkpoint says by what; where it says so.

    Args:
        layers: the quantized layers of the model, as they were chosen.
        holds: the checkpoint's keys.
        prefixes: what those may lack at their beginning, or have too many of.

    Raises:
        WeightsError: no layer beside the activation, or more than one, reads as many numbers.
    """
    rules: dict[str, Rule] = {}
    blocks = {one.name.rpartition(".")[0]: one.place.key.removesuffix(".weight").rpartition(".")[0] for one in layers}
    for block, written in blocks.items():
        for end in NAMES:
            key = next((k for k in (f"{one}.{end}" for one in spellings(block, prefixes)) if k in holds), None)
            if key is None:
                continue
            reader = _reader([one for one in layers if one.name.startswith(f"{block}.")], key, holds)
            layer = cast(QuantLinear, model.get_submodule(reader.path))
            layer.__class__ = DividedLinear
            dtype = _entry(key, holds)[1]
            layer.register_buffer("input_scales", torch.empty(layer.in_features, dtype=dtype))
            rules[f"{reader.path}.input_scales"] = Link(f"{written}.{end}")
    return KeyMap(rules)


def _reader(beside: Sequence[Chosen], key: str, holds: Container[str]) -> Chosen:
    """The layer that reads an activation: the last one beside it, which gives the width that the others read."""
    wide = _entry(key, holds)[0]
    found = [one for one in beside if one.layer.in_features == wide]
    if len(found) > 1:  # a square one: what comes last reads what is activated
        found = found[-1:]
    if not found:
        raise WeightsError(
            "no layer beside the activation reads as many numbers",
            where=key,
            expected=" or ".join(f"{one.layer.in_features} ({one.name})" for one in beside),
            found=str(wide),
        )
    return found[0]


def _entry(key: str, holds: Container[str]) -> tuple[int, torch.dtype]:
    """How many numbers a header says that there are, and their dtype."""
    found = holds.get(key) if isinstance(holds, Mapping) else None
    assert found is not None, key
    return int(found.shape[-1]), found.dtype
