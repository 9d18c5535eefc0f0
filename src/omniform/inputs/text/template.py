"""Chat templates: the jinja programs that come with a checkpoint, run where they can do no harm.

A template is text from a stranger, so it runs in jinja's immutable sandbox, sees plain data only (no object of ours or
of the user's, so no method of one), and has no loader: it reaches neither code nor files. What it may cost is limited
too: loops over ``range``, repetition, powers and the length of the prompt are bounded; a template that means to waste
time over long texts still can.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import lru_cache, wraps
from types import BuiltinMethodType
from typing import TYPE_CHECKING, NoReturn

from omniform.core.errors import ConfigError, InputError

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.runtime import Context, Macro
    from jinja2.sandbox import SandboxedEnvironment
    from jinja2.utils import Namespace

GENERATED_FROM, GENERATED_TO = "\ufdd0", "\ufdd1"
"""Around what ``{% generation %}`` blocks write, when asked for: two code points that are never characters."""

_WIDTH = re.compile(r"%[^a-zA-Z%]*(\*|\d{7})|\{[^}]*\d{8}")
_LARGEST = 10_000_000  # characters or items that one expression may make
_LONGEST = 50_000_000  # characters that a template may write


@lru_cache(maxsize=64)
def compile_template(source: str, track: bool = False) -> Template:
    """Compile a chat template.

    Args:
        source: the jinja source.
        track: mark what ``{% generation %}`` blocks write.

    Raises:
        ConfigError: it is no template.
    """
    from jinja2 import TemplateError, TemplateSyntaxError

    try:
        return _environment(track).from_string(source)
    except (TemplateError, SyntaxError, RecursionError, MemoryError, ValueError, OverflowError) as error:
        line = f", line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        raise ConfigError(
            "the chat template is no valid jinja", where=f"chat_template{line}", found=_said(error)
        ) from error


def render(source: str, variables: Mapping[str, object], *, track: bool = False) -> str:
    """Run a chat template.

    Args:
        source: the jinja source.
        variables: what it sees; reduced to plain data first.
        track: mark what ``{% generation %}`` blocks write.

    Raises:
        ConfigError: the template is malformed, breaks out of its sandbox or costs too much.
        InputError: it refuses these messages, or lacks something in them.
    """
    from jinja2 import TemplateError
    from jinja2.exceptions import SecurityError

    template = compile_template(source, track)
    parts: list[str] = []
    size = 0
    try:
        for part in template.generate(plain(variables), range=_Range()):
            parts.append(part)
            size += len(part)
            if size > _LONGEST:
                raise OverflowError(f"it writes more than {_LONGEST} characters")
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
    return "".join(parts)


def plain(value: object) -> object:
    """A value as plain data: text, numbers, booleans, null, lists and mappings of these.

    Dataclasses become mappings of their fields; of any other object the template sees the name of its class.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value) if type(value) is str else str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(vars(value)[field.name]) for field in dataclasses.fields(value)}
    return f"<{type(value).__name__}>"


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _environment(track: bool) -> SandboxedEnvironment:
    from jinja2 import FunctionLoader
    from jinja2.ext import loopcontrols

    environment = _sandbox()(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_generation(track), loopcontrols],
        loader=FunctionLoader(_no_file),
    )
    for name in ("center", "indent", "format", "wordwrap"):
        environment.filters[name] = _bounded(environment.filters[name])
    environment.filters["tojson"] = _to_json
    environment.globals.pop("lipsum")
    environment.globals.update(raise_exception=_refuse, strftime_now=_now, namespace=_namespace(), dict=_MakeDict())
    return environment


def _sandbox() -> type[SandboxedEnvironment]:
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Environment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"*", "**", "%"})

        def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
            _bound(operator, left, right)
            result: object = super().call_binop(context, operator, left, right)
            return result

        def getattr(self, obj: object, attribute: str) -> object:
            if isinstance(obj, str) and attribute.startswith("format") and _WIDTH.search(obj):
                raise OverflowError("a format is wider than any text")
            return super().getattr(obj, attribute)

        def call(self, context: Context, function: object, /, *args: object, **values: object) -> object:
            if isinstance(function, BuiltinMethodType) and isinstance(function.__self__, str):
                _bound_arguments(args)  # 'x'.center(9999999999)
            return super().call(context, function, *args, **values)

        def unsafe_undefined(self, obj: object, attribute: str) -> NoReturn:
            # jinja's own gives an undefined value, which prints as nothing.
            raise SecurityError(f"access to attribute {attribute!r} of a {type(obj).__name__!r} is unsafe")

    return Environment


def _generation(track: bool) -> type[Extension]:
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        """``{% generation %}`` … ``{% endgeneration %}``: what the assistant wrote."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_generated"), [], [], body).set_lineno(line)

        def _generated(self, caller: Macro) -> str:
            return f"{GENERATED_FROM}{caller()}{GENERATED_TO}" if track else caller()

    return Generation


def _namespace() -> type[Namespace]:
    from jinja2.utils import Namespace

    class Variables(Namespace):
        """jinja's namespace, which may not be given the names that the sandbox keeps from templates."""

        def __init__(self, *args: object, **values: object) -> None:
            attributes = dict(*args, **values)
            for name in attributes:
                _check_name(name)
            super().__init__(attributes)

        def __setitem__(self, name: str, value: object) -> None:
            _check_name(name)
            super().__setitem__(name, value)

    return Variables


def _bound(operator: str, left: object, right: object) -> None:
    """Refuse an operation whose result would be enormous."""
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        too_much = abs(left) > 1 and (right > 10_000 or left.bit_length() * right > 1_000_000)
    elif operator == "*":
        sized = left if isinstance(left, (str, list, tuple)) else right
        count = right if sized is left else left
        too_much = isinstance(sized, (str, list, tuple)) and isinstance(count, int) and len(sized) * count > _LARGEST
    else:
        # A format writes as many spaces as it is told: '%9999999999d', '%*d'.
        too_much = isinstance(left, str) and _WIDTH.search(left) is not None
    if too_much:
        raise OverflowError(f"an expression with {operator!r} makes something enormous")


def _bound_arguments(values: Iterable[object]) -> None:
    if any(isinstance(value, int) and value > _LARGEST for value in values):
        raise OverflowError("a text is asked for that is longer than any")


def _bounded(make: Callable[..., object]) -> Callable[..., object]:
    """A filter that makes text as long as it is told, within bounds."""

    # functools.wraps also carries over that a filter wants the environment.
    @wraps(make)
    def bounded(*args: object, **values: object) -> object:
        _bound_arguments([*args, *values.values()])
        if any(isinstance(value, str) and make.__name__ == "do_format" and _WIDTH.search(value) for value in args[:1]):
            raise OverflowError("a format is wider than any text")
        return make(*args, **values)

    return bounded


def _no_file(name: str) -> NoReturn:
    from jinja2.exceptions import SecurityError

    raise SecurityError(f"a template may not load {name!r}, or any other file")


def _check_name(name: object) -> None:
    from jinja2.exceptions import SecurityError

    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace may not hold {name!r}: names that begin with an underscore are private")


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja's own escapes what would be HTML, which a prompt is not.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


class _Range:
    """``range`` for templates: jinja bounds one, and this bounds all of a rendering, nested ones among them."""

    def __init__(self) -> None:
        self._left = _LARGEST

    def __call__(self, *bounds: int) -> range:
        from jinja2.sandbox import safe_range

        numbers = safe_range(*bounds)
        self._left -= len(numbers)
        if self._left < 0:
            raise OverflowError(f"its loops run more than {_LARGEST} times")
        return numbers


class _MakeDict:
    """``dict`` for templates: it makes mappings, and is not the class, which knows too much."""

    def __call__(self, *args: Mapping[str, object], **values: object) -> dict[str, object]:
        return dict(*args, **values)

    def fromkeys(self, keys: Iterable[object], value: object = None) -> dict[object, object]:
        """A mapping of several keys to one value."""
        return dict.fromkeys(keys, value)
