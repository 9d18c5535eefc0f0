"""LLaVA (https://arxiv.org/abs/2304.08485, https://arxiv.org/abs/2310.03744)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder, tied
from omniform.architectures.family import Builder
from omniform.architectures.fusion import parted_beginning
from omniform.architectures.fusion_pictures import STRATEGIES, LayerFeatures, VisionLanguage, VisionLanguageLM
from omniform.architectures.sized_pictures import SizedVisionEncoder, SizedVisionLanguage
from omniform.architectures.vision import VisionEncoder
from omniform.blocks.mlp import ACTIVATIONS, activation
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap

# The tower of LLaVA 1.5, CLIP ViT-L/14 at 336 pixels: what a config means that says nothing of its tower.
CLIP_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 336,
    "projection_dim": 768,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a LLaVA computes."""

    vision: Part
    text: Part
    image_token_id: int
    feature_layers: tuple[int, ...]
    drop_class_token: bool
    projector_act: str
    projector_bias: bool
    tie: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    """What a config of LLaVA's line means that does not say.

    Attributes:
        vision: the tower.
        text: the decoder's family.
        image_token_id: the placeholder.
        layers: which hidden states of the tower are read.
        layers_also: other spellings of that key.
        strategy: whether its class token is left out.
        text_ties: whether the head shares the table's matrix where the decoder's own config says so.
    """

    vision: Mapping[str, object] = field(default_factory=lambda: CLIP_336)
    text: str = "llama"
    image_token_id: int = 32000
    layers: tuple[int, ...] = (-2,)
    layers_also: tuple[str, ...] = ()
    strategy: str = "default"
    text_ties: bool = True


def read_parts(r: ConfigReader, usual: Usual) -> Config:
    """Read what all of LLaVA's line have."""
    text = Part.of(r, "text_config", {"model_type": usual.text})
    tie = r.flag("tie_word_embeddings", False)
    return Config(
        vision=Part.of(r, "vision_config", usual.vision),
        text=text,
        image_token_id=r.integer("image_token_index", usual.image_token_id, also=("image_token_id",), least=0),
        feature_layers=r.one_or_more("vision_feature_layer", usual.layers, also=usual.layers_also),
        drop_class_token=r.choice("vision_feature_select_strategy", STRATEGIES, usual.strategy) == "default",
        projector_act=r.choice("projector_hidden_act", ACTIVATIONS, "gelu"),
        projector_bias=r.flag("multimodal_projector_bias", True),
        tie=tie or (usual.text_ties and text.config.get("tie_word_embeddings") is True),
    )


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert("image_seq_length")
    return read_parts(r, Usual())


class Projector(nn.Module):
    """Vision features to the decoder's width: two projections with an activation between them."""

    def __init__(self, features: int, dim: int, act: str, *, bias: bool) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(features, dim, bias=bias)
        self.linear_2 = nn.Linear(dim, dim, bias=bias)
        self._act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., features] to [..., D]."""
        out: Tensor = self.linear_2(self._act(self.linear_1(x)))
        return out


class Seeing(TypedDict):
    """The parts of a :class:`VisionLanguage`."""

    vision_tower: VisionEncoder
    select: LayerFeatures
    multi_modal_projector: nn.Module
    language_model: TextDecoder
    image_token_id: int


def parts(c: Config) -> Seeing:
    """Tower, projector and decoder."""
    tower, decoder = c.vision.build_as(VisionEncoder), c.text.build_as(TextDecoder)
    features = tower.width * len(c.feature_layers)
    return {
        "vision_tower": tower,
        "select": LayerFeatures(layers=c.feature_layers, skip=1 if c.drop_class_token else 0),
        "multi_modal_projector": Projector(features, decoder.width, c.projector_act, bias=c.projector_bias),
        "language_model": decoder,
        "image_token_id": c.image_token_id,
    }


def build(c: Config) -> VisionLanguage:
    """Tower, projector and decoder without a head; a tower of pictures of any sizes (Pixtral's) is told the sizes."""
    made = parts(c)
    if isinstance(tower := made["vision_tower"], SizedVisionEncoder):
        return SizedVisionLanguage(
            vision_tower=tower,
            select=made["select"],
            multi_modal_projector=made["multi_modal_projector"],
            language_model=made["language_model"],
            image_token_id=made["image_token_id"],
        )
    return VisionLanguage(**made)


def causal_lm(c: Config, _: Common) -> VisionLanguageLM:
    """The model that writes."""
    model = build(c)
    return VisionLanguageLM(model=model, lm_head=writing_head(model.language_model, c.tie))


def writing_head(decoder: TextDecoder, tie: bool) -> nn.Linear:
    """The projection onto a decoder's vocabulary."""
    table = decoder.embed_tokens
    return tied(nn.Linear(table.embedding_dim, table.num_embeddings, bias=False), table, tie)


# How releases since 2025 call things in memory, and some files too; and what the first files called the tower.
SPELLINGS = (
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.(?=vision_tower|multi_modal_projector|language_model|image_newline)", ""),
    (r"^language_model\.(?!model\.|lm_head\.)", "language_model.model."),
    (r"^language_model\.model\.model\.", "language_model.model."),
    (r"^vision_tower\.vision_model\.", "vision_tower."),
)


def keys(c: Config) -> KeyMap:
    """Each part's own map, at its place."""
    return keys_of(c.vision, c.text)


def keys_of(vision: Part, text: Part) -> KeyMap:
    """A tower's map and a decoder's, at their places, as files of LLaVA's line and of its heirs spell them."""
    inner = text.keys.under("language_model", "language_model.model")
    return vision.keys.under("vision_tower", "vision_tower") | inner | KeyMap({}, aliases=SPELLINGS)


# The head's place, and what the ecosystem's modules are called today: files of adapters are spelled by them.
NEW_LAYOUT = KeyMap(
    {"lm_head": "language_model.lm_head"},
    modules=(
        (r"^language_model\.model(?=\.|$)", "language_model"),
        (r"^(?=vision_tower|multi_modal_projector|image_newline|language_model(?!\.lm_head))", "model."),
        (r"^language_model\.lm_head", "lm_head"),
    ),
)

FAMILY = (
    Builder("llava", read, keys, prefix="")
    .public(
        config="LlavaConfig",
        tokenizer="LlamaTokenizer",
        image_processor="LlavaImageProcessor",
        processor="LlavaProcessor",
        row="image and text to text",
        usual={"image_seq_length": 576},
    )
    .begins(parted_beginning)
    .base("LlavaModel", build)
    .architecture(
        "LlavaForConditionalGeneration",
        ("image-text-to-text",),
        causal_lm,
        lambda c: keys(c).under("model", "") | NEW_LAYOUT,
    )
    .done()
)
