"""A chat model's answer in the making: what it thinks, says and calls, as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from torch import Tensor

from omniform.engine.guide import Guide
from omniform.engine.handle import Handle
from omniform.engine.request import Completion, Piece
from omniform.inputs.replies.events import CallArguments, CallBegun, CallBroken, CallEnded, Content, Event, Reasoning
from omniform.inputs.replies.format import ReplyFormat
from omniform.inputs.replies.grammar import Choice, reply_grammar
from omniform.inputs.replies.messages import for_template
from omniform.inputs.replies.reader import Reader as ReplyReader
from omniform.serve.accounts import follow
from omniform.serve.desk import Desk, Use
from omniform.serve.errors import APIError
from omniform.serve.messages import messages_of
from omniform.serve.threads import in_thread
from omniform.serve.typed import Typed
from omniform.serve.wire import Message

NO_VARIABLES = frozenset(
    ("conversation", "messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message")
).union(
    ("tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict", "media_access", "text"),
    ("return_assistant_tokens_mask", "images", "audio", "videos"),
)
"""What a client may not say to those who render its conversation: it has fields of its own, or is the server's."""

PROMPT_END = 32
"""Tokens of a prompt's end that say whether the answer begins inside of reasoning."""


@dataclass(frozen=True, slots=True)
class Said:
    """What one token added.

    Attributes:
        sequence: to which of the answers.
        events: of what is thought, said and called; calls come whole.
        piece: the token; None where an answer has ended.
    """

    sequence: int
    events: list[Event]
    piece: Piece | None


@dataclass(slots=True)
class Spoken:
    """A chat's answer.

    Attributes:
        use: the model.
        handle: of the engine's request.
        format: how the model writes answers.
        prompt_end: the end of the prompt.
        tools: what may be called.
        answers: how many answers are written.
        reasoning: tokens that were thought, by answer.
    """

    use: Use
    handle: Handle
    format: ReplyFormat
    prompt_end: str
    tools: Sequence[Mapping[str, object]]
    answers: int
    reasoning: dict[int, int] = field(default_factory=dict)

    async def said(self) -> AsyncIterator[Said]:
        """The answer, token by token."""
        readers = [ReplyReader(self.format, self.prompt_end, self.tools or None) for _ in range(self.answers)]
        held = [WholeCalls() for _ in readers]
        async for piece in self.handle:
            at = piece.sequence
            events = readers[at].feed(piece.text)
            if events and all(isinstance(event, Reasoning) for event in events):
                self.reasoning[at] = self.reasoning.get(at, 0) + 1
            yield Said(at, held[at].passed(events), piece)
        for at, reader in enumerate(readers):
            yield Said(at, held[at].passed(reader.end()), None)

    async def completion(self) -> Completion:
        """The engine's own account, when the answer is whole."""
        return await self.handle


class WholeCalls:
    """Holds calls back until they are whole: a client that has seen a call's beginning may make it."""

    def __init__(self) -> None:
        self._held: dict[int, list[Event]] = {}
        self._whole = 0

    def passed(self, events: Sequence[Event]) -> list[Event]:
        """What may be shown now; calls are counted anew, since some may turn out to be none."""
        shown: list[Event] = []
        for event in events:
            match event:
                case CallBegun(index, _, _):
                    self._held[index] = [event]
                case CallArguments(index, _):
                    self._held[index].append(event)
                case CallEnded(index):
                    begun, *more = self._held.pop(index)
                    assert isinstance(begun, CallBegun)
                    text = "".join(one.text for one in more if isinstance(one, CallArguments))
                    shown += [
                        CallBegun(self._whole, begun.id, begun.name),
                        CallArguments(self._whole, text),
                        CallEnded(self._whole),
                    ]
                    self._whole += 1
                case CallBroken(index, text):
                    self._held.pop(index, None)
                    shown.append(Content(text))
                case _:
                    shown.append(event)
        return shown


async def speak(
    use: Use,
    desk: Desk,
    messages: Sequence[Message],
    settings: Mapping[str, object],
    *,
    tools: Sequence[Mapping[str, object]] = (),
    choice: Choice = "auto",
    parallel: bool = True,
    template: Mapping[str, object] | None = None,
    priority: int = 0,
    answers: int = 1,
) -> Spoken:
    """Have a model answer a conversation.

    Args:
        messages: a conversation in OpenAI's words.
        settings: of the engine.
        tools: that may be called.
        choice: which of them is.
        parallel: whether several may be at once.
        template: further variables of the chat template.

    Raises:
        APIError: the model does not write, or has no chat template; a part of a message that nobody can read.
        OmniformError: a conversation that its template or processor refuses.
    """
    engine = use.loaded.writes()
    reader = use.loaded.reader
    if not reader.chat_template:
        raise APIError(400, "this model has no chat template", param="messages", code="no_chat_template")
    loaded = use.loaded
    shown = [] if choice == "none" else tools
    check_variables(template or {})

    def begin() -> Spoken:
        typed = Typed() if desk.config.typed_tokens else loaded.typed
        options = {**cast("dict[str, object]", typed.plain(template or {}))}
        if shown:
            options["tools"] = typed.plain(list(shown))
        batch = reader.apply_chat_template(
            typed.messages(for_template(messages_of(messages, desk), loaded.template)),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            media_access=desk.media,
            **options,
        )
        assert isinstance(batch, Mapping)
        ids = cast(Tensor, batch["input_ids"])[0, -PROMPT_END:].tolist()
        end = str(reader.decode(ids, skip_special_tokens=False))
        guided = dict(settings)
        if tools or choice not in ("auto", "none"):
            special = loaded.spelling.special
            grammar = reply_grammar(loaded.form, tools, choice, parallel=parallel, prompt_end=end, special=special)
            if grammar is not None:
                guided["guide"] = Guide.lark(grammar)
        showing = loaded.spelling.showing
        handle = engine.submit(batch, priority=use.priority(priority), reader=showing, **guided)
        follow(handle)
        return Spoken(use, handle, loaded.form, end, shown, answers)

    return await in_thread(begin, lambda made: made.handle.cancel())


def check_variables(template: Mapping[str, object]) -> None:
    """Refuse what are no variables of a template, but orders to whoever renders it.

    Raises:
        APIError: one of them, by its name.
    """
    for name in template:
        if name in NO_VARIABLES or name.endswith("_kwargs") or not name.isidentifier():
            where = f"chat_template_kwargs.{name!r:.80}"
            raise APIError(400, f"{where}: this is no variable of a template", param=where, code="invalid_value")
