"""BLOOM (https://arxiv.org/abs/2211.05100): no positions but slopes (ALiBi), and a norm before the first layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import DecoderHeads
from omniform.architectures.family import Builder
from omniform.architectures.plain_text import Names, PlainText, by_group
from omniform.blocks.embeddings import NormedEmbeddings
from omniform.blocks.layers import PreNorm
from omniform.blocks.relative import Alibi
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.weights.keymap import KeyMap

NAMES = Names(hidden="", layers="n_layer", heads="n_head", act="", eps="layer_norm_epsilon", positions="")


class NormedStream(PreNorm):
    """What a branch adds goes to its normed input: ``n + attn(n)`` of ``n = norm(x)``, and so on."""

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        read = self.input_layernorm(x_BTD)
        x_BTD = self.add(read, self.self_attn(read, ctx), ctx)
        read = self.post_attention_layernorm(x_BTD)
        return self.add(read, self.mlp(read), ctx)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a BLOOM computes."""

    text: PlainText
    layer: type[PreNorm]


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = PlainText.read(
        r, NAMES.widened(r, "n_embed"), vocab_size=250880, dim=64, layers=2, heads=8, act="gelu_new", tie=True, bos=1,
        eos=2,
    )  # fmt: skip
    # How it was trained, and rounding; and names that are not meant.
    r.inert("pretraining_tp", "slow_but_exact", "attention_softmax_in_fp32", "masked_softmax_fusion", "offset_alibi")
    r.inert("bias_dropout_fusion", "skip_bias_add", "skip_bias_add_qkv", "seq_length", "unk_token_id")
    r.only("n_inner", None, 4 * text.dim, why="the feed-forward is four times as wide as the layers")
    normed = r.flag("apply_residual_connection_post_layernorm", False)
    return Config(text=text, layer=NormedStream if normed else PreNorm)


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, slopes = c.text, Alibi(c.text.heads.queries)
    return text.decoder(
        lambda _: text.layer(c.layer, text.attention(Causal(), None, biases="qkvo", bias=slopes)),
        embeddings=NormedEmbeddings(norm=text.norm()),
    )


heads = DecoderHeads(build, lambda c: c.text)


def keys(c: Config) -> KeyMap:
    """Queries, keys and values lie head by head in one matrix."""
    return KeyMap(
        {
            "embed_tokens": "word_embeddings",
            "embeddings.norm": "word_embeddings_layernorm",
            "layers.{i}": "h.{i}",
            **by_group("h.{i}.self_attention.query_key_value", c.text.heads),
            "layers.{i}.self_attn.o_proj": "h.{i}.self_attention.dense",
            "layers.{i}.mlp.fc1": "h.{i}.mlp.dense_h_to_4h",
            "layers.{i}.mlp.fc2": "h.{i}.mlp.dense_4h_to_h",
            "norm": "ln_f",
        }
    )


SCORE = {"classifier": "score"}

FAMILY = (
    Builder("bloom", read, keys, prefix="transformer")
    .public(
        config="BloomConfig",
        padding="learned",
        tokenizer="PreTrainedTokenizerFast",
        row="causal LM, sequence and token classification, question answering",
        usual={"pretraining_tp": 1, "slow_but_exact": False},
    )
    .base("BloomModel", build)
    .head("BloomForCausalLM", "causal-lm", heads.causal_lm)
    .head("BloomForSequenceClassification", "sequence-classification", heads.sequence_classifier, SCORE)
    .head("BloomForTokenClassification", "token-classification", heads.token_classifier)
    .head("BloomForQuestionAnswering", "question-answering", heads.question_answerer)
    .done()
)
