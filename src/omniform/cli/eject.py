"""``omniform eject``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omniform.cli.main import Parser


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """The command's options."""
    text = "Write a model as one readable file of torch, which needs nothing of omniform (extra eject)."
    eject = commands.add_parser("eject", help=text, description=text, allow_abbrev=False)
    eject.add_argument("name", metavar="NAME", help="a family, as in model_type (llama); or a folder or a Hub id")
    eject.add_argument("--to", required=True, metavar="FILE", help="the file, my_llama.py")
    eject.add_argument(
        "--architecture", metavar="CLASS", help="LlamaForSequenceClassification; the main head if not said"
    )
    eject.add_argument("--revision", help="branch, tag or commit on the Hub")
    eject.add_argument("--force", action="store_true", help="write over a file that is there")
    eject.set_defaults(work=work, command=eject)


def work(given: argparse.Namespace) -> None:
    """Write the file."""
    from omniform.export.eject import eject

    path = eject(given.name, given.to, architecture=given.architecture, revision=given.revision, force=given.force)
    print(f"{path}: {len(path.read_text(encoding='utf-8').splitlines())} lines")
