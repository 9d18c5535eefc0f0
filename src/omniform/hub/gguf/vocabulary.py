"""From a GGUF file's list of tokens to a tokenizer's files: ``tokenizer.json`` and ``tokenizer_config.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from omniform.core.errors import ConfigError, nearest
from omniform.hub.gguf.facts import Facts
from omniform.hub.gguf.splits import SPLITS, Split
from omniform.inputs.text.backend import guarded
from omniform.inputs.text.sentencepiece import MOST_PIECES, Piece, SentencePieceModel

NORMAL, UNKNOWN, CONTROL, USER = 1, 2, 3, 4
"""Types of tokens: those that texts are made of, the one for what cannot be written, special ones, and those that are
no special ones but never cut."""

_SPACE: Final = "▁"
_GEMMA: Final = ("gemma", "gemma2", "gemma3")


@dataclass(frozen=True, slots=True)
class Words:
    """A file's tokens.

    Attributes:
        texts: every token.
        kinds: the type of each.
        where: the file.
    """

    texts: list[str]
    kinds: list[int]
    where: str

    @property
    def added(self) -> list[AddedToken]:
        """Those that texts are never cut in, in order."""
        return [
            AddedToken(text, normalized=False, special=kind != USER)
            for text, kind in zip(self.texts, self.kinds, strict=True)
            if kind in (UNKNOWN, CONTROL, USER)
        ]

    @property
    def ids(self) -> dict[str, int]:
        """Tokens and their numbers; of two that are the same, the first."""
        return {text: len(self.texts) - 1 - i for i, text in enumerate(reversed(self.texts))}


def tokenizer_json(facts: Facts) -> str:
    """What ``tokenizer.json`` would hold.

    Raises:
        ConfigError: the file has no tokens, or a tokenizer of a kind or with a way of cutting texts that is not known.
    """
    kind = facts.text("tokenizer.ggml.model")
    words = _words(facts)
    with guarded("the file's tokens do not make a tokenizer", ConfigError, facts.where):
        if kind == "gpt2":
            made = _bytes(facts, words)
        elif kind == "llama":
            made = _pieces(facts, words)
        else:
            raise ConfigError(
                "tokenizers of this kind are not read",
                where=f"{facts.where}: tokenizer.ggml.model",
                expected="gpt2 or llama",
                found=kind,
            )
        made.add_tokens(words.added)
        frame = _frame(facts, words, made)
        if frame is not None:
            made.post_processor = frame
        return made.to_str()


def _frame(facts: Facts, words: Words, made: Tokenizer) -> processors.PostProcessor | None:
    """What stands before and behind a text."""
    ends: dict[str, str] = {}
    begins = facts.text("tokenizer.ggml.model") == "llama" or _split(facts).begins
    for name, default in (("bos", begins), ("eos", False)):
        number = facts.metadata.get(f"tokenizer.ggml.{name}_token_id")
        flag = facts.metadata.get(f"tokenizer.ggml.add_{name}_token", default)
        if flag is True and type(number) is int and 0 <= number < len(words.texts):
            ends[name] = words.texts[number]
    if not ends:
        return None
    tokens = [(text, made.token_to_id(text)) for text in dict.fromkeys(ends.values())]
    first, last = ([ends[name]] if name in ends else [] for name in ("bos", "eos"))
    single = [*(f"{text}:0" for text in first), "$A:0", *(f"{text}:0" for text in last)]
    second = [*(f"{text}:1" for text in first), "$B:1", *(f"{text}:1" for text in last)]
    return processors.TemplateProcessing(single=single, pair=[*single, *second], special_tokens=tokens)


def tokenizer_config(facts: Facts) -> dict[str, object]:
    """What ``tokenizer_config.json`` would hold."""
    words = _words(facts)
    made: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name, key in (
        ("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"), ("mask", "mask"), ("sep", "seperator"),
    ):  # fmt: skip
        number = facts.metadata.get(f"tokenizer.ggml.{key}_token_id")
        if type(number) is int and 0 <= number < len(words.texts):
            made[f"{name}_token"] = words.texts[number]
    if facts.has("context_length"):
        made["model_max_length"] = facts.integer("context_length")
    templates = _templates(facts)
    if len(templates) == 1 and "default" in templates:
        made["chat_template"] = templates["default"]
    elif templates:
        made["chat_template"] = [{"name": name, "template": text} for name, text in templates.items()]
    return made


def _templates(facts: Facts) -> dict[str, str]:
    start = "tokenizer.chat_template"
    return {
        key.removeprefix(start).lstrip(".") or "default": text
        for key, text in facts.metadata.items()
        if (key == start or key.startswith(f"{start}.")) and isinstance(text, str)
    }


def _words(facts: Facts) -> Words:
    texts = facts.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ConfigError("the file holds no tokens", where=facts.where, expected="tokenizer.ggml.tokens, of texts")
    kinds = facts.metadata.get("tokenizer.ggml.token_type", [NORMAL] * len(texts))
    if not isinstance(kinds, list) or len(kinds) != len(texts):
        raise facts.fail("tokenizer.ggml.token_type", f"{len(texts)} numbers", kinds)
    # What is no UTF-8 no text can hold: such tokens are told apart, and never found.
    told = [str(text).encode("utf-8", "surrogateescape").decode("utf-8", "replace") for text in texts]
    return Words(told, [kind if type(kind) is int else NORMAL for kind in kinds], facts.where)


# ---- byte pairs


def _split(facts: Facts) -> Split:
    name = facts.text("tokenizer.ggml.pre", "default")
    if name not in SPLITS:
        raise ConfigError(
            "this way of cutting texts is not known",
            where=f"{facts.where}: tokenizer.ggml.pre",
            found=name,
            remedy=nearest(name, SPLITS),
        )
    return SPLITS[name]


def _bytes(facts: Facts, words: Words) -> Tokenizer:
    """Byte pairs over bytes, each written as a printable character."""
    split = _split(facts)
    merges = facts.metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list) or not all(isinstance(pair, str) for pair in merges):
        raise facts.fail("tokenizer.ggml.merges", "pairs of tokens", merges)
    pairs = [_pair(str(pair), words.where) for pair in merges]
    model = BPE(vocab=words.ids, merges=pairs, fuse_unk=False, ignore_merges=split.whole)
    tokenizer = Tokenizer(model)
    steps: list[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in split.patterns
    ]
    prefix = facts.metadata.get("tokenizer.ggml.add_space_prefix") is True
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pair(text: str, where: str) -> tuple[str, str]:
    left, space, right = text.partition(" ")
    if not (left and space and right) or " " in right:
        raise ConfigError("a merge is a pair of tokens", where=f"{where}: tokenizer.ggml.merges", found=f"{text!r:.80}")
    return left, right


# ---- sentencepiece


def _pieces(facts: Facts, words: Words) -> Tokenizer:
    """Sentencepiece's byte pairs: ``▁`` for a space, what no piece holds as bytes."""
    if len(words.texts) > MOST_PIECES:
        raise facts.fail("tokenizer.ggml.tokens", f"at most {MOST_PIECES} tokens", len(words.texts))
    gemma = facts.architecture in _GEMMA
    if gemma:  # whose runs of spaces are written as spaces
        spaces = {text for text in words.texts if len(text) > 1 and not text.strip(" ")}
        words = Words([_SPACE * len(t) if t in spaces else t for t in words.texts], words.kinds, words.where)
    pieces = [Piece(text, 0.0, kind) for text, kind in zip(words.texts, words.kinds, strict=True)]
    merges = _given_merges(facts, words.where) or SentencePieceModel(pieces).merges()
    unknown = facts.metadata.get("tokenizer.ggml.unknown_token_id")
    named = words.texts[unknown] if type(unknown) is int and 0 <= unknown < len(words.texts) else None
    model = BPE(vocab=words.ids, merges=merges, fuse_unk=True, byte_fallback=True, unk_token=named)
    tokenizer = Tokenizer(model)
    prefix = facts.metadata.get("tokenizer.ggml.add_space_prefix", not gemma) is True
    if gemma:
        tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern=" ", behavior="merged_with_previous")
    elif facts.architecture == "phi3":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    else:
        scheme = "first" if prefix else "never"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme, split=False)
    steps: list[decoders.Decoder] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, *([decoders.Strip(content=" ", left=1)] if prefix else [])])
    return tokenizer


def _given_merges(facts: Facts, where: str) -> Sequence[tuple[str, str]]:
    merges = facts.metadata.get("tokenizer.ggml.merges")
    return [_pair(str(pair), where) for pair in merges] if isinstance(merges, list) else []
