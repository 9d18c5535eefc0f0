"""The command line: ``omniform run`` and ``omniform inspect``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from omniform import __version__
from omniform.core.errors import InputError, OmniformError


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are errors like all others: one line on stderr, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message, remedy=f"See {self.prog} --help.")


def parser() -> Parser:
    """The options of every command."""
    top = Parser(prog="omniform", description="Load any Hugging Face checkpoint and run it.", allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"omniform {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_run(commands)
    _add_inspect(commands)
    return top


def _add_run(commands: argparse._SubParsersAction[Parser]) -> None:
    text = "Answer a question about pictures, sound or text; the answer streams to standard output."
    run = commands.add_parser("run", help=text, description=text, allow_abbrev=False)
    run.add_argument("-t", "--text", help="the question or prompt; '-' or nothing reads standard input")
    run.add_argument("-i", "--image", action="append", default=[], metavar="FILE", help="a picture; may be repeated")
    run.add_argument("-a", "--audio", action="append", default=[], metavar="FILE", help="a sound")
    run.add_argument("-m", "--model", help="a folder or a Hub id; the bundled checkpoint by default")
    run.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="the longest answer (%(default)s)")
    run.add_argument("--temperature", type=float, help="draw tokens at this temperature, not the likeliest ones")
    run.add_argument("--top-p", type=float, metavar="P", help="draw among the likeliest of this probability together")
    run.add_argument("--top-k", type=int, metavar="K", help="draw among so many likeliest tokens")
    run.add_argument("--seed", type=int, help="make draws reproducible")
    run.add_argument("--dtype", default="auto", help="float32, bfloat16, float16, or auto: the checkpoint's own")
    run.add_argument("--json", action="store_true", help="print one JSON object: answer, tokens, timings")
    run.set_defaults(work=_run)


def _add_inspect(commands: argparse._SubParsersAction[Parser]) -> None:
    text = "Describe a checkpoint from its headers: family, parameters, size per part, dtype, memory."
    inspect = commands.add_parser("inspect", help=text, description=text, allow_abbrev=False)
    inspect.add_argument("model", help="a folder or a Hub id")
    inspect.add_argument("--json", action="store_true", help="print one JSON object")
    plan = inspect.add_argument_group("plan", "What loading it with these settings would come to.")
    plan.add_argument(
        "--plan", action="store_true", help="say where each part would go, what it needs, and its kernels"
    )
    plan.add_argument("--max-memory", action="append", metavar="DEVICE=SIZE", help="0=8GiB or cpu=4GB; may be repeated")
    plan.add_argument("--device-map", metavar="MAP", help="auto (as it is unless told), balanced, sequential, a device")
    plan.add_argument("--offload-folder", metavar="FOLDER", help="where weights would be kept that go to disk")
    plan.add_argument("--dtype", help="float32, bfloat16, float16, or auto: the checkpoint's own")
    plan.add_argument("--tokens", type=int, metavar="N", help="tokens per row, prompt and answer (4096)")
    plan.add_argument("--rows", type=int, metavar="N", help="rows at once (1)")
    inspect.set_defaults(work=_inspect)


def _run(given: argparse.Namespace) -> None:
    from omniform.cli.run import run_command

    sampling = {"temperature": given.temperature, "top_p": given.top_p, "top_k": given.top_k, "seed": given.seed}
    settings: dict[str, object] = {name: value for name, value in sampling.items() if value is not None}
    if settings:
        settings["do_sample"] = True
    settings["max_new_tokens"] = given.max_new_tokens
    run_command(given.text, given.image, given.audio, given.model, settings, dtype=given.dtype, as_json=given.json)


def _inspect(given: argparse.Namespace) -> None:
    from omniform.cli.inspect import bounds_from, inspect_command, plan_command

    names = ("max_memory", "device_map", "offload_folder", "dtype", "tokens", "rows")
    settings = {name: vars(given)[name] for name in names if vars(given)[name] is not None}
    if not given.plan:
        if settings:
            first = next(iter(settings)).replace("_", "-")
            raise InputError(f"--{first} is part of a plan", remedy="Add --plan.")
        inspect_command(given.model, as_json=given.json)
        return
    if "max_memory" in settings:
        settings["max_memory"] = bounds_from(given.max_memory)
    plan_command(given.model, settings, as_json=given.json)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. A mistake of the user's is one line on stderr and code 2."""
    logging.basicConfig(format="omniform: %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        given = parser().parse_args(arguments)
        given.work(given)
        sys.stdout.flush()
    except OmniformError as error:
        print("omniform: error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


def entry() -> None:
    """The console script."""
    sys.exit(main())
