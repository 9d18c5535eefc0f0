"""From a template's source to Python code whose every operation is a method of a ``Machine``."""

# ruff: noqa: N802, N815 (jinja calls a visitor by the name of what it visits)

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import FunctionType
from typing import cast

from jinja2 import Environment, Template, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.lexer import Token, TokenStream
from jinja2.parser import Parser

from omniform.inputs.text.sandbox.budget import LONGEST_INTEGER, NODE, TooMuchError
from omniform.inputs.text.sandbox.checks import TESTS
from omniform.inputs.text.sandbox.filters import FILTERS
from omniform.inputs.text.sandbox.values import Variables

LONGEST_SOURCE = 100_000
"""Characters of the longest template."""

_MOST_NODES = 20_000
"""Steps of the largest template: published ones have under 5,000."""

_MOST_TOKENS = 3 * _MOST_NODES
"""What jinja's parser reads of the largest template: a usual one has not quite two tokens to a step.
Steps are counted when all is parsed, which takes a second or two where there are a hundred thousand tokens."""


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled template.

    Attributes:
        root: renders it, given a context and a machine.
        weight: units that all of it takes once.
        names: the variables that it reads.
    """

    root: Callable[..., Iterator[str]]
    weight: int
    names: frozenset[str]


_STATEMENTS = (
    *(nodes.Template, nodes.Output, nodes.For, nodes.If, nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.With),
    *(nodes.Assign, nodes.AssignBlock, nodes.ExprStmt, nodes.Break, nodes.Continue, nodes.Scope),
)
_EXPRESSIONS = (
    *(nodes.TemplateData, nodes.Const, nodes.Name, nodes.NSRef, nodes.Tuple, nodes.List, nodes.Dict, nodes.Pair),
    *(nodes.Keyword, nodes.CondExpr, nodes.Filter, nodes.Test, nodes.Call, nodes.Getattr, nodes.Getitem, nodes.Slice),
    *(nodes.Concat, nodes.Compare, nodes.Operand, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv),
    *(nodes.Mod, nodes.Pow, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos, nodes.EnvironmentAttribute),
)
_ALLOWED = frozenset((*_STATEMENTS, *_EXPRESSIONS))

_WEIGHTS: dict[type, int] = {
    **dict.fromkeys((nodes.Call, nodes.Filter, nodes.Test, nodes.Dict, nodes.For), 4),
    **dict.fromkeys((nodes.List, nodes.Tuple, nodes.Concat, nodes.Add), 2),
    **dict.fromkeys((nodes.Macro, nodes.CallBlock, nodes.AssignBlock, nodes.FilterBlock), 12),
}
"""Steps that take longer, or make something larger, than one."""


@lru_cache(maxsize=64)
def compile_program(source: str) -> Program:
    """Compile a template.

    Raises:
        TemplateError: it is no template, or says what templates may not.
        TooMuchError: it is larger than any template.
    """
    if len(source) > LONGEST_SOURCE:
        raise TooMuchError(f"the template has {len(source)} characters, and {LONGEST_SOURCE} are the most")
    environment = _environment()
    tree = environment.parse(source)
    rewriter = _Rewriter()
    weight = rewriter.visit(tree, generating=False)
    root = Template.from_code(environment, environment.compile(tree), {}).root_render_func
    # The code imports jinja's namespace, to ask what may be assigned to.
    cast(FunctionType, root).__globals__["Namespace"] = Variables
    return Program(root, weight * NODE, frozenset(rewriter.names))


def _environment() -> Environment:
    environment = Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, loopcontrols],
        autoescape=False,
        optimized=False,  # nothing is computed before there is a budget
    )
    # Here the compiler sees which filters and tests exist, and nothing more.
    environment.filters = dict.fromkeys(FILTERS, _absent)
    environment.tests = dict.fromkeys(TESTS, _absent)
    environment.code_generator_class = _Generator
    return environment


def _absent() -> None:
    raise AssertionError("filters and tests are the machine's")


def _of_machine(name: str, *args: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), list(args), [], None, None)


class _Generation(Extension):
    """``{% generation %}`` … ``{% endgeneration %}``: what the assistant wrote."""

    tags = {"generation"}  # noqa: RUF012

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        """The tokens of a template, as long as there are not too many."""
        for count, token in enumerate(stream):
            if count == _MOST_TOKENS:
                raise TooMuchError(f"the template has more than {_MOST_TOKENS} tokens")
            yield token

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        start, end = (nodes.Output([_of_machine(name)]).set_lineno(line) for name in ("begin", "end"))
        return nodes.Scope([start, *body, end]).set_lineno(line)


class _Rewriter:
    """Checks a tree, weighs it, and makes its loops and macros pay for their bodies.

    Attributes:
        names: the variables that were met.
    """

    def __init__(self) -> None:
        self._count = 0
        self.names: set[str] = set()

    def visit(self, node: nodes.Node, *, generating: bool) -> int:
        """Rewrite a tree in place, and give the number of its steps."""
        kind = type(node)
        self._check(node, generating)
        if isinstance(node, nodes.Name):
            self.names.add(node.name)
        if kind is nodes.Scope:
            generating = True
        elif kind is nodes.For or kind is nodes.Macro:
            generating = False
        weight = _WEIGHTS.get(kind, 1)
        for child in list(node.iter_child_nodes()):
            weight += self.visit(child, generating=generating)
        if isinstance(node, nodes.For):
            node.iter = _of_machine("each", cast(nodes.Expr, node.iter), nodes.Const(NODE * weight))
        elif isinstance(node, (nodes.Macro, nodes.CallBlock)):
            node.body.insert(0, nodes.ExprStmt(_of_machine("spend", nodes.Const(NODE * weight)), lineno=node.lineno))
        elif isinstance(node, (nodes.Call, nodes.Filter, nodes.Test)):
            if node.dyn_args is not None:
                node.dyn_args = _of_machine("spread", node.dyn_args)
            if node.dyn_kwargs is not None:
                node.dyn_kwargs = _of_machine("spread", node.dyn_kwargs)
        return weight

    def _check(self, node: nodes.Node, generating: bool) -> None:
        self._count += 1
        if self._count > _MOST_NODES:
            raise TooMuchError(f"the template has more than {_MOST_NODES} steps")
        if type(node) not in _ALLOWED:
            raise SecurityError(f"a template may not use {type(node).__name__.lower()!r}, or any other file")
        if generating and isinstance(node, (nodes.Break, nodes.Continue)):
            raise SecurityError("a generation block cannot be left by 'break' or 'continue'")
        number = node.value if isinstance(node, nodes.Const) else None
        if isinstance(number, int) and number.bit_length() > LONGEST_INTEGER:
            raise TooMuchError(f"a number has more than {LONGEST_INTEGER} bits")


class _Generator(CodeGenerator):
    """jinja's code generator, except that each operation becomes a call of the machine, which is ``environment``."""

    def _method(self, name: str, frame: Frame, *parts: nodes.Node | str) -> None:
        self.write(f"environment.{name}(")
        for index, part in enumerate(parts):
            if index:
                self.write(", ")
            if isinstance(part, str):
                self.write(part)
            else:
                self.visit(part, frame)
        self.write(")")

    # ---- output

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: CodeGenerator._FinalizeInfo) -> str:
        if isinstance(node, nodes.TemplateData):
            return str(node.data)
        if isinstance(node, nodes.Const) and type(node.value) is str:
            return node.value
        raise nodes.Impossible

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: CodeGenerator._FinalizeInfo) -> None:
        self.write("environment.text(")

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: CodeGenerator._FinalizeInfo) -> None:
        self.write(")")

    # ---- operators

    def visit_Add(self, node: nodes.BinExpr, frame: Frame) -> None:
        terms: list[nodes.Expr] = [node.right]
        left = node.left
        while isinstance(left, nodes.Add):
            terms.append(left.right)
            left = left.left
        self._method("add", frame, left, *reversed(terms))

    def _binary(self, node: nodes.BinExpr, frame: Frame) -> None:
        self._method("binary", frame, repr(node.operator), node.left, node.right)

    visit_Sub = visit_Mul = visit_Div = visit_FloorDiv = visit_Pow = visit_Mod = _binary

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self._method("joined", frame, *node.nodes)

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        operands = [node.expr, *(part.expr for part in node.ops)]
        signs = ["", *(_SIGNS[part.op] for part in node.ops)]
        bounded = any(_is_constant(operand) for operand in operands) if len(operands) == 2 else False
        self.write("(")
        for index, (sign, operand) in enumerate(zip(signs, operands, strict=True)):
            self.write(f" {sign} " if sign else "")
            searched = "in" in sign.split()
            looked_for = index + 1 < len(signs) and "in" in signs[index + 1].split()
            if _is_small(operand) or (bounded and not searched):
                self.visit(operand, frame)
            elif searched:
                self._method("sized" if bounded else "haystack", frame, operand)
            else:
                self._method("needle" if looked_for else "measured", frame, operand)
        self.write(")")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self.write("{")
        for pair in node.items:
            if _is_constant(pair.key):
                self.visit(pair.key, frame)
            else:
                self._method("needle", frame, pair.key)
            self.write(": ")
            self.visit(pair.value, frame)
            self.write(", ")
        self.write("}")

    # ---- attributes, items, calls

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:
        self._method("getattr", frame, node.node, repr(node.attr))

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if isinstance(node.arg, nodes.Slice):
            cut = (node.arg.start, node.arg.stop, node.arg.step)
            self._method("slice", frame, node.node, *("None" if part is None else part for part in cut))
        else:
            self._method("getitem", frame, node.node, node.arg)

    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:
        target = node.node
        if isinstance(target, nodes.EnvironmentAttribute):
            if target.name in ("begin", "end"):
                self._method(target.name, frame, repr(frame.buffer is None))
            else:
                self._method(target.name, frame, *node.args)
            return
        if isinstance(target, nodes.Getattr):
            self.write("environment.method(")
            self.visit(target.node, frame)
            self.write(f", {target.attr!r}")
        else:
            self.write("environment.call(")
            self.visit(target, frame)
        self.signature(node, frame, {"caller": "caller"} if forward_caller else None)
        self.write(")")


_SIGNS = {
    "eq": "==",
    "ne": "!=",
    "gt": ">",
    "gteq": ">=",
    "lt": "<",
    "lteq": "<=",
    "in": "in",
    "notin": "not in",
}


def _is_constant(node: nodes.Node) -> bool:
    """Whether a value stands in the template as it is, so that comparing it takes as long as the template says."""
    if isinstance(node, (nodes.List, nodes.Tuple)):
        return all(_is_constant(item) for item in node.items)
    return isinstance(node, nodes.Const)


def _is_small(node: nodes.Node) -> bool:
    """Whether a value is a constant, or true or false."""
    return _is_constant(node) or isinstance(node, (nodes.Compare, nodes.Not, nodes.Test))
