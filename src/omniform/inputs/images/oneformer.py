"""OneFormer's processor: one model for three tasks, told which by a text."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, cast

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import ConfigError, InputError, RepoError, brief
from omniform.core.upstairs import upstairs
from omniform.inputs.checks import check_flag, fraction
from omniform.inputs.images import options as of
from omniform.inputs.images.binary_masks import Masks, Semantics
from omniform.inputs.images.class_maps import ClassMaps
from omniform.inputs.images.detr import fused_classes
from omniform.inputs.images.maps import MapInput
from omniform.inputs.images.masked import pixel_mask
from omniform.inputs.images.maskformer import QueryImageProcessor
from omniform.inputs.images.postprocess import TargetSizes, sizes_of
from omniform.inputs.images.processor import ImageInput, TensorKind
from omniform.inputs.images.segments import (
    Enlarger,
    MaskOutput,
    Segmentation,
    assigned,
    best_pairs,
    bilinear,
    by_queries,
    query_maps,
    segments,
    smoothed,
    with_run_lengths,
)
from omniform.inputs.media_access import MediaAccess

# What stands for every object of a picture that has fewer than num_text, by the task. The words are those that the
# published checkpoints learned.
_NOTHING_MORE = {"semantic": "a semantic photo", "instance": "an instance photo", "panoptic": "an panoptic photo"}


class OneFormerImageProcessor(ClassMaps[MaskOutput], QueryImageProcessor):
    """Preprocesses pictures, tasks and maps of segments, and turns queries into segments."""

    model_input_names: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_mask", "task_inputs")

    # The base takes any keyword in its signature, and refuses these names when called.
    def __call__(  # type: ignore[override]
        self,
        images: ImageInput,
        task_inputs: Sequence[str] | None = None,
        segmentation_maps: MapInput | None = None,
        instance_id_to_semantic_id: Semantics | None = None,
        *,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """Preprocess pictures and, for training, their maps of segments.

        Args:
            images: one picture or several, of any sizes.
            task_inputs: ``"semantic"``, ``"instance"`` or ``"panoptic"`` for each; ``["panoptic"]`` by default.
            segmentation_maps: one for each: the number of a segment (or class) for every pixel.
            instance_id_to_semantic_id: the class of each number, for all pictures or for each.
            return_tensors: ``"pt"`` or ``"np"`` for tensors; None for lists.
            media_access: which files and addresses may be read, and how many pixels.
            overrides: options of :class:`~omniform.inputs.images.options.OneFormerOptions`, for this call.

        Returns:
            ``pixel_values [N, C, H, W]``, ``pixel_mask [N, H, W]`` and ``task_inputs``, texts; with maps also
            ``mask_labels``, ``class_labels`` and ``text_inputs``, for each picture ``num_text`` texts.

        Raises:
            InputError: as for every processor; or a map is none or of another size than its picture, a segment has no
                class, or there is no such task.
        """
        options = cast(of.OneFormerOptions, self._changed(return_tensors, overrides))
        tasks = ["panoptic"] if task_inputs is None else _tasks(task_inputs)
        olds, news, pixels = self._pictures(images, options, media_access)
        height, width = pixels.shape[-2:]
        mask = pixel_mask(news, height, width, pixels.device)
        data = {"pixel_values": self.gathered(pixels, options), "pixel_mask": self.gathered(mask, options)}
        if segmentation_maps is not None:
            found = self._masks(segmentation_maps, instance_id_to_semantic_id, (olds, news), options, media_access)
            learnt = self._learnt(found, tasks, options)
            value = options.ignore_index or 0
            data["mask_labels"] = [self.given(one.padded(height, width, value), options) for one, _ in learnt]
            data["class_labels"] = [self.given(one.classes, options) for one, _ in learnt]
            data["text_inputs"] = [texts for _, texts in learnt]
        data["task_inputs"] = [f"the task is {task}" for task in tasks]
        return Batch(data)

    def preprocess(  # type: ignore[override]
        self,
        images: ImageInput,
        task_inputs: Sequence[str] | None = None,
        segmentation_maps: MapInput | None = None,
        instance_id_to_semantic_id: Semantics | None = None,
        *,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """The same as calling the processor."""
        return self(
            images,
            task_inputs,
            segmentation_maps,
            instance_id_to_semantic_id,
            return_tensors=return_tensors,
            media_access=media_access,
            **overrides,
        )

    @property
    def metadata(self) -> Mapping[str, object]:
        """The classes: their names by their numbers (``"0"``), ``thing_ids`` and ``class_names``.

        Raises:
            InputError: the options name no file of them.
            RepoError, ConfigError: it cannot be read.
        """
        options = cast(of.OneFormerOptions, self.options)
        if options.metadata is not None:
            return options.metadata
        if not options.class_info_file:
            raise InputError(
                "nobody says what the classes are called",
                where="class_info_file",
                expected="the name of a file in repo_path",
                found="None",
            )
        return class_metadata(options.repo_path or "", options.class_info_file)

    def _learnt(
        self, found: Sequence[Masks], tasks: Sequence[str], options: of.OneFormerOptions
    ) -> list[tuple[Masks, list[str]]]:
        if len(tasks) < len(found):
            raise InputError("every picture needs a task", where="task_inputs", expected=len(found), found=len(tasks))
        if options.num_text is None:
            raise InputError("maps need num_text, which is not set", where="num_text", expected="how many texts")
        names, things = _names(self.metadata), _things(self.metadata)
        # Counted on over the batch, as its reference does.
        counts = dict.fromkeys(names.values(), 0)
        results = []
        for number, (one, task) in enumerate(zip(found, tasks, strict=False)):
            kept = _for_task(one, task, things)
            for label in kept.classes.tolist():
                if label not in names:
                    raise InputError(
                        f"class {label} has no name", where=f"segmentation_maps[{number}]", found=brief(sorted(names))
                    )
                counts[names[label]] += 1
            texts = [f"a photo with a {name}" for name, count in counts.items() for _ in range(count)]
            texts = texts[: options.num_text]
            results.append((kept, texts + [_NOTHING_MORE[task]] * (options.num_text - len(texts))))
        return results

    def scored_maps(self, outputs: MaskOutput, target_sizes: TargetSizes | None) -> list[Batch]:
        """See :func:`~omniform.inputs.images.segments.query_maps`."""
        # The slow class filters segments only.
        resize: Enlarger = smoothed if self.backend == "torchvision" else bilinear
        return query_maps(by_queries(outputs), target_sizes=target_sizes, resize=resize)

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
        """The instances of each picture: the best pairs of query and class, each pixel to the strongest mask.

        Args:
            outputs: the model's.
            task_type: with ``"panoptic"`` things only.
            is_demo: leave out pairs less likely than ``threshold``; without it, classes of ADE20k are numbered among
                the things.
            threshold, mask_threshold, overlap_mask_area_threshold, target_sizes: as in
                :func:`~omniform.inputs.images.segments.segments`.
            return_coco_annotation: give run lengths; a map of nothing stays a map.

        Raises:
            InputError: as there; or the classes' names are needed, and nobody says them.
        """
        check_flag("is_demo", is_demo)
        check_flag("return_coco_annotation", return_coco_annotation)
        queries = by_queries(outputs)
        threshold, least = fraction("threshold", threshold), fraction("mask_threshold", mask_threshold)
        share = fraction("overlap_mask_area_threshold", overlap_mask_area_threshold)
        sizes = sizes_of(target_sizes, len(queries.logits))
        results: list[Segmentation] = []
        for number, (logits, own) in enumerate(zip(queries.logits, queries.masks, strict=True)):
            scores, labels, masks = best_pairs(logits, own)
            keep = scores > threshold if is_demo else torch.ones_like(scores, dtype=torch.bool)
            if task_type == "panoptic":
                things = torch.tensor(_things(self.metadata), dtype=labels.dtype, device=labels.device)
                keep &= torch.isin(labels, things)
            labels = self._numbered(labels[keep], task_type, bool(is_demo))
            size = None if sizes is None else sizes[number]
            found = assigned(masks[keep], scores[keep], labels, least, share, frozenset(), size, smoothed)
            lengths = return_coco_annotation and bool(keep.any())
            results.append(with_run_lengths(found) if lengths else found)
        return results

    def post_process_panoptic_segmentation(
        self,
        outputs: MaskOutput,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        label_ids_to_fuse: set[int] | None = None,
        target_sizes: TargetSizes | None = None,
    ) -> list[Segmentation]:
        """See :func:`~omniform.inputs.images.segments.segments`."""
        return segments(
            by_queries(outputs),
            threshold=threshold,
            mask_threshold=mask_threshold,
            overlap_mask_area_threshold=overlap_mask_area_threshold,
            fuse=fused_classes(label_ids_to_fuse),
            target_sizes=target_sizes,
            resize=smoothed,
        )

    def _numbered(self, labels: Tensor, task_type: str, is_demo: bool) -> Tensor:
        """Classes, or where ADE20k is measured their places among the things."""
        named = cast(of.OneFormerOptions, self.options).class_info_file or ""
        if is_demo or "ade20k" not in named or "instance" not in task_type:
            return labels
        things = _things(self.metadata)
        for label in labels.tolist():
            if label not in things:
                raise InputError(f"class {label} is no thing", where="class_info_file", expected=brief(things))
        return torch.tensor([things.index(label) for label in labels.tolist()], dtype=labels.dtype)


def class_metadata(repo: str, filename: str) -> dict[str, object]:
    """The classes that a file describes: ``{"0": {"name": "wall", "isthing": 0}, ...}``.

    Args:
        repo: a folder, or a repository of data (or else of a model).
        filename: the file in it.

    Raises:
        RepoError: there is no such file.
        ConfigError: it holds something else.
    """
    path = os.path.join(repo, filename)
    if not os.path.isfile(path):
        find = upstairs("hub.lookup:cached_file")
        try:
            path = cast(str, find(repo, filename, repo_type="dataset"))
        except RepoError:
            path = cast(str, find(repo, filename))
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
        named = {str(key): str(one["name"]) for key, one in told.items()}
        things = [int(key) for key, one in told.items() if one["isthing"]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise ConfigError("the file does not describe classes", where=str(path), found=found) from error
    return {**named, "thing_ids": things, "class_names": [*named.values()]}


def _names(metadata: Mapping[str, object]) -> dict[int, str]:
    return {int(key): str(name) for key, name in metadata.items() if key.isdigit()}


def _things(metadata: Mapping[str, object]) -> list[int]:
    return cast("list[int]", metadata["thing_ids"])


def _tasks(given: object) -> list[str]:
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, (list, tuple)) or not all(isinstance(one, str) for one in listed):
        raise InputError("tasks are words", where="task_inputs", expected="a list of them", found=brief(given))
    return list(listed)


def _for_task(found: Masks, task: str, things: Sequence[int]) -> Masks:
    """The segments that a task is about: of the same class one, only things, or all."""
    if task not in _NOTHING_MORE:
        raise InputError("there is no such task", where="task_inputs", expected=", ".join(_NOTHING_MORE), found=task)
    there = found.masks.flatten(1).any(1)
    if task == "instance":
        there &= torch.isin(found.classes, torch.tensor(things, dtype=torch.int64))
    masks, classes = found.masks[there], found.classes[there]
    if task != "semantic":
        return Masks(masks, classes)
    kinds = list(dict.fromkeys(classes.tolist()))
    merged = [masks[classes == kind].amax(0) for kind in kinds]
    return Masks(torch.stack(merged) if merged else masks, torch.tensor(kinds, dtype=torch.int64))
