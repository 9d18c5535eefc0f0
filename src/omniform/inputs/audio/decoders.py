"""Sound files, decoded block by block: libsndfile first, and PyAV (FFmpeg) for what that does not read.

Files come from strangers. PyAV opens them as streams of bytes, never by name, with a list of containers (a playlist
could name other files, or addresses). Memory follows the sound, not what its header claims.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast

import torch
from torch import Tensor

from omniform.core.errors import DependencyError, InputError
from omniform.inputs.audio.samples import check_rate, full_scale

if TYPE_CHECKING:
    import soundfile
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

MAX_CHANNELS: Final = 64
_BLOCK: Final = 1 << 13
"""Samples that are decoded at a time: what is lost where a file breaks off inside a block."""

AV_FORMATS: Final = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,aac,amr,ac3,eac3,dts,wv,ape,tta,tak,caf,wav,w64,"
    "aiff,au,mp3,flac,dsf,mxf,nut,oma,mpc,mpc8,rm,loas"
)
"""Containers that PyAV may read, by FFmpeg's names."""

_AV_SLACK: Final = 4096
"""By how many samples a compressed file may be shorter than it says: the encoder's delay, which players leave out."""

_UNKNOWN: Final = 0x7FFF0000
"""Sizes in headers from here on are what programs write that do not know the length yet."""


class Decoder(ABC):
    """A sound that is decoded from its beginning on.

    Attributes:
        where: what to call it in messages.
        rate: samples per second. That of microphone blocks with rates of their own is known once one has come.
        frames: samples of one channel that should come; None where nothing says it.
        declared: as many by the header, which may speak of more than the file holds.
        again: whether it can be decoded once more.
        broken: whether it ended where it should not have.
    """

    where: str
    rate: int
    frames: int | None = None
    declared: int | None = None
    again: bool = True
    broken: bool = False

    @abstractmethod
    def read(self) -> Tensor | None:
        """The next samples, or None at the end. Shape: ``[samples, channels]``, float32."""

    def start(self, sample: int) -> int:
        """Go to a sample, or to the nearest place before it from which decoding gives the same numbers; say where."""
        raise InputError(
            "this sound comes only once",
            where=self.where,
            found="an iterator of blocks",
            remedy="Read it in order, or collect the blocks first.",
        )

    def close(self) -> None:  # noqa: B027 (most have nothing to close)
        """Let go of the file."""

    def cut_at(self, decoded: int) -> bool:
        """Whether a sound that ended after so many samples should have gone on."""
        return self.broken or (self.declared is not None and decoded < self.declared)


def open_decoder(file: Path | BinaryIO, where: str) -> Decoder:
    """Open an encoded sound with whichever library reads it.

    Args:
        file: a path, or an open file with a way back to its beginning.
        where: what to call it in messages.

    Raises:
        InputError: neither reads it, or it has too many channels.
        DependencyError: soundfile is not installed.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise missing("soundfile", "to read sound files", error) from error
    try:
        return SoundFileDecoder(file, where)
    # soundfile reports a file it cannot read by a RuntimeError, and one without a header (.raw) by a TypeError.
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        # Its own message begins with what was opened, which tells of bytes no more than where they lie.
        said = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
        found = said[:200].rstrip(".")
    remedy: str | None = "Convert it first, for example: ffmpeg -i FILE out.wav"
    try:
        return AvDecoder(file, where)
    except DependencyError as error:
        remedy = error.remedy
    except InputError as error:
        if error.found is not None:
            raise
    raise InputError(
        "this is no sound that can be read",
        where=where,
        expected="WAV, FLAC, OGG, MP3, AIFF or another format of libsndfile's; M4A, MP4, WebM or another of FFmpeg's",
        found=found,
        remedy=remedy,
    )


class SoundFileDecoder(Decoder):
    """What libsndfile reads.

    Raises:
        RuntimeError, TypeError, ValueError, OSError: soundfile's own, where it does not read the file.
        InputError: too many channels, or an absurd rate.
    """

    def __init__(self, file: Path | BinaryIO, where: str) -> None:
        self.where, self._file = where, file
        self._sound = self._opened()
        check_channels(where, int(self._sound.channels))
        self.rate = check_rate(where, int(self._sound.samplerate))
        self.declared, self._unended = self._declared()
        self.frames = None if self.declared is None else int(self._sound.frames)
        self._came = 0

    def _opened(self) -> soundfile.SoundFile:
        import soundfile

        class Forward(soundfile.SoundFile):  # type: ignore[misc]
            """One that does not seek to where it stands after every read: MP3's decoder then loses what it has."""

            def seekable(self) -> bool:
                return False

        if isinstance(self._file, Path):
            return Forward(str(self._file))
        self._file.seek(0)
        return Forward(self._file)

    def read(self) -> Tensor | None:
        try:
            block = self._sound.read(_BLOCK, dtype="float32", always_2d=True)
        except (RuntimeError, OSError):
            if not self._came:
                raise InputError(
                    "this is no sound that can be read",
                    where=self.where,
                    found="damaged from its first samples on",
                    remedy="Convert it first, for example: ffmpeg -i FILE out.wav",
                ) from None
            self.broken = True
            return None
        self._came += block.shape[0]
        self.broken = self.broken or (not block.shape[0] and self._unended)
        return torch.from_numpy(block) if block.shape[0] else None

    def start(self, sample: int) -> int:
        self.broken = False
        if self._sound.subtype.startswith(("PCM", "FLOAT", "DOUBLE", "ULAW", "ALAW")):
            try:
                return int(self._sound.seek(min(sample, int(self._sound.frames))))
            except (RuntimeError, OSError):  # cut files
                pass
        # What the decoder of a compressed sound says after a seek depends on where it began.
        self._sound.close()
        self._sound = self._opened()
        return 0

    def close(self) -> None:
        self._sound.close()

    def _declared(self) -> tuple[int | None, bool]:
        """The samples that the header speaks of, and whether the file lacks its end without saying how much that is.

        libsndfile believes the size of the file, and writes the difference into its log only.
        """
        frames, log = int(self._sound.frames), str(self._sound.extra_info)
        if frames >= 1 << 62:
            return None, False
        for pattern in _SIZES:
            found = pattern.search(log)
            if found is not None:
                said, there = int(found[1]), int(found[2])
                width = _WIDTHS.get(str(self._sound.subtype))
                if width is None or not there < said < _UNKNOWN:
                    return frames, False
                return frames + math.ceil((said - there) / (width * int(self._sound.channels))), False
        counts = _COUNTS.search(log)
        if counts is not None:
            return max(frames, int(counts[1] or counts[2])), False
        return frames, "lacks an end-of-stream bit" in log


# What libsndfile's log says of WAV, AIFF, AU and W64, where less is there than the header speaks of.
_SIZES: Final = (
    re.compile(r"^ ?(?:data|SSND) : (\d+) \(should be (\d+)\)", re.MULTILINE),
    re.compile(r"^ *Data Size +: (\d+) \(should be (\d+)\)", re.MULTILINE),
    re.compile(r"^riff : (\d+) \(should be (\d+)\)", re.MULTILINE),
)
_WIDTHS: Final = {
    "PCM_S8": 1, "PCM_U8": 1, "ULAW": 1, "ALAW": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8
}  # fmt: skip
"""Bytes of a sample, by libsndfile's names."""

_COUNTS: Final = re.compile(
    r"does not match value from 'ds64' chunk of (\d+)|Frame count read from 'COMM' chunk \((\d+)\) not equal"
)


class AvDecoder(Decoder):
    """What FFmpeg reads, through PyAV. Packets that are damaged are left out.

    Raises:
        InputError: FFmpeg finds no sound in it, or it has too many channels.
        DependencyError: PyAV is not installed.
    """

    def __init__(self, file: Path | BinaryIO, where: str) -> None:
        self.where, self._file = where, file
        self._own: BinaryIO | None = None
        self._container: InputContainer | None = None
        try:
            first = self._opened()
            self._first: AudioFrame | None = first
            self.rate = check_rate(where, int(first.sample_rate))
            self.channels = len(first.layout.channels)
            check_channels(where, self.channels)
        except InputError:
            self.close()
            raise
        self.frames = self.declared = self._declared()

    def _opened(self) -> AudioFrame:
        """The first frame of the best stream of sound."""
        try:
            import av
        except ImportError as error:
            raise DependencyError(
                "PyAV is needed to read this sound",
                where=self.where,
                found=str(error),
                remedy="Install PyAV, which reads more formats: pip install 'omniform[video]'",
            ) from error
        try:
            if isinstance(self._file, Path):
                self._own = self._file.open("rb")
            file = self._own or cast("BinaryIO", self._file)
            file.seek(0)
            self._container = av.open(
                file, mode="r", options={"format_whitelist": AV_FORMATS}, metadata_errors="ignore"
            )
            stream = self._container.streams.best("audio")
            if stream is not None:
                self._frames = _frames(self._container, cast("AudioStream", stream))
                first = next(self._frames, None)
                if first is not None:
                    return first
        except (av.FFmpegError, OSError, ValueError, MemoryError, UnicodeError):
            pass
        raise InputError("this is no sound that can be read", where=self.where)

    def read(self) -> Tensor | None:
        frame, self._first = self._first or next(self._frames, None), None
        if frame is None:
            return None
        if frame.sample_rate != self.rate or len(frame.layout.channels) != self.channels:
            raise InputError(
                "the sound changes on the way",
                where=self.where,
                expected=f"{self.rate} Hz, {self.channels} channels",
                found=f"{frame.sample_rate} Hz, {len(frame.layout.channels)} channels",
                remedy="Convert it first, for example: ffmpeg -i FILE out.wav",
            )
        block = torch.from_numpy(frame.to_ndarray())
        block = block.T if frame.format.is_planar else block.reshape(-1, self.channels)
        return block.double().div(2.0**63).float() if block.dtype == torch.int64 else full_scale(block, self.where)

    def start(self, sample: int) -> int:
        self.close()
        self._first = self._opened()
        return 0

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
        if self._own is not None:
            self._own.close()
        self._container = self._own = None

    def cut_at(self, decoded: int) -> bool:
        return self.declared is not None and decoded < self.declared - _AV_SLACK

    def _declared(self) -> int | None:
        assert self._container is not None
        stream = self._container.streams.best("audio")
        if stream is not None and stream.duration and stream.time_base:
            return round(stream.duration * stream.time_base * self.rate)
        whole = self._container.duration  # in microseconds
        return round(whole * self.rate / 1_000_000) if whole else None


def _frames(container: InputContainer, stream: AudioStream) -> Generator[AudioFrame]:
    import av

    try:
        for packet in container.demux(stream):
            try:
                yield from packet.decode()
            except av.error.InvalidDataError:
                continue
    except (av.FFmpegError, OSError):
        return


def check_channels(where: str, channels: int) -> None:
    """Refuse a number of channels that is none.

    Raises:
        InputError: as said.
    """
    if not 1 <= channels <= MAX_CHANNELS:
        raise InputError("this is no number of channels", where=where, expected=f"1 to {MAX_CHANNELS}", found=channels)


def missing(package: str, why: str, error: Exception) -> DependencyError:
    """The error for a package of the extra that is not there."""
    return DependencyError(
        f"{package} is needed {why}",
        found=str(error),
        remedy="Install it: pip install 'omniform[audio]'.",
    )
