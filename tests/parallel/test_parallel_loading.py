"""What each of several processes reads, in which numbers it computes, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from parallel_families import GROUPED, all_of, each

import omniform
from omniform.blocks.attention import heads_of
from omniform.core.errors import InputError
from omniform.core.ranks import Ranks
from omniform.native.library import library
from reference import saved_reference, transformers

WIDE = {**GROUPED, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 8, "head_dim": 32}
IDS = torch.tensor([[5, 9, 17, 30, 4, 22, 41]])
DTYPES = ["bfloat16", *(["int8", "int4"] if library() is not None else [])]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp("loading") / name for name in ("llama", "mixtral")}
    saved_reference(transformers.LlamaForCausalLM, transformers.LlamaConfig(**WIDE), made["llama"], scale=0.05)
    config = transformers.MixtralConfig(**WIDE, num_local_experts=4, num_experts_per_tok=2)
    saved_reference(transformers.MixtralForCausalLM, config, made["mixtral"], scale=0.05)
    return made


def touched(folder: Path) -> int:
    """Bytes of a checkpoint's file whose pages this process has looked at."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = str(folder) in line
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


def likely(model: omniform.Model) -> list[float]:
    """How likely each token of a text is after those before it, by an engine."""
    done = omniform.Engine(model).generate(IDS[0].tolist(), max_new_tokens=1, do_sample=False, prompt_logprobs=0)
    assert done.prompt_logprobs is not None
    return [note.logprob for note in done.prompt_logprobs if note is not None]


def off(found: list[float], exact: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(found, exact, strict=True))


def computed(rank: int, world: int, folders: dict[str, Path]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, folder in folders.items():
        model = omniform.AutoModelForCausalLM.from_pretrained(folder, tp_plan="auto", tp_size=world)
        with torch.inference_mode():
            model(IDS)
        found[name] = touched(folder)
        with pytest.raises(InputError, match="a part of the model"):
            model.save_pretrained(folder.parent / f"saved{rank}")
        del model
    with pytest.raises(InputError, match="not so many processes"):
        omniform.AutoModelForCausalLM.from_pretrained(folders["llama"], tp_plan="auto", tp_size=world + 1)
    for dtype in DTYPES:
        model = omniform.AutoModelForCausalLM.from_pretrained(folders["llama"], tp_plan="auto", dtype=dtype)
        found[dtype] = likely(model)
    return found


def test_each_process_reads_its_part_and_computes_in_any_numbers(folders: dict[str, Path]) -> None:
    alone = {}
    for dtype in ("float32", *DTYPES):
        model = omniform.AutoModelForCausalLM.from_pretrained(folders["llama"], dtype=dtype)
        alone[dtype] = likely(model)
    for found in all_of(computed, 2, folders["llama"].parent / "run", folders):
        for name, folder in folders.items():
            whole = (folder / "model.safetensors").stat().st_size
            assert 0 < found[name] < 0.62 * whole, f"{name}: {found[name]} of {whole} bytes"
        for dtype in DTYPES:
            # What is rounded is rounded part by part: no further from the truth than by one process.
            mine, theirs = off(alone[dtype], alone["float32"]), off(found[dtype], alone["float32"])
            assert theirs < 2 * mine + 0.01, f"{dtype}: off by {theirs}, by one process {mine}"


def of_another(rank: int, world: int, folders: list[Path]) -> None:
    omniform.AutoModelForCausalLM.from_pretrained(folders[rank], pp_plan="auto")


def test_processes_that_load_different_things_say_so(folders: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folders["llama"], other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    for theirs, differs in ((other, "config.json"), (folders["mixtral"], "config.json")):
        for error in each(of_another, 2, tmp_path / "run", [folders["llama"], theirs], timeout=60):
            with pytest.raises(InputError, match=rf"do not load the same: {differs} differs.* in process 1"):
                raise error  # type: ignore[misc]


@pytest.mark.parametrize(("heads", "kv", "count"), [(8, 8, 3), (14, 2, 2), (14, 2, 4), (8, 1, 4), (6, 3, 3), (4, 4, 4)])
def test_heads_lie_with_their_keys(heads: int, kv: int, count: int) -> None:
    parts = [heads_of(Ranks(rank, count), heads, kv) for rank in range(count)]
    assert [head for queries, _ in parts for head in queries] == [*range(heads)]
    assert {key for _, keys in parts for key in keys} == {*range(kv)}
    for queries, keys in parts:
        each = heads // kv
        assert {head // each for head in queries} == {*keys}
        assert len(queries) % len(keys) == 0


@pytest.mark.parametrize(("heads", "kv", "count"), [(4, 2, 3), (4, 2, 8), (8, 4, 6), (2, 2, 4)])
def test_heads_that_cannot_be_divided(heads: int, kv: int, count: int) -> None:
    with pytest.raises(InputError, match=rf"tp_plan: .*{count} processes, {heads} heads.*nproc-per-node={kv}"):
        heads_of(Ranks(0, count), heads, kv)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tp_plan": "auto"}, "torchrun --nproc-per-node=2"), ({"tp_plan": "auto", "device_map": "cpu"}, "device_map"),
        ({"tp_plan": {"layers": "colwise"}}, "expected 'auto'"), ({"tp_size": 2}, "tp_plan='auto'"),
        ({"tp_plan": "auto", "tp_size": 0}, "tp_size"), ({"tp_plan": "auto", "tp_size": True}, "tp_size"),
    ],
)  # fmt: skip
def test_refused(folders: dict[str, Path], given: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        omniform.AutoModelForCausalLM.from_pretrained(folders["llama"], **given)
