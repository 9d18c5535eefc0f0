"""Forms with files, as clients upload sounds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from omniform.serve.errors import APIError
from omniform.serve.wire import body_of

MOST_FIELDS = 64
MOST_TEXT = 1 << 20


@dataclass(frozen=True, slots=True)
class Form:
    """A form that was sent.

    Attributes:
        file: the bytes of its file.
        fields: the values of each other field, in their order.
    """

    file: bytes
    fields: dict[str, list[str]]

    def one(self, name: str) -> str | None:
        """The value of a field; None where it is not there, or empty.

        Raises:
            APIError: there are several.
        """
        found = self.fields.get(name, [])
        if len(found) > 1:
            raise APIError(400, f"{name}: this field is there {len(found)} times", param=name, code="invalid_value")
        return found[0] if found and found[0] else None

    def choice(self, name: str, choices: tuple[str, ...], usual: str) -> str:
        """The value of a field that is one of a few.

        Raises:
            APIError: it is another.
        """
        found = self.one(name) or usual
        if found not in choices:
            raise APIError(
                400, f"{name}: one of {', '.join(choices)}, not {found!r:.50}", param=name, code="invalid_value"
            )
        return found

    def number(self, name: str, low: float, high: float) -> float | None:
        """The value of a field that is a number; None where it is not there.

        Raises:
            APIError: it is none, or out of range.
        """
        text = self.one(name)
        if text is None:
            return None
        try:
            found = float(text)
        except ValueError:
            found = float("nan")
        if not low <= found <= high:
            raise APIError(400, f"{name}: a number from {low:g} to {high:g}", param=name, code="invalid_value")
        return found

    def flag(self, name: str) -> bool:
        """The value of a field that is true or false.

        Raises:
            APIError: it is neither.
        """
        return self.choice(name, ("true", "false", "True", "False", "1", "0"), "false") in ("true", "True", "1")


async def form_of(request: Request, limit: int, name: str = "file") -> Form:
    """A form with one file.

    Raises:
        APIError: it is none, larger than the limit, or has not this file.
    """
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise APIError(400, "the request is no multipart/form-data", param=name, code="invalid_content_type")
    raw = await body_of(request, limit)

    async def pieces() -> AsyncIterator[bytes]:
        yield raw

    parser = MultiPartParser(
        request.headers, pieces(), max_files=1, max_fields=MOST_FIELDS, max_part_size=MOST_TEXT  # type: ignore[arg-type]
    )  # fmt: skip
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError, ValueError) as error:
        found = error.message if isinstance(error, MultiPartException) else "it is malformed"
        raise APIError(400, f"the form cannot be read: {found}", code="invalid_form") from None
    fields: dict[str, list[str]] = {}
    data: bytes | None = None
    for key, value in form.multi_items():
        if isinstance(value, UploadFile):
            if key == name:
                data = await value.read()
            await value.close()
        else:
            fields.setdefault(key, []).append(value)
    if data is None:
        raise APIError(400, f"{name}: this file is missing", param=name, code="missing_required_parameter")
    if not data:
        raise APIError(400, f"{name}: the file is empty", param=name, code="invalid_value")
    return Form(data, fields)
