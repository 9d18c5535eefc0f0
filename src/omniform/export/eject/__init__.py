"""A model as one readable file of torch: see :func:`eject`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from omniform.architectures.family import Architecture, Family
from omniform.core.errors import InputError, OmniformError, RepoError, brief, nearest
from omniform.export.eject.whole import Asked, source_of
from omniform.hub.checkpoint import read_config, saved_class
from omniform.hub.files import locate
from omniform.hub.weights import find_weights
from omniform.models import registry

MAIN_TASKS = ("causal-lm", "seq2seq-lm", "speech-seq2seq", "image-text-to-text", "masked-lm", "object-detection")
"""What the main head of a family does, the first of these that it has."""


def eject(
    name: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    architecture: str | None = None,
    revision: str | None = None,
    force: bool = False,
) -> Path:
    """Write a model as one self-contained file of torch, which computes the same and needs nothing of omniform.

    Args:
        name: a family's ``model_type`` (``"llama"``), with its default sizes; or a checkpoint's folder or Hub id, with
            its own.
        to: the file.
        architecture: the class, ``"LlamaForSequenceClassification"``; by default what the checkpoint was saved as, or
            the family's main head.
        revision: branch, tag or commit on the Hub.
        force: whether a file that is there is written over.

    Returns:
        The file.

    Raises:
        InputError: no such family or architecture; the file is there.
        OmniformError: this model cannot be written down, and why.
    """
    path = Path(to)
    if path.suffix != ".py":
        raise InputError("a file of Python is written", where="to", expected="a name that ends in .py", found=str(path))
    if path.exists() and not force:
        raise InputError("the file is there", where=str(path), remedy="Choose another name, or say force.")
    asked = _asked(os.fspath(name), architecture, revision, path.name)
    try:
        text = source_of(asked)
    except OmniformError as error:
        raise OmniformError(
            f"{asked.architecture.name} cannot be written down", where=asked.family.model_type, found=str(error)
        ) from error
    made = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        made.write_text(text, encoding="utf-8")
        made.replace(path)
    except OSError as error:
        made.unlink(missing_ok=True)
        raise RepoError("the file cannot be written", where=str(path), found=error.strerror) from error
    return path


def _asked(name: str, architecture: str | None, revision: str | None, file: str) -> Asked:
    words = ["omniform", "eject", str(name), "--to", file, *(["--architecture", architecture] if architecture else [])]
    command = shlex.join(words)
    if name in registry.known_families() and not Path(name).is_dir():
        family = registry.family(name)
        raw = {"model_type": family.model_type}
        return Asked(family, _architecture(family, architecture), raw, frozenset(), command)
    source = locate(name, revision=revision)
    config = read_config(source)
    family = registry.family(config.model_type, where=f"{source.name}: config.json")
    if family.model_type not in registry.known_families():
        raise InputError("only omniform's own families are written down", where=source.name, found=family.model_type)
    saved = saved_class(config).__name__ if config.common.architectures else None
    chosen = _architecture(family, architecture or saved)
    files = find_weights(source)
    keys = frozenset(key for header in files.headers.values() for key in header.entries)
    return Asked(family, chosen, config.raw, keys, command)


def _architecture(family: Family, name: str | None) -> Architecture:
    if name is not None:
        if name not in family.architectures:
            raise InputError(
                "the family has no such architecture",
                where=family.model_type,
                found=brief(name),
                remedy=nearest(name, family.architectures),
            )
        return family.architectures[name]
    for task in MAIN_TASKS:
        for one in family.architectures.values():
            if task in one.tasks:
                return one
    return family.base
