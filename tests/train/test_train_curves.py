"""Ten steps, without dropout, are the reference's to 1e-5: loss, length of the gradients, learning rate."""

from __future__ import annotations

import math

import pytest
import torch
from train_tiny import KINDS, arguments, curve, their_arguments

from omniform.train.guard import LossGuard
from reference import omniform, transformers

TEN = {"max_steps": 10, "weight_decay": 0.1, "warmup_steps": 2}
SPLIT = {**TEN, "gradient_accumulation_steps": 3}
CASES = {
    # Rows of one batch are left over: 23 rows are eleven batches of two and one of one, in windows of three.
    "bert": TEN,
    "bert-mlm": TEN,
    "llama": SPLIT,
    "t5": TEN,
    "vit": TEN,
    "whisper": TEN,
    "llava": {**SPLIT, "max_grad_norm": 0.5},
}
"""Only what the reference counts is split. For all others it believes that the model divides by the number of scored
tokens, gives it that number, the model ignores it, and means of batches are added up: three times the loss here."""


@pytest.mark.parametrize("name", CASES)
def test_ten_steps(name, tmp_path):
    kind, settings = KINDS[name], CASES[name]
    folder, rows = kind.save(tmp_path / "model"), kind.rows(23)
    theirs = transformers.Trainer(kind.theirs(folder), their_arguments(tmp_path, **settings), train_dataset=rows)
    theirs.train()
    ours = omniform.Trainer(kind.ours(folder), arguments(tmp_path, **settings), train_dataset=rows)
    told = ours.train()
    for mine, other in zip(curve(ours), curve(theirs), strict=True):
        assert len(mine) == 10
        assert mine == pytest.approx(other, rel=1e-5, abs=1e-5)
    assert len(set(curve(ours)[0])) == 10  # it learned, and batches differ
    last, their_last = ours.state.log_history[-1], theirs.state.log_history[-1]
    assert last.keys() == their_last.keys()
    for key in ("train_loss", "epoch", "step"):
        assert last[key] == pytest.approx(their_last[key], rel=1e-5), key
    assert last["total_flos"] == pytest.approx(their_last["total_flos"], rel=0.02)  # a table of positions, more or less
    assert told.global_step == 10 and told.training_loss == pytest.approx(their_last["train_loss"], rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_train_epochs": 1.5, "gradient_accumulation_steps": 2},
        {"num_train_epochs": 2, "gradient_accumulation_steps": 5, "dataloader_drop_last": True},
        {"max_steps": 7, "logging_steps": 3, "logging_first_step": True},
        {"num_train_epochs": 2, "logging_strategy": "epoch", "max_grad_norm": 0},
        {"max_steps": 5, "train_sampling_strategy": "sequential", "data_seed": 7},
        {"max_steps": 5, "data_seed": 7, "warmup_steps": 3},
        {"max_steps": 5, "adam_beta1": 0.8, "adam_epsilon": 1e-5, "weight_decay": 0.3},
        {"max_steps": 4, "label_smoothing_factor": 0.2, "gradient_accumulation_steps": 2},
        {"max_steps": 4, "include_num_input_tokens_seen": "all"},
        {"max_steps": 4, "include_num_input_tokens_seen": "non_padding", "dataloader_num_workers": 1},
    ],
    ids=lambda settings: " ".join(settings),
)
def test_settings(settings, tmp_path):
    kind = KINDS["llama"]
    folder, rows = kind.save(tmp_path / "model"), kind.rows(13)
    theirs = transformers.Trainer(kind.theirs(folder), their_arguments(tmp_path, **settings), train_dataset=rows)
    theirs.train()
    ours = omniform.Trainer(kind.ours(folder), arguments(tmp_path, **settings), train_dataset=rows)
    ours.train()
    times = ("runtime", "per_second")
    for mine, other in zip(ours.state.log_history, theirs.state.log_history, strict=True):
        assert mine.keys() == other.keys()
        for key in (key for key in mine if not key.endswith(times)):
            assert mine[key] == pytest.approx(other[key], rel=1e-5, abs=1e-5), (key, mine, other)
    for name in ("global_step", "max_steps", "num_train_epochs", "epoch", "num_input_tokens_seen", "train_batch_size"):
        assert getattr(ours.state, name) == getattr(theirs.state, name), name


def test_no_number_is_reported_as_what_others_were(tmp_path):
    """Where somebody has sent the guard away, who would end the training."""
    kind = KINDS["llama"]
    folder, rows = kind.save(tmp_path / "model"), kind.rows(8)

    def told(package, load, make, **changes):
        class Spoiled(package.Trainer):
            def training_step(self, model, inputs, *args):
                loss = super().training_step(model, inputs, *args)
                return loss * math.nan if self.state.global_step == 2 else loss

        args = make(tmp_path, max_steps=4, logging_steps=4, **changes)
        trainer = Spoiled(load(folder), args, train_dataset=rows)
        if package is omniform:
            trainer.remove_callback(LossGuard)
        trainer.train()
        return curve(trainer)[0]

    mine = told(omniform, kind.ours, arguments)
    assert math.isfinite(mine[0]) and mine == pytest.approx(told(transformers, kind.theirs, their_arguments), rel=1e-5)
    assert math.isnan(told(omniform, kind.ours, arguments, logging_nan_inf_filter=False)[0])


def test_neftune(tmp_path):
    """The noise is there while it trains, is the same for a seed, and gone afterwards."""
    kind = KINDS["llama"]
    folder, rows = kind.save(tmp_path / "model"), kind.rows(8)
    settings = {"max_steps": 3, "neftune_noise_alpha": 5.0}
    theirs = transformers.Trainer(kind.theirs(folder), their_arguments(tmp_path, **settings), train_dataset=rows)
    theirs.train()
    ours = omniform.Trainer(kind.ours(folder), arguments(tmp_path, **settings), train_dataset=rows)
    ours.train()
    assert curve(ours)[0] == pytest.approx(curve(theirs)[0], rel=1e-5)
    quiet = omniform.Trainer(kind.ours(folder), arguments(tmp_path, max_steps=3), train_dataset=rows)
    quiet.train()
    assert curve(quiet)[0] != pytest.approx(curve(ours)[0], rel=1e-5)
    table = ours.model.get_input_embeddings()
    assert not table._forward_hooks and not hasattr(table, "neftune_noise_alpha")


def test_full_determinism_and_model_init(tmp_path):
    """Every train() begins with a model of its own, the same for a seed."""
    kind = KINDS["bert"]
    config = omniform.AutoConfig.from_pretrained(kind.save(tmp_path / "model"))
    trainer = omniform.Trainer(
        model_init=lambda: omniform.AutoModelForSequenceClassification.from_config(config),
        args=arguments(tmp_path, max_steps=3, full_determinism=True),
        train_dataset=kind.rows(8),
    )
    try:
        trainer.train()
        first = curve(trainer)
        trainer.train()
        assert curve(trainer) == first
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
