"""What a file of Python imports, read from its text without running it."""

from __future__ import annotations

import ast
import importlib.util
import io
import os
import re
import stat
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from omniform.core.errors import CodeError, DependencyError, RepoError, listed

LARGEST_FILE = 8 * 2**20
"""Files of code beyond this many bytes are refused."""

_PLAIN = ("utf-8", "utf-8-sig", "ascii", "us-ascii", "iso-8859-1", "latin-1")
"""Encodings in which what is seen is what runs. In others (``utf-7``) a comment can be a statement."""

_AT_RUN_TIME = ("exec", "eval", "compile", "__import__")
_AT_RUN_TIME_OF = ("import_module", "exec_module", "load_module", "run_path", "run_module", "__import__")
"""Functions, and methods, that run what no import tells."""

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
    """What a file imports.

    Attributes:
        packages: those that must be installed.
        relative: files beside it.
        named: all packages that it names, those that may be missing included.
        unseen: functions that it calls which run what no import tells (``exec``, ``import_module``).
    """

    packages: tuple[str, ...]
    relative: tuple[Relative, ...]
    named: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()


def scan(text: bytes, where: str) -> Imports:
    """What a file imports.

    Packages that are imported in a ``try`` or under ``if is_..._available()`` can be missing, and are not listed.

    Raises:
        CodeError: this is no Python, or is written so that it runs as something else than is seen.
    """
    encoding = encoding_of(text, where)
    if encoding not in _PLAIN:
        raise CodeError(
            "the code does not run as it is read", where=where, expected="an encoding like utf-8", found=encoding
        )
    try:
        tree = ast.parse(text, filename=where)
    except SyntaxError as error:
        line = "" if error.lineno is None else f"line {error.lineno}: "
        raise CodeError("this is not Python", where=where, found=f"{line}{error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # zero bytes, brackets in thousands of brackets
        raise CodeError("this is not Python", where=where, found=str(error) or type(error).__name__) from None
    packages: set[str] = set()
    named: set[str] = set()
    unseen: set[str] = set()
    relative: dict[Relative, None] = {}
    for node, needed, lazy in _walk(tree):
        found: set[str] = set()
        if isinstance(node, ast.Import):
            found = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found = {node.module.partition(".")[0]}
        elif isinstance(node, ast.Call):
            unseen.update(_unseen(node.func))
        named |= found
        packages |= found if needed else set()
        if isinstance(node, ast.ImportFrom) and node.level:
            names = tuple(alias.name for alias in node.names)
            relative[Relative(node.level, node.module or "", names, lazy or not needed)] = None
    named.discard("__future__")
    packages.discard("__future__")
    return Imports(tuple(sorted(packages)), tuple(relative), tuple(sorted(named)), tuple(sorted(unseen)))


def encoding_of(text: bytes, where: str) -> str:
    """The encoding that a file's first lines name.

    Raises:
        CodeError: there is none of that name.
    """
    try:
        return tokenize.detect_encoding(io.BytesIO(text).readline)[0]
    except SyntaxError as error:
        raise CodeError("this is not Python", where=where, found=str(error.msg)) from None


def legible(text: bytes) -> str:
    """A file's text as Python reads it, for people: decoded as it says, and all ends of lines are such."""
    try:
        found = text.decode(encoding_of(text, ""), "replace")
    except (CodeError, LookupError):
        found = text.decode("utf-8", "replace")
    return found.replace("\r\n", "\n").replace("\r", "\n")


def _unseen(function: ast.expr) -> Iterator[str]:
    if isinstance(function, ast.Name) and function.id in (*_AT_RUN_TIME, *_AT_RUN_TIME_OF):
        yield function.id
    elif isinstance(function, ast.Attribute) and function.attr in _AT_RUN_TIME_OF:
        yield function.attr


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


def lies_in(package: str, folder: Path) -> bool:
    """Whether Python, asked for a package that it has not loaded, would take it from a folder; it is not imported."""
    if package in sys.modules:
        return False
    try:
        spec = importlib.util.find_spec(package)
    except (ValueError, ImportError):
        return False
    if spec is None:
        return False
    homes = [spec.origin] if spec.has_location and spec.origin else [*(spec.submodule_search_locations or ())]
    root = folder.resolve()
    inside = [home.relative_to(root) for home in (Path(one).resolve() for one in homes) if home.is_relative_to(root)]
    return any("site-packages" not in home.parts for home in inside)  # where an environment is kept in there


def read_code(path: str | os.PathLike[str]) -> bytes:
    """A file's bytes.

    Raises:
        RepoError: it cannot be read, or is no file: a pipe is not waited for.
        CodeError: it is too large; no more of it is read.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise RepoError("this is no file", where=str(path))
            text = file.read(LARGEST_FILE + 1)
    except RepoError:
        raise
    except (OSError, ValueError) as error:
        raise RepoError("the file cannot be read", where=str(path), found=str(error)) from error
    if len(text) > LARGEST_FILE:
        raise CodeError("the file is absurdly large", where=str(path), found=f"more than {LARGEST_FILE} bytes")
    return text
