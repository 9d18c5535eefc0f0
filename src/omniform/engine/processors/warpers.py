"""What narrows a draw: temperature, and which tokens are left out.

Each rule is a function of scores that tells what to leave out, and a class of the ecosystem around it. The functions
are exact: they keep and drop the same tokens as a full sort, ties included, also where they look at a part of it only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omniform.engine.processors.base import NEVER, LogitsProcessor, above_zero, between, refuse, whole
from omniform.engine.tops import kth_highest
from omniform.native.sampling import ascending

LARGE = 4096
"""From so many tokens on, a sort of all of them is avoided where a part of it decides."""

FEW = 1024
"""That part."""

DOUBT = 1e-5
"""Sums of probabilities are right to within this: a float32's rounding, over a vocabulary."""

TOP_H_CANDIDATES = 100
"""Top-h looks at so many likeliest tokens."""


class TemperatureLogitsWarper(LogitsProcessor):
    """Divides scores.

    Args:
        temperature: by what; below 1 makes likely tokens likelier.
    """

    supports_continuous_batching = True

    def __init__(self, temperature: float) -> None:
        remedy = "do_sample=False takes the likeliest tokens." if temperature == 0 else None
        self.temperature = above_zero("temperature", temperature, remedy)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        return scores / self.temperature


class TopKLogitsWarper(LogitsProcessor):
    """Leaves the so many likeliest tokens, and those as likely as the last of them.

    Args:
        top_k: how many.
        filter_value: what the others' scores become.
        min_tokens_to_keep: at least so many.
    """

    supports_continuous_batching = True

    def __init__(self, top_k: int, filter_value: float = NEVER, min_tokens_to_keep: int = 1) -> None:
        self.top_k = max(whole("top_k", top_k, 1), min_tokens_to_keep)
        self.filter_value = filter_value
        self.min_tokens_to_keep = min_tokens_to_keep

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        return scores.masked_fill(scores < kth(scores, self.top_k), self.filter_value)


def kth(scores: Tensor, k: int) -> Tensor:
    """The k-th highest of each row's scores. Shape: [B, V] in, [B, 1] out."""
    return kth_highest(scores, min(k, scores.shape[-1]))


class TopPLogitsWarper(LogitsProcessor):
    """Leaves the likeliest tokens that together have a probability (https://arxiv.org/abs/1904.09751).

    Args:
        top_p: which.
        filter_value: what the others' scores become.
        min_tokens_to_keep: at least so many.
    """

    supports_continuous_batching = True

    def __init__(self, top_p: float, filter_value: float = NEVER, min_tokens_to_keep: int = 1) -> None:
        self.top_p = between("top_p", top_p, 0, 1)
        self.filter_value = filter_value
        self.min_tokens_to_keep = whole("min_tokens_to_keep", min_tokens_to_keep, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        return scores.masked_fill(outside_top_p(scores, self.top_p, self.min_tokens_to_keep), self.filter_value)


def outside_top_p(scores: Tensor, top_p: float, least: int = 1) -> Tensor:
    """What top-p sampling leaves out. Shape: [B, V] in and out, bool."""
    if scores.device.type != "cpu":  # in torch's own order, so that nobody has to look whether another would do
        unlikeliest, order = scores.sort(dim=-1)
        unlikely = _unlikely(unlikeliest, top_p, least)
        return unlikely.scatter(-1, order, unlikely)
    if scores.dim() == 2 and scores.shape[-1] >= LARGE:
        found = _outside_top_p_of_few(scores, top_p, least)
        if found is not None:
            return found
    unlikeliest, order = ascending(scores)
    unlikely = _unlikely(unlikeliest, top_p, least)
    last, next_ = unlikeliest.masked_fill(~unlikely, NEVER).amax(-1), unlikeliest.masked_fill(unlikely, -NEVER).amin(-1)
    if bool((last >= next_).any()):  # a cut between equal scores: which of them stay is torch's own affair
        unlikeliest, order = scores.sort(dim=-1)
        unlikely = _unlikely(unlikeliest, top_p, least)
    return unlikely.scatter(-1, order, unlikely)


def _unlikely(ascending_BV: Tensor, top_p: float, least: int) -> Tensor:
    unlikely = ascending_BV.softmax(-1).cumsum(-1) <= 1 - top_p
    unlikely[..., -least:] = False
    return unlikely


def _outside_top_p_of_few(scores: Tensor, top_p: float, least: int) -> Tensor | None:
    """The same, if the few likeliest tokens decide it beyond doubt; None otherwise.

    A token stays as long as those before it have less than ``top_p`` together. In doubt are sums that rounding may
    have put on the other side, and cuts between tokens of the same score.
    """
    best = scores.topk(FEW, dim=-1).values
    odds = (best - scores.logsumexp(-1, keepdim=True)).double().exp()
    before = odds.cumsum(-1) - odds
    kept = (before < top_p).sum(-1, keepdim=True).clamp(min=least)
    doubt = ((before - top_p).abs() < DOUBT).any() | (kept >= FEW).any()
    if bool(doubt):
        return None
    last = best.gather(-1, kept - 1)
    return None if bool((last == best.gather(-1, kept)).any()) else scores < last


class TopHLogitsWarper(LogitsProcessor):
    """Leaves the likeliest tokens that together have a share of the entropy (https://arxiv.org/abs/2509.02510).

    Args:
        top_h: which share, above 0, up to 1.
        filter_value: what the others' scores become.
    """

    def __init__(self, top_h: float, filter_value: float = NEVER) -> None:
        if not 0 < top_h <= 1:
            raise refuse("top_h", "a number > 0, up to 1", top_h)
        self.top_n = TOP_H_CANDIDATES
        self.top_h = top_h
        self.filter_value = filter_value

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        places, kept = within_top_h(scores, self.top_h, self.top_n)
        inside = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, places, kept)
        return scores.masked_fill(~inside, self.filter_value)


def within_top_h(scores: Tensor, top_h: float, most: int = TOP_H_CANDIDATES) -> tuple[Tensor, Tensor]:
    """The tokens that top-h sampling looks at, and which of them it leaves. Shape: [B, n] each, likeliest first."""
    best, places = scores.topk(min(most, scores.shape[-1]), dim=-1)
    logs = best - best.logsumexp(-1, keepdim=True)
    odds = logs.softmax(-1)
    entropy = -(logs.clamp(min=torch.finfo(logs.dtype).min) * odds).sum(-1, keepdim=True)
    kept = (-odds * odds.log()).cumsum(-1) <= entropy * top_h
    kept[:, 0] = True
    return places, kept


class MinPLogitsWarper(LogitsProcessor):
    """Leaves out tokens less likely than a fraction of the likeliest one (https://arxiv.org/abs/2407.01082).

    Args:
        min_p: which fraction.
        filter_value: what the others' scores become.
        min_tokens_to_keep: at least so many stay.
    """

    def __init__(self, min_p: float, filter_value: float = NEVER, min_tokens_to_keep: int = 1) -> None:
        self.min_p = between("min_p", min_p, 0, 1)
        self.filter_value = filter_value
        self.min_tokens_to_keep = whole("min_tokens_to_keep", min_tokens_to_keep, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        return scores.masked_fill(below_min_p(scores, self.min_p, self.min_tokens_to_keep), self.filter_value)


def below_min_p(scores: Tensor, min_p: float, least: int = 1) -> Tensor:
    """What min-p sampling leaves out. Shape: [B, V] in and out, bool."""
    odds = scores.softmax(-1)
    unlikely = odds < min_p * odds.amax(-1, keepdim=True)
    # The likeliest one is never below a fraction of itself.
    return unlikely if least == 1 else unlikely.scatter_(-1, odds.topk(min(least, odds.shape[-1])).indices, False)


class TypicalLogitsWarper(LogitsProcessor):
    """Leaves the tokens nearest to the expected surprise (https://arxiv.org/abs/2202.00666, algorithm in section 4).

    Args:
        mass: the probability that they have together.
        filter_value: what the others' scores become.
        min_tokens_to_keep: at least so many stay.
    """

    def __init__(self, mass: float = 0.9, filter_value: float = NEVER, min_tokens_to_keep: int = 1) -> None:
        self.mass = between("typical_p", mass, 0, 1, open_ends=True)
        self.filter_value = filter_value
        self.min_tokens_to_keep = whole("min_tokens_to_keep", min_tokens_to_keep, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        return scores.masked_fill(atypical(scores, self.mass, self.min_tokens_to_keep), self.filter_value)


def atypical(scores: Tensor, mass: float, least: int = 1) -> Tensor:
    """What typical sampling leaves out. Shape: [B, V] in and out, bool."""
    logs = scores.log_softmax(-1)
    entropy = -(logs * logs.exp()).nansum(-1, keepdim=True)
    strangeness = (-logs - entropy).abs()
    if scores.shape[-1] >= LARGE:
        found = _atypical_of_few(strangeness, logs, mass, least)
        if found is not None:
            return found
    strange, order = strangeness.sort(-1)
    within = (scores.gather(-1, order).softmax(-1).cumsum(-1) < mass).sum(1, keepdim=True)
    out = strange > strange.gather(1, within.clamp(max=scores.shape[-1] - 1))
    out[:, :least] = False
    return out.scatter(1, order, out)


def _atypical_of_few(strangeness: Tensor, logs: Tensor, mass: float, least: int) -> Tensor | None:
    """The same, if the few most typical tokens decide it beyond doubt; None otherwise.

    Tokens that are as strange as the last one stay, so it does not matter in which order they come.
    """
    strange, order = strangeness.topk(FEW, dim=-1, largest=False)
    so_far = logs.gather(-1, order).double().exp().cumsum(-1)
    within = (so_far < mass).sum(1, keepdim=True)
    doubt = ((so_far - mass).abs() < DOUBT).any() | (within >= FEW).any() | (within + 1 < least).any()
    return None if bool(doubt) else strangeness > strange.gather(1, within)


class EpsilonLogitsWarper(LogitsProcessor):
    """Leaves out tokens less likely than this (https://arxiv.org/abs/2210.15191, section 3).

    Args:
        epsilon: than what.
        filter_value: what their scores become.
        min_tokens_to_keep: at least so many stay.
    """

    def __init__(self, epsilon: float, filter_value: float = NEVER, min_tokens_to_keep: int = 1) -> None:
        self.epsilon = between("epsilon_cutoff", epsilon, 0, 1, open_ends=True)
        self.filter_value = filter_value
        self.min_tokens_to_keep = whole("min_tokens_to_keep", int(min_tokens_to_keep), 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        return scores.masked_fill(below_epsilon(scores, self.epsilon, self.min_tokens_to_keep), self.filter_value)


def below_epsilon(scores: Tensor, epsilon: float, least: int = 1) -> Tensor:
    """What epsilon sampling leaves out. Shape: [B, V] in and out, bool."""
    return (scores.softmax(-1) < epsilon) & (scores < kth(scores, least))


class EtaLogitsWarper(LogitsProcessor):
    """The same, but less is left out the surer the model is (https://arxiv.org/abs/2210.15191, section 3).

    Args:
        epsilon: the cut of a sure model.
        filter_value: what their scores become.
        min_tokens_to_keep: at least so many stay.
        device: where the cut is kept.
    """

    def __init__(
        self,
        epsilon: float,
        filter_value: float = NEVER,
        min_tokens_to_keep: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        self.epsilon = torch.tensor(between("eta_cutoff", epsilon, 0, 1, open_ends=True), device=device)
        self.filter_value = filter_value
        self.min_tokens_to_keep = whole("min_tokens_to_keep", int(min_tokens_to_keep), 1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`."""
        return scores.masked_fill(below_eta(scores, self.epsilon, self.min_tokens_to_keep), self.filter_value)


def below_eta(scores: Tensor, epsilon: Tensor | float, least: int = 1) -> Tensor:
    """What eta sampling leaves out. Shape: [B, V] in and out, bool."""
    epsilon = torch.as_tensor(epsilon, dtype=torch.float32, device=scores.device)
    logs = scores - scores.logsumexp(-1, keepdim=True)
    # The most negative number, since nothing times minus infinity is no number.
    entropy = -(logs.clamp(min=torch.finfo(logs.dtype).min) * logs.softmax(-1)).sum(-1)
    limit = torch.min(epsilon, epsilon.sqrt() * (-entropy).exp())[..., None]
    return (scores.softmax(-1) < limit) & (scores < kth(scores, least))
