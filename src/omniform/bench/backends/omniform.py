"""omniform itself, by what it shows to users: any commit of it."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from importlib import import_module
from typing import Any

from ..job import Job, RefusedError, die_with_parent
from .base import Answering, Told, ended, ready
from .on_torch import OnTorch


class Omniform(OnTorch):
    """omniform."""

    LIBRARY = "omniform"
    PACKAGES = ("omniform", "torch", "numpy", "safetensors", "tokenizers")
    CAN = frozenset({"prepare", "load", "forward", "write", "beams", "engine", "serve", "pipeline", "train",
                     "preprocess", "export", "quantize", "continuous", "settings"})  # fmt: skip

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.server: subprocess.Popen[str] | None = None
        self.engine: Any = None

    def loading(self) -> dict[str, Any]:
        """``quantize`` becomes what the command line makes of it."""
        given = super().loading()
        if self.options.get("quantize") and not str(self.options["quantize"]).startswith("gguf:"):  # that is a file
            made = import_module("omniform.export.quantizing").on_loading
            given |= made(str(self.options["quantize"]), str(given.get("dtype", "auto")))
        return {**given, "device_map": self.device} if self.device != "cpu" else given

    def placed(self, model: Any) -> Any:
        """It was placed as it was loaded."""
        return model

    def batched(self, prompts: list[list[int]], new: int) -> list[list[int]]:
        """By an engine, the same one for all calls."""
        if self.engine is None:
            self.engine = self.library.Engine(self.model, **dict(self.options.get("engine") or {}))
        done = self.engine.generate_batch(prompts, max_new_tokens=new, do_sample=False)
        return [list(one.tokens) for one in done]

    def answering(self) -> Answering:
        """Its engine."""
        self.engine = engine = self.library.Engine(self.model, **dict(self.options.get("engine") or {}))

        def answer(prompt: Any, new: int, told: Told) -> None:
            for piece in engine.submit(list(prompt), max_new_tokens=new, do_sample=False):
                if piece.token is not None:
                    told()

        return answer

    def served(self) -> str:
        """``omniform serve``, in a process of its own."""
        command = [sys.executable, "-m", "omniform", "serve", f"model={self.job.model}", "--port", "0"]
        for name in ("dtype", "quantize"):
            if self.options.get(name):
                command += [f"--{name}", str(self.options[name])]
        self.server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
        assert self.server.stderr is not None
        said: list[str] = []
        for line in self.server.stderr:
            said.append(line.strip())
            found = re.search(r"http://[\w.\[\]:-]+", line)
            if found is not None:
                threading.Thread(target=self.server.stderr.read, daemon=True).start()
                return ready(found[0], "/ready", self.server)
        raise RefusedError(f"the server ended: {' '.join(said[-3:])}")

    def export(self, form: str, folder: str) -> None:
        """By ``model.export``."""
        if not hasattr(self.model, "export"):
            raise RefusedError("this omniform has no model.export")
        self.model.export(form, folder)

    def end(self) -> None:
        """End the server, and the engine."""
        ended(self.server)
        if self.engine is not None:
            self.engine.close()
