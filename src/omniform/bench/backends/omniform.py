"""omniform itself, by what it shows to users: any commit of it."""

from __future__ import annotations

from typing import Any

from .on_torch import OnTorch


class Omniform(OnTorch):
    """omniform."""

    LIBRARY = "omniform"
    PACKAGES = ("omniform", "torch", "numpy", "safetensors", "tokenizers")
    CAN = frozenset({"prepare", "load", "forward", "write", "beams", "engine", "serve", "pipeline", "train",
                     "preprocess", "export", "quantize"})  # fmt: skip

    def loading(self) -> dict[str, Any]:
        """``quantize`` becomes what the command line makes of it."""
        given = super().loading()
        if self.options.get("quantize"):
            from importlib import import_module

            extra = import_module("omniform.export.quantizing").on_loading(
                str(self.options["quantize"]), str(given.get("dtype", "auto"))
            )
            given = {**given, **extra}
        return {**given, "device_map": self.device} if self.device != "cpu" else given

    def placed(self, model: Any) -> Any:
        """It was placed as it was loaded."""
        return model
