"""omniform's side."""

from __future__ import annotations

import asyncio
from typing import Any

from .side import Chat, Run
from .workloads import Job


class Ours:
    """Does the workloads with omniform."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.model: Any = None
        self.processor: Any = None
        self.engine: Any = None

    def prepare(self) -> None:
        from omniform import AutoModelForCausalLM, LlamaForCausalLM

        _ = AutoModelForCausalLM, LlamaForCausalLM

    def load(self, dtype: str = "auto") -> None:
        from omniform import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(self.job.folder, dtype=dtype, device_map=self.job.device)

    def write(self, prompt: list[int], new: int) -> list[int]:
        import torch

        ids = torch.tensor([prompt], device=self.job.device)
        written: list[int] = self.model.generate(ids, max_new_tokens=new, do_sample=False)[0, len(prompt) :].tolist()
        return written

    def batch(self) -> Run:
        from omniform import Engine

        engine = self.engine = Engine(self.model, prefix_cache=self.job.contender.way != "uncached")

        def run(prompts: list[list[int]], new: int) -> list[list[int]]:
            done = engine.generate_batch(prompts, max_new_tokens=new, do_sample=False)
            return [list(completion.tokens) for completion in done]

        return run

    def load_chats(self) -> None:
        from omniform import AutoModelForImageTextToText, AutoProcessor

        self.model = AutoModelForImageTextToText.from_pretrained(
            self.job.pictures, dtype="float32", device_map=self.job.device
        )
        self.processor = AutoProcessor.from_pretrained(self.job.pictures)

    def chat(self, chats: list[Chat]) -> list[list[str]]:
        from omniform import Engine

        engine = self.engine = Engine(self.model, self.processor)

        async def talk(chat: Chat) -> list[str]:
            answers: list[str] = []
            while len(answers) < len(chat.questions):
                messages = chat.messages(answers)
                completion = await engine.submit(messages, max_new_tokens=self.job.sizes.answer, do_sample=False)
                answers.append(completion.text.strip())
            return answers

        async def everyone() -> list[list[str]]:
            return list(await asyncio.gather(*(talk(chat) for chat in chats)))

        return asyncio.run(everyone())

    def facts(self) -> dict[str, Any]:
        if self.engine is None:
            return {}
        stats = self.engine.stats()
        names = ("steps", "tokens_computed", "tokens_cached", "encoder_runs", "encoder_hits", "preemptions")
        return {**{name: getattr(stats, name) for name in names}, "seconds": dict(stats.seconds)}
