"""A loader whose batches are counted as they are read, and which can begin in the midst of an epoch.

It tells, of every batch, in what states all generators were before it; worker processes tell theirs with each batch.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field, replace
from typing import Protocol, cast, runtime_checkable

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from omniform.train.random_states import States, Watched, watch
from omniform.train.safe_files import read_file


@runtime_checkable
class Stateful(Protocol):
    """A stream that knows its place."""

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state_dict: dict[str, object]) -> object: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where in its data a training stands, between two steps.

    Attributes:
        epoch: the epoch, from 0.
        handed: batches of it that were handed out (by this process).
        ended: whether the epoch's end (its evaluation, its log) is over too.
        begin: all generators' states when the epoch's reading began.
        ahead: for each batch that was read and not handed out, the states before it was read.
        now: the states now.
        workers: of each worker process, its states before the first batch of the round that is to be read again.
        living: whether the workers had lived through an earlier epoch.
        over: whether the loader has said already that nothing comes any more.
        stream: the stream's own state before the last batch that was handed out (when all is over, afterwards); None
            where it keeps none.
    """

    epoch: int
    handed: int
    ended: bool
    begin: States
    ahead: tuple[States, ...]
    now: States
    workers: Mapping[int, States]
    living: bool = False
    over: bool = False
    stream: object = None

    def to_save(self) -> dict[str, object]:
        """The same as a mapping of plain values, for a file."""
        return {
            "epoch": self.epoch, "handed": self.handed, "ended": self.ended, "begin": self.begin,
            "ahead": list(self.ahead), "now": self.now, "workers": dict(self.workers), "stream": self.stream,
            "living": self.living, "over": self.over,
        }  # fmt: skip

    @classmethod
    def from_saved(cls, saved: Mapping[str, object]) -> Place:
        """From :meth:`to_save`'s mapping."""
        values = {**saved, "ahead": tuple(cast("list[States]", saved["ahead"]))}
        return cls(**values)  # type: ignore[arg-type]


class FollowedLoader(DataLoader[object]):
    """A loader made again with its own settings, whose batches are counted as they are read."""

    shared: Shared

    def __init__(self, loader: DataLoader[object]) -> None:
        settings: dict[str, object] = {
            "num_workers": loader.num_workers, "collate_fn": loader.collate_fn, "pin_memory": loader.pin_memory,
            "timeout": loader.timeout, "worker_init_fn": loader.worker_init_fn, "generator": loader.generator,
            "multiprocessing_context": loader.multiprocessing_context, "prefetch_factor": loader.prefetch_factor,
            "persistent_workers": loader.persistent_workers, "in_order": loader.in_order,
            "pin_memory_device": loader.pin_memory_device,
        }  # fmt: skip
        if isinstance(loader.dataset, IterableDataset):
            settings.update(batch_size=loader.batch_size, drop_last=loader.drop_last)
        elif loader.batch_sampler is not None:
            settings.update(batch_sampler=loader.batch_sampler)
        else:
            settings.update(batch_size=None, sampler=loader.sampler)
        super().__init__(loader.dataset, **settings)  # type: ignore[arg-type]
        self._state = _Course()

    def start(self, watched: Watched, place: Place | None, dispatched: int) -> int:
        """Prepare the next iteration.

        Returns:
            How many batches it will leave out at its begin.
        """
        self._state = course = self._state.after(watched) if self.persistent_workers else _Course(watched)
        self.shared.skip = 0
        if place is None:
            return 0
        course.living = place.living
        course.start_states = dict(place.workers)
        if dispatched > 1:
            course.replays = _replays(place, place.handed * dispatched)
            return 0
        course.wanted, course.replays = place.handed, _replays(place, place.handed)
        stream = self._stateful()
        if stream is not None and place.stream is not None:
            stream.load_state_dict(cast("dict[str, object]", place.stream))
            course.first = max(place.handed - 1, 0)
        elif not isinstance(self.dataset, IterableDataset):
            workers = max(self.num_workers, 1)
            self.shared.skip = course.first = place.handed - place.handed % workers
        return place.handed

    def wake(self) -> None:
        """Read one batch for nothing, so that generators which are made then are there."""
        if self.num_workers == 0:
            self._state, self.shared.skip = _Course(), 0
            next(super().__iter__(), None)

    def carry(self, place: Place) -> None:
        """Workers that live on from epoch to epoch begin the next one in the states of a place."""
        if self.persistent_workers:
            self._state.start_states, self._state.living = dict(place.workers), True
        stream = self._stateful()
        if stream is not None and place.stream is not None:
            stream.load_state_dict(cast("dict[str, object]", place.stream))

    def _stateful(self) -> Stateful | None:
        # In worker processes each has a copy of its own; those are read again.
        dataset: object = self.dataset
        stateful = isinstance(dataset, IterableDataset) and isinstance(dataset, Stateful)
        if not stateful or self.num_workers > 0 or _forgets(dataset):
            return None
        return cast(Stateful, dataset)

    @property
    def _index_sampler(self) -> Iterable[object]:
        # What torch's iterators draw indices from; the public attributes stay what the user put there.
        return _Skipping(cast("Iterable[object]", super()._index_sampler), self.shared)

    def __iter__(self) -> Iterator[object]:  # type: ignore[override]
        course = self._state
        iterator = self._begun(course)
        if self.num_workers == 0:
            self.shared.indices.skip()
        for number in itertools.count(course.first):
            if self.num_workers == 0:
                if number in course.replays or number < course.first + 3:  # some come to life with the first batches
                    course.watched = self.shared.watch()
                if number == max(course.replays, default=-1):
                    self.shared.due = None
                course.before(number, self._stateful())
            try:
                batch = next(iterator)
            except StopIteration:
                course.over = True
                return
            course.read = number + 1
            if self.num_workers > 0:
                batch, worker, state = cast("tuple[object, int, bytes]", batch)
                course.hear(number, worker, state)
            if number >= course.wanted:
                yield batch

    def _begun(self, course: _Course) -> Iterator[object]:
        collate, init, generator = self.collate_fn, self.worker_init_fn, self.generator
        telling = Telling(cast("Callable[[object], object]", collate))
        try:
            if self.num_workers > 0:
                self.collate_fn = telling
                self.worker_init_fn = _Start(init, course.start_states, telling)
                if course.living:  # they were seeded in an earlier epoch, and not in this one
                    self.generator = torch.Generator()
            return cast("Iterator[object]", super().__iter__())
        finally:
            self.collate_fn, self.worker_init_fn, self.generator = collate, init, generator

    def forget(self, handed: int) -> None:
        """Batches before this number need not be read again."""
        self._state.forget(handed, max(self.num_workers, 1))

    def standing(self, place: Place, handed: int) -> Place:
        """A place with what the loader knows besides: of batches read ahead of ``handed``, workers, the stream."""
        course, stream = self._state, self._stateful()
        if self.num_workers > 0:
            first = 0 if isinstance(self.dataset, IterableDataset) else handed - handed % self.num_workers
            return replace(place, workers=course.workers_at(first), living=course.living, over=course.over)
        ahead = tuple(course.known[number] for number in range(handed, course.read))
        state = None
        if stream is not None:
            # A stream that gave its last batch may be at its begin again: the batch before is read once more.
            state = course.streams.get(max(handed - 1, 0)) if not course.over else None
            state = stream.state_dict() if state is None else state
        return replace(place, ahead=ahead, over=course.over, stream=state)

    def is_one_pass(self, place: Place) -> bool:
        """Whether a stream is to be read from its begin anyway, which might not be possible twice."""
        return isinstance(self.dataset, IterableDataset) and not (place.ended or place.over) and place.stream is None


@dataclass(slots=True)
class Shared:
    """What a reading and its loader both know; neither holds the other, so that worker processes end with their loader.

    Attributes:
        roots: the objects whose generators count.
        due: a place whose states are still to be set.
        skip: batches whose indices the next iteration passes over.
    """

    roots: dict[str, object] = field(default_factory=dict)
    due: Place | None = None
    skip: int = 0
    indices: _Indices = field(default_factory=lambda: _Indices(iter(()), 0))

    def watch(self) -> Watched:
        return watch(**self.roots)


@dataclass(slots=True)
class _Course:
    """One iteration of a followed loader.

    Attributes:
        first: the number of the first batch that is read.
        wanted: the number of the first batch that is given out.
        read: the number after the last batch that was read.
        known: states before reading batches, by number.
        replays: states to be set before reading batches, by number.
        told: what workers said of their states after a batch: numbers and states, in order; -1 is an earlier epoch.
        living: whether the workers have lived through an earlier epoch.
        over: whether there was nothing more.
        start_states: states that workers are given when they start.
    """

    watched: Watched = field(default_factory=lambda: Watched({}))
    first: int = 0
    wanted: int = 0
    read: int = 0
    known: dict[int, States] = field(default_factory=dict)
    streams: dict[int, object] = field(default_factory=dict)
    replays: dict[int, States] = field(default_factory=dict)
    told: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)
    living: bool = False
    over: bool = False
    start_states: dict[int, States] = field(default_factory=dict)

    def after(self, watched: Watched) -> _Course:
        """The next epoch's course, for workers that live on."""
        told = {worker: [(-1, state) for _, state in told[-1:]] for worker, told in self.told.items()}
        return _Course(watched, told=told, start_states=self.start_states, living=bool(told) or self.living)

    def before(self, number: int, stream: Stateful | None) -> None:
        if number in self.replays:
            self.watched.restore(self.replays.pop(number))
        self.known[number] = self.watched.states()
        if stream is not None:
            self.streams[number] = stream.state_dict()

    def hear(self, number: int, worker: int, state: bytes) -> None:
        self.told.setdefault(worker, []).append((number, state))

    def forget(self, handed: int, workers: int) -> None:
        for number in [number for number in self.known if number < handed]:
            del self.known[number]
            self.streams.pop(number - 1, None)
        # What is still needed of a worker is its state after its last batch before the present round.
        before = handed - handed % workers
        for worker, told in self.told.items():
            kept = [number for number, _ in told if number < before][-1:]
            self.told[worker] = [one for one in told if one[0] >= before or one[0] in (-1, *kept)]

    def workers_at(self, number: int) -> dict[int, States]:
        """What each worker said last before a batch."""
        found: dict[int, States] = {}
        for worker, told in self.told.items():
            before = [state for done, state in told if done < number]
            if before:
                found[worker] = cast(States, read_file(io.BytesIO(before[-1])))
            elif worker in self.start_states:
                found[worker] = self.start_states[worker]
        for worker, state in self.start_states.items():
            found.setdefault(worker, state)
        return found


def _replays(place: Place, handed: int) -> dict[int, States]:
    return dict(enumerate((*place.ahead, place.now), handed))


class _Skipping:
    """Indices, the first of which are passed over when the iteration says so."""

    def __init__(self, inner: Iterable[object], shared: Shared) -> None:
        self._inner, self._shared = inner, shared

    def __iter__(self) -> Iterator[object]:
        self._shared.indices = indices = _Indices(iter(self._inner), self._shared.skip)
        return indices

    def __len__(self) -> int:
        return len(cast(Sized, self._inner))


class _Indices:
    def __init__(self, inner: Iterator[object], skip: int) -> None:
        self._inner, self._skip = inner, skip

    def __iter__(self) -> Iterator[object]:
        return self

    def skip(self) -> None:
        """Pass over what is to be passed over. Samplers draw their order when first asked, so it matters when."""
        while self._skip:
            self._skip -= 1
            next(self._inner, None)

    def __next__(self) -> object:
        self.skip()
        return next(self._inner)


def _bytes_of(states: States) -> bytes:
    # Tensors themselves would go through shared memory, a file each.
    written = io.BytesIO()
    torch.save(states, written)
    return written.getvalue()


class Telling:
    """A collator that says with each batch which worker made it, and in what states it was afterwards.

    Args:
        collate: the collator itself.

    Attributes:
        late: states of generators that come to life only when it is first called (a seeded masking collator's does).
    """

    def __init__(self, collate: Callable[[object], object]) -> None:
        self.collate = collate
        self.late: dict[str, object] = {}
        self._calls, self.watched = 0, Watched({})

    def __call__(self, examples: object) -> object:
        batch = self._woken(examples) if self.late else self.collate(examples)
        if self._calls < 3:  # generators may come to life with the first batches
            self._calls, self.watched = self._calls + 1, self.watch()
        info = get_worker_info()
        assert info is not None
        return batch, info.id, _bytes_of(self.watched.states())

    def watch(self) -> Watched:
        """The generators that this worker's dataset and collator hold."""
        info = get_worker_info()
        return watch(dataset=None if info is None else info.dataset, collator=self.collate)

    def _woken(self, examples: object) -> object:
        before = self.watch().states()
        self.collate(examples)
        own = before["own"]
        assert isinstance(own, Mapping)
        awake = self.watch()
        awake.restore({"global": before["global"], "own": {**own, **self.late}})
        self.late = {}
        return self.collate(examples)


@dataclass(frozen=True, slots=True)
class _Start:
    """What a worker does first: what the user said, then take the states that it is to go on from."""

    init: Callable[[int], None] | None
    states: Mapping[int, States]
    telling: Telling

    def __call__(self, worker: int) -> None:
        if self.init is not None:
            self.init(worker)
        state = self.states.get(worker)
        if state is None:
            return
        watched, own = self.telling.watch(), state["own"]
        watched.restore(state)
        assert isinstance(own, Mapping)
        self.telling.late = {path: one for path, one in own.items() if path not in watched.generators}


def _forgets(dataset: object) -> bool:
    """Whether a stream's own state leaves out the examples in its shuffling buffer (that of ``datasets`` does)."""
    if not type(dataset).__module__.startswith("datasets."):
        return False
    inner = vars(dataset).get("_ex_iterable")
    while inner is not None:
        if "Shuffled" in type(inner).__name__:
            return True
        inner = vars(inner).get("ex_iterable")
    return False
