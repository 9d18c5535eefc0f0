"""What stands in an exported folder, and what it is called. Nothing here needs torch.

Names are those that optimum's loaders and transformers.js look for: files, inputs and outputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast

from omniform.core.errors import DependencyError, RepoError

CERTIFICATE: Final = "certificate.json"
FOLDER: Final = "onnx"
"""Where transformers.js looks for graphs, beside the config."""

Role = Literal[
    "model", "encoder", "decoder", "decoder_with_past", "decoder_merged", "vision_encoder", "audio_encoder", "embed"
]

FILES: Final[Mapping[Role, str]] = {
    "model": "model.onnx",
    "encoder": "encoder_model.onnx",
    "decoder": "decoder_model.onnx",
    "decoder_with_past": "decoder_with_past_model.onnx",
    "decoder_merged": "decoder_model_merged.onnx",
    "vision_encoder": "vision_encoder.onnx",
    "audio_encoder": "audio_encoder.onnx",
    "embed": "embed_tokens.onnx",
}
"""The files of a folder, by what they do."""

BRANCH: Final = "use_cache_branch"
"""The input of a merged decoder that says whether it reads a cache."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or an output.

    Attributes:
        name: of it.
        dtype: ``"int64"``, ``"float32"``, ``"float16"``, ``"bool"``.
        dims: sizes, or names of axes of any size (``"past_sequence_length + sequence_length"``).
    """

    name: str
    dtype: str
    dims: tuple[int | str, ...]

    def told(self) -> dict[str, object]:
        """As JSON."""
        return {"name": self.name, "dtype": self.dtype, "dims": list(self.dims)}


@dataclass(frozen=True, slots=True)
class Graph:
    """One file.

    Attributes:
        role: what it does.
        file: its path, from the folder.
        inputs: what it reads.
        outputs: what it gives.
    """

    role: Role
    file: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def told(self) -> dict[str, object]:
        """As JSON."""
        ports = {"inputs": self.inputs, "outputs": self.outputs}
        return {"role": self.role, "file": self.file, **{k: [p.told() for p in v] for k, v in ports.items()}}


@dataclass(frozen=True, slots=True)
class Layout:
    """A folder.

    Attributes:
        folder: where it is.
        task: what it was exported for; empty where nothing says.
        graphs: by what they do.
        certificate: all that the certificate says; empty where there is none.
    """

    folder: Path
    task: str
    graphs: Mapping[Role, Graph]
    certificate: Mapping[str, object]


def read_layout(folder: str | Path) -> Layout:
    """What stands in a folder: as its certificate says, else as its files do.

    Raises:
        RepoError: there is no such folder, nothing in it is a graph, or the certificate is no JSON.
        DependencyError: there is no certificate, and no onnx to read the files with.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise RepoError("there is no such folder", where=str(place))
    certificate = read_certificate(place)
    graphs: dict[Role, Graph] = {}
    if certificate:
        for told in cast("list[dict[str, object]]", certificate["graphs"]):
            graph = _graph_of(told)
            graphs[graph.role] = graph
    else:
        for role, name in FILES.items():
            file = next((f for f in (name, f"{FOLDER}/{name}") if (place / f).is_file()), None)
            if file is not None:
                graphs[role] = described(place, role, file)
    if not graphs:
        raise RepoError("there is no graph in it", where=str(place), expected=", ".join(FILES.values()))
    return Layout(place, str(certificate.get("task", "")), graphs, certificate)


def read_certificate(folder: Path) -> dict[str, object]:
    """The certificate of a folder; nothing where there is none.

    Raises:
        RepoError: it is no JSON, or not of this kind.
    """
    path = folder / CERTIFICATE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RepoError("the certificate cannot be read", where=str(path), found=str(error)) from error
    if not isinstance(found, dict) or not isinstance(found.get("graphs"), list):
        raise RepoError("this is no certificate", where=str(path), expected="what omniform export writes")
    return cast("dict[str, object]", found)


def _graph_of(told: Mapping[str, object]) -> Graph:
    ports = []
    for side in ("inputs", "outputs"):
        entries = cast("list[dict[str, object]]", told[side])
        ports.append(
            tuple(Port(str(e["name"]), str(e["dtype"]), tuple(cast("list[int | str]", e["dims"]))) for e in entries)
        )
    return Graph(cast(Role, told["role"]), str(told["file"]), *ports)


def described(folder: Path, role: Role, file: str) -> Graph:
    """What a file reads and gives, from its header; weights beside it are not read.

    Raises:
        DependencyError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise missing("onnx") from error
    graph = onnx.load(str(folder / file), load_external_data=False).graph
    own = {tensor.name for tensor in graph.initializer}
    ports = []
    for values in (graph.input, graph.output):
        found = []
        for value in values:
            if value.name in own:
                continue
            kind = value.type.tensor_type
            dims = tuple(d.dim_param or int(d.dim_value) for d in kind.shape.dim)
            found.append(Port(value.name, str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)), dims))
        ports.append(tuple(found))
    return Graph(role, file, *ports)


def missing(package: str) -> DependencyError:
    """The error of a package that export needs and that is not there."""
    return DependencyError(f"exporting needs {package}", remedy="pip install 'omniform[onnx]'")
