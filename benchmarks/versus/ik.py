"""ik_llama.cpp's side: llama.cpp's calls with a few names of its own, through ik-llama-cpp-python.

Weights are interleaved while they are loaded (``repack_tensors``), which is its fastest way on a CPU.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

from .llamacpp import LlamaCpp


class IkLlamaCpp(LlamaCpp):
    """Answers prompts with ik_llama.cpp."""

    def prepare(self) -> None:
        self.api = importlib.import_module("ik_llama_cpp._ctypes_api")
        # Its package does not bind these two.
        self.library = importlib.import_module("ik_llama_cpp._lib_loader").load_shared_library()

    def _hush(self) -> None:
        kind = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self.silent = kind(lambda level, text, data: None)
        self.library.llama_log_set(self.silent, None)

    def _model_params(self) -> Any:
        params = super()._model_params()
        params.repack_tensors = True
        params.use_mmap = False  # weights that are mapped are not repacked
        return params

    def _context_params(self) -> Any:
        return self.api.llama_context_default_params()

    def _clear(self) -> None:
        self.api.llama_kv_cache_clear(self.context)

    def _use_threads(self, writing: int, reading: int) -> None:
        self.library.llama_set_n_threads(ctypes.c_void_p(self.context), writing, reading)
