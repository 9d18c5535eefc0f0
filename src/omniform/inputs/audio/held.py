"""Samples that are in memory, and blocks of them as a microphone gives them, as sources of a recording."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import torch
from torch import Tensor

from omniform.core.errors import InputError, brief
from omniform.inputs.audio.decoders import Decoder, check_channels
from omniform.inputs.audio.samples import check_rate, full_scale, to_tensor

_BLOCK: Final = 1 << 16


def laid_out(samples: Tensor, where: str) -> Tensor:
    """Samples as ``[samples, channels]``, of their own dtype: channels lie along the shorter side.

    Raises:
        InputError: another number of dimensions, or of channels.
    """
    if samples.ndim == 1:
        return samples[:, None]
    if samples.ndim == 2:
        samples = samples if samples.shape[0] >= samples.shape[1] else samples.T
        if samples.numel():
            check_channels(where, samples.shape[1])
        return samples
    raise InputError(
        "a sound has one or two dimensions",
        where=where,
        expected="[samples], [samples, channels] or [channels, samples]",
        found=f"shape {list(samples.shape)}",
    )


def mixed(block: Tensor, channel: int | None, where: str) -> Tensor:
    """One channel of a block, or the mean of all, which numpy takes, as the reference does.

    Args:
        block: Shape: ``[samples, channels]``, float32.
        channel: which one; None for the mean.

    Raises:
        InputError: there is no such channel.
    """
    if block.shape[1] == 1 and not channel:
        return block[:, 0].contiguous()
    if channel is None:
        return torch.from_numpy(np.ascontiguousarray(block.numpy().mean(axis=1)))
    if channel >= block.shape[1]:
        raise InputError(
            "there is no such channel", where=where, expected=f"0 to {block.shape[1] - 1}", found=f"channel={channel}"
        )
    return block[:, channel].contiguous()


class HeldDecoder(Decoder):
    """Samples in memory; integers are scaled block by block.

    Args:
        samples: of any real type. Shape: ``[samples]``, ``[samples, channels]`` or ``[channels, samples]``.
        rate: in Hz.
    """

    def __init__(self, samples: Tensor, rate: int, where: str = "audio") -> None:
        self.where, self.rate = where, rate
        self._samples = laid_out(samples, where)
        self.frames = self.declared = self._samples.shape[0] if samples.numel() else 0
        self._at = 0

    def read(self) -> Tensor | None:
        if self.frames is None or self._at >= self.frames:
            return None
        block = self._samples[self._at : self._at + _BLOCK]
        self._at += block.shape[0]
        return full_scale(block, self.where)

    def start(self, sample: int) -> int:
        self._at = min(sample, self._samples.shape[0])
        return self._at


class BlockDecoder(Decoder):
    """Blocks as they come.

    Args:
        blocks: samples, or mappings with ``raw`` (or ``array``) and ``sampling_rate``, which must stay what it is in
            the first block. The channels of a block are where those of the first one are.
        rate: that of blocks which do not say theirs, in Hz.
    """

    again = False

    def __init__(self, blocks: Iterator[object], rate: int) -> None:
        self.where, self.rate = "audio", rate
        self._blocks, self._number = blocks, -1
        self._shape: tuple[int, int] | None = None
        """Of two-dimensional blocks: which axis is that of the channels, and how many there are."""

    def read(self) -> Tensor | None:
        for block in self._blocks:
            self._number += 1
            self.where = f"block {self._number}"
            samples = to_tensor(self._unwrapped(block), self.where, remedy=_BYTES)
            if samples.numel():
                return full_scale(self._oriented(samples), self.where)
        return None

    def _unwrapped(self, block: object) -> object:
        if not isinstance(block, Mapping):
            return block
        samples = block.get("raw")
        samples = block.get("array") if samples is None else samples
        if samples is None or "sampling_rate" not in block:
            raise InputError(
                "this block holds no sound",
                where=self.where,
                expected="samples, or 'raw' (or 'array') and 'sampling_rate'",
                found=f"keys {brief(sorted(map(str, block)))}",
            )
        rate = check_rate("sampling_rate", block["sampling_rate"])
        if self._number == 0:
            self.rate = rate
        elif rate != self.rate:
            raise InputError(
                "the sampling rate changes on the way",
                where=self.where,
                expected=f"{self.rate} Hz",
                found=f"{rate} Hz",
            )
        return samples

    def _oriented(self, samples: Tensor) -> Tensor:
        if samples.ndim != 2:
            return laid_out(samples, self.where)
        if self._shape is None:
            axis = 1 if samples.shape[0] >= samples.shape[1] else 0
            check_channels(self.where, samples.shape[axis])
            self._shape = axis, samples.shape[axis]
        axis, channels = self._shape
        if samples.shape[axis] != channels:
            raise InputError(
                "the channels change on the way",
                where=self.where,
                expected=f"{channels} channels",
                found=f"shape {list(samples.shape)}",
            )
        return samples if axis == 1 else samples.T


_BYTES: Final = "Bytes of a microphone are read so: np.frombuffer(block, dtype=np.int16)."
