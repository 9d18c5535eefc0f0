"""Heads of models that read waves: letters by frames, classes of sounds and of moments, voices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.audio import LayerMix
from omniform.architectures.heads import Head
from omniform.architectures.labels import IGNORED, Classes, Targets
from omniform.architectures.losses import Items, divided, row_loss, scored
from omniform.architectures.waves import SoundEncoder, WaveModel
from omniform.blocks.composed import Composed
from omniform.blocks.waves import Count, steps_of
from omniform.core.errors import InputError, check_shape
from omniform.core.outputs import CausalLMOutput, ClassifierOutput, ModelOutput, Noted
from omniform.core.reader import ConfigReader
from omniform.core.sound_outputs import WaveOutput, XVectorOutput

REDUCTIONS = ("sum", "mean", "none")


class WaveHead(WaveModel, Head):
    """Base of the heads that stand on an encoder of sounds.

    Attributes:
        FURTHER: inputs that may be given by position, behind sounds and their mask.
    """

    FURTHER: ClassVar[tuple[str, ...]] = ("labels",)
    model: SoundEncoder

    def __call__(self, *args: object, **inputs: object) -> ModelOutput:
        """Run ``forward``; what comes by position gets its name."""
        places = (self.main_input, "attention_mask", *self.FURTHER)
        named = dict(zip(places, args, strict=False))
        if len(args) > len(places) or named.keys() & inputs.keys():
            found = f"{len(args)} by position, and {', '.join(sorted(inputs))} by name"
            raise InputError("inputs are given once each", where=type(self).__name__, expected=places, found=found)
        return super().__call__(**named, **inputs)

    def waves(self) -> SoundEncoder:
        return self.model

    def freeze_base_model(self) -> None:
        """Keep all but the head out of training."""
        self.model.requires_grad_(False)

    def lighten(self, inputs: dict[str, object]) -> None:
        """Sounds are read whole: nothing is left out of a batch."""

    def sounds(self, args: tuple[Tensor | None, ...], inputs: Mapping[str, object]) -> tuple[Tensor, Tensor | None]:
        """Samples, or what is read in their place, and their mask, of a call's inputs."""
        given = args[0] if args else inputs.get(self.main_input)
        mask = args[1] if len(args) > 1 else inputs.get("attention_mask")
        return cast(Tensor, given), cast("Tensor | None", mask)

    def read(self, args: tuple[Tensor | None, ...], inputs: dict[str, object]) -> WaveOutput:
        """What the encoder makes of a call's inputs."""
        return cast(WaveOutput, self.model(*args, **inputs))


@dataclass(frozen=True, slots=True, kw_only=True)
class CTCLoss:
    """The loss of letters by frames (https://www.cs.toronto.edu/~graves/icml_2006.pdf).

    Attributes:
        blank: the token that stands for no letter.
        reduction: ``"sum"`` over rows; ``"mean"`` of what rows lose by letter; ``"none"`` for one loss per row.
        zero_infinity: rows that are too short for their letters lose nothing, where they would lose without end.
    """

    blank: int
    reduction: str
    zero_infinity: bool

    @classmethod
    def read(cls, r: ConfigReader, reduction: str = "sum") -> CTCLoss:
        """The fields under their usual names; ``reduction``: the family's default."""
        blank = r.token("pad_token_id", 0)
        return cls(
            blank=0 if blank is None else blank,
            reduction=r.choice("ctc_loss_reduction", REDUCTIONS, reduction),
            zero_infinity=r.flag("ctc_zero_infinity", False),
        )

    def items(self, labels: object) -> int | None:
        """How many rows there are; None where there are no labels or each row has a loss."""
        return labels.shape[0] if isinstance(labels, Tensor) and labels.dim() and self.reduction != "none" else None

    def __call__(self, logits_BTV: Tensor, labels_BU: Tensor, lengths_B: Tensor, items: Items = None) -> Tensor:
        """The loss.

        Args:
            logits_BTV: Shape: [B, T, V].
            labels_BU: Shape: [B, U]; ``-100`` and the blank are padding.
            lengths_B: how many frames of each row are of sound, by arithmetic; there may be fewer. Shape: [B].
            items: how many rows all batches of a step have together, if the mean is over more than this one.

        Returns:
            A scalar, or Shape: [B] for no reduction.
        """
        rows, letters = logits_BTV.shape[:1], labels_BU.shape[-1:]
        check_shape("there is not one row of letters per sound", labels_BU.shape, (*rows, *letters), where="labels")
        labels_BU = labels_BU.to(logits_BTV.device)
        real_BU = (labels_BU != IGNORED) & (labels_BU != self.blank)
        letters_B = real_BU.sum(-1)
        # Padding may lie between letters too: they are moved to the front, in their order.
        order_BU = (~real_BU).long().argsort(dim=-1, stable=True)
        front_BU = labels_BU.clamp(min=0).gather(-1, order_BU)
        lengths_B = lengths_B.clamp(0, logits_BTV.shape[1])
        scores_TBV = F.log_softmax(logits_BTV, dim=-1, dtype=torch.float32).transpose(0, 1)
        with torch.backends.cudnn.flags(enabled=False):
            losses_B = F.ctc_loss(scores_TBV, front_BU, lengths_B, letters_B, self.blank, "none", self.zero_infinity)
        if self.reduction == "none":
            return losses_B
        if self.reduction == "sum":
            return losses_B.sum()  # of several batches, the sums are added up
        by_letter_B = losses_B / letters_B.clamp(min=1)
        return by_letter_B.mean() if items is None else divided(by_letter_B.sum(), items)


class CTC(WaveHead):
    """Letters by frames: what is said, without knowing when.

    Args:
        lm_head: a frame to scores of letters.
        ctc: the loss.

    Attributes:
        target_lang: the language that was loaded into the adapters; None for the checkpoint's own.
    """

    lm_head: nn.Linear
    ctc: CTCLoss

    def __post_init__(self) -> None:
        super().__post_init__()
        self.target_lang: str | None = None

    def adapter_paths(self) -> list[str]:
        return [*super().adapter_paths(), "lm_head"]

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Classes(self.lm_head.out_features)}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return self.ctc.items(inputs.get("labels"))

    def forward(
        self,
        *args: Tensor | None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> CausalLMOutput:
        """Scores of letters at every frame; see the encoder for its inputs.

        Args:
            labels: Shape: [B, letters], padded with ``-100`` or the blank; gives a loss.
            num_items_in_batch: how many rows a step has, if the loss is the mean over more than this batch's.
        """
        out = self.read(args, inputs)
        logits = self.lm_head(self.dropped(out.last_hidden_state))
        loss = None
        if labels is not None:
            loss = self.ctc(logits, labels, self.lengths(args, inputs), num_items_in_batch)
        return CausalLMOutput(loss=loss, logits=logits, **out.noted())

    def lengths(self, args: tuple[Tensor | None, ...], inputs: Mapping[str, object]) -> Tensor:
        """How many frames of each row are of sound. Shape: [B]."""
        wave, mask = self.sounds(args, inputs)
        samples = torch.full(wave.shape[:1], wave.shape[1], device=wave.device) if mask is None else mask.long().sum(-1)
        return self.model.frames_of(samples)


class MixedHead(WaveHead):
    """Base of the heads that may read all layers instead of the last.

    Args:
        layer_mix: a learned mean of them; None for the last alone.
    """

    layer_mix: LayerMix | None

    def mixed(self, args: tuple[Tensor | None, ...], inputs: dict[str, object]) -> tuple[Tensor, Noted]:
        """The hidden states that the head reads, and what is told of the layers. Shape: [B, T, D]."""
        if self.layer_mix is None:
            out = self.read(args, inputs)
            return out.last_hidden_state, out.noted()
        out = self.read(args, {**inputs, "output_hidden_states": True})
        noted = (
            out.noted() if inputs.get("output_hidden_states") else Noted(hidden_states=None, attentions=out.attentions)
        )
        return self.layer_mix(out.hidden_states or ()), noted


class WaveClassifier(MixedHead):
    """One class per sound: the mean over its frames of the projected hidden states.

    Args:
        projector: hidden states to the classifier's width.
        classifier: the mean to class scores.
    """

    projector: nn.Linear
    classifier: nn.Linear

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Classes(self.classifier.out_features)}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return scored(inputs.get("labels"))

    def forward(
        self,
        *args: Tensor | None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> ClassifierOutput:
        """Class scores; see the encoder for its inputs.

        Args:
            labels: Shape: [B], class indices; gives a loss.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own rows.
        """
        hidden, noted = self.mixed(args, inputs)
        projected_BTD = self.projector(hidden)
        _, mask = self.sounds(args, inputs)
        if mask is None:
            mean_BD = projected_BTD.mean(dim=1)
        else:
            real_BT = self.model.real_frames(mask, projected_BTD.shape[1], adapted=True)
            mean_BD = projected_BTD.masked_fill(~real_BT[..., None], 0).sum(dim=1) / real_BT.sum(dim=1)[:, None]
        logits = self.classifier(mean_BD)
        loss = None if labels is None else row_loss(logits, labels, items=num_items_in_batch)
        return ClassifierOutput(loss=loss, logits=logits, **noted)


@dataclass(frozen=True, slots=True)
class Weighed(Targets):
    """How much each class counts, in any numbers."""

    def check(self, name: str, labels: Tensor, inputs: Mapping[str, object]) -> None:
        """Any tensor will do; its shape is looked at beside the scores."""


class FrameClassifier(MixedHead):
    """Classes of every frame: who speaks when."""

    classifier: nn.Linear

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Weighed()}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        labels = inputs.get("labels")
        return labels.numel() // self.classifier.out_features if isinstance(labels, Tensor) else None

    def forward(
        self,
        *args: Tensor | None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> ClassifierOutput:
        """Class scores of every frame; see the encoder for its inputs.

        Args:
            labels: how much each class counts, of which the first of the highest is learned. Shape: [B, T, classes].
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own frames.
        """
        hidden, noted = self.mixed(args, inputs)
        logits = self.classifier(hidden)
        loss = None
        if labels is not None:
            if labels.numel() != logits.numel():
                raise InputError(
                    "labels do not match the frames",
                    where="labels",
                    expected=f"shape {list(logits.shape)}, a number for each class of each frame",
                    found=f"shape {list(labels.shape)}",
                )
            classes = labels.reshape(-1, logits.shape[-1]).argmax(dim=-1)
            loss = row_loss(logits.flatten(0, 1), classes, items=num_items_in_batch)
        return ClassifierOutput(loss=loss, logits=logits, **noted)


class TimeDelay(Composed):
    """A convolution over time, as a projection of frames side by side, and ReLU.

    Args:
        kernel: of ``steps`` frames, one after another, to one.
        steps: how many it looks at.
        dilation: frames between those.
    """

    kernel: nn.Linear
    steps: int
    dilation: int

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Shape: [B, T, D] to [B, T', D']."""
        left = x_BTD.shape[1] - self.dilation * (self.steps - 1)
        if left < 1:
            raise InputError(
                "the sound is too short for a voice",
                where="input_values",
                expected=f"more than {self.dilation * (self.steps - 1)} frames",
                found=x_BTD.shape[1],
            )
        beside = [x_BTD[:, step * self.dilation : step * self.dilation + left] for step in range(self.steps)]
        return F.relu(self.kernel(torch.cat(beside, dim=-1)))

    def extra_repr(self) -> str:
        return f"steps={self.steps}, dilation={self.dilation}"


class MarginSoftmax(nn.Module):
    """Additive margin softmax (https://arxiv.org/abs/1801.05599): the right class must win by a margin.

    Args:
        dim: width of what is told apart.
        classes: how many there are.
        scale: of the cosines.
        margin: what the right one's cosine is lowered by.
    """

    def __init__(self, dim: int, classes: int, scale: float = 30.0, margin: float = 0.4) -> None:
        super().__init__()
        self.scale = scale
        self.margin = margin
        self.weight = nn.Parameter(torch.empty(dim, classes))

    def reset(self, std: float) -> None:
        """Normal, of variance one."""
        nn.init.normal_(self.weight)

    def forward(self, x_BD: Tensor, labels: Tensor, items: Items = None) -> Tensor:
        """The loss; ``labels``: Shape: [B]; ``items``: see :func:`~omniform.architectures.losses.row_loss`."""
        flat = labels.flatten().to(x_BD.device)
        check_shape("there is not one voice per sound", flat.shape, x_BD.shape[:1], where="labels")
        cosines_BC = F.normalize(x_BD, dim=1) @ F.normalize(self.weight, dim=0)
        right_BC = flat[:, None] == torch.arange(cosines_BC.shape[1], device=flat.device)
        return row_loss(self.scale * (cosines_BC - self.margin * right_BC), flat, items=items)


class VoiceTeller(MixedHead):
    """A vector for each voice (x-vectors, https://www.danielpovey.com/files/2018_icassp_xvectors.pdf).

    Args:
        projector: hidden states to the width of the first of ``tdnn``.
        tdnn: convolutions over frames.
        feature_extractor: mean and deviation over time to the vector.
        classifier: the vector to what the loss reads.
        objective: the loss.
    """

    projector: nn.Linear
    tdnn: nn.ModuleList
    feature_extractor: nn.Linear
    classifier: nn.Linear
    objective: MarginSoftmax

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Classes(self.objective.weight.shape[1])}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return scored(inputs.get("labels"))

    def forward(
        self,
        *args: Tensor | None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> XVectorOutput:
        """Vectors of voices; see the encoder for its inputs.

        Args:
            labels: Shape: [B], who speaks; gives a loss.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own rows.
        """
        hidden, noted = self.mixed(args, inputs)
        x_BTD = self.projector(hidden)
        for layer in self.tdnn:
            x_BTD = layer(x_BTD)
        _, mask = self.sounds(args, inputs)
        told = _spread(x_BTD) if mask is None else _spread_of(x_BTD, self._left(mask, x_BTD.shape[1]))
        embeddings = self.feature_extractor(told)
        logits = self.classifier(embeddings)
        loss = None if labels is None else self.objective(logits, labels, num_items_in_batch)
        return XVectorOutput(loss=loss, logits=logits, embeddings=embeddings, **noted)

    def _get_tdnn_output_lengths(self, input_lengths: Count) -> Count:
        # As the reference counts them: without dilation.
        for layer in self.tdnn:
            assert isinstance(layer, TimeDelay)
            input_lengths = steps_of(input_lengths, layer.steps, 1)
        return input_lengths

    def _left(self, mask: Tensor, frames: int) -> Tensor:
        """How many of so many frames are told of each row. Shape: [B, samples] to [B]."""
        left = self._get_tdnn_output_lengths(self.model.frames_of(mask.long().sum(-1)))
        return torch.where(left < 0, left + frames, left).clamp(0, frames)


def _spread(x_BTD: Tensor) -> Tensor:
    """Mean and standard deviation over time. Shape: [B, T, D] to [B, 2 * D]."""
    return torch.cat((x_BTD.mean(dim=1), x_BTD.std(dim=1)), dim=-1)


def _spread_of(x_BTD: Tensor, left_B: Tensor) -> Tensor:
    """The same of the first frames of each row."""
    among_BT1 = (torch.arange(x_BTD.shape[1], device=left_B.device) < left_B[:, None])[..., None]
    count_B1 = left_B[:, None].to(x_BTD.dtype)
    mean_BD = x_BTD.masked_fill(~among_BT1, 0).sum(dim=1) / count_B1
    squares_BD = (x_BTD - mean_BD[:, None]).square().masked_fill(~among_BT1, 0).sum(dim=1)
    return torch.cat((mean_BD, (squares_BD / (count_B1 - 1)).sqrt()), dim=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceSizes:
    """The sizes of what tells voices apart."""

    widths: Sequence[int]
    steps: Sequence[int]
    dilations: Sequence[int]
    vector: int

    @classmethod
    def read(cls, r: ConfigReader) -> VoiceSizes:
        """The fields under their usual names.

        Raises:
            ConfigError: the lists are not of one length.
        """
        widths = r.integers("tdnn_dim", (512, 512, 512, 512, 1500), least=1)
        steps = r.integers("tdnn_kernel", (5, 3, 3, 1, 1), least=1)
        dilations = r.integers("tdnn_dilation", (1, 2, 3, 1, 1), least=1)
        if not widths:
            raise r.fail("tdnn_dim", "at least one convolution", [])
        for name, values in (("tdnn_kernel", steps), ("tdnn_dilation", dilations)):
            if len(values) < len(widths):
                raise r.fail(name, f"{len(widths)} numbers, as in tdnn_dim", len(values))
        return cls(widths=widths, steps=steps, dilations=dilations, vector=r.integer("xvector_output_dim", 512))

    def convolutions(self) -> nn.ModuleList:
        """The modules over frames."""
        inside = (self.widths[0], *self.widths)
        return nn.ModuleList(
            TimeDelay(
                kernel=nn.Linear(inside[i] * self.steps[i], width), steps=self.steps[i], dilation=self.dilations[i]
            )
            for i, width in enumerate(self.widths)
        )
