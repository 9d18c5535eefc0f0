"""Encoders that read waves: samples to frames, frames through layers (wav2vec 2.0 and its kin).

Families differ in objects: the convolutions of the stem, how places are told, where norms stand, what follows.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.encoder_decoder import MemoryEncoder
from omniform.architectures.model import Model
from omniform.blocks.composed import Composed
from omniform.blocks.layers import passed
from omniform.blocks.lowering import Stack
from omniform.blocks.waves import Bottleneck, ConvAdapter, Count, FeatureProjection, SpecMask, WaveStem, check_wave
from omniform.core.context import Memory, StepContext, Tapped
from omniform.core.errors import InputError, check_shape
from omniform.core.host import is_all_true
from omniform.core.sound_outputs import WaveOutput
from omniform.weights.init import initialise


def through_layers(layers: nn.ModuleList, x_BTD: Tensor, ctx: StepContext, layerdrop: float, spared: int = 0) -> Tensor:
    """Pass frames through a stack of layers, noting them for whoever asked.

    Args:
        x_BTD: Shape: [B, T, D].
        layerdrop: probability of leaving out a layer.
        spared: how many of the first are never left out.

    Returns:
        Shape: [B, T, D].
    """
    if isinstance(layers, Stack) and not layerdrop and (made := layers.through(x_BTD, ctx, None)) is not None:
        return made
    for number, layer in enumerate(layers):
        ctx.taps.hidden(x_BTD)
        # What is left out is noted too: heads that mix all layers count on them. Luck is drawn between the neighbours'
        # dropouts, as the reference draws it.
        if not (layerdrop > 0 and number >= spared and torch.rand(()).item() < layerdrop):
            x_BTD = passed(layer, number, x_BTD, ctx)
    ctx.taps.hidden(x_BTD)
    return x_BTD


class WaveLayers(Composed):
    """The layers that read frames, normed before the first of them.

    Args:
        pos_conv_embed: where frames stand.
        layer_norm: applied once.
        layers: called as ``layer(hidden, ctx)``.
        dropout: on what enters them, in training.
        layerdrop: probability of leaving out a layer in training.
        spared: how many of the first are never left out.
    """

    pos_conv_embed: nn.Module
    layer_norm: nn.Module
    layers: nn.ModuleList
    dropout: float = 0.0
    layerdrop: float = 0.0
    spared: int = 0

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, T, D] in and out."""
        if ctx.padding is not None:
            x_BTD = x_BTD.masked_fill(~ctx.padding[..., None], 0)
        return self.encode(x_BTD + self.pos_conv_embed(x_BTD), ctx)

    def encode(self, placed_BTD: Tensor, ctx: StepContext) -> Tensor:
        """From frames that know where they stand. Shape: [B, T, D] in and out."""
        return self.through(self.layer_norm(placed_BTD), ctx)

    def through(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """The layers alone. Shape: [B, T, D] in and out."""
        x_BTD = F.dropout(x_BTD, self.dropout, self.training)
        return through_layers(self.layers, x_BTD, ctx, self.layerdrop if self.training else 0.0, self.spared)


class StableWaveLayers(WaveLayers):
    """Layers that norm what they read, and one norm behind the last; hidden states are told without it."""

    def encode(self, placed_BTD: Tensor, ctx: StepContext) -> Tensor:
        hidden: Tensor = self.layer_norm(self.through(placed_BTD, ctx))
        return hidden


class WaveModel(Model):
    """What is asked of any model of waves, with or without a head: frames of samples, parts that learn.

    The names are the ecosystem's, beside :meth:`SoundEncoder.frames_of`.
    """

    def waves(self) -> SoundEncoder:
        """The encoder that reads the samples."""
        raise NotImplementedError

    def _get_feat_extract_output_lengths(self, input_lengths: Tensor | int, add_adapter: bool | None = None) -> Tensor:
        lengths = torch.as_tensor(input_lengths)
        return self.waves().frames_of(lengths, adapted=True if add_adapter is None else add_adapter)

    def _get_feature_vector_attention_mask(
        self, feature_vector_length: int, attention_mask: Tensor, add_adapter: bool | None = None
    ) -> Tensor:
        adapted = True if add_adapter is None else add_adapter
        return self.waves().real_frames(attention_mask, feature_vector_length, adapted=adapted)

    def freeze_feature_encoder(self) -> None:
        """Keep the convolutions out of training."""
        self.waves().get_input_embeddings().requires_grad_(False)

    def bottlenecks(self) -> list[str]:
        """The paths of the adapters of languages."""
        return [path for path, module in self.named_modules() if isinstance(module, Bottleneck)]

    def adapter_paths(self) -> list[str]:
        """The paths of what each language has for itself.

        Raises:
            InputError: languages have nothing for themselves in this model.
        """
        found = self.bottlenecks()
        if not found:
            raise InputError(
                "this model has no adapters of languages", where="config.json: adapter_attn_dim", expected="their width"
            )
        return found

    def adapter_tensors(self) -> dict[str, nn.Parameter]:
        """What each language has for itself, as a file of it spells that."""
        keys, inside = self.key_map(), tuple(f"{path}." for path in self.adapter_paths())
        return {keys.places(path)[0].key: p for path, p in self.named_parameters() if path.startswith(inside)}

    def _get_adapters(self) -> dict[str, nn.Parameter]:
        return self.adapter_tensors()

    def init_adapter_layers(self) -> None:
        """Make anew what each language has for itself, to be trained alone."""
        inside = tuple(f"{path}." for path in self.adapter_paths())
        wanted = {path for path, _ in self.named_parameters() if path.startswith(inside)}
        initialise(self, self.config.common.initializer_range, wanted, self.beginnings())


class SoundEncoder(WaveModel, MemoryEncoder):
    """Base of the encoders of sounds, given as samples or as their features.

    Args:
        masking: hides frames; None where the model has nothing that stands for them.
    """

    masking: SpecMask | None = None

    def waves(self) -> SoundEncoder:
        return self

    @abstractmethod
    def frames_of(self, samples: Count, *, adapted: bool = True) -> Count:
        """How many hidden states come of so many samples, or steps of what is read in their place.

        Args:
            samples: one number, or one for each row.
            adapted: behind the adapter, where there is one; before it otherwise.
        """

    def real_frames(self, attention_mask: Tensor, frames: int, *, adapted: bool = False) -> Tensor:
        """Which frames are of sound.

        Args:
            attention_mask: Shape: [B, samples], 1 for samples of sound.
            frames: how many frames there are, T.
            adapted: whether they are those behind the adapter.

        Returns:
            Shape: [B, T], boolean. A row that is too short for a frame has all of them, as in the reference.
        """
        real = self.frames_of(attention_mask.long().sum(-1), adapted=adapted)
        real = torch.where(real > 0, real, frames + real)
        return torch.arange(frames, device=real.device) < real[:, None]

    def memory(self, hidden: Tensor, attention_mask: Tensor | None) -> Memory:
        if attention_mask is None:
            return Memory(hidden)
        return Memory(hidden, self.real_frames(attention_mask, hidden.shape[1], adapted=True))

    def check_marks(self, inputs: dict[str, object], given: Tensor) -> None:
        """Look at the marks of padding and of hidden frames; a mask that masks nothing is left out.

        Args:
            inputs: of a call, by name; changed in place.
            given: what is read. Shape: [B, samples, ...].
        """
        mask, hidden = inputs.get("attention_mask"), inputs.get("mask_time_indices")
        if mask is not None:
            if not isinstance(mask, Tensor):
                raise InputError("a mask is a tensor", where="attention_mask", found=type(mask).__name__)
            check_shape("the mask does not cover the samples", mask.shape, given.shape[:2], where="attention_mask")
            if is_all_true(mask):
                inputs["attention_mask"] = None
        if hidden is not None:
            self._check_hidden(hidden, (given.shape[0], self.frames_of(given.shape[1], adapted=False)))

    def _check_hidden(self, hidden: object, shape: tuple[int, int]) -> None:
        if not isinstance(hidden, Tensor):
            raise InputError("hidden frames are a tensor", where="mask_time_indices", found=type(hidden).__name__)
        check_shape("not one mark per frame", hidden.shape, shape, where="mask_time_indices")
        if self.masking is None:
            raise InputError(
                "this model has nothing that stands for hidden frames",
                where="mask_time_indices",
                remedy="mask_time_prob above 0 in the config gives it that.",
            )


class WaveEncoder(SoundEncoder):
    """An encoder of waves.

    Args:
        feature_extractor: samples to frames.
        feature_projection: frames to the layers' width.
        encoder: the layers.
        adapter: fewer frames behind the layers; None for nothing.

    Attributes:
        TELLS_FRAMES: whether the output holds the frames before the layers.
    """

    TELLS_FRAMES: ClassVar[bool] = True
    main_input = "input_values"

    feature_extractor: WaveStem
    feature_projection: FeatureProjection
    encoder: WaveLayers
    adapter: ConvAdapter | None = None

    def frames_of(self, samples: Count, *, adapted: bool = True) -> Count:
        frames = self.feature_extractor.frames_of(samples)
        return self.adapter.frames_of(frames) if adapted and self.adapter is not None else frames

    def get_input_embeddings(self) -> nn.Module:
        return self.feature_extractor

    def arrive(self, inputs: dict[str, object]) -> None:
        wave, stem = check_wave(inputs.get("input_values"), self.feature_extractor), self.feature_extractor
        self.check_marks(inputs, wave)
        if self.adapter is not None and stem.frames_of(wave.shape[1]) < self.adapter.least:
            raise InputError(
                "the sound is too short for one frame behind the adapter",
                where="input_values",
                expected=f"{stem.samples_of(self.adapter.least)} samples or more",
                found=wave.shape[1],
            )

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        **given: Unpack[Tapped],
    ) -> WaveOutput:
        """Hidden states of sounds.

        Args:
            input_values: samples at the model's rate. Shape: [B, samples].
            attention_mask: 1 for samples of sound. Shape: [B, samples].
            mask_time_indices: True for frames to hide. Shape: [B, T].
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: no samples, too few of them, or a mask of another shape.
        """
        frames_BTC = self.feature_extractor(input_values)
        mask = None if attention_mask is None else self.real_frames(attention_mask, frames_BTC.shape[1])
        x_BTD, normed_BTC = self.feature_projection(frames_BTC)
        if self.masking is not None:
            x_BTD = self.masking(x_BTD, mask, mask_time_indices)
        ctx = self.step(x_BTD, given, attention_mask=mask)
        hidden = self.encoder(x_BTD, ctx)
        return WaveOutput(
            last_hidden_state=hidden if self.adapter is None else self.adapter(hidden),
            extract_features=normed_BTC if self.TELLS_FRAMES else None,
            **ctx.taps.noted(),
        )


class PlainWaveEncoder(WaveEncoder):
    """One that tells hidden states alone (HuBERT)."""

    TELLS_FRAMES: ClassVar[bool] = False
