"""The modules cache: copies of the code that runs, for people, tracebacks and other processes; named by their digest.

Nothing runs from here without being digested again.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

log = logging.getLogger("omniform")

FOLDER = "omniform_modules"
"""Where the copies are, in the modules cache."""


def hf_home() -> Path:
    """The Hub's own folder: ``HF_HOME``."""
    from huggingface_hub import constants

    return Path(os.path.expanduser(os.environ.get("HF_HOME") or constants.HF_HOME))


def modules_cache() -> Path:
    """The modules cache: ``HF_MODULES_CACHE``, ``$HF_HOME/modules`` by default."""
    given = os.environ.get("HF_MODULES_CACHE")
    return Path(os.path.expanduser(given)) if given else hf_home() / "modules"


def folder_of(package: str) -> Path:
    """Where the copies of a package are (``omniform.modules.REPO._DIGEST``)."""
    label, digest = package.split(".")[-2:]
    return modules_cache() / FOLDER / label / digest


def path_of(package: str, file: str) -> Path:
    """Where the copy of a file is."""
    return folder_of(package) / file


def write(package: str, files: Mapping[str, bytes]) -> Path | None:
    """Write copies of files, all at once; those that are there and the same stay.

    Returns:
        Their folder; None where it cannot be written, which keeps nothing from running.
    """
    from filelock import FileLock

    folder = folder_of(package)
    if _same(folder, files):
        return folder
    staging: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(modules_cache() / FOLDER / ".lock"):
            if _same(folder, files):
                return folder
            staging = folder.with_name(f".{folder.name}-{os.getpid()}-{secrets.token_hex(4)}")
            for file, text in files.items():
                target = staging / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(text)
            if folder.exists():  # somebody has changed a copy
                log.warning("%s: the copies there were changed, and are written anew", folder)
                os.replace(folder, staging.with_name(f"{staging.name}-old"))
            os.replace(staging, folder)
        return folder
    except OSError as error:
        log.info("%s: no copies are kept of code that runs: %s", folder, error.strerror)
        return None
    finally:
        if staging is not None:
            for left in (staging, staging.with_name(f"{staging.name}-old")):
                shutil.rmtree(left, ignore_errors=True)


def read(package: str) -> dict[str, bytes]:
    """The copies of a package, whatever they hold now; nothing where there are none."""
    folder = folder_of(package)
    try:
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.py"))}
    except OSError:
        return {}


def _same(folder: Path, files: Mapping[str, bytes]) -> bool:
    try:
        return all((folder / file).read_bytes() == text for file, text in files.items())
    except OSError:
        return False
