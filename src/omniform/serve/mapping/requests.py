"""Requests of OpenAI's API, as its batches have them, answered by the server's own doors without a network.

Source: https://platform.openai.com/docs/guides/batch
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, MutableMapping, Sequence
from typing import cast

from fastapi import FastAPI

from omniform.serve.app import create_app
from omniform.serve.config import Limits, ModelSource, ServeConfig
from omniform.serve.mapping.job import Job, Record
from omniform.serve.mapping.lines import Told

SEEDED = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
"""Doors whose answers are drawn."""

ASIDE = "omniform map"
"""Whose requests these are."""


class Requests:
    """Answers requests with a server of its own in this process."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._loop = asyncio.new_event_loop()
        source = ModelSource(name=job.model, source=job.model)
        config = ServeConfig(
            models=(source,), dtype=job.dtype, memory=job.memory, cache_dtype=job.cache_dtype,
            limits=Limits(waiting=1 << 20, seconds=7 * 86400.0), preload=False,
        )  # fmt: skip
        self._app = create_app(config)
        # Whatever name the requests have for the model: there is one.
        self._loop.run_until_complete(self._load())

    async def _load(self) -> None:
        shelf = self._app.state.desk.shelf
        async with shelf.use(shelf.sources[0]):
            self._app.state.desk.ready = True

    def answer(self, records: Sequence[Record], told: Told) -> list[dict[str, object]]:
        """See :class:`~omniform.serve.mapping.answering.Answerer`."""

        async def all_of_them() -> list[dict[str, object]]:
            return await asyncio.gather(*(self._one(record, told) for record in records))

        return self._loop.run_until_complete(all_of_them())

    async def _one(self, record: Record, told: Told) -> dict[str, object]:
        assert record.fields is not None
        url = str(record.fields["url"])
        body = {**cast("Mapping[str, object]", record.fields["body"]), "model": self._job.model}
        if url in SEEDED:
            body.setdefault("seed", self._job.seed_of(record.index))
        status, answer = await called(self._app, url, body)
        asked = cast("Mapping[str, object]", record.fields["body"]).get("model")
        ident = f"{self._job.seed_of(record.index):016x}"
        settled(answer, ident, self._job.created, asked if isinstance(asked, str) else self._job.model)
        usage = answer.get("usage")
        written = usage.get("completion_tokens", usage.get("output_tokens")) if isinstance(usage, Mapping) else None
        told(written if isinstance(written, int) else 0)
        line: dict[str, object] = {"id": f"batch_req_{ident}", "custom_id": record.fields["custom_id"]}
        response = {"status_code": status, "request_id": f"req_{ident}", "body": answer}
        line = {**line, "index": record.index, "response": response, "error": None}
        if status >= 400:
            told_error = answer.get("error")
            message = told_error.get("message") if isinstance(told_error, Mapping) else None
            line["error"] = {"code": str(status), "message": message}
        return line


def settled(answer: dict[str, object], ident: str, created: int, model: str) -> None:
    """Have an answer be the same whenever it is made: its names and times are of its record, not of the moment."""
    if "id" in answer:
        head = str(answer["id"]).rstrip("0123456789abcdef")
        answer["id"] = f"{head}{ident}"
    for name in ("created", "created_at"):
        if name in answer:
            answer[name] = created
    if "model" in answer:
        answer["model"] = model
    choices = answer.get("choices")
    for place, choice in enumerate(choices if isinstance(choices, list) else ()):
        message = choice.get("message") if isinstance(choice, Mapping) else None
        calls = message.get("tool_calls") if isinstance(message, Mapping) else None
        for number, call in enumerate(calls if isinstance(calls, list) else ()):
            call["id"] = f"call_{ident}{place}{number}"
    usage = answer.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, Mapping) else None
    if isinstance(details, MutableMapping) and "cached_tokens" in details:
        details["cached_tokens"] = 0  # of who was answered before, which is another matter after a restart


async def called(app: FastAPI, path: str, body: Mapping[str, object]) -> tuple[int, dict[str, object]]:
    """POST to an application of this process; its status and its answer."""
    raw = json.dumps(body).encode()
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "client": (ASIDE, 0),
        "server": ("omniform", 80),
        "headers": [(b"host", b"omniform"), (b"content-type", b"application/json"),
                    (b"content-length", str(len(raw)).encode())],
    }  # fmt: skip
    sent = False
    status, pieces, over = 500, [b""], asyncio.Event()

    async def receive() -> MutableMapping[str, object]:
        nonlocal sent
        if sent:
            await over.wait()
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": raw, "more_body": False}

    async def send(message: MutableMapping[str, object]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = cast(int, message["status"])
        elif message["type"] == "http.response.body":
            pieces.append(cast(bytes, message.get("body", b"")))
            if not message.get("more_body"):
                over.set()

    try:
        await app(scope, receive, send)
    except Exception:  # told to the client by now; Starlette raises it once more for the log
        logging.getLogger("omniform.serve").debug("a request of a batch failed", exc_info=True)
    finally:
        over.set()
    try:
        answer = json.loads(b"".join(pieces))
    except ValueError:
        answer = {"text": b"".join(pieces).decode("utf-8", "replace")}
    return status, answer if isinstance(answer, dict) else {"answer": answer}
