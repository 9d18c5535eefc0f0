"""DeBERTa, the first (https://arxiv.org/abs/2006.03654): every distance apart, one matrix for q, k and v."""

from __future__ import annotations

from torch import nn

from omniform.architectures.disentangled import (
    POOLER,
    DisentangledText,
    PairedEncoder,
    Places,
    PoolingHeads,
    read_compared,
)
from omniform.architectures.encoder_family import STACK_KEYS, EncoderText
from omniform.architectures.family import Builder, Task
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap
from omniform.weights.links import interleaved


class FirstPlaces(Places):
    """Keys have no biases, neither those of tokens nor those of places."""

    __slots__ = ()
    biases = "qvo"

    def projection(self, kind: str, dim: int) -> nn.Linear:
        return nn.Linear(dim, dim, bias=kind == "p2c")


def read(r: ConfigReader) -> DisentangledText:
    """Read a config; every key is used, declared inert or refused."""
    for name in ("is_decoder", "talking_head"):
        r.only(name, False, None, why="an encoder whose heads do not mix")
    r.special_tokens(pad_token_id=0, bos_token_id=None, eos_token_id=None)
    text = EncoderText.read(r, vocab_size=50265, token_types=0, eps=1e-7, least_layers=1)
    farthest, compared = r.integer("max_relative_positions", -1, least=-1), read_compared(r)
    told = r.values["pos_att_type"]
    if isinstance(told, list) and len(told) != len(compared):
        raise r.fail("pos_att_type", "c2p, p2c or both, each once: their number scales the scores", told)
    places = FirstPlaces(
        relative=r.flag("relative_attention", False),
        compared=compared,
        buckets=0,
        farthest=farthest if farthest > 0 else text.max_positions,
        normed=False,
        shared=False,
    )
    return DisentangledText.read(r, text, places)


def build(c: DisentangledText, pooler: nn.Module | None) -> PairedEncoder:
    """The encoder without a head."""
    attention = c.places.attentions(c.text)
    return c.encoder((c.text.postnorm(attention()) for _ in range(c.text.layers)), pooler)


def keys(c: DisentangledText) -> KeyMap:
    """Queries, keys and values lie head by head in one matrix, and their biases apart."""
    ours, theirs, width = "layers.{i}.self_attn", "encoder.layer.{i}.attention.self", c.text.dim // c.text.heads
    return KeyMap(
        {
            **STACK_KEYS,
            **interleaved(f"{theirs}.in_proj", c.text.heads, {f"{ours}.{x}_proj": width for x in "qkv"}),
            f"{ours}.q_proj.bias": f"{theirs}.q_bias",
            f"{ours}.v_proj.bias": f"{theirs}.v_bias",
            f"{ours}.bias.c2p": f"{theirs}.pos_proj",
            f"{ours}.bias.p2c": f"{theirs}.pos_q_proj",
            f"{ours}.bias.positions.table": "encoder.rel_embeddings",
        },
        ignored=(r"position_embeddings",),
    )


heads = PoolingHeads(build, lambda c: c)
WORDS: tuple[Task, ...] = ("masked-lm", "pre-training")

FAMILY = (
    Builder("deberta", read, keys, prefix="deberta")
    .public(
        config="DebertaConfig",
        tokenizer="DebertaTokenizer",
        row="masked LM, sequence and token classification, question answering",
    )
    .base("DebertaModel", heads.bare, "text-encoding")
    .architecture("DebertaForMaskedLM", WORDS, heads.masked_lm, lambda c: c.head_keys(keys(c)), prefix="deberta")
    .head("DebertaForSequenceClassification", "sequence-classification", heads.sequence_classifier, POOLER)
    .head("DebertaForTokenClassification", "token-classification", heads.token_classifier)
    .head("DebertaForQuestionAnswering", "question-answering", heads.question_answerer)
    .done()
)
