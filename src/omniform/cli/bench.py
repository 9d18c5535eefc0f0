"""``omniform bench``."""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from omniform.bench.report import commands as commands_of_results
from omniform.core.errors import InputError

if TYPE_CHECKING:
    from omniform.bench.config import BenchmarkConfig
    from omniform.bench.results import Result
    from omniform.bench.storing import Keeping
    from omniform.cli.main import Parser

CHANGE = re.compile(r"\+?[A-Za-z_][\w.\-\[\]]*=.*", re.DOTALL)
"""A value instead of the file's: ``scenario.batch=4``."""


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """The command's options."""
    text = "Measure models, libraries and commits side by side, as a YAML config says (extra bench)."
    own = commands.add_parser("bench", help=text, description=text, allow_abbrev=False)
    own.add_argument("--config-dir", metavar="FOLDER", help="of configs; omniform's own if none is named")
    own.add_argument("--config-name", metavar="NAME", help="the config: generate, decode, load ... (see --list)")
    own.add_argument("--list", action="store_true", help="list the folder's configs and groups, and stop")
    own.add_argument("--multirun", action="store_true", help="values parted by commas are one run each: a=1,2 b=x,y")
    own.add_argument(
        "--commit", dest="commits", action="append", default=[], metavar="REV", help="measure this commit; repeat it"
    )
    own.add_argument("--repo", metavar="FOLDER", default=".", help="the repository of --commit (this folder)")
    own.add_argument("--cache", metavar="FOLDER", help="where commits are kept built (~/.cache/omniform/bench)")
    own.add_argument("--metrics", metavar="A,B", help="columns, such as decode.latency.mean,memory.peak")
    own.add_argument("--json", metavar="FILE", help="write all results with their samples; '-': standard output")
    own.add_argument("--db", metavar="URL", help="keep results: sqlite:///bench.db or postgresql://...")
    own.add_argument(
        "--fail-on-regression", action="store_true", help="exit with 1 where a metric that is shown became worse"
    )
    own.set_defaults(changes=[])
    own.epilog = "KEY=VALUE among the options is a value instead of the file's: scenario.batch=4 scenario=decode"
    own.pairs = CHANGE
    own.set_defaults(work=work, command=own)
    of_results = own.add_subparsers(dest="of_results", metavar="COMMAND")
    commands_of_results.add(of_results)
    both = {action.dest for action in own._actions}
    for one in of_results.choices.values():
        one.set_defaults(work=partial(_of_results, one.get_default("work")))
        for action in one._actions:
            if action.dest in both:  # what stands before the command's name holds, unless it stands behind it too
                action.default = argparse.SUPPRESS


def work(given: argparse.Namespace) -> int:
    """Measure, and print a table."""
    if given.list:
        _list(given.config_dir)
        return 0
    if given.config_name is None:
        raise InputError(
            "no config is named", where="--config-name", remedy="omniform bench --list tells what there is."
        )
    from omniform.bench.benchmark import Benchmark
    from omniform.bench.commits import Commits
    from omniform.bench.config import BenchmarkConfig
    from omniform.bench.storing import storage
    from omniform.bench.table import regressions

    configs = BenchmarkConfig.load(
        given.config_name, config_dir=given.config_dir, overrides=given.changes, multirun=given.multirun,
        commits=given.commits,
    )  # fmt: skip
    kept = None if given.db is None else storage(given.db)
    cache = None if given.cache is None else Path(given.cache).expanduser()
    commits = Commits(Path(given.repo), cache)
    results: list[Result] = []
    worse: list[str] = []
    interrupted = False
    with _ended() as ended:
        for config in configs:
            benchmark = Benchmark(config, on_result=[] if kept is None else [kept], say=_say, commits=commits)
            done = benchmark.run()
            results += done
            if given.json is not None and given.json != "-":
                _write(Path(given.json), results)
            if given.json != "-":
                _show(config, done, _metrics(given))
            if given.fail_on_regression:
                worse += regressions(config, done, _metrics(given))
            if benchmark.interrupted:
                interrupted = True
                break
    if given.json == "-":
        print(json.dumps([one.told() for one in results], ensure_ascii=False))
    if kept is not None:
        _keep_lost(kept, printed=given.json == "-")
    if interrupted:
        return 128 + (ended[0] if ended else signal.SIGINT)
    for one in worse:
        _say(f"regression: {one}")
    return 1 if worse or any(one.status == "failed" for one in results) else 0


@contextmanager
def _ended() -> Iterator[list[int]]:
    """Whoever ends this process by SIGTERM is heard as Ctrl-C is: what is whole is kept, nothing is left behind.

    Yields:
        The signal, once it has come.
    """
    told: list[int] = []

    def hear(number: int, frame: object) -> None:
        told.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)


def _of_results(work: Callable[[argparse.Namespace], int], given: argparse.Namespace) -> int:
    """A command about results that there are, which nothing of measuring concerns."""
    measuring = {
        "--config-name": given.config_name, "--config-dir": given.config_dir, "--list": given.list,
        "--multirun": given.multirun, "--commit": given.commits, "--cache": given.cache, "KEY=VALUE": given.changes,
    }  # fmt: skip
    if given.of_results != "compare":
        measuring["--fail-on-regression"] = given.fail_on_regression
    for option, value in measuring.items():
        if value:
            raise InputError(
                f"is of measuring, and not of omniform bench {given.of_results}", where=option, found=str(value)
            )
    return work(given)


def _metrics(given: argparse.Namespace) -> list[str] | None:
    return None if given.metrics is None else [one.strip() for one in given.metrics.split(",") if one.strip()]


def _say(line: str) -> None:
    print(f"omniform: {line}", file=sys.stderr, flush=True)


def _list(config_dir: str | None) -> None:
    from omniform.bench.compose import folder_of, groups, names

    folder = folder_of(config_dir)
    print("\n".join(names(folder)))
    for group, choices in groups(folder).items():
        print(f"{group}: {', '.join(choices)}")


def _keep_lost(kept: Keeping, *, printed: bool) -> None:
    """What the database refused is tried again, and else printed as JSON, one result a line.

    Raises:
        StoreError: why it refuses.
    """
    kept.again()
    if kept.lost and kept.error is not None:
        if not printed:
            for one in kept.lost:
                print(json.dumps(one.told()))
        raise kept.error


def _show(config: BenchmarkConfig, results: Sequence[Result], metrics: Sequence[str] | None) -> None:
    from omniform.bench.table import page

    for line in page(config, results, metrics):
        print(line)


def _write(path: Path, results: Sequence[Result]) -> None:
    import os

    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        unfinished.write_text(json.dumps([one.told() for one in results], indent=1), encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        raise InputError("the results cannot be written", where=str(path), found=error.strerror) from None
