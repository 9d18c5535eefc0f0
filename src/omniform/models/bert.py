"""BERT (https://arxiv.org/abs/1810.04805)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from omniform.architectures.encoder import MaskedLM, PreTraining, TextDecoder, TextEncoder, TextWriter, VocabularyHead
from omniform.architectures.family import Builder
from omniform.architectures.heads import MultipleChoice, QuestionAnswerer, SequenceClassifier, TokenClassifier, pooled
from omniform.blocks.attention import Attention, CrossAttention
from omniform.blocks.embeddings import PositionTable
from omniform.blocks.layers import CrossPostNorm, PostNorm
from omniform.blocks.mlp import ACTIVATIONS, MLP
from omniform.blocks.poolers import DensePooler
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal, Full
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a BERT computes."""

    vocab_size: int
    token_types: int
    dim: int
    hidden: int
    layers: int
    heads: int
    act: str
    eps: float
    max_positions: int
    causal: bool
    cross_attention: bool
    dropout: float
    attention_dropout: float
    classifier_dropout: float
    tie: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    dim, heads = r.integer("hidden_size", 768), r.integer("num_attention_heads", 12)
    if dim % heads:
        raise r.fail("num_attention_heads", f"a divisor of {dim} (hidden_size)", heads)
    causal, cross_attention = r.flag("is_decoder", False), r.flag("add_cross_attention", False)
    if cross_attention and not causal:
        raise r.fail("add_cross_attention", "false, or is_decoder true as well", True)
    r.only("position_embedding_type", "absolute", None, why="positions are a learned table")
    # The pooler's old settings in multilingual checkpoints: never read.
    r.inert("directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers")
    r.inert("pooler_size_per_head", "pooler_type")
    dropout = r.probability("hidden_dropout_prob", 0.1)
    return Config(
        vocab_size=r.integer("vocab_size", 30522),
        token_types=r.integer("type_vocab_size", 2),
        dim=dim,
        hidden=r.integer("intermediate_size", 3072),
        layers=r.layers("num_hidden_layers", 12),
        heads=heads,
        act=r.choice("hidden_act", ACTIVATIONS, "gelu"),
        eps=r.number("layer_norm_eps", 1e-12),
        max_positions=r.integer("max_position_embeddings", 512),
        causal=causal,
        cross_attention=cross_attention,
        dropout=dropout,
        attention_dropout=r.probability("attention_probs_dropout_prob", 0.1),
        classifier_dropout=r.probability("classifier_dropout", dropout),
        tie=r.flag("tie_word_embeddings", True),
    )


def build(c: Config, pooler: DensePooler | None = None) -> TextEncoder:
    """The encoder without a head, or the decoder, if it is one."""

    def norm() -> nn.LayerNorm:
        return nn.LayerNorm(c.dim, c.eps)

    def layer() -> nn.Module:
        rule = Causal() if c.causal else Full()
        self_attn = Attention(c.dim, c.heads, rule=rule, dropout=c.attention_dropout)
        mlp = MLP(c.dim, c.hidden, c.act)
        if not c.cross_attention:
            return PostNorm(
                self_attn=self_attn,
                self_attn_layer_norm=norm(),
                mlp=mlp,
                final_layer_norm=norm(),
                dropout=c.dropout,
            )
        return CrossPostNorm(
            self_attn=self_attn,
            self_attn_layer_norm=norm(),
            encoder_attn=CrossAttention(c.dim, c.heads, dropout=c.attention_dropout),
            encoder_attn_layer_norm=norm(),
            mlp=mlp,
            final_layer_norm=norm(),
            dropout=c.dropout,
        )

    return (TextDecoder if c.causal else TextEncoder)(
        embed_tokens=nn.Embedding(c.vocab_size, c.dim),
        embed_positions=PositionTable(c.max_positions, c.dim),
        embed_token_types=nn.Embedding(c.token_types, c.dim),
        embed_norm=norm(),
        layers=(layer() for _ in range(c.layers)),
        pooler=pooler,
        dropout=c.dropout,
    )


def with_pooler(c: Config) -> TextEncoder:
    """The same, with the pooler that its first token was trained with."""
    return build(c, DensePooler(c.dim, c.dim))


def vocabulary_head(c: Config, model: TextEncoder) -> VocabularyHead:
    """Scores of tokens."""
    return VocabularyHead(model.embed_tokens, c.act, c.eps, tie=c.tie)


def pre_training(c: Config, _: Common) -> PreTraining:
    """Masked tokens and the next sentence."""
    model = with_pooler(c)
    return PreTraining(model, vocabulary_head(c, model), nn.Linear(c.dim, 2))


def causal_lm(c: Config, _: Common) -> TextWriter:
    """The next token."""
    model = build(c)
    return TextWriter(model, vocabulary_head(c, model))


def masked_lm(c: Config, _: Common) -> MaskedLM:
    """Masked tokens."""
    model = build(c)
    return MaskedLM(model, vocabulary_head(c, model))


def next_sentence(c: Config, common: Common) -> SequenceClassifier:
    """Whether the second text follows the first."""
    two_classes = replace(common, problem_type="single_label_classification")
    return SequenceClassifier(with_pooler(c), pooled, nn.Linear(c.dim, 2), two_classes)


def sequence_classifier(c: Config, common: Common) -> SequenceClassifier:
    """One class per row."""
    classifier = nn.Linear(c.dim, common.num_labels)
    return SequenceClassifier(with_pooler(c), pooled, classifier, common, dropout=c.classifier_dropout)


def multiple_choice(c: Config, _: Common) -> MultipleChoice:
    """Which continuation fits."""
    return MultipleChoice(with_pooler(c), pooled, nn.Linear(c.dim, 1), dropout=c.classifier_dropout)


def token_classifier(c: Config, common: Common) -> TokenClassifier:
    """One class per token."""
    return TokenClassifier(build(c), nn.Linear(c.dim, common.num_labels), dropout=c.classifier_dropout)


def question_answerer(c: Config, _: Common) -> QuestionAnswerer:
    """The first and last token of an answer."""
    return QuestionAnswerer(build(c), nn.Linear(c.dim, 2))


def _attention(ours: str, theirs: str) -> dict[str, str]:
    ours, theirs = f"layers.{{i}}.{ours}", f"encoder.layer.{{i}}.{theirs}"
    return {
        f"{ours}.q_proj": f"{theirs}.self.query",
        f"{ours}.k_proj": f"{theirs}.self.key",
        f"{ours}.v_proj": f"{theirs}.self.value",
        f"{ours}.o_proj": f"{theirs}.output.dense",
        f"{ours}_layer_norm": f"{theirs}.output.LayerNorm",
    }


KEYS = KeyMap(
    {
        "embed_tokens": "embeddings.word_embeddings",
        "embed_positions": "embeddings.position_embeddings",
        "embed_token_types": "embeddings.token_type_embeddings",
        "embed_norm": "embeddings.LayerNorm",
        **_attention("self_attn", "attention"),
        **_attention("encoder_attn", "crossattention"),
        "layers.{i}.mlp.fc1": "encoder.layer.{i}.intermediate.dense",
        "layers.{i}.mlp.fc2": "encoder.layer.{i}.output.dense",
        "layers.{i}.final_layer_norm": "encoder.layer.{i}.output.LayerNorm",
    }
)

VOCABULARY_HEAD = {
    "lm_head": "cls.predictions",
    "lm_head.dense": "cls.predictions.transform.dense",
    "lm_head.layer_norm": "cls.predictions.transform.LayerNorm",
}
NEXT_SENTENCE = "cls.seq_relationship"

FAMILY = (
    Builder("bert", read, KEYS, prefix="bert")
    .public(
        config="BertConfig",
        tokenizer="BertTokenizer",
        row="masked LM, pre-training, causal LM, next sentence, sequence and token classification, "
        "multiple choice, question answering",
    )
    .base("BertModel", with_pooler, "text-encoding")
    .head("BertForPreTraining", "pre-training", pre_training, {**VOCABULARY_HEAD, "seq_relationship": NEXT_SENTENCE})
    .head("BertLMHeadModel", "causal-lm", causal_lm, VOCABULARY_HEAD)
    .head("BertForMaskedLM", "masked-lm", masked_lm, VOCABULARY_HEAD)
    .head("BertForNextSentencePrediction", "next-sentence-prediction", next_sentence, {"classifier": NEXT_SENTENCE})
    .head("BertForSequenceClassification", "sequence-classification", sequence_classifier)
    .head("BertForMultipleChoice", "multiple-choice", multiple_choice)
    .head("BertForTokenClassification", "token-classification", token_classifier)
    .head("BertForQuestionAnswering", "question-answering", question_answerer)
    .done()
)
