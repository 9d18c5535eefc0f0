"""Mistral 3 (https://mistral.ai/news/mistral-small-3-1): Pixtral's tower, squares of whose patches are merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Unpack

import torch
from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.family import Builder
from omniform.architectures.fusion import parted_beginning
from omniform.architectures.fusion_pictures import LayerFeatures, VisionLanguageLM
from omniform.architectures.sized_pictures import Grids, SizedVisionEncoder, SizedVisionLanguage, sizes_of
from omniform.blocks.composed import Composed
from omniform.blocks.mlp import ACTIVATIONS, activation
from omniform.blocks.norms import RMSNorm
from omniform.blocks.patches import Size
from omniform.core.config import Common
from omniform.core.context import Tapped
from omniform.core.outputs import MediaFeatures
from omniform.core.reader import ConfigReader
from omniform.models.llava import NEW_LAYOUT, keys_of, writing_head
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap

# The parts of Mistral Small 3.1: what a config means that says nothing of them.
TEXT = {
    "model_type": "mistral",
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 5120,
    "intermediate_size": 32768,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e9,
    "sliding_window": None,
    "vocab_size": 131072,
}
VISION = {"model_type": "pixtral", "patch_size": 14, "image_size": 1540}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Mistral 3 computes.

    Attributes:
        layer: which hidden state of the tower is read.
        merge: rows and columns of patches that become one vector.
        eps: of the projector's norm; the decoder's.
    """

    vision: Part
    text: Part
    image_token_id: int
    layer: int
    merge: int
    eps: float
    projector_act: str
    projector_bias: bool
    tie: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = Part.of(r, "text_config", TEXT)
    layers = r.one_or_more("vision_feature_layer", (-1,))
    if len(layers) != 1:
        raise r.fail("vision_feature_layer", "one layer: the projector's norm is as wide as one", list(layers))
    eps = text.config.get("rms_norm_eps")
    if not isinstance(eps, float):
        raise r.fail("text_config", "a decoder with rms_norm_eps, which is the projector's too", eps)
    return Config(
        vision=Part.of(r, "vision_config", VISION),
        text=text,
        image_token_id=r.integer("image_token_index", 10, also=("image_token_id",), least=0),
        layer=layers[0],
        merge=r.integer("spatial_merge_size", 2),
        eps=eps,
        projector_act=r.choice("projector_hidden_act", ACTIVATIONS, "gelu"),
        projector_bias=r.flag("multimodal_projector_bias", False),
        tie=r.flag("tie_word_embeddings", True),
    )


class SquareMerger(Composed):
    """Squares of patches become one vector each; what fills no square at the lower and right edges is left out.

    Args:
        merging_layer: the features of a square, channel by channel, to one patch's width.
        size: rows and columns of a square.
    """

    merging_layer: nn.Linear
    size: int

    def forward(self, x_ND: Tensor, grids: Grids) -> Tensor:
        """Shape: [patches of all pictures, D] to [squares of all, D]."""
        if len(set(grids)) == 1:  # of any number of pictures, in a trace
            squares = self._squares(x_ND, *grids[0])
        else:
            parts = torch.split(x_ND, [rows * columns for rows, columns in grids])
            squares = torch.cat([self._squares(own, *grid) for own, grid in zip(parts, grids, strict=True)])
        merged: Tensor = self.merging_layer(squares)
        return merged

    def _squares(self, x_ND: Tensor, rows: int, columns: int) -> Tensor:
        """The squares of pictures of one shape. Shape: [patches, D] to [squares, size * size * D]."""
        side, down, across = self.size, rows // self.size, columns // self.size
        whole = x_ND.view(-1, rows, columns, x_ND.shape[-1])[:, : down * side, : across * side]
        cut = whole.reshape(-1, down, side, across, side, x_ND.shape[-1])
        return cut.permute(0, 1, 3, 5, 2, 4).flatten(3).flatten(0, 2)


class MergingProjector(nn.Module):
    """Features to the decoder's width: a norm, squares merged, two projections with an activation between them."""

    def __init__(self, features: int, dim: int, c: Config) -> None:
        super().__init__()
        self.norm = RMSNorm(features, c.eps)
        wide = nn.Linear(features * c.merge**2, features, bias=False)
        self.patch_merger = SquareMerger(merging_layer=wide, size=c.merge)
        self.linear_1 = nn.Linear(features, dim, bias=c.projector_bias)
        self.linear_2 = nn.Linear(dim, dim, bias=c.projector_bias)
        self._act = activation(c.projector_act)

    def forward(self, x_ND: Tensor, grids: Grids) -> Tensor:
        """Shape: [patches of all pictures, features] to [squares of all, D]."""
        out: Tensor = self.linear_2(self._act(self.linear_1(self.patch_merger(self.norm(x_ND), grids))))
        return out


class MergedVisionLanguage(SizedVisionLanguage):
    """A model whose projector merges squares of patches."""

    multi_modal_projector: MergingProjector

    OPTIONS: ClassVar[frozenset[str]] = frozenset({"vision_feature_layer"})

    def vectors_of(self, grid: Size) -> int:
        side = self.multi_modal_projector.patch_merger.size
        return (grid[0] // side) * (grid[1] // side)

    def connected(self, features_ND: Tensor, grids: Grids) -> Tensor:
        vectors: Tensor = self.multi_modal_projector(features_ND, grids)
        return vectors

    def get_image_features(  # type: ignore[override] # sizes come second here
        self,
        pixel_values: Tensor,
        image_sizes: Tensor,
        vision_feature_layer: int | None = None,
        **asked: Unpack[Tapped],
    ) -> MediaFeatures:
        """The tower's output on pictures, and each picture's vectors as the decoder reads them, in ``pooler_output``.

        Args:
            pixel_values: Shape: [N, channels, height, width].
            image_sizes: heights and widths. Shape: [N, 2].
            vision_feature_layer: which hidden state, if not the one that the config says.
            asked: see :class:`~omniform.core.context.Tapped`.
        """
        options = {"vision_feature_layer": vision_feature_layer}
        return self._features(pixel_values, sizes_of(image_sizes), options, asked)


def build(c: Config) -> MergedVisionLanguage:
    """Tower, projector and decoder without a head."""
    tower, decoder = c.vision.build_as(SizedVisionEncoder), c.text.build_as(TextDecoder)
    return MergedVisionLanguage(
        vision_tower=tower,
        select=LayerFeatures(layers=(c.layer,), skip=0),
        multi_modal_projector=MergingProjector(tower.width, decoder.width, c),
        language_model=decoder,
        image_token_id=c.image_token_id,
    )


def causal_lm(c: Config, _: Common) -> VisionLanguageLM:
    """The model that writes."""
    model = build(c)
    return VisionLanguageLM(model=model, lm_head=writing_head(model.language_model, c.tie))


def keys(c: Config) -> KeyMap:
    """Each part's own map, at its place."""
    return keys_of(c.vision, c.text)


FAMILY = (
    Builder("mistral3", read, keys, prefix="")
    .public(
        config="Mistral3Config",
        tokenizer="LlamaTokenizer",
        image_processor="PixtralImageProcessor",
        processor="PixtralProcessor",
        row="image and text to text",
    )
    .begins(parted_beginning)
    .base("Mistral3Model", build)
    .architecture(
        "Mistral3ForConditionalGeneration",
        ("image-text-to-text",),
        causal_lm,
        lambda c: keys(c).under("model", "") | NEW_LAYOUT,
    )
    .done()
)
