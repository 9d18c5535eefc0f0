"""StepContext: masks against loops over every pair, memoised once per step; the dense state."""

from __future__ import annotations

import pytest
import torch

from omniform.core.context import Mask, Memory, StepContext
from omniform.core.rules import Causal, Full, Window
from omniform.core.state import KV, DenseState, StatefulModule, number_mixers, state_specs

CPU = torch.device("cpu")
RULES = {"causal": Causal(), "full": Full(), "window": Causal() & Window(2)}


def context(queries: int, past: int = 0, **fields: object) -> StepContext:
    return StepContext(positions=torch.arange(past, past + queries)[None], past=past, **fields)


def brute_force(rule, queries, past, padding=None):
    mask = torch.zeros(1 if padding is None else len(padding), 1, queries, past + queries, dtype=torch.bool)
    for b in range(len(mask)):
        for q in range(queries):
            for k in range(past + queries):
                may = bool(rule.allows(torch.tensor([[past + q]]), torch.tensor([[k]])))
                mask[b, 0, q, k] = may and (padding is None or bool(padding[b, k]))
    return mask


@pytest.mark.parametrize(("queries", "past"), [(5, 0), (3, 4), (1, 6)])
@pytest.mark.parametrize("rule", RULES)
def test_masks_without_padding(rule, queries, past):
    mask = context(queries, past).mask(RULES[rule], queries, CPU)
    expected = brute_force(RULES[rule], queries, past)
    found = mask.materialised(queries, past + queries, CPU)
    assert (found is None and expected.all()) or torch.equal(found.expand_as(expected), expected)


def test_the_kernels_causal_flag_is_used_where_it_may():
    assert context(5).mask(Causal(), 5, CPU) == Mask(causal=True)
    assert context(1, 7).mask(Causal(), 1, CPU) == Mask()
    assert context(5).mask(Full(), 5, CPU) == Mask()
    assert context(3, 4).mask(Causal(), 3, CPU).allowed is not None  # the flag would align it wrongly


@pytest.mark.parametrize("side", ["left", "right", "middle", "whole row"])
@pytest.mark.parametrize(("queries", "past"), [(5, 0), (2, 3), (1, 4)])
@pytest.mark.parametrize("rule", RULES)
def test_masks_with_padding(rule, queries, past, side):
    padding = torch.ones(2, past + queries, dtype=torch.bool)
    where = {"left": slice(0, 2), "right": slice(3, 5), "middle": slice(1, 3), "whole row": slice(0, 5)}[side]
    padding[1, where] = False
    mask = context(queries, past, padding=padding).mask(RULES[rule], queries, CPU)
    assert torch.equal(mask.allowed, brute_force(RULES[rule], queries, past, padding))


def test_explicit_masks_stand_for_the_rule():
    """As the reference's do: a caller who writes a mask out may let tokens see what follows them."""
    allowed = torch.rand(2, 1, 4, 6, generator=torch.Generator().manual_seed(0)) > 0.4
    padding = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]]).bool()
    for rule in RULES.values():
        assert torch.equal(context(4, 2, allowed=allowed).mask(rule, 4, CPU).allowed, allowed)
    mask = context(4, 2, padding=padding, allowed=allowed).mask(Causal(), 4, CPU)
    assert torch.equal(mask.allowed, allowed & padding[:, None, None])


def test_memory_masks():
    assert context(3).memory_mask(3) == Mask()
    hidden = torch.zeros(2, 4, 8)
    assert context(3, memory=Memory(hidden)).memory_mask(3) == Mask()
    padding = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    mask = context(3, memory=Memory(hidden, padding)).memory_mask(3).allowed
    assert mask.shape == (2, 1, 1, 4)
    assert mask[0, 0, 0].tolist() == [True, True, False, False] and not mask[1].any()


def test_a_rule_is_resolved_once_per_step():
    step = context(4, 2)
    assert step.mask(Causal(), 4, CPU) is step.mask(Causal(), 4, CPU)
    assert step.mask(Causal(), 4, CPU) is not step.mask(Causal() & Window(2), 4, CPU)
    calls = []
    for _ in range(3):
        assert step.once("key", lambda: calls.append(1) or len(calls)) == 1
    # None is a value like another.
    counted = []
    for _ in range(2):
        assert step.once("none", lambda: counted.append(1)) is None
    assert len(counted) == 1


def test_a_changed_copy_forgets_what_was_resolved():
    step = context(4)
    assert step.mask(Causal(), 4, CPU).causal
    padded = step.with_(padding=torch.tensor([[True, True, True, False]]))
    assert padded.mask(Causal(), 4, CPU).allowed is not None
    assert step.mask(Causal(), 4, CPU).causal and step.padding is None
    with pytest.raises(AttributeError):
        step.past = 3


@pytest.mark.parametrize("room", [0, 3, 64])
def test_dense_state_grows_and_keeps_everything(room):
    generator = torch.Generator().manual_seed(0)
    state, keys, values = DenseState(room), [], []
    for tokens in (4, 1, 1, 7, 1, 30):
        k, v = (torch.randn(2, 3, tokens, d, generator=generator) for d in (5, 6))
        keys.append(k)
        values.append(v)
        all_k, all_v = state.kv(0).extend(k, v)
        state.advance(tokens)
        assert torch.equal(all_k, torch.cat(keys, 2)) and torch.equal(all_v, torch.cat(values, 2))
    assert state.length == state.get_seq_length() == 44
    assert state.nbytes() == 2 * 3 * 44 * (5 + 6) * 4
    k, v = state.kv(0).tensors()
    assert torch.equal(k, torch.cat(keys, 2)) and torch.equal(v, torch.cat(values, 2))


def test_growing_is_amortised():
    view, storages = DenseState().kv(0), set()
    step = torch.zeros(1, 1, 1, 2)
    for _ in range(200):
        k, _ = view.extend(step, step)
        storages.add(k.untyped_storage().data_ptr())
    assert len(storages) < 20


def test_a_single_forward_copies_nothing():
    k = torch.randn(1, 2, 6, 4)
    again, _ = DenseState().kv(0).extend(k, k)
    assert again is k


def test_what_was_appended_does_not_change_what_a_caller_holds():
    state = DenseState()
    k = torch.randn(1, 1, 3, 2)
    before = k.clone()
    state.kv(0).extend(k, k)
    state.kv(0).extend(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2))
    assert torch.equal(k, before)


def test_rows_are_selected():
    state = DenseState()
    k = torch.arange(6.0).view(3, 1, 1, 2)
    state.kv(0).extend(k, k + 10)
    state.set_cross(0, k + 20, k + 30)
    state.select(torch.tensor([2, 0, 0, 1]))
    rows = k[[2, 0, 0, 1]]
    assert torch.equal(state.kv(0).tensors()[0], rows) and torch.equal(state.kv(0).tensors()[1], rows + 10)
    assert torch.equal(state.cross(0)[0], rows + 20) and torch.equal(state.cross(0)[1], rows + 30)
    assert state.cross(1) is None


def test_mixers_are_numbered():
    class Mixer(StatefulModule):
        def state_spec(self):
            return KV(2, 4, 4)

    model = torch.nn.Sequential(Mixer(), torch.nn.Linear(2, 2), torch.nn.Sequential(Mixer()))
    number_mixers(model)
    assert state_specs(model) == {0: KV(2, 4, 4), 1: KV(2, 4, 4)}
    with pytest.raises(TypeError, match="abstract"):
        StatefulModule()
