"""A model that is written as a difference, made into one file.

A modular file holds classes that inherit from a family's and change parts of them. :func:`convert_modular` writes out
what they come to: one file with everything that is needed, under the new model's names, which imports neither the
modular file nor the families that it draws from. Files are read, and never imported or run. It needs libcst (extra
``modular``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from omniform.core.errors import DependencyError, InputError

if TYPE_CHECKING:
    from omniform.export.modular.convert import Converted

__all__ = ["ModularFile", "convert_modular"]


@dataclass(frozen=True)
class ModularFile:
    """What a modular file came to.

    Attributes:
        path: where the result lies, or would.
        text: the result.
        drift: a unified diff from the file at ``path`` to the result; empty where they are the same.
        drifted: what is not the same: ``MineMLP.forward``, ``imports``; empty where ``drift`` is.
        notes: where the modular way of writing was followed and plain Python would do otherwise: a line that sets what
            one of the parent's does stands in its place, so that the parent's later lines see the new value.
        command: what makes the file.
    """

    path: Path
    text: str
    drift: str
    drifted: tuple[str, ...]
    notes: tuple[str, ...]
    command: str


def convert_modular(
    modular: str | PathLike[str],
    to: str | PathLike[str] | None = None,
    *,
    name: str | None = None,
    flatten: Sequence[str] = (),
    check: bool = False,
) -> ModularFile:
    """Make one self-contained file of a modular one.

    Parents come from families (``transformers.models.llama.modeling_llama``, ``..llama.modeling_llama``,
    ``omniform.models.llama``) and from files beside the modular one (``my_llama``); their code is written out. All else
    (torch, ``transformers.modeling_utils``, ``omniform.blocks``) is imported by the result.

    Args:
        modular: the file, ``modular_<name>.py``.
        to: where the result goes; ``modeling_<name>.py`` beside it by default.
        name: the new model's name, as in ``model_type``; ``<name>`` by default.
        flatten: modules and packages that are written out too, such as ``omniform.blocks.attention``.
        check: write nothing, only compare.

    Raises:
        DependencyError: libcst, or transformers where the file draws from it, is not installed.
        InputError: the file cannot be converted: a syntax error, a parent that is not there, a ``super()`` that cannot
            be written out; file and line are named.
        UnknownNameError: a module does not have the class that is taken from it.
        RepoError: a file cannot be read or written.
    """
    try:
        from omniform.export.modular import check as checks
        from omniform.export.modular.convert import convert
    except ImportError as error:
        if (error.name or "").split(".")[0] != "libcst":
            raise
        raise DependencyError(
            "modular files are read by libcst, which is not installed", remedy="pip install 'omniform[modular]'"
        ) from error
    path = Path(modular)
    if not path.name or path.is_dir():
        raise InputError("this is a folder", where=str(path), expected="a file, modular_<name>.py")
    goal = _goal(path, to, name)
    if goal.resolve() == path.resolve():
        raise InputError("the result would take the modular file's place", where=str(path), remedy="Give another --to.")
    command = _command(path, goal, name, flatten)
    found: Converted = convert(path, name=name, command=command, also=tuple(flatten))
    if goal.resolve() in found.sources:
        raise InputError(
            f"the result would take the place of {goal.name}, which it is made of",
            where=path.name,
            remedy="Give another --to.",
        )
    drift = checks.drift(goal, found.text)
    drifted = checks.drifted(goal, found.text) if drift else ()
    if drift and not check:
        checks.write(goal, found.text)
    return ModularFile(goal, found.text, drift, drifted, found.notes, command)


def _goal(path: Path, to: str | PathLike[str] | None, name: str | None) -> Path:
    if to is not None:
        return Path(to)
    return path.with_name(f"modeling_{name or path.stem.removeprefix('modular_')}.py")


def _command(path: Path, goal: Path, name: str | None, flatten: Sequence[str]) -> str:
    """The command that makes the same file again; it names no folder, so that it is the same on every machine."""
    words = ["omniform", "modular", path.name]
    if goal.name != _goal(path, None, name).name:
        words += ["--to", goal.name]
    if name is not None:
        words += ["--name", name]
    for each in flatten:
        words += ["--flatten", each]
    return " ".join(words)
