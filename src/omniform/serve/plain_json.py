"""Answers of pipelines as JSON holds them: pictures as data URLs, arrays as lists, nothing that anybody could run."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from omniform.serve.errors import APIError


def plain(value: object) -> object:
    """A value as JSON holds it; numbers that are none are null.

    Raises:
        APIError: it is nothing that JSON could hold.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Image):
        return _picture(value)
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return plain((value.float() if value.dtype is torch.bfloat16 else value).tolist())
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if isinstance(value, Iterable):
        return [plain(one) for one in value]
    raise APIError(400, f"this answer cannot be told: a {type(value).__name__}", code="answer_not_json")


def _picture(image: Image) -> str:
    out = io.BytesIO()
    image.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
