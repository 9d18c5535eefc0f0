"""Tiny tokenizers of every kind, forms of answers with a check of each, and rows driven through grammars."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from omniform.engine.guides import Guide, begin, grammar_of, masked
from omniform.inputs.text.classes import PreTrainedTokenizerFast

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    '{"name": "Anna", "age": 31, "tags": ["a", "b"], "ok": true, "none": null}',
    "Zürich und Köln, naïve café 日本語 😀",
    "1 + 2 * (3 - 4.5e10) / 6 . , : ; - _ \\ ' \n",
    "yes no maybe red green blue abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789",
] * 4


@cache
def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2, Llama 3 and Qwen have it."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=letters, special_tokens=special, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens(["<think>"])
    backend.add_special_tokens(["<|end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", bos_token="<s>")


@cache
def byte_fallback() -> PreTrainedTokenizerFast:
    """As Llama 2, Mistral and Gemma have it: ▁ for spaces, a token for each byte."""
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    trained = Backend(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Sequence(steps)
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=220, show_progress=False))
    state = json.loads(trained.to_str())["model"]
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *state["vocab"]]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    merges = [tuple(pair) for pair in state["merges"]]
    backend = Backend(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence(steps)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>", bos_token="<s>")


@cache
def unigram() -> PreTrainedTokenizerFast:
    """As T5 has it: ▁ for spaces, and no way to spell other characters."""
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


@cache
def word_piece() -> PreTrainedTokenizerFast:
    """As BERT has it: words, and parts of words that begin with ##."""
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    backend.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    names = {"sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


TOKENIZERS = {f.__name__: f for f in (byte_level, byte_fallback, unigram, word_piece)}


def fits(value: object, schema: Mapping[str, object]) -> bool:
    """Whether a value is of a schema: the keywords that the cases use."""
    kinds = {
        "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
        "null": type(None),
    }  # fmt: skip
    if "anyOf" in schema:
        return any(fits(value, one) for one in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    if "const" in schema:
        return value == schema["const"]
    kind = schema.get("type")
    if kind is None:
        return True
    if not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return False
    if kind == "object":
        properties = schema.get("properties", {})
        if any(name not in value for name in schema.get("required", ())):
            return False
        if schema.get("additionalProperties") is False and any(name not in properties for name in value):
            return False
        return all(fits(inner, properties[name]) for name, inner in value.items() if name in properties)
    if kind == "array":
        return schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 10**9) and all(
            fits(inner, schema.get("items", {})) for inner in value
        )
    if kind == "string":
        return schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**9) and (
            "pattern" not in schema or re.search(schema["pattern"], value) is not None
        )
    if kind in ("integer", "number"):
        return schema.get("minimum", value) <= value <= schema.get("maximum", value)
    return True


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "height": {"type": "number", "minimum": 0.3, "maximum": 2.8},
        "colour": {"enum": ["red", "grün", "日本", 5, None]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "minItems": 1, "maxItems": 3},
        "inner": {
            "type": "object",
            "properties": {"ok": {"type": "boolean"}, "n": {"anyOf": [{"type": "null"}, {"const": 'x"y\\'}]}},
            "required": ["n"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "tags", "inner"],
    "additionalProperties": False,
}
PLAIN = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "ok": {"type": "boolean"}},
    "required": ["name"],
    "additionalProperties": False,
}
CODES = {"type": "array", "items": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,3}$"}, "minItems": 2, "maxItems": 4}
SUM = r"""
start: sum
sum: product (("+" | "-") product){0,3}
product: atom (("*" | "/") atom){0,2}
atom: NUMBER | "(" product ")"
NUMBER: /[1-9][0-9]{0,3}/
"""


def _json(schema: Mapping[str, object]) -> Callable[[str], bool]:
    return lambda text: fits(json.loads(text), schema)


def _sum(text: str) -> bool:
    return re.fullmatch(r"[-+*/()0-9]+", text) is not None and isinstance(eval(text), (int, float))


@dataclass(frozen=True)
class Form:
    """A guide, and whether a text is of its form."""

    guide: Guide
    holds: Callable[[str], bool]
    everywhere: bool = False


def _regex(pattern: str, everywhere: bool = False) -> Form:
    return Form(Guide.regex(pattern), lambda text: re.fullmatch(pattern, text) is not None, everywhere)


CHOICES = ["yes", "no", "no more", "maybe"]
FORMS = {
    "person": Form(Guide.json_schema(PERSON), _json(PERSON)),
    "plain": Form(Guide.json_schema(PLAIN), _json(PLAIN)),
    "codes": Form(Guide.json_schema(CODES), _json(CODES)),
    "alternation": _regex(r"(ab|c|dé{1,3}){2,5}(x|y z)?"),
    "bounded": _regex(r"[A-Z][a-z]{2,8}( [A-Z]\.){0,2}, \d{4}-\d{2}"),
    "classes": _regex(r"\w{2,3}\W\d\D\s\S[\w.-]{2}[^\w\s][a[b]x?\. {,2}[+--]{2}"),
    "letters": _regex(r"(yes|no){1,3}", everywhere=True),
    "choice": Form(Guide.choice(CHOICES), CHOICES.__contains__, everywhere=True),
    "sum": Form(Guide.lark(SUM), _sum),
}


@dataclass(frozen=True)
class Written:
    """What came of a row."""

    tokens: list[int]
    text: str
    ended: bool


def written(
    guide: Guide,
    tokenizer: PreTrainedTokenizerFast,
    rows: int,
    *,
    columns: int = 450,
    longest: int = 250,
    seed: int = 0,
    ends: Sequence[int] | None = None,
) -> list[Written]:
    """Rows sampled from random scores at temperature 1.5, all side by side."""
    random = torch.Generator().manual_seed(seed)
    ends = [tokenizer.eos_token_id] if ends is None else ends
    grammar = grammar_of(guide, tokenizer)
    matchers = [grammar.matcher(ends) for _ in range(rows)]
    tokens: list[list[int]] = [[] for _ in matchers]
    running = list(range(rows))
    for _ in range(longest):
        scores = torch.randn(len(running), columns, generator=random) * 3
        odds = (masked(scores, [matchers[row] for row in running]) / 1.5).softmax(-1)
        chosen = torch.multinomial(odds, 1, generator=random)[:, 0].tolist()
        for row, token in zip(running, chosen, strict=True):
            assert matchers[row].accept(token)
            tokens[row].append(token)
        running = [row for row, token in zip(running, chosen, strict=True) if token not in ends]
        begin([matchers[row] for row in running])
        if not running:
            break
    return [
        Written(some, tokenizer.decode(some, skip_special_tokens=True), row not in running)
        for row, some in enumerate(tokens)
    ]
