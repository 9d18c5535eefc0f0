"""Marian against the reference: sines as positions, two vocabularies or one."""

from __future__ import annotations

import pytest
import torch
from harness import Parity, Table, compiled
from safetensors.torch import load_file, save_file
from sided import TINY, UNEVEN, alone, both
from writers import Sources

from omniform.core.errors import ConfigError
from reference import check_round_trip, close, compare, omniform, padded, ragged, saved_reference, transformers

APART = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 113}


class TestMarian(Parity):
    table = Table(
        model_type="marian",
        config=transformers.MarianConfig,
        tiny=TINY,
        heads={**both("Marian", "MTModel"), **alone("Marian", "apart", "apart, untied")},
        variants={
            "plain": {},
            "scaled": {"scale_embedding": True, "activation_function": "swish"},
            "untied": {"tie_word_embeddings": False, "scale_embedding": True},
            "apart": APART,
            "apart, untied": {**APART, "tie_word_embeddings": False, "scale_embedding": True},
            "uneven": {**UNEVEN, "d_model": 30, "decoder_attention_heads": 3},
            "another start": {"decoder_start_token_id": 3, "pad_token_id": 3, "forced_eos_token_id": 9},
        },
        writes=("Writer", Sources()),
        writing=["plain", "scaled", "apart", "apart, untied", "another start"],
        scale=0.5,
        spellings={"compiled": compiled},
    )


def pair(tmp_path, head="MTModel", auto="AutoModelForSeq2SeqLM", **changes):
    config = transformers.MarianConfig(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"Marian{head}"), config, tmp_path / "model", scale=0.5)
    return getattr(omniform, auto).from_pretrained(tmp_path / "model"), theirs


def rewritten(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({k: t.contiguous() for k, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("dim", [32, 33])
def test_tables_of_sines_are_in_the_file_or_not(tmp_path, dim):
    """A table that is there counts and is written back; one that is not follows from the config and is not written."""
    odd = {"encoder_attention_heads": 3, "decoder_attention_heads": 3} if dim % 2 else {}
    ours, theirs = pair(tmp_path, d_model=dim, max_position_embeddings=1024, **odd)
    folder, ids = tmp_path / "model", torch.stack(ragged(97, [700, 700]))
    assert not any("embed_positions" in key for key in load_file(folder / "model.safetensors"))
    given = {"input_ids": ids, "decoder_input_ids": ids[:, :9]}
    compare(ours, theirs, given, ["logits"], 2e-5)
    check_round_trip(folder, ours, tmp_path / "again")

    def change(tensors):
        tensors["model.encoder.embed_positions.weight"] = torch.randn(1024, dim)
        del tensors["final_logits_bias"]

    rewritten(folder, change)
    again, report = omniform.AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
    assert not report.fresh and not report.unexpected
    check_round_trip(folder, again, tmp_path / "with one")
    compare(again, transformers.MarianMTModel.from_pretrained(folder).eval(), given, ["logits"], 2e-5)
    assert not torch.allclose(again(**given).logits, ours(**given).logits, atol=1e-2)
    half = omniform.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype="bfloat16")
    assert half.model.decoder.embeddings.embed_positions.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("changes", [{}, APART])
def test_translates_as_its_generation_config_says(tmp_path, changes):
    """Beams that may not write padding, which is what they begin with."""
    ours, theirs = pair(tmp_path, **{**changes, "pad_token_id": 3, "decoder_start_token_id": 3})
    ids, mask = padded(ragged(97, [13, 6, 2], low=4), pad=3)
    settings = {"num_beams": 4, "bad_words_ids": [[3]], "max_length": 12, "forced_eos_token_id": 2}
    theirs.final_logits_bias[0, 3] = ours.adjust.bias[0, 3] = 30.0
    expected = theirs.generate(input_ids=ids, attention_mask=mask, **settings)
    assert ours.generate(input_ids=ids, attention_mask=mask, **settings).tolist() == expected.tolist()
    assert not (expected[:, 1:3] == 3).any()


def test_the_decoder_scales_vectors_that_it_is_given(tmp_path):
    ours, theirs = pair(tmp_path, scale_embedding=True)
    ids, vectors = torch.stack(ragged(97, [9, 9])), torch.randn(2, 5, 32)
    compare(ours, theirs, {"input_ids": ids, "decoder_inputs_embeds": vectors}, ["logits"])
    compare(ours, theirs, {"inputs_embeds": vectors, "decoder_input_ids": ids}, ["logits"])


def test_the_decoder_alone_from_a_whole_model(tmp_path):
    ids = torch.stack(ragged(97, [9, 9]))
    for changes in ({}, APART, {"tie_word_embeddings": False}):
        _, theirs = pair(tmp_path, **changes)
        alone, report = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
        assert not report.fresh and not report.unexpected
        with torch.no_grad():
            close(alone.model(ids).last_hidden_state, theirs.get_decoder()(input_ids=ids).last_hidden_state)


@pytest.mark.parametrize("tie", [True, False])
def test_the_decoder_alone_scores_as_many_tokens_as_the_encoder_knows(tmp_path, tie):
    """Where the scores' matrix is not the table."""
    given = {"decoder_layers": 2, "tie_word_embeddings": tie, **APART}
    ours, theirs = pair(tmp_path, "ForCausalLM", "AutoModelForCausalLM", **given)
    ids = torch.stack(ragged(97, [9, 9]))
    compare(ours, theirs, {"input_ids": ids}, ["logits"])
    if not tie:  # where it is the table, the reference counts its scores wrongly
        compare(ours, theirs, {"input_ids": ids, "labels": ids}, ["loss"])
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")


@pytest.mark.parametrize("changes", [{}, APART])
def test_more_tokens(tmp_path, changes):
    """The config says it of both sides."""
    ours, _ = pair(tmp_path, **changes)
    ids = torch.stack(ragged(97, [9, 9]))
    ours.resize_token_embeddings(120)
    ours.save_pretrained(tmp_path / "more")
    theirs = transformers.MarianMTModel.from_pretrained(tmp_path / "more").eval()
    compare(ours, theirs, {"input_ids": ids, "decoder_input_ids": ids}, ["logits"])
    again = omniform.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "more")
    compare(again, theirs, {"input_ids": ids, "decoder_input_ids": ids + 22}, ["logits"])


def test_bad_configs():
    with pytest.raises(ConfigError, match="decoder_vocab_size"):
        omniform.AutoConfig.for_model("marian", decoder_vocab_size=11)
