"""``verify_resume`` on trainings that are exact, and on ones that are not: it says what broke them."""

import random

import pytest
import torch
from torch.utils.data import Sampler
from train_saving import Net, noisy, trainer

from omniform import Trainer
from omniform.core.errors import InputError, OmniformError
from omniform.train.verify import verify_resume


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory):
    trainer(tmp_path_factory.mktemp("warm"), max_steps=1).train()  # what is imported on the way is there in every fork


def _verified(folder, steps=4, **given):
    return verify_resume(lambda: trainer(folder, gradient_accumulation_steps=1, **given), steps=steps)


def test_an_exact_training(tmp_path):
    report = _verified(tmp_path, steps=6)
    assert report.exact
    assert report.stopped_after == 3
    assert "the same bit for bit" in str(report)
    assert not list(tmp_path.iterdir())  # it writes elsewhere


COUNT = [0]


class Counts(Net):
    """Remembers something that is neither weight nor buffer."""

    def forward(self, x, labels=None):
        self.calls = vars(self).get("calls", 0) + 1
        result = super().forward(x, labels)
        return {**result, "loss": result["loss"] * (1 + self.calls / 100)}


def _counting(rows):
    """Remembers something that is no generator."""
    COUNT[0] += 1
    batch = noisy(rows)
    return {**batch, "x": batch["x"] + COUNT[0]}


class Order(Sampler):
    """An order of its own in each epoch, which nothing can know."""

    turns = 0

    def __len__(self):
        return 8

    def __iter__(self):
        Order.turns += 1
        return iter(random.Random(Order.turns).sample(range(8), 8))


class Ordered(Trainer):
    def _get_train_sampler(self, train_dataset=None):
        return Order()


class Wanders(Net):
    """Is another at every run."""

    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.first.weight += random.SystemRandom().random()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"net": Counts}, "neither weight nor buffer"),
        ({"collator": _counting}, "other numbers"),
        ({"kind": Ordered, "collator": lambda rows: {k: torch.stack([r[k] for r in rows]) for k in rows[0]}}, "order"),
        ({"net": Wanders}, "not reproducible even without a stop"),
    ],
    ids=["model", "collator", "sampler", "start"],
)
def test_what_broke_it_is_said(given, words, tmp_path):
    report = _verified(tmp_path, steps=6 if "kind" in given else 4, **given)
    assert not report.exact
    assert words in str(report)
    assert report.step == (1 if given.get("net") is Wanders else report.stopped_after + 1)


def test_a_run_that_fails_says_why(tmp_path):
    def broken():
        raise ValueError("no such data")

    with pytest.raises(OmniformError, match=r"'straight' failed.*ValueError: no such data"):
        verify_resume(broken, steps=2)
    with pytest.raises(InputError, match="nothing to compare"):
        verify_resume(broken, steps=2, stop_after=2)
