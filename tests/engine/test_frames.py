"""The way from ``generate`` to ``attend`` stays short, for text and for pictures."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import pytest
import torch

import omniform
from omniform.blocks import attention

TEXT = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip
LLAVA = {
    "text_config": {"model_type": "llama", **TEXT}, "image_token_index": 5, "vision_feature_layer": -1,
    "vision_config": {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 16,
                      "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 8},
}  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "config", "inputs"),
    [
        ("llama", TEXT, {"input_ids": torch.tensor([[3, 4]])}),
        ("llava", LLAVA, {"input_ids": torch.tensor([[3, 5, 4]]), "pixel_values": torch.zeros(1, 3, 8, 8)}),
    ],
)
def test_at_most_eight_frames_from_generate_to_attend(monkeypatch, model_type, config, inputs):
    auto = omniform.AutoModelForCausalLM if model_type == "llama" else omniform.AutoModelForImageTextToText
    model = auto.from_config(omniform.AutoConfig.for_model(model_type, **config))
    ours = str(Path(omniform.__file__).parent)
    stacks = []
    real = attention.attend

    def spy(*args, **kwargs):
        frames = traceback.extract_stack(sys._getframe(1))
        stacks.append([*(f.name for f in frames if f.filename.startswith(ours)), "attend"])
        return real(*args, **kwargs)

    monkeypatch.setattr(attention, "attend", spy)
    model.generate(**inputs, max_new_tokens=2)
    last = stacks[-1]
    # nn.Module's own frames are torch's; Model.generate is the door to the engine.
    way = last[last.index("generate", 1) if last[0] == "generate" else 0 :]
    assert len(way) <= 8, way
    assert way[0] == "generate" and way[-1] == "attend"
