"""The server and ``omniform map`` on a Ray cluster of which nodes die."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from ray_cluster import clustered

from checkpoints import text_checkpoint
from omniform.serve.config import ModelSource, ServeConfig
from omniform.serve.mapping.job import Job
from omniform.serve.mapping.run import Asked, Outcome, run_map

ray = pytest.importorskip("ray")
pytest.importorskip("ray.serve")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_checkpoint(tmp_path_factory.mktemp("ray") / "text", chat=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    with clustered(2) as one:
        yield one


def test_a_node_killed_under_a_dataset(cluster: object, model: Path, tmp_path: Path) -> None:
    from omniform.serve.mapping.actors import actors

    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"{n}"}) + "\n" for n in range(160)))
    job = Job(
        model=str(model), task="write", folder="", settings={"max_new_tokens": 40, "do_sample": True}, memory="16MB"
    )
    done: list[Outcome] = []

    def work() -> None:
        asked = Asked(shard=2, workers=2, merge=True, hiring=actors(cluster.address))
        done.append(run_map(job, str(data), str(tmp_path / "out"), asked, task=None))

    thread = threading.Thread(target=work)
    thread.start()
    end = time.monotonic() + 200
    while len(list((tmp_path / "out").glob("part-*"))) < 4 and time.monotonic() < end:
        time.sleep(0.02)
    node = cluster.worker_nodes.copy().pop()
    cluster.remove_node(node, allow_graceful=False)
    before = len(list((tmp_path / "out").glob("part-*")))
    cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    thread.join(200)
    assert done == [Outcome(160, 0)] and 4 <= before < 80
    results = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["index"] for line in results] == list(range(160))
    assert run_map(job, str(data), str(tmp_path / "alone"), Asked(shard=9, merge=True), task=None) == Outcome(160, 0)
    assert (tmp_path / "alone" / "results.jsonl").read_text() == (tmp_path / "out" / "results.jsonl").read_text()


def test_replicas(cluster: object, model: Path) -> None:
    """Answers, streams and refusals come through; conversations stay where they were; a node that dies costs none."""
    from ray import serve

    from omniform.serve.ray import application

    config = ServeConfig(models=(ModelSource(name="tiny", source=str(model)),), memory="16MB")
    serve.start(http_options={"host": "127.0.0.1", "port": 18642})
    try:
        serve.run(application(config, replicas=2), route_prefix="/")
        url = "http://127.0.0.1:18642"
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)

        def say(text: str, **more: object) -> object:
            chat = [{"role": "user", "content": text}]
            return client.chat.completions.create(model="tiny", messages=chat, max_tokens=8, temperature=0, **more)

        whole = say("hello").choices[0].message.content
        streamed = say("hello", stream=True, stream_options={"include_usage": True})
        pieces = list(streamed)
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == whole
        assert pieces[-1].usage.prompt_tokens_details.cached_tokens > 0
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="none", messages=[{"role": "user", "content": "a"}])
        assert (
            httpx.post(f"{url}/v1/chat/completions", content=b"{", timeout=60).json()["error"]["code"] == "invalid_json"
        )
        # The same beginning, the same replica: what was computed for it is there.
        texts = [f"conversation {n}" for n in range(6)]
        for text in texts:
            say(text)
        assert all(say(text).usage.prompt_tokens_details.cached_tokens > 8 for text in texts)
        failures: list[Exception] = []
        answers: list[str] = []

        def ask() -> None:
            for n in range(12):
                try:
                    answers.append(say(f"q{n}").choices[0].message.content)
                except Exception as error:
                    failures.append(error)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        node = cluster.worker_nodes.copy().pop()
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
        for thread in threads:
            thread.join(200)
        assert failures == [] and len(answers) == 36
        end = time.monotonic() + 120  # it is made up for by another
        while serve.status().applications["default"].status != "RUNNING":
            assert time.monotonic() < end
            time.sleep(0.5)
    finally:
        serve.shutdown()
