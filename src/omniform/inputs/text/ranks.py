"""Vocabularies of bytes that are listed by rank: tiktoken's files, and Mistral's ``tekken.json``.

A tiktoken file has a line for each token, its bytes in base64 and its rank
(https://github.com/openai/tiktoken/blob/main/tiktoken/load.py). Which tokens join follows from the ranks: every
split of a token into two others is a merge, of the token's rank. How texts are split before is not in the file.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from omniform.core.errors import ConfigError
from omniform.inputs.text.ids import shown
from omniform.inputs.text.sentencepiece import MOST_PIECES, MOST_WORK
from omniform.inputs.text.settings import Settings, check_size, read_text
from omniform.inputs.text.special import Token

_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\s*")
# https://github.com/meta-llama/llama3/blob/main/llama/tokenizer.py
LLAMA_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_FILLER = "<SPECIAL_{}>"
_RESERVED = "<|reserved_token_{}|>"


@dataclass(frozen=True, slots=True)
class Ranks:
    """Tokens by rank.

    Attributes:
        tokens: their bytes and their ids.
        pattern: what splits texts.
        first: special tokens with the ids from 0.
        last: special tokens behind all others.
    """

    tokens: dict[bytes, int]
    pattern: str
    first: list[str] = field(default_factory=list)
    last: list[Token] = field(default_factory=list)


def is_tiktoken(path: Path) -> bool:
    """Whether a file's first line is one of tiktoken's."""
    check_size(path)
    with path.open("rb") as file:
        return _LINE.fullmatch(file.readline(4096)) is not None


def read_tiktoken(path: Path, settings: Settings) -> Ranks:
    """A tiktoken file, with the special tokens that the settings name behind its own.

    Raises:
        ConfigError: a line is malformed, or an id lies absurdly far behind the vocabulary.
    """
    tokens: dict[bytes, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line:
            continue
        coded, _, rank = line.partition(" ")
        try:
            tokens[base64.b64decode(coded, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise _damaged(f"{path}, line {number}", line, "bytes in base64 and a rank") from error
    return Ranks(_checked(tokens, path), LLAMA_PATTERN, last=_behind(tokens, settings))


def _behind(tokens: Mapping[bytes, int], settings: Settings) -> list[Token]:
    """The special tokens behind a vocabulary, by their ids where those are known, with fillers between them."""
    more = [*(settings.extra or []), *settings.specific.values()]
    last = max(settings.added, default=0)
    if last < len(tokens):
        return more
    if last > MOST_PIECES:
        raise ConfigError("an added token lies absurdly far behind the vocabulary", where=settings.where, found=last)
    listed: list[Token] = [
        settings.added[index].content if index in settings.added else _RESERVED.format(index)
        for index in range(len(tokens), last + 1)
    ]
    return [*listed, *(token for token in more if str(token) not in listed)]


def read_tekken(path: Path) -> Ranks:
    """A ``tekken.json``.

    Raises:
        ConfigError: it is malformed.
    """
    try:
        raw = json.loads(read_text(path))
        config, vocabulary, special = raw["config"], raw["vocab"], raw.get("special_tokens")
        pattern, size, count = (
            config["pattern"],
            config.get("default_vocab_size"),
            config.get("default_num_special_tokens"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, error, "'config' with a 'pattern', 'vocab' and 'special_tokens'") from error
    if special is None:
        raise ConfigError(
            "the file lists no special tokens, as the first ones did",
            where=str(path),
            expected="special_tokens",
            remedy="The repository's tokenizer.json holds them.",
        )
    try:
        names = [str(entry["token_str"]) for entry in sorted(special, key=lambda entry: int(entry["rank"]))]
        if sorted(int(entry["rank"]) for entry in special) != list(range(len(names))):
            raise ValueError("their ranks do not count from 0")
        first = names + [
            _FILLER.format(index) for index in range(len(names), len(names) if count is None else int(count))
        ]
        kept = vocabulary if size is None else vocabulary[: int(size) - len(first)]
        tokens = {base64.b64decode(entry["token_bytes"], validate=True): rank for rank, entry in enumerate(kept)}
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise _damaged(
            path, error, "tokens with 'token_bytes' in base64, special ones with 'rank' and 'token_str'"
        ) from error
    if not isinstance(pattern, str) or len(first) > MOST_PIECES:
        raise _damaged(path, pattern, "a pattern that is text")
    return Ranks({token: rank + len(first) for token, rank in _checked(tokens, path).items()}, pattern, first=first)


def assemble_ranks(ranks: Ranks, prefix: bool = False) -> Tokenizer:
    """The tokenizer of ranks; what is a token as a whole is never joined from others.

    Args:
        prefix: whether a space is put before each text.
    """
    spelled = {token: _spelled(token) for token in ranks.tokens}
    vocabulary = {**{spelled[token]: index for token, index in ranks.tokens.items()}}
    vocabulary.update((token, index) for index, token in enumerate(ranks.first))
    merges = [(spelled[left], spelled[right]) for left, right in _merges(ranks.tokens)]
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges, fuse_unk=False, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(ranks.pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special: list[AddedToken] = [AddedToken(token, special=True) for token in ranks.first]
    special += [AddedToken(str(token), normalized=False, special=True) for token in ranks.last]
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    found = [
        (rank, ranks[token[:cut]], ranks[token[cut:]], token, cut)
        for token, rank in ranks.items()
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
    found.sort(key=lambda merge: merge[:3])
    return [(token[:cut], token[cut:]) for _, _, _, token, cut in found]


def _checked(tokens: dict[bytes, int], path: Path) -> dict[bytes, int]:
    work = sum(len(token) ** 2 for token in tokens)
    if not tokens or len(tokens) > MOST_PIECES or work > MOST_WORK:
        raise ConfigError(
            "the vocabulary is no tokenizer's",
            where=str(path),
            expected=f"up to {MOST_PIECES} tokens, of lengths whose squares sum to {MOST_WORK}",
            found=f"{len(tokens)} tokens, {work}",
        )
    return tokens


def _damaged(where: object, found: object, expected: str) -> ConfigError:
    return ConfigError("the vocabulary is malformed", where=str(where), expected=expected, found=shown(found))


_PLAIN = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PLAIN]
# GPT-2's printable character for each byte.
_SPELLING = {byte: chr(byte) for byte in _PLAIN} | {byte: chr(256 + index) for index, byte in enumerate(_OTHERS)}


def byte_order() -> list[str]:
    """The printable characters of the bytes, in the order in which GPT-2 and CLIP number them."""
    return list(_SPELLING.values())


def _spelled(token: bytes) -> str:
    return "".join(_SPELLING[byte] for byte in token)
