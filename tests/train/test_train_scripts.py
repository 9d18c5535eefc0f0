"""Subclasses and callbacks as they are written for the reference's Trainer, beside it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import omniform
from reference import transformers

Rows = list[dict[str, torch.Tensor]]


def rows(count: int = 16) -> Rows:
    made = (torch.Generator().manual_seed(i) for i in range(count))
    return [
        {"input_ids": torch.randint(6, 40, (8,), generator=g), "labels": torch.tensor(i % 2)}
        for i, g in enumerate(made)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(path)
    return path


def trained(library: ModuleType, kind: type[Any], folder: Path, out: Path, **settings: Any) -> Any:
    model = library.AutoModelForSequenceClassification.from_pretrained(folder)
    callbacks = settings.pop("callbacks", None)
    common = {"max_steps": 4, "per_device_train_batch_size": 4, "logging_steps": 1, "report_to": "none",
              "disable_tqdm": True, "learning_rate": 1e-2, "use_cpu": True, "save_strategy": "no",
              "seed": 1}  # fmt: skip
    args = library.TrainingArguments(output_dir=str(out), **{**common, **settings})
    trainer = kind(model=model, args=args, train_dataset=rows(), eval_dataset=rows(), callbacks=callbacks)
    trainer.train()
    return trainer


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weighted_loss(library: ModuleType) -> type[Any]:
    class Weighted(library.Trainer):  # type: ignore[misc, name-defined]
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            loss = torch.nn.functional.cross_entropy(outputs.get("logits"), labels, weight=torch.tensor([1.0, 2.0]))
            return (loss, outputs) if return_outputs else loss

    return Weighted


def own_step(library: ModuleType) -> type[Any]:
    class Steps(library.Trainer):  # type: ignore[misc, name-defined]
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            model.train()
            inputs = self._prepare_inputs(inputs)
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
            self.accelerator.backward(loss)
            return loss.detach()

    return Steps


def own_optimizer(library: ModuleType) -> type[Any]:
    class Groups(library.Trainer):  # type: ignore[misc, name-defined]
        def create_optimizer(self, model: Any = None) -> Any:
            decayed = self.get_decay_parameter_names(self.model)
            named = list(self.model.named_parameters())
            groups = [
                {"params": [p for n, p in named if n in decayed], "weight_decay": 0.1},
                {"params": [p for n, p in named if n not in decayed], "weight_decay": 0.0, "lr": 5e-3},
            ]
            kind, options = library.Trainer.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = kind(groups, **options)
            return self.optimizer

    return Groups


def own_order(library: ModuleType) -> type[Any]:
    class Ordered(library.Trainer):  # type: ignore[misc, name-defined]
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    return Ordered


@pytest.mark.parametrize("make", [weighted_loss, own_step, own_optimizer, own_order])
def test_a_subclass_trains_as_it_does_with_the_reference(make: Any, folder: Path, tmp_path: Path) -> None:
    expected = trained(transformers, make(transformers), folder, tmp_path)
    found = trained(omniform, make(omniform), folder, tmp_path)
    torch.testing.assert_close(torch.tensor(losses(found)), torch.tensor(losses(expected)), rtol=1e-5, atol=1e-5)
    assert found.get_learning_rates() == pytest.approx(expected.get_learning_rates())
    assert found.evaluate()["eval_loss"] == pytest.approx(expected.evaluate()["eval_loss"], abs=1e-5)


def test_a_callback_steers_as_it_does_with_the_reference(folder: Path, tmp_path: Path) -> None:
    told = {}
    for library in (transformers, omniform):
        events: list[object] = []

        class Steers(library.TrainerCallback):  # type: ignore[misc, name-defined]
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                events.append((state.global_step, sorted(kwargs)))  # noqa: B023 # called within the loop
                control.should_evaluate = control.should_log = state.global_step == 2
                control.should_training_stop = state.global_step == 3

            def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
                events.append(sorted(metrics))  # noqa: B023

        trained(library, library.Trainer, folder, tmp_path, callbacks=[Steers], logging_steps=10)
        told[library.__name__] = events
    assert told["omniform"] == told["transformers"]


def test_a_trainer_is_changed_and_trained_again(folder: Path, tmp_path: Path) -> None:
    curves = []
    for library in (transformers, omniform):
        trainer = trained(library, library.Trainer, folder, tmp_path)
        trainer.args.learning_rate, trainer.args.max_steps = 1e-3, 6
        assert trainer.train().global_step == 6
        assert trainer.hp_search_backend is None and trainer.hp_name is None and not trainer.is_in_train
        curves.append(losses(trainer))
    assert trainer.metrics_format({"train_loss": 1.23456}) == {"train_loss": 1.2346}
    torch.testing.assert_close(torch.tensor(curves[1]), torch.tensor(curves[0]), rtol=1e-5, atol=1e-5)
