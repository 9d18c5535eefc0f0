"""OLMo 3 against the reference: an OLMo 2 with windows, each kind of layer with its rotary settings."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from harness import Parity, Table, bare, compiled, decoder_heads
from safetensors.torch import save_file
from test_llama import LLAMA3, TINY, YARN
from writers import Prompts

from reference import close, omniform, ragged, randomise, transformers

S, F = "sliding_attention", "full_attention"
TINY = {**TINY, "num_key_value_heads": 2, "sliding_window": 4, "layer_types": [S, F, S]}
PLAIN = {"rope_type": "default", "rope_theta": 1e4}


class TestOlmo3(Parity):
    table = Table(
        model_type="olmo3",
        config=transformers.Olmo3Config,
        tiny=TINY,
        heads=decoder_heads("Olmo3", without=["ForQuestionAnswering", "ForTokenClassification"]),
        variants={
            "plain": {},
            "as published": {"rope_parameters": {F: YARN, S: PLAIN}, "num_key_value_heads": None},
            "both stretched": {"rope_parameters": {F: LLAMA3, S: YARN}, "sliding_window": 1, "rms_norm_eps": 1e-2},
            "biases, tied": {"attention_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 1},
            "by pattern": {"layer_types": None, "num_hidden_layers": 4},
        },
        writes=("ForCausalLM", Prompts()),
        writing=["plain", "as published", "by pattern"],
        spellings={"bare": bare("model"), "compiled": compiled},
    )

    def test_files_of_its_first_day(self, tmp_path: Path) -> None:
        """What stands beside the settings is of the layers that see all."""
        stretch = {k: v for k, v in YARN.items() if k != "rope_theta"}
        raw = {**TINY, "rope_theta": 1e3, "rope_scaling": {**stretch, "attention_factor": 1.2}}
        torch.manual_seed(0)
        theirs = transformers.Olmo3Model(transformers.Olmo3Config(**copy.deepcopy(raw))).eval()
        randomise(theirs)
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "olmo3", **raw}))
        save_file(theirs.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
        ours, ids = omniform.AutoModel.from_pretrained(tmp_path), torch.stack(ragged(97, [12, 12]))
        assert not ours.config.unknown
        assert ours.config.rope_parameters == theirs.config.rope_parameters
        with torch.no_grad():
            close(ours(ids).last_hidden_state, theirs(ids).last_hidden_state)
