"""Depth Anything against the reference."""

from __future__ import annotations

import pytest
from askers import noise
from harness import Head, Parity, Table
from test_dpt import BEIT, DINO, Sizes

from omniform.core.errors import ConfigError, InputError
from reference import compare, omniform, saved_reference, transformers

TINY = {
    "backbone_config": DINO, "patch_size": 4, "reassemble_hidden_size": 12, "neck_hidden_sizes": [6, 8, 10],
    "reassemble_factors": [4, 1, 0.5], "fusion_hidden_size": 8, "head_hidden_size": 6,
}  # fmt: skip


def config(backbone_config: object = None, **given: object):
    """The reference's."""
    if isinstance(backbone_config, dict):
        backbone_config = transformers.AutoConfig.for_model(**backbone_config)
    return transformers.DepthAnythingConfig(backbone_config=backbone_config, **given)


def head(everywhere: bool = False, sizes=((16, 16), (32, 20), (35, 33)), **changes: object) -> Head:
    asks = Sizes(sizes=sizes, config=changes)
    return Head("DepthAnythingForDepthEstimation", "AutoModelForDepthEstimation", asks, everywhere)


class TestDepthAnything(Parity):
    table = Table(
        model_type="depth_anything",
        config=config,
        config_class=transformers.DepthAnythingConfig,
        tiny=TINY,
        heads={
            "ForDepthEstimation": head(True),
            "beit": head(backbone_config=BEIT, sizes=((16, 16), (24, 36))),
            "gated": head(backbone_config={**DINO, "use_swiglu_ffn": True, "apply_layernorm": False}),
        },
        variants={
            "plain": {},
            "metric": {"depth_estimation_type": "metric", "max_depth": 20},
            "relative, times a number": {"max_depth": 3},
            "another map": {"head_in_index": 1},
            "other factors": {"reassemble_factors": [1, 2, 0.25]},
        },
        derived=frozenset({"backbone_config"}),
    )  # fmt: skip


def pair(folder, **changes: object):
    made = config(**{**TINY, **changes})
    theirs = saved_reference(transformers.DepthAnythingForDepthEstimation, made, folder)
    return omniform.AutoModelForDepthEstimation.from_pretrained(folder), theirs


@pytest.mark.parametrize("size", [(4, 4), (4, 40), (21, 9)])
def test_odd_sizes(tmp_path, size):
    ours, theirs = pair(tmp_path)
    compare(ours, theirs, {"pixel_values": noise(2, 3, *size)}, ["predicted_depth"])


def test_refused(tmp_path):
    ours, _ = pair(tmp_path)
    with pytest.raises(InputError, match="at least 4 pixels"):
        ours(noise(1, 3, 3, 16))
    with pytest.raises(InputError, match="no loss"):
        ours(noise(1, 3, 16, 16), labels=noise(1, 16, 16))
    for change in ({"depth_estimation_type": "exact"}, {"patch_size": [4, 2]}, {"reassemble_factors": [1]}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            omniform.DepthAnythingConfig(**{**TINY, **change})
    with pytest.raises(ConfigError, match="neck_hidden_sizes"):
        omniform.DepthAnythingForDepthEstimation(
            omniform.DepthAnythingConfig(**{**TINY, "backbone_config": {**DINO, "out_indices": [1, 2]}})
        )
