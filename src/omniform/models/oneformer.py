"""OneFormer (https://arxiv.org/abs/2211.06220)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import cast

from torch import nn

from omniform.architectures.detector import QueryDecoder
from omniform.architectures.family import Builder
from omniform.architectures.mask_losses import SampledPoints
from omniform.architectures.mask_segmenter import PixelLevel
from omniform.architectures.parts import read_width
from omniform.architectures.pixel_decoder import (
    LEVELS,
    AlwaysDropout,
    MapReader,
    read_channels,
    reader_keys,
)
from omniform.architectures.query_decoder import (
    MapMemories,
    MaskedDecoder,
    MaskedLayers,
    MaskedPostNorm,
    MaskedPreNorm,
    ReluStack,
    in_projection,
)
from omniform.architectures.task_segmenter import NormedTask, OneFormer, OneFormerCore, PlainTask, QueryModule
from omniform.architectures.task_texts import TextEncoder, TextMapper, TextMaskLoss
from omniform.blocks.layers import CrossPostNorm, CrossPreNorm, Layer
from omniform.blocks.mlp import MLP
from omniform.blocks.positioned import PositionedAttention, PositionedCrossAttention, SinePlaces
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.models.backbones import NestedBackbone, read_backbone
from omniform.weights.keymap import KeyMap, Rule

SWIN = {"model_type": "swin", "drop_path_rate": 0.3, "out_features": ["stage1", "stage2", "stage3", "stage4"]}
"""The backbone where the file names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """How texts are read, in training.

    Attributes:
        projections: from a text's vector to the queries' width.
        learned: how many learned vectors stand beside the texts.
    """

    width: int
    length: int
    layers: int
    vocabulary: int
    projections: int
    learned: int

    @classmethod
    def read(cls, r: ConfigReader) -> Texts:
        """The fields that begin with ``text_encoder_``."""
        return cls(
            width=r.integer("text_encoder_width", 256),
            length=r.integer("text_encoder_context_length", 77),
            layers=r.layers("text_encoder_num_layers", 6),
            vocabulary=r.integer("text_encoder_vocab_size", 49408),
            projections=r.layers("text_encoder_proj_layers", 2, least=1),
            learned=r.integer("text_encoder_n_ctx", 16, least=0),
        )

    def check(self, r: ConfigReader, dim: int) -> None:
        """Raise :class:`ConfigError` unless texts can be read for queries of width ``dim``."""
        if self.width < 64 or self.width % (self.width // 64):
            raise r.fail("text_encoder_width", "a multiple of its heads, one per 64", self.width)
        if self.learned and self.width != dim:
            raise r.fail("text_encoder_width", f"{dim} (hidden_dim): learned vectors stand beside texts", self.width)

    def build(self, dim: int, eps: float) -> TextMapper:
        """The reader of texts for queries of width ``dim``."""
        between = [dim] * (self.projections - 1)
        return TextMapper(
            text_encoder=TextEncoder(self.vocabulary, self.width, self.length, self.layers, eps),
            text_projector=ReluStack(self.width, *between, dim),
            prompt_ctx=nn.Embedding(self.learned, self.width) if self.learned else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a OneFormer computes.

    Attributes:
        texts: how texts are read; None where it is not there to be trained.
        task: how many tokens a task is told in.
        task_norm: whether the task is normed, and the queries begin as it.
        query_layers: of the decoder that makes queries of the task.
        count: of the layers over queries.
        dropout: in the decoder that makes queries.
        deep: whether every layer predicts.
        weights: of classes, masks and dice in matching and loss, of "no object", and of texts.
    """

    backbone: NestedBackbone
    reader: MapReader
    texts: Texts | None
    task: int
    task_norm: bool
    queries: int
    query_layers: int
    layers: MaskedLayers
    count: int
    dropout: float
    projected: bool
    deep: bool
    shows: bool
    weights: tuple[float, float, float, float, float]
    temperature: float | None
    points: SampledPoints


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert("init_std", "init_xavier_std", "ignore_value", "norm")
    dim, heads = read_width(r, "hidden_dim", 256, "num_attention_heads", 8, also=("hidden_size",))
    wide, dropout, eps = (
        read_channels(r, "conv_dim", 256),
        r.probability("dropout", 0.1),
        r.number("layer_norm_eps", 1e-5),
    )
    if dim % 4:
        raise r.fail("hidden_dim", "a multiple of 4 for sine positions", dim)
    if wide % heads:
        raise r.fail("conv_dim", f"a multiple of {heads} (num_attention_heads)", wide)
    if (out := r.integer("mask_dim", 256)) != wide:
        raise r.fail("mask_dim", f"{wide} (conv_dim): queries are made of the map that masks are read from", out)
    texts, trained = Texts.read(r), r.flag("is_training", False)
    if trained:
        texts.check(r, dim)
    hidden = r.integer("dim_feedforward", 2048)
    kind = MaskedPreNorm if r.flag("pre_norm", False) else MaskedPostNorm
    return Config(
        backbone=read_backbone(r, SWIN),
        reader=MapReader(
            dim=wide,
            out=out,
            heads=heads,
            layers=r.layers("encoder_layers", 6),
            hidden=r.integer("encoder_feedforward_dim", 1024),
            eps=eps,
            extra=MapReader.read_extra(r, "strides"),
            dropout=partial(AlwaysDropout, dropout) if trained else nn.Identity,
        ),
        texts=texts if trained else None,
        task=r.integer("task_seq_len", 77),
        task_norm=r.flag("use_task_norm", True),
        queries=r.integer("num_queries", 150, least=2),
        query_layers=r.layers("query_dec_layers", 2),
        layers=MaskedLayers(kind=kind, dim=dim, heads=heads, hidden=hidden, act="relu", dropout=0.0, eps=eps),
        count=r.layers("decoder_layers", 10, also=("num_hidden_layers",), least=1) - 1,
        dropout=dropout,
        projected=r.flag("enforce_input_proj", False),
        deep=r.flag("use_auxiliary_loss", True),
        shows=r.flag("output_auxiliary_logits", True),
        weights=(
            r.number("class_weight", 2.0),
            r.number("mask_weight", 5.0),
            r.number("dice_weight", 5.0),
            r.number("no_object_weight", 0.1),
            r.number("contrastive_weight", 0.5),
        ),
        temperature=r.maybe_number("contrastive_temperature", 0.07),
        points=SampledPoints.read(r),
    )


def query_transformer(c: Config) -> QueryDecoder:
    """Makes queries of a task."""
    dim, heads, dropout = c.layers.dim, c.layers.heads, c.dropout
    kind: type[Layer] = CrossPreNorm if c.layers.kind is MaskedPreNorm else CrossPostNorm

    def layer() -> Layer:
        return kind.of(
            c.layers.norm,
            self_attn=PositionedAttention(dim, heads, rule=Full(), dropout=dropout),
            encoder_attn=PositionedCrossAttention(dim, heads, dropout=dropout),
            mlp=MLP(dim, c.layers.hidden, "relu", dropout=dropout),
            dropout=dropout,
        )

    return QueryDecoder(layers=nn.ModuleList(layer() for _ in range(c.query_layers)), layernorm=c.layers.norm())


def build(c: Config, common: Common) -> OneFormerCore:
    """The model without its loss."""
    backbone, channels, dim = c.backbone.build(), c.backbone.channels, c.layers.dim
    if len(channels) < LEVELS:
        raise ConfigError("three maps are read", where="backbone_config", expected=f">= {LEVELS}", found=len(channels))
    kind = NormedTask if c.task_norm else PlainTask
    return kind(
        pixel_level_module=PixelLevel(encoder=backbone, decoder=c.reader.build(channels)),
        transformer_module=QueryModule(
            position_embedding=SinePlaces(dim),
            queries_embedder=nn.Embedding(c.queries, dim),
            query_input_projection=nn.Conv2d(c.reader.dim, dim, 1),
            query_transformer=query_transformer(c),
            memories=MapMemories.over(c.reader.dim, dim, projected=c.projected),
            decoder=MaskedDecoder(
                layers=c.layers.build(c.count),
                layernorm=c.layers.norm(),
                mask_embedder=ReluStack(dim, dim, dim, c.reader.out),
            ),
            class_embed=nn.Linear(dim, common.num_labels + 1),
        ),
        task_encoder=ReluStack(c.task, dim, dim),
        text_mapper=None if c.texts is None else c.texts.build(dim, c.layers.eps),
        deep=c.deep,
    )


def segmenter(c: Config, common: Common) -> OneFormer:
    """A class, or none, and a mask per query."""
    of_class, of_mask, of_dice, of_none, of_text = c.weights
    criterion = TextMaskLoss(
        common.num_labels,
        c.points,
        temperature=c.temperature,
        text_weight=of_text,
        class_cost=of_class,
        class_weight=of_class,
        mask_weight=of_mask,
        dice_weight=of_dice,
        no_object_weight=of_none,
    )
    return OneFormer(model=build(c, common), criterion=criterion, shows_auxiliary=c.shows)


PIXELS, QUERIES = "pixel_level_module.decoder", "transformer_module"
LAYER = f"{QUERIES}.decoder.layers.{{i}}"
MAKER, THEIR_MAKER = f"{QUERIES}.query_transformer", f"{QUERIES}.decoder.query_transformer.decoder"
TEXTS, THEIR_TEXTS = "text_mapper.text_encoder.layers.{i}", "text_mapper.text_encoder.transformer.layers.{i}"


def maker_keys(pre: bool) -> dict[str, Rule]:
    """Where the decoder that makes queries lies; ``pre``: its norms stand before its branches."""
    ours, theirs = f"{MAKER}.layers.{{i}}", f"{THEIR_MAKER}.layers.{{i}}"
    post_norms = ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm")
    pre_norms = ("input_layernorm", "encoder_attn_layer_norm", "post_attention_layernorm")
    return {
        f"{MAKER}.layernorm": f"{THEIR_MAKER}.norm",
        **in_projection(f"{ours}.self_attn", f"{theirs}.self_attn"),
        **in_projection(f"{ours}.encoder_attn", f"{theirs}.multihead_attn"),
        **{f"{ours}.{norm}": f"{theirs}.norm{i + 1}" for i, norm in enumerate(pre_norms if pre else post_norms)},
        **{f"{ours}.mlp.fc{i}": f"{theirs}.linear{i}" for i in (1, 2)},
    }


def keys(c: Config) -> KeyMap:
    """Where the weights live."""
    rules: dict[str, Rule] = {
        f"{QUERIES}.memories.projections": f"{QUERIES}.input_projections",
        f"{QUERIES}.memories.level_embed": f"{QUERIES}.level_embed",
        f"{QUERIES}.query_input_projection": f"{QUERIES}.decoder.query_input_projection",
        f"{QUERIES}.class_embed": f"{QUERIES}.decoder.class_embed",
        f"{QUERIES}.decoder.layernorm": f"{QUERIES}.decoder.decoder_norm",
        f"{QUERIES}.decoder.mask_embedder.layers.{{i}}": f"{QUERIES}.decoder.mask_embed.layers.{{i}}.0",
        **maker_keys(c.layers.kind is MaskedPreNorm),
        f"{LAYER}.self_attn": f"{LAYER}.self_attn.self_attn",
        f"{LAYER}.self_attn.o_proj": f"{LAYER}.self_attn.self_attn.out_proj",
        f"{LAYER}.self_attn_layer_norm": f"{LAYER}.self_attn.norm",
        **in_projection(f"{LAYER}.cross_attn", f"{LAYER}.cross_attn.multihead_attn"),
        f"{LAYER}.cross_attn_layer_norm": f"{LAYER}.cross_attn.norm",
        **{f"{LAYER}.mlp.fc{i}": f"{LAYER}.ffn.linear{i}" for i in (1, 2)},
        f"{LAYER}.final_layer_norm": f"{LAYER}.ffn.norm",
        "task_encoder.layers.{i}": "task_encoder.task_mlp.layers.{i}.0",
        "text_mapper.text_projector.layers.{i}": "text_mapper.text_projector.layers.{i}.0",
        f"{TEXTS}.input_layernorm": f"{THEIR_TEXTS}.layer_norm1",
        f"{TEXTS}.post_attention_layernorm": f"{THEIR_TEXTS}.layer_norm2",
        f"{TEXTS}.mlp": f"{THEIR_TEXTS}.mlp",
        **in_projection(f"{TEXTS}.self_attn", f"{THEIR_TEXTS}.self_attn"),
    }
    backbone = c.backbone.keys.under("pixel_level_module.encoder", "pixel_level_module.encoder")
    steps = len(c.backbone.channels[: c.reader.extra])
    # Published checkpoints hold the reader of texts, and say that nobody trains.
    ignored = () if c.texts is not None else (r"(^|\.)text_mapper\.",)
    return KeyMap(rules, ignored=ignored) | backbone | KeyMap(reader_keys(steps)).under(PIXELS, PIXELS)


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """Layers and heads keep a signal's variance; texts begin as CLIP's."""
    inside = path.removeprefix("model.")
    if inside == f"{PIXELS}.level_embed.weight":
        return 0.0
    if not path.endswith(".weight") or "norm" in inside or inside.startswith("pixel_level_module"):
        return None
    gain = float(cast(float, config.get("init_xavier_std", 1.0)))
    if inside.startswith("text_mapper.text_encoder.layers."):
        texts = cast(Config, config.spec).texts
        assert texts is not None
        through = texts.width**-0.5 * (2 * texts.layers) ** -0.5
        stds: dict[str, float] = {"fc1": (2 * texts.width) ** -0.5, "fc2": through, "o_proj": through}
        return stds.get(inside.split(".")[-2], float(texts.width**-0.5))
    stacks = ("task_encoder", "text_mapper.text_projector", f"{QUERIES}.decoder", f"{QUERIES}.query")
    kept = inside.startswith((*stacks, f"{QUERIES}.memories.projections")) and "queries_embedder" not in inside
    if not kept:
        return None
    joint = (".encoder_attn." in inside or ".cross_attn." in inside or MAKER in inside) and inside.split(".")[-2] in (
        "q_proj", "k_proj", "v_proj",
    )  # fmt: skip
    return lambda x: nn.init.xavier_uniform_(x, gain=gain * (0.5**0.5 if joint else 1.0))


FAMILY = (
    Builder("oneformer", read, keys, prefix="model")
    .public(
        config="OneFormerConfig",
        tokenizer="CLIPTokenizer",
        image_processor="OneFormerImageProcessor",
        processor="OneFormerProcessor",
        row="semantic, instance and panoptic segmentation by task",
        usual={"init_std": 0.02, "init_xavier_std": 1.0, "ignore_value": 255, "norm": "GN"},
    )
    .begins(beginning)
    .architecture("OneFormerModel", ("base",), build, keys)
    .head("OneFormerForUniversalSegmentation", "universal-segmentation", segmenter)
    .done()
)
