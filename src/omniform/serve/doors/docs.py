"""``/docs``: what can be asked, as a page that needs nothing but this server; and the bodies in ``/openapi.json``."""

from __future__ import annotations

import base64
import copy
import functools
import hashlib
import html
from collections.abc import Iterator, Mapping
from typing import Final, cast

from fastapi import APIRouter, FastAPI, Request, Response

from omniform.serve.doors.page import HEADERS, POLICY
from omniform.serve.wire import COMPONENTS

router = APIRouter()

STYLE: Final = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
main { max-width: 60rem; margin: 0 auto; padding: 1rem }
main > details { border-top: 1px solid; padding: 0.5rem 0 }
summary { cursor: pointer }
table { border-collapse: collapse; width: 100% }
th, td { text-align: start; vertical-align: top; padding: 0.2rem 0.6rem 0.2rem 0; overflow-wrap: anywhere }
"""
_DIGEST: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_HEADERS: Final = {
    **HEADERS,
    "Content-Security-Policy": POLICY.replace("style-src 'self'", f"style-src 'sha256-{_DIGEST}'"),
}

Schema = Mapping[str, object]
_METHODS: Final = ("get", "post", "delete")
_DEEPEST: Final = 3


class Application(FastAPI):
    """FastAPI's, whose description holds the bodies that doors read by themselves."""

    @functools.cached_property
    def _described(self) -> dict[str, object]:
        whole = copy.deepcopy(super().openapi())  # it holds what doors say of themselves, and all applications share
        schemas = whole.setdefault("components", {}).setdefault("schemas", {})
        for _, operation in _operations(whole):
            body = _body(operation)
            if body is not None:
                schemas.update(cast("dict[str, object]", body).pop("$defs", {}))
        return whole

    def openapi(self) -> dict[str, object]:
        """The description of what can be asked. Source: https://spec.openapis.org/oas/v3.1.0"""
        return self._described


@router.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
async def docs(request: Request) -> Response:
    """What can be asked."""
    app = request.app
    assert isinstance(app, Application)
    return Response(page_of(app.openapi()), media_type="text/html; charset=utf-8", headers=_HEADERS)


def page_of(whole: Schema) -> str:
    """A description of what can be asked, as a page."""
    known = cast("Mapping[str, Schema]", cast("Mapping[str, object]", whole.get("components", {})).get("schemas", {}))
    parts = [_part(place, operation, known) for place, operation in _operations(whole)]
    info = cast("Mapping[str, object]", whole["info"])
    title = f"{info['title']} {info['version']}"
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{_safe(title)}</title><link rel=icon href=/page/icon.svg><style>{STYLE}</style>"
        f"</head><body><main><h1>{_safe(title)}</h1>"
        "<p>What can be asked of this server. Clients of OpenAI's API work with <code>base_url=.../v1</code>; "
        "<a href=/openapi.json>openapi.json</a> says the same for programs.</p>"
        f"{''.join(parts)}</main></body></html>\n"
    )


def _operations(whole: Schema) -> Iterator[tuple[str, Schema]]:
    """What can be asked, by method and address."""
    for path, methods in cast("Mapping[str, Mapping[str, Schema]]", whole["paths"]).items():
        for method in _METHODS:
            if method in methods:
                yield f"{method.upper()} {path}", methods[method]


def _body(operation: Schema) -> Schema | None:
    """The schema of a body; None where there is none, or nothing is known of it."""
    body = cast("Mapping[str, Mapping[str, Schema]]", operation.get("requestBody", {}))
    found = [one["schema"] for one in body.get("content", {}).values() if "schema" in one]
    return cast(Schema, found[0]) if found else None


def _part(place: str, operation: Schema, known: Mapping[str, Schema]) -> str:
    body = _body(operation)
    said = str(operation.get("description", "")).partition("\n")[0].partition(" Source: ")[0]
    fields = "" if body is None else _fields(body, known, 0)
    return f"<details><summary><code>{_safe(place)}</code> {_safe(said)}</summary>{fields}</details>"


def _fields(schema: Schema, known: Mapping[str, Schema], depth: int) -> str:
    named = cast("Mapping[str, Schema]", schema.get("properties", {}))
    needed = cast("list[str]", schema.get("required", []))
    rows = []
    for name, one in named.items():
        inner = "" if depth >= _DEEPEST else "".join(
            f"<details><summary>{_safe(ref)}</summary>{_fields(known[ref], known, depth + 1)}</details>"
            for ref in _refs(one) if ref in known
        )  # fmt: skip
        usual = one.get("default")
        more = "needed" if name in needed else "" if usual is None else f"{usual!r}"
        rows.append(f"<tr><td><code>{_safe(name)}</code><td>{_safe(_kind(one))}{inner}<td>{_safe(more)}")
    return f"<table><tr><th>field<th>kind<th>usually{''.join(rows)}</table>" if rows else ""


def _refs(schema: Schema) -> list[str]:
    """The names of schemas that one refers to."""
    found = [str(schema["$ref"]).rpartition("/")[2]] if "$ref" in schema else []
    for one in cast("list[Schema]", schema.get("anyOf", [])):
        found += _refs(one)
    return found + (_refs(cast(Schema, schema["items"])) if isinstance(schema.get("items"), Mapping) else [])


def _kind(schema: Schema) -> str:
    """What a value is, in a few words."""
    if "enum" in schema:
        return " | ".join(map(repr, cast("list[object]", schema["enum"])))
    if "const" in schema:
        return repr(schema["const"])
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(COMPONENTS.format(model=""))
    if "anyOf" in schema:
        return " | ".join(_kind(one) for one in cast("list[Schema]", schema["anyOf"]) if one.get("type") != "null")
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        return f"list of {_kind(cast(Schema, schema.get('items', {})))}"
    low, high = schema.get("minimum"), schema.get("maximum")
    return kind if low is None and high is None else f"{kind} {_shown(low)}..{_shown(high)}"


def _shown(bound: object) -> object:
    return "" if bound is None else bound


def _safe(text: str) -> str:
    return html.escape(text)
