"""M2M-100 against the reference: sines that pass over padding, for rows of any length."""

from __future__ import annotations

import pytest
import torch
from harness import Parity, Table, compiled
from safetensors.torch import load_file, save_file
from sided import TINY, UNEVEN, both
from writers import Sources

from omniform.core.errors import ConfigError
from reference import compare, omniform, padded, ragged, saved_reference, transformers


class TestM2M100(Parity):
    table = Table(
        model_type="m2m_100",
        config=transformers.M2M100Config,
        tiny={**TINY, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0},
        heads=both("M2M100"),
        variants={
            "plain": {},
            "unscaled": {"scale_embedding": False, "activation_function": "gelu"},
            "untied": {"tie_word_embeddings": False},
            "uneven": {**UNEVEN, "d_model": 33, "encoder_attention_heads": 3, "decoder_attention_heads": 3},
            "padding far off": {"pad_token_id": 20, "max_position_embeddings": 30},
            "forced": {"forced_bos_token_id": 7, "forced_eos_token_id": 9, "decoder_start_token_id": 5},
        },
        writes=("Writer", Sources()),
        writing=["plain", "unscaled", "untied", "uneven", "forced"],
        scale=0.5,
        spellings={"compiled": compiled},
    )


def pair(tmp_path, **changes):
    config = transformers.M2M100Config(**{**TINY, "pad_token_id": 1, **changes})
    theirs = saved_reference(transformers.M2M100ForConditionalGeneration, config, tmp_path / "model", scale=0.5)
    return omniform.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model"), theirs


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_stands_nowhere(tmp_path, side):
    """In front, behind and in the midst, seen or not, on both sides."""
    ours, theirs = pair(tmp_path)
    ids, mask = padded(ragged(97, [12, 7, 2]), pad=1, side=side)
    ids[0, 5] = 1
    states = ["encoder_last_hidden_state", "logits"]
    compare(ours, theirs, {"input_ids": ids, "decoder_input_ids": ids}, states)
    compare(ours, theirs, {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids.flip(1)}, states)


def test_rows_longer_than_the_config_says(tmp_path):
    ours, theirs = pair(tmp_path, max_position_embeddings=10)
    ids = torch.stack(ragged(97, [80, 80]))
    compare(ours, theirs, {"input_ids": ids, "decoder_input_ids": ids}, ["logits"])
    settings = {"num_beams": 3, "forced_bos_token_id": 7, "max_new_tokens": 40, "min_new_tokens": 40}
    assert ours.generate(ids, **settings).tolist() == theirs.generate(ids, **settings).tolist()


def test_pieces_count_on(tmp_path):
    ours, theirs = pair(tmp_path)
    ids = torch.stack(ragged(97, [9, 9]))
    whole = ours(ids, decoder_input_ids=ids)
    first = ours(ids, decoder_input_ids=ids[:, :4])
    rest = ours(ids, decoder_input_ids=ids[:, 4:], past_key_values=first.past_key_values)
    assert torch.allclose(rest.logits, whole.logits[:, 4:], atol=1e-4)
    vectors = torch.randn(2, 5, 32)
    compare(ours, theirs, {"inputs_embeds": vectors, "decoder_inputs_embeds": vectors}, ["logits"])


@pytest.mark.parametrize("change", [{"pad_token_id": None}, {"d_model": 2, "encoder_attention_heads": 1}])
def test_bad_configs(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        omniform.AutoConfig.for_model("m2m_100", **{**TINY, "decoder_attention_heads": 2, **change})


def test_old_files_hold_tables_of_sines(tmp_path):
    """And the one table of tokens under each of its names; nothing of it is missed or strange."""
    _, theirs = pair(tmp_path)
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    for side in ("encoder", "decoder"):
        tensors[f"model.{side}.embed_positions.weights"] = torch.randn(62, 32)
        tensors[f"model.{side}.embed_tokens.weight"] = tensors["model.shared.weight"].clone()
    tensors["lm_head.weight"] = tensors["model.shared.weight"].clone()
    save_file(tensors, file, {"format": "pt"})
    again, report = omniform.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report.fresh and not report.unexpected and not report.unused
    ids = torch.stack(ragged(97, [9, 9]))
    compare(again, theirs, {"input_ids": ids, "decoder_input_ids": ids}, ["logits"])
