"""Score biases: what an attention adds to its scores for the distance between a query and a key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from omniform.core.context import Bias, StepContext
from omniform.core.host import kept_unless_traced
from omniform.core.ranks import Ranks
from omniform.weights.links import Axis


class BucketedBias(nn.Embedding):
    """One learned number per head and bucket of distances (T5, https://arxiv.org/abs/1910.10683, section 2.1).

    Half of the buckets are single distances, the others grow with the logarithm of the distance up to
    ``max_distance``, beyond which all share the last.

    Args:
        buckets: how many buckets there are.
        heads: number of query heads.
        max_distance: from where on all distances are alike.
        two_sided: keys before and after the query have buckets of their own (encoders); otherwise keys after the
            query are not told apart (decoders, which do not see them).
    """

    SHARDS: ClassVar[Mapping[str, Axis]] = {"weight": 1}

    def __init__(self, buckets: int, heads: int, *, max_distance: int, two_sided: bool) -> None:
        super().__init__(buckets, heads)
        self.max_distance = max_distance
        self.two_sided = two_sided

    def forward(self, q_BTHD: Tensor, k: Tensor, ctx: StepContext) -> Bias:  # type: ignore[override]
        """The bias of one step, the same for every layer that shares the table.

        Returns:
            Shape: [1, H, T, past + T]; in a packed step one tensor per row.
        """
        return ctx.once(
            ("bias", id(self.weight)), lambda: ctx.spread(self._between, self.weight.device, q_BTHD.shape[1])
        )

    def twin(self) -> BucketedBias:
        """Another with the very same table, for another layer; a step's bias is computed once for all of them."""
        other = type(self)(
            self.num_embeddings, self.embedding_dim, max_distance=self.max_distance, two_sided=self.two_sided
        )
        other.weight = self.weight
        return other

    def shard(self, ranks: Ranks) -> Mapping[str, range]:
        """See :class:`~omniform.blocks.shards.Shards`: as attention whose heads each have keys of their own."""
        own = ranks.of(self.embedding_dim, "key heads")
        self.embedding_dim = len(own)
        return {"weight": own}

    def distances(self) -> tuple[int, Tensor]:
        """See :class:`~omniform.blocks.operations.ByDistance`: all far ones share a bucket."""
        offsets = torch.arange(-self.max_distance, self.max_distance + 1, device=self.weight.device)
        return -self.max_distance, self.weight.detach().float()[self.bucket(offsets)].t()

    @property
    def count(self) -> int:
        """How many buckets distances are sorted into."""
        return self.num_embeddings

    def _between(self, query: Tensor, key: Tensor) -> Tensor:
        bias = super().forward(self.bucket(key[None, :] - query[:, None]))
        return bias.permute(2, 0, 1)[None]

    def bucket(self, offset: Tensor) -> Tensor:
        """The bucket of ``key index - query index``. Shape: [...] in and out, integers."""
        count = self.count
        first = torch.zeros_like(offset)
        if self.two_sided:
            count //= 2
            first = torch.where(offset > 0, count, 0)
            distance = offset.abs()
        else:
            distance = (-offset).clamp(min=0)
        exact = count // 2
        # In float32 and in this order: another rounding would move a distance on the edge to the next bucket.
        growth = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        far = (exact + (growth * (count - exact)).long()).clamp(0, count - 1)
        return first + torch.where(distance < exact, distance, far)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, max_distance={self.max_distance}, two_sided={self.two_sided}"


@dataclass(frozen=True, slots=True)
class Alibi:
    """What grows with a key's place, in each head by another slope (ALiBi, https://arxiv.org/abs/2108.12409).

    The softmax sees differences of keys alone, so no query's place is asked for. Padding is not counted.

    Attributes:
        heads: how many slopes there are.
        own: whose slopes these are; None for all.
    """

    heads: int
    own: range | None = field(default=None, kw_only=True)

    def of_heads(self, heads: range) -> Self:
        """The bias of some of the heads."""
        return replace(self, own=heads)

    def __call__(self, q_BTHD: Tensor, k: Tensor, ctx: StepContext) -> Bias:
        """The bias of one step, the same for every layer. Shape: [B or 1, H, T, past + T]; packed, one per row."""
        return ctx.once((self, q_BTHD.dtype), lambda: self._step(q_BTHD, ctx))

    def _step(self, q_BTHD: Tensor, ctx: StepContext) -> Bias:
        queries, dtype = q_BTHD.shape[1], q_BTHD.dtype
        place = ctx.place()
        if place is not None:
            return self.of(place, dtype).expand(-1, -1, queries, -1)
        if ctx.padding is None:
            return ctx.spread(
                lambda query, key: self.of(key[None], dtype).expand(-1, -1, query.shape[0], -1), q_BTHD.device, queries
            )
        real = ctx.padding.long()
        return self.of((real.cumsum(-1) - 1) * real, dtype).expand(-1, -1, queries, -1)

    def places(self, count: int) -> Tensor:
        """See :class:`~omniform.blocks.operations.ByPlace`."""
        return self.of(torch.arange(count, device="cpu")[None], torch.float32)[0, :, 0]

    def slopes(self, device: torch.device) -> Tensor:
        """A geometric sequence for powers of two; between them, every other slope of twice as many. Shape: [H]."""
        slopes = _slopes(self.heads, device)
        return slopes if self.own is None else slopes[self.own.start : self.own.stop]

    def of(self, places: Tensor, dtype: torch.dtype) -> Tensor:
        """The bias of keys at these places. Shape: [B, S] to [B, H, 1, S]."""
        return (self.slopes(places.device)[:, None] * places[:, None]).to(dtype)[:, :, None]


@kept_unless_traced(16)
def _slopes(heads: int, device: torch.device) -> Tensor:
    whole = 2 ** math.floor(math.log2(heads))
    powers = [-8 * n / whole for n in range(1, whole + 1)]
    powers += [-4 * n / whole for n in range(1, 2 * (heads - whole), 2)]
    return 2.0 ** torch.tensor(powers, device=device)


@dataclass(frozen=True, slots=True)
class RoundedAlibi(Alibi):
    """One whose slopes and products are rounded to bfloat16, and multiplied by the scale of the scores (Falcon).

    Attributes:
        scale: that scale.
    """

    scale: float

    def of(self, places: Tensor, dtype: torch.dtype) -> Tensor:
        steep = self.slopes(places.device).bfloat16()[:, None] * places[:, None]
        return steep.to(dtype)[:, :, None] * self.scale
