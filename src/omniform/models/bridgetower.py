"""BridgeTower (https://arxiv.org/abs/2206.08657): RoBERTa and a CLIP tower, with bridges into layers between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from torch import nn

from omniform.architectures.bridged import (
    AddedBridge,
    BridgedContrast,
    BridgedMaskedLM,
    BridgedMatcher,
    BridgedTowers,
    BridgedVision,
    InterpolatedBridge,
    ScaledBridge,
)
from omniform.architectures.counted_family import CountedText
from omniform.architectures.encoder_family import STACK_KEYS
from omniform.architectures.family import Builder, part_config, part_of
from omniform.architectures.query_decoder import in_projection
from omniform.architectures.scoring import ScoringHead
from omniform.blocks.attention import Attention
from omniform.blocks.fused import FusedMLP
from omniform.blocks.layers import PreNorm
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.patches import ClassToken, GridPositions, Patching, PatchStem, read_patching
from omniform.blocks.poolers import DensePooler
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap, Rule

HEAD_DIM = 64
"""Width of a head of the pictures' tower, whatever its config says."""

BRIDGES: dict[str, type[AddedBridge]] = {
    "add": AddedBridge,
    "scaled_add": ScaledBridge,
    "interpolate": InterpolatedBridge,
}


def read_text(r: ConfigReader) -> CountedText:
    """Read the config of the words' tower."""
    r.inert(initializer_factor=1)
    return CountedText.read(r, vocab_size=50265, token_types=1, eps=1e-5, max_positions=514)


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSide:
    """What the pictures' tower computes.

    Attributes:
        separate: how many norms of single layers checkpoints hold beside the one that is used.
    """

    dim: int
    layers: int
    eps: float
    patching: Patching
    separate: int

    @classmethod
    def read(cls, r: ConfigReader) -> VisionSide:
        """Read the tower's config."""
        # Gradients are stopped in the tower alone only, which nobody trains.
        r.inert(initializer_factor=1, stop_gradient=False)
        dim, layers = r.integer("hidden_size", 768), r.layers("num_hidden_layers", 12)
        if dim % HEAD_DIM:
            raise r.fail("hidden_size", f"a multiple of {HEAD_DIM}, the width of a head", dim)
        return cls(
            dim=dim,
            layers=max(layers - 1, 0) if r.flag("remove_last_layer", False) else layers,
            eps=r.number("layer_norm_eps", 1e-5),
            patching=read_patching(r, patch_size=16, image_size=(288, 288)),
            separate=0 if r.flag("share_layernorm", True) else layers,
        )

    def norm(self) -> nn.Module:
        """One norm."""
        return nn.LayerNorm(self.dim, self.eps)

    def norms(self, count: int) -> nn.ModuleList:
        """So many of them."""
        return nn.ModuleList(self.norm() for _ in range(count))

    def layer(self) -> PreNorm:
        """One layer."""
        heads = self.dim // HEAD_DIM
        mlp = FusedMLP(self.dim, 4 * self.dim, "quick_gelu")
        return PreNorm.of(self.norm, self_attn=Attention(self.dim, heads, rule=Full()), mlp=mlp)

    def model(self) -> BridgedVision:
        """The tower."""
        return BridgedVision(
            patches=PatchStem(self.patching, self.dim, bias=False),
            positions=GridPositions(self.patching.grid, self.dim, before=1),
            class_token=ClassToken(self.dim),
            pre_norm=self.norm(),
            layers=nn.ModuleList(self.layer() for _ in range(self.layers)),
            norm=self.norm(),
            separate_norms=self.norms(self.separate) if self.separate else None,
        )


TEXT = part_config("BridgeTowerTextConfig", "bridgetower_text_model", read_text)
VISION = part_config("BridgeTowerVisionConfig", "bridgetower_vision_model", VisionSide.read)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a BridgeTower computes.

    Attributes:
        layers: between the towers.
        one_transform: whether one projection leads into all of these.
        one_bridge: whether one bridge does.
        bridge: what it is.
        contrastive: width of the space that texts and pictures are compared in.
    """

    text: CountedText
    vision: VisionSide
    dim: int
    layers: int
    act: str
    eps: float
    tie: bool
    one_transform: bool
    one_bridge: bool
    bridge: type[AddedBridge]
    contrastive: int
    logit_scale: float


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    # Layers between the towers have the heads of the words' tower, and every norm begins as every other.
    r.inert(num_attention_heads=12, initializer_factor=1, init_layernorm_from_vision_encoder=False)
    # What old files say beside: the last of these twice, and the text's and the pictures' own.
    r.inert("head_hidden_scale", "stop_gradient", "link_tower_shared", "drop_rate", "input_image_embed_size")
    r.inert("input_text_embed_size", "text_config_dict", "vision_config_dict")
    text, vision = part_of(r, "text_config", TEXT, CountedText), part_of(r, "vision_config", VISION, VisionSide)
    dim, layers = r.integer("hidden_size", 768), r.layers("num_hidden_layers", 6, least=1)
    if dim != text.text.dim:
        raise r.fail("hidden_size", f"{text.text.dim}, text_config's: layers between the towers are the text's", dim)
    if layers > text.text.layers + 1:
        most = f"at most {text.text.layers + 1}: each but the first follows a layer of text_config's"
        raise r.fail("num_hidden_layers", most, layers)
    if vision.layers < text.text.layers:
        raise r.fail("vision_config: num_hidden_layers", f"at least {text.text.layers}, as text_config", vision.layers)
    return Config(
        text=text,
        vision=vision,
        dim=dim,
        layers=layers,
        act=r.choice("hidden_act", ACTIVATIONS, "gelu"),
        eps=r.number("layer_norm_eps", 1e-5),
        tie=r.flag("tie_word_embeddings", False),
        one_transform=r.flag("share_cross_modal_transformer_layers", True),
        one_bridge=r.flag("share_link_tower_layers", False),
        bridge=BRIDGES[r.choice("link_tower_type", BRIDGES, "add")],
        contrastive=r.integer("contrastive_hidden_size", 512),
        logit_scale=r.number("logit_scale_init_value", 2.6592),
    )


def shared(make: Callable[[], nn.Module], count: int, *, one: bool) -> nn.Module:
    """One module for all, or so many."""
    return make() if one else nn.ModuleList(make() for _ in range(count))


def build(c: Config) -> BridgedTowers:
    """Both towers and what lies between them."""
    # Between the towers nobody writes: words see one another both ways, whatever the words' tower could do alone.
    words = replace(c.text, text=replace(c.text.text, causal=False))
    between = replace(words.text, cross_attention=True)

    def norm() -> nn.Module:
        return nn.LayerNorm(c.dim, c.eps)

    def into(width: int) -> nn.Module:
        return shared(lambda: nn.Linear(width, c.dim), c.layers, one=c.one_transform)

    def bridges() -> nn.Module:
        return shared(lambda: c.bridge(norm=norm()), c.layers - 1, one=c.one_bridge)

    return BridgedTowers(
        text_model=words.stack(DensePooler(c.dim, c.dim)),
        vision_model=c.vision.model(),
        token_type_embeddings=nn.Embedding(2, c.dim),
        cross_modal_text_transform=into(c.dim),
        cross_modal_image_transform=into(c.vision.dim),
        cross_modal_text_layers=nn.ModuleList(between.layer() for _ in range(c.layers)),
        cross_modal_image_layers=nn.ModuleList(between.layer() for _ in range(c.layers)),
        cross_modal_text_pooler=DensePooler(c.dim, c.dim),
        cross_modal_image_pooler=DensePooler(c.dim, c.dim),
        cross_modal_text_layernorm=norm(),
        cross_modal_image_layernorm=norm(),
        cross_modal_text_link_tower=bridges(),
        cross_modal_image_link_tower=bridges(),
    )


def masked_lm(c: Config, _: Common) -> BridgedMaskedLM:
    """Masked words."""
    model = build(c)
    head = ScoringHead.of_tokens(model.text_model.embed_tokens, c.act, c.eps, tie=c.tie)
    return BridgedMaskedLM(model=model, lm_head=head)


def matcher(c: Config, _: Common) -> BridgedMatcher:
    """Whether text and picture belong together."""
    return BridgedMatcher(model=build(c), itm_score=nn.Linear(2 * c.dim, 2))


def contrast(c: Config, _: Common) -> BridgedContrast:
    """Words, pictures and both in one space."""
    if not c.one_transform:
        raise ConfigError(
            "pictures alone need the one projection that all layers share",
            where="share_cross_modal_transformer_layers",
            expected=True,
            found=False,
        )
    return BridgedContrast(
        model=build(c),
        itc_text_head=nn.Linear(c.dim, c.contrastive),
        itc_image_head=nn.Linear(c.dim, c.contrastive),
        itc_cross_modal_head=nn.Linear(2 * c.dim, c.contrastive),
        start=c.logit_scale,
    )


def begins(config: ModelConfig, path: str) -> Beginning | None:
    """A twentieth of the factor; the pictures' layers by their width and number."""
    if "logit_scale" in path or path.endswith(("beta", "scaled_factor")):
        return None
    vision, text = (cast(ModelConfig, config.get(name)) for name in ("vision_config", "text_config"))
    if ".text_model." in f".{path}":
        return 0.05 * float(cast(float, text.initializer_factor))
    if ".vision_model." not in f".{path}":
        return 0.05 * float(cast(float, config.initializer_factor))
    factor, dim = float(cast(float, vision.initializer_factor)), float(cast(int, vision.hidden_size))
    wide: float = dim**-0.5
    deep: float = (2 * cast(int, vision.num_hidden_layers)) ** -0.5
    stds: dict[str, float] = {"o_proj": wide * deep, "fc1": (2 * dim) ** -0.5, "fc2": wide * deep, "projection": 0.05}
    std: float = stds.get(path.split(".")[-2], wide)
    return factor * std


def _between(kind: str) -> dict[str, Rule]:
    inner = {k.removeprefix("layers.{i}."): v for k, v in STACK_KEYS.items() if k.startswith("layers.")}
    at = f"cross_modal_{kind}_layers.{{i}}"
    return {f"{at}.{ours}": f"{at}.{theirs.removeprefix('encoder.layer.{i}.')}" for ours, theirs in inner.items()}


BLOCK = "transformer.resblocks.{i}"
VISION_KEYS = KeyMap(
    {
        "class_token.weight": "embeddings.class_embedding",
        "patches.projection": "embeddings.patch_embedding",
        "positions": "embeddings.position_embedding",
        "pre_norm": "ln_pre",
        "norm": "ln_post",
        "separate_norms": "ln_separate",
        **in_projection("layers.{i}.self_attn", f"{BLOCK}.attn"),
        "layers.{i}.input_layernorm": f"{BLOCK}.ln_1",
        "layers.{i}.post_attention_layernorm": f"{BLOCK}.ln_2",
        "layers.{i}.mlp.fc1": f"{BLOCK}.mlp.c_fc",
        "layers.{i}.mlp.fc2": f"{BLOCK}.mlp.c_proj",
    }
)
KEYS = (
    KeyMap(STACK_KEYS).under("text_model", "text_model")
    | VISION_KEYS.under("vision_model", "vision_model.visual")
    | KeyMap(
        {
            **_between("text"),
            **_between("image"),
            "cross_modal_text_link_tower.norm": "cross_modal_text_link_tower.LayerNorm",
            "cross_modal_image_link_tower.norm": "cross_modal_image_link_tower.LayerNorm",
            "cross_modal_text_link_tower.{i}.norm": "cross_modal_text_link_tower.{i}.LayerNorm",
            "cross_modal_image_link_tower.{i}.norm": "cross_modal_image_link_tower.{i}.LayerNorm",
        }
    )
)
SCORES: dict[str, Rule] = {
    "lm_head.dense": "mlm_score.transform.dense",
    "lm_head.layer_norm": "mlm_score.transform.LayerNorm",
    "lm_head.decoder": "mlm_score.decoder",
    "lm_head.decoder.bias": "mlm_score.bias",
}
SPACE: dict[str, Rule] = {
    "itc_text_head": "itc_text_head.fc",
    "itc_image_head": "itc_image_head.fc",
    "itc_cross_modal_head": "itc_cross_modal_head.fc",
}

FAMILY = (
    Builder("bridgetower", read, KEYS, prefix="bridgetower")
    .public(
        config="BridgeTowerConfig",
        tokenizer="RobertaTokenizer",
        image_processor="BridgeTowerImageProcessor",
        processor="BridgeTowerProcessor",
        row="masked LM, image-text matching, contrastive learning of texts and pictures",
    )
    .begins(begins)
    .parts(TEXT, VISION)
    .base("BridgeTowerModel", build)
    .head("BridgeTowerForMaskedLM", "masked-lm", masked_lm, SCORES)
    .head("BridgeTowerForImageAndTextRetrieval", "image-text-retrieval", matcher, {"itm_score": "itm_score.fc"})
    .head("BridgeTowerForContrastiveLearning", (), contrast, SPACE)
    .done()
)
