"""SantaCoder and StarCoder (https://arxiv.org/abs/2305.06161): GPT-2 whose heads may all share one key head."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import DecoderHeads
from omniform.architectures.family import Builder
from omniform.architectures.plain_text import GPT, PlainText, by_group
from omniform.blocks.embeddings import GPTEmbeddings, PositionTable, twin
from omniform.blocks.layers import PreNorm
from omniform.blocks.scores import Scores
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.models.gpt2 import residual_beginning
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a StarCoder computes."""

    text: PlainText
    scores: Scores


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = PlainText.read(
        r, GPT, vocab_size=50257, dim=768, layers=12, heads=12, act="gelu_pytorch_tanh", max_positions=1024,
        dropout=0.1, attention_dropout=0.1, tie=True, bos=50256, eos=50256,
    )  # fmt: skip
    # Rounding of halves, and how the first implementation ran.
    r.inert("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "inference_runner", "validate_runner_input")
    r.inert("pre_allocate_kv_cache", "max_sequence_length", "max_batch_size", "pad_key_length", "summary_type")
    r.inert("summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout")
    r.only("add_cross_attention", False, None, why="the reference cannot compute it either")
    r.inert("num_key_value_heads")  # what the next says
    kv = 1 if r.flag("multi_query", True) else text.heads.queries
    r.values["num_key_value_heads"] = kv
    scale = text.heads.dim**-0.5 if r.flag("scale_attn_weights", True) else 1.0
    return Config(text=replace(text, heads=replace(text.heads, kv=kv)), scores=Scores(scale))


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text = c.text
    table, positions = nn.Embedding(text.vocab_size, text.dim), PositionTable(text.max_positions, text.dim)
    return text.decoder(
        lambda _: text.layer(PreNorm, text.attention(Causal(), None, biases="qkvo", scores=c.scores)),
        embeddings=GPTEmbeddings(embed_positions=positions, embed_tokens=twin(table), dropout=text.embed_dropout),
        embed_tokens=table,
        longest=text.max_positions,
    )


heads = DecoderHeads(build, lambda c: c.text)


def keys(c: Config) -> KeyMap:
    """Queries, keys and values lie in one matrix: head by head, or all queries before the one key and value."""
    return KeyMap(
        {
            "embed_tokens": "wte",
            "embeddings.embed_positions": "wpe",
            "layers.{i}": "h.{i}",
            "layers.{i}.input_layernorm": "h.{i}.ln_1",
            "layers.{i}.post_attention_layernorm": "h.{i}.ln_2",
            **by_group("h.{i}.attn.c_attn", c.text.heads),
            "layers.{i}.self_attn.o_proj": "h.{i}.attn.c_proj",
            "layers.{i}.mlp.fc1": "h.{i}.mlp.c_fc",
            "layers.{i}.mlp.fc2": "h.{i}.mlp.c_proj",
            "norm": "ln_f",
        },
        ignored=(r"\.attn\.(masked_)?bias$",),
    )


SCORE = {"classifier": "score"}

FAMILY = (
    Builder("gpt_bigcode", read, keys, prefix="transformer")
    .public(
        config="GPTBigCodeConfig",
        padding="learned",
        tokenizer="PreTrainedTokenizerFast",
        row="causal LM, sequence and token classification",
        usual={"attention_softmax_in_fp32": True, "scale_attention_softmax_in_fp32": True},
    )
    .begins(residual_beginning)
    .base("GPTBigCodeModel", build)
    .head("GPTBigCodeForCausalLM", "causal-lm", heads.causal_lm)
    .head("GPTBigCodeForSequenceClassification", "sequence-classification", heads.sequence_classifier, SCORE)
    .head("GPTBigCodeForTokenClassification", "token-classification", heads.token_classifier)
    .done()
)
