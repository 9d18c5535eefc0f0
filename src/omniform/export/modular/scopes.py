"""Walks over code with an eye for which names are the module's, and which a function's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, cast

import libcst as cst

from omniform.export.modular.sources import bound_by, dotted, names_in, targets_of

Node = TypeVar("Node", bound=cst.CSTNode)


class Names(Protocol):
    """What becomes of the names in a file's code."""

    def used(self, name: str) -> str:
        """A name of the module's, or a builtin."""

    def chained(self, chain: str) -> str | None:
        """``a.b.C`` whose first name is the module's; None leaves it as it is."""

    def own(self, name: str) -> str:
        """A name that the code itself gives to something: a variable, an attribute, a keyword."""

    def attribute(self, name: str, root: str | None) -> str:
        """An attribute's name; ``root`` is what its chain begins with, where that is a name of the module's."""

    def text(self, text: str) -> str:
        """A string or a comment."""

    def said(self, text: str) -> str:
        """A string that is an annotation."""

    def imported(self, level: int, module: str) -> str | None:
        """The absolute name of a module that is imported inside of a function; None leaves it as it is."""


@dataclass
class _Frame:
    function: bool
    names: set[str] = field(default_factory=set)
    fixed: set[str] = field(default_factory=set)
    """Names that an import binds here: nobody renames them."""


class Walk(cst.CSTTransformer):
    """Gives every name of a file's code to a :class:`Names`, and puts what it answers in its place."""

    def __init__(self, names: Names) -> None:
        super().__init__()
        self._names = names
        self._frames: list[_Frame] = []
        self._notes = 0

    def of(self, node: Node) -> Node:
        """A node of the module's outermost level, rewritten."""
        return cast(Node, node.visit(self))

    def below(self, node: Node, bound: set[str], *, function: bool) -> Node:
        """A node inside of a class or a function that binds these names."""
        self._frames.append(_Frame(function, set(bound)))
        try:
            return self.of(node)
        finally:
            self._frames.pop()

    def _frame_of(self, name: str) -> _Frame | None:
        for depth, frame in enumerate(reversed(self._frames)):
            if (frame.function or depth == 0) and name in frame.names:
                return frame
        return None

    def _renamed(self, name: str) -> str:
        frame = self._frame_of(name)
        if frame is None:
            return self._names.used(name)
        return name if name in frame.fixed else self._names.own(name)

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.BaseExpression:
        return updated_node.with_changes(value=self._renamed(updated_node.value))

    def visit_Attribute(self, node: cst.Attribute) -> bool:
        return False

    def leave_Attribute(self, original_node: cst.Attribute, updated_node: cst.Attribute) -> cst.BaseExpression:
        chain = dotted(original_node)
        root = chain.split(".")[0] if chain and self._frame_of(chain.split(".")[0]) is None else None
        if root is not None:
            whole = self._names.chained(chain)
            if whole is not None:
                return cst.Name(whole, lpar=original_node.lpar, rpar=original_node.rpar)
        attr = original_node.attr.with_changes(value=self._names.attribute(original_node.attr.value, root))
        return original_node.with_changes(
            value=self.of(original_node.value),
            attr=attr,
            dot=self.of(original_node.dot),
            lpar=[self.of(each) for each in original_node.lpar],
            rpar=[self.of(each) for each in original_node.rpar],
        )

    def visit_Arg_keyword(self, node: cst.Arg) -> None:
        self._frames.append(_Frame(True, {node.keyword.value} if node.keyword else set()))

    def leave_Arg_keyword(self, node: cst.Arg) -> None:
        self._frames.pop()

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
        return False

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.BaseStatement:
        node = original_node
        frame = _Frame(True)
        _bind(node, frame)
        decorators = [self.of(each) for each in node.decorators]
        params = self._params(node.params, frame)
        returns = None if node.returns is None else self.of(node.returns)
        name = node.name.with_changes(value=self._renamed(node.name.value))
        self._frames.append(frame)
        body = self.of(node.body)
        self._frames.pop()
        return node.with_changes(
            name=name, decorators=decorators, params=params, returns=returns, body=body,
            leading_lines=self._leading(node.leading_lines),
            lines_after_decorators=[self.of(each) for each in node.lines_after_decorators],
        )  # fmt: skip

    def _params(self, params: cst.Parameters, frame: _Frame) -> cst.Parameters:
        def one(param: cst.Param) -> cst.Param:
            return param.with_changes(
                name=param.name.with_changes(value=self._names.own(param.name.value)),
                annotation=None if param.annotation is None else self.of(param.annotation),
                default=None if param.default is None else self.of(param.default),
                comma=param.comma if isinstance(param.comma, cst.MaybeSentinel) else self.of(param.comma),
                whitespace_after_param=self.of(param.whitespace_after_param),
            )

        star = params.star_arg
        return params.with_changes(
            params=[one(each) for each in params.params],
            kwonly_params=[one(each) for each in params.kwonly_params],
            posonly_params=[one(each) for each in params.posonly_params],
            star_arg=one(star) if isinstance(star, cst.Param) else star,
            star_kwarg=None if params.star_kwarg is None else one(params.star_kwarg),
        )

    def visit_Lambda(self, node: cst.Lambda) -> bool:
        return False

    def leave_Lambda(self, original_node: cst.Lambda, updated_node: cst.Lambda) -> cst.BaseExpression:
        frame = _Frame(True, {each.name.value for each in all_params(original_node.params)})
        params = self._params(original_node.params, frame)
        self._frames.append(frame)
        body = self.of(original_node.body)
        self._frames.pop()
        return original_node.with_changes(params=params, body=body)

    def visit_ClassDef(self, node: cst.ClassDef) -> bool:
        return False

    def leave_ClassDef(self, original_node: cst.ClassDef, updated_node: cst.ClassDef) -> cst.BaseStatement:
        node = original_node
        frame = _Frame(False)
        _bind(node, frame)
        changed = node.with_changes(
            name=node.name.with_changes(value=self._renamed(node.name.value)),
            decorators=[self.of(each) for each in node.decorators],
            bases=[self.of(each) for each in node.bases],
            keywords=[self.of(each) for each in node.keywords],
            leading_lines=self._leading(node.leading_lines),
            lines_after_decorators=[self.of(each) for each in node.lines_after_decorators],
        )
        self._frames.append(frame)
        body = self.of(node.body)
        self._frames.pop()
        return changed.with_changes(body=body)

    def _comprehension(self, node: cst.BaseComp) -> None:
        frame = _Frame(True)
        loop: cst.CompFor | None = node.for_in
        while loop is not None:
            frame.names.update(names_in(loop.target))
            loop = loop.inner_for_in
        self._frames.append(frame)

    def visit_ListComp(self, node: cst.ListComp) -> None:
        self._comprehension(node)

    def visit_SetComp(self, node: cst.SetComp) -> None:
        self._comprehension(node)

    def visit_DictComp(self, node: cst.DictComp) -> None:
        self._comprehension(node)

    def visit_GeneratorExp(self, node: cst.GeneratorExp) -> None:
        self._comprehension(node)

    def leave_ListComp(self, original_node: cst.ListComp, updated_node: cst.ListComp) -> cst.BaseExpression:
        self._frames.pop()
        return updated_node

    def leave_SetComp(self, original_node: cst.SetComp, updated_node: cst.SetComp) -> cst.BaseExpression:
        self._frames.pop()
        return updated_node

    def leave_DictComp(self, original_node: cst.DictComp, updated_node: cst.DictComp) -> cst.BaseExpression:
        self._frames.pop()
        return updated_node

    def leave_GeneratorExp(self, original_node: cst.GeneratorExp, updated_node: cst.GeneratorExp) -> cst.BaseExpression:
        self._frames.pop()
        return updated_node

    def visit_Import(self, node: cst.Import) -> bool:
        return False

    def visit_ImportFrom(self, node: cst.ImportFrom) -> bool:
        return False

    def leave_ImportFrom(self, original_node: cst.ImportFrom, updated_node: cst.ImportFrom) -> cst.BaseSmallStatement:
        module = self._names.imported(len(original_node.relative), dotted(original_node.module))
        if module is None:
            return original_node
        chain = cst.parse_expression(module)
        assert isinstance(chain, (cst.Name, cst.Attribute))
        return original_node.with_changes(relative=[], module=chain, whitespace_after_from=cst.SimpleWhitespace(" "))

    def leave_SimpleString(self, original_node: cst.SimpleString, updated_node: cst.SimpleString) -> cst.BaseExpression:
        change = self._names.said if self._notes else self._names.text
        return updated_node.with_changes(value=change(updated_node.value))

    def visit_Annotation(self, node: cst.Annotation) -> None:
        self._notes += 1

    def leave_Annotation(self, original_node: cst.Annotation, updated_node: cst.Annotation) -> cst.Annotation:
        self._notes -= 1
        return updated_node

    def leave_FormattedStringText(
        self, original_node: cst.FormattedStringText, updated_node: cst.FormattedStringText
    ) -> cst.BaseFormattedStringContent:
        return updated_node.with_changes(value=self._names.text(updated_node.value))

    def leave_Comment(self, original_node: cst.Comment, updated_node: cst.Comment) -> cst.Comment:
        return updated_node.with_changes(value=self._names.text(updated_node.value))

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> cst.BaseStatement:
        return updated_node.with_changes(leading_lines=without_copied(updated_node.leading_lines))

    def _leading(self, lines: Sequence[cst.EmptyLine]) -> list[cst.EmptyLine]:
        return without_copied([self.of(each) for each in lines])


def without_copied(lines: Sequence[cst.EmptyLine]) -> list[cst.EmptyLine]:
    """Comments, less those that bind a copy to its original in the reference's own repository."""
    return [line for line in lines if line.comment is None or not line.comment.value.startswith("# Copied from")]


def all_params(params: cst.Parameters) -> list[cst.Param]:
    """Every parameter of a function, starred ones too."""
    found = [*params.posonly_params, *params.params]
    if isinstance(params.star_arg, cst.Param):
        found.append(params.star_arg)
    found += params.kwonly_params
    if params.star_kwarg is not None:
        found.append(params.star_kwarg)
    return found


def locals_of(function: cst.FunctionDef) -> set[str]:
    """Every name that a function binds: its parameters and its variables."""
    frame = _Frame(True)
    _bind(function, frame)
    return frame.names


def _bind(node: cst.FunctionDef | cst.ClassDef, frame: _Frame) -> None:
    collector = _Bound(frame)
    if isinstance(node, cst.FunctionDef):
        frame.names.update(each.name.value for each in all_params(node.params))
    node.body.visit(collector)
    frame.names -= collector.elsewhere


class _Bound(cst.CSTVisitor):
    """The names that a body binds, inner functions' and classes' own aside."""

    def __init__(self, frame: _Frame) -> None:
        super().__init__()
        self.frame = frame
        self.elsewhere: set[str] = set()

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
        self.frame.names.add(node.name.value)
        return False

    def visit_ClassDef(self, node: cst.ClassDef) -> bool:
        self.frame.names.add(node.name.value)
        return False

    def visit_Lambda(self, node: cst.Lambda) -> bool:
        return False

    def visit_Assign(self, node: cst.Assign) -> None:
        self._targets(targets_of(node))

    def visit_AnnAssign(self, node: cst.AnnAssign) -> None:
        self._targets([node.target])

    def visit_AugAssign(self, node: cst.AugAssign) -> None:
        self._targets([node.target])

    def visit_NamedExpr(self, node: cst.NamedExpr) -> None:
        self._targets([node.target])

    def visit_For(self, node: cst.For) -> None:
        self._targets([node.target])

    def visit_AsName(self, node: cst.AsName) -> None:
        self._targets([node.name])

    def visit_ImportFrom(self, node: cst.ImportFrom) -> bool:
        return self._imports(node)

    def visit_Import(self, node: cst.Import) -> bool:
        return self._imports(node)

    def visit_Global(self, node: cst.Global) -> None:
        self.elsewhere.update(item.name.value for item in node.names)

    def visit_Nonlocal(self, node: cst.Nonlocal) -> None:
        self.elsewhere.update(item.name.value for item in node.names)

    def _imports(self, node: cst.Import | cst.ImportFrom) -> bool:
        for name, _ in bound_by(node):
            self.frame.names.add(name)
            self.frame.fixed.add(name)
        return False

    def _targets(self, targets: Sequence[cst.BaseExpression]) -> None:
        for target in targets:
            self.frame.names.update(_stored(target))


def _stored(target: cst.BaseExpression) -> list[str]:
    if isinstance(target, cst.StarredElement):
        return _stored(target.value)
    if isinstance(target, (cst.Tuple, cst.List)):
        return [name for element in target.elements for name in _stored(element.value)]
    return list(names_in(target))
