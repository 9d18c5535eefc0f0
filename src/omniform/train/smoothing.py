"""Label smoothing, for models that do not know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from omniform.core.outputs import ModelOutput
from omniform.train.values import Items


@dataclass
class LabelSmoother:
    """Cross-entropy in which every class gets a little of the label's weight.

    Source: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7.

    Attributes:
        epsilon: how much all classes share.
        ignore_index: a label of this value is not scored.
    """

    epsilon: float = 0.1
    ignore_index: int = -100

    def __call__(
        self, model_output: object, labels: Tensor, shift_labels: bool = False, num_items_in_batch: Items = None
    ) -> Tensor:
        """The loss of a model's scores.

        Args:
            model_output: what the model gave, without a loss of its own; ``logits``, or what comes first.
                Shape: [..., V].
            labels: Shape: [...].
            shift_labels: whether a score is for the label one to the right.
            num_items_in_batch: what the sum is divided by; the number of scored labels by default.
        """
        if isinstance(model_output, Mapping | ModelOutput):
            logits = cast(Tensor, model_output["logits"])
        else:
            logits = cast("tuple[Tensor, ...]", model_output)[0]
        if shift_labels:
            logits, labels = logits[..., :-1, :], labels[..., 1:]
        costs_V = -logits.log_softmax(-1)
        labels = labels if labels.dim() == costs_V.dim() else labels.unsqueeze(-1)
        ignored = labels.eq(self.ignore_index)
        own = costs_V.gather(-1, labels.clamp(min=0)).masked_fill(ignored, 0)
        shared = costs_V.sum(-1, keepdim=True, dtype=torch.float32).masked_fill(ignored, 0)
        count = (~ignored).sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        count = count.to(own.device)
        return (1 - self.epsilon) * own.sum() / count + self.epsilon * shared.sum() / (count * costs_V.shape[-1])


__all__ = ["LabelSmoother"]
