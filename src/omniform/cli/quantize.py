"""``omniform quantize``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omniform.cli.main import Parser
    from omniform.export.quantizing import Report, Told


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """The command's options."""
    text = "Write a checkpoint in fewer bits, and tell what that costs: size, speed, and how well it foretells a text."
    own = commands.add_parser("quantize", help=text, description=text, allow_abbrev=False)
    own.add_argument("model", metavar="MODEL", help="a folder or a Hub id")
    own.add_argument(
        "--to",
        required=True,
        metavar="FORMAT",
        help="int8, int4, nf4, fp4, llm-int8, fp8, gptq-4 (2, 3, 8), hqq-4 (2, 3, 8), or gguf:Q4_K_M and the like",
    )
    own.add_argument("--save", required=True, metavar="PLACE", help="the folder to write; of GGUF the file")
    own.add_argument("--data", metavar="FILE", help="texts, parted by empty lines, to learn from and to judge by")
    own.add_argument("--group-size", type=int, metavar="N", help="inputs that share a scale")
    own.add_argument("--dtype", default="auto", help="of what is not quantized")
    own.add_argument("--overwrite", action="store_true", help="replace what is there")
    own.add_argument("--json", action="store_true", help="print the report as JSON")
    own.set_defaults(work=work, command=own)


def work(given: argparse.Namespace) -> None:
    """Quantize, and print the report."""
    from omniform.cli.loading import only_file, progress
    from omniform.export.quantizing import quantize

    with progress(f"quantizing {given.model}"):
        report = quantize(
            only_file(given.model),
            given.to,
            given.save,
            data=given.data,
            group_size=given.group_size,
            dtype=given.dtype,
            overwrite=given.overwrite,
        )
    print(json.dumps(asdict(report), default=str, ensure_ascii=False) if given.json else page(report))


def page(report: Report) -> str:
    """A report as a page of text."""
    from omniform.cli.table import table

    lines = table([_row(report.before), _row(report.after)])
    before, after = report.before, report.after
    if before.nbytes and after.nbytes:
        lines.append(f"{before.nbytes / after.nbytes:.2f} times smaller: {report.path}")
    if before.quality is None:
        lines.append("How well it foretells a text is told with --data FILE.")
    return "\n".join(lines)


def _row(told: Told) -> dict[str, object]:
    row: dict[str, object] = {
        "model": told.name,
        "size": "" if told.nbytes is None else f"{told.nbytes / 1e6:,.1f} MB",
        "tokens/s": "" if told.tokens_per_second is None else f"{told.tokens_per_second:.1f}",
    }
    if told.quality is not None:
        q = told.quality
        row |= {
            "perplexity": f"{q.perplexity:.3f}",
            "KL, nats": "" if q.divergence is None else f"{q.divergence:.4f}",
            "same token": "" if q.agreement is None else f"{q.agreement:.1%}",
        }
    return row
