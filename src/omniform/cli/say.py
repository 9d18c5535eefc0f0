"""``omniform say``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from omniform.cli.main import Parser

DEFAULT: Final = "facebook/mms-tts-eng"
"""What speaks where nobody names a model: a small VITS for English."""


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """The options."""
    text = "Speak a text; the speech is written to a WAV or FLAC file."
    say = commands.add_parser("say", help=text, description=text, allow_abbrev=False)
    say.add_argument("text", nargs="?", help="what to say; '-' or nothing reads standard input")
    say.add_argument("-s", "--save", required=True, metavar="FILE", help="a .wav or .flac file")
    say.add_argument("-m", "--model", help=f"a folder or a Hub id ({DEFAULT})")
    say.add_argument("--vocoder", metavar="MODEL", help="what makes sound of spectra, for models that need it")
    say.add_argument("--speaker", metavar="N", help="who speaks: a number, or a .npy file with a voice's vector")
    say.add_argument("--seed", type=int, default=0, help="of the luck in the speech (0)")
    say.add_argument("--dtype", default="auto", help="float32, bfloat16, float16, or auto: the checkpoint's own")
    say.add_argument("--json", action="store_true", help="print JSON: file, seconds, timings")
    say.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any other input of the model, or setting"
    )
    say.set_defaults(work=work, command=say)


def work(given: argparse.Namespace) -> int:
    """Speak; the exit code."""
    from omniform.cli.speaking import say_command

    return say_command(given)
