"""The native kernels' matrices: products with them, and how fast they are packed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from omniform_bench import SECONDS, Kind, Scenario, at_least

NF4 = (
    -1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
)  # fmt: skip
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
FP4 = tuple(n / 12 for n in (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0))
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
TABLES = {
    "NF4": (NF4, 64),
    "FP4": ((*FP4, *(-n for n in FP4)), 64),
    "MXFP4": ((*E2M1, *(-n for n in E2M1)), 32),
    "IQ4": (tuple(map(float, IQ4)), 32),
}
"""Tables of sixteen numbers, and how many codes share a scale."""


def option(job: Any, name: str) -> str:
    """A contender's option."""
    return str(job.backend["options"].get(name, ""))


@dataclass(frozen=True, kw_only=True)
class Products(Scenario):
    """Rows by a matrix of four-bit codes. A contender's option ``codes`` says what they stand for: even steps
    (``int4``, as ``dtype="int4"`` makes), or a table's numbers (``NF4``, ``FP4``, ``MXFP4``, ``IQ4``).

    Attributes:
        rows, outs, ins: of the product.
        held: bytes of a matrix's copies, which are multiplied with in turn, as a model's layers are: more than a cache
            holds. With many rows there are two.
    """

    rows: int = 1
    outs: int = 1024
    ins: int = 1024
    held: int = 64 << 20
    NEEDS: ClassVar = ("prepare",)
    GIVES: ClassVar = {"product.latency": SECONDS, "product.speed": Kind("GMAC/s", "higher")}

    def check(self) -> None:
        """There is a matrix."""
        at_least(1, rows=self.rows, outs=self.outs, ins=self.ins, held=self.held)

    def begin(self, backend: Any, job: Any) -> Callable[[], dict[str, float]]:
        """Make the copies."""
        backend.prepare()
        from omniform.native.matrix import Matrix

        torch = backend.torch
        torch.manual_seed(0)
        codes = option(job, "codes")
        if codes == "int4":
            first = Matrix.quantize(torch.randn(self.outs, self.ins), bits=4, group=32)
        else:
            table, group = TABLES[codes]
            drawn = torch.randint(0, 16, (self.outs, self.ins)).to(torch.uint8)
            scales = (torch.rand(self.outs, self.ins // group) + 0.5).half()
            first = Matrix.quantized(drawn, scales, table=table, group=group)
        copies = max(1, self.held // first.nbytes) if self.rows == 1 else 2
        matrices = [Matrix.below_one_another(self.outs, iter([first])) for _ in range(copies)]
        x = torch.randn(self.rows, self.ins)

        def sample() -> dict[str, float]:
            started = job.now()
            for matrix in matrices:
                matrix.multiply(x)
            spent = max(job.now() - started, 1e-9) / copies
            return {"product.latency": spent, "product.speed": self.rows * self.outs * self.ins / spent / 1e9}

        return sample


@dataclass(frozen=True, kw_only=True)
class Packing(Scenario):
    """A matrix is packed for the kernels, to new memory. A contender's option ``into`` says what: ``copy`` for the
    bytes as they are, ``packed`` for what ``form`` says.

    Attributes:
        form: ``bfloat16`` and ``float32`` as they are, ``int8`` and ``int4`` made of bfloat16, or a block type of GGUF
            files, ``Q4_K``.
        outs, ins: of the matrix.
    """

    form: str = "bfloat16"
    outs: int = 8192
    ins: int = 4096
    NEEDS: ClassVar = ("prepare",)
    GIVES: ClassVar = {"packing.latency": SECONDS, "packing.speed": Kind("GB/s", "higher")}

    def begin(self, backend: Any, job: Any) -> Callable[[], dict[str, float]]:
        """Make what is packed."""
        backend.prepare()
        given, pack = self.given(backend.torch)
        work = given.clone if option(job, "into") == "copy" else partial(pack, given)

        def sample() -> dict[str, float]:
            started = job.now()
            made = work()
            spent = max(job.now() - started, 1e-9)
            del made
            return {"packing.latency": spent, "packing.speed": given.nbytes / spent / 1e9}

        return sample

    def given(self, torch: Any) -> tuple[Any, Callable[[Any], object]]:
        """What is packed, and by what."""
        from omniform.native.matrix import Matrix

        torch.manual_seed(0)
        if self.form in ("bfloat16", "float32"):
            return (torch.randn(self.outs, self.ins) * 0.02).to(getattr(torch, self.form)), Matrix.pack
        if self.form in ("int8", "int4"):
            weight = (torch.randn(self.outs, self.ins) * 0.02).bfloat16()
            return weight, partial(Matrix.quantize, bits=int(self.form[3:]))
        from omniform.transforms.stacks import addresses, layout_of
        from omniform.weights.gguf.types import TYPES

        kind = next(one for one in TYPES.values() if one.name == self.form)
        raw = torch.randint(0, 256, (self.outs, self.ins // kind.numbers * kind.nbytes), dtype=torch.uint8)
        return raw, lambda blocks: Matrix.of_blocks(addresses(blocks), self.ins, layout_of(kind))


@dataclass(frozen=True, kw_only=True)
class Halves(Scenario):
    """A forward in halves that a machine has no instructions for. A contender's option ``by`` says how: ``torch``, its
    own loop; ``tiles``, matrices widened to float32 piece by piece (``omniform.transforms.widen``).

    On machines that do have instructions for ``bfloat16``, ``limited`` and the variables of the config's contenders
    bring about what a machine with AVX2 alone does: oneDNN is switched off, since torch asks the machine itself, and
    not these variables, whether it may multiply bfloat16.

    Attributes:
        inputs: as the scenario ``forward`` has them.
        batch: rows.
        limited: whether oneDNN is switched off.
    """

    inputs: dict[str, tuple[int, ...]]
    batch: int = 1
    limited: bool = False
    NEEDS: ClassVar = ("forward",)
    GIVES: ClassVar = {"forward.latency": SECONDS}

    def begin(self, backend: Any, job: Any) -> Callable[[], dict[str, float]]:
        """Load, and widen."""
        backend.prepare()
        torch = backend.torch
        from omniform.transforms import widen as widening

        if self.limited:
            torch.backends.mkldnn.set_flags(False)
        halves = frozenset({getattr(torch, str(job.backend["dtype"]))})
        widening.slow_dtypes = lambda: frozenset()
        auto = getattr(backend.library, str(job.backend["load_class"]))
        backend.model = auto.from_pretrained(job.model, dtype=job.backend["dtype"]).eval()
        if option(job, "by") == "tiles":
            widening.slow_dtypes = lambda: halves
            if not widening.widen(backend.model):
                raise RuntimeError("no layer was widened: the native kernels have taken them (OMNIFORM_NATIVE=0)")
        inputs = backend.shaped(self.inputs, self.batch)

        def sample() -> dict[str, float]:
            started = job.now()
            backend.forward(inputs)
            return {"forward.latency": job.now() - started}

        return sample

    def answer(self, backend: Any) -> list[float]:
        """Some of the numbers of the output."""
        told: list[float] = backend.told(backend.forward(backend.shaped(self.inputs, self.batch)))
        return told
