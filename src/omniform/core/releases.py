"""Releases that a script asks for before it starts."""

from __future__ import annotations

import operator
import platform
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from packaging.version import InvalidVersion, Version

from omniform.core.errors import DependencyError, InputError, listed

ECOSYSTEM: Final = "5.23.0"
"""The release of the ecosystem's library whose names omniform has."""

ops: dict[str, Callable[[Version, Version], bool]] = {
    "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">=": operator.ge, ">": operator.gt,
}  # fmt: skip
"""How releases are compared in a requirement."""


class MissingPackageError(DependencyError, PackageNotFoundError):
    """A package that a script requires is not installed."""

    def __str__(self) -> str:
        return DependencyError.__str__(self)


def require_version(requirement: str, hint: str | None = None) -> None:
    """Refuse to go on unless a package is installed in a fitting release.

    Args:
        requirement: as pip writes it: ``"tqdm"``, ``"tokenizers==0.21.0"``, ``"numpy>=1.26,<3"``; ``"python>=3.10"``.
        hint: what to do about it.

    Raises:
        DependencyError: it is not installed (also a ``PackageNotFoundError``), or in another release.
        InputError: this is no requirement.
    """
    named = re.fullmatch(r"\s*([\w.\-]+)\s*(.*?)\s*", requirement)
    wanted = [_wanted(part, requirement) for part in named[2].split(",")] if named is not None and named[2] else []
    if named is None:
        raise _malformed(requirement)
    package = named[1]
    try:
        found = platform.python_version() if package == "python" else version(package)
    except PackageNotFoundError:
        raise MissingPackageError(
            "a package is missing", where="require_version", expected=requirement, found="not installed", remedy=hint
        ) from None
    if not all(fits(Version(found), asked) for fits, asked in wanted):
        raise DependencyError(
            f"{package} is here in another release",
            where="require_version",
            expected=requirement,
            found=found,
            remedy=hint,
        )


def _wanted(part: str, requirement: str) -> tuple[Callable[[Version, Version], bool], Version]:
    found = re.fullmatch(r"\s*([!=<>]{1,2})\s*(\S+)\s*", part)
    if found is None or found[1] not in ops:
        raise _malformed(requirement)
    try:
        return ops[found[1]], Version(found[2])
    except InvalidVersion:
        raise _malformed(requirement) from None


def _malformed(requirement: str) -> InputError:
    return InputError(
        "this is no requirement as pip writes it",
        where="require_version",
        expected=f"a package, and releases compared by {listed(list(ops))}",
        found=repr(requirement),
    )


def require_version_core(requirement: str) -> None:
    """:func:`require_version`, for what omniform itself stands on."""
    require_version(requirement, "Install omniform again: pip install -U omniform")


def check_min_version(min_version: str) -> None:
    """Refuse a script that is written for a later release of the ecosystem's library than omniform follows.

    Raises:
        DependencyError: it is.
    """
    if Version(ECOSYSTEM) < Version(min_version):
        raise DependencyError(
            "this script is written for a later release",
            where="check_min_version",
            expected=min_version,
            found=f"the names and meanings of release {ECOSYSTEM}",
            remedy="Take the script of an older release, or leave the call out and try.",
        )


def send_example_telemetry(example_name: str, *example_args: object, framework: str = "pytorch") -> None:
    """Nothing: omniform tells nobody what is run."""


__all__ = ["check_min_version", "ops", "require_version", "require_version_core", "send_example_telemetry"]
