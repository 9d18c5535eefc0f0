"""data2vec's encoder of pictures (https://arxiv.org/abs/2202.03555): BEiT's, taught otherwise."""

from __future__ import annotations

from omniform.architectures.beit_family import (
    BEIT_KEYS,
    BLOCKS,
    PYRAMID_KEYS,
    Config,
    beginning,
    block_keys,
    build,
    classifier,
    read_tower,
    segmenter,
)
from omniform.architectures.beit_family import read as read_shared
from omniform.architectures.family import Builder
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    tower, outputs = read_tower(r), r.integers("out_indices", (3, 5, 7, 11), least=1)
    if any(i > tower.layers + 1 for i in outputs) and len(outputs) != 4:
        raise r.fail("out_indices", f"places up to {tower.layers + 1}", list(outputs))
    return read_shared(r, outputs, tower)


# Its classes kept the names of their modules when BEiT's were renamed, so files hold both.
NAMES = ("convolution", "normalization")
HEAD_KEYS = KeyMap(
    {
        **PYRAMID_KEYS,
        **block_keys("decode_head.psp_modules.{i}", "decode_head.psp_modules.blocks.{i}.conv", *NAMES),
        **{ours: theirs for block in BLOCKS for ours, theirs in block_keys(block, block, *NAMES).items()},
        **block_keys("decode_head.bottleneck", "decode_head.psp_bottleneck", *NAMES),
    },
    aliases=(
        (r"^(decode_head\.psp_modules)\.(\d+)\.1\.", r"\1.blocks.\2.conv."),
        (r"^decode_head\.bottleneck\.", "decode_head.psp_bottleneck."),
        (r"^((?:decode|auxiliary)_head\..*)\.bn\.", r"\1.normalization."),
        (r"^((?:decode|auxiliary)_head\..*)\.conv\.weight$", r"\1.convolution.weight"),
    ),
)

FAMILY = (
    Builder("data2vec-vision", read, KeyMap(BEIT_KEYS.rules, ignored=BEIT_KEYS.ignored), prefix="data2vec_vision")
    .public(
        config="Data2VecVisionConfig",
        image_processor="BeitImageProcessor",
        row="image classification, semantic segmentation",
    )
    .begins(beginning)
    .base("Data2VecVisionModel", build)
    .head("Data2VecVisionForImageClassification", "image-classification", classifier)
    .head("Data2VecVisionForSemanticSegmentation", "semantic-segmentation", segmenter, HEAD_KEYS)
    .done()
)
