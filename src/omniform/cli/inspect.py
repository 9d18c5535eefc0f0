"""``omniform inspect``."""

from __future__ import annotations

import json
from dataclasses import asdict

from omniform.hub.inspect import Summary, inspect


def inspect_command(name: str, *, as_json: bool) -> None:
    """Describe a checkpoint and print it."""
    summary = inspect(name)
    print(json.dumps(asdict(summary), ensure_ascii=False) if as_json else described(summary))


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
