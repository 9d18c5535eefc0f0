"""What loading a checkpoint would come to, told from its config and the headers of its weights: nothing is loaded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from omniform.architectures.attention_choice import choose_attention
from omniform.architectures.model import Model
from omniform.core.errors import InputError, check_arguments
from omniform.core.state import StatefulModule, mixers
from omniform.hub.checkpoint import Name, Opened, open_checkpoint, saved_class
from omniform.hub.devices import Place, as_device, bounds, gpus
from omniform.hub.kernels import Kernel, Matmul, StackKernel, kernels_of, matmuls_of, stacks_of
from omniform.hub.load import lay_out, layout_of, match, table_of, untie_what_differs
from omniform.hub.options import LOAD_ARGUMENTS, WHERE_ARGUMENTS
from omniform.hub.place import Layout, Part, Placement, check_folder, place
from omniform.weights.tensors import tensors_and_ties

LARGEST_COUNT = 2**40
"""Tokens and rows beyond this many are no plan."""


@dataclass(frozen=True, slots=True)
class PlannedPart:
    """What lies in one place as a whole: a layer, a table, a head.

    Attributes:
        path: its module path.
        place: where its weights lie: an accelerator's index, ``"cpu"`` or ``"disk"``.
        runs_on: the device that computes it.
        nbytes: bytes of its weights; tied ones count where they come first.
        state: bytes of what it keeps of the planned tokens (keys and values), which lies where it is computed.
    """

    path: str
    place: Place
    runs_on: Place
    nbytes: int
    state: int


@dataclass(frozen=True, slots=True)
class Use:
    """What one place has to hold.

    Attributes:
        place: which.
        weights: bytes of the weights that lie there.
        state: bytes of what its parts keep.
        visiting: bytes of the largest part that lies elsewhere and is brought here to be computed.
        room: how many bytes there are, as the user says or as are free now; None for the disk.
        fits: whether the room suffices.
        here: whether this machine has the place.
    """

    place: Place
    weights: int
    state: int
    visiting: int
    room: int | None
    fits: bool
    here: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What loading with the same arguments does.

    Attributes:
        name: the folder or Hub id.
        family: its ``model_type``.
        architecture: the class that is loaded.
        dtype: dtype of the weights; ``"mixed"`` where the files' own differ.
        tokens: how many tokens each row has, prompt and answer.
        rows: how many rows there are at once.
        device_map: what ``model.hf_device_map`` would be.
        parts: what is placed as a whole, in the order of the modules.
        uses: what each place has to hold.
        kernels: which attention kernel runs where, and why.
        matmuls: which kernel multiplies each layer's matrix, and why.
        stacks: what computes each stack of layers, and why.
        weights: bytes of all weights.
        state: bytes of what all parts keep.
        per_token: bytes that one more token of one row takes, while no window is full.
        fits: whether every place has room.
    """

    name: str
    family: str
    architecture: str
    dtype: str
    tokens: int
    rows: int
    device_map: Mapping[str, Place]
    parts: tuple[PlannedPart, ...]
    uses: tuple[Use, ...]
    kernels: tuple[Kernel, ...]
    matmuls: tuple[Matmul, ...]
    stacks: tuple[StackKernel, ...]
    weights: int
    state: int
    per_token: int
    fits: bool


def plan(
    name: Name,
    *,
    device_map: object = "auto",
    max_memory: Mapping[int | str, int | str] | None = None,
    dtype: torch.dtype | str | None = None,
    tokens: int = 4096,
    rows: int = 1,
    **options: object,
) -> Plan:
    """Say where each part of a checkpoint would go and what it would need, from its config and headers.

    Devices that this machine lacks may be planned for; loading on them is refused.

    Args:
        name: a folder or a Hub id.
        device_map: as ``from_pretrained`` takes it.
        max_memory: bounds by device, likewise.
        dtype: likewise; by default the checkpoint's own.
        tokens: how many tokens of each row are kept, prompt and answer.
        rows: how many rows are worked on at once.
        options: the other arguments of ``from_pretrained``.

    Raises:
        RepoError, ConfigError, WeightsError: as loading would.
        InputError: as loading would; counts that are none.
        UnknownArgumentError: another keyword.
    """
    _check_counts(tokens=tokens, rows=rows)
    check_arguments("plan", options, (*WHERE_ARGUMENTS, *LOAD_ARGUMENTS, "use_auth_token"))
    given = {"device_map": device_map, "max_memory": max_memory, "dtype": dtype, **options}
    opened = open_checkpoint(os.fspath(name), lambda config: (config, saved_class(config)), "plan", given, peek=True)
    model, how = opened.model, opened.loading
    if opened.options.attn_implementation is not None:
        choose_attention(model, opened.options.attn_implementation)
    layout, placement = _placed(opened)
    kinds = {s.dtype for s in layout.stored.values() if s.dtype.is_floating_point}
    kept = max(kinds, key=lambda kind: kind.itemsize, default=torch.float32)
    states = _states(model, kept, tokens, rows)
    parts = tuple(_planned(part, placement, states) for part in placement.parts)
    uses = _uses(parts, how.max_memory)
    return Plan(
        name=opened.source.name,
        family=model.config.model_type,
        architecture=model.origin.architecture.name,
        dtype=str(kept).removeprefix("torch.") if len(kinds) < 2 else "mixed",
        tokens=tokens,
        rows=rows,
        device_map=dict(placement.device_map),
        parts=parts,
        uses=uses,
        kernels=kernels_of(model),
        matmuls=matmuls_of(model, layout.stored, placement),
        stacks=stacks_of(model.eval()),
        weights=sum(part.nbytes for part in parts),
        state=sum(part.state for part in parts),
        per_token=sum(_states(model, kept, 1, 1, fixed=False).values()),
        fits=all(use.fits for use in uses),
    )


def _check_counts(**counts: object) -> None:
    for what, count in counts.items():
        if type(count) is not int or not 1 <= count <= LARGEST_COUNT:
            raise InputError("no such count", where=what, expected="a positive number", found=repr(count))


def _placed(opened: Opened) -> tuple[Layout, Placement]:
    """What the tensors would be once loaded, and where they would go."""
    layout, how = _layout(opened), opened.loading
    has_folder = how.offload_folder is not None
    placement = place(layout, how.device_map, how.max_memory, has_folder=has_folder)
    check_folder(layout, placement, has_folder)
    return layout, placement


def _layout(opened: Opened) -> Layout:
    """What the tensors would be once loaded."""
    model, files = opened.model, opened.files
    held = files.described()
    lay_out(model, held)
    untie_what_differs(model, held, files.is_alike)
    table = table_of(model)
    keys, report = match(model, table, held, opened.loading.ignore_mismatched_sizes)
    report.check(opened.source.name)
    return layout_of(model, table, keys, held, opened.loading.dtype, files)


def _states(model: Model, dtype: torch.dtype, tokens: int, rows: int, *, fixed: bool = True) -> dict[str, int]:
    """Bytes that every module keeps of so many tokens: encoders, which read once, keep nothing."""
    if not model.can_generate():
        return {}
    tensors, _ = tensors_and_ties(model)
    # An encoder with learned places reads as many tokens as it has places; how many others read, nobody can know.
    tables = (t.shape[0] for path, t in tensors.items() if path.endswith("encoder.embed_positions.weight"))
    memory = next(tables, tokens)
    kept = set(mixers(model.keeper()))
    found: dict[str, int] = {}
    for path, module in model.named_modules():
        if isinstance(module, StatefulModule) and module in kept:
            spec = module.state_spec()
            counts = {"token": min(tokens, spec.reach or tokens), "memory": memory if fixed else 0, "row": int(fixed)}
            found[path] = rows * counts[spec.kept] * spec.nbytes(dtype)
    return found


def _planned(part: Part, placement: Placement, states: Mapping[str, int]) -> PlannedPart:
    modules = {tensor.rpartition(".")[0] for tensor in part.tensors}
    state = sum(n for path, n in states.items() if any(m == path or m.startswith(f"{path}.") for m in modules))
    return PlannedPart(part.path, part.place, placement.runs_on(part), part.nbytes, state)


def _uses(parts: tuple[PlannedPart, ...], max_memory: object) -> tuple[Use, ...]:
    room = bounds(max_memory)
    weights: Counter[Place] = Counter()
    state: Counter[Place] = Counter()
    visiting: Counter[Place] = Counter()
    for part in parts:
        weights[part.place] += part.nbytes
        state[part.runs_on] += part.state
        if part.place != part.runs_on:
            visiting[part.runs_on] = max(visiting[part.runs_on], part.nbytes)
    uses = []
    for name in dict.fromkeys([*weights, *state, *visiting]):
        need = weights[name] + state[name] + visiting[name]
        has = None if name == "disk" else room.get(name)
        here = name in ("cpu", "disk") or name in gpus() or (isinstance(name, str) and _exists(name))
        uses.append(Use(name, weights[name], state[name], visiting[name], has, has is None or need <= has, here))
    return tuple(uses)


def _exists(place: str) -> bool:
    try:
        torch.empty(0, device=as_device(place))
    except (RuntimeError, AssertionError, NotImplementedError):
        return False
    return True
