"""DETR's kin: the same pictures and annotations, other ways to read what the model found."""

from __future__ import annotations

from omniform.core.batch import Batch
from omniform.inputs.images import postprocess
from omniform.inputs.images.detr import DetectingImageProcessor, DetrImageProcessor
from omniform.inputs.images.postprocess import DetectionOutput, Detections, TargetSizes
from omniform.inputs.images.segments import Queries, query_maps


class ConditionalDetrImageProcessor(DetrImageProcessor):
    """Conditional DETR's: each class is learnt for itself, and there is no class of nothing."""

    def post_process_object_detection(
        self,
        outputs: DetectionOutput,
        threshold: float = 0.5,
        target_sizes: TargetSizes | None = None,
        top_k: int = 100,
    ) -> list[Detections]:
        """See :func:`~omniform.inputs.images.postprocess.best_detections`."""
        return postprocess.best_detections(outputs, threshold=threshold, target_sizes=target_sizes, top_k=top_k)

    def _semantic(self, queries: Queries, target_sizes: TargetSizes | None) -> list[Batch]:
        return query_maps(queries, target_sizes=target_sizes, null=False)


class DeformableDetrImageProcessor(DetectingImageProcessor):
    """Deformable DETR's."""

    def post_process_object_detection(
        self,
        outputs: DetectionOutput,
        threshold: float = 0.5,
        target_sizes: TargetSizes | None = None,
        top_k: int = 100,
    ) -> list[Detections]:
        """See :func:`~omniform.inputs.images.postprocess.best_detections`."""
        return postprocess.best_detections(outputs, threshold=threshold, target_sizes=target_sizes, top_k=top_k)


class RTDetrImageProcessor(DetectingImageProcessor):
    """RT-DETR's."""

    def post_process_object_detection(
        self,
        outputs: DetectionOutput,
        threshold: float = 0.5,
        target_sizes: TargetSizes | None = None,
        use_focal_loss: bool = True,
    ) -> list[Detections]:
        """See :func:`~omniform.inputs.images.postprocess.query_detections`."""
        return postprocess.query_detections(
            outputs, threshold=threshold, target_sizes=target_sizes, use_focal_loss=use_focal_loss
        )


class YolosImageProcessor(DetectingImageProcessor):
    """YOLOS'."""

    def post_process_object_detection(
        self, outputs: DetectionOutput, threshold: float = 0.5, target_sizes: TargetSizes | None = None
    ) -> list[Detections]:
        """See :func:`~omniform.inputs.images.postprocess.object_detection`."""
        return postprocess.object_detection(outputs, threshold=threshold, target_sizes=target_sizes)
