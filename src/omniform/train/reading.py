"""Reading a training's data so that it can go on later at the very same place.

A loader is followed batch by batch. What is remembered of it is little: how many batches of the epoch were handed out,
the generators' states at the epoch's begin (from which the sampler makes the same order again), their states before
each batch that was read ahead and not handed out yet, and those of the workers. A reading that goes on skips what was
handed out on the level of indices: no example is loaded twice, except in streams, which are read again up to the place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import cast

from torch.utils.data import DataLoader

from omniform.train.followed import FollowedLoader, Place, Shared
from omniform.train.random_states import States


class Reading:
    """The loader of one training, and where it is read.

    Args:
        loader: a ``DataLoader``, one that accelerate prepared, or anything else that gives batches. The first two are
            followed within (a prepared one gets another ``base_dataloader``).
        watched: objects whose generators count, besides what the loader holds, by name.
    """

    def __init__(self, loader: Iterable[object], **watched: object) -> None:
        self._base: FollowedLoader | None = None
        self._dispatched = 1
        self._shared = Shared()
        self.loader = self._followed(loader)
        self._shared.roots = {**_held(loader), **watched}
        self.watched = self._shared.watch()
        self._begin: States = {}
        self._epoch, self.handed, self._ended = 0, 0, True

    def _followed(self, loader: Iterable[object]) -> Iterable[object]:
        from accelerate.data_loader import DataLoaderAdapter, DataLoaderDispatcher

        base = loader.base_dataloader if isinstance(loader, DataLoaderAdapter) else loader
        if type(base) is not DataLoader and not isinstance(base, FollowedLoader):
            return loader
        self._base = base if isinstance(base, FollowedLoader) else FollowedLoader(base)
        self._base.shared = self._shared
        if not isinstance(loader, DataLoaderAdapter):
            return self._base
        loader.base_dataloader = self._base
        if isinstance(loader, DataLoaderDispatcher):
            self._dispatched = 1 if loader.split_batches else loader.state.num_processes
        return cast("Iterable[object]", loader)

    def read(self, epoch: int, place: Place | None = None) -> Iterator[object]:
        """The batches of an epoch, or what is left of it from a place on.

        With a place, all generators have the states of that place when the first batch is handed out (or the epoch
        turns out to be over), and until then those which they had when that batch was read.
        """
        from accelerate.data_loader import DataLoaderAdapter

        if isinstance(self.loader, DataLoaderAdapter):  # otherwise it counts its iterations
            self.loader.set_epoch(epoch)
        self._epoch, self._ended, self.handed = epoch, False, 0
        if place is not None:
            self.handed, self._shared.due = place.handed, place
            self._restore(place.begin, place)
        self._begin = self.watched.states() if place is None else place.begin
        base = self._base
        if place is not None and place.over:
            self.go_on(place)
            return iter(())
        skipped = base.start(self.watched, place, self._dispatched) if base is not None else 0
        return self._given(skipped, self.handed)

    def _given(self, skipped: int, until: int) -> Iterator[object]:
        for number, batch in enumerate(self.loader, skipped):
            if number < until:
                continue
            self.settle()
            self.handed = number + 1
            if self._base is not None:
                self._base.forget(self.handed * self._dispatched)
            yield batch
        self.settle()

    def go_on(self, place: Place) -> None:
        """Give all generators the states that they had at a place between two epochs."""
        self._epoch, self.handed, self._begin, self._shared.due = place.epoch, place.handed, place.begin, None
        self._restore(place.now, place)
        if self._base is not None:
            self._base.carry(place)

    def revised(self, place: Place) -> Place:
        """The same place, after something has drawn random numbers there."""
        return replace(place, now=self.watched.states())

    @property
    def settled(self) -> bool:
        """Whether the generators have the states of the place that the reading goes on from."""
        return self._shared.due is None

    def _restore(self, states: States, place: Place) -> None:
        """Set all generators; those that come to life only with the first batch are brought to life before."""
        self.watched = self._shared.watch()
        self.watched.restore(states)
        own, late = states["own"], place.now["own"]
        assert isinstance(own, Mapping) and isinstance(late, Mapping)
        base = self._base
        if base is not None and not late.keys() <= self.watched.generators.keys() and not base.is_one_pass(place):
            base.wake()
            self.watched = self._shared.watch()
            self.watched.restore({"global": states["global"], "own": {**late, **own}})

    def settle(self) -> None:
        """Give all generators the states of the place that the reading goes on from, once."""
        due, self._shared.due = self._shared.due, None
        if due is not None:
            self.watched = self._shared.watch()
            self.watched.restore(due.now)

    def end(self) -> None:
        """The epoch's end is over too: the next place is before the next epoch."""
        self._ended = True

    def place(self) -> Place:
        """Where the training stands, if everything handed out is computed."""
        self.watched = self._shared.watch()
        place = Place(self._epoch, self.handed, self._ended, self._begin, (), self.watched.states(), {})
        return place if self._base is None else self._base.standing(place, self.handed * self._dispatched)


def _held(loader: object) -> dict[str, object]:
    """What a loader holds that may keep generators."""
    if not isinstance(loader, DataLoader):
        return {"loader": loader}
    return {
        "dataset": loader.dataset, "collator": loader.collate_fn, "sampler": loader.sampler,
        "batches": loader.batch_sampler, "loader_generator": loader.generator,
    }  # fmt: skip
