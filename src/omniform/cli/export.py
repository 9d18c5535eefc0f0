"""``omniform export``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from omniform.core.errors import InputError
from omniform.export.formats import CHOICES, FORMATS, Exported

if TYPE_CHECKING:
    from omniform.cli.main import Parser


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """The command's options."""
    text = "Write a model for another runtime, with a certificate that it computes there what torch does."
    own = commands.add_parser(
        "export",
        help=text,
        description=text,
        epilog=told(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    own.add_argument("name", nargs="?", metavar="MODEL", help="a folder or a Hub id")
    own.add_argument("out", nargs="?", metavar="OUT", help="the folder to write; of gguf the file, or its folder")
    own.add_argument("--format", default="onnx", metavar="NAME", help=f"{', '.join(FORMATS)} (onnx)")
    own.add_argument("--task", metavar="TASK", help="text-generation-with-past; the model's own if not said")
    own.add_argument("--opset", type=int, metavar="N", help="version of ONNX's operations, 18 to 23 (20)")
    own.add_argument("--dtype", metavar="DTYPE", help="fp32, fp16, bf16; of safetensors also auto")
    own.add_argument("--quantize", metavar="KIND", help="int8 of onnx, q4_k_m and its like of gguf")
    own.add_argument("--layout", metavar="NAME", help="what stands where, under which names; see below")
    own.add_argument("--largest-file", type=int, metavar="BYTES", help="of weights inside a graph's file (2000000000)")
    own.add_argument("--max-shard-size", metavar="SIZE", help="of a file of weights, 5GB; none for one file (50GB)")
    own.add_argument("--overwrite", action="store_true", help="replace what is there")
    own.add_argument("--check", metavar="DIR", help="repeat the comparison that a folder's certificate tells of")
    own.add_argument("-m", "--model", metavar="MODEL", help="with --check: what to compare with, if not its source")
    own.add_argument("--json", action="store_true", help="print what was done as JSON")
    own.set_defaults(work=work, command=own)


def told() -> str:
    """The formats, and which option goes with which, as lines of help."""
    lines = ["formats:"]
    for form in FORMATS.values():
        lines.append(f"  {form.name:<12} {form.what}")
        words = [_option(form.name, name) for name in form.defaults if name != "overwrite"]
        lines.append(f"  {'':<12} {' '.join(words)}")
    return "\n".join(lines)


def _option(form: str, name: str) -> str:
    values = CHOICES.get((form, name))
    return f"--{name.replace('_', '-')}" + (f" {'|'.join(values)}" if values else "")


def work(given: argparse.Namespace) -> None:
    """Export or check, and say what was compared."""
    from omniform.cli.loading import progress
    from omniform.export.exporting import check, export_checkpoint

    names = {name for form in FORMATS.values() for name in form.defaults}
    said = {name: value for name, value in vars(given).items() if name in names and value is not None}
    if not given.overwrite:
        del said["overwrite"]
    if given.check is not None:
        if given.name is not None:
            raise InputError(
                "--check takes no model or folder beside it", found=given.name, remedy="Say --model MODEL."
            )
        if said:
            raise InputError("--check takes what the certificate says", found=", ".join(f"--{name}" for name in said))
        with progress(f"checking {given.check}"):
            done = check(given.check, given.model)
    else:
        if given.name is None or given.out is None:
            raise InputError("a model and a folder are needed", remedy="omniform export MODEL OUT --task TASK")
        if given.model is not None:
            raise InputError("--model is for --check", remedy="Name the model first, then the folder.")
        with progress(f"exporting {given.name} as {given.format}"):
            done = export_checkpoint(given.name, given.format, given.out, **said)
    print(json.dumps(asdict(done), default=str, ensure_ascii=False) if given.json else page(done))


RUNTIMES = {"onnx": "onnxruntime", "torch": "torch.export's program", "aot": "AOTInductor's program"}


def page(done: Exported) -> str:
    """What was done, as lines of text."""
    from omniform.cli.table import table

    roles = {file: role for role, file in done.files.items()}
    rows = [
        {"file": name, "size": f"{size / 1e6:,.2f} MB", "what": roles.get(name, "")}
        for name, size in done.sizes.items()
    ]
    lines = table(rows)
    if done.format not in RUNTIMES:
        far = f"at most {done.greatest:.2g} of its size off, allowed {done.tolerance:.2g}"
        told = far if done.greatest else "bit for bit the model's"
        lines.append(f"{done.path}: read again after writing, each of {done.cases} tensors is {told}")
    elif done.compared:
        lines.append(
            f"{done.path}: {done.task}: {RUNTIMES[done.format]} agrees with torch in {done.cases} cases; "
            f"greatest difference {done.greatest:.2g}, allowed {done.tolerance:.2g}"
        )
    else:
        lines.append(
            f"{done.path}: {done.task}: files are as they were when compared; "
            "without the model only digests were looked at"
        )
    return "\n".join(lines)
