"""What ``omniform say`` does: a text as speech, written to a file."""

from __future__ import annotations

import json
import os
import re
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import numpy.typing as npt

from omniform.cli.loading import progress
from omniform.cli.run import question_of
from omniform.cli.say import DEFAULT
from omniform.cli.settings import read_pair
from omniform.cli.written import target_of
from omniform.core.errors import InputError, RepoError
from omniform.core.seeds import set_seed
from omniform.core.subtitles import readable_clock
from omniform.inputs.audio.write import FORMATS, save_audio

if TYPE_CHECKING:
    from omniform.pipelines.text_to_audio import AudioOutput

Wave = npt.NDArray[np.float32]

AT_ONCE: Final = 300
"""Letters that are spoken in one go, about; longer texts are cut where sentences end."""

PAUSE: Final = 0.25
"""Seconds between such pieces."""


def say_command(given: Namespace) -> int:
    """Load, speak, write; the exit code."""
    target = target_of(given.save, [f".{ending}" for ending in FORMATS], where="--save", what="speech")
    text = question_of(given.text, needed=True)
    pieces = list(sentences(text))
    if not pieces:
        raise InputError("there is nothing to say", where="TEXT", expected="at least one letter", found=repr(text))
    options = {**_speaker(given.speaker), **dict(read_pair(pair, "--set") for pair in given.set)}
    started = time.perf_counter()
    pipe = _pipe(given)
    loaded = time.perf_counter()
    set_seed(given.seed)
    spoken = [cast("AudioOutput", pipe(piece, forward_params=options)) for piece in pieces]
    rate = spoken[0]["sampling_rate"]
    if rate is None:
        raise InputError("the checkpoint does not say its sampling rate", where="config.json: sampling_rate")
    wave = joined([np.asarray(one["audio"], dtype=np.float32) for one in spoken], rate)
    save_audio(wave, target, rate)
    done = time.perf_counter()
    seconds = wave.shape[-1] / rate
    if given.json:
        timings = {"load_s": round(loaded - started, 4), "speak_s": round(done - loaded, 4)}
        record = {"file": str(target), "seconds": round(seconds, 3), "sampling_rate": rate, "timings": timings}
        print(json.dumps(record, ensure_ascii=False))
    else:
        faster = seconds / max(done - loaded, 1e-9)
        print(f"{target}: {readable_clock(seconds)} of speech, {faster:.1f} times as fast as it is heard")
    return 0


def _pipe(given: Namespace) -> Callable[..., object]:
    from omniform.pipelines import pipeline

    name = DEFAULT if given.model is None else given.model
    more = {} if given.vocoder is None else {"vocoder": given.vocoder}
    try:
        with progress(f"loading {name}"):
            return pipeline("text-to-audio", name, dtype=given.dtype, **more)
    except RepoError as error:
        if given.model is not None:
            raise
        raise RepoError(
            "the voice that speaks where none is named is not on this machine, and cannot be fetched",
            where=DEFAULT,
            found=str(error).splitlines()[0][:120],
            remedy="Name another: --model FOLDER (VITS, SpeechT5 and their kin).",
        ) from error


def _speaker(named: str | None) -> Mapping[str, object]:
    """Who speaks, as the model's inputs have it."""
    if named is None:
        return {}
    if named.isdigit():
        return {"speaker_id": int(named)}
    import torch

    path = os.path.expanduser(named)
    if not os.path.isfile(path):
        raise InputError("no such speaker", where="--speaker", expected="a number, or a .npy file", found=named)
    try:
        vector = torch.from_numpy(np.load(path, allow_pickle=False)).float()
    except (ValueError, OSError, TypeError) as error:
        raise InputError(
            "this is no vector of a voice", where=named, expected="numbers, as numpy saves them"
        ) from error
    return {"speaker_embeddings": vector[None] if vector.dim() == 1 else vector}


def sentences(text: str) -> Iterator[str]:
    """A text in pieces that are spoken in one go: whole sentences, as many as fit."""
    held = ""
    for part in re.split(r"(?<=[.!?。！？;\n])\s+", " ".join(text.split(" ")).strip()):
        part = " ".join(part.split())
        if held and len(held) + 1 + len(part) > AT_ONCE:
            yield held
            held = part
        else:
            held = f"{held} {part}".strip()
    if held:
        yield held


def joined(waves: Sequence[Wave], rate: int) -> Wave:
    """Sounds one after another, with pauses between them, along their last axis."""
    pause = np.zeros((*waves[0].shape[:-1], round(PAUSE * rate)), dtype=np.float32)
    pieces = [piece for wave in waves for piece in (pause, wave)][1:]
    return np.concatenate(pieces, axis=-1)
