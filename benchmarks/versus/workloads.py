"""What is measured, with which sizes, against whom, and what is to be reached; the list is in ``tasks.py``."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Better = Literal["higher", "lower"]
SideName = Literal["ours", "theirs", "llamacpp", "ik"]
Format = Literal["auto", "int8", "int4", "smollm2"]
Clock = Literal["wall", "cpu"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Lengths in tokens, and numbers of rows.

    Attributes:
        prompt: of the one row that decodes.
        new: tokens that it writes.
        prefill: the prompt of the one row that is only read.
        rows: ragged prompts that are handed over together.
        shortest, longest: of their lengths.
        row_new: tokens that each of them is answered with.
        prefix: what they share in front, where they share something.
        padded_rows: how many of them the reference pads and generates for at once, when it pads.
        checked_rows, checked_new: of the ragged prompts, those whose answers are compared in float32.
        first: the prompt of the run that ends with its first token.
        chats, turns: conversations about pictures, and questions in each.
        answer: tokens that an answer may have.
        profiled: decoding steps of the step profile, and of a step of many rows.
        texts, text_rows: texts that are encoded, and how many at once, in order of length.
        text_shortest, text_longest: of their lengths.
        pictures, picture_rows: pictures that are encoded, and how many at once.
    """

    prompt: int = 32
    new: int = 64
    prefill: int = 256
    rows: int = 24
    shortest: int = 16
    longest: int = 256
    row_new: int = 32
    prefix: int = 200
    padded_rows: int = 8
    checked_rows: int = 8
    checked_new: int = 16
    first: int = 16
    chats: int = 12
    turns: int = 3
    answer: int = 48
    profiled: int = 32
    texts: int = 64
    text_rows: int = 16
    text_shortest: int = 8
    text_longest: int = 128
    pictures: int = 32
    picture_rows: int = 8


FULL = Sizes()
TINY = Sizes(
    prompt=8, new=5, prefill=24, rows=5, shortest=4, longest=20, row_new=3, prefix=40, padded_rows=2, checked_rows=3,
    checked_new=4, first=4, chats=2, turns=2, answer=4, profiled=3, texts=4, text_rows=2, text_shortest=3,
    text_longest=9, pictures=3, picture_rows=2,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do a workload.

    Attributes:
        name: in reports.
        side: the module that does it: ``ours``, ``theirs``, or ``llamacpp``, which ``ik`` shares.
        way: which of the side's ways to answer many prompts.
        format: of the weights: the checkpoint's bfloat16; 8 or 4 bits, made of it; or the trained model's file.
        native: whether omniform may use its own kernels, or torch's alone.
        neighbours: busy processes beside it.
    """

    name: str
    side: SideName
    way: str = ""
    format: Format = "auto"
    native: bool = True
    neighbours: int = 0


@dataclass(frozen=True, slots=True)
class Aim:
    """A ratio to reach, ours over the best contender of a side, where above one is always better for us.

    Attributes:
        side: whose; ``ours`` means the other ways of omniform.
        where: the kind of machine that it holds for (``machine.kind``), or every one.
    """

    side: SideName
    ratio: float
    where: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that a workload gives.

    Attributes:
        bound: what ours must be at most, or at least where higher is better; None for no bound.
    """

    name: str
    title: str
    unit: str
    better: Better
    aims: tuple[Aim, ...] = ()
    bound: float | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """Something to do, the ways to do it, ours first, and what is measured.

    Attributes:
        title: what is done, with places for sizes.
        measure: the function of ``measure.py`` that does it, where it is not the one of this workload's own name.
        repeated: whether it is done once a pair, or once in all because its result is no time.
        exact: whether every contender must give the same answers to the letter (float32), or about the same.
        checks: facts of ours, and the field of :class:`Sizes` that each must equal.
        wall: whether only the wall clock says anything about it.
    """

    name: str
    title: str
    contenders: tuple[Contender, ...]
    figures: tuple[Figure, ...]
    measure: str = ""
    repeated: bool = True
    exact: bool = False
    checks: tuple[tuple[str, str], ...] = ()
    wall: bool = False


OURS = Contender("omniform", "ours", "engine")
THEIRS = Contender("transformers", "theirs")
CONTINUOUS = Contender("transformers, generate_batch", "theirs", "continuous")
PADDED = Contender("transformers, padded generate", "theirs", "padded")
UNCACHED = Contender("omniform, no prefix cache", "ours", "uncached")
TORCH = Contender("omniform, torch's kernels", "ours", "engine", native=False)
LLAMA_CPP = Contender("llama.cpp", "llamacpp")
IK = Contender("ik_llama.cpp", "ik")


@dataclass(frozen=True, slots=True)
class Job:
    """What a process is to measure.

    Attributes:
        workload: the workload's name.
        folder: of the benchmark's checkpoint.
        pictures: of the bundled checkpoint, which answers questions about pictures.
        vocabulary: of the benchmark's checkpoint.
        weights: bytes of weights that one decoding step reads.
        device: a torch device.
        threads: that a library may compute with.
        measure: the measurement's name, where it is not the workload's.
        clock: what a second is: one on the wall, or one that a processor worked for this process.
        cpu: the variant that omniform's library is held to; empty for its own choice.
        files: what llama.cpp reads, by format.
        encoders: folders of the encoders' checkpoints, by name.
        torchvision_fails: whether torchvision is there and cannot be imported as it is, with which the reference does
            not load either.
    """

    workload: str
    contender: Contender
    sizes: Sizes
    folder: str
    pictures: str
    vocabulary: int
    weights: int
    device: str
    threads: int
    measure: str = ""
    clock: Clock = "wall"
    cpu: str = ""
    files: dict[str, str] = field(default_factory=dict)
    encoders: dict[str, str] = field(default_factory=dict)
    torchvision_fails: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Job:
        """Back from JSON."""
        return cls(**{**values, "contender": Contender(**values["contender"]), "sizes": Sizes(**values["sizes"])})


@dataclass(slots=True)
class Sample:
    """What one process measured.

    Attributes:
        figures: by :attr:`Figure.name`.
        answers: what was written, row by row: tokens, or the texts of a chat's turns.
        facts: whatever else is worth keeping.
        refused: why the library does not do what it was asked for, in its own words; empty where it did.
    """

    figures: dict[str, float] = field(default_factory=dict)
    answers: list[list[int]] | list[list[str]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    refused: str = ""


def tokens(job: Job, name: str, length: int) -> list[int]:
    """Random tokens, the same for everyone who asks by the same name; never a special token."""
    chance = random.Random(name)
    return [chance.randrange(3, job.vocabulary) for _ in range(length)]


def ragged(job: Job, name: str) -> list[list[int]]:
    """The ragged prompts: lengths from the shortest to the longest, in an order of no kind.

    The lengths are the same under every name, the tokens are not.
    """
    sizes = job.sizes
    span = sizes.longest - sizes.shortest
    lengths = [sizes.shortest + round(span * k / (sizes.rows - 1)) for k in range(sizes.rows)]
    random.Random("lengths").shuffle(lengths)
    return [tokens(job, f"{name} {row}", length) for row, length in enumerate(lengths)]
