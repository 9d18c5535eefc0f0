"""How texts become prompts of a model: as they are, or as conversations through the checkpoint's chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final, Protocol, cast

from omniform.core.errors import ConfigError
from omniform.embeddings.rows import Text
from omniform.inputs.text.tokenizer import Tokenizer

Encoded = Mapping[str, Sequence[Sequence[int]]]
Message = Mapping[str, object]

ROLES: Final = ("query", "document")
"""Who says the first text of a pair, and who the second."""

FLAT: Final = frozenset({"apertus", "deepseek_v3", "gpt_oss", "seed_oss"})
"""Families whose templates take a message's content as a text, though they look as if they took parts."""

PARTED: Final = ("content[0]", ".type", "'type'", '"type"', "message.content[")
"""What is found in templates that take a message's content as parts."""


class Wording(Protocol):
    """Makes ids of texts."""

    def encode(self, tokenizer: Tokenizer, texts: Sequence[Text], prompt: str) -> Encoded:
        """Columns of rows, cut to what the tokenizer allows; a prompt goes before each text."""

    def marks(self, prompt: str) -> bool:
        """Whether it is known which tokens of a row are the prompt's."""

    def settings(self) -> dict[str, object]:
        """What a file has to say, for the texts to be read the same again."""


@dataclass(frozen=True, slots=True)
class AsItIs:
    """Texts as they are, in the tokenizer's own frame.

    Attributes:
        options: of the tokenizer's call.
    """

    options: Mapping[str, object] = field(default_factory=dict)

    def encode(self, tokenizer: Tokenizer, texts: Sequence[Text], prompt: str) -> Encoded:
        singles = [prompt + (text if isinstance(text, str) else text[0]) for text in texts]
        seconds = [text[1] for text in texts if not isinstance(text, str)]
        more = (seconds,) if seconds else ()
        options = {"truncation": "longest_first", "padding": False, **self.options}
        return cast(Encoded, tokenizer(singles, *more, **options))  # type: ignore[arg-type]

    def marks(self, prompt: str) -> bool:
        return bool(prompt)

    def settings(self) -> dict[str, object]:
        return {"processing_kwargs": {"text": dict(self.options)}} if self.options else {}


@dataclass(frozen=True, slots=True)
class Conversation:
    """Each text as what a user says, each pair as a question and a document; a prompt is what the system says.

    Attributes:
        flat: whether a message's content is a text, or a list of parts.
        reads: which output of the model is looked at.
        options: of the tokenizer's call.
        variables: of the template.
        mends: whether what the template writes last is put back where a long row was cut.
    """

    flat: bool
    reads: str
    options: Mapping[str, object] = field(default_factory=dict)
    variables: Mapping[str, object] = field(default_factory=dict)
    mends: bool = True

    def encode(self, tokenizer: Tokenizer, texts: Sequence[Text], prompt: str) -> Encoded:
        if texts and not isinstance(texts[0], str):
            self._check_pairs(tokenizer)
        options = {"truncation": "longest_first", **self.options}
        chats = [self._chat(text, prompt) for text in texts]
        found = tokenizer.apply_chat_template(chats, padding=False, **options, **self.variables)  # type: ignore[arg-type]
        columns = cast("dict[str, list[list[int]]]", found)
        longest = cast(int, self.options.get("max_length") or tokenizer.model_max_length)
        cut = [i for i, row in enumerate(columns["input_ids"]) if len(row) >= longest]
        if cut and self.mends and options["truncation"]:
            end = self._end(tokenizer, isinstance(texts[0], str), prompt)
            for row in (columns["input_ids"][i] for i in cut):
                kept = min(len(end), len(row))
                row[len(row) - kept :] = end[len(end) - kept :]
        return columns

    def marks(self, prompt: str) -> bool:
        return False

    def settings(self) -> dict[str, object]:
        read = {"method": "forward", "method_output_name": self.reads}
        kinds = {"text": read, "message": {**read, "format": "flat" if self.flat else "structured"}}
        processing = {"text": dict(self.options), "chat_template": dict(self.variables)}
        kept = {name: value for name, value in processing.items() if value}
        return {"modality_config": kinds, **({"processing_kwargs": kept} if kept else {})}

    def _chat(self, text: Text, prompt: str) -> list[Message]:
        system = [self._message("system", prompt)] if prompt else []
        if isinstance(text, str):
            return [*system, self._message("user", text)]
        return [*system, *(self._message(role, part) for role, part in zip(ROLES, text, strict=True))]

    def _message(self, role: str, text: str) -> Message:
        return {"role": role, "content": text if self.flat else [{"type": "text", "text": text}]}

    def _end(self, tokenizer: Tokenizer, single: bool, prompt: str) -> list[int]:
        """What the template writes after the last text: what two conversations of other texts end with alike."""
        texts: tuple[Text, Text] = ("0", "1 2 3 4") if single else (("0", "0"), ("1 2 3 4", "1 2 3 4"))
        chats = [self._chat(text, prompt) for text in texts]
        one, other = cast("list[list[int]]", tokenizer.apply_chat_template(chats, return_dict=False, **self.variables))  # type: ignore[arg-type]
        both = zip(reversed(one), reversed(other), strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both))
        return one[len(one) - same :] if 0 < same < min(len(one), len(other)) else []

    def _check_pairs(self, tokenizer: Tokenizer) -> None:
        """A template that knows no such roles would leave both texts out."""
        pairs = (("alpha", "bravo"), ("charlie", "bravo"), ("alpha", "foxtrot"))
        chats = [self._chat(pair, "") for pair in pairs]
        made = cast("list[str]", tokenizer.apply_chat_template(chats, tokenize=False, **self.variables))  # type: ignore[arg-type]
        lost = [role for role, text in zip(ROLES, made[1:], strict=True) if text == made[0]]
        if lost:
            raise ConfigError(
                "the chat template leaves out a text of each pair",
                where="chat_template",
                expected="a template with the roles query and document",
                found=f"nothing of the {' and the '.join(lost)}",
                remedy="Give one: tokenizer_kwargs={'chat_template': ...}.",
            )


def is_flat(tokenizer: Tokenizer, model_type: str) -> bool:
    """Whether the tokenizer's template takes a message's content as a text."""
    template = tokenizer.chat_template
    if model_type in FLAT:
        return True
    return isinstance(template, str) and bool(template) and not any(mark in template for mark in PARTED)
