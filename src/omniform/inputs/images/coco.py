"""COCO annotations, as detection and panoptic data sets hold them, become the targets that DETR learns from.

The formats are those of https://cocodataset.org/#format-data; a panoptic picture codes the segment of each pixel in its
colour, as ``red + 256 * green + 256**2 * blue``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.core.errors import DependencyError, InputError, brief
from omniform.inputs.images.backends import Backend
from omniform.inputs.images.load import load_image

Annotation: TypeAlias = Mapping[str, object]
"""One picture's annotation, as the data set's JSON has it."""

Target: TypeAlias = dict[str, Tensor]
"""One picture's target: ``class_labels [N]``, ``boxes [N, 4]``, ``area [N]``, ``masks [N, H, W]`` and so on."""


def detection_target(annotation: Annotation, height: int, width: int, *, masks: bool, where: str) -> Target:
    """The target of a picture with boxes, in pixels as ``(left, top, right, bottom)``, clipped to the picture.

    Crowds, and boxes that have no area once clipped, are left out.

    Args:
        annotation: ``image_id`` and ``annotations``, each with ``bbox`` as ``(left, top, width, height)``.
        masks: also draw the polygons of ``segmentation`` (needs pycocotools).

    Raises:
        InputError: the annotation lacks a field or holds something else.
        DependencyError: polygons are to be drawn, and pycocotools is not installed.
    """
    listed = [_entry(o, f"{where}.annotations[{n}]") for n, o in enumerate(_list(annotation, "annotations", where))]
    objects = [o for o in listed if not _is_crowd(o, where)]
    boxes = _numbers([_need(o, "bbox", where) for o in objects], torch.float32, where, "bbox").reshape(-1, 4).clone()
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, 0::2] = boxes[:, 0::2].clip(min=0, max=width)
    boxes[:, 1::2] = boxes[:, 1::2].clip(min=0, max=height)
    keep = (boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] > boxes[:, 0])
    classes = _numbers([_need(o, "category_id", where) for o in objects], torch.int64, where, "category_id")
    area = _numbers([_need(o, "area", where) for o in objects], torch.float32, where, "area")
    target = {
        "image_id": _numbers([_need(annotation, "image_id", where)], torch.int64, where, "image_id"),
        "class_labels": classes[keep],
        "boxes": boxes[keep],
        "area": area[keep],
        "iscrowd": torch.zeros_like(classes)[keep],
        "orig_size": torch.tensor([height, width]),
    }
    points = [o["keypoints"] for o in objects if "keypoints" in o]
    if points:
        if len(points) != len(objects):
            raise InputError("some objects have keypoints and some have none", where=where)
        kept = _numbers(points, torch.float32, where, "keypoints")[keep]
        if len(kept) and kept.numel() % 3:
            raise InputError("keypoints have three numbers each", where=where, found=list(kept.shape[1:]))
        target["keypoints"] = kept.reshape(-1, 3) if len(kept) else kept
    if masks:
        target["masks"] = _polygon_masks([_need(o, "segmentation", where) for o in objects], height, width)[keep]
    return target


def panoptic_target(
    annotation: Annotation, height: int, width: int, *, masks_path: str | Path | None, masks: bool, where: str
) -> Target:
    """The target of a picture with segments, from the picture that codes them.

    Args:
        annotation: ``image_id``, ``file_name`` and ``segments_info``.
        masks_path: the folder in which ``file_name`` lies.
        masks: keep the masks in the target.

    Raises:
        InputError: the annotation lacks a field, or the coding picture has another size.
        RepoError: there is no such coding picture.
    """
    segments = [
        _entry(s, f"{where}.segments_info[{n}]") for n, s in enumerate(_list(annotation, "segments_info", where))
    ]
    name = _need(annotation, "file_name", where)
    if not isinstance(masks_path, (str, Path)) or not isinstance(name, str):
        raise InputError(
            "panoptic annotations need the folder of their pictures", where="masks_path", found=brief(masks_path)
        )
    identity = _segment_ids(Path(masks_path) / name)
    if identity.shape != (height, width):
        raise InputError(
            "the coding picture has another size than the picture",
            where=where,
            expected=f"{height} x {width} (height x width)",
            found=f"{identity.shape[0]} x {identity.shape[1]}",
        )
    columns = {
        key: _numbers([_need(s, key, where) for s in segments], dtype, where, key)
        for key, dtype in (
            ("id", torch.int64),
            ("category_id", torch.int64),
            ("iscrowd", torch.int64),
            ("area", torch.float32),
        )
    }
    drawn = identity == columns["id"][:, None, None]
    target = {
        "image_id": _numbers([_need(annotation, "image_id", where)], torch.int64, where, "image_id"),
        "size": torch.tensor([height, width]),
        "orig_size": torch.tensor([height, width]),
        "boxes": boxes_of_masks(drawn),
        "class_labels": columns["category_id"],
        "iscrowd": columns["iscrowd"],
        "area": columns["area"],
    }
    if masks:
        target["masks"] = drawn
    return target


def resize_target(target: Target, old: tuple[int, int], new: tuple[int, int], backend: Backend) -> Target:
    """The target of a picture resized from ``(height, width)`` to another; masks as the backend takes the nearest."""
    ratio_y, ratio_x = new[0] / old[0], new[1] / old[1]
    result = {**target, "size": torch.tensor(new)}
    result["boxes"] = target["boxes"] * torch.tensor([ratio_x, ratio_y, ratio_x, ratio_y])
    result["area"] = target["area"] * (ratio_x * ratio_y)
    if "masks" in target:
        resized = [backend.resize(mask[None].to(torch.uint8), *new, 0)[0] for mask in target["masks"]]
        result["masks"] = torch.stack(resized).bool() if resized else target["masks"].new_zeros((0, *new))
    return result


def centred_target(target: Target, size: tuple[int, int]) -> Target:
    """The target with boxes as ``(centre x, centre y, width, height)``, in fractions of the picture."""
    left, top, right, bottom = target["boxes"].unbind(-1)
    boxes = torch.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], dim=-1)
    height, width = size
    return {**target, "boxes": boxes / torch.tensor([width, height, width, height], dtype=torch.float32)}


def pad_target(target: Target, old: tuple[int, int], new: tuple[int, int], *, fractions: bool) -> Target:
    """The target of a picture padded below and to the right; ``fractions`` says that boxes are relative."""
    if old == new:
        return target
    result = {**target, "size": torch.tensor(new)}
    if "masks" in target:
        result["masks"] = F.pad(target["masks"], (0, new[1] - old[1], 0, new[0] - old[0]))
    if fractions:
        ratio_y, ratio_x = old[0] / new[0], old[1] / new[1]
        result["boxes"] = target["boxes"] * torch.tensor([ratio_x, ratio_y, ratio_x, ratio_y])
    return result


def boxes_of_masks(masks: Tensor) -> Tensor:
    """The boxes around masks, as ``(left, top, right, bottom)`` of the outermost pixels.

    Args:
        masks: bool ``[N, H, W]``; an empty one has the box ``(1e8, 1e8, 0, 0)``, as in the reference.

    Returns:
        float32 ``[N, 4]``.
    """
    if masks.numel() == 0:
        return torch.zeros(0, 4)
    edges = []
    for occupied in (masks.any(dim=1), masks.any(dim=2)):  # columns, rows
        place = torch.arange(occupied.shape[1], dtype=torch.float32)
        edges.append((torch.where(occupied, place, 1e8).amin(1), (occupied * place).amax(1)))
    (left, right), (top, bottom) = edges
    return torch.stack([left, top, right, bottom], dim=1)


def _segment_ids(path: Path) -> Tensor:
    colour = torch.from_numpy(np.array(load_image(path))).to(torch.int32)
    return colour[..., 0] + 256 * colour[..., 1] + 256**2 * colour[..., 2]


def _polygon_masks(polygons: Sequence[object], height: int, width: int) -> Tensor:
    if not polygons:
        return torch.zeros(0, height, width, dtype=torch.bool)
    try:
        tools = importlib.import_module("pycocotools.mask")
    except ImportError as error:
        raise DependencyError(
            "drawing polygons needs pycocotools", where="return_segmentation_masks", remedy="pip install pycocotools"
        ) from error
    masks = []
    for polygon in polygons:
        try:
            drawn = torch.as_tensor(tools.decode(tools.frPyObjects(polygon, height, width)))
        except Exception as error:  # it checks nothing itself
            raise InputError("malformed annotation", where="segmentation", found=brief(polygon)) from error
        masks.append(drawn.reshape(height, width, -1).any(dim=2))
    return torch.stack(masks)


def _is_crowd(annotation: Annotation, where: str) -> bool:
    value = annotation.get("iscrowd")
    if value is not None and not isinstance(value, Integral):
        raise InputError("malformed annotation", where=f"{where}: iscrowd", expected="0 or 1", found=brief(value))
    return bool(value)


def _entry(value: object, where: str) -> Annotation:
    if not isinstance(value, Mapping):
        raise InputError("malformed annotation", where=where, expected="an object", found=type(value).__name__)
    return value


def _need(annotation: Annotation, key: str, where: str) -> object:
    if key not in annotation:
        raise InputError(f"the annotation has no {key!r}", where=where, found=", ".join(map(str, annotation)))
    return annotation[key]


def _list(annotation: Annotation, key: str, where: str) -> Sequence[object]:
    value = _need(annotation, key, where)
    if not isinstance(value, (list, tuple)):
        raise InputError("malformed annotation", where=f"{where}.{key}", expected="a list", found=type(value).__name__)
    return value


def _numbers(values: Sequence[object], dtype: torch.dtype, where: str, key: str) -> Tensor:
    try:
        # Rows that are arrays become one array first: torch would take them number by number, and warn of it.
        whole = np.asarray(values) if any(isinstance(value, np.ndarray) for value in values) else values
        tensor = torch.as_tensor(whole, dtype=dtype)
    except Exception as error:  # objects of any class come here, with errors of their own
        found = f"{brief(values)} ({type(error).__name__})"
        raise InputError("malformed annotation", where=f"{where}: {key}", expected="numbers", found=found) from error
    if key == "bbox" and values and tensor.shape[1:] != (4,):
        raise InputError("a box has four numbers", where=where, found=list(tensor.shape[1:]))
    return tensor
