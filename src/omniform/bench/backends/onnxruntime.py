"""onnxruntime, with a folder that was exported: one graph, fed by the names of its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ..job import Job, RefusedError
from .base import Backend

FILES = ("model.onnx", "decoder_model.onnx", "decoder_model_merged.onnx", "encoder_model.onnx")
"""The graph, where ``backend.options.file`` does not name one: the first of these that is there."""

KINDS = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(float)": "float32", "tensor(float16)": "float16",
         "tensor(bool)": "bool", "tensor(double)": "float64"}  # fmt: skip


class OnnxRuntime(Backend):
    """onnxruntime itself. It computes a forward; whole answers are :class:`omniform`'s ``OnnxModel``'s."""

    PACKAGES = ("onnxruntime", "numpy")
    CAN = frozenset({"prepare", "load", "forward"})

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.session: Any = None

    def prepare(self) -> None:
        """Import it."""
        self.runtime = import_module("onnxruntime")
        self.numpy = import_module("numpy")

    def load(self, task: str = "text-generation") -> None:
        """Open the graph."""
        given = Path(self.job.model)
        named = dict(self.options.get("options") or {}).get("file")
        paths = [given / str(named)] if named else [given, *(given / part / name for part in ("", "onnx")
                                                           for name in FILES)]  # fmt: skip
        path = next((one for one in paths if one.is_file()), None)
        if path is None:
            raise RefusedError(f"there is no ONNX file in {given}: export it first (omniform export)")
        how = self.runtime.SessionOptions()
        how.intra_op_num_threads, how.inter_op_num_threads = self.job.threads, 1
        cuda = ["CUDAExecutionProvider"] if self.device.startswith("cuda") else []
        self.session = self.runtime.InferenceSession(str(path), how, providers=[*cuda, "CPUExecutionProvider"])

    def rows(self, modality: str, batch: int, length: int, picture: int) -> dict[str, Any]:
        """Arrays for every input of the graph; what a cache would hold is empty."""
        chance = self.numpy.random.default_rng(0)
        return {one.name: self._input(one, chance, batch, length, picture) for one in self.session.get_inputs()}

    def _input(self, one: Any, chance: Any, batch: int, length: int, picture: int) -> Any:
        np, kind = self.numpy, KINDS.get(one.type)
        if kind is None:
            raise RefusedError(f"{one.name} is a {one.type}, which is not made here")
        shape = [size if isinstance(size, int) else self._size(one.name, place, str(size), batch, length, picture)
                 for place, size in enumerate(one.shape)]  # fmt: skip
        if one.name.endswith("mask"):
            return np.ones(shape, kind)
        if "position_ids" in one.name:
            return np.broadcast_to(np.arange(shape[-1]), shape).astype(kind)
        if "token_type" in one.name or kind == "bool":
            return np.zeros(shape, kind)
        if kind.startswith("int"):
            return chance.integers(8, 200, shape).astype(kind)
        return chance.standard_normal(shape).astype(kind)

    @staticmethod
    def _size(name: str, place: int, axis: str, batch: int, length: int, picture: int) -> int:
        if place == 0 or "batch" in axis:
            return batch
        if name.startswith("past"):
            return 0
        if name == "pixel_values":
            return picture or 224
        return length

    def forward(self, inputs: Mapping[str, Any]) -> object:
        """One pass."""
        return self.session.run(None, dict(inputs))
