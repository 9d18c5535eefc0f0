"""Schedules of the learning rate, step for step as the reference's."""

from __future__ import annotations

import copy
import io
import math
import pickle
import random

import pytest
import torch

import omniform
from omniform.core.errors import InputError, UnknownArgumentError
from omniform.train.intervals import SchedulerType
from omniform.train.schedulers import TYPE_TO_SCHEDULER_FUNCTION
from reference import transformers

theirs = transformers.optimization

SETTINGS = [
    ("linear", {}),
    ("constant", {}),
    ("constant_with_warmup", {}),
    ("cosine", {}),
    ("cosine", {"num_cycles": 1.5}),
    ("cosine_with_restarts", {}),
    ("cosine_with_restarts", {"num_cycles": 3}),
    ("polynomial", {"lr_end": 0.5}),
    ("polynomial", {"lr_end": 1e-7, "power": 2.0}),
    ("inverse_sqrt", {}),
    ("inverse_sqrt", {"timescale": 7}),
    ("cosine_with_min_lr", {"min_lr": 0.3}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.25, "num_cycles": 1}),
    ("cosine_warmup_with_min_lr", {"min_lr": 0.3}),
    ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.25, "warmup_lr_rate": 0.1}),
    *(
        ("warmup_stable_decay", {"num_decay_steps": 9, "warmup_type": way, "decay_type": back, "min_lr_ratio": low})
        for way, back, low in (("linear", "cosine", 0), ("cosine", "linear", 0.1), ("1-sqrt", "1-sqrt", 0.2))
    ),
    ("warmup_stable_decay", {"num_decay_steps": 5, "num_stable_steps": 6, "num_cycles": 1.0}),
]


def made(rate=2.0):
    parameters = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))]
    return torch.optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:], "lr": rate / 4}], lr=rate)


def rates(scheduler, optimizer, steps):
    told = []
    for _ in range(steps):
        told.append([group["lr"] for group in optimizer.param_groups] + scheduler.get_last_lr())
        optimizer.step()
        scheduler.step()
    return told


@pytest.mark.parametrize(("name", "given"), SETTINGS, ids=str)
@pytest.mark.parametrize(("warmup", "total"), [(0, 30), (5, 30), (10, 25), (30, 30)])
def test_every_schedule_is_the_references_step_for_step(name, given, warmup, total):
    ours, yours = made(), made()
    mine = omniform.get_scheduler(name, ours, warmup, total, given)
    other = transformers.get_scheduler(name, yours, warmup, total, given)
    if name == "polynomial" and warmup == total:  # the reference divides by zero where nothing is left to fall
        assert rates(mine, ours, 31)[-1][0] == given["lr_end"]
        return
    for found, wanted in zip(rates(mine, ours, 40), rates(other, yours, 40), strict=True):
        assert found == pytest.approx(wanted, rel=1e-12, abs=1e-15)


def test_the_settings_cover_all_schedules():
    by_metric = {"reduce_lr_on_plateau", "greedy"}
    assert {name for name, _ in SETTINGS} | by_metric == {one.value for one in transformers.SchedulerType}
    assert {one.value for one in TYPE_TO_SCHEDULER_FUNCTION} == {one.value for one in SchedulerType}


def test_functions_have_the_references_names_and_arguments():
    import inspect

    from omniform import optimization

    for name in dir(theirs):
        if not name.startswith("get_") or "logger" in name:
            continue
        ours = inspect.signature(getattr(optimization, name)).parameters
        wanted = inspect.signature(getattr(theirs, name)).parameters
        assert [(one.name, one.default) for one in ours.values()] == [
            (one.name, one.default) for one in wanted.values()
        ]
    assert omniform.get_linear_schedule_with_warmup is optimization.get_linear_schedule_with_warmup


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"patience": 1, "cooldown": 2, "warmup": 3, "factor": 0.5, "min_lr": 0.01, "max_lr": 5.0},
        {"mode": "max", "patience": 0, "threshold_mode": "rel", "threshold": 0.01},
        {"smooth": True, "window_size": 4, "patience": 2, "min_lr": [1.9, 0.4], "max_lr": [3.0, 1.0], "reset_start": 2},
    ],
    ids=str,
)
def test_greedy_rates_are_the_references_and_go_on_from_a_state(given):
    ours, yours = made(), made()
    mine, other = omniform.get_scheduler("greedy", ours, None, None, given), theirs.GreedyLR(yours, **given)
    draw = random.Random(0)
    for step in range(120):
        metric = math.sin(step / 9) + draw.random() / 5
        mine.step(metric)
        other.step(metric)
        assert mine.get_last_lr() == other.get_last_lr()
        if step == 60:
            state = copy.deepcopy(mine.state_dict())
            assert state == other.state_dict()
            ours = made()
            mine = omniform.optimization.GreedyLR(ours, **given)
            mine.load_state_dict(state)
    assert [group["lr"] for group in ours.param_groups] == [group["lr"] for group in yours.param_groups]


def test_a_plateau_lowers_the_rate():
    optimizer = made()
    scheduler = omniform.get_scheduler("reduce_lr_on_plateau", optimizer, 3, 9, {"patience": 0, "factor": 0.5})
    for _ in range(3):
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_states_go_on_and_what_a_resumed_training_says_counts():
    optimizer = made()
    scheduler = omniform.get_cosine_schedule_with_warmup(optimizer, 2, 10)
    rates(scheduler, optimizer, 5)
    state = scheduler.state_dict()
    torch.save(state, kept := io.BytesIO())
    kept.seek(0)
    assert torch.load(kept, weights_only=True)["last_epoch"] == 5
    again = made()
    other = omniform.get_cosine_schedule_with_warmup(again, 2, 20)
    other.load_state_dict(state)
    again.step()
    other.step()
    assert other.get_last_lr()[0] == pytest.approx(2.0 * 0.5 * (1 + math.cos(math.pi * 4 / 18)))
    pickle.loads(pickle.dumps(scheduler.lr_lambdas))


@pytest.mark.parametrize(
    ("name", "steps", "given", "words"),
    [
        ("cosin", (1, 9), {}, ["cosin", "cosine"]),
        ("linear", (None, 9), {}, ["linear", "num_warmup_steps"]),
        ("linear", (1, None), {}, ["linear", "num_training_steps"]),
        ("cosine", (1, 9), {"cycles": 1}, ["cosine", "cycles", "num_cycles"]),
        ("constant", (1, 9), {"num_cycles": 1}, ["constant", "num_cycles"]),
        ("greedy", (1, 9), {"patient": 1}, ["patient", "patience"]),
        ("greedy", (1, 9), {"factor": 1.5}, ["factor"]),
        ("greedy", (1, 9), {"min_lr": [1.0]}, ["min_lr"]),
        ("polynomial", (1, 9), {"lr_end": 3.0}, ["lr_end"]),
        ("cosine_with_min_lr", (1, 9), {}, ["min_lr"]),
        ("cosine_with_min_lr", (1, 9), {"min_lr": 0.1, "min_lr_rate": 0.1}, ["min_lr", "twice"]),
        ("warmup_stable_decay", (1, None), {"num_decay_steps": 3}, ["num_stable_steps"]),
        ("warmup_stable_decay", (1, 9), {"num_decay_steps": 3, "decay_type": "sine"}, ["decay_type"]),
    ],
)
def test_what_a_schedule_cannot_be_is_named(name, steps, given, words):
    with pytest.raises((InputError, UnknownArgumentError)) as error:
        omniform.get_scheduler(name, made(), *steps, given)
    for word in words:
        assert word in str(error.value)
