"""GPTQ of a model, block after block: what its layers read is gathered, they are quantized, and the next block follows.

Only the block at hand is read from the file and computed; beside it there are the Hessians of the layers that read the
same input, and what goes into the block for every row. Layers that are done are kept in a folder, each in one step, so
that a run that was killed goes on from there and ends with the same bits.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from omniform.core.context import StepContext
from omniform.core.errors import InputError, RepoError, listed
from omniform.transforms.quantize.gptq_solving import How, Solved, solved
from omniform.transforms.quantize.layers import QuantLinear
from omniform.transforms.quantize.placing import Chosen, named, placed
from omniform.transforms.widen import WidenedLinear, slow_dtypes
from omniform.weights.formats.gptq import Gptq
from omniform.weights.keymap import KeyMap
from omniform.weights.pages import release

log = logging.getLogger("omniform")

Given = tuple[tuple[object, ...], dict[str, object]]
"""What a block is called with."""


@dataclass(frozen=True, slots=True)
class LayerReport:
    """What quantizing a layer did.

    Attributes:
        name: the layer, as the checkpoint calls it.
        error: what its outputs are off, as a share of what they are (of squares, summed over all tokens).
        least: the least scale.
        most: the greatest.
        notes: what was out of the ordinary.
    """

    name: str
    error: float
    least: float
    most: float
    notes: tuple[str, ...]

    def __str__(self) -> str:
        said = f"{self.name}: error {self.error:.2e}, scales {self.least:.3g} to {self.most:.3g}"
        return "; ".join((said, *self.notes))


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that are computed together.

    Attributes:
        ids: Shape: [rows, tokens].
        real: which are no filling; None where all are. Shape: [rows, tokens].
    """

    ids: Tensor
    real: Tensor | None


@dataclass(slots=True)
class Making:
    """The quantizing of one model.

    Attributes:
        model: the model, plain.
        blocks: its blocks, in order, by path.
        layers: what is quantized in each.
        batches: what to calibrate with.
        how: how matrices are quantized.
        sequential: whether layers read what those before them give once they are quantized.
        cached: whether what blocks give is kept.
        sets: layers that go together in a block, by what their names end with; None for those that read one input.
        folder: where finished layers are kept; None for nowhere.
        dtype: of what is not quantized.
        reports: of the layers that are done.
        used: how many layers share each key.
        called: how often a block calls each layer that was watched.
    """

    model: nn.Module
    blocks: Sequence[str]
    layers: Sequence[Sequence[Chosen]]
    batches: Sequence[Batch]
    how: How
    sequential: bool
    cached: bool
    sets: Sequence[Sequence[str]] | None
    folder: Path | None
    dtype: torch.dtype
    reports: list[LayerReport] = field(default_factory=list)
    used: Counter[str] = field(default_factory=Counter)
    called: Counter[str] = field(default_factory=Counter)

    @torch.no_grad()
    def run(self) -> KeyMap:
        """Quantize all layers; where their tensors live."""
        rules = KeyMap({})
        self.model.eval()
        given = list(self._given(0)) if self.cached else []
        with _progress(sum(map(len, self.layers))) as done:
            for n, path in enumerate(self.blocks):
                block = self.model.get_submodule(path)
                _hasten(one.layer for one in self.layers[n])
                rows = (lambda given=given: given) if self.cached else (lambda n=n: self._given(n))
                for group in self._groups(block, n, rows):
                    rules = rules | self._quantized(block, group, rows)
                    done(len(group), self.reports[-1])
                if self.cached and n + 1 < len(self.blocks):
                    given = [_followed(one, _called(block, one)) for one in given]
        return rules

    def _given(self, n: int) -> Iterator[Given]:
        """What the model calls a block with, of each batch."""
        block = self.model.get_submodule(self.blocks[n])
        for batch in self.batches:
            more = {} if batch.real is None else {"attention_mask": batch.real.long()}
            with _caught(block) as found:
                self.model(input_ids=batch.ids, use_cache=False, **more)
            if not found:
                raise InputError("the model does not call this block", where=self.blocks[n])
            yield found[0]

    def _groups(self, block: nn.Module, n: int, rows: Callable[[], object]) -> list[list[Chosen]]:
        """A block's layers that are quantized together, in the order in which they are called."""
        layers = list(self.layers[n])
        if not layers:
            return []
        read: list[tuple[Chosen, int]] = []
        inputs: list[Tensor] = []

        def note(one: Chosen, x: Tensor) -> None:
            same = next((i for i, other in enumerate(inputs) if other is x), None)
            if same is None:
                inputs.append(x)
            read.append((one, len(inputs) - 1 if same is None else same))

        with _watched(layers, note):
            _called(block, next(iter(rows())))  # type: ignore[call-overload]
        self.called.update(one.path for one, _ in read)
        missing = [one.name for one in layers if not self.called[one.path]]
        if missing:
            raise InputError("layers of the block read nothing", where=self.blocks[n], found=listed(missing))
        if self.sets is not None:
            made = [[one for one in layers if is_named(one, names)] for names in self.sets]
            return [group for group in made if group]
        made = [[one for one, i in read if i == number] for number in range(len(inputs))]
        return made if self.sequential else [[one for group in made for one in group]]

    def _quantized(self, block: nn.Module, group: Sequence[Chosen], rows: Callable[[], object]) -> KeyMap:
        found = {one.path: self._kept(one) for one in group}
        if any(one is None for one in found.values()):
            hessians = self._hessians(block, group, rows)
            for one in group:
                if found[one.path] is None:
                    found[one.path] = self._solved(one, hessians[one.path])
        rules = KeyMap({})
        for one in group:
            made = found[one.path]
            assert made is not None
            with torch.device("meta"):
                rules = rules | placed(self.model, [one], None, self.dtype, self.used)
            new = self.model.get_submodule(one.path)
            assert isinstance(new, QuantLinear)
            new.fill(made.tensors)
            release(one.layer.weight)
            self.reports.append(LayerReport(one.name, made.error, made.least, made.most, made.notes))
            for note in made.notes:
                log.warning("%s: %s", one.name, note)
        return rules

    def _solved(self, one: Chosen, hessian: Tensor) -> Solved:
        assert isinstance(one.format, Gptq)
        with named(one.name):
            made = solved(one.layer.weight, hessian, one.format, self.how)
        self._keep(one, made)
        return made

    def _hessians(self, block: nn.Module, group: Sequence[Chosen], rows: Callable[[], object]) -> dict[str, Tensor]:
        """What each layer reads, as the mean of its outer products; one tensor for those that read the same."""
        sums: dict[str, Tensor] = {}
        seen: dict[str, int] = {}
        leaders: dict[str, str] = {}
        last: list[tuple[Tensor, str]] = []
        real: Tensor | None = None
        left: Counter[str] = Counter()

        def add(one: Chosen, x: Tensor) -> None:
            learn(one, x)
            left[one.path] -= 1
            if not any(left.values()):
                raise _Enough  # what the block makes of it is not asked for

        def learn(one: Chosen, x: Tensor) -> None:
            leader = next((path for other, path in last if other is x), one.path)
            if leader != one.path and leaders.setdefault(one.path, leader) == leader:
                return
            last.append((x, one.path))
            taken = x[real] if real is not None and x.shape[:2] == real.shape else x.reshape(-1, x.shape[-1])
            flat = taken.float()
            if one.path not in sums:
                sums[one.path], seen[one.path] = flat.new_zeros(flat.shape[1], flat.shape[1]), 0
            sums[one.path].addmm_(flat.t(), flat)
            seen[one.path] += len(flat)

        with _watched(group, add):
            for batch, given in zip(self.batches, rows(), strict=True):  # type: ignore[call-overload]
                real = batch.real
                last.clear()
                left.update({one.path: self.called[one.path] - left[one.path] for one in group})
                with suppress(_Enough):
                    _called(block, given)
        for path, total in sums.items():
            total.div_(max(1, seen[path]))
        return {one.path: sums[leaders.get(one.path, one.path)] for one in group}

    # -- what is done already

    def _kept(self, one: Chosen) -> Solved | None:
        if self.folder is None or not (path := self.folder / f"{one.path}.pt").is_file():
            return None
        held = torch.load(path, weights_only=True)
        facts = json.loads(held.pop("report"))
        return Solved(held, facts["error"], facts["least"], facts["most"], tuple(facts["notes"]))

    def _keep(self, one: Chosen, made: Solved) -> None:
        if self.folder is None:
            return
        path = self.folder / f"{one.path}.pt"
        staging = path.with_name(f".{path.name}.{os.getpid()}")
        facts = {"error": made.error, "least": made.least, "most": made.most, "notes": made.notes}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with staging.open("wb") as file:
                torch.save({**made.tensors, "report": json.dumps(facts)}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(staging, path)
        except OSError as error:
            raise RepoError("a finished layer cannot be kept", where=str(path), found=error.strerror) from error


def batches_of(rows: Sequence[Sequence[int]], size: int, pad: int | None) -> list[Batch]:
    """Rows by so many, shorter ones filled up at their ends.

    Raises:
        InputError: rows are of several lengths and there is nothing to fill them up with.
    """
    made: list[Batch] = []
    for first in range(0, len(rows), size):
        part = [list(row) for row in rows[first : first + size]]
        longest = max(map(len, part))
        if all(len(row) == longest for row in part):
            made.append(Batch(torch.tensor(part), None))
            continue
        if pad is None:
            raise InputError(
                "rows of several lengths are computed together",
                where="batch_size",
                expected="pad_token_id, to fill the shorter ones up with",
                found="none",
            )
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in part])
        real = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in part], dtype=torch.bool)
        made.append(Batch(ids, real))
    return made


def blocks_of(model: nn.Module, layers: Sequence[Chosen], asked: str | None) -> tuple[list[str], list[list[Chosen]]]:
    """A model's blocks, and which of some layers are in each.

    Args:
        asked: the list of blocks, as the checkpoint or the model calls it.

    Raises:
        InputError: there is no such list, or several and none is asked for.
    """
    lists: dict[str, str] = {}  # our path, to the checkpoint's
    for path, module in model.named_modules():
        inner = next((one for one in layers if one.path.startswith(f"{path}.")), None)
        if isinstance(module, nn.ModuleList) and inner is not None and not any(path.startswith(f"{p}.") for p in lists):
            number = inner.path[len(path) + 1 :].split(".")[0]
            lists[path] = inner.name.split(f".{number}.")[0]
    found = [path for path, name in lists.items() if asked in (None, path, name)]
    if len(found) != 1:
        raise InputError(
            "there is no such list of blocks" if asked and not found else "it is not clear which blocks are meant",
            where="block_name_to_quantize",
            expected=listed(sorted({*lists.values()})) or "a list of blocks with linear layers",
            found=repr(asked),
        )
    count = len(cast(nn.ModuleList, model.get_submodule(found[0])))
    paths = [f"{found[0]}.{n}" for n in range(count)]
    return paths, [[one for one in layers if one.path.startswith(f"{path}.")] for path in paths]


def is_named(one: Chosen, names: Sequence[str]) -> bool:
    """Whether one of some names is a layer's, or the end of it."""
    return any(full == name or full.endswith(f".{name}") for full in (one.name, one.path) for name in names)


def _hasten(layers: Iterable[nn.Linear]) -> None:
    """Have layers that are soon to be replaced multiply halves in float32, where that is the faster on this CPU."""
    for layer in layers:
        if type(layer) is nn.Linear and layer.weight.dtype in slow_dtypes():
            layer.__class__ = WidenedLinear


def _called(block: nn.Module, given: Given) -> Tensor:
    """What a block gives, for what a step of its own computes anew."""
    args, more = given
    fresh = [one.with_() if isinstance(one, StepContext) else one for one in args]
    kept = {name: one.with_() if isinstance(one, StepContext) else one for name, one in more.items()}
    made = block(*fresh, **kept)
    return cast(Tensor, made[0] if isinstance(made, tuple) else made)


def _followed(given: Given, made: Tensor) -> Given:
    """What the next block is called with."""
    args, more = given
    if args:
        return (made, *args[1:]), more
    first = next(name for name, value in more.items() if isinstance(value, Tensor))
    return args, {**more, first: made}


class _Enough(Exception):  # noqa: N818 no error
    """What was waited for is called."""


@contextmanager
def _caught(block: nn.Module) -> Iterator[list[Given]]:
    """What a block is called with, where the model is called within; it goes no further."""
    found: list[Given] = []

    def stop(module: nn.Module, args: tuple[object, ...], more: dict[str, object]) -> None:
        found.append((args, more))
        raise _Enough

    hook = block.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        yield found
    except _Enough:
        pass
    finally:
        hook.remove()


@contextmanager
def _watched(layers: Sequence[Chosen], told: Callable[[Chosen, Tensor], None]) -> Iterator[None]:
    """Be told what layers read."""

    def hook(one: Chosen) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, args: told(one, args[0])

    hooks = [one.layer.register_forward_pre_hook(hook(one)) for one in layers]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int, LayerReport], None]]:
    """A bar on a terminal that can draw one, where rich is installed."""
    try:
        if sys.stderr is None or not sys.stderr.isatty():
            raise ImportError
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield lambda count, last: log.info("quantized %s", last)
        return
    columns = (TextColumn("[bold]quantizing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=Console(file=sys.stderr)) as bar:
        task = bar.add_task("", total=total)
        yield lambda count, last: bar.update(task, advance=count, description=str(last))
