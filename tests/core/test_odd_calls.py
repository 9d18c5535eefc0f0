"""Odd inputs of a forward: a typed error that says where, never one of torch's."""

from __future__ import annotations

import pytest
import torch

import omniform
from omniform.core.errors import InputError

SIZES = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4}
IDS = torch.tensor([[1, 5], [6, 7]])
KINDS = {
    "llama": ("LlamaForCausalLM", SIZES),
    "bert": ("BertForMaskedLM", SIZES),
    "gpt2": ("GPT2LMHeadModel", {"vocab_size": 61, "n_embd": 16, "n_layer": 1, "n_head": 4}),
}
ODD = {
    "bool": {"input_ids": torch.tensor([[True, False]])},
    "int8": {"input_ids": IDS.to(torch.int8)},
    "uint8": {"input_ids": IDS.to(torch.uint8)},
    "uint64": {"input_ids": IDS.to(torch.uint64)},
    "complex": {"input_ids": torch.tensor([[1j]])},
    "sparse": {"input_ids": IDS.to_sparse()},
    "list": {"input_ids": [[1, 2]]},
    "wide": {"inputs_embeds": torch.zeros(1, 2, 7)},
    "sparse vectors": {"inputs_embeds": torch.zeros(1, 2, 16).to_sparse()},
    "whole vectors": {"inputs_embeds": torch.zeros(1, 2, 16, dtype=torch.long)},
    "mask": {"input_ids": IDS, "attention_mask": "x"},
    "label": {"input_ids": IDS, "labels": torch.tensor([[1, 2], [99, 3]])},
    "negative label": {"input_ids": IDS, "labels": torch.tensor([[1, 2], [-1, 3]])},
    "float labels": {"input_ids": IDS, "labels": IDS.float()},
    "labels of another shape": {"input_ids": IDS, "labels": IDS[:, :1]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_odd_inputs(kind: str) -> None:
    name, sizes = KINDS[kind]
    model = getattr(omniform, name).from_config(omniform.AutoConfig.for_model(kind, **sizes)).eval()
    for what, inputs in ODD.items():
        with pytest.raises(InputError) as caught:
            model(**inputs)
        assert what != "label" or "row 1" in str(caught.value), what
    assert model(input_ids=IDS.int(), labels=torch.tensor([[1, -100], [2, 3]])).loss.isfinite()
