"""Speculative sampling keeps the distribution: thousands of draws against probabilities that are worked out exactly."""

from __future__ import annotations

import itertools

import pytest
import torch
from test_states import WIDTH

from engines import family, idle
from omniform.architectures.decoder import CausalLM, TextDecoder
from omniform.blocks.attention import Attention
from omniform.blocks.embeddings import Embeddings
from omniform.blocks.layers import PreNorm
from omniform.blocks.mlp import GatedMLP
from omniform.core.rules import Causal
from omniform.core.state import number_mixers
from omniform.engine import sampling
from omniform.engine.engine import Engine
from omniform.engine.request import Proposal, Row
from omniform.engine.speculative import settle
from reference import randomise

VOCABULARY, NEW = 5, 3
PROMPT = [1, 3, 2]
DRAWN = {"do_sample": True, "top_k": 0, "max_new_tokens": NEW, "eos_token_id": None}


def small(seed: int, size: int = VOCABULARY, scale: float = 1.0) -> CausalLM:
    """A model of few tokens."""
    torch.manual_seed(0)
    layer = PreNorm(
        input_layernorm=torch.nn.LayerNorm(WIDTH),
        self_attn=Attention(WIDTH, 4, rule=Causal(), kv_heads=2),
        post_attention_layernorm=torch.nn.LayerNorm(WIDTH),
        mlp=GatedMLP(WIDTH, 24, "silu"),
    )
    parts = {
        "embed_tokens": torch.nn.Embedding(size, WIDTH),
        "embeddings": Embeddings(),
        "norm": torch.nn.LayerNorm(WIDTH),
    }
    decoder = TextDecoder(layers=torch.nn.ModuleList([layer]), max_positions=64, **parts)
    whole = CausalLM(model=decoder, lm_head=torch.nn.Linear(WIDTH, size)).eval().bind(family("llama").ours.origin)
    number_mixers(whole.keeper())
    randomise(whole, scale=scale, seed=seed)
    with torch.no_grad():
        whole.lm_head.weight *= 0.5 / whole.lm_head.weight.std() / WIDTH**0.5
    return whole


@torch.no_grad()
def exact(model: CausalLM, temperature: float = 1.0, top_k: int = 0) -> dict[tuple[int, ...], float]:
    """The probability of every answer, without any engine."""
    answers = list(itertools.product(range(VOCABULARY), repeat=NEW))
    ids = torch.tensor([[*PROMPT, *answer] for answer in answers])
    scores = model(ids).logits[:, len(PROMPT) - 1 : -1] / temperature
    if top_k:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[..., -1:], float("-inf"))
    logs = scores.log_softmax(-1).gather(-1, torch.tensor(answers)[..., None])[..., 0].sum(1)
    return dict(zip(answers, logs.exp().tolist(), strict=True))


def strangeness(drawn: list[tuple[int, ...]], odds: dict[tuple[int, ...], float]) -> float:
    """How many standard deviations the chi-square statistic of some draws lies above its mean.

    Answers that are expected fewer than five times count as one.
    """
    cells: list[tuple[float, int]] = []
    rare, rarely = 0.0, 0
    for answer, p in odds.items():
        count = drawn.count(answer)
        if p * len(drawn) < 5:
            rare, rarely = rare + p * len(drawn), rarely + count
        else:
            cells.append((p * len(drawn), count))
    cells += [(rare, rarely)] if rare > 0 else []
    assert sum(count for _, count in cells) == len(drawn)
    chi = sum((count - expected) ** 2 / expected for expected, count in cells)
    free = len(cells) - 1
    return (chi - free) / (2 * free) ** 0.5


def draws(model, rows, seed=0, **settings):
    """Answers of many rows of one batch."""
    torch.manual_seed(seed)
    engine = Engine(model, memory="40MB")
    found = engine.generate_batch([PROMPT] * rows, **{**DRAWN, **settings})
    idle(engine)
    return [tuple(c.tokens) for c in found], engine.stats()


BOUND = 5.0
ASSISTED = {"num_assistant_tokens": 2, "assistant_confidence_threshold": 0.0}


def naive(rows, odds_RV):
    """Speculative sampling gone wrong: what is refused is drawn again from the whole distribution."""
    found = []
    for row, odds in zip(rows, odds_RV, strict=True):
        proposal = row.proposals.popleft()
        if float(torch.rand(())) * float(proposal.odds[proposal.token]) < float(odds[proposal.token]):
            found.append(proposal.token)
        else:
            row.proposals.clear()
            found.append(int(torch.multinomial(odds, 1)))
    return found


def test_an_assistant_keeps_the_distribution_and_a_wrong_rule_does_not(monkeypatch):
    target, assistant = small(1), small(4)
    odds = exact(target)
    drawn, stats = draws(target, 800, assistant_model=assistant, **ASSISTED)
    assert strangeness(drawn, odds) < BOUND
    assert 0.2 < stats.tokens_accepted / stats.tokens_drafted < 0.9, "there was something to refuse, and to accept"
    assert strangeness(drawn, exact(assistant)) > 4 * BOUND
    monkeypatch.setattr(sampling, "settle", naive)
    wrong, _ = draws(target, 800, assistant_model=assistant, **ASSISTED)
    assert strangeness(wrong, odds) > 2 * BOUND


@pytest.mark.parametrize(
    ("settings", "filters"),
    [
        ({"prompt_lookup_num_tokens": 2}, {}),
        ({"assistant": True}, {"temperature": 0.6, "top_k": 3}),
        ({"assistant": True, "max_tokens_per_step": 2}, {}),
    ],
    ids=["lookup", "filters", "short steps"],
)
def test_the_distribution_in_other_ways(settings, filters, monkeypatch):
    target = small(1)
    settings = dict(settings)
    more = {**ASSISTED, "assistant_model": small(2)} if settings.pop("assistant", False) else {}
    if settings.pop("max_tokens_per_step", None):
        # Guesses are cut by what others take of a step, and rows give way whatever was guessed for them.
        monkeypatch.setattr("omniform.engine.engine.TOKENS_PER_STEP", {"cpu": 150})
    drawn, stats = draws(target, 500, **settings, **more, **filters)
    assert strangeness(drawn, exact(target, **filters)) < BOUND and stats.tokens_accepted


@pytest.mark.parametrize("own", [4, 6, 8], ids=lambda n: f"q of {n}")
def test_one_draw_is_from_p_whatever_q_is(own):
    """Also where the assistant has more tokens, or fewer, and where it is sure of what cannot be."""
    g = torch.Generator().manual_seed(own)
    p = torch.tensor([0.4, 0.0, 0.3, 0.05, 0.2, 0.05])
    q = torch.rand(own, generator=g) ** 2
    q[1] += 1.0
    q /= q.sum()
    torch.manual_seed(5)
    tokens = torch.multinomial(q, 20000, replacement=True).tolist()
    rows = [Row([1], 1) for _ in tokens]
    for row, token in zip(rows, tokens, strict=True):
        row.proposals.append(Proposal(token, q))
        row.proposals.append(Proposal(0, q))
    found = settle(rows, p.expand(len(rows), -1))
    counts = torch.bincount(torch.tensor(found), minlength=6).double()
    assert counts[1] == 0
    kept = p > 0
    chi = ((counts - 20000 * p) ** 2 / (20000 * p).clamp(min=1e-9))[kept].sum()
    assert chi < 25
    gone = [not row.proposals for row in rows]
    assert all(g or t == f for g, t, f in zip(gone, tokens, found, strict=True)) and any(gone) and not all(gone)


def test_a_seed_gives_what_it_gives_without_guesses():
    """With guesses or without, in any company: the assistant only guesses what the row's own numbers will draw."""
    target, near = small(1), small(1)
    with torch.no_grad():
        near.lm_head.weight += 0.05 * torch.randn(near.lm_head.weight.shape, generator=torch.Generator().manual_seed(2))
    seeds = [{"seed": seed} for seed in range(60)]
    asked = {**DRAWN, "max_new_tokens": 10, "temperature": 1.5}
    plain = [c.tokens for c in Engine(target, memory="4MB").generate_batch([PROMPT] * 60, seeds, **asked)]
    assert len({*map(tuple, plain)}) > 50
    rates = {}
    for name, assistant in (("same", target), ("near", near), ("far", small(2))):
        engine = Engine(target, memory="4MB")
        found = engine.generate_batch([PROMPT] * 60, seeds, **asked, **ASSISTED, assistant_model=assistant)
        assert [c.tokens for c in found] == plain, name
        stats = engine.stats()
        rates[name] = stats.tokens_accepted / stats.tokens_drafted
    assert rates["same"] == 1 and 0.85 < rates["near"] < 1 and rates["far"] < rates["near"], rates
    alone = Engine(target, memory="4MB").generate(PROMPT, **asked, **ASSISTED, assistant_model=near, seed=7)
    assert alone.tokens == plain[7]
