"""Evaluation, prediction, searches, the guard of the loss and batches that fit, beside the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from omniform.train.guard import LossError, LossGuard
from reference import omniform, transformers

CONFIG = {
    "vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": 3, "max_position_embeddings": 40,
}  # fmt: skip


def rows(count, seed=0):
    rng = np.random.default_rng(seed)
    return [{"input_ids": rng.integers(3, 60, rng.integers(3, 12)).tolist(), "labels": i % 3} for i in range(count)]


def collate(found):
    ids = [torch.tensor(row["input_ids"]) for row in found]
    padded = nn.utils.rnn.pad_sequence(ids, batch_first=True)
    batch = {"input_ids": padded, "attention_mask": (padded > 0).long()}
    return batch | ({"labels": torch.tensor([row["labels"] for row in found])} if "labels" in found[0] else {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    where = tmp_path_factory.mktemp("bert")
    transformers.BertForSequenceClassification(transformers.BertConfig(**CONFIG)).save_pretrained(where)
    return where


def trainers(folder, tmp_path, **more):
    """Ours and the reference's, made alike."""
    args = {
        "output_dir": str(tmp_path), "per_device_eval_batch_size": 4, "report_to": "none", "use_cpu": True,
        "disable_tqdm": True, **more.pop("args", {}),
    }  # fmt: skip
    made = []
    for library in (omniform, transformers):
        model = library.AutoModelForSequenceClassification.from_pretrained(folder)
        given = {name: value(library) if name == "make" else value for name, value in more.items()}
        made.append(
            library.Trainer(model=model, args=library.TrainingArguments(**args), data_collator=collate, **given)
        )
    return made


def told(metrics):
    left_out = ("_runtime", "_per_second", "_model_preparation_time")
    return {name: value for name, value in metrics.items() if not name.endswith(left_out)}


def accuracy(prediction):
    scores, labels = prediction
    return {"accuracy": np.float64((scores.argmax(-1) == labels).mean()), "seen": torch.tensor(len(labels))}


@pytest.mark.parametrize("more", [
    {},
    {"eval_accumulation_steps": 2},
    {"include_for_metrics": ["inputs", "loss"]},
    {"eval_do_concat_batches": False},
    {"prediction_loss_only": True},
    {"label_smoothing_factor": 0.1},
])  # fmt: skip
def test_evaluations_are_the_references(folder, tmp_path, more):
    shapes = []

    def metrics(prediction):
        shapes.append([np.shape(x) if isinstance(x, np.ndarray) else [np.shape(y) for y in x] for x in prediction])
        return {} if more.get("eval_do_concat_batches") is False else accuracy((prediction[0], prediction[1]))

    found = []
    for trainer in trainers(folder, tmp_path, args=more, compute_metrics=metrics, eval_dataset=rows(10)):
        first = trainer.evaluate()
        named = trainer.evaluate({"a": rows(5, 1), "b": rows(3, 2)})
        predicted = trainer.predict(rows(7, 3), metric_key_prefix="late")
        found.append((told(first), told(named), told(predicted.metrics), predicted.predictions, predicted.label_ids))
        assert [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    ours, theirs = found
    for mine, yours in zip(ours[:3], theirs[:3], strict=True):
        assert mine == pytest.approx(yours, abs=1e-5) and list(mine) == list(yours)
    for mine, yours in zip(ours[3:], theirs[3:], strict=True):
        assert (mine is None) == (yours is None)
        parts = [x if isinstance(x, list) else [x] for x in (mine, yours)] if mine is not None else ((), ())
        for one, other in zip(*parts, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    half = len(shapes) // 2
    assert shapes[:half] == shapes[half:]


def test_predictions_without_labels_and_of_streams(folder, tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from [{"input_ids": row["input_ids"]} for row in rows(7)]

    for trainer in trainers(folder, tmp_path):
        found = trainer.predict(Stream())
        assert found.label_ids is None and found.predictions.shape == (7, 3)
        assert "test_loss" not in found.metrics and "test_runtime" in found.metrics
        plain = trainer.predict([{"input_ids": row["input_ids"]} for row in rows(7)])
        np.testing.assert_allclose(plain.predictions, found.predictions, atol=1e-6)


def test_several_sets_of_the_package_datasets(folder, tmp_path):
    """Its dictionary of sets has columns too, and is several sets nevertheless."""
    datasets = pytest.importorskip("datasets")
    both = datasets.DatasetDict({name: datasets.Dataset.from_list(rows(5, i)) for i, name in enumerate("ab")})
    ours, theirs = (told(t.evaluate()) for t in trainers(folder, tmp_path, eval_dataset=both))
    assert ours == pytest.approx(theirs, abs=1e-5) and {"eval_a_loss", "eval_b_loss"} <= ours.keys()


def test_metrics_batch_by_batch(folder, tmp_path):
    seen = []

    def metrics(prediction, compute_result):
        seen.append((tuple(prediction.predictions.shape), compute_result))
        return {"count": sum(shape[0] for shape, _ in seen)} if compute_result else {}

    for trainer in trainers(folder, tmp_path, args={"batch_eval_metrics": True}, compute_metrics=metrics):
        seen.clear()
        assert trainer.evaluate(rows(10))["eval_count"] == 10
        assert seen == [((4, 3), False), ((4, 3), False), ((2, 3), True)]


def test_what_is_kept_of_logits(folder, tmp_path):
    def kept(logits, labels):
        return logits.argmax(-1)

    for trainer in trainers(folder, tmp_path, preprocess_logits_for_metrics=kept):
        assert trainer.predict(rows(6)).predictions.shape == (6,)


def test_the_last_words(folder, tmp_path, capsys):
    texts = []
    for trainer in trainers(folder, tmp_path):
        trainer.log_metrics("eval", {"eval_loss": 1.23456, "eval_runtime": 61.5, "total_flos": 5 << 30, "n": 3})
        texts.append(capsys.readouterr().out)
        trainer.save_metrics("eval", {"eval_loss": 1.5})
        trainer.save_metrics("train", {"train_loss": np.float32(2.0).item()})
        trainer.save_state()
        texts.append("".join((tmp_path / f"{name}_results.json").read_text() for name in ("eval", "train", "all")))
        assert (tmp_path / "trainer_state.json").exists()
    assert texts[:2] == texts[2:]


def test_a_search(folder, tmp_path):
    pytest.importorskip("optuna")

    def make():
        return omniform.AutoModelForSequenceClassification.from_pretrained(folder)

    args = omniform.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        use_cpu=True,
        disable_tqdm=True,
        eval_strategy="epoch",
        save_strategy="no",
    )
    given = {"train_dataset": rows(8), "eval_dataset": rows(4, 1), "data_collator": collate}
    trainer = omniform.Trainer(model_init=make, args=args, **given)
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)}, n_trials=2
    )
    assert best.run_id in "01" and set(best.hyperparameters) == {"learning_rate"} and math.isfinite(best.objective)
    with pytest.raises(ValueError, match="model_init"):
        omniform.Trainer(model=make(), args=args, **given).hyperparameter_search()
    with pytest.raises(TypeError, match="learning_rate"):
        trainer.hyperparameter_search(hp_space=lambda trial: {"learning_rat": 1.0}, n_trials=1)


class Broken(nn.Module):
    """A model whose loss is what the third batch says."""

    def __init__(self, at: int, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.at, self.value, self.calls = at, value, 0

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        self.calls += 1
        loss = (self.weight * x).pow(2).mean()
        return {"loss": loss * self.value if self.calls == self.at else loss}


@pytest.mark.parametrize(("value", "guards"), [(math.nan, ()), (100.0, (LossGuard(8),))])
def test_a_loss_that_spoils_the_weights_stops(tmp_path, value, guards):
    at = 14
    data = [{"x": torch.tensor([1.0 + i / 100, 2.0]), "labels": 0} for i in range(40)]
    args = omniform.TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=2, learning_rate=1e-3, use_cpu=True, disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    model = Broken(at, value)
    trainer = omniform.Trainer(model=model, args=args, train_dataset=data, callbacks=list(guards))
    with pytest.raises(LossError, match=f"step {at}") as caught:
        trainer.train()
    assert model.weight.isfinite().all() and trainer.state.global_step == at - 1
    error = caught.value
    assert error.step == at and len(error.examples) == 2
    order = [row for batch in trainer.get_train_dataloader().batch_sampler for row in batch]
    assert list(error.examples) == order[2 * (at - 1) : 2 * at]
    assert error.checkpoint is None
    trainer = omniform.Trainer(model=Broken(at, value), args=args, train_dataset=data, callbacks=list(guards))
    trainer.remove_callback(LossGuard)
    assert trainer.train().global_step == 60


def test_batches_that_fit(tmp_path):
    class Large(Broken):
        def forward(self, x, labels=None):
            if len(x) > 5:
                raise RuntimeError("CUDA out of memory. (as it were)")
            return super().forward(x, labels)

    args = omniform.TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=8, auto_find_batch_size=True, use_cpu=True,
        disable_tqdm=True, save_strategy="no", num_train_epochs=1,
    )  # fmt: skip
    data = [{"x": torch.ones(2), "labels": 0}] * 20
    trainer = omniform.Trainer(model=Large(0, 1.0), args=args, train_dataset=data)
    trainer.train()
    assert trainer._train_batch_size <= 5 and trainer.state.global_step == math.ceil(20 / trainer._train_batch_size)
