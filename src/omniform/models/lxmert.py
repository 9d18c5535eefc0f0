"""LXMERT (https://arxiv.org/abs/1908.07490): words and regions of pictures, which a detector found before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from omniform.architectures.encoder_family import STACK_KEYS, EncoderText
from omniform.architectures.family import Builder
from omniform.architectures.parts import read_width
from omniform.architectures.regions import (
    Exchange,
    ObjectHead,
    RegionAnswerer,
    RegionPreTraining,
    RegionReader,
    RegionStem,
)
from omniform.architectures.scoring import ScoringHead
from omniform.blocks.attention import Attention, CrossAttention
from omniform.blocks.embeddings import PositionTable, TypedEmbeddings
from omniform.blocks.layers import PostNorm
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.poolers import DensePooler
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap, Rule

EPS = 1e-12
"""Of every norm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What an LXMERT computes.

    Attributes:
        text: the words' part.
        regions: how many layers regions have alone.
        exchanges: how many layers both meet in.
        feats: width of what a detector sees of a region.
        boxes: how many numbers a box is.
        answers: how many there are.
        visual: how many things each region's label tells apart, by what is told.
        weight: of the regions' losses.
        tasks: which of them there are: ``matched``, ``mask_lm``, ``obj_predict``, ``qa``.
    """

    text: EncoderText
    regions: int
    exchanges: int
    feats: int
    boxes: int
    answers: int
    visual: Mapping[str, int]
    weight: float
    tasks: frozenset[str]


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    dim, heads = read_width(r, "hidden_size", 768, "num_attention_heads", 12)
    alone, regions, exchanges = r.layers("l_layers", 9), r.layers("r_layers", 5), r.layers("x_layers", 5)
    for name, count in (("l_layers", alone), ("r_layers", regions)):
        if count + exchanges == 0:
            raise r.fail(name, "at least 1 where x_layers is 0", 0)
    r.inert(num_hidden_layers={"vision": regions, "cross_encoder": exchanges, "language": alone})
    text = EncoderText(
        vocab_size=r.integer("vocab_size", 30522),
        token_types=r.integer("type_vocab_size", 2),
        dim=dim,
        hidden=r.integer("intermediate_size", 3072),
        layers=alone,
        heads=heads,
        act=r.choice("hidden_act", ACTIVATIONS, "gelu"),
        eps=EPS,
        max_positions=r.integer("max_position_embeddings", 512),
        causal=False,
        cross_attention=False,
        dropout=r.probability("hidden_dropout_prob", 0.1),
        attention_dropout=r.probability("attention_probs_dropout_prob", 0.1),
        classifier_dropout=0.0,
        tie=r.flag("tie_word_embeddings", True),
    )
    feats = r.integer("visual_feat_dim", 2048)
    told = {"obj": r.integer("num_object_labels", 1600), "attr": r.integer("num_attr_labels", 400), "feat": feats}
    return Config(
        text=text,
        regions=regions,
        exchanges=exchanges,
        feats=feats,
        boxes=r.integer("visual_pos_dim", 4),
        answers=r.integer("num_qa_labels", 9500),
        visual={name: count for name, count in told.items() if r.flag(f"visual_{name}_loss", True)},
        weight=r.number("visual_loss_normalizer", 6.67),
        tasks=frozenset(t for t in ("matched", "mask_lm", "obj_predict", "qa") if r.flag(f"task_{t}", True)),
    )


def build(c: Config) -> RegionReader:
    """The model without a head."""
    text = c.text
    embeddings = TypedEmbeddings(
        # The first position and the first type stay as they are in training, as padding does.
        embed_positions=PositionTable(text.max_positions, text.dim, padding=0),
        embed_token_types=nn.Embedding(text.token_types, text.dim, padding_idx=0),
        norm=text.norm(),
        dropout=text.dropout,
    )
    stem = RegionStem(
        feats=nn.Linear(c.feats, text.dim),
        feats_norm=text.norm(),
        boxes=nn.Linear(c.boxes, text.dim),
        boxes_norm=text.norm(),
        dropout=text.dropout,
    )
    return RegionReader(
        text_model=text.stack(embeddings, None, nn.Embedding(text.vocab_size, text.dim, padding_idx=0)),
        stem=stem,
        region_layers=nn.ModuleList(layer(text) for _ in range(c.regions)),
        cross_layers=nn.ModuleList(exchange(text) for _ in range(c.exchanges)),
        pooler=DensePooler(text.dim, text.dim),
    )


def layer(text: EncoderText) -> PostNorm:
    """One layer of words alone, or of regions."""
    return text.postnorm(Attention(text.dim, text.heads, rule=Full(), dropout=text.attention_dropout))


def exchange(text: EncoderText) -> Exchange:
    """One layer where words and regions meet."""
    return Exchange(
        cross_attn=CrossAttention(text.dim, text.heads, dropout=text.attention_dropout),
        cross_attn_layer_norm=text.norm(),
        text=layer(text),
        regions=layer(text),
        dropout=text.dropout,
    )


def answer_head(c: Config) -> nn.Sequential:
    """One vector per row to scores of answers."""
    dim = c.text.dim
    return nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.LayerNorm(2 * dim, EPS), nn.Linear(2 * dim, c.answers))


def answerer(c: Config, _: Common) -> RegionAnswerer:
    """One of many answers."""
    return RegionAnswerer(model=build(c), answer_head=answer_head(c))


def object_head(c: Config) -> ObjectHead:
    """What hidden regions are."""
    dim = c.text.dim
    told = nn.ModuleDict({name: nn.Linear(dim, count) for name, count in c.visual.items()})
    return ObjectHead(
        dense=nn.Linear(dim, dim), act=c.text.act, layer_norm=c.text.norm(), decoder_dict=told, weight=c.weight
    )


def pre_training(c: Config, _: Common) -> RegionPreTraining:
    """All tasks at once."""
    model = build(c)
    table, text = model.text_model.embed_tokens, c.text
    return RegionPreTraining(
        model=model,
        lm_head=ScoringHead.of_tokens(table, text.act, text.eps, tie=text.tie),
        seq_relationship=nn.Linear(text.dim, 2),
        obj_predict_head=object_head(c) if "obj_predict" in c.tasks else None,
        answer_head=answer_head(c) if "qa" in c.tasks else None,
        words="mask_lm" in c.tasks,
        matched="matched" in c.tasks,
    )


def _layer(ours: str, attention: str, inner: str, outer: str) -> dict[str, Rule]:
    return {
        **_attention(f"{ours}.self_attn", f"{attention}.self", attention),
        f"{ours}.mlp.fc1": f"{inner}.dense",
        f"{ours}.mlp.fc2": f"{outer}.dense",
        f"{ours}.final_layer_norm": f"{outer}.LayerNorm",
    }


def _attention(ours: str, theirs: str, after: str) -> dict[str, Rule]:
    return {
        f"{ours}.q_proj": f"{theirs}.query",
        f"{ours}.k_proj": f"{theirs}.key",
        f"{ours}.v_proj": f"{theirs}.value",
        f"{ours}.o_proj": f"{after}.output.dense",
        f"{ours}_layer_norm": f"{after}.output.LayerNorm",
    }


R, X = "encoder.r_layers.{i}", "encoder.x_layers.{i}"
KEYS = KeyMap(STACK_KEYS).under("text_model", "") | KeyMap(
    {
        "stem.feats": "encoder.visn_fc.visn_fc",
        "stem.feats_norm": "encoder.visn_fc.visn_layer_norm",
        "stem.boxes": "encoder.visn_fc.box_fc",
        "stem.boxes_norm": "encoder.visn_fc.box_layer_norm",
        **_layer("region_layers.{i}", f"{R}.attention", f"{R}.intermediate", f"{R}.output"),
        **_attention("cross_layers.{i}.cross_attn", f"{X}.visual_attention.att", f"{X}.visual_attention"),
        **_layer("cross_layers.{i}.text", f"{X}.lang_self_att", f"{X}.lang_inter", f"{X}.lang_output"),
        **_layer("cross_layers.{i}.regions", f"{X}.visn_self_att", f"{X}.visn_inter", f"{X}.visn_output"),
    }
)
ANSWERS: dict[str, Rule] = {"answer_head": "answer_head.logit_fc"}
TASKS: dict[str, Rule] = {
    **ANSWERS,
    "lm_head.dense": "cls.predictions.transform.dense",
    "lm_head.layer_norm": "cls.predictions.transform.LayerNorm",
    "lm_head.decoder": "cls.predictions.decoder",
    "lm_head.decoder.bias": "cls.predictions.bias",
    "seq_relationship": "cls.seq_relationship",
    "obj_predict_head.dense": "obj_predict_head.transform.dense",
    "obj_predict_head.layer_norm": "obj_predict_head.transform.LayerNorm",
}

FAMILY = (
    Builder("lxmert", read, KEYS, prefix="lxmert")
    .public(
        config="LxmertConfig",
        tokenizer="LxmertTokenizer",
        padding="learned",
        row="pre-training with all its tasks, question answering",
    )
    .base("LxmertModel", build)
    .head("LxmertForPreTraining", "pre-training", pre_training, TASKS)
    .head("LxmertForQuestionAnswering", "question-answering", answerer, ANSWERS)
    .done()
)
