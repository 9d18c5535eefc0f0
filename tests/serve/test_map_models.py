"""``omniform map`` with models: prompts, chats, pictures, vectors, pipelines and OpenAI's requests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

from checkpoints import picture_checkpoint, text_checkpoint
from omniform.core.errors import InputError
from omniform.engine.engine import Engine
from omniform.hub.auto_inputs import AutoProcessor
from omniform.hub.checkpoint import load_as_saved
from omniform.serve.mapping.answering import answerer_of
from omniform.serve.mapping.crew import Counted, Hand
from omniform.serve.mapping.folder import Folder
from omniform.serve.mapping.job import Job
from omniform.serve.mapping.run import Asked, Outcome, run_map
from omniform.serve.mapping.source import Cut, Source
from omniform.serve.mapping.worker import work_shard


class Here:
    """A worker that is no process."""

    def __init__(self, job: Job, source: Source, folder: Folder) -> None:
        self._answerer, self._job, self._source, self._folder = answerer_of(job), job, source, folder

    def work(self, cut: Cut, *, alone: bool) -> tuple[int, int]:
        return work_shard(self._answerer, self._folder, self._source.path, cut, self._job.task, print, alone=alone)

    def close(self) -> None:
        pass

    kill = close


def hiring(job: Job, source: Source, folder: Folder, workers: int) -> object:
    def hire(number: int, counted: Counted) -> Hand:
        return Here(job, source, folder)

    return hire


def mapped(
    folder: Path, model: Path, records: Sequence[Mapping[str, object]] | Path, *, task: str | None = None,
    settings: Mapping[str, object] | None = None, shard: int = 4, **more: object,
) -> tuple[Outcome, list[dict[str, object]], list[dict[str, object]]]:  # fmt: skip
    """A job's outcome, results and errors."""
    data = records
    if not isinstance(records, Path):
        data = folder / "data.jsonl"
        data.write_text("".join(json.dumps(one) + "\n" for one in records))
    out = folder / f"out-{time.monotonic_ns()}"
    job = Job(model=str(model), task=task or "write", folder="", settings=settings or {}, memory="16MB", **more)
    outcome = run_map(job, str(data), str(out), Asked(shard=shard, merge=True, hiring=hiring), task=task)
    results, faults = (
        [json.loads(line) for line in (out / name).read_text().splitlines()]
        for name in ("results.jsonl", "errors.jsonl")
    )
    return outcome, results, faults


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_checkpoint(tmp_path_factory.mktemp("map") / "text", chat=True)


@pytest.fixture(scope="module")
def seer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return picture_checkpoint(tmp_path_factory.mktemp("map") / "pictures")


def test_prompts_and_chats(tmp_path: Path, writer: Path) -> None:
    records = [
        {"prompt": "one", "id": 7}, {"messages": [{"role": "user", "content": "two"}]},
        {"prompt": "x" * 100}, {"prompt": "one", "settings": {"max_new_tokens": 3}},
        {"prompt": "a", "settings": {"nonsense": 1}}, {"messages": [{"role": "user", "content": "three"}]},
    ]  # fmt: skip
    settings = {"max_new_tokens": 6, "do_sample": False}
    outcome, results, faults = mapped(tmp_path, writer, records, settings=settings)
    assert outcome == Outcome(6, 2)
    engine = Engine(load_as_saved(writer), AutoProcessor.from_pretrained(writer), memory="16MB")
    for line in results:
        record = records[line["index"]]
        asked = {**settings, **record.get("settings", {})}
        answer = engine.generate(record.get("prompt", record.get("messages")), **asked)
        assert line["text"] == answer.text and line["finish_reason"] == answer.sequences[0].finish_reason
        assert line["tokens"] == {"prompt": answer.prompt_tokens, "answer": len(answer.tokens)}
    assert results[0]["id"] == 7 and [line["index"] for line in results] == [0, 1, 3, 5]
    assert [line["index"] for line in faults] == [2, 4]
    assert "positions" in faults[0]["error"]["message"] and "nonsense" in faults[1]["error"]["message"]


def test_draws_depend_on_the_record_alone(tmp_path: Path, writer: Path) -> None:
    records = [{"prompt": "same"}] * 9
    settings = {"max_new_tokens": 12, "do_sample": True, "temperature": 1.5}
    _, results, _ = mapped(tmp_path, writer, records, settings=settings)
    assert len({line["text"] for line in results}) > 5
    assert mapped(tmp_path, writer, records, settings=settings, shard=2)[1] == results
    other = mapped(tmp_path, writer, records, settings=settings, seed=1)[1]
    assert [line["text"] for line in other] != [line["text"] for line in results]


def test_pictures(tmp_path: Path, seer: Path) -> None:
    pictures = tmp_path / "pictures"
    (pictures / "more").mkdir(parents=True)
    for name, color in (("a.png", "red"), ("more/b.png", "blue")):
        Image.new("RGB", (8, 8), color).save(pictures / name)
    (pictures / "notes.txt").touch()
    settings = {"max_new_tokens": 4, "do_sample": False}
    _, results, faults = mapped(tmp_path, seer, pictures, settings=settings, text="what")
    assert not faults and [line["id"] for line in results] == ["a.png", "more/b.png"]
    outside = tmp_path / "outside.png"
    Image.new("RGB", (8, 8)).save(outside)
    (tmp_path / "in").mkdir()
    Image.open(pictures / "a.png").save(tmp_path / "in" / "a.png")
    lines = [{"image": "a.png", "prompt": "what"}, {"image": "../outside.png", "prompt": "what"},
             {"image": "http://127.0.0.1:1/x.png", "prompt": "what"}, {"image": "a.png"}]  # fmt: skip
    _, named, faults = mapped(tmp_path / "in", seer, lines, settings=settings)
    assert [line["text"] for line in named] == [results[0]["text"]]
    assert [line["index"] for line in faults] == [1, 2, 3]
    assert "--text" in faults[2]["error"]["message"]


def test_vectors(tmp_path: Path, writer: Path) -> None:
    from omniform.embeddings.embedder import Embedder

    texts = ["a", "bb", "ccc", "dd dd", ""]
    _, results, faults = mapped(tmp_path, writer, [{"text": one} for one in texts], task="embed", shard=3)
    found = {line["index"]: line["embedding"] for line in results}
    assert len(found) + len(faults) == 5 and set(range(4)) <= found.keys()
    expected = Embedder(str(writer)).encode(texts[:4])
    for index, vector in enumerate(expected.tolist()):
        assert found[index] == pytest.approx(vector, abs=1e-5)
    with pytest.raises(InputError, match="temperature"):
        mapped(tmp_path, writer, [{"text": "a"}], task="embed", settings={"temperature": 1.0})


def test_pipelines(tmp_path: Path, writer: Path) -> None:
    from omniform.pipelines import pipeline

    records = [{"text": "ab"}, {"inputs": "cd", "id": "x"}, {"text": "x" * 100}]
    settings = {"max_new_tokens": 3, "do_sample": False}
    _, results, faults = mapped(tmp_path, writer, records, task="text-generation", settings=settings)
    pipe = pipeline("text-generation", str(writer))
    assert results[0]["answer"] == pipe("ab", **settings) and results[1]["answer"] == pipe("cd", **settings)
    assert [line["index"] for line in faults] == [2]
    found = mapped(tmp_path, writer, [{"text": "ab"}, {"text": "c"}], task="feature-extraction")[1]
    assert len(found[0]["answer"][0]) == 2 and len(found[1]["answer"][0]) == 1


def test_requests_of_openais_batches(tmp_path: Path, writer: Path) -> None:
    def asked(ident: str, **body: object) -> dict[str, object]:
        body = {"model": "gpt", "messages": [{"role": "user", "content": ident}], "max_tokens": 5, **body}
        return {"custom_id": ident, "method": "POST", "url": "/v1/chat/completions", "body": body}

    records = [asked("a"), asked("b", temperature=0), asked("c", n="x"), {**asked("d"), "url": "/v1/nothing"}]
    outcome, results, faults = mapped(tmp_path, writer, records)
    assert outcome == Outcome(4, 2)
    assert [line["custom_id"] for line in results] == ["a", "b"]
    body = results[0]["response"]["body"]
    assert results[0]["response"]["status_code"] == 200 and body["model"] == "gpt"
    assert body["usage"]["completion_tokens"] == 5 and body["choices"][0]["message"]["content"] is not None
    assert [(line["custom_id"], line["error"]["code"]) for line in faults] == [("c", "400"), ("d", "404")]
    assert "n:" in faults[0]["error"]["message"]
    again = mapped(tmp_path, writer, records)[1]
    for line in (*results, *again):
        assert line["response"]["body"].pop("created") > 1e9
    assert again == results


@pytest.mark.slow
def test_killed_and_gone_on_with_is_the_same_bytes(tmp_path: Path, writer: Path) -> None:
    """The command, with a worker killed and then itself, beside a run that nothing happened to."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"{i}"}) + "\n" for i in range(120)))
    settings = ["--max-new-tokens", "40", "--temperature", "1.2", "--shard-size", "2", "--memory", "16MB"]

    def start(out: str, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "omniform", "map", str(writer), str(data), "--out", str(tmp_path / out)]
        return subprocess.Popen([*command, *settings, *more], stderr=subprocess.PIPE, start_new_session=True)

    def parts(more: int) -> None:
        wanted = len(list((tmp_path / "out").glob("part-*"))) + more
        end = time.monotonic() + 300
        while len(list((tmp_path / "out").glob("part-*"))) < wanted:
            assert time.monotonic() < end
            time.sleep(0.005)

    first = start("out")
    parts(1)
    tasks = Path(f"/proc/{first.pid}/task").iterdir()
    (worker,) = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    os.kill(worker, signal.SIGKILL)
    parts(2)
    first.kill()
    first.communicate()
    done = len(list((tmp_path / "out").glob("part-*")))
    assert done < 60, "it was over before it could be killed"
    again = start("out", "--merge")
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    whole = {"do_sample": True, "max_new_tokens": 40, "temperature": 1.2}
    job = Job(model=str(writer), task="write", folder="", settings=whole, memory="16MB")
    run_map(job, str(data), str(tmp_path / "calm"), Asked(shard=7, merge=True, hiring=hiring), task=None)
    found = (tmp_path / "out" / "results.jsonl").read_bytes()
    assert found == (tmp_path / "calm" / "results.jsonl").read_bytes() and found.count(b"\n") == 120
