"""Vision encoder-decoders, and TrOCR's decoder, against the reference."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from askers import Given, Question, TextToText, Words, noise
from harness import Head, Parity, Table

from omniform.core.errors import ConfigError, InputError
from reference import compare, omniform, padded, ragged, saved_reference, transformers

VIT = {
    "model_type": "vit", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip
SWIN = {
    "model_type": "swin", "image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2],
    "window_size": 2,
}  # fmt: skip
TROCR = {
    "model_type": "trocr", "vocab_size": 97, "d_model": 20, "decoder_layers": 2, "decoder_attention_heads": 4,
    "decoder_ffn_dim": 28, "max_position_embeddings": 50, "cross_attention_hidden_size": 16,
}  # fmt: skip
BERT = {
    "model_type": "bert", "vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4,
    "intermediate_size": 28, "is_decoder": True, "add_cross_attention": True,
}  # fmt: skip
TINY = {"encoder": VIT, "decoder": TROCR, "pad_token_id": 1, "decoder_start_token_id": 2, "eos_token_id": 2}


@dataclass(frozen=True)
class Seen(TextToText):
    """Pictures, and a decoder's rows."""

    def sources(self, side: str = "right"):
        return {"pixel_values": noise(3, 3, 16, 16)}

    def long_sources(self):
        return {"pixel_values": noise(2, 3, 16, 16)}


class TestVisionEncoderDecoder(Parity):
    table = Table(
        model_type="vision-encoder-decoder",
        config=transformers.VisionEncoderDecoderConfig,
        tiny=TINY,
        heads={
            "Model": Head(
                "VisionEncoderDecoderModel", "AutoModelForImageTextToText", Seen(Words()), everywhere=True,
                unused=("encoder.pooler",),
            ),
        },
        variants={
            "plain": {},
            "sines": {"decoder": {**TROCR, "use_learned_position_embeddings": False, "scale_embedding": True}},
            "a bridge to BERT": {"decoder": BERT},
            "swin": {"encoder": SWIN, "decoder": {**TROCR, "layernorm_embedding": False}},
        },
        derived=frozenset({"encoder", "decoder"}),
    )  # fmt: skip


def alone(config):
    ids, mask = padded(ragged(97, (9, 6, 2)), pad=1)
    memory = {"encoder_hidden_states": noise(3, 5, 16), "encoder_attention_mask": padded(ragged(9, (5, 4, 1)))[1]}
    real, taps = mask.bool(), ("hidden_states", "attentions", "cross_attentions")
    yield Question(
        {"input_ids": ids[:1], "encoder_hidden_states": memory["encoder_hidden_states"][:1]}, ("logits", *taps)
    )
    yield Question({"input_ids": ids, "attention_mask": mask, **memory}, ("logits",), real)
    labels = ids.masked_fill(~real, -100)
    yield Question({"input_ids": ids, "attention_mask": mask, **memory, "labels": labels}, ("loss", "logits"), real)
    yield Question({"input_ids": ids, "attention_mask": mask}, ("logits",), real)


class TestTrOCR(Parity):
    table = Table(
        model_type="trocr",
        config=transformers.TrOCRConfig,
        tiny={k: v for k, v in TROCR.items() if k != "model_type"},
        heads={
            "ForCausalLM": Head(
                "TrOCRForCausalLM", "AutoModelForCausalLM",
                Given(alone, lambda config: [*alone(config)][2].inputs), everywhere=True,
            ),
        },
        variants={
            "plain": {},
            "sines": {"use_learned_position_embeddings": False, "tie_word_embeddings": False},
            "bare": {"layernorm_embedding": False, "scale_embedding": True, "activation_function": "relu"},
        },
    )  # fmt: skip


def pair(folder, scale=0.4, **changes):
    config = transformers.VisionEncoderDecoderConfig(**{**TINY, **changes})
    theirs = saved_reference(transformers.VisionEncoderDecoderModel, config, folder, scale=scale)
    theirs.generation_config.pad_token_id, theirs.generation_config.decoder_start_token_id = 1, 2
    return omniform.VisionEncoderDecoderModel.from_pretrained(folder), theirs


@pytest.mark.parametrize("changes", [{}, {"decoder": BERT}, {"encoder": SWIN}])
def test_written_token_for_token(tmp_path, changes):
    ours, theirs = pair(tmp_path, **changes)
    pixels = noise(3, 3, 16, 16)
    for settings in ({}, {"num_beams": 3, "num_return_sequences": 2}, {"repetition_penalty": 1.4}):
        expected = theirs.generate(pixels, **settings, max_new_tokens=7)
        assert ours.generate(pixels, **settings, max_new_tokens=7).tolist() == expected.tolist()
    begun = torch.tensor([[2, 7], [2, 9], [2, 11]])
    expected = theirs.generate(pixels, decoder_input_ids=begun, max_new_tokens=5)
    assert ours.generate(pixels, decoder_input_ids=begun, max_new_tokens=5).tolist() == expected.tolist()


def test_pictures_of_other_sizes(tmp_path):
    ours, theirs = pair(tmp_path)
    large = {"pixel_values": noise(2, 3, 24, 32), "interpolate_pos_encoding": True}
    ids = torch.tensor([[2, 7], [2, 9]])
    compare(ours, theirs, {**large, "decoder_input_ids": ids}, ["logits", "encoder_hidden_states"])
    assert ours.generate(**large, max_new_tokens=5).tolist() == theirs.generate(**large, max_new_tokens=5).tolist()
    for call in (lambda **given: ours(**given, decoder_input_ids=ids), ours.generate):
        with pytest.raises(InputError, match="interpolate_pos_encoding=True"):
            call(pixel_values=large["pixel_values"])


def test_an_engine_answers_as_each_alone(tmp_path):
    ours, theirs = pair(tmp_path)
    engine, pixels = omniform.Engine(ours), noise(3, 3, 16, 16)
    handles = [engine.submit({"pixel_values": pixels[i : i + 1]}, max_new_tokens=6) for i in (0, 1, 2, 0)]
    for handle, i in zip(handles, (0, 1, 2, 0), strict=True):
        expected = theirs.generate(pixels[i : i + 1], max_new_tokens=6)[0, 1:].tolist()
        found = handle.result().sequences[0].tokens
        assert found == expected[: len(found)]
    assert engine.stats().encoder_runs == 3 and engine.stats().encoder_hits == 1


def test_a_pair_of_two_checkpoints(tmp_path):
    saved_reference(transformers.ViTModel, transformers.ViTConfig(**VIT), tmp_path / "vit")
    saved_reference(transformers.BertLMHeadModel, transformers.BertConfig(**BERT), tmp_path / "bert")
    made = [
        library.VisionEncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path / "vit", tmp_path / "bert")
        for library in (omniform, transformers)
    ]
    made[0].enc_to_dec_proj.load_state_dict(made[1].enc_to_dec_proj.state_dict())  # made anew
    call = {"pixel_values": noise(2, 3, 16, 16), "decoder_input_ids": torch.tensor([[2, 7], [2, 9]])}
    compare(*made, call, ["logits"])
    saved_reference(transformers.TrOCRForCausalLM, transformers.TrOCRConfig(**TROCR), tmp_path / "trocr")
    pair_of = omniform.VisionEncoderDecoderModel.from_encoder_decoder_pretrained
    assert pair_of(tmp_path / "vit", tmp_path / "trocr")(**call).logits.shape == (2, 2, 97)
    with pytest.raises(ConfigError, match="what the decoder looks at is not as wide"):
        omniform.VisionEncoderDecoderModel(
            omniform.VisionEncoderDecoderConfig(encoder={**VIT, "hidden_size": 12}, decoder=TROCR)
        )
