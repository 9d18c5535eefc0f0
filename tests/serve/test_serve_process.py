"""``omniform serve`` as a process: where it listens, its certificate, its log, and how signals end it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from omniform.cli.main import main
from omniform.core.errors import InputError
from omniform.serve.running import check_tls, listen, listen_at

CHAT = "/v1/chat/completions"
ASKED = {"messages": [{"role": "user", "content": "A secret word."}], "max_tokens": 400, "logit_bias": {"2": -100}}


def certificate(folder: Path, name: str, *more: str) -> tuple[str, str]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl")
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-days", "2", *(more or ("-nodes",)), *subject,
         "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True,
    )  # fmt: skip
    return str(cert), str(key)


def test_certificates_that_are_none(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "one")
    _, other = certificate(tmp_path, "two")
    locked, locked_key = certificate(tmp_path, "locked", "-passout", "pass:word")
    (tmp_path / "text").write_text("hello")
    check_tls(None, None)
    check_tls(cert, key)
    for wrong in (
        (None, key), (str(tmp_path / "none"), key), (cert, str(tmp_path)), (cert, other), (str(tmp_path / "text"), key),
        (cert, None), (locked, locked_key), (key, cert), ("\0", key),
    ):  # fmt: skip
        with pytest.raises(InputError) as caught:
            check_tls(*wrong)
        assert "--tls-" in str(caught.value)


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), ("127.0.0.1", 99999), ("127.0.0.1", -1),
                                            ("203.0.113.1", 0), ("a" * 300, 0), ("::g", 0)])  # fmt: skip
def test_places_that_are_none(host: str, port: int) -> None:
    with pytest.raises(InputError):
        listen(host, port)


def test_a_place_that_is_taken() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(InputError, match="--port"):
        listen("127.0.0.1", first.getsockname()[1])


def test_unix_sockets(tmp_path: Path) -> None:
    name = str(tmp_path / "socket")
    with listen_at(name):
        assert stat.S_IMODE(os.stat(name).st_mode) == 0o660
        with pytest.raises(InputError, match="already"):
            listen_at(name)
    listen_at(name).close()  # one is left over from a server that is gone
    file = tmp_path / "file"
    file.write_text("mine")
    for wrong in (str(file), str(tmp_path / "no" / "socket"), "x" * 200):
        with pytest.raises(InputError):
            listen_at(wrong)
    assert file.read_text() == "mine"


@contextlib.contextmanager
def process(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server, and where it listens."""
    command = [sys.executable, "-m", "omniform", "serve", "--memory", "64MB", "--port", "0", *options]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stderr is not None
        said = ""
        while " at " not in (line := running.stderr.readline()):
            said += line
            assert line, said
        yield running, line.rpartition(" at ")[2].strip()
    finally:
        if running.poll() is None:
            running.kill()
        running.wait()
        for pipe in (running.stdout, running.stderr):
            assert pipe is not None
            pipe.close()


def ready(client: httpx.Client) -> None:
    until = time.monotonic() + 120
    while True:
        with contextlib.suppress(httpx.TransportError):
            if client.get("/ready").status_code == 200:
                return
        assert time.monotonic() < until, "the server is not ready"
        time.sleep(0.1)


def test_a_process_ends_when_what_runs_is_through(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "own")
    with process("--tls-cert", cert, "--tls-key", key) as (running, url):
        assert url.startswith("https://")
        with httpx.Client(base_url=url, verify=ssl.create_default_context(cafile=cert), timeout=120) as client:
            ready(client)
            running.send_signal(signal.SIGHUP)  # reads all anew, and drops nobody
            lines = []
            with client.stream("POST", CHAT, json={**ASKED, "stream": True}) as answer:
                for line in answer.iter_lines():
                    if not lines:
                        running.send_signal(signal.SIGTERM)
                    lines.append(line)
            assert lines[-2] == "data: [DONE]" and '"finish_reason":"length"' in lines[-4]
        assert running.wait(60) == 0
        assert running.stdout is not None
        told = [json.loads(line) for line in running.stdout]
        assert told[-1]["generated_tokens"] > 100 and told[-1]["status"] == 200
        assert "secret" not in json.dumps(told)


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    name = str(tmp_path / "socket")
    with process("--uds", name, "--log-prompts") as (running, url):
        assert url == f"unix:{name}"
        with httpx.Client(transport=httpx.HTTPTransport(uds=name), base_url="http://x", timeout=120) as client:
            ready(client)
            assert client.post("/v1/models/omniform/reload").status_code == 404
            line = socket.socket(socket.AF_UNIX)
            line.connect(name)
            line.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode())
            assert client.post(CHAT, json={**ASKED, "max_tokens": 1}).status_code == 200
            began = time.monotonic()
            running.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            running.send_signal(signal.SIGTERM)
            running.wait(15)
            assert time.monotonic() - began < 15 and running.returncode is not None
            line.close()
        assert running.stdout is not None
        assert "A secret word." in running.stdout.read()


@pytest.mark.parametrize(
    "options",
    [("--tls-key", "/none"), ("--host", "no.such.host.invalid"), ("--api-keys", "/none"), ("--max-running", "0"),
     ("--allow-url", "pictures.example"), ("--max-body", "much"), ("--timeout", "-1")],
)  # fmt: skip
def test_what_cannot_be_served_is_told_in_a_line(options: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("omniform: ")
