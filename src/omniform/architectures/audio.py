"""Encoders of sound, and task heads over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.encoder_decoder import EncoderOutputs, MemoryEncoder, encoder_output
from omniform.architectures.heads import Head
from omniform.architectures.labels import Classes, Targets
from omniform.architectures.losses import row_loss, scored
from omniform.blocks.augment import SpecAugment
from omniform.blocks.layers import run, surviving
from omniform.core.context import Memory, Tapped
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput, ClassifierOutput


class FixedPositions(nn.Embedding):
    """An encoder's positions, stored with the weights and never trained."""

    def __init__(self, positions: int, dim: int) -> None:
        super().__init__(positions, dim)
        self.weight.requires_grad_(False)


class Sinusoids(FixedPositions):
    """Positions that are sines and cosines."""

    def reset(self, std: float) -> None:
        """Wavelengths from 2 pi to 20000 pi, the sines in the first half of the channels."""
        positions, dim = self.weight.shape
        channels = torch.arange(dim // 2, dtype=torch.float32)
        speeds = torch.exp(channels * -(torch.log(torch.tensor(10000.0)) / max(dim // 2 - 1, 1)))
        angles = torch.arange(positions, dtype=torch.float32)[:, None] * speeds
        self.weight.copy_(torch.cat((angles.sin(), angles.cos()), dim=1))


class MelEncoder(MemoryEncoder):
    """An encoder of log-mel spectrograms (Whisper): two convolutions, the second halving the frames, then layers.

    Args:
        mel_bins: frequency bands of the spectrogram.
        dim: width of the residual stream.
        positions: frames after the convolutions; every input has exactly twice as many.
        layers: called as ``layer(hidden, ctx)``.
        dropout: on the embedded frames, in training.
        layerdrop: probability of leaving out a layer in training.
        augment: what is done to the spectrogram in training.

    Attributes:
        POSITIONS: how the positions begin.
    """

    main_input = "input_features"
    POSITIONS: ClassVar[type[FixedPositions]] = Sinusoids

    mel_bins: int
    dim: int
    positions: int
    layers: nn.ModuleList
    dropout: float = 0.0
    layerdrop: float = 0.0
    augment: SpecAugment | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.conv1 = nn.Conv1d(self.mel_bins, self.dim, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(self.dim, self.dim, kernel_size=3, stride=2, padding=1)
        self.embed_positions = self.POSITIONS(self.positions, self.dim)
        self.norm = nn.LayerNorm(self.dim)

    def get_input_embeddings(self) -> nn.Module:
        return self.conv1

    @property
    def stride(self) -> int:
        """Frames of the spectrogram for each that the encoder gives."""
        return 2

    @property
    def window(self) -> int:
        """Frames of the spectrogram that it hears at once."""
        return self.stride * self.embed_positions.num_embeddings

    def window_of(self, features: Tensor, first: int = 0, frames: int | None = None) -> Tensor:
        """A part of a long spectrogram, filled with zeros to a window. Shape: [B, mel bins, frames] in and out.

        Args:
            first: where it begins.
            frames: how many frames of it are real, at most; a window of them by default.
        """
        if features.dim() != 3:
            return self.check(features)
        part = features[..., first : first + (self.window if frames is None else min(frames, self.window))]
        return F.pad(part, (0, self.window - part.shape[-1]))

    def memory(self, hidden: Tensor, attention_mask: Tensor | None) -> Memory:
        # Silence is heard, not masked: that is how Whisper was trained.
        return Memory(hidden)

    def forward(
        self, input_features: Tensor | None = None, attention_mask: Tensor | None = None, **given: Unpack[Tapped]
    ) -> BaseModelOutput:
        """Hidden states of spectrograms.

        Args:
            input_features: log-mel features. Shape: [B, mel bins, frames].
            attention_mask: real frames, Shape: [B, frames]; only the training augmentation looks at it.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: another number of bands or frames than the model was made for.
        """
        features = self.check(input_features)
        if self.training and self.augment is not None:
            features = self.augment(features, attention_mask)
        x = self.embed(features)
        ctx = self.step(x, given)
        hidden = run(surviving(self.layers, self.layerdrop), x, ctx, self.norm)
        return BaseModelOutput(last_hidden_state=hidden, **ctx.taps.noted())

    def embed(self, features: Tensor) -> Tensor:
        """Spectrograms to the vectors that the layers start from. Shape: [B, mel bins, frames] to [B, T, D]."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(features)))).transpose(1, 2)
        frames = torch.arange(self.embed_positions.num_embeddings, device=x.device)
        return F.dropout(x + self.embed_positions(frames), self.dropout, self.training)

    def check(self, features: Tensor | None) -> Tensor:
        bands, frames = self.conv1.in_channels, self.window
        if features is None or features.dim() != 3 or features.shape[1:] != (bands, frames):
            raise InputError(
                "the features do not fit the encoder",
                where="input_features",
                expected=f"shape [batch, {bands}, {frames}]",
                found="none" if features is None else f"shape {list(features.shape)}",
                remedy="Make them with the checkpoint's own feature extractor, which pads to this length.",
            )
        return features.to(self.conv1.weight.dtype)


class LayerMix(nn.Module):
    """A learned mean of the embeddings and all layers' outputs.

    Args:
        states: how many there are: the number of layers, plus one.
    """

    def __init__(self, states: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(states))

    def reset(self, std: float) -> None:
        """All count the same to begin with."""
        self.weights.fill_(1 / self.weights.numel())

    def forward(self, states: tuple[Tensor, ...]) -> Tensor:
        """Shape: [B, S, D] each, to [B, S, D]."""
        if len(states) != self.weights.numel():
            raise InputError(
                "the layers cannot be mixed",
                where="encoder_outputs",
                expected=f"{self.weights.numel()} hidden states",
                found=f"{len(states)}",
            )
        shares = torch.softmax(self.weights, dim=-1)
        return (torch.stack(states, dim=1) * shares.view(-1, 1, 1)).sum(dim=1)


class AudioClassifier(Head):
    """One class per recording: the mean over time of the projected hidden states.

    Args:
        projector: hidden states to the classifier's width.
        classifier: the mean to class scores.
        layer_mix: reads all layers instead of the last; None for the last.
    """

    projector: nn.Linear
    classifier: nn.Linear
    layer_mix: LayerMix | None

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Classes(self.classifier.out_features)}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return scored(inputs.get("labels"))

    def forward(
        self,
        features: Tensor | None = None,
        /,
        *,
        encoder_outputs: EncoderOutputs | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_hidden_states: bool | None = None,
        **inputs: object,
    ) -> ClassifierOutput:
        """Class scores; see the encoder for its inputs.

        Args:
            features: the encoder's main input, by position; by keyword it goes by the encoder's name for it.
            encoder_outputs: of an earlier call, instead of the encoder's inputs.
            labels: Shape: [B], class indices; gives a loss.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own rows.
        """
        if features is not None:
            inputs[self.main_input] = features
        wants_all = output_hidden_states if self.layer_mix is None else True
        if encoder_outputs is None:
            out = cast(BaseModelOutput, self.model(output_hidden_states=wants_all, **inputs))
        else:
            out = encoder_output(encoder_outputs)
        hidden = out.last_hidden_state if self.layer_mix is None else self.layer_mix(out.hidden_states or ())
        logits = self.classifier(self.projector(hidden).mean(dim=1))
        loss = None if labels is None else row_loss(logits, labels, items=num_items_in_batch)
        return ClassifierOutput(loss=loss, logits=logits, **out.noted())
