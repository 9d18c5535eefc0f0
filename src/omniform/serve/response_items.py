"""A response in OpenAI's words: the items that a model's answer becomes, and the events that tell of them."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field

from omniform.engine.request import Completion, Piece
from omniform.inputs.replies.events import CallArguments, CallBegun, CallEnded, Content, Event, Reasoning
from omniform.serve.accounts import refused_with
from omniform.serve.errors import api_error
from omniform.serve.response_wire import Item, ResponseRequest, TextFormat
from omniform.serve.spoken import Spoken
from omniform.serve.streams import Events
from omniform.serve.writing import logprob_of


def _name(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


Told = dict[str, object]


@dataclass(slots=True)
class Open:
    """The item that is being written.

    Attributes:
        item: as it will stand in the answer.
        kind: ``message``, ``reasoning`` or ``function_call``.
        text: so far.
        likely: how likely its tokens were, where it is asked for.
        place: among the answer's items.
    """

    item: Item
    kind: str
    place: int
    text: str = ""
    likely: list[Told] = field(default_factory=list)

    @property
    def where(self) -> Told:
        """What every event says of it."""
        return {"item_id": self.item["id"], "output_index": self.place}

    def part(self, text: str) -> Told:
        """Its content."""
        if self.kind == "message":
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": [*self.likely]}
        return {"type": "reasoning_text", "text": text}


@dataclass(slots=True)
class Answer:
    """A response in the making.

    Attributes:
        spoken: what the model says.
        asked: what was asked for.
        ident: its name.
        created: when it was begun, in seconds since 1970.
        items: its items, once they are whole.
    """

    spoken: Spoken
    asked: ResponseRequest
    ident: str = field(default_factory=lambda: _name("resp"))
    created: int = field(default_factory=lambda: int(time.time()))
    items: list[Item] = field(default_factory=list)
    status: str = "in_progress"
    _completion: Completion | None = None
    _open: Open | None = None
    _number: int = 0
    _likely: list[Told] = field(default_factory=list)

    async def whole(self) -> Told:
        """The response when it is whole."""
        async for _ in self._told():
            pass
        return self.told()

    async def events(self, keep: Callable[[], None]) -> Events:
        """The response event by event; ``keep`` is called when it is whole."""
        try:
            for kind in ("response.created", "response.in_progress"):
                yield self._event(kind, response=self.told())
            async for event in self._told():
                yield event
        except Exception as error:
            self.status = "failed"
            wrong = api_error(error)
            refused_with(wrong.code)
            told = {"code": wrong.code or "server_error", "message": wrong.message}
            yield self._event("response.failed", response={**self.told(), "error": told})
            return
        keep()
        yield self._event(f"response.{self.status}", response=self.told())

    async def _told(self) -> AsyncIterator[Told]:
        """What happens, as it does."""
        async for said in self.spoken.said():
            self._likely += self._told_likely(said.piece)
            for event in said.events:
                for told in self._heard(event):
                    yield told
        for told in self._closed():
            yield told
        self._completion = await self.spoken.completion()
        (one,) = self._completion.sequences
        self.status = "incomplete" if one.finish_reason == "length" else "completed"

    def _heard(self, event: Event) -> Iterator[Told]:
        match event:
            case Reasoning(text) if text:
                yield from self._more("reasoning", text)
            case Content(text) if text and (text.strip() or self._writes("message")):
                yield from self._more("message", text)
            case CallBegun(_, ident, name):
                self._likely.clear()
                yield from self._closed()
                call: Item = {"id": _name("fc"), "type": "function_call", "call_id": ident, "name": name}
                yield from self._opened("function_call", {**call, "arguments": "", "status": "in_progress"})
            case CallArguments(_, text) if text and self._open is not None:
                self._open.text += text
                yield self._event("response.function_call_arguments.delta", **self._open.where, delta=text)
            case CallEnded():
                yield from self._closed()

    def _told_likely(self, piece: Piece | None) -> list[Told]:
        """How likely a token was; one that comes to no text of its own is told with the next."""
        if piece is None or piece.logprob is None:
            return []
        return [logprob_of(self.spoken.use.loaded.spelling.pieces, piece.logprob, self.asked.top_logprobs or 0)]

    def _writes(self, kind: str) -> bool:
        return self._open is not None and self._open.kind == kind

    def _more(self, kind: str, text: str) -> Iterator[Told]:
        """More of a message or of a thought."""
        if not self._writes(kind):
            yield from self._closed()
            if kind == "message":
                item: Item = {"id": _name("msg"), "type": kind, "role": "assistant", "content": []}
            else:
                item = {"id": _name("rs"), "type": kind, "summary": [], "content": []}
            yield from self._opened(kind, {**item, "status": "in_progress"})
        assert self._open is not None
        self._open.text += text
        name = "response.output_text.delta" if kind == "message" else "response.reasoning_text.delta"
        likely, self._likely = self._likely, []
        self._open.likely += likely if kind == "message" else []
        more: Told = {"logprobs": likely} if kind == "message" else {}
        yield self._event(name, **self._open.where, content_index=0, delta=text, **more)

    def _opened(self, kind: str, item: Item) -> Iterator[Told]:
        self._open = one = Open(item, kind, len(self.items))
        yield self._event("response.output_item.added", output_index=one.place, item=dict(item))
        if kind != "function_call":
            yield self._event("response.content_part.added", **one.where, content_index=0, part=one.part(""))

    def _closed(self) -> Iterator[Told]:
        one, self._open = self._open, None
        if one is None:
            return
        one.item["status"] = "completed"
        if one.kind == "function_call":
            one.item["arguments"] = one.text
            name = one.item["name"]
            yield self._event("response.function_call_arguments.done", **one.where, name=name, arguments=one.text)
        else:
            part = one.part(one.text)
            one.item["content"] = [part]
            kind = "output_text" if one.kind == "message" else "reasoning_text"
            more: Told = {"logprobs": part["logprobs"]} if one.kind == "message" else {}
            yield self._event(f"response.{kind}.done", **one.where, content_index=0, text=one.text, **more)
            yield self._event("response.content_part.done", **one.where, content_index=0, part=part)
        self.items.append(one.item)
        yield self._event("response.output_item.done", output_index=one.place, item=one.item)

    def _event(self, kind: str, **told: object) -> Told:
        number, self._number = self._number, self._number + 1
        return {"type": kind, "sequence_number": number, **told}

    def told(self) -> Told:
        """The response as it stands."""
        asked = self.asked
        choice = asked.tool_choice or "auto"
        form = TextFormat() if asked.text is None else asked.text.format
        cut = self.status == "incomplete"
        return {
            "id": self.ident,
            "object": "response",
            "created_at": self.created,
            "status": self.status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": self.spoken.use.name,
            "output": [*self.items],
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": asked.previous_response_id,
            "reasoning": {"effort": asked.effort, "summary": None},
            "store": asked.store is not False,
            "temperature": asked.temperature,
            "text": {"format": form.model_dump(by_alias=True, exclude_none=True)},
            "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
            "tools": [tool.model_dump() for tool in asked.tools or ()],
            "top_logprobs": asked.top_logprobs or 0,
            "top_p": asked.top_p,
            "truncation": asked.truncation or "disabled",
            "usage": self._usage(),
            "user": asked.user,
        }

    def _usage(self) -> Mapping[str, object] | None:
        done = self._completion
        if done is None:
            return None
        written = sum(len(one.tokens) for one in done.sequences)
        return {
            "input_tokens": done.prompt_tokens,
            "input_tokens_details": {"cached_tokens": done.cached_tokens},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": sum(self.spoken.reasoning.values())},
            "total_tokens": done.prompt_tokens + written,
        }
