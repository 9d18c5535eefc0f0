"""Clients that go away, engines that fail and servers that end: nothing is lost, nobody else is hurt."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from serving import SCENES, Served, serving

from omniform.engine.engine import Engine
from omniform.serve.config import Limits, ServeConfig
from omniform.serve.shelf import load_model

CHAT = "/v1/chat/completions"
LONG = {
    "model": "scenes", "messages": [{"role": "user", "content": "Tell."}], "max_tokens": 400, "temperature": 2,
    "logit_bias": {"2": -100},
}  # fmt: skip
SHORT = {**LONG, "max_tokens": 2}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(limits=Limits(running=2)) as server:
        yield server


@pytest.fixture
def engine(served: Served) -> Engine:
    return next(iter(served.desk.shelf.loaded())).writes()


def until(true: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.005)


def calm(served: Served) -> bool:
    gate = served.desk.gate
    counts = [one.writes().stats() for one in served.desk.shelf.loaded()]
    idle = not any(one.blocks_used or one.running or one.waiting for one in counts)
    idle = idle and not any(one.users for one in served.desk.shelf.loaded())
    return not (gate.running or gate.waiting or served.desk.lines or served.desk.incoming) and idle


class Client:
    """One that asks, and can go away at any time."""

    def __init__(self, served: Served, asked: dict[str, object]) -> None:
        host, port = served.url.removeprefix("http://").split(":")
        body = json.dumps(asked).encode()
        self.line = socket.create_connection((host, int(port)), timeout=30)
        self.line.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    def go(self) -> None:
        self.line.close()


@pytest.mark.parametrize("stream", [False, True])
def test_while_it_is_written(stream: bool, served: Served, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    cancel = engine.cancel

    def noting(requests: object) -> None:
        steps.append(engine.stats().steps)
        cancel(requests)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "cancel", noting)
    client = Client(served, {**LONG, "stream": stream})
    until(lambda: engine.stats().running and engine.stats().blocks_used, "nothing runs")
    client.go()
    until(lambda: not engine.stats().blocks_used, "its blocks are held")
    assert len(steps) >= 1 and engine.stats().steps - steps[0] <= 2
    until(lambda: calm(served), "its place is held")


def test_while_it_waits_for_its_turn(served: Served, engine: Engine) -> None:
    first = [Client(served, LONG) for _ in range(2)]
    until(lambda: engine.stats().running == 2, "they do not run")
    waiting = [Client(served, LONG) for _ in range(3)]
    until(lambda: served.desk.gate.waiting == 3, "they do not wait")
    for one in waiting:
        one.go()
    until(lambda: served.desk.gate.waiting == 0, "who is gone still waits")
    assert served.desk.gate.running == 2
    for one in first:
        one.go()
    until(lambda: calm(served), "something is held")


def test_while_its_prompt_is_made(served: Served, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = next(iter(served.desk.shelf.loaded())).reader
    go_on, begun = threading.Event(), threading.Event()
    submitted: list[object] = []
    make, submit = reader.apply_chat_template, engine.submit

    def slow(*args: object, **more: object) -> object:
        begun.set()
        assert go_on.wait(30)
        return make(*args, **more)  # type: ignore[arg-type]

    def noting(*args: object, **more: object) -> object:
        handle = submit(*args, **more)  # type: ignore[arg-type]
        submitted.append(handle)
        return handle

    monkeypatch.setattr(reader, "apply_chat_template", slow, raising=False)
    monkeypatch.setattr(engine, "submit", noting)
    client = Client(served, LONG)
    assert begun.wait(30)
    client.go()
    time.sleep(0.2)
    assert served.desk.gate.running == 1, "a thread that works holds its place"
    go_on.set()
    until(lambda: calm(served), "what nobody waits for is written")
    until(lambda: all(handle.done for handle in submitted), "it is not given up")  # type: ignore[attr-defined]
    assert all(handle.times.tokens < 400 for handle in submitted)  # type: ignore[attr-defined]


def test_many_that_vanish_at_any_time(served: Served) -> None:
    for turn in range(12):
        client = Client(served, {**LONG, "stream": bool(turn % 2), "n": 1 + turn % 3})
        time.sleep(0.004 * turn)
        client.go()
    until(lambda: calm(served), "something is held")
    assert httpx.post(served.url + CHAT, json=SHORT, timeout=60).status_code == 200


def test_a_step_that_fails_hurts_only_its_own(
    served: Served, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = engine._runner.run

    def failing(plan: object, **more: object) -> object:
        if any(request.settings.max_new_tokens == 7 for request in plan.requests):  # type: ignore[attr-defined]
            raise RuntimeError("a secret of the server at /srv/x.py")
        return run(plan, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(engine._runner, "run", failing)
    answers: dict[int, httpx.Response] = {}

    def ask(most: int) -> None:
        answers[most] = httpx.post(served.url + CHAT, json={**LONG, "max_tokens": most}, timeout=60)

    threads = [threading.Thread(target=ask, args=(most,)) for most in (20, 7)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert answers[20].status_code == 200 and answers[20].json()["usage"]["completion_tokens"] == 20
    assert answers[7].status_code == 500 and "secret" not in answers[7].text
    until(lambda: calm(served), "a failed request holds something")


def test_a_model_that_cannot_be_loaded_is_tried_again() -> None:
    config = ServeConfig(models=(SCENES,), memory="64MB", preload=False)
    fail = [RuntimeError("a secret"), MemoryError(), OSError("/srv/secret")]

    def load(source: object) -> object:
        if fail:
            raise fail.pop()
        return load_model(SCENES, config)

    with serving(config) as served:
        served.desk.shelf._load = load  # type: ignore[assignment]
        for _ in range(3):
            answer = httpx.post(served.url + CHAT, json=SHORT, timeout=60)
            assert answer.status_code == 503 and "secret" not in answer.text
            assert answer.json()["error"]["code"] == "model_unusable"
        assert httpx.post(served.url + CHAT, json=SHORT, timeout=60).status_code == 200
        until(lambda: calm(served), "something is held")


def test_loading_goes_on_for_others_where_one_goes_away() -> None:
    config = ServeConfig(models=(SCENES,), memory="64MB", preload=False)
    go_on, loads = threading.Event(), []

    def load(source: object) -> object:
        loads.append(source)
        assert go_on.wait(30)
        return load_model(SCENES, config)

    with serving(config) as served:
        served.desk.shelf._load = load  # type: ignore[assignment]
        client = Client(served, SHORT)
        until(lambda: loads, "nothing is loaded")
        client.go()
        answers: list[httpx.Response] = []
        other = threading.Thread(target=lambda: answers.append(httpx.post(served.url + CHAT, json=SHORT, timeout=60)))
        other.start()
        until(lambda: len(served.desk.lines) == 1, "the first still waits")
        go_on.set()
        other.join()
        assert answers[0].status_code == 200 and len(loads) == 1


def test_reloading_drops_nobody(served: Served, engine: Engine) -> None:
    stream = served.client().chat.completions.create(**{**LONG, "stream": True, "max_tokens": 100})
    chunks = [next(stream)]
    answers: list[httpx.Response] = []
    reload = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{served.url}/v1/models/scenes/reload", timeout=60))
    )
    reload.start()
    until(lambda: next(iter(served.desk.shelf.loaded())).writes() is not engine, "it is not loaded anew")
    assert httpx.post(served.url + CHAT, json=SHORT, timeout=60).status_code == 200
    chunks += list(stream)
    reload.join()
    assert answers[0].status_code == 200 and chunks[-1].choices[0].finish_reason == "length"
    assert httpx.post(f"{served.url}/v1/models/none/reload").status_code == 404
    far = {"Origin": "https://elsewhere.example"}
    assert httpx.post(f"{served.url}/v1/models/scenes/reload", headers=far).status_code == 403


def test_a_server_that_ends_tells_those_whom_it_does_not_answer() -> None:
    with serving(limits=Limits(grace=1.0, running=2)) as served:
        engine = next(iter(served.desk.shelf.loaded())).writes()
        events: list[str] = []
        endless = {**LONG, "max_tokens": 100_000, "stream": True}
        slow = engine._runner.run

        def slower(*args: object, **more: object) -> object:
            time.sleep(0.02)
            return slow(*args, **more)  # type: ignore[arg-type]

        engine._runner.run = slower  # type: ignore[method-assign, assignment]

        def read() -> None:
            with httpx.stream("POST", served.url + CHAT, json={**endless, "max_tokens": 400}, timeout=60) as answer:
                events.extend(line for line in answer.iter_lines() if line)

        answers: list[httpx.Response] = []
        reading = threading.Thread(target=read)
        reading.start()
        asked = {**SHORT, "max_tokens": 400}
        other, late = (
            threading.Thread(target=lambda: answers.append(httpx.post(served.url + CHAT, json=asked, timeout=60)))
            for _ in range(2)
        )
        other.start()
        until(lambda: served.desk.gate.running == 2, "they do not run")
        late.start()
        until(lambda: served.desk.gate.waiting == 1, "the third does not wait")
        served.server.handle_exit(signal.SIGTERM, None)
        late.join(10)
        assert answers and answers[0].status_code == 503 and answers[0].headers["retry-after"]
        reading.join(30)
        other.join(30)
        assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert answers[1].status_code == 503 and answers[1].json()["error"]["code"] == "shutting_down"


def test_metrics(served: Served) -> None:
    text = httpx.get(f"{served.url}/metrics").text
    for name in (
        'omniform_requests_total{door="/v1/chat/completions",status="200"}', "omniform_first_token_seconds_bucket",
        "omniform_token_seconds_count", 'omniform_generated_tokens_total{model="scenes"}', "omniform_queue 0.0",
        'omniform_blocks{model="scenes"}', "omniform_models_loaded 1.0", 'reason="client_closed_request"',
        "omniform_preemptions_total", "omniform_cached_tokens_total", "omniform_resident_bytes",
    ):  # fmt: skip
        assert name in text, name
    assert "elsewhere" not in text and "other" in text


def test_cors_is_off_unless_it_is_asked_for(served: Served) -> None:
    asks = {"Origin": "https://mine.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in httpx.options(served.url + CHAT, headers=asks).headers
    with serving(preload=False, cors=("https://mine.example",)) as open_to:
        told = httpx.options(open_to.url + CHAT, headers=asks)
        assert told.status_code == 200 and told.headers["access-control-allow-origin"] == "https://mine.example"
        other = httpx.options(open_to.url + CHAT, headers={**asks, "Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers
