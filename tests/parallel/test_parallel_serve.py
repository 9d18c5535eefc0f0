"""A server whose model lies in two processes of the machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import omniform
from checkpoints import text_checkpoint
from omniform.core.errors import InputError
from omniform.serve.config import ModelSource, ServeConfig
from omniform.serve.together import FAILED

ASKED = {"messages": [{"role": "user", "content": "hello there"}], "max_tokens": 12, "temperature": 0}


@contextmanager
def server(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "omniform", "serve", f"tiny={folder}", "--port", "0", *options]
    process = subprocess.Popen(
        [*command, "--memory", "8MB"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stderr is not None
        said = ""
        while not (found := re.search(r"at (http://\S+)", said)):
            line = process.stderr.readline()
            assert line, said
            said += line
        url = found[1]
        until = time.monotonic() + 200
        while httpx.get(f"{url}/ready", timeout=60).status_code != 200:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.2)
        yield process, url
    finally:
        process.kill()
        process.wait()


def followers(process: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()] or [
        int(pid)
        for task in Path(f"/proc/{process.pid}/task").iterdir()
        for pid in (task / "children").read_text().split()
    ]


@pytest.mark.parametrize("plan", ["--tensor-parallel", "--pipeline-parallel"])
def test_answers_and_ends(tmp_path: Path, plan: str) -> None:
    folder = text_checkpoint(tmp_path / "tiny", chat=True)
    reader = omniform.AutoTokenizer.from_pretrained(folder)
    engine = omniform.Engine(omniform.AutoModelForCausalLM.from_pretrained(folder), reader)
    alone = engine.generate(ASKED["messages"], max_new_tokens=12, do_sample=False)
    with server(folder, plan, "2") as (process, url):
        for _ in range(3):
            answer = httpx.post(f"{url}/v1/chat/completions", json=ASKED, timeout=60)
            assert answer.status_code == 200, answer.text
            assert answer.json()["choices"][0]["message"]["content"] == reader.decode(
                alone.tokens, skip_special_tokens=True
            )
        (other,) = followers(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
        assert not Path(f"/proc/{other}").exists()


def test_a_process_that_dies_is_told_of(tmp_path: Path) -> None:
    folder = text_checkpoint(tmp_path / "tiny", chat=True)
    with server(folder, "--pipeline-parallel", "2") as (process, url), ThreadPoolExecutor() as pool:
        (other,) = followers(process)
        os.kill(other, signal.SIGSTOP)
        waiting = [pool.submit(httpx.post, f"{url}/v1/chat/completions", json=ASKED, timeout=60) for _ in range(3)]
        time.sleep(1.0)
        assert not any(one.done() for one in waiting)
        os.kill(other, signal.SIGKILL)
        for one in waiting:
            answer = one.result(20)
            assert answer.status_code == 503, answer.text
            assert answer.json()["error"]["code"] == "model_lost"
        assert process.wait(20) == FAILED
        assert process.stderr is not None
        assert "process 1 of 2, which holds a part of the model, was killed by signal 9" in process.stderr.read()


@pytest.mark.parametrize(
    "given",
    [
        {"tensor_parallel": 0}, {"pipeline_parallel": 0}, {"pipeline_parallel": 2, "idle_seconds": 5.0},
        {"tensor_parallel": "2"}, {"tensor_parallel": 2, "idle_seconds": 5.0},
        {"tensor_parallel": 2, "models": (ModelSource(name="a", source="a"), ModelSource(name="b", source="b"))},
        {"tensor_parallel": 2, "models": (ModelSource(name="a", source="a", adapters={"x": "y"}),)},
    ],
)  # fmt: skip
def test_refused(given: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"(tensor|pipeline)_parallel"):
        ServeConfig(**{"models": (ModelSource(name="a", source="a"),), **given})  # type: ignore[arg-type]
