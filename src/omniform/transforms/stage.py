"""Stages: one model in several processes, each of which holds and computes some of its layers, one after another.

The plan follows from the structure: the decoder's list of layers is cut into stretches of about as many bytes; the
table of tokens counts to the first, the projection onto the vocabulary to the last. All else (norms, encoders of
pictures and sounds, tables of positions) every process holds. Where a layer lies elsewhere a stand-in takes its place
(:class:`FarLayer`), which knows what the layer keeps between steps and waits for what comes of it: a process's last
layer hands its output to the next process, and what the very last gives all of them see. A matrix that is both table
and projection lies at both ends. Layers stay whole, so whatever form their matrices have goes this way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import ClassVar, Protocol, cast, runtime_checkable

from torch import Tensor, nn

from omniform.core.context import StepContext
from omniform.core.errors import InputError
from omniform.core.layouts import HasLayers, HasOutput
from omniform.core.ranks import Ranks
from omniform.core.state import HasModules, LengthRegimes, StatefulModule, StateSpec, mixers
from omniform.transforms.shard import Divided, Writes
from omniform.weights.keymap import KeyMap
from omniform.weights.tensors import tensors_and_ties


@runtime_checkable
class Told(Protocol):
    """A layer that says what it does; see :class:`~omniform.blocks.layers.Layer`."""

    READS_MEMORY: ClassVar[bool]
    ROUTES: ClassVar[bool]


@runtime_checkable
class Reads(Protocol):
    """A model that knows its table of tokens."""

    def get_input_embeddings(self) -> nn.Module: ...


class FarMixer(StatefulModule):
    """What is known of a mixer that lies in another process: what it keeps, and where.

    Args:
        mixer: the mixer.
    """

    def __init__(self, mixer: StatefulModule) -> None:
        super().__init__()
        self.slot = mixer.slot
        self._spec, self._regimes, self._ahead = mixer.state_spec(), mixer.regimes(), mixer.looks_ahead()

    def state_spec(self) -> StateSpec:
        return self._spec

    def regimes(self) -> tuple[LengthRegimes, ...]:
        return self._regimes

    def looks_ahead(self) -> bool:
        return self._ahead

    def extra_repr(self) -> str:
        return f"slot {self.slot}"


class FarLayer(nn.Module):
    """Stands where a layer does that another process computes.

    Args:
        layer: the layer.
        passes: what comes of it here.
    """

    def __init__(self, layer: nn.Module, passes: Passes) -> None:
        super().__init__()
        self.mixers = nn.ModuleList(map(FarMixer, mixers(layer)))
        self.READS_MEMORY = isinstance(layer, Told) and layer.READS_MEMORY
        self.ROUTES = isinstance(layer, Told) and layer.ROUTES
        self._passes = passes

    def forward(self, x: Tensor, ctx: StepContext, *more: object, **named: object) -> Tensor:
        """What the layer makes of its input, where that is needed here; the input itself where it is not."""
        return self._passes.far(x, ctx)

    def extra_repr(self) -> str:
        return f"in process {self._passes.stage}"


class FarTable(nn.Embedding):
    """Stands where the table of tokens does, which the first process holds.

    Args:
        table: the table.
        ranks: the processes.
    """

    def __init__(self, table: nn.Embedding, ranks: Ranks) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx, self._ranks = table.padding_idx, ranks

    def forward(self, input: Tensor) -> Tensor:
        return self._ranks.shown(None, 0, input.device)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, in process 0"


class FarHead(nn.Module):
    """Stands where the projection onto the vocabulary does, which the last process holds.

    Args:
        head: the projection.
        ranks: the processes.
    """

    def __init__(self, head: nn.Module, ranks: Ranks) -> None:
        super().__init__()
        if isinstance(head, nn.Linear):
            self.in_features, self.out_features = head.in_features, head.out_features
        self._ranks = ranks

    def forward(self, hidden: Tensor) -> Tensor:
        """Scores of hidden states. Shape: [..., D] to [..., V]."""
        return self._ranks.shown(None, self._ranks.count - 1, hidden.device)

    def extra_repr(self) -> str:
        return f"in process {self._ranks.count - 1}"


class Passes:
    """How what one layer gives reaches the process that goes on with it.

    Args:
        ranks: the processes, in the order of the layers.
        stage: which of them computes this layer.
        ends: whether the layer is the last of that process.
    """

    def __init__(self, ranks: Ranks, stage: int, ends: bool) -> None:
        self.ranks, self.stage, self.ends = ranks, stage, ends

    def far(self, x: Tensor, ctx: StepContext) -> Tensor:
        """What comes of a layer that is computed elsewhere."""
        self.ranks.check_grad(x)
        _check_watched(ctx)
        if self._to_all(ctx):
            return self.ranks.shown(None, self.stage, x.device)
        return self.ranks.take(self.stage, x.device) if self.ends and self.stage + 1 == self.ranks.rank else x

    def before(self, module: nn.Module, given: tuple[object, ...]) -> None:
        """Refuse, before a layer of this process computes, what it alone would see."""
        self.ranks.check_grad(cast(Tensor, given[0]))
        _check_watched(next(one for one in given if isinstance(one, StepContext)))

    def near(self, module: nn.Module, given: tuple[object, ...], x: object) -> object:
        """Hand on what a layer of this process gave."""
        if not isinstance(x, Tensor):
            raise InputError(
                "layers that hand on more than hidden states are not divided among processes one after another",
                where=self.ranks.where, found=type(x).__name__, remedy="Load it without pp_plan.",
            )  # fmt: skip
        if self._to_all(next(one for one in given if isinstance(one, StepContext))):
            return self.ranks.shown(x, self.stage, x.device)
        if self.ends:
            self.ranks.give(x, self.stage + 1)
        return x

    def _to_all(self, ctx: StepContext) -> bool:
        last = self.ends and self.stage == self.ranks.count - 1
        return last or ctx.taps.wants_hidden


def _check_watched(ctx: StepContext) -> None:
    if ctx.taps.wants_attentions or ctx.taps.wants_routers:
        what = "attention weights" if ctx.taps.wants_attentions else "the scores of routers"
        raise InputError(
            f"{what} lie in the process that computes them", where="pp_plan", remedy="Load it without pp_plan."
        )


class Stage(Divided):
    """Leaves a model some of its layers; processes count in the order of these.

    Attributes:
        stages: of each layer the process that computes it.
    """

    def __init__(self, ranks: Ranks, among: Ranks | None = None) -> None:
        super().__init__(ranks, among)
        self.stages: list[int] = []
        self._layers: nn.ModuleList | None = None
        self._table: nn.Module | None = None
        self._head: nn.Module | None = None

    def prepare(self, model: nn.Module, keys: KeyMap) -> KeyMap:
        layers = _layers_of(model, self.ranks)
        shapes, ties = tensors_and_ties(model)
        table = None if cast(Writes, model).encoder_inputs else _table_of(model)
        head = model.get_output_embeddings() if isinstance(model, HasOutput) else None
        head = None if isinstance(head, (nn.ModuleList, nn.ModuleDict)) else head
        costs = [_bytes(layer) for layer in layers]
        costs[0] += _bytes(table)
        costs[-1] += _bytes(head)
        self.stages = split(costs, self.ranks.count)
        first, last = self.ranks.rank == 0, self.ranks.rank == self.ranks.count - 1
        for number, stage in enumerate(self.stages):
            if stage != self.ranks.rank:
                layers[number] = FarLayer(layers[number], self._passes(number))
        if table is not None and not first:
            _put(model, table, FarTable(table, self.ranks))
        if head is not None and not last:
            _put(model, head, FarHead(head, self.ranks))
        self._layers = layers
        self._table, self._head = table if first else None, head if last else None
        return _without(model, keys, shapes, ties)

    def _passes(self, number: int) -> Passes:
        ends = number + 1 == len(self.stages) or self.stages[number + 1] != self.stages[number]
        return Passes(self.ranks, self.stages[number], ends)

    def finish(self, model: nn.Module) -> None:
        assert self._layers is not None
        for number, stage in enumerate(self.stages):
            if stage == self.ranks.rank:
                passes = self._passes(number)
                self._layers[number].register_forward_pre_hook(passes.before)
                self._layers[number].register_forward_hook(passes.near)
        if self._table is not None:
            self._table.register_forward_hook(partial(_read, self.ranks))
        if self._head is not None:
            self._head.register_forward_hook(partial(_shown, self.ranks))
        model.requires_grad_(False)


def _read(ranks: Ranks, module: nn.Module, given: object, output: Tensor) -> Tensor:
    # A process that leads tells its vectors itself: the others do not look tokens up.
    return output if ranks.lead.leads else ranks.shown(output, 0, output.device)


def _shown(ranks: Ranks, module: nn.Module, given: object, output: Tensor) -> Tensor:
    return ranks.shown(output, ranks.count - 1, output.device)


def far_slots(decoder: HasModules) -> frozenset[int]:
    """The slots of a decoder's mixers that lie in other processes."""
    return frozenset(module.slot for module in decoder.modules() if isinstance(module, FarMixer))


def split(costs: Sequence[int], count: int) -> list[int]:
    """Cut things in a row into ``count`` stretches, none empty, so that the dearest is as cheap as can be.

    Returns:
        The stretch of each.
    """
    edges = [0, *accumulate(costs)]
    things = len(costs)
    best = [[float("inf")] * (things + 1) for _ in range(count + 1)]
    cut = [[0] * (things + 1) for _ in range(count + 1)]
    best[0][0] = 0
    for parts in range(1, count + 1):
        for stop in range(parts, things + 1):
            for start in range(parts - 1, stop):
                dearest = max(best[parts - 1][start], edges[stop] - edges[start])
                if dearest < best[parts][stop]:
                    best[parts][stop], cut[parts][stop] = dearest, start
    found, stop = [0] * things, things
    for parts in range(count, 0, -1):
        start = cut[parts][stop]
        found[start:stop] = [parts - 1] * (stop - start)
        stop = start
    return found


def _layers_of(model: nn.Module, ranks: Ranks) -> nn.ModuleList:
    layers = model.decoder.layers if isinstance(model, Writes) and isinstance(model.decoder, HasLayers) else None
    if not isinstance(layers, nn.ModuleList):
        raise InputError(
            f"a {type(model).__name__} has no layers of a decoder that processes could compute one after another",
            where=ranks.where, remedy="Load it without pp_plan.",
        )  # fmt: skip
    if len(layers) < ranks.count:
        raise InputError(
            "there are not enough layers for so many processes",
            where=ranks.where,
            expected=f"at least {ranks.count} layers, one for each process",
            found=len(layers),
            remedy=f"Start {len(layers)} processes or fewer, or divide layers too: tp_plan='auto'.",
        )
    if len({id(layer) for layer in layers}) < len(layers):
        raise InputError(
            "layers that are used again and again are not divided among processes one after another",
            where=ranks.where, remedy="Load it with tp_plan='auto' instead of pp_plan.",
        )  # fmt: skip
    return layers


def _table_of(model: nn.Module) -> nn.Embedding | None:
    table = model.get_input_embeddings() if isinstance(model, Reads) else None
    return table if isinstance(table, nn.Embedding) and not table._modules else None


def _bytes(module: nn.Module | None) -> int:
    return 0 if module is None else sum(tensor.nbytes for tensor in tensors_and_ties(module)[0].values())


def _put(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put one module wherever another was."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                parent._modules[name] = new


def _without(model: nn.Module, keys: KeyMap, shapes: Mapping[str, Tensor], ties: Mapping[str, str]) -> KeyMap:
    """The map of a model some of whose tensors are gone."""
    paths = {id(tensor): path for path, tensor in shapes.items()}
    left, left_ties = tensors_and_ties(model)
    owners = {path: paths[id(tensor)] for path, tensor in left.items() if paths[id(tensor)] != path}
    gone = {path: tuple(tensor.shape) for path, tensor in shapes.items() if path not in left}
    return replace(keys, gone=gone, gone_ties=frozenset(ties.keys() - left_ties.keys() - left.keys()), owners=owners)
