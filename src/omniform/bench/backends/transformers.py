"""transformers, used as its documentation says."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..job import RefusedError
from .on_torch import OnTorch


class Transformers(OnTorch):
    """transformers."""

    LIBRARY = "transformers"
    PACKAGES = ("transformers", "torch", "numpy", "safetensors", "tokenizers")
    CAN = frozenset({"prepare", "load", "forward", "write", "beams", "pipeline", "train", "preprocess", "continuous",
                     "settings"})  # fmt: skip

    def imported(self) -> Any:
        """It imports torchvision, whose builds for CUDA ask a torch without it for operators: those are defined."""
        torch = self.torch
        if find_spec("torchvision") is not None and torch.version.cuda is None:
            for name in ("nms", "qnms"):
                if not hasattr(torch.ops.torchvision, name):
                    torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
        library = import_module(self.LIBRARY)
        library.logging.set_verbosity_error()
        library.logging.disable_progress_bar()
        return library

    def batched(self, prompts: list[list[int]], new: int) -> list[list[int]]:
        """By ``generate_batch``, whose setting up happens once.

        On a CPU its defaults fill 60 % of the memory with cache and masks, for 8,192 tokens a step, and take many
        seconds to set up. These hold 24 prompts of 256 tokens; of 256, 512 and 2,048 tokens a step, 512 did best in a
        run each.
        """
        library, how = self.library, dict(self.options.get("engine") or {})
        if self.device == "cpu":
            how = {"num_blocks": 64, "max_batch_tokens": 512, **how}
        settings = library.GenerationConfig(
            max_new_tokens=new, do_sample=False, eos_token_id=-1, bos_token_id=1, pad_token_id=0
        )
        done = self.model.generate_batch(
            prompts, generation_config=settings, continuous_batching_config=library.ContinuousBatchingConfig(**how),
            max_new_tokens=new, progress_bar=False, persistent_manager=True,
        )  # fmt: skip
        if len(done) != len(prompts) or any(row.error for row in done.values()):
            raise RefusedError("generate_batch did not answer every prompt")
        return [list(row.generated_tokens) for row in done.values()]

    def loading(self) -> dict[str, Any]:
        """Its quantizers have configs of their own, which ``options`` may hold."""
        if self.options.get("quantize"):
            raise RefusedError("transformers has no option quantize; pass its quantization_config in backend.options")
        return super().loading()
