"""Which residues of a protein touch, told from attention (https://doi.org/10.1101/2020.12.15.422761)."""

from __future__ import annotations

from torch import Tensor, nn

from omniform.blocks.poolers import OptionalPart


class ContactHead(OptionalPart):
    """A logistic regression on the symmetric part of attention, corrected for what rows and columns have in common.

    Args:
        channels: layers times heads.
        eos: the token that ends a row, which no residue touches.
    """

    def __init__(self, channels: int, eos: int = 2) -> None:
        super().__init__()
        self.regression = nn.Linear(channels, 1)
        self.eos = eos

    def forward(self, tokens_BT: Tensor, attentions: Tensor) -> Tensor:
        """The probability of contacts between all tokens but the first and the last.

        Args:
            tokens_BT: Shape: [B, T].
            attentions: Shape: [B, layers, H, T, T], zero at padding.

        Returns:
            Shape: [B, T - 2, T - 2].
        """
        inner = (tokens_BT != self.eos).to(attentions.dtype)
        attentions = attentions * (inner[:, None, None, :, None] * inner[:, None, None, None, :])
        channels = attentions[..., 1:-1, 1:-1].flatten(1, 2)
        both = channels + channels.transpose(-1, -2)
        common = both.sum(-1, keepdim=True) * both.sum(-2, keepdim=True) / both.sum((-1, -2), keepdim=True)
        scores: Tensor = self.regression((both - common).permute(0, 2, 3, 1))
        return scores.squeeze(-1).sigmoid()
