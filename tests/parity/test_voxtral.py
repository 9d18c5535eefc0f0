"""Voxtral and its encoder against the reference."""

from __future__ import annotations

import pytest
import torch
from askers import Given, Question
from harness import Head, Parity, Table
from hearers import Heard, Row, together
from safetensors.torch import load_file, save_file

from omniform.core.errors import ConfigError, InputError
from reference import check_round_trip, compare, omniform, saved_reference, transformers

AUDIO, PAD, BANDS, FRAMES = 24, 11, 6, 8
TEXT = {
    "vocab_size": 97, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 128, "pad_token_id": PAD, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
SOUND = {
    "hidden_size": 8, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_mel_bins": BANDS,
    "max_source_positions": FRAMES,
}  # fmt: skip
VARIANTS = {
    "plain": {},
    "two side by side": {"audio": {"intermediate_size": 16, "activation_function": "relu"}, "audio_token_id": 30},
    "half a frame": {"audio": {"intermediate_size": 4}, "projector_hidden_act": "silu"},
    "mistral": {"decoder": "Mistral", "text": {"sliding_window": 9, "tie_word_embeddings": True}},
    "scaled": {"audio": {"scale_embedding": True, "layerdrop": 0.5}, "text": {"rope_parameters": {
        "rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}}},
}  # fmt: skip


def config(**changes):
    text, audio = {**TEXT, **changes.pop("text", {})}, {**SOUND, **changes.pop("audio", {})}
    decoder = getattr(transformers, f"{changes.pop('decoder', 'Llama')}Config")(**text)
    changes.setdefault("audio_token_id", AUDIO)
    return transformers.VoxtralConfig(
        text_config=decoder, audio_config=transformers.VoxtralEncoderConfig(**audio), **changes
    )


def windows(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, BANDS, 2 * FRAMES, generator=torch.Generator().manual_seed(seed))


def rows(config) -> list[Row]:
    """Two sounds, one of two windows; text alone; one sound."""
    token, audio = config.audio_token_id, config.audio_config
    one = [token] * (FRAMES * audio.hidden_size // audio.intermediate_size)
    return [
        (torch.tensor([1, 7, *one, *one, 9, *one, 11, 12, 13]), {"input_features": windows(3, 0)}),
        (torch.tensor([1, 31, 32, 33]), {}),
        (torch.tensor([1, *one, 21, 22]), {"input_features": windows(1, 1)}),
    ]


def questions(*fields):
    def asked(config):
        made = rows(config)
        batch = together(made, PAD)
        real = batch["attention_mask"].bool()
        base = ("audio_hidden_states",) if "last_hidden_state" in fields else ()
        yield Question(together(made[:1], PAD), (*fields, *base, "hidden_states", "attentions"))
        yield Question(batch, fields, real)
        yield Question(together(made, PAD, "left"), fields, together(made, PAD, "left")["attention_mask"].bool())
        if "logits" in fields:
            labels = batch["input_ids"].masked_fill(~real, -100)
            yield Question({**batch, "labels": labels}, ("loss",), real)

    return asked


def lesson(config):
    batch = together(rows(config), PAD)
    return {**batch, "labels": batch["input_ids"]}


class TestVoxtral(Parity):
    table = Table(
        model_type="voxtral",
        config=lambda **changes: config(**changes),
        config_class=transformers.VoxtralConfig,
        tiny={},
        heads={
            "Model": Head("VoxtralModel", "AutoModel", Given(questions("last_hidden_state"))),
            "ForConditionalGeneration": Head(
                "VoxtralForConditionalGeneration", "AutoModelForMultimodalLM", Given(questions("logits"), lesson),
                everywhere=True,
            ),
        },
        variants=VARIANTS,
        writes=("ForConditionalGeneration", Heard(lambda: rows(config()), PAD)),
        writing=["plain"],
        scale=0.3,
        derived=frozenset({"text_config", "audio_config"}),
    )  # fmt: skip


def pair(tmp_path, head="ForConditionalGeneration", **changes):
    theirs = saved_reference(getattr(transformers, f"Voxtral{head}"), config(**changes), tmp_path / "model")
    return getattr(omniform, f"Voxtral{head}").from_pretrained(tmp_path / "model"), theirs


def test_encoder(tmp_path):
    settings = transformers.VoxtralEncoderConfig(**SOUND, layerdrop=0.3)
    theirs = saved_reference(transformers.VoxtralEncoder, settings, tmp_path / "model")
    ours = omniform.AutoModel.from_pretrained(tmp_path / "model")
    assert type(ours).__name__ == "VoxtralEncoder" and not ours.embed_positions.weight.requires_grad
    fields = ["last_hidden_state", "hidden_states", "attentions"]
    compare(ours, theirs, {"input_features": windows(2, 0)}, fields)
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")
    with pytest.raises(InputError, match="do not fit the encoder"):
        ours(windows(1, 0)[..., :-2])


def test_features_alone(tmp_path):
    ours, theirs = pair(tmp_path)
    with torch.no_grad():
        found, expected = ours.get_audio_features(windows(3, 0)), theirs.get_audio_features(windows(3, 0))
    torch.testing.assert_close(found.pooler_output, expected.pooler_output, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, atol=1e-4, rtol=1e-4)
    batch = together(rows(config()), PAD)
    with torch.no_grad():
        ready = ours.get_audio_features(batch.pop("input_features"))
    ready.pooler_output = ready.pooler_output.view(4, -1, ready.pooler_output.shape[-1]).unbind()
    compare_to = ours(**together(rows(config()), PAD)).logits
    assert torch.equal(ours(**batch, mm_encoder_outputs={"audio": ready}).logits, compare_to)


@pytest.mark.parametrize("layout", ["today's", "published"])
def test_other_layouts_of_the_same_weights(tmp_path, layout):
    _, theirs = pair(tmp_path)
    path = tmp_path / "model" / "model.safetensors"
    tensors = {key: tensor.contiguous() for key, tensor in theirs.state_dict().items()}
    if layout == "published":
        tensors = {
            key.replace("model.language_model.", "language_model.model.").replace("model.audio", "audio").replace(
                "model.multi", "multi").replace("lm_head", "language_model.lm_head"): tensor
            for key, tensor in tensors.items()
        }  # fmt: skip
    save_file(tensors, path, {"format": "pt"})
    again = omniform.AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "model")
    compare(again, theirs, together(rows(config())[:1], PAD), ["logits"])
    check_round_trip(tmp_path / "model", again, tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == tensors.keys()
    base = omniform.VoxtralModel.from_pretrained(tmp_path / "model")
    compare(base, theirs.model, together(rows(config())[:1], PAD), ["last_hidden_state"])


def test_what_a_config_means_that_leaves_out_its_decoder():
    ours = omniform.VoxtralConfig()
    theirs = transformers.VoxtralConfig()
    for name in ("vocab_size", "hidden_size", "head_dim", "num_key_value_heads", "rms_norm_eps"):
        assert getattr(ours.text_config, name) == getattr(theirs.text_config, name)
    part = {"text_config": {"model_type": "llama", "num_hidden_layers": 2}}
    assert omniform.VoxtralConfig(**part).text_config.hidden_size == 3072
    assert transformers.VoxtralConfig(**part).text_config.hidden_size == 3072


def test_sizes_that_do_not_fit():
    with pytest.raises(ConfigError, match="intermediate_size"):
        omniform.VoxtralConfig(**config(audio={"intermediate_size": 24}).to_dict())


def test_placeholders_that_do_not_match(tmp_path):
    ours, _ = pair(tmp_path)
    batch = together(rows(config()), PAD)
    with pytest.raises(InputError, match="placeholder"):
        ours(**{**batch, "input_features": windows(3, 0)})
