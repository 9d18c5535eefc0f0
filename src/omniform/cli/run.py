"""``omniform run``."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from omniform.architectures.generative import Generative
from omniform.architectures.model import Model
from omniform.cli.listening import Telling, listen_command, listens
from omniform.cli.loading import opened
from omniform.cli.looking import look_target, save_looks
from omniform.core.coded import coding_of
from omniform.core.errors import InputError, RepoError
from omniform.core.generation import as_settings
from omniform.engine.ask import Answer, ask
from omniform.engine.calls import Reader
from omniform.hub.bundled import bundled_checkpoint


def run_command(
    text: str | None,
    images: list[str],
    audio: list[str],
    videos: list[str],
    name: str | None,
    settings: dict[str, object],
    *,
    dtype: str,
    quantize: str | None = None,
    as_json: bool,
    longest: int,
    form: str | None = None,
    save: str | None = None,
    cache_dtype: str | None = None,
) -> None:
    """Load, ask, print; an answer has ``longest`` tokens at most, where no settings say otherwise.

    Args:
        quantize: what weights become as they are loaded.
        form: how a sound is written down.
        save: where to, or what its picture is drawn into; about a picture, a drawing of where the model looked.
        cache_dtype: how keys and values are kept.
    """
    coding_of(cache_dtype)  # a mistake is told before anybody waits
    for path in (*images, *audio, *videos):
        if path != "-" or path in images:
            _check_file(path)
    question = question_of(text, needed=not audio)
    drawn = look_target(save, images) if save is not None and (images or videos) else None
    telling = Telling.of(form, save, as_json=as_json) if audio and not images and not videos else None
    # Sound alone is written down; whatever else there is, is asked about.
    chosen = bundled_checkpoint("audio" if telling and not question else None) if name is None else name
    started = time.perf_counter()
    model, reader = opened(chosen, dtype=dtype, quantize=quantize)
    loaded = time.perf_counter() - started
    if telling is not None and not question and listens(model):
        if cache_dtype is not None:
            raise InputError("what is said in a sound is written down without", where="--cache-dtype")
        if len(audio) > 1:
            raise InputError("one sound at a time", where="--audio", found=len(audio))
        if name is None:
            _tell_default(chosen)
        source = sys.stdin.buffer.read() if audio[0] == "-" else audio[0]
        listen_command(model, reader, source, settings, telling, name=str(chosen), load_seconds=loaded)
        return
    if telling is not None and (form or save) and drawn is None:
        raise InputError("this model answers, and writes nothing down", where="--format" if form else "--save",
                         found=model.origin.architecture.name)  # fmt: skip
    own = as_settings(model.generation_config).get("max_new_tokens")
    if own is None and not {"max_new_tokens", "max_length"} & settings.keys():
        settings = {**settings, "max_new_tokens": longest}
    answer = Answer()
    sounds = [sys.stdin.buffer.read() if path == "-" else path for path in audio]
    pieces = ask(
        model,
        reader,
        answer,
        text=question,
        images=images,
        audio=sounds,
        videos=videos,
        settings=settings,
        cache_dtype=cache_dtype,
    )
    begun = next(pieces, "")  # a mistake is told by now, in its one line
    if name is None:
        _tell_default(chosen)
    pieces = itertools.chain((begun,), pieces)
    if as_json:
        for _ in pieces:
            pass
        print(json.dumps(_record(chosen, model, answer, loaded), ensure_ascii=False))
        _draw(model, reader, answer, images, drawn)
        return
    first = True
    for piece in pieces:
        # Most tokenizers begin an answer with the space that parts it from the prompt.
        print(piece.lstrip() if first else piece, end="", flush=True)
        first = first and not piece.strip()
    print()
    _draw(model, reader, answer, images, drawn)


def _draw(model: Model, reader: Reader, answer: Answer, images: Sequence[str], target: Path | None) -> None:
    if target is not None and answer.token_ids:
        save_looks(cast(Generative, model), reader, answer.inputs, answer.token_ids, images[0], target)


def _tell_default(chosen: str | os.PathLike[str]) -> None:
    named = os.path.basename(chosen)
    print(f"omniform: no --model: {named} answers, which comes with omniform", file=sys.stderr, flush=True)


def _record(name: object, model: Model, answer: Answer, loaded: float) -> dict[str, object]:
    decoding = answer.seconds["total"] - answer.seconds.get("first_token", 0.0)
    return {
        "answer": answer.text.strip(),
        "model": str(name),
        "architecture": model.origin.architecture.name,
        "tokens": {"prompt": answer.prompt_tokens, "answer": answer.tokens},
        "timings": {
            "load_s": round(loaded, 4),
            **{f"{name}_s": round(seconds, 4) for name, seconds in answer.seconds.items()},
            "tokens_per_s": round((answer.tokens - 1) / decoding, 1) if answer.tokens > 1 and decoding > 0 else None,
        },
    }


def _check_file(path: str) -> None:
    there = os.path.expanduser(path)
    if "://" in path or path.startswith("data:") or os.path.isfile(there):
        return
    if os.path.isdir(there):
        raise RepoError("this is no file", where=path, found="a folder")
    raise RepoError("no such file", where=path)


def question_of(text: str | None, *, needed: bool) -> str:
    """The text that was given, or what standard input holds.

    Raises:
        InputError: there is none, and one is needed.
    """
    if text is not None and text != "-":
        return text
    if text == "-" or (needed and not sys.stdin.isatty()):
        try:
            return sys.stdin.read().strip()
        except UnicodeDecodeError:
            raise InputError("standard input is not UTF-8 text", where="stdin") from None
    if needed:
        raise InputError("there is no question", where="--text", remedy="Pass --text '...' or pipe text in.")
    return ""
