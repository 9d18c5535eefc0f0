"""What a checkpoint is, told from its config and the headers of its weights: nothing is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from omniform.architectures.model import Model
from omniform.hub.checkpoint import Name, read_config, saved_class
from omniform.hub.files import locate
from omniform.hub.gguf.weights import GgufEntry
from omniform.hub.load import build_on_meta, lay_out, match, table_of, transformed
from omniform.hub.quantizing import quantizer_of
from omniform.hub.weights import WeightFiles, find_weights
from omniform.transforms.quantize.quantizer import Quantizing
from omniform.weights.counting import count_numbers
from omniform.weights.safetensors import Entry
from omniform.weights.tensors import tensors_and_ties


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a model (a tower, the decoder's layers, a head).

    Attributes:
        path: its module path.
        parameters: how many numbers it holds.
        nbytes: what they take, as stored.
    """

    path: str
    parameters: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Summary:
    """A checkpoint, as its headers describe it.

    Attributes:
        name: the folder or Hub id.
        family: its ``model_type``.
        architecture: the class name it was saved as.
        tasks: what it does.
        parameters: how many numbers it holds; tied weights count once.
        nbytes: what its tensors take as stored, which is also what they need in memory, mapped without a copy.
        disk_bytes: what its weights files take.
        dtypes: bytes per dtype.
        parts: the model's parts, largest structure first.
        files: how many weights files there are, and of which kind.
        mapped: whether the weights are used where they lie, without being read into memory first.
    """

    name: str
    family: str
    architecture: str
    tasks: tuple[str, ...]
    parameters: int
    nbytes: int
    disk_bytes: int
    dtypes: Mapping[str, int]
    parts: tuple[Part, ...]
    files: tuple[str, ...]
    mapped: bool


def inspect(name: Name, **where: object) -> Summary:
    """Describe a checkpoint without loading it.

    Args:
        name: a folder or a Hub id.
        where: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ...

    Raises:
        RepoError, ConfigError, WeightsError: it cannot be found, its config is not supported, a header is damaged or
            tells of other tensors than the config.
    """
    source = locate(name, **where)  # type: ignore[arg-type]
    config = read_config(source)
    kind = saved_class(config)
    files = find_weights(source, peek=True)
    model = build_on_meta(config, kind, source.name)
    quantizer = quantizer_of(config, None)
    held = _told(files)
    if quantizer is not None:
        prefixes = model.origin.family.prefixes
        model = transformed(model, (Quantizing(quantizer, config.common.dtype, held, prefixes),))
    if held:
        lay_out(model, held)
        match(model, table_of(model), held, ignore_mismatched_sizes=False)[1].check(source.name)
    sizes = _stored_sizes(model, files)
    dtypes: Counter[str] = Counter()
    for dtype, nbytes in sizes.values():
        dtypes[dtype] += nbytes
    return Summary(
        name=source.name,
        family=config.model_type,
        architecture=model.origin.architecture.name,
        tasks=model.origin.architecture.tasks,
        parameters=count_numbers(model, only_trainable=False, exclude_embeddings=False),
        nbytes=sum(nbytes for _, nbytes in sizes.values()),
        disk_bytes=files.nbytes,
        dtypes=dict(dtypes.most_common()),
        parts=_parts(model, sizes),
        files=tuple(path.name for path in files.paths),
        mapped=bool(files.headers) or files.gguf is not None,
    )


def _stored_sizes(model: Model, files: WeightFiles) -> dict[str, tuple[str, int]]:
    """Dtype and bytes of each of the model's tensors, as stored; as the config says where no header tells."""
    table = table_of(model)
    tensors, _ = tensors_and_ties(model)
    stored: dict[str, Entry | GgufEntry | Tensor] = {}
    for key, entry in _told(files).items():
        meant = table.canonical(key, model.origin.family.prefixes)
        if meant is not None:
            stored.setdefault(table.duplicates.get(meant, meant), entry)
    fallback = model.config.common.dtype or torch.float32
    sizes: dict[str, tuple[str, int]] = {}
    for path in table.links:
        numbers, found = prod(tensors[path].shape), stored.get(table.key(path))
        if isinstance(found, GgufEntry):
            # Of a fused matrix each of ours has a share, and a stack of ours has several of the file's.
            sizes[path] = (found.kinds, numbers * found.nbytes // (prod(found.shape) or 1))
            continue
        dtype = fallback if tensors[path].is_floating_point() else tensors[path].dtype
        dtype = dtype if found is None else found.dtype
        sizes[path] = (str(dtype).removeprefix("torch."), numbers * dtype.itemsize)
    return sizes


def _told(files: WeightFiles) -> Mapping[str, Entry | GgufEntry | Tensor]:
    """What headers tell of the tensors; of a ``.bin`` file on this disk nothing, since that would have it read."""
    return files.described() if files.headers or files.peeked is not None or files.gguf is not None else {}


def _parts(model: Model, sizes: Mapping[str, tuple[str, int]]) -> tuple[Part, ...]:
    """Sizes by part: the children of the base model and of the head, a deep tower as one part."""
    groups: dict[str, list[str]] = {}
    for path in sizes:
        pieces = path.split(".")
        depth = 2 if pieces[0] == "model" and model.base_model is not model else 1
        groups.setdefault(".".join(pieces[:depth]) if len(pieces) > depth else pieces[0], []).append(path)
    tensors, _ = tensors_and_ties(model)
    return tuple(
        Part(group, sum(tensors[p].numel() for p in paths), sum(sizes[p][1] for p in paths))
        for group, paths in groups.items()
    )
