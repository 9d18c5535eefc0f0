"""``omniform lock``."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
from argparse import REMAINDER, Namespace, _SubParsersAction
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omniform.core.errors import InputError, OmniformError

if TYPE_CHECKING:
    from omniform.cli.main import Parser
    from omniform.hub.lock import Lock, Recorder


def add(commands: _SubParsersAction[Parser]) -> None:
    """The command's options."""
    text = (
        "Write down which commit, and which bytes of every file, a script or a model uses; --frozen runs use no other."
    )
    lock = commands.add_parser(
        "lock",
        help=text,
        description=text + " A script is run to see what it uses; a model is loaded with its tokenizer or processor.",
        allow_abbrev=False,
    )
    lock.add_argument("targets", nargs="*", metavar="SCRIPT-OR-MODEL", help="a .py file, a folder or a Hub id")
    lock.add_argument("--to", metavar="FILE", default="omniform.lock", help="the lockfile (omniform.lock)")
    lock.add_argument("--revision", metavar="NAME", help="branch, tag or commit of the models that are named")
    lock.add_argument("--trust-remote-code", action="store_true", help="run the code that a model brings, and lock it")
    lock.add_argument("--check", action="store_true", help="say what has changed on this machine since it was written")
    lock.add_argument("--args", nargs=REMAINDER, default=[], metavar="ARG", help="all that follows goes to the script")
    lock.set_defaults(work=work, command=lock)


def work(given: Namespace) -> None:
    """Write a lockfile, or compare one with this machine."""
    if given.check:
        if given.targets:
            raise InputError("a check looks at the lockfile only", where="--check", found=" ".join(given.targets))
        _check(Path(given.to), given.command)
        return
    if not given.targets:
        raise InputError(
            "nothing is named", expected="a script, a folder or a Hub id", remedy="See omniform lock --help."
        )
    where = {"revision": given.revision, "trust_remote_code": given.trust_remote_code or None}
    lock = lock_targets(given.targets, Path(os.path.abspath(given.to)), where, given.args)
    lock.write()
    for source in lock.sources:
        at = "" if source.commit is None else f" at {source.commit[:12]}"
        size = sum(file.size for file in source.files.values())
        print(f"{source.name}{at}: {len(source.files)} files, {size:,} bytes")
    print(f"written to {given.to}")


def lock_targets(targets: Sequence[str], path: Path, where: Mapping[str, object], arguments: Sequence[str]) -> Lock:
    """What scripts and models use, as a lock that is to lie at ``path``.

    Args:
        where: keywords that models are loaded with; None is left out.
        arguments: the script's.

    Raises:
        OmniformError: a script failed, or a model cannot be loaded; nothing was written.
    """
    from omniform.hub.lock import merged

    scripts = [target for target in targets if target.endswith(".py")]
    if arguments and len(scripts) != 1:
        raise InputError("arguments belong to one script", where="--args", found=f"{len(scripts)} scripts")
    with _loose():
        runs = [_run(t, arguments) if t in scripts else _load(t, where) for t in targets]
    whole = merged(runs)
    if not whole.sources:
        raise InputError("nothing that could be locked was used", where=" ".join(targets))
    command = ["omniform", "lock", *targets, *(["--args", *arguments] if arguments else [])]
    return whole.lock(path, shlex.join(command))


@contextlib.contextmanager
def _loose() -> Iterator[None]:
    """What is being locked anew is not held to the old lock."""
    from omniform.hub.lock import FROZEN

    said = os.environ.pop(FROZEN, None)
    try:
        yield
    finally:
        if said is not None:
            os.environ[FROZEN] = said


def _run(script: str, arguments: Sequence[str]) -> Recorder:
    """What a script uses, in whatever processes."""
    from omniform.hub.lock import RECORD, recorded

    if not Path(script).is_file():
        raise InputError("there is no such script", where=script)
    with tempfile.TemporaryDirectory(prefix="omniform-") as folder:
        notes = Path(folder) / "used"
        notes.touch()
        done = subprocess.run([sys.executable, script, *arguments], env={**os.environ, RECORD: str(notes)}, check=False)
        if done.returncode:
            raise OmniformError(
                "the script failed, and nothing is locked", where=script, found=f"exit code {done.returncode}"
            )
        return recorded(notes)


def _load(model: str, asked: Mapping[str, object]) -> Recorder:
    """What loading a model and what reads its inputs uses. The weights are mapped, hardly read."""
    from omniform.core.errors import RepoError, UnknownNameError
    from omniform.hub.auto_inputs import AutoProcessor
    from omniform.hub.lock import Recorder
    from omniform.hub.used import watched

    unasked = {"revision"} if Path(model).is_dir() else set()
    where = {name: value for name, value in asked.items() if value is not None and name not in unasked}
    recorder = Recorder()
    with watched(recorder):
        _load_model(model, where)
        try:
            AutoProcessor.from_pretrained(model, **where)
        except (RepoError, UnknownNameError) as error:  # a model need not bring anything to read inputs with
            print(f"omniform: without a tokenizer or processor: {error.message}", file=sys.stderr)
    return recorder


def _load_model(model: str, where: Mapping[str, object]) -> None:
    """Load a model as what it was saved as, or as all that its own code makes of it."""
    from omniform.hub import auto
    from omniform.hub.checkpoint import load_as_saved
    from omniform.hub.files import locate, read_json

    named: list[str] = []
    if "trust_remote_code" in where:
        source = locate(model, **{name: value for name, value in where.items() if name == "revision"})  # type: ignore[arg-type]
        auto_map = read_json(source.need("config.json")).get("auto_map")
        named = [name for name in auto_map if name in vars(auto)] if isinstance(auto_map, Mapping) else []
    models = [name for name in named if name.startswith("AutoModel")]
    for name in models:
        vars(auto)[name].from_pretrained(model, **where)
    if not models:
        load_as_saved(model, **where)


def _check(path: Path, command: Parser) -> None:
    from omniform.hub.lock import read_lock

    changes = read_lock(Path(os.path.abspath(path))).differences()
    for line in changes:
        print(line)
    if changes:
        command.exit(1)
    print(f"everything is as {path} says")
