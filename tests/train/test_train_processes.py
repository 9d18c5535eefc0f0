"""A Trainer in several gloo processes: the same weights as in one with all the rows, whoever spreads the model."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reference import omniform

# isort: split
from omniform.integrations import fsdp
from train_tiny import KINDS, arguments

from omniform.core.errors import InputError
from omniform.train.parallel import stored
from train_proc_fork import all_of, each

pytestmark = pytest.mark.filterwarnings("ignore")

# Adam divides by tiny numbers where a gradient is almost nothing: an epsilon keeps the last bit of a sum from showing.
STEPS = {"max_steps": 3, "adam_epsilon": 1e-3, "learning_rate": 1e-2}


def weights(trainer: omniform.Trainer) -> dict[str, Tensor]:
    if trainer.is_fsdp_enabled:
        return fsdp.full_state_dict(trainer.model)
    if trainer.is_deepspeed_enabled:
        return stored.whole_model(trainer)
    return {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}


def run(rank: int, world: int, name: str, folder: Path, given: dict[str, object]) -> tuple[object, ...]:
    """Four rows a batch, over all processes."""
    kind, rows = KINDS[name], given.get("rows", 12)
    given = {key: value for key, value in given.items() if key != "rows"}
    changes = {"per_device_train_batch_size": 4 // world, **STEPS, **given}
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        trainer = omniform.Trainer(
            model=kind.ours(folder),
            args=arguments(folder, **changes),
            train_dataset=kind.rows(rows),
        )
        trainer.train()
    losses = [one["loss"] for one in trainer.state.log_history if "loss" in one]
    return weights(trainer), losses, told.getvalue()


def same(found: object, expected: object, exact: bool = False) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if exact:
            assert torch.equal(found[name], tensor), name
        else:
            torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5, msg=name)


CASES = [
    # The last batch of the epoch has one row: three processes of four have none.
    ("llama", {"gradient_accumulation_steps": 2, "rows": 13}, 4),
    ("llama", {"fsdp": True, "gradient_accumulation_steps": 2}, 2),
    ("bert", {"fsdp": True, "rows": 7}, 2),
    ("t5", {"rows": 7}, 2),
]


@pytest.mark.parametrize(("name", "given", "world"), CASES)
def test_the_same_weights_as_in_one_process(name, given, world, tmp_path):
    folder = KINDS[name].save(tmp_path / "m")
    whole = {key: value for key, value in given.items() if key != "fsdp"}
    (alone,) = all_of(run, 1, tmp_path / "one", name, folder, whole)
    several = all_of(run, world, tmp_path / "several", name, folder, given)
    same(several[0][0], alone[0])
    assert several[0][1] == pytest.approx(alone[1], abs=1e-5)
    # Logs come from the first process; the others are still, and agree about the loss.
    assert "loss" in several[0][2] and not any(one[2] for one in several[1:])
    if "fsdp" not in given:
        for other in several[1:]:
            same(other[0], several[0][0], exact=True)


def stopped_and_resumed(rank: int, world: int, folder: Path, given: dict[str, object]) -> tuple[object, object]:
    """Four steps at once, and three of them, then on from the second by new objects."""
    kind = KINDS["llama"]

    def trained(out: str, steps: int, resume: str | None = None) -> omniform.Trainer:
        args = arguments(
            folder, output_dir=str(folder / out), save_strategy="steps", save_steps=2,
            **{**STEPS, "max_steps": 4, "lr_scheduler_type": "constant", **given},
        )  # fmt: skip
        trainer = omniform.Trainer(
            model=kind.ours(folder), args=args, train_dataset=kind.rows(12), callbacks=[Stop(steps)]
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = trained("a", 4)
    trained("b", 3)  # whose third step is lost
    again = trained("b", 4, str(folder / "b" / "checkpoint-2"))
    whole.save_model(str(folder / "saved"))
    return weights(whole), weights(again)


class Stop(omniform.TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step == self.step


SAVED = [
    ({}, "model.safetensors optimizer.pt rng_state_1.pth"),
    pytest.param(
        {"fsdp": True},
        "model.safetensors optimizer.bin pytorch_model_fsdp.bin rng_state_1.pth",
        marks=pytest.mark.slow,
    ),
    ({"fsdp": True, "fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT"}}, "optimizer_0 pytorch_model_fsdp_0"),
]


def zero(stage: int) -> dict[str, object]:
    settings: dict[str, object] = dict.fromkeys(
        ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"),
        "auto",
    )
    settings["zero_optimization"] = {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True}
    return {"deepspeed": settings, "gradient_accumulation_steps": 2}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_trains_saves_and_goes_on(stage, tmp_path):
    folder = KINDS["llama"].save(tmp_path / "m")
    (alone,) = all_of(run, 1, tmp_path / "one", "llama", folder, {"gradient_accumulation_steps": 2})
    several = all_of(run, 2, tmp_path / "several", "llama", folder, zero(stage), timeout=300)
    same(several[0][0], alone[0])
    (whole, again), _ = all_of(stopped_and_resumed, 2, tmp_path / "run", folder, zero(stage), timeout=300)
    same(again, whole, exact=True)
    there = {path.name for path in (folder / "a" / "checkpoint-2").iterdir()}
    assert {"global_step2", "model.safetensors", "scheduler.pt", "trainer_state.json"} <= there, there
    same(dict(KINDS["llama"].ours(folder / "saved").state_dict()), whole, exact=True)


@pytest.mark.parametrize(("given", "files"), SAVED)
def test_processes_go_on_where_they_were_stopped(given, files, tmp_path):
    folder = KINDS["llama"].save(tmp_path / "m")
    (whole, again), _ = all_of(stopped_and_resumed, 2, tmp_path / "run", folder, given)
    same(again, whole, exact=True)
    there = {path.name for path in (folder / "a" / "checkpoint-2").iterdir()}
    assert {*files.split(), "trainer_state.json", "scheduler.pt"} <= there, there
    assert not [path for path in (folder / "a").iterdir() if not path.name.startswith("checkpoint-")]
    if "model.safetensors" in files:
        same(dict(KINDS["llama"].ours(folder / "saved").state_dict()), whole, exact=True)


def in_turn(rank: int, world: int, folder: Path) -> float:
    args = arguments(folder)  # a launcher says how many there are; nobody says use_cpu
    assert args.world_size == world and args.process_index == rank and args.local_process_index == rank
    assert args.parallel_mode.value == "distributed" and args.should_save == (rank == 0)
    with args.main_process_first(desc="a file"):
        began = time.monotonic()
        time.sleep(0.2)
    return began


def test_the_main_process_goes_first(tmp_path):
    first, second = all_of(in_turn, 2, tmp_path / "run", tmp_path)
    assert second >= first + 0.2


class Fails(torch.utils.data.Dataset):
    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if self.rank == 1 and index > 40:
            raise RuntimeError("this file is damaged")
        return KINDS["llama"].row(index)


def with_a_fault(rank: int, world: int, folder: Path) -> None:
    args = arguments(folder, per_device_train_batch_size=2, max_steps=30, ddp_timeout=60)
    omniform.Trainer(model=KINDS["llama"].ours(folder), args=args, train_dataset=Fails(rank)).train()


def test_a_process_that_ends_ends_the_others(tmp_path):
    folder = KINDS["llama"].save(tmp_path / "m")
    first, second = each(with_a_fault, 2, tmp_path / "run", folder, timeout=300)
    assert "this file is damaged" in str(second)
    assert isinstance(first, Exception) and "another process" in str(first), first


def test_a_model_is_split_over_several_processes_only(tmp_path):
    with pytest.raises(InputError, match="torchrun"):
        omniform.Trainer(model=torch.nn.Linear(1, 1), args=arguments(tmp_path, fsdp=True))
