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
    CAN = frozenset({"prepare", "load", "forward", "write", "beams", "pipeline", "train", "preprocess"})

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

    def loading(self) -> dict[str, Any]:
        """Its quantizers have configs of their own, which ``options`` may hold."""
        if self.options.get("quantize"):
            raise RefusedError("transformers has no option quantize; pass its quantization_config in backend.options")
        return super().loading()
