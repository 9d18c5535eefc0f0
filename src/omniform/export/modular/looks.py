"""Small questions about code: what it reads, what it assigns, what it returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar, cast

import libcst as cst

from omniform.export.modular.sources import dotted, names_in, targets_of

_EMPTY = cst.Module([])


def code(node: cst.CSTNode) -> str:
    """A node as text, without what stands around it."""
    return _EMPTY.code_for_node(node).strip()


Line = TypeVar("Line", bound=cst.SimpleStatementLine | cst.BaseCompoundStatement)


def bare(node: Line) -> Line:
    """A statement without the comments and empty lines above it."""
    return cast(Line, node.with_changes(leading_lines=[]))


def docstring(body: Sequence[cst.BaseStatement]) -> cst.SimpleStatementLine | None:
    """The docstring that a body begins with."""
    first = body[0] if body else None
    if isinstance(first, cst.SimpleStatementLine) and len(first.body) == 1:
        small = first.body[0]
        if isinstance(small, cst.Expr) and isinstance(small.value, (cst.SimpleString, cst.ConcatenatedString)):
            return first
    return None


def statements(body: cst.BaseSuite) -> list[cst.BaseStatement]:
    """The statements of a body, be they below each other or on the line of its head."""
    if isinstance(body, cst.IndentedBlock):
        return list(body.body)
    return [cst.SimpleStatementLine([small]) for small in body.body if isinstance(small, cst.BaseSmallStatement)]


def block(body: Sequence[cst.BaseStatement], *like: cst.BaseSuite) -> cst.IndentedBlock:
    """A body with the comments that stand behind the head and below the last line of the bodies that it is made of."""
    blocks = [each for each in like if isinstance(each, cst.IndentedBlock)]
    heads = [each.header for each in blocks if each.header.comment is not None]
    footer = [line for each in reversed(blocks) for line in each.footer if line.comment is not None]
    found = cst.IndentedBlock(list(body) or [cst.SimpleStatementLine([cst.Pass()])], footer=footer)
    return found.with_changes(header=heads[0]) if heads else found


def only(statement: cst.BaseStatement) -> cst.BaseSmallStatement | None:
    """The small statement that a line holds, if it is one."""
    if isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1:
        return statement.body[0]
    return None


def target_of(statement: cst.BaseStatement) -> str | None:
    """``x`` or ``self.x`` where the statement assigns to that alone, or registers a buffer or parameter under it."""
    small = only(statement)
    if isinstance(small, (cst.Assign, cst.AnnAssign)):
        targets = targets_of(small)
        if isinstance(small, cst.AnnAssign) and small.value is None:
            return None
        return dotted(targets[0]) or None if len(targets) == 1 else None
    if isinstance(small, cst.Expr) and isinstance(small.value, cst.Call):
        call = small.value
        if dotted(call.func).endswith((".register_buffer", ".register_parameter")) and call.args:
            name = call.args[0].value
            if isinstance(name, cst.SimpleString) and isinstance(name.evaluated_value, str):
                return f"{dotted(call.func).rsplit('.', 1)[0]}.{name.evaluated_value}"
    return None


class _Loads(cst.CSTVisitor):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.calls_self = False

    def visit_Attribute(self, node: cst.Attribute) -> bool:
        chain = dotted(node)
        if not chain:
            return True
        parts = chain.split(".")
        self.found[parts[0]] += 1
        if parts[0] in ("self", "cls"):
            self.found[".".join(parts[:2])] += 1
        return False

    def visit_Name(self, node: cst.Name) -> None:
        self.found[node.value] += 1

    def visit_Arg_keyword(self, node: cst.Arg) -> None:
        if node.keyword is not None:
            self.found[node.keyword.value] -= 1

    def visit_Param(self, node: cst.Param) -> None:
        self.found[node.name.value] -= 1

    def visit_AssignTarget(self, node: cst.AssignTarget) -> None:
        self._stored(node.target)

    def visit_AnnAssign(self, node: cst.AnnAssign) -> None:
        self._stored(node.target)

    def visit_For(self, node: cst.For) -> None:
        self._stored(node.target)

    def visit_CompFor(self, node: cst.CompFor) -> None:
        self._stored(node.target)

    def visit_Call(self, node: cst.Call) -> None:
        parts = dotted(node.func).split(".")
        self.calls_self = self.calls_self or (len(parts) == 2 and parts[0] == "self")

    def _stored(self, target: cst.BaseExpression) -> None:
        if isinstance(target, cst.Attribute):
            parts = dotted(target).split(".")
            if len(parts) == 2 and parts[0] in ("self", "cls"):
                self.found[dotted(target)] -= 1
        for name in names_in(target):
            self.found[name] -= 1


def _loads(nodes: Iterable[cst.CSTNode]) -> _Loads:
    visitor = _Loads()
    for node in nodes:
        node.visit(visitor)
    return visitor


def reads(*nodes: cst.CSTNode) -> set[str]:
    """The names that code reads, and of ``self``'s attributes those too: ``self.x``."""
    return {name for name, count in _loads(nodes).found.items() if count > 0}


def calls_own(*nodes: cst.CSTNode) -> bool:
    """Whether code calls a method of ``self``, which may read whatever ``self`` has."""
    return _loads(nodes).calls_self


class _Flow(cst.CSTVisitor):
    def __init__(self) -> None:
        super().__init__()
        self.returns: list[cst.Return] = []
        self.yields = False

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
        return False

    def visit_ClassDef(self, node: cst.ClassDef) -> bool:
        return False

    def visit_Lambda(self, node: cst.Lambda) -> bool:
        return False

    def visit_Return(self, node: cst.Return) -> None:
        self.returns.append(node)

    def visit_Yield(self, node: cst.Yield) -> None:
        self.yields = True


def returns(body: Sequence[cst.BaseStatement]) -> list[cst.Return]:
    """The ``return`` statements of a function's body, inner functions' aside."""
    return _flow(body).returns


def yields(body: Sequence[cst.BaseStatement]) -> bool:
    """Whether a function with this body is a generator."""
    return _flow(body).yields


def _flow(body: Sequence[cst.BaseStatement]) -> _Flow:
    flow = _Flow()
    for statement in body:
        statement.visit(flow)
    return flow
