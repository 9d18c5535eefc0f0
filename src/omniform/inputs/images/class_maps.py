"""Maps of classes out of a model's outputs, as every processor of a segmenter gives them."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar, overload

from torch import Tensor

from omniform.core.batch import Batch
from omniform.inputs.checks import check_flag
from omniform.inputs.images.postprocess import TargetSizes

Out = TypeVar("Out")


class ClassMaps(Generic[Out]):
    """What a processor of a segmenter adds: the class of every pixel."""

    def scored_maps(self, outputs: Out, target_sizes: TargetSizes | None) -> list[Batch]:
        """Of each picture ``segmentation``, the class of every pixel, and ``segmentation_scores``."""
        raise NotImplementedError

    @overload
    def post_process_semantic_segmentation(
        self,
        outputs: Out,
        target_sizes: TargetSizes | None = None,
        return_segmentation_scores: Literal[False] = False,
    ) -> list[Tensor]: ...

    @overload
    def post_process_semantic_segmentation(
        self,
        outputs: Out,
        target_sizes: TargetSizes | None = None,
        *,
        return_segmentation_scores: Literal[True],
    ) -> list[Batch]: ...

    def post_process_semantic_segmentation(
        self,
        outputs: Out,
        target_sizes: TargetSizes | None = None,
        return_segmentation_scores: bool = False,
    ) -> list[Tensor] | list[Batch]:
        """The class of every pixel of each picture; with scores, each map beside its scores.

        Args:
            outputs: what the model gave.
            target_sizes: height and width of each original picture, to which its map is resized.
            return_segmentation_scores: give batches with ``segmentation`` and ``segmentation_scores``.

        Raises:
            InputError: sizes that do not fit the outputs, or a flag that is none.
        """
        check_flag("return_segmentation_scores", return_segmentation_scores)
        scored = self.scored_maps(outputs, target_sizes)
        return scored if return_segmentation_scores else [one.tensor("segmentation") for one in scored]
