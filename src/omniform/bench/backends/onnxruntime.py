"""onnxruntime, with a folder that was exported. A forward is the graph's own; whole answers are ``OnnxModel``'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ..job import Job, RefusedError
from .costs import Cost
from .omniform import Omniform

KINDS = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(float)": "float32", "tensor(float16)": "float16",
         "tensor(bool)": "bool", "tensor(double)": "float64"}  # fmt: skip

STEPS = ("model", "decoder_merged", "decoder")
"""The graph that a forward is one pass of, by what it does: the first of these that is there."""


class OnnxRuntime(Omniform):
    """onnxruntime. Its graphs are opened by omniform, and a forward is one call of onnxruntime, with arrays.

    A file by itself (``model: FILE.onnx``), without a config beside it, has a forward and nothing else.
    """

    PACKAGES = ("omniform", "onnxruntime", "torch", "numpy", "tokenizers")
    CAN = Omniform.CAN - {"train", "export"}

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.session: Any = None

    def prepare(self) -> None:
        """Import it, torch and omniform."""
        super().prepare()
        self.runtime = import_module("onnxruntime")
        self.numpy = import_module("numpy")

    def loading(self) -> dict[str, Any]:
        """Which graphs (``file_name``, or ``file``), by whom, with how many threads."""
        given = dict(self.options.get("options") or {})
        if "file" in given:
            given["file_name"] = given.pop("file")
        cuda = ["CUDAExecutionProvider"] if self.device.startswith("cuda") else []
        return {"providers": [*cuda, "CPUExecutionProvider"], "intra_op_num_threads": self.job.threads, **given}

    def load(self, task: str = "text-generation") -> None:
        """Open the folder, or the file."""
        given = Path(self.job.model)
        if given.is_file():
            how = self.runtime.SessionOptions()
            how.intra_op_num_threads, how.inter_op_num_threads = self.job.threads, 1
            self.session = self.runtime.InferenceSession(str(given), how, providers=self.loading()["providers"])
            return
        self.model = self.library.OnnxModel.from_pretrained(str(given), **self.loading())
        graphs = self.model.graphs
        self.session = next((graphs[role].session for role in STEPS if role in graphs), None)
        self.model.generation_config.eos_token_id = None  # an answer has the length that was asked for

    def cost(self) -> Cost | None:
        """It is not known what a graph multiplies."""
        return None

    def vocabulary(self) -> int:
        """As the config has it, whence others have it."""
        if self.model is None:
            return 1000
        return int(getattr(self.model.config.get_text_config(), "vocab_size", 0) or 1000)

    def computes(self) -> str:
        """What goes in and out."""
        return "float32"

    def write(self, *given: Any, **more: Any) -> list[list[int]]:
        """By ``generate``, of a folder whose model writes."""
        if self.model is None or not self.model.can_generate():
            raise RefusedError(f"{self.job.model} is no exported model that writes")
        return super().write(*given, **more)

    def tensors(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Lists become tensors."""
        return {name: self.torch.as_tensor(value) for name, value in inputs.items()}

    def rows(self, modality: str, batch: int, length: int, picture: int) -> dict[str, Any]:
        """Arrays for every input of the graph: the rows that others get, and what a graph reads beside them."""
        if self.session is None:
            raise RefusedError("a forward is one pass of one graph, and there are several")
        known = {} if self.model is None else super().rows(modality, batch, length, picture)
        return self._fed(known, batch, length, picture)

    def shaped(self, shapes: Mapping[str, Sequence[int]], batch: int) -> dict[str, Any]:
        """The same of any shape."""
        known = super().shaped(shapes, batch)
        return self._fed(known, batch, next(iter(shapes.values()), [1])[-1], 0)

    def _fed(self, known: Mapping[str, Any], batch: int, length: int, picture: int) -> dict[str, Any]:
        chance = self.numpy.random.default_rng(0)
        return {
            one.name: known[one.name].numpy().astype(KINDS[one.type]) if one.name in known
            else self._input(one, chance, batch, length, picture)
            for one in self.session.get_inputs()
        }  # fmt: skip

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
        """One call of onnxruntime."""
        return self.session.run(None, dict(inputs))

    def told(self, output: object) -> list[float]:
        """Numbers of the first output of real ones, evenly over it."""
        arrays: Any = output
        return super().told([self.torch.from_numpy(one) for one in arrays])
