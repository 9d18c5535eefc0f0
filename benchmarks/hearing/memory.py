"""What an hour of sound needs beside the model, and when the first words of a stream come."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import wave
from collections.abc import Mapping
from pathlib import Path

from hearing.mels import HOUR, RATE, noise
from turns import OURS, Contest

BENCHMARKS = Path(__file__).parents[1]
ALLOWED = 300.0
"""Megabytes beside the model."""
TINY_SECONDS = 20
KINDS = ("hear", "transcribe")


def peak() -> float:
    """Megabytes that this process held at most since it began."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024


def child(job: Mapping[str, object]) -> dict[str, float]:
    """What one process measures: megabytes ``before`` the sound, after one window of it, and the ``peak``."""
    import torch

    import omniform
    from omniform.engine.hearing.hear import hear

    torch.set_num_threads(1)
    name = str(omniform.bundled_checkpoint("audio"))
    model = omniform.WhisperForConditionalGeneration.from_pretrained(name)
    reader = omniform.AutoProcessor.from_pretrained(name)

    def listen(source: object) -> object:
        if job["kind"] == "transcribe":
            return list(model.transcribe(source, processor=reader))
        return list(hear(model, reader, source, words=True))

    listen((noise(5.0), RATE))
    before = peak()
    listen(str(job["file"]))
    return {"before": before, "peak": peak()}


def write(path: Path, seconds: int) -> None:
    """A file of so many seconds, written minute by minute."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        for first in range(0, seconds, 60):
            samples = noise(min(60, seconds - first), first) * 0.05
            file.writeframes((samples * 32767).astype("<i2").tobytes())


def measured(**job: object) -> dict[str, float]:
    """A job in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "hearing.memory", json.dumps(job)]
    path = os.pathsep.join(filter(None, (str(BENCHMARKS), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{job}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def memory(only: tuple[str, ...], runs: int, tiny: bool) -> dict[str, Contest]:
    """Megabytes that a long file takes beside the model, by each door, and what is allowed."""
    found: dict[str, Contest] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "long.wav"
        write(file, TINY_SECONDS if tiny else HOUR)
        for kind in only or KINDS:
            taken = measured(kind=kind, file=str(file))
            grown = max(taken["peak"] - taken["before"], 0.1)
            found[kind] = Contest({OURS: [grown], "allowed": [ALLOWED]}, {"allowed": 1.0})
    return found


def streams(only: tuple[str, ...], runs: int, tiny: bool) -> dict[str, Contest]:
    """Seconds of sound that a stream has given when its first words come, and two windows of the model."""
    import omniform

    name = omniform.bundled_checkpoint("audio")
    model = omniform.WhisperForConditionalGeneration.from_pretrained(name)
    reader = omniform.AutoProcessor.from_pretrained(name)
    sound = omniform.audio_utils.load_audio(str(BENCHMARKS.parent / "examples/sounds/command.wav"), RATE)
    blocks = (sound[at : at + 1600] for at in range(0, len(sound), 1600))
    first = next(iter(model.transcribe(blocks, processor=reader)))
    window = reader.feature_extractor.n_samples / RATE
    return {"spoken command": Contest({OURS: [first.heard], "two windows": [2 * window]}, {"two windows": 1.0})}


if __name__ == "__main__":
    print(json.dumps(child(json.loads(sys.argv[1]))))
