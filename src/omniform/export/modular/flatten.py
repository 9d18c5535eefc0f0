"""One class of a child and its parent: the parent's members, with what the child changes, adds and removes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import libcst as cst

from omniform.export.modular import looks
from omniform.export.modular.inline import first_of, is_static
from omniform.export.modular.supers import Family, Grand, NeedsParentError, in_brackets, unravel

NO_INHERIT = "__no_inherit__"
"""Stands for the reference's ``no_inherit_decorator``, which says that a parent's decorators are not wanted."""


_KINDS = ("property", "classmethod", "staticmethod")


@dataclass
class Member:
    """A statement of a class's body, and the name that it gives to something, where it does."""

    statement: cst.BaseStatement
    name: str | None
    kind: str
    """``method``, ``value`` or ``other``."""


@dataclass
class Flat:
    """The class, and what was taken to be meant where plain Python would mean something else."""

    node: cst.ClassDef
    notes: list[str] = field(default_factory=list)


def members(node: cst.ClassDef) -> list[Member]:
    """What stands in a class's body, its docstring and ``pass`` aside."""
    body = looks.statements(node.body)
    found = []
    for statement in body[1:] if looks.docstring(body) is not None else body:
        small = looks.only(statement)
        if isinstance(small, cst.Pass) or (isinstance(small, cst.Expr) and looks.code(small) == "..."):
            continue
        if isinstance(statement, (cst.FunctionDef, cst.ClassDef)):
            found.append(Member(statement, statement.name.value, "method"))
            continue
        target = small.target if isinstance(small, cst.AnnAssign) else None
        if isinstance(small, cst.Assign) and len(small.targets) == 1:
            target = small.targets[0].target
        if isinstance(target, cst.Name):
            found.append(Member(statement, target.value, "value"))
        else:
            found.append(Member(statement, None, "other"))
    return found


def value_of(statement: cst.BaseStatement) -> cst.BaseExpression | None:
    """What a line assigns."""
    small = looks.only(statement)
    return small.value if isinstance(small, (cst.Assign, cst.AnnAssign)) else None


def is_removed(member: Member) -> bool:
    """Whether the child takes a member of the parent's away: ``x = AttributeError()``, or a method that raises one."""
    if member.kind == "value":
        value = value_of(member.statement)
        named = value.func if isinstance(value, cst.Call) else value
        return named is not None and looks.code(named) == "AttributeError"
    if isinstance(member.statement, cst.FunctionDef):
        body = looks.statements(member.statement.body)
        body = body[1:] if looks.docstring(body) is not None else body
        small = looks.only(body[0]) if len(body) == 1 else None
        if isinstance(small, cst.Raise) and small.exc is not None:
            named = small.exc.func if isinstance(small.exc, cst.Call) else small.exc
            return looks.code(named) == "AttributeError"
    return False


def flat(
    child: cst.ClassDef, parent: cst.ClassDef, bases: Sequence[cst.Arg], where: str, spelled: str,
    named: Callable[[str], str],
) -> Flat:  # fmt: skip
    """The class that ``child`` is, without ``parent`` among its bases.

    Args:
        child: the class as the modular file has it.
        parent: its parent's own statement, in the words of the new file; it is called ``child`` in its own code.
        bases: what the new class is derived from.
        where: the child's file and line.
        spelled: the parent's name in its file.
        named: what a name in marks is called.
    """
    grand = parent.visit(Grand())
    assert isinstance(grand, cst.ClassDef)
    theirs, ours = members(grand), members(child)
    family = Family(
        child=child.name.value, parent=f"{child.name.value}__parent", where=where, spelled=spelled,
        bases={looks.code(base.value) for base in bases if base.keyword is None},
        methods=_methods(theirs), values=_values(theirs), overridden={each.name for each in ours if each.name},
        named=named,
    )  # fmt: skip
    if _total(child, "") not in ("", _total(grand, "True")):
        raise NeedsParentError("its keys are required otherwise than the parent's", where=where)
    known = {each.name for each in theirs}
    removed = {each.name for each in ours if is_removed(each) and each.name in known}
    body = _body(theirs, [each for each in ours if each.name not in removed], removed, family)
    helpers = [each for group in family.helpers.values() for each in group]
    doc = looks.docstring(looks.statements(child.body)) or looks.docstring(looks.statements(grand.body))
    whole = [*([doc] if doc is not None else []), *body, *helpers]
    node = child.with_changes(
        bases=[base.with_changes(comma=cst.MaybeSentinel.DEFAULT) for base in bases],
        keywords=_keywords(child, grand),
        lpar=cst.MaybeSentinel.DEFAULT,
        rpar=cst.MaybeSentinel.DEFAULT,
        decorators=decorators(child.decorators, grand.decorators),
        body=looks.block(whole, child.body, grand.body),
    )
    return Flat(node, family.notes)


def decorators(mine: Sequence[cst.Decorator], theirs: Sequence[cst.Decorator]) -> list[cst.Decorator]:
    """The child's decorators, or else the parent's; ``@no_inherit_decorator`` says that it wants none of those."""
    kept = [each for each in mine if looks.code(each.decorator) != NO_INHERIT]
    return kept if mine else list(theirs)


def _methods(found: list[Member]) -> dict[str, list[cst.FunctionDef]]:
    groups: dict[str, list[cst.FunctionDef]] = {}
    for each in found:
        if isinstance(each.statement, cst.FunctionDef) and each.name is not None:
            groups.setdefault(each.name, []).append(each.statement)
    return groups


def _values(found: list[Member]) -> dict[str, cst.BaseExpression]:
    values = {}
    for each in found:
        value = value_of(each.statement)
        if each.name is not None and value is not None:
            values[each.name] = value
    return values


def _keywords(child: cst.ClassDef, parent: cst.ClassDef) -> list[cst.Arg]:
    """``metaclass=`` and ``total=``: the child's, and the parent's that it does not have."""
    mine = {arg.keyword.value for arg in child.keywords if arg.keyword is not None}
    theirs = [arg for arg in parent.keywords if arg.keyword is not None and arg.keyword.value not in mine]
    return [arg.with_changes(comma=cst.MaybeSentinel.DEFAULT) for arg in [*theirs, *child.keywords]]


def _total(node: cst.ClassDef, otherwise: str) -> str:
    """What a ``TypedDict`` says of its own keys."""
    said = [looks.code(arg.value) for arg in node.keywords if arg.keyword is not None and arg.keyword.value == "total"]
    return said[0] if said else otherwise


def _body(
    theirs: list[Member], ours: list[Member], removed: set[str | None], family: Family
) -> list[cst.BaseStatement]:
    groups = _methods(theirs)
    new: dict[str, list[Member]] = {}
    for each in ours:
        if each.name is not None:
            new.setdefault(each.name, []).append(each)
    extended = {name for name, each in new.items() if _extends(each, family)}
    done: set[str] = set()
    body: list[Member] = []
    for each in theirs:
        if each.name is None:
            body.append(each)
        elif each.name in removed:
            continue
        elif each.name not in new or each.name in extended:
            body.append(each)
        elif each.name not in done and _fits(each, new[each.name]):
            body += [_changed(one, each, groups.get(each.name, []), family) for one in new[each.name]]
            done.add(each.name)
    added = [_accessor(each) if each.name in extended else each for each in ours if each.name not in done]
    _insert(body, [_added(each, family) for each in added])
    return [each.statement for each in body]


def _extends(new: list[Member], family: Family) -> bool:
    """Whether the child only gives a property of the parent's another setter: ``@Parent.x.setter``."""
    owner = f"{family.parent}.{new[0].name}."
    found = [each.statement for each in new if isinstance(each.statement, cst.FunctionDef)]
    return len(found) == len(new) and all(
        any(looks.code(one.decorator).startswith(owner) for one in each.decorators) for each in found
    )


def _accessor(member: Member) -> Member:
    """``@Parent.x.setter`` as it is written where the property is defined: ``@x.setter``."""
    statement = member.statement
    if not isinstance(statement, cst.FunctionDef):
        return member
    decorators = []
    for each in statement.decorators:
        last = each.decorator.attr if isinstance(each.decorator, cst.Attribute) else cst.Name("setter")
        decorators.append(each.with_changes(decorator=cst.Attribute(statement.name, last)))
    return Member(statement.with_changes(decorators=decorators), member.name, member.kind)


def _fits(old: Member, new: list[Member]) -> bool:
    """Whether the child's member can stand where the parent's stood: a value for a value, a method for a method."""
    return all(each.kind == old.kind for each in new)


def _changed(new: Member, old: Member, group: list[cst.FunctionDef], family: Family) -> Member:
    if isinstance(new.statement, cst.FunctionDef) and group:
        made = unravel(_over(new.statement, group[0], family), family)
        if not new.statement.decorators and new.name is not None and family.keeps(new.name, made):
            # The parent's own method is there, under its decorators: they do not act twice.
            kinds = [each for each in made.decorators if looks.code(each.decorator) in _KINDS or family.talks(each)]
            made = made.with_changes(decorators=kinds)
        return Member(made, new.name, "method")
    return Member(_field(_valued(new.statement, family), old.statement), new.name, new.kind)


def _added(new: Member, family: Family) -> Member:
    if isinstance(new.statement, cst.FunctionDef):
        return Member(unravel(new.statement, family), new.name, "method")
    return Member(_valued(new.statement, family), new.name, new.kind)


def _valued(statement: cst.BaseStatement, family: Family) -> cst.BaseStatement:
    """A class-level line with the parent's values written out: ``Parent.names + ["x"]``."""
    found = statement.visit(_ParentValues(family))
    assert isinstance(found, cst.BaseStatement)
    return found


class _ParentValues(cst.CSTTransformer):
    def __init__(self, family: Family) -> None:
        super().__init__()
        self._family = family

    def leave_Attribute(self, original_node: cst.Attribute, updated_node: cst.Attribute) -> cst.BaseExpression:
        if looks.code(original_node.value) != self._family.parent:
            return updated_node
        name = original_node.attr.value
        value = self._family.values.get(name)
        if value is not None:
            return in_brackets(value)
        # A function of the parent's is one in the class's body too; a static or a class method is none there.
        kinds = {looks.code(one.decorator) for each in self._family.methods.get(name, []) for one in each.decorators}
        if name in self._family.methods and name not in self._family.overridden and not kinds & {*_KINDS[1:]}:
            return cst.Name(name)
        raise NeedsParentError(
            f"{self._family.spelled}.{name} is used in the class's body, and is no plain value of the parent's",
            where=self._family.where,
            remedy=f"Write out what {name} is.",
        )


def _field(new: cst.BaseStatement, old: cst.BaseStatement) -> cst.BaseStatement:
    """A field that the child gives another default keeps its type; one that it only types keeps its default."""
    mine, theirs = looks.only(new), looks.only(old)
    if isinstance(theirs, cst.AnnAssign) and isinstance(mine, cst.Assign):
        return new.with_changes(body=[theirs.with_changes(value=mine.value, equal=cst.MaybeSentinel.DEFAULT)])
    if isinstance(mine, cst.AnnAssign) and mine.value is None and theirs is not None:
        value = theirs.value if isinstance(theirs, (cst.Assign, cst.AnnAssign)) else None
        return new.with_changes(body=[mine.with_changes(value=value)])
    return new


def _insert(body: list[Member], added: list[Member]) -> None:
    """Put what the child adds behind the parent's: values behind its values, all else at the end."""
    place = 0
    for index, each in enumerate(body):
        if each.kind == "method":
            break
        place = index + 1
    methods = {each.name for each in [*body, *added] if each.kind == "method"}
    late = False
    for each in added:
        # What is made of methods (x = property(get_x)) stands below them, and so does what follows it.
        late = late or each.kind == "other" or bool(looks.reads(each.statement) & {name for name in methods if name})
        if each.kind == "value" and not late:
            body.insert(place, each)
            place += 1
        else:
            late = late and each.kind != "method"
            body.append(each)


def _over(new: cst.FunctionDef, old: cst.FunctionDef, family: Family) -> cst.FunctionDef:
    """The child's method, with the parent's decorators, types and docstring where it has none of its own."""
    changed = new
    if _decorators_fit(new, old):
        theirs = [each for each in old.decorators if not family.once(each)]
        changed = changed.with_changes(decorators=decorators(new.decorators, theirs))
    if new.returns is None:
        changed = changed.with_changes(returns=old.returns)
    star = new.params.star_kwarg
    if star is not None and star.name.value == "super_kwargs":
        changed = _all_params(changed, old)
    doc = looks.docstring(looks.statements(old.body))
    body = looks.statements(changed.body)
    if doc is not None and looks.docstring(body) is None:
        body = [doc, *body]
        changed = changed.with_changes(body=looks.block(body, changed.body))
    return changed


def _decorators_fit(new: cst.FunctionDef, old: cst.FunctionDef) -> bool:
    kinds = {looks.code(each.decorator) for each in old.decorators}
    return not (first_of(new) == "self" and (is_static(old) or "classmethod" in kinds))


def _all_params(new: cst.FunctionDef, old: cst.FunctionDef) -> cst.FunctionDef:
    """``**super_kwargs`` stands for the parent's parameters: those, and the child's own over them."""
    mine = list(new.params.params)
    if [each.name.value for each in mine[:1]] != [each.name.value for each in old.params.params[:1]]:
        mine = [*old.params.params[:1], *mine]  # ``def forward(**super_kwargs)``
    own = {each.name.value: each for each in [*mine[1:], *new.params.kwonly_params]}
    kept = [own.pop(each.name.value, each) for each in old.params.params[1:]]
    keywords = [own.pop(each.name.value, each) for each in old.params.kwonly_params]
    extra = list(own.values())
    bare = [each for each in extra if each.default is None]
    params = [*mine[:1], *kept]
    if bare and any(each.default is not None for each in kept):
        keywords += extra
    else:
        params += extra
    star: cst.Param | cst.ParamStar | cst.MaybeSentinel = old.params.star_arg
    if keywords and not isinstance(star, cst.Param):
        star = cst.ParamStar()
    plain = {"comma": cst.MaybeSentinel.DEFAULT}
    rest = old.params.star_kwarg.name.value if old.params.star_kwarg is not None else ""
    body = new.body.visit(_Kwargs([*kept, *old.params.kwonly_params], rest, new.name.value))
    assert isinstance(body, cst.BaseSuite)
    return new.with_changes(
        params=old.params.with_changes(
            params=[each.with_changes(**plain) for each in params],
            kwonly_params=[each.with_changes(**plain) for each in keywords],
            star_arg=star,
        ),
        body=body,
    )


class _Kwargs(cst.CSTTransformer):
    """``super().f(a, **super_kwargs)`` with the parent's parameters by name; elsewhere the parent's ``**kwargs``."""

    def __init__(self, params: Sequence[cst.Param], rest: str, method: str) -> None:
        super().__init__()
        self._params, self._rest, self._method = params, rest, method

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.BaseExpression:
        args = list(updated_node.args)
        func = updated_node.func
        if not args or args[-1].star != "**" or not isinstance(func, cst.Attribute) or func.attr.value != self._method:
            return updated_node
        if looks.code(original_node.args[-1].value) != "super_kwargs":
            return updated_node
        given = {arg.keyword.value for arg in args if arg.keyword is not None}
        place = sum(1 for arg in args if not arg.star and arg.keyword is None and looks.code(arg.value) != "self")
        named = [
            cst.Arg(keyword=cst.Name(name), value=cst.Name(name), equal=_TIGHT)
            for name in (each.name.value for each in self._params[place:])
            if name not in given
        ]
        kwargs = [args[-1].with_changes(value=cst.Name(self._rest))] if self._rest else []
        return updated_node.with_changes(args=[*args[:-1], *named, *kwargs])

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.BaseExpression:
        known = updated_node.value == "super_kwargs" and self._rest
        return updated_node.with_changes(value=self._rest) if known else updated_node


_TIGHT = cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace(""))
