"""Putting a checkpoint's tensors where they were placed: mapped, converted, copied to a device or left on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

import torch
from torch import Tensor, nn

from omniform.architectures.model import Model
from omniform.core.background import Background
from omniform.core.errors import RepoError
from omniform.hub.devices import as_device
from omniform.hub.place import Layout, Part, Placement
from omniform.transforms.offload import Offload, Stay
from omniform.weights.pages import prefetch
from omniform.weights.safetensors import map_tensors, read_header, release
from omniform.weights.tensors import assign, tensors_and_ties, tie
from omniform.weights.transform import Transform

CHUNK = 2**23
"""Bytes that are converted before they are let go: what is read at any time stays small beside the weights."""

SHARE = 2**15 - 1
"""So many numbers torch converts in the thread that asks. Our threads share the tensors; torch's would wait for one
another at every call, which costs most where other processes want the same cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """How to load.

    Attributes:
        dtype: dtype of the floating-point tensors; None keeps the files' own.
        device_map: a strategy, a device, a mapping of module paths to devices; None for the default device.
        max_memory: bounds by device, for the strategies.
        offload_folder: where weights are kept that go to disk and that the checkpoint holds in another form.
        ignore_mismatched_sizes: make tensors of the wrong shape anew instead of refusing them.
        copied: read the weights into memory, mapping nothing.
        transforms: edits of the model, in their order.
    """

    dtype: torch.dtype | None = None
    device_map: object = None
    max_memory: object = None
    offload_folder: Path | None = None
    ignore_mismatched_sizes: bool = False
    copied: bool = False
    transforms: tuple[Transform, ...] = ()


def fill(model: nn.Module, views: dict[str, Tensor], layout: Layout, placement: Placement, how: Loading) -> list[str]:
    """Put a checkpoint's tensors into a model that was built on the meta device, allocate the others, tie.

    Args:
        views: the checkpoint's tensors by our paths, as mapped; emptied on the way, so that each can go at once.

    Returns:
        The paths of the others: what is in them is undefined.

    Raises:
        RepoError: the folder for what goes to disk cannot be written.
    """
    tensors, ties = tensors_and_ties(model)
    fresh = [path for path in tensors if path not in views]
    for path in fresh:
        where = as_device(placement.places[path])
        assign(model, path, torch.empty(tensors[path].shape, dtype=layout.stored[path].dtype, device=where))
    to_disk = {path for path in views if placement.places[path] == "disk"}
    parts = model.key_map().parts if isinstance(model, Model) else {}
    _fetch([v for path, v in views.items() if path not in to_disk and (path not in parts or v.is_contiguous())])
    jobs = []
    for part in placement.parts:
        moved = [p for p in part.tensors if p in to_disk and not layout.stored[p].mapped]
        if moved:
            assert how.offload_folder is not None
            jobs.append(partial(_rewritten, part, {p: views.pop(p) for p in moved}, layout, how.offload_folder))
    for path in list(views):
        view, dtype, device = views.pop(path), layout.stored[path].dtype, as_device(placement.places[path])
        # Of a matrix whose inputs are divided a little is needed of every row: that is read, and lies together then.
        copied = (how.copied and path not in to_disk) or (path in parts and not view.is_contiguous())
        if view.dtype == dtype and view.device == device and not copied:
            # Where it lies in the file, and with a count of writes of its own: views of one file share theirs, so that
            # a batch norm that counts its batches would have all weights pass for changed, and backward refuse them.
            assign(model, path, view.data)
        else:
            jobs.append(partial(_one, path, view, dtype, device))
        del view
    for found in _all(jobs):
        for path, tensor in found.items():
            assign(model, path, tensor)
    for path, owner in ties.items():
        tie(model, path, owner)
    return fresh


def visits(model: nn.Module, placement: Placement) -> Offload:
    """What a model needs whose parts lie in several places, or on disk."""
    cpu = torch.device("cpu")
    several = any(place not in ("cpu", "disk") for place in placement.places.values()) and not placement.is_single
    stays = []
    for part in placement.parts:
        home, device = as_device(part.place), as_device(placement.runs_on(part))
        mapped = part.place == "disk" and device == cpu
        if mapped or several:
            visiting = part.tensors if mapped or home != device else ()
            parent = part.path.rpartition(".")[0]
            layer = bool(part.path) and isinstance(model.get_submodule(parent), nn.ModuleList)
            stays.append(Stay(part.path, visiting, device, mapped, layer))
    return Offload(stays, as_device(placement.main))


def _all(jobs: Sequence[Callable[[], dict[str, Tensor]]]) -> Iterator[dict[str, Tensor]]:
    """The results of all jobs. torch computes and copies without Python's lock, so threads do work side by side."""
    with ThreadPoolExecutor(min(8, torch.get_num_threads())) as pool:
        futures = [pool.submit(job) for job in jobs]
        del jobs
        while futures:
            yield futures.pop(0).result()


def _fetch(views: Sequence[Tensor]) -> None:
    """Have the kernel read files ahead, while modules are filled and the caller goes on."""
    if not views:
        return
    stopped = Event()

    def fetch() -> None:
        for view in views:
            prefetch(view, stopped)

    Background(fetch, stopped.set, "omniform-fetch")


def _one(path: str, view: Tensor, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    return {path: converted(view, dtype, device)}


def converted(view: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A copy of a mapped tensor in another dtype or on a device; its pages are let go on the way."""
    made = torch.empty_like(view, dtype=dtype, device=device)
    if not view.numel():
        return made
    if view.dim() == 0:
        made.copy_(view)
        return made
    axis = max(range(view.dim()), key=view.stride)
    numbers = max(1, view.numel() // view.shape[axis])
    at_once = CHUNK // (view.dtype.itemsize * numbers) or 1
    for source, target in zip(torch.split(view, at_once, axis), torch.split(made, at_once, axis), strict=True):
        if device.type != "cpu":
            # What is narrower travels faster.
            target.copy_(source.to(device) if view.dtype.itemsize < dtype.itemsize else source)
        else:
            rows = SHARE // numbers or 1
            for piece, place in zip(torch.split(source, rows, axis), torch.split(target, rows, axis), strict=True):
                place.copy_(piece)
        release(source)
    return made


def _rewritten(part: Part, views: dict[str, Tensor], layout: Layout, folder: Path) -> dict[str, Tensor]:
    """One part's tensors in the dtype they are computed with, in a file of their own, mapped from there."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = folder / f"offload-{part.path or 'model'}.safetensors"
    made = path.with_name(f"{path.name}.{os.getpid()}")
    cpu = torch.device("cpu")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({p: converted(v, layout.stored[p].dtype, cpu).contiguous() for p, v in views.items()}, made)
        made.replace(path)  # a model that was loaded earlier may still read the old file, which lives on
    except (OSError, SafetensorError) as error:
        found = error.strerror if isinstance(error, OSError) else str(error)
        raise RepoError("weights cannot be kept in this folder", where=str(folder), found=found) from error
    return map_tensors(path, read_header(path))
