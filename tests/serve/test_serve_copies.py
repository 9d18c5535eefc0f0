"""A server of several processes that each have the model: one door, keys and limits; what happens where one dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from serving import Served, serving

from checkpoints import text_checkpoint
from omniform.core.errors import InputError
from omniform.serve.config import ModelSource, ServeConfig
from omniform.serve.copies.crew import Copies, surroundings
from omniform.serve.copies.door import added, together
from omniform.serve.copies.frames import config_of, settings_of


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ServeConfig:
    folder = tmp_path_factory.mktemp("copies")
    keys = folder / "keys"
    keys.write_text("ann:sk-ann-0123456789abcdef admin\nbob:sk-bob-0123456789abcdef tpm=60\n")
    checkpoint = text_checkpoint(folder / "tiny", chat=True)
    told = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**told, "max_position_embeddings": 1024}))
    model = ModelSource(name="tiny", source=str(checkpoint))
    return ServeConfig(models=(model,), memory="16MB", data_parallel=2, keys=(str(keys),))


@pytest.fixture(scope="module")
def served(config: ServeConfig) -> Iterator[Served]:
    with serving(config) as one:
        until = time.monotonic() + 120
        while not all(copy.ready for copy in copies_of(one).all):
            assert time.monotonic() < until
            time.sleep(0.1)
        yield one


ANN, BOB = "sk-ann-0123456789abcdef", "sk-bob-0123456789abcdef"


def copies_of(one: Served) -> Copies:
    return one.desk.shelf._copies  # type: ignore[attr-defined,no-any-return]


def write(client: openai.OpenAI, text: str, tokens: int = 6, system: str = "s") -> str:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    answer = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=tokens, temperature=0, logit_bias={"2": -100}
    )
    return answer.choices[0].message.content or ""


def test_answers_are_those_of_one_process_and_the_same_beginning_has_the_same(served: Served) -> None:
    alone = ServeConfig(models=served.desk.config.models, memory="16MB")
    client = served.client(ANN)
    texts = [f"hello {n} there" for n in range(12)]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda text: write(client, text), texts))
        again = list(pool.map(lambda text: write(client, text), texts))
    with serving(alone) as one:
        assert found == again == [write(one.client(), text) for text in texts]
    told = served.raw().get("/engine", headers={"authorization": f"Bearer {ANN}"}).json()
    assert [one["ready"] for one in told["processes"]] == [True, True]
    engine = told["models"][0]["engine"]
    assert engine["tokens_computed"] > 100 and engine["tokens_cached"] > 0
    text = served.raw().get("/metrics", headers={"authorization": f"Bearer {ANN}"}).text
    asked = {
        name: [line for line in text.splitlines() if line.startswith("omniform_prompt_tokens_total") and name in line]
        for name in ('process="0"', 'process="1"')
    }
    assert all(float(lines[0].split()[-1]) > 0 for lines in asked.values())  # both have had requests
    assert 'omniform_requests_total{door="/v1/chat/completions",process="door",status="200"} 24.0' in text


def test_a_chat_stays_where_it_began(served: Served) -> None:
    client = served.client(ANN)
    for text in ("one", "two", "three"):
        messages = [{"role": "system", "content": "be brief, whatever happens to you here"},
                    {"role": "user", "content": text * 9}]  # fmt: skip
        first = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4)  # type: ignore[arg-type]
        messages += [{"role": "assistant", "content": first.choices[0].message.content or ""},
                     {"role": "user", "content": "and?"}]  # fmt: skip
        second = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4)  # type: ignore[arg-type]
        assert second.usage is not None and second.usage.prompt_tokens_details is not None
        assert second.usage.prompt_tokens_details.cached_tokens


def test_keys_and_limits_are_of_the_door(served: Served) -> None:
    with pytest.raises(openai.AuthenticationError):
        write(served.client("sk-none"), "hello")
    answer = served.client(BOB).chat.completions.with_raw_response.create(
        model="tiny", messages=[{"role": "user", "content": "hello " * 20}], max_tokens=30, logit_bias={"2": -100}
    )
    assert answer.headers["x-ratelimit-limit-tokens"] == "60"
    with pytest.raises(openai.RateLimitError, match="60 tokens a minute"):
        write(served.client(BOB), "hello")
    raw = served.raw()
    head = {"authorization": f"Bearer {ANN}"}
    assert raw.get("/metrics", headers={"authorization": f"Bearer {BOB}"}).status_code == 403
    assert raw.post("/v1/chat/completions", headers=head, content=b"{").status_code == 400
    unknown = {"model": "none", "messages": [{"role": "user", "content": "hello"}]}
    assert raw.post("/v1/chat/completions", headers=head, json=unknown).status_code == 404
    assert raw.get("/nowhere", headers=head).json()["error"]["code"] == "not_found"
    assert [one["id"] for one in raw.get("/v1/models", headers=head).json()["data"]] == ["tiny"]
    assert raw.get("/").status_code == raw.get("/docs").status_code == raw.get("/ready").status_code == 200
    assert raw.post("/v1/models/tiny/reload", headers=head).json()["status"] == "reloaded"
    assert raw.post("/v1/models/none/reload", headers=head).status_code == 404


def test_a_response_is_found_where_it_is_kept(served: Served) -> None:
    client = served.client(ANN)
    for n in range(4):
        first = client.responses.create(model="tiny", input=f"remember {n}", max_output_tokens=4)
        second = client.responses.create(
            model="tiny", input=f"{n} and?", previous_response_id=first.id, max_output_tokens=4
        )
        assert client.responses.retrieve(second.id).id == second.id
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_none")


def test_a_client_that_goes_away_costs_what_it_has_had(served: Served) -> None:
    desk, asked = served.desk, {"model": "tiny", "messages": [{"role": "user", "content": "go " * 5}]}
    with served.raw() as raw, raw.stream(
        "POST", "/v1/chat/completions", headers={"authorization": f"Bearer {ANN}"},
        json={**asked, "stream": True, "max_tokens": 400, "logit_bias": {"2": -100}},
    ) as answer:  # fmt: skip
        next(answer.iter_lines())
    until = time.monotonic() + 20
    while any(copy.running for copy in copies_of(served).all) or desk.gate.running or copies_of(served)._lingering:
        assert time.monotonic() < until
        time.sleep(0.05)
    told = served.raw().get("/engine", headers={"authorization": f"Bearer {ANN}"}).json()
    while told["models"][0]["engine"]["running"]:
        assert time.monotonic() < until
        told = served.raw().get("/engine", headers={"authorization": f"Bearer {ANN}"}).json()


def test_a_process_that_is_killed(served: Served) -> None:
    """What it had begun ends with an event, what it had not begun goes to the other, and it is started again."""
    client, copies = served.client(ANN), copies_of(served)
    victim = copies.all[0]
    streams: dict[str, list[str]] = {}
    begun = threading.Barrier(9)

    def stream(text: str) -> None:
        pieces = streams.setdefault(text, [])
        with served.raw() as raw, raw.stream(
            "POST", "/v1/chat/completions", headers={"authorization": f"Bearer {ANN}"},
            json={"model": "tiny", "messages": [{"role": "user", "content": text}], "stream": True,
                  "max_tokens": 480, "logit_bias": {"2": -100}},
        ) as answer:  # fmt: skip
            for line in answer.iter_lines():
                if not pieces:
                    begun.wait(60)
                pieces.append(line)

    with ThreadPoolExecutor(40) as pool:
        running = [pool.submit(stream, f"stream {n}") for n in range(8)]
        begun.wait(60)
        assert victim.process is not None
        os.kill(victim.process.pid, signal.SIGSTOP)
        whole = [pool.submit(write, client, f"whole {n}", 4) for n in range(16)]
        time.sleep(0.5)
        os.kill(victim.process.pid, signal.SIGKILL)
        assert all(one.result(60) for one in whole)
        for one in running:
            one.result(60)
    ends = [[line for line in pieces if line][-1] for pieces in streams.values()]
    gone = [end for end in ends if '"replica_gone"' in end]
    assert 0 < len(gone) < 8 and set(ends) - set(gone) == {"data: [DONE]"}
    assert json.loads(gone[0].removeprefix("data: "))["error"]["code"] == "replica_gone"
    until = time.monotonic() + 120
    while not (victim.starts == 2 and victim.ready):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert write(client, "again")


def test_the_door_ends_in_order_with_all_behind_it(config: ServeConfig) -> None:
    ends_in_order(config, 2)


def ends_in_order(config: ServeConfig, count: int, *options: str) -> None:
    """See a door of two end once what it had begun is through, and so many processes behind it."""
    (model,) = config.models
    command = [sys.executable, "-m", "omniform", "serve", f"tiny={model.source}", "--port", "0", "--memory", "8MB",
               "--data-parallel", "2", *options]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stderr is not None
        said = ""
        while not (found := re.search(r"at (http://\S+)", said)):
            said += (line := process.stderr.readline())
            assert line, said
        with httpx.Client(base_url=found[1], timeout=120) as raw:
            until = time.monotonic() + 240
            while len([one for one in raw.get("/engine").json()["processes"] if one["ready"]]) < 2:
                assert time.monotonic() < until
                time.sleep(0.2)
            below = descendants(process.pid)
            assert len(below) == count
            asked = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 200, "logit_bias": {"2": -100}}
            lines = []
            with raw.stream("POST", "/v1/chat/completions", json={**asked, "stream": True}) as answer:
                for line in answer.iter_lines():
                    if not lines:
                        process.send_signal(signal.SIGTERM)
                    lines.append(line)
        assert '"finish_reason":"length"' in lines[-4] and lines[-2] == "data: [DONE]"
        assert process.wait(60) == 0
        (told,) = [line for line in map(json.loads, process.stdout) if line["method"] == "POST"]
        assert (told["door"], told["model"], told["generated_tokens"]) == ("/v1/chat/completions", "tiny", 200)
        until = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in below):
            assert time.monotonic() < until
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()


def descendants(pid: int) -> list[int]:
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [one for child in children for one in (child, *descendants(child))]


def test_settings_come_over_whole() -> None:
    model = ModelSource(name="a", source="b", adapters={"x": "y"})
    config = ServeConfig(models=(model,), cors=("https://a",), keys=("k",), allow_urls=("https://b/",), memory="1GB")
    assert config_of(json.loads(json.dumps(settings_of(config)))) == config
    with pytest.raises(InputError, match="data_parallel"):
        ServeConfig(models=(model,), data_parallel=0)


def test_threads_and_gpus_are_divided() -> None:
    cores = os.cpu_count() or 1
    assert surroundings(0, 2, 1, {"CUDA_VISIBLE_DEVICES": ""}) == {"OMP_NUM_THREADS": str(max(1, cores // 2))}
    env = {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    assert [surroundings(n, 2, 2, env)["CUDA_VISIBLE_DEVICES"] for n in range(2)] == ["4,5", "6,7"]
    assert [surroundings(n, 6, 1, env)["CUDA_VISIBLE_DEVICES"] for n in range(6)] == ["4", "5", "6", "7", "4", "5"]


def test_counts_are_added() -> None:
    known = {"name": "m", "loaded": True, "weights_bytes": 7}
    one = {**known, "engine": {"running": 1, "blocks": {"used": 2}, "kind": "x"}}
    two = {**known, "engine": {"running": 3, "blocks": {"used": 4}, "kind": "x"}}
    assert added((one, two, {"name": "m", "loaded": False})) == {
        **one, "engine": {"running": 4, "blocks": {"used": 6}, "kind": "x"}
    }  # fmt: skip
    text = '# HELP a_total A.\n# TYPE a_total counter\na_total{m="x"} %d.0\n'
    merged = together({"door": text % 1, "0": text % 2}).decode()
    assert 'a_total{m="x",process="door"} 1.0' in merged and 'a_total{m="x",process="0"} 2.0' in merged
    assert merged.count("# TYPE a_total counter") == 1
