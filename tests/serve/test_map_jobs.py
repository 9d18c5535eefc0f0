"""Jobs over datasets: every record once, in order, whatever dies or is wrong; without a model."""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from omniform.core.errors import InputError, RepoError, WorkerError
from omniform.serve.mapping.crew import processes
from omniform.serve.mapping.folder import Folder
from omniform.serve.mapping.job import WRITE, Job
from omniform.serve.mapping.run import Asked, Outcome, run_map

COMMAND = (sys.executable, str(Path(__file__).with_name("mapped_worker.py")))


def dataset(folder: Path, prompts: Sequence[str], name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in prompts))
    return path


def mapped(
    data: Path, out: Path, *, model: str = "echo", settings: dict[str, object] | None = None, **asked: object
) -> Outcome:
    job = Job(model=model, task=WRITE, folder="", settings=settings or {})
    task = None
    hiring = functools.partial(processes, command=COMMAND)
    return run_map(job, str(data), str(out), Asked(**{"shard": 4, "hiring": hiring, **asked}), task=task)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def expected(index: int, word: str) -> dict[str, object]:
    return {"index": index, "text": f"{word} {Job(model='', task='', folder='').seed_of(index)}"}


def test_parts_in_order(tmp_path: Path) -> None:
    data = dataset(tmp_path, [f"w{i} x" for i in range(10)])
    assert mapped(data, tmp_path / "out", workers=2, merge=True) == Outcome(10, 0)
    assert lines(tmp_path / "out" / "results.jsonl") == [expected(i, f"w{i}") for i in range(10)]
    assert [len(lines(tmp_path / "out" / f"part-0000{n}.jsonl")) for n in range(3)] == [4, 4, 2]
    assert lines(tmp_path / "out" / "errors.jsonl") == []
    # One worker and other shards: the same answers.
    mapped(data, tmp_path / "other", shard=3, merge=True)
    assert (tmp_path / "other" / "results.jsonl").read_bytes() == (tmp_path / "out" / "results.jsonl").read_bytes()


def test_a_worker_that_dies_once_costs_nothing(tmp_path: Path) -> None:
    prompts = [f"w{i}" for i in range(8)]
    prompts[5] = f"once {tmp_path / 'died'}"
    assert mapped(dataset(tmp_path, prompts), tmp_path / "out", merge=True) == Outcome(8, 0)
    assert (tmp_path / "died").exists()
    words = [one.split()[0] for one in prompts]
    assert lines(tmp_path / "out" / "results.jsonl") == [expected(i, word) for i, word in enumerate(words)]


def test_a_record_that_kills_is_given_up(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = dataset(tmp_path, ["w0", "kill", "w2", "refuse", "w4", "w5"])
    assert mapped(data, tmp_path / "out", workers=2, retries=1, merge=True) == Outcome(6, 2)
    assert [line["index"] for line in lines(tmp_path / "out" / "results.jsonl")] == [0, 2, 4, 5]
    killed, refused = lines(tmp_path / "out" / "errors.jsonl")
    assert killed["index"] == 1 and killed["line"] == 2 and killed["error"]["type"] == "worker_died"
    assert "signal 9" in killed["error"]["message"]
    assert refused["index"] == 3 and refused["error"] == {"type": "InputError", "message": "prompt: not this"}
    assert "record 1" in capfd.readouterr().err
    # It is not begun again.
    part = tmp_path / "out" / "part-00000.jsonl"
    before = part.stat().st_mtime_ns
    assert mapped(data, tmp_path / "out") == Outcome(6, 2)
    assert part.stat().st_mtime_ns == before


def test_models_that_cannot_be_loaded(tmp_path: Path) -> None:
    data = dataset(tmp_path, ["w"])
    with pytest.raises(WorkerError, match="no such model"):
        mapped(data, tmp_path / "out", model="missing")
    with pytest.raises(WorkerError, match=r"before they are ready.*signal 9"):
        mapped(data, tmp_path / "other", model="dies", retries=1)


def test_bad_lines(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_bytes(b'{"prompt": "a"}\n\n{"prompt": \n[1]\n{"text": 3}\n{"prompt": "\xff"}\n{"prompt": "b"}')
    for number, what in ((3, "no JSON"),):
        with pytest.raises(InputError, match=rf"line {number}.*{what}"):
            mapped(data, tmp_path / "out")
    assert mapped(data, tmp_path / "out2", lenient=True, merge=True) == Outcome(6, 4)
    assert lines(tmp_path / "out2" / "results.jsonl") == [expected(0, "a"), expected(5, "b")]
    faults = lines(tmp_path / "out2" / "errors.jsonl")
    assert [(one["index"], one["line"], one["error"]["type"]) for one in faults] == [
        (1, 3, "malformed"), (2, 4, "malformed"), (3, 5, "malformed"), (4, 6, "malformed"),
    ]  # fmt: skip
    told = " ".join(one["error"]["message"] for one in faults)
    assert all(what in told for what in ("no JSON", "a list", "neither prompt", "no UTF-8"))


@pytest.mark.parametrize(("raw", "what"), [
    (b"", "empty"), (b"\n \n", "empty"),
    (b'{"custom_id": "a", "url": "/v1/x", "body": {}}\n' * 2, "one custom_id.*a"),
    (b'{"custom_id": "a", "url": "/v1/x", "body": {}}\n{"prompt": "x"}\n', "line 2.*custom_id"),
    (b"[" * 100000, "line 1.*nested|no JSON"),
])  # fmt: skip
def test_datasets_that_are_none(tmp_path: Path, raw: bytes, what: str) -> None:
    data = tmp_path / "data.jsonl"
    data.write_bytes(raw)
    with pytest.raises(InputError) as told:
        mapped(data, tmp_path / "out")
    assert re.search(what, str(told.value))


def test_names_of_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a")
    (tmp_path / "x.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(RepoError, match="no such dataset"):
        mapped(tmp_path / "none.jsonl", tmp_path / "out")
    with pytest.raises(InputError, match="no kind of dataset"):
        mapped(tmp_path / "x.txt", tmp_path / "out")
    with pytest.raises(InputError, match="not what its name says"):
        mapped(tmp_path / "x.jsonl.gz", tmp_path / "out")


def test_other_kinds_of_files(tmp_path: Path) -> None:
    prompts = ["a", 'b, "c"', "d"]
    with gzip.open(tmp_path / "x.jsonl.gz", "wt") as packed:
        packed.write("".join(json.dumps({"prompt": one}) + "\n" for one in prompts))
    with (tmp_path / "x.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt"], *([one] for one in prompts)])
    kinds = ["x.jsonl.gz", "x.csv"]
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(pyarrow.table({"prompt": prompts}), tmp_path / "x.parquet")
    kinds.append("x.parquet")
    for kind in kinds:
        mapped(tmp_path / kind, tmp_path / f"out-{kind}", merge=True)
        found = lines(tmp_path / f"out-{kind}" / "results.jsonl")
        assert found == [expected(0, "a"), expected(1, "b,"), expected(2, "d")], kind


def test_what_the_results_depend_on(tmp_path: Path) -> None:
    data = dataset(tmp_path, ["a", "b"])
    out = tmp_path / "out"
    mapped(data, out, settings={"temperature": 0.5})
    with pytest.raises(InputError, match=r"temperature.*0\.5.*0\.7"):
        mapped(data, out, settings={"temperature": 0.7})
    was = json.loads((out / "manifest.json").read_text())["input"]["sha256"]
    dataset(tmp_path, ["a", "c"])
    with pytest.raises(InputError) as told:
        mapped(data, out, settings={"temperature": 0.5})
    assert was in str(told.value) and hashlib.sha256(data.read_bytes()).hexdigest() in str(told.value)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(InputError, match="other files"):
        mapped(data, tmp_path / "mine")


def test_two_at_one_folder(tmp_path: Path) -> None:
    data = dataset(tmp_path, ["a"])
    with Folder(tmp_path / "out").held(), pytest.raises(InputError, match="another process"):
        mapped(data, tmp_path / "out")


def test_a_full_disk(tmp_path: Path) -> None:
    """Nothing half written is left, and a run with more room goes on."""
    data = dataset(tmp_path, [f"{'w' * 400}{i}" for i in range(12)])
    out = tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
        with pytest.raises((WorkerError, RepoError), match=r"cannot be written.*[Ff]ile too large"):
            mapped(data, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert not list(out.glob("part-*")) and not list(out.glob(".part*"))
    assert mapped(data, out) == Outcome(12, 0)


SCRIPT = """
import functools, sys
from omniform.serve.mapping.crew import processes
from omniform.serve.mapping.job import WRITE, Job
from omniform.serve.mapping.run import Asked, run_map
data, out, worker = sys.argv[1:]
hiring = functools.partial(processes, command=(sys.executable, worker))
try:
    run_map(Job(model="echo", task=WRITE, folder=""), data, out, Asked(shard=2, workers=2, hiring=hiring), task=None)
except KeyboardInterrupt:
    sys.exit(130)
"""


def started(data: Path, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(data), str(out), COMMAND[1]], start_new_session=True, stderr=subprocess.PIPE
    )


def until(condition: object, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return [int(one) for task in Path(f"/proc/{pid}/task").iterdir() for one in (task / "children").read_text().split()]


def test_kill_of_the_whole_and_of_a_worker(tmp_path: Path) -> None:
    data = dataset(tmp_path, [f"sleep {0.1 + i / 1e6}" for i in range(24)])
    out = tmp_path / "out"
    first = started(data, out)
    until(lambda: len(list(out.glob("part-*"))) >= 2)
    workers = children(first.pid)
    assert len(workers) == 2
    first.kill()
    first.communicate()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))  # they do not outlive it
    done = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert 2 <= len(done) < 12
    again = started(data, out)
    until(lambda: len(list(out.glob("part-*"))) > len(done))
    os.kill(children(again.pid)[0], signal.SIGKILL)
    _, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert b"begun again" in err and f"{2 * len(done)} of 24 records are done".encode() in err
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    found = [line for path in sorted(out.glob("part-*")) for line in lines(path)]
    assert found == [expected(i, "sleep") for i in range(24)]


def test_the_first_stop_lets_shards_end(tmp_path: Path) -> None:
    data = dataset(tmp_path, ["sleep 0.15"] * 24)
    out = tmp_path / "out"
    process = started(data, out)
    until(lambda: len(list(out.glob("part-*"))) >= 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    done = list(out.glob("part-*"))
    assert 1 <= len(done) < 12 and all(len(lines(path)) == 2 for path in done)
    assert b"Ctrl-C again" in err and b"Traceback" not in err
