"""``omniform export``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from omniform.core.errors import InputError

if TYPE_CHECKING:
    from omniform.cli.main import Parser
    from omniform.export.onnx.writing import Exported


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """The command's options."""
    text = "Write a model as ONNX, with a certificate that onnxruntime computes what torch does (extra onnx)."
    own = commands.add_parser("export", help=text, description=text, allow_abbrev=False)
    own.add_argument("name", nargs="?", metavar="MODEL", help="a folder or a Hub id")
    own.add_argument("out", nargs="?", metavar="OUT", help="the folder to write")
    own.add_argument(
        "--task", default="auto", metavar="TASK", help="text-generation-with-past; the model's own if not said"
    )
    own.add_argument("--opset", type=int, default=20, metavar="N", help="version of ONNX's operations, 18 to 23 (20)")
    own.add_argument("--dtype", default="fp32", metavar="DTYPE", help="fp32 or fp16")
    own.add_argument("--quantize", metavar="KIND", help="int8: matrices of eight bits")
    own.add_argument("--layout", default="optimum", metavar="NAME", help="optimum, or transformers.js (files in onnx/)")
    own.add_argument(
        "--largest-file", type=int, default=2_000_000_000, metavar="BYTES", help="of weights inside a graph's file"
    )
    own.add_argument("--overwrite", action="store_true", help="replace what is there")
    own.add_argument("--check", metavar="DIR", help="repeat the comparison that a folder's certificate tells of")
    own.add_argument("-m", "--model", metavar="MODEL", help="with --check: what to compare with, if not its source")
    own.add_argument("--json", action="store_true", help="print what was done as JSON")
    own.set_defaults(work=work, command=own)


def work(given: argparse.Namespace) -> None:
    """Export or check, and say what was compared."""
    from omniform.cli.loading import progress
    from omniform.export.onnx.writing import check, export_checkpoint

    if given.check is not None:
        if given.name is not None:
            raise InputError(
                "--check takes no model or folder beside it", found=given.name, remedy="Say --model MODEL."
            )
        with progress(f"checking {given.check}"):
            done = check(given.check, given.model)
    else:
        if given.name is None or given.out is None:
            raise InputError("a model and a folder are needed", remedy="omniform export MODEL OUT --task TASK")
        if given.model is not None:
            raise InputError("--model is for --check", remedy="Name the model first, then the folder.")
        with progress(f"exporting {given.name}"):
            done = export_checkpoint(
                given.name,
                given.out,
                task=given.task,
                opset=given.opset,
                dtype=given.dtype,
                quantize=given.quantize,
                layout=given.layout,
                largest_file=given.largest_file,
                overwrite=given.overwrite,
            )
    print(json.dumps(asdict(done), default=str, ensure_ascii=False) if given.json else page(done))


def page(done: Exported) -> str:
    """What was done, as lines of text."""
    lines = [f"{done.path / file}" for file in done.files.values()]
    if done.compared:
        lines.append(
            f"{done.task}: onnxruntime agrees with torch in {done.cases} cases; "
            f"greatest difference {done.greatest:.2g}, allowed {done.tolerance:.2g}"
        )
    else:
        lines.append(
            f"{done.task}: files are as they were when compared; without the model only digests were looked at"
        )
    return "\n".join(lines)
