"""What goes wrong, in the words of OpenAI's API."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from starlette.responses import JSONResponse

from omniform.core.errors import (
    ConfigError,
    InputError,
    LengthError,
    OmniformError,
    RepoError,
    UnknownArgumentError,
    WeightsError,
    WorkerError,
    brief,
)

log = logging.getLogger("omniform.serve")

KINDS: Final[Mapping[int, str]] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
"""The ``type`` of an error by its status; ``server_error`` for all others."""


@dataclass(eq=False)
class APIError(Exception):
    """An answer that says what is wrong.

    Attributes:
        status: of HTTP.
        message: what is wrong, for a person.
        param: the field that it is about.
        code: what is wrong, for a program.
        headers: to send along.

    Source: https://platform.openai.com/docs/guides/error-codes
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def body(self) -> dict[str, object]:
        """What the client reads."""
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The same as an answer."""
        return JSONResponse(self.body(), self.status, headers=dict(self.headers))


def api_error(error: BaseException) -> APIError:
    """What a client is told of an error.

    What a request asks for and cannot have is its own affair and told in full. Of all else, which may speak of the
    server's files, or of other requests, a client learns that it happened; the log says what it was.
    """
    if isinstance(error, APIError):
        return error
    if isinstance(error, LengthError):
        return APIError(400, str(error), param=error.where, code="context_length_exceeded")
    if isinstance(error, (InputError, UnknownArgumentError)):
        return APIError(400, str(error), param=error.where if isinstance(error, OmniformError) else None)
    if isinstance(error, RepoError):  # an address or a file that a message names, and may not
        return APIError(400, str(error), param=error.where, code="media_not_readable")
    if isinstance(error, TimeoutError):
        return APIError(504, "the answer took longer than this server waits", code="timeout")
    if isinstance(error, MemoryError):
        log.error("out of memory", exc_info=error)
        return APIError(
            503, "the server has no memory for this now", code="out_of_memory", headers={"Retry-After": "5"}
        )
    if isinstance(error, WorkerError):
        log.error("a part of the model is gone: %s", error)
        return APIError(
            503, "the server has lost a part of the model", code="model_lost", headers={"Retry-After": "10"}
        )
    if isinstance(error, (ConfigError, WeightsError)):
        log.error("a checkpoint cannot be used: %s", error)
        return APIError(503, "the model cannot be used as it is; the server's log says why", code="model_unusable")
    log.error("a request failed: %s", brief(error), exc_info=error)
    return APIError(500, "the server failed at this request; its log says why", code="internal_error")
