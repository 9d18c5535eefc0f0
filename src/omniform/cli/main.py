"""The command line: ``omniform run`` and ``omniform inspect``."""

from __future__ import annotations

import logging
import os
import sys

import typer

from omniform.core.errors import OmniformError

app = typer.Typer(
    name="omniform",
    help="Load any Hugging Face checkpoint and run it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def run(
    text: str | None = typer.Option(None, "--text", "-t", help="The question or prompt; '-' or nothing reads stdin."),
    image: list[str] = typer.Option([], "--image", "-i", help="A picture file; may be given several times."),
    audio: list[str] = typer.Option([], "--audio", "-a", help="A sound file."),
    model: str | None = typer.Option(None, "--model", "-m", help="A folder or a Hub id; the bundled one by default."),
    max_new_tokens: int = typer.Option(256, help="The longest answer, in tokens."),
    temperature: float | None = typer.Option(None, help="Draw tokens at this temperature instead of the likeliest."),
    top_p: float | None = typer.Option(None, help="Draw among the likeliest tokens of this probability together."),
    top_k: int | None = typer.Option(None, help="Draw among so many likeliest tokens."),
    seed: int | None = typer.Option(None, help="Make draws reproducible."),
    dtype: str = typer.Option("auto", help="float32, bfloat16, float16, or auto: the checkpoint's own."),
    json: bool = typer.Option(False, "--json", help="Print one JSON object: answer, tokens, timings."),
) -> None:
    """Answer a question about pictures, sound or text; the answer streams to standard output."""
    from omniform.cli.run import run_command

    sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
    settings: dict[str, object] = {name: value for name, value in sampling.items() if value is not None}
    if settings:
        settings["do_sample"] = True
    settings["max_new_tokens"] = max_new_tokens
    run_command(text, image, audio, model, settings, dtype=dtype, as_json=json)


@app.command()
def inspect(
    model: str = typer.Argument(help="A folder or a Hub id."),
    json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Describe a checkpoint from its headers: family, parameters, size per part, dtype, memory."""
    from omniform.cli.inspect import inspect_command

    inspect_command(model, as_json=json)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. A mistake of the user's is one line on stderr and code 2."""
    import click

    logging.basicConfig(format="omniform: %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        code = app(args=arguments, prog_name="omniform", standalone_mode=False)
    except OmniformError as error:
        return _complain(str(error))
    except click.ClickException as error:
        return _complain(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def _complain(message: str) -> int:
    print("omniform: error: " + " ".join(message.split()), file=sys.stderr)
    return 2


def entry() -> None:
    """The console script."""
    sys.exit(main())
