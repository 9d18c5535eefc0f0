"""The parent's body put where ``super().f(...)`` stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import libcst as cst

from omniform.export.modular import looks
from omniform.export.modular.scopes import all_params, locals_of


@dataclass
class Binding:
    """What a call gives to the parent's parameters.

    Attributes:
        given: the values of those that are not simply the child's variable of the same name.
        missing: parameters without a default that nothing is given to.
        notes: what was taken to be meant, where plain Python would mean something else.
    """

    given: dict[str, cst.BaseExpression] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def bind(
    call: cst.Call, parent: cst.FunctionDef, child: cst.FunctionDef, before: Sequence[cst.BaseStatement]
) -> Binding | None:
    """What ``super().f(...)`` gives to the parent's ``f``; None where that cannot be told from the code.

    A parameter that the call leaves out is the child's own of that name, where the child does nothing else with it:
    modular files are written so. Otherwise it is the default.
    """
    params = parent.params
    names = [each.name.value for each in [*params.posonly_params, *params.params]]
    first = first_of(child)
    names = names[1:] if not is_static(parent) else names
    args = list(call.args)
    if args and not args[0].keyword and not args[0].star and looks.code(args[0].value) == first:
        args = args[1:]  # ``super().__init__(self, config)``
    values: dict[str, cst.BaseExpression] = {}
    extra: list[cst.Arg] = []
    rest: cst.Arg | None = None
    positional = iter(names)
    for arg in args:
        if arg.star == "*":
            return None
        if arg.star == "**":
            if rest is not None:
                return None
            rest = arg
        elif arg.keyword is None:
            name = next(positional, None)
            if name is None:
                return None
            values[name] = arg.value
        elif arg.keyword.value in {each.name.value for each in [*params.params, *params.kwonly_params]}:
            values[arg.keyword.value] = arg.value
        else:
            extra.append(arg)
    return _bound(parent, child, before, values, extra, rest)


def _bound(
    parent: cst.FunctionDef, child: cst.FunctionDef, before: Sequence[cst.BaseStatement],
    values: dict[str, cst.BaseExpression], extra: list[cst.Arg], rest: cst.Arg | None,
) -> Binding | None:  # fmt: skip
    params = parent.params
    found = Binding()
    own = {each.name.value for each in all_params(child.params)}
    own |= {name for each in before if (name := looks.target_of(each)) is not None}
    used = looks.reads(*[each for each in looks.statements(child.body) if each not in before], *before)
    passed = {looks.code(value) for value in values.values()}
    named = [*params.posonly_params, *params.params][0 if is_static(parent) else 1 :]
    wanted = [each for each in [*named, *params.kwonly_params] if each.default is None]
    broken = rest is None and any(each.name.value not in values for each in wanted)

    def loose(param: cst.Param) -> bool:
        """Whether Python's own meaning can be none: nothing is given where something must be, or None to an init."""
        none = param.default is not None and looks.code(param.default) == "None"
        return broken or (none and child.name.value == "__init__")

    for param in [*named, *params.kwonly_params]:
        name = param.name.value
        if name in values:
            if looks.code(values[name]) != name:
                found.given[name] = values[name]
        elif rest is not None:
            return None  # it may be among the child's ``**kwargs``
        elif name in own and (loose(param) or name not in used - passed):
            found.notes.append(f"{name} is the child's, though super() is not given it")
        elif param.default is not None:
            found.given[name] = param.default
        else:
            found.missing.append(name)
    if isinstance(params.star_arg, cst.Param) and params.star_arg.name.value in looks.reads(parent.body):
        found.given[params.star_arg.name.value] = cst.Tuple([])
    return found if _bind_rest(found, parent, own, used, extra, rest) else None


def _bind_rest(
    found: Binding, parent: cst.FunctionDef, own: set[str], used: set[str], extra: list[cst.Arg], rest: cst.Arg | None
) -> bool:
    star = parent.params.star_kwarg
    if star is None:
        return rest is None and not extra
    name = star.name.value
    if extra:
        pairs: list[cst.BaseDictElement] = [
            cst.DictElement(cst.SimpleString(f'"{arg.keyword.value}"'), arg.value) for arg in extra if arg.keyword
        ]
        if rest is not None:
            pairs.append(cst.StarredDictElement(rest.value))
        found.given[name] = cst.Dict(pairs)
    elif rest is not None:
        if looks.code(rest.value) != name:
            found.given[name] = rest.value
    elif name in looks.reads(parent.body) and not (name in own and name not in used):
        found.given[name] = cst.Dict([])
    return True


def first_of(function: cst.FunctionDef) -> str:
    """The name of a function's first parameter, be it positional only; empty where it has none."""
    params = [*function.params.posonly_params, *function.params.params]
    return params[0].name.value if params else ""


def is_static(function: cst.FunctionDef) -> bool:
    """Whether a method has no ``self``."""
    return any(looks.code(each.decorator) == "staticmethod" for each in function.decorators)


@dataclass
class Body:
    """The parent's statements, ready to stand in the child.

    Attributes:
        prelude: assignments to the parent's parameters.
        statements: the parent's, its docstring aside.
        value: what it returns at its end.
    """

    prelude: list[cst.BaseStatement]
    statements: list[cst.BaseStatement]
    value: cst.BaseExpression | None


def body_of(
    parent: cst.FunctionDef, binding: Binding, form: str, before: set[str], after: set[str], taken: set[str]
) -> Body | None:
    """The parent's body for a call of this form: ``expr``, ``assign`` or ``return``; None where it does not fit.

    Args:
        before: names that the child has when it calls.
        after: names that it reads when the call has returned.
        taken: names that are not free for new variables.
    """
    statements = looks.statements(parent.body)
    if looks.docstring(statements) is not None:
        statements = statements[1:]
    found = looks.returns(statements)
    last = looks.only(statements[-1]) if statements else None
    value: cst.BaseExpression | None = None
    if form != "return":
        if looks.yields(statements):
            return None
        if found and (len(found) > 1 or found[0] is not last or (form == "expr" and found[0].value is not None)):
            return None
        if found:
            value = found[0].value
            statements = statements[:-1]
        elif form == "assign":
            value = cst.Name("None")
    read = looks.reads(*statements) | (looks.reads(value) if value is not None else set())
    given = {name: expression for name, expression in binding.given.items() if name in read}
    stored = _stored(parent, statements) | set(given)
    clash = stored & after & before
    order = list(given)
    for index, name in enumerate(order):
        if any(name in looks.reads(given[later]) for later in order[index + 1 :]):
            clash.add(name)
    renames = {name: _fresh(name, taken | read | stored) for name in sorted(clash)}
    if renames:
        renamer = _Locals(renames)
        statements = [_renamed(each, renamer) for each in statements]
        value = None if value is None else _renamed_value(value, renamer)
        if renamer.failed:
            return None
    prelude = [_assign(renames.get(name, name), expression) for name, expression in given.items()]
    # A parameter under a new name begins as what the call gives it: the child's variable of the old name.
    params = {each.name.value for each in all_params(parent.params)}
    prelude += [_assign(new, cst.Name(old)) for old, new in renames.items() if old in params and old not in given]
    return Body(prelude, statements, value)


def _stored(parent: cst.FunctionDef, statements: Sequence[cst.BaseStatement]) -> set[str]:
    body = parent.with_changes(params=cst.Parameters(), body=cst.IndentedBlock(list(statements)))
    return locals_of(body)


def _assign(name: str, value: cst.BaseExpression) -> cst.BaseStatement:
    return cst.SimpleStatementLine([cst.Assign([cst.AssignTarget(cst.Name(name))], value)])


def _fresh(name: str, taken: set[str]) -> str:
    found = f"parent_{name}"
    while found in taken:
        found += "_"
    return found


class _Locals(cst.CSTTransformer):
    """Renames variables of a function; ``failed`` where an inner function has one of that name too."""

    def __init__(self, names: dict[str, str]) -> None:
        super().__init__()
        self._names = names
        self.failed = False

    def leave_Attribute(self, original_node: cst.Attribute, updated_node: cst.Attribute) -> cst.BaseExpression:
        return updated_node.with_changes(attr=original_node.attr)

    def leave_Arg(self, original_node: cst.Arg, updated_node: cst.Arg) -> cst.Arg:
        return updated_node.with_changes(keyword=original_node.keyword)

    def visit_Param(self, node: cst.Param) -> None:
        self.failed = self.failed or node.name.value in self._names

    def visit_CompFor(self, node: cst.CompFor) -> None:
        if isinstance(node.target, cst.Name) and node.target.value in self._names:
            self.failed = True

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.BaseExpression:
        return updated_node.with_changes(value=self._names.get(updated_node.value, updated_node.value))


def _renamed(node: cst.BaseStatement, renamer: _Locals) -> cst.BaseStatement:
    found = node.visit(renamer)
    assert isinstance(found, cst.BaseStatement)
    return found


def _renamed_value(node: cst.BaseExpression, renamer: _Locals) -> cst.BaseExpression:
    found = node.visit(renamer)
    assert isinstance(found, cst.BaseExpression)
    return found
