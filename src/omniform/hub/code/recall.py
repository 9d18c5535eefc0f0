"""Code that another process has read: what a pickle names is in the modules cache, and counts if it was accepted."""

from __future__ import annotations

from pathlib import Path

from omniform.core.errors import TrustError
from omniform.hub.code import copies, trust
from omniform.hub.code.closure import Files, Repository, digests
from omniform.hub.files import Source


def recalled(package: str) -> Files | None:
    """The files of a package (``omniform.modules.REPO._DIGEST``) from the modules cache; None where they are not kept.

    Raises:
        TrustError: they are not those that the name tells, or were never accepted.
    """
    from omniform.hub.code.importer import name_of

    folder = copies.folder_of(package)
    texts = copies.read(package)
    if not texts:
        return None
    files = Files(Repository(Source(name=str(folder), folder=folder)))
    for path in texts:
        files.add(path)
    label = package.split(".")[-2]
    found = tuple(files.found.values())
    if name_of(label, found) != package:
        raise TrustError(
            "a copy of code in the modules cache was changed",
            where=str(folder),
            remedy="Load the checkpoint again, which writes it anew.",
        )
    if not any(one.holds(digests(found)) for versions in trust.everything().values() for one in versions):
        raise TrustError(
            "this code was never accepted",
            where=str(folder),
            found=", ".join(sorted(Path(path).name for path in texts))[:200],
            remedy="Load the checkpoint that it belongs to with trust_remote_code=True.",
        )
    return files
