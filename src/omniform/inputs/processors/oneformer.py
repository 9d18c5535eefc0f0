"""OneFormer's processor: pictures, the task that a model is told in words, and the words that its queries learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self, cast

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, brief
from omniform.core.reader import ConfigReader
from omniform.inputs.audio import FeatureExtractor
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.maps import MapInput
from omniform.inputs.images.oneformer import OneFormerImageProcessor
from omniform.inputs.images.postprocess import TargetSizes
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.images.segments import MaskOutput, Segmentation
from omniform.inputs.processors.base import PartName, Parts, Processor, image_options
from omniform.inputs.processors.options import Part
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer

TASKS = ("semantic", "instance", "panoptic")

AS_THEY_ARE = {"do_resize": False, "do_rescale": False, "do_normalize": False, "do_reduce_labels": False}
"""Options for pictures that are pixel values already."""


class OneFormerProcessor(Processor):
    """Pictures and a task for each; with maps of segments also masks, classes and texts to train with.

    Args:
        image_processor: of the pictures; it knows the classes' names.
        tokenizer: of tasks and texts.
        max_seq_length: how many tokens a text has, padding included.
        task_seq_length: how many a task has.
        chat_template: the template for conversations; by default the tokenizer's.

    Raises:
        InputError: an image processor of another model.
    """

    needs: ClassVar[tuple[PartName, ...]] = ("image_processor", "tokenizer")
    settings: ClassVar[tuple[str, ...]] = ("max_seq_length", "task_seq_length")

    def __init__(
        self,
        image_processor: ImageProcessor,
        tokenizer: Tokenizer,
        max_seq_length: int = 77,
        task_seq_length: int = 77,
        *,
        chat_template: ChatTemplates = None,
    ) -> None:
        super().__init__(tokenizer, chat_template=chat_template)
        if not isinstance(image_processor, OneFormerImageProcessor):
            found = type(image_processor).__name__
            raise InputError(
                "this processor knows no tasks",
                where="image_processor",
                expected="OneFormerImageProcessor",
                found=found,
            )
        self.image_processor = image_processor
        self.max_seq_length = max_seq_length
        self.task_seq_length = task_seq_length

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the processor of a folder."""
        assert parts.image_processor is not None
        r = ConfigReader(parts.settings, where=f"{parts.where}: processor_config.json")
        return cls(
            parts.image_processor,
            parts.tokenizer,
            max_seq_length=r.integer("max_seq_length", 77),
            task_seq_length=r.integer("task_seq_length", 77),
            chat_template=parts.chat_template,
        )

    # The base takes any keyword in its signature.
    def __call__(  # type: ignore[override]
        self,
        images: ImageInput | None = None,
        task_inputs: str | Sequence[str] | None = None,
        segmentation_maps: MapInput | None = None,
        **options: object,
    ) -> Batch:
        """Turn pictures and tasks into the model's inputs.

        Args:
            images: one picture or several.
            task_inputs: ``"semantic"``, ``"instance"`` or ``"panoptic"``, for each picture.
            segmentation_maps: one for each, to train with: the number of a segment (or class) for every pixel.
            options: of the image processor (:class:`~omniform.inputs.images.options.OneFormerOptions`), flat or as
                ``images_kwargs``; and ``instance_id_to_semantic_id``, the class of each number.

        Returns:
            ``pixel_values [N, C, H, W]``, ``pixel_mask [N, H, W]``; ``task_inputs [N, task_seq_length]``, token ids, 0
            for padding; with maps also ``mask_labels``, ``class_labels`` and ``text_inputs [N, num_text,
            max_seq_length]``.

        Raises:
            InputError: no pictures, no tasks or others than the three; or what the image processor refuses.
            UnknownArgumentError: there is no such option.
        """
        if images is None:
            raise InputError("there are no pictures", where="images", expected="one or several", found="None")
        tasks = _tasks(task_inputs)
        asked = self._options(options, ("instance_id_to_semantic_id",))
        batch = self.image_processor(images, tasks, segmentation_maps, **asked.own, **asked.images)  # type: ignore[arg-type]
        batch["task_inputs"] = self.tokens(cast("list[str]", batch["task_inputs"]), self.task_seq_length)
        if "text_inputs" in batch:
            texts = cast("list[list[str]]", batch["text_inputs"])
            batch["text_inputs"] = torch.stack([self.tokens(row, self.max_seq_length) for row in texts])
        return batch

    def encode_inputs(
        self,
        images: ImageInput | None = None,
        task_inputs: str | Sequence[str] | None = None,
        segmentation_maps: MapInput | None = None,
        **options: object,
    ) -> Batch:
        """The same of pictures that are pixel values already: they are padded, and nothing else is done to them."""
        return self(images, task_inputs, segmentation_maps, **{**AS_THEY_ARE, **options})

    def tokens(self, texts: Sequence[str], length: int) -> Tensor:
        """Token ids of texts, cut or padded with 0 to one length. Shape: [texts, length]."""
        if not texts:
            return torch.zeros(0, length, dtype=torch.int64)
        found = self.tokenizer(list(texts), padding="max_length", max_length=length, truncation=True)
        return torch.tensor(found["input_ids"]) * torch.tensor(found["attention_mask"])

    def post_process_semantic_segmentation(
        self, outputs: MaskOutput, target_sizes: TargetSizes | None = None, return_segmentation_scores: bool = False
    ) -> list[Tensor] | list[Batch]:
        """See :meth:`~omniform.inputs.images.oneformer.OneFormerImageProcessor.post_process_semantic_segmentation`."""
        told = self.image_processor.post_process_semantic_segmentation
        return told(outputs, target_sizes, return_segmentation_scores)  # type: ignore[call-overload, no-any-return]

    def post_process_instance_segmentation(
        self,
        outputs: MaskOutput,
        task_type: str = "instance",
        is_demo: bool = True,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        target_sizes: TargetSizes | None = None,
        return_coco_annotation: bool = False,
    ) -> list[Segmentation]:
        """See :meth:`~omniform.inputs.images.oneformer.OneFormerImageProcessor.post_process_instance_segmentation`."""
        return self.image_processor.post_process_instance_segmentation(
            outputs,
            task_type,
            is_demo,
            threshold,
            mask_threshold,
            overlap_mask_area_threshold,
            target_sizes,
            return_coco_annotation,
        )

    def post_process_panoptic_segmentation(
        self,
        outputs: MaskOutput,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        label_ids_to_fuse: set[int] | None = None,
        target_sizes: TargetSizes | None = None,
    ) -> list[Segmentation]:
        """See :meth:`~omniform.inputs.images.oneformer.OneFormerImageProcessor.post_process_panoptic_segmentation`."""
        return self.image_processor.post_process_panoptic_segmentation(
            outputs, threshold, mask_threshold, overlap_mask_area_threshold, label_ids_to_fuse, target_sizes
        )

    @property
    def model_input_names(self) -> list[str]:
        """The entries that a full batch has: its texts are under names of their own."""
        return list(self.image_processor.model_input_names)

    def to_dict(self) -> dict[str, object]:
        own = {"max_seq_length": self.max_seq_length, "task_seq_length": self.task_seq_length}
        return {**super().to_dict(), **own}

    def _parts(self) -> dict[str, ImageProcessor | FeatureExtractor]:
        return {"image_processor": self.image_processor}

    def _known(self) -> dict[Part, frozenset[str]]:
        return {"images": image_options(self.image_processor)}


def _tasks(given: object) -> list[str]:
    tasks = [given] if isinstance(given, str) else given
    if not isinstance(tasks, (list, tuple)) or not tasks or any(task not in TASKS for task in tasks):
        raise InputError("there is no such task", where="task_inputs", expected=", ".join(TASKS), found=brief(given))
    return list(tasks)
