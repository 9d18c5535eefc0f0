"""Whether a file is what its modular file comes to, and writing it."""

from __future__ import annotations

import ast
import contextlib
import difflib
import io
import os
import tempfile
import tokenize
from pathlib import Path

from omniform.core.errors import InputError, RepoError
from omniform.export.modular.writer import ruff


def drift(path: Path, text: str) -> str:
    """A unified diff from a file to what it should be; empty where it is that.

    Without ruff the text is not in the form that ruff gave the file: then code and comments are compared, and not how
    they are laid out.
    """
    try:
        found = path.read_text("utf-8")
    except FileNotFoundError:
        found = ""
    except UnicodeDecodeError as error:
        raise InputError("the file is not text in UTF-8", where=str(path)) from error
    except OSError as error:
        raise RepoError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
    if found == text or (ruff() is None and _same(found, text)):
        return ""
    lines = difflib.unified_diff(
        found.splitlines(keepends=True), text.splitlines(keepends=True), f"{path.name} (as it is)",
        f"{path.name} (as its modular file says)",
    )  # fmt: skip
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def drifted(path: Path, text: str) -> tuple[str, ...]:
    """What is not the same in a file and its new text: members of classes, functions and constants by name."""
    if not path.is_file():
        return ("the file is not there",)
    try:
        before, after = _parts(path.read_text("utf-8")), _parts(text)
    except (SyntaxError, ValueError):
        return ("the whole file",)
    names = [name for name in {**after, **before} if before.get(name) != after.get(name)]
    inner = {name.split(".")[0] for name in names if "." in name}
    inner &= before.keys() & after.keys()
    names = [name for name in names if name not in inner and ("." not in name or name.split(".")[0] in inner)]
    return tuple(names) or ("comments and layout",)


def _parts(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in ast.parse(text).body:
        for name in _names(node):
            found[name] = found.get(name, "") + ast.dump(node)
        if isinstance(node, ast.ClassDef):
            for each in node.body:
                for name in _names(each):
                    key = f"{node.name}.{name}"
                    found[key] = found.get(key, "") + ast.dump(each)
    return found


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return [node.name]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return ["imports"]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [each.id for each in targets if isinstance(each, ast.Name)]


def _same(one: str, other: str) -> bool:
    try:
        return ast.dump(ast.parse(one)) == ast.dump(ast.parse(other)) and _comments(one) == _comments(other)
    except (SyntaxError, ValueError, tokenize.TokenError):
        return False


def _comments(text: str) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT]


def write(path: Path, text: str) -> None:
    """Write a file in one step: it is the old one or the new one, and never half of it.

    Raises:
        RepoError: it cannot be written.
    """
    target = path.resolve()
    scratch: str | None = None
    try:
        handle, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
        os.chmod(scratch, mode)
        if target.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        os.replace(scratch, target)
    except OSError as error:
        if scratch is not None:
            with contextlib.suppress(OSError):
                os.unlink(scratch)
        raise RepoError(f"the file cannot be written: {error.strerror}", where=str(path)) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
