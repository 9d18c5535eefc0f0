"""Decoders whose layers send tokens to experts, and what their routers are trained by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.architectures.decoder import CausalLM
from omniform.core.outputs import BaseModelOutput, MoECausalLMOutput


class RoutedCausalLM(CausalLM):
    """A language model of experts that writes.

    Attributes:
        top: how many experts a token goes through.
        unasked: whether the routers' scores are returned where nobody says.
        coefficient: what the loss of balance counts for beside that of the tokens.
    """

    top: int
    unasked: bool = False
    coefficient: float = 0.0

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        output_router_logits: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> MoECausalLMOutput:
        """Next-token scores; see :meth:`CausalLM.forward`.

        Args:
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own tokens.
            output_router_logits: whether to return the routers' scores and how unevenly they send tokens.
        """
        asked = self.unasked if output_router_logits is None else output_router_logits
        if asked and "output_router_logits" in self.model.accepts():  # layers may all be without experts
            inputs["output_router_logits"] = True
        out = cast(BaseModelOutput, self.model(input_ids=input_ids, attention_mask=attention_mask, **inputs))
        logits = self.project(out.last_hidden_state[:, -logits_to_keep:])
        loss = None if labels is None else self.loss(logits, labels, num_items_in_batch)
        uneven = balance_loss(out.router_logits, self.top, attention_mask) if out.router_logits else None
        if loss is not None and uneven is not None:
            loss = loss + self.coefficient * uneven
        return MoECausalLMOutput(
            loss=loss,
            aux_loss=uneven,
            logits=logits,
            past_key_values=out.past_key_values,
            **out.noted(),
            router_logits=out.router_logits,
        )


def balance_loss(scores: Sequence[Tensor], top: int, mask_BT: Tensor | None) -> Tensor:
    """How unevenly routers send tokens to experts (https://arxiv.org/abs/2101.03961, equations 4 to 6).

    Args:
        scores: of each layer's router. Shape: [N, E] each.
        top: how many experts a token goes through.
        mask_BT: 1 for the tokens that count; None for all.
    """
    rows = torch.cat(tuple(scores)).softmax(-1)
    chosen = F.one_hot(rows.topk(top, dim=-1).indices, rows.shape[-1]).float().sum(1)
    counts = rows.new_ones(len(rows)) if mask_BT is None else mask_BT.flatten().to(rows).repeat(len(scores))
    sent, likely = ((x * counts[:, None]).sum(0) / counts.sum() for x in (chosen, rows))
    uneven: Tensor = (sent * likely).sum() * rows.shape[-1]
    return uneven
