"""TimeSformer against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from askers import PROBLEMS, Films, Labels, Nothing, Question, noise
from harness import Head, Parity, Table

from omniform.core.errors import ConfigError, InputError
from reference import close, omniform, saved_reference, transformers

modeling_timesformer = transformers.models.timesformer.modeling_timesformer

TINY = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4, "num_frames": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Clips(Films):
    """Videos of other sizes and lengths too: (frames, height, width)."""

    sizes: tuple[tuple[int, int, int], ...] = ()

    def questions(self, config: object) -> Iterator[Question]:
        yield from super().questions(config)
        for frames, height, width in self.sizes:
            clip = noise(2, frames, config.num_channels, height, width)
            yield Question({"pixel_values": clip}, (*self.labels.fields, *self.taps))


SIZES = ((4, 16, 16), (4, 8, 24), (4, 17, 11), (4, 4, 16), (8, 8, 8), (2, 8, 8), (1, 16, 32))


def classifier(labels: Labels) -> Head:
    name = "TimesformerForVideoClassification"
    return Head(name, "AutoModelForVideoClassification", Films(labels), rate=1e-3)


class TestTimesformer(Parity):
    table = Table(
        model_type="timesformer",
        config=transformers.TimesformerConfig,
        tiny=TINY,
        heads={
            "Model": Head("TimesformerModel", "AutoModel", Clips(Nothing(), sizes=SIZES), everywhere=True),
            **{f"ForVideoClassification, {name}": classifier(labels) for name, labels in PROBLEMS.items()},
            "ForVideoClassification, frame by frame": classifier(
                Nothing(("logits",), {"num_labels": 3, "attention_type": "space_only"})
            ),
        },
        variants={
            "plain": {},
            "joint": {"attention_type": "joint_space_time", "hidden_act": "relu"},
            "space": {"attention_type": "space_only", "layer_norm_eps": 1e-2, "qkv_bias": False},
            "no biases": {"qkv_bias": False, "num_channels": 1, "hidden_act": "gelu_new", "layer_norm_eps": 1e-2},
        },
    )


def pair(folder, head="Model", **changes):
    config = transformers.TimesformerConfig(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"Timesformer{head}"), config, folder)
    return getattr(omniform, f"Timesformer{head}").from_pretrained(folder), theirs


@pytest.mark.parametrize("changes", [
    {"hidden_dropout_prob": 0.3}, {"attention_probs_dropout_prob": 0.3},
    {"attention_type": "joint_space_time", "hidden_dropout_prob": 0.3}, {"drop_path_rate": 0.4},
])  # fmt: skip
def test_dropout_falls_on_the_same_places(tmp_path, changes):
    rate = changes.get("drop_path_rate", 0.0)
    ours, theirs = pair(tmp_path, **{key: value for key, value in changes.items() if key != "drop_path_rate"})
    # The reference's config takes whole numbers only.
    theirs.encoder.layer[1].drop_path = modeling_timesformer.TimesformerDropPath(rate)
    ours.layers[1].drop_path.p = rate
    ours.set_attn_implementation("eager")
    found = []
    for model in (ours, theirs):
        model.train()
        torch.manual_seed(3)
        with torch.no_grad():
            found.append(model(noise(6, 4, 3, 8, 8)).last_hidden_state)
    close(*found)
    with torch.no_grad():
        assert not torch.equal(found[0], ours.eval()(noise(6, 4, 3, 8, 8)).last_hidden_state)


def test_drop_path_grows_from_layer_to_layer():
    config = omniform.TimesformerConfig(**{**TINY, "num_hidden_layers": 3, "drop_path_rate": 0.5})
    assert [layer.drop_path.p for layer in omniform.TimesformerModel(config).layers] == [0, 0.25, 0.5]


def test_from_scratch():
    ours = omniform.TimesformerForVideoClassification(omniform.TimesformerConfig(**TINY, initializer_range=0.1))
    assert not ours.model.times.weight.any()
    assert 0.05 < ours.model.positions.weight.std() < 0.2


@pytest.mark.parametrize(("clip", "words"), [
    (torch.zeros(1, 3, 8, 8), "batch, frames, 3"), (torch.zeros(1, 4, 1, 8, 8), "batch, frames, 3"),
    (torch.zeros(1, 0, 3, 8, 8), "frames"), (torch.zeros(1, 4, 3, 2, 8), "smaller than a patch"),
    (torch.zeros(1, 3, 3, 12, 4), "num_frames"), (torch.zeros(1, 4, 3, 8, 8, dtype=torch.uint8), "floating-point"),
])  # fmt: skip
def test_bad_inputs(tmp_path, clip, words):
    ours, _ = pair(tmp_path)
    with pytest.raises(InputError, match=words):
        ours(clip)


@pytest.mark.parametrize("change", [{"attention_type": "time_only"}, {"num_frames": 0}, {"patch_size": 9}])
def test_bad_configs(change):
    with pytest.raises(ConfigError):
        omniform.AutoConfig.for_model("timesformer", **{**TINY, **change})
