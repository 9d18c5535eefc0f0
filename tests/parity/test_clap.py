"""CLAP and its towers against the reference."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from askers import Given, Inputs, Nothing, Question, Text, noise
from harness import Head, Parity, Table, compiled
from safetensors.torch import load_file, save_file

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, padded, ragged, saved_reference, transformers

TEXT = {
    "vocab_size": 60, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 20, "projection_dim": 12,
}  # fmt: skip
AUDIO = {
    "window_size": 4, "num_mel_bins": 8, "spec_size": 32, "patch_size": 2, "patch_stride": 2, "depths": [2, 2],
    "num_attention_heads": [2, 4], "patch_embeds_hidden_size": 12, "hidden_size": 24, "projection_dim": 12,
}  # fmt: skip
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
FUSED = {"enable_fusion": True, "fusion_type": "aff_2d"}

TEXT_VARIANTS = {
    "plain": {},
    "relu": {"hidden_act": "relu", "layer_norm_eps": 1e-2, "projection_hidden_act": "gelu", "type_vocab_size": 2},
    "other padding": {"pad_token_id": 3, "num_hidden_layers": 1},
}
AUDIO_VARIANTS = {
    "plain": {},
    "fused": FUSED,
    "fused, overlapping": {**FUSED, "aff_block_r": 3, "patch_size": 6, "enable_patch_layer_norm": False},
    "fused, of no kind": {"enable_fusion": True, "patch_size": [2, 4], "patch_stride": [2, 4], "depths": [1, 1]},
    "no biases": {"qkv_bias": False, "hidden_act": "relu", "layer_norm_eps": 1e-2, "projection_hidden_act": "tanh"},
    "one stage": {"depths": [2], "hidden_size": 12, "mlp_ratio": 1.5, "num_hidden_layers": 7},
    "two channels": {"patch_embed_input_channels": 2, "window_size": 8, "drop_path_rate": 0.3},
    "stretched bands": {"num_mel_bins": 14, "spec_size": 32, "fusion_type": "daf_2d"},
    "whole": {"num_mel_bins": 32, "aff_block_r": 100},
}


def views_of(config: object) -> int:
    return 4 if config.enable_fusion else config.patch_embed_input_channels


def frames_of(config: object) -> int:
    """Of a spectrogram that is not stretched."""
    return config.spec_size * (config.spec_size // config.num_mel_bins)


def heard(config: object, rows: int = 3, frames: int | None = None, longer: tuple[int, ...] = (0, 1, 1)) -> Inputs:
    """Spectrograms of some sounds, and which are longer than the model hears."""
    frames = frames_of(config) if frames is None else frames
    features = noise(rows, views_of(config), frames, config.num_mel_bins)
    told = {"is_longer": torch.tensor(longer[:rows]).bool()[:, None]} if config.enable_fusion else {}
    return {"input_features": features, **told}


@dataclass(frozen=True)
class Sounds:
    """Spectrograms of the model's own length and of others."""

    vector: str
    config: Mapping[str, object] = field(default_factory=dict)

    def questions(self, config: object) -> Iterator[Question]:
        fields = ("last_hidden_state", self.vector)
        yield Question(heard(config), (*fields, "hidden_states", "attentions"))
        before = {"output_hidden_states_before_downsampling": True}
        yield Question({**heard(config, 2), **before}, (*fields, "hidden_states"))
        if frames_of(config) == config.spec_size or config.spec_size % config.num_mel_bins == 0:
            yield Question(heard(config, 2, frames_of(config) - 5), fields)
        if config.enable_fusion:
            yield Question(heard(config, 2, longer=(0, 0)), fields)
            yield Question(heard(config, 1, longer=(1,)), fields)

    def lesson(self, config: object) -> Inputs | None:
        return None


class TestClapText(Parity):
    table = Table(
        model_type="clap_text_model",
        config=transformers.ClapTextConfig,
        tiny=TEXT,
        heads={
            "Model": Head(
                "ClapTextModel", "AutoModel",
                Text(Nothing(("last_hidden_state", "pooler_output")), vocabulary=60, lengths=(10, 7, 3)),
            ),
            "WithProjection": Head(
                "ClapTextModelWithProjection", "",
                Text(Nothing(("text_embeds", "last_hidden_state")), vocabulary=60, lengths=(10, 7, 3)),
                everywhere=True,
            ),
        },
        variants=TEXT_VARIANTS,
    )  # fmt: skip


class TestClapAudio(Parity):
    table = Table(
        model_type="clap_audio_model",
        config=transformers.ClapAudioConfig,
        tiny=AUDIO,
        heads={
            "Model": Head("ClapAudioModel", "AutoModel", Sounds("pooler_output")),
            "WithProjection": Head("ClapAudioModelWithProjection", "", Sounds("audio_embeds"), everywhere=True),
        },
        variants=AUDIO_VARIANTS,
    )


def texts(lengths: tuple[int, ...] = (9, 6, 2)) -> Inputs:
    ids, mask = padded(ragged(60, lengths), pad=1)
    return {"input_ids": ids, "attention_mask": mask}


def both(text: Mapping[str, object] = {}, audio: Mapping[str, object] = {}, **changes: object) -> object:
    return transformers.ClapConfig(
        text_config={**TEXT, **STILL, **text},
        audio_config={**AUDIO, **STILL, **audio},
        **{"projection_dim": 10, **changes},
    )


FIELDS = ("logits_per_audio", "logits_per_text", "text_embeds", "audio_embeds")


def compared(config: object) -> list[Question]:
    inputs = {**texts(), **heard(config.audio_config)}
    asked = [Question(inputs, FIELDS), Question({**inputs, "return_loss": True}, ("loss", *FIELDS))]
    fewer = {**texts((9, 2)), **heard(config.audio_config), "return_loss": True}
    return [*asked, Question(fewer, ("loss", *FIELDS))]


def lesson(config: object) -> Inputs:
    return {**texts(), **heard(config.audio_config), "return_loss": True}


class TestClap(Parity):
    table = Table(
        model_type="clap",
        config=lambda **changes: both(**changes),
        config_class=transformers.ClapConfig,
        tiny={},
        heads={"Model": Head("ClapModel", "AutoModel", Given(compared, lesson), everywhere=True, rate=1e-3)},
        variants={
            "plain": {},
            "fused": {"audio": FUSED},
            "other space": {"projection_dim": 7, "projection_hidden_act": "gelu", "logit_scale_init_value": 3.0},
        },
        derived=frozenset({"text_config", "audio_config"}),
        spellings={"compiled": compiled},
    )


def pair(folder: Path, head: str, config: object) -> tuple[object, object]:
    theirs = saved_reference(getattr(transformers, head), config, folder)
    return getattr(omniform, head).from_pretrained(folder), theirs


@pytest.mark.parametrize("longer", [(1, 0, 1, 1), (0, 0, 0, 0)])
def test_fusion_learns_from_longer_sounds_alone(tmp_path, longer):
    """Statistics of a batch are those of the rows that are fused; running ones too, and none where no row is."""
    config = transformers.ClapAudioConfig(**{**AUDIO, **FUSED, **STILL})
    ours, theirs = pair(tmp_path, "ClapAudioModelWithProjection", config)
    inputs = heard(config, 4, longer=longer)
    ours.train(), theirs.train()
    found, expected = ours(**inputs), theirs(**inputs)
    close(found.audio_embeds, expected.audio_embeds)
    for out in (found, expected):
        out.audio_embeds.square().mean().backward()
    ours.save_pretrained(tmp_path / "again")
    kept, state = load_file(tmp_path / "again" / "model.safetensors"), theirs.state_dict()
    assert kept.keys() == state.keys()
    for key, tensor in kept.items():
        close(tensor, state[key], key)
    mine, others = dict(ours.model.named_parameters()), dict(theirs.audio_model.audio_encoder.named_parameters())
    close(mine["patches.projection.weight"].grad, others["patch_embed.proj.weight"].grad)
    if any(longer):
        close(mine["patches.parts.weight"].grad, others["patch_embed.mel_conv2d.weight"].grad)
        close(
            mine["patches.fusion.local.up_norm.weight"].grad, others["patch_embed.fusion_model.local_att.4.weight"].grad
        )


@pytest.mark.parametrize(
    "dropped", [{"drop_path_rate": 0.5}, {"hidden_dropout_prob": 0.4}, {"attention_probs_dropout_prob": 0.3}]
)
def test_luck_falls_on_the_same_places(tmp_path, dropped):
    config = transformers.ClapAudioConfig(**{**AUDIO, "hidden_dropout_prob": 0.0, **dropped})
    ours, theirs = pair(tmp_path, "ClapAudioModel", config)
    outputs = []
    for model in (ours, theirs):
        model.set_attn_implementation("eager")
        model.train()
        torch.manual_seed(3)
        outputs.append(model(**heard(config)).pooler_output)
    close(*outputs)


@torch.no_grad()
def test_features_of_texts_and_of_sounds(tmp_path):
    ours, theirs = pair(tmp_path, "ClapModel", both(audio=FUSED))
    sounds, asked = heard(theirs.config.audio_config), {"output_hidden_states": True}
    for name, inputs in (("get_text_features", texts()), ("get_audio_features", sounds)):
        found, expected = (getattr(model, name)(**inputs, **asked) for model in (ours, theirs))
        close(found.to_tuple(), tuple(v for v in expected.to_tuple() if v is not None), name)
        assert found.keys() == [k for k, v in expected.items() if v is not None]
    close(ours.get_audio_features(**sounds, attention_mask=None).pooler_output, expected.pooler_output)
    whole, other = (m(**texts(), **sounds, **asked) for m in (ours, theirs))
    assert whole.keys() == list(other.keys())
    close(whole.audio_model_output.to_tuple(), other.audio_model_output.to_tuple())
    close(whole.text_model_output.pooler_output, other.text_model_output.pooler_output)
    with pytest.raises(TypeError, match="get_audio_features has no argument 'longer'"):
        ours.get_audio_features(**sounds, longer=None)


@pytest.mark.parametrize("side", ["text", "audio"])
@pytest.mark.parametrize("projects", [False, True])
@torch.no_grad()
def test_a_tower_from_a_folder_of_both(tmp_path, side, projects):
    head = f"Clap{side.title()}Model" + "WithProjection" * projects
    _, theirs = pair(tmp_path / "both", "ClapModel", both())
    ours = getattr(omniform, head).from_pretrained(tmp_path / "both")
    inputs = texts() if side == "text" else heard(theirs.config.audio_config)
    name, expected = "pooler_output", getattr(theirs, f"{side}_model")(**inputs).pooler_output
    if projects:
        name, expected = f"{side}_embeds", getattr(theirs, f"{side}_projection")(expected)
    close(ours(**inputs)[name], expected)
    ours.save_pretrained(tmp_path / "tower")
    again = getattr(transformers, head).from_pretrained(tmp_path / "tower")
    compare(ours, again, inputs, [name])


def test_old_files(tmp_path):
    """Of the first release: strange keys in the config, and no numbers of positions and distances in the weights."""
    _, theirs = pair(tmp_path, "ClapModel", both())
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"] |= {
        "position_embedding_type": "absolute", "fusion_hidden_size": 768, "fusion_num_hidden_layers": 2,
        "projection_hidden_size": 768, "use_cache": True, "classifier_dropout": None, "is_decoder": False,
    }  # fmt: skip
    config["audio_config"] |= {
        "enable_patch_fusion": True, "fusion_num_hidden_layers": 2, "projection_hidden_size": 768,
        "patch_stride": [2, 2],
    }  # fmt: skip
    del config["text_config"]["projection_dim"], config["audio_config"]["projection_hidden_act"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "model.safetensors")
    lacks = ("position_ids", "token_type_ids", "relative_position_index")
    kept = {key: tensor for key, tensor in tensors.items() if not key.endswith(lacks)}
    assert len(kept) < len(tensors)
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    ours, report = omniform.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report.fresh and not report.unexpected and not ours.config.unknown
    assert ours.config.text_config.projection_dim == ours.config.audio_config.projection_dim == 10
    compare(ours, theirs, {**texts(), **heard(theirs.config.audio_config)}, FIELDS)
    ours.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == kept.keys()


def test_squares_of_their_own_size_on_small_maps(tmp_path):
    """The reference remembers what it was asked first: it is asked for such squares before anything else."""
    config = transformers.ClapAudioConfig(**{**AUDIO, "window_size": 6})
    ours, theirs = pair(tmp_path, "ClapAudioModel", config)
    inputs = {**heard(config), "always_partition": True}
    compare(ours, copy.deepcopy(theirs), inputs, ["last_hidden_state", "hidden_states"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_features": torch.zeros(3, 4, 129, 8)}, "at most 128 frames"),
        ({"input_features": torch.zeros(3, 4, 128, 9)}, "batch, views, frames, 8"),
        ({"input_features": torch.zeros(3, 4, 128)}, "shape"),
        ({"input_features": torch.zeros(3, 4, 128, 8, dtype=torch.long)}, "floating-point"),
        ({"input_features": None}, "input_features"),
        ({"input_features": torch.zeros(3, 1, 128, 8)}, "several views"),
        ({"input_ids": None}, "input_ids"),
        ({"is_longer": None}, "is_longer"),
        ({"is_longer": torch.ones(2, 1)}, "is_longer"),
        ({"is_longer": [[True]] * 3}, "is_longer"),
        ({"return_loss": True, **texts((9, 6, 2, 3))}, "at most 3 texts"),
        ({"input_ids": torch.tensor([[60]])}, "60"),
    ],
)
def test_bad_inputs(change, words):
    ours = omniform.ClapModel(omniform.ClapConfig.from_dict(both(audio=FUSED).to_dict()))
    given = {**texts(), **heard(both(audio=FUSED).audio_config), **change}
    with pytest.raises(InputError, match=words):
        ours(**{name: value for name, value in given.items() if name != "attention_mask"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"flatten_patch_embeds": False}, {**FUSED, "fusion_type": "channel_map"}, {"num_mel_bins": 64},
        {**FUSED, "patch_embed_input_channels": 2}, {"patch_size": 5}, {"patch_size": 1}, {"spec_size": 36},
        {"depths": [2]}, {"num_attention_heads": [5, 5]}, {**FUSED, "aff_block_r": 13}, {"hidden_size": 25},
    ],
)  # fmt: skip
def test_bad_configs(wrong):
    with pytest.raises(ConfigError):
        omniform.ClapAudioModelWithProjection(omniform.ClapAudioConfig(**{**AUDIO, **wrong}))


def test_other_bad_configs():
    for wrong in ({"logit_scale_init_value": 0.0}, {"text_config": {"model_type": "bert"}}, {"audio_config": 5}):
        with pytest.raises(ConfigError):
            omniform.ClapConfig(**wrong)
