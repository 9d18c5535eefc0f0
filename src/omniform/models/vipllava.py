"""ViP-LLaVA (https://arxiv.org/abs/2312.00784): LLaVA that reads several layers of its tower, normed together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from omniform.architectures.family import Builder
from omniform.architectures.fusion import parted_beginning
from omniform.architectures.fusion_pictures import Pictures, VisionLanguage, VisionLanguageLM
from omniform.blocks.mlp import activation
from omniform.core.config import Common
from omniform.core.outputs import MediaFeatures
from omniform.core.reader import ConfigReader
from omniform.models import llava
from omniform.models.llava import NEW_LAYOUT, Usual, parts, read_parts, writing_head
from omniform.weights.keymap import KeyMap

LAYERS = (-2, -5, -8, -11, 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a ViP-LLaVA computes.

    Attributes:
        seeing: what it has in common with LLaVA; the class token is always left out.
        norm_eps: of the norm before the projector.
    """

    seeing: llava.Config
    norm_eps: float


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert("image_seq_length")
    usual = Usual(layers=LAYERS, layers_also=("vision_feature_layers",), text_ties=False)
    seeing = replace(read_parts(r, usual), drop_class_token=True, projector_bias=True)
    return Config(seeing=seeing, norm_eps=r.number("projector_layernorm_eps", 1e-5))


@dataclass(frozen=True, kw_only=True)
class StackedPictures(Pictures):
    """Pictures whose vectors are shown one picture beside the other."""

    def told(self, vectors: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return vectors.view(inputs["pixel_values"].shape[0], -1, vectors.shape[-1])


class StackedVisionLanguage(VisionLanguage):
    """A vision-language model that shows its pictures' vectors as one tensor."""

    PICTURES = StackedPictures

    def get_image_features(self, pixel_values: Tensor, *args: object, **given: object) -> MediaFeatures:
        """The tower's output, and all pictures' vectors in ``pooler_output``. Shape: [N, length, D]."""
        out = super().get_image_features(pixel_values, *args, **given)  # type: ignore[arg-type]
        out.pooler_output = torch.stack(tuple(out.pooler_output or ()))
        return out


class NormedProjector(nn.Module):
    """Vision features, normed, to the decoder's width: two projections with an activation between them."""

    def __init__(self, features: int, dim: int, act: str, eps: float) -> None:
        super().__init__()
        self.projector_layernorm = nn.LayerNorm(features, eps)
        self.linear_1 = nn.Linear(features, dim)
        self.linear_2 = nn.Linear(dim, dim)
        self._act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., features] to [..., D]."""
        out: Tensor = self.linear_2(self._act(self.linear_1(self.projector_layernorm(x))))
        return out


def build(c: Config) -> StackedVisionLanguage:
    """Tower, projector and decoder without a head."""
    made = parts(c.seeing)
    features = made["vision_tower"].width * len(c.seeing.feature_layers)
    made["multi_modal_projector"] = NormedProjector(
        features, made["language_model"].width, c.seeing.projector_act, c.norm_eps
    )
    return StackedVisionLanguage(**made)


def causal_lm(c: Config, _: Common) -> VisionLanguageLM:
    """The model that writes."""
    model = build(c)
    return VisionLanguageLM(model=model, lm_head=writing_head(model.language_model, c.seeing.tie))


def keys(c: Config) -> KeyMap:
    """Each part's own map, at its place."""
    return llava.keys(c.seeing)


FAMILY = (
    Builder("vipllava", read, keys, prefix="")
    .public(
        config="VipLlavaConfig",
        tokenizer="LlamaTokenizer",
        image_processor="LlavaImageProcessor",
        processor="LlavaProcessor",
        row="image and text to text",
        usual={"image_seq_length": 576},
    )
    .begins(parted_beginning)
    .base("VipLlavaModel", build)
    .architecture(
        "VipLlavaForConditionalGeneration",
        ("image-text-to-text",),
        causal_lm,
        lambda c: keys(c).under("model", "") | NEW_LAYOUT,
    )
    .done()
)
