"""Encoders of proteins: masks dropped from the input, and contacts told from attention (ESM)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from omniform.architectures.encoder import MaskedLM
from omniform.architectures.stack import TextEncoder
from omniform.blocks.contacts import ContactHead
from omniform.blocks.embeddings import Embeddings, PositionTable, counted_from, without_padding
from omniform.core.context import StepContext
from omniform.core.outputs import BaseModelOutput
from omniform.core.texts import summed

MASKED = 0.15 * 0.8
"""The share of tokens that were masks in training."""


class ProteinEmbeddings(Embeddings):
    """What happens to vectors of tokens; those that a caller gives are what the first layer reads."""

    embed_positions: PositionTable | None
    norm: nn.Module | None
    padding: int | None
    mask: int | None

    @property
    def positions(self) -> int | None:
        return None if self.position_ids is None or self.padding is None else self.position_ids - self.padding - 1

    @property
    def position_ids(self) -> int | None:
        return None if self.embed_positions is None else self.embed_positions.positions

    def count(self, input_ids: Tensor | None, tokens: Tensor, past: int) -> Tensor | None:
        if self.embed_positions is None or self.padding is None:
            return None
        return counted_from(self.padding, input_ids, tokens, past)

    def of_tokens(self, embeds_BTD: Tensor, ids_BT: Tensor, ctx: StepContext) -> Tensor:
        """Masks dropped, positions added, normed, and zero at padding. Shape: [B, T, D] in and out."""
        if self.mask is not None:
            embeds_BTD = self.without_masks(embeds_BTD, ids_BT == self.mask, ctx)
        if self.embed_positions is not None:
            embeds_BTD = embeds_BTD + self.embed_positions(ctx.positions)
        return without_padding(embeds_BTD if self.norm is None else self.norm(embeds_BTD), ctx)

    def without_masks(self, embeds_BTD: Tensor, masks_BT: Tensor, ctx: StepContext) -> Tensor:
        """Zeros for masks, and the others scaled to the share of masks that training had, text by text."""
        real = torch.ones_like(masks_BT) if ctx.padding is None else ctx.padding
        if ctx.texts is None:
            share = masks_BT.sum(-1, keepdim=True).float() / real.sum(-1, keepdim=True)
        else:
            masks, count = (summed(x.float(), ctx.texts) for x in (masks_BT, real))
            share = masks / count.clamp(min=1)
        kept = embeds_BTD.masked_fill(masks_BT[..., None], 0.0) * (1 - MASKED) / (1 - share)[..., None]
        return kept.to(embeds_BTD.dtype)


class ProteinEncoder(TextEncoder):
    """The encoder, and what tells from its attention which residues touch."""

    UNPADS = False
    embeddings: ProteinEmbeddings
    contact_head: ContactHead

    def outputs(self, embeds_BTD: Tensor, ctx: StepContext, input_ids: Tensor | None = None) -> BaseModelOutput:
        if input_ids is not None:
            embeds_BTD = self.embeddings.of_tokens(embeds_BTD, input_ids, ctx)
        return super().outputs(embeds_BTD, ctx, input_ids)

    def predict_contacts(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """The probability that two residues touch, of each pair between the first token and the last.

        Args:
            tokens: Shape: [B, T].
            attention_mask: Shape: [B, T], 1 for real tokens.

        Returns:
            Shape: [B, T - 2, T - 2].
        """
        out = self(tokens, attention_mask=attention_mask, output_attentions=True)
        assert isinstance(out, BaseModelOutput) and out.attentions is not None
        real = attention_mask[:, None, None, :, None] * attention_mask[:, None, None, None, :]
        touching: Tensor = self.contact_head(tokens, torch.stack(out.attentions, dim=1) * real)
        return touching


class ProteinMaskedLM(MaskedLM):
    """Masked residues, and contacts."""

    model: ProteinEncoder

    def predict_contacts(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """See :meth:`ProteinEncoder.predict_contacts`."""
        return self.model.predict_contacts(tokens, attention_mask)
