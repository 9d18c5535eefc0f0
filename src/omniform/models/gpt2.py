"""GPT-2 (https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import DecoderHeads
from omniform.architectures.double_heads import DoubleHeads, Summary, SummaryHead, read_summary
from omniform.architectures.family import Builder
from omniform.architectures.parts import read_width
from omniform.blocks.attention import Attention, CrossAttention
from omniform.blocks.embeddings import GPTEmbeddings, PositionTable, twin
from omniform.blocks.layers import CrossPreNorm, PreNorm
from omniform.blocks.mlp import ACTIVATIONS, MLP
from omniform.blocks.scores import Scores
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.weights.keymap import KeyMap
from omniform.weights.links import shares, transposed


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a GPT-2 computes."""

    vocab_size: int
    dim: int
    hidden: int
    layers: int
    heads: int
    act: str
    eps: float
    max_positions: int
    scaled: bool
    scaled_by_depth: bool
    cross_attention: bool
    dropout: float
    embed_dropout: float
    attention_dropout: float
    classifier_dropout: float
    summary: Summary
    tie: bool

    def scale(self, layer: int) -> float:
        """The factor on the attention scores of a layer."""
        return ((self.dim / self.heads) ** -0.5 if self.scaled else 1.0) / (layer + 1 if self.scaled_by_depth else 1)


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    dim, heads = read_width(r, "n_embd", 768, "n_head", 12, also=("hidden_size", "num_attention_heads"))
    r.special_tokens(bos_token_id=50256, eos_token_id=50256)
    r.inert("reorder_and_upcast_attn", "n_ctx", "predict_special_tokens")  # rounding of halves; always n_positions
    return Config(
        vocab_size=r.integer("vocab_size", 50257),
        dim=dim,
        hidden=r.maybe_integer("n_inner") or 4 * dim,
        layers=r.layers("n_layer", 12, also=("num_hidden_layers",)),
        heads=heads,
        act=r.choice("activation_function", ACTIVATIONS, "gelu_new"),
        eps=r.number("layer_norm_epsilon", 1e-5),
        max_positions=r.integer("n_positions", 1024, also=("max_position_embeddings",)),
        scaled=r.flag("scale_attn_weights", True),
        scaled_by_depth=r.flag("scale_attn_by_inverse_layer_idx", False),
        cross_attention=r.flag("add_cross_attention", False),
        dropout=r.probability("resid_pdrop", 0.1),
        embed_dropout=r.probability("embd_pdrop", 0.1),
        attention_dropout=r.probability("attn_pdrop", 0.1),
        classifier_dropout=r.probability("classifier_dropout", r.probability("hidden_dropout", 0.1)),
        summary=read_summary(r),
        tie=r.flag("tie_word_embeddings", True),
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""

    def norm() -> nn.LayerNorm:
        return nn.LayerNorm(c.dim, c.eps)

    def layer(i: int) -> nn.Module:
        self_attn = Attention(c.dim, c.heads, rule=Causal(), scores=Scores(c.scale(i)), dropout=c.attention_dropout)
        mlp = MLP(c.dim, c.hidden, c.act)
        if not c.cross_attention:
            return PreNorm.of(norm, self_attn=self_attn, mlp=mlp, dropout=c.dropout)
        cross = CrossAttention(c.dim, c.heads, scores=Scores(c.scale(i)), dropout=c.attention_dropout)
        return CrossPreNorm.of(norm, self_attn=self_attn, encoder_attn=cross, mlp=mlp, dropout=c.dropout)

    table, positions = nn.Embedding(c.vocab_size, c.dim), PositionTable(c.max_positions, c.dim)
    return TextDecoder(
        embed_tokens=table,
        embeddings=GPTEmbeddings(embed_positions=positions, embed_tokens=twin(table), dropout=c.embed_dropout),
        layers=nn.ModuleList(layer(i) for i in range(c.layers)),
        norm=norm(),
        max_positions=c.max_positions,
    )


heads = DecoderHeads(build, lambda c: c)


def double_heads(c: Config, _: Common) -> DoubleHeads:
    """The decoder that writes and chooses."""
    model = build(c)
    return DoubleHeads(model=model, lm_head=heads.lm_head(c, model), multiple_choice_head=SummaryHead(c.dim, c.summary))


KEYS = KeyMap(
    {
        "embed_tokens": "wte",
        "embeddings.embed_positions": "wpe",
        "layers.{i}": "h.{i}",
        "layers.{i}.input_layernorm": "h.{i}.ln_1",
        "layers.{i}.post_attention_layernorm": "h.{i}.ln_2",
        **shares("layers.{i}.self_attn", "h.{i}.attn.c_attn", "qkv", transposed=True),
        "layers.{i}.self_attn.o_proj": transposed("h.{i}.attn.c_proj"),
        "layers.{i}.encoder_attn_layer_norm": "h.{i}.ln_cross_attn",
        "layers.{i}.encoder_attn.q_proj": transposed("h.{i}.crossattention.q_attn"),
        **shares("layers.{i}.encoder_attn", "h.{i}.crossattention.c_attn", "kv", transposed=True),
        "layers.{i}.encoder_attn.o_proj": transposed("h.{i}.crossattention.c_proj"),
        "layers.{i}.mlp.fc1": transposed("h.{i}.mlp.c_fc"),
        "layers.{i}.mlp.fc2": transposed("h.{i}.mlp.c_proj"),
        "norm": "ln_f",
    },
    # The causal mask, which early releases saved with the weights.
    ignored=(r"\.(attn|crossattention)\.(masked_)?bias$",),
)
SCORE = {"classifier": "score"}

FAMILY = (
    Builder("gpt2", read, KEYS, prefix="transformer")
    .public(
        config="GPT2Config",
        tokenizer="GPT2Tokenizer",
        row="causal LM, double heads, sequence and token classification, question answering",
        usual={"reorder_and_upcast_attn": False},
    )
    .base("GPT2Model", build)
    .head("GPT2LMHeadModel", "causal-lm", heads.causal_lm)
    .head("GPT2DoubleHeadsModel", "multiple-choice", double_heads)
    .head("GPT2ForSequenceClassification", "sequence-classification", heads.sequence_classifier, SCORE)
    .head("GPT2ForTokenClassification", "token-classification", heads.token_classifier)
    .head("GPT2ForQuestionAnswering", "question-answering", heads.question_answerer)
    .done()
)
