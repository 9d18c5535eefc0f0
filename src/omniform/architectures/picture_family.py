"""What BLIP and its heirs share: a tower that looks at pictures, and where its weights live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor, nn

from omniform.architectures.tower import Tower
from omniform.architectures.vision import VisionEncoder
from omniform.blocks.layers import run
from omniform.blocks.patches import ClassToken, GridPositions, Patching, PatchStem, read_patching
from omniform.core.config import Beginning, ModelConfig
from omniform.core.context import StepContext
from omniform.core.outputs import BaseModelOutput
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap
from omniform.weights.links import shares, unsqueezed


class TwiceNormed(VisionEncoder):
    """An encoder of pictures that norms the last hidden states, and the vector of a picture once more."""

    norm: nn.Module

    def encode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        # The hidden states that it reports are those before the norm.
        hidden: Tensor = self.norm(run(self.layers, embeds_BTD, ctx))
        return hidden

    def forward(self, pixel_values: Tensor | None = None, **inputs: object) -> BaseModelOutput:
        """Hidden states of pictures, and one vector per picture; see :meth:`VisionEncoder.forward`."""
        out = super().forward(pixel_values, **inputs)  # type: ignore[arg-type]
        out.pooler_output = self.norm(out.last_hidden_state[:, 0])
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class TwiceNormedVision:
    """What such a tower computes.

    Attributes:
        qkv_bias: whether queries, keys and values have biases.
    """

    tower: Tower
    patching: Patching
    qkv_bias: bool

    @classmethod
    def read(cls, r: ConfigReader) -> Self:
        """BLIP's fields, with its defaults."""
        r.inert("num_channels", "initializer_factor", projection_dim=512)
        r.number("initializer_range", 1e-10)  # of a fresh model
        return cls(
            tower=Tower.read(r, dim=768, hidden=3072, heads=12, act="gelu", eps=1e-5),
            patching=read_patching(r, patch_size=16, image_size=(384, 384)),
            qkv_bias=True,
        )

    @classmethod
    def read_giant(cls, r: ConfigReader) -> Self:
        """The fields of BLIP-2's and InstructBLIP's towers, EVA's ViT-g, with their defaults."""
        r.inert("num_channels")
        r.number("initializer_range", 1e-10)  # of a fresh model
        return cls(
            tower=Tower.read(r, dim=1408, hidden=6144, layers=39, heads=16, act="gelu", eps=1e-6),
            patching=read_patching(r, patch_size=14),
            qkv_bias=r.flag("qkv_bias", True),
        )

    def model(self) -> TwiceNormed:
        """The tower. Its pictures have three channels, whatever a file says."""
        dim, patching = self.tower.dim, replace(self.patching, channels=3)
        return TwiceNormed(
            patches=PatchStem(patching, dim),
            positions=GridPositions(patching.grid, dim, before=1),
            class_token=ClassToken(dim),
            layers=self.tower.stack(Full(), biases="qkvo" if self.qkv_bias else "o"),
            norm=self.tower.norm(),
        )


LAYER = "encoder.layers.{i}"
VISION_KEYS = KeyMap(
    {
        "class_token.weight": unsqueezed("embeddings.class_embedding", 2),
        "patches.projection": "embeddings.patch_embedding",
        "positions.weight": unsqueezed("embeddings.position_embedding", 1),
        "layers": "encoder.layers",
        "layers.{i}.input_layernorm": f"{LAYER}.layer_norm1",
        **shares("layers.{i}.self_attn", f"{LAYER}.self_attn.qkv", "qkv"),
        "layers.{i}.self_attn.o_proj": f"{LAYER}.self_attn.projection",
        "layers.{i}.post_attention_layernorm": f"{LAYER}.layer_norm2",
        "norm": "post_layernorm",
    },
    aliases=((r"^vision_model\.(\w)", r"\1"),),
)
"""Where such a tower keeps its weights."""


def of_parts(config: ModelConfig, path: str, parts: Mapping[str, str]) -> Beginning | None:
    """How a tensor of a model of several parts begins: as those of its part do.

    Args:
        parts: where a part stands in the model, to its key in the config.
    """
    for start, key in parts.items():
        part = config.get(key)
        if path.startswith(start) and isinstance(part, ModelConfig):
            how = part.beginning(path.removeprefix(start))
            return part.common.initializer_range if how is None else how
    return None
