"""From a tokenizer to a GGUF file's list of tokens: the inverse of :mod:`omniform.hub.gguf.vocabulary`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final

from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as Backend

from omniform.core.errors import ConfigError, listed
from omniform.hub.gguf.splits import SPLITS, Split
from omniform.hub.gguf.vocabulary import CONTROL, NORMAL, UNKNOWN, USER
from omniform.inputs.text.sentencepiece import Piece, SentencePieceModel
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.weights.gguf.reader import Value

UNUSED, BYTE = 5, 6
"""Types of tokens that no text has, and of those that stand for a byte."""

PROBE: Final = (
    "Hello world  don't DON'T I'll we've 12345 1 22 3.14\n\n  tabs\t\tx\r\n \n é über ÀÇ naïve 中文日本語かな русский "
    "한국어 สวัสดี 😀👍🏽 a_b-c (x)=y; //path/to/file $5.00 <tag> ... !? …。، CamelCaseWord HTTPServer x86_64 ²½ \u200b "
    "    indented\n\tcode: {a: 'b', \"c\": [1,2]}#!@ ~^`| e\u0301 ʼn ǅ 'S 'T 'llama   \r\r\n /\n/\n end  "
)
"""Ways of cutting are told apart by what they make of this."""

USUAL: Final[Mapping[str, str]] = {
    "llama": "llama-bpe", "qwen2": "qwen2", "qwen2_moe": "qwen2", "qwen3": "qwen2", "qwen3_moe": "qwen2",
    "starcoder2": "starcoder", "gpt2": "gpt-2", "gpt_neox": "olmo", "olmo": "olmo", "olmo2": "olmo", "olmoe": "olmo",
    "granite": "refact", "granitemoe": "refact", "cohere": "command-r", "cohere2": "command-r", "phi": "phi-2",
    "stablelm": "stablelm2", "falcon": "falcon", "bloom": "bloom", "deepseek_v2": "deepseek-llm",
    "deepseek_v3": "deepseek-v3", "gpt_oss": "gpt-4o", "smollm3": "llama-bpe", "mistral": "tekken",
}  # fmt: skip
"""What families call their way of cutting, where it is the one: several names stand for one way."""

_SPACE: Final = "▁"


def tokens_told(tokenizer: Tokenizer, model_type: str, rows: int) -> dict[str, Value]:
    """The metadata that tells a tokenizer.

    Args:
        model_type: the family whose tokenizer it is.
        rows: how many tokens the model has vectors for.

    Raises:
        ConfigError: GGUF cannot tell this tokenizer, or it has more tokens than the model.
    """
    backend = tokenizer.backend_tokenizer
    if not isinstance(backend, Backend):
        raise ConfigError("GGUF cannot tell this tokenizer", where="tokenizer", found=type(backend).__name__)
    said = json.loads(backend.to_str())
    kind = said["model"].get("type")
    if kind != "BPE":
        raise ConfigError(
            "GGUF files of writers hold byte pairs", where="tokenizer", expected="a BPE, of bytes or sentencepiece's",
            found=str(kind),
        )  # fmt: skip
    words = _words(tokenizer, rows)
    if _names(said.get("decoder")) & {"ByteLevel"}:
        made = _bytes(backend, said, model_type)
        kinds = _kinds(tokenizer, words, byte=False)
    else:
        made = _pieces(said, words, _kinds(tokenizer, words, byte=True))
        kinds = _kinds(tokenizer, words, byte=True)
        first = tokenizer.backend_tokenizer.encode("a", add_special_tokens=False).tokens
        made["tokenizer.ggml.add_space_prefix"] = bool(first) and first[0].startswith(_SPACE)
    head: dict[str, Value] = {
        "tokenizer.ggml.model": made.pop("tokenizer.ggml.model"),
        "tokenizer.ggml.tokens": list(words),
        "tokenizer.ggml.token_type": list(kinds),
    }
    return {**head, **made, **_special(tokenizer), **_templates(tokenizer)}


def _words(tokenizer: Tokenizer, rows: int) -> list[str]:
    """Every token, with something in the places of those that are none."""
    by_id = {number: text for text, number in tokenizer.get_vocab().items()}
    if by_id and max(by_id) >= rows:
        raise ConfigError(
            "there are tokens that the model has no vectors for", where="tokenizer",
            expected=f"numbers below {rows}", found=f"{by_id[max(by_id)]!r:.60} is {max(by_id)}",
        )  # fmt: skip
    return [by_id.get(number, f"[PAD{number}]") for number in range(rows)]


def _kinds(tokenizer: Tokenizer, words: list[str], *, byte: bool) -> list[int]:
    added, known = tokenizer.added_tokens_decoder, set(tokenizer.get_vocab().values())
    unknown = tokenizer.unk_token_id if byte else None

    def kind(number: int, text: str) -> int:
        if number not in known:
            return UNUSED
        if number == unknown:
            return UNKNOWN
        if number in added:
            return CONTROL if added[number].special else USER
        return BYTE if byte and re.fullmatch(r"<0x[0-9A-F]{2}>", text) else NORMAL

    return [kind(number, text) for number, text in enumerate(words)]


def _names(part: object) -> set[str]:
    """The kinds of a part of a tokenizer, those within a sequence too."""
    if not isinstance(part, Mapping):
        return set()
    inner = [part.get(key) for key in ("decoders", "pretokenizers", "normalizers")]
    return {str(part.get("type"))}.union(*(_names(one) for some in inner if isinstance(some, list) for one in some))


def _merges(said: Mapping[str, Mapping[str, object]]) -> list[str]:
    merges = said["model"].get("merges")
    pairs = merges if isinstance(merges, list) else []
    return [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]


# ---- byte pairs


def _bytes(backend: Backend, said: Mapping[str, Mapping[str, object]], model_type: str) -> dict[str, Value]:
    odd = _names(said.get("normalizer")) - {"NFC", "Sequence"}  # which llama.cpp leaves out
    if odd:
        raise ConfigError("GGUF cannot tell what is done to texts first", where="tokenizer", found=listed(sorted(odd)))
    name, prefix = _way(backend, said["model"].get("ignore_merges") is True, model_type)
    merges: list[Value] = list(_merges(said))
    made: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": name, "tokenizer.ggml.merges": merges,
    }  # fmt: skip
    return {**made, "tokenizer.ggml.add_space_prefix": True} if prefix else made


def _way(backend: Backend, whole: bool, model_type: str) -> tuple[str, bool]:
    """The name of the way in which a tokenizer cuts, and whether it puts a space before texts."""
    found = backend.pre_tokenizer
    cut = [] if found is None else found.pre_tokenize_str(PROBE)
    usual = USUAL.get(model_type, "")
    names = [usual, *SPLITS] if usual in SPLITS else list(SPLITS)
    fitting = [(name, prefix) for name in names for prefix in _prefixes(SPLITS[name], cut)]
    for name, prefix in fitting:
        if SPLITS[name].whole == whole:
            return name, prefix
    if fitting:  # whether whole tokens are looked up first seldom matters
        return fitting[0]
    raise ConfigError(
        "this tokenizer cuts texts in a way that has no name in GGUF", where="tokenizer",
        expected="one of those in hub/gguf/splits.py", found=str(found)[:160],
    )  # fmt: skip


def _prefixes(split: Split, cut: list[tuple[str, tuple[int, int]]]) -> Iterator[bool]:
    for prefix in (False, True):
        steps: list[pre_tokenizers.PreTokenizer] = [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in split.patterns
        ]
        last = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)
        pieces = pre_tokenizers.Sequence([*steps, last]).pre_tokenize_str(PROBE)
        if [text for text, _ in pieces] == [text for text, _ in cut]:
            yield prefix


# ---- sentencepiece


def _pieces(said: Mapping[str, Mapping[str, object]], words: list[str], kinds: list[int]) -> dict[str, Value]:
    """Pieces with scores: the earlier a piece is joined, the higher."""
    if said["model"].get("byte_fallback") is not True:
        raise ConfigError(
            "GGUF cannot tell this tokenizer", where="tokenizer", expected="byte pairs over bytes, or sentencepiece's",
            found="a BPE without bytes",
        )  # fmt: skip
    merges = _merges(said)
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault(pair.replace(" ", ""), rank)
    last = float(len(merges))
    scores: list[Value] = [
        -float(ranks[text]) if kind == NORMAL and text in ranks else -last if kind == NORMAL else 0.0
        for text, kind in zip(words, kinds, strict=True)
    ]
    made: dict[str, Value] = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": scores}
    pieces = [Piece(text, 0.0, kind) for text, kind in zip(words, kinds, strict=True)]
    if [" ".join(pair) for pair in SentencePieceModel(pieces).merges()] != merges:
        made["tokenizer.ggml.merges"] = list[Value](merges)  # their order is not that of the pieces
    return made


# ---- what both have


def _special(tokenizer: Tokenizer) -> dict[str, Value]:
    made: dict[str, Value] = {}
    for name, key in (
        ("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"), ("mask", "mask"), ("sep", "seperator"),
    ):  # fmt: skip
        text = tokenizer.named_token(f"{name}_token")
        number = None if text is None else tokenizer.token_id(text)
        if number is not None:
            made[f"tokenizer.ggml.{key}_token_id"] = number
    plain = tokenizer.encode("a", add_special_tokens=False)
    framed = tokenizer.encode("a")
    bos, eos = made.get("tokenizer.ggml.bos_token_id"), made.get("tokenizer.ggml.eos_token_id")
    begins, ends = framed[:1] == [bos] and plain[:1] != [bos], framed[-1:] == [eos] and plain[-1:] != [eos]
    told = [*([bos] if begins else []), *plain, *([eos] if ends else [])]
    if told != framed:
        raise ConfigError(
            "GGUF cannot tell what this tokenizer puts around texts", where="tokenizer",
            expected="the tokens that begin and end a text", found=f"{framed} for {plain}"[:120],
        )  # fmt: skip
    return {**made, "tokenizer.ggml.add_bos_token": begins, "tokenizer.ggml.add_eos_token": ends}


def _templates(tokenizer: Tokenizer) -> dict[str, Value]:
    found = tokenizer.chat_template
    if isinstance(found, str):
        return {"tokenizer.chat_template": found}
    if not isinstance(found, Mapping):
        return {}
    start = "tokenizer.chat_template"
    return {start if name == "default" else f"{start}.{name}": text for name, text in found.items()}
