"""Pointing the installed ``huggingface_hub`` at another Hub: by its settings, nothing of it is replaced.

In a process that has imported it already the settings are module constants, read when a request is made; in a new
process they are environment variables.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit


def environment(address: str, home: Path, token: str | None, more: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process that is to use a Hub, and nothing that this process was told about one.

    Xet (the other way of uploading) is off unless ``HF_HUB_DISABLE_XET`` is given as ``"0"``.
    """
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
    }
    told = {
        "HF_ENDPOINT": address,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "HOME": str(home),
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))),
    }
    if token is not None:
        told["HF_TOKEN"] = token
    return kept | told | dict(more)


@contextmanager
def _set(holder: object, name: str, value: object) -> Iterator[None]:
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


@contextmanager
def _variables(told: Mapping[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in told}
    try:
        for name, value in told.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def connected(address: str, cache: Path, token: str | None, offline: bool, xet: bool) -> Iterator[None]:
    """Let the client of this process, and processes that it starts, use a Hub.

    Args:
        cache: the folder that stands for ``HF_HOME``; models are cached in ``cache/hub``.
        token: what a login would have stored; None: nobody is logged in.
        offline: as ``HF_HUB_OFFLINE=1``.
    """
    from huggingface_hub import close_session, constants, hf_api

    settings: dict[str, object] = {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_URL_HOSTS": constants.HF_URL_HOSTS | {str(urlsplit(address).hostname)},
        "HF_HUB_OFFLINE": offline,
        "HF_HOME": str(cache),
        "HF_HUB_CACHE": str(cache / "hub"),
        "HUGGINGFACE_HUB_CACHE": str(cache / "hub"),
        "HF_ASSETS_CACHE": str(cache / "assets"),
        "HF_XET_CACHE": str(cache / "xet"),
        "HF_TOKEN_PATH": str(cache / "token"),
        "HF_STORED_TOKENS_PATH": str(cache / "stored_tokens"),
        "AGENT_HARNESSES_PATH": str(cache / ".agent_harnesses.json"),
        "HF_HUB_DISABLE_XET": not xet,
        "HF_HUB_DISABLE_TELEMETRY": True,
    }
    told: dict[str, str | None] = {
        "HF_ENDPOINT": address,
        "HF_HOME": str(cache),
        "HF_HUB_CACHE": str(cache / "hub"),
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "TRANSFORMERS_OFFLINE": None,
        "HF_TOKEN": token,
        "HUGGING_FACE_HUB_TOKEN": None,
        "HF_HUB_DISABLE_XET": None if xet else "1",
    }
    with ExitStack() as stack:
        stack.enter_context(_variables(told))
        for name, value in settings.items():
            stack.enter_context(_set(constants, name, value))
        stack.enter_context(_set(hf_api.api, "endpoint", address))
        stack.enter_context(_set(hf_api.api, "_whoami_cache", {}))
        close_session()
        stack.callback(close_session)
        yield
