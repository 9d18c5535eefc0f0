"""Mimi against the reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from askers import Given, Question, noise
from harness import Case, Head, Parity, Table, halved, over
from safetensors.torch import load_file

from omniform.core.errors import ConfigError, InputError, MissingPartError
from reference import check_round_trip, close, omniform, randomise, transformers, unaccounted, wrong_defaults

TINY = {
    "hidden_size": 8, "num_filters": 4, "upsampling_ratios": [3, 2], "codebook_size": 16, "codebook_dim": 6,
    "vector_quantization_hidden_dimension": 6, "num_quantizers": 4, "sampling_rate": 600, "num_hidden_layers": 2,
    "intermediate_size": 10, "num_attention_heads": 2, "num_key_value_heads": 1, "upsample_groups": 8,
    "sliding_window": 4,
}  # fmt: skip
VARIANTS = {
    "plain": {},
    "stereo": {"audio_channels": 2, "use_causal_conv": False, "num_residual_layers": 2, "dilation_growth_rate": 3},
    "wide": {
        "codebook_dim": 8, "vector_quantization_hidden_dimension": 8, "upsample_groups": 2, "attention_bias": True,
        "num_semantic_quantizers": 2, "num_key_value_heads": 2, "head_dim": 6,
    },
    "four steps": {"frame_rate": 25, "hidden_act": "relu", "norm_eps": 0.1, "sliding_window": 2},
    "edges": {"pad_mode": "replicate", "trim_right_ratio": 0.4, "kernel_size": 5, "last_kernel_size": 5, "compress": 4},
    "mirrored": {"pad_mode": "reflect", "residual_kernel_size": 5, "rope_parameters": {"rope_type": "default",
        "rope_theta": 50.0}, "use_conv_shortcut": True, "upsampling_ratios": [4, 3, 2]},
}  # fmt: skip


def asked(name: str, *shape: int, fields: tuple[str, ...]) -> Given:
    """One question of numbers of one shape."""
    return Given(lambda config: [Question({name: noise(*shape)}, fields)])


CODES = torch.arange(36).view(1, 4, 9) % 16
SEEN = ("hidden_states", "attentions")


class TestMimi(Parity):
    heads: ClassVar = {
        "Model": Head("MimiModel", "AutoModel", asked("input_values", 2, 1, 70, fields=("audio_codes", "audio_values")))
    }
    table = Table(model_type="mimi", config=transformers.MimiConfig, tiny=TINY, heads=heads)

    @over(Table.itself)
    def test_bfloat16(self, case: Case, tmp_path: Path) -> None:
        """Frames are near several entries: in few bits others are nearest. What stands behind the codes is compared."""
        theirs = halved(reference_of(tmp_path))
        ours = omniform.MimiModel.from_pretrained(tmp_path, dtype="bfloat16")
        with torch.no_grad():
            close(ours.decode(CODES).audio_values, theirs.decode(CODES).audio_values, tolerance=3e-2)


class TestMimiEncoder(Parity):
    heads: ClassVar = {
        "Model": Head("MimiEncoderModel", "AutoModel", asked("input_values", 2, 1, 70, fields=("latents", *SEEN)))
    }
    config = transformers.models.mimi.MimiEncoderConfig
    table = Table(model_type="mimi_encoder", config=config, tiny=TINY, heads=heads)


class TestMimiDecoder(Parity):
    heads: ClassVar = {
        "Model": Head("MimiDecoderModel", "AutoModel", asked("latents", 2, 8, 9, fields=("audio_values", *SEEN)))
    }
    config = transformers.models.mimi.MimiDecoderConfig
    table = Table(model_type="mimi_decoder", config=config, tiny=TINY, heads=heads)


def reference_of(folder, kind: str = "Mimi", **changes: object):
    """A reference model whose codebooks have been used, saved."""
    named = {"Mimi": "MimiConfig", "MimiEncoder": "MimiEncoderConfig", "MimiDecoder": "MimiDecoderConfig"}[kind]
    torch.manual_seed(0)
    module = transformers.models.mimi
    theirs = getattr(module, f"{kind}Model")(getattr(module, named)(**{**TINY, **changes})).eval()
    randomise(theirs)
    for name, tensor in theirs.named_buffers():
        if name.endswith("cluster_usage"):
            tensor.copy_(0.5 + 2 * torch.rand(tensor.shape, generator=torch.Generator().manual_seed(3)))
            tensor[1] = 0.0
    theirs.save_pretrained(folder)
    return theirs


def pair(folder, **changes: object):
    theirs = reference_of(folder, **changes)
    return omniform.MimiModel.from_pretrained(folder), theirs


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_outputs(tmp_path, variant):
    """Codes and sounds of odd lengths, and of fewer codebooks."""
    ours, theirs = pair(tmp_path, **VARIANTS[variant])
    for samples in (1, 13, 61, 150):
        values, mask = noise(2, ours.encoder.channels, samples), torch.ones(2, max(1, samples - 5))
        for given in ({}, {"num_quantizers": 3, "padding_mask": mask}, {"num_quantizers": 2}):
            expected, found = theirs(values, **given), ours(values, **given)
            assert torch.equal(found.audio_codes, expected.audio_codes)
            close(found.audio_values, expected.audio_values)
            assert list(found) == list(expected)
        plain = ours(values, return_dict=False)
        assert torch.equal(plain[0], theirs(values).audio_codes) and len(plain) == 2
        again = {"audio_codes": expected.audio_codes}
        close(ours(values, **again).audio_values, theirs(values, **again).audio_values)


@torch.no_grad()
def test_what_is_seen_on_the_way(tmp_path):
    """Hidden states and attentions of both halves, with and without names."""
    ours, theirs = pair(tmp_path)
    theirs.set_attn_implementation("eager")
    asked, values = {"output_hidden_states": True, "output_attentions": True}, noise(1, 1, 70)
    found, expected = ours.encode(values, **asked), theirs.encode(values, **asked)
    for name in ("audio_codes", "hidden_states", "attentions"):
        close(found[name], expected[name], name)
    found, expected = ours.decode(found.audio_codes, **asked), theirs.decode(expected.audio_codes, **asked)
    for name in ("audio_values", "hidden_states", "attentions"):
        close(found[name], expected[name], name)
    assert torch.equal(ours.encode(values, return_dict=False)[0], theirs.encode(values, return_dict=False)[0])
    ours.set_attn_implementation("eager")
    close(ours(values).audio_values, theirs(values).audio_values)


@pytest.mark.parametrize("changes", [{}, {"pad_mode": "replicate"}, {"num_residual_layers": 2, "use_streaming": True}])
@torch.no_grad()
def test_a_sound_in_pieces(tmp_path, changes):
    """Whole frames: as the reference. Of any lengths: as the whole, and with what has been kept at that."""
    ours, theirs = pair(tmp_path, **changes)
    values = noise(2, 1, 12 * 9)
    given = [{"use_streaming": True}, {"use_streaming": True}]
    codes = []
    for piece in values.split([24, 12, 36, 36], dim=-1):
        found, expected = ours.encode(piece, **given[0]), theirs.encode(piece, **given[1])
        assert torch.equal(found.audio_codes, expected.audio_codes)
        assert list(found) == list(expected)
        kept = ("encoder_past_key_values", "padding_cache")
        given = [{"use_streaming": True, **{name: out[name] for name in kept}} for out in (found, expected)]
        for mine, other in zip(found.padding_cache.padding_cache, expected.padding_cache.padding_cache, strict=True):
            close(mine, other)
        codes.append(found.audio_codes)
    whole = ours.encode(values, use_streaming=False).audio_codes
    assert torch.equal(torch.cat(codes, dim=-1), whole)
    for lengths in ([1, 2, 30, 5, 70], [54, 54], [107, 1]):
        given, codes = {"use_streaming": True}, []
        for piece in values.split(lengths, dim=-1):
            found = ours.encode(piece, **given)
            codes.append(found.audio_codes)
            given = {"encoder_past_key_values": found.encoder_past_key_values, "padding_cache": found.padding_cache}
            given["use_streaming"] = True
        assert torch.equal(torch.cat(codes, dim=-1), whole)


@torch.no_grad()
def test_codes_in_pieces(tmp_path):
    """The decoder's layers go on from where they were."""
    ours, theirs = pair(tmp_path, use_cache=True)
    codes = torch.randint(0, 16, (2, 4, 9), generator=torch.Generator().manual_seed(1))
    mine = other = None
    for piece in codes.split([2, 1, 6], dim=-1):
        found = ours.decode(piece, decoder_past_key_values=mine)
        expected = theirs.decode(piece, decoder_past_key_values=other)
        close(found.audio_values, expected.audio_values)
        mine, other = found.decoder_past_key_values, expected.decoder_past_key_values
        assert mine.get_seq_length() == other.get_seq_length()
    values, cache, reference_cache = noise(2, 1, 40), omniform.DynamicCache(), transformers.DynamicCache()
    for _ in range(2):
        found = ours(values, encoder_past_key_values=cache, decoder_past_key_values=mine)
        expected = theirs(values, encoder_past_key_values=reference_cache, decoder_past_key_values=other)
        assert torch.equal(found.audio_codes, expected.audio_codes)
        close(found.audio_values, expected.audio_values)
        assert list(found) == list(expected)
    assert ours.decode(codes, use_cache=False).decoder_past_key_values is None


@torch.no_grad()
def test_halves(tmp_path):
    """Alone, from their own checkpoints and from the whole's; and what is saved is what was read."""
    ours, theirs = pair(tmp_path / "both")
    check_round_trip(tmp_path / "both", ours, tmp_path / "again")
    values, latents = noise(2, 1, 50), noise(2, 8, 5)
    for kind, given in (("MimiEncoder", values), ("MimiDecoder", latents)):
        expected = reference_of(tmp_path / kind, kind)(given)[0]
        half = omniform.AutoModel.from_pretrained(tmp_path / kind)
        close(half(given)[0], expected)
        check_round_trip(tmp_path / kind, half, tmp_path / f"{kind} again")
        part = getattr(omniform, f"{kind}Model").from_pretrained(tmp_path / "both")
        side = theirs.encoder if kind == "MimiEncoder" else theirs.decoder
        close(part(given)[0], side(given)[0])
    for dropped in ("encoder", "decoder"):
        folder = tmp_path / dropped
        theirs = reference_of(folder, **{f"{dropped}_config": None})
        left = omniform.MimiModel.from_pretrained(folder)
        check_round_trip(folder, left, tmp_path / f"{dropped} again")
        assert getattr(left.config, f"{dropped}_config") is None and getattr(left, dropped) is None
        assert f"{dropped}.layers.0.conv.weight" not in load_file(folder / "model.safetensors")
        codes = torch.randint(0, 16, (1, 3, 4))
        if dropped == "encoder":
            close(left.decode(codes).audio_values, theirs.decode(codes).audio_values)
            close(
                left(None, audio_codes=codes, padding_mask=torch.ones(1, 30)).audio_values[..., :30],
                theirs.decode(codes, torch.ones(1, 30)).audio_values,
            )
        else:
            assert torch.equal(left.encode(values).audio_codes, theirs.encode(values).audio_codes)
        with pytest.raises(MissingPartError, match=f"no {dropped}"):
            left(values)


def test_lengths(tmp_path):
    """How many frames there are of samples, and which are of sound."""
    for changes in ({}, {"use_causal_conv": False}, {"frame_rate": 25}):
        ours, theirs = pair(tmp_path, **changes)
        lengths = torch.arange(1, 140)
        assert torch.equal(ours.get_encoded_length(lengths), theirs.get_encoded_length(lengths))
        assert int(ours.get_encoded_length(77)) == ours.encode(noise(1, 1, 77)).audio_codes.shape[-1]
        mask = (torch.arange(90) < torch.tensor([[90], [31], [1]])).long()
        for side in ("right", "left"):
            assert torch.equal(ours.get_audio_codes_mask(mask, side), theirs.get_audio_codes_mask(mask, side))


def test_gradients(tmp_path):
    """Of the decoder's weights, which codes lead to, and the encoder's, which frames do."""
    ours, theirs = pair(tmp_path)
    codes = torch.randint(0, 16, (1, 3, 9))
    for model in (ours.train(), theirs.train()):
        model.decode(codes).audio_values.pow(2).sum().backward()
        (model.encoder(noise(1, 1, 50)).latents.pow(2).sum()).backward()
    expected = {
        name.replace("self_attn_layer_scale.scale", "layer_scale1.lambda1").replace(
            "mlp_layer_scale.scale", "layer_scale2.lambda1"
        ): p
        for name, p in theirs.named_parameters()
    }
    for name, parameter in ours.named_parameters():
        if expected[name].grad is not None:
            close(parameter.grad, expected[name].grad, name)


def test_configs(tmp_path):
    """Every field is accounted for, defaults are the reference's, and what cannot be is refused by name."""
    for name in ("mimi", "mimi_encoder", "mimi_decoder"):
        kind = getattr(transformers.models.mimi, type(omniform.AutoConfig.for_model(name)).__name__)
        assert not unaccounted(name, kind)
        assert not wrong_defaults(name, kind)
    for given in ({}, {"frame_rate": 12.5}, {"sampling_rate": 16000}, {"upsampling_ratios": [5, 4]}):
        ours, theirs = omniform.MimiConfig(**given), transformers.MimiConfig(**given)
        for name in ("frame_rate", "encodec_frame_rate", "latent_stride", "latent_dim", "frame_size", "num_codebooks"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert ours.encoder_config.hidden_size == 512
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "mimi", **given, "strange": 1}))
        read = omniform.AutoConfig.from_pretrained(tmp_path)
        assert (read.frame_rate, read.unknown) == (theirs.frame_rate, ("strange",))
    for key, value in {
        "codebook_size": 100, "codebook_dim": 4, "num_semantic_quantizers": 32, "num_attention_heads": 7,
        "upsample_groups": 7, "frame_rate": 20.0, "encoder_config": {"hidden_size": 3}, "trim_right_ratio": 2.0,
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=key):
            omniform.MimiConfig(**{key: value})
    with pytest.raises(ConfigError, match="a decoder, or both"):
        omniform.MimiConfig(encoder_config=None, decoder_config=None)


def test_bad_inputs(tmp_path):
    """Said before anything is computed."""
    ours, _ = pair(tmp_path, pad_mode="reflect")
    for values, told in {
        "shape": (noise(2, 30), "no samples of sounds"),
        "channels": (noise(2, 3, 24), "not the model's channels"),
        "empty": (noise(2, 1, 0), "the sound is empty"),
    }.values():
        with pytest.raises(InputError, match=told):
            ours(values)
    for stages in (0, 5, "two"):
        with pytest.raises(InputError, match="num_quantizers"):
            ours.encode(noise(1, 1, 24), num_quantizers=stages)
    with pytest.raises(InputError, match="in pieces"):
        ours.encode(noise(1, 1, 24), use_streaming=True)
    with pytest.raises(InputError, match="audio_codes"):
        ours.decode(torch.zeros(1, 5, 3, dtype=torch.long))
