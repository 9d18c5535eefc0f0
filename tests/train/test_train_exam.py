"""What an examiner of the Trainer found: each fault, and its siblings."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn
from train_tiny import NO_DROPOUT, TEXT, Row, tokens

from reference import omniform, saved_reference, transformers  # isort: skip

import peft  # after the reference, whose torchvision is made importable there

from omniform.core.errors import InputError, WeightsError, WorkerError

SMALL = {**TEXT, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    config = transformers.BertConfig(**SMALL, **NO_DROPOUT, num_labels=3)
    saved_reference(transformers.BertForSequenceClassification, config, folder)
    return folder


def row(index: int) -> Row:
    ids = tokens(index, 6)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor(int(ids[0]) % 3)}


def rows(count: int) -> list[Row]:
    return [row(index) for index in range(count)]


def trainer(model, folder, train=None, evaluated=None, package=omniform, callbacks=None, **settings):
    settings = {"per_device_train_batch_size": 2, "max_steps": 3, "save_strategy": "no", **settings}
    quiet = {"use_cpu": True, "disable_tqdm": True, "report_to": "none"}
    args = package.TrainingArguments(output_dir=str(folder), **quiet, **settings)
    train = rows(6) if train is None else train
    return package.Trainer(model, args, train_dataset=train, eval_dataset=evaluated, callbacks=callbacks)


def classifier(folder: Path, package=omniform) -> nn.Module:
    return package.AutoModelForSequenceClassification.from_pretrained(folder)


# -- adapters whose layers have other names here -----------------------------------------------------------------------


def _lora(model, **settings):
    torch.manual_seed(3)
    return peft.get_peft_model(model, peft.LoraConfig(r=2, **settings))


def _two(model):
    model = _lora(model, target_modules="all-linear", task_type="SEQ_CLS")
    model.add_adapter("other", peft.LoraConfig(r=3, target_modules=["query"]))
    return model


def _prompt(model):
    torch.manual_seed(3)
    return peft.get_peft_model(model, peft.PromptTuningConfig(num_virtual_tokens=2, task_type="SEQ_CLS"))


@pytest.mark.parametrize(
    "adapt",
    [lambda m: _lora(m, target_modules=["query", "value"], modules_to_save=["classifier"]), _two, _prompt],
    ids=["lora", "two", "prompt"],
)
def test_adapters_go_on_and_the_best_is_read_back(bert, tmp_path, adapt):
    settings = {
        "learning_rate": 1e-2, "max_steps": 4, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps",
        "eval_steps": 2, "load_best_model_at_end": True, "logging_steps": 1, "greater_is_better": True,
    }  # fmt: skip
    told = []
    for package in (omniform, transformers):
        folder = tmp_path / package.__name__
        made = trainer(adapt(classifier(bert, package)), folder, None, rows(4), package, **settings)
        done = made.train()
        assert made.state.best_global_step in (2, 4)
        best = {key: one.clone() for key, one in made.model.state_dict().items()}
        again = trainer(adapt(classifier(bert, package)), folder, None, rows(4), package, **settings)
        again.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
        assert all(torch.equal(best[key], one) for key, one in again.model.state_dict().items())
        losses = [report["loss"] for report in made.state.log_history if "loss" in report]
        told.append([*losses, made.state.best_metric, done.training_loss, *made.label_names])
    for ours, theirs in zip(*told, strict=True):
        assert ours == (theirs if isinstance(theirs, str) else pytest.approx(theirs, abs=1e-5))


# -- examples that fall away -------------------------------------------------------------------------------------------


def test_fewer_examples_than_a_batch_where_short_batches_are_dropped(bert, tmp_path):
    settings = {"dataloader_drop_last": True, "per_device_eval_batch_size": 4}
    words = r"(?s)dataloader_drop_last and per_device_eval_batch_size.*at least 4.*found 3.*drop_last=False"
    made = trainer(classifier(bert), tmp_path, None, rows(3), **settings)
    for call in (made.evaluate, lambda: made.predict(rows(3))):
        with pytest.raises(InputError, match=words):
            call()
    assert made.evaluate(rows(4))["eval_loss"] > 0
    for given, name in ((rows(3), "Evaluation:"), ({"a": rows(4), "b": rows(3)}, "Evaluation on 'b':")):
        made = trainer(classifier(bert), tmp_path, None, given, eval_strategy="steps", eval_steps=2, **settings)
        with pytest.raises(InputError, match=name):
            made.train()
        assert made.state.global_step == 0  # before anything can be lost
    assert made.predict([]).predictions is None


# -- processes that die while a model is measured ----------------------------------------------------------------------


class Dying(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Row:
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return row(index)


def test_a_worker_that_dies_in_an_evaluation(bert, tmp_path):
    made = trainer(classifier(bert), tmp_path, None, Dying(), dataloader_num_workers=1, per_device_eval_batch_size=2)
    with pytest.raises(WorkerError, match=r"SIGKILL.*dataloader_num_workers"):
        made.evaluate()


# -- losses that teach nothing -----------------------------------------------------------------------------------------


class Gives(nn.Module):
    """A module with a loss of some kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer, self.kind = nn.Linear(1, 1), kind

    def forward(self, input_ids, labels=None):
        loss = self.layer(input_ids[:, :1].float()).mean()
        return {"loss": {"cut": loss.detach(), "plain": 1.5, "whole": loss}[self.kind]}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Gives("cut"), r"nothing learns.*requires_grad"),
        (Gives("whole").requires_grad_(False), r"nothing learns.*frozen"),
        (Gives("plain"), r"gave no loss.*whose loss is a tensor.*plain number \(1.5\)"),
    ],
    ids=["cut", "frozen", "plain"],
)
def test_a_loss_that_teaches_nothing(model, words, tmp_path):
    with pytest.raises(InputError, match=f"(?s){words}"):
        trainer(model, tmp_path).train()


def test_labels_in_words(bert, tmp_path):
    data = [{**row(index), "labels": "good"} for index in range(4)]
    words = r"(?s)example 0, column 'labels'.*left out 'labels'.*found 'good'.*input_ids.*label2id"
    with pytest.raises(InputError, match=words) as told:
        trainer(classifier(bert), tmp_path, data).train()
    assert "loss_only" not in str(told.value)


# -- what is asked -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_named_by_a_path(bert, tmp_path):
    with pytest.raises(InputError, match=r"resume_from_checkpoint.*checkpoint-N.*found 5"):
        trainer(classifier(bert), tmp_path).train(resume_from_checkpoint=5)


def test_what_a_checkpoint_needs(bert, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2}
    trainer(classifier(bert), tmp_path, **settings).train()
    checkpoint = tmp_path / "checkpoint-2"
    with pytest.raises(WeightsError, match=r"optimizer.pt and optim: .*another optimizer.*momentum.*betas"):
        trainer(classifier(bert), tmp_path, optim="sgd", **settings).train(resume_from_checkpoint=str(checkpoint))
    (checkpoint / "trainer_state.json").unlink()
    with pytest.raises(InputError, match=r"no checkpoint of a training.*trainer_state.json.*from_pretrained"):
        trainer(classifier(bert), tmp_path, **settings).train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_labels_of_any_width(bert, tmp_path, dtype):
    data = [{**one, "labels": one["labels"].to(dtype)} for one in rows(6)]
    plain = trainer(classifier(bert), tmp_path).train()
    assert trainer(classifier(bert), tmp_path, data).train().training_loss == plain.training_loss


def test_a_model_without_a_loss_predicts(bert, tmp_path):
    found = []
    for package in (omniform, transformers):
        args = package.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
        model = package.AutoModel.from_pretrained(bert)
        found.append(
            package.Trainer(model, args).predict([{"input_ids": row(index)["input_ids"]} for index in range(3)])
        )
    for ours, theirs in zip(found[0].predictions, found[1].predictions, strict=True):
        assert torch.allclose(torch.as_tensor(ours), torch.as_tensor(theirs), atol=1e-5)


def test_speeds_are_of_this_call_alone(bert, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 4, "max_steps": 5, "include_num_input_tokens_seen": "all"}
    trainer(classifier(bert), tmp_path, **settings, logging_steps=1).train()
    again = trainer(classifier(bert), tmp_path, **settings, logging_steps=1)
    told = again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4")).metrics
    steps, samples = (told[f"train_{what}_per_second"] * told["train_runtime"] for what in ("steps", "samples"))
    assert steps == pytest.approx(1, rel=0.1) and samples == pytest.approx(2, rel=0.1)
    assert again._initial_num_input_tokens_seen == 4 * 2 * 6
