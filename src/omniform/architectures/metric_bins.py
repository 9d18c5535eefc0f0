"""Depth in metres by bins that move (ZoeDepth, https://arxiv.org/abs/2302.12288).

Every place has some depths, its bins' centres, that are guessed from the coarsest map and drawn towards points that
finer maps name. The depth is their mean under a binomial distribution that is guessed for every place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.depth_neck import bigger
from omniform.blocks.attention import Attention
from omniform.blocks.layers import PostNorm, run
from omniform.blocks.mlp import MLP
from omniform.core.context import StepContext
from omniform.core.rules import Full

ATTRACTION = 300
"""How fast the pull of a point grows less with its distance. The config's own numbers are not read in the reference."""
LEAST = 1e-3
"""What is added to widths and points, so that none is nothing."""
SURE = 1e-4
"""How near to 0 and 1 a probability may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The depths of a domain, in metres.

    Attributes:
        name: of the domain; empty where there is one only.
        bins: how many each place has.
    """

    name: str
    bins: int
    least: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bins:
    """How depth is told.

    Attributes:
        normed: whether centres are kept within the range, and not any positive numbers.
        summed: whether points pull together, and not on average.
        attractors: how many points each of the finer maps names.
        dim: channels of the vectors that these are named from.
        inner: channels of the coarsest map.
        finer: channels of the finer ones.
        seen: channels of what relative depth is told from.
        temperatures: the least and the greatest temperature of the distributions.
    """

    normed: bool
    summed: bool
    attractors: tuple[int, ...]
    dim: int
    inner: int
    finer: int
    seen: int
    temperatures: tuple[float, float]


class PointMLP(nn.Module):
    """Two projections of every place."""

    def __init__(self, inner: int, hidden: int, outer: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, hidden, kernel_size=1)
        self.conv2 = nn.Conv2d(hidden, outer, kernel_size=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, inner, H, W] to [B, outer, H, W]."""
        out: Tensor = self.conv2(F.relu(self.conv1(x_BCHW)))
        return out


class Seeds(PointMLP):
    """The first guess of the centres: any positive numbers."""

    def __init__(self, bins: Bins, span: Range, hidden: int) -> None:
        super().__init__(bins.inner, hidden, span.bins)
        self.span = span

    def centres(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, inner, H, W] to [B, bins, H, W]."""
        return F.softplus(self(x_BCHW))


class NormedSeeds(Seeds):
    """The first guess as shares of the range, which the bins' widths fill."""

    def centres(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, inner, H, W] to [B, bins, H, W]."""
        span = self.span
        widths = F.relu(self(x_BCHW)) + LEAST
        widths = (span.most - span.least) * (widths / widths.sum(dim=1, keepdim=True))
        edges = F.pad(widths, (0, 0, 0, 0, 1, 0), value=span.least).cumsum(dim=1)
        centres = 0.5 * (edges[:, :-1] + edges[:, 1:])
        return (centres - span.least) / (span.most - span.least)


class Attractor(PointMLP):
    """Points that draw the centres towards them.

    Args:
        count: how many.
    """

    each = 1

    def __init__(self, bins: Bins, span: Range, count: int) -> None:
        super().__init__(bins.dim, bins.dim, count * self.each)
        self.span, self.count, self.summed = span, count, bins.summed

    def points(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, dim, H, W] to [B, count, H, W]."""
        return F.softplus(self(x_BCHW))

    def drawn(self, x_BCHW: Tensor, centres: Tensor) -> Tensor:
        """The centres after they have moved. Shape: [B, bins, h, w] to [B, bins, H, W]."""
        points = self.points(x_BCHW)
        centres = bigger(centres, x_BCHW.shape[2:])
        pull = torch.zeros_like(centres)
        for number in range(self.count):
            away = points[:, number : number + 1] - centres
            pull = pull + away / (1 + ATTRACTION * away.square())
        return centres + (pull if self.summed else pull / self.count)

    def metres(self, centres: Tensor) -> Tensor:
        """The centres as depths. Shape: [B, bins, H, W] in and out."""
        return centres


class NormedAttractor(Attractor):
    """The same for shares of the range; a second number for each point is learned and not read."""

    each = 2

    def points(self, x_BCHW: Tensor) -> Tensor:
        return (F.relu(self(x_BCHW)) + LEAST)[:, :: self.each]

    def metres(self, centres: Tensor) -> Tensor:
        span = self.span
        depths = (span.most - span.least) * centres + span.least
        return depths.sort(dim=1).values.clip(span.least, span.most)


class LogBinomial(nn.Module):
    """A distribution over the bins of every place: a binomial one, at a temperature.

    Args:
        bins: how many there are.
        inner: channels of what both numbers are told from.
        hidden: channels between.
    """

    def __init__(self, bins: int, inner: int, hidden: int, temperatures: tuple[float, float]) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Conv2d(inner, hidden, kernel_size=1), nn.GELU(), nn.Conv2d(hidden, 4, kernel_size=1), nn.Softplus()
        )
        self.bins = bins
        self.coldest, self.hottest = temperatures

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, inner, H, W] to [B, bins, H, W]."""
        a, b, c, d = (self.mlp(x_BCHW) + SURE).split(1, dim=1)
        p = a / (a + b)
        temperature = (self.hottest - self.coldest) * (c / (c + d)) + self.coldest
        k = torch.arange(self.bins, device=x_BCHW.device).view(1, -1, 1, 1)
        others = self.bins - 1 - k
        chance, counter = p.clamp(min=SURE, max=1.0).log(), (1 - p).clamp(min=SURE, max=1.0).log()
        found: Tensor = ((log_choices(self.bins - 1, k) + k * chance + others * counter) / temperature).softmax(dim=1)
        return found


def log_choices(n: int, k: Tensor, eps: float = 1e-7) -> Tensor:
    """The logarithm of how many ways there are to choose ``k`` of ``n``, by Stirling's formula."""
    whole, some = n + eps, k + eps
    rest = whole - some
    return whole * math.log(whole) - some * some.log() - rest * (rest + eps).log()


def seeds_of(bins: Bins, span: Range, hidden: int) -> Seeds:
    """The first guess."""
    return (NormedSeeds if bins.normed else Seeds)(bins, span, hidden)


def attractors_of(bins: Bins, span: Range, counts: Sequence[int]) -> nn.ModuleList:
    """What moves the centres, map by map."""
    kind = NormedAttractor if bins.normed else Attractor
    return nn.ModuleList(kind(bins, span, count) for count in counts)


def mean_depth(
    seeds: Seeds, attractors: nn.ModuleList, spread: nn.Module, x: Tensor, embeddings: Sequence[Tensor], last: Tensor
) -> Tensor:
    """The depth of every place.

    Args:
        seeds: the first guess.
        attractors: what moves it.
        spread: the distribution over the bins.
        x: the coarsest map. Shape: [B, inner, h, w].
        embeddings: vectors of the coarsest map's places, then those of the finer maps'. Shape: [B, dim, h, w] each.
        last: what the distribution is told from, beside the last of these. Shape: [B, C, H, W].

    Returns:
        Shape: [B, H, W].
    """
    centres, before, metres = seeds.centres(x), embeddings[0], None
    for embedding, attractor in zip(embeddings[1:], attractors, strict=False):
        assert isinstance(attractor, Attractor)
        centres = attractor.drawn(embedding + bigger(before, embedding.shape[2:]), centres)
        before, metres = embedding, attractor
    depths = centres if metres is None else metres.metres(centres)
    size = last.shape[2:]
    shares = spread(torch.cat((last, bigger(before, size)), dim=1))
    found: Tensor = (shares * bigger(depths, size)).sum(dim=1)
    return found


class MetricHead(nn.Module):
    """Depth in metres, of one domain.

    Args:
        bins: how it is told.
        span: the range of depths.
        maps: how many finer maps there are.
    """

    def __init__(self, bins: Bins, span: Range, maps: int) -> None:
        super().__init__()
        self.conv2 = nn.Conv2d(bins.inner, bins.inner, kernel_size=1)
        self.seed_bin_regressor = seeds_of(bins, span, 256)
        self.seed_projector = PointMLP(bins.inner, 128, bins.dim)
        self.projectors = nn.ModuleList(PointMLP(bins.finer, 128, bins.dim) for _ in range(maps))
        self.attractors = attractors_of(bins, span, bins.attractors[:maps])
        inner = bins.seen + 1 + bins.dim
        self.conditional_log_binomial = LogBinomial(span.bins, inner, inner // 2, bins.temperatures)

    def forward(self, seen: Tensor, bottleneck: Tensor, fused: Sequence[Tensor], relative: Tensor) -> Tensor:
        """Depth of every place.

        Args:
            seen: what relative depth was told from. Shape: [B, seen, H, W].
            bottleneck: the coarsest map. Shape: [B, inner, h, w].
            fused: the finer ones. Shape: [B, finer, h, w] each.
            relative: relative depth. Shape: [B, H, W].

        Returns:
            Shape: [B, H, W].
        """
        x = self.conv2(bottleneck)
        finer = [project(one) for project, one in zip(self.projectors, fused, strict=False)]
        last = torch.cat((seen, relative[:, None]), dim=1)
        attract, spread = self.attractors, self.conditional_log_binomial
        return mean_depth(self.seed_bin_regressor, attract, spread, x, [self.seed_projector(x), *finer], last)


class PatchTransformer(nn.Module):
    """A small encoder of a map's places, behind a token of zeros that gathers what they say.

    Args:
        layers: how many there are; four are passed through.
    """

    PASSED = 4

    def __init__(self, inner: int, dim: int, hidden: int, heads: int, layers: int) -> None:
        super().__init__()
        self.transformer_encoder = nn.ModuleList(
            PostNorm.of(
                lambda: nn.LayerNorm(dim),
                self_attn=Attention(dim, heads, rule=Full(), dropout=0.1),
                mlp=MLP(dim, hidden, "relu", dropout=0.1),
                dropout=0.1,
            )
            for _ in range(layers)
        )
        self.embedding_convPxP = nn.Conv2d(inner, dim, kernel_size=1)

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """What enters the first layer. Shape: [B, inner, H, W] to [B, 1 + H * W, D]."""
        tokens = F.pad(self.embedding_convPxP(x_BCHW).flatten(2), (1, 0)).transpose(1, 2)
        count, dim = tokens.shape[1:]
        dtype, device = tokens.dtype, tokens.device
        waves = (torch.arange(0, dim, 2, dtype=dtype, device=device) * (-math.log(10000.0) / dim)).exp()
        turns = torch.arange(count, dtype=dtype, device=device)[:, None] * waves
        return tokens + torch.cat((turns.sin(), turns.cos()), dim=1)

    def forward(self, tokens_BTD: Tensor, ctx: StepContext) -> Tensor:
        """What the first token gathered. Shape: [B, T, D] to [B, D]."""
        return run(list(self.transformer_encoder)[: self.PASSED], tokens_BTD, ctx)[:, 0]


class DomainHeads(nn.Module):
    """Depth in metres, of the domain that most of a batch is of.

    Args:
        bins: how it is told.
        spans: the ranges of depths; the first two can be chosen.
        maps: how many finer maps there are.
        patch_transformer: tells the domain.
        dim: width of its vectors.
    """

    DOMAINS = 2

    def __init__(
        self, bins: Bins, spans: Sequence[Range], maps: int, patch_transformer: PatchTransformer, dim: int
    ) -> None:
        super().__init__()
        half, inner = bins.dim // 2, bins.seen + bins.dim
        self.conv2 = nn.Conv2d(bins.inner, bins.inner, kernel_size=1)
        self.patch_transformer = patch_transformer
        self.mlp_classifier = MLP(dim, dim, "relu")
        self.mlp_classifier.fc2 = nn.Linear(dim, self.DOMAINS)
        self.seed_bin_regressors = nn.ModuleDict({s.name: seeds_of(bins, s, half) for s in spans})
        self.seed_projector = PointMLP(bins.inner, half, bins.dim)
        self.projectors = nn.ModuleList(PointMLP(bins.finer, half, bins.dim) for _ in range(maps))
        # The config's numbers say how many maps are read, and each names 16 points, as the released weights have it.
        counts = [16] * len(bins.attractors)
        self.attractors = nn.ModuleDict({s.name: attractors_of(bins, s, counts) for s in spans})
        self.conditional_log_binomial = nn.ModuleDict(
            {s.name: LogBinomial(s.bins, inner, inner // 4, bins.temperatures) for s in spans}
        )
        self.names = [s.name for s in spans][: self.DOMAINS]

    def of(self, name: str, x: Tensor, embeddings: Sequence[Tensor], seen: Tensor) -> Tensor:
        """The depth where pictures are of a domain. Shape: [B, H, W]; see :func:`mean_depth`."""
        seeds, attract = self.seed_bin_regressors[name], self.attractors[name]
        assert isinstance(seeds, Seeds) and isinstance(attract, nn.ModuleList)
        return mean_depth(seeds, attract, self.conditional_log_binomial[name], x, embeddings, seen)

    def forward(self, seen: Tensor, x: Tensor, fused: Sequence[Tensor], scores: Tensor) -> Tensor:
        """Depth of every place.

        Args:
            seen: what relative depth was told from. Shape: [B, seen, H, W].
            x: the coarsest map, by :attr:`conv2`. Shape: [B, inner, h, w].
            fused: the finer ones. Shape: [B, finer, h, w] each.
            scores: of the domains. Shape: [B, 2].

        Returns:
            Shape: [B, H, W].
        """
        embeddings = [self.seed_projector(x), *(p(one) for p, one in zip(self.projectors, fused, strict=False))]
        vote = scores.sum(dim=0).softmax(dim=0).argmax()
        # Nobody looks at the vote on the way, so both are computed.
        first, second = (self.of(name, x, embeddings, seen) for name in self.names)
        return torch.where(vote == 0, first, second)
