"""The audio spectrogram transformer against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from askers import PROBLEMS, Inputs, Labels, Nothing, Question, noise
from harness import Head, Parity, Table, compiled

from omniform.core.errors import ConfigError, InputError
from reference import compare, omniform, saved_reference, transformers

TINY = {
    "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 4,
    "frequency_stride": 3, "time_stride": 2, "max_length": 13, "num_mel_bins": 9,
}  # fmt: skip


@dataclass(frozen=True)
class Spectrograms:
    """Spectrograms of the length and the bands that the config says."""

    labels: Labels

    @property
    def config(self) -> dict[str, object]:
        return dict(self.labels.config)

    def given(self, config: object) -> Inputs:
        return {"input_values": noise(3, config.max_length, config.num_mel_bins)}  # type: ignore[attr-defined]

    def questions(self, config: object) -> Iterator[Question]:
        given = self.given(config)
        outputs = tuple(f for f in self.labels.fields if f != "loss")
        yield Question(given, (*outputs, "hidden_states", "attentions"))
        if self.lesson(config):
            yield Question(self.lesson(config), self.labels.fields)

    def lesson(self, config: object) -> Inputs | None:
        given = self.given(config)
        labels = self.labels.given(given["input_values"], given["input_values"])
        return {**given, **labels} if labels else None


def classifier(labels: Labels) -> Head:
    return Head("ASTForAudioClassification", "AutoModelForAudioClassification", Spectrograms(labels))


class TestAST(Parity):
    table = Table(
        model_type="audio-spectrogram-transformer",
        config=transformers.ASTConfig,
        tiny=TINY,
        heads={
            "Model": Head(
                "ASTModel", "AutoModel", Spectrograms(Nothing(("last_hidden_state", "pooler_output"))), everywhere=True
            ),
            **{f"ForAudioClassification, {name}": classifier(labels) for name, labels in PROBLEMS.items()},
            "ForAudioClassification, no classes": classifier(Nothing(("logits",), {"num_labels": 0})),
        },
        variants={
            "plain": {},
            "no biases": {"qkv_bias": False, "hidden_act": "relu", "layer_norm_eps": 1e-2},
            "other strides": {"frequency_stride": 5, "time_stride": 7, "max_length": 30, "num_mel_bins": 16},
            "apart": {"frequency_stride": 4, "time_stride": 6, "hidden_dropout_prob": 0.3},
        },
        spellings={"compiled": compiled},
    )  # fmt: skip


@pytest.mark.parametrize(("frames", "bands"), [(12, 9), (13, 8), (12, 7), (13, 9)])
def test_what_no_patch_reaches_may_be_missing(tmp_path, frames, bands):
    theirs = saved_reference(transformers.ASTModel, transformers.ASTConfig(**TINY), tmp_path)
    ours = omniform.AutoModel.from_pretrained(tmp_path)
    fields = ["last_hidden_state", "pooler_output"]
    compare(ours, theirs, {"input_values": noise(2, frames, bands)}, fields)
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, 7:] = 0
    compare(ours, theirs, {"input_values": noise(2, frames, bands), "attention_mask": mask}, fields)


@pytest.mark.parametrize("shape", [(2, 14, 9), (2, 9, 13), (13, 9), (2, 3, 9), (2, 13, 10)])
def test_other_lengths_are_refused(shape):
    ours = omniform.ASTModel(omniform.ASTConfig(**TINY))
    with pytest.raises(InputError, match="input_values"):
        ours(torch.zeros(shape))
    with pytest.raises(InputError, match="input_values"):
        ours(torch.zeros(2, 13, 9, dtype=torch.long))


@pytest.mark.parametrize("wrong", [{"patch_size": 10}, {"time_stride": 0}, {"num_attention_heads": 5}])
def test_bad_configs(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        omniform.ASTConfig(**{**TINY, **wrong})


def test_from_scratch():
    """Tokens and positions begin as the reference's: as zeros."""
    encoder = omniform.ASTForAudioClassification(omniform.ASTConfig(**TINY)).base_model
    for tensor in (*encoder.class_token.parameters(), *encoder.positions.parameters()):
        assert not tensor.any()
