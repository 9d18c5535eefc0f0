"""Video files made by PyAV, whose frames are told apart."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt


def frames(count: int = 20, height: int = 48, width: int = 64, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Soft noise, each frame a little brighter than the one before. Shape: [T, H, W, 3]."""
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, 60, (height // 8, width // 8, 3)).repeat(8, 0).repeat(8, 1)
    return np.stack([noise + number * (180 // count) for number in range(count)]).astype(np.uint8)


def film(
    pictures: npt.NDArray[np.uint8] | None = None,
    kind: str = "mp4",
    codec: str = "mpeg4",
    fps: int = 10,
    pixels: str = "yuv420p",
    **options: str,
) -> bytes:
    """A video file."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind, options=options) as container:
        pictures = frames() if pictures is None else pictures
        stream = container.add_stream(codec, rate=Fraction(fps))
        stream.height, stream.width, stream.pix_fmt = pictures.shape[1], pictures.shape[2], pixels
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def sound() -> bytes:
    """A file without pictures."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        block = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        block.sample_rate = 8000
        container.mux(stream.encode(block))
        container.mux(stream.encode())
    return file.getvalue()
