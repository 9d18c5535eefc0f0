"""The server under load, beside its own engine without HTTP.

``python benchmarks/serve.py load [MODEL] [--clients 64] [--requests 256] [--rate 8]``: as many clients as said, whose
requests come at random times (Poisson), with OpenAI's own client: tokens a second, first tokens, and the same prompts
by ``Engine.generate_batch``, in turn. ``... overhead``: what HTTP adds to a request of one token. ``... soak --requests
20000``: clients of which some go away in the midst; every request is held to a secret of its own, which has to come
back; memory and blocks at the end are told beside those at the beginning. ``... beside MODEL.gguf --llama-server
build/bin/llama-server``: the same clients at llama.cpp's server, with the same file, in turn.

The server is a process of its own; so is the engine that it is compared with. MODEL is the bundled one by default.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import httpx
import openai

from omniform.hub.bundled import bundled_checkpoint

ENGINE = """
import json, sys, time
from omniform.engine.engine import Engine
from omniform.hub.auto_inputs import AutoProcessor
from omniform.hub.checkpoint import load_as_saved
name, count, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
engine = Engine(load_as_saved(name, dtype="auto"), AutoProcessor.from_pretrained(name))
prompts = json.load(sys.stdin)
settings = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
engine.generate_batch([[{"role": "user", "content": text}] for text in prompts[:2]], **settings)
started, own = time.perf_counter(), time.process_time()
done = engine.generate_batch([[{"role": "user", "content": text}] for text in prompts], **settings)
print(json.dumps({"seconds": time.perf_counter() - started, "processor": time.process_time() - own,
                  "tokens": sum(len(one.tokens) for one in done)}))
"""
BLOCK = 20
WORDS = re.findall(r"\w+", "where is the red circle and what stands left of the blue square below a green star")


@contextlib.contextmanager
def server(model: str, *more: str) -> Iterator[tuple[str, int]]:
    """A server's address, and its process."""
    command = [sys.executable, "-m", "omniform", "serve", f"model={model}", "--port", "0", *more]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            url = next(found[0] for line in process.stderr if (found := re.search(r"http://\S+", line)))
            while httpx.get(f"{url}/ready").status_code != 200:
                time.sleep(0.1)
            yield url, process.pid
        finally:
            process.terminate()
            process.wait(60)


def prompts_of(count: int) -> list[str]:
    """Questions of different lengths."""
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.randint(4, 40))) for _ in range(count)]


def processor_of(pid: int) -> float:
    """Seconds of the processor that a process took."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int) -> int:
    """Bytes that a process holds of its own (RssAnon)."""
    found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


async def loaded(url: str, prompts: Sequence[str], tokens: int, clients: int, rate: float) -> dict[str, float]:
    """All prompts by so many clients; with a rate, they come at random times, so many a second."""
    rng = random.Random(1)
    first: list[float] = []
    gaps: list[float] = []
    seats = asyncio.Semaphore(clients)
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=3600)

    async def one(text: str) -> int:
        async with seats:
            begun = last = time.perf_counter()
            stream = await client.chat.completions.create(
                model="model",
                messages=[{"role": "user", "content": text}],
                max_tokens=tokens,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"min_tokens": tokens, "ignore_eos": True},  # in our words, and in llama.cpp's
            )
            written = counted = 0
            async for chunk in stream:  # to its end: a stream that is left is closed later, and loudly
                now = time.perf_counter()
                if chunk.choices and chunk.choices[0].delta.content:
                    (gaps if written else first).append(now - (last if written else begun))
                    written, last = written + 1, now
                if chunk.usage is not None:
                    counted = chunk.usage.completion_tokens
            return counted

    started, jobs = time.perf_counter(), []
    for text in prompts:
        if rate:
            await asyncio.sleep(rng.expovariate(rate))
        jobs.append(asyncio.create_task(one(text)))
    written = sum(await asyncio.gather(*jobs))
    seconds = time.perf_counter() - started
    first.sort()
    return {
        "seconds": seconds,
        "tokens": written,
        "tokens_per_second": written / seconds,
        "first_token_ms": 1e3 * median(first),
        "first_token_p99_ms": 1e3 * first[int(0.99 * (len(first) - 1))],
        "per_token_ms": 1e3 * median(gaps) if gaps else 0.0,
    }


def load(given: argparse.Namespace) -> None:
    """Clients beside the engine alone."""
    prompts = prompts_of(given.requests)
    with server(given.model) as (url, pid):
        asyncio.run(loaded(url, prompts[:2], given.tokens, 2, 0))
        for turn in range(given.pairs):
            own = processor_of(pid)
            told = asyncio.run(loaded(url, prompts, given.tokens, given.clients, given.rate))
            told["processor"] = processor_of(pid) - own
            done = subprocess.run(
                [sys.executable, "-c", ENGINE, given.model, str(given.requests), str(given.tokens)],
                input=json.dumps(prompts), check=True, capture_output=True, text=True,
            )  # fmt: skip
            alone = json.loads(done.stdout.splitlines()[-1])
            ratio = told["tokens_per_second"] / (alone["tokens"] / alone["seconds"])
            print(json.dumps({"turn": turn, "server": told, "engine": alone, "ratio": round(ratio, 3)}), flush=True)


def overhead(given: argparse.Namespace) -> None:
    """What HTTP adds to a request of one token: a block of prompts by the engine in this process, the same by the
    server, in turn. (One prompt each in turn would find every model out of the processor's cache.)"""
    from omniform.engine.engine import Engine
    from omniform.hub.auto_inputs import AutoProcessor
    from omniform.hub.checkpoint import load_as_saved

    engine = Engine(load_as_saved(given.model, dtype="auto"), AutoProcessor.from_pretrained(given.model))  # type: ignore[arg-type]
    over: list[float] = []
    with server(given.model) as (url, _):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        raw = httpx.Client(base_url=url)

        def alone(text: str) -> None:
            engine.generate([{"role": "user", "content": text}], max_new_tokens=1, do_sample=False)

        def served(text: str) -> None:
            body = {"model": "model", "messages": [{"role": "user", "content": text}], "max_tokens": 1}
            if given.raw:
                raw.post("/v1/chat/completions", json={**body, "temperature": 0}).raise_for_status()
            else:
                client.chat.completions.create(**body, temperature=0)

        prompts = prompts_of(given.requests)
        for at in range(0, len(prompts), BLOCK):
            block = prompts[at : at + BLOCK]
            took = {}
            for ask in (alone, served):
                ask(block[0])
                times = []
                for text in block[1:]:
                    begun = time.perf_counter()
                    ask(text)
                    times.append(time.perf_counter() - begun)
                took[ask] = median(times)
            over.append(1e3 * (took[served] - took[alone]))
    over.sort()
    print(f"{given.requests} requests in blocks of {BLOCK}: {median(over):.2f} ms more at the median "
          f"(blocks: {over[0]:.2f} to {over[-1]:.2f} ms)")  # fmt: skip


@contextlib.contextmanager
def llama_server(program: str, file: str, clients: int, tokens: int) -> Iterator[tuple[str, int]]:
    """llama.cpp's server, with a seat for every client."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seats = min(clients, 64)
    command = [program, "-m", file, "--port", str(port), "-np", str(seats), "-c", str(seats * 512), "--no-webui",
               "-t", str(os.cpu_count()), "-tb", str(os.cpu_count()), "--jinja"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            while process.poll() is None:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{url}/health").status_code == 200:
                        break
                time.sleep(0.1)
            yield url, process.pid
        finally:
            process.terminate()
            process.wait(60)


def beside(given: argparse.Namespace) -> None:
    """Clients at this server, and at llama.cpp's."""
    prompts = prompts_of(given.requests)
    told: dict[str, list[dict[str, float]]] = {"omniform": [], "llama.cpp": []}
    with (
        server(given.model) as (ours, own),
        llama_server(given.llama_server, given.model, given.clients, given.tokens) as (theirs, their),
    ):
        sides = {"omniform": (ours, own), "llama.cpp": (theirs, their)}
        for url, _ in sides.values():
            asyncio.run(loaded(url, prompts[:4], given.tokens, 4, 0))
        for turn in range(given.pairs):
            for name in list(sides)[:: 1 if turn % 2 == 0 else -1]:
                url, pid = sides[name]
                before = processor_of(pid)
                found = asyncio.run(loaded(url, prompts, given.tokens, given.clients, given.rate))
                told[name].append({**found, "processor": processor_of(pid) - before})
                print(name, json.dumps({key: round(value, 2) for key, value in told[name][-1].items()}), flush=True)
    for what in ("tokens_per_second", "first_token_ms", "first_token_p99_ms", "per_token_ms"):
        our, other = (median(one[what] for one in told[name]) for name in ("omniform", "llama.cpp"))
        print(f"{what}: {our:.1f}, llama.cpp {other:.1f}: {our / other:.2f}x")


async def soaked(url: str, count: int, clients: int) -> tuple[int, int]:
    """How many answers came, and how many clients went away; a wrong answer is an error."""
    rng = random.Random(2)
    seats = asyncio.Semaphore(clients)
    answered = gone = 0
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=3600)

    async def one(number: int) -> None:
        nonlocal answered, gone
        secret = f"{number:08d}-{rng.getrandbits(48):012x}"
        leaves = rng.random() < 0.2
        async with seats:
            stream = await client.chat.completions.create(
                model="model",
                messages=[{"role": "user", "content": f"say {secret}"}],
                max_tokens=64,
                stream=True,
                extra_body={"guide": [secret]},
            )
            text = ""
            async for chunk in stream:
                text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
                if leaves and text:
                    gone += 1
                    await stream.close()
                    return
            if text != secret:
                raise SystemExit(f"another's words: {text!r} instead of {secret!r}")
            answered += 1

    pending: set[asyncio.Task[None]] = set()
    for number in range(count):
        pending.add(asyncio.create_task(one(number)))
        if len(pending) >= 2 * clients:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    await asyncio.gather(*pending)
    return answered, gone


def soak(given: argparse.Namespace) -> None:
    """Many requests, some of which nobody waits for; with so little room that what is kept of prompts fills it soon."""
    with server(given.model, "--memory", "256MB") as (url, pid):
        asyncio.run(soaked(url, min(given.requests, 500), given.clients))
        before = memory_of(pid)
        started = time.perf_counter()
        answered, gone = asyncio.run(soaked(url, given.requests, given.clients))
        seconds = time.perf_counter() - started
        time.sleep(1)
        print(f"{answered} answers, {gone} clients went away, {given.requests / seconds:.1f} requests a second; "
              f"memory {before / 1e6:.1f} MB, then {memory_of(pid) / 1e6:.1f} MB")  # fmt: skip
        engine = httpx.get(f"{url}/engine")
        print(engine.text if engine.status_code == 200 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("load", "overhead", "soak", "beside"))
    parser.add_argument("model", nargs="?", default=str(bundled_checkpoint()))
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second, at random times; 0: at once")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--raw", action="store_true", help="httpx instead of OpenAI's client, which takes 1 to 2 ms")
    parser.add_argument("--llama-server", default="llama-server", help="llama.cpp's program")
    given = parser.parse_args()
    {"load": load, "overhead": overhead, "soak": soak, "beside": beside}[given.what](given)


if __name__ == "__main__":
    main()
