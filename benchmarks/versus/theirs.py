"""The reference's side: transformers, used as its documentation says."""

from __future__ import annotations

from typing import Any

from .side import Chat, Run
from .workloads import Job


def stand_in_for_torchvision() -> None:
    """Define the operators that torchvision's Python parts ask for by name, where its build does not fit this torch."""
    import torch

    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")


class Theirs:
    """Does the workloads with transformers."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.model: Any = None
        self.processor: Any = None
        self.encoder_runs = 0

    def prepare(self) -> None:
        if self.job.torchvision_fails:
            stand_in_for_torchvision()
        # Its loading would import the family, and through its config torchvision; an import is an import here.
        from transformers import AutoModelForCausalLM, LlamaForCausalLM, logging

        _ = AutoModelForCausalLM, LlamaForCausalLM
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def load(self, dtype: str = "auto") -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(self.job.folder, dtype=dtype).to(self.job.device)

    def write(self, prompt: list[int], new: int) -> list[int]:
        return self._padded([prompt], new)[0]

    def _padded(self, prompts: list[list[int]], new: int) -> list[list[int]]:
        import torch

        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in prompts], device=self.job.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=self.job.device)
        output = self.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=new, do_sample=False)
        written: list[list[int]] = output[:, width:].tolist()
        return written

    def batch(self) -> Run:
        return self._continuous if self.job.contender.way == "continuous" else self._in_groups

    def _in_groups(self, prompts: list[list[int]], new: int) -> list[list[int]]:
        size = self.job.sizes.padded_rows
        groups = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        return [row for group in groups for row in self._padded(group, new)]

    def _continuous(self, prompts: list[list[int]], new: int) -> list[list[int]]:
        from transformers import ContinuousBatchingConfig, GenerationConfig

        # On a CPU the defaults fill 60 % of the memory with cache and masks, for 8,192 tokens a step, and take many
        # seconds to set up. These hold the whole workload; of 256, 512 and 2,048 tokens, 512 did best in a run each.
        options = {} if self.job.device != "cpu" else {"num_blocks": 64, "max_batch_tokens": 512}
        done = self.model.generate_batch(
            prompts,
            generation_config=GenerationConfig(
                max_new_tokens=new, do_sample=False, eos_token_id=-1, bos_token_id=1, pad_token_id=0
            ),
            continuous_batching_config=ContinuousBatchingConfig(**options),
            max_new_tokens=new,
            progress_bar=False,
            persistent_manager=True,  # the one of the warm-up: setting it up is not in the time
        )
        if len(done) != len(prompts) or any(row.error for row in done.values()):
            raise RuntimeError("generate_batch did not answer every prompt")
        return [list(row.generated_tokens) for row in done.values()]

    def load_chats(self) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.model = AutoModelForImageTextToText.from_pretrained(self.job.pictures, dtype="float32").to(self.job.device)
        self.processor = AutoProcessor.from_pretrained(self.job.pictures)
        self.model.model.vision_tower.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.encoder_runs += 1

    def chat(self, chats: list[Chat]) -> list[list[str]]:
        self.encoder_runs = 0
        everything = []
        for chat in chats:
            answers: list[str] = []
            while len(answers) < len(chat.questions):
                answers.append(self._answer(chat.messages(answers)))
            everything.append(answers)
        return everything

    def _answer(self, messages: list[dict[str, Any]]) -> str:
        inputs = self.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self.job.device)
        output = self.model.generate(**inputs, max_new_tokens=self.job.sizes.answer, do_sample=False)
        written = output[0, inputs["input_ids"].shape[1] :]
        return str(self.processor.decode(written, skip_special_tokens=True)).strip()

    def load_encoder(self, name: str) -> None:
        from transformers import AutoModel

        self.model = AutoModel.from_pretrained(self.job.encoders[name], dtype="bfloat16").to(self.job.device).eval()

    def encode(self, inputs: dict[str, Any]) -> Any:
        import torch

        with torch.inference_mode():
            return self.model(**inputs).last_hidden_state

    def facts(self) -> dict[str, Any]:
        return {"encoder_runs": self.encoder_runs} if self.processor is not None else {}
