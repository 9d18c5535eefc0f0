"""From a model to a folder that onnxruntime runs: :func:`export`, and :func:`check` of what was exported."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast

import torch

from omniform.architectures.model import Model
from omniform.core.errors import InputError, RepoError
from omniform.export.onnx.certificates import TOLERANCES, Case, compare, digest, judge
from omniform.export.onnx.graphs import USUAL, check_opset, graph_of, settled
from omniform.export.onnx.layout import CERTIFICATE, FILES, FOLDER, Layout, Role, described, read_layout
from omniform.export.onnx.merging import merged
from omniform.export.onnx.parts import Part, named, parts_of
from omniform.export.onnx.smaller import check_bits, halve
from omniform.export.onnx.smaller import quantize as quantized
from omniform.export.onnx.tasks import Wanted, load, wanted
from omniform.hub.files import locate
from omniform.hub.folders import replace_files
from omniform.hub.save import config_to_save

if TYPE_CHECKING:
    import onnx_ir as ir

LARGEST: Final = 2_000_000_000
"""Bytes of weights that a file holds itself; of more there is a file beside it, for want of room in the format."""

Places = Literal["optimum", "transformers.js"]

_SIDE: Final = (".json", ".txt", ".model", ".jinja", ".spm", ".tiktoken")
_OTHERS: Final = ("config.json", CERTIFICATE, "training_args.json", "trainer_state.json")
_SIDE_BYTES: Final = 128 * 2**20


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        path: the folder.
        task: what for.
        files: the graphs, by what they do.
        cases: how many comparisons were made.
        greatest: the greatest difference among them; see :data:`omniform.export.onnx.certificates.TOLERANCES`.
        tolerance: how great it might have been.
        compared: whether a model was there to be compared with, and not the digests alone.
    """

    path: Path
    task: str
    files: Mapping[Role, str]
    cases: int
    greatest: float
    tolerance: float
    compared: bool = True


@dataclass(frozen=True, slots=True)
class Options:
    """How to export; see :func:`export`."""

    opset: int = USUAL
    dtype: str = "fp32"
    quantize: str | None = None
    places: Places = "optimum"
    largest: int = LARGEST

    @property
    def bits(self) -> str:
        """What the tolerance goes by."""
        return self.quantize or self.dtype

    def file(self, role: Role) -> str:
        """Where a graph goes; transformers.js finds other bits by the end of the name."""
        if self.places == "optimum":
            return FILES[role]
        ends = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}[self.bits]
        return f"{FOLDER}/{FILES[role].removesuffix('.onnx')}{ends}.onnx"


def export(
    model: Model,
    path: str | os.PathLike[str],
    *,
    task: str = "auto",
    opset: int = USUAL,
    dtype: str = "fp32",
    quantize: str | None = None,
    layout: Places = "optimum",
    largest_file: int = LARGEST,
    overwrite: bool = False,
) -> Exported:
    """Write a model as graphs of ONNX, once onnxruntime was seen to compute what torch does.

    Args:
        model: any; it is read in ``eval`` mode and in float32.
        path: the folder to write. Nothing is there until all is, and has been compared.
        task: optimum's name, ``"text-generation-with-past"``; ``"auto"`` for the model's own.
        opset: version of ONNX's operations.
        dtype: ``"fp32"``, or ``"fp16"``: numbers inside are halves, what goes in and out is float32.
        quantize: ``"int8"`` for matrices of eight bits.
        layout: ``"optimum"`` puts graphs beside the config, ``"transformers.js"`` into ``onnx/``.
        largest_file: bytes of weights beyond which they stand in a file beside the graph.
        overwrite: replace what is there.

    Raises:
        InputError: an operation cannot be exported, which is named; the files do not compute what the model does; an
            option that there is not.
        UnknownNameError: the model does not have the task.
        RepoError: there is something at ``path``, or it cannot be written.
        DependencyError: onnx is not installed.
    """
    options = _options(opset, dtype, quantize, layout, largest_file)
    target = _free(path, overwrite)
    own = wanted(task, model.origin.architecture.tasks, named(model))
    side: dict[str, Path] = {}
    with contextlib.suppress(RepoError):  # a model whose folder is gone is exported all the same
        side = side_files(model.name_or_path)
    return _export(_plain(model), own, target, options, model.name_or_path, side)


def export_checkpoint(
    model: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    task: str = "auto",
    opset: int = USUAL,
    dtype: str = "fp32",
    quantize: str | None = None,
    layout: Places = "optimum",
    largest_file: int = LARGEST,
    overwrite: bool = False,
) -> Exported:
    """The same of a folder or a Hub id, loaded as the model that the task asks for."""
    options = _options(opset, dtype, quantize, layout, largest_file)
    target = _free(path, overwrite)
    found, own = load(model, task)
    return _export(found, own, target, options, os.fspath(model), side_files(os.fspath(model)))


def _options(opset: int, dtype: str, quantize: str | None, layout: str, largest: int) -> Options:
    check_opset(opset)
    check_bits(dtype, quantize)
    if layout not in ("optimum", "transformers.js"):
        raise InputError("no such layout", where="layout", expected="optimum or transformers.js", found=repr(layout))
    if not 0 <= largest <= LARGEST:
        raise InputError("no such size", where="largest_file", expected=f"0 to {LARGEST} bytes", found=largest)
    return Options(opset, dtype, quantize, cast(Places, layout), largest)


def _free(path: str | os.PathLike[str], overwrite: bool) -> Path:
    target = Path(path).expanduser()
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise RepoError(
            "there is something already", where=str(target), remedy="Name another folder, or say --overwrite."
        )
    return target


def _plain(model: Model) -> Model:
    """The model as it is exported: of float32, on the processor, not in training; the same, if it is so."""
    if model.transforms:
        raise InputError(
            "a quantized or otherwise edited model cannot be exported",
            where=named(model),
            found=", ".join(type(one).__name__ for one in model.transforms),
            remedy="Load it plainly, and say quantize='int8' here.",
        )
    devices = {p.device.type for p in model.parameters()}
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if devices <= {"cpu"} and dtypes <= {torch.float32} and not model.training:
        return model
    return copy.deepcopy(model).to("cpu", torch.float32).eval()


def _export(
    model: Model, task: Wanted, target: Path, options: Options, source: str, side: Mapping[str, Path]
) -> Exported:
    parts = parts_of(model, task)
    told: dict[str, object] = {}

    def write(folder: Path) -> None:
        write_graphs(folder, parts, options, f"{named(model)}, {task.whole}")
        write_side(folder, model, side)
        files = {role: options.file(role) for role in roles_of(parts)}
        graphs = {role: described(folder, role, file) for role, file in files.items()}
        layout = Layout(folder, task.whole, graphs, {})
        cases = list(compare(model, parts, layout))
        judge(cases, TOLERANCES[options.bits])
        told.update(certified(layout, cases, options, source, named(model)))
        (folder / CERTIFICATE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    replace_files(target, write, stale=lambda name: True)
    return _report(target, told, compared=True)


def _report(target: Path, told: Mapping[str, object], *, compared: bool) -> Exported:
    graphs = cast("list[dict[str, str]]", told["graphs"])
    cases = cast("list[dict[str, dict[str, float]]]", told["cases"])
    return Exported(
        path=target,
        task=str(told["task"]),
        files={cast(Role, graph["role"]): graph["file"] for graph in graphs},
        cases=len(cases),
        greatest=max(far for case in cases for far in case["greatest"].values()),
        tolerance=float(cast(float, told["tolerance"])),
        compared=compared,
    )


def roles_of(parts: Sequence[Part]) -> list[Role]:
    """What the files of some parts do: a merged decoder stands beside the two that it is made of."""
    found = [part.role for part in parts]
    return [*found, "decoder_merged"] if "decoder_with_past" in found else found


def write_graphs(folder: Path, parts: Sequence[Part], options: Options, where: str) -> None:
    """Write every graph, one after another, so that no more than one is held."""
    import onnx_ir as ir

    for part in parts:
        graph = graph_of(part.module, part.inputs, part.outputs, options.opset, f"{where}, {part.role}")
        _save(graph, folder / options.file(part.role), options)
        del graph
        path = folder / options.file(part.role)
        if options.quantize is not None:
            quantized(path)
        elif options.dtype == "fp16":
            halve(path)
    if "decoder_with_past" in {part.role for part in parts}:
        first, later = (ir.load(folder / options.file(role)) for role in ("decoder", "decoder_with_past"))
        _save(merged(first, later), folder / options.file("decoder_merged"), options)


def _save(graph: ir.Model, path: Path, options: Options) -> None:
    import onnx_ir as ir

    path.parent.mkdir(parents=True, exist_ok=True)
    settled(graph)
    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value is not None)
    ir.save(graph, path, external_data=f"{path.name}_data" if size > options.largest else None)


def side_files(source: str) -> dict[str, Path]:
    """What a checkpoint holds that loaders look for beside the graphs: tokenizer, processor, settings of writing.

    Raises:
        RepoError: it cannot be found or reached.
    """
    if not source:
        return {}
    place = locate(source)
    names = [
        name
        for name in sorted(place.listing())
        if "/" not in name
        and name.endswith(_SIDE)
        and name not in _OTHERS
        and not name.endswith(".index.json")
        and place.size(name) <= _SIDE_BYTES
    ]
    return place.files(names)


def write_side(folder: Path, model: Model, side: Mapping[str, Path]) -> None:
    """Write the config and these files, and the model's settings of writing where they are not among them."""
    (folder / "config.json").write_text(json.dumps(config_to_save(model), indent=2) + "\n", encoding="utf-8")
    for name, file in side.items():
        shutil.copyfile(file, folder / name)
    if model.can_generate() and "generation_config.json" not in side:
        model.generation_config.save_pretrained(folder)


def certified(
    layout: Layout, cases: Sequence[Case], options: Options, source: str, architecture: str
) -> dict[str, object]:
    """What the certificate says."""
    place = Path(source).expanduser()
    packages = ("omniform", "torch", "onnx", "onnxscript", "onnxruntime")
    return {
        "certificate": 1,
        "task": layout.task,
        "architecture": architecture,
        "source": str(place.resolve()) if source and place.exists() else source,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "opset": options.opset,
        "dtype": options.dtype,
        "quantize": options.quantize,
        "tolerance": TOLERANCES[options.bits],
        "measure": "greatest difference, as a part of the greatest number of the output (of 1 where that is less)",
        "versions": {**{name: version(name) for name in packages}, "python": platform.python_version()},
        "graphs": [graph.told() for graph in layout.graphs.values()],
        "cases": [case.told() for case in cases],
        "sha256": {
            path.relative_to(layout.folder).as_posix(): digest(path)
            for path in sorted(layout.folder.rglob("*"))
            if path.is_file() and path.name != CERTIFICATE
        },
    }


def check(folder: str | os.PathLike[str], model: str | os.PathLike[str] | None = None) -> Exported:
    """Repeat the comparison of an exported folder.

    Args:
        folder: what :func:`export` wrote.
        model: the checkpoint to compare with; by default the one that the certificate names. Where that is not there,
            the digests alone are compared.

    Raises:
        RepoError: there is no certificate, or a file is not what it was.
        InputError: onnxruntime does not compute what the model does.
    """
    layout = read_layout(os.fspath(folder))
    told = layout.certificate
    if not told:
        raise RepoError("there is no certificate", where=str(layout.folder), expected=CERTIFICATE)
    check_digests(layout)
    source = os.fspath(model) if model is not None else str(told.get("source") or "")
    if model is None and (not source or not Path(source).exists()):
        return _report(layout.folder, told, compared=False)
    found, own = load(source, layout.task)
    parts = parts_of(found, own)
    cases = list(compare(found, parts, layout))
    tolerance = float(cast(float, told["tolerance"]))
    judge(cases, tolerance)
    return _report(layout.folder, {**told, "cases": [case.told() for case in cases]}, compared=True)


def check_digests(layout: Layout) -> None:
    """Refuse a folder whose files are not what they were when they were compared.

    Raises:
        RepoError: one was changed, or is gone; it is named.
    """
    for name, known in cast("dict[str, str]", layout.certificate["sha256"]).items():
        path = layout.folder / name
        if not path.is_file():
            raise RepoError("a file of the certificate is gone", where=str(path))
        found = digest(path)
        if found != known:
            raise RepoError(
                "the file was changed after its certificate",
                where=str(path),
                expected=f"sha256 {known[:16]}...",
                found=f"{found[:16]}...",
                remedy="Export the model again.",
            )
