"""Text to a wave in one model: VITS (https://arxiv.org/abs/2106.06103).

A text's letters become means and variances, a predictor says how many frames each lasts, noise around the means goes
backwards through a flow, and HiFi-GAN makes samples of the frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Unpack, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.model import Model, arrive_masked
from omniform.blocks.composed import Composed
from omniform.blocks.convolutions import SoundConv1d
from omniform.blocks.embeddings import check_ids
from omniform.blocks.flows import Affine, CouplingFlow, DepthSeparable, SplineFlow, WaveNet, backwards
from omniform.blocks.hifigan import HifiGan
from omniform.blocks.layers import PostNorm, passed
from omniform.blocks.mlp import Activation
from omniform.core.context import StepContext, Tapped
from omniform.core.errors import InputError
from omniform.core.outputs import Layers, ModelOutput


@dataclass(slots=True)
class SpokenOutput(ModelOutput):
    """A wave, and what it was made of.

    Attributes:
        waveform: Shape: [B, samples], between -1 and 1.
        sequence_lengths: how many samples of each row are its own. Shape: [B].
        spectrogram: what the flow gave. Shape: [B, flow channels, frames].
        hidden_states: of the text's encoder, when asked for.
        attentions: likewise.
    """

    waveform: Tensor | None = None
    sequence_lengths: Tensor | None = None
    spectrogram: Tensor | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


class ConvolvedFeedForward(nn.Module):
    """Two convolutions over time with an activation between.

    Args:
        dim: read and written.
        hidden: between.
        kernel: steps that each output looks at.
        activation: between.
        dropout: behind it, in training.
    """

    def __init__(self, dim: int, hidden: int, kernel: int, activation: Activation, dropout: float) -> None:
        super().__init__()
        self.sides = ((kernel - 1) // 2, kernel // 2)
        self.activation, self.dropout = activation, dropout
        self.conv_1 = SoundConv1d(dim, hidden, kernel)
        self.conv_2 = SoundConv1d(hidden, dim, kernel)

    def forward(self, x_BTD: Tensor, real_B1T: Tensor) -> Tensor:
        """Shape: [B, T, D] in and out."""
        x = self.conv_1(F.pad(x_BTD.transpose(1, 2) * real_B1T, self.sides))
        x = F.dropout(self.activation(x), self.dropout, self.training)
        out: Tensor = self.conv_2(F.pad(x * real_B1T, self.sides)) * real_B1T
        return out.transpose(1, 2)


def real_of(x_BTD: Tensor, ctx: StepContext) -> Tensor:
    """1 for real steps, 0 for padding, as a factor of channels. Shape: [B, 1, T]."""
    rows, length = x_BTD.shape[:2]
    if ctx.padding is None:
        return x_BTD.new_ones(rows, 1, length)
    return ctx.padding[:, None].to(x_BTD.dtype)


class LetterLayer(PostNorm):
    """A post-norm layer whose feed-forward looks at neighbours, and not at padding."""

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        x_BTD = self.self_attn_layer_norm(self.add(x_BTD, self.self_attn(x_BTD, ctx), ctx))
        normed: Tensor = self.final_layer_norm(self.add(x_BTD, self.mlp(x_BTD, real_of(x_BTD, ctx)), ctx))
        return normed


class LetterEncoder(Composed):
    """Letters to what they sound like: hidden states, and means and logarithms of variances.

    Args:
        embed_tokens: the table of letters.
        layers: called as ``layer(hidden, ctx)``.
        project: hidden states to means and variances.
        layerdrop: probability of leaving out a layer in training.
    """

    embed_tokens: nn.Embedding
    layers: nn.ModuleList
    project: nn.Conv1d
    layerdrop: float

    def forward(self, input_ids: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor, Tensor]:
        """Shape: [B, T] to [B, T, D], and [B, T, flow channels] twice."""
        x = self.embed_tokens(input_ids) * math.sqrt(self.embed_tokens.embedding_dim)
        real = real_of(x, ctx)
        x = x * real.transpose(1, 2)
        for number, layer in enumerate(self.layers):
            ctx.taps.hidden(x)
            # The reference's luck here is numpy's, and so is ours: equal seeds leave out the same.
            if not self.training or np.random.random() >= self.layerdrop:
                x = passed(layer, number, x, ctx)
        x = x * real.transpose(1, 2)
        ctx.taps.hidden(x)
        means, variances = (self.project(x.transpose(1, 2)) * real).transpose(1, 2).chunk(2, dim=2)
        return x, means, variances


class PlainDurations(nn.Module):
    """Durations that are always the same for the same text.

    Args:
        dim: of the letters' hidden states.
        channels: between.
        kernel: steps that each output looks at; odd.
        eps: of the norms.
        dropout: in training.
        voice: width of a speaker's vector; 0 for none.
    """

    def __init__(self, dim: int, channels: int, kernel: int, *, eps: float, dropout: float, voice: int) -> None:
        super().__init__()
        self.dropout = dropout
        self.conv_1 = SoundConv1d(dim, channels, kernel, padding=kernel // 2)
        self.norm_1 = nn.LayerNorm(channels, eps=eps)
        self.conv_2 = SoundConv1d(channels, channels, kernel, padding=kernel // 2)
        self.norm_2 = nn.LayerNorm(channels, eps=eps)
        self.proj = SoundConv1d(channels, 1, 1)
        self.cond = SoundConv1d(voice, dim, 1) if voice else None

    def forward(self, x_BCT: Tensor, real_B1T: Tensor, voice_BV1: Tensor | None, noise: float) -> Tensor:
        """Logarithms of the numbers of frames. Shape: [B, C, T] to [B, 1, T]."""
        x = x_BCT.detach()
        if voice_BV1 is not None and self.cond is not None:
            x = x + self.cond(voice_BV1.detach())
        for conv, norm in ((self.conv_1, self.norm_1), (self.conv_2, self.norm_2)):
            x = norm(torch.relu(conv(x * real_B1T)).transpose(1, 2)).transpose(1, 2)
            x = F.dropout(x, self.dropout, self.training)
        lasting: Tensor = self.proj(x * real_B1T) * real_B1T
        return lasting


class DrawnDurations(nn.Module):
    """Durations that are drawn, by a flow from noise (VITS, section 2.2.2).

    The parts whose names begin with ``post`` belong to training, and are kept for it.

    Args:
        dim: of the letters' hidden states.
        channels: of the flow; two.
        network: makes the convolutions between, given their dropout.
        flows: how many splines there are.
        bins: of each.
        bound: where they begin and end.
        dropout: in training.
        voice: width of a speaker's vector; 0 for none.
    """

    def __init__(
        self, dim: int, *, kernel: int, layers: int, flows: int, bins: int, bound: float, dropout: float, voice: int
    ) -> None:
        super().__init__()
        self.conv_pre = SoundConv1d(dim, dim, 1)
        self.conv_proj = SoundConv1d(dim, dim, 1)
        self.conv_dds = DepthSeparable(dim, kernel, layers, dropout)
        self.cond = SoundConv1d(voice, dim, 1) if voice else None
        self.flows = _chain(dim, kernel, layers, flows, bins, bound)
        self.post_conv_pre = SoundConv1d(1, dim, 1)
        self.post_conv_proj = SoundConv1d(dim, dim, 1)
        self.post_conv_dds = DepthSeparable(dim, kernel, layers, dropout)
        self.post_flows = _chain(dim, kernel, layers, flows, bins, bound)

    def forward(self, x_BCT: Tensor, real_B1T: Tensor, voice_BV1: Tensor | None, noise: float) -> Tensor:
        """Logarithms of the numbers of frames. Shape: [B, C, T] to [B, 1, T]."""
        x = self.conv_pre(x_BCT.detach())
        if voice_BV1 is not None and self.cond is not None:
            x = x + self.cond(voice_BV1.detach())
        told = self.conv_proj(self.conv_dds(x, real_B1T)) * real_B1T
        # Drawn on the host, as the first implementation does: the same seed gives the same speech on any device.
        drawn = torch.randn(x.shape[0], 2, x.shape[2]).to(x) * noise
        return backwards(self.flows, drawn, real_B1T, told)[:, :1]


def _chain(dim: int, kernel: int, layers: int, flows: int, bins: int, bound: float) -> nn.ModuleList:
    """The flows of durations, in the order in which they are learned."""
    return nn.ModuleList(
        [
            Affine(2),
            *[SplineFlow(2, dim, DepthSeparable(dim, kernel, layers), bins=bins, bound=bound) for _ in range(flows)],
        ]
    )


class Posterior(nn.Module):
    """A spectrogram to what flows: how VITS learns, and how voices are converted.

    Args:
        bins: frequencies of the spectrogram.
        hidden: of the network.
        channels: of what flows.
        wavenet: the network.
    """

    def __init__(self, bins: int, hidden: int, channels: int, wavenet: WaveNet) -> None:
        super().__init__()
        self.conv_pre = SoundConv1d(bins, hidden, 1)
        self.wavenet = wavenet
        self.conv_proj = SoundConv1d(hidden, 2 * channels, 1)

    def forward(
        self, x_BFT: Tensor, real_B1T: Tensor, voice_BV1: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What was drawn, its means and the logarithms of its deviations. Shape: [B, F, T] to [B, C, T] each."""
        x = self.wavenet(self.conv_pre(x_BFT) * real_B1T, real_B1T, voice_BV1)
        mean, spread = (self.conv_proj(x) * real_B1T).chunk(2, dim=1)
        return (mean + torch.randn_like(mean) * torch.exp(spread)) * real_B1T, mean, spread


class Spoken(Model):
    """Text to a wave.

    Attributes:
        speaking_rate: larger is faster.
        noise_scale: how much the sound is left to chance.
        noise_scale_duration: how much durations are.
        samples: of each frame.
    """

    text_encoder: LetterEncoder
    flow: CouplingFlow
    decoder: HifiGan
    duration_predictor: PlainDurations | DrawnDurations
    embed_speaker: nn.Embedding | None
    posterior_encoder: Posterior
    speaking_rate: float
    noise_scale: float
    noise_scale_duration: float
    samples: int

    def get_input_embeddings(self) -> nn.Module:
        return self.text_encoder.embed_tokens

    def arrive(self, inputs: dict[str, object]) -> None:
        ids = inputs.get("input_ids")
        if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.shape[1] == 0:
            raise InputError(
                "there is no text to speak",
                where="input_ids",
                expected="ids of the tokenizer, shape [batch, letters]",
                found=f"shape {list(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__,
            )
        check_ids(ids, self.text_encoder.embed_tokens.num_embeddings, where="input_ids")
        arrive_masked(inputs, rows=ids.shape[0], new=ids.shape[1])
        if inputs.get("labels") is not None:
            raise InputError(
                "speech is made by this model, it is not trained",
                where="labels",
                remedy="Leave labels out; its training needs a discriminator, which checkpoints do not hold.",
            )
        rate = inputs.get("speaking_rate")
        if rate is not None and not (isinstance(rate, (int, float)) and 0 < rate < math.inf):
            raise InputError("this is no rate", where="speaking_rate", expected="a number above 0", found=repr(rate))
        inputs["speaker_id"] = self._speakers(inputs.get("speaker_id"), ids)

    def _speakers(self, asked: object, ids: Tensor) -> Tensor | None:
        """Checked numbers of speakers; None where this model has one voice only, or nobody asks for another."""
        if asked is None or self.embed_speaker is None:
            return None
        numbers = torch.as_tensor(asked, device=ids.device)
        numbers = numbers.reshape(-1) if numbers.dim() < 2 else numbers
        known, width = self.embed_speaker.num_embeddings, self.embed_speaker.embedding_dim
        fits = numbers.dtype not in (torch.bool,) and not numbers.is_floating_point() and numbers.dim() == 1
        if not fits or len(numbers) not in (1, len(ids)) or not width:
            raise InputError(
                "one speaker for all rows, or one for each",
                where="speaker_id",
                expected=f"a number, or {len(ids)}" if width else "a model that tells its speakers apart",
                found=repr(asked)[:80],
            )
        check_ids(numbers[None], known, where="speaker_id")
        return numbers.long()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        speaker_id: Tensor | None = None,
        labels: Tensor | None = None,
        speaking_rate: float | None = None,
        **given: Unpack[Tapped],
    ) -> SpokenOutput:
        """Speak.

        Args:
            input_ids: letters. Shape: [B, T].
            attention_mask: 1 for real letters. Shape: [B, T].
            speaker_id: whose voice, of models with several: a number, or one for each row.
            labels: refused; the ecosystem has the name.
            speaking_rate: larger is faster; the model's own by default.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: letters or speakers that the model does not have.
        """
        ctx = self.step(input_ids, given, attention_mask=attention_mask)
        hidden, means, variances = self.text_encoder(input_ids, ctx)
        real = real_of(hidden, ctx)
        voice = None
        if self.embed_speaker is not None and speaker_id is not None:
            voice = self.embed_speaker(speaker_id)[..., None]
        lasting = self.duration_predictor(hidden.transpose(1, 2), real, voice, self.noise_scale_duration)
        slower = 1.0 / (self.speaking_rate if speaking_rate is None else speaking_rate)
        durations = torch.ceil(torch.exp(lasting) * real * slower)[:, 0]
        letters, lengths = _laid_out(durations)
        sounds = letters >= 0
        means, variances = _of_frames(means, letters), _of_frames(variances, letters)
        drawn = means + torch.randn_like(means) * torch.exp(variances) * self.noise_scale
        spoken = sounds[:, None].to(drawn.dtype)
        frames = self.flow(drawn, spoken, voice, reverse=True) * spoken
        return SpokenOutput(
            waveform=self.decoder(frames, voice)[:, 0],
            sequence_lengths=lengths * self.samples,
            spectrogram=frames,
            **ctx.taps.noted(),
        )


def _laid_out(durations_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Which letter each frame says; -1 behind the last. Shape: [B, T] to [B, frames], and [B] frames of each row.

    How long a text lasts is one of the things that the model computes, so that this once a number must be read.
    """
    ends = durations_BT.double().cumsum(-1)
    lengths = ends[:, -1].clamp(min=1).long()
    longest = cast(int, lengths.max().item())  # not by ``int``: torch.export has no number there yet
    torch._check(longest >= 1)  # type: ignore[no-untyped-call]
    frame = torch.arange(longest, device=ends.device, dtype=ends.dtype)
    letter = torch.searchsorted(ends, frame.expand(ends.shape[0], -1).contiguous(), right=True)
    return torch.where(letter < durations_BT.shape[1], letter, -1), lengths


def _of_frames(x_BTC: Tensor, letters: Tensor) -> Tensor:
    """What belongs to each frame's letter, 0 where there is none. Shape: [B, T, C] to [B, C, frames]."""
    index = letters.clamp(min=0)[..., None].expand(-1, -1, x_BTC.shape[2])
    found = x_BTC.gather(1, index) * (letters >= 0)[..., None]
    return found.transpose(1, 2)
