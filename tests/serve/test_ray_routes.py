"""Which replica of a cluster a request goes to; without a cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from omniform.cli.main import main
from omniform.serve.ray_routes import Call, beginning_of, goes_on, ordered, ranked


def key(*messages: tuple[str, str], **more: object) -> str:
    chat = [{"role": role, "content": content} for role, content in messages]
    return beginning_of(json.dumps({"model": "m", "messages": chat, **more}).encode())


def test_what_has_the_same_beginning() -> None:
    first = key(("system", "s"), ("user", "a"))
    assert first and first == key(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), temperature=1)
    others = [key(("system", "t"), ("user", "a")), key(("system", "s"), ("user", "b")),
              key(("system", "s"), ("user", "a"), tools=[{"type": "function"}])]  # fmt: skip
    assert first not in others and len(set(others)) == 3
    texts = [beginning_of(json.dumps({"prompt": "x" * 600 + end}).encode()) for end in "ab"]
    assert texts[0] == texts[1] != ""
    assert [beginning_of(raw) for raw in (b"", b"[1]", b"{}", b"\xff", b'{"prompt": [1, 2]}', b"[" * 9999)] == [""] * 6


def test_each_beginning_has_its_replica() -> None:
    names = [f"r{n}" for n in range(5)]
    idle = [(name, 0) for name in names]
    home = {f"k{n}": ranked(f"k{n}", idle)[0] for n in range(500)}
    counts = Counter(home.values())
    assert set(counts) == set(names) and max(counts.values()) < 160
    gone = [(name, 0) for name in names if name != "r2"]
    moved = {one: ranked(one, gone)[0] for one in home}
    assert all(moved[one] == place for one, place in home.items() if place != "r2")
    assert len({moved[one] for one, place in home.items() if place == "r2"}) == 4


def test_a_busy_replica_comes_last() -> None:
    first, *others = ranked("k", [(f"r{n}", 0) for n in range(4)])
    loads = dict.fromkeys(others, 10)
    assert ranked("k", [(first, 12), *loads.items()])[0] == first  # no more than its share
    assert ranked("k", [(first, 30), *loads.items()]) == [*others, first]
    assert ranked("k", [(first, 3), *dict.fromkeys(others, 0).items()])[0] == first  # and no burden
    assert ranked("", [("a", 3), ("b", 1), ("c", 2)]) == ["b", "c", "a"]


def test_those_that_failed_come_last() -> None:
    idle = [(f"r{n}", 0) for n in range(4)]
    call = Call("POST", "/v1/chat/completions", b"", (), b"", "", key="k")
    order = ranked("k", idle)
    assert ordered(call, idle) == order
    turns = [ordered(replace(call, tries=n), idle) for n in range(5)]
    assert [one[0] for one in turns] == [*order, order[0]] and all(sorted(one) == sorted(order) for one in turns)
    assert ordered(replace(call, asked=(order[0], order[2])), idle) == [order[1], order[3], order[0], order[2]]
    assert ordered(call, []) == []


def test_what_goes_on_from_an_earlier_response() -> None:
    assert goes_on("/v1/responses/resp_1", b"") and goes_on("/v1/responses", b'{"previous_response_id": "resp_1"}')
    others = [b"", b"{}", b'{"input": "previous_response_id"}', b'{"previous_response_id": null}',
              b'"previous_response_id"', b"[" * 9999 + b"previous_response_id"]  # fmt: skip
    assert not any(goes_on("/v1/responses", body) for body in others)
    assert not goes_on("/v1/chat/completions", b'{"previous_response_id": "resp_1"}')


@pytest.mark.parametrize(("options", "why"), [
    (["--replicas", "2"], "--replicas: replicas are on a cluster. Add --ray."),
    (["--replica-gpus", "0"], "--replica-gpus: replicas are on a cluster."),
    (["--ray", "--uds", "x"], "--uds: Ray's proxy does not answer so."),
    (["--ray", "--tls-key", "x"], "--tls-key: Ray's proxy does not answer so."),
    (["--ray", "--replicas", "0"], "--replicas: no such number of replicas"),
    (["--ray", "--replicas", "3", "--max-replicas", "2"], "--max-replicas: fewer than there are at least"),
    (["--ray", "--replica-cpus", "-1"], "--replica-cpus: no such number"),
    (["--ray", "--port", "0"], "--port: a cluster's port is a number of its own"),
    (["--ray", "--api-keys", "/none"], "/none"),
    (["--ray"], "pip install 'omniform[ray]'"),
])  # fmt: skip
def test_options_that_do_not_go_together(
    options: list[str], why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    assert main(["serve", "tiny=/none", *options]) == 2
    told = capsys.readouterr().err
    assert told.startswith("omniform: error: ") and why in told and told.count("\n") == 1


def test_nothing_of_ray_is_imported_unasked() -> None:
    names = "omniform.serve.app, omniform.serve.ray, omniform.serve.mapping.actors, omniform.cli.main"
    code = f"import sys, {names}; omniform.cli.main.parser(); assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
