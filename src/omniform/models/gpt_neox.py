"""GPT-NeoX and Pythia (https://arxiv.org/abs/2204.06745): attention and feed-forward beside one another."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import DecoderHeads
from omniform.architectures.family import Builder
from omniform.architectures.parts import read_width
from omniform.blocks.attention import Attention
from omniform.blocks.embeddings import Embeddings
from omniform.blocks.layers import PreNorm
from omniform.blocks.mlp import ACTIVATIONS, MLP
from omniform.blocks.rotary import Frequencies, Rotary, read_frequencies
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.weights.keymap import KeyMap
from omniform.weights.links import interleaved


class Parallel(PreNorm):
    """``x + attn(norm(x)) + mlp(norm(x))``: both branches read the same."""

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        seen = self.self_attn(self.input_layernorm(x_BTD), ctx)
        thought = self.mlp(self.post_attention_layernorm(ctx.like(x_BTD, seen)))
        return self.add(self.add(x_BTD, seen, ctx), thought, ctx)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a GPT-NeoX computes."""

    vocab_size: int
    dim: int
    hidden: int
    layers: int
    heads: int
    act: str
    eps: float
    max_positions: int
    frequencies: Frequencies
    parallel: bool
    attention_bias: bool
    dropout: float
    attention_dropout: float
    classifier_dropout: float
    tie: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    dim, heads = read_width(r, "hidden_size", 6144, "num_attention_heads", 64)
    max_positions = r.integer("max_position_embeddings", 2048)
    theta, partial = r.number("rotary_emb_base", 10000.0), r.number("rotary_pct", 0.25)
    r.special_tokens(bos_token_id=0, eos_token_id=2)
    r.inert("is_decoder")  # it always is one
    return Config(
        vocab_size=r.integer("vocab_size", 50432),
        dim=dim,
        hidden=r.integer("intermediate_size", 24576),
        layers=r.layers("num_hidden_layers", 44),
        heads=heads,
        act=r.choice("hidden_act", ACTIVATIONS, "gelu"),
        eps=r.number("layer_norm_eps", 1e-5),
        max_positions=max_positions,
        frequencies=read_frequencies(
            r, head_dim=dim // heads, max_positions=max_positions, theta=theta, partial=partial
        ),
        parallel=r.flag("use_parallel_residual", True),
        attention_bias=r.flag("attention_bias", True),
        dropout=r.probability("hidden_dropout"),
        attention_dropout=r.probability("attention_dropout"),
        classifier_dropout=r.probability("classifier_dropout", 0.1),
        tie=r.flag("tie_word_embeddings", False),
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    rotary, kind, biases = (
        Rotary(c.frequencies),
        Parallel if c.parallel else PreNorm,
        "qkvo" if c.attention_bias else "",
    )

    def norm() -> nn.Module:
        return nn.LayerNorm(c.dim, c.eps)

    def layer() -> PreNorm:
        self_attn = Attention(
            c.dim, c.heads, rule=Causal(), positions=rotary, biases=biases, dropout=c.attention_dropout
        )
        return kind.of(norm, self_attn=self_attn, mlp=MLP(c.dim, c.hidden, c.act), dropout=c.dropout)

    return TextDecoder(
        embed_tokens=nn.Embedding(c.vocab_size, c.dim),
        embeddings=Embeddings(dropout=c.dropout),
        layers=nn.ModuleList(layer() for _ in range(c.layers)),
        norm=norm(),
        max_positions=c.frequencies.longest_row(c.max_positions),
    )


heads = DecoderHeads(build, lambda c: c)


def keys(c: Config) -> KeyMap:
    """Queries, keys and values lie head by head in one matrix."""
    ours, width = "layers.{i}.self_attn", c.dim // c.heads
    parts = {f"{ours}.{name}_proj": width for name in "qkv"}
    return KeyMap(
        {
            "embed_tokens": "embed_in",
            **interleaved("layers.{i}.attention.query_key_value", c.heads, parts),
            f"{ours}.o_proj": "layers.{i}.attention.dense",
            "layers.{i}.mlp.fc1": "layers.{i}.mlp.dense_h_to_4h",
            "layers.{i}.mlp.fc2": "layers.{i}.mlp.dense_4h_to_h",
            "norm": "final_layer_norm",
        },
        # The causal mask, which early releases saved with the weights.
        ignored=(r"\.attention\.(masked_)?bias$",),
    )


WRITER = KeyMap({"lm_head": "embed_out"}, aliases=((r"^lm_head\.", "embed_out."),))
SCORE = {"classifier": "score"}

FAMILY = (
    Builder("gpt_neox", read, keys, prefix="gpt_neox")
    .public(
        config="GPTNeoXConfig",
        tokenizer="GPTNeoXTokenizer",
        row="causal LM, sequence and token classification, question answering",
    )
    .base("GPTNeoXModel", build)
    .head("GPTNeoXForCausalLM", "causal-lm", heads.causal_lm, WRITER)
    .head("GPTNeoXForSequenceClassification", "sequence-classification", heads.sequence_classifier, SCORE)
    .head("GPTNeoXForTokenClassification", "token-classification", heads.token_classifier)
    .head("GPTNeoXForQuestionAnswering", "question-answering", heads.question_answerer)
    .done()
)
