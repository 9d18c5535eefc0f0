"""What a Trainer reads, and in which order: the reference's, batch by batch."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.utils.data import IterableDataset
from train_tiny import KINDS, arguments, curve, their_arguments, tokens

from omniform.core.errors import InputError
from reference import omniform, transformers

datasets = pytest.importorskip("datasets")

LLAMA = KINDS["llama"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return LLAMA.save(tmp_path_factory.mktemp("llama"))


def uneven(count):
    """Rows of three to twelve tokens."""
    rows = [tokens(index, 3 + index * 7 % 10).tolist() for index in range(count)]
    return [{"input_ids": ids, "labels": ids, "attention_mask": [1] * len(ids)} for ids in rows]


def padded(rows):
    width = max(len(row["input_ids"]) for row in rows)

    def column(name, filling):
        return torch.tensor([list(row[name]) + [filling] * (width - len(row[name])) for row in rows])

    return {name: column(name, -100 if name == "labels" else 0) for name in ("input_ids", "labels", "attention_mask")}


def both(folder, tmp_path, rows, collator=None, **settings):
    """The reference's Trainer and ours, with the same data."""
    given = {"train_dataset": rows, "data_collator": collator}
    theirs = transformers.Trainer(LLAMA.theirs(folder), their_arguments(tmp_path, **settings), **given)
    return theirs, omniform.Trainer(LLAMA.ours(folder), arguments(tmp_path, **settings), **given)


class Stream(IterableDataset):
    """Rows one after another; it does not tell how many."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


class Counted(Stream):
    def __len__(self):
        return len(self.rows)


@pytest.mark.parametrize("how", ["random", "sequential", "group_by_length", "batch_rebalance"])
@pytest.mark.parametrize("table", [False, True], ids=["list", "table"])
def test_orders(folder, tmp_path, how, table):
    rows = uneven(13)
    if table:
        rows = datasets.Dataset.from_list([{**row, "length": len(row["input_ids"]), "text": "x"} for row in rows])
    settings = {"train_sampling_strategy": how, "gradient_accumulation_steps": 2, "num_train_epochs": 2}
    theirs, ours = both(folder, tmp_path, rows, padded, **settings)
    for epoch in range(2):
        read = []
        for trainer in (theirs, ours):
            torch.manual_seed(7)  # an order is drawn from it
            loader = trainer.get_train_dataloader()
            loader.set_epoch(epoch)
            read.append(list(loader))
        assert len(read[0]) == len(read[1])
        for mine, other in zip(*read, strict=True):
            assert mine.keys() == other.keys()
            assert all(torch.equal(mine[name], other[name]) for name in mine)


@pytest.mark.parametrize(
    ("stream", "settings"),
    [
        (Stream, {"max_steps": 5}),
        (Stream, {"max_steps": 12}),  # more than one pass
        (Counted, {"num_train_epochs": 2}),
        (Counted, {"max_steps": 9, "gradient_accumulation_steps": 2}),
        (Stream, {"max_steps": 4, "dataloader_num_workers": 2, "dataloader_prefetch_factor": 1}),
    ],
)
def test_streams(folder, tmp_path, stream, settings):
    theirs, ours = both(folder, tmp_path, stream(LLAMA.rows(11)), **settings)
    theirs.train()
    ours.train()
    for mine, other in zip(curve(ours), curve(theirs), strict=True):
        assert mine == pytest.approx(other, rel=1e-5, abs=1e-5)
    assert ours.state.num_train_epochs == theirs.state.num_train_epochs


def test_a_stream_that_ends_within_a_step(folder, tmp_path):
    """What is left over is a step of its own; the reference lets its gradients run into the next epoch."""
    trainer = omniform.Trainer(
        LLAMA.ours(folder),
        arguments(tmp_path, max_steps=4, gradient_accumulation_steps=4),
        train_dataset=Stream(LLAMA.rows(10)),
    )
    taken = []
    step = trainer.training_step
    trainer.training_step = lambda model, inputs, items: taken.append(int(items)) or step(model, inputs, items)
    trainer.train()
    counts = [int((row["labels"][1:] != -100).sum()) for row in LLAMA.rows(10)]
    assert taken == [sum(counts[:8])] * 4 + [sum(counts[8:])] + [sum(counts[:8])] * 4 + [sum(counts[8:])]


def test_streams_of_datasets(folder, tmp_path):
    rows = [{name: value.tolist() for name, value in row.items()} | {"text": "x"} for row in LLAMA.rows(11)]
    stream = datasets.Dataset.from_list(rows).to_iterable_dataset()
    theirs, ours = both(folder, tmp_path, stream, max_steps=6, data_seed=5)
    theirs.train()
    ours.train()
    assert curve(ours)[0] == pytest.approx(curve(theirs)[0], rel=1e-5)


def test_columns(folder, tmp_path, caplog):
    """Columns that the model does not take go, from a table and from plain rows; what is left out is told once."""
    rows = [{**row, "text": "x", "id": index} for index, row in enumerate(LLAMA.rows(4))]
    plain = [{k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in row.items()} for row in rows]
    table = datasets.Dataset.from_list(plain)
    left = [set(one._remove_unused_columns(table).column_names) for one in both(folder, tmp_path, table)]
    assert left[0] == left[1] == {"input_ids", "attention_mask", "labels"}
    ours = omniform.Trainer(LLAMA.ours(folder), arguments(tmp_path, max_steps=2, log_level="info"), train_dataset=rows)
    with caplog.at_level(logging.INFO, "omniform"):
        ours.train()
    told = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(told) == 1 and "text" in told[0] and "id" in told[0]
    kept = omniform.Trainer(LLAMA.ours(folder), arguments(tmp_path, remove_unused_columns=False), train_dataset=table)
    assert kept._remove_unused_columns(table) is table and kept._get_collator_with_removed_columns(padded) is padded


def test_a_table_without_a_column_for_the_model(folder, tmp_path):
    table = datasets.Dataset.from_list([{"text": "x", "mark": 1}] * 4)
    trainer = omniform.Trainer(LLAMA.ours(folder), arguments(tmp_path), train_dataset=table)
    with pytest.raises(InputError, match=r"input_ids.*text, mark.*remove_unused_columns"):
        trainer.train()


def test_loaders_are_as_asked(folder, tmp_path):
    settings = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "dataloader_prefetch_factor": 3}
    trainer = omniform.Trainer(
        LLAMA.ours(folder), arguments(tmp_path, **settings), train_dataset=LLAMA.rows(5), eval_dataset=LLAMA.rows(3)
    )
    loader = trainer.get_train_dataloader()
    assert (loader.num_workers, loader.persistent_workers, loader.prefetch_factor) == (1, True, 3)
    assert trainer.num_examples(loader) == 5
    assert trainer.get_eval_dataloader() is trainer.get_eval_dataloader()  # its workers are still there
    assert trainer.get_test_dataloader(LLAMA.rows(2)).dataset[0].keys() == LLAMA.rows(1)[0].keys()
    several = omniform.Trainer(LLAMA.ours(folder), arguments(tmp_path), eval_dataset={"a": LLAMA.rows(3)})
    assert len(several.get_eval_dataloader("a")) == 1
    with pytest.raises(InputError, match=r"expected a; found b"):
        several.get_eval_dataloader("b")


@pytest.mark.parametrize(("rows", "settings", "words"), [
    (None, {}, "nothing to train on"),
    ([], {}, "has no examples"),
    (LLAMA.rows(3), {"per_device_train_batch_size": 4, "dataloader_drop_last": True}, "dataloader_drop_last.*4.*3"),
])  # fmt: skip
def test_no_data(folder, tmp_path, rows, settings, words):
    trainer = omniform.Trainer(LLAMA.ours(folder), arguments(tmp_path, **settings), train_dataset=rows)
    with pytest.raises(InputError, match=words):
        trainer.train()


def test_a_stream_needs_a_number_of_steps(folder, tmp_path):
    with pytest.raises(InputError, match="max_steps"):
        omniform.Trainer(LLAMA.ours(folder), arguments(tmp_path), train_dataset=Stream(LLAMA.rows(4)))
