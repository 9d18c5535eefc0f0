"""Blenderbot against the reference."""

from __future__ import annotations

from harness import Parity, Table, compiled
from sided import TINY, UNEVEN, alone, both
from writers import Sources

from reference import omniform, ragged, saved_reference, transformers


class TestBlenderbot(Parity):
    table = Table(
        model_type="blenderbot",
        config=transformers.BlenderbotConfig,
        tiny={**TINY, "encoder_no_repeat_ngram_size": 0},
        heads={**both("Blenderbot"), **alone("Blenderbot")},
        variants={
            "plain": {},
            "scaled": {"scale_embedding": True, "activation_function": "relu"},
            "untied": {"tie_word_embeddings": False, "scale_embedding": True},
            "uneven": UNEVEN,
        },
        writes=("Writer", Sources()),
        writing=["plain", "scaled"],
        scale=0.5,
        spellings={"compiled": compiled},
    )


def test_answers_do_not_repeat_what_was_said(tmp_path):
    """No three tokens in a row that the encoder has read, as the config says, greedily and in beams."""
    config = transformers.BlenderbotConfig(**{**TINY, "encoder_no_repeat_ngram_size": 1})
    theirs = saved_reference(transformers.BlenderbotForConditionalGeneration, config, tmp_path, scale=0.5)
    ours = omniform.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    ids = ragged(97, [40])[0][None]
    for settings in ({}, {"num_beams": 3}, {"encoder_no_repeat_ngram_size": 0, "encoder_repetition_penalty": 3.0}):
        expected = theirs.generate(ids, max_new_tokens=9, min_new_tokens=9, **settings)
        assert ours.generate(ids, max_new_tokens=9, min_new_tokens=9, **settings).tolist() == expected.tolist()
