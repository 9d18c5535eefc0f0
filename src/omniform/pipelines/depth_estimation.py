"""How far away the things of a picture are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypedDict, cast, runtime_checkable

import numpy as np
from torch import Tensor

from omniform.core.errors import InputError, brief
from omniform.hub.auto import AutoModelForDepthEstimation
from omniform.pipelines.base import Params
from omniform.pipelines.batching import Inputs
from omniform.pipelines.given import tensor
from omniform.pipelines.registry import Task
from omniform.pipelines.seeing import Cell, Seeing, size_of

if TYPE_CHECKING:
    from PIL.Image import Image


class Depth(TypedDict):
    """The depth of each pixel, [H, W], as the model has it, and as a picture of mode L: 0 the least, 255 the most."""

    predicted_depth: Tensor
    depth: Image


@runtime_checkable
class Measures(Protocol):
    """A processor that brings depth to the size of the picture."""

    def post_process_depth_estimation(
        self, outputs: object, sizes: Sequence[tuple[int, int]], /
    ) -> Sequence[Mapping[str, Tensor]]: ...


class DepthEstimationPipeline(Seeing):
    """Tells how far away each pixel is: a :class:`Depth` for a picture.

    Options are those of :class:`~omniform.pipelines.seeing.Seeing`; ``parameters={"timeout": ...}`` is an older way to
    say the timeout.
    """

    columns = ("min", "median", "max", "unit")

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        parameters = given.pop("parameters", None)
        if parameters is not None:
            if not isinstance(parameters, Mapping):
                raise InputError("not a mapping of options", where="parameters", found=brief(parameters))
            given = {**given, **{str(name): value for name, value in parameters.items()}}
        return self.reading(given), {}, {}

    def preprocess(self, input_: object, **given: object) -> Inputs:
        """The pixels of a picture, and its size."""
        picture = self.picture(input_, given)
        return {**self.pixels(picture), "target_size": size_of(picture)}

    def _forward(self, input_tensors: Inputs, **given: object) -> object:
        return self.look(input_tensors)

    def postprocess(self, model_outputs: object, **given: object) -> Depth:
        """The depth of one picture."""
        if not isinstance(self.image_processor, Measures):
            raise InputError(
                "this processor measures no depth",
                where="post_process_depth_estimation",
                found=type(self.image_processor).__name__,
            )
        height, width = tensor(model_outputs, "target_size")[0].tolist()
        found = self.image_processor.post_process_depth_estimation(model_outputs, [(height, width)])[0]
        depth_HW = found["predicted_depth"]
        return {"predicted_depth": depth_HW, "depth": grey(depth_HW)}

    @property
    def unit(self) -> str | None:
        """The unit of the numbers: ``"m"`` where the config says that it measures, None where they are relative."""
        config = self.model.config
        measures = config.get("depth_estimation_type") == "metric" or config.get("bin_configurations") is not None
        return "m" if measures else None

    def draw(self, picture: Image, answer: object) -> Image:
        """The picture, and beside it its depth in colours, with their scale."""
        from omniform.pipelines.drawing import draw_depth

        return draw_depth(picture, cast(Depth, answer)["predicted_depth"].float().numpy(), unit=self.unit)

    def rows(self, answer: object) -> list[Mapping[str, Cell]]:
        """One row: the least, the middle and the most."""
        depth = cast(Depth, answer)["predicted_depth"].float()
        numbers = {"min": depth.min().item(), "median": depth.median().item(), "max": depth.max().item()}
        return [{**numbers, "unit": self.unit or "relative"}]

    def plain(self, answer: object) -> object:
        """How large the map is, and its least, middle and largest number."""
        return {"shape": [*cast(Depth, answer)["predicted_depth"].shape], **self.rows(answer)[0]}


def grey(depth_HW: Tensor) -> Image:
    """Depth as a picture of mode L, the least black and the most white; all black where all is one number."""
    from PIL import Image

    depth = depth_HW.detach().cpu().float().numpy()
    spread = depth.max() - depth.min()
    shares = (depth - depth.min()) / spread if spread > 0 else np.zeros_like(depth)
    return Image.fromarray((shares * 255).astype(np.uint8))


TASKS = (
    Task(
        name="depth-estimation",
        pipeline=DepthEstimationPipeline,
        models=(AutoModelForDepthEstimation,),
        kind="image",
        inferred=("depth-estimation",),
    ),
)

__all__ = ["TASKS", "Depth", "DepthEstimationPipeline"]
