"""What a checkpoint's ``generation_config.json`` holds that nobody knows."""

import json
import logging

import torch

import omniform
from omniform.core.generation import strangers

SIZES = {
    "vocab_size": 30, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip
HELD = {"do_sample": False, "max_new_token": 4, "a_field_of_tomorrow": {"x": [1]}, "transformers_version": "9.0"}


def test_unknown_names_are_kept_and_named_in_one_warning(tmp_path, caplog):
    torch.manual_seed(0)
    config = omniform.AutoConfig.for_model("llama", **SIZES)
    omniform.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "first")
    file = tmp_path / "first" / "generation_config.json"
    file.write_text(json.dumps(HELD))
    with caplog.at_level(logging.WARNING, logger="omniform"):
        model = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "first")
    said = [r.getMessage() for r in caplog.records if "generation_config.json" in r.getMessage()]
    assert len(said) == 1 and "a_field_of_tomorrow" in said[0], said
    assert "max_new_token (did you mean 'max_new_tokens'?)" in said[0]
    assert "do_sample" not in said[0] and "transformers_version" not in said[0]
    model.save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    assert {name: written[name] for name in HELD if name != "transformers_version"} == {
        name: value for name, value in HELD.items() if name != "transformers_version"
    }


def test_what_a_model_calls_its_own_is_no_stranger():
    assert strangers(["lang_to_id", "temperature"]) == ["lang_to_id"]
    assert strangers(["lang_to_id", "temperature"], omniform.WhisperForConditionalGeneration.own_settings) == []
