"""A decoder that both writes and chooses among continuations (GPT, GPT-2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.heads import flattened
from omniform.architectures.labels import Choices, Classes, Targets
from omniform.architectures.losses import next_token_loss, row_loss, scored
from omniform.architectures.model import Model
from omniform.blocks.embeddings import table_rows
from omniform.blocks.mlp import ACTIVATIONS, activation
from omniform.core.errors import InputError
from omniform.core.host import bounds_of
from omniform.core.outputs import BaseModelOutput, DoubleHeadsOutput
from omniform.core.reader import ConfigReader


def _at(hidden: Tensor, places: Tensor | None) -> Tensor:
    if places is None:
        return hidden[..., -1, :]
    length = hidden.shape[-2]
    low, high = bounds_of(places)
    if places.shape != hidden.shape[:-2] or low < 0 or high >= length:
        raise InputError(
            "no such places in the rows",
            where="mc_token_ids",
            expected=f"shape {list(hidden.shape[:-2])}, values 0 to {length - 1}",
            found=f"shape {list(places.shape)}, values {low} to {high}",
        )
    index = places[..., None, None].expand(*places.shape, 1, hidden.shape[-1])
    return hidden.gather(-2, index).squeeze(-2)


def _last(hidden: Tensor, places: Tensor | None) -> Tensor:
    return hidden[:, -1]


def _first(hidden: Tensor, places: Tensor | None) -> Tensor:
    return hidden[:, 0]


def _mean(hidden: Tensor, places: Tensor | None) -> Tensor:
    return hidden.mean(1)


SUMMARIES: Mapping[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "cls_index": _at,
    "last": _last,
    "first": _first,
    "mean": _mean,
}
"""Ways to make one vector of a row. All but ``cls_index`` look along the second axis even where that holds the choices:
the published models do, and their numbers are to be met."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How the choosing head scores a row.

    Attributes:
        kind: which of :data:`SUMMARIES`.
        project: whether there is a projection.
        to_score: whether it projects to one score, or to a vector.
        act: activation after it.
        dropout: before it, in training.
    """

    kind: str
    project: bool
    to_score: bool
    act: str
    dropout: float


def read_summary(r: ConfigReader) -> Summary:
    """The ``summary_*`` keys of a config."""
    return Summary(
        kind=r.choice("summary_type", SUMMARIES, "cls_index"),
        project=r.flag("summary_use_proj", True),
        to_score=r.flag("summary_proj_to_labels", True),
        act=r.choice("summary_activation", ACTIVATIONS, "linear"),
        dropout=r.probability("summary_first_dropout", 0.1),
    )


class SummaryHead(nn.Module):
    """One vector of every row, projected to the row's score.

    Args:
        dim: width of the hidden states.
        how: which vector, and what happens to it.
    """

    def __init__(self, dim: int, how: Summary) -> None:
        super().__init__()
        self.kind = how.kind
        self.dropout = nn.Dropout(how.dropout)
        self.summary = nn.Linear(dim, 1 if how.to_score else dim) if how.project else nn.Identity()
        self._act = activation(how.act)

    def forward(self, hidden: Tensor, places: Tensor | None) -> Tensor:
        """Scores of rows.

        Args:
            hidden: Shape: [B, T, D] or [B, choices, T, D].
            places: Shape: [B] or [B, choices], which token stands for a row; the last by default.

        Returns:
            Shape: [B] or [B, choices]; with D more numbers each where nothing projects them to a score.
        """
        vector = SUMMARIES[self.kind](hidden, places)
        return self._act(self.summary(self.dropout(vector))).squeeze(-1)


class DoubleHeads(Model):
    """A decoder with a head that writes and one that chooses.

    Args:
        model: the decoder.
        lm_head: hidden states to scores of tokens.
        multiple_choice_head: hidden states of a row to its score.
    """

    model: TextDecoder
    lm_head: nn.Linear
    multiple_choice_head: SummaryHead

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Classes(table_rows(self.model.embed_tokens)), "mc_labels": Choices()}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        labels = inputs.get("labels")
        return scored(labels[..., 1:]) if isinstance(labels, Tensor) else None

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mc_token_ids: Tensor | None = None,
        labels: Tensor | None = None,
        mc_labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> DoubleHeadsOutput:
        """Next-token scores and scores of the choices; see the base model for the other inputs.

        Args:
            input_ids: Shape: [B, choices, T] or [B, T]; every other tensor is laid out alike.
            mc_token_ids: Shape: [B, choices] or [B], which token stands for a row; the last by default.
            labels: Shape of ``input_ids``, the tokens themselves, ``-100`` to leave out; gives ``loss``.
            mc_labels: Shape: [B], index of the right choice; gives ``mc_loss``.
            num_items_in_batch: what the sum of ``loss`` is divided by, if not this batch's own tokens.
        """
        rows = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds, **inputs}
        tokens = inputs_embeds[..., 0] if inputs_embeds is not None else input_ids
        choices = tokens is not None and tokens.dim() == 3
        if choices:
            rows = flattened(rows)
        out = cast(BaseModelOutput, self.model(**rows))
        hidden = out.last_hidden_state
        if tokens is not None and choices:
            hidden = hidden.view(*tokens.shape, -1)
        logits = self.lm_head(hidden)
        mc_logits = self.multiple_choice_head(hidden, mc_token_ids)
        mc_loss = None
        if mc_labels is not None:
            mc_loss = row_loss(mc_logits.view(-1, mc_logits.shape[-1]), mc_labels, "mc_labels")
        return DoubleHeadsOutput(
            loss=None if labels is None else next_token_loss(logits, labels, num_items_in_batch),
            mc_loss=mc_loss,
            logits=logits,
            mc_logits=mc_logits,
            past_key_values=out.past_key_values,
            **out.noted(),
        )
