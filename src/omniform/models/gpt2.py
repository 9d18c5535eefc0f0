"""GPT-2 (https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import DecoderHeads
from omniform.architectures.double_heads import DoubleHeads, Summary, SummaryHead, read_summary
from omniform.architectures.family import Builder
from omniform.architectures.plain_text import GPT, PlainText
from omniform.blocks.attention import CrossAttention
from omniform.blocks.embeddings import GPTEmbeddings, PositionTable, twin
from omniform.blocks.layers import CrossPreNorm, PreNorm
from omniform.blocks.scores import Scores
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.weights.keymap import KeyMap
from omniform.weights.links import shares, transposed


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a GPT-2 computes."""

    text: PlainText
    scaled: bool
    scaled_by_depth: bool
    cross_attention: bool
    summary: Summary

    def scores(self, layer: int) -> Scores:
        """How queries and keys of a layer are compared."""
        scale = self.text.heads.dim**-0.5 if self.scaled else 1.0
        return Scores(scale / (layer + 1 if self.scaled_by_depth else 1))


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert("reorder_and_upcast_attn", "n_ctx", "predict_special_tokens")  # rounding of halves; always n_positions
    return Config(
        text=PlainText.read(
            r, GPT, vocab_size=50257, dim=768, layers=12, heads=12, act="gelu_new", max_positions=1024, dropout=0.1,
            attention_dropout=0.1, tie=True, bos=50256, eos=50256,
        ),
        scaled=r.flag("scale_attn_weights", True),
        scaled_by_depth=r.flag("scale_attn_by_inverse_layer_idx", False),
        cross_attention=r.flag("add_cross_attention", False),
        summary=read_summary(r),
    )  # fmt: skip


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text = c.text

    def layer(i: int) -> nn.Module:
        self_attn = text.attention(Causal(), None, biases="qkvo", scores=c.scores(i))
        if not c.cross_attention:
            return text.layer(PreNorm, self_attn)
        cross = CrossAttention(text.dim, text.heads.queries, scores=c.scores(i), dropout=text.attention_dropout)
        return text.layer(CrossPreNorm, self_attn, encoder_attn=cross)

    table, positions = nn.Embedding(text.vocab_size, text.dim), PositionTable(text.max_positions, text.dim)
    embeddings = GPTEmbeddings(embed_positions=positions, embed_tokens=twin(table), dropout=text.embed_dropout)
    return text.decoder(layer, embeddings=embeddings, embed_tokens=table, longest=text.max_positions)


heads = DecoderHeads(build, lambda c: c.text)


def double_heads(c: Config, _: Common) -> DoubleHeads:
    """The decoder that writes and chooses."""
    model = build(c)
    return DoubleHeads(
        model=model, lm_head=heads.lm_head(c, model), multiple_choice_head=SummaryHead(c.text.dim, c.summary)
    )


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


def residual_beginning(config: ModelConfig, path: str) -> Beginning | None:
    """What writes onto the residual stream begins the smaller, the more layers there are (GPT-2's report, 2.3)."""
    writes = path.endswith(("self_attn.o_proj.weight", "mlp.fc2.weight"))
    return config.common.initializer_range * (2 * cast(int, config.num_hidden_layers)) ** -0.5 if writes else None


FAMILY = (
    Builder("gpt2", read, KEYS, prefix="transformer")
    .public(
        config="GPT2Config",
        padding="learned",
        tokenizer="GPT2Tokenizer",
        row="causal LM, double heads, sequence and token classification, question answering",
        usual={"reorder_and_upcast_attn": False},
    )
    .begins(residual_beginning)
    .base("GPT2Model", build)
    .head("GPT2LMHeadModel", "causal-lm", heads.causal_lm)
    .head("GPT2DoubleHeadsModel", "multiple-choice", double_heads)
    .head("GPT2ForSequenceClassification", "sequence-classification", heads.sequence_classifier, SCORE)
    .head("GPT2ForTokenClassification", "token-classification", heads.token_classifier)
    .head("GPT2ForQuestionAnswering", "question-answering", heads.question_answerer)
    .done()
)
