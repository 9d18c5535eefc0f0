"""``omniform modular``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Final

from omniform.export.modular import convert_modular

if TYPE_CHECKING:
    from omniform.cli.main import Parser


_SHOWN: Final = 12
"""How many of the parts that drifted are named."""


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """The command's options."""
    text = "Make one file of a modular one: a model that is written as changes to another's classes (extra modular)."
    modular = commands.add_parser("modular", help=text, description=text, allow_abbrev=False)
    modular.add_argument("file", metavar="FILE", help="modular_<name>.py; it is read, and never run")
    modular.add_argument("--to", metavar="FILE", help="where the result goes; modeling_<name>.py beside it by default")
    modular.add_argument("--name", metavar="NAME", help="the new model's name, as in model_type")
    modular.add_argument(
        "--flatten", action="append", default=[], metavar="MODULE",
        help="write out the classes of this module too, instead of importing them; may be repeated",
    )  # fmt: skip
    modular.add_argument(
        "--check", action="store_true", help="write nothing; print a diff and exit with 1 if the file is another"
    )
    modular.set_defaults(work=work, command=modular)


def work(given: argparse.Namespace) -> None:
    """Convert, or compare."""
    found = convert_modular(given.file, given.to, name=given.name, flatten=given.flatten, check=given.check)
    if given.check:
        if found.drift:
            sys.stdout.write(found.drift)
            sys.stdout.flush()
            shown = ", ".join(found.drifted[:_SHOWN]) + (", ..." if len(found.drifted) > _SHOWN else "")
            given.command.exit(1, f"omniform: {found.path} has drifted: {shown}. Run `{found.command}`.\n")
        return
    for note in found.notes:
        print(f"omniform: note: {note}", file=sys.stderr)
    print(found.path if found.drift else f"{found.path} is as it should be")
