"""Chat templates: the jinja programs that come with a checkpoint, run where they can do no harm.

A template is text from a stranger. It sees plain data only (no object of ours or of the user's, so no method of one),
has no loader, so it reaches neither code nor files, and runs on a budget of work and memory that grows with the
messages it is given; see :mod:`omniform.inputs.text.sandbox`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from omniform.core.errors import ConfigError, InputError

if TYPE_CHECKING:
    from omniform.inputs.text.sandbox.program import Program

DEEPEST = 100
"""Lists and mappings within one another beyond this many are no conversation."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation.

    Attributes:
        text: the prompt.
        generated: the characters that the assistant wrote, as (start, end), where they were asked for.
    """

    text: str
    generated: tuple[tuple[int, int], ...] = ()


def compile_template(source: str) -> Program:
    """Compile a chat template, or find it compiled already.

    Raises:
        ConfigError: it is no template, is larger than any, or says what templates may not.
    """
    from jinja2 import TemplateError, TemplateSyntaxError

    from omniform.inputs.text.sandbox.program import compile_program

    try:
        return compile_program(source)
    except (TemplateError, SyntaxError, RecursionError, MemoryError, ValueError, OverflowError) as error:
        line = f", line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        raise ConfigError(
            "the chat template is no valid jinja, or too large", where=f"chat_template{line}", found=_said(error)
        ) from error


def render(source: str, variables: Mapping[str, object]) -> str:
    """The text that a chat template makes; arguments and errors as of :func:`run_template`."""
    return run_template(source, variables).text


def run_template(source: str, variables: Mapping[str, object], *, track: bool = False) -> Prompt:
    """Run a chat template.

    Args:
        source: the jinja source.
        variables: what it sees; reduced to plain data first.
        track: find what ``{% generation %}`` blocks write.

    Raises:
        ConfigError: the template is malformed, breaks out of its sandbox or costs too much.
        InputError: it refuses these messages, or lacks something in them.
    """
    from jinja2 import TemplateError
    from jinja2.exceptions import SecurityError

    program = compile_template(source)
    intake = Intake()
    seen = {name: intake.take(value) for name, value in variables.items()}
    try:
        return _run(program, seen, intake, track)
    except (SecurityError, OverflowError, RecursionError, MemoryError) as error:
        raise ConfigError(
            "the chat template does what templates may not", where="chat_template", found=_said(error)
        ) from error
    except TemplateError as error:
        raise InputError(
            "the chat template refuses these messages", where="chat_template", found=_said(error)
        ) from error
    except Exception as error:  # whatever its expressions raise on this data
        raise InputError(
            "the chat template fails on these messages", where="chat_template", found=_said(error)
        ) from error


def _run(program: Program, variables: dict[str, object], intake: Intake, track: bool) -> Prompt:
    return _runner()(program, variables, intake, track)


@lru_cache(maxsize=1)
def _runner() -> Callable[[Program, dict[str, object], Intake, bool], Prompt]:
    """What runs a program. jinja is imported when it is first needed, and not asked for again at each prompt."""
    from jinja2.runtime import Context
    from jinja2.utils import missing

    from omniform.inputs.text.sandbox.budget import BASE, PER_CHARACTER
    from omniform.inputs.text.sandbox.globals import GLOBALS
    from omniform.inputs.text.sandbox.machine import Machine

    def run(program: Program, variables: dict[str, object], intake: Intake, track: bool) -> Prompt:
        # A template may look at each part of its messages many times over, with all that it has.
        units = BASE + PER_CHARACTER * intake.size + intake.parts * 4 * program.weight
        machine = Machine(units, intake.known, weight=program.weight, track=track)
        machine.spend(program.weight)
        # jinja's context asks its environment for no more than the machine has.
        context = Context(machine, {**GLOBALS, **variables}, None, {})  # type: ignore[arg-type]
        return Prompt("".join(map(machine.write, program.root(context, missing, machine))), machine.finish())

    return run


class _ForeignError(Exception):
    """A value that is not plain as it stands."""


class Intake:
    """Sees to it that a template is given plain data only, and counts that.

    Attributes:
        size: characters in all texts, and some for each value besides.
        parts: values in all.
        known: the size and the depth of each list and mapping, by identity.
    """

    def __init__(self) -> None:
        self.size = 0
        self.parts = 0
        self.known: dict[int, tuple[int, int]] = {}

    def take(self, value: object) -> object:
        """A value as plain data, and counted; itself if it is that already, since templates cannot change it.

        Raises:
            InputError: it is nested absurdly deep.
        """
        if value is None or type(value) is bool:  # as most of what a template is given besides the messages
            self.size += 16
            self.parts += 2
            return value
        taken = [value]
        try:
            size, _ = self._scan(taken, 0)
        except _ForeignError:
            taken = [plain(value)]
            size, _ = self._scan(taken, 0)
        self.size += size
        return taken[0]

    def _scan(self, value: object, depth: int) -> tuple[int, int]:
        """The size and the depth of a list, a tuple or a mapping whose values are plain.

        Raises:
            _ForeignError: one is not.
        """
        if depth > DEEPEST:
            raise _too_deep()
        size, height = 8, 0
        if type(value) is dict:
            for key in value:
                size += len(key) + 8 if type(key) is str else _scalar(key)
            parts: Iterable[object] = value.values()
        else:
            assert isinstance(value, (list, tuple))
            parts = value
        self.parts += 1
        for part in parts:
            kind = type(part)
            if kind is str:
                size += len(part) + 8  # type: ignore[arg-type] # as kind says
            elif kind is dict or kind is list or kind is tuple:
                extent, below = self._scan(part, depth + 1)
                size += extent
                height = below if below > height else height
            else:
                size += _scalar(part)
        self.parts += len(value)
        self.known[id(value)] = (size, height + 1)
        return size, height + 1


def _scalar(value: object) -> int:
    kind = type(value)
    if kind is int:
        return 8 + int.bit_length(value) // 4  # type: ignore[arg-type] # as kind says
    if value is None or kind is bool or kind is float:
        return 8
    if kind is str:
        return 8 + len(value)  # type: ignore[arg-type]
    raise _ForeignError


def plain(value: object) -> object:
    """A value as plain data: text, numbers, booleans, null, lists and mappings of these.

    Dataclasses become mappings of their fields; of any other object the template sees the name of its class.

    Raises:
        InputError: it is nested absurdly deep.
    """
    return _plain(value, 0)


def _plain(value: object, depth: int) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if depth > DEEPEST:
        raise _too_deep()
    if isinstance(value, Mapping):
        return {_plain_key(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item, depth + 1) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(vars(value)[field.name], depth + 1) for field in dataclasses.fields(value)}
    return f"<{type(value).__name__}>"


def _plain_key(key: object) -> object:
    made = _plain(key, DEEPEST)
    return str(made) if isinstance(made, (tuple, list, dict)) else made


def _too_deep() -> InputError:
    return InputError(
        "messages, tools and variables are nested absurdly deep",
        where="conversation",
        expected=f"at most {DEEPEST} levels",
    )


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
