"""Sounds as files that clients ask for."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import numpy.typing as npt
import torch

from omniform.inputs.audio.write import save_audio
from omniform.serve.errors import APIError

if TYPE_CHECKING:
    from av.audio.stream import AudioStream

MEDIA_TYPES: Final = {
    "wav": "audio/wav", "flac": "audio/flac", "pcm": "audio/pcm", "mp3": "audio/mpeg", "opus": "audio/ogg",
    "aac": "audio/aac",
}  # fmt: skip
"""What files are called over HTTP, by their forms."""

_CODECS: Final = {
    "mp3": ("mp3", "libmp3lame", 44_100),
    "opus": ("ogg", "libopus", 48_000),
    "aac": ("adts", "aac", 48_000),
}
"""Containers, codecs and a rate that the codec knows, of those that PyAV writes."""

Samples = npt.NDArray[np.float32]


def file_of(samples: Samples, rate: int, form: str) -> bytes:
    """A sound as a file; ``pcm`` is samples of 16 bits, the lowest byte first, and nothing else.

    Args:
        samples: between -1 and 1. Shape: [samples], or [channels, samples].

    Raises:
        APIError: this machine cannot write such files.
    """
    if form in ("wav", "flac"):
        out = io.BytesIO()
        save_audio(torch.from_numpy(samples), out, rate, form)  # type: ignore[arg-type]
        return out.getvalue()
    whole = (np.clip(np.atleast_2d(samples), -1, 1) * 32767).round().astype("<i2")
    return whole.T.tobytes() if form == "pcm" else _compressed(np.ascontiguousarray(whole), rate, form)


def _compressed(samples: npt.NDArray[np.int16], rate: int, form: str) -> bytes:
    container, codec, known = _CODECS[form]
    layout = "mono" if len(samples) == 1 else "stereo"
    try:
        import av

        out = io.BytesIO()
        with av.open(out, "w", format=container) as file:
            stream = cast("AudioStream", file.add_stream(codec, rate=known, layout=layout))
            frame = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1), format="s16", layout=layout)
            frame.sample_rate = rate
            resampler = av.AudioResampler(format=stream.format, layout=layout, rate=known)
            fifo = av.AudioFifo()
            for piece in (*resampler.resample(frame), *resampler.resample(None)):
                piece.pts = None
                fifo.write(piece)
            size = stream.frame_size or 1024
            while (part := fifo.read(size) or fifo.read(0, partial=True)) is not None:
                file.mux(stream.encode(part))
            file.mux(stream.encode(None))
        return out.getvalue()
    except (ImportError, ValueError, OSError) as error:
        raise APIError(
            400, f"response_format: this server cannot write {form}; it writes wav, flac and pcm",
            param="response_format", code="unsupported_value",
        ) from error  # fmt: skip
