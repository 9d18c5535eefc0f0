"""SegFormer against the reference."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from askers import PROBLEMS, Nothing, Question
from harness import Head, Parity, Table

from omniform.core.errors import ConfigError, InputError
from reference import close, compare, omniform, saved_reference, transformers

TINY = {
    "num_encoder_blocks": 2, "depths": [1, 2], "hidden_sizes": [8, 12], "num_attention_heads": [1, 3],
    "sr_ratios": [2, 1], "patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [2, 3], "decoder_hidden_size": 10,
}  # fmt: skip

FOUR = {
    "num_encoder_blocks": 4, "depths": [1, 1, 1, 1], "hidden_sizes": [4, 6, 8, 10], "num_attention_heads": [1, 2, 2, 5],
    "sr_ratios": [8, 4, 2, 1], "patch_sizes": [7, 3, 3, 3], "strides": [4, 2, 2, 2], "mlp_ratios": [4, 4, 4, 4],
}  # fmt: skip

VARIANTS = {
    "plain": {},
    "four stages": FOUR,
    "row of places": {"reshape_last_stage": False},
    "relu": {"hidden_act": "relu", "layer_norm_eps": 1e-2, "hidden_dropout_prob": 0.4,
        "attention_probs_dropout_prob": 0.4, "classifier_dropout_prob": 0.4, "drop_path_rate": 0.4},
    "grey": {"num_channels": 1},
    "even patches": {"patch_sizes": [4, 2], "strides": [2, 2], "sr_ratios": [4, 2]},
    "heads that leave channels over": {"num_attention_heads": [3, 5]},
    "a stage without layers": {"depths": [0, 1]},
    "longer lists": {"num_encoder_blocks": 1},
}  # fmt: skip


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Places:
    """Pictures of odd sizes, and classes of their pixels."""

    labels: Nothing
    given: tuple[str, ...] = ()
    size: tuple[int, int] = (33, 46)

    @property
    def config(self):
        return self.labels.config

    def maps(self, config, size):
        classes = config.num_labels if config.num_labels > 1 else 2
        found = torch.randint(0, classes, (2, *size), generator=torch.Generator().manual_seed(3))
        found[:, 2:5, 3:9] = config.semantic_loss_ignore_index
        return found

    def questions(self, config):
        pixels = {"pixel_values": noise(2, config.num_channels, *self.size)}
        fields = tuple(f for f in self.labels.fields if f != "loss")
        yield Question(pixels, (*fields, "hidden_states", "attentions"))
        if "loss" in self.labels.fields:
            for size in (self.size, (20, 17), (9, 12)):  # the second of the labels' sizes is that of the scores
                yield Question({**pixels, "labels": self.maps(config, size)}, self.labels.fields)
        else:
            yield Question({"pixel_values": noise(1, config.num_channels, 64, 32)}, fields)

    def lesson(self, config):
        if "loss" not in self.labels.fields:
            return None
        return {"pixel_values": noise(2, config.num_channels, 32, 32), "labels": self.maps(config, (32, 32))}


@dataclass(frozen=True)
class Rows:
    """Pictures and labels of whole ones."""

    labels: object

    @property
    def config(self):
        return self.labels.config

    def questions(self, config):
        pixels = {"pixel_values": noise(3, config.num_channels, 33, 30)}
        yield Question(pixels, ("logits", "hidden_states", "attentions"))
        yield Question({**pixels, "labels": self.labels.labels}, ("loss", "logits"))

    def lesson(self, config):
        return {"pixel_values": noise(3, config.num_channels, 32, 32), "labels": self.labels.labels}


def segmenter(**config: object) -> Head:
    asks = Places(Nothing(("loss", "logits"), config))
    # The reference takes a row of places for a square whose side its channels tell.
    return Head("SegformerForSemanticSegmentation", "AutoModelForSemanticSegmentation", asks,
        everywhere="num_labels" in config and config["num_labels"] == 5, but=("row of places",))  # fmt: skip


def classifier(labels) -> Head:
    return Head("SegformerForImageClassification", "AutoModelForImageClassification", Rows(labels))


class TestSegformer(Parity):
    table = Table(
        model_type="segformer",
        config=transformers.SegformerConfig,
        tiny=TINY,
        heads={
            "Model": Head("SegformerModel", "AutoModel", Places(Nothing()), everywhere=True),
            **{f"ForImageClassification, {name}": classifier(labels) for name, labels in PROBLEMS.items()},
            "ForSemanticSegmentation": segmenter(num_labels=5),
            "ForSemanticSegmentation, one class": segmenter(num_labels=1),
            "ForSemanticSegmentation, another class left out": segmenter(num_labels=3, semantic_loss_ignore_index=1),
            "ForSemanticSegmentation, a negative one": segmenter(num_labels=2, semantic_loss_ignore_index=-3),
        },
        variants=VARIANTS,
    )


def pair(folder, head: str = "ForSemanticSegmentation", **changes: object):
    config = transformers.SegformerConfig(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"Segformer{head}"), config, folder)
    return getattr(omniform, f"Segformer{head}").from_pretrained(folder), theirs


@pytest.mark.parametrize("size", [(8, 8), (8, 150), (95, 17)])
def test_any_size(tmp_path, size):
    ours, theirs = pair(tmp_path, num_labels=3)
    compare(ours, theirs, {"pixel_values": noise(2, 3, *size)}, ["logits", "hidden_states", "attentions"])


def test_a_row_of_places_is_scored_as_its_map_is(tmp_path):
    """The reference takes it for a square whose side its channels tell: right where there are as many as places."""
    ours, theirs = pair(tmp_path, hidden_sizes=[8, 16], num_attention_heads=[1, 2], reshape_last_stage=False)
    compare(ours, theirs, {"pixel_values": noise(2, 3, 32, 32)}, ["logits", "hidden_states"])
    of_maps = omniform.SegformerForSemanticSegmentation.from_pretrained(tmp_path, reshape_last_stage=True)
    pixels = noise(1, 3, 40, 24)
    with torch.no_grad():
        close(ours(pixels).logits, of_maps(pixels).logits)


def test_dropped_at_the_same_places(tmp_path):
    changes = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2, "drop_path_rate": 0.5}
    ours, theirs = pair(tmp_path, "Model", **changes)
    found = []
    for model in (ours, theirs):
        model.set_attn_implementation("eager")
        model.train()
        torch.manual_seed(3)
        with torch.no_grad():
            found.append(model(noise(4, 3, 32, 32)).last_hidden_state)
    close(found[0], found[1])


def test_trains_as_the_reference(tmp_path):
    """Loss, every gradient and the statistics of the batch norm."""
    ours, theirs = pair(tmp_path, num_labels=4, drop_path_rate=0.0, classifier_dropout_prob=0.0)
    labels = torch.randint(0, 4, (2, 30, 40), generator=torch.Generator().manual_seed(0))
    labels[:, :3] = 255
    for model in (ours, theirs):
        model.train()
        model(noise(2, 3, 33, 30), labels=labels).loss.backward()
    named = dict(theirs.named_parameters())
    keys = ours.key_map().spelled(n for n, _ in ours.named_parameters())
    assert len(keys) == len(named)
    for (_, mine), (name, other) in zip(
        sorted(ours.named_parameters(), key=lambda p: renamed(p[0])), sorted(named.items()), strict=True
    ):
        close(mine.grad, other.grad, name)
    close(ours.decode_head.batch_norm.running_var, theirs.decode_head.batch_norm.running_var)
    assert ours.decode_head.batch_norm.num_batches_tracked == theirs.decode_head.batch_norm.num_batches_tracked


def renamed(path: str) -> str:
    """What the reference calls one of our parameters in memory."""
    path = path.replace("dwconv.", "dwconv.dwconv.")
    return "segformer." + path.removeprefix("model.") if path.startswith("model.") else path


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"pixel_values": torch.zeros(1, 1, 16, 16)}, "batch, 3, height, width"),
        ({"pixel_values": torch.zeros(1, 3, 4, 40)}, "too small"),
        ({"pixel_values": None}, "pixel_values"),
        ({"labels": torch.zeros(2, 16, 16)}, "whole numbers"),
        ({"labels": torch.full((2, 16, 16), 9)}, "0 to 1"),
        ({"labels": torch.zeros(3, 16, 16, dtype=torch.long)}, "labels"),
    ],
)
def test_bad_inputs(tmp_path, inputs, words):
    ours, _ = pair(tmp_path)
    with pytest.raises(InputError, match=words):
        ours(**{"pixel_values": noise(2, 3, 16, 16), **inputs})


def test_one_class_has_two_labels(tmp_path):
    ours, _ = pair(tmp_path, num_labels=1)
    with pytest.raises(InputError, match="0, 1, or 255 to leave out"):
        ours(noise(2, 3, 16, 16), labels=torch.full((2, 16, 16), 2))


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": [1, 400, 5, 8]},
        {"depths": [1, 1]},
        {"num_encoder_blocks": 0},
        {"strides": [0, 1, 1, 1]},
        {"hidden_act": "swoosh"},
        {"mlp_ratios": [0, 1, 1, 1]},
    ],
)
def test_bad_configs(change):
    with pytest.raises(ConfigError):
        omniform.AutoConfig.for_model("segformer", **change)
