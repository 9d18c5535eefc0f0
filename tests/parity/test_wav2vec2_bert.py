"""w2v-BERT 2.0 against the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from askers import Inputs, Question, noise
from harness import Head, Parity, Table, compiled
from waves import hidden, letters, moments, rows

from omniform.core.errors import ConfigError, InputError
from reference import close, omniform, saved_reference, transformers

TINY = {
    "vocab_size": 20, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 28,
    "feature_projection_input_dim": 10, "left_max_position_embeddings": 5, "right_max_position_embeddings": 3,
    "conv_depthwise_kernel_size": 5, "mask_time_length": 3, "classifier_proj_size": 12, "num_labels": 4,
}  # fmt: skip
VOICES = {"tdnn_dim": [10, 12], "tdnn_kernel": [3, 2], "tdnn_dilation": [2, 1], "xvector_output_dim": 14}
ADAPTED = {"add_adapter": True, "use_intermediate_ffn_before_adapter": True}


@dataclass(frozen=True)
class Features:
    """Features of sounds of odd lengths: whole, and padded ones with a mask."""

    fields: tuple[str, ...] = ("last_hidden_state", "extract_features")
    labels: Callable[[object, int], Inputs] = lambda config, frames: {}
    config: Mapping[str, object] = field(default_factory=dict)
    lengths: Sequence[int] = (23, 17, 12)

    def features(self, config: object) -> Inputs:
        width = config.feature_projection_input_dim  # type: ignore[attr-defined]
        return {"input_features": noise(len(self.lengths), max(self.lengths), width)}

    def questions(self, config: object) -> Iterator[Question]:
        given, longest = self.features(config), max(self.lengths)
        labels = self.labels(config, longest)
        outputs = tuple(f for f in self.fields if f != "loss")
        mask = (torch.arange(longest) < torch.tensor(self.lengths)[:, None]).long()
        yield Question(given, (*outputs, "hidden_states", "attentions"))
        yield Question({**given, "attention_mask": mask, **labels}, (*self.fields, "hidden_states"))
        if labels:
            yield Question({**given, **labels}, self.fields)
        else:
            yield Question({**given, "attention_mask": mask, **hidden(config, longest)}, outputs)

    def lesson(self, config: object) -> Inputs | None:
        labels = self.labels(config, max(self.lengths))
        return {**self.features(config), **labels} if labels else None


SCORED = ("loss", "logits")
BERT = "Wav2Vec2BertFor"


class TestWav2Vec2Bert(Parity):
    table = Table(
        model_type="wav2vec2-bert",
        config=transformers.Wav2Vec2BertConfig,
        tiny=TINY,
        heads={
            "Model": Head("Wav2Vec2BertModel", "AutoModel", Features(), everywhere=True),
            "ForCTC": Head(f"{BERT}CTC", "AutoModelForCTC", Features(SCORED, letters)),
            "ForCTC, adapted": Head(
                f"{BERT}CTC", "AutoModelForCTC",
                Features(SCORED, letters, {**ADAPTED, "output_hidden_size": 16, "ctc_loss_reduction": "mean"}),
            ),
            "ForSequenceClassification": Head(
                f"{BERT}SequenceClassification", "AutoModelForAudioClassification",
                Features(SCORED, rows, {"use_weighted_layer_sum": True}),
            ),
            "ForAudioFrameClassification": Head(
                f"{BERT}AudioFrameClassification", "AutoModelForAudioFrameClassification", Features(SCORED, moments)
            ),
            "ForXVector": Head(
                f"{BERT}XVector", "AutoModelForAudioXVector", Features((*SCORED, "embeddings"), rows, VOICES),
                rate=3e-3,
            ),
        },
        variants={
            "plain": {},
            "sines": {"position_embeddings_type": "relative", "hidden_act": "gelu", "layer_norm_eps": 1e-2},
            "turned": {"position_embeddings_type": "rotary", "rotary_embedding_base": 100},
            "nowhere": {"position_embeddings_type": None, "mask_time_prob": 0.0},
            "adapted": {**ADAPTED, "num_adapter_layers": 2, "adapter_act": "gelu"},
            "adapted to another width": {
                "add_adapter": True, "output_hidden_size": 16, "adapter_kernel_size": 5, "adapter_stride": 4,
                "left_max_position_embeddings": 40, "apply_spec_augment": False,
            },
        },
        spellings={"compiled": compiled},
        half=5e-2,
    )  # fmt: skip


@pytest.mark.parametrize("places", ["relative", "relative_key", "rotary"])
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_few_frames(tmp_path, places, frames):
    config = transformers.Wav2Vec2BertConfig(**{**TINY, "position_embeddings_type": places})
    theirs = saved_reference(transformers.Wav2Vec2BertModel, config, tmp_path)
    ours = omniform.AutoModel.from_pretrained(tmp_path)
    given = noise(2, frames, 10)
    with torch.no_grad():
        close(ours(given).last_hidden_state, theirs(given).last_hidden_state)


def test_frames_are_counted_as_the_reference_s(tmp_path):
    config = transformers.Wav2Vec2BertConfig(**TINY, add_adapter=True, num_adapter_layers=2)
    theirs = saved_reference(transformers.Wav2Vec2BertForCTC, config, tmp_path)
    ours = omniform.AutoModelForCTC.from_pretrained(tmp_path)
    assert ours.config.inputs_to_logits_ratio == theirs.config.inputs_to_logits_ratio
    lengths, mask = torch.arange(1, 20), (torch.arange(19) < torch.tensor([[19], [4]])).long()
    expected = theirs._get_feat_extract_output_lengths(lengths)
    assert torch.equal(ours._get_feat_extract_output_lengths(lengths), expected)
    expected = theirs._get_feature_vector_attention_mask(5, mask)
    assert torch.equal(ours._get_feature_vector_attention_mask(5, mask), expected)


def test_training_draws_the_reference_s_luck(tmp_path):
    import numpy as np

    changes = {"hidden_dropout": 0.1, "attention_dropout": 0.0, "activation_dropout": 0.1, "layerdrop": 0.4,
        "mask_time_prob": 0.5, "mask_feature_prob": 0.2, "mask_feature_length": 2, "conformer_conv_dropout": 0.2,
        "feat_proj_dropout": 0.1, **ADAPTED}  # fmt: skip
    config = transformers.Wav2Vec2BertConfig(**{**TINY, **changes})
    theirs = saved_reference(transformers.Wav2Vec2BertModel, config, tmp_path).train()
    ours = omniform.AutoModel.from_pretrained(tmp_path).train()
    for seed in range(3):
        found = []
        for model in (ours, theirs):
            torch.manual_seed(seed)
            np.random.seed(seed)
            found.append(model(noise(2, 21, 10)).last_hidden_state.detach())
        close(*found)


@pytest.mark.parametrize(
    "wrong",
    [
        {"conv_depthwise_kernel_size": 4}, {"position_embeddings_type": "absolute"}, {"adapter_act": "x"},
        {"use_intermediate_ffn_before_adapter": True}, {"num_attention_heads": 5}, {"vocab_size": -1},
    ],
)  # fmt: skip
def test_bad_configs(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        omniform.Wav2Vec2BertConfig(**{**TINY, **wrong})


def test_letters_must_be_counted():
    config = omniform.Wav2Vec2BertConfig(**{**TINY, "vocab_size": None})
    with pytest.raises(ConfigError, match="vocab_size"):
        omniform.Wav2Vec2BertForCTC(config)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"input_features": torch.zeros(2, 9, 11)}, "input_features"),
        ({"input_features": torch.zeros(9, 10)}, "input_features"),
        ({"input_features": torch.zeros(2, 9, 10).long()}, "input_features"),
        ({"attention_mask": torch.zeros(2, 8)}, "attention_mask"),
        ({"labels": torch.full((2, 3), 20)}, "labels"),
        ({"mask_time_indices": torch.zeros(2, 8, dtype=torch.bool)}, "mask_time_indices"),
    ],
)
def test_bad_inputs(wrong, named):
    ours = omniform.Wav2Vec2BertForCTC(omniform.Wav2Vec2BertConfig(**TINY))
    with pytest.raises(InputError, match=named):
        ours(**{"input_features": torch.zeros(2, 9, 10), **wrong})
