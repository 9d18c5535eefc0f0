"""MPNet against the reference: distances in buckets, positions counted from the padding token."""

from __future__ import annotations

import pytest
import torch
from askers import Choices, Labels, Nothing, Rows, Text, Words
from harness import Head, Parity, Table, bare, classifiers, compiled, gamma

from omniform.core.errors import ConfigError
from reference import compare, omniform, padded, ragged, saved_reference, transformers

TINY = {
    "vocab_size": 97, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 3,
    "max_position_embeddings": 60,
}  # fmt: skip


def head(name: str, labels: Labels, **options: object) -> Head:
    return Head(f"MPNet{name}", f"Auto{name.replace('For', 'ModelFor')}", Text(labels), **options)


class TestMPNet(Parity):
    table = Table(
        model_type="mpnet",
        config=transformers.MPNetConfig,
        tiny=TINY,
        heads={
            "Model": head("Model", Nothing(("last_hidden_state", "pooler_output")), everywhere=True),
            "ForMaskedLM": head("ForMaskedLM", Words(), everywhere=True),
            **classifiers("MPNet"),
            "ForMultipleChoice": Head(
                "MPNetForMultipleChoice", "AutoModelForMultipleChoice", Choices(Rows(torch.tensor([1, 0]), {}))
            ),
        },
        variants={
            "plain": {},
            "a table of more": {"relative_attention_num_buckets": 40, "hidden_act": "relu", "layer_norm_eps": 1e-2},
            "untied, one layer": {"tie_word_embeddings": False, "num_hidden_layers": 1, "pad_token_id": 7},
        },
        spellings={"bare": bare("mpnet"), "gamma": gamma, "compiled": compiled},
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_distances_and_padding(tmp_path, side):
    """Far apart, as wide as the buckets go; padding is the token of one number, whatever the config says."""
    config = transformers.MPNetConfig(**{**TINY, "max_position_embeddings": 200, "pad_token_id": 0})
    theirs = saved_reference(transformers.MPNetModel, config, tmp_path / "model")
    ours = omniform.AutoModel.from_pretrained(tmp_path / "model")
    assert ours.max_positions == 198
    for pad in (0, 1):
        ids, mask = padded([row.clamp(min=3) for row in ragged(97, [190, 7, 1])], pad=pad, side=side)
        compare(ours, theirs, {"input_ids": ids, "attention_mask": mask}, ["pooler_output"])
        compare(ours, theirs, {"input_ids": ids}, ["last_hidden_state"])


def test_refused():
    for key, value in {"relative_attention_num_buckets": 8, "max_position_embeddings": 2, "is_decoder": True}.items():
        with pytest.raises(ConfigError, match=key):
            omniform.AutoConfig.for_model("mpnet", **{**TINY, key: value})
