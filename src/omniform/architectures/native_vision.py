"""Encoders of pictures in their native shapes: one batch holds several, each padded and with positions of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, Unpack, cast

import torch
from torch import Tensor, nn

from omniform.architectures.dual_family import by_inputs
from omniform.architectures.model import Model
from omniform.architectures.tower import Tower
from omniform.blocks.fractions import FractionPositions
from omniform.blocks.layers import passed, run
from omniform.blocks.patches import Patching, PatchStem, Size, read_patching
from omniform.blocks.poolers import ProbePooler
from omniform.core.config import Beginning, ModelConfig
from omniform.core.context import StepContext, Tapped
from omniform.core.errors import InputError, check_shape
from omniform.core.host import is_all_true
from omniform.core.outputs import BaseModelOutput
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.init import normal
from omniform.weights.keymap import KeyMap


class NativeVisionEncoder(Model):
    """A transformer over the patches of pictures that fill the upper left of what they are padded to.

    Args:
        patches: pixels to patch vectors.
        positions: told by how far along its picture each patch lies.
        layers: called as ``layer(hidden, ctx)``.
        norm: applied after the last layer.
        pooler: hidden states to one vector per picture; None for none.
    """

    main_input = "pixel_values"

    patches: PatchStem
    positions: FractionPositions
    layers: nn.ModuleList
    norm: nn.Module
    pooler: ProbePooler | None = None

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        return self.patches.projection.out_channels

    def get_input_embeddings(self) -> nn.Module:
        return self.patches.projection

    def grid_of(self, pixel_values: Tensor) -> Size:
        """Rows and columns of patches. Shape: [B, channels, height, width]."""
        return self.patches.patching.grid_of(*pixel_values.shape[-2:])

    def arrive(self, inputs: dict[str, object]) -> None:
        pixels, marks = inputs.get("pixel_values"), inputs.get("patch_attention_mask")
        if not isinstance(pixels, Tensor):
            raise InputError("there are no pictures", where="pixel_values", expected="a tensor", found="None")
        self.patches.check(pixels, True)
        if not isinstance(marks, Tensor):
            return
        told = (pixels.shape[0], *self.grid_of(pixels))
        check_shape("the marks do not cover the patches", marks.shape, told, where="patch_attention_mask")
        if is_all_true(marks):
            inputs["patch_attention_mask"] = None

    def begun(
        self, pixel_values: Tensor, real_BHW: Tensor | None, asked: Tapped | None = None
    ) -> tuple[Tensor, StepContext]:
        """What enters the first layer, and the step over it.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            real_BHW: true for patches of the picture. Shape: [B, rows, columns]; None where all are.
        """
        patches = self.patches(pixel_values, any_size=True)
        whole = real_BHW
        if whole is None:
            whole = torch.ones(1, *self.grid_of(pixel_values), dtype=torch.bool, device=patches.device)
        embeds = patches + self.positions(whole.bool())
        return embeds, self.step(embeds, asked, attention_mask=None if real_BHW is None else real_BHW.flatten(1))

    def hidden_at(self, pixel_values: Tensor, real_BHW: Tensor | None, index: int) -> Tensor:
        """One of the hidden states that :meth:`forward` reports; no layer above it is computed.

        Args:
            index: 0 for what enters the first layer, ``i`` for what layer ``i`` gives; negative ones count from the
                end.

        Returns:
            Shape: [B, T, D].
        """
        hidden, ctx = self.begun(pixel_values, real_BHW)
        for number, layer in enumerate(self.layers[: index % (len(self.layers) + 1)]):
            hidden = passed(layer, number, hidden, ctx)
        return hidden

    def forward(
        self, pixel_values: Tensor, patch_attention_mask: Tensor | None = None, **given: Unpack[Tapped]
    ) -> BaseModelOutput:
        """Hidden states of pictures, and one vector per picture if the model pools.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            patch_attention_mask: true for patches of the picture, which fill the upper left. Shape: [B, rows, columns].
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: no pictures, or marks of another shape.
        """
        embeds, ctx = self.begun(pixel_values, patch_attention_mask, given)
        hidden = self.norm(run(self.layers, embeds, ctx))
        pooled = None if self.pooler is None else self.pooler(hidden, real_BT=ctx.padding)
        return BaseModelOutput(last_hidden_state=hidden, pooler_output=pooled, **ctx.taps.noted())


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeSide:
    """A SigLIP tower that reads pictures in their native shapes."""

    tower: Tower
    patching: Patching

    @classmethod
    def read(
        cls, r: ConfigReader, *, hidden: int, layers: int, image_size: int, patch_size: int, heads: int = 16
    ) -> Self:
        """The fields under their usual names; the arguments are their defaults."""
        tower = Tower.read(
            r, dim=1152, hidden=hidden, heads=heads, layers=layers, act="gelu_pytorch_tanh", eps=1e-6
        )  # fmt: skip
        patching = read_patching(r, patch_size=patch_size, image_size=(image_size, image_size))
        for name, (height, width) in (("image_size", patching.image_size), ("patch_size", patching.patch_size)):
            if height != width:
                raise r.fail(name, "a square: positions are learned for one", [height, width])
        return cls(tower=tower, patching=patching)

    @property
    def side(self) -> int:
        """Rows, and columns, of patches in a picture of the model's own size."""
        return self.patching.grid[0]

    def model(self, *, pools: bool = False) -> NativeVisionEncoder:
        """The tower; with the head that makes one vector of a picture, if asked for."""
        tower, dim = self.tower, self.tower.dim
        pooler = ProbePooler(dim, tower.heads, norm=tower.norm(), mlp=tower.mlp()) if pools else None
        return NativeVisionEncoder(
            patches=PatchStem(self.patching, dim),
            positions=FractionPositions(self.side, dim),
            layers=tower.stack(Full()),
            norm=tower.norm(),
            pooler=pooler,
        )


def native_beginning(config: ModelConfig, path: str) -> Beginning | None:
    """SigLIP's fresh weights: attention and feed-forwards from the unit normal, all else by what goes into it."""
    module, _, tensor = path.rpartition(".")
    last = module.rpartition(".")[2]
    if last in ("fc1", "fc2"):
        return 1.0 if tensor == "weight" else normal(1e-6)
    if tensor == "probe":
        return normal(1.0)
    if tensor != "weight":
        return None
    if last == "positions":
        return float(cast(int, config.get("hidden_size")) ** -0.5)
    if last == "projection" or module == "pooler.o_proj":
        return by_inputs
    return 1.0 if last.endswith("_proj") else None


NATIVE_KEYS = KeyMap(
    {
        "layers": "encoder.layers",
        "layers.{i}.input_layernorm": "encoder.layers.{i}.layer_norm1",
        "layers.{i}.self_attn.o_proj": "encoder.layers.{i}.self_attn.out_proj",
        "layers.{i}.post_attention_layernorm": "encoder.layers.{i}.layer_norm2",
        "patches.projection": "embeddings.patch_embedding",
        "positions": "embeddings.position_embedding",
        "norm": "post_layernorm",
    }
)
"""Where such a tower lies."""
