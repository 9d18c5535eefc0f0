"""ESM-1b and ESM-2 (https://doi.org/10.1126/science.ade2574): proteins read like texts. Folding is not there."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from omniform.architectures.encoder_family import PRENORM_KEYS, EncoderHeads, PreNormText
from omniform.architectures.family import Builder
from omniform.architectures.heads import SequenceClassifier, first_token
from omniform.architectures.protein import ProteinEmbeddings, ProteinEncoder, ProteinMaskedLM
from omniform.architectures.scoring import ScoringHead
from omniform.architectures.seq2seq_heads import SentenceClassifier
from omniform.architectures.stack import TextStack
from omniform.blocks.attention import Attention, Positions
from omniform.blocks.contacts import ContactHead
from omniform.blocks.embeddings import PositionTable
from omniform.blocks.frequencies import Frequencies
from omniform.blocks.layers import PreNorm
from omniform.blocks.rotary import StoredRotary
from omniform.core.config import Common
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What an ESM computes.

    Attributes:
        theta: base of the rotary positions; None where positions are a learned table.
        padding: the token that learned positions are counted from.
        mask: the token whose vectors are dropped; None where they are kept.
        early_norm: whether token vectors are normed.
    """

    text: PreNormText
    theta: float | None
    padding: int | None
    mask: int | None
    early_norm: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.only("is_folding_model", False, None, why="proteins are read and not folded")
    for name in ("is_decoder", "add_cross_attention"):
        r.only(name, False, None, why="an encoder")
    r.inert(is_folding_model=False, esmfold_config=None, vocab_list=None)
    r.special_tokens(eos_token_id=2)
    # The activation and the dropout before classifiers have no keys in the reference, whatever a file says.
    text = PreNormText.read(r, vocab_size=33, max_positions=1026)
    text = replace(text, act="gelu", classifier_dropout=text.dropout)
    kind, theta = r.choice("position_embedding_type", ("absolute", "rotary"), "absolute"), r.number("rope_theta", 1e4)
    padding, mask, dropping = r.token("pad_token_id"), r.token("mask_token_id"), r.flag("token_dropout", False)
    if kind == "absolute" and padding is not None and not 0 <= padding < text.max_positions - 1:
        raise r.fail("pad_token_id", f"0 to {text.max_positions - 2}: positions are counted from it", padding)
    if dropping and mask is None:
        raise r.fail("mask_token_id", "a token id, which token_dropout looks for", None)
    return Config(
        text=text,
        theta=theta if kind == "rotary" else None,
        padding=padding,
        mask=mask if dropping else None,
        early_norm=r.flag("emb_layer_norm_before", False),
    )


def build(c: Config, pooler: nn.Module | None) -> ProteinEncoder:
    """The encoder without a head."""
    t, head_dim = c.text, c.text.dim // c.text.heads
    positions: Positions | None = None
    if c.theta is not None:
        positions = StoredRotary(Frequencies(dim=head_dim, theta=c.theta))
    elif c.padding is None:
        raise ConfigError(
            "positions are counted from the padding token", where="config.json: pad_token_id", found="null"
        )

    def layer() -> PreNorm:
        attention = Attention(t.dim, t.heads, rule=Full(), positions=positions, dropout=t.attention_dropout)
        return PreNorm.of(t.norm, **{**t.parts(), "self_attn": attention})

    embeddings = ProteinEmbeddings(
        embed_positions=PositionTable(t.max_positions, t.dim) if positions is None else None,
        norm=t.norm() if c.early_norm else None,
        padding=c.padding,
        mask=c.mask,
    )
    return ProteinEncoder(
        embed_tokens=nn.Embedding(t.vocab_size, t.dim),
        embeddings=embeddings,
        layers=nn.ModuleList(layer() for _ in range(t.layers)),
        norm=t.last(),
        pooler=pooler,
        max_positions=embeddings.positions,
        contact_head=ContactHead(t.layers * t.heads),
    )


class Heads(EncoderHeads[Config]):
    """Heads as RoBERTa's, of fewer kinds."""

    def vocabulary(self, c: Config, model: TextStack) -> ScoringHead:
        return ScoringHead.of_tokens(model.embed_tokens, "gelu", c.text.eps, tie=c.text.tie)

    def masked_lm(self, c: Config, _: Common) -> ProteinMaskedLM:
        model = build(c, None)
        return ProteinMaskedLM(model=model, lm_head=self.vocabulary(c, model))

    def sequence_classifier(self, c: Config, common: Common) -> SequenceClassifier:
        head = SentenceClassifier(c.text.dim, common.num_labels, c.text.classifier_dropout)
        return SequenceClassifier(model=self.bare(c), pool=first_token, classifier=head, common=common)


heads = Heads(build, lambda c: c.text)

# Once in every layer; the reference now writes them under a star.
OLD_FREQUENCIES = r"encoder\.layer\.{}\.attention\.self\.rotary_embeddings\.inv_freq$"
KEYS = KeyMap(
    {
        **PRENORM_KEYS,
        "embeddings.norm": "embeddings.layer_norm",
        "layers.{i}.post_attention_layernorm": "encoder.layer.{i}.LayerNorm",
        "layers.{i}.self_attn.positions": "rotary_embeddings",
        "norm": "encoder.emb_layer_norm_after",
    },
    [(OLD_FREQUENCIES.format(r"[0*]"), "rotary_embeddings.inv_freq")],
    (OLD_FREQUENCIES.format(r"\d+"), r"position_embeddings\.weight$"),
)

FAMILY = (
    Builder("esm", read, KEYS, prefix="esm")
    .public(config="EsmConfig", tokenizer="EsmTokenizer", row="masked LM, contacts, sequence and token classification")
    .base("EsmModel", heads.with_pooler)
    .head("EsmForMaskedLM", "masked-lm", heads.masked_lm, {"lm_head.decoder.bias": "lm_head.bias"})
    .head("EsmForSequenceClassification", "sequence-classification", heads.sequence_classifier)
    .head("EsmForTokenClassification", "token-classification", heads.token_classifier)
    .done()
)
