"""What the configs of neural codecs have in common."""

from __future__ import annotations

from typing import Literal, cast

from omniform.blocks.seanet import Ends, SeaNetSpec
from omniform.core.reader import ConfigReader


def read_net(
    r: ConfigReader,
    *,
    norm: Literal["weight", "group", "none"],
    dim: int = 128,
    filters: int = 32,
    ratios: tuple[int, ...] = (8, 5, 4, 2),
    last: int = 7,
    shortcut: bool = True,
    ends: Ends = "reflect",
) -> SeaNetSpec:
    """The convolutions; the arguments are a family's defaults, and how its convolutions are normed."""
    causal, trimmed = r.flag("use_causal_conv", True), r.probability("trim_right_ratio", 1.0)
    if not causal and trimmed != 1.0:
        raise r.fail("trim_right_ratio", "1.0 where convolutions are not causal", trimmed)
    strides = r.integers("upsampling_ratios", ratios, least=1)
    if not strides:
        raise r.fail("upsampling_ratios", "at least one", [])
    return SeaNetSpec(
        channels=r.integer("audio_channels", 1),
        dim=r.integer("hidden_size", dim),
        filters=r.integer("num_filters", filters),
        ratios=strides,
        residuals=r.integer("num_residual_layers", 1, least=0),
        growth=r.integer("dilation_growth_rate", 2),
        compress=r.integer("compress", 2),
        kernel=r.integer("kernel_size", 7),
        last=r.integer("last_kernel_size", last),
        inner=r.integer("residual_kernel_size", 3),
        shortcut=r.flag("use_conv_shortcut", shortcut),
        causal=causal,
        trimmed=trimmed,
        ends=cast(Ends, r.choice("pad_mode", ("reflect", "constant", "replicate"), ends)),
        norm=norm,
    )


def read_size(r: ConfigReader, usual: int) -> int:
    """``codebook_size``, which bits number."""
    size = r.integer("codebook_size", usual, least=2)
    if size & (size - 1):
        raise r.fail("codebook_size", "a power of 2", size)
    return size
