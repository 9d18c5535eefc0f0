"""``omniform inspect``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby

from omniform.cli.loading import only_file
from omniform.core.errors import InputError
from omniform.hub.inspect import Summary, inspect
from omniform.hub.plan import Plan, PlannedPart, Use, plan


def inspect_command(name: str, *, as_json: bool) -> None:
    """Describe a checkpoint and print it."""
    summary = inspect(only_file(name))
    print(json.dumps(asdict(summary), ensure_ascii=False) if as_json else described(summary))


def plan_command(name: str, settings: Mapping[str, object], *, as_json: bool) -> None:
    """Plan loading a checkpoint and print it."""
    found = plan(only_file(name), **settings)  # type: ignore[arg-type]
    print(json.dumps(asdict(found), ensure_ascii=False) if as_json else planned(found))


def bounds_from(texts: Sequence[str]) -> dict[int | str, int | str]:
    """``max_memory`` from texts like ``cpu=4GB``.

    Raises:
        InputError: one is not like that, or names a device twice.
    """
    bounds: dict[int | str, int | str] = {}
    for text in texts:
        device, equals, size = text.partition("=")
        if not (device and equals and size):
            raise InputError("no bound of memory", where="--max-memory", expected="DEVICE=SIZE", found=repr(text))
        place = int(device) if device.isascii() and device.isdigit() else device
        if place in bounds:
            raise InputError("the same device twice", where="--max-memory", found=repr(device))
        bounds[place] = 0 if size == "0" else size
    return bounds


def planned(p: Plan) -> str:
    """A plan as a page of text."""
    rows = "" if p.rows == 1 else f", {p.rows} rows"
    head = [
        ("model", p.name),
        ("architecture", f"{p.architecture} ({p.family})"),
        ("weights", f"{readable(p.weights)} in {p.dtype}"),
        ("state", f"{readable(p.state)} for {p.tokens:,} tokens{rows} ({readable(p.per_token)} per token)"),
        ("fits", "yes" if p.fits else "no"),
    ]
    lines = [f"{label:<13} {value}" for label, value in head]
    lines += [
        "",
        *_table(
            [("place", "weights", "state", "visiting", "room", ""), *(_use(use) for use in p.uses)], right=(1, 2, 3, 4)
        ),
    ]
    lines += [
        "",
        *_table(
            [("part", "place", "weights", "state", ""), *(_part(group) for group in _alike(p.parts))], right=(2, 3)
        ),
    ]
    for kernel in p.kernels:
        first, many = kernel.attentions[0], len(kernel.attentions)
        where = first if many == 1 else f"{first} and {many - 1} more"
        how = kernel.prompt if kernel.decoding in (None, kernel.prompt) else f"{kernel.prompt}; then {kernel.decoding}"
        lines += ["", f"attention     {where}", f"kernel        {how}", f"why           {kernel.why}"]
    for matmul in p.matmuls:
        first, many = matmul.layers[0], len(matmul.layers)
        where = first if many == 1 else f"{first} and {many - 1} more"
        lines += ["", f"layers        {where}", f"kernel        {matmul.kernel}", f"why           {matmul.why}"]
    for stack in p.stacks:
        lines += ["", f"stack         {stack.layers}", f"kernel        {stack.kernel}", f"why           {stack.why}"]
    return "\n".join(lines)


def _use(use: Use) -> tuple[str, ...]:
    room = "" if use.room is None else readable(use.room)
    notes = [*([] if use.fits else ["does not fit"]), *([] if use.here else ["not on this machine"])]
    return str(use.place), readable(use.weights), readable(use.state), readable(use.visiting), room, ", ".join(notes)


def _alike(parts: Sequence[PlannedPart]) -> list[list[PlannedPart]]:
    """Parts that follow one another and differ in their number only."""
    return [
        list(group)
        for _, group in groupby(
            parts, lambda p: (p.path.rpartition(".")[0] if _numbered(p) else p.path, p.place, p.nbytes, p.state)
        )
    ]


def _numbered(part: PlannedPart) -> bool:
    return part.path.rpartition(".")[2].isdigit()


def _part(group: Sequence[PlannedPart]) -> tuple[str, ...]:
    first, last = group[0], group[-1]
    path = first.path or "(all)"
    if len(group) > 1:
        path = f"{path}-{last.path.rpartition('.')[2]}"
    visits = "" if first.place == first.runs_on else f"computed by {first.runs_on}"
    total = sum(part.nbytes for part in group), sum(part.state for part in group)
    return path, str(first.place), readable(total[0]), readable(total[1]), visits


def _table(rows: Sequence[Sequence[str]], *, right: Sequence[int]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            f"{cell:>{width}}" if column in right else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def described(s: Summary) -> str:
    """A summary as a page of text."""
    many = f"{len(s.files)} files" if len(s.files) > 1 else s.files[0]
    dtypes = ", ".join(f"{name} ({readable(n)})" if len(s.dtypes) > 1 else name for name, n in s.dtypes.items())
    how = "memory-mapped, nothing is copied" if s.mapped else "read by the weights-only loader"
    rows = [
        ("model", s.name),
        ("family", s.family),
        ("architecture", f"{s.architecture} ({', '.join(s.tasks)})"),
        ("parameters", f"{s.parameters:,}"),
        ("dtype", dtypes),
        ("on disk", f"{readable(s.disk_bytes)} in {many}"),
        ("in RAM", f"{readable(s.nbytes)} for the weights ({how})"),
    ]
    lines = [f"{label:<13} {value}" for label, value in rows]
    width = max(len(part.path) for part in s.parts)
    lines += ["", f"{'part':<{width}}  {'parameters':>14}  {'size':>10}"]
    lines += [f"{part.path:<{width}}  {part.parameters:>14,}  {readable(part.nbytes):>10}" for part in s.parts]
    return "\n".join(lines)


def readable(nbytes: int) -> str:
    """Bytes in the unit that suits them: ``3.4 MB``."""
    size = float(nbytes)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
