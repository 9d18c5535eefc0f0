"""CLIP and its towers against the reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from reference import (
    check_round_trip,
    close,
    compare,
    omniform,
    padded,
    ragged,
    saved_reference,
    trains,
    transformers,
    unaccounted,
)
from safetensors.torch import load_file, save_file

from omniform.core.errors import ConfigError, InputError, WeightsError
from omniform.hub.auto import AutoModel

TEXT = {
    "vocab_size": 60, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 16, "eos_token_id": 59, "bos_token_id": 58, "projection_dim": 12,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 20,
    "patch_size": 4, "projection_dim": 12,
}  # fmt: skip

VARIANTS = {
    "plain": {},
    "gelu": {"hidden_act": "gelu", "layer_norm_eps": 1e-2},
    "tanh": {"hidden_act": "gelu_new", "attention_dropout": 0.3},
    "one layer": {"num_hidden_layers": 1},
}
VISION_VARIANTS = {
    **VARIANTS,
    "grey": {"num_channels": 1},
    "cut off": {"image_size": 22},
    "one patch": {"image_size": 4},
}


class WithProjection(AutoModel):
    tasks = ("image-embedding", "text-embedding")


def pair(folder: Path, head: str, config: object, scale: float = 0.2, auto: type = AutoModel):
    theirs = saved_reference(getattr(transformers, head), config, folder, scale=scale)
    return auto.from_pretrained(folder), theirs


def pictures(n: int = 2, channels: int = 3, height: int = 20, width: int = 20) -> torch.Tensor:
    return torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(1))


def texts(lengths=(9, 6, 2), eos: int = 59, side: str = "right") -> dict[str, torch.Tensor]:
    rows = [torch.cat((row, torch.tensor([eos]))) for row in ragged(50, lengths)]
    ids, mask = padded(rows, pad=1, side=side)
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("scale", [0.2, 0.02])
@pytest.mark.parametrize("variant", VISION_VARIANTS)
@pytest.mark.parametrize("head", ["CLIPVisionModel", "CLIPVisionModelWithProjection"])
def test_vision(tmp_path, head, variant, scale):
    config = transformers.CLIPVisionConfig(**{**VISION, **VISION_VARIANTS[variant]})
    auto = WithProjection if "Projection" in head else AutoModel
    ours, theirs = pair(tmp_path / "model", head, config, scale, auto)
    inputs = {"pixel_values": pictures(2, config.num_channels, config.image_size, config.image_size)}
    vector = "image_embeds" if "Projection" in head else "pooler_output"
    compare(ours, theirs, inputs, ["last_hidden_state", vector, "hidden_states", "attentions"])
    compare(ours, theirs, inputs, [vector])
    with torch.no_grad():
        assert ours(**inputs).keys() == list(theirs(**inputs).keys())
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")


@pytest.mark.parametrize("size", [(20, 20), (28, 28), (12, 36), (22, 21), (8, 4)])
def test_other_sizes(tmp_path, size):
    ours, theirs = pair(tmp_path, "CLIPVisionModel", transformers.CLIPVisionConfig(**VISION))
    inputs = {"pixel_values": pictures(2, 3, *size), "interpolate_pos_encoding": True}
    compare(ours, theirs, inputs, ["last_hidden_state", "pooler_output"])


def test_hidden_states_without_the_layers_above(tmp_path):
    ours, theirs = pair(tmp_path, "CLIPVisionModel", transformers.CLIPVisionConfig(**VISION))
    with torch.no_grad():
        expected = theirs(pictures(), output_hidden_states=True).hidden_states
        close(ours.hidden_at(pictures(), [-2, 0, 3, -1]), [expected[i] for i in (-2, 0, 3, -1)])
        ours.layers[2] = torch.nn.Identity()  # would fail if it were called with a context
        close(ours.hidden_at(pictures(), [-2]), [expected[-2]])
        close(ours.hidden_at(pictures(), []), [])
    for outside in (4, -5):
        with pytest.raises(InputError, match="-4 to 3"):
            ours.hidden_at(pictures(), [outside])
