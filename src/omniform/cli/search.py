"""``omniform search``: the pictures of a folder that a text describes, or that are like another picture."""

from __future__ import annotations

import argparse

MOST = 10
"""So many pictures are told where nobody says."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options."""
    text = "Find the pictures of a folder that a text describes, or that are like a picture."
    more = (
        "The folder's pictures are indexed first, those that are new or have changed; the next search is quick. A run"
        " that was cut off goes on where it was."
    )
    search = commands.add_parser("search", help=text, description=f"{text} {more}", allow_abbrev=False)
    search.add_argument("folder", help="where the pictures are; folders in it are looked through, too")
    search.add_argument("text", nargs="?", help="what to look for; nothing brings the index up to date")
    search.add_argument("-i", "--image", metavar="FILE", help="look for pictures like this one, instead")
    search.add_argument("-m", "--model", help="a folder or a Hub id of a model with two towers; the bundled one")
    search.add_argument("-n", "--top", type=int, default=MOST, metavar="N", help=f"so many pictures ({MOST})")
    search.add_argument("-s", "--save", metavar="FILE", help="a contact sheet of them: a picture file")
    search.add_argument("--index", metavar="FOLDER", help="where the index is kept; in omniform's own folder")
    search.add_argument("--near", metavar="KIND", help="compare some pictures, by an index of faiss, as IVF1024,SQ8")
    search.add_argument("--flat", action="store_true", help="leave out the folders in the folder")
    search.add_argument("--again", action="store_true", help="index all pictures anew")
    search.add_argument("--json", action="store_true", help="print one JSON object")
    search.add_argument("--dtype", default="auto", help="float32, bfloat16, float16, or auto: the checkpoint's own")
    search.set_defaults(work=work, command=search)


def work(given: argparse.Namespace) -> int:
    """Search; the exit code."""
    from omniform.cli.searching import search_command

    return search_command(given)
