"""DeepSpeed: its settings filled as the reference fills them; with the package, ZeRO 1 to 3 on gloo processes."""

from __future__ import annotations

import copy
import gc
import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "citizens"))

from reference import omniform, transformers

# isort: split
import accelerate
from omniform.integrations import deepspeed as ours

from citizens import CITIZENS
from omniform.core.errors import DependencyError, InputError
from omniform.train.parallel import deepspeed as home
from train_proc_fork import all_of

pytestmark = pytest.mark.filterwarnings("ignore")

INSTALLED = importlib.util.find_spec("deepspeed") is not None
needs_it = pytest.mark.skipif(not INSTALLED, reason="deepspeed is not installed")

AUTO: dict[str, object] = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "fp16": {"enabled": "auto", "initial_scale_power": 16},
    "bf16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params": dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto")},
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": dict.fromkeys(("warmup_min_lr", "warmup_max_lr", "warmup_num_steps", "total_num_steps"), "auto"),
    },
    "zero_optimization": {
        "stage": 3,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "stage3_gather_16bit_weights_on_model_save": True,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
    },
}

ARGUMENTS: list[dict[str, object]] = [
    {},
    {"learning_rate": 3e-4, "weight_decay": 0.1, "adam_beta1": 0.8, "adam_epsilon": 1e-6, "max_grad_norm": 0.5},
    {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4, "warmup_steps": 7},
    {"bf16": True, "warmup_steps": 0.1},
    {"fp16_full_eval": True, "save_on_each_node": True},
]


@pytest.fixture(autouse=True)
def afresh(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "false")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    yield
    ours.unset_hf_deepspeed_config()
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def anyhow(monkeypatch):
    """Settings are filled without the package, too: it computes nothing here."""
    monkeypatch.setattr(home, "need_packages", lambda: None)


def stage(number: int) -> dict[str, object]:
    settings = copy.deepcopy(AUTO)
    settings["zero_optimization"]["stage"] = number
    return settings


def filled(library, settings: object, given: dict[str, object], folder: Path) -> object:
    arguments = library.TrainingArguments(output_dir=str(folder), use_cpu=True, report_to=[], **given)
    made = library.integrations.deepspeed.HfTrainerDeepSpeedConfig(settings)
    made.trainer_config_process(arguments)
    model = CITIZENS["llama"].build() if library is omniform else width(library)
    made.trainer_config_finalize(arguments, model, 100)
    return made


def width(library) -> torch.nn.Module:
    model = torch.nn.Linear(1, 1)
    model.config = library.LlamaConfig(hidden_size=16, num_attention_heads=4)
    return model


def compared(rank: int, world: int, folder: Path) -> None:
    """In a process of its own, which imports deepspeed."""
    for number in (1, 2, 3):
        for given in ARGUMENTS:
            mine = filled(omniform, stage(number), given, folder)
            theirs = filled(transformers, stage(number), given, folder)
            assert mine.config == theirs.config and mine.dtype() == theirs.dtype(), (number, given)
            for name in ("is_zero2", "is_zero3", "is_offload"):
                assert getattr(mine, name)() == getattr(theirs, name)()
    settings = stage(2) | {"train_micro_batch_size_per_gpu": 5, "gradient_clipping": 0.3}
    settings["optimizer"]["params"]["lr"] = 1.0
    said = []
    for library in (omniform, transformers):
        with pytest.raises(ValueError, match="- ds") as error:
            filled(library, settings, {}, folder)
        said.append(sorted(line.split(";")[0] for line in str(error.value).splitlines() if line.startswith("- ds")))
    assert said[0] == said[1] and len(said[0]) == 3


@needs_it
@pytest.mark.slow
def test_auto_is_filled_and_contradictions_are_listed_as_by_the_reference(tmp_path):
    all_of(compared, 1, tmp_path / "run", tmp_path)


def test_auto_is_filled_from_arguments_and_model(anyhow, tmp_path):
    given = {"learning_rate": 0.5, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "bf16": True}
    made = filled(omniform, stage(3), given, tmp_path)
    zero, params = made.config["zero_optimization"], made.config["optimizer"]["params"]
    assert (made.config["train_batch_size"], made.config["train_micro_batch_size_per_gpu"]) == (6, 3)
    assert zero["reduce_bucket_size"] == 256 and zero["stage3_prefetch_bucket_size"] == 230
    assert zero["stage3_param_persistence_threshold"] == 160
    assert params == {"lr": 0.5, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}
    assert made.config["scheduler"]["params"]["total_num_steps"] == 100
    assert made.dtype() == torch.bfloat16 and made.is_zero3() and made.is_offload()
    assert "auto" not in json.dumps(made.config)


def test_what_cannot_be_filled_is_said(anyhow, tmp_path):
    settings = stage(3)
    with pytest.raises(InputError, match="reduce_bucket_size"):
        made = ours.HfTrainerDeepSpeedConfig(settings)
        made.trainer_config_finalize(omniform.TrainingArguments(str(tmp_path)), torch.nn.Linear(2, 2), 10)
    with pytest.raises(InputError, match="trainer_config_process"):
        ours.HfTrainerDeepSpeedConfig(settings).dtype()
    for wrong in ("nowhere.json", "[1]", 3):
        with pytest.raises(InputError, match="deepspeed"):
            ours.HfDeepSpeedConfig(wrong)
    with pytest.raises(InputError, match="fsdp and deepspeed"):
        omniform.TrainingArguments(str(tmp_path), fsdp=True, deepspeed=settings)
    with pytest.raises(InputError, match="global_step"):
        ours.deepspeed_load_checkpoint(None, str(tmp_path))


def test_missing_packages_are_named(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "deepspeed" else found(name, *a))
    with pytest.raises(DependencyError, match="pip install deepspeed"):
        ours.HfDeepSpeedConfig({"zero_optimization": {"stage": 3}})
    assert not ours.is_deepspeed_available()


def test_settings_count_as_long_as_they_live(anyhow, tmp_path):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    made = ours.HfDeepSpeedConfig(str(path))
    assert ours.is_deepspeed_zero3_enabled() and ours.deepspeed_config() is made.config
    del made
    gc.collect()
    assert not ours.is_deepspeed_zero3_enabled() and ours.deepspeed_config() is None
    made = ours.HfDeepSpeedConfig({"zero_optimization": {"stage": 2}})
    assert not ours.is_deepspeed_zero3_enabled()
    given = {"zero_optimization": {"stage": 3}}
    made = ours.HfDeepSpeedConfig(given)
    made.config["more"] = 1
    assert given == {"zero_optimization": {"stage": 3}}  # the user's own is not changed


# -- the package itself -----------------------------------------------------------------------------------------------


def share(batch: dict[str, object], rank: int) -> dict[str, object]:
    return {k: v[rank * 2 : rank * 2 + 2] if isinstance(v, Tensor) else v for k, v in batch.items()}


def engine(rank: int, world: int, number: int, name: str, folder: Path) -> None:
    os.environ.pop("ACCELERATE_USE_CPU", None)
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    citizen = CITIZENS[name]
    settings = {"train_micro_batch_size_per_gpu": 2, "zero_optimization": {"stage": number}, "gradient_clipping": 0.0}
    settings["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
    noted = ours.HfDeepSpeedConfig(settings)
    model = getattr(omniform, citizen.architecture).from_pretrained(folder)
    first = next(model.parameters())
    assert (first.numel() == 0) == (number == 3)  # split while it was loaded
    del noted
    accelerate.PartialState(backend="gloo")
    accelerator = accelerate.Accelerator(deepspeed_plugin=accelerate.DeepSpeedPlugin(hf_ds_config=settings))
    made, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.05))
    batch = citizen.asks.taught(citizen.asks.inputs(4, 6))
    for _ in range(2):
        accelerator.backward(made(**share(batch, rank)).loss)
        optimizer.step()
        optimizer.zero_grad()
    whole = home.full_state_dict(made)
    if rank == 0:
        alone = citizen.build().eval()
        plain = torch.optim.SGD(alone.parameters(), lr=0.05)
        for _ in range(2):
            for part in range(2):
                (alone(**share(batch, part)).loss / 2).backward()
            plain.step()
            plain.zero_grad()
        for key, tensor in alone.state_dict().items():
            assert whole[key].shape == tensor.shape and torch.allclose(whole[key], tensor, atol=1e-6), key
        accelerator.unwrap_model(made).save_pretrained(folder / "out", state_dict=whole)
        ours.unset_hf_deepspeed_config()
        accelerate.state.AcceleratorState._shared_state.pop("deepspeed_plugins")
        again = getattr(omniform, citizen.architecture).from_pretrained(folder / "out")
        assert all(torch.equal(tensor, whole[key]) for key, tensor in again.state_dict().items())


@needs_it
@pytest.mark.slow
@pytest.mark.parametrize(("number", "name"), [(1, "llama"), (2, "t5"), (3, "llama"), (3, "clip"), (3, "t5")])
def test_zero_on_two_processes(number, name, tmp_path):
    """DeepSpeed compiles its communication once (about a minute), which is kept for later runs."""
    CITIZENS[name].build().save_pretrained(tmp_path)
    all_of(engine, 2, tmp_path / "run", number, name, tmp_path, timeout=300)
