"""llama.cpp's side, through llama-cpp-python: one row only, from a GGUF file."""

from __future__ import annotations

from typing import Any

from .side import Chat, Run
from .workloads import Job


class LlamaCpp:
    """Decodes and prefills one row with llama.cpp."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.model: Any = None

    def prepare(self) -> None:
        import llama_cpp  # noqa: F401

    def load(self, dtype: str = "auto") -> None:
        from llama_cpp import Llama

        sizes = self.job.sizes
        self.model = Llama(
            model_path=self.job.gguf,
            n_ctx=max(sizes.prompt + sizes.new, sizes.prefill + 1),
            n_batch=sizes.prefill,
            n_threads=self.job.threads,
            n_threads_batch=self.job.threads,
            n_gpu_layers=0 if self.job.device == "cpu" else -1,
            verbose=False,
        )

    def write(self, prompt: list[int], new: int) -> list[int]:
        # The generator reads the prompt, picks a token, and reads that token only when it is asked for the next one;
        # the others likewise never read the last token that they write.
        written: list[int] = []
        for token in self.model.generate(prompt, temp=0.0, repeat_penalty=1.0, reset=True):
            written.append(int(token))
            if len(written) == new:
                break
        return written

    def batch(self) -> Run:
        raise NotImplementedError("llama.cpp is measured on one row")

    def load_chats(self) -> None:
        raise NotImplementedError("llama.cpp is measured on one row")

    def chat(self, chats: list[Chat]) -> list[list[str]]:
        raise NotImplementedError("llama.cpp is measured on one row")

    def facts(self) -> dict[str, Any]:
        return {"gguf": self.job.gguf}
