"""Thirty-two frames of a minute of film: what is decoded for them, beside all of it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from turns import OURS, THEIRS, Contest, in_turns

FRAMES, RATE = 32, 24
KEYED: Mapping[str, int] = {
    "a keyframe each half second": 12,
    "a keyframe each second": 24,
    "a keyframe each 2.5 s": 60,
}
"""How many frames lie between keyframes."""


def films(only: tuple[str, ...], runs: int, tiny: bool) -> dict[str, Contest]:
    """Seconds; ``decoded`` and ``in groups``: frames that were decoded, and those of the groups that the 32 lie in."""
    from transformers.video_utils import load_video as their_load

    from omniform.inputs.videos import decode, load_video

    seconds, side = (6, 64) if tiny else (60, 360)
    wanted = 4 if tiny else FRAMES
    found: dict[str, Contest] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in only or KEYED:
            path = Path(folder) / "film.mp4"
            _write(path, seconds * RATE, side, KEYED[name])
            ways = {
                OURS: lambda path=path: load_video(path, num_frames=wanted),
                THEIRS: lambda path=path: their_load(str(path), num_frames=wanted, backend="pyav"),
            }
            ours, told = ways[OURS]()
            theirs, _ = ways[THEIRS]()
            counted = _decoded(decode, ways[OURS])
            groups = {index // KEYED[name] for index in told.frames_indices}
            facts = {"decoded": counted, "in groups": len(groups) * KEYED[name], "of": seconds * RATE}
            facts["apart"] = float(np.abs(ours.astype(int) - np.asarray(theirs).astype(int)).max())
            found[name] = Contest(in_turns(ways, runs), {THEIRS: 1.0}, facts)
            print(name, found[name].medians, facts, file=sys.stderr, flush=True)
    return found


class _Counting:
    """An open film that counts the frames that are decoded of it."""

    def __init__(self, container, seen: list[int]) -> None:
        self._container, self._seen = container, seen

    def __getattr__(self, name: str):
        return getattr(self._container, name)

    def decode(self, stream):
        for frame in self._container.decode(stream):
            self._seen.append(1)
            yield frame


def _decoded(decode, read) -> int:
    """How many frames are decoded while something is read."""
    seen: list[int] = []
    usual = decode.VideoFile._opened

    @contextmanager
    def opened(self):
        with usual(self) as (container, stream):
            yield _Counting(container, seen), stream

    decode.VideoFile._opened = opened
    try:
        read()
    finally:
        decode.VideoFile._opened = usual
    return len(seen)


def _write(path: Path, frames: int, side: int, keys: int) -> None:
    import av

    luck = np.random.default_rng(0)
    ground = luck.integers(0, 256, (side, side * 16 // 9 // 2 * 2, 3), dtype=np.uint8)
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
