"""What a file of Python imports, read from its text without running it."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from omniform.core.errors import CodeError, DependencyError, RepoError, listed

_GUARD = re.compile(r"is_\w+_available|is_flash_attn\w*|is_torch_greater\w*")

_SOLD_AS = {
    "cv2": "opencv-python", "PIL": "pillow", "sklearn": "scikit-learn", "skimage": "scikit-image", "yaml": "pyyaml",
    "bs4": "beautifulsoup4", "flash_attn": "flash-attn", "mamba_ssm": "mamba-ssm", "causal_conv1d": "causal-conv1d",
    "google": "protobuf", "fitz": "pymupdf", "librosa": "librosa", "Levenshtein": "levenshtein",
}  # fmt: skip
"""Packages whose name for pip differs from the one they are imported by."""


@dataclass(frozen=True, slots=True)
class Relative:
    """``from ..module import names``.

    Attributes:
        level: how many dots.
        module: what follows them, which may be nothing.
        names: what is imported.
        optional: whether the file runs without it: in a ``try``, in a function, or for type checkers only.
    """

    level: int
    module: str
    names: tuple[str, ...]
    optional: bool


@dataclass(frozen=True, slots=True)
class Imports:
    """What a file imports: packages that must be installed, and files beside it."""

    packages: tuple[str, ...]
    relative: tuple[Relative, ...]


def scan(text: bytes, where: str) -> Imports:
    """What a file imports.

    Packages that are imported in a ``try`` or under ``if is_..._available()`` can be missing, and are not listed.

    Raises:
        CodeError: this is no Python.
    """
    try:
        tree = ast.parse(text, filename=where)
    except SyntaxError as error:
        line = "" if error.lineno is None else f"line {error.lineno}: "
        raise CodeError("this is not Python", where=where, found=f"{line}{error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # zero bytes, brackets in thousands of brackets
        raise CodeError("this is not Python", where=where, found=str(error) or type(error).__name__) from None
    packages: set[str] = set()
    relative: dict[Relative, None] = {}
    for node, needed, lazy in _walk(tree):
        if isinstance(node, ast.Import) and needed:
            packages.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and needed and node.module:
            packages.add(node.module.partition(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = tuple(alias.name for alias in node.names)
            relative[Relative(node.level, node.module or "", names, lazy or not needed)] = None
    return Imports(tuple(sorted(packages - {"__future__"})), tuple(relative))


def _walk(tree: ast.AST) -> Iterator[tuple[ast.AST, bool, bool]]:
    """All nodes: whether what they import must be installed, and whether they run later than on import, if at all."""
    stack = [(tree, True, False)]
    while stack:
        node, needed, lazy = stack.pop()
        yield node, needed, lazy
        if isinstance(node, (ast.Try, ast.TryStar)):
            needed = False
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            lazy = True
        elif isinstance(node, ast.If):
            if _for_checkers(node.test):
                stack += [(child, False, lazy) for child in node.body]
                stack += [(child, needed, lazy) for child in node.orelse]
                continue
            if any(_GUARD.fullmatch(name) for name in _called(node.test)):
                needed = False
        stack += [(child, needed, lazy) for child in ast.iter_child_nodes(node)]


def _called(test: ast.expr) -> Iterator[str]:
    for node in ast.walk(test):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id
            elif isinstance(node.func, ast.Attribute):
                yield node.func.attr


def _for_checkers(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def need_packages(packages: Iterable[str], where: str) -> None:
    """Raise :class:`DependencyError`, which names all that are missing, unless these packages are installed."""
    missing = sorted({name for name in packages if not is_installed(name)})
    if not missing:
        return
    if "transformers" in missing:
        raise DependencyError(
            "this code was written for transformers, which is not installed",
            where=where,
            found=f"it imports {listed(missing)}",
            remedy=f"pip install {' '.join(_SOLD_AS.get(name, name) for name in missing)}",
        )
    raise DependencyError(
        "packages that this code imports are not installed",
        where=where,
        found=listed(missing),
        remedy=f"pip install {' '.join(_SOLD_AS.get(name, name) for name in missing)}",
    )


def is_installed(package: str) -> bool:
    """Whether a package can be found; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ValueError, ImportError):  # one that is loaded without saying whence, or half of one
        return True


def read_code(path: str | os.PathLike[str]) -> bytes:
    """A file's bytes.

    Raises:
        RepoError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise RepoError("the file cannot be read", where=str(path), found=str(error)) from error
