"""EnCodec (https://arxiv.org/abs/2210.13438): sounds as codes of a few kilobits per second."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from omniform.architectures.codec import Chunks, Codec
from omniform.architectures.codec_family import read_net, read_size
from omniform.architectures.family import Builder
from omniform.blocks.codebooks import Residuals
from omniform.blocks.seanet import LSTMOver, Memories, SeaNetSpec
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap

NORMS: Mapping[str, Literal["weight", "group"]] = {"weight_norm": "weight", "time_group_norm": "group"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What an EnCodec computes.

    Attributes:
        lstms: layers of the LSTM between convolutions and frames.
        size: entries of a codebook, ``width`` numbers each.
        stages: how many codebooks each bandwidth takes, by kilobits per second.
        total: how many there are.
    """

    net: SeaNetSpec
    lstms: int
    size: int
    width: int
    stages: dict[float, int]
    total: int
    chunks: Chunks
    normalizes: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    norm = r.choice("norm_type", tuple(NORMS), "weight_norm")
    net, rate = read_net(r, norm=NORMS[norm]), r.integer("sampling_rate", 24_000)
    size, width = read_size(r, 1024), r.maybe_integer("codebook_dim")
    if width not in (None, net.dim):
        raise r.fail("codebook_dim", f"{net.dim}, the width of a frame (hidden_size)", width)
    bandwidths = r.numbers("target_bandwidths", (1.5, 3.0, 6.0, 12.0, 24.0))
    if not bandwidths or min(bandwidths) <= 0:
        raise r.fail("target_bandwidths", "at least one, each above 0", list(bandwidths))
    frame_rate, bits = math.ceil(rate / net.hop), int(math.log2(size))
    total = int(1000 * bandwidths[-1] // (frame_rate * bits))
    if not total:
        raise r.fail("target_bandwidths", f"a last one of {frame_rate * bits / 1000} or more", list(bandwidths))
    facts = {"hop_length": net.hop, "frame_rate": frame_rate, "codebook_nbits": bits, "num_quantizers": total}
    r.values.update(facts, codebook_dim=net.dim)
    return Config(
        net=net,
        lstms=r.integer("num_lstm_layers", 2),
        size=size,
        width=net.dim,
        stages={b: min(max(1, math.floor(b * 1000 / (bits * frame_rate))), total) for b in bandwidths},
        total=total,
        chunks=read_chunks(r, rate, net.hop),
        normalizes=r.flag("normalize", False),
    )


def read_chunks(r: ConfigReader, rate: int, hop: int) -> Chunks:
    """How sounds are cut."""
    seconds, overlap = r.maybe_number("chunk_length_s"), r.maybe_number("overlap")
    if seconds is None:
        r.values.update(chunk_length=None, chunk_stride=None)
        return Chunks(length=None, stride=None, frame=hop)
    length = int(seconds * rate)
    if length < 1:
        raise r.fail("chunk_length_s", f"at least one sample, {1 / rate}", seconds)
    if overlap is None or not 0 <= overlap < 1:
        raise r.fail("overlap", "from 0 to below 1, as chunk_length_s is given", overlap)
    stride = max(1, int((1.0 - overlap) * length))
    r.values.update(chunk_length=length, chunk_stride=stride)
    return Chunks(length=length, stride=stride, frame=hop)


def build(c: Config) -> Codec:
    """The codec."""

    def lstm() -> list[nn.Module]:
        return [LSTMOver(lstm=Memories(c.net.width, c.net.width, c.lstms))]

    return Codec(
        encoder=c.net.encoder(lstm()),
        decoder=c.net.decoder(lstm()),
        quantizer=Residuals.of(c.total, c.size, c.width),
        chunks=c.chunks,
        normalizes=c.normalizes,
        channels=c.net.channels,
        stages=c.stages,
    )


FAMILY = (
    Builder("encodec", read, KeyMap({}), prefix="encodec")
    .public(
        config="EncodecConfig",
        feature_extractor="EncodecFeatureExtractor",
        row="sounds as codes and back",
    )
    .base("EncodecModel", build, "audio-tokenization")
    .done()
)
