"""Fresh weights: each tensor of each family begins with the reference's distribution, for training from scratch."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from citizens import registered
from reference import omniform, transformers

WIDER = {
    "hidden_size": 32, "intermediate_size": 48, "d_model": 32, "d_ff": 48, "n_embd": 32, "dim": 32, "hidden_dim": 48,
}  # fmt: skip
SAME = {"bert, decoder", "roberta, decoder", "electra, decoder", "xlm-roberta", "camembert", "esm, rows", "umt5, rows"}
"""Models whose fresh weights another shows."""

MEANT = {"vit_mae": ("position_embeddings", "decoder_pos_embed", "projection.weight", "cls_token")}
"""Tensors that the reference says how to begin, and leaves otherwise: fixed positions that are zeros for ever."""


def keys(name: str) -> dict[str, object]:
    """A config without a wish for how weights begin, a factor aside."""
    config = json.loads(json.dumps(dict(registered()[name].config)))
    for key in ("initializer_range", "init_std"):
        config.pop(key, None)
    if not name.startswith(("bridgetower", "layoutlmv3", "clip", "clap", "llava", "mamba", "sam2, Hiera")):
        config |= {key: value for key, value in WIDER.items() if key in config}
    if name.startswith("t5"):
        config["initializer_factor"] = 0.5
    return config


@pytest.mark.parametrize("name", [name for name in registered() if name not in SAME])
def test_every_tensor_begins_as_the_references_does(name, tmp_path):
    theirs = getattr(transformers, registered()[name].architecture)
    ours, config = getattr(omniform, theirs.__name__), theirs.config_class.__name__
    torch.manual_seed(0)
    theirs(getattr(transformers, config)(**keys(name))).save_pretrained(tmp_path / "theirs")
    ours(getattr(omniform, config)(**keys(name))).save_pretrained(tmp_path / "ours")
    expected, found = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    for key in [k for k in expected.keys() & found.keys() if not k.endswith(MEANT.get(name, ("-",)))]:
        wanted, made = (x[key].double().square().mean().sqrt().item() for x in (expected, found))
        spread = max(0.1, 4 / math.sqrt(expected[key].numel()))
        assert abs(wanted - made) <= spread * max(wanted, made) + 1e-6, f"{key}: {made:.4f}, not {wanted:.4f}"


def test_a_tied_table_begins_as_the_table_does():
    model = omniform.ModernBertForMaskedLM(omniform.ModernBertConfig(vocab_size=500, hidden_size=32,
        intermediate_size=48, num_hidden_layers=8, num_attention_heads=4, pad_token_id=0))  # fmt: skip
    assert model.lm_head.decoder.weight is model.model.embed_tokens.weight
    assert 0.015 < float(model.lm_head.decoder.weight.detach().std()) < 0.02
    assert float(model.model.embed_tokens.weight.detach().abs().max()) <= 0.04, "nothing lies beyond the cut"
