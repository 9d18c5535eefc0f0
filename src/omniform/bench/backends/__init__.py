"""Who does it: libraries behind one small interface, each imported only in a process of its own."""

from __future__ import annotations

from importlib import import_module

from .base import Backend

MODULES: dict[str, tuple[str, str]] = {
    "omniform": ("omniform", "Omniform"),
    "transformers": ("transformers", "Transformers"),
    "llama_cpp": ("llama_cpp", "LlamaCpp"),
    "onnxruntime": ("onnxruntime", "OnnxRuntime"),
    "none": ("base", "Backend"),
}
"""The module and the class of each; ``none`` is for scenarios that bring their own work."""


def backend_class(kind: str) -> type[Backend]:
    """A backend by its name.

    Raises:
        KeyError: there is none.
    """
    module, name = MODULES[kind]
    found: type[Backend] = getattr(import_module(f".{module}", __package__), name)
    return found
