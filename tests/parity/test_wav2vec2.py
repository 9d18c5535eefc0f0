"""wav2vec 2.0 against the reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from askers import Waves
from harness import Head, Parity, Table, compiled
from safetensors.torch import load_file, save_file
from waves import CONTRASTS, TINY, VARIANTS, VOICES, wave_heads

from omniform.core.errors import ConfigError, InputError, WeightsError
from reference import close, compare, omniform, randomise, saved_reference, transformers


class TestWav2Vec2(Parity):
    table = Table(
        model_type="wav2vec2",
        config=transformers.Wav2Vec2Config,
        tiny=TINY,
        heads={
            "Model": Head("Wav2Vec2Model", "AutoModel", Waves(), everywhere=True),
            **wave_heads("Wav2Vec2"),
            "ForXVector": Head("Wav2Vec2ForXVector", "AutoModelForAudioXVector", VOICES),
            "ForPreTraining": Head("Wav2Vec2ForPreTraining", "AutoModelForPreTraining", CONTRASTS, rate=3e-3),
        },
        variants=VARIANTS,
        spellings={"compiled": compiled},
        half=5e-2,
    )


MMS = {**TINY, "do_stable_layer_norm": True, "adapter_attn_dim": 6}


def languages(folder: Path, **letters: int) -> None:
    """Files of languages beside a checkpoint, each with so many letters; the last one's as a pickle."""
    kinds = ["safetensors"] * (len(letters) - 1) + ["bin"]
    for seed, ((language, count), kind) in enumerate(zip(letters.items(), kinds, strict=True)):
        model = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**{**MMS, "vocab_size": count}))
        tensors = {key: value.detach().clone() for key, value in randomise(model, seed + 1)._get_adapters().items()}
        if kind == "bin":
            torch.save(tensors, folder / f"adapter.{language}.bin")
        else:
            save_file(tensors, folder / f"adapter.{language}.safetensors", {"format": "pt"})


def test_languages(tmp_path):
    saved_reference(transformers.Wav2Vec2ForCTC, transformers.Wav2Vec2Config(**MMS), tmp_path)
    languages(tmp_path, fra=23, deu=20, spa=17)
    theirs = transformers.Wav2Vec2ForCTC.from_pretrained(tmp_path).eval()
    ours = omniform.AutoModelForCTC.from_pretrained(tmp_path)
    inputs = {"input_values": torch.randn(2, 300)}
    compare(ours, theirs, inputs, ["logits"])
    for language in ("fra", "spa", "deu", "fra"):
        theirs.load_adapter(language)
        ours.load_adapter(language)
        assert ours.target_lang == language and ours.config.vocab_size == theirs.config.vocab_size
        compare(ours, theirs, inputs, ["logits"])
        begun = omniform.Wav2Vec2ForCTC.from_pretrained(
            tmp_path, target_lang=language, ignore_mismatched_sizes=True, dtype="float32"
        )
        compare(begun, theirs, inputs, ["logits"])
    ours.save_pretrained(tmp_path / "again")
    compare(omniform.AutoModelForCTC.from_pretrained(tmp_path / "again"), theirs, inputs, ["logits"])
    ours.lm_head.weight.data.zero_()
    ours.load_adapter("fra", force_load=False)
    assert not ours.lm_head.weight.any()
    assert ours._get_adapters().keys() == theirs._get_adapters().keys()
    ours.init_adapter_layers()
    assert 0.005 < ours.lm_head.weight.std() < 0.05


def test_wrong_languages(tmp_path):
    saved_reference(transformers.Wav2Vec2ForCTC, transformers.Wav2Vec2Config(**MMS), tmp_path)
    languages(tmp_path, fra=23, spa=20)
    ours = omniform.Wav2Vec2ForCTC.from_pretrained(tmp_path)
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(InputError, match=r"(?s)no adapter of this language.*fra"):
        ours.load_adapter("fre")
    with pytest.raises(InputError, match="no adapter"):
        ours.load_adapter("spa", use_safetensors=True)
    with pytest.raises(InputError, match="code"):
        ours.load_adapter(target_lang="../fra")
    tensors = load_file(tmp_path / "adapter.fra.safetensors")
    tensors["wav2vec2.encoder.layers.1.adapter_layer.linear_1.weight"] = torch.zeros(7, 24)
    save_file({k: v for k, v in tensors.items() if k != "lm_head.bias"}, tmp_path / "adapter.bad.safetensors")
    with pytest.raises(WeightsError, match=r"linear_1.weight: shape \[6, 24\] expected.*missing lm_head.bias"):
        ours.load_adapter("bad")
    assert all(torch.equal(before[key], value) for key, value in ours.state_dict().items()), "nothing was changed"
    plain = omniform.Wav2Vec2ForCTC(omniform.Wav2Vec2Config(**TINY))
    with pytest.raises(InputError, match="adapter_attn_dim"):
        plain.load_adapter(target_lang="fra")


STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "layerdrop": 0.6}
SHRUNK = {"add_adapter": True, "layerdrop": 0.5, "mask_feature_prob": 0.3, "mask_feature_length": 3}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("Wav2Vec2", {}),
        ("Wav2Vec2", {**STABLE, "adapter_attn_dim": 4}),
        ("Wav2Vec2", SHRUNK),
        ("Hubert", {"conv_pos_batch_norm": True, "mask_time_prob": 0.6}),
        ("WavLM", STABLE),
        ("Data2VecAudio", {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5, **SHRUNK}),
        ("UniSpeech", STABLE),
    ],
)
def test_a_seed_trains_the_same(tmp_path, family, changes):
    """Dropouts, layers left out and hidden frames are the reference's, draw for draw."""
    config = getattr(transformers, f"{family}Config")(**{**TINY, "mask_time_prob": 0.3, **changes})
    theirs = saved_reference(getattr(transformers, f"{family}ForCTC"), config, tmp_path)
    ours = omniform.AutoModelForCTC.from_pretrained(tmp_path)
    mask = (torch.arange(413) < torch.tensor([413, 320, 170])[:, None]).long()
    inputs = {"input_values": torch.randn(3, 413), "attention_mask": mask, "labels": torch.tensor([[3], [5], [-100]])}
    losses = []
    for model in (ours, theirs):
        model.set_attn_implementation("eager")
        model.train()
        transformers.set_seed(3)
        losses.append([model(**inputs).loss for _ in range(3)])
    close(*losses)
    assert losses[0][0] != losses[0][1]


def test_a_seed_draws_the_same_codes(tmp_path):
    config = transformers.Wav2Vec2Config(**{**TINY, **CONTRASTS.config, "feat_quantizer_dropout": 0.2})
    theirs = saved_reference(transformers.Wav2Vec2ForPreTraining, config, tmp_path)
    ours = omniform.AutoModelForPreTraining.from_pretrained(tmp_path)
    found = []
    for model in (ours, theirs):
        model.train()
        model.set_gumbel_temperature(0.7)
        torch.manual_seed(3)
        out = model(**CONTRASTS.lesson(config))
        out.loss.backward()
        gradient = model.quantizer.codevectors.grad
        found.append([out.loss, out.projected_quantized_states, out.codevector_perplexity, gradient])
    close(*found)


@pytest.mark.parametrize("augments", [True, False])
@pytest.mark.parametrize("family", ["Wav2Vec2", "Hubert"])
def test_hidden_frames(tmp_path, family, augments):
    config = getattr(transformers, f"{family}Config")(**TINY, apply_spec_augment=augments)
    theirs = saved_reference(getattr(transformers, f"{family}Model"), config, tmp_path)
    ours = omniform.AutoModel.from_pretrained(tmp_path)
    wave = torch.randn(2, 413)
    hidden = torch.arange(2 * 19).view(2, 19) % 3 == 0
    compare(ours, theirs, {"input_values": wave, "mask_time_indices": hidden}, ["last_hidden_state"])
    with torch.no_grad():
        same = torch.equal(ours(wave).last_hidden_state, ours(wave, mask_time_indices=hidden).last_hidden_state)
    assert same is not augments


def test_checkpoints_of_other_ages(tmp_path):
    """Weight norm under its former names, which are kept; what stands for hidden frames missing, or too much."""
    config = transformers.Wav2Vec2Config(**TINY)
    theirs = saved_reference(transformers.Wav2Vec2ForCTC, config, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for new, former in old.items():
        tensors = {key.replace(new, former): tensor for key, tensor in tensors.items()}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    ours = omniform.AutoModelForCTC.from_pretrained(tmp_path)
    inputs = {"input_values": torch.randn(2, 300)}
    compare(ours, theirs, inputs, ["logits"])
    ours.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == tensors.keys()
    bare = omniform.AutoModelForCTC.from_pretrained(tmp_path, mask_time_prob=0.0)
    compare(bare, theirs, inputs, ["logits"])
    del tensors["wav2vec2.masked_spec_embed"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    ours, report = omniform.AutoModelForCTC.from_pretrained(tmp_path, output_loading_info=True)
    assert report["missing_keys"] == {"wav2vec2.masked_spec_embed"}
    compare(ours, theirs, inputs, ["logits"])


def test_inputs_by_position(tmp_path):
    config = transformers.Wav2Vec2Config(**TINY, **CONTRASTS.config)
    mask = (torch.arange(413) < torch.tensor([413, 297, 151])[:, None]).long()
    given = CONTRASTS.lesson(config)
    marks = (given["mask_time_indices"], given["sampled_negative_indices"])
    for head, more in (("ForCTC", (torch.tensor([[3], [5], [-100]]),)), ("ForPreTraining", marks)):
        theirs = saved_reference(getattr(transformers, f"Wav2Vec2{head}"), config, tmp_path / head)
        ours = getattr(omniform, f"Wav2Vec2{head}").from_pretrained(tmp_path / head)
        with torch.no_grad():
            args = (given["input_values"], mask, *more)
            close(ours(*args)[:2], theirs(*args)[:2])
            close(ours(args[0], attention_mask=mask)[:1], theirs(args[0], attention_mask=mask)[:1])
        with pytest.raises(InputError, match="once each"):
            ours(args[0], input_values=args[0])


def test_counts_of_frames():
    config = {**TINY, "add_adapter": True, "adapter_stride": 3}
    ours = omniform.Wav2Vec2Model(omniform.Wav2Vec2Config(**config))
    theirs = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**config))
    assert ours.config.inputs_to_logits_ratio == theirs.config.inputs_to_logits_ratio == 20
    lengths = torch.arange(30, 900, 7)
    for adapted in (None, True, False):
        expected = theirs._get_feat_extract_output_lengths(lengths, adapted)
        assert torch.equal(ours._get_feat_extract_output_lengths(lengths, adapted), expected)
    assert ours.frames_of(413) == int(theirs._get_feat_extract_output_lengths(torch.tensor(413)))
    mask = (torch.arange(413) < torch.tensor([413, 300, 40, 9])[:, None]).long()
    for frames, adapted in ((19, False), (1, None)):
        expected = theirs._get_feature_vector_attention_mask(frames, mask, adapted)
        assert torch.equal(ours._get_feature_vector_attention_mask(frames, mask, adapted), expected)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"input_values": torch.zeros(2, 20)}, "too short"),
        ({"input_values": torch.zeros(400)}, "batch, samples"),
        ({"input_values": torch.zeros(2, 400, dtype=torch.int16)}, "floating-point"),
        ({"input_values": None}, "samples"),
        ({"attention_mask": torch.ones(2, 399)}, "attention_mask"),
        ({"mask_time_indices": torch.ones(2, 3, dtype=torch.bool)}, "mask_time_indices"),
        ({"labels": torch.tensor([[3], [20]])}, "labels"),
        ({"labels": torch.tensor([[3], [-5]])}, "labels"),
    ],
)
def test_bad_inputs(inputs, words):
    ours = omniform.Wav2Vec2ForCTC(omniform.Wav2Vec2Config(**TINY))
    with pytest.raises(InputError, match=words):
        ours(**{"input_values": torch.zeros(2, 400), **inputs})


@pytest.mark.parametrize(("changes", "samples", "least"), [
    ({"adapter_kernel_size": 5, "num_adapter_layers": 2, "adapter_stride": 2}, 110, 160),
    ({"adapter_kernel_size": 1, "num_adapter_layers": 3}, 0, 40),
    ({"add_adapter": False, "conv_dim": [4], "conv_kernel": [10], "conv_stride": [5]}, 14, 15),
])  # fmt: skip
def test_sounds_that_are_too_short(changes, samples, least):
    """For an adapter's convolutions, or for a norm over time; what is told to be enough is."""
    ours = omniform.Wav2Vec2Model(omniform.Wav2Vec2Config(**{**TINY, "add_adapter": True, **changes})).eval()
    with pytest.raises(InputError, match=f"too short.*{least} samples"):
        ours(torch.randn(1, max(samples, least - 1)))
    assert ours(torch.randn(1, least)).last_hidden_state.shape[1] >= 1


@pytest.mark.parametrize("head", ["ForXVector", "ForPreTraining"])
def test_heads_behind_an_adapter_of_another_width(head):
    config = omniform.Wav2Vec2Config(**TINY, add_adapter=True, output_hidden_size=16)
    with pytest.raises(ConfigError, match="output_hidden_size"):
        getattr(omniform, f"Wav2Vec2{head}")(config)


def test_letters_of_a_row_without_a_frame():
    """Such a row loses nothing, or without end; arithmetic that counts more frames than there are is held to them."""
    changes = {"add_adapter": True, "adapter_kernel_size": 5, "adapter_stride": 1, "ctc_zero_infinity": True}
    ours = omniform.Wav2Vec2ForCTC(omniform.Wav2Vec2Config(**{**TINY, **changes})).eval()
    mask = torch.ones(2, 413, dtype=torch.long)
    mask[1, 9:] = 0
    out = ours(torch.randn(2, 413), attention_mask=mask, labels=torch.tensor([[3, 4], [5, 6]]))
    assert out.logits.shape[1] < ours.model.frames_of(413)
    assert out.loss.isfinite()


@pytest.mark.parametrize("wrong", [
    {"conv_kernel": [10, 3]}, {"conv_dim": []}, {"num_conv_pos_embedding_groups": 5}, {"num_attention_heads": 5},
    {"feat_extract_norm": "batch"}, {"ctc_loss_reduction": "max"}, {"tdnn_kernel": [3]}, {"num_codevector_groups": 3},
    {"mask_time_length": 0}, {"hidden_act": "swoosh"},
])  # fmt: skip
def test_bad_configs(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        omniform.Wav2Vec2Config(**{**TINY, **wrong})


def test_no_number_of_letters():
    config = omniform.Wav2Vec2Config(**{**TINY, "vocab_size": None})
    assert omniform.Wav2Vec2Model(config).config.vocab_size is None
    with pytest.raises(ConfigError, match="vocab_size"):
        omniform.Wav2Vec2ForCTC(config)


def test_settings_of_published_configs_are_no_strangers():
    """Those of wav2vec2-base, wavlm-base and their kin, which the reference reads nowhere."""
    stray = {"feat_extract_dropout": 0.0, "freeze_feat_extract_train": True, "mask_channel_prob": 0.0,
        "no_mask_time_overlap": False, "num_feat_extract_layers": 9, "hidden_dropout_prob": 0.1,
        "codevector_dim": 256, "feat_quantizer_dropout": 0.0, "do_stable_layer_norm": False,
        "feat_extract_norm": "layer"}  # fmt: skip
    for kind in ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio"):
        config = omniform.AutoConfig.for_model(kind, **stray)
        assert not config.unknown and config.num_feat_extract_layers == 7
    assert not omniform.AutoConfig.for_model("wav2vec2-bert", codevector_dim=768, num_negatives=100).unknown


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("zero", [True, False])
def test_losses_of_letters(tmp_path, reduction, zero):
    """Rows with too many letters, none at all, and padding between letters."""
    config = transformers.Wav2Vec2Config(**TINY, ctc_loss_reduction=reduction, ctc_zero_infinity=zero, pad_token_id=2)
    theirs = saved_reference(transformers.Wav2Vec2ForCTC, config, tmp_path)
    ours = omniform.AutoModelForCTC.from_pretrained(tmp_path)
    labels = torch.full((3, 30), -100)
    labels[0] = 7
    labels[2, ::5] = torch.arange(6)
    for rows in (slice(None), slice(1, 3)):
        inputs = {"input_values": torch.randn(3, 300)[rows], "labels": labels[rows]}
        with torch.no_grad():
            found, expected = ours(**inputs).loss, theirs(**inputs).loss
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_languages_on_the_hub(hub, tmp_path):
    """One small file is fetched for a language, from the branch that is asked for, and is there offline."""
    saved_reference(transformers.Wav2Vec2ForCTC, transformers.Wav2Vec2Config(**MMS), tmp_path / "made")
    languages(tmp_path / "made", fra=23, deu=20, spa=17)
    hub.upload("ann/mms", tmp_path / "made")
    with hub.connected(cache=tmp_path / "home"):
        ours = omniform.AutoModelForCTC.from_pretrained("ann/mms", target_lang="fra", revision="main")
        with hub.watch() as log:
            ours.load_adapter("spa", revision="main", token=False)
        fetched = {Path(asked.path).name for asked in log.of("GET *") if "/resolve/" in asked.path}
        assert fetched == {"adapter.spa.bin"} and ours.config.vocab_size == 17
        with pytest.raises(InputError, match="deu, fra, spa"):
            ours.load_adapter("spb")
        ours.load_adapter("fra", local_files_only=True)
        here = omniform.AutoModelForCTC.from_pretrained(tmp_path / "made", target_lang="fra")
        assert torch.equal(ours.lm_head.weight, here.lm_head.weight)
