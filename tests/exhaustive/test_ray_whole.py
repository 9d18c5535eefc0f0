"""What takes minutes on a Ray cluster: the command, replicas that come and go by load, a model over nodes, the page."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from checkpoints import text_checkpoint
from omniform.serve.config import ModelSource, ServeConfig
from ray_cluster import clustered, free_port

ray = pytest.importorskip("ray")
pytest.importorskip("ray.serve")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_checkpoint(tmp_path_factory.mktemp("ray") / "text", chat=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    with clustered(2) as one:
        yield one


@contextlib.contextmanager
def served(app: object, port: int, **more: str) -> Iterator[openai.OpenAI]:
    from ray import serve

    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    try:
        serve.run(app, route_prefix="/")
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=120)
    finally:
        serve.shutdown()


def said(client: openai.OpenAI, text: str, **more: object) -> object:
    chat = [{"role": "user", "content": text}]
    asked = {"max_tokens": 100, "temperature": 0, "logit_bias": {"2": -100}, **more}
    return client.chat.completions.create(model="tiny", messages=chat, **asked)


def until(what: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.5)
    return what()


def test_a_model_over_nodes(cluster: object, model: Path) -> None:
    """Nodes have one core each, so that a replica of two processes lies on both; it writes what one process writes."""
    from ray.util import placement_group_table

    from omniform.serve.ray import application

    texts = [f"{n} is a number" for n in range(4)]
    alone = ServeConfig(models=(ModelSource(name="tiny", source=str(model)),), memory="16MB", dtype="float32")
    with served(application(alone), free_port()) as client:
        right = [said(client, text).choices[0].message.content for text in texts]
    both = ServeConfig(
        models=(ModelSource(name="tiny", source=str(model)),), memory="16MB", dtype="float32", tensor_parallel=2
    )
    with served(application(both), free_port()) as client:
        assert [said(client, text).choices[0].message.content for text in texts] == right
        groups = [one for one in placement_group_table().values() if one["state"] == "CREATED"]
        assert [len({*one["bundles_to_node_id"].values()}) for one in groups] == [2]
        # The death of a part is that of the replica; another is made, and who asks waits for it.
        victims = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _name_of(int(pid)) == "ray::Follower"]
        assert len(victims) == 1
        os.kill(victims[0], signal.SIGKILL)
        assert until(lambda: _answer(client, texts[0]) == right[0], 120)


def _name_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().partition(".")[0].rstrip("\0")
    return ""


def _answer(client: openai.OpenAI, text: str) -> object:
    try:
        return said(client, text).choices[0].message.content
    except openai.APIError:
        return None


def test_replicas_by_load(cluster: object, model: Path) -> None:
    from ray import serve

    from omniform.serve.ray import application

    config = ServeConfig(models=(ModelSource(name="tiny", source=str(model)),), memory="16MB")
    pace = {"upscale_delay_s": 1, "downscale_delay_s": 3, "metrics_interval_s": 0.5, "look_back_period_s": 2}
    with served(application(config, replicas=1, most=2, busy=2, scaling=pace), free_port()) as client:

        def count() -> int:
            return serve.status().applications["default"].deployments["omniform"].replica_states.get("RUNNING", 0)

        assert count() == 1
        over = threading.Event()
        failures: list[Exception] = []

        def ask(n: int) -> None:
            while not over.is_set():
                try:
                    said(client, f"{n}")
                except Exception as error:
                    failures.append(error)

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        try:
            assert until(lambda: count() == 2, 180)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert until(lambda: count() == 1, 90)
        assert failures == [] and said(client, "after").choices


@contextlib.contextmanager
def started(cluster: object, model: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    command = [sys.executable, "-m", "omniform", "serve", f"tiny={model}", "--ray", cluster.address, "--port",
               str(port), "--memory", "16MB", *options]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield process, port
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_the_command(cluster: object, model: Path, name: signal.Signals) -> None:
    with started(cluster, model, "--replicas", "2") as (process, port):
        told = process.stderr.readline()
        while "serving" not in told:
            assert told, "it ended"
            told = process.stderr.readline()
        assert f"serving tiny at http://127.0.0.1:{port} on Ray" in told
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=120)
        right = {text: said(client, text).choices[0].message.content for text in "abcd"}
        got: dict[str, str] = {}

        def stream(text: str) -> None:
            pieces = said(client, text, stream=True)
            got[text] = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)

        threads = [threading.Thread(target=stream, args=(text,)) for text in right]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got == right
        process.send_signal(name)
        assert process.wait(120) == 0 and "Traceback" not in process.stderr.read()
        with pytest.raises(openai.APIConnectionError):
            said(client, "a")


def test_what_the_command_refuses(cluster: object, model: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for options, why in (
            ([str(model), "--ray", cluster.address, "--port", str(taken.getsockname()[1])], "cannot be listened at"),
            ([str(tmp_path / "none"), "--ray", cluster.address, "--port", str(free_port())], "none"),
            ([str(model), "--ray", "127.0.0.1:1"], "no such Ray cluster"),
        ):
            done = subprocess.run(
                [sys.executable, "-m", "omniform", "serve", *options], capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 2 and why in done.stderr, (options, done.stderr)
            assert re.fullmatch(r"(omniform: waiting.*\n)?omniform: error: .*\n", done.stderr), done.stderr


def test_the_page(cluster: object, capsys: pytest.CaptureFixture[str]) -> None:
    from ray import serve

    page = (ROOT / "docs" / "ray.md").read_text(encoding="utf-8")
    try:
        for code in re.findall(r"```python\n(.*?)```", page, re.S):
            port = str(free_port())
            serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": int(port)})
            exec(compile(code.replace("8000", port), "docs/ray.md", "exec"), {"__name__": "__main__"})
    finally:
        serve.shutdown()
    assert capsys.readouterr().out.splitlines()[-2:] == ["of an application of one's own", "chat.completion"]
