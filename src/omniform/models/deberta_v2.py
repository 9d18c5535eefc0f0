"""DeBERTa-v2 and v3 (https://arxiv.org/abs/2006.03654, https://arxiv.org/abs/2111.09543)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.disentangled import POOLER, DisentangledText, PairedEncoder, Places, PoolingHeads
from omniform.architectures.encoder_family import STACK_KEYS, EncoderText
from omniform.architectures.family import Builder, Task
from omniform.blocks.attention import Attention
from omniform.blocks.disentangled import ConvolvedPostNorm
from omniform.blocks.layers import PostNorm
from omniform.blocks.mlp import ACTIVATIONS, MLP
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a DeBERTa computes."""

    base: DisentangledText
    kernel: int
    groups: int
    conv_act: str


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.only("is_decoder", False, None, why="an encoder")
    r.special_tokens(pad_token_id=0)
    text = EncoderText.read(
        r, vocab_size=128100, token_types=0, dim=1536, hidden=6144, layers=24, heads=24, eps=1e-7, least_layers=1
    )
    share = text.dim // text.heads
    if r.integer("attention_head_size", share) != share:
        raise r.fail("attention_head_size", share, r.values["attention_head_size"])
    kernel, groups = r.integer("conv_kernel_size", 0, least=0), r.integer("conv_groups", 1)
    if kernel and not kernel % 2:
        raise r.fail("conv_kernel_size", "an odd number, or 0 for no convolution", kernel)
    if text.dim % groups:
        raise r.fail("conv_groups", f"a divisor of {text.dim} (hidden_size)", groups)
    return Config(
        base=DisentangledText.read(r, text, Places.read(r, text.max_positions)),
        kernel=kernel,
        groups=groups,
        conv_act=r.choice("conv_act", ACTIVATIONS, "tanh"),
    )


def layer(c: Config, self_attn: Attention, *, first: bool) -> PostNorm:
    """One layer; the first may have a convolution beside it."""
    t = c.base.text
    if not (first and c.kernel):
        return t.postnorm(self_attn)
    conv = nn.Conv1d(t.dim, t.dim, c.kernel, padding=c.kernel // 2, groups=c.groups)
    mlp = MLP(t.dim, t.hidden, t.act)
    return ConvolvedPostNorm.of(t.norm, self_attn=self_attn, mlp=mlp, conv=conv, act=c.conv_act, dropout=t.dropout)


def build(c: Config, pooler: nn.Module | None) -> PairedEncoder:
    """The encoder without a head."""
    attention = c.base.places.attentions(c.base.text)
    return c.base.encoder((layer(c, attention(), first=i == 0) for i in range(c.base.text.layers)), pooler)


heads = PoolingHeads(build, lambda c: c.base)


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

WORDS: tuple[Task, ...] = ("masked-lm", "pre-training")

FAMILY = (
    Builder("deberta-v2", read, KEYS, prefix="deberta")
    .public(
        config="DebertaV2Config",
        tokenizer="DebertaV2Tokenizer",
        row="masked LM, sequence and token classification, multiple choice, question answering",
    )
    .base("DebertaV2Model", heads.bare, "text-encoding")
    .architecture("DebertaV2ForMaskedLM", WORDS, heads.masked_lm, lambda c: c.base.head_keys(KEYS), prefix="deberta")
    .head("DebertaV2ForSequenceClassification", "sequence-classification", heads.sequence_classifier, POOLER)
    .head("DebertaV2ForTokenClassification", "token-classification", heads.token_classifier)
    .head("DebertaV2ForQuestionAnswering", "question-answering", heads.question_answerer)
    .head("DebertaV2ForMultipleChoice", "multiple-choice", heads.multiple_choice, POOLER)
    .done()
)
