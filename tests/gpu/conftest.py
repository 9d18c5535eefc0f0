"""Where torchvision is built for this torch it is imported before ``reference`` stands in for its operators."""

from __future__ import annotations

import contextlib

import torch

if torch.cuda.is_available():
    with contextlib.suppress(Exception):
        import torchvision  # noqa: F401
