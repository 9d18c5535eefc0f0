"""The door of every export: :func:`export` of a model, :func:`export_checkpoint` of a folder, and :func:`check`.

What is the same of every format that computes stands here: a model is taken apart, its files are written into a folder
beside the one that is wanted, compared with torch, described by a certificate, and only then put in place.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final, cast

import torch

from omniform.architectures.model import Model
from omniform.core.errors import InputError, RepoError
from omniform.export.formats import FORMATS, Exported, Format, Options, format_named, options_of
from omniform.export.onnx.certificates import TOLERANCES, Case, Runs, compare, digest, judge
from omniform.export.onnx.layout import CERTIFICATE, Graph, Layout, Role, read_layout
from omniform.export.onnx.parts import Part, fitting, named, of_size, parts_of
from omniform.export.onnx.tasks import Wanted, load, wanted
from omniform.hub.checkpoint import is_exported, load_as_saved
from omniform.hub.files import locate
from omniform.hub.folders import replace_files
from omniform.hub.save import config_to_save

_SIDE: Final = (".json", ".txt", ".model", ".jinja", ".spm", ".tiktoken")
_OTHERS: Final = ("config.json", CERTIFICATE, "params.json", "training_args.json", "trainer_state.json")
_SIDE_BYTES: Final = 128 * 2**20


@dataclass(frozen=True, slots=True)
class Runtime:
    """What writes and runs the files of one format.

    Attributes:
        name: as messages call it.
        check: refuses options that it has no way to, before anything is loaded.
        write: writes the parts of a model into a folder, and tells what each file reads and gives.
        opened: a file, ready to run.
        facts: what else a certificate says.
        suits: refuses a certificate whose files cannot run here.
    """

    name: str
    check: Callable[[Options], None]
    write: Callable[[Path, Sequence[Part], Options, str], Mapping[Role, Graph]]
    opened: Callable[[Path, Graph], Runs]
    facts: Callable[[Options], Mapping[str, object]]
    suits: Callable[[Mapping[str, object]], None] = lambda certificate: None


def runtime_of(form: str) -> Runtime:
    """What writes and runs a format that computes."""
    if form == "onnx":
        from omniform.export.onnx.writing import ONNX

        return ONNX
    from omniform.export.packages.writing import RUNTIMES

    return RUNTIMES[form]


def export(model: Model, format: str, path: str | os.PathLike[str], **given: object) -> Exported:
    """Write a model in another format.

    Args:
        model: any; one that is to compute elsewhere is read in ``eval`` mode and in float32.
        format: one of :data:`omniform.export.formats.FORMATS`.
        path: the folder to write; of GGUF a file or a folder. Nothing is there until all is, and has been compared.
        given: what :class:`~omniform.export.formats.Options` knows and the format has a use for.

    Raises:
        InputError: an operation cannot be exported, which is named; the files do not compute what the model does; an
            option that there is not, or that means nothing for the format.
        UnknownNameError: the model does not have the task.
        UnknownArgumentError: no format has such an option.
        RepoError: there is something at ``path``, or it cannot be written.
        DependencyError: a package or a compiler is not there.
    """
    form = format_named(format)
    options = options_of(form, given)
    if not form.certified:
        from omniform.export.checkpoints import write_checkpoint

        return write_checkpoint(model, form, path, options, model.name_or_path)
    runtime = runtime_of(form.name)
    runtime.check(options)
    target = free_folder(path, options.overwrite)
    own = wanted(options.task, model.origin.architecture.tasks, named(model))
    side: dict[str, Path] = {}
    with contextlib.suppress(RepoError):  # a model whose folder is gone is exported all the same
        side = side_files(model.name_or_path)
    return _export(_plain(model), own, target, form, options, model.name_or_path, side)


def export_checkpoint(
    model: str | os.PathLike[str], format: str, path: str | os.PathLike[str], **given: object
) -> Exported:
    """The same of a folder or a Hub id, loaded as the model that the task asks for."""
    form = format_named(format)
    options = options_of(form, given)
    if is_exported(model):
        raise InputError(
            "what was exported is not exported again", where=os.fspath(model),
            remedy="Export the checkpoint that it was made from.",
        )  # fmt: skip
    if not form.certified:
        from omniform.export.checkpoints import dtype_of, write_checkpoint

        loaded = load_as_saved(model, dtype=dtype_of(form, options))
        return write_checkpoint(loaded, form, path, options, os.fspath(model))
    runtime_of(form.name).check(options)
    target = free_folder(path, options.overwrite)
    found, own = load(model, options.task)
    return _export(found, own, target, form, options, os.fspath(model), side_files(os.fspath(model)))


def free_folder(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """A folder that may be written: with nothing in it, or with what may be replaced.

    Raises:
        RepoError: there is something.
    """
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
    model: Model, task: Wanted, target: Path, form: Format, options: Options, source: str, side: Mapping[str, Path]
) -> Exported:
    runtime = runtime_of(form.name)
    task = fitting(model, task)
    parts = parts_of(model, task)
    told: dict[str, object] = {}

    def compared(folder: Path, parts: Sequence[Part]) -> tuple[Layout, list[Case]]:
        layout = Layout(folder, task.whole, runtime.write(folder, parts, options, f"{named(model)}, {task.whole}"), {})
        cases = list(compare(model, parts, layout, runtime.opened))
        judge(cases, TOLERANCES[options.bits], runtime.name)
        return layout, cases

    def write(folder: Path) -> None:
        try:
            layout, cases = compared(folder, parts)
        except InputError:
            if not any(own.maybe for part in parts for own in part.inputs):
                raise
            # Of any size of pictures and sounds there is no graph that is right; of one there may be.
            layout, cases = compared(folder, [of_size(part) for part in parts])
        write_side(folder, model, side)
        told.update(certified(layout, cases, form, options, source, named(model)))
        (folder / CERTIFICATE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    replace_files(target, write, stale=lambda name: True)
    return _report(target, told, compared=True)


def _report(target: Path, told: Mapping[str, object], *, compared: bool) -> Exported:
    graphs = cast("list[dict[str, str]]", told["graphs"])
    cases = cast("list[dict[str, dict[str, float]]]", told["cases"])
    return Exported(
        path=target,
        format=form_of(told),
        task=str(told["task"]),
        files={graph["role"]: graph["file"] for graph in graphs},
        cases=len(cases),
        greatest=max(far for case in cases for far in case["greatest"].values()),
        tolerance=float(cast(float, told["tolerance"])),
        compared=compared,
        sizes=sizes_in(target),
    )


def form_of(certificate: Mapping[str, object]) -> str:
    """The format that a certificate is of; the first ones were all of ONNX."""
    return format_named(certificate.get("format", "onnx")).name


def sizes_in(folder: Path) -> dict[str, int]:
    """Bytes of every file in a folder, by its path from there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


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
    layout: Layout, cases: Sequence[Case], form: Format, options: Options, source: str, architecture: str
) -> dict[str, object]:
    """What the certificate says."""
    place = Path(source).expanduser()
    packages = ("omniform", "torch", *form.packages)
    return {
        "certificate": 1,
        "format": form.name,
        "task": layout.task,
        "architecture": architecture,
        "source": str(place.resolve()) if source and place.exists() else source,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        **runtime_of(form.name).facts(options),
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
        InputError: the files do not compute what the model does.
    """
    layout = read_layout(os.fspath(folder))
    told = layout.certificate
    if not told:
        raise RepoError("there is no certificate", where=str(layout.folder), expected=CERTIFICATE)
    check_digests(layout)
    runtime = runtime_of(form_of(told))
    source = os.fspath(model) if model is not None else str(told.get("source") or "")
    if model is None and (not source or not Path(source).exists()):
        return _report(layout.folder, told, compared=False)
    runtime.suits(told)
    found, own = load(source, layout.task)
    parts = parts_of(found, own)
    cases = list(compare(found, parts, layout, runtime.opened))
    tolerance = float(cast(float, told["tolerance"]))
    judge(cases, tolerance, runtime.name)
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


__all__ = ["FORMATS", "Exported", "Options", "Runtime", "check", "check_digests", "export", "export_checkpoint"]
