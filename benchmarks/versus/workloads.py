"""What is measured, with which sizes, against whom, and what is to be reached."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Better = Literal["higher", "lower"]


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
        profiled: decoding steps of the step profile.
    """

    prompt: int = 32
    new: int = 64
    prefill: int = 512
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


FULL = Sizes()
TINY = Sizes(
    prompt=8, new=5, prefill=24, rows=5, shortest=4, longest=20, row_new=3, prefix=40, padded_rows=2, checked_rows=3,
    checked_new=4, first=4, chats=2, turns=2, answer=4, profiled=3,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do a workload.

    Attributes:
        name: in reports.
        side: the module that does it: ``ours``, ``theirs`` or ``llamacpp``.
        way: which of the side's ways to answer many prompts.
    """

    name: str
    side: Literal["ours", "theirs", "llamacpp"]
    way: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that a workload gives.

    Attributes:
        target: the ratio to reach, ours over theirs, where above one is always better for us; None for none.
    """

    name: str
    title: str
    unit: str
    better: Better
    target: float | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """Something to do, the ways to do it, ours first, and what is measured.

    Attributes:
        title: what is done, with places for sizes.
        repeated: whether it is done once a pair, or once in all because its result is no time.
        exact: whether every contender must give the same answers to the letter (float32), or about the same.
        checks: facts of ours, and the field of :class:`Sizes` that each must equal.
    """

    name: str
    title: str
    contenders: tuple[Contender, ...]
    figures: tuple[Figure, ...]
    repeated: bool = True
    exact: bool = False
    checks: tuple[tuple[str, str], ...] = ()


OURS = Contender("omniform", "ours", "engine")
THEIRS = Contender("transformers", "theirs")
CONTINUOUS = Contender("transformers, generate_batch", "theirs", "continuous")
PADDED = Contender("transformers, padded generate", "theirs", "padded")
UNCACHED = Contender("omniform, no prefix cache", "ours", "uncached")
LLAMA_CPP = Contender("llama.cpp", "llamacpp")

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            "decode",
            "one row: a prompt of {prompt} tokens and {new} new ones; a prompt of {prefill} and one new",
            (OURS, THEIRS, LLAMA_CPP),
            (
                Figure("decode", "one row, decode", "tok/s", "higher", 1.25),
                Figure("prefill", "one row, prefill", "tok/s", "higher", 1.0),
            ),
        ),
        Workload(
            "batch",
            "{rows} ragged prompts of {shortest} to {longest} tokens, {row_new} new tokens each",
            (OURS, CONTINUOUS, PADDED),
            (Figure("seconds", "ragged prompts", "s", "lower", 2.2),),
        ),
        Workload(
            "prefix",
            "{rows} ragged prompts behind a common one of {prefix} tokens, {row_new} new each, empty cache at first",
            (OURS, UNCACHED),
            (Figure("seconds", "ragged prompts, shared prefix", "s", "lower", 2.0),),
        ),
        Workload(
            "load",
            "a new process, files in the disk cache: load, and the first token after a prompt of {first}",
            (OURS, THEIRS),
            (
                Figure("load", "load to first token", "s", "lower", 2.0),
                Figure("with_import", "import and load to first token", "s", "lower"),
                Figure("memory", "peak host memory", "MB", "lower", 1.0),
            ),
        ),
        Workload(
            "chats",
            "{chats} chats of {turns} turns about a picture each, on the bundled checkpoint in float32",
            (OURS, THEIRS),
            (Figure("seconds", "chats about pictures", "s", "lower"),),
            exact=True,
            checks=(("encoder_runs", "chats"),),
        ),
        Workload(
            "parity",
            "float32: {checked_rows} ragged prompts, {checked_new} new tokens each, the same tokens from everyone",
            (OURS, PADDED),
            (),
            repeated=False,
            exact=True,
        ),
        Workload(
            "steps",
            "where the time of a decoding step goes: {profiled} steps of one row, and of {rows} rows",
            (OURS,),
            (),
            repeated=False,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Job:
    """What a process is to measure.

    Attributes:
        folder: of the benchmark's checkpoint.
        pictures: of the bundled checkpoint, which answers questions about pictures.
        vocabulary: of the benchmark's checkpoint.
        weights: bytes of weights that one decoding step reads.
        device: a torch device.
        gguf: the file that llama.cpp reads.
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
    gguf: str | None = None
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
    """

    figures: dict[str, float] = field(default_factory=dict)
    answers: list[list[int]] | list[list[str]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


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
