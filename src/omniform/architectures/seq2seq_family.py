"""Encoder-decoders of text whose configs share fields and layers: T5's line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self, cast

from torch import nn

from omniform.architectures.decoder import TextDecoder, tied
from omniform.architectures.encoder_decoder import EncoderDecoder, ReadingEncoder, RightShift, Seq2SeqLM
from omniform.architectures.family import Builder
from omniform.architectures.heads import TokenClassifier
from omniform.architectures.seq2seq_heads import Seq2SeqHeads
from omniform.blocks.attention import Attention, CrossAttention
from omniform.blocks.embeddings import Embeddings, twin
from omniform.blocks.layers import CrossPreNorm, PreNorm
from omniform.blocks.mlp import ACTIVATIONS, MLP, GatedMLP, WideLinear
from omniform.blocks.norms import RMSNorm
from omniform.blocks.relative import BucketedBias
from omniform.blocks.scores import Scores
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.errors import nearest
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal, Full, Rule
from omniform.weights.keymap import KeyMap


def t5_beginning(config: ModelConfig, path: str) -> Beginning | None:
    """T5 does not scale its scores, so its queries begin small (Mesh TensorFlow's rule)."""
    module, _, tensor = path.rpartition(".")
    last = module.rpartition(".")[2]
    if tensor != "weight":
        return None
    keys = ("initializer_factor", "d_model", "d_kv", "num_heads", "d_ff")
    factor, dim, head, heads, hidden = (float(cast(float, config.get(key, 1))) for key in keys)
    wide = {"embed_tokens": 1.0, "lm_head": 1.0, "classifier": 1.0, "q_proj": (dim * head) ** -0.5}
    deep = {"o_proj": (heads * head) ** -0.5, "fc2": hidden**-0.5, "down_proj": hidden**-0.5}
    plain = ("k_proj", "v_proj", "bias", "fc1", "gate_proj", "up_proj", "dense", "out_proj", "qa_outputs")
    std = {**wide, **deep, **dict.fromkeys(plain, dim**-0.5)}.get(last)
    return (lambda x: x.fill_(factor)) if std is None else factor * std


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasedText:
    """What a T5 and its kin compute: pre-norm layers of RMS norms, and biases on scores instead of positions."""

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

    @classmethod
    def read(
        cls,
        r: ConfigReader,
        *,
        vocab_size: int = 32128,
        layers: int = 6,
        heads: int = 8,
        hidden: int = 2048,
        feed_forward: str = "relu",
        start: int | None = None,
        scale_outputs: bool,
    ) -> Self:
        """The fields under their usual names; the arguments are their defaults, T5's where not given.

        Args:
            start: the token that an answer begins with, where the config says none.
            scale_outputs: whether hidden states are scaled before they are projected onto the vocabulary; no default.
        """
        act, gated = _read_activation(r, feed_forward)
        layers = r.layers("num_layers", layers, also=("num_hidden_layers",), least=1)
        # The matrices are tied unless the file holds two that differ, as those of version 1.1 and of mT5 do.
        r.inert("tie_word_embeddings", "scalable_attention")
        r.only("is_decoder", False, why="a T5 decoder without its encoder")
        r.inert("initializer_factor", "n_positions")
        return cls(
            vocab_size=r.integer("vocab_size", vocab_size),
            dim=r.integer("d_model", 512, also=("hidden_size",)),
            head_dim=r.integer("d_kv", 64, also=("head_dim",)),
            heads=r.integer("num_heads", heads, also=("num_attention_heads",)),
            hidden=r.integer("d_ff", hidden),
            encoder_layers=layers,
            decoder_layers=r.layers("num_decoder_layers", layers, least=1),
            buckets=r.integer("relative_attention_num_buckets", 32, least=4),
            max_distance=r.integer("relative_attention_max_distance", 128),
            act=act,
            gated=gated,
            eps=r.number("layer_norm_epsilon", 1e-6),
            dropout=r.probability("dropout_rate", 0.1),
            classifier_dropout=r.probability("classifier_dropout", 0.0),
            scale_outputs=scale_outputs,
            shift=RightShift(r.token("decoder_start_token_id", start), r.token("pad_token_id", 0)),
            eos_token_id=r.token("eos_token_id", 1),
        )

    def norm(self) -> nn.Module:
        """One norm."""
        return RMSNorm(self.dim, self.eps)

    def last(self) -> nn.Module:
        """What stands after a stack of layers."""
        return nn.Sequential(self.norm(), nn.Dropout(self.dropout))

    def mlp(self) -> nn.Module:
        """One feed-forward."""
        out = WideLinear(self.hidden, self.dim, bias=False)
        if self.gated:
            gated = GatedMLP(self.dim, self.hidden, self.act, dropout=self.dropout)
            gated.down_proj = out
            return gated
        mlp = MLP(self.dim, self.hidden, self.act, bias=False, dropout=self.dropout)
        mlp.fc2 = out
        return mlp

    def biases(self, *, two_sided: bool) -> Callable[[], BucketedBias]:
        """Makes the biases of a stack's layers, which share one table."""
        return BucketedBias(self.buckets, self.heads, max_distance=self.max_distance, two_sided=two_sided).twin

    def attention(self, rule: Rule, bias: BucketedBias) -> Attention:
        """One self-attention: no biases in the projections, and no scaling of the scores."""
        dim, heads, scores = self.head_dim, self.heads, Scores(1.0)
        return Attention(
            self.dim, heads, head_dim=dim, biases="", scores=scores, rule=rule, bias=bias, dropout=self.dropout
        )

    def encoder(self) -> ReadingEncoder:
        """The encoder alone."""
        bias = self.biases(two_sided=True)

        def layer() -> PreNorm:
            attention = self.attention(Full(), bias())
            return PreNorm.of(self.norm, self_attn=attention, mlp=self.mlp(), dropout=self.dropout)

        return ReadingEncoder(
            embed_tokens=nn.Embedding(self.vocab_size, self.dim),
            embeddings=Embeddings(dropout=self.dropout),
            layers=nn.ModuleList(layer() for _ in range(self.encoder_layers)),
            norm=self.last(),
        )

    def model(self) -> EncoderDecoder:
        """Encoder and decoder without a head."""
        encoder = self.encoder()
        return EncoderDecoder(encoder=encoder, decoder=self.writing(twin(encoder.embed_tokens)))

    def writing(self, table: nn.Embedding) -> TextDecoder:
        """The decoder over a table of tokens."""
        bias, dim, heads, dropout = self.biases(two_sided=False), self.head_dim, self.heads, self.dropout

        def layer() -> CrossPreNorm:
            return CrossPreNorm.of(
                self.norm,
                self_attn=self.attention(Causal(), bias()),
                encoder_attn=CrossAttention(
                    self.dim, heads, head_dim=dim, biases="", scores=Scores(1.0), dropout=dropout
                ),
                mlp=self.mlp(),
                dropout=dropout,
            )

        return TextDecoder(
            embed_tokens=table,
            embeddings=Embeddings(dropout=dropout),
            layers=nn.ModuleList(layer() for _ in range(self.decoder_layers)),
            norm=self.last(),
        )

    # -- heads, each a builder for Builder.head ------------------------------------------------------------------------

    def seq2seq_lm(self, _: Common) -> Seq2SeqLM:
        """The model that writes."""
        model = self.model()
        lm_head = tied(nn.Linear(self.dim, self.vocab_size, bias=False), model.decoder.embed_tokens, tie=True)
        scale = self.dim**-0.5 if self.scale_outputs else 1.0
        return Seq2SeqLM(model=model, lm_head=lm_head, shift=self.shift, scale=scale)

    def token_classifier(self, common: Common) -> TokenClassifier:
        """One class per token, from the encoder alone."""
        classifier = nn.Linear(self.dim, common.num_labels)
        return TokenClassifier(model=self.encoder(), classifier=classifier, dropout=self.classifier_dropout)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnBiasedText(BiasedText):
    """The same with a table of biases for every layer (UMT5)."""

    def biases(self, *, two_sided: bool) -> Callable[[], BucketedBias]:
        return lambda: BucketedBias(self.buckets, self.heads, max_distance=self.max_distance, two_sided=two_sided)


def _read_activation(r: ConfigReader, usual: str) -> tuple[str, bool]:
    """The feed-forward's activation and whether it is gated, from ``"relu"`` or ``"gated-gelu"``."""
    written = r.text("feed_forward_proj", usual)
    act, gated = written.removeprefix("gated-"), written.startswith("gated-")
    if act not in ACTIVATIONS:
        raise r.fail("feed_forward_proj", "ACTIVATION or gated-ACTIVATION", repr(written), nearest(act, ACTIVATIONS))
    if written == "gated-gelu":
        act = "gelu_new"
    return r.choice("dense_act_fn", ACTIVATIONS, act), r.flag("is_gated_act", gated)


def _within(number: int, ours: str, theirs: str, names: Mapping[str, str]) -> dict[str, str]:
    theirs = f"block.{{i}}.layer.{number}.{theirs}"
    return {f"layers.{{i}}.{ours}.{mine}": f"{theirs}.{their}" for mine, their in names.items()}


def _stack(norms: tuple[str, ...]) -> dict[str, str]:
    return {
        "norm.0": "final_layer_norm",
        **_within(0, "self_attn", "SelfAttention", {**_QKVO, "bias": "relative_attention_bias"}),
        **_within(len(norms) - 1, "mlp", "DenseReluDense", _FEED_FORWARD),
        **{f"layers.{{i}}.{name}": f"block.{{i}}.layer.{n}.layer_norm" for n, name in enumerate(norms)},
    }


_QKVO = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"}
_FEED_FORWARD = {"gate_proj": "wi_0", "up_proj": "wi_1", "down_proj": "wo", "fc1": "wi", "fc2": "wo"}
_ENCODER = KeyMap(_stack(("input_layernorm", "post_attention_layernorm")))
_DECODER = KeyMap(
    _stack(("input_layernorm", "encoder_attn_layer_norm", "post_attention_layernorm"))
    | _within(1, "encoder_attn", "EncDecAttention", _QKVO)
)
_SECOND_TABLE = [(r"^encoder\.embed_tokens\.weight$", "shared.weight")]
_STRAY = [r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$"]

ENCODER_KEYS = _ENCODER.under("", "encoder") | KeyMap({"embed_tokens": "shared"}, _SECOND_TABLE)
"""Where T5's line keeps the weights of an encoder alone."""

KEYS = (
    _ENCODER.under("encoder", "encoder")
    | _DECODER.under("decoder", "decoder")
    | KeyMap({"encoder.embed_tokens": "shared"}, _SECOND_TABLE, _STRAY)
)
"""Where T5's line keeps the weights of both."""


def biased_family(
    model_type: str, name: str, read: Callable[[ConfigReader], BiasedText], *, tokenizer: str = "T5Tokenizer"
) -> Builder[BiasedText]:
    """A family of T5's line.

    Args:
        name: what its class names begin with: ``"T5"``.
        tokenizer: class name of its tokenizer.
    """
    heads: Seq2SeqHeads[BiasedText] = Seq2SeqHeads(BiasedText.model, lambda c: c)
    base, score = "transformer", {"classifier": "classification_head"}
    tokens = ENCODER_KEYS.under("model", base)
    row = "seq2seq LM, encoder, sequence and token classification, question answering"
    return (
        Builder(model_type, read, KEYS, prefix=base)
        .public(
            config=f"{name}Config",
            padding="learned",
            tokenizer=tokenizer,
            row=row,
            usual={"is_encoder_decoder": True, "initializer_factor": 1.0},
        )
        .begins(t5_beginning)
        .base(f"{name}Model", BiasedText.model)
        .head(f"{name}ForConditionalGeneration", "seq2seq-lm", BiasedText.seq2seq_lm, prefix="")
        .head(f"{name}ForQuestionAnswering", "question-answering", heads.question_answerer, prefix="")
        .head(f"{name}ForSequenceClassification", "sequence-classification", heads.classifier, score)
        .architecture(f"{name}EncoderModel", ("text-encoding",), lambda c, _: c.encoder(), ENCODER_KEYS)
        .architecture(
            f"{name}ForTokenClassification",
            ("token-classification",),
            BiasedText.token_classifier,
            tokens,
            prefix=base,
        )
    )
