"""The comparison of exported files with the model, and what is written of it.

The model is asked through its own forward and its own cache, the files through onnxruntime: at two numbers of rows and
two lengths, with padding before, behind and none, in one step and in several that hand the cache on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol, cast

import torch
from torch import Tensor

from omniform.architectures.model import Model
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput, ModelOutput
from omniform.core.state import DenseState
from omniform.export.onnx.inputs import ANSWER, CHOICES, IMAGE_BATCH, LENGTH, TEXT_BATCH, WHOLE, said
from omniform.export.onnx.layout import BRANCH, Graph, Layout, Port, Role
from omniform.export.onnx.parts import Flat, Pair, Part, Step, Whole, Writer, another, encoder_of, tensors_of
from omniform.export.onnx.states import BATCH, PAST, READ, Piece, kept

if TYPE_CHECKING:
    import onnxruntime

Pad = Literal["none", "left", "right"]

TOLERANCES: Final[Mapping[str, float]] = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1.6e-1, "int8": 2e-1}
"""How far an output may be from torch's, as a part of the greatest number in it, or of 1 where that is less."""


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison.

    Attributes:
        graph: the file's role.
        what: rows, lengths, padding, cache.
        greatest: by output, the greatest difference as a part of the greatest number (of 1 where that is less).
    """

    graph: str
    what: Mapping[str, object]
    greatest: Mapping[str, float]

    def told(self) -> dict[str, object]:
        """As JSON."""
        return {"graph": self.graph, **self.what, "greatest": dict(self.greatest)}


class Runs(Protocol):
    """A file that computes."""

    @property
    def inputs(self) -> Mapping[str, Port]:
        """What it reads."""

    def __call__(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name. Inputs that the file does not read are left out."""


Opens = Callable[[Path, Graph], Runs]
"""A file of a folder, and what it reads and gives, to one that computes."""


class Runner:
    """A file, run by onnxruntime.

    Args:
        folder: where the files are.
        graph: the file's description.
    """

    def __init__(self, folder: Path, graph: Graph) -> None:
        self.session = session(folder / graph.file)
        self.inputs: Mapping[str, Port] = {port.name: port for port in graph.inputs}
        self.outputs = [port.name for port in graph.outputs]

    def __call__(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name. Inputs that the file does not read are left out; halves are made where it reads halves.

        Raises:
            InputError: onnxruntime refuses the inputs.
        """
        fed = {}
        for name, port in self.inputs.items():
            value = given[name].detach().numpy()
            fed[name] = value.astype(port.dtype) if value.dtype.kind == "f" else value
        try:
            values = self.session.run(self.outputs, fed)
        except Exception as error:  # its classes of errors have no common base but this
            sizes = {name: list(value.shape) for name, value in fed.items() if not name.startswith("past")}
            raise InputError(
                "onnxruntime cannot compute what torch does",
                where=str(sizes),
                found=" ".join(str(error).split())[-300:],
            ) from error
        return dict(zip(self.outputs, map(torch.from_numpy, values), strict=True))


def session(path: Path) -> onnxruntime.InferenceSession:
    """A file in onnxruntime, on the processor.

    Raises:
        InputError: onnxruntime refuses it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes of errors have no common base but this
        raise InputError("onnxruntime cannot load the file", where=str(path), found=str(error)[:300]) from error


def distances(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> dict[str, float]:
    """How far outputs are apart; see :data:`TOLERANCES`. Infinite numbers must be the same.

    Raises:
        InputError: another shape, or a number that is none.
    """
    told = {}
    for name, right in expected.items():
        own = found[name].double()
        right = right.detach().double()
        if own.shape != right.shape:
            raise InputError(
                "the file gives another shape than torch", where=f"{where}, {name}", expected=list(right.shape),
                found=list(own.shape),
            )  # fmt: skip
        if not right.numel():
            continue
        finite = torch.isfinite(right)
        if not torch.equal(own[~finite], right[~finite]) or not torch.isfinite(own[finite]).all():
            raise InputError("the file gives numbers that torch does not", where=f"{where}, {name}", found="inf, nan")
        difference = (own[finite] - right[finite]).abs().max() if finite.any() else torch.zeros(())
        scale = right[finite].abs().max().clamp(min=1) if finite.any() else torch.ones(())
        told[name] = float(difference / scale)
    return told


def sizes_of(model: Model) -> tuple[tuple[int, int], tuple[int, int]]:
    """Two numbers of rows and two lengths, within what the model has places for."""
    most = said(model, "max_position_embeddings", "n_positions", "max_target_positions")
    longest = max(8, min(23, (most if isinstance(most, int) else 64) - 8))
    return (1, 3), (6, longest)


def padded(mask: Tensor, pad: Pad) -> Tensor:
    """The mask, with padding in some rows: none, some in the first, more in the last."""
    mask = mask.clone()
    length = mask.shape[-1]
    for row, count in ((0, length // 3), (mask.shape[0] - 1, length // 2)):
        if pad == "left":
            mask[row, ..., :count] = 0
        elif pad == "right":
            mask[row, ..., length - count :] = 0
    return mask


def placed(mask: Tensor) -> Tensor:
    """Positions of tokens as loaders count them: real ones from 0. Shape: [B, T]."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def compare(model: Model, parts: Sequence[Part], layout: Layout, opened: Opens = Runner) -> Iterator[Case]:
    """Every case of a folder, one after another.

    Args:
        model: as it was exported.
        parts: as it was taken apart.
        layout: of the folder.
        opened: opens a file.

    Raises:
        InputError: see :func:`distances`.
    """
    by_role = {part.role: part for part in parts}
    with torch.no_grad():
        if "encoder" in by_role:
            yield from _translating(cast(Pair, model), by_role, layout, opened)
            return
        for part in parts:
            runner = opened(layout.folder, layout.graphs[part.role])
            if isinstance(part.module, Step):
                yield from _stepping(model, part, runner)
            elif isinstance(part.module, Whole):
                yield from _at_once(model, part, runner)
            else:
                yield from _alone(part, runner)


def _at_once(model: Model, part: Part, runner: Runs) -> Iterator[Case]:
    batches, lengths = sizes_of(model)
    whole = cast(Whole, part.module)
    texts = any(LENGTH in own.dims for own in part.inputs)
    dims = {port.name: port.dims for port in runner.inputs.values()}
    free = {a: n for own in part.inputs for a, n in own.maybe.items() if a in dims[own.name]}
    for rows in batches:
        for turn, length in enumerate(lengths if texts else lengths[: 2 if free else 1]):
            more = {axis: another(axis, size) if turn else size for axis, size in free.items()}
            for pad in cast("tuple[Pad, ...]", ("none", "left", "right") if texts else ("none",)):
                more |= {CHOICES: 2 + turn, TEXT_BATCH: rows + 1, IMAGE_BATCH: rows, ANSWER: length + 1}
                sizes = {BATCH: rows, LENGTH: length, **more}
                used = {dim for own in part.inputs for dim in own.dims}
                given = {own.name: own.example(sizes, seed=length) for own in part.inputs}
                if "attention_mask" in given and texts:
                    given["attention_mask"] = padded(given["attention_mask"], pad)
                    if "position_ids" in given:
                        given["position_ids"] = placed(given["attention_mask"])
                named = {own.keyword: given[own.name] for own in part.inputs}
                told = tensors_of(model(**named, **whole.extra))
                expected = {name: told[name] for name in part.outputs}
                what = {axis: size for axis, size in sizes.items() if axis in used} | {"padding": pad}
                found = runner(given)
                if pad != "none" and "attention_mask" in given:
                    found, expected = (of_tokens(one, given["attention_mask"]) for one in (found, expected))
                yield Case(part.role, what, distances(found, expected, f"{part.role}, {what}"))


def of_tokens(found: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """Outputs with zeros in the place of finite numbers that tell of padding: a model may compute them or not, and what
    it reads there differs between kernels.

    Args:
        mask: Shape: [B, T].
    """
    padding = mask == 0
    return {
        name: value.masked_fill(padding.reshape(*mask.shape, *[1] * (value.dim() - mask.dim())) & value.isfinite(), 0)
        if value.shape[: mask.dim()] == mask.shape
        else value
        for name, value in found.items()
    }


def _alone(part: Part, runner: Runs) -> Iterator[Case]:
    """A part that the model has no forward of its own for, beside what torch computes of it."""
    for rows, length in ((1, 5), (3, 11)):
        sizes = {BATCH: rows, LENGTH: length, "num_images": rows}
        given = {own.name: own.example(sizes, seed=length) for own in part.inputs}
        found = cast(Flat, part.module).run(given)
        what = {axis: size for axis, size in sizes.items() if any(axis in own.dims for own in part.inputs)}
        expected = dict(zip(part.outputs, found, strict=True))
        yield Case(part.role, what, distances(runner(given), expected, f"{part.role}, {what}"))


def _stepping(model: Model, part: Part, runner: Runs) -> Iterator[Case]:
    batches, lengths = sizes_of(model)
    step = cast(Step, part.module)
    first = {own.name: own for own in part.inputs}
    name = "input_ids" if "input_ids" in first else "inputs_embeds"
    told_all = WHOLE in first["attention_mask"].dims
    for rows in batches:
        for length in lengths:
            for pad in cast("tuple[Pad, ...]", ("none", "left", "right")):
                chunks = (length - 4, 1, 3)
                ids = first[name].example({BATCH: rows, LENGTH: length}, seed=length)
                mask = torch.ones(rows, length, dtype=torch.int64)
                # Padding behind a text is in what comes first; what follows is real.
                mask[:, : chunks[0]] = padded(mask[:, : chunks[0]], pad)
                places = placed(mask)
                state: DenseState | None = None
                past = {
                    own.name: own.example({BATCH: rows, PAST: 0}) for own in part.inputs if own.name.startswith("past")
                }
                past = {name: torch.zeros_like(value) for name, value in past.items()}
                begin = 0
                for count in chunks:
                    end = begin + count
                    given = {
                        name: ids[:, begin:end], "attention_mask": mask[:, :end],
                        "position_ids": places[:, begin:end],
                    }  # fmt: skip
                    out = model(**given, past_key_values=state, use_cache=True)
                    state = remembered(out)
                    expected = {"logits": cast(Tensor, out["logits"])}
                    expected |= {p.present: t for p, t in zip(step.pieces, kept(step.pieces, state), strict=True)}
                    if not told_all:  # nothing is kept of single tokens, and a mask tells of the new ones alone
                        given["attention_mask"] = mask[:, begin:end]
                    found = runner({**given, **past})
                    what = {BATCH: rows, LENGTH: count, PAST: begin, "padding": pad}
                    own, right = (real(one, step.pieces, mask[:, :end], count) for one in (found, expected))
                    yield Case(part.role, what, distances(own, right, f"{part.role}, {what}"))
                    past = {p.past: found[p.present].to(past[p.past].dtype) for p in step.pieces}
                    begin = end


def real(found: Mapping[str, Tensor], pieces: Sequence[Piece], mask: Tensor, new: int) -> dict[str, Tensor]:
    """Outputs with zeros in the place of finite numbers that tell of padding: a norm of next to nothing makes of noise
    what it will.

    Args:
        mask: of all tokens. Shape: [B, S].
        new: how many of them, at the end, the logits tell of.
    """
    padding = mask == 0
    held = {piece.present for piece in pieces if piece.spec.kept == "token"}
    where = dict.fromkeys(held, padding[:, None, :, None]) | {"logits": padding[:, -new:, None]}
    return {
        name: value.masked_fill(where[name] & value.isfinite(), 0) if name in where else value
        for name, value in found.items()
    }


def remembered(out: ModelOutput) -> DenseState:
    """The state in an output, under either of the ecosystem's names for it."""
    return cast(DenseState, next(out[name] for name in ("past_key_values", "cache_params") if name in [*out.keys()]))


def _translating(model: Pair, parts: Mapping[Role, Part], layout: Layout, opened: Opens) -> Iterator[Case]:
    runners = {role: opened(layout.folder, graph) for role, graph in layout.graphs.items()}
    batches, lengths = sizes_of(model)
    reading, writer = parts["encoder"], cast(Writer, parts["decoder"].module)
    texts = any(own.name == "attention_mask" for own in reading.inputs)
    dims = {port.name: port.dims for port in layout.graphs["encoder"].inputs}
    free = {a: n for own in reading.inputs for a, n in own.maybe.items() if a in dims[own.name]}
    for rows in batches:
        for turn, length in enumerate(lengths):
            for pad in cast("tuple[Pad, ...]", ("none", "left", "right") if texts else ("none",)):
                more = {axis: another(axis, size) if turn else size for axis, size in free.items()}
                sizes = {BATCH: rows, READ: length, **more}
                given = {own.name: own.example(sizes, seed=length) for own in reading.inputs}
                if texts:
                    given["attention_mask"] = padded(given["attention_mask"], pad)
                encoded = cast(BaseModelOutput, encoder_of(model)(**given))
                hidden = encoded.last_hidden_state
                what: dict[str, object] = {**sizes, "padding": pad}
                yield Case(
                    "encoder",
                    what,
                    distances(runners["encoder"](given), {"last_hidden_state": hidden}, f"encoder, {what}"),
                )
                own = next(i for i in parts["decoder"].inputs if i.name == "input_ids")
                ids = own.example({BATCH: rows, LENGTH: length}, seed=length + 1)
                mask = {"attention_mask": given["attention_mask"]} if texts else {}
                yield from _writing(model, writer, runners, ids, hidden, mask, what)


def _writing(
    model: Pair,
    writer: Writer,
    runners: Mapping[Role, Runs],
    ids: Tensor,
    hidden: Tensor,
    mask: Mapping[str, Tensor],
    what: Mapping[str, object],
) -> Iterator[Case]:
    state: DenseState | None = None
    past = {
        p.past: torch.zeros(ids.shape[0], p.spec.shapes[p.part][0], 0, p.spec.shapes[p.part][1]) for p in writer.pieces
    }
    begin, length = 0, ids.shape[1]
    for count in (length - 4, 1, 3):
        new = ids[:, begin : begin + count]
        told: BaseModelOutput = BaseModelOutput(last_hidden_state=hidden)
        out = model(encoder_outputs=told, decoder_input_ids=new, past_key_values=state, use_cache=True, **mask)
        state = remembered(out)
        expected = {"logits": cast(Tensor, out["logits"])}
        expected |= {p.present: t for p, t in zip(writer.pieces, kept(writer.pieces, state), strict=True)}
        given = {
            "input_ids": new, "encoder_hidden_states": hidden, BRANCH: torch.tensor([begin > 0]), **past,
            **{f"encoder_{name}": value for name, value in mask.items()},
        }  # fmt: skip
        role: Role = "decoder_with_past" if begin else "decoder"
        later: dict[str, Tensor] = {}
        for one in cast("tuple[Role, ...]", (role, "decoder_merged")):
            if one not in runners:
                continue
            which = {**what, LENGTH: count, PAST: begin}
            found = runners[one](given)
            wanted = {name: value for name, value in expected.items() if name in found}
            yield Case(one, which, distances(found, wanted, f"{one}, {which}"))
            later = later or found
        if "decoder_with_past" not in runners:
            return
        # What was read of the encoder stays as it was made in the first step.
        past = {p.past: later.get(p.present, past[p.past]) for p in writer.pieces}
        begin += count


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def judge(cases: Sequence[Case], tolerance: float, runtime: str = "onnxruntime") -> None:
    """Refuse files that are too far from torch.

    Raises:
        InputError: one output is; the worst is named.
    """
    worst = max(((far, name, case) for case in cases for name, far in case.greatest.items()), key=lambda x: x[0])
    far, name, case = worst
    if not far <= tolerance:
        raise InputError(
            f"{runtime} does not agree with torch",
            where=f"{case.graph}, {name}, {dict(case.what)}",
            expected=f"at most {tolerance:g} of the greatest number",
            found=f"{far:.3g}",
        )
