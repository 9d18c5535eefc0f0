"""What a child's ``super()`` means, written out in a class that has its parent's methods itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import libcst as cst

from omniform.core.errors import InputError
from omniform.export.modular import looks
from omniform.export.modular.inline import Binding, bind, body_of, first_of, is_static
from omniform.export.modular.names import snake
from omniform.export.modular.overrides import merged
from omniform.export.modular.scopes import all_params, locals_of
from omniform.export.modular.sources import dotted, targets_of

GRAND = "__grand__"
"""Stands for a ``super`` that means the parent's own parents; it is written as ``super`` in the end."""

_TALK = ("auto_docstring", "add_start_docstrings", "add_start_docstrings_to_model_forward", "replace_return_docstrings",
         "add_end_docstrings", "add_code_sample_docstrings")  # fmt: skip
_ONCE = ("abstractmethod", "overload", "final", "override")
"""Decorators that speak of the parent's own method alone."""

_INIT = ("__init__", "__post_init__")
_SCOPES = (cst.FunctionDef, cst.Lambda, cst.ListComp, cst.SetComp, cst.DictComp, cst.GeneratorExp)
"""Where ``super()`` says nothing: it has neither class nor object there."""


class NeedsParentError(InputError):
    """A class uses its parent in a way for which the parent must be there itself, under a name of its own."""


@dataclass
class Family:
    """A class that is made of a child and its parent.

    Attributes:
        child: what the code calls the child.
        parent: what it calls the parent.
        bases: what it calls the classes that the new one is derived from.
        where: the child's file and line, for errors.
        methods: the parent's methods by name, a property's with its setter.
        values: the parent's other members by name, where a plain assignment gives them.
        overridden: the names that the child has of its own.
        spelled: the parent's name in its file.
        named: what a decorator in marks is called.
    """

    child: str
    parent: str
    bases: set[str]
    where: str
    spelled: str
    methods: dict[str, list[cst.FunctionDef]]
    values: dict[str, cst.BaseExpression]
    overridden: set[str]
    named: Callable[[str], str]
    helpers: dict[str, list[cst.FunctionDef]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def helper(self, method: str) -> str:
        """The name under which the new class keeps a method of the parent's that its own takes the place of."""
        name = f"_{snake(self.spelled)}_{method.strip('_')}"
        if name not in self.helpers:
            self.helpers[name] = [
                _undocumented(each).with_changes(
                    name=cst.Name(name),
                    leading_lines=[cst.EmptyLine(indent=False)],
                    decorators=[one for one in each.decorators if not self.talks(one) and not self.once(one)],
                )
                for each in self.methods[method][:1]
            ]
        return name

    def keeps(self, method: str, node: cst.FunctionDef) -> bool:
        """Whether code calls the parent's method under its other name."""
        name = f"_{snake(self.spelled)}_{method.strip('_')}"
        return name in self.helpers and name in looks.code(node.body)

    def talks(self, decorator: cst.Decorator) -> bool:
        """Whether a decorator is about documentation."""
        return self._last(decorator) in _TALK

    def once(self, decorator: cst.Decorator) -> bool:
        """Whether a decorator is the parent's own method's, and not that of what overrides it."""
        return self._last(decorator) in _ONCE

    def _last(self, decorator: cst.Decorator) -> str:
        inner = decorator.decorator
        return self.named(dotted(inner.func if isinstance(inner, cst.Call) else inner)).split(".")[-1]


def _undocumented(method: cst.FunctionDef) -> cst.FunctionDef:
    """A method without its docstring, which stands in that of its first name."""
    body = looks.statements(method.body)
    if len(body) < 2 or looks.docstring(body) is None:
        return method
    return method.with_changes(body=looks.block(body[1:], method.body))


class Grand(cst.CSTTransformer):
    """Marks each ``super`` of the parent's code: in the child it still means the parent's own parents."""

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.BaseExpression:
        if isinstance(updated_node.func, cst.Name) and updated_node.func.value == "super":
            return updated_node.with_changes(func=cst.Name(GRAND))
        return updated_node


class _Scoped(cst.CSTTransformer):
    """A transformer that knows how many functions and comprehensions it is in."""

    def __init__(self) -> None:
        super().__init__()
        self._scopes = 0

    def on_visit(self, node: cst.CSTNode) -> bool:
        self._scopes += isinstance(node, _SCOPES)
        return super().on_visit(node)

    def on_leave(
        self, original_node: cst.CSTNodeT, updated_node: cst.CSTNodeT
    ) -> cst.CSTNodeT | cst.RemovalSentinel | cst.FlattenSentinel[cst.CSTNodeT]:
        found = super().on_leave(original_node, updated_node)
        self._scopes -= isinstance(original_node, _SCOPES)
        return found


class _Spelled(_Scoped):
    """Writes every way to call the parent's methods as ``super().f(...)``, and its parents' as the marked one."""

    def __init__(self, family: Family, selfs: Sequence[str], method: str) -> None:
        super().__init__()
        self._family = family
        self._selfs = selfs
        self._method = method
        self._inner = 0

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        self._inner += 1

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.BaseStatement:
        self._inner -= 1
        return updated_node

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.BaseExpression:
        func = updated_node.func
        if isinstance(func, cst.Name) and func.value == "super":
            return self._super(updated_node)
        if not isinstance(func, cst.Attribute):
            return updated_node
        owner = looks.code(func.value)
        args = list(updated_node.args)
        bound = bool(args) and args[0].star == "" and looks.code(args[0].value) in self._selfs
        if owner == self._family.parent and bound:
            new = cst.Call(cst.Name("super"))
        elif owner in self._family.bases and (bound or func.attr.value == self._method):
            new = grand_call(self._family, args[0].value if bound and self._scopes > 1 else None)
        elif func.attr.value == "__init__" == self._method and not bound and _is_class(owner, self._selfs):
            new = cst.Call(cst.Name(GRAND))  # nn.Module.__init__(), as modular files write it
        else:
            return updated_node
        return updated_node.with_changes(func=func.with_changes(value=new), args=args[1:] if bound else args)

    def _super(self, call: cst.Call) -> cst.BaseExpression:
        named = [looks.code(arg.value) for arg in call.args]
        if not named:
            if self._inner > 1:
                raise _refused(self._family, self._method, "super() without arguments in an inner function")
            return call
        if named[0] == self._family.child:
            return cst.Call(cst.Name("super"))
        if named[0] == self._family.parent:
            this = call.args[0].with_changes(value=cst.Name(self._family.child))
            return call.with_changes(func=cst.Name(GRAND), args=[this, *call.args[1:]])
        raise _refused(self._family, self._method, f"super() of another class, {looks.code(call)}")


def _refused(family: Family, method: str, what: str) -> InputError:
    return InputError(
        f"{what}, in {method}, cannot be written out",
        where=family.where,
        remedy="Call super().method(...) in the method itself, or name the class: Parent.method(self, ...).",
    )


class _Calls(_Scoped):
    """Puts the kept methods in the place of what is left of ``super().f``."""

    def __init__(self, family: Family, owner: str, method: str) -> None:
        super().__init__()
        self._family = family
        self._self = owner
        self._method = method

    def leave_Attribute(self, original_node: cst.Attribute, updated_node: cst.Attribute) -> cst.BaseExpression:
        name = updated_node.attr.value
        family = self._family
        if looks.code(original_node.value) == family.parent and name in family.overridden:
            if name in family.methods:  # Parent.f(x): the parent's own
                return cst.Attribute(cst.Name(family.child), cst.Name(family.helper(name)))
            return in_brackets(family.values[name]) if name in family.values else updated_node
        if not _is_super(updated_node.value):
            return updated_node
        if name in family.methods:
            return cst.Attribute(cst.Name(self._self), cst.Name(family.helper(name)))
        if name in family.values:
            if name not in family.overridden:
                return cst.Attribute(cst.Name(self._self), cst.Name(name))
            return in_brackets(family.values[name])
        this = cst.Name(self._self) if self._scopes and self._self else None
        return updated_node.with_changes(value=grand_call(family, this))


def grand_call(family: Family, this: cst.BaseExpression | None) -> cst.Call:
    """A ``super`` of the parent's own parents; where an inner function calls it, it names class and object."""
    args = [] if this is None else [cst.Arg(cst.Name(family.child)), cst.Arg(this)]
    return cst.Call(cst.Name(GRAND), args)


def _is_class(owner: str, selfs: Sequence[str]) -> bool:
    parts = owner.split(".")
    return all(part.isidentifier() for part in parts) and parts[0] not in selfs and parts[0] != GRAND


def _is_super(node: cst.BaseExpression) -> bool:
    return isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value == "super"


def in_brackets(node: cst.BaseExpression) -> cst.BaseExpression:
    """An expression in brackets, where it may need some."""
    whole = (cst.BaseNumber, cst.BaseString, cst.Name, cst.List, cst.Dict, cst.Set, cst.Call, cst.Attribute)
    return (
        node
        if node.lpar or isinstance(node, whole)
        else node.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    )


def unravel(method: cst.FunctionDef, family: Family) -> cst.FunctionDef:
    """A child's method with what its ``super()`` means written out.

    ``super().f(...)`` on a line of its own, as what is returned, or as what is assigned, becomes the parent's lines,
    where those fit; anywhere else the parent's method is kept beside it under another name.

    Raises:
        InputError: it uses ``super()`` in a way that no line can be written for.
    """
    name = method.name.value
    owner = "" if is_static(method) else first_of(method)
    changed = method.visit(_Spelled(family, [owner] if owner else [], name))
    assert isinstance(changed, cst.FunctionDef)
    body = looks.code(changed.body)
    if "super" not in body and family.parent not in body:
        return changed
    changed = _inlined(changed, name, family) or changed
    changed = changed.with_changes(body=_visited(changed.body, _Calls(family, owner or family.child, name)))
    if any(_bare(changed)):
        raise NeedsParentError(f"{name} uses super() without a method's name after it", where=family.where)
    return changed


def _visited(body: cst.BaseSuite, transformer: cst.CSTTransformer) -> cst.BaseSuite:
    found = body.visit(transformer)
    assert isinstance(found, cst.BaseSuite)
    return found


def _bare(method: cst.FunctionDef) -> list[str]:
    return [name for name in looks.reads(method.body) if name == "super"]


def _inlined(method: cst.FunctionDef, name: str, family: Family) -> cst.FunctionDef | None:
    """The method with the parent's lines in it, if its one call of the parent's is a statement they can replace."""
    parents = family.methods.get(name, [])
    if len(parents) != 1:
        return None
    parent = parents[0]
    body = looks.statements(method.body)
    found = [(index, *seen) for index, each in enumerate(body) if (seen := _form(each, name)) is not None]
    if len(found) != 1 or _count(method, name) != 1 or (parent.asynchronous is None) != (method.asynchronous is None):
        return None
    index, form, call, target = found[0]
    if form == "expr" and name not in _INIT and index == len(body) - 1 and _returns_only(parent, method):
        form = "return"
        family.notes.append(f"{name}: what super() gives is returned")
    if not _same_decorators(parent, method, family):
        return None
    before, after = body[:index], body[index + 1 :] if form != "return" else []
    binding = bind(call, parent, method, before)
    if binding is None:
        return None
    has = {each.name.value for each in all_params(method.params)}
    has |= {one for each in before for one in locals_of(_function([each]))}
    inner = body_of(parent, binding, form, has, looks.reads(*after), looks.reads(*body) | locals_of(method))
    if inner is None:
        return None
    theirs = list(inner.statements)
    if target is not None and inner.value is not None and not _is_itself(target, inner.value):
        theirs.append(cst.SimpleStatementLine([target.with_changes(value=inner.value)]))
    lines = _joined(inner.prelude, theirs, body[index])
    if name in _INIT and form == "expr":
        whole = merged(lines, after, has | {one for each in after for one in locals_of(_function([each]))})
        family.notes += [f"{name}: {note}" for note in whole.notes]
        lines = _init_first(list(before), _used(whole.body, inner.prelude))
    else:
        lines = [*before, *lines, *after]
    _check_missing(binding, lines, has, family, name)
    family.notes += [f"{name}: {note}" for note in binding.notes]
    return method.with_changes(body=looks.block(lines, method.body))


def _returns_only(parent: cst.FunctionDef, method: cst.FunctionDef) -> bool:
    """Whether the parent's method returns something and the child's, which ends with its call, nothing."""
    return any(each.value is not None for each in looks.returns(looks.statements(parent.body))) and not looks.returns(
        looks.statements(method.body)
    )


def _is_itself(target: cst.Assign | cst.AnnAssign, value: cst.BaseExpression) -> bool:
    """Whether a line would only say ``x = x``."""
    targets = targets_of(target)
    return len(targets) == 1 and isinstance(value, cst.Name) and looks.code(targets[0]) == value.value


def _used(lines: list[cst.BaseStatement], prelude: list[cst.BaseStatement]) -> list[cst.BaseStatement]:
    """The lines without those assignments to the parent's parameters that no line reads any more."""
    first = lines[: len(prelude)]
    if [looks.code(each) for each in first] != [looks.code(each) for each in prelude]:
        return lines
    kept = list(lines)
    for each in reversed(first):
        if looks.target_of(each) not in looks.reads(*[one for one in kept if one is not each]):
            kept.remove(each)
    return kept


def _init_first(before: list[cst.BaseStatement], lines: list[cst.BaseStatement]) -> list[cst.BaseStatement]:
    """The child's first lines and then the parent's; ``super().__init__()`` goes before those that set modules."""
    first = looks.only(lines[0]) if lines else None
    made = any("(" in looks.code(each) and (looks.target_of(each) or "").startswith("self.") for each in before)
    if not made or not isinstance(first, cst.Expr) or not looks.code(first).startswith(f"{GRAND}().__init__"):
        return [*before, *lines]
    stored = {one for each in before for one in locals_of(_function([each]))}
    if stored & looks.reads(first):
        return [*before, *lines]
    return [lines[0], *before, *lines[1:]]


def _function(statements: Sequence[cst.BaseStatement]) -> cst.FunctionDef:
    return cst.FunctionDef(cst.Name("f"), cst.Parameters(), cst.IndentedBlock(list(statements)))


def _check_missing(
    binding: Binding, lines: Sequence[cst.BaseStatement], has: set[str], family: Family, method: str
) -> None:
    for name in binding.missing:
        if name in looks.reads(*lines) and name not in has:
            raise InputError(
                f"super().{method}() does not give the parent's {name!r}",
                where=family.where,
                remedy=f"Pass {name} to super().{method}(...).",
            )


def _joined(
    prelude: list[cst.BaseStatement], statements: list[cst.BaseStatement], call: cst.BaseStatement
) -> list[cst.BaseStatement]:
    """The parent's lines below the comments and the empty line of the call that they replace."""
    lines = [*prelude, *statements]
    above = list(call.leading_lines) if isinstance(call, cst.SimpleStatementLine) else []
    first = lines[0] if lines else None
    if isinstance(first, (cst.SimpleStatementLine, cst.BaseCompoundStatement)):
        own = [line for line in first.leading_lines if line.comment is not None]
        lines[0] = first.with_changes(leading_lines=[*above, *own])
    return lines


def _form(statement: cst.BaseStatement, name: str) -> tuple[str, cst.Call, cst.Assign | cst.AnnAssign | None] | None:
    small = looks.only(statement)
    target: cst.Assign | cst.AnnAssign | None = None
    if isinstance(small, cst.Expr):
        form, value = "expr", small.value
    elif isinstance(small, cst.Return) and small.value is not None:
        form, value = "return", small.value
    elif isinstance(small, (cst.Assign, cst.AnnAssign)) and small.value is not None:
        form, value, target = "assign", small.value, small
    else:
        return None
    if (
        isinstance(value, cst.Call)
        and isinstance(value.func, cst.Attribute)
        and _is_super(value.func.value)
        and value.func.attr.value == name
    ):
        return form, value, target
    return None


def _count(method: cst.FunctionDef, name: str) -> int:
    counter = _Count()
    method.body.visit(counter)
    return counter.count


class _Count(cst.CSTVisitor):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def visit_Call(self, node: cst.Call) -> None:
        self.count += _is_super(node)


def _same_decorators(parent: cst.FunctionDef, method: cst.FunctionDef, family: Family) -> bool:
    """Whether all that decorates the parent's method decorates the child's: then its lines mean the same there."""
    mine = {looks.code(each.decorator) for each in method.decorators}
    return all(
        looks.code(each.decorator) in mine or family.talks(each) or family.once(each) for each in parent.decorators
    )
