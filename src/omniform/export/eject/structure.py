"""Which keys of a config the file's text depends on: found by building the model once more with each of them changed.

A number that the text holds as ``config.x`` may be another in the next checkpoint. What decides which modules there
are, or went into the text as a plain number, may not: the file's ``Config.from_json`` refuses another value.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

import torch
from torch import nn

from omniform.architectures.family import Architecture, Family
from omniform.core.errors import OmniformError
from omniform.export.eject.build import Built, built
from omniform.export.eject.symbols import Symbol, expression_of, plain
from omniform.weights.tensors import tensors_and_ties

ROPE = ("rope_parameters", "rope_scaling")

IGNORED = ("id2label", "num_labels", "label2id", "architectures", "model_type", "dtype", "torch_dtype")


def structure_of(family: Family, architecture: Architecture, model: Built, counted: set[str]) -> dict[str, object]:
    """The keys that must be as they are, with their values.

    Args:
        counted: keys that count layers which the file makes in a loop.
    """
    reader = model.keys.readers[()]
    before = fingerprint(model)
    fixed: dict[str, object] = {}
    own = [n for n in model.asked if n not in IGNORED and not n.endswith("_token_id") and n not in counted]
    for name in sorted(own, key=list(reader.values).index):
        value = model.raw.get(name, reader.values.get(name))
        for other in _others(reader.values.get(name)):
            try:
                changed = built(family, architecture, {**model.raw, name: other})
            except (OmniformError, ValueError, TypeError, ZeroDivisionError, IndexError, KeyError, AssertionError):
                # A number that does not fit by itself may fit with others; another word or list is another model.
                if value is None or (isinstance(other, (int, float)) and not isinstance(other, bool)):
                    continue
                fixed[name] = value
                break
            if fingerprint(changed) != before:
                fixed[name] = value
                break
    fixed |= _nested(model)
    return {name: _as_json(value) for name, value in fixed.items()}


def _nested(model: Built) -> dict[str, object]:
    """What objects within the config must say: words and choices; all of one whose numbers are not taken from it."""
    fixed: dict[str, object] = {}
    for path, reader in model.keys.readers.items():
        if not path:
            continue
        told = {n: reader.values.get(n) for n in sorted(reader.asked) if n not in IGNORED and not n.endswith("_id")}
        words = {n: v for n, v in told.items() if isinstance(v, (bool, str)) or v is None}
        if path[0] in ROPE:
            if len(path) > 1 or words.get("rope_type") in ("longrope", "proportional"):
                fixed |= {name: model.raw[name] for name in ROPE if model.raw.get(name) is not None}
        elif not reader.asked:
            fixed |= {path[0]: model.raw[path[0]]} if path[0] in model.raw else {}
        else:
            fixed |= {".".join((*path, n)): model_value(model.raw, (*path, n), v) for n, v in words.items()}
    return fixed


def model_value(raw: Mapping[str, object], path: tuple[str, ...], usual: object) -> object:
    """What a config says under some keys, one within the other."""
    held: object = raw
    for key in path:
        if not isinstance(held, Mapping) or key not in held:
            return usual
        held = held[key]
    return held


def rope_type(model: Built) -> str | None:
    """How rotary angles are stretched; None for models that have none, or several."""
    reader = model.keys.readers.get(("rope_parameters",))
    kind = None if reader is None else reader.values.get("rope_type")
    return kind if isinstance(kind, str) else None


def _others(value: object) -> Iterator[object]:
    """Other values for a key."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield plain(value * 2) or 1
    elif isinstance(value, float):
        yield value / 2 if value else 0.25
    elif value is None:
        yield from (4, True, 0.5)
    elif isinstance(value, str):
        yield "another"


def _as_json(value: object) -> object:
    value = plain(value)
    return list(value) if isinstance(value, tuple) else value


def fingerprint(model: Built) -> str:
    """What the text of a model's constructors says, without the values of the numbers that it takes from a config."""
    parts = []
    for path, module in model.model.named_modules():
        given = model.made.arguments.get(id(module), {})
        plain_ones = {n: _told(v) for n, v in given.items() if not isinstance(v, (nn.Module, Iterator))}
        parts.append(f"{path}: {type(module).__qualname__} {plain_ones}")
    parts.append(repr(tensors_and_ties(model.model)[1]))
    return "\n".join(parts)


def _told(value: object) -> str:
    if isinstance(value, Symbol):
        # A factor of one, and a chance of zero, are left out of the text.
        special = "" if float(value) not in (0.0, 1.0) else f" = {float(value)}"  # type: ignore[arg-type]
        return ast.unparse(expression_of(value)) + special
    if isinstance(value, nn.Module):
        return type(value).__qualname__
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_told, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k}: {_told(v)}' for k, v in value.items())}}}"
    if is_dataclass(value) and not isinstance(value, type):
        inner = (f"{f.name}={_told(getattr(value, f.name))}" for f in fields(value))
        return f"{type(value).__qualname__}({', '.join(inner)})"
    if callable(value):
        return (
            str(vars(value).get("__qualname__") or type(value).__qualname__)
            if hasattr(value, "__dict__")
            else str(value)
        )
    return repr(value) if isinstance(value, (str, int, float, bool, type(None), torch.dtype)) else type(value).__name__
