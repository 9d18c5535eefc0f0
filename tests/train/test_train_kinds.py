"""What may be trained and with what: adapters, models of transformers, plain modules; and what fits nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from train_tiny import KINDS, arguments, curve, their_arguments

from checkpoints import tokenizer
from omniform.core.errors import InputError
from reference import omniform, transformers

# isort: split
import peft  # after the reference, whose torchvision is made importable there

LLAMA = KINDS["llama"]
SPLIT = {"max_steps": 3, "gradient_accumulation_steps": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return LLAMA.save(tmp_path_factory.mktemp("llama"))


def ours(model, tmp_path, **settings):
    trainer = omniform.Trainer(model, arguments(tmp_path, **settings), train_dataset=LLAMA.rows(8))
    trainer.train()
    return trainer


def theirs(model, tmp_path, **settings):
    trainer = transformers.Trainer(model, their_arguments(tmp_path, **settings), train_dataset=LLAMA.rows(8))
    trainer.train()
    return trainer


def adapted(model):
    torch.manual_seed(0)
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2))


def test_adapters(folder, tmp_path):
    """A model in PEFT: only the adapter learns, and as the reference's does."""
    trainer = ours(adapted(LLAMA.ours(folder)), tmp_path, **SPLIT)
    reference = theirs(adapted(LLAMA.theirs(folder)), tmp_path, **SPLIT)
    for mine, other in zip(curve(trainer), curve(reference), strict=True):
        assert mine == pytest.approx(other, rel=1e-5, abs=1e-5)
    assert trainer.label_names == ["labels"] and trainer.model_accepts_loss_kwargs
    assert trainer.get_num_trainable_parameters() < 500


def test_a_model_of_transformers(folder, tmp_path):
    for mine, other in zip(
        curve(ours(LLAMA.theirs(folder), tmp_path, **SPLIT)),
        curve(theirs(LLAMA.theirs(folder), tmp_path, **SPLIT)),
        strict=True,
    ):
        assert mine == pytest.approx(other, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"bf16": True},
        {"gradient_checkpointing": True},
        {"torch_compile": True, "torch_compile_backend": "eager"},
        {"optim": "adafactor"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_ways_of_computing(folder, tmp_path, settings):
    near = 2e-2 if "bf16" in settings else 1e-5
    for mine, other in zip(
        curve(ours(LLAMA.ours(folder), tmp_path, max_steps=3, **settings), ("loss", "grad_norm")),
        curve(theirs(LLAMA.theirs(folder), tmp_path, max_steps=3, **settings), ("loss", "grad_norm")),
        strict=True,
    ):
        assert mine == pytest.approx(other, rel=near)


def test_optimizers_of_the_user_s(folder, tmp_path):
    found = []
    for package, load, make in ((omniform, LLAMA.ours, arguments), (transformers, LLAMA.theirs, their_arguments)):
        model = load(folder)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        given = (optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5))
        trainer = package.Trainer(model, make(tmp_path, max_steps=3), train_dataset=LLAMA.rows(8), optimizers=given)
        trainer.train()
        assert trainer.get_learning_rates() == [0.0125] and trainer.lr_scheduler is given[1]
        chosen = (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9})
        other = package.Trainer(
            load(folder), make(tmp_path, max_steps=3), train_dataset=LLAMA.rows(8), optimizer_cls_and_kwargs=chosen
        )
        other.train()
        assert other.get_optimizer_group(next(other.model.parameters()))["weight_decay"] == 0.0
        assert len(other.get_optimizer_group()) == 2
        found.append([*curve(trainer), *curve(other)])
    for mine, theirs_ in zip(*found, strict=True):
        assert mine == pytest.approx(theirs_, rel=1e-5, abs=1e-5)


def test_special_tokens_follow_the_tokenizer(folder, tmp_path):
    told = []
    for package, load, make in ((omniform, LLAMA.ours, arguments), (transformers, LLAMA.theirs, their_arguments)):
        model = load(folder)
        model.generation_config.eos_token_id = 9
        model.config.pad_token_id = 7
        words = tokenizer()
        words.save_pretrained(tmp_path / "words")
        words = package.AutoTokenizer.from_pretrained(tmp_path / "words")
        package.Trainer(model, make(tmp_path, max_steps=1), train_dataset=LLAMA.rows(4), processing_class=words).train()
        names = ("eos_token_id", "bos_token_id", "pad_token_id")
        told.append([getattr(one, name) for one in (model.config, model.generation_config) for name in names])
    assert told[0] == told[1]


class Broken(nn.Module):
    """A module that has no loss."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, input_ids):
        return {"logits": input_ids * self.weight}


def test_a_module_without_a_loss(tmp_path):
    with pytest.raises(InputError, match=r"gave no loss.*outputs logits"):
        ours(Broken(), tmp_path, remove_unused_columns=True)


def test_what_does_not_fit(folder, tmp_path):
    model, args = LLAMA.ours(folder), arguments(tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for given, words in [
        ({}, "model and model_init.*neither"),
        ({"model": model, "model_init": lambda: model}, "model and model_init.*both"),
        ({"model": "gpt2"}, "model.*torch.nn.Module.*gpt2"),
        ({"model_init": lambda trial, more: model}, "model_init.*0 or 1"),
        ({"model_init": lambda: None}, "model_init.*None"),
        (
            {"model": omniform.AutoModel.from_pretrained(folder), "train_dataset": [{}]},
            "has no loss.*LlamaModel.*AutoModelFor",
        ),
        ({"model": model, "data_collator": 3}, "data_collator.*3"),
        ({"model": model, "optimizers": (optimizer, None), "optimizer_cls_and_kwargs": (torch.optim.SGD, {})}, "two"),
        ({"model_init": lambda: model, "optimizers": (optimizer, None)}, "optimizers and model_init"),
    ]:
        with pytest.raises(InputError, match=f"(?s){words}"):
            omniform.Trainer(args=args, **given)
    for settings, words in [
        ({"eval_strategy": "steps", "eval_steps": 1}, "eval_strategy and eval_dataset"),
        ({"save_strategy": "best"}, "metric_for_best_model"),
        ({"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 2}}, "gradient_accumulation_steps": 2},
         "num_steps and gradient_accumulation_steps.*2 and 2"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=words):
            omniform.Trainer(model, arguments(tmp_path, **settings))
    with pytest.raises(InputError, match="batch_eval_metrics and compute_metrics"):
        omniform.Trainer(model, arguments(tmp_path, batch_eval_metrics=True), compute_metrics=lambda prediction: {})
