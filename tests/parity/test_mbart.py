"""mBART against the reference."""

from __future__ import annotations

from harness import Parity, Table, compiled
from sided import TINY, UNEVEN, alone, asked, both
from writers import Sources

from reference import compare, omniform, padded, ragged, saved_reference, transformers


class TestMBart(Parity):
    table = Table(
        model_type="mbart",
        config=transformers.MBartConfig,
        tiny=TINY,
        heads={**both("MBart"), **asked("MBart"), **alone("MBart")},
        variants={
            "plain": {},
            "scaled": {"scale_embedding": True, "activation_function": "relu"},
            "untied": {"tie_word_embeddings": False, "scale_embedding": True},
            "uneven": UNEVEN,
            "another start": {"decoder_start_token_id": 5, "pad_token_id": 3},
            "forced": {"forced_bos_token_id": 7, "forced_eos_token_id": 9},
        },
        writes=("Writer", Sources()),
        writing=["plain", "scaled", "untied", "uneven", "forced"],
        scale=0.5,
        spellings={"compiled": compiled},
    )


def test_an_answer_begins_with_its_last_token(tmp_path):
    """Where the config names no start: labels and texts read again turn round; what is generated begins with bos."""
    config = transformers.MBartConfig(**{**TINY, "decoder_start_token_id": None})
    theirs = saved_reference(transformers.MBartForConditionalGeneration, config, tmp_path, scale=0.5)
    ours = omniform.AutoModelForMaskedLM.from_pretrained(tmp_path)
    ids, mask = padded(ragged(97, [9, 4, 1]))
    given = {"input_ids": ids, "attention_mask": mask}
    compare(ours, theirs, given, ["logits"])
    compare(ours, theirs, {**given, "labels": ids.masked_fill(mask == 0, -100)}, ["logits", "loss"])
    for settings in ({}, {"forced_bos_token_id": 7, "num_beams": 3}):
        found = ours.generate(**given, max_new_tokens=8, **settings)
        assert found.tolist() == theirs.generate(**given, max_new_tokens=8, **settings).tolist()
        assert (found[:, 0] == 1).all()
