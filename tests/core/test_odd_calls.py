"""Odd inputs of a forward: a typed error that says where, never one of torch's."""

from __future__ import annotations

import numpy as np
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
    "a single label": {"input_ids": IDS, "labels": torch.tensor(3)},
    "sparse labels": {"input_ids": IDS, "labels": IDS.to_sparse()},
    "positions in a list": {"input_ids": IDS, "position_ids": [[0, 1], [0, 1]]},
    "sparse positions": {"input_ids": IDS, "position_ids": IDS.to_sparse()},
    "attention or not": {"input_ids": IDS, "output_attentions": torch.tensor([1, 2])},
    "hidden states or not": {"input_ids": IDS, "output_hidden_states": np.array([1, 2])},
}


WRITERS = {
    "a state that is none": {"past_key_values": 5},
    "pairs": {"past_key_values": ((IDS, IDS),)},
    "a cache or not": {"use_cache": torch.tensor([1, 2])},
    "how many": {"logits_to_keep": 1.5},
    "fewer than none": {"logits_to_keep": -1},
    "none of them": {"logits_to_keep": torch.tensor([0, 99])},
    "parts of them": {"logits_to_keep": torch.tensor([0.5])},
    "a mask of others": {"logits_to_keep": torch.ones(1, 9, dtype=torch.bool)},
}


def test_other_libraries_numbers_and_switches() -> None:
    name, sizes = KINDS["llama"]
    model = getattr(omniform, name).from_config(omniform.AutoConfig.for_model("llama", **sizes)).eval()
    for one in (1, np.int64(1), torch.tensor(1)):
        assert model(IDS, logits_to_keep=one, use_cache=np.True_, output_attentions=1).logits.shape[1] == 1
    assert model(IDS, logits_to_keep=None).logits.shape[1] == IDS.shape[1]


def test_odd_arguments_of_saving_and_training(tmp_path) -> None:
    name, sizes = KINDS["llama"]
    model = getattr(omniform, name).from_config(omniform.AutoConfig.for_model("llama", **sizes))
    model.save_pretrained(tmp_path)
    odd = np.array([1, 2])
    for call in (
        lambda: model.save_pretrained(tmp_path, save_function=5),
        lambda: model.save_pretrained(tmp_path, is_main_process=torch.tensor([1, 2])),
        lambda: model.gradient_checkpointing_enable(5),
        lambda: model.gradient_checkpointing_enable([1]),
        lambda: model.set_attn_implementation(5),
        *(
            lambda key=key: omniform.AutoModelForCausalLM.from_pretrained(tmp_path, **{key: odd})
            for key in ("dtype", "torch_dtype", "key_mapping", "quantization_config", "attn_implementation")
        ),
    ):
        with pytest.raises(omniform.OmniformError):
            call()


@pytest.mark.parametrize("kind", KINDS)
def test_odd_inputs(kind: str) -> None:
    name, sizes = KINDS[kind]
    model = getattr(omniform, name).from_config(omniform.AutoConfig.for_model(kind, **sizes)).eval()
    for what, inputs in ODD.items():
        with pytest.raises(InputError) as caught:
            model(**inputs)
        assert what != "label" or "row 1" in str(caught.value), what
    for what, inputs in WRITERS.items() if kind != "bert" else ():
        with pytest.raises(InputError):
            model(input_ids=IDS, **inputs)
        assert what
    assert model(input_ids=IDS.int(), labels=torch.tensor([[1, -100], [2, 3]])).loss.isfinite()
