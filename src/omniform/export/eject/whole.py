"""``omniform eject``: a model as one readable file of torch, which needs nothing of omniform."""

from __future__ import annotations

import ast
import builtins
import copy
import dis
import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from types import CodeType, FunctionType, ModuleType

import torch
import torch.nn.functional as F
from torch import nn

from omniform.architectures.family import Architecture, Family
from omniform.architectures.model import Model
from omniform.blocks.poolers import ComputedPart
from omniform.core.context import StepContext
from omniform.core.errors import ConfigError, OmniformError
from omniform.export.eject import loading, runtime
from omniform.export.eject.build import Built, built, explicit
from omniform.export.eject.compose import Composer
from omniform.export.eject.document import Names
from omniform.export.eject.entries import Inputs, demanded, entry, inputs_of
from omniform.export.eject.formats import formatted
from omniform.export.eject.program import Program
from omniform.export.eject.settings import config_text, fields_of, renamed_fields
from omniform.export.eject.sources import in_house, plain_function
from omniform.export.eject.specialise import Specialised
from omniform.export.eject.structure import rope_type, structure_of
from omniform.export.eject.symbols import names_in, plain
from omniform.export.eject.values import Number, Objects
from omniform.export.eject.weights import aliases_of, places_of
from omniform.export.eject.write import blocks, cache_text, definitions, imports_text, ordered
from omniform.weights.keymap import KeyMap
from omniform.weights.tensors import named_tensors, tensors_and_ties

SMALL_KEYS = ("layer", "depth", "blocks")
"""What keys are called by which numbers of layers go."""


@dataclass(frozen=True)
class Asked:
    """What is to be written.

    Attributes:
        raw: the config.
        keys: of the checkpoint's tensors; empty where only a family is named.
        command: what was asked, as a command.
    """

    family: Family
    architecture: Architecture
    raw: Mapping[str, object]
    keys: frozenset[str]
    command: str


def source_of(asked: Asked) -> str:
    """The text of the file."""
    raw, added = explicit(asked.family, asked.raw)
    model = built(asked.family, asked.architecture, raw)
    inputs = inputs_of(model.model)
    whole = specialised(model, inputs)
    composer = Composer(model, whole.is_live, whole.wanted, lengths_of(asked, model))
    whole.composer = composer
    names = Names(_chosen(model.model, asked))
    composer.expression(model.model)
    paths = live_paths(whole)
    whole.tied = any(p in paths and o in paths for p, o in tensors_and_ties(model.model)[1].items())
    made = definitions(whole, composer, names)
    parts = [("\n".join(lines)) for lines in ordered(made)]
    parts += _writing(whole, inputs, names)
    body = blocks(parts)
    follows = {path: value.expression for path, value in added.items()}
    weights = _weights(asked, whole, names)
    symbols = {n for plan in composer.plans.values() for tree in _trees(plan) for n in names_in(tree)}
    symbols |= {n for n in model.keys.numbers if f"config.{n}" in weights}
    fields = fields_of(model, symbols, follows)
    config = config_text(
        fields,
        structure_of(asked.family, asked.architecture, model, _counted(composer)),
        f"The numbers of a {asked.architecture.name}; by default those that this file was written from.",
        rope_type(model),
    )
    cache = [cache_text(body)] if "Cache" in body else []
    state = [runtime.STATE] if any(".fixed(" in c or "State()" in c for c in cache) else []
    text = blocks([config, *state, *cache, *_constants(whole), body, *_tables(whole, names), weights])
    text = renamed_fields(text, fields)
    head = (
        f'"""{_words(asked)}"""\n\nfrom __future__ import annotations\n\n{imports_text(text, whole.program.imports)}\n'
    )
    made_text = formatted(head + "\n\n" + text)
    verify(made_text, asked, {p: tuple(t.shape) for p, t in named_tensors(model.model) if p in paths})
    return made_text


def _takes_nothing(text: str, name: str) -> bool:
    """Whether a model's forward names none of its inputs."""
    kinds = (n for n in ast.parse(text).body if isinstance(n, ast.ClassDef) and n.name == name)
    forwards = (n for kind in kinds for n in kind.body if isinstance(n, ast.FunctionDef) and n.name == "forward")
    return any(len(n.args.args) + len(n.args.kwonlyargs) < 2 for n in forwards)


def verify(text: str, asked: Asked, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Run a file as far as making its model, which must have the very same tensors as ours.

    Raises:
        OmniformError: it has others, or there is none; or parts of it neither hold nor compute anything.
    """
    empty = [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and _is_empty(node)]
    if empty:
        raise OmniformError("modules would be written without their forward", found=", ".join(empty))
    if _takes_nothing(text, asked.architecture.name):
        raise OmniformError("the model would be written without its inputs", found=asked.architecture.name)
    module = ModuleType("omniform_ejected")
    sys.modules[module.__name__] = module
    try:
        try:
            code = compile(text, "ejected.py", "exec")
            exec(code, vars(module))
            with torch.device("meta"):
                model = vars(module)[asked.architecture.name](vars(module)["Config"]())
        except Exception as error:  # whatever a text that is not right may raise
            raise OmniformError(
                "what was written does not run", found=f"{type(error).__name__}: {str(error)[:200]}"
            ) from error
        unknown = _unknown(code, {*vars(module), *vars(builtins)})
        if unknown:
            raise OmniformError("what was written reads names that are not there", found=", ".join(unknown[:5]))
        found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    finally:
        del sys.modules[module.__name__]
    wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    if wrong:
        told = (f"{name} {found.get(name, 'missing')}, not {expected.get(name, 'there')}" for name in wrong[:5])
        raise OmniformError("what was written has other tensors than the model", found="; ".join(told))


def _is_empty(kind: ast.ClassDef) -> bool:
    """Whether a class is a module of ours that holds nothing and computes nothing: what calls it was not understood."""
    methods = {node.name for node in kind.body if isinstance(node, ast.FunctionDef)}
    holds = any(isinstance(part, (ast.Assign, ast.AnnAssign)) for part in ast.walk(kind))
    return [ast.unparse(base) for base in kind.bases] == ["nn.Module"] and methods <= {"__init__"} and not holds


def _unknown(code: CodeType, known: set[str]) -> list[str]:
    """The names that functions read and a module has not."""
    read = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    inner = [name for part in code.co_consts if isinstance(part, CodeType) for name in _unknown(part, known)]
    return sorted({*inner, *(read - known)})


def specialised(model: Built, inputs: Inputs) -> Specialised:
    """What is left of the model's functions."""
    program = Program()
    main = entry(program, model, inputs)
    whole = Specialised(model, program, [main], {})
    whole.run()
    whole.demanded = demanded(main, model.model)
    whole.settle()
    whole.note_live()
    _add_resets(whole)
    whole.add_constructors()
    whole.run()
    whole.add_listed()
    whole.run()
    whole.settle_constructors()
    return whole


def _add_resets(whole: Specialised) -> None:
    """What makes the tensors that follow from the config."""
    for kind in whole.kinds():
        if issubclass(kind, ComputedPart) and "reset" in {n for k in kind.__mro__ for n in vars(k)}:
            special = whole.program.special(plain_function(kind.reset), kind, 0, ())  # type: ignore[attr-defined]
            whole.program.meet(
                special, "self", Objects(tuple(m for m in whole.built.model.modules() if type(m) is kind))
            )
            whole.program.meet(special, "std", Number((0.02,)))
            whole.resets[kind] = special


def lengths_of(asked: Asked, model: Built) -> dict[int, ast.expr]:
    """What lists of modules are as long as: found by building the model once more with another number of layers."""
    lists = {path: m for path, m in model.model.named_modules() if isinstance(m, nn.ModuleList)}
    found: dict[int, ast.expr] = {}
    for symbol, (path, value) in model.keys.numbers.items():
        if not any(word in path[-1] for word in SMALL_KEYS) or not isinstance(value, int) or len(path) > 1:
            continue
        raw = copy.deepcopy(dict(model.raw))
        raw[path[0]] = plain(value) + 2  # type: ignore[operator]
        try:
            other = built(asked.family, asked.architecture, raw)
        except (ConfigError, IndexError, KeyError):
            continue
        for name, module in other.model.named_modules():
            mine = lists.get(name)
            if mine is not None and isinstance(module, nn.ModuleList) and len(module) == len(mine) + 2:
                found[id(mine)] = ast.Attribute(
                    value=ast.Name(id="config", ctx=ast.Load()), attr=symbol, ctx=ast.Load()
                )
                if len(mine) != value:
                    del found[id(mine)]
    return found


def _chosen(model: Model, asked: Asked) -> dict[object, str]:
    """The ecosystem's names for the model and for the base model in it."""
    chosen: dict[object, str] = {type(model): asked.architecture.name, StepContext: "Step"}
    base = model.base_model
    if base is not model and type(base) not in chosen and asked.family.base.name != asked.architecture.name:
        chosen[type(base)] = asked.family.base.name
    return chosen


def _trees(plan: object) -> list[ast.expr]:
    from omniform.export.eject.compose import Plan

    assert isinstance(plan, Plan)
    return [*plan.parts.values(), *(v for values in plan.holes.values.values() for v in values)]


def _counted(composer: Composer) -> set[str]:
    """The keys of numbers of layers, where any number will do."""
    return set(composer.free_lengths)


def _constants(whole: Specialised) -> list[str]:
    names = {n.id for s in whole.reached() for node in s.body for n in ast.walk(node) if isinstance(n, ast.Name)}
    return ["\n".join(f"{name} = {value!r}" for name, value in whole.program.constants.items() if name in names)]


def _tables(whole: Specialised, names: Names) -> list[str]:
    """Functions by name, where constructors look them up."""
    parts = []
    for table, held in whole.tables().items():
        entries = "".join(f"    {name!r}: {_shown(function, names)},\n" for name, function in held.items())
        parts.append(f"{table} = {{\n{entries}}}")
    return parts


def _shown(function: object, names: Names) -> str:
    if isinstance(function, functools.partial):
        more = "".join(f", {name}={value!r}" for name, value in function.keywords.items())
        return f"lambda x: {_shown(function.func, names)}(x{more})"
    if isinstance(function, FunctionType) and in_house(function):
        return names.of(function, function.__name__)
    name = function.__name__  # type: ignore[attr-defined]
    return f"F.{name}" if name in vars(F) else f"torch.{name}"


def _writing(whole: Specialised, inputs: Inputs, names: Names) -> list[str]:
    model = whole.built.model
    if not inputs.cached or not model.can_generate():
        return []
    name = names.of(type(model), "")
    result = whole.entries[0].result
    kind = getattr(result, "kind", None)
    logits = "" if kind in whole.unboxed else ".logits"
    if not inputs.encoded:
        return [runtime.CHOOSE, _generate(whole, name, logits)]
    masked = "attention_mask" in whole.entries[0].values and "attention_mask" in whole.kept[id(whole.entries[0])]
    shape = "Shape: [B, S]." if inputs.main == "input_ids" else "what the encoder reads."
    encoder = f"{inputs.main}, attention_mask" if masked else inputs.main
    forward = "attention_mask=attention_mask, " if masked else ""
    text = runtime.GENERATE_PAIRED.format(
        model=name, main=inputs.main, shape=shape, encoder=encoder, forward=forward, logits=logits
    )
    if not masked:
        text = text.replace("    attention_mask: Tensor | None = None,\n", "").replace(
            "        attention_mask: of the encoder's inputs, 1 for real ones.\n", ""
        )
    return [runtime.CHOOSE, text]


def _generate(whole: Specialised, name: str, logits: str) -> str:
    taken = whole.kept[id(whole.entries[0])]
    placed, pictures = "position_ids" in taken, "pixel_values" in taken
    given = ("position_ids=positions, " if placed else "") + ("pixel_values=pixel_values, " if pictures else "")
    return runtime.GENERATE.format(
        model=name,
        logits=logits,
        more="pixel_values: Tensor | None = None,\n    " if pictures else "",
        before=runtime.PLACES if placed else "",
        given=given,
        after="pixel_values = None  # they are in the cache now\n        " if pictures else "",
    )


def _weights(asked: Asked, whole: Specialised, names: Names) -> str:
    """``load``."""
    model = whole.built.model
    shapes, ties = tensors_and_ties(model)
    keymap: KeyMap = asked.architecture.keys(whole.built.spec)
    if asked.keys:
        keymap = keymap.as_in(asked.keys)
    table = keymap.expand({p: tuple(t.shape) for p, t in shapes.items()}, ties)
    paths = live_paths(whole)
    own = [p for p in shapes if p in paths]
    tied = {p: o for p, o in ties.items() if p in paths and o in paths}
    lost = {p: o for p, o in ties.items() if p in paths and o not in paths}
    for path, owner in lost.items():  # the one that counts is not used here; its second name is
        table.links[path] = table.links[owner]  # type: ignore[index]
        table.ours[path] = table.ours[owner]  # type: ignore[index]
        own.append(path)
    places = places_of(table, own)
    for path in tied:
        key = next((k for k, p in table.copies.items() if p == path), None)
        if key is not None and key != path:
            from omniform.export.eject.weights import Place, _template

            template, numbers = _template(path)
            made = key
            for letter, number in zip("ijkl", numbers, strict=False):
                made = made.replace(f".{number}.", ".{" + letter + "}.", 1)
            if not any(p.ours == template for p in places):
                places.append(Place(template, made))
    computed = [names.of(kind, kind.__name__) for kind in whole.resets]
    aliases = [*loading.OLD[:1], *(loading.OLD[1:] if _has_norms(table.shapes) else []), *aliases_of(keymap)]
    text = loading.load_text(
        names.of(type(model), ""), places, ties=tied, prefixes=asked.family.prefixes, aliases=aliases, computed=computed
    )
    return text if not tied else loading.tied_text(tied) + "\n\n\n" + text


def _has_norms(keys: Mapping[str, object]) -> bool:
    return any("LayerNorm" in k or "layer_norm" in k or "layernorm" in k for k in keys)


def live_paths(whole: Specialised) -> set[str]:
    """The tensors that the file's model has."""
    found: set[str] = set()

    def visit(module: nn.Module, path: str) -> None:
        live = whole.live.get(type(module), set())
        ours = type(module).__module__.startswith("omniform")
        base = not ours or any(
            not k.__module__.startswith("omniform") and k not in (nn.Module, object) for k in type(module).__mro__
        )
        for name in (*module._parameters, *module._buffers):
            if not ours or name in live or base:
                found.add(f"{path}.{name}" if path else name)
        for name, child in module._modules.items():
            if child is not None and (not ours or name in live):
                visit(child, f"{path}.{name}" if path else name)

    visit(whole.built.model, "")
    return found


def _quoted(command: str) -> str:
    """A command as it can stand in a docstring, whatever a folder is called: none of it ends the text."""
    return command.encode("unicode_escape").decode().replace('"', r"\x22")


def _words(asked: Asked) -> str:
    head = asked.architecture.name
    return (
        f"{head}, a model of the family ``{asked.family.model_type}``, as one file.\n\n"
        f"Written by omniform {version('omniform')} and yours to change:\n\n    {_quoted(asked.command)}\n\n"
        f"it needs torch and safetensors only. "
        f"``load(folder)`` gives the model with a checkpoint's weights.\n"
    )


_ = torch
