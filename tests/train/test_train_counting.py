"""The loss of a step does not depend on how its batch is cut: into micro-batches, or over processes."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from train_tiny import KINDS, arguments, curve

from omniform.core.errors import InputError
from omniform.train.counting import reads, rows_of, shares_of
from reference import omniform

SPLITS = [(8, 1), (4, 2), (2, 4), (1, 8), (3, 3)]
"""Rows of a batch, batches of a step; the last has a window of its own, and is compared with nine rows at once."""


class Plain(nn.Module):
    """A module that knows nothing of us: its loss is the mean over its rows."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(40, 8), nn.Linear(8, 3)

    def forward(self, input_ids, labels=None):
        scores = self.head(self.table(input_ids).mean(1))
        return {"logits": scores} if labels is None else {"loss": F.cross_entropy(scores, labels), "logits": scores}


def model_of(name, folder):
    torch.manual_seed(0)
    return Plain() if name == "plain" else KINDS[name].ours(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return functools.cache(lambda name: KINDS[name].save(tmp_path_factory.mktemp(name)))


def trained(folders, tmp_path, name, rows, split, make=omniform.Trainer, **settings):
    folder = None if name == "plain" else folders(name)
    data = KINDS["bert" if name == "plain" else name].rows(rows)
    size, steps = split
    args = arguments(
        tmp_path,
        num_train_epochs=2,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=steps,
        max_grad_norm=0.0,
        **settings,
    )
    trainer = make(model_of(name, folder), args, train_dataset=data)
    trainer.train()
    return curve(trainer, ("loss", "grad_norm"))


@pytest.mark.parametrize("name", ["llama", "bert", "vit", "llava", "plain", "t5", "whisper"])
def test_any_split(folders, tmp_path, name):
    """The last step of an epoch has fewer batches, the last batch fewer rows."""
    if name in ("bert", "vit", "plain"):
        rows, splits = 12, SPLITS[:-1]
    else:
        rows, splits = 13, SPLITS[:-1]
    found = [trained(folders, tmp_path, name, rows, split) for split in splits]
    for split, other in zip(splits[1:], found[1:], strict=True):
        # A norm is of many sums of rounded numbers.
        for mine, theirs, close in zip(found[0], other, (1e-6, 1e-5), strict=True):
            assert other and theirs == pytest.approx(mine, rel=close, abs=2e-6), split
    uneven = trained(folders, tmp_path, name, rows, (3, 3))
    whole = trained(folders, tmp_path, name, rows, (9, 1))
    for mine, theirs, close in zip(uneven, whole, (1e-6, 1e-5), strict=True):
        assert mine == pytest.approx(theirs, rel=close, abs=2e-6)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_smoothed_labels(folders, tmp_path, name):
    one, other = (trained(folders, tmp_path, name, 12, split, label_smoothing_factor=0.1) for split in [(4, 2), (2, 4)])
    assert one[0] == pytest.approx(other[0], rel=1e-6) and one[1] == pytest.approx(other[1], rel=1e-5)


def weighted(outputs, labels, num_items_in_batch=None):
    """Class weights, as a function of the user's: a sum divided by the count."""
    loss = F.cross_entropy(outputs["logits"], labels, torch.tensor([1.0, 2.0, 0.5]), reduction="sum")
    return loss / (labels.shape[0] if num_items_in_batch is None else num_items_in_batch)


def careless(outputs, labels, num_items_in_batch=None):
    """A batch's own mean, whatever the count."""
    return F.cross_entropy(outputs["logits"], labels)


class Own(omniform.Trainer):
    """Class weights in a subclass that has never heard of the count."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = F.cross_entropy(outputs["logits"], labels, label_smoothing=0.1)
        return (loss, outputs) if return_outputs else loss


class Divides(omniform.Trainer):
    """A loss that divides by the count itself."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = F.cross_entropy(outputs["logits"], labels, reduction="sum")
        loss = loss / (len(labels) if num_items_in_batch is None else num_items_in_batch)
        return (loss, outputs) if return_outputs else loss


class Named(omniform.Trainer):
    """The count in the signature, and nowhere else: as most scripts have it."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = F.cross_entropy(outputs["logits"], labels)
        return (loss, outputs) if return_outputs else loss


class Above(omniform.Trainer):
    """Ours, and something on top."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        return (2 * loss, outputs) if return_outputs else 2 * loss


class Counts(omniform.Trainer):
    """The means of batches, and it says so."""

    loss_is_scaled_for_ga = False
    compute_loss = Named.compute_loss


@pytest.mark.parametrize(
    ("name", "make"),
    [("bert", Own), ("bert", Divides), ("bert", Above), *(("plain", one) for one in (Own, Named, Above, Counts))],
)
def test_losses_of_subclasses(folders, tmp_path, name, make):
    one, other = (trained(folders, tmp_path, name, 12, split, make) for split in [(6, 1), (2, 3)])
    for mine, theirs in zip(one, other, strict=True):
        assert mine == pytest.approx(theirs, rel=2e-6)


@pytest.mark.parametrize("function", [weighted, careless, functools.partial(weighted)])
def test_losses_that_are_functions(folders, tmp_path, function):
    make = functools.partial(omniform.Trainer, compute_loss_func=function)
    one, other = (trained(folders, tmp_path, "bert", 12, split, make) for split in [(6, 1), (2, 3)])
    for mine, theirs in zip(one, other, strict=True):
        assert mine == pytest.approx(theirs, rel=2e-6)


class Keyed(Plain):
    """A module that takes every keyword, and does nothing with them."""

    def forward(self, input_ids, labels=None, **kwargs):
        return super().forward(input_ids, labels)


class Divided(Plain):
    """A module that divides by the count."""

    def forward(self, input_ids, labels=None, num_items_in_batch=None):
        found = super().forward(input_ids, labels)
        count = len(labels) if num_items_in_batch is None else num_items_in_batch
        return {**found, "loss": found["loss"] * len(labels) / count}


@pytest.mark.parametrize("kind", [Keyed, Divided])
def test_modules_that_take_the_count(tmp_path, kind):
    found = []
    for size, steps in [(6, 1), (3, 2), (1, 6)]:
        torch.manual_seed(0)
        args = arguments(tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=steps, max_steps=4)
        trainer = omniform.Trainer(kind(), args, train_dataset=KINDS["bert"].rows(12))
        assert trainer.model_accepts_loss_kwargs == (kind is Divided)
        trainer.train()
        found.append(curve(trainer, ("loss", "grad_norm")))
    for other in found[1:]:
        assert other[0] == pytest.approx(found[0][0], rel=2e-6) and other[1] == pytest.approx(found[0][1], rel=2e-5)


def test_what_reads_the_count():
    class Called:
        def __call__(self, outputs, labels, num_items_in_batch=None):
            return outputs / num_items_in_batch

    def within(outputs, labels, num_items_in_batch):
        return (lambda: outputs / num_items_in_batch)()

    def out_of_others(outputs, **kwargs):
        return outputs / kwargs["num_items_in_batch"]

    assert all(reads(one) for one in (weighted, functools.partial(weighted), Called(), within, out_of_others, max))
    assert not any(reads(one) for one in (careless, Own.compute_loss, Named.compute_loss))


def test_rows_and_shares():
    assert rows_of({"a": None, "b": {"c": torch.zeros(3, 2)}}) == 3 and rows_of({"a": "text"}) == 0
    alone = SimpleNamespace(_idle=None, args=SimpleNamespace(world_size=1))
    assert shares_of(alone, [{"x": torch.zeros(3)}, {"x": torch.zeros(1)}], None) == [0.75, 0.25]
    assert shares_of(alone, [{"x": "?"}, {"x": "?"}], None) == [0.5, 0.5]


@pytest.mark.parametrize(("loss", "words"), [
    (lambda outputs, labels, num_items_in_batch: outputs["logits"], "one number.*shape"),
    (lambda outputs, labels, num_items_in_batch: 3.0, r"one number.*found 3\.0"),
])  # fmt: skip
def test_a_loss_that_is_no_number(folders, tmp_path, loss, words):
    make = functools.partial(omniform.Trainer, compute_loss_func=loss)
    with pytest.raises(InputError, match=words):
        trained(folders, tmp_path, "bert", 4, (2, 1), make)


def test_no_labels(folders, tmp_path):
    rows = [{"input_ids": row["input_ids"], "attention_mask": row["attention_mask"]} for row in KINDS["bert"].rows(4)]
    trainer = omniform.Trainer(KINDS["bert"].ours(folders("bert")), arguments(tmp_path), train_dataset=rows)
    with pytest.raises(
        InputError, match=r"has no labels; expected a batch with labels; found .*attention_mask, input_ids"
    ):
        trainer.train()


SPREAD = {"num_train_epochs": 2, "gradient_accumulation_steps": 2, "optim": "sgd", "learning_rate": 0.05}
"""Adam would make much of what rounding leaves of a gradient that is none."""

SCRIPT = """
import sys
sys.path[:0] = [{tests!r}, {train!r}]
import json, pathlib
from train_tiny import KINDS, arguments, curve
from reference import omniform

found = {{}}
for name in {names!r}:
    folder = pathlib.Path({folder!r})
    args = arguments(folder, per_device_train_batch_size=2, **{settings!r})
    trainer = omniform.Trainer(KINDS[name].ours(folder / name), args, train_dataset=KINDS[name].rows(16))
    trainer.train()
    found[name] = curve(trainer, ("loss", "grad_norm"))
    total = sum(float(p.detach().double().pow(2).sum()) for p in trainer.model.parameters())
    found[name].append([total])
if trainer.is_world_process_zero():
    (folder / "found.json").write_text(json.dumps(found))
trainer.end()
"""


def test_two_processes(folders, tmp_path):
    """Two processes of two rows are one of four: the same losses, gradients and weights."""

    here = Path(__file__).parent
    names = ["llama", "bert"]
    for name in names:
        KINDS[name].save(tmp_path / name)
    script = tmp_path / "run.py"
    script.write_text(
        SCRIPT.format(tests=str(here.parent), train=str(here), names=names, folder=str(tmp_path), settings=SPREAD)
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    for name in names:
        args = arguments(tmp_path, per_device_train_batch_size=4, **SPREAD)
        trainer = omniform.Trainer(KINDS[name].ours(tmp_path / name), args, train_dataset=KINDS[name].rows(16))
        trainer.train()
        total = sum(float(p.detach().double().pow(2).sum()) for p in trainer.model.parameters())
        alone = [*curve(trainer, ("loss", "grad_norm")), [total]]
        for mine, theirs in zip(found[name], alone, strict=True):
            assert mine == pytest.approx(theirs, rel=2e-6), name
