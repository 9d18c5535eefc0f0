"""A request on its way to a replica, and which beginning it has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

BEGINNING: Final = 512
"""Characters of a prompt that tell it from others: what is shared beyond is found where those are."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request.

    Attributes:
        method: of HTTP.
        path: what is asked for.
        query: what stands behind it.
        headers: in lower case, with their values.
        body: of it, whole.
        client: whose it is, an address.
        key: of its beginning; "" where it has none.
        kept: whether it is about an earlier response, which one replica keeps, whichever that is.
        tries: how often it was tried in vain.
        asked: replicas that have nothing for it.
    """

    method: str
    path: str
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    client: str
    key: str = ""
    kept: bool = False
    tries: int = 0
    asked: tuple[str, ...] = ()


def goes_on(path: str, body: bytes) -> bool:
    """Whether a request is about a response of earlier."""
    if path.startswith("/v1/responses/"):
        return True
    if path != "/v1/responses" or b"previous_response_id" not in body:
        return False
    try:
        held = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(held, dict) and isinstance(held.get("previous_response_id"), str)


def beginning_of(body: bytes) -> str:
    """What requests have in common that are better answered by the same replica: the model, and a chat's messages up to
    the first of its user, or the beginning of a text. "" where there is nothing of the kind."""
    try:
        held = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(held, dict):
        return ""
    told = held.get("messages", held.get("input", held.get("prompt")))
    if isinstance(told, list) and told and all(isinstance(one, dict) for one in told):
        first = next((place for place, one in enumerate(told) if one.get("role") == "user"), len(told) - 1)
        text = json.dumps([held.get("instructions"), held.get("tools"), told[: first + 1]], sort_keys=True)
    elif isinstance(told, str) and told:
        text = told[:BEGINNING]
    else:
        return ""
    model = held.get("model")
    return hashlib.sha256(f"{model}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()


def ordered(call: Call, replicas: Sequence[tuple[str, int]]) -> list[str]:
    """Replicas in the order in which they are tried for a request; those that failed it, or have nothing, come last.

    Args:
        call: the request.
        replicas: their names and how many requests each has.
    """
    names = ranked(call.key, replicas)
    turn = call.tries % max(len(names), 1)  # which of them failed is not told: they are taken in turn
    names = names[turn:] + names[:turn]
    return sorted(names, key=lambda name: name in call.asked)


def ranked(key: str, replicas: Sequence[tuple[str, int]], *, slack: float = 1.25, least: int = 4) -> list[str]:
    """Replicas in the order in which a request would have them.

    Rendezvous hashing: every key has an order of its own of all replicas, so that one that goes or comes changes only
    the places that it had. A replica with more requests than its share, ``slack`` times the mean, comes after those
    with fewer (bounded loads).

    Source: https://arxiv.org/abs/1608.01350 for the bound.

    Args:
        key: of the request; with "" the least busy come first.
        replicas: their names and how many requests each has.
        slack: how much more than the mean a replica may have.
        least: requests that are no burden, whatever the mean.
    """
    bound = max(least, slack * (sum(load for _, load in replicas) + 1) / max(len(replicas), 1))

    def place(one: tuple[str, int]) -> tuple[object, ...]:
        name, load = one
        score = hashlib.sha256(f"{key}\0{name}".encode()).digest()
        return (load >= bound, score) if key else (load, score)

    return [name for name, _ in sorted(replicas, key=place)]
