"""EnCodec against the reference."""

from __future__ import annotations

import re

import pytest
import torch
from askers import Given, Question, noise
from harness import Case, Head, Parity, Table, build, halved, over
from safetensors.torch import load_file, save_file

from omniform.core.errors import ConfigError, InputError
from reference import check_round_trip, close, omniform, saved_reference, transformers, unaccounted, wrong_defaults

TINY = {
    "hidden_size": 8, "num_filters": 4, "upsampling_ratios": [3, 2], "codebook_size": 16, "sampling_rate": 600,
    "target_bandwidths": [0.4, 0.8, 2.0], "num_lstm_layers": 1,
}  # fmt: skip

VARIANTS = {
    "plain": {},
    "stereo, chunks": {
        "audio_channels": 2, "normalize": True, "chunk_length_s": 0.1, "overlap": 0.1, "norm_type": "time_group_norm",
        "use_causal_conv": False,
    },
    "chunks side by side": {"chunk_length_s": 0.11, "overlap": 0.0},
    "far apart": {"chunk_length_s": 0.1, "overlap": 0.45, "normalize": True},
    "no shortcut": {"use_conv_shortcut": False, "num_residual_layers": 2, "dilation_growth_rate": 3},
    "zeros": {"pad_mode": "constant", "trim_right_ratio": 0.4, "num_lstm_layers": 2},
    "edges": {
        "pad_mode": "replicate", "use_causal_conv": False, "kernel_size": 5, "last_kernel_size": 3, "compress": 4,
    },
    "kernels": {"residual_kernel_size": 5, "upsampling_ratios": [4, 3, 2], "num_filters": 6},
}  # fmt: skip


def questions(config: object) -> list[Question]:
    """Sounds as long as some chunks, in the first and in the last bandwidth."""
    values = noise(2, config.audio_channels, 114)  # type: ignore[attr-defined]
    fields = ("audio_codes", "audio_values")
    return [Question({"input_values": values}, fields), Question({"input_values": values, "bandwidth": 2.0}, fields)]


class TestEncodec(Parity):
    table = Table(
        model_type="encodec",
        config=transformers.EncodecConfig,
        tiny=TINY,
        heads={"Model": Head("EncodecModel", "AutoModel", Given(questions))},
    )

    @over(Table.itself)
    def test_bfloat16(self, case: Case) -> None:
        """Frames are near several entries: in few bits others are nearest. What stands behind the codes is compared."""
        built, codes = build(case), torch.arange(36).view(1, 2, 2, 9) % 16
        ours, theirs = built.again(case, dtype="bfloat16"), halved(built.theirs)
        with torch.no_grad():
            close(ours.decode(codes, [None]).audio_values, theirs.decode(codes, [None]).audio_values, tolerance=3e-2)


def pair(folder, **changes: object):
    config = transformers.EncodecConfig(**{**TINY, **changes})
    theirs = saved_reference(transformers.EncodecModel, config, folder)
    return omniform.EncodecModel.from_pretrained(folder), theirs


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_outputs(tmp_path, variant):
    """Codes and sounds of every bandwidth, of short and of padded sounds too."""
    ours, theirs = pair(tmp_path, **VARIANTS[variant])
    lengths = [1, 5, 61, 150] if variant != "far apart" else [1, 33 * 4 + 30]
    for samples in lengths:
        values = noise(2, ours.channels, samples)
        mask = torch.ones(2, samples, dtype=torch.bool)
        mask[1, samples // 2 + 1 :] = False
        for given in ({}, {"bandwidth": 0.8}, {"bandwidth": 2.0, "padding_mask": mask}):
            expected, found = theirs(values, **given), ours(values, **given)
            assert torch.equal(found.audio_codes, expected.audio_codes)
            close(found.audio_values, expected.audio_values)
            plain = ours(values, **given, return_dict=False)
            assert all(torch.equal(a, b) for a, b in zip(plain, found.values(), strict=True))


@torch.no_grad()
def test_chunks_that_are_short_alike(tmp_path):
    """A sound shorter than a chunk that is cut all the same; one before the last that is short by less than a frame."""
    ours, theirs = pair(tmp_path, chunk_length_s=0.2, overlap=0.3)
    for samples in (112, 200, 97):
        values = noise(2, 1, samples)
        expected, found = theirs.encode(values), ours.encode(values)
        assert torch.equal(found.audio_codes, expected.audio_codes)
        if samples != 97:  # there the first chunk's frames end behind the last's, which the reference cannot add up
            close(ours(values).audio_values, theirs(values).audio_values)
        assert ours(values).audio_values.shape == values.shape
    with pytest.raises(InputError, match="only the last chunk"):
        ours(noise(1, 1, 180))


@torch.no_grad()
def test_encode_and_decode(tmp_path):
    """One after the other, with all that passes between them."""
    ours, theirs = pair(tmp_path, **VARIANTS["stereo, chunks"])
    values, mask = noise(2, 2, 130), torch.ones(2, 2, 130)
    mask[0, :, 77:] = 0
    found, expected = ours.encode(values, mask, 2.0), theirs.encode(values, mask, 2.0)
    assert torch.equal(found.audio_codes, expected.audio_codes)
    assert found.last_frame_pad_length == expected.last_frame_pad_length > 0
    for one, other in zip(found.audio_scales, expected.audio_scales, strict=True):
        close(one, other)
    given = {"padding_mask": mask, "last_frame_pad_length": found.last_frame_pad_length}
    heard = theirs.decode(expected.audio_codes, expected.audio_scales, **given)
    close(ours.decode(found.audio_codes, found.audio_scales, **given).audio_values, heard.audio_values)
    (again,) = ours.decode(*ours.encode(values, mask, 2.0, return_dict=False)[:2], return_dict=False)
    (theirs_again,) = theirs.decode(*theirs.encode(values, mask, 2.0, return_dict=False)[:2], return_dict=False)
    close(again, theirs_again)
    given = {"audio_codes": found.audio_codes, "audio_scales": found.audio_scales}
    close(ours(values, **given).audio_values, theirs(values, **given).audio_values)


def test_gradients(tmp_path):
    """Of the decoder's weights, which codes lead to."""
    ours, theirs = pair(tmp_path)
    codes = torch.randint(0, 16, (1, 2, 3, 9))
    for model in (ours, theirs):
        model.decode(codes, [None]).audio_values.pow(2).sum().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.decoder.named_parameters():
        close(parameter.grad, expected[f"decoder.{name}"].grad)


def test_old_keys_and_round_trip(tmp_path):
    """Weight norm as torch spelled it before; what is saved is what was read."""
    ours, theirs = pair(tmp_path / "new")
    check_round_trip(tmp_path / "new", ours, tmp_path / "again")
    tensors = load_file(tmp_path / "new" / "model.safetensors")
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    renamed = {re.sub("|".join(old), lambda found: old[found[0]], key): value for key, value in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, tmp_path / "new" / "model.safetensors")
    values = noise(1, 1, 50)
    close(omniform.AutoModel.from_pretrained(tmp_path / "new")(values).audio_values, theirs(values).audio_values)


def test_configs():
    """Every field is accounted for, defaults are the reference's, and what cannot be is refused by name."""
    assert not unaccounted("encodec", transformers.EncodecConfig)
    assert not wrong_defaults("encodec", transformers.EncodecConfig)
    config = omniform.EncodecConfig(chunk_length_s=1.0, overlap=0.01)
    assert (config.chunk_stride, config.num_quantizers, config.frame_rate) == (23760, 32, 75)
    for key, value in {"codebook_size": 100, "codebook_dim": 4, "chunk_length_s": 1.0, "target_bandwidths": []}.items():
        with pytest.raises(ConfigError, match=r"overlap" if key == "chunk_length_s" else key):
            omniform.EncodecConfig(**{key: value})


def test_bad_inputs(tmp_path):
    """Said before anything is computed."""
    ours, _ = pair(tmp_path, chunk_length_s=0.1, overlap=0.6)
    for given, told in {
        "shape": ((noise(2, 30),), "no samples of sounds"),
        "channels": ((noise(2, 3, 24),), "not the model's channels"),
        "empty": ((noise(2, 1, 0),), "the sound is empty"),
        "two short chunks": ((noise(1, 1, 61),), "only the last chunk"),
    }.values():
        with pytest.raises(InputError, match=told):
            ours(*given)
    with pytest.raises(InputError, match=r"0\.4, 0\.8, 2 "):
        ours(noise(1, 1, 24), bandwidth=6.0)
    with pytest.raises(InputError, match="audio_scales"):
        ours(noise(1, 1, 24), audio_codes=torch.zeros(1, 1, 1, 4, dtype=torch.long))
