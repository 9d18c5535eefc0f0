"""The base of the quantizers of known formats: layers, keys and files follow from the format alone."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Container, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from omniform.blocks.moe import Routes
from omniform.core.errors import listed
from omniform.transforms.quantize.layers import QuantLinear
from omniform.transforms.quantize.placing import Chosen, chosen, named, placed
from omniform.transforms.quantize.quantizer import HasKeys, HfQuantizer, get_keys_to_not_convert, should_convert_module
from omniform.transforms.quantize.stacks import QuantStack, chosen_stacks, placed_stacks
from omniform.weights.formats.base import Format
from omniform.weights.keymap import KeyMap
from omniform.weights.pages import release

log = logging.getLogger("omniform")


class FormatQuantizer(HfQuantizer):
    """Base of the quantizers of known formats.

    Of a checkpoint that is quantized already those layers are quantized whose tensors it holds. Of another, those that
    no skip list names are quantized one by one once it is loaded, from the mapped file.

    Attributes:
        TRAINABLE: whether adapters can be trained on it.
        MAKES_STACKS: whether the experts of a mixture are quantized too when a plain checkpoint is loaded.
    """

    TRAINABLE: ClassVar[bool] = True
    MAKES_STACKS: ClassVar[bool] = True
    _plain: KeyMap | None = None  # where plain weights live

    @abstractmethod
    def format_of(self, name: str, layer: nn.Linear) -> Format | None:
        """How a layer is quantized; None for not at all.

        Args:
            name: the checkpoint's module (``model.layers.0.self_attn.q_proj``).
            layer: the plain layer, on the meta device while a quantized checkpoint is loaded.
        """

    def skipped(self) -> Sequence[str] | None:
        """What the settings say is not quantized; None where they do not: then the head and what is tied is not."""
        return None

    def keeping(
        self, model: nn.Module, keys: KeyMap, holds: Container[str], prefixes: Sequence[str], dtype: torch.dtype
    ) -> KeyMap:
        """Replace the layers that a checkpoint holds quantized, on the meta device; where their tensors live.

        Args:
            keys: where plain weights would.
            holds: the checkpoint's keys.
            prefixes: what those may lack at their beginning, or have too many of.
            dtype: of what is not quantized.
        """
        self._plain = keys
        layers = [self.settled(one) for one in chosen(model, keys, self.format_of, holds, prefixes)]
        stacks = chosen_stacks(model, keys, self.format_of, holds, prefixes)
        if not layers and not stacks and holds:
            method = self.quantization_config.quant_method
            log.warning("the config says that weights are quantized (%s), and none of the files' are", method)
        rules = placed(model, layers, holds, dtype)
        return keys | rules | self.beside(model, layers, holds, prefixes) | placed_stacks(model, stacks)

    def beside(
        self, model: nn.Module, layers: Sequence[Chosen], holds: Container[str], prefixes: Sequence[str]
    ) -> KeyMap:
        """Change quantized layers, on the meta device, as tensors beside them in the checkpoint ask; where those live.

        Args:
            layers: the layers that are quantized, as they were before.
            holds: the checkpoint's keys.
            prefixes: what those may lack at their beginning, or have too many of.
        """
        return KeyMap({})

    @torch.no_grad()
    def quantize(self, model: nn.Module, keys: KeyMap, dtype: torch.dtype) -> KeyMap:
        """Quantize a model that is loaded, a layer at a time; where its tensors live then."""
        self._plain = keys
        skipped = self.skipped()
        names = get_keys_to_not_convert(model) if skipped is None else skipped
        routers = {f"{path}.{name}" for path, m in model.named_modules() if isinstance(m, Routes) for name in m.ROUTERS}
        layers = [one for one in chosen(model, keys, self.format_of) if _is_wanted(one, names)]
        layers = [one for one in layers if one.path not in routers]  # what they choose is not what is nearly as good
        if skipped:
            tell_idle(skipped, [keys.places(p)[0].key for p, m in model.named_modules() if type(m) is nn.Linear])
        layers = [self.settled(one) for one in layers]
        rules = KeyMap({})
        for group in _by_key(layers):
            with named(group[0].name):
                made = self.encoded_together(group)
            settled = [replace(one, format=one.format.fitted(held)) for one, held in zip(group, made, strict=True)]
            with torch.device("meta"):
                rules = rules | placed(model, settled, None, dtype)
            for one, tensors in zip(group, made, strict=True):
                new = model.get_submodule(one.path)
                assert isinstance(new, QuantLinear)
                new.fill(tensors)
                release(one.layer.weight)
        rules = rules | self._quantize_stacks(model, keys, names)
        model.requires_grad_(False)
        return keys | rules

    def _quantize_stacks(self, model: nn.Module, keys: KeyMap, skipped: Sequence[str]) -> KeyMap:
        """Likewise stacks of experts, a matrix at a time."""
        rules = KeyMap({})
        if not self.MAKES_STACKS:
            return rules
        for one in chosen_stacks(model, keys, self.format_of):
            if not all(_is_wanted(one.plain(piece), skipped) for piece in one.pieces):
                continue
            with torch.device("meta"):
                rules = rules | placed_stacks(model, [one])
            new = model.get_submodule(one.path)
            assert isinstance(new, QuantStack)
            for number, piece in enumerate(one.pieces):
                plain = one.plain(piece)
                with named(plain.name):
                    new.fill(number, self.encoded(plain))
                release(plain.layer.weight)
        return rules

    def settled(self, one: Chosen) -> Chosen:
        """A layer with what its place in the file says of its format."""
        return one

    def encoded_together(self, group: Sequence[Chosen]) -> list[dict[str, Tensor]]:
        """The tensors of layers that are one matrix in a file (of a layer by itself mostly), of each its own."""
        return [self.encoded(one) for one in group]

    def encoded(self, one: Chosen) -> dict[str, Tensor]:
        """The tensors of one layer that is being quantized."""
        return one.format.encoded(one.layer.weight)

    def _dequantize(self, model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
        """Plain layers again, their weights where they would live in a plain checkpoint."""
        for path, layer in list(model.named_modules()):
            if isinstance(layer, QuantLinear):
                plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
                plain.weight = nn.Parameter(layer.weight.to(dtype or _dtype_of(model)))
                if layer.bias is not None and (layer.has_own_bias or bool(layer.bias.any())):
                    plain.bias = layer.bias
                parent, _, own = path.rpartition(".")
                setattr(model.get_submodule(parent), own, plain.train(layer.training))
            elif isinstance(layer, QuantStack):
                stack = layer.plain(dtype or _dtype_of(model))
                parent, _, own = path.rpartition(".")
                setattr(model.get_submodule(parent), own, stack.train(layer.training))
        if isinstance(model, HasKeys):
            model.keymap = self._plain
        return model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return self.TRAINABLE


def tell_idle(skipped: Sequence[str], names: Sequence[str]) -> None:
    """Say which entries of a skip list are the name of no layer."""
    idle = [pattern for pattern in skipped if all(should_convert_module(name, [pattern]) for name in names)]
    if idle:
        log.warning("no layer is called so, and none is left out of quantizing for it: %s", listed(idle))


def _by_key(layers: Sequence[Chosen]) -> list[list[Chosen]]:
    found: dict[str, list[Chosen]] = {}
    for one in layers:
        found.setdefault(one.place.key, []).append(one)
    return list(found.values())


def _is_wanted(one: Chosen, skipped: Sequence[str]) -> bool:
    return should_convert_module(one.name, skipped) and should_convert_module(one.path, skipped)


def _dtype_of(model: nn.Module) -> torch.dtype:
    floats = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(floats, torch.get_default_dtype())
