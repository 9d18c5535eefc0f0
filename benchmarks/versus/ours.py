"""omniform's side."""

from __future__ import annotations

import asyncio
from typing import Any

from .native import kernels
from .side import Chat, RefusedError, Run
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
        from pathlib import Path

        from omniform import AutoModelForCausalLM
        from omniform.core.errors import OmniformError

        asked = self.job.contender.format
        folder: str | Path = self.job.folder
        options: dict[str, Any] = {"dtype": dtype, "device_map": self.job.device}
        if asked == "smollm2":
            file = Path(self.job.files[asked])
            folder, options["gguf_file"] = file.parent, file.name
        elif asked != "auto":
            options["dtype"] = asked
        try:
            self.model = AutoModelForCausalLM.from_pretrained(folder, **options)
        except OmniformError as error:
            if asked == "auto":
                raise
            raise RefusedError(str(error)) from error
        self.model.generation_config.eos_token_id = None  # a trained model might end its answer early

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

    def load_encoder(self, name: str) -> None:
        from omniform import AutoModel

        self.model = AutoModel.from_pretrained(
            self.job.encoders[name], dtype="bfloat16", device_map=self.job.device
        ).eval()

    def encode(self, inputs: dict[str, Any]) -> Any:
        import torch

        with torch.inference_mode():
            return self.model(**inputs).last_hidden_state

    def facts(self) -> dict[str, Any]:
        if self.engine is None:
            return {"kernels": kernels()}
        stats = self.engine.stats()
        names = ("steps", "tokens_computed", "tokens_cached", "encoder_runs", "encoder_hits", "preemptions")
        found = {name: getattr(stats, name) for name in names}
        return {**found, "seconds": dict(stats.seconds), "kernels": kernels()}
