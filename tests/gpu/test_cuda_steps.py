"""The engine on a GPU: the CPU's numbers, the reference's tokens, and the same in whatever way steps are computed.

All of it is skipped where torch sees no GPU; ``tests/engine/test_recorded.py`` looks at the same steps on a CPU.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

import omniform
from omniform.architectures.model import Model
from omniform.engine.engine import Engine
from recorded import FAMILIES, prompts, tiny
from reference import close, transformers

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
NEW = 40
NAMES = [name for name in FAMILIES if name != "t5"]
TOLERANCES = {"mamba": 5e-4}


@pytest.fixture(autouse=True)
def _exact() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def written(model: Model, rows: list[list[int]], *, recorded: bool = True, **how: object) -> list[list[int]]:
    engine = Engine(model, memory="256MB", cuda_graphs=recorded)
    found = [done.tokens for done in engine.generate_batch(rows, max_new_tokens=NEW, eos_token_id=None, **how)]
    counts = engine.stats().graphs
    assert (counts is not None) == recorded
    if counts is not None:
        assert counts.why is None and counts.played > 0, counts
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_numbers_are_the_cpus(name: str) -> None:
    rows = torch.tensor(prompts(2, least=40, most=41))
    more = {"decoder_input_ids": rows[:, :20]} if name == "t5" else {}
    on_cpu = tiny(name)(rows, **more).logits
    there = tiny(name, device="cuda")(rows.cuda(), **{key: x.cuda() for key, x in more.items()}).logits
    close(there.cpu(), on_cpu, name, TOLERANCES.get(name, 1e-4))


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_in_float32(name: str) -> None:
    """Recorded and not, alone, in a batch of 24, with what another row has left, and as the CPU writes them."""
    rows = prompts(24, most=160)
    model = tiny(name, device="cuda")
    plain = written(model, rows, recorded=False)
    assert written(model, rows) == plain
    assert [written(model, [row])[0] for row in rows[:3]] == plain[:3]
    assert written(model, [rows[0], *rows]) == [plain[0], *plain]
    on_cpu = Engine(tiny(name), memory="64MB").generate_batch(rows[:2], max_new_tokens=NEW, eos_token_id=None)
    assert [d.tokens for d in on_cpu] == plain[:2]
    engine = Engine(model, memory="256MB")
    engine.generate_batch(rows[:2], max_new_tokens=NEW, eos_token_id=None)
    again = engine.generate_batch(rows[:2], max_new_tokens=NEW, eos_token_id=None)
    assert [d.tokens for d in again] == plain[:2]
    assert name in ("mamba", "t5") or sum(d.cached_tokens for d in again) > 0  # T5 answers from one token on


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_tokens_in_half(name: str, dtype: torch.dtype) -> None:
    """Recorded steps of as many rows as a record has are the very steps; others choose what is as likely."""
    if dtype is torch.float16 and name != "llama":
        pytest.skip("one family for this dtype")
    rows = prompts(24, most=160)
    model = tiny(name, dtype, "cuda")
    plain = written(model, rows, recorded=False)
    assert written(model, rows) == plain
    # The first one's keys were made at other lengths than the whole row has. The others' routers tie in bfloat16, so
    # that the last bit decides between experts: noise of 0.003 on their scores puts tokens off by 0.9.
    if name in ("llama dynamic", "mixtral", "deepseek_v3"):
        return
    for row, tokens in zip(rows[:3], written(model, rows[:3]), strict=True):
        scores = model(torch.tensor([row + tokens], device="cuda")).logits[0, len(row) - 1 : -1].float()
        chosen = scores.gather(1, torch.tensor(tokens, device="cuda")[:, None])[:, 0]
        assert float((scores.amax(-1) - chosen).max()) < 0.05 * float(scores.std()) + 0.15


@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral", "gemma2", "gpt2", "mixtral"])
def test_the_references_tokens(name: str, tmp_path: Path) -> None:
    model = tiny(name)
    model.save_pretrained(tmp_path)
    rows = prompts(6, most=160)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").cuda().eval()
    ours = omniform.AutoModelForCausalLM.from_pretrained(tmp_path, device_map="cuda")
    assert ours.device.type == "cuda"
    engine = Engine(ours, memory="256MB")
    found = [d.tokens for d in engine.generate_batch(rows, max_new_tokens=NEW, min_new_tokens=NEW)]
    assert engine.stats().graphs.played > 0  # type: ignore[union-attr]
    for row, tokens in zip(rows, found, strict=True):
        ids = torch.tensor([row], device="cuda")
        wanted = theirs.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)[0, len(row) :].tolist()
        assert tokens == wanted
        close(ours(ids).logits.cpu(), theirs(ids).logits.cpu(), name)


def test_draws_are_the_same_recorded_or_not() -> None:
    rows, model = prompts(24), tiny("llama", device="cuda")
    how = {"do_sample": True, "seed": 5, "top_p": 0.9, "top_k": 20}
    assert written(model, rows, recorded=False, **how) == written(model, rows, **how)
    how = {"num_beams": 3}
    assert written(model, rows[:4], recorded=False, **how) == written(model, rows[:4], **how)


@pytest.mark.parametrize("how", [{}, {"do_sample": True, "seed": 3, "top_p": 0.9}], ids=["greedy", "drawn"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral"])
def test_nothing_waits_for_the_gpu(name: str, how: dict[str, object]) -> None:
    """torch warns where an operation waits. Drawn tokens are waited for by one ``tolist`` in a step, likeliest ones by
    an event alone. Beside that a batch waits twice when it comes: to see whether weights changed, and for first tokens.
    """
    model = tiny(name, torch.bfloat16, "cuda")
    engine = Engine(model, memory="256MB")
    rows = prompts(24)
    engine.generate_batch(rows, max_new_tokens=NEW, eos_token_id=None, **how)
    step = engine.step

    def watched() -> bool:
        torch.cuda.set_sync_debug_mode("warn")
        try:
            return step()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    engine.step = watched  # type: ignore[method-assign]
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        before = engine.stats().steps
        done = engine.generate_batch([[*row, 7] for row in rows], max_new_tokens=NEW, eos_token_id=None, **how)
        steps = engine.stats().steps - before
    waits = [str(w.message) for w in heard if "called a synchronizing" in str(w.message)]
    assert all(len(d.tokens) == NEW for d in done) and steps == NEW
    assert len(waits) <= (steps + 1 if how else 2), (len(waits), steps)


def test_half_and_to() -> None:
    model = tiny("llama").to("cuda").half()
    engine = Engine(model, memory="64MB")
    before = engine.generate([5, 6, 7], max_new_tokens=8).tokens
    assert len(before) <= 8 and model.dtype is torch.float16
    model.to("cpu").float()
    assert len(engine.generate([5, 6, 7], max_new_tokens=8).tokens) <= 8
    out = tiny("llama", device="cuda").generate(torch.tensor([[5, 6, 7]], device="cuda"), max_new_tokens=8)
    assert out.device.type == "cuda"


def test_memory_by_what_is_free() -> None:
    engine = Engine(tiny("llama", device="cuda"), memory="auto")
    memory = engine.stats().memory
    free = torch.cuda.mem_get_info()[0]
    assert 0 < memory.taken <= memory.budget and abs(memory.free - free) < 0.1 * free


def test_a_hooked_layer_is_called_in_every_step() -> None:
    model = tiny("llama", device="cuda")
    seen: list[int] = []
    model.model.layers[0].register_forward_hook(lambda *_: seen.append(1))  # type: ignore[union-attr]
    engine = Engine(model, memory="64MB")
    engine.generate([5, 6, 7], max_new_tokens=6, eos_token_id=None)
    assert len(seen) == 6 and "hooked into" in str(engine.stats().graphs)
