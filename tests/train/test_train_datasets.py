"""The real package `datasets` through a Trainer: tables, formats, transforms, streams, workers; as the reference's."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from train_tiny import KINDS, arguments, curve, their_arguments
from train_tokenizers import both, write

from omniform.core.errors import InputError, WorkerError
from reference import omniform, transformers

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()


def rows(count: int = 14) -> list[dict]:
    """Rows of different lengths, and columns that no model takes."""
    made = []
    for index in range(count):
        row = KINDS["bert"].row(index)
        length = 4 + index % 6
        made.append({
            "input_ids": row["input_ids"][:length].tolist(), "attention_mask": [1] * length,
            "label": int(row["labels"]), "text": f"row {index}", "idx": index,
        })  # fmt: skip
    return made


def table(**_: object) -> object:
    return datasets.Dataset.from_list(rows())


def stream() -> object:
    return datasets.IterableDataset.from_generator(rows)


def cut(batch: dict) -> dict:
    return {**batch, "input_ids": [ids[:5] for ids in batch["input_ids"]],
            "attention_mask": [mask[:5] for mask in batch["attention_mask"]]}  # fmt: skip


def seen(batch: dict) -> dict:
    return {"input_ids": [ids[::-1] for ids in batch["input_ids"]], "label": batch["label"], "text": batch["text"]}


MADE = {
    "table": table,
    "torch": lambda: table().with_format("torch"),
    "numpy, mapped, picked": lambda: (
        table().map(cut, batched=True).shuffle(seed=1).select(range(9)).with_format("numpy")
    ),
    "streamed": stream,
    "streamed, mapped": lambda: stream().map(cut, batched=True, batch_size=3),
    "streamed, shuffled": lambda: stream().shuffle(seed=3, buffer_size=5),
}


def trained(module: object, folder: Path, dataset: object, tokenizers: tuple[object, object], **settings: object):
    kind = KINDS["bert"]
    ours = module is omniform
    model = kind.ours(folder) if ours else kind.theirs(folder)
    make = arguments if ours else their_arguments
    tokenizer = tokenizers[0 if ours else 1]
    trainer = module.Trainer(
        model, make(folder, **settings), train_dataset=dataset, data_collator=module.DataCollatorWithPadding(tokenizer)
    )
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, object]:
    return both(write("wordpiece", tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return KINDS["bert"].save(tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize("made", MADE)
def test_curves(made: str, folder: Path, tokenizers: tuple[object, object]) -> None:
    settings = {"max_steps": 8}
    found, expected = (
        trained(module, folder, MADE[made](), tokenizers, **settings) for module in (omniform, transformers)
    )
    for mine, other in zip(curve(found), curve(expected), strict=True):
        assert mine == pytest.approx(other, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(("made", "settings"), [
    ("table", {"dataloader_num_workers": 2}),
    ("table", {"dataloader_drop_last": True, "per_device_train_batch_size": 4, "num_train_epochs": 1}),
    ("streamed", {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "num_train_epochs": 2}),
], ids=str)  # fmt: skip
def test_settings(made: str, settings: dict, folder: Path, tokenizers: tuple[object, object]) -> None:
    settings = {"max_steps": 5, **settings}
    found, expected = (
        trained(module, folder, MADE[made](), tokenizers, **settings) for module in (omniform, transformers)
    )
    for mine, other in zip(curve(found), curve(expected), strict=True):
        assert mine == pytest.approx(other, rel=1e-5, abs=1e-5)


def test_a_transform_sees_all_columns_that_are_kept(folder: Path, tokenizers: tuple[object, object]) -> None:
    curves = []
    for module in (omniform, transformers):
        given = table()
        given.set_transform(seen)
        collate = module.DataCollatorWithPadding(tokenizers[0 if module is omniform else 1])
        drop = lambda batch, c=collate: c([{k: v for k, v in row.items() if k != "text"} for row in batch])
        make, kind = (arguments, KINDS["bert"].ours) if module is omniform else (their_arguments, KINDS["bert"].theirs)
        trainer = module.Trainer(
            kind(folder),
            make(folder, max_steps=4, remove_unused_columns=False),
            train_dataset=given,
            data_collator=drop,
        )
        trainer.train()
        curves.append(curve(trainer))
    assert curves[0][0] == pytest.approx(curves[1][0], rel=1e-5)


class Raises(torch.utils.data.Dataset):
    def __init__(self, rows: list[dict]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        if index == 3:
            os._exit(9)
        return self.rows[index]


def endless() -> Iterator[dict]:
    while True:
        yield from rows()


def test_faults(folder: Path, tokenizers: tuple[object, object]) -> None:
    with pytest.raises(InputError, match="no examples"):
        trained(omniform, folder, table().select([]), tokenizers, max_steps=1)
    with pytest.raises(InputError, match="none of"):
        trained(omniform, folder, table().select_columns(["text", "idx"]), tokenizers, max_steps=1)
    with pytest.raises(InputError, match=r"'token_type_ids', example \d"):
        ragged = [{**row, "token_type_ids": ["x"]} for row in rows()]
        trained(omniform, folder, datasets.Dataset.from_list(ragged), tokenizers, max_steps=1)
    with pytest.raises(WorkerError, match="exit code 9"):
        trained(omniform, folder, Raises(rows()), tokenizers, num_train_epochs=1, dataloader_num_workers=1)
    unending = datasets.IterableDataset.from_generator(endless)
    assert trained(omniform, folder, unending, tokenizers, max_steps=9).state.global_step == 9


def test_packed_tables(folder: Path) -> None:
    from omniform.train.packing import pack

    plain = table().remove_columns(["label", "text", "idx"])
    packed = pack(plain, 16)
    assert sum(len(row["input_ids"]) for row in packed) == sum(len(row["input_ids"]) for row in rows())
    again = [*pack(stream().remove_columns(["label", "text", "idx"]), 16)]
    assert again == [*packed]
    kind = KINDS["llama"]
    model = kind.ours(kind.save(folder / "llama"))
    trainer = omniform.Trainer(
        model, arguments(folder, num_train_epochs=1), train_dataset=packed,
        data_collator=omniform.DataCollatorWithFlattening(),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    assert (batch["position_ids"] == 0).sum() > 2 and batch["input_ids"].shape[0] == 1
    model.eval()
    begins = [*(batch["position_ids"][0] == 0).nonzero()[:, 0].tolist(), batch["input_ids"].shape[1]]
    texts = [batch["input_ids"][:, a:b] for a, b in itertools.pairwise(begins)]
    alone = [(model(input_ids=text, labels=text).loss * (text.shape[1] - 1)).item() for text in texts]
    scored = sum(text.shape[1] - 1 for text in texts)
    assert model(**batch).loss.item() == pytest.approx(sum(alone) / scored, rel=1e-5)  # no text sees another
    trainer.train()
    assert trainer.state.global_step == -(-len(packed) // 2)
