"""How the modules of the file are made: what their constructors were given, as expressions over the config."""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass

import torch
from torch import nn

from omniform.blocks.composed import Composed
from omniform.core.errors import OmniformError
from omniform.export.eject.build import Built
from omniform.export.eject.sources import in_house
from omniform.export.eject.symbols import expression_of
from omniform.export.eject.trees import attribute, call, clone, constant, name_of, same

Attribute = Callable[[type, str], bool]


@dataclass
class Holes:
    """What differs between expressions that are otherwise the same: the values of each place, by its name."""

    values: dict[str, list[ast.expr]] = field(default_factory=dict)

    def named(self, wanted: str, values: list[ast.expr]) -> ast.Name:
        """The variable for such values: the same for the same values."""
        makes = any(isinstance(part, ast.Call) for value in values for part in ast.walk(value))
        for name, held in self.values.items():
            if not makes and all(map(same, held, values)):
                return name_of(name)
        name, number = wanted, 2
        while name in self.values:
            name, number = f"{wanted}_{number}", number + 1
        self.values[name] = values
        return name_of(name)


def common_form(trees: Sequence[ast.expr], holes: Holes, name: str) -> ast.expr:
    """One expression for several, with variables where they differ."""
    first = trees[0]
    if all(same(first, tree) for tree in trees[1:]):
        return clone(first)
    if all(isinstance(tree, ast.Call) for tree in trees):
        calls = [tree for tree in trees if isinstance(tree, ast.Call)]
        one = calls[0]
        alike = all(
            same(one.func, c.func)
            and len(one.args) == len(c.args)
            and [k.arg for k in one.keywords] == [k.arg for k in c.keywords]
            for c in calls
        )
        if alike and not any(isinstance(a, ast.Starred | ast.GeneratorExp) for a in one.args):
            new = clone(one)
            names = vars(one).get("given_to", [])
            new.args = [
                common_form([c.args[i] for c in calls], holes, names[i] if i < len(names) else name)
                for i in range(len(one.args))
            ]
            for i, keyword in enumerate(one.keywords):
                value = common_form([c.keywords[i].value for c in calls], holes, keyword.arg or name)
                new.keywords[i] = ast.keyword(arg=keyword.arg, value=value)
            return new
    return holes.named(name, list(trees))


def by_number(values: Sequence[ast.expr], number: str) -> ast.expr:
    """An expression that gives the n-th of some values, by the name of n."""
    texts = [ast.unparse(v) for v in values]
    if len(set(texts)) == 1:
        return clone(values[0])
    ints = [v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, int)]
    if len(ints) == len(values) and not any(isinstance(v, bool) for v in ints):
        step = ints[1] - ints[0]
        if step > 0 and all(b - a == step for a, b in itertools.pairwise(ints)):
            return _line(step, ints[0], number)
    kinds = list(dict.fromkeys(texts))
    if len(kinds) == 2:
        rarer = min(kinds, key=texts.count)
        places = [i for i, text in enumerate(texts) if text == rarer]
        other = next(v for v, text in zip(values, texts, strict=True) if text != rarer)
        return ast.IfExp(test=_where(places, len(texts), number), body=clone(values[places[0]]), orelse=clone(other))
    table = ast.Tuple(elts=[clone(v) for v in values], ctx=ast.Load())
    return ast.Subscript(value=table, slice=name_of(number), ctx=ast.Load())


def _line(step: int, start: int, number: str) -> ast.expr:
    node: ast.expr = name_of(number)
    if step != 1:
        node = ast.BinOp(left=constant(step), op=ast.Mult(), right=node)
    return node if not start else ast.BinOp(left=node, op=ast.Add(), right=constant(start))


def _where(places: Sequence[int], count: int, number: str) -> ast.expr:
    """A test that holds for some of the numbers below ``count``."""
    if len(places) == 1:
        return ast.Compare(left=name_of(number), ops=[ast.Eq()], comparators=[constant(places[0])])
    if list(places) == list(range(len(places))):
        return ast.Compare(left=name_of(number), ops=[ast.Lt()], comparators=[constant(len(places))])
    if list(places) == list(range(places[0], count)):
        return ast.Compare(left=name_of(number), ops=[ast.GtE()], comparators=[constant(places[0])])
    step = places[1] - places[0]
    if list(places) == list(range(places[0] % step, count, step)):
        rest = ast.BinOp(left=name_of(number), op=ast.Mod(), right=constant(step))
        return ast.Compare(left=rest, ops=[ast.Eq()], comparators=[constant(places[0])])
    numbers = ast.Tuple(elts=[constant(p) for p in places], ctx=ast.Load())
    return ast.Compare(left=name_of(number), ops=[ast.In()], comparators=[numbers])


@dataclass
class Plan:
    """How the instances of one composed class are made.

    Attributes:
        parts: what each part is made by.
        holes: what its constructor is given, beside the config: by instance.
        reads_config: whether it is given that.
    """

    parts: dict[str, ast.expr]
    holes: Holes
    instances: list[nn.Module]
    reads_config: bool


class Composer:
    """Writes the expressions that make a model's modules.

    Args:
        built: the model.
        live: whether an attribute of a class is read anywhere.
        wanted: the parameters of a class's constructor that its body reads, and the attributes that are set from
            outside.
        lengths: what lists of modules are as long as, by the list's id.
    """

    def __init__(
        self,
        built: Built,
        live: Attribute,
        wanted: Callable[[type], tuple[list[str], list[str]]],
        lengths: Mapping[int, ast.expr],
    ) -> None:
        self.built, self.live, self.wanted, self.lengths = built, live, wanted, lengths
        self.plans: dict[type, Plan] = {}
        self.instances: dict[type, list[nn.Module]] = {}
        for module in built.model.modules():
            self.instances.setdefault(type(module), []).append(module)
        self.made_kinds: dict[type, None] = {}
        self.later: dict[type, dict[str, ast.expr]] = {}
        self.free_lengths: set[str] = set()
        self._within: list[int] = []
        self._holder: tuple[nn.Module, str] | None = None

    def expression(self, value: object) -> ast.expr:
        """What makes a value."""
        if isinstance(value, nn.Module):
            if id(value) in self._within:
                raise OmniformError("this module holds itself", where=type(value).__name__)
            self._within.append(id(value))
            try:
                return self._module(value)
            finally:
                self._within.pop()
        if isinstance(value, (tuple, list)):
            kind = ast.Tuple if isinstance(value, tuple) else ast.List
            return kind(elts=[self.expression(item) for item in value], ctx=ast.Load())
        if isinstance(value, dict):
            held = [self.expression(one) for one in value.values()]
            return ast.Dict(keys=[constant(key) for key in value], values=held)
        if is_dataclass(value) and not isinstance(value, type):
            self.made_kinds.setdefault(type(value))
            around = self._around(value)
            if around is not None:
                return around
            named = {f.name: getattr(value, f.name) for f in fields(value) if self.live(type(value), f.name)}
            node = name_of(type(value).__name__)
            node.refers = type(value)  # type: ignore[attr-defined]
            return call(node, (), **{name: self.expression(held) for name, held in named.items()})
        if isinstance(value, torch.dtype):
            return ast.parse(str(value), mode="eval").body
        if isinstance(value, float) and value in (float("inf"), float("-inf")):
            return ast.parse("math.inf" if value > 0 else "-math.inf", mode="eval").body
        if value is None or isinstance(value, (bool, int, float, str)):
            return expression_of(value)
        if callable(value) and in_house(value):
            node = name_of(value.__name__)  # type: ignore[attr-defined]
            node.refers = value  # type: ignore[attr-defined]
            return node
        raise OmniformError("this cannot be written down", where="constructor", found=type(value).__name__)

    def _around(self, value: object) -> ast.expr | None:
        """For an object that refers to the module around it: nothing now, and that module puts it in later."""
        held = {f.name: getattr(value, f.name) for f in fields(value)}  # type: ignore[arg-type]
        modules = [m for m in held.values() if isinstance(m, nn.Module)]
        if not modules or self._holder is None:
            return None
        module, name = self._holder
        path = next((p for p, m in modules[0].named_modules() if m is module), None)
        if path is None:
            return None
        node = name_of(type(value).__name__)
        node.refers = type(value)  # type: ignore[attr-defined]
        live = {n: h for n, h in held.items() if self.live(type(value), n)}
        given = {n: name_of("self") if h is modules[0] else self.expression(h) for n, h in live.items()}
        self.later.setdefault(type(modules[0]), {})[f"{path}.{name}"] = call(node, (), **given)
        return constant(None)

    # -- modules -------------------------------------------------------------------------------------------------------

    def _module(self, module: nn.Module) -> ast.expr:
        kind = type(module)
        if isinstance(module, nn.ModuleList):
            return self._list(module)
        if isinstance(module, nn.Sequential):
            return call(attribute(name_of("nn"), "Sequential"), [self.expression(child) for child in module])
        if not in_house(kind):
            return self._theirs(module)
        self.made_kinds.setdefault(kind)
        node = name_of(kind.__name__)
        node.refers = kind  # type: ignore[attr-defined]
        if isinstance(module, Composed):
            plan = self.plan(kind)
            at = next(i for i, one in enumerate(plan.instances) if one is module)
            whole = call(node, [name_of("config")] if plan.reads_config else [])
            whole.keywords = [ast.keyword(arg=n, value=clone(v[at])) for n, v in plan.holes.values.items()]
            return whole
        if not in_house(inspect.getattr_static(kind, "__init__")):
            return self._theirs(module, node)
        return self._constructed(module, node)

    def arguments(self, module: nn.Module) -> dict[str, object]:
        """What a module's constructor was given."""
        found = self.built.made.arguments.get(id(module))
        if found is not None:
            return put_in(module, found)
        # A copy was not made by its constructor; another of its class and sizes was.
        for other in self.instances.get(type(module), []):
            known = self.built.made.arguments.get(id(other))
            if known is not None and _alike(module, other):
                return known
        for held in self.built.made.held:
            if type(held) is type(module) and isinstance(held, nn.Module) and _alike(module, held):
                return self.built.made.arguments[id(held)]
        raise OmniformError("nobody knows what this was made of", where=type(module).__name__)

    def _constructed(self, module: nn.Module, node: ast.Name) -> ast.expr:
        names, outer = self.wanted(type(module))
        given = dict(self.arguments(module))
        signature = inspect.signature(type(module).__init__)
        for name, parameter in signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                given |= given.pop(name, {})  # type: ignore[call-overload]
        order = [n for n, p in signature.parameters.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        whole = call(node)
        taken: list[str] = []
        skipped = False
        for name in names:
            value = self.expression(given[name])
            known = signature.parameters.get(name)
            if known is not None and known.kind is inspect.Parameter.VAR_POSITIONAL:
                assert isinstance(value, ast.Tuple)
                whole.args.extend(value.elts)
                taken.extend([name] * len(value.elts))
            elif name in order and not skipped:
                whole.args.append(value)
                taken.append(name)
            else:
                whole.keywords.append(ast.keyword(arg=name, value=value))
        for name in outer:
            whole.keywords.append(ast.keyword(arg=name, value=self.expression(getattr(module, name))))
        whole.given_to = taken  # type: ignore[attr-defined]
        return whole

    def _theirs(self, module: nn.Module, node: ast.expr | None = None) -> ast.expr:
        """A module that torch's own constructor makes, as it was made."""
        kind = type(module)
        given = dict(self.arguments(module))
        if isinstance(given.get("bias"), bool) and "bias" in module._parameters:
            given["bias"] = module._parameters["bias"] is not None  # it may have been added, or taken away
        whole = call(attribute(name_of("nn"), kind.__name__) if node is None else node)
        if node is None and vars(nn).get(kind.__name__) is not kind:
            raise OmniformError("this module is neither ours nor torch's own", where=kind.__qualname__)
        names: list[str] = []
        for name, parameter in inspect.signature(kind.__init__).parameters.items():
            if name in ("self", "device", "dtype") or name not in given:
                continue
            value = given[name]
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL and isinstance(value, tuple):
                whole.args.extend(self.expression(one) for one in value)
                names.extend([name] * len(value))
                continue
            if parameter.kind is inspect.Parameter.VAR_KEYWORD and isinstance(value, dict):
                whole.keywords.extend(ast.keyword(arg=n, value=self.expression(one)) for n, one in value.items())
                continue
            default = parameter.default
            if (type(default) is type(value) and default == value) or default is value:
                continue
            if parameter.default is inspect.Parameter.empty or (
                len(names) == len(whole.args) and name in ("eps", "padding_idx")
            ):
                whole.args.append(self.expression(value))
                names.append(name)
            else:
                whole.keywords.append(ast.keyword(arg=name, value=self.expression(value)))
        whole.given_to = names  # type: ignore[attr-defined]
        return whole

    def _list(self, module: nn.ModuleList) -> ast.expr:
        node = attribute(name_of("nn"), "ModuleList")
        trees = [self.expression(child) for child in module]
        length = self.lengths.get(id(module))
        if length is None and len(trees) <= 3:
            return call(node, [ast.List(elts=trees, ctx=ast.Load())])
        if not trees:
            return call(node, [ast.List(elts=[], ctx=ast.Load())])
        holes = Holes()
        form = common_form(trees, holes, "layer")
        if isinstance(length, ast.Attribute) and not holes.values:
            self.free_lengths.add(length.attr)
        number = "i" if holes.values else "_"
        found = {name: by_number(values, "i") for name, values in holes.values.items()}
        element = _Filled(found).visit(clone(form))
        times = call(name_of("range"), [constant(len(trees)) if length is None else clone(length)])
        loop = ast.comprehension(target=ast.Name(id=number, ctx=ast.Store()), iter=times, ifs=[], is_async=0)
        return call(node, [ast.GeneratorExp(elt=element, generators=[loop])])

    # -- composed modules ----------------------------------------------------------------------------------------------

    def plan(self, kind: type) -> Plan:
        """How the instances of a composed class are made."""
        if kind not in self.plans:
            instances = self.instances[kind]
            parts: dict[str, ast.expr] = {}
            holes = Holes()
            _, outer = self.wanted(kind)
            for name in (*vars(kind)["_PARTS"], *outer):
                if not self.live(kind, name) and name not in outer:
                    continue
                held = [getattr(module, name) for module in instances]
                if all(h is None for h in held):
                    continue
                made = []
                for module, part in zip(instances, held, strict=True):
                    before, self._holder = self._holder, (module, name)
                    made.append(self.expression(part))
                    self._holder = before
                parts[name] = common_form(made, holes, name)
            reads = any(isinstance(n, ast.Name) and n.id == "config" for p in parts.values() for n in ast.walk(p))
            root = kind is type(self.built.model)  # whoever makes the model hands it a config, also one of no numbers
            self.plans[kind] = Plan(parts, holes, instances, reads or root)
        return self.plans[kind]


def put_in(module: nn.Module, given: Mapping[str, object]) -> dict[str, object]:
    """A constructor's arguments, and in the places of those that were replaced later what is there now."""
    own = vars(module)
    found = dict(given)
    for name, held in given.items():
        if held is None:
            found[name] = own["_modules"].get(name)
        elif is_dataclass(held) and is_dataclass(own.get(name)):
            found[name] = own[name]
    return found


class _Filled(ast.NodeTransformer):
    def __init__(self, found: Mapping[str, ast.expr]) -> None:
        self.found = found

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return clone(self.found[node.id]) if node.id in self.found else node


def _alike(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = dict(one.named_parameters()), dict(other.named_parameters())
    return {n: p.shape for n, p in mine.items()} == {n: p.shape for n, p in theirs.items()}
