"""The form of an answer, read from a file."""

from __future__ import annotations

from pathlib import Path

from omniform.core.errors import InputError, RepoError
from omniform.engine.guide import Guide


def guide_from(schema: str | None, guide: str | None) -> Guide | None:
    """What ``--schema`` or ``--guide`` names; the end of a line at the end of an expression is not a part of it.

    Raises:
        RepoError: there is no such file.
        InputError: both are given, or the file holds no form.
    """
    if schema is not None and guide is not None:
        raise InputError("an answer has one form", where="--schema and --guide", remedy="Leave one of them out.")
    name = schema if schema is not None else guide
    assert name is not None
    path = Path(name).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError("this file is no UTF-8 text", where=name) from None
    except OSError as error:
        raise RepoError("this file cannot be read", where=name, found=error.strerror) from None
    if schema is not None:
        return Guide.json_schema(text)
    return Guide.lark(text) if path.suffix == ".lark" else Guide.read(text.rstrip("\r\n"))
