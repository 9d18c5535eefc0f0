"""The encoders of Qwen's vision-language models against the reference: pictures and films of any sizes in one row."""

from __future__ import annotations

import pytest
import torch
from askers import Given
from harness import Head, Parity, Table
from sighted import GRIDS, patches, shown

from omniform.core.errors import InputError
from reference import omniform, saved_reference, transformers

TINY = {"depth": 2, "hidden_size": 16, "num_heads": 2, "patch_size": 2, "intermediate_size": 24, "out_hidden_size": 12}


def table(model_type, config, reference, tiny, variants):
    return Table(
        model_type=model_type,
        config=config,
        tiny=tiny,
        heads={"Model": Head(reference, "AutoModel", Given(shown), everywhere=True)},
        variants={
            "plain": {},
            "other sizes": {"in_channels": 1, "temporal_patch_size": 1, "spatial_merge_size": 1},
            "other base": {"rope_parameters": {"rope_type": "axial", "rope_theta": 100.0}},
            "other activation": {"hidden_act": "relu", "num_heads": 1},
            **variants,
        },
    )


class TestQwen3VL(Parity):
    table = table(
        "qwen3_vl_vision", transformers.Qwen3VLVisionConfig, "Qwen3VLVisionModel",
        {**TINY, "num_position_embeddings": 25, "deepstack_visual_indexes": [1, 0]},
        {"not square": {"num_position_embeddings": 20}, "no deep stack": {"deepstack_visual_indexes": []}},
    )  # fmt: skip


class TestQwen25VL(Parity):
    table = table(
        "qwen2_5_vl_vision", transformers.Qwen2_5_VLVisionConfig, "Qwen2_5_VisionTransformerPretrainedModel",
        {**TINY, "fullatt_block_indexes": [1]},
        {"other windows": {"window_size": 12, "fullatt_block_indexes": [0]}},
    )  # fmt: skip


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tower")
    config = transformers.Qwen2_5_VLVisionConfig(**TINY, fullatt_block_indexes=[1], window_size=12)
    saved_reference(transformers.Qwen2_5_VisionTransformerPretrainedModel, config, folder)
    return omniform.AutoModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("grids", "count"), [(((1, 3, 4),), 12), (((0, 4, 4),), 0), ((((1, 4),)), 4), (((1, 4, 4),), 15), ("abc", 4)]
)
def test_grids_that_do_not_fit_are_refused(tower, grids, count):
    with pytest.raises(InputError):
        tower(torch.randn(count, 24), grids)


def test_grids_are_numbers_too(tower):
    asked = patches(GRIDS)
    expected = tower(**asked).pooler_output
    assert torch.equal(tower(asked["hidden_states"], [list(g) for g in GRIDS]).pooler_output, expected)
    each = [
        tower(x, (g,)).pooler_output
        for x, g in zip(asked["hidden_states"].split([t * h * w for t, h, w in GRIDS]), GRIDS, strict=True)
    ]
    torch.testing.assert_close(torch.cat(each), expected)


def test_attentions_show_which_patch_saw_which(tower):
    """Shape: [1, heads, patches, patches], zeros beyond a window or a frame."""
    seen = tower(**patches(), output_attentions=True).attentions
    assert [x.shape for x in seen] == [(1, 2, 136, 136)] * 2
    torch.testing.assert_close(seen[1].sum(-1), torch.ones(1, 2, 136))
    within = (seen[0] > 0).sum(-1).max()
    assert within <= 36 < (seen[1] > 0).sum(-1).max()
