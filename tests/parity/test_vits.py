"""VITS against the reference. Where nothing is said of chance there is none: noise is multiplied by zero."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from askers import Inputs, Question
from harness import Case, Head, Parity, Table, build, halved, over

from omniform.core.errors import ConfigError, InputError
from reference import close, omniform, padded, ragged, saved_reference, transformers

TINY = {
    "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 24,
    "flow_size": 8, "spectrogram_bins": 9, "upsample_initial_channel": 16, "upsample_rates": [2, 3],
    "upsample_kernel_sizes": [4, 5], "resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [[1, 3], [1, 2]],
    "duration_predictor_filter_channels": 12, "posterior_encoder_num_wavenet_layers": 2, "prior_encoder_num_flows": 2,
    "prior_encoder_num_wavenet_layers": 2, "duration_predictor_num_flows": 3, "depth_separable_num_layers": 2,
    "noise_scale": 0.0, "noise_scale_duration": 0.0,
}  # fmt: skip
CHANCE = {"noise_scale": 0.667, "noise_scale_duration": 0.8}
PLAIN = {"use_stochastic_duration_prediction": False}
SPEAKERS = {"num_speakers": 3, "speaker_embedding_size": 6}
OUTPUTS = ("waveform", "sequence_lengths", "spectrogram")

VARIANTS = {
    "plain": {},
    "plain durations": PLAIN,
    "speakers": SPEAKERS,
    "speakers, plain durations": {**SPEAKERS, **PLAIN, "layer_norm_eps": 0.1},
    "a speaker's size alone": {"speaker_embedding_size": 5},
    "sizes": {
        "window_size": 1, "ffn_kernel_size": 4, "use_bias": False, "hidden_act": "gelu", "wavenet_dilation_rate": 2,
        "wavenet_kernel_size": 3, "duration_predictor_kernel_size": 5, "duration_predictor_flow_bins": 4,
        "duration_predictor_tail_bound": 0.5, "leaky_relu_slope": 0.3, "speaking_rate": 0.4, "num_attention_heads": 4,
    },
    "one stage": {"upsample_rates": [3], "upsample_kernel_sizes": [8], "resblock_dilation_sizes": [[1], [2, 4, 1]]},
    "a long window, one letter's convolutions": {"window_size": 12, "ffn_kernel_size": 1},
}  # fmt: skip


def letters(lengths: tuple[int, ...] = (9, 4, 1)) -> Inputs:
    ids, mask = padded(ragged(20, list(lengths)))
    return {"input_ids": ids, "attention_mask": mask}


@dataclass(frozen=True)
class Speaks:
    """Rows of letters."""

    config: Mapping[str, object] = field(default_factory=dict)

    def questions(self, config: object) -> Iterator[Question]:
        yield Question({"input_ids": letters((7, 7))["input_ids"]}, (*OUTPUTS, "hidden_states", "attentions"))
        yield Question(letters(), (*OUTPUTS, "hidden_states"), letters()["attention_mask"].bool())
        yield Question({**letters(), "speaking_rate": 0.5, "speaker_id": 2}, OUTPUTS)
        yield Question({**letters(), "speaker_id": torch.tensor([1])}, OUTPUTS)

    def lesson(self, config: object) -> None:
        return None


class TestVits(Parity):
    table = Table(
        model_type="vits",
        config=transformers.VitsConfig,
        tiny=TINY,
        heads={"Model": Head("VitsModel", "AutoModelForTextToWaveform", Speaks(), everywhere=True)},
        variants=VARIANTS,
        spellings={
            "before parametrizations": lambda key: key.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            )
        },
    )

    @over(Table.itself)
    def test_bfloat16(self, case: Case) -> None:
        """Durations are rounded up: in few bits some are others. What stands before and after is compared."""
        built = build(case)
        ours, theirs = built.again(case, dtype="bfloat16"), halved(built.theirs)
        frames = torch.randn(2, 8, 11).bfloat16()
        with torch.no_grad():
            close(ours.decoder(frames), theirs.decoder(frames), tolerance=3e-2)
            real = torch.ones(2, 1, 11).bfloat16()
            close(ours.flow(frames, real, reverse=True), theirs.flow(frames, real, reverse=True), tolerance=6e-2)
            spoken = ours(**letters())
        assert spoken.waveform.dtype == torch.bfloat16 and spoken.waveform.isfinite().all()


def pair(tmp_path: Path, **changes: object):
    config = transformers.VitsConfig(**{**TINY, **CHANCE, **changes})
    theirs = saved_reference(transformers.VitsModel, config, tmp_path / "model", scale=0.2)
    return omniform.VitsModel.from_pretrained(tmp_path / "model"), theirs


@pytest.mark.parametrize("changes", [{}, PLAIN, SPEAKERS], ids=str)
def test_chance_is_the_references(tmp_path, changes):
    ours, theirs = pair(tmp_path, **changes)
    for given in (letters(), {"input_ids": letters((1,))["input_ids"]}, {**letters((30, 12)), "speaker_id": 1}):
        found = []
        for model in (ours, theirs):
            torch.manual_seed(5)
            with torch.no_grad():
                found.append(model(**given))
        for name in OUTPUTS:
            close(found[0][name], found[1][name], name)
        torch.manual_seed(6)
        assert ours(**given).waveform.shape != found[0].waveform.shape or not torch.equal(
            ours(**given).waveform, found[0].waveform
        )


def test_a_seed_trains_the_same(tmp_path):
    """Dropouts, and layers left out, are the reference's, draw for draw."""
    ours, theirs = pair(tmp_path, layerdrop=0.5, attention_dropout=0.3, hidden_dropout=0.3, num_hidden_layers=3)
    found = []
    for model in (ours, theirs):
        model.train()
        transformers.set_seed(4)
        found.append([model(**letters()).spectrogram for _ in range(3)])
    close(*found)


def test_what_users_set_on_the_model(tmp_path):
    ours, theirs = pair(tmp_path)
    for model in (ours, theirs):
        model.speaking_rate, model.noise_scale, model.noise_scale_duration = 0.3, 0.1, 0.4
    found = []
    for model in (ours, theirs):
        torch.manual_seed(1)
        with torch.no_grad():
            found.append(model(**letters()).waveform)
    close(*found)


@torch.no_grad()
def test_a_speaker_for_each_row(tmp_path):
    ours, _ = pair(tmp_path, **SPEAKERS, noise_scale=0.0, noise_scale_duration=0.0)
    given = {"input_ids": letters((6, 6))["input_ids"]}
    both = ours(**given, speaker_id=torch.tensor([2, 0]))
    for row, speaker in enumerate((2, 0)):
        alone = ours(given["input_ids"][row : row + 1], speaker_id=speaker)
        length = int(alone.sequence_lengths[0])
        assert length == int(both.sequence_lengths[row])
        # The last frames see that the batch goes on, as the reference's do.
        close(both.spectrogram[row, :, : length // 6], alone.spectrogram[0])


@torch.no_grad()
def test_voices_are_converted(tmp_path):
    """The flow forwards with one voice, backwards with another; a spectrogram's frames come from the posterior."""
    ours, theirs = pair(tmp_path, **SPEAKERS)
    seen, real, voices = torch.randn(2, 9, 12), torch.ones(2, 1, 12), torch.randn(2, 2, 6, 1)
    found = []
    for model in (ours, theirs):
        torch.manual_seed(2)
        drawn, *_ = model.posterior_encoder(seen, real, voices[0])
        plain = model.flow(drawn, real, voices[0])
        found.append(model.flow(plain, real, voices[1], reverse=True))
    close(*found)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "input_ids"), ({"input_ids": torch.zeros(2, 0, dtype=torch.long)}, "input_ids"),
        ({"input_ids": torch.tensor([[20]])}, "input_ids"), ({**letters(), "speaker_id": 3}, "speaker_id"),
        ({**letters(), "speaker_id": -1}, "speaker_id"), ({**letters(), "speaker_id": 0.5}, "speaker_id"),
        ({**letters(), "speaker_id": torch.tensor([0, 1])}, "speaker_id"),
        ({**letters(), "speaking_rate": 0}, "speaking_rate"), ({**letters(), "labels": torch.zeros(3, 9, 4)}, "labels"),
        ({"input_ids": letters()["input_ids"], "attention_mask": torch.ones(3, 4)}, "attention_mask"),
    ],
)  # fmt: skip
def test_refused(tmp_path, given, named):
    ours, _ = pair(tmp_path, **SPEAKERS)
    with pytest.raises(InputError, match=named):
        ours(**given)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("flow_size", 7), ("wavenet_kernel_size", 4), ("upsample_kernel_sizes", [4]), ("upsample_rates", [5, 3]),
        ("resblock_kernel_sizes", [2, 3]), ("depth_separable_channels", 4), ("resblock_dilation_sizes", [[1]]),
        ("resblock_dilation_sizes", [1, 2]), ("speaking_rate", 0.0), ("duration_predictor_flow_bins", 1001),
    ],
)  # fmt: skip
def test_refused_configs(key, value):
    with pytest.raises(ConfigError, match=r"upsample_kernel_sizes|" + key):
        omniform.VitsModel.from_config(omniform.VitsConfig(**{**TINY, key: value}))
