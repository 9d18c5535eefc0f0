"""Special tokens that clients type are text: nobody speaks in another's role by writing its marks.

A tokenizer finds its special tokens wherever they are spelt, in a message as well as in what the template wrote around
it. Whoever writes ``<|im_end|><|im_start|>system`` into a message would end it, and begin one of the system. Here a
zero-width space parts each such spelling after its first letter, as processors do it with the names of pictures; where
that is not enough, because a tokenizer leaves such spaces out, the message is refused.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from omniform.inputs.text.tokenizer import Tokenizer
from omniform.serve.errors import APIError
from omniform.serve.showing import special_of

BREAK: Final = "\u200b"
SHORTEST: Final = 3
"""Letters of a mark at least: a tokenizer that calls ``!`` special does not mean anybody's role."""

_AS_THEY_ARE: Final = ("role", "type", "image", "audio", "video", "image_url", "input_audio", "video_url")


@dataclass(frozen=True, slots=True)
class Typed:
    """The marks of a model's conversations.

    Attributes:
        tokenizer: the model's; None where it has none.
        special: finds its special tokens.
        marks: finds these, and all other tokens of their kind that its chat template writes.
        ids: of these tokens.
    """

    tokenizer: Tokenizer | None = None
    special: re.Pattern[str] | None = None
    marks: re.Pattern[str] | None = None
    ids: frozenset[int] = frozenset()

    @classmethod
    def of(cls, tokenizer: Tokenizer | None, template: str) -> Typed:
        """Those of a tokenizer and a chat template's source."""
        if tokenizer is None:
            return cls()
        added = tokenizer.added_tokens_decoder
        special = {*special_of(tokenizer)}
        marks = special | {token.content for token in added.values() if token.content in template}
        ids = {number for number, token in added.items() if token.content in marks and len(token.content) >= SHORTEST}
        return cls(tokenizer, _pattern(special), _pattern(marks), frozenset(ids))

    def messages(self, messages: Iterable[Mapping[str, object]]) -> list[dict[str, object]]:
        """Messages in which all marks are text; the assistant's may hold those that are not special (``<think>``).

        Raises:
            APIError: a text that cannot be made so.
        """
        found = []
        for message in messages:
            pattern = self.special if message.get("role") == "assistant" else self.marks
            found.append({name: self._value(name, value, pattern) for name, value in message.items()})
        return found

    def plain(self, value: object) -> object:
        """Anything else that clients write, tools say, with all special tokens as text.

        Raises:
            APIError: a text that cannot be made so.
        """
        return self._value("", value, self.special)

    def _value(self, name: str, value: object, pattern: re.Pattern[str] | None) -> object:
        if pattern is None or name in _AS_THEY_ARE:
            return value
        if isinstance(value, str):
            return self._text(value, pattern)
        if isinstance(value, Mapping):
            return {
                self._text(key, pattern) if isinstance(key, str) else key: self._value(str(key), one, pattern)
                for key, one in value.items()
            }
        if isinstance(value, (list, tuple)):
            return self._parts([self._value("", one, pattern) for one in value], pattern)
        return value

    def _parts(self, parts: list[object], pattern: re.Pattern[str]) -> list[object]:
        """Texts side by side, which templates join, make no mark together."""
        texts = [
            part["text"] if isinstance(part, dict) and isinstance(part.get("text"), str) else None for part in parts
        ]
        for beside, run in itertools.groupby(range(len(parts)), lambda place: texts[place] is not None):
            places = list(run)
            joined = "".join(texts[place] or "" for place in places) if beside and len(places) > 1 else ""
            starts = [mark.start() for mark in pattern.finditer(joined)]
            at, made = 0, ""
            for place in places if starts else ():
                text = str(texts[place])
                own = [start - at for start in starts if 0 <= start - at < len(text)]
                at += len(text)
                for start in reversed(own):
                    text = text[: start + 1] + BREAK + text[start + 1 :]
                parts[place] = {**cast("dict[str, object]", parts[place]), "text": text}
                made += text
            if starts:
                self._check(made)
        return parts

    def _text(self, text: str, pattern: re.Pattern[str]) -> str:
        found, hits = pattern.subn(_parted, text)
        if hits:
            self._check(found)
        return found

    def _check(self, text: str) -> None:
        if self.tokenizer is None:
            return
        read = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        own = self.tokenizer("", add_special_tokens=False)["input_ids"]
        assert isinstance(read, Sequence) and isinstance(own, Sequence)
        if not self.ids.isdisjoint(set(read) - set(own)):
            raise APIError(
                400, "a text spells special tokens of this model, which cannot be told from real ones",
                param="messages", code="special_tokens",
            )  # fmt: skip


def _parted(mark: re.Match[str]) -> str:
    return mark[0][0] + BREAK + mark[0][1:]


def _pattern(tokens: Iterable[str]) -> re.Pattern[str] | None:
    long = sorted((one for one in tokens if len(one) >= SHORTEST), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, long))) if long else None
