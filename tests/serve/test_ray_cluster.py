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

from checkpoints import text_checkpoint
from omniform.serve.config import ModelSource, ServeConfig
from omniform.serve.mapping.job import Job
from omniform.serve.mapping.run import Asked, Outcome, run_map
from ray_cluster import add_a_node, clustered, free_port, kill_a_node

ray = pytest.importorskip("ray")
pytest.importorskip("ray.serve")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_checkpoint(tmp_path_factory.mktemp("ray") / "text", chat=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    with clustered(2, cores=2) as one:
        yield one


def test_replicas(cluster: object, model: Path) -> None:
    """Answers, streams and refusals come through; conversations stay where they were; a node that is killed costs no
    answer of which nothing was sent, and the streams that it had begun end with an error."""
    from ray import serve

    from omniform.serve.ray import application

    while len(cluster.worker_nodes) < 2:
        add_a_node(cluster, 2)
    config = ServeConfig(models=(ModelSource(name="tiny", source=str(model)),), memory="16MB")
    port = free_port()
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    try:
        serve.run(application(config, replicas=2, keys="anna:secret-of-anna"), route_prefix="/")
        url = f"http://127.0.0.1:{port}"
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="secret-of-anna", max_retries=0, timeout=120)
        _answers(client, url)
        homes = _stay_where_they_were(client)
        _survive(cluster, client, homes)
        end = time.monotonic() + 120  # it is made up for by another
        while serve.status().applications["default"].status != "RUNNING":
            assert time.monotonic() < end
            time.sleep(0.5)
    finally:
        serve.shutdown()


def said(client: openai.OpenAI, text: str, **more: object) -> object:
    chat = [{"role": "user", "content": text}]
    asked = {"max_tokens": 8, "temperature": 0, "logit_bias": {"2": -100}, **more}
    return client.chat.completions.create(model="tiny", messages=chat, **asked)


def _answers(client: openai.OpenAI, url: str) -> None:
    whole = said(client, "hello").choices[0].message.content
    pieces = list(said(client, "hello", stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == whole
    assert pieces[-1].usage.prompt_tokens_details.cached_tokens > 0
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="none", messages=[{"role": "user", "content": "a"}])
    with pytest.raises(openai.AuthenticationError):
        said(client.with_options(api_key="another"), "hello")
    headers = {"Authorization": f"Bearer {client.api_key}"}
    broken = httpx.post(f"{url}/v1/chat/completions", content=b"{", headers=headers, timeout=60)
    assert broken.json()["error"]["code"] == "invalid_json"
    # What one replica keeps is found whichever is asked first.
    for n in range(3):
        first = client.responses.create(model="tiny", input=f"one {n}", max_output_tokens=4)
        told = {"model": "tiny", "input": f"two {n}", "max_output_tokens": 4, "previous_response_id": first.id}
        assert client.responses.create(**told).status
        assert client.responses.retrieve(first.id).output_text == first.output_text
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_none")


def _stay_where_they_were(client: openai.OpenAI) -> dict[str, str]:
    """The same beginning, the same replica: what was computed for it is there."""
    homes: dict[str, str] = {}
    raw = client.with_options()
    for turn in range(2):
        for n in range(8):
            chat = [{"role": "user", "content": f"{n} is the number of this conversation"}]
            answer = raw.chat.completions.with_raw_response.create(
                model="tiny", messages=chat, max_tokens=2, temperature=0
            )
            name, usage = answer.headers["x-omniform-replica"], answer.parse().usage
            cached = usage.prompt_tokens_details.cached_tokens
            assert homes.setdefault(chat[0]["content"], name) == name
            assert turn == 0 or usage.prompt_tokens - cached <= 16, (usage.prompt_tokens, cached)  # all whole blocks
    assert len({*homes.values()}) == 2
    return homes


def _survive(cluster: object, client: openai.OpenAI, homes: dict[str, str]) -> None:
    """A node is killed while both replicas stream and answer."""
    of: dict[str, list[str]] = {}
    for text, name in homes.items():
        of.setdefault(name, []).append(text)
    texts = [text for held in of.values() for text in held[:2]]
    long = {"max_tokens": 120}
    right = {text: said(client, text, **long).choices[0].message.content for text in texts}
    over, begun = threading.Event(), {text: threading.Event() for text in texts}
    wrong: list[object] = []
    broken: list[str] = []
    whole: list[str] = []

    def stream(text: str) -> None:
        while not over.is_set():
            got = ""
            try:
                for piece in said(client, text, stream=True, **long):
                    got += piece.choices[0].delta.content or ""
                    begun[text].set()
                whole.append(text)
                if got != right[text]:
                    wrong.append((text, got))
            except openai.APIError as error:
                broken.append(text)
                if error.code != "replica_gone" or not right[text].startswith(got):
                    wrong.append((text, got, error))
            except Exception as error:
                wrong.append((text, got, error))

    def ask(text: str) -> None:
        while not over.is_set():
            try:
                if said(client, text, **long).choices[0].message.content != right[text]:
                    wrong.append(text)
                whole.append(text)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=what, args=(text,)) for text in texts for what in (stream, ask)]
    for thread in threads:
        thread.start()
    assert all(event.wait(60) for event in begun.values())
    kill_a_node(cluster)
    before = len(whole)
    end = time.monotonic() + 60
    while len(whole) < before + 12 and time.monotonic() < end:
        time.sleep(0.1)
    over.set()
    for thread in threads:
        thread.join(200)
    assert wrong == [] and len(whole) >= before + 12
    assert 1 <= len(broken) <= 2, broken  # those of the one that was killed, each once


def test_a_node_killed_under_a_dataset(cluster: object, model: Path, tmp_path: Path) -> None:
    from omniform.serve.mapping.actors import actors

    while len(cluster.worker_nodes) < 2:
        add_a_node(cluster, 2)
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
    kill_a_node(cluster)
    before = len(list((tmp_path / "out").glob("part-*")))
    thread.join(200)
    assert done == [Outcome(160, 0)] and 4 <= before < 80
    results = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["index"] for line in results] == list(range(160))
    assert run_map(job, str(data), str(tmp_path / "alone"), Asked(shard=9, merge=True), task=None) == Outcome(160, 0)
    assert (tmp_path / "alone" / "results.jsonl").read_text() == (tmp_path / "out" / "results.jsonl").read_text()
