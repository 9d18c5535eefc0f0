"""Which replica of a cluster a request goes to; without a cluster."""

from __future__ import annotations

import json
from collections import Counter

from omniform.serve.ray_routes import beginning_of, ranked


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
