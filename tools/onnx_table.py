"""The table of what can be exported to ONNX: docs/export.json by running it, and of that the end of docs/export.md.

    python tools/onnx_table.py                      # runs what is not in the table yet, main heads first
    python tools/onnx_table.py --again bert llama   # runs these anew
    python tools/onnx_table.py --page               # writes the page alone

Models are those of tests/citizens: of every family one, and its further heads with the same config. A row says "yes" if
the export went through, which it does only with a certificate: onnxruntime agreed with torch in so many cases.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "tests/citizens")]

DATA, PAGE = ROOT / "docs/export.json", ROOT / "docs/export.md"
MARK = "<!-- What follows is written by tools/onnx_table.py from export.json. -->"
LONGEST = 300
"""Seconds of the processor for one export."""

Row = dict[str, object]


def wanted() -> Iterator[tuple[str, str, str]]:
    """Name of a row, of the tiny model whose config it has, and of the class: main heads first."""
    from citizens import registered
    from omniform.models import registry

    known = registered()
    seen = set()
    for name, citizen in known.items():
        seen.add((citizen.model_type, citizen.architecture))
        yield name, name, citizen.architecture
    done = set()
    for name, citizen in known.items():
        if citizen.model_type in done:
            continue
        done.add(citizen.model_type)
        for architecture in registry.family(citizen.model_type).architectures:
            if (citizen.model_type, architecture) not in seen:
                yield f"{citizen.model_type}, {architecture}", name, architecture


def tried(name: str, architecture: str) -> Row:
    """One row, by exporting it."""
    import torch

    import omniform
    from citizens import CITIZENS
    from omniform.core.errors import OmniformError
    from omniform.models import registry

    citizen = CITIZENS[name]
    row: Row = {"family": citizen.model_type, "architecture": architecture}
    begin = time.process_time()
    try:
        raw = {"model_type": citizen.model_type, **citizen.config, "architectures": [architecture]}
        torch.manual_seed(0)
        kind = registry.family(citizen.model_type).classes[architecture]
        model = kind.from_config(registry.config_of(raw)).eval()
    except OmniformError as error:
        return {**row, "result": "no tiny model", "why": " ".join(str(error).split())[:300]}
    try:
        with tempfile.TemporaryDirectory() as folder:
            done = model.export("onnx", Path(folder) / "out")
        row |= {"task": done.task, "result": "yes", "files": sorted(done.files.values()), "cases": done.cases}
        row["greatest"] = float(f"{done.greatest:.1e}")
    except OmniformError as error:
        row |= {"result": "no", "why": " ".join(str(error).split())[:300]}
    except Exception as error:
        row |= {"result": "no", "why": f"{type(error).__name__}: {' '.join(str(error).split())[:250]}"}
    assert omniform
    return {**row, "seconds": round(time.process_time() - begin, 1)}


def late(signum: int, frame: object) -> None:
    raise TimeoutError(f"longer than {LONGEST} s")


def page(rows: Mapping[str, Row]) -> str:
    """The table as Markdown."""
    yes = sum(row["result"] == "yes" for row in rows.values())
    no = sum(row["result"] == "no" for row in rows.values())
    lines = [
        MARK,
        "",
        f"Of {len(rows)} heads that were tried, {yes} were exported, each with a certificate; {no} were not, for the "
        "reason that stands beside. What is not in the table was not tried yet.",
        "",
        "| family | class | task | result |",
        "|---|---|---|---|",
    ]
    for row in sorted(rows.values(), key=lambda row: (str(row["family"]), str(row["architecture"]))):
        told = f"{row['cases']} cases, {row['greatest']:.0e}" if row["result"] == "yes" else _cell(row)
        lines.append(f"| {row['family']} | {row['architecture']} | {row.get('task', '')} | {told} |")
    return "\n".join(lines) + "\n"


def _cell(row: Row) -> str:
    return f"{row['result']}: {row['why']}".replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--again", nargs="*", default=[], metavar="ROW")
    reader.add_argument("--page", action="store_true", help="write the page alone")
    reader.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing after so long")
    reader.add_argument("--part", default="0/1", help="1/2: every second row, from the second on")
    reader.add_argument("--data", type=Path, default=DATA)
    given = reader.parse_args()
    rows: dict[str, Row] = json.loads(given.data.read_text()) if given.data.exists() else {}
    end = time.monotonic() + given.seconds
    signal.signal(signal.SIGPROF, late)
    number, parts = map(int, given.part.split("/"))
    for name, config, architecture in wanted() if not given.page else ():
        if time.monotonic() > end:
            break
        if zlib.crc32(name.encode()) % parts != number:
            continue
        if name not in given.again and (given.again or name in rows):
            continue
        signal.setitimer(signal.ITIMER_PROF, LONGEST, 1)  # and again: torch holds fast to some errors
        try:
            rows[name] = tried(config, architecture)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        print(name, rows[name].get("result"), rows[name].get("why", ""), flush=True)
        given.data.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
    if given.data == DATA:
        PAGE.write_text(PAGE.read_text().partition(MARK)[0] + page(rows))


if __name__ == "__main__":
    main()
