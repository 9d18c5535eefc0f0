"""Whisper against the reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from askers import STREAMS, Nothing, Speech, Words
from harness import Head, Parity, Table, compiled
from safetensors.torch import load_file, save_file
from writers import Sounds

from omniform.blocks.augment import Spans, SpecAugment
from omniform.core.errors import ConfigError, InputError
from reference import (
    check_round_trip,
    close,
    compare,
    omniform,
    padded,
    ragged,
    saved_reference,
    trains,
    transformers,
)

TINY = {
    "vocab_size": 97, "d_model": 32, "num_mel_bins": 10, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 40, "decoder_ffn_dim": 48,
    "max_source_positions": 15, "max_target_positions": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 3, "suppress_tokens": [0], "begin_suppress_tokens": [2, 5],
}  # fmt: skip
"""Padding is never written: the ecosystem's Whisper cuts off an answer that ends in it as much as it holds."""

VARIANTS = {
    "plain": {},
    "uneven": {"encoder_layers": 3, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 8},
    "no encoder layers": {"encoder_layers": 1, "decoder_layers": 3},
    "128 bands": {"num_mel_bins": 128},
    "scaled, as it says": {"scale_embedding": True},
    "relu": {"activation_function": "relu"},
    "untied": {"tie_word_embeddings": False},
    "odd heads": {"d_model": 18, "encoder_attention_heads": 3, "decoder_attention_heads": 6},
    "inert": {"median_filter_width": 3, "apply_spec_augment": True, "encoder_layerdrop": 0.5, "decoder_layerdrop": 0.5},
}


def auto(head: str) -> type[omniform.AutoModel]:
    names = {
        "Model": omniform.AutoModel, "ForConditionalGeneration": omniform.AutoModelForSpeechSeq2Seq,
        "ForCausalLM": omniform.AutoModelForCausalLM,
        "ForAudioClassification": omniform.AutoModelForAudioClassification,
    }  # fmt: skip
    return names[head]


def pair(tmp_path: Path, head: str = "ForConditionalGeneration", scale: float = 0.2, **changes: object):
    config = transformers.WhisperConfig(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"Whisper{head}"), config, tmp_path / "model", scale=scale)
    return auto(head).from_pretrained(tmp_path / "model"), theirs


def sound(rows: int = 3, bands: int = 10, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, bands, 30, generator=torch.Generator().manual_seed(seed))


def answers() -> torch.Tensor:
    labels, real = padded(ragged(97, [9, 4, 1]))
    return labels.masked_fill(real == 0, -100)


class TestWhisper(Parity):
    table = Table(
        model_type="whisper",
        config=transformers.WhisperConfig,
        tiny=TINY,
        heads={
            "Model": Head("WhisperModel", "AutoModel", Speech(Nothing())),
            "ForConditionalGeneration": Head(
                "WhisperForConditionalGeneration", "AutoModelForSpeechSeq2Seq", Speech(Words()), everywhere=True
            ),
        },
        variants=VARIANTS,
        writes=("ForConditionalGeneration", Sounds()),
        writing=["plain", "uneven", "scaled, as it says", "untied"],
        scale=0.8,
        spellings={"compiled": compiled},
        half=5e-2,
    )


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_beginnings(tmp_path, side, implementation):
    ours, theirs = pair(tmp_path)
    ours.set_attn_implementation(implementation)
    theirs.set_attn_implementation(implementation)
    ids, mask = padded(ragged(97, [8, 3, 5]), side=side)
    given = {"input_features": sound(), "decoder_input_ids": ids, "decoder_attention_mask": mask}
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    for more in ({}, {"decoder_position_ids": positions}, {"attention_mask": torch.ones(3, 30)}):
        with torch.no_grad():
            expected, found = theirs(**given, **more).logits, ours(**given, **more).logits
        close(found[mask.bool()], expected[mask.bool()])


def test_encoder_outputs_in_every_form(tmp_path):
    ours, theirs = pair(tmp_path)
    ids = torch.stack(ragged(97, [4, 4, 4]))
    with torch.no_grad():
        encoded = ours.base_model.encoder(sound(), output_hidden_states=True)
        expected = theirs(sound(), decoder_input_ids=ids).logits
        for form in (encoded, encoded.to_tuple(), [encoded.last_hidden_state]):
            close(ours(encoder_outputs=form, decoder_input_ids=ids).logits, expected)


@pytest.mark.parametrize("head", ["Model", "ForCausalLM"])
@pytest.mark.parametrize("tie", [True, False])
def test_other_writers(tmp_path, head, tie):
    ours, theirs = pair(tmp_path, head, tie_word_embeddings=tie)
    ids, mask = padded(ragged(97, [9, 4, 6]))
    if head == "Model":
        given = {"input_features": sound(), "decoder_input_ids": ids}
        compare(ours, theirs, given, ["last_hidden_state", "encoder_last_hidden_state", *STREAMS])
    else:
        states = torch.randn(3, 15, 32)
        labels = ids.masked_fill(mask == 0, -100)
        fields = ["loss", "logits", "hidden_states", "attentions"]
        compare(ours, theirs, {"input_ids": ids, "labels": labels}, fields)
        for form in (states, (states,)):
            given = {"input_ids": ids, "encoder_outputs": form, "labels": labels}
            compare(ours, theirs, given, [*fields, "cross_attentions"])
        with torch.no_grad():
            first = ours(ids[:, :5], encoder_outputs=states)
            second = ours(ids[:, 5:], encoder_outputs=states, past_key_values=first.past_key_values)
            whole = ours(ids, encoder_outputs=states).logits
        close(torch.cat((first.logits, second.logits), 1), whole)
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")


@pytest.mark.parametrize("mix", [True, False])
@pytest.mark.parametrize("labels", [4, 1])
def test_audio_classification(tmp_path, mix, labels):
    changes = {"use_weighted_layer_sum": mix, "num_labels": labels, "classifier_proj_size": 12}
    ours, theirs = pair(tmp_path, "ForAudioClassification", **changes, apply_spec_augment=True)
    inputs = {"input_features": sound(), "labels": torch.arange(3) % labels}
    compare(ours, theirs, inputs, ["loss", "logits", "hidden_states", "attentions"])
    with torch.no_grad():
        assert (ours(sound()).hidden_states is None) == (theirs(sound()).hidden_states is None)
        encoded = ours.model(sound(), output_hidden_states=True)
        close(ours(encoder_outputs=encoded).logits, ours(sound()).logits)
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")
    if labels > 1:
        trains(ours, inputs)
    if mix:
        with pytest.raises(InputError, match="hidden states"):
            ours(encoder_outputs=(encoded.last_hidden_state,))


@pytest.mark.parametrize(
    "changes",
    [
        {"dropout": 0.5}, {"attention_dropout": 0.5}, {"activation_dropout": 0.5}, {"encoder_layerdrop": 0.5},
        {"decoder_layerdrop": 0.5}, {"apply_spec_augment": True, "mask_time_length": 5, "mask_time_prob": 0.3},
        {"apply_spec_augment": True, "mask_time_prob": 0.0, "mask_feature_prob": 0.3, "mask_feature_length": 3},
    ],
)  # fmt: skip
def test_chance_only_in_training(tmp_path, changes):
    ours, theirs = pair(tmp_path, **changes)
    given = {"input_features": sound(), "labels": answers()}
    compare(ours, theirs, given, ["logits"])
    ours.train()
    with torch.no_grad():
        logits = [ours(**given).logits for _ in range(8)]
    assert any(not torch.equal(logits[0], other) for other in logits[1:])


def test_a_seed_trains_the_same(tmp_path):
    """Layers are left out between their neighbours' dropouts, as the reference leaves them out."""
    luck = {"encoder_layerdrop": 0.4, "decoder_layerdrop": 0.4, "dropout": 0.2, "activation_dropout": 0.2}
    theirs = saved_reference(
        transformers.WhisperForConditionalGeneration, transformers.WhisperConfig(**{**TINY, **luck}), tmp_path
    )
    ours = omniform.WhisperForConditionalGeneration.from_pretrained(tmp_path)
    found = []
    for model in (ours, theirs):
        model.set_attn_implementation("eager")
        model.train()
        transformers.set_seed(3)
        given = {"input_features": sound(), "labels": torch.tensor([[5, 7, 9]] * 3)}
        found.append([model(**given, output_hidden_states=True)[name] for _ in range(4) for name in ("loss", "logits")])
    close(*found)


def test_spec_augment_blanks_whole_spans():
    torch.manual_seed(0)
    augment = SpecAugment(time=Spans(0.3, 4, 2), frequency=Spans(0.2, 2, 0))
    features = torch.rand(5, 10, 40) + 1
    mask = torch.arange(40) < torch.tensor([40, 30, 4, 3, 0])[:, None]
    blank = augment(features, mask) == 0
    silent = blank.all(1)
    assert torch.equal(features, features.clamp(min=1))
    assert not (silent & ~mask).any()
    assert silent.sum(1).tolist()[2:] == [4, 0, 0]
    assert (silent.sum(1)[:2] >= 5).all() and (silent.sum(1)[:2] <= 16).all()
    assert (blank.all(2).sum(1) <= 4).all() and blank.all(2).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(tmp_path, dtype):
    pair(tmp_path, scale=0.05)
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path / "model", dtype=dtype).eval()
    ours = omniform.AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "model", dtype=dtype)
    with torch.no_grad():
        expected = theirs(sound().to(dtype), labels=answers())
        found = ours(sound(), labels=answers())
    close(found.logits, expected.logits, tolerance=2e-2)
    close(found.loss, expected.loss, tolerance=2e-2)


def test_base_and_heads_load_one_another(tmp_path):
    pair(tmp_path)
    folder = tmp_path / "model"
    ids = torch.stack(ragged(97, [5, 5, 5]))
    given = {"input_features": sound(), "decoder_input_ids": ids}
    base = omniform.AutoModel.from_pretrained(folder)
    compare(base, transformers.WhisperModel.from_pretrained(folder), given, ["last_hidden_state"])
    base.save_pretrained(str(tmp_path / "base"))
    again = omniform.AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "base")
    compare(again, transformers.WhisperForConditionalGeneration.from_pretrained(folder), given, ["logits"])
    drafter = omniform.AutoModelForCausalLM.from_pretrained(folder)
    reference = transformers.WhisperForCausalLM.from_pretrained(folder)
    compare(drafter, reference, {"input_ids": ids, "encoder_outputs": (torch.randn(3, 15, 32),)}, ["logits"])
    classifier, report = omniform.AutoModelForAudioClassification.from_pretrained(
        folder, num_labels=3, output_loading_info=True
    )
    assert sorted({f.split(".")[0] for f in report.fresh}) == ["classifier", "projector"]
    assert classifier(sound()).logits.shape == (3, 3)


def test_duplicates_and_defaults(tmp_path):
    _, theirs = pair(tmp_path, encoder_ffn_dim=1536, decoder_ffn_dim=1536)
    folder = tmp_path / "model"
    tensors = load_file(folder / "model.safetensors")
    tensors["proj_out.weight"] = tensors["model.decoder.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    renamed = {"d_model": "hidden_size", "encoder_layers": "num_hidden_layers"}
    kept = ("vocab_size", "num_mel_bins", "decoder_layers", "decoder_attention_heads", "pad_token_id")
    raw = {name: TINY[name] for name in (*kept, "max_source_positions", "max_target_positions", *renamed)}
    raw = {renamed.get(name, name): value for name, value in raw.items()}
    more = {"model_type": "whisper", "num_attention_heads": 4, "decoder_start_token_id": 3}
    (folder / "config.json").write_text(json.dumps({**raw, **more}))
    ours = omniform.AutoModelForSpeechSeq2Seq.from_pretrained(folder)
    assert ours.lm_head.weight is ours.model.decoder.embed_tokens.weight
    compare(ours, theirs, {"input_features": sound(), "labels": answers()}, ["logits", "loss"])


def test_the_engines_steps(tmp_path):
    ours, theirs = pair(tmp_path)
    assert ours.can_generate() and ours.start_token_id == 3 and ours.max_positions == 20
    assert ours.encoder_inputs == {"input_features", "attention_mask"}
    memory = ours.encode(input_features=sound(), attention_mask=torch.ones(3, 30))
    assert memory.padding is None
    with torch.no_grad():
        close(memory.hidden, theirs.model.encoder(sound()).last_hidden_state)


def test_sinusoids_from_scratch():
    settings = {**TINY, "d_model": 32, "max_source_positions": 40}
    config = omniform.AutoConfig.for_model("whisper", **settings)
    ours = omniform.AutoModelForSpeechSeq2Seq.from_config(config)
    expected = transformers.models.whisper.modeling_whisper.sinusoids(40, 32)
    close(ours.base_model.encoder.embed_positions.weight, expected)
    mixed = omniform.AutoConfig.for_model("whisper", **settings, use_weighted_layer_sum=True)
    weights = omniform.AutoModelForAudioClassification.from_config(mixed).layer_mix.weights
    assert weights.tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"input_features": torch.zeros(1, 10, 29)}, "input_features"),
        ({"input_features": torch.zeros(1, 11, 30)}, "input_features"),
        ({"input_features": torch.zeros(10, 30)}, "input_features"),
        ({"input_features": None}, "input_features"),
        ({"decoder_input_ids": torch.zeros(1, 21, dtype=torch.long)}, "positions"),
        ({"decoder_position_ids": torch.tensor([[20]])}, "positions"),
        ({"decoder_input_ids": torch.tensor([[97]])}, "decoder_input_ids"),
        ({"decoder_input_ids": None, "decoder_inputs_embeds": None}, "decoder_input_ids"),
        ({"labels": torch.zeros(1, 21, dtype=torch.long)}, "labels"),
        ({"labels": torch.tensor([[5, 97]])}, "labels"),
    ],
)
def test_bad_inputs(tmp_path, wrong, named):
    ours, _ = pair(tmp_path)
    good = {"input_features": sound(1), "decoder_input_ids": torch.tensor([[3]])}
    with pytest.raises(InputError, match=named):
        ours(**{**good, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoder_attention_heads": 5}, {"decoder_attention_heads": 7}, {"d_model": 33}, {"mask_time_prob": 2.0},
        {"activation_function": "gelo"}, {"encoder_layers": -1}, {"mask_time_length": 0},
    ],
)  # fmt: skip
def test_bad_configs(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        omniform.AutoConfig.for_model("whisper", **{**TINY, **wrong})
