"""VideoMAE against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from askers import PROBLEMS, Films, Labels, Nothing, Question, noise
from harness import Head, Parity, Table
from safetensors.torch import load_file, save_file

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, saved_reference, transformers

TINY = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4, "num_frames": 4, "decoder_hidden_size": 12, "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2, "decoder_intermediate_size": 20,
}  # fmt: skip


def marks(rows: int, patches: int, hidden: int = 5) -> torch.Tensor:
    """So many patches of every row, others in each."""
    luck = torch.rand(rows, patches, generator=torch.Generator().manual_seed(2))
    return luck.argsort(1).argsort(1) < hidden


@dataclass(frozen=True)
class Masked(Films):
    """Videos of which some patches are hidden."""

    hidden: int = 5

    def inputs(self, config: object) -> dict[str, object]:
        pixels = self.pixels(config)
        patches = (pixels.shape[1] // config.tubelet_size) * (pixels.shape[3] // 4) * (pixels.shape[4] // 4)
        return {"pixel_values": pixels, "bool_masked_pos": marks(len(pixels), patches, self.hidden)}

    def questions(self, config: object) -> Iterator[Question]:
        yield Question(self.inputs(config), (*self.labels.fields, *self.taps))

    def lesson(self, config: object) -> dict[str, object] | None:
        return self.inputs(config) if "loss" in self.labels.fields else None


def drawer(hidden: int = 5, **config: object) -> Head:
    asker = Masked(Nothing(("loss", "logits"), config), hidden=hidden)
    return Head("VideoMAEForPreTraining", "AutoModelForPreTraining", asker, rate=1e-3)


def classifier(labels: Labels) -> Head:
    return Head("VideoMAEForVideoClassification", "AutoModelForVideoClassification", Films(labels), rate=1e-3)


class TestVideoMAE(Parity):
    table = Table(
        model_type="videomae",
        config=transformers.VideoMAEConfig,
        tiny=TINY,
        heads={
            "Model": Head("VideoMAEModel", "AutoModel", Films(Nothing()), everywhere=True),
            "Model, masked": Head("VideoMAEModel", "AutoModel", Masked(Nothing(config={"use_mean_pooling": False}))),
            **{f"ForVideoClassification, {name}": classifier(labels) for name, labels in PROBLEMS.items()},
            "ForVideoClassification, first patch": classifier(
                Nothing(("logits",), {"use_mean_pooling": False, "num_labels": 3})
            ),
            "ForPreTraining": drawer(),
            "ForPreTraining, as they were": drawer(3, norm_pix_loss=False, use_mean_pooling=False, tubelet_size=1),
            "ForPreTraining, grey": drawer(1, num_channels=1, qv_bias=False, hidden_act="relu", image_size=[8, 12]),
        },
        variants={
            "plain": {},
            "normed": {"use_mean_pooling": False, "layer_norm_eps": 1e-2, "hidden_act": "gelu_new"},
            "odd": {"tubelet_size": 3, "num_frames": 7, "num_channels": 1, "qv_bias": False},
            "wide": {"image_size": [8, 18], "patch_size": [2, 6]},
        },
    )


def pair(folder, head="Model", **changes):
    config = transformers.VideoMAEConfig(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"VideoMAE{head}"), config, folder)
    return getattr(omniform, f"VideoMAE{head}").from_pretrained(folder), theirs


def test_published_spelling_of_biases(tmp_path):
    """Checkpoints on the Hub have ``q_bias`` and ``v_bias`` beside the matrices."""
    _, theirs = pair(tmp_path, "ForPreTraining")
    tensors = load_file(tmp_path / "model.safetensors")
    old = {key.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): x for key, x in tensors.items()}
    assert sum(key.endswith("q_bias") for key in old) == 4
    save_file(old, tmp_path / "model.safetensors", {"format": "pt"})
    ours, report = omniform.VideoMAEForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not report.fresh and not report.unused
    inputs = {"pixel_values": noise(2, 4, 3, 8, 8), "bool_masked_pos": marks(2, 8)}
    compare(ours, theirs, inputs, ["loss", "logits"])


def test_old_name_of_the_biases_field():
    for config in (transformers.VideoMAEConfig(**TINY, qkv_bias=False), transformers.VideoMAEConfig(**TINY)):
        ours = omniform.VideoMAEModel(omniform.VideoMAEConfig(**TINY, qkv_bias=config.qv_bias))
        assert (ours.layers[0].self_attn.q_proj.bias is not None) == config.qv_bias


def test_frames_that_fill_no_patch_are_not_read(tmp_path):
    ours, theirs = pair(tmp_path, num_frames=5)
    for frames in (4, 5):
        compare(ours, theirs, {"pixel_values": noise(1, frames, 3, 8, 8)}, ["last_hidden_state"])


@pytest.mark.parametrize("changes", [{"hidden_dropout_prob": 0.3}, {"attention_probs_dropout_prob": 0.3}])
def test_dropout_falls_on_the_same_places(tmp_path, changes):
    ours, theirs = pair(tmp_path, "ForPreTraining", **changes)
    found = []
    for model in (ours, theirs):
        model.set_attn_implementation("eager")
        model.train()
        torch.manual_seed(3)
        with torch.no_grad():
            found.append(model(noise(2, 4, 3, 8, 8), bool_masked_pos=marks(2, 8)).logits)
    close(*found)
    assert not torch.equal(found[0], ours.eval()(noise(2, 4, 3, 8, 8), marks(2, 8)).logits)


def test_hidden_patches_of_several_batches(tmp_path):
    ours, _ = pair(tmp_path, "ForPreTraining")
    inputs = {"pixel_values": noise(2, 4, 3, 8, 8), "bool_masked_pos": marks(2, 8)}
    with torch.no_grad():
        close(ours(**inputs, num_items_in_batch=7).loss, ours(**inputs).loss * ours.loss_items(inputs) / 7)


def test_half_precision(tmp_path):
    """Positions are rounded as the reference rounds them."""
    ours, theirs = pair(tmp_path)
    found = [model.to(torch.bfloat16)(noise(1, 4, 3, 8, 8).bfloat16()).last_hidden_state for model in (ours, theirs)]
    close(*(x.detach() for x in found), tolerance=0.1)


def test_from_scratch():
    ours = omniform.VideoMAEForPreTraining(omniform.VideoMAEConfig(**TINY))
    assert not ours.decoder.mask_token.weight.any()
    assert not any("positions" in key for key in ours.state_dict())


@pytest.mark.parametrize(("inputs", "words"), [
    ({"pixel_values": torch.zeros(2, 3, 3, 8, 8)}, "4 or 5"), ({"pixel_values": torch.zeros(2, 4, 3, 8, 9)}, "8, 8"),
    ({"pixel_values": torch.zeros(2, 4, 8, 8)}, "shape"), ({"bool_masked_pos": marks(2, 9)}, "bool_masked_pos"),
    ({"bool_masked_pos": None}, "nobody says"), ({"pixel_values": None}, "no videos"),
    ({"bool_masked_pos": torch.arange(16).view(2, 8) < 4}, "found 4, 0"),
    ({"bool_masked_pos": torch.zeros(2, 8, dtype=torch.bool)}, "from 1 to 7"),
    ({"bool_masked_pos": torch.ones(2, 8, dtype=torch.bool)}, "from 1 to 7"),
])  # fmt: skip
def test_bad_inputs(tmp_path, inputs, words):
    ours, _ = pair(tmp_path, "ForPreTraining")
    with pytest.raises(InputError, match=words):
        ours(**{"pixel_values": noise(2, 4, 3, 8, 8), "bool_masked_pos": marks(2, 8), **inputs})


@pytest.mark.parametrize("change", [{"tubelet_size": 5}, {"num_frames": 0}, {"decoder_num_attention_heads": 5},
                                    {"num_attention_heads": 3}])  # fmt: skip
def test_bad_configs(change):
    with pytest.raises(ConfigError):
        omniform.AutoConfig.for_model("videomae", **{**TINY, **change})


def test_grey_pixels_as_they_were_have_no_loss():
    """The reference finds out in its first forward."""
    with pytest.raises(ConfigError, match="norm_pix_loss"):
        omniform.VideoMAEForPreTraining(omniform.VideoMAEConfig(**TINY, num_channels=1, norm_pix_loss=False))
