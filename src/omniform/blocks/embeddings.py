"""From token ids to what the first layer reads; and the checks that ids and positions lie in their tables.

Checks look at numbers, so they are made where data comes in (:meth:`Model.arrive`), never in a forward.
"""

from __future__ import annotations

import copy
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.composed import Composed
from omniform.blocks.poolers import ComputedPart
from omniform.core.context import StepContext
from omniform.core.errors import InputError
from omniform.core.host import bounds_of, kept_unless_traced

T = TypeVar("T", bound=nn.Embedding)


WRAPPED = ("base_layer", "original_module", "token_adapter")
"""Children that PEFT keeps a table as, when it trains something beside it."""


def bare_table(table: nn.Module) -> nn.Embedding:
    """A table without what was put around it."""
    if isinstance(table, nn.Embedding) and not table._modules:
        return table
    return bare_table(next(inner for name in WRAPPED if (inner := table._modules.get(name)) is not None))


def table_rows(table: nn.Module) -> int:
    """How many rows a table has, whatever was put around it."""
    return bare_table(table).num_embeddings


class PositionTable(nn.Embedding):
    """One learned vector per position.

    Args:
        positions: how many positions there are.
        dim: width of a vector.
        offset: how many rows of the table come before position 0 (OPT, BART).
        padding: the row that padding gets, which training leaves as it is; None where there is none.
    """

    def __init__(self, positions: int, dim: int, *, offset: int = 0, padding: int | None = None) -> None:
        super().__init__(positions + offset, dim)
        self.padding_idx = padding
        self.offset = offset

    @property
    def positions(self) -> int:
        """How many positions have a vector."""
        return self.num_embeddings - self.offset

    def forward(self, positions: Tensor) -> Tensor:
        """Vectors of positions.

        Args:
            positions: Shape: [...], integers.

        Returns:
            Shape: [..., D].
        """
        return super().forward(positions + self.offset if self.offset else positions)


def waves(positions: int, dim: int) -> Tensor:
    """Sines and cosines by turns, with wavelengths from 2 pi to 20000 pi (https://arxiv.org/abs/1706.03762).

    Returns:
        Shape: [positions, dim], float64.
    """
    speeds = 10000.0 ** (-2 * (torch.arange(dim, dtype=torch.float64) // 2) / dim)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * speeds
    return torch.where(torch.arange(dim) % 2 == 0, angles.sin(), angles.cos())


class Sinusoids(PositionTable):
    """Positions that begin as :func:`waves`; checkpoints hold them."""

    def reset(self, std: float) -> None:
        """Wavelengths from 2 pi to 20000 pi."""
        self.weight.copy_(waves(*self.weight.shape))


class SinusoidTable(PositionTable, ComputedPart):
    """Sines, and cosines after them, which are never trained (Marian, Pegasus): https://arxiv.org/abs/1706.03762.

    Some checkpoints hold the table, and it counts; others do not.
    """

    def __init__(self, positions: int, dim: int) -> None:
        super().__init__(positions, dim)
        self.weight.requires_grad_(False)

    def reset(self, std: float) -> None:
        """Wavelengths from 2 pi to 20000 pi."""
        positions, dim = self.weight.shape
        channels = torch.arange((dim + 1) // 2, dtype=torch.float64)
        angles = torch.arange(positions, dtype=torch.float64)[:, None] * 10000.0 ** (-2 * channels / dim)
        self.weight.copy_(torch.cat((angles.sin(), angles.cos()[:, : dim // 2]), dim=1).float())


class ScaledEmbedding(nn.Embedding):
    """A table whose vectors are multiplied by one factor (BART, the original transformer)."""

    def __init__(self, vocabulary: int, dim: int, scale: float) -> None:
        super().__init__(vocabulary, dim)
        self.scale = scale

    def forward(self, ids: Tensor) -> Tensor:
        """Shape: [...] to [..., D]."""
        return super().forward(ids) * self.scale


class RoundedScaledEmbedding(ScaledEmbedding):
    """One whose factor is rounded to the dtype of the vectors first (Gemma)."""

    def forward(self, ids: Tensor) -> Tensor:
        return nn.Embedding.forward(self, ids) * _number(self.scale, self.weight.dtype, self.weight.device)


@kept_unless_traced(16)
def _number(number: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(number, dtype=dtype, device=device)


class Embeddings(Composed):
    """What happens to token vectors before the first layer: nothing, for models whose attention knows positions.

    Attributes:
        dropout: at the end, in training.
        INPUTS: inputs of ``forward`` that only some models have: ``token_type_ids``.
    """

    dropout: float = 0.0
    INPUTS: ClassVar[frozenset[str]] = frozenset()

    @property
    def positions(self) -> int | None:
        """How many positions there are; None where nothing bounds them."""
        return None

    @property
    def position_ids(self) -> int | None:
        """How many positions a caller may name: more than a row can have, where rows begin further on (RoBERTa)."""
        return self.positions

    @property
    def width(self) -> int | None:
        """Width of what the first layer reads; None where it is that of the token vectors."""
        return None

    @property
    def types(self) -> int | None:
        """How many token types there are; None where there are none."""
        return None

    def count(self, input_ids: Tensor | None, tokens: Tensor, past: int) -> Tensor | None:
        """Where tokens stand if the caller does not say; None where they count 0, 1, 2... after what the state holds.

        Args:
            input_ids: Shape: [B, T]; None where the caller gave vectors.
            tokens: ids or vectors, for their shape and device. Shape: [B, T, ...].
            past: how many tokens the state holds.

        Returns:
            Shape: [B or 1, T].
        """
        return None

    def count_real(self, mask_BS: Tensor, past: int) -> Tensor | None:
        """Where tokens stand by a caller's mask, for models that count what is no padding (OPT); None if not by it.

        Args:
            mask_BS: Shape: [B, past + T], 1 for real tokens.
            past: how many tokens the state holds.

        Returns:
            Shape: [B, T].
        """
        return None

    def stand(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Where tokens stand that continue rows, from their places in these. Shape: [1, N] both, in and out."""
        return positions

    def typed(self, embeds_BTD: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Token vectors with their types added. Shape: [B, T, D] and [B, T] to [B, T, D]."""
        return embeds_BTD

    def forward(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Token vectors to what the first layer reads. Shape: [B, T, D] in and out."""
        return F.dropout(embeds_BTD, self.dropout, self.training)


class NormedEmbeddings(Embeddings):
    """A norm is applied (ModernBERT)."""

    norm: nn.Module

    def forward(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        return super().forward(self.norm(embeds_BTD), ctx)


class ScaledEmbeddings(Embeddings):
    """All vectors are multiplied by one factor, those that a caller hands over too (Granite)."""

    scale: float

    def forward(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        return super().forward(embeds_BTD * self.scale, ctx)


class PositionedEmbeddings(Embeddings):
    """A learned vector for each position is added, and a norm applied where there is one (CLIP, OPT, BART, Whisper)."""

    embed_positions: PositionTable
    norm: nn.Module | None = None

    @property
    def positions(self) -> int | None:
        return self.embed_positions.positions

    def forward(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        placed = embeds_BTD + self.embed_positions(ctx.positions)
        return super().forward(placed if self.norm is None else self.norm(placed), ctx)


class ScaledPositionedEmbeddings(PositionedEmbeddings):
    """One that multiplies what it gets first, vectors that a caller gives too (Marian's and Pegasus' decoders)."""

    scale: float

    def forward(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        return super().forward(embeds_BTD * self.scale, ctx)


class TypedEmbeddings(PositionedEmbeddings):
    """Token types are told apart too; the first by default (BERT)."""

    embed_token_types: nn.Embedding
    INPUTS: ClassVar[frozenset[str]] = frozenset({"token_type_ids"})

    @property
    def types(self) -> int | None:
        return self.embed_token_types.num_embeddings

    def typed(self, embeds_BTD: Tensor, token_type_ids: Tensor | None) -> Tensor:
        if token_type_ids is None:
            token_type_ids = embeds_BTD.new_zeros((), dtype=torch.long)
        types: Tensor = self.embed_token_types(token_type_ids)
        return embeds_BTD + types


class ProjectedEmbeddings(TypedEmbeddings):
    """All of it narrower than the layers, and projected to their width at the end (ELECTRA)."""

    embed_proj: nn.Linear

    @property
    def width(self) -> int:
        return self.embed_proj.out_features

    def forward(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        projected: Tensor = self.embed_proj(super().forward(embeds_BTD, ctx))
        return projected


class CountedPositions(PositionedEmbeddings):
    """Positions count what is no padding, beyond the padding token's own number, which padding gets (MPNet)."""

    padding: int

    @property
    def positions(self) -> int:
        return self.embed_positions.positions - self.padding - 1

    @property
    def position_ids(self) -> int:
        return self.embed_positions.positions

    def count(self, input_ids: Tensor | None, tokens: Tensor, past: int) -> Tensor:
        return counted_from(self.padding, input_ids, tokens, past)


class CountedEmbeddings(CountedPositions, TypedEmbeddings):
    """Positions are counted so, and token types told apart (RoBERTa)."""


class TokenTypedEmbeddings(Embeddings):
    """Token types, where a caller gives them, are tokens whose vectors are added (GPT-J)."""

    embed_tokens: nn.Embedding
    INPUTS: ClassVar[frozenset[str]] = frozenset({"token_type_ids"})

    @property
    def types(self) -> int | None:
        return self.embed_tokens.num_embeddings

    def typed(self, embeds_BTD: Tensor, token_type_ids: Tensor | None) -> Tensor:
        return embeds_BTD if token_type_ids is None else embeds_BTD + self.embed_tokens(token_type_ids)


class GPTEmbeddings(TokenTypedEmbeddings, PositionedEmbeddings):
    """Such types, and a learned vector for each position (GPT-2)."""


def counted_from(padding: int, input_ids: Tensor | None, tokens: Tensor, past: int) -> Tensor:
    """Positions that count what is no padding, beyond the padding token's own number; see :meth:`Embeddings.count`."""
    if input_ids is None:
        return torch.arange(past, past + tokens.shape[1], device=tokens.device)[None] + padding + 1
    real = (input_ids != padding).long()
    return (real.cumsum(1) + past) * real + padding


def without_padding(x_BTD: Tensor, ctx: StepContext) -> Tensor:
    """Hidden states with zeros at padding. Shape: [B, T, D] in and out."""
    return x_BTD if ctx.padding is None else x_BTD * ctx.padding[:, -x_BTD.shape[1] :, None].to(x_BTD.dtype)


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
    plain = input_ids.dtype in (torch.int64, torch.int32) and input_ids.layout is torch.strided
    if not plain or input_ids.dim() != 2 or input_ids.numel() == 0:
        raise InputError(
            "token ids must be integers in rows",
            where=where,
            expected="torch.int64 or torch.int32 of shape [batch, tokens]",
            found=f"{input_ids.dtype} of shape {list(input_ids.shape)}"
            + (f", {input_ids.layout}" if input_ids.layout is not torch.strided else ""),
        )
    low, high = bounds_of(input_ids)
    if low < 0 or high >= vocabulary:
        raise InputError(
            "a token id lies outside the vocabulary",
            where=where,
            expected=f"0 to {vocabulary - 1}",
            found=low if low < 0 else high,
            remedy="Is this the checkpoint's own tokenizer?",
        )


def check_position_ids(position_ids: Tensor, limit: int) -> None:
    """Raise :class:`InputError` unless every position has its vector."""
    low, high = bounds_of(position_ids)
    check_positions(high + 1, limit)
    if low < 0:
        raise InputError("positions must not be negative", where="position_ids", found=low)


def check_token_types(token_type_ids: Tensor, types: int, tokens: tuple[int, ...]) -> None:
    """Raise :class:`InputError` unless token types lie in their table, one for each token.

    Args:
        tokens: how many rows and tokens there are.
    """
    if tuple(token_type_ids.shape) not in (tokens, (1, tokens[-1])):
        raise InputError(
            "token types do not match the tokens",
            where="token_type_ids",
            expected=f"shape {list(tokens)}",
            found=f"shape {list(token_type_ids.shape)}",
        )
    check_ids(token_type_ids, types, "token_type_ids")


def twin(table: T) -> T:
    """A second table of the same kind with the very same matrix."""
    return copy.deepcopy(table, {id(table.weight): table.weight})
