"""T5 and its 1.1 version, FLAN-T5 included (https://arxiv.org/abs/1910.10683, https://arxiv.org/abs/2002.05202)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.decoder import TextDecoder, tied
from omniform.architectures.encoder_decoder import EncoderDecoder, ReadingEncoder, RightShift, Seq2SeqLM
from omniform.architectures.family import Builder
from omniform.architectures.heads import TokenClassifier
from omniform.architectures.seq2seq_heads import SentenceClassifier, Seq2SeqClassifier, Seq2SeqQuestionAnswerer
from omniform.blocks.attention import Attention, CrossAttention
from omniform.blocks.embeddings import Embeddings, twin
from omniform.blocks.layers import CrossPreNorm, PreNorm
from omniform.blocks.mlp import ACTIVATIONS, MLP, GatedMLP, WideLinear
from omniform.blocks.norms import RMSNorm
from omniform.blocks.relative import BucketedBias
from omniform.blocks.scores import Scores
from omniform.core.config import Common
from omniform.core.errors import nearest
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal, Full, Rule
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a T5 computes."""

    vocab_size: int
    dim: int
    head_dim: int
    heads: int
    hidden: int
    encoder_layers: int
    decoder_layers: int
    buckets: int
    max_distance: int
    act: str
    gated: bool
    eps: float
    dropout: float
    classifier_dropout: float
    scale_outputs: bool
    shift: RightShift
    eos_token_id: int | None


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    act, gated = read_activation(r)
    layers = r.layers("num_layers", 6, also=("num_hidden_layers",), least=1)
    # Only the scaling of the outputs hangs on this key. The matrices are tied unless the file holds two that differ, as
    # those of version 1.1 do.
    tie = r.flag("tie_word_embeddings", True)
    r.only("is_decoder", False, why="a T5 decoder without its encoder")
    r.inert("initializer_factor")
    return Config(
        vocab_size=r.integer("vocab_size", 32128),
        dim=r.integer("d_model", 512, also=("hidden_size",)),
        head_dim=r.integer("d_kv", 64, also=("head_dim",)),
        heads=r.integer("num_heads", 8, also=("num_attention_heads",)),
        hidden=r.integer("d_ff", 2048),
        encoder_layers=layers,
        decoder_layers=r.layers("num_decoder_layers", layers, least=1),
        buckets=r.integer("relative_attention_num_buckets", 32, least=4),
        max_distance=r.integer("relative_attention_max_distance", 128),
        act=act,
        gated=gated,
        eps=r.number("layer_norm_epsilon", 1e-6),
        dropout=r.probability("dropout_rate", 0.1),
        classifier_dropout=r.probability("classifier_dropout", 0.0),
        scale_outputs=r.flag("scale_decoder_outputs", tie),
        shift=RightShift(r.token("decoder_start_token_id"), r.token("pad_token_id", 0)),
        eos_token_id=r.token("eos_token_id", 1),
    )


def read_activation(r: ConfigReader) -> tuple[str, bool]:
    """The feed-forward's activation and whether it is gated, from ``"relu"`` or ``"gated-gelu"``."""
    written = r.text("feed_forward_proj", "relu")
    act, gated = written.removeprefix("gated-"), written.startswith("gated-")
    if act not in ACTIVATIONS:
        raise r.fail("feed_forward_proj", "ACTIVATION or gated-ACTIVATION", repr(written), nearest(act, ACTIVATIONS))
    if written == "gated-gelu":
        act = "gelu_new"
    return r.choice("dense_act_fn", ACTIVATIONS, act), r.flag("is_gated_act", gated)


def feed_forward(c: Config) -> MLP | GatedMLP:
    """The second half of a layer."""
    out = WideLinear(c.hidden, c.dim, bias=False)
    if c.gated:
        gated = GatedMLP(c.dim, c.hidden, c.act, dropout=c.dropout)
        gated.down_proj = out
        return gated
    mlp = MLP(c.dim, c.hidden, c.act, bias=False, dropout=c.dropout)
    mlp.fc2 = out
    return mlp


def attention(c: Config, rule: Rule, bias: BucketedBias) -> Attention:
    """Self-attention: no biases in the projections, and no scaling of the scores."""
    dim, scores = c.head_dim, Scores(1.0)
    return Attention(
        c.dim, c.heads, head_dim=dim, biases="", scores=scores, rule=rule, bias=bias.twin(), dropout=c.dropout
    )


def final_norm(c: Config) -> nn.Module:
    """What stands after a stack of layers."""
    return nn.Sequential(RMSNorm(c.dim, c.eps), nn.Dropout(c.dropout))


def build_encoder(c: Config) -> ReadingEncoder:
    """The encoder alone."""
    bias = BucketedBias(c.buckets, c.heads, max_distance=c.max_distance, two_sided=True)

    def layer() -> PreNorm:
        return PreNorm(
            input_layernorm=RMSNorm(c.dim, c.eps),
            self_attn=attention(c, Full(), bias),
            post_attention_layernorm=RMSNorm(c.dim, c.eps),
            mlp=feed_forward(c),
            dropout=c.dropout,
        )

    return ReadingEncoder(
        embed_tokens=nn.Embedding(c.vocab_size, c.dim),
        embeddings=Embeddings(dropout=c.dropout),
        layers=nn.ModuleList(layer() for _ in range(c.encoder_layers)),
        norm=final_norm(c),
    )


def build(c: Config) -> EncoderDecoder:
    """Encoder and decoder without a head."""
    bias = BucketedBias(c.buckets, c.heads, max_distance=c.max_distance, two_sided=False)

    def layer() -> CrossPreNorm:
        return CrossPreNorm(
            self_attn_layer_norm=RMSNorm(c.dim, c.eps),
            self_attn=attention(c, Causal(), bias),
            encoder_attn_layer_norm=RMSNorm(c.dim, c.eps),
            encoder_attn=CrossAttention(
                c.dim, c.heads, head_dim=c.head_dim, biases="", scores=Scores(1.0), dropout=c.dropout
            ),
            final_layer_norm=RMSNorm(c.dim, c.eps),
            mlp=feed_forward(c),
            dropout=c.dropout,
        )

    encoder = build_encoder(c)
    decoder = TextDecoder(
        embed_tokens=twin(encoder.embed_tokens),
        embeddings=Embeddings(dropout=c.dropout),
        layers=nn.ModuleList(layer() for _ in range(c.decoder_layers)),
        norm=final_norm(c),
    )
    return EncoderDecoder(encoder=encoder, decoder=decoder)


def seq2seq_lm(c: Config, _: Common) -> Seq2SeqLM:
    """The model that writes."""
    model = build(c)
    lm_head = tied(nn.Linear(c.dim, c.vocab_size, bias=False), model.decoder.embed_tokens, tie=True)
    return Seq2SeqLM(model=model, lm_head=lm_head, shift=c.shift, scale=c.dim**-0.5 if c.scale_outputs else 1.0)


def classifier(c: Config, common: Common) -> Seq2SeqClassifier:
    """One class per row, told at its end token."""
    head = SentenceClassifier(c.dim, common.num_labels, c.classifier_dropout)
    return Seq2SeqClassifier(model=build(c), classifier=head, shift=c.shift, eos=c.eos_token_id, common=common)


def token_classifier(c: Config, common: Common) -> TokenClassifier:
    """One class per token, from the encoder alone."""
    classifier = nn.Linear(c.dim, common.num_labels)
    return TokenClassifier(model=build_encoder(c), classifier=classifier, dropout=c.classifier_dropout)


def question_answerer(c: Config, _: Common) -> Seq2SeqQuestionAnswerer:
    """The first and last token of an answer."""
    return Seq2SeqQuestionAnswerer(model=build(c), qa_outputs=nn.Linear(c.dim, 2), shift=c.shift)


QKVO = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"}
FEED_FORWARD = {"gate_proj": "wi_0", "up_proj": "wi_1", "down_proj": "wo", "fc1": "wi", "fc2": "wo"}
LAYER, BLOCK = "layers.{i}.", "block.{i}.layer."
STACK = {
    "norm.0": "final_layer_norm",
    "layers.{i}.self_attn.bias": "block.{i}.layer.0.SelfAttention.relative_attention_bias",
    **{f"{LAYER}self_attn.{ours}": f"{BLOCK}0.SelfAttention.{theirs}" for ours, theirs in QKVO.items()},
}
ENCODER = {
    **STACK,
    **{f"{LAYER}mlp.{ours}": f"{BLOCK}1.DenseReluDense.{theirs}" for ours, theirs in FEED_FORWARD.items()},
    f"{LAYER}input_layernorm": f"{BLOCK}0.layer_norm",
    f"{LAYER}post_attention_layernorm": f"{BLOCK}1.layer_norm",
}
DECODER = {
    **STACK,
    **{f"{LAYER}encoder_attn.{ours}": f"{BLOCK}1.EncDecAttention.{theirs}" for ours, theirs in QKVO.items()},
    **{f"{LAYER}mlp.{ours}": f"{BLOCK}2.DenseReluDense.{theirs}" for ours, theirs in FEED_FORWARD.items()},
    f"{LAYER}self_attn_layer_norm": f"{BLOCK}0.layer_norm",
    f"{LAYER}encoder_attn_layer_norm": f"{BLOCK}1.layer_norm",
    f"{LAYER}final_layer_norm": f"{BLOCK}2.layer_norm",
}
SECOND_TABLE = [(r"^encoder\.embed_tokens\.weight$", "shared.weight")]
STRAY = [r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$"]
ENCODER_KEYS = KeyMap(ENCODER).under("", "encoder") | KeyMap({"embed_tokens": "shared"}, SECOND_TABLE)
TOKEN_KEYS = ENCODER_KEYS.under("model", "transformer")
KEYS = (
    KeyMap(ENCODER).under("encoder", "encoder")
    | KeyMap(DECODER).under("decoder", "decoder")
    | KeyMap({"encoder.embed_tokens": "shared"}, SECOND_TABLE, STRAY)
)

FAMILY = (
    Builder("t5", read, KEYS, prefix="transformer")
    .public(
        config="T5Config",
        tokenizer="T5Tokenizer",
        row="seq2seq LM, encoder, sequence and token classification, question answering",
        usual={"is_encoder_decoder": True, "initializer_factor": 1.0},
    )
    .base("T5Model", build)
    .head("T5ForConditionalGeneration", "seq2seq-lm", seq2seq_lm, prefix="")
    .head("T5ForQuestionAnswering", "question-answering", question_answerer, prefix="")
    .head("T5ForSequenceClassification", "sequence-classification", classifier, {"classifier": "classification_head"})
    .architecture("T5EncoderModel", ("text-encoding",), lambda c, _: build_encoder(c), ENCODER_KEYS)
    .architecture(
        "T5ForTokenClassification", ("token-classification",), token_classifier, TOKEN_KEYS, prefix="transformer"
    )
    .done()
)
