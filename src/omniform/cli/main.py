"""The command line: ``omniform run``, ``chat``, ``say``, ``search``, ``inspect``, ``embed``, ``train``..."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

from omniform import __version__
from omniform.cli import bench, cache, eject, export, lock, map, modular, quantize, say, search, serve, train, trust
from omniform.cli.settings import drawing, read_pair, value_of
from omniform.core.errors import InputError, OmniformError
from omniform.core.kinds import TEXTS
from omniform.core.settings import SETTINGS, Setting

if TYPE_CHECKING:
    from omniform.cli.pictures import Showing

LOADING: Final = (
    "run", "chat", "inspect", "embed", "eval", "export", "map", "quantize", "say", "search", "serve", "train",
)  # fmt: skip
"""Commands that read checkpoints, and may be held to a lockfile."""


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are errors like all others: one line on stderr, exit code 2.

    Attributes:
        pairs: words of this form may stand anywhere among the options, and are the ``changes``.
    """

    pairs: re.Pattern[str] | None = None

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if self.pairs is None or args is None:
            return super().parse_known_args(args, namespace)
        changes = [word for word in args if self.pairs.fullmatch(word)]
        given, rest = super().parse_known_args([word for word in args if word not in changes], namespace)
        given.changes = [*given.changes, *changes]
        return given, rest

    def error(self, message: str) -> NoReturn:
        raise InputError(message, remedy=f"See {self.prog} --help.")


DTYPES_HELP = "float32, bfloat16, float16, int8 or int4 (made at load), or auto: the checkpoint's own"
"""Of ``--dtype``."""

QUANTIZE_HELP = "fewer bits, made at load: int8, int4, nf4, fp4, llm-int8, fp8, hqq-4 ... (see omniform quantize)"
"""Of ``--quantize``."""


def parser() -> Parser:
    """The options of every command."""
    top = Parser(
        prog="omniform",
        description="Run Hugging Face checkpoints of the families that omniform knows.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"omniform {__version__}")
    commands = top.add_subparsers(dest="named", metavar="COMMAND")
    top.set_defaults(work=partial(_nothing, commands.choices), command=top)
    _add_run(commands)
    _add_chat(commands)
    _add_inspect(commands)
    _add_embed(commands)
    _add_eval(commands)
    for own in (bench, cache, eject, export, lock, map, modular, quantize, say, search, serve, train, trust):
        own.add(commands)
    for name in LOADING:
        held = commands.choices[name]
        held.add_argument("--frozen", action="store_true", help="use nothing but what omniform.lock holds")
    return top


def _add_run(commands: argparse._SubParsersAction[Parser]) -> None:
    text = "Answer a question about pictures, sound or text; the answer streams to standard output."
    run = commands.add_parser("run", help=text, description=text, allow_abbrev=False)
    run.add_argument("-t", "--text", help="the question or prompt; '-' or nothing reads standard input")
    run.add_argument("-i", "--image", action="append", default=[], metavar="FILE", help="a picture; may be repeated")
    run.add_argument("--video", action="append", default=[], metavar="FILE", help="a video; may be repeated")
    run.add_argument("-a", "--audio", action="append", default=[], metavar="FILE", help="a sound; '-': standard input")
    run.add_argument("-m", "--model", help="a folder or a Hub id; the bundled checkpoint by default")
    run.add_argument("--task", help="a pipeline's task, such as fill-mask, instead of a question; --text is its input")
    run.add_argument("--dtype", default="auto", help=DTYPES_HELP)
    run.add_argument("--quantize", metavar="FORMAT", help=QUANTIZE_HELP)
    run.add_argument("--json", action="store_true", help="print JSON: answer, tokens, timings; a line for each picture")
    run.add_argument(
        "--format", choices=("txt", "srt", "vtt", "tsv", "json"), help="how a sound is written down; lines with times"
    )
    _add_pictures(run)
    _add_cache(run)
    _add_writing(run)
    run.set_defaults(work=_run, command=run)


def _add_pictures(run: Parser) -> None:
    words = "With --task; --image may be a folder then, and a run that was cut off goes on where it was."
    pictures = run.add_argument_group("pictures", words)
    pictures.add_argument("--csv", action="store_true", help="print rows of comma-separated values")
    pictures.add_argument(
        "--save",
        metavar="PLACE",
        help="a transcript, or a drawing (of an answer: where it looked for each word); a folder for several pictures",
    )
    pictures.add_argument(
        "--show", choices=("answer", "attention"), default="answer", help="what is drawn; attention: where it looks"
    )
    pictures.add_argument("--recursive", action="store_true", help="look into the folders of a folder")
    pictures.add_argument("--again", action="store_true", help="answer anew what an earlier run has done")


def _showing(given: argparse.Namespace) -> Showing:
    from omniform.cli.pictures import Form, Showing, Shown

    if given.json and given.csv:
        raise InputError("--json and --csv exclude each other", remedy="Leave one out.")
    if given.show != "answer" and given.save is None:
        raise InputError("nothing is drawn", where="--show", remedy="Add --save FILE.")
    form = Form.JSON if given.json else Form.CSV if given.csv else Form.TABLE
    return Showing(form=form, save=given.save, shown=Shown(given.show), recursive=given.recursive, again=given.again)


def _add_chat(commands: argparse._SubParsersAction[Parser]) -> None:
    text = "Talk to a model, line by line; /help lists what can be said to the program instead."
    chat = commands.add_parser("chat", help=text, description=text, allow_abbrev=False)
    chat.add_argument("model", nargs="?", help="a folder or a Hub id; the bundled checkpoint by default")
    chat.add_argument("-m", "--model", dest="named_model", metavar="MODEL", help="the same")
    chat.add_argument("--system", metavar="TEXT", help="the system message")
    chat.add_argument("--dtype", default="auto", help=DTYPES_HELP)
    chat.add_argument("--quantize", metavar="FORMAT", help=QUANTIZE_HELP)
    chat.add_argument(
        "--history",
        action=argparse.BooleanOptionalAction,
        help="keep the conversation for the next start; at a terminal by default",
    )
    chat.add_argument("--plain", action="store_true", help="show answers as they are, not as Markdown")
    _add_cache(chat)
    _add_writing(chat)
    chat.set_defaults(work=_chat, command=chat)


def _add_cache(command: Parser) -> None:
    words = "how keys and values are kept: auto (as the model computes), int8, int4, bfloat16, float16 or float32"
    command.add_argument("--cache-dtype", metavar="KIND", help=words)


def _add_writing(command: Parser) -> None:
    words = "How the answer is written; the checkpoint's own settings by default."
    writing = command.add_argument_group("writing", words)
    for name, row in SETTINGS.items():
        if row.metavar is not None:
            _add_setting(writing, name, row)
    writing.add_argument("--schema", dest="schema_file", metavar="FILE", help="the answer is JSON of this JSON schema")
    writing.add_argument(
        "--guide",
        dest="guide_file",
        metavar="FILE",
        help="the answer is of this form: a JSON schema, a Lark grammar, else a regular expression",
    )
    writing.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting, such as language=german"
    )


def _add_setting(group: argparse._ArgumentGroup, name: str, row: Setting) -> None:
    flag = f"--{name.replace('_', '-')}"
    more = f" ({LONGEST_ANSWER})" if name == "max_new_tokens" else ""
    if row.metavar == "":
        group.add_argument(flag, action="store_const", const=True, default=argparse.SUPPRESS, help=row.help)
        return
    action = "append" if row.kind is TEXTS else "store"
    # Left out and None are two things: None takes back what the checkpoint's settings say.
    group.add_argument(
        flag, action=action, default=argparse.SUPPRESS, metavar=row.metavar, type=_reader_of(row), help=row.help + more
    )


def _reader_of(row: Setting) -> Callable[[str], object]:
    def read(text: str) -> object:
        value = text if row.kind is TEXTS else value_of(text)
        try:
            if value is not None:
                row.kind.read(value)
        except (ValueError, TypeError, OverflowError):
            raise argparse.ArgumentTypeError(f"expected {row.kind.expected}, found {text!r:.80}") from None
        return value

    return read


LONGEST_ANSWER: Final = 256
"""Tokens of the longest answer, where neither the user nor the checkpoint's own settings say."""


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
    plan.add_argument("--dtype", help=DTYPES_HELP)
    plan.add_argument("--tokens", type=int, metavar="N", help="tokens per row, prompt and answer (4096)")
    plan.add_argument("--rows", type=int, metavar="N", help="rows at once (1)")
    inspect.set_defaults(work=_inspect, command=inspect)


def _add_embed(commands: argparse._SubParsersAction[Parser]) -> None:
    text = "Turn texts into vectors: one for each file, or for each line; JSON lines on standard output."
    embed = commands.add_parser("embed", help=text, description=text, allow_abbrev=False)
    embed.add_argument("files", nargs="*", metavar="FILE", help="text files; '-' or nothing reads standard input")
    embed.add_argument("-m", "--model", required=True, help="a folder or a Hub id of an embedding model")
    embed.add_argument("--lines", action="store_true", help="a vector for each line that is not empty")
    embed.add_argument("--prompt-name", metavar="NAME", help="the model's prompt to put before each text, as 'query'")
    embed.add_argument("--prompt", metavar="TEXT", help="the same itself")
    embed.add_argument("-o", "--output", default="-", metavar="FILE", help="a .jsonl or .npy file; '-' by default")
    embed.add_argument("--dim", type=int, metavar="N", help="keep the first N numbers of each vector")
    embed.add_argument("--normalize", action="store_true", help="make the length of each vector 1")
    embed.add_argument("--batch-size", type=int, default=32, metavar="N", help="texts at once, at most (32)")
    embed.add_argument("--dtype", default="auto", help=DTYPES_HELP)
    embed.set_defaults(work=_embed, command=embed)


def _run(given: argparse.Namespace) -> int:
    from omniform.cli.run import run_command

    sound = given.task is None and given.audio and not given.image and not given.video
    asked = given.task is None and (given.audio or given.image)
    drawn = [
        name for name in ("save", "csv", "recursive", "again") if vars(given)[name] and not (asked and name == "save")
    ]
    if given.format is not None and not sound:
        raise InputError("--format is for what is said in a sound", remedy="Add --audio FILE.")
    if given.task is None and drawn:
        raise InputError(f"--{drawn[0]} is for answers of a task", remedy="Add --task, such as object-detection.")
    if given.task is not None:
        if given.cache_dtype is not None:
            raise InputError("--cache-dtype is for answers, not for a task", remedy="Leave it out.")
        from omniform.cli.task import task_command

        media = [*given.image, *given.video, *given.audio]
        settings = _settings(given)
        return task_command(
            given.task,
            given.text,
            media,
            given.model,
            settings,
            drawing(settings),
            dtype=given.dtype,
            quantize=given.quantize,
            as_json=given.json,
            showing=_showing(given),
        )
    run_command(
        given.text,
        given.image,
        given.audio,
        given.video,
        given.model,
        drawing(_settings(given)),
        dtype=given.dtype,
        quantize=given.quantize,
        as_json=given.json,
        longest=LONGEST_ANSWER,
        form=given.format,
        save=given.save,
        cache_dtype=given.cache_dtype,
    )
    return 0


def _chat(given: argparse.Namespace) -> None:
    from omniform.cli.chat import chat_command

    if given.model is not None and given.named_model is not None:
        raise InputError("two models are named", expected="one", found=f"{given.model} and {given.named_model}")
    name = given.model if given.named_model is None else given.named_model
    settings = _settings(given)
    if not chat_command(
        name,
        settings,
        dtype=given.dtype,
        quantize=given.quantize,
        system=given.system,
        history=given.history,
        markdown=not given.plain,
        cache_dtype=given.cache_dtype,
    ):
        given.command.exit(2)


def _settings(given: argparse.Namespace) -> dict[str, object]:
    """What the options of writing say."""
    said = vars(given)
    settings: dict[str, object] = {name: said[name] for name in SETTINGS if name in said}
    if given.schema_file is not None or given.guide_file is not None:
        from omniform.cli.guide import guide_from

        settings["guide"] = guide_from(given.schema_file, given.guide_file)
    settings.update(read_pair(pair, "--set") for pair in given.set)
    return settings


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


def _embed(given: argparse.Namespace) -> None:
    from omniform.cli.embed import embed_command

    embed_command(
        given.files or ["-"],
        given.model,
        prompt=given.prompt,
        prompt_name=given.prompt_name,
        output=given.output,
        dim=given.dim,
        normalize=given.normalize,
        by_line=given.lines,
        batch_size=given.batch_size,
        dtype=given.dtype,
    )


def _add_eval(commands: argparse._SubParsersAction[Parser]) -> None:
    text = "Evaluate a model on tasks of lm-eval (extra eval); prints a table."
    evaluate = commands.add_parser("eval", help=text, description=text, allow_abbrev=False)
    evaluate.add_argument("model", help="a folder or a Hub id")
    evaluate.add_argument(
        "--tasks", required=True, metavar="A,B",
        help="lm-eval's tasks, or those of --tasks-dir; without a network omniform_choices, _sums and _sentences",
    )  # fmt: skip
    evaluate.add_argument("--limit", type=float, metavar="N", help="so many questions of each task; below 1, a part")
    evaluate.add_argument("--num-fewshot", type=int, metavar="K", help="so many answered questions before each")
    evaluate.add_argument("--tasks-dir", metavar="FOLDER", help="task files of your own, and their data beside them")
    evaluate.add_argument("--metadata", metavar="JSON", help="told to tasks that make up their questions")
    evaluate.add_argument("-o", "--output", metavar="FILE", help="all results as JSON")
    evaluate.add_argument("--apply-chat-template", action="store_true", help="put questions as a conversation")
    evaluate.add_argument("--system", metavar="TEXT", help="the system message of that conversation")
    evaluate.add_argument("--dtype", default="auto", help=DTYPES_HELP)
    evaluate.add_argument("--quantize", metavar="FORMAT", help=QUANTIZE_HELP)
    evaluate.set_defaults(work=_eval, command=evaluate)


def _eval(given: argparse.Namespace) -> None:
    from omniform.cli.evaluate import eval_command

    eval_command(
        given.model,
        given.tasks,
        limit=given.limit,
        num_fewshot=given.num_fewshot,
        tasks_dir=given.tasks_dir,
        output=given.output,
        chat=given.apply_chat_template,
        system=given.system,
        dtype=given.dtype,
        quantize=given.quantize,
        metadata=given.metadata,
    )


def _nothing(commands: Iterable[str], given: argparse.Namespace) -> None:
    raise InputError(
        "there is no command",
        expected=", ".join(commands),
        remedy="See omniform --help.",
    )


def _unknown(command: Parser, rest: Sequence[str]) -> InputError:
    """What is wrong with arguments that a command does not have."""
    first = next((word for word in rest if word.startswith("-")), rest[0]).partition("=")[0]
    if not first.startswith("-"):
        return InputError(f"unexpected argument {first!r:.80}", remedy=f"See {command.prog} --help.")
    close = difflib.get_close_matches(first, re.findall(r"--[a-z-]+", command.format_help()), n=1)
    meant = f"Did you mean {close[0]}? " if close else ""
    return InputError(f"{command.prog} has no option {first!r:.80}", remedy=f"{meant}See {command.prog} --help.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. A mistake of the user's is one line on stderr and code 2; 1 says
    that some of many inputs could not be answered."""
    logging.basicConfig(format="omniform: %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        given, rest = parser().parse_known_args(arguments)
        if rest:
            raise _unknown(given.command, rest)
        with _held(given):
            code = given.work(given)
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
    return code or 0


def _held(given: argparse.Namespace) -> contextlib.AbstractContextManager[object]:
    """The lock that the command is held to."""
    if not vars(given).get("frozen"):
        return contextlib.nullcontext()
    from omniform.hub.lock import frozen

    return frozen()


def entry() -> None:
    """The console script."""
    # A warning is a line like any other, without the place in the code.
    warnings.showwarning = lambda message, *_, **__: logging.getLogger("omniform").warning("%s", message)
    sys.exit(main())
