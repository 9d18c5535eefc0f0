"""API keys: how they are written, what they may, and that the server asks for them."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from serving import Served, serving

from omniform.core.errors import InputError
from omniform.serve.errors import APIError
from omniform.serve.keys import Bucket, Keys, Pace, parse

TEXT = """
# whose keys these are
anna:sk-anna-secret rpm=3 tpm=100000     # a comment
bert:sk-bert-secret running=1 priority=7
boss:sk-boss-secret admin
few:sk-few-secret tpm=5
"""


def test_lines() -> None:
    anna, bert, boss, few = parse(TEXT, "keys")
    assert (anna.name, anna.rpm, anna.tpm, anna.admin) == ("anna", 3, 100000, False)
    assert (bert.running, bert.priority, boss.admin, few.rpm) == (1, 7, True, None)
    assert b"secret" not in repr(anna).encode()


@pytest.mark.parametrize(
    "line", ["secret-alone", "anna:", ":secret", "an na:secret", "a:secret rpm", "a:secret rpm=0", "a:secret rpm=-1",
             "a:secret colour=3", "a:secret priority=101", "a:secret rpm=1e9", "ä:secret"]
)  # fmt: skip
def test_what_is_no_key_is_told_without_it(line: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(f"ok:fine\n{line}", "keys.txt")
    assert "keys.txt, line 2" in str(caught.value) and "secret" not in str(caught.value)


def test_files_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(TEXT)
    keys = Keys.of([str(file)], {"OMNIFORM_API_KEYS": "ci:from-env, cd:other rpm=2"})
    assert [key.name for key in keys] == ["ci", "cd", "anna", "bert", "boss", "few"]
    assert keys.find(b"from-env").name == "ci" and keys.find(b"sk-boss-secret").admin and keys.find(b"") is None
    assert not Keys.of([], {}).asked and keys.asked
    for wrong in ("# nothing\n", "a:one\nb:one\n"):
        file.write_text(wrong)
        with pytest.raises(InputError):
            Keys.of([str(file)], {})
    with pytest.raises(InputError):
        Keys.of([str(tmp_path / "none")], {})


def test_files_are_read_anew_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omniform.serve.keys.LOOK_SECONDS", 0.0)
    file = tmp_path / "keys"
    file.write_text("anna:one")
    keys = Keys.of([str(file)], {})
    file.write_text("anna:two\nbert:three")
    assert keys.find(b"one") is None and keys.find(b"two").name == "anna" and keys.find(b"three").name == "bert"
    for wrong in ("no key at all", ""):
        file.write_text(wrong)
        assert keys.find(b"two") is not None and keys.find(b"other") is None
    os.unlink(file)
    assert keys.find(b"two") is not None


def test_a_bucket_fills_by_the_minute() -> None:
    now = 0.0
    bucket = Bucket(60, lambda: now)
    bucket.take(60)
    assert bucket.level == 0 and bucket.seconds_to(1) == pytest.approx(1)
    now = 30.0
    assert bucket.level == pytest.approx(30)
    now = 300.0
    assert bucket.level == 60


def test_paces() -> None:
    (key,) = parse("a:secret rpm=2 tpm=100 running=2", "keys")
    pace = Pace()
    pace.enter(key)
    pace.charge(150)
    with pytest.raises(APIError) as caught:
        pace.enter(key)
    assert caught.value.status == 429 and "tokens a minute" in str(caught.value)
    assert 30 <= int(caught.value.headers["Retry-After"]) <= 31
    pace.tokens.take(-200)
    pace.enter(key)
    with pytest.raises(APIError, match="at once"):
        pace.enter(key)
    pace.leave()
    with pytest.raises(APIError, match="requests a minute"):
        pace.enter(key)
    told = pace.headers()
    assert told["x-ratelimit-limit-requests"] == "2" and told["x-ratelimit-remaining-requests"] == "0"
    assert pace.running == 1


ASKED = {"model": "scenes", "messages": [{"role": "user", "content": "Hello there."}], "max_tokens": 2}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    file = tmp_path_factory.mktemp("keys") / "keys.txt"
    file.write_text(TEXT)
    with serving(keys=(str(file),)) as server:
        yield server


def ask(served: Served, key: str | None, **more: object) -> httpx.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{served.url}/v1/chat/completions", json={**ASKED, **more}, headers=headers, timeout=60)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer nope", "Basic sk-anna-secret", "sk-anna-secret"])
def test_without_a_key_nobody_gets_in(served: Served, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/x")):
        answer = httpx.request(method, served.url + path, headers=headers)
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.json()["error"]["type"] == "authentication_error"
        assert answer.headers["www-authenticate"] == "Bearer" and answer.headers["x-request-id"]
    with pytest.raises(openai.AuthenticationError):
        served.client("wrong").models.list()


def test_two_keys_at_once_are_none(served: Served) -> None:
    both = [("Authorization", "Bearer nope"), ("Authorization", "Bearer sk-anna-secret")]
    assert httpx.get(f"{served.url}/v1/models", headers=both).status_code == 401


def test_health_needs_none(served: Served) -> None:
    assert httpx.get(f"{served.url}/health").status_code == httpx.get(f"{served.url}/ready").status_code == 200


def test_what_only_admins_may(served: Served) -> None:
    anna, boss = ({"Authorization": f"Bearer sk-{name}-secret"} for name in ("anna", "boss"))
    assert httpx.get(f"{served.url}/metrics", headers=anna).status_code == 403
    assert httpx.post(f"{served.url}/v1/models/scenes/reload", headers=anna).status_code == 403
    assert "omniform_requests_total" in httpx.get(f"{served.url}/metrics", headers=boss).text
    assert [one.id for one in served.client("sk-anna-secret").models.list()] == ["scenes"]


def test_requests_a_minute(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "omniform.serve.access"):
        answers = [ask(served, "sk-anna-secret") for _ in range(4)]
    assert [one.status_code for one in answers] == [200, 200, 200, 429]
    assert [one.headers["x-ratelimit-remaining-requests"] for one in answers[:3]] == ["2", "1", "0"]
    last = answers[-1]
    assert 1 <= int(last.headers["retry-after"]) <= 20 and last.json()["error"]["code"] == "rate_limit_exceeded"
    lines = [json.loads(one.getMessage()) for one in caplog.records if one.name == "omniform.serve.access"]
    assert [(one["key"], one["status"]) for one in lines] == [("anna", 200)] * 3 + [("anna", 429)]
    assert lines[0]["generated_tokens"] == 2 and lines[0]["prompt_tokens"] > 2 and lines[0]["door"].endswith("s")
    assert not any("Hello" in one.getMessage() or "secret" in one.getMessage() for one in caplog.records)


def test_tokens_a_minute(served: Served) -> None:
    assert ask(served, "sk-few-secret").status_code == 200
    again = ask(served, "sk-few-secret")
    assert again.status_code == 429 and "tokens a minute" in again.json()["error"]["message"]


def test_requests_at_once(served: Served) -> None:
    client = served.client("sk-bert-secret")
    long = {**ASKED, "stream": True, "max_tokens": 200, "logit_bias": {"2": -100}}
    with client.chat.completions.create(**long) as stream:
        next(iter(stream))
        assert ask(served, "sk-bert-secret").status_code == 429
    until = time.monotonic() + 20
    while served.desk.keys.paces["bert"].running:
        assert time.monotonic() < until, "whoever went away still counts"
        time.sleep(0.01)
    for _ in range(5):  # one after the other is never two at once
        assert ask(served, "sk-bert-secret").status_code == 200
