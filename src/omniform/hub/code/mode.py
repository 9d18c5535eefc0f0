"""What ``trust_remote_code`` says. Asked at every load, so nothing else of this package is imported for it."""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Callable, Mapping
from typing import Literal, ParamSpec, TypeVar, cast

from omniform.core.errors import InputError, RepoError, TrustError, UnknownNameError, brief
from omniform.hub.remote import together

P = ParamSpec("P")
R = TypeVar("R")

Mode = Literal["never", "here", "sandbox"]
"""Whether code of a checkpoint runs, and where: not at all, in this process, or in a child that can do no harm."""


def mode_of(trust_remote_code: object) -> Mode:
    """What ``trust_remote_code`` says; nothing but True and ``"sandbox"`` lets code run.

    Raises:
        InputError: neither True, False, None nor ``"sandbox"``.
    """
    if trust_remote_code is None or trust_remote_code is False:
        return "never"
    if trust_remote_code is True:
        return "here"
    if isinstance(trust_remote_code, str) and trust_remote_code == "sandbox":
        return "sandbox"
    raise InputError(
        "neither true nor false",
        where="trust_remote_code",
        expected="True, False or 'sandbox'",
        found=brief(trust_remote_code),
    )


def untrusted(name: str, problem: str, found: str, command: str | None = None) -> TrustError:
    """The error for code that would have to run.

    Args:
        command: what shows the code at the command line, if the name alone does not.
    """
    command = f"omniform trust {shlex.quote(name)}" if command is None else command
    return TrustError(
        problem,
        where=name,
        found=found,
        remedy=f"Read the code ({command} shows it); if you trust it, pass trust_remote_code=True.",
    )


def lets_run(kwargs: Mapping[str, object]) -> bool:
    """Whether a call lets a checkpoint's code run, here or in a sandbox. Raises as :func:`mode_of`."""
    return mode_of(kwargs.get("trust_remote_code")) != "never"


def tells(auto: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have an Auto class's ``from_pretrained`` say of what it cannot read that the checkpoint brings a class for it."""

    def around(load: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(load)
        def loaded(*args: P.args, **kwargs: P.kwargs) -> R:
            with together():  # what is looked for in turn is looked for at one commit
                try:
                    return load(*args, **kwargs)
                except (UnknownNameError, RepoError) as error:
                    given: dict[str, object] = dict(kwargs)
                    name = given.pop("pretrained_model_name_or_path", None) if len(args) < 2 else args[1]
                    if lets_run(given) or not isinstance(name, (str, os.PathLike)):
                        raise
                    from omniform.hub.code.doors import unasked

                    better = unasked(auto, cast("str | os.PathLike[str]", name), given, error)
                    if better is error:
                        raise
                    raise better from error

        return loaded

    return around
