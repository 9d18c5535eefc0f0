"""A Trainer's data: loaders, the order of examples, columns that the model does not take."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Sampler, SequentialSampler

from omniform.core.errors import InputError, listed
from omniform.core.logs import get_logger
from omniform.core.seeds import set_seed
from omniform.train.parallel.rest import deal
from omniform.train.rebalance import BatchRebalanceSampler
from omniform.train.samplers import LengthGroupedSampler, read_lengths
from omniform.train.values import Collator, Examples
from omniform.train.wrapped import forward_names

if TYPE_CHECKING:
    from omniform.train.trainer import Trainer

logger = get_logger(__name__)

Loader = DataLoader[object]


class Table(Protocol):
    """A ``datasets.Dataset``, as far as it is asked here."""

    column_names: list[str]

    def remove_columns(self, column_names: list[str]) -> Table: ...
    def __getitem__(self, key: str) -> object: ...


Order = Sampler[int] | BatchRebalanceSampler | None
"""Which examples come when: one by one, or whole batches."""


@runtime_checkable
class NamesInputs(Protocol):
    """A processor that says what it makes, the longest first."""

    model_input_names: Sequence[str]


@runtime_checkable
class DealsBatches(Protocol):
    """What accelerate puts around a sampler of batches, so that every process gets its own."""

    num_processes: int
    process_index: int


@runtime_checkable
class HasDataset(Protocol):
    """A loader that knows what it loads."""

    dataset: object


def is_table(dataset: object) -> bool:
    """Whether it is a ``datasets.Dataset``; if nobody has imported that package, it is not."""
    package = sys.modules.get("datasets")
    return package is not None and isinstance(dataset, package.Dataset)


def has_length(dataset: object) -> bool:
    """Whether its length can be told."""
    if not isinstance(dataset, Sized):
        return False
    try:
        return len(dataset) is not None
    except TypeError:  # a loader of a stream
        return False


def seed_worker(worker_id: int, num_workers: int, rank: int) -> None:
    """Give a worker of a DataLoader numbers of its own, other ones in every process."""
    set_seed((num_workers * rank + torch.initial_seed() % 2**32) % 2**32)


def train_loader(trainer: Trainer) -> Loader:
    """``Trainer.get_train_dataloader``.

    Raises:
        InputError: no dataset, or one without examples.
    """
    dataset = trainer.train_dataset
    if dataset is None:
        raise InputError("there is nothing to train on", where="train_dataset", found=None)
    if has_length(dataset) and not len(cast(Sized, dataset)):
        raise InputError("the dataset has no examples", where="train_dataset", expected="at least one", found="0")
    return trainer._get_dataloader(
        dataset=dataset,
        description="Training",
        batch_size=trainer._train_batch_size,
        sampler_fn=trainer._get_train_sampler,
        is_training=True,
    )


def eval_loader(trainer: Trainer, wanted: str | Examples | None) -> Loader:
    """``Trainer.get_eval_dataloader``: of a dataset, of one by its name, or of the trainer's.

    Raises:
        InputError: there is no such dataset.
    """
    name = wanted if isinstance(wanted, str) else "eval"
    if trainer.args.dataloader_persistent_workers and name in trainer._eval_dataloaders:
        return trainer._eval_dataloaders[name]  # its workers are still there
    dataset: object = wanted if wanted is not None else trainer.eval_dataset
    if isinstance(wanted, str):
        several = trainer.eval_dataset
        if not isinstance(several, Mapping) or wanted not in several:
            known = listed(several) if isinstance(several, Mapping) else "one without a name"
            raise InputError("no dataset of that name", where="eval_dataset", expected=known, found=wanted)
        dataset = several[wanted]
    if dataset is None:
        raise InputError("there is nothing to evaluate on", where="eval_dataset", found=None)
    return trainer._get_dataloader(
        dataset=cast(Examples, dataset),
        description="Evaluation",
        batch_size=trainer.args.eval_batch_size,
        sampler_fn=trainer._get_eval_sampler,
        dataloader_key=name,
    )


def loader_of(
    trainer: Trainer,
    dataset: Examples,
    description: str,
    batch_size: int,
    sampler_fn: Callable[[Examples], Order] | None = None,
    is_training: bool = False,
    dataloader_key: str | None = None,
) -> Loader:
    """``Trainer._get_dataloader``: a loader of torch's, which accelerate has prepared.

    Args:
        description: what it is for, in words.
        sampler_fn: gives the order of examples.
        is_training: whether workers draw random numbers of their own.
        dataloader_key: a name to keep it under while its workers live.
    """
    args = trainer.args
    if is_table(dataset):
        dataset = cast(Examples, trainer._remove_unused_columns(cast(Table, dataset), description=description))
        collator = trainer.data_collator
    else:
        collator = trainer._get_collator_with_removed_columns(trainer.data_collator, description=description)
    options: dict[str, object] = {
        "batch_size": batch_size,
        "collate_fn": collator,
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory and args.device.type != "cpu",
        "persistent_workers": args.dataloader_persistent_workers,
        "multiprocessing_context": args.dataloader_multiprocessing_context,
        "prefetch_factor": args.dataloader_prefetch_factor,
        "in_order": args.dataloader_in_order,
    }
    rebalanced = None
    if not isinstance(dataset, IterableDataset):
        sampler = None if sampler_fn is None else sampler_fn(dataset)
        if isinstance(sampler, BatchRebalanceSampler):
            rebalanced = sampler
            options["batch_sampler"] = sampler
            del options["batch_size"]
        else:
            options |= {"drop_last": args.dataloader_drop_last} | ({} if sampler is None else {"sampler": sampler})
        if is_training:
            options["worker_init_fn"] = functools.partial(
                seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index
            )
    loader: Loader = trainer.accelerator.prepare(DataLoader(cast("Dataset[object]", dataset), **options))  # type: ignore[arg-type]
    if rebalanced is not None:
        _deal_once(loader)
    if args.world_size > 1:
        deal(loader, is_training)
    if dataloader_key is not None and args.dataloader_persistent_workers:
        trainer._eval_dataloaders[dataloader_key] = loader
    return loader


def _deal_once(loader: Loader) -> None:
    """Let accelerate pass batches on that are dealt out to processes already."""
    around = loader.batch_sampler
    if isinstance(around, DealsBatches):
        around.num_processes, around.process_index = 1, 0


def _lengths(trainer: Trainer, dataset: Examples) -> tuple[Sequence[int] | None, str | None]:
    """The column of lengths, where a table has one; else the name of what is measured."""
    name = trainer.args.length_column_name
    given = cast(Table, dataset)[name] if is_table(dataset) and name in cast(Table, dataset).column_names else None
    processor = trainer.processing_class
    measured = processor.model_input_names[0] if isinstance(processor, NamesInputs) else None
    return cast("Sequence[int] | None", given), measured


def train_sampler(trainer: Trainer, train_dataset: Examples | None = None) -> Order:
    """``Trainer._get_train_sampler``: shuffled, in order, or by length; None for a stream."""
    dataset = trainer.train_dataset if train_dataset is None else train_dataset
    how = trainer.args.train_sampling_strategy
    if dataset is None or not has_length(dataset):
        if dataset is not None and how not in ("random", "sequential"):
            logger.warning("train_sampling_strategy=%r needs a dataset with a length: examples come as they are", how)
        return None
    args = trainer.args
    if how == "group_by_length":
        lengths, name = _lengths(trainer, dataset)
        per_step = args.train_batch_size * args.gradient_accumulation_steps
        return LengthGroupedSampler(per_step, cast("Dataset[object]", dataset), lengths, name)
    if how == "batch_rebalance":
        lengths, name = _lengths(trainer, dataset)
        return BatchRebalanceSampler(
            lengths=read_lengths(dataset, lengths, name),
            effective_batch_size=args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            dp_size=args.world_size,
            grad_accum=args.gradient_accumulation_steps,
            rank=args.process_index,
            drop_last=args.dataloader_drop_last,
        )
    if how == "sequential":
        return SequentialSampler(cast(Sized, dataset))
    return RandomSampler(cast(Sized, dataset))


def eval_sampler(trainer: Trainer, eval_dataset: Examples | None) -> Order:
    """``Trainer._get_eval_sampler``: in order; accelerate deals the rows out where there are several processes."""
    if eval_dataset is None or not has_length(eval_dataset):
        return None
    args = trainer.args
    if args.train_sampling_strategy == "group_by_length":
        drawn = torch.Generator().manual_seed(args.seed if args.data_seed is None else args.data_seed)
        lengths, name = _lengths(trainer, eval_dataset)
        return LengthGroupedSampler(
            args.eval_batch_size, cast("Dataset[object]", eval_dataset), lengths, name, generator=drawn
        )
    return SequentialSampler(cast(Sized, eval_dataset)) if trainer.args.world_size <= 1 else None


# -- columns -----------------------------------------------------------------------------------------------------------


def see_columns(trainer: Trainer) -> None:
    """``Trainer._set_signature_columns_if_needed``: the names of columns that the model takes, looked up once.

    A collator makes ``labels`` of ``label`` and ``label_ids``.
    """
    if trainer._signature_columns is None:
        names = [*forward_names(trainer.model), "label", "label_ids", *trainer.label_names]
        trainer._signature_columns = list(dict.fromkeys(names))


def remove_unused(trainer: Trainer, dataset: Table, description: str | None = None) -> Table:
    """``Trainer._remove_unused_columns``.

    Raises:
        InputError: no column would be left.
    """
    if not trainer.args.remove_unused_columns:
        return dataset
    trainer._set_signature_columns_if_needed()
    known = trainer._signature_columns or []
    unused = [name for name in dataset.column_names if name not in known]
    if len(unused) == len(dataset.column_names):
        raise InputError(
            f"the model takes none of the {description or 'dataset'}'s columns",
            where=type(trainer.model).__name__,
            expected=f"some of {listed(known)}",
            found=listed(unused),
            remedy="Tokenize the dataset first, or set remove_unused_columns=False if the collator makes the inputs.",
        )
    _tell_unused(unused, description, type(trainer.model).__name__)
    return dataset.remove_columns(unused)


def _tell_unused(unused: Sequence[object], description: str | None, model: str | None) -> None:
    if unused:
        what = description or "dataset"
        logger.info("%s: columns that %s.forward does not take are left out: %s", what, model, listed(unused))


class RemoveColumnsCollator:
    """Leaves out of every example what the model does not take, and hands the rest to another collator.

    Args:
        data_collator: that one.
        signature_columns: what stays.
        model_name: whose ``forward`` it is, and what the examples are for: told once, when something is left out.
    """

    def __init__(
        self,
        data_collator: Collator,
        signature_columns: list[str],
        logger: object = None,
        model_name: str | None = None,
        description: str | None = None,
    ) -> None:
        self.data_collator = data_collator
        self.signature_columns = signature_columns
        self.logger = logger
        self.model_name = model_name
        self.description = description
        self.message_logged = False

    def _remove_columns(self, feature: object) -> object:
        if not isinstance(feature, dict):
            return feature
        unused = [name for name in feature if name not in self.signature_columns]
        if unused and not self.message_logged:
            _tell_unused(unused, self.description, self.model_name)
            self.message_logged = True
        return {name: value for name, value in feature.items() if name not in unused}

    def __call__(self, features: list[object]) -> Mapping[str, object]:
        return self.data_collator([self._remove_columns(feature) for feature in features])


def without_unused(trainer: Trainer, data_collator: Collator, description: str | None = None) -> Collator:
    """``Trainer._get_collator_with_removed_columns``."""
    if not trainer.args.remove_unused_columns:
        return data_collator
    trainer._set_signature_columns_if_needed()
    return RemoveColumnsCollator(
        data_collator=data_collator,
        signature_columns=trainer._signature_columns or [],
        logger=logger,
        description=description,
        model_name=type(trainer.model).__name__,
    )


def count_examples(trainer: Trainer, dataloader: Loader) -> int:
    """``Trainer.num_examples``: those of its dataset, or about as many as its batches hold."""
    if isinstance(dataloader, HasDataset) and has_length(dataloader.dataset):
        return len(cast(Sized, dataloader.dataset))
    return len(dataloader) * trainer.args.per_device_train_batch_size


__all__ = ["RemoveColumnsCollator", "has_length", "seed_worker"]
