"""``omniform cache``."""

from __future__ import annotations

import json
import sys
from argparse import Namespace, _SubParsersAction
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from omniform.core.errors import InputError

if TYPE_CHECKING:
    from omniform.cli.main import Parser
    from omniform.hub.cache import Pruning, Repository


def add(commands: _SubParsersAction[Parser]) -> None:
    """The command's options."""
    text = "List what the Hub's cache on this machine holds, its size and last use; or prune it."
    cache = commands.add_parser("cache", help=text, description=text, allow_abbrev=False)
    _add_common(cache)
    cache.add_argument("--sort", choices=("used", "size", "name"), default="used", help="the order (used)")
    cache.add_argument("--revisions", action="store_true", help="list each commit")
    cache.set_defaults(work=_list, command=cache)
    actions = cache.add_subparsers(dest="action", metavar="prune")
    text = (
        "Delete from the cache. Without a condition: commits that no branch or tag stands for any longer, and "
        "downloads that broke off."
    )
    prune = actions.add_parser("prune", help="delete from the cache", description=text, allow_abbrev=False)
    _add_common(prune)
    prune.add_argument("names", nargs="*", metavar="NAME", help="these repositories only, whole; org/* for several")
    prune.add_argument("--unused", metavar="TIME", help="what nobody used for so long: 30d, 12h, 8w")
    prune.add_argument("--larger", metavar="SIZE", help="repositories that take more: 5GB")
    prune.add_argument("--keep-locked", action="append", default=[], metavar="FILE", help="keep what a lockfile names")
    prune.add_argument("--dry-run", action="store_true", help="only say what would go")
    prune.add_argument("-y", "--yes", action="store_true", help="do not ask")
    prune.set_defaults(work=_prune, command=prune)


def _add_common(command: Parser) -> None:
    command.add_argument("--dir", metavar="FOLDER", help="the cache's folder (HF_HUB_CACHE)")
    command.add_argument("--json", action="store_true", help="print one JSON object")


def _list(given: Namespace) -> None:
    from omniform.hub.cache import scan

    repositories, warnings = scan(given.dir)
    if given.sort == "size":
        repositories.sort(key=lambda r: r.nbytes, reverse=True)
    elif given.sort == "name":
        repositories.sort(key=lambda r: r.name)
    for warning in warnings:
        print(f"omniform: {warning}", file=sys.stderr)
    if given.json:
        print(json.dumps({"repositories": [_plain(r) for r in repositories]}, ensure_ascii=False))
        return
    print(listing(repositories, by_revision=given.revisions))


def _plain(repository: Repository) -> dict[str, object]:
    return json.loads(json.dumps(asdict(repository), default=str))  # type: ignore[no-any-return]


def listing(repositories: Sequence[Repository], *, by_revision: bool) -> str:
    """The cache as a page of text."""
    from omniform.cli.inspect import readable
    from omniform.hub.cache import ago

    rows = [("repository", "size", "last used", "commits")]
    for repo in repositories:
        kind = "" if repo.kind == "model" else f" ({repo.kind})"
        note = f", {len(repo.unfinished)} unfinished" if repo.unfinished else ""
        rows.append((repo.name + kind, readable(repo.nbytes), ago(repo.last_used), f"{len(repo.revisions)}{note}"))
        if by_revision:
            for revision in repo.revisions:
                refs = ", ".join(revision.refs) or "no branch"
                rows.append((f"  {revision.commit[:12]}", readable(revision.nbytes), ago(revision.last_used), refs))
    total = sum(repo.nbytes for repo in repositories)
    if not repositories:
        return "the cache is empty"
    widths = [max(len(row[n]) for row in rows) for n in range(3)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:<{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]
    return "\n".join([*lines, "", f"{len(repositories)} repositories, {readable(total)}"])


def _prune(given: Namespace) -> None:
    from omniform.cli.inspect import readable
    from omniform.hub.cache import chosen, leaves, prune, scan, seconds
    from omniform.hub.devices import parse_size

    repositories, _ = scan(given.dir)
    pruning = chosen(
        repositories,
        names=given.names,
        unused_for=None if given.unused is None else seconds(given.unused),
        larger_than=None if given.larger is None else parse_size(given.larger),
        keep=_locked(given.keep_locked),
    )
    going = list(leaves(pruning))
    free = prune(pruning, given.dir, dry=True)
    if given.json:
        if not given.dry_run:
            _consent(given, pruning, f"{len(going)} entries, {readable(free)}")
            free = prune(pruning, given.dir)
        print(json.dumps({"removed": going, "bytes": free, "dry_run": given.dry_run}, ensure_ascii=False))
        return
    if not going:
        print("nothing to prune")
        return
    for line in going:
        print(line)
    if given.dry_run:
        print(f"would free {readable(free)}")
        return
    _consent(given, pruning, f"{len(going)} entries, {readable(free)}")
    print(f"freed {readable(prune(pruning, given.dir))}")


def _locked(files: Sequence[str]) -> frozenset[str]:
    from omniform.hub.lock import read_lock

    sources = [source for file in files for source in read_lock(Path(file)).sources]
    return frozenset(source.commit for source in sources if source.commit is not None)


def _consent(given: Namespace, pruning: Pruning, what: str) -> None:
    """Ask, at a terminal; elsewhere nothing is deleted unasked."""
    if given.yes or not (pruning.revisions or pruning.unfinished):
        return
    if not sys.stdin.isatty():
        raise InputError("nobody is here to ask", found=what, remedy="Add --yes to delete it, --dry-run to look.")
    print(f"delete {what}? [y/N] ", end="", flush=True, file=sys.stderr)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("nothing was deleted")
