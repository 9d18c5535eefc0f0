"""Steps of single tokens computed by what a record holds, on a CPU: the same tokens, and nothing read on the host."""

from __future__ import annotations

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from omniform.core.state import state_specs
from omniform.engine import engine as engines
from omniform.engine import recorded
from omniform.engine.engine import Engine
from omniform.engine.paged_state import PagedState, pool_of
from recorded import FAMILIES, Replays, prompts, tiny

NEW = 24


@pytest.fixture(autouse=True)
def _recorded_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "recorder_of", lambda device: Replays())
    monkeypatch.setattr(recorded, "SHORTEST", 64)


def written(model: object, rows: list[list[int]], **how: object) -> list[list[int]]:
    engine = Engine(model, memory="8MB", block_size=4, **how)  # type: ignore[arg-type]
    found = [done.tokens for done in engine.generate_batch(rows, max_new_tokens=NEW)]
    counts = engine.stats().graphs
    if how.get("cuda_graphs", True):
        assert counts is not None and counts.why is None and counts.played > 5
    else:
        assert counts is None
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_tokens(name: str) -> None:
    """Alone, in company, and with what was computed for another row."""
    model, rows = tiny(name), prompts(5)
    plain = written(model, rows, cuda_graphs=False)
    assert written(model, rows) == plain
    assert [written(model, [row])[0] for row in rows[:2]] == plain[:2]
    assert written(model, [rows[0], *rows]) == [plain[0], *plain]


def test_rows_come_and_go() -> None:
    model, rows = tiny("llama"), prompts(9, most=20)
    plain = {
        n: Engine(model, memory="8MB", cuda_graphs=False).generate(row, max_new_tokens=5 + n).tokens
        for n, row in enumerate(rows)
    }
    engine = Engine(model, memory="8MB", block_size=4)
    settings = [{"max_new_tokens": 5 + n} for n in range(len(rows))]
    assert [d.tokens for d in engine.generate_batch(rows, settings)] == list(plain.values())
    counts = engine.stats().graphs
    assert counts is not None and counts.ahead > 0


def test_what_was_played_ahead_in_vain_is_as_if_it_had_not_been() -> None:
    """A row ends by a token that nobody foresaw, and another request takes its blocks."""
    model, rows = tiny("llama"), prompts(4)
    plain = written(model, rows, cuda_graphs=False)
    stop = plain[1][9]
    engine = Engine(model, memory="1MB", block_size=4)
    first = engine.generate_batch(rows, max_new_tokens=NEW, eos_token_id=stop)
    wanted = [row[: row.index(stop) + 1] if stop in row else row for row in plain]
    assert [done.tokens for done in first] == wanted
    counts = engine.stats().graphs
    assert counts is not None and counts.vain > 0
    assert [d.tokens for d in engine.generate_batch(rows, max_new_tokens=NEW)] == plain


def test_rows_that_draw_and_beams_and_rules() -> None:
    model, rows = tiny("llama"), prompts(3)
    for how in (
        {"do_sample": True, "seed": 3, "top_k": 5},
        {"num_beams": 3},
        {"repetition_penalty": 1.3},
        {"num_return_sequences": 2, "do_sample": True, "seed": 1},
        {"logprobs": 3},
    ):
        plain = Engine(model, memory="8MB", cuda_graphs=False).generate_batch(rows, max_new_tokens=12, **how)
        engine = Engine(model, memory="8MB")
        found = engine.generate_batch(rows, max_new_tokens=12, **how)
        assert [[s.tokens for s in d.sequences] for d in found] == [[s.tokens for s in d.sequences] for d in plain], how
        counts = engine.stats().graphs
        assert counts is not None and counts.played > 0


def test_preempted_rows() -> None:
    model, rows = tiny("llama"), prompts(6)
    plain = written(model, rows, cuda_graphs=False)
    bytes_of_a_token = 2 * 2 * 16 * 2 * 4
    engine = Engine(model, memory=bytes_of_a_token * 140, block_size=4, prefix_cache=False)
    assert [d.tokens for d in engine.generate_batch(rows, max_new_tokens=NEW)] == plain
    assert engine.stats().preemptions > 0


def test_hooked_and_trained_models_are_left_alone() -> None:
    model, rows = tiny("llama"), prompts(2)
    seen: list[int] = []
    handle = model.model.layers[0].register_forward_hook(lambda *_: seen.append(1))
    engine = Engine(model, memory="8MB")
    engine.generate_batch(rows, max_new_tokens=4)
    counts = engine.stats().graphs
    assert counts is not None and counts.played == 0 and "hooked into" in str(counts.why) and len(seen) == 4
    handle.remove()


def test_changed_weights_are_seen() -> None:
    model, rows = tiny("llama"), prompts(2)
    engine = Engine(model, memory="8MB")
    engine.generate_batch(rows, max_new_tokens=6)
    with torch.no_grad():
        model.lm_head.weight.neg_()
    assert [d.tokens for d in engine.generate_batch(rows, max_new_tokens=6)] == [
        d.tokens for d in Engine(model, memory="8MB", cuda_graphs=False).generate_batch(rows, max_new_tokens=6)
    ]


# -- nothing is read on the host -------------------------------------------------------------------------------------


class NothingMade(TorchFunctionMode):
    """Fails where a tensor is made of the host's numbers, which has to be copied to the device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert getattr(func, "__name__", "") not in ("tensor", "as_tensor", "from_numpy"), func
        return func(*args, **(kwargs or {}))


class OnDevice(TorchDispatchMode):
    """Fails where numbers go from the host to the device, or back."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        for x in torch.utils._pytree.tree_leaves((args, kwargs)):
            if isinstance(x, torch.Tensor) and x.device.type != "meta" and x.dim():
                raise AssertionError(f"{func} reads a tensor of the host, {list(x.shape)}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_recorded_step_reads_nothing_on_the_host(name: str) -> None:
    """The step is computed on the meta device, where there are no numbers to read."""
    model = tiny(name).to("meta")
    specs = state_specs(model.decoder)
    pools = list(dict.fromkeys(pool_of(spec) for spec in specs.values()))
    state = PagedState(specs, dict.fromkeys(pools, 8), 4, model.dtype, model.device, spare=True)
    steps = recorded.Recorded(model, state, [p for p in pools if p != "memory"], None, Replays())  # type: ignore[arg-type]
    shape = recorded.Shape(4, 64, 64 if "memory" in pools else 0)
    told = recorded.Told(shape, steps._pools, 4, model.device, state.spare)
    with torch.inference_mode():
        steps.compute(told)  # constants are made once, and kept
        with OnDevice(), NothingMade():
            made = steps.compute(told)
    assert made.tokens.shape == (4,) and made.logits.shape == (4, 96)


class Reads(TorchFunctionMode):
    """Counts where tensors are read on the host."""

    NAMES = frozenset({
        "item", "tolist", "__bool__", "__int__", "__float__", "__index__", "numpy", "__array__", "__contains__", "cpu",
        "nonzero", "masked_select",
    })  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = getattr(func, "__name__", "")
        if name in self.NAMES and not (args and args[0].numel() == 0):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_a_step_of_the_engine_reads_its_tokens_and_nothing_else() -> None:
    model, rows = tiny("llama"), prompts(4)
    engine = Engine(model, memory="8MB", block_size=4)
    original, counted = engine.step, []

    def step() -> bool:
        before = engine.stats().graphs
        with Reads() as reads:
            more = original()
        after = engine.stats().graphs
        assert before is not None and after is not None
        if before.played and after.played > before.played:
            counted.append(reads.found)
        return more

    engine.step = step  # type: ignore[method-assign]
    engine.generate_batch(rows, max_new_tokens=NEW)
    assert len(counted) > NEW // 2
    assert all(found == ["tolist"] for found in counted), counted
