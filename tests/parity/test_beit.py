"""BEiT and data2vec's encoder of pictures against the reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from askers import PROBLEMS, Labels, Nothing, Pictures, Question
from harness import Head, Parity, Table
from segmented import Segments

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, saved_reference, transformers

TINY = {
    "image_size": 16, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2,
    "intermediate_size": 24, "out_indices": [1, 2, 3, 4], "auxiliary_channels": 6, "pool_scales": [1, 2],
    "use_relative_position_bias": True, "use_mask_token": True,
}  # fmt: skip
UNUSED = ("model.mask_token",)
TAPS = ("hidden_states", "attentions")
SHARED = {"use_shared_relative_position_bias": True}
VARIANTS = {
    "plain": {},
    "nothing of distances": {"use_relative_position_bias": False, "use_mask_token": False},
    "distances that layers share": {
        **SHARED,
        "use_relative_position_bias": False,
        "hidden_act": "relu",
        "layer_norm_eps": 1e-2,
    },
    "both, and places": {**SHARED, "use_absolute_position_embeddings": True},
    "the class token": {"use_mean_pooling": False, "layer_scale_init_value": 0.0, "num_channels": 1},
    "wide": {"image_size": [8, 24], "drop_path_rate": 0.4, "hidden_dropout_prob": 0.2},
    "cut off": {"image_size": 18, "num_hidden_layers": 1, "out_indices": [1]},
}


def pair(folder: Path, name: str = "BeitModel", scale: float = 0.3, **changes: object):
    kind = transformers.BeitConfig if "Beit" in name else transformers.Data2VecVisionConfig
    config = kind(**{**TINY, **changes}, attn_implementation="eager")
    theirs = saved_reference(getattr(transformers, name), config, folder, scale=scale)
    return getattr(omniform, name).from_pretrained(folder), theirs


def pictures(n: int = 2, size: tuple[int, int] = (16, 16)) -> torch.Tensor:
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(1))


def hidden_patches(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.4


@dataclass(frozen=True)
class Hidden(Pictures):
    """Pictures of which some patches are hidden, and what they were."""

    def questions(self, config):
        pixels, hidden = {"pixel_values": self.pixels(config)}, hidden_patches(3, 16)
        yield Question(pixels, ("logits", *self.taps))
        yield Question({**pixels, "bool_masked_pos": hidden}, ("logits",))
        yield Question(self.lesson(config), ("loss", "logits"))

    def lesson(self, config):
        hidden = hidden_patches(3, 16)
        labels = torch.arange(int(hidden.sum())) % 11
        labels[1] = -100
        return {"pixel_values": self.pixels(config), "bool_masked_pos": hidden, "labels": labels}


def classifier(labels: Labels, prefix: str = "Beit", taps: tuple[str, ...] = TAPS) -> Head:
    return Head(
        f"{prefix}ForImageClassification", "AutoModelForImageClassification", Pictures(labels, taps), unused=UNUSED
    )


def segmenter(prefix: str, **changes: object) -> Head:
    # The maps of pictures of another size than the model's are the reference's squares in data2vec's.
    size = (19, 27) if prefix == "Beit" else (16, 16)
    taps, ignored = TAPS if prefix == "Beit" else TAPS[:1], changes.get("semantic_loss_ignore_index", 255)
    asks = Segments(size, changes, ignored=ignored, taps=taps)
    unused = ("model.layers.3", *UNUSED)  # what a map is made of is what enters a layer
    return Head(f"{prefix}ForSemanticSegmentation", "AutoModelForSemanticSegmentation", asks, unused=unused, rate=3e-3)


BASE = Pictures(Nothing(("last_hidden_state", "pooler_output")))


def maps(**changes: object) -> Head:
    return Head("BeitBackbone", "AutoBackbone", Pictures(Nothing(("feature_maps",), {**changes})))


class TestBeit(Parity):
    table = Table(
        model_type="beit",
        config=transformers.BeitConfig,
        tiny=TINY,
        heads={
            "Model": Head("BeitModel", "AutoModel", BASE, everywhere=True),
            "ForImageClassification, classes": classifier(PROBLEMS["classes"]),
            "ForImageClassification, no classes": classifier(Nothing(("logits",), {"num_labels": 0})),
            "ForMaskedImageModeling": Head(
                "BeitForMaskedImageModeling", "",
                Hidden(Nothing(config={"vocab_size": 11})),
            ),
            "ForMaskedImageModeling, two norms": Head(
                "BeitForMaskedImageModeling", "", Hidden(Nothing(config={"vocab_size": 11, "use_mean_pooling": False}))
            ),
            "ForSemanticSegmentation": segmenter("Beit"),
            "ForSemanticSegmentation, one head": segmenter("Beit", use_auxiliary_head=False, **SHARED),
            "ForSemanticSegmentation, more layers": segmenter(
                "Beit", auxiliary_num_convs=2, auxiliary_concat_input=True, auxiliary_loss_weight=0.7,
                semantic_loss_ignore_index=3,
            ),
            "Backbone": maps(),
            "Backbone, of two stages": maps(out_features=["stem", "stage3"], out_indices=None, **SHARED),
            "Backbone, four sizes": maps(add_fpn=True, use_mean_pooling=False),
            "Backbone, rows": maps(reshape_hidden_states=False),
        },
        variants=VARIANTS,
    )  # fmt: skip


class TestData2VecVision(Parity):
    table = Table(
        model_type="data2vec-vision",
        config=transformers.Data2VecVisionConfig,
        tiny=TINY,
        heads={
            # The reference shows weights only if its config asked for them to be written out.
            "Model": Head(
                "Data2VecVisionModel",
                "AutoModel",
                Pictures(Nothing(("last_hidden_state",)), ("hidden_states",)),
                everywhere=True,
            ),
            "ForImageClassification": classifier(PROBLEMS["classes"], "Data2VecVision", TAPS[:1]),
            "ForSemanticSegmentation": segmenter("Data2VecVision"),
        },
        variants={name: VARIANTS[name] for name in ("plain", "both, and places")},
    )


@pytest.mark.parametrize("size", [(16, 16), (24, 24), (9, 30), (4, 4)])
def test_other_sizes(tmp_path, size):
    ours, theirs = pair(tmp_path, **SHARED, use_absolute_position_embeddings=True)
    for told in ({}, {"interpolate_pos_encoding": True}):
        compare(ours, theirs, {"pixel_values": pictures(size=size), **told}, ["last_hidden_state", "pooler_output"])


def test_data2vec_shows_its_weights(tmp_path):
    ours, theirs = pair(tmp_path, "Data2VecVisionModel", **SHARED)
    compare(ours, theirs, {"pixel_values": pictures()}, ["last_hidden_state", "attentions"])


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_mask(tmp_path, implementation):
    ours, theirs = pair(tmp_path)
    ours.set_attn_implementation(implementation)
    mask = torch.ones(2, 17, dtype=torch.long)
    mask[0, 9:] = 0
    compare(ours, theirs, {"pixel_values": pictures(), "attention_mask": mask}, ["last_hidden_state"])


@pytest.mark.parametrize("name", ["BeitModel", "Data2VecVisionModel"])
def test_chance_falls_on_the_same_places(tmp_path, name):
    ours, theirs = pair(tmp_path, name, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2, drop_path_rate=0.4)
    ours.set_attn_implementation("eager")
    found = []
    for model in (ours, theirs):
        torch.manual_seed(3)
        with torch.no_grad():
            found.append(model.train()(pictures(4)).last_hidden_state)
    close(*found)


def test_batch_norms_train(tmp_path):
    ours, theirs = pair(tmp_path, "BeitForSemanticSegmentation", drop_path_rate=0.0)
    inputs = {"pixel_values": pictures(), "labels": torch.randint(0, 2, (2, 16, 16))}
    for model in (ours.train(), theirs.train()):
        model(**inputs).loss.backward()
    close(ours.fpn.fpn2.weight.grad, theirs.fpn.fpn2.weight.grad)
    compare(ours.eval(), theirs.eval(), {"pixel_values": pictures()}, ["logits"])


def test_hidden_states_where_they_are_asked_for(tmp_path):
    ours, _ = pair(tmp_path, "BeitForSemanticSegmentation")
    assert list(ours(pictures())) == ["logits"]
    assert len(ours(pictures(), output_hidden_states=True).hidden_states) == 5


def test_labels_of_hidden_patches_are_needed(tmp_path):
    ours, _ = pair(tmp_path, "BeitForMaskedImageModeling", vocab_size=11)
    with pytest.raises(InputError, match="bool_masked_pos"):
        ours(pictures(), labels=torch.zeros(3, dtype=torch.long))
    with pytest.raises(InputError, match="0 to 10"):
        ours(pictures(), bool_masked_pos=hidden_patches(2, 16), labels=torch.full((3,), 11))
    bare, _ = pair(tmp_path / "bare", "BeitForMaskedImageModeling", vocab_size=11, use_mask_token=False)
    with pytest.raises(InputError, match="mask token"):
        bare(pictures(), bool_masked_pos=hidden_patches(2, 16))


@pytest.mark.parametrize(
    "change",
    [{"add_fpn": True, "out_indices": [1, 2]}, {"out_indices": [9]}, {"num_attention_heads": 3}, {"pool_scales": [0]}],
    ids=str,
)
def test_bad_configs(change):
    with pytest.raises(ConfigError):
        omniform.AutoConfig.for_model("beit", **{**TINY, **change})


def test_segmentation_needs_four_maps():
    for kind in (omniform.BeitConfig, omniform.Data2VecVisionConfig):
        config = kind(**{**TINY, "out_indices": [1, 2]})
        with pytest.raises(ConfigError, match="four maps"):
            omniform.AutoModelForSemanticSegmentation.from_config(config)


def test_former_name_of_the_maps():
    config = omniform.BeitConfig(**{**TINY, "out_indices": None}, segmentation_indices=[1, 2, 3, 4])
    assert config.spec.shared.outputs == (1, 2, 3, 4) and not config.unknown


def test_fresh_weights():
    config = omniform.BeitConfig(**TINY, **SHARED, use_absolute_position_embeddings=True)
    made = omniform.BeitModel(config)
    for zeros in (made.positions, made.class_token, made.shared_position_bias, made.layers[1].self_attn.bias):
        assert zeros.weight.abs().sum() == 0
    assert torch.allclose(made.layers[1].layer_scale1.lambda1, torch.tensor(0.1))
