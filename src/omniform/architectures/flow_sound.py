"""Codes as a sound by flow matching: a transformer leads noise to a spectrogram, a vocoder makes samples of that.

Qwen2.5-Omni's token2wav (https://arxiv.org/abs/2503.20215, section 2.4): frames look around within blocks only, a few
layers into the next block or the one before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.model import Model
from omniform.blocks.attention import Attention
from omniform.blocks.bigvgan import BigVgan
from omniform.blocks.composed import Composed
from omniform.blocks.ecapa import Ecapa
from omniform.blocks.embeddings import check_ids
from omniform.blocks.rotary import InterleavedRotary
from omniform.core.context import StepContext
from omniform.core.errors import InputError, brief
from omniform.core.rules import Rule


@dataclass(frozen=True, slots=True)
class Blocks(Rule):
    """A frame sees its own block, and so many before and behind it.

    Attributes:
        size: frames of a block.
        back: blocks before its own.
        on: blocks behind it.
    """

    size: int
    back: int
    on: int

    def allows(self, query: Tensor, key: Tensor) -> Tensor:
        apart = key // self.size - query // self.size
        return (apart >= -self.back) & (apart <= self.on)


@dataclass(frozen=True, slots=True)
class FirstHeadRotary(InterleavedRotary):
    """Rotary positions that turn the first head alone, as the published weights were trained."""

    def __call__(self, q_BTHD: Tensor, k_BTHD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """Shape: [B, T, H, D] in and out."""
        q, k = InterleavedRotary.__call__(self, q_BTHD[..., :1, :], k_BTHD[..., :1, :], ctx)
        return torch.cat((q, q_BTHD[..., 1:, :]), dim=-2), torch.cat((k, k_BTHD[..., 1:, :]), dim=-2)


class AdaptedNorm(nn.Module):
    """A layer norm without weights, shifted and scaled by the time (https://arxiv.org/abs/2212.09748).

    Args:
        dim: width.
        parts: how many vectors are made of the time, a shift and a scale among them.
    """

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, parts * dim)
        self.parts = parts

    def forward(self, time_BD: Tensor) -> tuple[Tensor, ...]:
        """What the time says. Shape: [B, D] to [B, 1, D] each."""
        told: Tensor = self.linear(F.silu(time_BD))
        return torch.chunk(told[:, None], self.parts, dim=-1)


def _normed(x_BTD: Tensor) -> Tensor:
    return F.layer_norm(x_BTD, x_BTD.shape[-1:], eps=1e-6)


class FlowMLP(nn.Module):
    """A feed-forward of a flow's layer.

    Args:
        dim: width.
        hidden: width between its projections.
        dropout: between them, in training.
    """

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., D] in and out."""
        wide = F.dropout(F.gelu(self.fc1(x), approximate="tanh"), self.dropout, self.training)
        out: Tensor = self.fc2(wide)
        return out


class FlowLayer(Composed):
    """A layer whose branches the time shifts, scales and weighs.

    Args:
        attn_norm: what the time says of either branch.
        attn: looks around.
        ff: feed-forward.
        dropout: on what attention gives, in training.
    """

    attn_norm: AdaptedNorm
    attn: Attention
    ff: FlowMLP
    dropout: float

    def forward(self, x_BTD: Tensor, time_BD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, T, D] in and out."""
        told: tuple[Tensor, ...] = self.attn_norm(time_BD)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = told
        seen = self.attn(_normed(x_BTD) * (1 + scale) + shift, ctx)
        x_BTD = x_BTD + gate * F.dropout(seen, self.dropout, self.training)
        thought: Tensor = self.ff(_normed(x_BTD) * (1 + mlp_scale) + mlp_shift)
        out: Tensor = x_BTD + mlp_gate * thought
        return out


class Moments(nn.Module):
    """Times between 0 and 1 as vectors.

    Args:
        dim: width.
        waves: of the sines and cosines that they become first.
    """

    def __init__(self, dim: int, waves: int = 256) -> None:
        super().__init__()
        self.waves = waves
        self.fc1 = nn.Linear(waves, dim)
        self.fc2 = nn.Linear(dim, dim)

    def forward(self, time_B: Tensor) -> Tensor:
        """Shape: [B] to [B, D]."""
        half = self.waves // 2
        speeds = torch.exp(torch.arange(half, device=time_B.device).float() * -(math.log(10000) / (half - 1)))
        angles = 1000 * time_B[:, None] * speeds
        out: Tensor = self.fc2(F.silu(self.fc1(torch.cat((angles.sin(), angles.cos()), dim=-1).to(time_B.dtype))))
        return out


class FlowEmbedding(Composed):
    """What a flow's first layer reads: where it is, whose voice, what is said.

    Args:
        proj: all of these side by side to the layers' width.
        spk_encoder: a spectrogram of the voice to a vector.
    """

    proj: nn.Linear
    spk_encoder: Ecapa


class SpectrogramFlow(Model):
    """Where noise goes on its way to a spectrogram.

    Args:
        time_embed: times to vectors.
        codec_embed: the table of codes.
        input_embed: what the first layer reads.
        layers: called as ``layer(hidden, time, ctx)``.
        norm_out: after the last.
        proj_out: to a spectrogram's bands.
        repeats: frames of a code.
        longest: frames that it can make sense of.
        bands: of the spectrogram.
    """

    main_input = "hidden_states"

    time_embed: Moments
    codec_embed: nn.Embedding
    input_embed: FlowEmbedding
    layers: nn.ModuleList
    norm_out: AdaptedNorm
    proj_out: nn.Linear
    repeats: int
    longest: int
    bands: int

    def get_input_embeddings(self) -> nn.Module:
        return self.codec_embed

    def forward(
        self,
        hidden_states: Tensor,
        condition_vector: Tensor,
        speaker_embedding: Tensor,
        quantized_code: Tensor,
        time_step: Tensor,
        drop_audio_conditioning: bool = False,
        drop_code: bool = False,
        apply_cfg: bool = True,
    ) -> Tensor:
        """How fast, and where to, each number of a spectrogram moves.

        Args:
            hidden_states: where it is. Shape: [B, T, bands].
            condition_vector: a spectrogram of the voice. Shape: [B, frames, bands].
            speaker_embedding: what else is known of it. Shape: [B, T, V].
            quantized_code: what is said. Shape: [B, T / repeats].
            time_step: between 0 and 1. Shape: [] or [B].
            drop_audio_conditioning: whose voice it is, is not told.
            drop_code: what is said, is not told.
            apply_cfg: rows are computed a second time behind the others, without all of that.

        Returns:
            Shape: [B, T, bands]; twice as many rows with ``apply_cfg``.
        """
        rows = hidden_states.shape[0]
        if apply_cfg:
            drop_audio_conditioning = drop_code = False
        codes = torch.zeros_like(quantized_code) if drop_code else quantized_code
        told = [speaker_embedding, condition_vector]
        if drop_audio_conditioning:
            told = [torch.zeros_like(one) for one in told]
        if apply_cfg:
            codes = torch.cat((codes, torch.zeros_like(codes)))
            told = [torch.cat((one, torch.zeros_like(one))) for one in told]
            hidden_states = hidden_states.repeat(2, 1, 1)
        time = time_step.expand(rows) if time_step.dim() == 0 else time_step
        time = time.repeat(len(hidden_states) // len(time))
        return self._moved(hidden_states, told[0], told[1], codes, self.time_embed(time))

    def _moved(self, x_BTC: Tensor, beside_BTV: Tensor, voice_BFC: Tensor, codes_BN: Tensor, time_BD: Tensor) -> Tensor:
        said = self.codec_embed(codes_BN).repeat_interleave(self.repeats, dim=1)
        voice = self.input_embed.spk_encoder(voice_BFC)[:, None].expand(-1, x_BTC.shape[1], -1)
        x_BTD = self.input_embed.proj(torch.cat((x_BTC, voice, said, beside_BTV), dim=-1))
        ctx = self.step(x_BTD)
        for layer in self.layers:
            x_BTD = layer(x_BTD, time_BD, ctx)
        scale, shift = self.norm_out(time_BD)
        out: Tensor = self.proj_out(_normed(x_BTD) * (1 + scale) + shift)
        return out

    @torch.no_grad()
    def sample(
        self,
        conditioning_vector: Tensor,
        reference_mel_spectrogram: Tensor,
        quantized_code: Tensor,
        num_steps: int = 10,
        guidance_scale: float = 0.5,
        sway_coefficient: float | None = -1.0,
    ) -> Tensor:
        """A spectrogram of codes, from noise.

        Args:
            conditioning_vector: of the voice. Shape: [B, V].
            reference_mel_spectrogram: of the voice. Shape: [B, frames, bands].
            quantized_code: Shape: [B, N].
            num_steps: moments that are looked at, both ends among them.
            guidance_scale: how much more what is told counts for; 0 for as it is.
            sway_coefficient: how moments are crowded towards the beginning (https://arxiv.org/abs/2410.06885, 3.3).

        Returns:
            Shape: [B, bands, N * repeats].

        Raises:
            InputError: more frames than the model knows, codes that it does not have.
        """
        check_ids(quantized_code, self.codec_embed.num_embeddings, "quantized_code")
        frames = quantized_code.shape[1] * self.repeats
        if frames > self.longest:
            raise InputError(
                "so long a sound is not known to the model",
                where="quantized_code",
                expected=f"at most {self.longest // self.repeats} codes",
                found=quantized_code.shape[1],
            )
        shape, device = (len(reference_mel_spectrogram), frames, self.bands), quantized_code.device
        x_BTC = torch.randn(shape, dtype=reference_mel_spectrogram.dtype, device=device)
        beside = conditioning_vector[:, None].expand(-1, frames, -1)

        def speed(time: Tensor, x: Tensor) -> Tensor:
            guided = guidance_scale >= 1e-5
            found = self.forward(x, reference_mel_spectrogram, beside, quantized_code, time, apply_cfg=guided)
            if not guided:
                return found
            told, untold = found.chunk(2)
            return told + (told - untold) * guidance_scale

        times = torch.linspace(0, 1, num_steps, device=device, dtype=conditioning_vector.dtype)
        if sway_coefficient is not None:
            times = times + sway_coefficient * (torch.cos(torch.pi / 2 * times) - 1 + times)
        for start, end in pairwise(times):
            x_BTC = x_BTC + _moved_by(speed, start, end, x_BTC)
        return x_BTC.transpose(1, 2)


def _moved_by(speed: Callable[[Tensor, Tensor], Tensor], start: Tensor, end: Tensor, x: Tensor) -> Tensor:
    """How far something moves between two moments, by Kutta's rule of three eighths (fourth order)."""
    step, third = end - start, 1 / 3
    first = speed(start, x)
    second = speed(start + step * third, x + step * first * third)
    next_one = speed(start + step * (2 / 3), x + step * (second - first * third))
    last = speed(end, x + step * (first - second + next_one))
    return (first + 3 * (second + next_one) + last) * step / 8


class FilteredVocoder(Model):
    """A spectrogram to samples, in decibels on the way.

    Args:
        net: frames to samples.
    """

    main_input = "mel_spectrogram"

    net: BigVgan

    def get_input_embeddings(self) -> nn.Module:
        return self.net.conv_pre

    def arrive(self, inputs: dict[str, object]) -> None:
        mel, bands = inputs.get("mel_spectrogram"), self.net.conv_pre.in_channels
        if not isinstance(mel, Tensor) or mel.dim() != 3 or mel.shape[1] != bands:
            raise InputError(
                "this is no spectrogram that the vocoder reads",
                where="mel_spectrogram",
                expected=f"shape [batch, {bands}, frames]",
                found=f"shape {list(mel.shape)}" if isinstance(mel, Tensor) else brief(mel),
            )

    def forward(self, mel_spectrogram: Tensor) -> Tensor:
        """Samples.

        Args:
            mel_spectrogram: logarithms. Shape: [B, bands, T].

        Returns:
            Shape: [B, samples], of one row [samples]; between -1 and 1.
        """
        least = math.exp(-115 / 20.0 * math.log(10))
        decibels = 20 * mel_spectrogram.exp().clamp(min=least).log10() - 20
        wave: Tensor = self.net((2 * ((decibels + 115) / 115) - 1).clamp(-1, 1))
        return wave.squeeze()


class FlowSound(Model):
    """Codes to samples.

    Args:
        code2wav_dit_model: codes to a spectrogram.
        code2wav_bigvgan_model: that to samples.
    """

    main_input = "code"

    code2wav_dit_model: SpectrogramFlow
    code2wav_bigvgan_model: FilteredVocoder

    def get_input_embeddings(self) -> nn.Module:
        return self.code2wav_dit_model.codec_embed

    @torch.no_grad()
    def forward(
        self,
        code: Tensor,
        conditioning: Tensor,
        reference_mel: Tensor,
        num_steps: int = 10,
        guidance_scale: float = 0.5,
        sway_coefficient: float | None = -1.0,
    ) -> Tensor:
        """What codes sound like; see :meth:`SpectrogramFlow.sample`.

        Args:
            code: Shape: [B, N].
            conditioning: of the voice. Shape: [B, V].
            reference_mel: a spectrogram of the voice. Shape: [B, frames, bands].

        Returns:
            Shape: [B, samples], of one row [samples].
        """
        flow = self.code2wav_dit_model
        mel = flow.sample(conditioning, reference_mel, code, num_steps, guidance_scale, sway_coefficient)
        return self.code2wav_bigvgan_model.forward(mel)
