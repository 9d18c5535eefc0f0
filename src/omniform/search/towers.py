"""Pictures and texts as vectors of one space."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, Self, cast, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput
from omniform.hub.auto import AutoModelForZeroShotImageClassification
from omniform.hub.auto_inputs import AutoProcessor
from omniform.hub.bundled import bundled_checkpoint
from omniform.hub.checkpoint import Name
from omniform.hub.remote import together

if TYPE_CHECKING:
    from PIL.Image import Image

Array = npt.NDArray[np.float32]


@runtime_checkable
class Compares(Protocol):
    """A model that gives pictures and texts vectors in one space."""

    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def get_image_features(self, pixel_values: Tensor, **inputs: object) -> BaseModelOutput: ...
    def get_text_features(self, input_ids: Tensor, **inputs: object) -> BaseModelOutput: ...


@runtime_checkable
class Lengthens(Protocol):
    """A model that says itself how long texts were in its training."""

    def text_length(self) -> int | None: ...


def padding_for(model: object) -> dict[str, object]:
    """How a tokenizer pads the texts that a model compares with pictures."""
    length = model.text_length() if isinstance(model, Lengthens) else None
    return {"padding": True} if length is None else {"padding": "max_length", "max_length": length, "truncation": True}


@runtime_checkable
class Reads(Protocol):
    """A processor of pictures and texts."""

    def __call__(self, images: object = None, text: object = None, **options: object) -> dict[str, Tensor]: ...


class Towers:
    """Turns pictures and texts into vectors of length 1 that can be compared.

    Args:
        model: with two towers (:class:`~omniform.architectures.dual_encoder.TwoTowers`).
        processor: of its pictures and texts.
        name: what it is called.

    Raises:
        InputError: the model has no vectors of pictures and texts in one space.
    """

    def __init__(self, model: object, processor: object, name: str) -> None:
        if not isinstance(model, Compares) or not isinstance(processor, Reads):
            raise InputError(
                "this model does not compare pictures with texts",
                where=name,
                expected="two towers that meet in one space, as CLIP's or SigLIP's, and their processor",
                found=type(model if not isinstance(model, Compares) else processor).__name__,
            )
        self.model, self.processor, self.name = model, processor, name

    @classmethod
    def load(cls, name: Name | None = None, *, dtype: str = "auto") -> Self:
        """The towers of a checkpoint.

        Args:
            name: a folder or a Hub id; by default the checkpoint for this that comes with omniform.
            dtype: what it is computed with.

        Raises:
            InputError, RepoError: there is no such checkpoint, or it compares nothing.
        """
        place = bundled_checkpoint("search") if name is None else name
        with together():
            model = AutoModelForZeroShotImageClassification.from_pretrained(place, dtype=dtype)
            if torch.cuda.is_available():
                model.to("cuda")
            called = str(name) if name is not None else bundled_checkpoint("search").name
            return cls(model, AutoProcessor.from_pretrained(place), called)

    @property
    def dtype(self) -> str:
        """What it is computed with."""
        return str(self.model.dtype).removeprefix("torch.")

    def pictures(self, images: Sequence[Image]) -> Array:
        """One vector for each picture. Shape: [n, E]."""
        return self._unit(self.model.get_image_features, self.processor(images=list(images), return_tensors="pt"))

    def texts(self, texts: Sequence[str]) -> Array:
        """One vector for each text. Shape: [n, E].

        Raises:
            InputError: a text is longer than the model reads.
        """
        read = self.processor(text=list(texts), return_tensors="pt", **padding_for(self.model))
        return self._unit(self.model.get_text_features, read)

    @cached_property
    def print(self) -> Array:
        """What tells this model from others, whatever they are called: its vectors of a picture and of a text. Shape:
        [2, E]."""
        from PIL import Image

        ramp = Image.linear_gradient("L").resize((64, 64))
        picture = Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180)))
        return np.concatenate([self.pictures([picture]), self.texts(["a picture of something red and blue"])])

    @torch.no_grad()
    def _unit(self, tower: object, inputs: dict[str, Tensor]) -> Array:
        model = self.model
        given = {name: x.to(model.device, model.dtype if x.is_floating_point() else None) for name, x in inputs.items()}
        pooled = tower(**given).pooler_output  # type: ignore[operator]
        return cast(Array, torch.nn.functional.normalize(pooled.float(), dim=-1).cpu().numpy())
