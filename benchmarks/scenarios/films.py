"""Some frames of a film: what is decoded for them, beside all of it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from omniform_bench import SECONDS, Scenario, at_least

RATE = 24
ANSWER = 4096


@dataclass(frozen=True, kw_only=True)
class Films(Scenario):
    """Frames, evenly over a film.

    Attributes:
        keys: frames from one keyframe to the next.
        seconds: of the film, of 24 frames each.
        side: rows of a frame; it is 16 to 9.
        frames: that are wanted.
    """

    keys: int = 24
    seconds: int = 60
    side: int = 360
    frames: int = 32
    NEEDS: ClassVar = ("preprocess",)
    GIVES: ClassVar = {"film.latency": SECONDS}

    def check(self) -> None:
        """There is a film."""
        at_least(1, keys=self.keys, seconds=self.seconds, side=self.side, frames=self.frames)

    def begin(self, backend: Any, job: Any) -> Callable[[], dict[str, float]]:
        """Write the film, once for everyone."""
        backend.prepare()
        read = self.reading(backend)

        def sample() -> dict[str, float]:
            started = job.now()
            read()
            return {"film.latency": job.now() - started}

        return sample

    def reading(self, backend: Any) -> Callable[[], Any]:
        """Reads the frames, by what each library reads films with; transformers through PyAV too."""
        path = self.film()
        if backend.options["kind"] == "omniform":
            from omniform.inputs.videos import load_video

            return lambda: load_video(path, num_frames=self.frames)[0]
        from transformers.video_utils import load_video as their_load

        return lambda: their_load(str(path), num_frames=self.frames, backend="pyav")[0]

    def answer(self, backend: Any) -> Sequence[float]:
        """Numbers from all frames."""
        import numpy as np

        flat = np.asarray(self.reading(backend)()).reshape(-1)
        return [float(number) for number in flat[:: max(len(flat) // ANSWER, 1)]]

    def film(self) -> Path:
        """A picture that moves sideways."""
        told = hashlib.sha256(repr((self.keys, self.seconds, self.side)).encode()).hexdigest()[:12]
        path = Path(tempfile.gettempdir()) / f"omniform-film-{told}.mp4"
        if not path.is_file():
            unfinished = path.with_name(f"{path.stem}.{os.getpid()}.mp4")
            write(unfinished, self.seconds * RATE, self.side, self.keys)
            os.replace(unfinished, path)
        return path


def write(path: Path, frames: int, side: int, keys: int) -> None:
    """A film of H.264, whose keyframes are where they are wanted."""
    import av
    import numpy as np

    ground = np.random.default_rng(0).integers(0, 256, (side, side * 16 // 9 // 2 * 2, 3), dtype=np.uint8)
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = ground.shape[1], ground.shape[0], "yuv420p", keys
        stream.options = {"sc_threshold": "0", "preset": "ultrafast"}
        for number in range(frames):
            picture = np.roll(ground, number, axis=1)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                film.mux(packet)
        for packet in stream.encode():
            film.mux(packet)
