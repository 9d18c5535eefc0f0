"""InternVL (https://arxiv.org/abs/2504.10479): a ViT with scaled branches, patches shuffled together, a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Unpack, cast

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.family import Builder
from omniform.architectures.fusion import parted_beginning
from omniform.architectures.fusion_pictures import (
    STRATEGIES,
    LayerFeatures,
    Pictures,
    VisionLanguage,
    VisionLanguageLM,
)
from omniform.architectures.parts import read_width
from omniform.architectures.vision import FreeVisionEncoder
from omniform.architectures.vit_family import zeros
from omniform.blocks.attention import Attention
from omniform.blocks.composed import Composed
from omniform.blocks.drop_path import DropPath, LayerScale, ScaledBranches
from omniform.blocks.mlp import ACTIVATIONS, MLP, activation
from omniform.blocks.norms import AllHeadsNorm, RMSNorm
from omniform.blocks.patches import ClassToken, GridPositions, MaskToken, Patching, PatchStem, read_patching
from omniform.core.batch import Facts
from omniform.core.config import Common
from omniform.core.context import StepContext, Tapped
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput, MediaFeatures
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.models.llava import NEW_LAYOUT, keys_of, writing_head
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap
from omniform.weights.links import unsqueezed


class DroppedBranches(ScaledBranches):
    """Scaled branches, in training without some of their numbers by chance.

    Args:
        seen_dropout: of what attention adds.
        thought_dropout: of what the feed-forward adds.
    """

    seen_dropout: float
    thought_dropout: float

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        seen = F.dropout(self.self_attn(self.input_layernorm(x_BTD), ctx), self.seen_dropout, self.training)
        x_BTD = self.add(x_BTD, self.layer_scale1(seen), ctx)
        thought = F.dropout(self.mlp(self.post_attention_layernorm(x_BTD)), self.thought_dropout, self.training)
        return self.add(x_BTD, self.layer_scale2(thought), ctx)


class InternVisionEncoder(FreeVisionEncoder):
    """An encoder whose last hidden state is taken with the norm behind it, where features are asked for."""

    def hidden_at(self, pixel_values: Tensor, indices: Sequence[int], *, interpolate: bool = False) -> list[Tensor]:
        states = super().hidden_at(pixel_values, indices, interpolate=interpolate)
        if self.norm is None:
            return states
        return [self.norm(state) if index == -1 else state for state, index in zip(states, indices, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSide:
    """What the tower computes."""

    dim: int
    hidden: int
    layers: int
    heads: int
    act: str
    eps: float
    bias: bool
    qk_norm: bool
    root_mean: bool
    start: float
    patching: Patching
    masks: bool
    placed: bool
    mean: bool
    dropout: float
    attention_dropout: float
    seen_dropout: float

    def norm(self) -> nn.Module:
        """One norm of a layer."""
        return RMSNorm(self.dim, self.eps) if self.root_mean else nn.LayerNorm(self.dim, self.eps)

    def layer(self) -> DroppedBranches:
        """One layer."""
        q_norm, k_norm = (AllHeadsNorm(self.dim, 1e-6) if self.qk_norm else None for _ in range(2))
        attention = Attention(
            self.dim, self.heads, rule=Full(), q_norm=q_norm, k_norm=k_norm,
            biases="qkvo" if self.bias else "o", dropout=self.attention_dropout,
        )  # fmt: skip
        return DroppedBranches.of(
            self.norm,
            self_attn=attention,
            mlp=MLP(self.dim, self.hidden, self.act),
            layer_scale1=LayerScale(self.dim, self.start),
            layer_scale2=LayerScale(self.dim, self.start),
            drop_path=DropPath(0.0),
            seen_dropout=self.seen_dropout,
            thought_dropout=self.dropout,
        )


def read_vision(r: ConfigReader) -> VisionSide:
    """Read the tower's config; every key is used, declared inert or refused."""
    dim, heads = read_width(r, "hidden_size", 1024, "num_attention_heads", 16)
    patching = read_patching(r, patch_size=14, image_size=(448, 448))
    r.values |= {"image_size": list(patching.image_size), "patch_size": list(patching.patch_size)}  # pairs in any case
    return VisionSide(
        dim=dim,
        hidden=r.integer("intermediate_size", 4096),
        layers=r.layers("num_hidden_layers", 24),
        heads=heads,
        act=r.choice("hidden_act", ACTIVATIONS, "gelu"),
        eps=r.number("layer_norm_eps", 1e-6),
        bias=r.flag("attention_bias", False),
        qk_norm=r.flag("use_qk_norm", False),
        root_mean=r.choice("norm_type", ("layer_norm", "rms_norm"), "layer_norm") == "rms_norm",
        start=r.number("layer_scale_init_value", 0.1),
        patching=patching,
        masks=r.flag("use_mask_token", False),
        placed=r.flag("use_absolute_position_embeddings", True),
        mean=r.flag("use_mean_pooling", True),
        dropout=r.probability("hidden_dropout_prob"),
        attention_dropout=r.probability("attention_dropout"),
        seen_dropout=r.probability("projection_dropout"),
    )


def build_vision(c: VisionSide) -> InternVisionEncoder:
    """The tower."""
    return InternVisionEncoder(
        patches=PatchStem(c.patching, c.dim),
        positions=GridPositions(c.patching.grid, c.dim, before=1) if c.placed else None,
        class_token=ClassToken(c.dim),
        mask_token=MaskToken(c.dim) if c.masks else None,
        layers=nn.ModuleList(c.layer() for _ in range(c.layers)),
        norm=None if c.mean else nn.LayerNorm(c.dim, c.eps),
        dropout=c.dropout,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What an InternVL computes.

    Attributes:
        layer: which hidden state of the tower is read.
        factor: patches along the edge of the square that becomes one vector.
    """

    vision: Part
    text: Part
    image_token_id: int
    layer: int
    drop_class_token: bool
    factor: int
    act: str
    tie: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert("image_seq_length")
    layers, ratio = r.one_or_more("vision_feature_layer", (-1,)), r.number("downsample_ratio", 0.5)
    if len(layers) != 1:
        raise r.fail("vision_feature_layer", "one layer", list(layers))
    if not 0 < ratio <= 1 or int(1 / ratio) * ratio != 1:
        raise r.fail("downsample_ratio", "one by a whole number", ratio)
    return Config(
        vision=Part.of(r, "vision_config", {"model_type": "internvl_vision"}),
        text=Part.of(r, "text_config", {"model_type": "qwen2"}),
        image_token_id=r.integer("image_token_id", 151667, least=0),
        layer=layers[0],
        drop_class_token=r.choice("vision_feature_select_strategy", STRATEGIES, "default") == "default",
        factor=int(1 / ratio),
        act=r.choice("projector_hidden_act", ACTIVATIONS, "gelu"),
        tie=r.flag("tie_word_embeddings", True),
    )


class ShufflingProjector(Composed):
    """Squares of patches side by side in one vector, normed, and two projections with an activation between them.

    Args:
        act: the activation's name.
        factor: patches along a square's edge.
    """

    layer_norm: nn.LayerNorm
    linear_1: nn.Linear
    linear_2: nn.Linear
    act: str
    factor: int

    def forward(self, x_NLE: Tensor) -> Tensor:
        """Shape: [N, rows * rows, E] to [N, (rows / factor) ** 2, D]."""
        count, patches, width = x_NLE.shape
        side = int(patches**0.5) // self.factor
        squares = x_NLE.view(count, side, self.factor, side, self.factor, width).transpose(2, 3)
        wide = self.layer_norm(squares.reshape(count, side * side, -1))
        out: Tensor = self.linear_2(activation(self.act)(self.linear_1(wide)))
        return out


@dataclass(frozen=True, kw_only=True)
class ShuffledPictures(Pictures):
    """Pictures whose squares of patches become one vector each."""

    model: InternVL

    def facts(self, inputs: Mapping[str, Tensor]) -> list[Facts]:
        found, factor = super().facts(inputs), self.model.multi_modal_projector.factor
        if found and (round(found[0][0] ** 0.5) ** 2 != found[0][0] or round(found[0][0] ** 0.5) % factor):
            raise InputError(
                "pictures are squares of whole squares of patches",
                where="pixel_values",
                expected=f"a square of a multiple of {factor} (1 / downsample_ratio) patches",
                found=f"{found[0][0]} features of a picture",
            )
        return [(length // factor**2,) for (length,) in found]

    def told(self, vectors: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return vectors.view(inputs["pixel_values"].shape[0], -1, vectors.shape[-1])


class InternVL(VisionLanguage):
    """A tower, a projector that shuffles and a decoder; hidden states out."""

    multi_modal_projector: ShufflingProjector

    PICTURES: ClassVar[type[Pictures]] = ShuffledPictures

    def seen(self, pixel_values: Tensor, select: LayerFeatures, asked: Tapped) -> tuple[MediaFeatures, Tensor]:
        every: Tapped = {**asked, "output_hidden_states": True}
        out = cast(BaseModelOutput, self.vision_tower(pixel_values, **every))
        assert out.hidden_states is not None
        states = [out.last_hidden_state if layer == -1 else out.hidden_states[layer] for layer in select.layers]
        told = MediaFeatures(
            last_hidden_state=out.last_hidden_state,
            hidden_states=out.hidden_states if asked.get("output_hidden_states") else None,
            attentions=out.attentions,
        )
        return told, self.project_features(select.of(states))

    def get_image_features(
        self,
        pixel_values: Tensor,
        vision_feature_layer: int | Sequence[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        **asked: Unpack[Tapped],
    ) -> MediaFeatures:
        """As :meth:`VisionLanguage.get_image_features`; the vectors of all pictures are one tensor [N, length, D]."""
        options = {
            "vision_feature_layer": vision_feature_layer,
            "vision_feature_select_strategy": vision_feature_select_strategy,
        }
        out, vectors = self.seen(pixel_values, self.select.asked(options), asked)
        out.pooler_output = vectors
        return out


def build(c: Config) -> InternVL:
    """Tower, projector and decoder without a head."""
    tower, decoder = c.vision.build_as(InternVisionEncoder), c.text.build_as(TextDecoder)
    wide = tower.width * c.factor**2
    projector = ShufflingProjector(
        layer_norm=nn.LayerNorm(wide),
        linear_1=nn.Linear(wide, decoder.width),
        linear_2=nn.Linear(decoder.width, decoder.width),
        act=c.act,
        factor=c.factor,
    )
    return InternVL(
        vision_tower=tower,
        select=LayerFeatures(layers=(c.layer,), skip=int(c.drop_class_token)),
        multi_modal_projector=projector,
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


OURS, THEIRS = "layers.{i}", "encoder.layer.{i}"
VISION_KEYS = KeyMap({
    "class_token.weight": unsqueezed("embeddings.cls_token", 2),
    "mask_token.weight": unsqueezed("embeddings.mask_token", 2),
    "patches": "embeddings.patch_embeddings",
    "positions.weight": unsqueezed("embeddings.position_embeddings", 1),
    OURS: THEIRS,
    f"{OURS}.input_layernorm": f"{THEIRS}.layernorm_before",
    f"{OURS}.self_attn": f"{THEIRS}.attention",
    f"{OURS}.self_attn.o_proj": f"{THEIRS}.attention.projection_layer",
    f"{OURS}.layer_scale1.lambda1": f"{THEIRS}.lambda_1",
    f"{OURS}.post_attention_layernorm": f"{THEIRS}.layernorm_after",
    f"{OURS}.layer_scale2.lambda1": f"{THEIRS}.lambda_2",
    "norm": "layernorm",
})  # fmt: skip

VISION = (
    Builder("internvl_vision", read_vision, VISION_KEYS, prefix="internvl_vision")
    .public(config="InternVLVisionConfig")
    .begins(zeros("class_token.weight", "mask_token.weight", "positions.weight"))
    .base("InternVLVisionModel", build_vision)
    .done()
)
FAMILY = (
    Builder("internvl", read, keys, prefix="")
    .public(
        config="InternVLConfig",
        tokenizer="Qwen2Tokenizer",
        image_processor="GotOcr2ImageProcessor",
        video_processor="InternVLVideoProcessor",
        processor="InternVLProcessor",
        row="image, video and text to text",
        usual={"image_seq_length": 256},
    )
    .begins(parted_beginning)
    .base("InternVLModel", build)
    .architecture(
        "InternVLForConditionalGeneration",
        ("image-text-to-text",),
        causal_lm,
        lambda c: keys(c).under("model", "") | NEW_LAYOUT,
    )
    .done()
)
