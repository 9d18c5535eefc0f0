"""Where a model looks: the attention of its last layer, as a map over the picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.core.outputs import ModelOutput
from omniform.inputs.images import ImageProcessor
from omniform.pipelines.seeing import Seeing

if TYPE_CHECKING:
    from PIL.Image import Image

_STRIDES: Final = (4, 7, 8, 14, 16, 32, 64)
"""Pixels of a patch's side that are tried where a config does not say."""

_PREFIXES: Final = 8
"""So many tokens may stand before the patches, at most: a class, a teacher, registers."""


@dataclass(frozen=True, slots=True)
class Looked:
    """How much a model looked at each patch.

    Attributes:
        picture: what it looked at: the whole picture, or what its processor left of it.
        weights: how much, for each patch of a grid over that picture, top row first.
    """

    picture: Image
    weights: npt.NDArray[np.float32]


def attention_over(pipe: Seeing, picture: Image, given: Mapping[str, object]) -> Looked:
    """Where a pipeline's model looks.

    Of a detector it is the attention of its queries, by how sure they are; of a model with a class token that token's;
    else what each patch gets from all of them. Heads are averaged.

    Args:
        given: options of the call.

    Raises:
        InputError: the model gives no attention, or none over the whole picture.
    """
    before, _, _ = pipe._parameters(given)
    inputs = pipe.for_model(pipe.preprocess(picture, **{**pipe._preprocess_params, **before}))
    check_attends(pipe)
    with torch.no_grad():
        moved = {name: v.to(pipe.device) if isinstance(v, Tensor) else v for name, v in inputs.items()}
        output = pipe.model(**moved, output_attentions=True)
    pixels = cast(Tensor, inputs["pixel_values"])
    for weights, queries in _maps(output):
        found = _over_grid(weights, queries, pixels, pipe)
        if found is not None:
            return Looked(seen_by(pipe.image_processor, picture, pixels[0]), found.float().cpu().numpy())
    raise _none(pipe)


def check_attends(pipe: Seeing) -> None:
    """Refuse models that cannot be asked for attention.

    Raises:
        InputError: this is one.
    """
    if "output_attentions" not in pipe.model.accepts():
        raise _none(pipe)


def _maps(output: ModelOutput) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Attention of last layers, [1, heads, T, S], and how much each of the T counts, [T]; None where nobody says."""
    vision = output.get("vision_model_output")
    output = vision if isinstance(vision, ModelOutput) else output
    logits = output.get("logits")
    for name in ("cross_attentions", "encoder_attentions", "attentions"):
        layers = output.get(name)
        last = layers[-1] if isinstance(layers, tuple) and layers else None
        if not isinstance(last, Tensor) or last.dim() != 4 or last.shape[0] != 1:
            continue
        sure = None
        if name == "cross_attentions" and isinstance(logits, Tensor) and logits.shape[1:2] == last.shape[2:3]:
            sure = logits[0].float().softmax(-1)[:, :-1].amax(-1)
        yield last, sure


def _over_grid(weights: Tensor, sure: Tensor | None, pixels: Tensor, pipe: Seeing) -> Tensor | None:
    """How much is looked at each patch, [H, W]; None if these tokens are no grid over the picture."""
    mean_TS = weights[0].float().mean(0)
    if sure is not None:
        grid = _grid(mean_TS.shape[1], pixels, pipe, 0)
        return None if grid is None else (sure @ mean_TS / sure.sum())[: grid[0] * grid[1]].reshape(grid)
    if mean_TS.shape[0] != mean_TS.shape[1]:
        return None
    asking = pipe.model.config.get("num_detection_tokens")  # behind the patches
    behind = asking if isinstance(asking, int) else 0
    grid = _grid(mean_TS.shape[1] - behind, pixels, pipe, _PREFIXES)
    if grid is None:
        return None
    before = mean_TS.shape[1] - behind - grid[0] * grid[1]
    rows = mean_TS[-behind:] if behind else mean_TS[:1] if before else mean_TS
    return rows.mean(0)[before : before + grid[0] * grid[1]].reshape(grid)


def _grid(tokens: int, pixels: Tensor, pipe: Seeing, prefixes: int) -> tuple[int, int] | None:
    """The grid that so many tokens are, behind at most some others; by the patches' size or that of a map's pixels."""
    height, width = pixels.shape[-2:]
    said = pipe.model.config.get("patch_size")
    vision = pipe.model.config.get("vision_config")
    if said is None and isinstance(vision, Mapping):
        said = vision.get("patch_size")
    if isinstance(said, int) and said > 0:
        grid = height // said, width // said
        if 0 <= tokens - grid[0] * grid[1] <= prefixes:
            return grid
    for stride in _STRIDES:
        grid = -(-height // stride), -(-width // stride)
        if tokens - grid[0] * grid[1] in ((0, 1) if prefixes else (0,)):
            return grid
    return None


def seen_by(processor: object, picture: Image, pixels_CHW: Tensor) -> Image:
    """A picture; where a processor cuts or pads it, what it made of it, in its colours again."""
    from PIL import Image

    cuts = isinstance(processor, ImageProcessor) and (processor.do_center_crop or processor.pad_size is not None)
    if not cuts or not isinstance(processor, ImageProcessor):
        return picture
    values = pixels_CHW.float().cpu()
    if processor.do_normalize:
        std, mean = (torch.tensor(one).reshape(-1, 1, 1) for one in (processor.image_std, processor.image_mean))
        values = values * std + mean
    if processor.do_rescale and processor.rescale_factor:
        values = values / processor.rescale_factor
    return Image.fromarray(values.clamp(0, 255).byte().permute(1, 2, 0).expand(-1, -1, 3).numpy())


def _none(pipe: Seeing) -> InputError:
    return InputError(
        "the model gives no attention over the picture",
        where="attention",
        expected="one whose tokens are patches of the picture, such as a ViT or a DETR",
        found=type(pipe.model).__name__,
    )
