"""GPT-Neo (https://github.com/EleutherAI/gpt-neo): GPT-2 with windows in every other layer, and scores unscaled."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import DecoderHeads
from omniform.architectures.family import Builder
from omniform.architectures.parts import causal
from omniform.architectures.plain_text import Names, PlainText
from omniform.blocks.embeddings import GPTEmbeddings, PositionTable, twin
from omniform.blocks.layers import PreNorm
from omniform.blocks.scores import Scores
from omniform.core.reader import ConfigReader
from omniform.core.rules import Rule
from omniform.weights.keymap import KeyMap

NAMES = Names(
    layers="num_layers", heads="num_heads", act="activation_function", eps="layer_norm_epsilon",
    dropout="resid_dropout", embed_dropout="embed_dropout",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a GPT-Neo computes."""

    text: PlainText
    rules: tuple[Rule, ...]


def read_kinds(r: ConfigReader, layers: int) -> list[str]:
    """``global`` or ``local`` for each layer: ``[[["global", "local"], 12]]`` says both twelve times.

    Both in turn, where the config does not say.
    """
    r.inert("attention_types", "attention_layers")  # read here; the latter is what the former comes to
    told = (
        r.raw.get("attention_types") or [[["global", "local"], layers // 2], [["global"], layers % 2]][: 1 + layers % 2]
    )
    kinds: list[str] = []
    for group in told if isinstance(told, (list, tuple)) else ():
        names, times = group if isinstance(group, (list, tuple)) and len(group) == 2 else ([], 0)
        if isinstance(names, (list, tuple)) and isinstance(times, int) and times <= layers:
            kinds += [str(name) for name in names] * times
    if len(kinds) != layers or not set(kinds) <= {"global", "local"}:
        expected = f'[[["global", "local"], ...]], for {layers} (num_layers) layers in all'
        raise r.fail("attention_types", expected, told)
    r.values |= {"attention_types": told, "attention_layers": kinds}
    return kinds


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = PlainText.read(
        r, NAMES, vocab_size=50257, dim=2048, layers=24, heads=16, act="gelu_new", classifier_dropout=0.1, tie=True,
        bos=50256, eos=50256,
    )  # fmt: skip
    # Of a head that is not there.
    r.inert("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout")
    windows = {"global": None, "local": r.integer("window_size", 256)}
    return Config(text=text, rules=tuple(causal(windows[kind]) for kind in read_kinds(r, text.layers)))


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text = c.text
    table, positions = nn.Embedding(text.vocab_size, text.dim), PositionTable(text.max_positions, text.dim)
    return text.decoder(
        lambda i: text.layer(PreNorm, text.attention(c.rules[i], None, biases="o", scores=Scores(1.0))),
        embeddings=GPTEmbeddings(embed_positions=positions, embed_tokens=twin(table), dropout=text.embed_dropout),
        embed_tokens=table,
        longest=text.max_positions,
    )


heads = DecoderHeads(build, lambda c: c.text)

KEYS = KeyMap(
    {
        "embed_tokens": "wte",
        "embeddings.embed_positions": "wpe",
        "layers.{i}": "h.{i}",
        "layers.{i}.input_layernorm": "h.{i}.ln_1",
        "layers.{i}.post_attention_layernorm": "h.{i}.ln_2",
        "layers.{i}.self_attn": "h.{i}.attn.attention",
        "layers.{i}.self_attn.o_proj": "h.{i}.attn.attention.out_proj",
        "layers.{i}.mlp.fc1": "h.{i}.mlp.c_fc",
        "layers.{i}.mlp.fc2": "h.{i}.mlp.c_proj",
        "norm": "ln_f",
    },
    # The masks, which early releases saved with the weights.
    ignored=(r"\.attn\.attention\.(masked_)?bias$",),
)
SCORE = {"classifier": "score"}

FAMILY = (
    Builder("gpt_neo", read, KEYS, prefix="transformer")
    .public(
        config="GPTNeoConfig",
        padding="learned",
        tokenizer="GPT2Tokenizer",
        row="causal LM, sequence and token classification, question answering",
    )
    .base("GPTNeoModel", build)
    .head("GPTNeoForCausalLM", "causal-lm", heads.causal_lm)
    .head("GPTNeoForSequenceClassification", "sequence-classification", heads.sequence_classifier, SCORE)
    .head("GPTNeoForTokenClassification", "token-classification", heads.token_classifier)
    .head("GPTNeoForQuestionAnswering", "question-answering", heads.question_answerer)
    .done()
)
