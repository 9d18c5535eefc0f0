"""Guides: the form that an answer is to have, as users say it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, cast, runtime_checkable

from omniform.core.errors import InputError, brief
from omniform.engine.guide_regex import as_rust

Kind = Literal["json_schema", "regex", "choice", "lark"]

WHITESPACE: Final = r"(\n[ \t]{0,40}| )?"
"""Between the parts of JSON: nothing, a space, or a new line with an indent. Without a bound, a model that has lost its
way fills an answer with it."""

_UNFORCED: Final = '%llguidance {"no_forcing": true}'
"""Every way to spell a text in tokens is allowed, not the tokenizer's own alone: which is taken is up to the model."""

_FORMS: Final = (
    "a Guide, a JSON schema (a mapping, JSON text or a pydantic class), OpenAI's response_format, a regular "
    "expression, a list of choices or a Lark grammar"
)
_START: Final = re.compile(r"^\s*start\s*(\{[^}]*\}\s*)?(\[[^\]]*\]\s*)?:", re.MULTILINE)
_FLAGS: Final = {re.IGNORECASE: "i", re.MULTILINE: "m", re.DOTALL: "s", re.VERBOSE: "x"}
_DEEPEST: Final = 100


@runtime_checkable
class _HasSchema(Protocol):
    """A pydantic class."""

    def model_json_schema(self) -> dict[str, object]: ...


@dataclass(frozen=True, slots=True)
class Guide:
    """The form of an answer. Made by :meth:`json_schema`, :meth:`json_object`, :meth:`regex`, :meth:`choice`,
    :meth:`lark`, or :meth:`read` from any of the ways to say it.

    Attributes:
        kind: what :attr:`source` is.
        source: JSON text of a schema or of a list of choices, a regular expression, or a Lark grammar.
    """

    kind: Kind
    source: str

    @classmethod
    def json_schema(cls, schema: object) -> Guide:
        """JSON that fits a schema.

        Between its parts stands at most a space, or a new line with an indent. Which keywords of JSON Schema are
        understood is the library's affair; one that is not is refused by name.

        Args:
            schema: a mapping, JSON text, or a pydantic class.

        Raises:
            InputError: it is no JSON schema.
        """
        if isinstance(schema, (str, bytes)):
            try:
                schema = json.loads(schema)
            except (ValueError, RecursionError) as error:
                raise _broken("this JSON cannot be read", str(error)) from None
        elif isinstance(schema, type) and isinstance(schema, _HasSchema):
            try:
                schema = schema.model_json_schema()
            except Exception as error:  # whatever a class of the user's raises
                raise _broken(f"{brief(schema)} makes no JSON schema", str(error)) from error
        if not isinstance(schema, Mapping):
            raise InputError(
                "this is no JSON schema",
                where="guide",
                expected="a mapping, JSON text of one, or a pydantic class",
                found=brief(schema),
            )
        plain = _plain(schema)
        try:
            return cls("json_schema", json.dumps(plain, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise _broken("this schema is no JSON", str(error)) from None

    @classmethod
    def json_object(cls) -> Guide:
        """Any JSON object."""
        return cls.json_schema({"type": "object"})

    @classmethod
    def regex(cls, pattern: str | re.Pattern[str]) -> Guide:
        """Text that a regular expression matches as a whole, as ``re.fullmatch`` does.

        Args:
            pattern: without looking around and references back, which no grammar has.

        Raises:
            InputError: it is empty, or a flag that has no place here.
        """
        text = pattern
        if isinstance(pattern, re.Pattern):
            text = pattern.pattern
            flags = "".join(letter for flag, letter in _FLAGS.items() if pattern.flags & flag)
            if not isinstance(text, str) or pattern.flags & re.ASCII:
                raise InputError(
                    "this is no expression for text", where="guide", expected="a text pattern without re.ASCII",
                    found=brief(pattern),
                )  # fmt: skip
            text = f"(?{flags}){text}" if flags else text
        if not isinstance(text, str) or not text:
            raise InputError("this is no expression", where="guide", expected="a text", found=brief(pattern))
        return cls("regex", _writable(text))

    @classmethod
    def choice(cls, choices: Sequence[str]) -> Guide:
        """One of some texts.

        Raises:
            InputError: there are none, or one is no text or empty.
        """
        if isinstance(choices, str) or not isinstance(choices, Sequence) or not choices:
            raise InputError(
                "there is nothing to choose", where="guide", expected="a list of texts", found=brief(choices)
            )
        for place, one in enumerate(choices):
            if not isinstance(one, str) or not one:
                raise InputError(
                    "this is no choice", where=f"guide[{place}]", expected="a text of at least a character",
                    found=brief(one),
                )  # fmt: skip
            _writable(one)
        return cls("choice", json.dumps(list(dict.fromkeys(choices))))

    @classmethod
    def lark(cls, grammar: str) -> Guide:
        """Text of a grammar in Lark's notation, with a rule ``start``; llguidance's docs say what it knows beyond.

        Raises:
            InputError: it is empty.
        """
        if not isinstance(grammar, str) or not grammar.strip():
            raise InputError(
                "this is no grammar", where="guide", expected="a text with a rule start", found=brief(grammar)
            )
        return cls("lark", _writable(grammar))

    @classmethod
    def read(cls, value: object, where: str = "guide") -> Guide | None:
        """What somebody says as ``guide`` or ``response_format``; None where it says that there is none.

        Text that begins with a brace is a JSON schema, text with a rule ``start:`` a Lark grammar, any other a regular
        expression; the other constructors leave nothing to guess.

        Raises:
            InputError: it says no form.
        """
        if value is None or isinstance(value, Guide):
            return value
        if isinstance(value, str):
            if value.lstrip()[:1] == "{":
                return cls.read(_object(value), where)
            return cls.lark(value) if _START.search(value) else cls.regex(value)
        if isinstance(value, re.Pattern):
            return cls.regex(value)
        if isinstance(value, (list, tuple)):
            return cls.choice(value)
        if isinstance(value, Mapping):
            return _response_format(value, where)
        if isinstance(value, type) and isinstance(value, _HasSchema):
            return cls.json_schema(value)
        raise InputError("this says no form of an answer", where=where, expected=_FORMS, found=brief(value))

    @property
    def grammar(self) -> str:
        """As llguidance reads it."""
        if self.kind == "lark":
            return f"{self.source}\n{_UNFORCED}\n"
        if self.kind == "choice":
            return f"start: {' | '.join(map(json.dumps, json.loads(self.source)))}\n{_UNFORCED}\n"
        if self.kind == "json_schema":
            schema: dict[str, object] = json.loads(self.source)
            own = schema.get("x-guidance", {})
            options = {"whitespace_pattern": WHITESPACE, **own} if isinstance(own, dict) else own
            return f"start: %json {json.dumps({**schema, 'x-guidance': options})}\n{_UNFORCED}\n"
        from llguidance import regex_to_lark

        return f"start: /{regex_to_lark(as_rust(self.source), '')}/\n{_UNFORCED}\n"

    def __str__(self) -> str:
        return f"Guide.{self.kind}({brief(self.source)})"


def _response_format(value: Mapping[object, object], where: str) -> Guide | None:
    """OpenAI's ``response_format``, or a schema itself."""
    kind = value.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        schema = value.get("schema")  # as several servers take it
        return Guide.json_object() if schema is None else Guide.json_schema(schema)
    if kind != "json_schema":
        return Guide.json_schema(value)
    inner = value.get("json_schema", value)
    schema = inner.get("schema") if isinstance(inner, Mapping) else None
    if schema is None:
        raise InputError(
            "there is no schema in this response format",
            where=f"{where}['json_schema']",
            expected="{'type': 'json_schema', 'json_schema': {'schema': {...}}}",
            found=brief(value),
        )
    return Guide.json_schema(schema)


def _object(text: str) -> Mapping[object, object]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken("this JSON cannot be read", str(error)) from None
    return cast("Mapping[object, object]", found)  # it begins with a brace


def _plain(value: object, depth: int = 0) -> object:
    """Mappings and sequences of any kind as JSON has them."""
    if depth > _DEEPEST:
        raise _broken("this schema is nested too deeply", f"more than {_DEEPEST} levels")
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner, depth + 1) for inner in value]
    return value


def _broken(message: str, found: str) -> InputError:
    return InputError(message, where="guide", found=found)


def _writable(text: str) -> str:
    """The text, which must be of whole characters."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InputError("this holds half of a surrogate pair, which is no character", where="guide", found=ascii(text))
    return text
