"""``omniform trust``: show the code that a checkpoint brings, ask whether it may run, and remember the answer."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from omniform.core.errors import InputError, RevisionError, TrustError

if TYPE_CHECKING:
    from omniform.cli.main import Parser
    from omniform.hub.code.named import Code


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command."""
    text = "Show the code that a checkpoint brings, what has changed in it, and record whether it may run."
    command = commands.add_parser("trust", help=text, description=text, allow_abbrev=False)
    command.add_argument("model", nargs="?", help="a folder or a Hub id")
    command.add_argument("--revision", help="a branch, a tag or a commit on the Hub")
    command.add_argument("--code-revision", help="the same, of the code, if it is another than the checkpoint's")
    command.add_argument("--subfolder", default="", help="the checkpoint's folder in it")
    command.add_argument("--yes", action="store_true", help="record it without asking")
    command.add_argument("--forget", action="store_true", help="take back what was recorded")
    command.add_argument("--list", action="store_true", help="list what was recorded")
    command.set_defaults(work=work, command=command)


def work(given: argparse.Namespace) -> None:
    """Do what the command line says.

    Raises:
        InputError: no model is named, or one too many.
        TrustError: the answer was no.
    """
    if given.list:
        if given.model is not None or given.yes or given.forget:
            raise InputError("--list stands alone", remedy="See omniform trust --help.")
        _list()
        return
    if given.model is None:
        raise InputError("no model is named", expected="a folder or a Hub id", remedy="See omniform trust --help.")
    if given.forget:
        _forget(given.model)
        return
    codes = _codes(given.model, given.revision, given.subfolder, given.code_revision)
    if not codes:
        print(f"{given.model} brings no code.")
    for code in codes:
        _show(code, asked=not given.yes)


def _codes(model: str, revision: str | None, subfolder: str, code_revision: str | None) -> list[Code]:
    """The code of a checkpoint, and of other repositories that it names code of."""
    from omniform.hub import refusals
    from omniform.hub.code.named import code_of, repositories, with_accepted
    from omniform.hub.files import locate
    from omniform.hub.remote import together

    found = []
    with together():
        source = locate(model, revision=revision, subfolder=subfolder)
        if source.folder is None and source.commit is None:
            raise refusals.offline(source.name, None)
        repos = (None, *repositories(source))
        for repo in repos:
            try:
                found.append(with_accepted(code_of(source, repo=repo, code_revision=code_revision)))
            except RevisionError:
                if repo is not None or len(repos) == 1:  # else it is a revision of the other's
                    raise
    return [code for code in found if code.entries]


def _show(code: Code, *, asked: bool) -> None:
    from omniform.hub.code import asking, trust

    repository = code.files.repository
    files = code.shown()
    state = asking.judge(repository.key, files, commit=code.commit)
    print(f"{repository.source.name}: {len(files)} file{'s' * (len(files) != 1)}")
    print(asking.overview(files, code.commit))
    if state.state == "known":
        print("This was accepted before.")
        trust.accept(repository.key, files, code.commit)
        return
    print("What has changed since it was accepted:" if state.before else "It was not accepted before; this would run:")
    _print_difference(asking.difference(files, state.before))
    if asked and not asking.yes("May this code run?"):
        raise TrustError("the code was not accepted, and nothing is recorded", where=repository.source.name)
    trust.accept(repository.key, files, code.commit)
    print(f"Recorded in {trust.store()}.")


def _print_difference(text: str) -> None:
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.syntax import Syntax
        except ImportError:
            pass
        else:
            Console().print(Syntax(text, "diff", background_color="default", word_wrap=True))
            return
    print(text)


def _forget(model: str) -> None:
    from omniform.hub.code import trust
    from omniform.hub.code.closure import Repository
    from omniform.hub.files import locate

    # What was recorded of a folder or an id that is gone can be taken back all the same.
    key = model if model in trust.everything() else Repository.of(locate(model)).key
    if not trust.forget(key):
        raise InputError("nothing was recorded of it", where=model, remedy="omniform trust --list shows what was.")
    print(f"Nothing of {model} is trusted any more.")


def _list() -> None:
    from omniform.hub.code import asking, trust

    for key, versions in trust.everything().items():
        for one in versions:
            commit = f"  commit {one.commit}" if one.commit else ""
            print(f"{asking.shown(key)}  {one.date}  {len(one.files)} files  digest {one.digest[:16]}{commit}")
