"""Moonshine against the reference."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from askers import Inputs, Nothing, TextToText, Words, noise
from harness import Head, Parity, Table, compiled
from writers import Waves

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, padded, ragged, saved_reference, transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 40, "encoder_num_hidden_layers": 2,
    "decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 4, "decoder_num_attention_heads": 4,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Spoken(TextToText):
    """Waves, and a decoder's rows."""

    def sources(self, side: str = "right") -> Inputs:
        given = Waves().sounds()
        return given if side == "right" else {"input_values": given["input_values"]}

    def long_sources(self) -> Inputs:
        return {"input_values": noise(2, 2100)}

    def questions(self, config):
        for question in super().questions(config):
            # A mask of samples is not one of the encoder's frames.
            if question.fields != ("encoder_last_hidden_state",):
                yield question


class TestMoonshine(Parity):
    table = Table(
        model_type="moonshine",
        config=transformers.MoonshineConfig,
        tiny=TINY,
        heads={
            "Model": Head("MoonshineModel", "AutoModel", Spoken(Nothing())),
            "ForConditionalGeneration": Head(
                "MoonshineForConditionalGeneration", "AutoModelForSpeechSeq2Seq", Spoken(Words()), everywhere=True
            ),
        },
        variants={
            "plain": {},
            "uneven": {"encoder_num_hidden_layers": 1, "decoder_num_hidden_layers": 3, "attention_bias": True,
                "encoder_hidden_act": "relu", "decoder_hidden_act": "gelu", "tie_word_embeddings": False},
            "padded heads": {"pad_head_dim_to_multiple_of": 16, "encoder_num_attention_heads": 2,
                "decoder_num_attention_heads": 2},
            "half turns": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0,
                "partial_rotary_factor": 0.5}},
        },
        writes=("ForConditionalGeneration", Waves()),
        writing=["plain", "uneven"],
        scale=0.5,
        spellings={"compiled": compiled},
        half=5e-2,
    )  # fmt: skip


def pair(folder, **changes):
    config = transformers.MoonshineConfig(**{**TINY, **changes})
    theirs = saved_reference(transformers.MoonshineForConditionalGeneration, config, folder, scale=0.3)
    return omniform.AutoModelForSpeechSeq2Seq.from_pretrained(folder), theirs


@pytest.mark.parametrize("length", [895, 896, 1278, 1279, 1280, 1536, 1663])
def test_lengths(tmp_path, length):
    ours, theirs = pair(tmp_path)
    mask = (torch.arange(length) < torch.tensor([length, length - 390])[:, None]).long()
    given = {"input_values": noise(2, length), "decoder_input_ids": torch.tensor([[1, 5], [1, 9]])}
    for more in ({}, {"attention_mask": mask}, {"attention_mask": mask.flip(1)}):
        compare(ours, theirs, {**given, **more}, ["logits", "encoder_last_hidden_state"])
    encoder = ours.model.encoder
    frames = encoder.frames_of(length)
    assert frames == theirs._get_feat_extract_output_lengths(length)
    assert frames == encoder(input_values=noise(1, length)).last_hidden_state.shape[1]


def test_what_the_encoder_gave_knows_its_mask(tmp_path):
    ours, theirs = pair(tmp_path)
    sounds = Waves().sounds()
    ids, _ = padded(ragged(97, [4, 4, 4]))
    with torch.no_grad():
        expected = theirs(**sounds, decoder_input_ids=ids).logits
        told, kept = theirs.model.encoder(**sounds), ours.model.encoder(**sounds)
        assert torch.equal(told.attention_mask, kept.attention_mask)
        for encoded in (told, kept):
            close(ours(encoder_outputs=encoded, decoder_input_ids=ids).logits, expected)
        bare = {"encoder_outputs": (kept.last_hidden_state,), "decoder_input_ids": ids}
        for mask in (sounds["attention_mask"], kept.attention_mask):
            close(ours(**bare, attention_mask=mask).logits, expected)
        expected = theirs.generate(**sounds, max_new_tokens=6)
        assert torch.equal(ours.generate(encoder_outputs=kept, max_new_tokens=6), expected)
        assert torch.equal(
            ours.generate(
                encoder_outputs=bare["encoder_outputs"], attention_mask=kept.attention_mask, max_new_tokens=6
            ),
            expected,
        )


@pytest.mark.parametrize(("heads", "file"), [(4, 2), (2, 4)])
def test_the_encoder_s_heads_count_for_both(tmp_path, heads, file):
    """As in the reference, whatever a file says of the decoder's."""
    config = {**TINY, "encoder_num_attention_heads": heads, "decoder_num_attention_heads": file}
    theirs = transformers.MoonshineModel(transformers.MoonshineConfig(**config)).eval()
    ours = omniform.MoonshineModel(omniform.MoonshineConfig(**config)).eval()
    theirs.save_pretrained(tmp_path)
    state = omniform.AutoModel.from_pretrained(tmp_path).state_dict()
    ours.load_state_dict(state)
    ids = torch.tensor([[1, 5, 7]])
    compare(ours, theirs, {"input_values": noise(1, 1500), "decoder_input_ids": ids}, ["last_hidden_state"])


def test_beams(tmp_path):
    ours, theirs = pair(tmp_path)
    given = {**Waves().sounds(), "num_beams": 3, "max_new_tokens": 7, "do_sample": False}
    assert torch.equal(ours.generate(**given), theirs.generate(**given))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"input_values": torch.zeros(1, 894)}, "895"),
        ({"input_values": torch.zeros(1500)}, "input_values"),
        ({"input_values": torch.zeros(1, 1500, dtype=torch.long)}, "floating"),
        ({"input_values": None}, "input_values"),
        ({"attention_mask": torch.zeros(1, 1400)}, "attention_mask"),
        ({"decoder_input_ids": None}, "decoder_input_ids"),
        ({"decoder_input_ids": torch.tensor([[97]])}, "decoder_input_ids"),
    ],
)
def test_bad_inputs(wrong, named):
    ours = omniform.MoonshineModel(omniform.MoonshineConfig(**TINY))
    with pytest.raises(InputError, match=named):
        ours(**{"input_values": torch.zeros(1, 1500), "decoder_input_ids": torch.tensor([[1]]), **wrong})


def test_bad_configs():
    for wrong in ({"encoder_num_key_value_heads": 3}, {"encoder_hidden_act": "gelo"}, {"decoder_hidden_act": "x"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            omniform.MoonshineConfig(**{**TINY, **wrong})
