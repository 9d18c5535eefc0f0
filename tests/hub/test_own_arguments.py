"""``from_pretrained`` hands on what the constructor of a model of the user's own takes beside its config."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import omniform


class ArguedConfig(omniform.PreTrainedConfig):
    model_type = "argued"

    def __init__(self, width=4, **kwargs):
        self.width = width
        super().__init__(**kwargs)


class ArguedModel(omniform.PreTrainedModel):
    config_class = ArguedConfig

    def __init__(self, config, add_pool=True, *, depth=1):
        super().__init__(config)
        self.lin = nn.Linear(config.width, config.width)
        self.pool = nn.Linear(config.width, 2) if add_pool else None
        self.depth = depth
        self.post_init()

    def forward(self, x):
        return self.lin(x) * self.depth


def test_they_reach_the_constructor(tmp_path):
    made = ArguedModel(ArguedConfig(), add_pool=False)
    made.save_pretrained(tmp_path)
    loaded = ArguedModel.from_pretrained(tmp_path, add_pool=False, depth=3, id2label={0: "a"})
    x = torch.ones(1, 4)
    assert loaded.pool is None and loaded.config.num_labels == 1 and torch.equal(loaded(x), made(x) * 3)
    again = ArguedModel.from_pretrained(tmp_path, add_pool=False, width=4)
    assert again.depth == 1 and torch.equal(again(x), made(x))
    with pytest.raises(TypeError, match="add_pol"):
        ArguedModel.from_pretrained(tmp_path, add_pol=False)
    with pytest.raises(ValueError, match=r"pool\.weight"):
        ArguedModel.from_pretrained(tmp_path, depth=2)


def test_a_familys_class_takes_none():
    with pytest.raises(TypeError, match="add_pool"):
        omniform.LlamaForCausalLM.from_pretrained(omniform.bundled_checkpoint(), add_pool=True)
