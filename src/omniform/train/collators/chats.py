"""Conversations, with pictures and sounds or without: the assistant's answers are what is learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.inputs.processors import Processor
from omniform.inputs.processors.chat import assistant_masks, read_chats
from omniform.inputs.processors.media import Media
from omniform.inputs.text.chat import ChatOptions, Message, choose_template, render_chats
from omniform.inputs.text.encoding import BatchEncoding
from omniform.inputs.text.template import Prompt
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.train.collators.mixin import Example, Kind
from omniform.train.collators.multimodal import Lengths, Reads, Task, read_column

IGNORED = -100


@dataclass(frozen=True, slots=True)
class ChatAnswers(Task):
    """Conversations, of which the assistant's words are learned: the labels are its tokens, and -100 everywhere else.

    Where the template marks them (``{% generation %}``), these are they; otherwise what the template writes for an
    answer after what it writes to ask for one, the end of the turn included.

    Attributes:
        messages: the column of messages.
        images: the column of pictures that parts without a source stand for (``{"type": "image"}``); ignored where
            examples have none.
        all_text: learn all that is written, not the answers alone; placeholders and padding never.
    """

    messages: str = "messages"
    images: str = "images"
    all_text: bool = False

    def batch(self, processor: Reads, examples: Sequence[Example], lengths: Lengths, kind: Kind) -> dict[str, object]:
        if not isinstance(processor, (Processor, Tokenizer)):
            raise InputError("this reads no conversations", where="processor", found=type(processor).__name__)
        conversations = [
            self._with_images(example, given)
            for example, given in zip(examples, read_column(self.messages, examples), strict=True)
        ]
        chats, media, _ = read_chats(conversations)
        prompts = _rendered(processor, chats)
        encoded = _encoded(processor, prompts, media, lengths)
        ids = np.array(encoded["input_ids"])
        if self.all_text:
            keep = np.array(encoded["attention_mask"], dtype=bool)
        else:
            marked = [_marked(processor, *pair) for pair in zip(prompts, chats, range(len(chats)), strict=True)]
            keep = np.array(assistant_masks(marked, encoded), dtype=bool)
        if isinstance(processor, Processor) and processor.placeholder is not None:
            keep &= ids != processor.tokenizer.token_id(processor.placeholder)
        made: dict[str, object] = {**encoded, "labels": np.where(keep, ids, IGNORED)}
        return Batch(made, spans=encoded.spans).as_tensors(kind)

    def _with_images(self, example: Example, messages: object) -> object:
        """The messages, with the pictures of a column of their own in the places that are kept for them."""
        given = example.get(self.images)
        if given is None or not isinstance(messages, (list, tuple)):
            return messages
        pictures = iter(given if isinstance(given, (list, tuple)) else [given])
        return [_filled(message, pictures) for message in messages]


def _filled(message: object, pictures: Iterator[object]) -> object:
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(message, Mapping) or not isinstance(content, (list, tuple)):
        return message
    parts = []
    for part in content:
        if isinstance(part, Mapping) and part.get("type") == "image" and not any(part.get(key) for key in _SOURCES):
            part = {"type": "image", "image": next(pictures, None)}
        parts.append(part)
    return {**message, "content": parts}


_SOURCES = ("image", "url", "path", "base64", "image_url")


def _tokenizer(processor: Processor | Tokenizer) -> Tokenizer:
    return processor.tokenizer if isinstance(processor, Processor) else processor


def _placeholder(processor: Processor | Tokenizer) -> str | None:
    return processor.placeholder if isinstance(processor, Processor) else None


def _rendered(processor: Processor | Tokenizer, chats: Sequence[list[Message]], *, ask: bool = False) -> list[Prompt]:
    template = choose_template(processor.chat_template, None, False)
    variables = _tokenizer(processor).special_tokens_map
    return render_chats(template, chats, ChatOptions(add_generation_prompt=ask, variables=variables, track=not ask))


def _encoded(
    processor: Processor | Tokenizer, prompts: Sequence[Prompt], media: Sequence[Media], lengths: Lengths
) -> BatchEncoding:
    options = lengths.options()
    if isinstance(processor, Processor):
        return cast(BatchEncoding, processor.encode_chats(prompts, media, True, options))
    if any(chat.images or chat.audio for chat in media):
        raise InputError("a tokenizer reads no pictures and no sounds", where="messages", remedy="Pass the processor.")
    bos = processor.bos_token
    texts = [prompt.text for prompt in prompts]
    framed = bos is None or not texts[0].startswith(bos)
    return processor(texts, add_special_tokens=framed, **options)  # type: ignore[arg-type]


def _marked(processor: Processor | Tokenizer, prompt: Prompt, chat: list[Message], row: int) -> Prompt:
    """The prompt, with the characters of the assistant's answers."""
    if prompt.generated:
        return prompt
    turns = [index for index, message in enumerate(chat) if message.get("role") == "assistant"]
    if not turns:
        raise InputError(
            "nobody answers in this conversation, so that nothing can be learned of it",
            where=f"example {row} of the batch",
            expected="a message with the role 'assistant'",
            found=[message.get("role") for message in chat],
        )
    return Prompt(prompt.text, tuple(_answer(processor, prompt.text, chat, turn, row) for turn in turns))


def _answer(processor: Processor | Tokenizer, text: str, chat: list[Message], turn: int, row: int) -> tuple[int, int]:
    """The characters of one answer: those after what asks for it, up to where the conversation goes on."""
    (asked,) = _rendered(processor, [chat[:turn]], ask=True) if turn else [Prompt("")]
    (answered,) = _rendered(processor, [chat[: turn + 1]])
    end = _common(answered.text, text)
    if turn and text.startswith(asked.text) and len(asked.text) < end:
        return len(asked.text), end
    # The template asks in other words than it reports (or cuts spaces): the words themselves are looked for.
    words = chat[turn].get("content")
    begin = _common(asked.text, text)
    found = text.find(words, begin) if isinstance(words, str) and words else -1
    if found < 0:
        raise InputError(
            "the assistant's answer cannot be found in what the template wrote",
            where=f"example {row} of the batch, message {turn}",
            remedy="Mark answers in the chat template: {% generation %}...{% endgeneration %}.",
        )
    return found, max(end, found + len(cast(str, words)))


def _common(first: str, second: str) -> int:
    """How many characters two texts begin with alike."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count
