"""accelerate and the reference's Trainer on our models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reference import omniform, transformers

# isort: split
import accelerate  # after the reference, whose torchvision is made importable there

from citizens import CITIZENS, Citizen

pytestmark = pytest.mark.filterwarnings("ignore")


@torch.no_grad()
def answer(model: nn.Module, citizen: Citizen) -> Tensor:
    return next(t for t in model(**citizen.asks.inputs()).to_tuple() if isinstance(t, Tensor) and t.dim())


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5", "whisper", "detr", "deberta-v2", "llava"])
def test_offloading(name, tmp_path):
    """Every weight is read by calling the module that holds it, before whose call accelerate brings it."""
    citizen = CITIZENS[name]
    model = citizen.build()
    expected = answer(model, citizen)
    assert torch.equal(answer(accelerate.cpu_offload(model, torch.device("cpu")), citizen), expected)
    model = accelerate.disk_offload(citizen.build(), tmp_path, torch.device("cpu"))
    assert torch.equal(answer(model, citizen), expected)


def test_a_checkpoint_dispatched_into_an_empty_model(tmp_path):
    citizen = CITIZENS["llama"]
    expected = answer(citizen.build(), citizen)
    citizen.build().save_pretrained(tmp_path / "m")
    with accelerate.init_empty_weights():
        model = omniform.LlamaForCausalLM(citizen.config_of)
    assert all(p.is_meta for p in model.parameters())
    places = accelerate.infer_auto_device_map(model, {"cpu": 10**9}, no_split_module_classes=model._no_split_modules)
    assert places == {"": "cpu"}
    places = {"model": "cpu", "lm_head": "disk"}
    given = {"device_map": places, "offload_folder": tmp_path / "o"}
    model = accelerate.load_checkpoint_and_dispatch(model, tmp_path / "m", **given).eval()
    assert torch.equal(answer(model, citizen), expected)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5"])
def test_a_step_with_accelerate(name, tmp_path):
    citizen = CITIZENS[name]
    accelerator = accelerate.Accelerator(cpu=True)
    model = citizen.build().train()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    accelerator.backward(model(**citizen.asks.taught(citizen.asks.inputs())).loss)
    accelerator.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    plain = accelerator.unwrap_model(model).eval()
    given = {"save_function": accelerator.save, "state_dict": accelerator.get_state_dict(model)}
    plain.save_pretrained(tmp_path / "m", is_main_process=accelerator.is_main_process, **given)
    expected = answer(plain, citizen)
    again = getattr(omniform, citizen.architecture).from_pretrained(tmp_path / "m")
    assert torch.equal(answer(again, citizen), expected)
    accelerator.save_state(str(tmp_path / "s"))
    with torch.no_grad():
        next(plain.parameters()).zero_()
    accelerator.load_state(str(tmp_path / "s"))
    assert torch.equal(answer(plain, citizen), expected)


def trained(citizen: Citizen, folder: Path, steps: int, resume: Path | None = None, **more: object) -> nn.Module:
    taught = citizen.asks.taught(citizen.asks.inputs(4, 6))
    rows = [{name: value[i] for name, value in taught.items()} for i in range(4)]
    seq2seq = citizen.model_type in ("t5", "whisper")
    kind = transformers.Seq2SeqTrainer if seq2seq else transformers.Trainer
    given = {
        "output_dir": folder, "per_device_train_batch_size": 2, "max_steps": steps, "eval_strategy": "steps",
        "eval_steps": 1, "report_to": [], "use_cpu": True, "disable_tqdm": True, "logging_strategy": "no",
        "save_strategy": "no", **({"predict_with_generate": True} if seq2seq else {}), **more,
    }  # fmt: skip
    arguments = (transformers.Seq2SeqTrainingArguments if seq2seq else transformers.TrainingArguments)(**given)
    trainer = kind(model=citizen.build(), args=arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train(resume_from_checkpoint=resume and str(resume))
    assert trainer.state.global_step == steps
    return trainer.model.eval()


@pytest.mark.parametrize("name", ["llama", "bert, rows"])
def test_a_trainer_saves_resumes_and_keeps_the_best(name, tmp_path):
    citizen = CITIZENS[name]
    saves = {"save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": True}
    whole = trained(citizen, tmp_path / "a", 3, lr_scheduler_type="constant", gradient_checkpointing=True, **saves)
    resumed = trained(
        citizen, tmp_path / "b", 3, tmp_path / "a" / "checkpoint-2", lr_scheduler_type="constant", **saves
    )
    torch.testing.assert_close(answer(resumed, citizen), answer(whole, citizen))
    assert not torch.allclose(answer(whole, citizen), answer(citizen.build(), citizen), atol=1e-6)


@pytest.mark.parametrize("name", ["t5", "whisper", "gpt2", "vit"])
def test_a_trainer_trains(name, tmp_path):
    """Tied weights are saved by ``save_pretrained``; the file that a Trainer writes of foreign models refuses them."""
    citizen = CITIZENS[name]
    model = trained(citizen, tmp_path, 2)
    model.save_pretrained(tmp_path / "m")
    again = getattr(omniform, citizen.architecture).from_pretrained(tmp_path / "m")
    assert torch.equal(answer(again, citizen), answer(model, citizen))
