"""Opening an exported folder: which files of it are run, and whether they are what they were when they were certified.

Folders of others (optimum's, transformers.js's) have no certificate; what their graphs read is asked of onnxruntime.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, cast

from omniform.core.errors import InputError, RepoError, check_arguments, nearest
from omniform.export.onnx.layout import FILES, FOLDER, Graph, Layout, Role, missing, read_certificate, read_layout
from omniform.export.onnx.sessions import Runtime, Session
from omniform.export.onnx.verified import Digests
from omniform.hub.files import Source, locate

log = logging.getLogger("omniform")

NAMED: Final[Mapping[str, Role]] = {
    "encoder_file_name": "encoder",
    "decoder_file_name": "decoder",
    "decoder_with_past_file_name": "decoder_with_past",
}
"""What optimum's classes of two graphs call the names of their files."""

PLACES: Final = ("revision", "token", "cache_dir", "local_files_only", "force_download")

_VERIFIED: Final = "certificate.json says of each file what it was when onnxruntime and torch were seen to agree"


@dataclass(frozen=True, slots=True)
class Opened:
    """A folder whose graphs are held.

    Attributes:
        layout: what stands in it.
        sessions: its graphs.
    """

    layout: Layout
    sessions: Mapping[Role, Session]


@dataclass(frozen=True, slots=True)
class Which:
    """Which files of a folder are meant.

    Attributes:
        file_name: of its graph, or of one of several, whose ending the others have too (``model_quantized.onnx``).
        subfolder: where they are; beside the config and in ``onnx/`` by default.
        files: names of single graphs.
    """

    file_name: str | None = None
    subfolder: str | None = None
    files: Mapping[Role, str] | None = None

    @property
    def plain(self) -> bool:
        """Whether nothing is said."""
        return self.file_name is None and self.subfolder is None and not self.files


def open_folder(name: str | os.PathLike[str], which: Which, runtime: Runtime, verify: bool, **places: object) -> Opened:
    """Hold the graphs of a folder, or of a repository on the Hub.

    Args:
        places: where to look on the Hub, as ``from_pretrained`` takes it.

    Raises:
        RepoError: there is no such folder, no such file, or a file was changed after its certificate.
        InputError: onnxruntime cannot load a file.
        DependencyError: onnxruntime is not installed.
    """
    check_arguments("OnnxModel.from_pretrained", places, PLACES)
    source = locate(name, **places)  # type: ignore[arg-type] # looked at above
    certificate = {} if source.folder is None else read_certificate(source.folder)
    if certificate.get("format", "onnx") != "onnx":
        return _programs(read_layout(cast(Path, source.folder)), which, runtime, verify)
    try:
        import onnxruntime  # noqa: F401 # looked for before anything is read
    except ImportError as error:
        raise missing("onnxruntime") from error
    certified = bool(certificate)
    if certified:
        assert source.folder is not None
        layout = read_layout(source.folder)
        _check(layout, verify)
        if which.plain:
            return Opened(layout, {r: Session(layout.folder, layout.graphs[r], runtime) for r in _used([*layout.graphs],
                                   layout.folder)})  # fmt: skip
    files = chosen(sorted(source.listing()), which, str(name))
    root = _fetched(source, files)
    sessions = {r: Session.described(root, r, files[r], runtime) for r in _used([*files], root)}
    if not certified and verify:
        log.info("%s has no certificate: nobody has compared it with torch", name)
    graphs: dict[Role, Graph] = {role: session.graph for role, session in sessions.items()}
    return Opened(Layout(root, "", graphs, read_certificate(root) if certified else {}), sessions)


def _programs(layout: Layout, which: Which, runtime: Runtime, verify: bool) -> Opened:
    """Hold the programs of a folder (:mod:`omniform.export.packages`); onnxruntime has nothing to do with it.

    Raises:
        InputError: something is said of onnxruntime, or of which graph is meant.
        RepoError: a file was changed after its certificate.
    """
    from omniform.export.packages.sessions import ProgramSession

    for name, usual in (("providers", runtime == Runtime()), ("file_name", which.plain)):
        if not usual:
            raise InputError(
                "this means nothing for programs of torch", where=f"{name} and its like",
                expected="them for graphs of ONNX", found=str(layout.folder),
            )  # fmt: skip
    _verify(layout, verify)
    roles = _used([*layout.graphs], layout.folder)
    return Opened(layout, {role: ProgramSession(layout, layout.graphs[role]) for role in roles})


def chosen(names: Sequence[str], which: Which, whose: str) -> dict[Role, str]:
    """The files of a folder that are run, by what they do.

    Args:
        names: all files of the folder, those in folders within included.
        which: which are meant.
        whose: the folder's name, for messages.

    Raises:
        RepoError: there is no graph, or none of that name; the nearest are named.
    """
    graphs = [name for name in names if name.endswith(".onnx")]
    if not graphs:
        raise RepoError("there is no graph in it", where=whose, expected=", ".join(FILES.values()))
    inside = [which.subfolder.strip("/")] if which.subfolder is not None else ["", FOLDER]
    there = {PurePosixPath(n).name: n for place in reversed(inside) for n in graphs if _in(n) == place}
    for name in (which.file_name, *(which.files or {}).values()):
        if name is not None and name not in there and name not in graphs:
            raise RepoError(
                "there is no such graph", where=f"{whose}: {name}", expected=", ".join(graphs),
                remedy=nearest(name, [*there, *graphs]),
            )  # fmt: skip
    if not there:
        raise RepoError("there is no graph in this folder of it", where=f"{whose}: {which.subfolder}",
                        expected=", ".join(sorted({_in(name) or "." for name in graphs})))  # fmt: skip
    ending = _ending(which, there, whose)
    found: dict[Role, str] = {}
    for role, plain in FILES.items():
        own = there.get(plain.replace(".onnx", f"{ending}.onnx"))
        if own is not None:
            found[role] = own
    if which.file_name is not None:
        meant = there.get(which.file_name, which.file_name)
        if meant not in found.values():
            found = {"model": meant}
    for role, name in (which.files or {}).items():
        found.pop("decoder_merged", None) if role != "encoder" else None
        found[role] = there.get(name, name)
    return found


def _ending(which: Which, there: Mapping[str, str], whose: str) -> str:
    """What stands behind the plain names of the files: ``_quantized``, or nothing."""
    if which.file_name is not None:
        return _split(PurePosixPath(which.file_name).name)[1]
    endings = {_split(name)[1] for name in there if _split(name)[0]}
    if "" in endings or which.files:
        return ""
    if len(endings) != 1:
        raise RepoError(
            "several graphs could be meant", where=whose, expected="file_name=, one of them",
            found=", ".join(sorted(there)),
        )  # fmt: skip
    return endings.pop()


def _split(name: str) -> tuple[str, str]:
    """A file's plain stem, and what stands behind it."""
    stems = sorted((plain.removesuffix(".onnx") for plain in FILES.values()), key=len, reverse=True)
    stem = name.removesuffix(".onnx")
    return next(((own, stem.removeprefix(own)) for own in stems if stem.startswith(own)), ("", ""))


def _in(name: str) -> str:
    place = str(PurePosixPath(name).parent)
    return "" if place == "." else place


def _fetched(source: Source, files: Mapping[Role, str]) -> Path:
    """The folder that a repository's files lie in: its config, its graphs, and the weights beside these."""
    wanted = [*files.values()]
    beside = [n for n in source.listing() for f in wanted if n.startswith((f"{f}_data", f"{f}.data"))]
    for extra in ("generation_config.json", *beside):
        if source.has(extra):
            source.find(extra)
    config = source.need("config.json")
    for name in wanted:
        source.need(name)
    return config.parent


def _used(roles: Sequence[Role], folder: Path) -> list[Role]:
    """The files that are opened: of a merged decoder and those that it is made of, the merged."""
    found = [*roles]
    if "decoder_merged" in found:
        found = [role for role in found if role not in ("decoder", "decoder_with_past")]
    if {"decoder", "decoder_merged"} & {*found} and "model" in found and "encoder" not in found:
        found.remove("model")
    if not {"model", "decoder", "decoder_merged"} & {*found}:
        raise RepoError("these graphs are no whole model", where=str(folder), found=", ".join(found))
    return found


def _check(layout: Layout, verify: bool) -> None:
    """Refuse a certified folder whose files are not what they were."""
    import onnxruntime

    _verify(layout, verify)
    made = cast("Mapping[str, str]", layout.certificate.get("versions", {})).get("onnxruntime", "")
    if made != onnxruntime.__version__:
        log.warning("%s: compared with onnxruntime %s, run by %s", layout.folder, made, onnxruntime.__version__)


def _verify(layout: Layout, verify: bool) -> None:
    if verify:
        try:
            check_digests(layout)
        except RepoError as error:
            raise RepoError(
                f"{error}", where=str(layout.folder), remedy=f"verify=False goes on regardless: {_VERIFIED}."
            ) from error
    for graph in layout.graphs.values():
        if not (layout.folder / graph.file).is_file():
            raise RepoError("a file of the folder is gone", where=str(layout.folder / graph.file))


def check_digests(layout: Layout) -> None:
    """As :func:`omniform.export.exporting.check_digests`, but a file that stayed as it was is read once.

    Raises:
        RepoError: one was changed, or is gone; it is named.
    """
    digests = Digests()
    for name, known in cast("Mapping[str, str]", layout.certificate["sha256"]).items():
        path = layout.folder / name
        if not path.is_file():
            raise RepoError("a file of the certificate is gone", where=str(path))
        found = digests.of(path)
        if found != known:
            raise RepoError(
                "the file was changed after its certificate", where=str(path), expected=f"sha256 {known[:16]}...",
                found=f"{found[:16]}...", remedy="Export the model again.",
            )  # fmt: skip
    digests.keep()


def which_of(given: dict[str, object]) -> Which:
    """The files that keywords name; those keywords are taken out.

    Raises:
        InputError: a name is no text.
    """
    said = {name: given.pop(name, None) for name in ("file_name", "subfolder", *NAMED)}
    for name, value in said.items():
        if value is not None and not isinstance(value, str):
            raise InputError("this is no name", where=name, expected="a text", found=repr(value)[:80])
    texts = cast("dict[str, str | None]", said)
    files = {role: own for name, role in NAMED.items() if (own := texts[name]) is not None}
    return Which(texts["file_name"], texts["subfolder"] or None, files or None)
