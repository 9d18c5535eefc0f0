"""llama.cpp's side, on its C interface: llama-cpp-python's own loop would add Python to every token.

One row, or many as parallel sequences. The number of threads is the best one, found by trying before anything is
measured.
"""

from __future__ import annotations

import ctypes
import importlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from .clocks import now
from .side import Chat, Run
from .workloads import Job

BATCH = 512
"""Tokens that are handed over at once, llama.cpp's own default."""
TRIED = 8
"""Tokens written to find the best number of threads."""


class LlamaCpp:
    """Answers prompts with llama.cpp."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.api: Any = None
        self.model: Any = None
        self.context: Any = None
        self.vocabulary = 0
        self.threads: dict[str, int] = {}

    def prepare(self) -> None:
        self.api = importlib.import_module("llama_cpp")

    def load(self, dtype: str = "auto") -> None:
        api, sizes = self.api, self.job.sizes
        self._hush()
        api.llama_backend_init()
        path = self.job.files[self.job.contender.format]
        self.model = api.llama_model_load_from_file(path.encode(), self._model_params())
        if self.model is None:
            raise RuntimeError(f"llama.cpp does not load {path}")
        self.vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self._open(max(sizes.prompt + sizes.new, sizes.prefill + 1), 1)
        self._find_threads()

    def _hush(self) -> None:
        self.silent = self.api.llama_log_callback(lambda level, text, data: None)  # kept: llama.cpp calls it later
        self.api.llama_log_set(self.silent, None)

    def _model_params(self) -> Any:
        params = self.api.llama_model_default_params()
        params.n_gpu_layers = 0 if self.job.device == "cpu" else 999
        return params

    def _context_params(self) -> Any:
        params = self.api.llama_context_default_params()
        # One buffer for all sequences: without, a batch must have as many tokens of one as of another, or is cut up.
        params.kv_unified = True
        return params

    def _clear(self) -> None:
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), False)

    def _use_threads(self, writing: int, reading: int) -> None:
        self.api.llama_set_n_threads(self.context, writing, reading)

    def _open(self, length: int, rows: int) -> None:
        """A fresh context for so many tokens in all."""
        if self.context is not None:
            self.api.llama_free(self.context)
        params = self._context_params()
        params.n_ctx, params.n_seq_max = length, rows
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = self.threads.get("decode", self.job.threads)
        params.n_threads_batch = self.threads.get("prefill", self.job.threads)
        self.context = self.api.llama_init_from_model(self.model, params)
        if self.context is None:
            raise RuntimeError("llama.cpp makes no context")

    def _find_threads(self) -> None:
        """Try all threads, one fewer, and half of them: the best for writing and for reading are kept."""
        most = self.job.threads
        counts = sorted({most, most - 1, most // 2} - {0}, reverse=True)
        spent: dict[int, tuple[float, float]] = {}
        self.write([1, 2, 3], 2)
        for count in counts if len(counts) > 1 else []:
            self._use_threads(count, count)
            started = now("wall")
            self.write(list(range(self.job.sizes.prefill)), 1)
            read = now("wall")
            self.write([1], 1 + TRIED)
            spent[count] = read - started, now("wall") - read
        reading, writing = (min(spent, key=lambda n: spent[n][k], default=most) for k in range(2))
        self.threads = {"decode": writing, "prefill": reading}
        self._use_threads(writing, reading)

    def _read(self, entries: Sequence[tuple[int, int, int, bool]]) -> list[int]:
        """Read tokens, each with its place and its sequence; the likeliest next ones, where they are wanted."""
        api = self.api
        batch = api.llama_batch_init(len(entries), 0, 1)
        batch.n_tokens = len(entries)
        for k, (token, place, row, wanted) in enumerate(entries):
            batch.token[k], batch.pos[k], batch.n_seq_id[k], batch.logits[k] = token, place, 1, wanted
            batch.seq_id[k][0] = row
        if api.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama.cpp has no room for these tokens")
        found = [self._likeliest(k) for k, entry in enumerate(entries) if entry[3]]
        api.llama_batch_free(batch)
        return found

    def _likeliest(self, place: int) -> int:
        import numpy

        scores = self.api.llama_get_logits_ith(self.context, place)
        sized = ctypes.cast(scores, ctypes.POINTER(ctypes.c_float * self.vocabulary)).contents
        return int(numpy.frombuffer(sized, dtype=numpy.float32).argmax())

    def write(self, prompt: list[int], new: int) -> list[int]:
        return self._answer([prompt], new)[0]

    def _answer(self, prompts: list[list[int]], new: int) -> list[list[int]]:
        """Read all prompts, then write a token of each at a time; the last tokens that are written are never read."""
        self._clear()
        entries = [
            (token, place, row, place == len(prompt) - 1)
            for row, prompt in enumerate(prompts)
            for place, token in enumerate(prompt)
        ]
        last = [token for part in _parts(entries) for token in self._read(part)]
        answers = [[token] for token in last]
        for step in range(new - 1):
            following = [(last[row], len(prompt) + step, row, True) for row, prompt in enumerate(prompts)]
            last = [token for part in _parts(following) for token in self._read(part)]
            for answer, token in zip(answers, last, strict=True):
                answer.append(token)
        return answers

    def batch(self) -> Run:
        sizes = self.job.sizes
        # Room for the longest prompts and the longest answers of any workload.
        each = sizes.prefix + max(sizes.longest, sizes.prompt) + max(sizes.row_new, sizes.profiled + 1)
        self._open(sizes.rows * each, sizes.rows)
        return self._answer

    def load_chats(self) -> None:
        raise NotImplementedError("llama.cpp is asked nothing about pictures")

    def chat(self, chats: list[Chat]) -> list[list[str]]:
        raise NotImplementedError("llama.cpp is asked nothing about pictures")

    def load_encoder(self, name: str) -> None:
        raise NotImplementedError("llama.cpp encodes nothing here")

    def encode(self, inputs: dict[str, Any]) -> Any:
        raise NotImplementedError("llama.cpp encodes nothing here")

    def facts(self) -> dict[str, Any]:
        return {"file": self.job.files[self.job.contender.format], "best_threads": self.threads}


def _parts(entries: list[tuple[int, int, int, bool]]) -> Iterator[Sequence[tuple[int, int, int, bool]]]:
    rest = iter(entries)
    while part := list(itertools.islice(rest, BATCH)):
        yield part
