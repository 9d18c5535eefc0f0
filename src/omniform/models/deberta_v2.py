"""DeBERTa-v2 and v3 (https://arxiv.org/abs/2006.03654, https://arxiv.org/abs/2111.09543)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from omniform.architectures.disentangled import PairedEncoder, Places, Pooling, PoolingHeads
from omniform.architectures.encoder import MaskedLM, VocabularyHead
from omniform.architectures.encoder_family import STACK_KEYS, VOCABULARY_HEAD, EncoderText
from omniform.architectures.family import Builder
from omniform.blocks.attention import Attention
from omniform.blocks.disentangled import ConvolvedPostNorm, MaskedEmbeddings
from omniform.blocks.embeddings import PositionTable
from omniform.blocks.layers import PostNorm
from omniform.blocks.mlp import ACTIVATIONS, MLP
from omniform.core.config import Common
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a DeBERTa computes."""

    text: EncoderText
    places: Places
    pooling: Pooling
    embedding_dim: int
    absolute: bool
    kernel: int
    groups: int
    conv_act: str
    legacy_head: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.only("is_decoder", False, None, why="an encoder")
    r.special_tokens(pad_token_id=0)
    text = EncoderText.read(
        r, vocab_size=128100, token_types=0, dim=1536, hidden=6144, layers=24, heads=24, eps=1e-7, least_layers=1
    )
    text = replace(text, classifier_dropout=text.dropout)  # the token classifier's; it has no key of its own
    share = text.dim // text.heads
    if r.integer("attention_head_size", share) != share:
        raise r.fail("attention_head_size", share, r.values["attention_head_size"])
    kernel, groups = r.integer("conv_kernel_size", 0, least=0), r.integer("conv_groups", 1)
    if kernel and not kernel % 2:
        raise r.fail("conv_kernel_size", "an odd number, or 0 for no convolution", kernel)
    if text.dim % groups:
        raise r.fail("conv_groups", f"a divisor of {text.dim} (hidden_size)", groups)
    return Config(
        text=text,
        places=Places.read(r, text.max_positions),
        pooling=Pooling.read(r, text),
        embedding_dim=r.integer("embedding_size", text.dim),
        absolute=r.flag("position_biased_input", True),
        kernel=kernel,
        groups=groups,
        conv_act=r.choice("conv_act", ACTIVATIONS, "tanh"),
        legacy_head=r.flag("legacy", True),
    )


def layer(c: Config, self_attn: Attention, *, first: bool) -> PostNorm:
    """One layer; the first may have a convolution beside it."""
    t = c.text
    if not (first and c.kernel):
        return t.postnorm(self_attn)
    conv = nn.Conv1d(t.dim, t.dim, c.kernel, padding=c.kernel // 2, groups=c.groups)
    mlp = MLP(t.dim, t.hidden, t.act)
    return ConvolvedPostNorm.of(t.norm, self_attn=self_attn, mlp=mlp, conv=conv, act=c.conv_act, dropout=t.dropout)


def build(c: Config, pooler: nn.Module | None) -> PairedEncoder:
    """The encoder without a head."""
    t, wide, attention = c.text, c.embedding_dim, c.places.attentions(c.text)
    embeddings = MaskedEmbeddings(
        embed_positions=PositionTable(t.max_positions, wide) if c.absolute else None,
        embed_token_types=nn.Embedding(t.token_types, wide) if t.token_types else None,
        embed_proj=nn.Linear(wide, t.dim, bias=False) if wide != t.dim else None,
        norm=t.norm(),
        dropout=t.dropout,
    )
    return PairedEncoder(
        embed_tokens=nn.Embedding(t.vocab_size, wide),
        embeddings=embeddings,
        layers=nn.ModuleList(layer(c, attention(), first=i == 0) for i in range(t.layers)),
        pooler=pooler,
        max_positions=embeddings.positions,
    )


heads = PoolingHeads(build, lambda c: c.text, lambda c: c.pooling)


def masked_lm(c: Config, _: Common) -> MaskedLM:
    """Masked tokens; the new head has no matrix of its own."""
    model, t = heads.bare(c), c.text
    if not c.legacy_head and c.embedding_dim != t.dim:
        told = {"where": "config.json: embedding_size", "expected": str(t.dim), "found": str(c.embedding_dim)}
        raise ConfigError("the new head needs embeddings as wide as the layers", **told)
    tie = t.tie or not c.legacy_head
    return MaskedLM(model=model, lm_head=VocabularyHead(model.embed_tokens, t.act, t.eps, tie=tie, dim=t.dim))


def masked_lm_keys(c: Config) -> KeyMap:
    """The two heads lie in different places."""
    return KEYS.under("model", "deberta") | KeyMap(VOCABULARY_HEAD if c.legacy_head else HEAD)


SELF = {"q_proj": "query_proj", "k_proj": "key_proj", "v_proj": "value_proj", "bias.c2p": "pos_key_proj"}
RELATIVE = {"bias.positions.table": "rel_embeddings", "bias.positions.norm": "LayerNorm", "bias.norm": "LayerNorm"}
ATTENTION = {
    **{ours: f"encoder.layer.{{i}}.attention.self.{name}" for ours, name in SELF.items()},
    "bias.p2c": "encoder.layer.{i}.attention.self.pos_query_proj",
    **{ours: f"encoder.{theirs}" for ours, theirs in RELATIVE.items()},
}
KEYS = KeyMap(
    {
        **STACK_KEYS,
        **{f"layers.{{i}}.self_attn.{ours}": theirs for ours, theirs in ATTENTION.items()},
        "layers.0.conv": "encoder.conv.conv",
        "layers.0.conv_norm": "encoder.conv.LayerNorm",
    },
    ignored=(r"position_embeddings", r"^mask_predictions\."),
)
HEAD = {"lm_head": "lm_predictions.lm_head", "lm_head.layer_norm": "lm_predictions.lm_head.LayerNorm"}
POOLER = {"pool": "pooler"}

FAMILY = (
    Builder("deberta-v2", read, KEYS, prefix="deberta")
    .public(
        config="DebertaV2Config",
        tokenizer="DebertaV2Tokenizer",
        row="masked LM, sequence and token classification, multiple choice, question answering",
    )
    .base("DebertaV2Model", heads.bare, "text-encoding")
    .architecture("DebertaV2ForMaskedLM", ("masked-lm", "pre-training"), masked_lm, masked_lm_keys, prefix="deberta")
    .head("DebertaV2ForSequenceClassification", "sequence-classification", heads.sequence_classifier, POOLER)
    .head("DebertaV2ForTokenClassification", "token-classification", heads.token_classifier)
    .head("DebertaV2ForQuestionAnswering", "question-answering", heads.question_answerer)
    .head("DebertaV2ForMultipleChoice", "multiple-choice", heads.multiple_choice, POOLER)
    .done()
)
