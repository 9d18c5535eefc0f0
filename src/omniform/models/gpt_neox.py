"""GPT-NeoX and Pythia (https://arxiv.org/abs/2204.06745): attention and feed-forward beside one another."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import DecoderHeads
from omniform.architectures.family import Builder
from omniform.architectures.plain_text import Names, PlainText, by_group
from omniform.blocks.frequencies import Frequencies, read_frequencies
from omniform.blocks.layers import Parallel, PreNorm
from omniform.blocks.rotary import Rotary
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a GPT-NeoX computes."""

    text: PlainText
    frequencies: Frequencies
    layer: type[PreNorm]
    biases: str


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = PlainText.read(
        r, Names(embed_dropout="hidden_dropout"), vocab_size=50432, dim=6144, hidden=24576, layers=44, heads=64,
        classifier_dropout=0.1, bos=0, eos=2,
    )  # fmt: skip
    theta, partial = r.number("rotary_emb_base", 10000.0), r.number("rotary_pct", 0.25)
    r.inert("is_decoder")  # it always is one
    r.inert("attention_probs_dropout_prob", "hidden_dropout_prob")  # GPT-NeoX-20B says so, and the reference drops none
    return Config(
        text=text,
        frequencies=read_frequencies(
            r, head_dim=text.heads.dim, max_positions=text.max_positions, theta=theta, partial=partial
        ),
        layer=Parallel if r.flag("use_parallel_residual", True) else PreNorm,
        biases="qkvo" if r.flag("attention_bias", True) else "",
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, rotary = c.text, Rotary(c.frequencies)
    return text.decoder(
        lambda _: text.layer(c.layer, text.attention(Causal(), rotary, biases=c.biases)),
        longest=c.frequencies.longest_row(text.max_positions),
    )


heads = DecoderHeads(build, lambda c: c.text)


def keys(c: Config) -> KeyMap:
    """Queries, keys and values lie head by head in one matrix."""
    return KeyMap(
        {
            "embed_tokens": "embed_in",
            **by_group("layers.{i}.attention.query_key_value", c.text.heads),
            "layers.{i}.self_attn.o_proj": "layers.{i}.attention.dense",
            "layers.{i}.mlp.fc1": "layers.{i}.mlp.dense_h_to_4h",
            "layers.{i}.mlp.fc2": "layers.{i}.mlp.dense_4h_to_h",
            "norm": "final_layer_norm",
        },
        # The causal mask, which early releases saved with the weights.
        ignored=(r"\.attention\.(masked_)?bias$",),
    )


WRITER = KeyMap(
    {"lm_head": "embed_out"}, aliases=((r"^lm_head\.", "embed_out."),), modules=((r"^embed_out", "lm_head"),)
)
SCORE = {"classifier": "score"}

FAMILY = (
    Builder("gpt_neox", read, keys, prefix="gpt_neox")
    .public(
        config="GPTNeoXConfig",
        padding="learned",
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
