"""llama.cpp, on its C interface as llama-cpp-python shows it: its own loop would add Python to every token."""

from __future__ import annotations

import ctypes
import itertools
import socket
import subprocess
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from ..job import Job, RefusedError, die_with_parent
from .base import Backend, Told, ended, ready, unheard

BATCH = 512
"""Tokens that are handed over at once, llama.cpp's own default."""

SEATS = 32
"""Clients of a server that are answered at once."""

Entry = tuple[int, int, int, bool]
"""A token, its place, its row, and whether the next one is wanted."""


class LlamaCpp(Backend):
    """llama.cpp, with a GGUF file."""

    PACKAGES = ("llama_cpp", "llama-cpp-python", "numpy")
    CAN = frozenset({"prepare", "load", "write", "quantize", "serve"})

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.api: Any = None
        self.model: Any = None
        self.context: Any = None
        self.room = 0, 0
        self.server: subprocess.Popen[str] | None = None

    def prepare(self) -> None:
        """Import it, and silence it."""
        self.api = api = import_module("llama_cpp")
        self.numpy = import_module("numpy")
        self._silent = api.llama_log_callback(lambda level, text, data: None)  # kept: it is called later
        api.llama_log_set(self._silent, None)

    def load(self, task: str = "text-generation") -> None:
        """Load the file."""
        if task != "text-generation":
            raise RefusedError(f"llama_cpp does not do {task}")
        api = self.api
        api.llama_backend_init()
        params = api.llama_model_default_params()
        params.n_gpu_layers = 0 if self.device == "cpu" else 999
        self.model = api.llama_model_load_from_file(self.job.model.encode(), params)
        if not self.model:
            raise RefusedError(f"llama.cpp does not load {self.job.model}")
        self._tokens = int(api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model)))

    def vocabulary(self) -> int:
        """As the file has it."""
        return self._tokens

    def served(self) -> str:
        """llama.cpp's own program, with a seat of 512 tokens for every one of many clients."""
        given = self.options.get("options") or {}
        program = str(given.get("program") or "llama-server")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        threads = str(self.job.threads)
        command = [program, "-m", self.job.model, "--port", str(port), "-np", str(SEATS), "-c", str(512 * SEATS),
                   "-t", threads, "-tb", threads, "--no-webui", "--jinja"]  # fmt: skip
        try:
            self.server = subprocess.Popen(command, text=True, preexec_fn=die_with_parent)
        except OSError as error:
            raise RefusedError(f"llama.cpp's server {program!r} cannot be started: {error.strerror}") from None
        return ready(f"http://127.0.0.1:{port}", "/health", self.server)

    def end(self) -> None:
        """End the server."""
        ended(self.server)

    def _open(self, length: int, rows: int) -> None:
        """A context for so many tokens in all; the one that is there, if it is large enough."""
        if self.context is not None and length <= self.room[0] and rows <= self.room[1]:
            self.api.llama_memory_clear(self.api.llama_get_memory(self.context), False)
            return
        if self.context is not None:
            self.api.llama_free(self.context)
        params = self.api.llama_context_default_params()
        params.kv_unified = True  # one buffer for all rows: they may differ in length
        params.n_ctx, params.n_seq_max = length, rows
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = self.job.threads
        self.context = self.api.llama_init_from_model(self.model, params)
        if not self.context:
            raise RefusedError("llama.cpp makes no context")
        self.room = length, rows

    def write(
        self, prompts: Sequence[Sequence[int]], new: int, told: Told = unheard, beams: int = 1
    ) -> list[list[int]]:
        """Read all prompts, then write a token of each at a time, the likeliest."""
        self._open(sum(len(row) + new for row in prompts), len(prompts))
        entries = [
            (token, place, row, place == len(prompt) - 1)
            for row, prompt in enumerate(prompts)
            for place, token in enumerate(prompt)
        ]
        last = [token for part in _parts(entries) for token in self._read(part)]
        told()
        answers = [[token] for token in last]
        for step in range(new - 1):
            following = [(last[row], len(prompt) + step, row, True) for row, prompt in enumerate(prompts)]
            last = [token for part in _parts(following) for token in self._read(part)]
            told()
            for answer, token in zip(answers, last, strict=True):
                answer.append(token)
        return answers

    def _read(self, entries: Sequence[Entry]) -> list[int]:
        api = self.api
        batch = api.llama_batch_init(len(entries), 0, 1)
        batch.n_tokens = len(entries)
        for k, (token, place, row, wanted) in enumerate(entries):
            batch.token[k], batch.pos[k], batch.n_seq_id[k], batch.logits[k] = token, place, 1, wanted
            batch.seq_id[k][0] = row
        try:
            if api.llama_decode(self.context, batch) != 0:
                raise RefusedError("llama.cpp has no room for these tokens")
            return [self._likeliest(k) for k, entry in enumerate(entries) if entry[3]]
        finally:
            api.llama_batch_free(batch)

    def _likeliest(self, place: int) -> int:
        scores = self.api.llama_get_logits_ith(self.context, place)
        sized = ctypes.cast(scores, ctypes.POINTER(ctypes.c_float * self._tokens)).contents
        return int(self.numpy.frombuffer(sized, dtype=self.numpy.float32).argmax())


def _parts(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    rest = iter(entries)
    while part := list(itertools.islice(rest, BATCH)):
        yield part
