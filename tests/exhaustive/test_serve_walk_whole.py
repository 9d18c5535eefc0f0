"""What the suite tries at some doors of the server: here at all, with bodies of all kinds, for `make exhaustive`."""

from __future__ import annotations

import base64
import json
import sys
import time
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))

from test_serve_walk import COMMAND, DOORS, LITERALS, SECONDS, any_value, picture, raw, served, well

__all__ = ["raw", "served"]

BODIES = (b"", b"null", b"[]", b'"x"', b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 5000, b"1" * 5000)
PARAMETERS = [
    "max_new_tokens", "do_sample", "temperature", "top_k", "num_return_sequences", "stop_strings", "truncation",
    "function_to_apply", "prefix", "generate_kwargs", "candidate_labels", "hypothesis_template", "return_timestamps",
    "chunk_length_s",
]  # fmt: skip
MEDIA = {"hearing": COMMAND, "seeing": picture()}
OF_MEDIA = ("true", "infinity", "less", "a letter", "of both", "objects", "long")
"""Each of these costs a model's work, where the input is a sound or a picture."""


@pytest.mark.parametrize("name", DOORS)
def test_any_value_in_any_field(name: str, raw: httpx.Client) -> None:
    any_value(name, raw)


@pytest.mark.parametrize("name", DOORS)
def test_any_body(name: str, raw: httpx.Client) -> None:
    path, kind, base = DOORS[name]
    for body in BODIES:
        answer = raw.post(path, content=body)
        well(answer, repr(body[:20]))
        assert answer.status_code == 400
    well(raw.post(path, content='{"model": 1, "model": null, ' + json.dumps(base)[1:]), "twice")
    for field in [one for one in kind.model_fields if one in base and one != "model"]:
        many = json.dumps({**base, field: "@@"}).replace('"@@"', "[" + "1," * 1_000_000 + "1]")
        began = time.monotonic()
        well(raw.post(path, content=many), f"{field}: a million")
        assert time.monotonic() - began < SECONDS


@pytest.mark.parametrize("name", ["writing", "moods", "vectors", *MEDIA])
def test_any_parameter_of_a_pipeline(name: str, raw: httpx.Client) -> None:
    path, _, base = DOORS[name]
    if name in MEDIA:
        base = {**base, "inputs": "data:;base64," + base64.b64encode(MEDIA[name]).decode()}
    usual = {"max_new_tokens": 1} if name == "writing" else {}
    for field in PARAMETERS:
        for what, literal in LITERALS.items():
            if name in MEDIA and what not in OF_MEDIA:
                continue
            given = {**usual, **dict(base.get("parameters", {})), field: "@@"}  # type: ignore[call-overload]
            body = json.dumps({**base, "parameters": given}).replace('"@@"', literal)
            well(raw.post(path, content=body), f"{field}: {what}")
