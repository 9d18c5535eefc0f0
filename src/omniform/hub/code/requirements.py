"""``requirements.txt`` beside code: whether what it lists is installed."""

from __future__ import annotations

import os
from importlib import metadata

from omniform.core.errors import DependencyError, RepoError
from omniform.hub.files import Source, locate
from omniform.hub.options import places


def check_python_requirements(
    path_or_repo_id: str | os.PathLike[str], requirements_file: str = "requirements.txt", **kwargs: object
) -> None:
    """Check that what a folder or a repository lists is installed; where it lists nothing, nothing is needed.

    Args:
        kwargs: where to look; see :class:`omniform.AutoConfig`.

    Raises:
        DependencyError: names all that is missing, and what is there instead.
    """
    where, _ = places(kwargs)
    check_requirements(locate(path_or_repo_id, **where), requirements_file)  # type: ignore[arg-type]


def check_requirements(source: Source, file: str) -> None:
    """The same, for a repository that was found."""
    path = source.find(file)
    if path is None:
        return
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise RepoError("the file cannot be read", where=str(path), found=error.strerror) from error
    missing = [said for line in lines if (said := _lacks(line)) is not None]
    if missing:
        wanted = " ".join(f"'{said.partition(' (')[0]}'" for said in missing)
        raise DependencyError(
            "packages that this code needs are not installed",
            where=f"{source.name}: {file}",
            found=", ".join(missing),
            remedy=f"pip install {wanted}",
        )


def _lacks(line: str) -> str | None:
    """What is wrong with one line's package; None where nothing is."""
    from packaging.requirements import InvalidRequirement, Requirement  # which huggingface_hub needs itself

    try:
        wanted = Requirement(line.partition("#")[0].strip())
    except InvalidRequirement:  # an empty line, or an option of pip's
        return None
    if wanted.marker is not None and not wanted.marker.evaluate():
        return None
    said = f"{wanted.name}{wanted.specifier}"
    try:
        installed = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return f"{said} (not installed)"
    return None if wanted.specifier.contains(installed, prereleases=True) else f"{said} (installed: {installed})"
