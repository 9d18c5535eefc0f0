"""The formats that a model is exported to, and what may be said of each. Nothing here needs torch.

One table for both doors: a keyword of ``model.export`` and an option of ``omniform export`` mean the same, and are
refused in the same words where they mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final

from omniform.core.errors import InputError, UnknownArgumentError, brief, nearest

LARGEST: Final = 2_000_000_000
"""Bytes of weights that a file of ONNX holds itself; of more there is a file beside it, for want of room there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to export, in any format; :func:`options_of` makes one, and refuses what the format does not know.

    Attributes:
        task: optimum's name, ``"text-generation-with-past"``; ``"auto"`` for the model's own.
        opset: version of ONNX's operations.
        dtype: what the numbers are: ``"fp32"``, ``"fp16"``, ``"bf16"``; ``"auto"`` leaves a checkpoint what it is.
        quantize: matrices in fewer bits: ``"int8"`` of ONNX, ``"q4_k_m"`` and the like of GGUF; None for none.
        layout: what stands where, and under which names.
        largest_file: bytes of weights beyond which they stand in a file beside ONNX's graph.
        max_shard_size: bytes of weights in one file of safetensors, a number or ``"5GB"``; ``"none"`` for one file.
        overwrite: replace what is there.
    """

    task: str = "auto"
    opset: int = 20
    dtype: str = "fp32"
    quantize: str | None = None
    layout: str = "optimum"
    largest_file: int = LARGEST
    max_shard_size: int | str = "50GB"
    overwrite: bool = False

    @property
    def bits(self) -> str:
        """What a tolerance goes by."""
        return self.quantize or self.dtype


@dataclass(frozen=True, slots=True)
class Format:
    """One of them.

    Attributes:
        name: what it is asked for by.
        what: what is written, in a few words.
        defaults: the options that mean something, and what they are where nobody says.
        certified: whether the files compute, and a certificate says that they do so as torch does.
        packages: what a certificate tells the versions of, beside omniform and torch.
    """

    name: str
    what: str
    defaults: Mapping[str, object]
    certified: bool = False
    packages: tuple[str, ...] = ()


_COMPUTED: Final[Mapping[str, object]] = {"task": "auto", "dtype": "fp32", "overwrite": False}

FORMATS: Final[Mapping[str, Format]] = {
    one.name: one
    for one in (
        Format(
            "onnx",
            "graphs that onnxruntime and transformers.js run",
            {**_COMPUTED, "opset": 20, "quantize": None, "layout": "optimum", "largest_file": LARGEST},
            certified=True,
            packages=("onnx", "onnxscript", "onnxruntime"),
        ),
        Format("torch", "programs of torch.export, which torch alone loads", _COMPUTED, certified=True),
        Format(
            "aot", "programs compiled for this machine by AOTInductor and a C++ compiler", _COMPUTED, certified=True
        ),
        Format("gguf", "one file that llama.cpp runs", {"quantize": None, "overwrite": False}),
        Format(
            "safetensors",
            "a checkpoint of other numbers, sizes of files, or names",
            {"dtype": "auto", "layout": "hub", "max_shard_size": "50GB", "overwrite": False},
        ),
    )
}
"""By name."""

CHOICES: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("onnx", "dtype"): ("fp32", "fp16"),
    ("onnx", "quantize"): ("int8",),
    ("onnx", "layout"): ("optimum", "transformers.js"),
    ("torch", "dtype"): ("fp32", "fp16", "bf16"),
    ("aot", "dtype"): ("fp32", "fp16", "bf16"),
    ("safetensors", "dtype"): ("auto", "fp32", "fp16", "bf16"),
    ("safetensors", "layout"): ("hub", "consolidated", "modules"),
}
"""What a format's option may be, where that is a short list."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        path: the folder, or the file.
        format: what it is.
        task: what for; empty of a checkpoint, which is for all that it can.
        files: the graphs or programs, by what they do; of a checkpoint its files of weights.
        cases: how many comparisons were made.
        greatest: the greatest difference among them; see :data:`omniform.export.onnx.certificates.TOLERANCES`.
        tolerance: how great it might have been.
        compared: whether a model was there to be compared with, and not the digests alone.
        sizes: bytes of every file that was written.
    """

    path: Path
    format: str
    task: str
    files: Mapping[str, str]
    cases: int
    greatest: float
    tolerance: float
    compared: bool = True
    sizes: Mapping[str, int] = field(default_factory=dict)


def format_named(name: object) -> Format:
    """The format of a name.

    Raises:
        InputError: there is none; the nearest is named.
    """
    found = FORMATS.get(name) if isinstance(name, str) else None
    if found is None:
        raise InputError(
            "no such format", where="format", expected=", ".join(FORMATS), found=brief(name),
            remedy=nearest(str(name), FORMATS),
        )  # fmt: skip
    return found


def options_of(form: Format, given: Mapping[str, object]) -> Options:
    """What somebody said of a format, and the rest as usual.

    Raises:
        UnknownArgumentError: no format has such an option.
        InputError: this format has no use for it, or it has no such value.
    """
    known = [one.name for one in fields(Options)]
    for name, value in given.items():
        if name not in known:
            raise UnknownArgumentError(f"export has no argument {name!r}", remedy=nearest(name, known))
        if name not in form.defaults:
            others = [one.name for one in FORMATS.values() if name in one.defaults]
            raise InputError(
                f"this means nothing for the format {form.name}", where=name, expected=f"it for {' or '.join(others)}",
                found=brief(value), remedy=f"{form.name} takes {', '.join(form.defaults)}.",
            )  # fmt: skip
        choices = CHOICES.get((form.name, name))
        if choices is not None and value is not None and value not in choices:
            raise InputError(
                f"no such {name}", where=name, expected=" or ".join(choices), found=brief(value),
                remedy=nearest(str(value), choices),
            )  # fmt: skip
    told = {**form.defaults, **{name: value for name, value in given.items() if value is not None}}
    for name, kind in (("overwrite", bool), ("task", str), ("opset", int), ("largest_file", int)):
        if name in told and type(told[name]) is not kind:
            raise InputError(f"this is no {kind.__name__}", where=name, found=brief(told[name]))
    return Options(**told)  # type: ignore[arg-type] # each was looked at above, or is a choice
