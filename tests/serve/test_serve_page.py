"""The page as it comes over HTTP: what it is made of, what it may do; and what it is told of the engine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving import Served, serving

from omniform.serve.doors import page

FILES = sorted(page.FILES.iterdir())
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as server:
        yield server


@pytest.fixture
def raw(served: Served) -> Iterator[httpx.Client]:
    with served.raw() as client:
        yield client


def test_it_is_small() -> None:
    assert {file.suffix for file in FILES} == set(page.TYPES)
    assert sum(file.stat().st_size for file in FILES) < 200_000


def test_it_names_no_outside_address() -> None:
    """Addresses stand in it only as sources in comments, as names of namespaces, and in what it takes for a link."""
    for file in FILES:
        for line in file.read_text().splitlines():
            told = re.sub(r"(?://|/\*) .*|\"http://www\.w3\.org/2000/svg\"|Source: \S+", "", line)
            assert not re.search(r"(?:https?:|wss?:|\")//\w", told), f"{file.name}: {line}"
            assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|@import", line), line


def test_it_comes_with_all_it_is_made_of(raw: httpx.Client) -> None:
    told = raw.get("/")
    assert told.status_code == 200 and told.headers["content-type"] == "text/html; charset=utf-8"
    named = {"index.html", *re.findall(r'(?:href|src)="page/([^"#]+)"', told.text)}
    waiting = list(named)
    while waiting:
        name = waiting.pop()
        part = raw.get(f"/page/{name}")
        assert part.status_code == 200 and part.headers["x-content-type-options"] == "nosniff", name
        for other in set(re.findall(r'from "\./([^"]+)"', part.text)) - named if name.endswith(".js") else ():
            named.add(other)
            waiting.append(other)
    assert named == {file.name for file in FILES}


def test_it_may_do_nothing_elsewhere(raw: httpx.Client) -> None:
    policy = dict(part.split(" ", 1) for part in raw.get("/").headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["script-src"] == "'self'" and policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'" and policy["require-trusted-types-for"] == "'script'"
    assert not [text for text in policy.values() if "unsafe" in text or "*" in text or "http" in text]


def test_a_browser_that_has_it_is_told_so(raw: httpx.Client) -> None:
    first = raw.get("/page/app.js")
    again = raw.get("/page/app.js", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304 and not again.content and again.headers["etag"] == first.headers["etag"]
    assert raw.get("/page/app.js", headers={"If-None-Match": '"else"'}).status_code == 200
    head = raw.head("/")
    assert head.status_code == 200 and not head.content and int(head.headers["content-length"]) > 1000


@pytest.mark.parametrize(
    "path", ["/page/none.js", "/page/..%2fapp.py", "/page/%2e%2e%2f%2e%2e%2fapp.py", "/page/.", "/page/"]
)
def test_no_other_file_can_be_read(path: str, raw: httpx.Client) -> None:
    answer = raw.get(path)
    assert answer.status_code == 404 and answer.json()["error"]["message"]


def test_what_the_engine_does(served: Served, raw: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1, "temperature": 0}
    assert raw.post("/v1/chat/completions", json=body).status_code == 200
    told = raw.get("/engine").json()
    (one,) = told["models"]
    assert one["name"] == "scenes" and one["chats"] and one["reads"] == ["text", "image"] and one["longest"] == 512
    stats = next(iter(served.desk.shelf.loaded())).writes().stats()
    assert one["engine"]["blocks"]["total"] == stats.blocks_total > 0
    assert one["engine"]["tokens_computed"] == stats.tokens_computed > 0
    assert told["gate"] == {"running": 0, "waiting": 0}
    assert str(ROOT) not in raw.get("/engine").text


def test_a_model_that_nobody_asked_for_is_named() -> None:
    with serving(preload=False) as server, server.raw() as raw:
        assert raw.get("/engine").json()["models"] == [{"name": "scenes", "loaded": False}]


def test_where_keys_are_asked_for_the_page_comes_without_and_counts_do_not(tmp_path: Path) -> None:
    """It is on the page that a person types the key in."""
    keys = tmp_path / "keys"
    keys.write_text("me:sk-0123456789abcdef0123456789abcdef\n")
    keys.chmod(0o600)
    with serving(preload=False, keys=(str(keys),)) as server, server.raw() as raw:
        assert raw.get("/").status_code == raw.get("/page/app.js").status_code == 200
        assert raw.get("/engine").status_code == 401
        given = {"Authorization": "Bearer sk-0123456789abcdef0123456789abcdef"}
        assert raw.get("/engine", headers=given).status_code == 200


def test_the_wheel_holds_it() -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel")
    held = {file.distribution_path for file in wheel.WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {f"omniform/serve/page/{file.name}" for file in FILES} <= held
