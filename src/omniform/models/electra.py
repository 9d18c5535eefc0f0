"""ELECTRA (https://arxiv.org/abs/2003.10555): a discriminator, and the generator that it was trained beside."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.encoder import ReplacedTokens
from omniform.architectures.encoder_family import STACK_KEYS, EncoderHeads, EncoderText
from omniform.architectures.family import Builder
from omniform.architectures.heads import MultipleChoice, SequenceClassifier, first_token
from omniform.architectures.scoring import ScoringHead
from omniform.architectures.seq2seq_heads import SentenceClassifier
from omniform.architectures.stack import TextStack
from omniform.blocks.embeddings import PositionTable, ProjectedEmbeddings, TypedEmbeddings
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.poolers import SUMMARIES, SummaryPooler
from omniform.core.config import Common
from omniform.core.errors import nearest
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What an ELECTRA computes.

    Attributes:
        embedding_dim: width of the token vectors.
        summary: what of a row chooses among continuations.
        summary_act: after its projection; None for nothing.
        summary_project: whether there is one.
    """

    text: EncoderText
    embedding_dim: int
    summary: str
    summary_act: str | None
    summary_project: bool
    summary_dropout: float


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.only("position_embedding_type", "absolute", None, why="positions are a learned table")
    r.special_tokens(pad_token_id=0)
    act = r.maybe_text("summary_activation", "gelu") or None
    if act is not None and act not in ACTIVATIONS:
        raise r.fail("summary_activation", "the name of an activation", repr(act), nearest(act, ACTIVATIONS))
    return Config(
        text=EncoderText.read(r, dim=256, hidden=1024, heads=4),
        embedding_dim=r.integer("embedding_size", 128),
        summary=r.choice("summary_type", SUMMARIES, "first"),
        summary_act=act,
        summary_project=r.flag("summary_use_proj", True),
        summary_dropout=r.probability("summary_last_dropout", 0.1),
    )


def build(c: Config, _: nn.Module | None) -> TextStack:
    """The encoder without a head, or the decoder, if it is one."""
    t, wide = c.text, c.embedding_dim
    positions, types = PositionTable(t.max_positions, wide), nn.Embedding(t.token_types, wide)
    norm = nn.LayerNorm(wide, t.eps)
    if wide == t.dim:
        same = TypedEmbeddings(embed_positions=positions, embed_token_types=types, norm=norm, dropout=t.dropout)
        return t.stack(same, None)
    narrow = ProjectedEmbeddings(
        embed_positions=positions,
        embed_token_types=types,
        norm=norm,
        dropout=t.dropout,
        embed_proj=nn.Linear(wide, t.dim),
    )
    return t.stack(narrow, None, nn.Embedding(t.vocab_size, wide))


class Heads(EncoderHeads[Config]):
    """BERT's heads, those that score rows and tokens of the vocabulary other than BERT's."""

    def vocabulary(self, c: Config, model: TextStack) -> ScoringHead:
        return ScoringHead.of_tokens(model.embed_tokens, "gelu", c.text.eps, tie=c.text.tie, dim=c.text.dim)

    def discriminator(self, c: Config, _: Common) -> ReplacedTokens:
        """Whether tokens were replaced."""
        dim = c.text.dim
        return ReplacedTokens(model=self.bare(c), dense=nn.Linear(dim, dim), scores=nn.Linear(dim, 1), act=c.text.act)

    def sequence_classifier(self, c: Config, common: Common) -> SequenceClassifier:
        head = SentenceClassifier(c.text.dim, common.num_labels, c.text.classifier_dropout, "gelu")
        return SequenceClassifier(model=self.bare(c), pool=first_token, classifier=head, common=common)

    def multiple_choice(self, c: Config, common: Common) -> MultipleChoice:
        dim, act, dropout = c.text.dim, c.summary_act, c.summary_dropout
        pool = SummaryPooler(dim, c.summary, act, dropout, project=c.summary_project)
        return MultipleChoice(model=self.bare(c), pool=pool, classifier=nn.Linear(dim, 1))


heads = Heads(build, lambda c: c.text)

GENERATOR = {
    "lm_head.dense": "generator_predictions.dense",
    "lm_head.layer_norm": "generator_predictions.LayerNorm",
    "lm_head.decoder": "generator_lm_head",
}
DISCRIMINATOR = {
    "dense": "discriminator_predictions.dense",
    "scores": "discriminator_predictions.dense_prediction",
}

FAMILY = (
    Builder("electra", read, KeyMap({**STACK_KEYS, "embeddings.embed_proj": "embeddings_project"}), prefix="electra")
    .public(
        config="ElectraConfig",
        tokenizer="BertTokenizer",
        row="replaced tokens, masked LM, causal LM, sequence and token classification, multiple choice, "
        "question answering",
    )
    .base("ElectraModel", heads.bare, "text-encoding")
    .head("ElectraForPreTraining", "pre-training", heads.discriminator, DISCRIMINATOR)
    .head("ElectraForMaskedLM", "masked-lm", heads.masked_lm, GENERATOR)
    .head("ElectraForCausalLM", "causal-lm", heads.causal_lm, GENERATOR)
    .head("ElectraForSequenceClassification", "sequence-classification", heads.sequence_classifier)
    .head("ElectraForMultipleChoice", "multiple-choice", heads.multiple_choice, {"pool": "sequence_summary"})
    .head("ElectraForTokenClassification", "token-classification", heads.token_classifier)
    .head("ElectraForQuestionAnswering", "question-answering", heads.question_answerer)
    .done()
)
