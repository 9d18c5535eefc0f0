"""Masks of everything in a picture: where to point, which masks to keep, and how they are told (SAM, section 5).

Facts and order of steps are the ecosystem's, so that the same masks come out of the same scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, product
from typing import NamedTuple, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.core.errors import InputError

NEAR = 20.0
"""How near to a crop's edge a box is taken to be cut off by it, in pixels."""


class RunLengths(TypedDict):
    """A mask as the lengths of its runs, column by column, the first outside: ``size`` is ``[height, width]``."""

    size: list[int]
    counts: list[int]


class Crops(NamedTuple):
    """Where to point.

    Attributes:
        boxes: left, top, right, bottom of every crop in pixels of the picture. Shape: [crops, 4].
        points: x and y in pixels of the model's pictures. Shape: [1, points, crops, 2].
        pictures: the crops, Shape: [C, h, w] each.
        labels: 1 for every point. Shape: [1, points, crops].
    """

    boxes: Tensor
    points: Tensor
    pictures: list[Tensor]
    labels: Tensor


def crops_of(image: Tensor, target: int, layers: int, overlap: float, per_side: int, downscale: float) -> Crops:
    """A picture cut into crops, and a grid of points in each.

    Args:
        image: Shape: [C, H, W].
        target: length of the longer edge of the model's pictures.
        layers: how often the picture is cut, each time into four times as many crops; 0 for not at all.
        overlap: of neighbours, as a part of the shorter edge, in the first layer.
        per_side: points below one another in a crop, and beside one another.
        downscale: by how much there are fewer of them from one layer to the next.

    Raises:
        InputError: crops of different layers have other numbers of points.
    """
    height, width = image.shape[-2:]
    boxes, depths = crop_boxes(layers, overlap, (height, width))
    counts = {int(per_side / downscale**depth) for depth in depths}
    if len(counts) > 1 or min(counts) < 1:
        raise InputError(
            "all crops of a call have as many points",
            where="crop_n_points_downscale_factor",
            expected="1 where a picture is cut" if min(counts) else "a point at least",
            found=f"{sorted(counts)} points a side",
        )
    pictures = [image[:, top:bottom, left:right] for left, top, right, bottom in boxes]
    grids = [_grid(counts.copy().pop(), (crop.shape[-2], crop.shape[-1]), target) for crop in pictures]
    points = torch.stack(grids)[None].permute(0, 2, 1, 3)
    return Crops(torch.tensor(boxes).float(), points, pictures, torch.ones(points.shape[:3], dtype=torch.int64))


def crop_boxes(layers: int, overlap: float, size: tuple[int, int]) -> tuple[list[list[int]], list[int]]:
    """Left, top, right and bottom of every crop, and how deep it lies; the first is the picture itself."""
    height, width = size
    boxes, depths = [[0, 0, width, height]], [0]
    for depth in range(1, layers + 1):
        side = 2**depth
        shared = int(overlap * min(size) * (2 / side))
        across, down = (math.ceil((shared * (side - 1) + edge) / side) for edge in (width, height))
        lefts, tops = ([(step - shared) * i for i in range(side)] for step in (across, down))
        for left, top in product(lefts, tops):
            boxes.append([left, top, min(left + across, width), min(top + down, height)])
            depths.append(depth)
    return boxes, depths


def scaled(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """A picture's height and width when its longer edge has a length, rounded."""
    scale = longest * 1.0 / max(size)
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def _grid(side: int, size: tuple[int, int], target: int) -> Tensor:
    """Evenly spaced points of a crop, in pixels of the model's pictures. Shape: [points, 2]."""
    half = 1 / (2 * side)
    line = torch.linspace(half, 1 - half, side)
    points = torch.stack((line.repeat(side), line.repeat_interleave(side)), dim=-1) * torch.tensor(size[::-1])
    height, width = scaled(size, target)
    return torch.stack((points[:, 0] * (width / size[1]), points[:, 1] * (height / size[0])), dim=-1)


def kept_masks(
    masks: Tensor,
    scores: Tensor,
    size: tuple[int, int],
    crop: Tensor,
    *,
    iou: float,
    stability: float,
    threshold: float,
    offset: float,
) -> tuple[list[RunLengths], Tensor, Tensor]:
    """The masks of a crop that are good, stable and not cut off by its edge.

    Args:
        masks: scores of pixels, Shape: [prompts, masks, h, w].
        scores: expected overlaps, Shape: [prompts, masks].
        size: height and width of the picture.
        crop: left, top, right, bottom.

    Returns:
        The masks in the picture, their scores [n], their boxes [n, 4].
    """
    masks, scores = masks.flatten(0, 1), scores.flatten(0, 1).to(masks.device)
    keep = torch.ones(len(masks), dtype=torch.bool, device=masks.device)
    if iou > 0.0:
        keep &= scores > iou
    if stability > 0.0:
        least, most = ((masks > threshold + sign * offset).sum((-1, -2), dtype=torch.int32) for sign in (1, -1))
        keep &= least / most > stability
    scores, inside = scores[keep], masks[keep] > threshold
    boxes = boxes_of(inside)
    whole = ~_cut_off(boxes, crop, size)
    scores, inside, boxes = scores[whole], inside[whole], boxes[whole]
    left, top, right, bottom = (int(edge) for edge in crop)
    boxes = boxes + torch.tensor([left, top, left, top], device=boxes.device)
    inside = F.pad(inside, (left, size[1] - right, top, size[0] - bottom), value=0)
    return [run_lengths(mask) for mask in inside], scores, boxes


def boxes_of(masks: Tensor) -> Tensor:
    """First and last column and row of each mask; zeros for an empty one. Shape: [n, H, W] to [n, 4]."""
    if not masks.numel():
        return torch.zeros(*masks.shape[:-2], 4, device=masks.device)
    found = []
    for lines in (masks.any(-2).int(), masks.any(-1).int()):
        found.append((lines.argmax(-1), lines.shape[-1] - 1 - lines.flip(-1).argmax(-1)))
    (left, right), (top, bottom) = found
    boxes = torch.stack((left, top, right, bottom), dim=-1)
    return boxes * masks.flatten(-2).any(-1)[:, None]


def _cut_off(boxes: Tensor, crop: Tensor, size: tuple[int, int]) -> Tensor:
    """Which boxes touch an edge of their crop that is none of the picture. Shape: [n, 4] to [n]."""
    edges = crop.to(boxes.device, torch.float)
    frame = torch.tensor([0, 0, size[1], size[0]], dtype=torch.float, device=boxes.device)
    moved = (boxes + torch.stack((edges[0], edges[1], edges[0], edges[1]))).float()
    return (((moved - edges).abs() <= NEAR) & ~((moved - frame).abs() <= NEAR)).any(-1)


def run_lengths(mask: Tensor) -> RunLengths:
    """A mask as the lengths of its runs. Shape: [H, W]."""
    height, width = mask.shape
    flat = mask.t().flatten()
    changes = ((flat[1:] != flat[:-1]).nonzero().flatten() + 1).tolist()
    edges = [0, *changes, height * width]
    counts = [end - start for start, end in pairwise(edges)]
    return {"size": [height, width], "counts": [0, *counts] if bool(flat[0]) else counts}


def mask_of(runs: RunLengths) -> Tensor:
    """The mask that lengths of runs stand for. Shape: [H, W], of true and false."""
    height, width = runs["size"]
    counts = torch.tensor(runs["counts"])
    inside = (torch.arange(len(counts)) % 2).bool()
    return inside.repeat_interleave(counts).view(width, height).t()


def apart(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The boxes that no better one covers (non-maximum suppression), the best first. Shape: [n, 4] to [kept].

    Args:
        threshold: the overlap (intersection by union) from which on a box is covered.
    """
    order = scores.sort(descending=True, stable=True).indices
    edges = boxes.float()[order]
    areas = (edges[:, 2:] - edges[:, :2]).prod(-1)
    alive = torch.ones(len(order), dtype=torch.bool, device=order.device)
    for number in range(len(order)):
        if not alive[number]:
            continue
        rest = edges[number + 1 :]
        corners = (torch.minimum(rest[:, 2:], edges[number, 2:]) - torch.maximum(rest[:, :2], edges[number, :2])).clamp(
            min=0
        )
        shared = corners.prod(-1)
        alive[number + 1 :] &= ~(shared / (areas[number] + areas[number + 1 :] - shared) > threshold)
    return order[alive]


def best_masks(
    masks: Sequence[RunLengths], scores: Tensor, boxes: Tensor, threshold: float
) -> tuple[list[Tensor], Tensor, list[RunLengths], Tensor]:
    """The masks that no better one covers: each as a tensor and as runs, with their scores and boxes."""
    kept = apart(boxes, scores, threshold)
    runs = [masks[i] for i in kept.tolist()]
    return [mask_of(one) for one in runs], scores[kept], runs, boxes[kept]
