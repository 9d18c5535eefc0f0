"""Tables of learned positions, and the check that token ids lie in the vocabulary."""

from __future__ import annotations

from torch import Tensor, nn

from omniform.core.errors import InputError


class PositionTable(nn.Embedding):
    """One learned vector per position.

    Args:
        positions: how many positions there are.
        dim: width of a vector.
        offset: how many rows of the table come before position 0 (OPT, BART).
    """

    def __init__(self, positions: int, dim: int, *, offset: int = 0) -> None:
        super().__init__(positions + offset, dim)
        self.offset = offset

    def forward(self, positions: Tensor) -> Tensor:
        """Vectors of positions.

        Args:
            positions: Shape: [...], integers.

        Returns:
            Shape: [..., D].
        """
        return super().forward(positions + self.offset if self.offset else positions)

    def check(self, positions: Tensor) -> None:
        """Raise :class:`InputError` unless every position has its vector."""
        if positions.numel() == 0 or positions.is_meta:
            return
        low, high = int(positions.min()), int(positions.max())
        check_positions(high + 1, self.num_embeddings - self.offset)
        if low + self.offset < 0:
            raise InputError("positions must not be negative", where="position_ids", found=low)


def check_positions(length: int, limit: int, where: str = "input_ids") -> None:
    """Raise :class:`InputError` when a row is longer than the positions a model has learned."""
    if length > limit:
        raise InputError(
            "the text is longer than the model's positions",
            where=where,
            expected=f"at most {limit} tokens",
            found=f"{length} tokens",
            remedy="Shorten it, or tokenize with truncation=True and max_length.",
        )


def check_ids(input_ids: Tensor, vocabulary: int, where: str = "input_ids") -> None:
    """Raise :class:`InputError` when ids are not integers of the vocabulary, at least one in each row."""
    if not isinstance(input_ids, Tensor):
        raise InputError(
            "token ids must be a tensor",
            where=where,
            found=type(input_ids).__name__,
            remedy='Tokenize with return_tensors="pt".',
        )
    if input_ids.is_floating_point() or input_ids.dim() != 2 or input_ids.numel() == 0:
        raise InputError(
            "token ids must be integers in rows",
            where=where,
            expected="shape [batch, tokens]",
            found=f"{input_ids.dtype} of shape {list(input_ids.shape)}",
        )
    if input_ids.is_meta:
        return
    low, high = int(input_ids.min()), int(input_ids.max())
    if low < 0 or high >= vocabulary:
        raise InputError(
            "a token id lies outside the vocabulary",
            where=where,
            expected=f"0 to {vocabulary - 1}",
            found=low if low < 0 else high,
            remedy="Is this the checkpoint's own tokenizer?",
        )


def check_token_types(token_type_ids: Tensor, types: int, embeds_BTD: Tensor) -> None:
    """Raise :class:`InputError` unless token types lie in their table, one for each token."""
    rows, tokens = embeds_BTD.shape[:2]
    if tuple(token_type_ids.shape) not in ((rows, tokens), (1, tokens)):
        raise InputError(
            "token types do not match the tokens",
            where="token_type_ids",
            expected=f"shape {[rows, tokens]}",
            found=f"shape {list(token_type_ids.shape)}",
        )
    check_ids(token_type_ids, types, "token_type_ids")
