"""Networks of convolutions as encoders: pictures in, the last map and one vector per picture out."""

from __future__ import annotations

from typing import Unpack, cast

import torch
from torch import Tensor, nn

from omniform.architectures.backbone import Staged
from omniform.architectures.heads import Hidden, SequenceClassifier, pooled
from omniform.architectures.model import Model
from omniform.core.config import Common
from omniform.core.context import Tapped, Taps
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput


class ConvEncoder(Model):
    """A staged network of convolutions; its hidden states are the maps of all stages.

    Args:
        network: the :class:`~omniform.architectures.backbone.Staged` network.
        stages: how many it has, the stem left out.
        pooler: the last map to what stands for a picture.
    """

    main_input = "pixel_values"

    network: nn.Module
    stages: int
    pooler: nn.Module

    def finished(self, x_BCHW: Tensor) -> Tensor:
        """The last map as it is given. Shape: [B, C, H, W] in and out."""
        return x_BCHW

    def forward(self, pixel_values: Tensor | None = None, **given: Unpack[Tapped]) -> BaseModelOutput:
        """The last map of pictures, and what stands for each.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            given: see :class:`~omniform.core.context.Tapped`.

        Returns:
            ``last_hidden_state`` has Shape: [B, C, H, W].

        Raises:
            InputError: no pictures, or pictures of the wrong shape.
        """
        if pixel_values is None:
            raise InputError("there are no pictures", where="pixel_values", expected="a tensor", found="None")
        taps = Taps(given)
        states = cast(Staged, self.network).states(pixel_values, self.stages)
        for state in states:
            taps.hidden(state)
        last = self.finished(states[-1])
        return BaseModelOutput(
            last_hidden_state=last,
            pooler_output=self.pooler(last),
            hidden_states=taps.hidden_or_none,
        )


class MeanMap(nn.Module):
    """The mean of a map's places, kept as a map of one place."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, C, 1, 1]."""
        return x_BCHW.mean(dim=(2, 3), keepdim=True)


def pooled_flat(out: Hidden, input_ids: Tensor | None) -> Tensor:
    """What a pooler gives, its places side by side."""
    return torch.flatten(pooled(out, input_ids), 1)


def conv_classifier(model: ConvEncoder, width: int, common: Common) -> SequenceClassifier:
    """One class per picture; with no labels there is nothing to score, and the pooled vector itself comes out."""
    scores = nn.Linear(width, common.num_labels) if common.num_labels else nn.Identity()
    return SequenceClassifier(model=model, pool=pooled_flat, classifier=scores, common=common)
