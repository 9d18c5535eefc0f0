"""Pre-training of models that read waves: hidden frames are told from others by their code vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.speech_heads import WaveHead
from omniform.architectures.waves import WaveEncoder
from omniform.blocks.waves import EvenLinear, check_wave
from omniform.core.errors import InputError, brief
from omniform.core.host import bounds_of
from omniform.core.reader import ConfigReader
from omniform.core.sound_outputs import WavePreTrainingOutput


class WideBeginning(nn.Linear):
    """A projection that begins normal, of variance one."""

    def reset(self, std: float) -> None:
        """As said; the bias at zero."""
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)


class Quantizer(nn.Module):
    """Frames to code vectors: one of each group, side by side (https://arxiv.org/abs/1611.01144).

    Args:
        dim: width of a frame.
        groups: how many groups there are.
        entries: code vectors in each.
        width: of a group's code vectors together.

    Attributes:
        temperature: of the choice in training, which usually falls.
    """

    def __init__(self, dim: int, *, groups: int, entries: int, width: int) -> None:
        super().__init__()
        self.groups = groups
        self.temperature: float = 2
        self.codevectors = nn.Parameter(torch.empty(1, groups * entries, width // groups))
        self.weight_proj = WideBeginning(dim, groups * entries)

    def reset(self, std: float) -> None:
        """Code vectors evenly from 0 to 1."""
        nn.init.uniform_(self.codevectors)

    def forward(self, frames_BTC: Tensor, counted_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Code vectors, and how many of them are in use.

        Args:
            frames_BTC: Shape: [B, T, C].
            counted_BT: Shape: [B, T], True for the frames that are counted; None for all.

        Returns:
            Shape: [B, T, width], and the perplexity, summed over groups: a scalar.
        """
        scores_NGV = self.weight_proj(frames_BTC).view(-1, self.groups, self.codevectors.shape[1] // self.groups)
        if self.training:
            drawn = F.gumbel_softmax(scores_NGV.flatten(0, 1).float(), tau=self.temperature, hard=True)
            chosen_NGV = drawn.view_as(scores_NGV).type_as(scores_NGV)
            shares_NGV = torch.softmax(scores_NGV.float(), dim=-1)
        else:
            best = scores_NGV.argmax(dim=-1, keepdim=True)
            chosen_NGV = shares_NGV = torch.zeros_like(scores_NGV).scatter_(-1, best, 1.0)
        codes_GVD = self.codevectors.view(self.groups, -1, self.codevectors.shape[-1])
        # What was chosen may be rounded to other numbers than 0 and 1 in training, and is summed as it is.
        vectors = torch.einsum("ngv,gvd->ngd", chosen_NGV, codes_GVD.to(chosen_NGV.dtype))
        return vectors.reshape(*frames_BTC.shape[:2], -1), _perplexity(shares_NGV, counted_BT)


def _perplexity(shares_NGV: Tensor, counted_BT: Tensor | None) -> Tensor:
    if counted_BT is None:
        mean_GV = shares_NGV.mean(dim=0)
    else:
        counted = counted_BT.flatten()[:, None, None]
        mean_GV = torch.where(counted, shares_NGV, 0).sum(dim=0) / counted_BT.sum()
    return torch.exp(-torch.xlogy(mean_GV, mean_GV).sum(dim=-1)).sum()


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """The sizes of code vectors, and how their losses are weighed."""

    groups: int
    entries: int
    width: int
    projected: int
    dropout: float
    temperature: float
    diversity: float

    @classmethod
    def read(cls, r: ConfigReader) -> Codes:
        """The fields under their usual names.

        Raises:
            ConfigError: the groups do not share the width evenly.
        """
        groups, width = r.integer("num_codevector_groups", 2), r.integer("codevector_dim", 256)
        if width % groups:
            raise r.fail("num_codevector_groups", f"a divisor of {width} (codevector_dim)", groups)
        r.inert(num_negatives=100)  # whoever draws them reads it
        return cls(
            groups=groups,
            entries=r.integer("num_codevectors_per_group", 320),
            width=width,
            projected=r.integer("proj_codevector_dim", 256),
            dropout=r.probability("feat_quantizer_dropout", 0.0),
            temperature=r.number("contrastive_logits_temperature", 0.1),
            diversity=r.number("diversity_loss_weight", 0.1),
        )

    def quantizer(self, dim: int) -> Quantizer:
        """The module, of frames of a width."""
        return Quantizer(dim, groups=self.groups, entries=self.entries, width=self.width)

    def contrasting(self, model: WaveEncoder, dim: int, frame: int) -> Contrasting:
        """An encoder that is pre-trained.

        Args:
            dim: width of its hidden states.
            frame: of the frames that become code vectors.
        """
        return Contrasting(
            model=model,
            quantizer=self.quantizer(frame),
            project_hid=EvenLinear(dim, self.projected),
            project_q=EvenLinear(self.width, self.projected),
            codes=self,
            dropout=self.dropout,
        )


class QuantizingHead(WaveHead):
    """Base of the heads that hold code vectors."""

    FURTHER: ClassVar[tuple[str, ...]] = ()
    model: WaveEncoder
    quantizer: Quantizer

    def set_gumbel_temperature(self, temperature: float) -> None:
        """How even the choice of code vectors is in training."""
        self.quantizer.temperature = temperature


class Contrasting(QuantizingHead):
    """Hidden frames are told from others of their sound (https://arxiv.org/abs/2006.11477, section 3.2).

    Args:
        project_hid: hidden states to where they are compared.
        project_q: code vectors likewise.
        codes: how losses are weighed.
    """

    FURTHER: ClassVar[tuple[str, ...]] = ("mask_time_indices", "sampled_negative_indices")
    project_hid: EvenLinear
    project_q: EvenLinear
    codes: Codes

    def arrive(self, inputs: dict[str, object]) -> None:
        super().arrive(inputs)
        negatives, hidden = inputs.get("sampled_negative_indices"), inputs.get("mask_time_indices")
        if negatives is None:
            return
        wave = check_wave(inputs.get("input_values"), self.model.feature_extractor)
        rows, frames = wave.shape[0], self.model.frames_of(wave.shape[1], adapted=False)
        where = "sampled_negative_indices"
        if not isinstance(negatives, Tensor) or negatives.dim() != 3 or negatives.shape[:2] != (rows, frames):
            raise InputError(
                "not some frames for each",
                where=where,
                expected=f"[{rows}, {frames}, negatives]",
                found=brief(negatives),
            )
        low, high = bounds_of(negatives)
        if low < 0 or high >= rows * frames:
            raise InputError(
                "no frame stands there", where=where, expected=f"0 to {rows * frames - 1}", found=f"{low} to {high}"
            )
        if hidden is None:
            raise InputError("a loss needs hidden frames", where="mask_time_indices", expected="a tensor", found="None")

    def forward(
        self,
        *args: Tensor | None,
        mask_time_indices: Tensor | None = None,
        sampled_negative_indices: Tensor | None = None,
        **inputs: object,
    ) -> WavePreTrainingOutput:
        """Hidden states and code vectors where they are compared; see the encoder for its inputs.

        Args:
            mask_time_indices: True for frames to hide. Shape: [B, T].
            sampled_negative_indices: frames of the batch, counted through, that each is told from; gives a loss.
                Shape: [B, T, negatives].
        """
        hidden_BT = None if mask_time_indices is None else mask_time_indices.bool()
        out = self.read(args, {**inputs, "mask_time_indices": hidden_BT})
        assert out.extract_features is not None
        states_BTD = self.project_hid(out.last_hidden_state)
        frames = F.dropout(out.extract_features, self.dropout, self.training)
        codes, perplexity = self.quantizer(frames, hidden_BT)
        codes_BTD = self.project_q(codes.to(self.project_q.weight.dtype))
        loss = contrast = diversity = None
        if sampled_negative_indices is not None and hidden_BT is not None:
            contrast = self._contrast(states_BTD, codes_BTD, sampled_negative_indices, hidden_BT)
            every = self.quantizer.codevectors.shape[1]
            diversity = (every - perplexity) / every * hidden_BT.sum()
            loss = contrast + self.codes.diversity * diversity
        return WavePreTrainingOutput(
            loss=loss,
            projected_states=states_BTD,
            projected_quantized_states=codes_BTD,
            codevector_perplexity=perplexity,
            contrastive_loss=contrast,
            diversity_loss=diversity,
            **out.noted(),
        )

    def _contrast(self, states_BTD: Tensor, codes_BTD: Tensor, negatives_BTK: Tensor, hidden_BT: Tensor) -> Tensor:
        others_KBTD = codes_BTD.flatten(0, 1)[negatives_BTK.long()].permute(2, 0, 1, 3)
        told_KBTD = torch.cat((codes_BTD[None], others_KBTD))
        scores_KBT = torch.cosine_similarity(states_BTD.float(), told_KBTD.float(), dim=-1).type_as(told_KBTD)
        scores_KBT = scores_KBT / self.codes.temperature
        # Another frame with the very same code vector is no other.
        same_KBT = F.pad((codes_BTD == others_KBTD).all(-1), (0, 0, 0, 0, 1, 0))
        scores_KBT = scores_KBT.masked_fill(same_KBT, float("-inf"))
        scores_NK = scores_KBT.flatten(1).t().float()
        right_N = torch.where(hidden_BT, 0, -100).flatten()
        return F.cross_entropy(scores_NK, right_N, reduction="sum")
