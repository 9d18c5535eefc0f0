"""Qwen2.5-Omni against the reference: what makes a sound of codes."""

from __future__ import annotations

import pytest
import torch

from omniform.core.errors import InputError
from reference import check_round_trip, close, omniform, saved_reference, transformers

FLOW = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "head_dim": 8, "emb_dim": 6, "block_size": 4,
    "look_ahead_layers": [1], "look_backward_layers": [0, 2], "num_embeds": 30, "mel_dim": 10, "enc_emb_dim": 6,
    "enc_dim": 7, "enc_channels": [8, 8, 8, 16], "enc_kernel_sizes": [5, 3, 3, 1], "enc_dilations": [1, 2, 3, 1],
    "enc_attention_channels": 5, "enc_se_channels": 4, "max_position_embeddings": 40,
}  # fmt: skip
VOCODER = {
    "mel_dim": 10, "upsample_initial_channel": 16, "upsample_rates": [3, 2], "upsample_kernel_sizes": [7, 4],
    "resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [[1, 3, 5], [1, 2, 3]],
}  # fmt: skip


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Ours and theirs, the same weights."""
    folder = tmp_path_factory.mktemp("token2wav") / "model"
    config = transformers.Qwen2_5OmniToken2WavConfig(dit_config=FLOW, bigvgan_config=VOCODER)
    theirs = saved_reference(transformers.Qwen2_5OmniToken2WavModel, config, folder, scale=0.2)
    return omniform.Qwen2_5OmniToken2WavModel.from_pretrained(folder), theirs, folder


def told():
    torch.manual_seed(0)
    return torch.randint(0, 30, (1, 9)), torch.randn(1, 6), torch.randn(1, 20, 10)


@pytest.mark.parametrize("how", [{}, {"guidance_scale": 0.0, "num_steps": 4}, {"sway_coefficient": None}])
def test_codes_sound_alike(sounds, how):
    ours, theirs, _ = sounds
    torch.manual_seed(1)
    expected = theirs(*told(), **how)
    torch.manual_seed(1)
    close(ours(*told(), **how), expected)


@torch.no_grad()
@pytest.mark.parametrize("time", [torch.tensor(0.3), torch.tensor([0.2, 0.7])], ids=["one", "each"])
@pytest.mark.parametrize(
    "how", [{}, {"apply_cfg": False, "drop_audio_conditioning": True}, {"apply_cfg": False, "drop_code": True}]
)
def test_where_noise_goes(sounds, how, time):
    ours, theirs, _ = sounds
    torch.manual_seed(2)
    given = torch.randn(2, 18, 10), torch.randn(2, 20, 10), torch.randn(2, 18, 6), torch.randint(0, 30, (2, 9)), time
    close(ours.code2wav_dit_model(*given, **how), theirs.code2wav_dit_model(*given, **how))


def test_saved_as_it_was(sounds, tmp_path):
    ours, _, folder = sounds
    check_round_trip(folder, ours, tmp_path / "again")


def test_so_long_a_sound_is_refused(sounds):
    ours, _, _ = sounds
    with pytest.raises(InputError, match="at most 20 codes"):
        ours(torch.zeros(1, 21, dtype=torch.long), *told()[1:])
