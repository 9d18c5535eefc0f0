"""``custom_generate/generate.py``: a function in a repository that takes the place of ``generate``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, cast

from omniform.architectures.model import Model
from omniform.core.errors import CodeError, RepoError
from omniform.hub.code.mode import mode_of, untrusted
from omniform.hub.code.named import GENERATE_FILE, in_sandbox, loaded
from omniform.hub.code.reference import Reference
from omniform.hub.code.requirements import check_requirements
from omniform.hub.files import Source, locate
from omniform.hub.options import places

REQUIREMENTS_FILE: Final = "custom_generate/requirements.txt"

Generate = Callable[..., object]


def custom_generate(name: str | os.PathLike[str], trust: object, kwargs: Mapping[str, object]) -> Generate:
    """The function ``generate(model, ...)`` of a folder or a repository.

    Args:
        trust: what the user says: ``trust_remote_code``.
        kwargs: where to look; see :class:`omniform.AutoConfig`.

    Raises:
        RepoError: there is no such repository, or it has no such function.
        TrustError, CodeError, DependencyError: it may not run, or cannot.
    """
    mode = mode_of(trust)
    if mode == "never":
        raise untrusted(os.fspath(name), "custom_generate runs code of a repository", GENERATE_FILE)
    where, rest = places(kwargs)
    source = locate(name, **where)  # type: ignore[arg-type]
    if not source.has(GENERATE_FILE):
        raise RepoError("there is no function to generate with", where=source.name, expected=GENERATE_FILE)
    return _function(source, mode == "sandbox", rest.get("code_revision"))


def _function(source: Source, in_child: bool, code_revision: object = None) -> Generate:
    asked = Reference(None, GENERATE_FILE, "generate")
    if in_child:
        in_sandbox(asked, source)
    check_requirements(source, REQUIREMENTS_FILE)
    found = loaded(asked, source, code_revision=code_revision if isinstance(code_revision, str) else None)
    if not callable(found):
        raise CodeError("generate is no function", where=f"{source.name}: {GENERATE_FILE}", found=type(found).__name__)
    return cast(Generate, found)


def use_own_generate(model: Model, source: Source) -> None:
    """Have a trusted checkpoint's own function answer ``model.generate``, as it does in the ecosystem."""
    if model.can_generate() and source.has(GENERATE_FILE):
        model.__dict__["generate"] = partial(_function(source, False), model=model)
