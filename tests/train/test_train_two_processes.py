"""What a Trainer does in two gloo processes is what it does in one: evaluations, predictions, streams, stops, files.

All is done in one launch of two processes, forked from the tests' own, and once more in this one.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from reference import omniform

# isort: split
from train_tiny import KINDS, tokens

from omniform.train.guard import LossError
from train_proc_fork import all_of

pytestmark = pytest.mark.filterwarnings("ignore")


def texts(count: int) -> list[dict[str, object]]:
    """Rows of unlike lengths, each with its number."""
    return [
        {"input_ids": (ids := tokens(i, 3 + i * 5 % 7)), "labels": torch.tensor(int(ids[0]) % 3), "number": i}
        for i in range(count)
    ]


def collate(rows: list[dict[str, object]]) -> dict[str, Tensor]:
    ids = nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
    made = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    for name in ("labels", "number", "start", "end"):
        if name in rows[0]:
            made[name] = torch.tensor([int(row[name]) for row in rows])
    return made


class Nest(nn.Module):
    """Outputs in a nest, and a loss that is a batch's own mean."""

    main_input_name = "input_ids"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(40, 4), nn.Linear(4, 3)
        self.seen: list[list[int]] = []

    def forward(self, input_ids, attention_mask=None, labels=None, number=None, start=None, end=None):
        if self.training and number is not None:
            self.seen.append(number.tolist())
        mask = (input_ids > 0).float()
        each = self.table(input_ids) * mask[..., None]
        logits = self.head(each.sum(1) / mask.sum(1, keepdim=True))
        wanted = labels if labels is not None else start
        loss = nn.functional.cross_entropy(logits, wanted) if wanted is not None else None
        return {"loss": loss, "logits": logits, "pair": (each.sum(-1), logits[:, :2]), "named": {"x": logits.sum(-1)}}


def trainer_of(folder: Path, world: int, model: nn.Module | None = None, **more: object) -> omniform.Trainer:
    """With batches of four rows over all processes."""
    given = {
        "per_device_train_batch_size": 4 // world, "per_device_eval_batch_size": 4 // world,
        "remove_unused_columns": False, **more.pop("args", {}),
    }  # fmt: skip
    kind = more.pop("kind", omniform.Trainer)
    args_kind = omniform.Seq2SeqTrainingArguments if kind is omniform.Seq2SeqTrainer else omniform.TrainingArguments
    base = {
        "output_dir": str(folder / "out"), "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "seed": 3,
        "logging_steps": 1, "learning_rate": 1e-2, "adam_epsilon": 1e-3,
    }  # fmt: skip
    return kind(
        model=Nest() if model is None else model,
        args=args_kind(**{**base, **given}),
        data_collator=more.pop("collate", collate),
        **more,
    )


def plain(value: object) -> object:
    """A nest without arrays; padding is cut off."""
    if isinstance(value, (Tensor, np.ndarray)):
        return plain(np.asarray(value).tolist())
    if isinstance(value, (list, tuple)):
        found = [plain(one) for one in value]
        while found and isinstance(found[-1], (int, float)) and found[-1] in (-100, 0):
            found.pop()
        return found
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return value


def untimed(metrics: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in metrics.items() if not k.endswith(("_runtime", "_per_second", "_preparation_time"))}


EVALUATIONS: dict[str, dict[str, object]] = {
    "plain": {},
    "lists": {"args": {"eval_do_concat_batches": False}},
    "shown": {"args": {"include_for_metrics": ["inputs", "loss"], "eval_accumulation_steps": 2}},
    "several labels": {"args": {"label_names": ["labels", "number"]}},
    "preprocessed": {"preprocess_logits_for_metrics": lambda logits, labels: logits[0].argmax(-1)},
    "gathered as objects": {"args": {"eval_use_gather_object": False}},
    "loss only": {"args": {"prediction_loss_only": True}},
    "split": {"args": {"accelerator_config": {"split_batches": True}}},
    "dispatched": {"args": {"accelerator_config": {"dispatch_batches": True, "split_batches": True}}},
    "dealt": {"args": {"accelerator_config": {"dispatch_batches": True}}},
}


def evaluation(folder: Path, world: int, count: int, **more: object) -> list[object]:
    """What compute_metrics was given, the metrics, and a prediction."""
    given: list[object] = []

    def metrics(prediction: omniform.EvalPrediction) -> dict[str, float]:
        # Losses are those of the batches that the processes had.
        losses = prediction.losses if prediction.losses is None else [float(prediction.losses.mean())]
        given.append([prediction.predictions, prediction.label_ids, prediction.inputs, losses])
        return {"calls": len(given)}

    if "split_batches" in str(more) and world > 1:
        more = {**more, "args": {**more["args"], "per_device_eval_batch_size": 4, "per_device_train_batch_size": 4}}
    trainer = trainer_of(folder, world, compute_metrics=metrics, **more)
    told = untimed(trainer.evaluate(texts(count)))
    output = trainer.predict(texts(count))
    return [plain(given), told, plain(output.predictions), plain(output.label_ids), untimed(output.metrics)]


def by_batch(folder: Path, world: int, count: int) -> object:
    kept: list[object] = []

    def metrics(prediction: omniform.EvalPrediction, compute_result: bool) -> dict[str, float]:
        kept.append([prediction.predictions[0], prediction.label_ids])
        return {"rows": sum(len(one[1]) for one in kept)} if compute_result else {}

    trainer = trainer_of(folder, world, compute_metrics=metrics, args={"batch_eval_metrics": True})
    return untimed(trainer.evaluate(texts(count))), plain(kept)


def counted(folder: Path, world: int, count: int, name: str, **args: object) -> object:
    """The loss of a model that divides by what is scored, of rows that score unlike many."""
    trainer = trainer_of(folder, world, KINDS[name].ours(folder / name), collate=None, args=args)
    told = trainer.evaluate(KINDS[name].rows(count))
    return untimed(told), plain(trainer.predict(KINDS[name].rows(count)).label_ids)


def written(folder: Path, world: int, count: int, **args: object) -> object:
    """Texts of unlike lengths."""
    model = KINDS["t5"].ours(folder / "t5")
    kind = {"kind": omniform.Seq2SeqTrainer, "args": {"predict_with_generate": True, **args}}
    trainer = trainer_of(folder, world, model, collate=None, **kind)
    rows = KINDS["t5"].rows(count)
    output = trainer.predict(rows, max_new_tokens=6)
    trainer.padding_token = lambda: 0
    return plain(output.predictions), plain(output.label_ids), untimed(output.metrics)


class Rows(Dataset):
    """The rows as texts gives them."""

    def __init__(self, count: int) -> None:
        self.rows = texts(count)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, object]:
        return self.rows[index]


class Stream(IterableDataset):
    def __init__(self, count: int) -> None:
        self.rows = texts(count)

    def __iter__(self):
        return iter(self.rows)


class SizedStream(Stream):
    def __len__(self) -> int:
        return len(self.rows)


SPLIT, DEALT, NOT = {"split_batches": True}, {"dispatch_batches": True}, {"dispatch_batches": False}
TRAININGS: dict[str, tuple[type, int, dict[str, object]]] = {
    "shuffled": (Rows, 13, {}),
    "by length": (Rows, 13, {"train_sampling_strategy": "group_by_length"}),
    "split": (Rows, 7, {"accelerator_config": SPLIT}),
    "dealt": (Rows, 13, {"accelerator_config": DEALT}),
    "stream": (Stream, 13, {}),
    "full stream": (SizedStream, 12, {}),
    "stream split": (Stream, 7, {"accelerator_config": {**DEALT, **SPLIT}}),
    "stream not dealt": (Stream, 13, {"accelerator_config": NOT}),
    "full stream not dealt": (SizedStream, 12, {"accelerator_config": NOT}),
    "stream split, not dealt": (Stream, 7, {"accelerator_config": {**NOT, **SPLIT}}),
    "full stream split, not dealt": (SizedStream, 12, {"accelerator_config": {**NOT, **SPLIT}}),
}


def rows_seen(folder: Path, world: int, kind: type, count: int, more: dict[str, object]) -> list[object]:
    """The numbers of the rows of two epochs with this process, the weights after them, and an evaluation's numbers."""
    size = 4 if "'split_batches': True" in str(more) else 4 // world
    steps = {"max_steps": 2 * -(-count // 4)} if kind is Stream else {"num_train_epochs": 2}
    sizes = {"per_device_train_batch_size": size, "per_device_eval_batch_size": size}
    trainer = trainer_of(
        folder, world, args={**more, **sizes, **steps, "label_names": ["labels", "number"]}, train_dataset=kind(count),
        compute_metrics=lambda prediction: {"numbers": len(prediction.label_ids[1])},
    )  # fmt: skip
    trainer.train()
    seen = trainer.model.seen
    half = len(seen) // 2
    told = trainer.predict(kind(count))
    weights = [plain(tensor) for tensor in trainer.model.state_dict().values()]
    return [
        [seen[:half], seen[half:]],
        weights,
        plain(told.label_ids[1]),
        told.metrics["test_loss"],
        trainer.state.global_step,
    ]


def apart(folder: Path, world: int) -> list[object]:
    """Every process divides by its own tokens."""
    args = {"average_tokens_across_devices": False, "max_steps": 2, "gradient_accumulation_steps": 2}
    model = KINDS["llama"].ours(folder / "llama")
    trainer = trainer_of(folder, world, model, collate=None, args=args, train_dataset=KINDS["llama"].rows(13))
    trainer.train()
    told = trainer.evaluate(KINDS["llama"].rows(7))
    return [[one["loss"] for one in trainer.state.log_history if "loss" in one], told["eval_loss"]]


class Stops(omniform.TrainerCallback):
    """A user's callback that looks at what only one process has."""

    def __init__(self, here: bool) -> None:
        self.here = here

    def on_step_end(self, args, state, control, **kwargs):
        if self.here and state.global_step == 2:
            control.should_training_stop = control.should_save = control.should_evaluate = True


def stopped(folder: Path, world: int, rank: int) -> int:
    args = {"max_steps": 4, "save_strategy": "steps", "output_dir": str(folder / f"stopped{world}")}
    trainer = trainer_of(
        folder, world, args=args, train_dataset=Rows(13), eval_dataset=Rows(7), callbacks=[Stops(rank == 0)]
    )
    trainer.train()
    assert (folder / f"stopped{world}" / "checkpoint-2").is_dir()
    assert any("eval_loss" in one for one in trainer.state.log_history)
    return int(trainer.state.global_step)


class Spoiled(Nest):
    """The loss of one row is no number."""

    def forward(self, input_ids, attention_mask=None, labels=None, number=None):
        out = super().forward(input_ids, attention_mask, labels, number)
        return {**out, "loss": out["loss"] * (float("nan") if 6 in number.tolist() else 1.0)}


def spoiled(folder: Path, world: int, rank: int) -> list[object]:
    """Row 6 is in the second step, in the second process."""
    args = {"max_steps": 4, "train_sampling_strategy": "sequential"}
    trainer = trainer_of(folder, world, Spoiled(), args=args, train_dataset=Rows(13))
    try:
        trainer.train()
    except LossError as error:
        whole = all(bool(one.isfinite().all()) for one in trainer.model.parameters())
        return [error.step, whole, str(error.loss) == "nan", error.examples]
    return []


def files(folder: Path, world: int, rank: int) -> dict[str, object]:
    """Checkpoints kept, the best of them loaded; what was printed and logged."""
    out = folder / f"files{world}"
    args = {
        "output_dir": str(out), "max_steps": 6, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps",
        "eval_steps": 1, "save_total_limit": 2, "load_best_model_at_end": True, "metric_for_best_model": "far",
        "greater_is_better": False,
    }  # fmt: skip
    steps: list[int] = []

    def far(prediction: omniform.EvalPrediction) -> dict[str, float]:
        steps.append(len(steps) + 1)
        return {"far": abs(len(steps) - 3)}

    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        trainer = trainer_of(
            folder, world, args=args, train_dataset=Rows(13), eval_dataset=Rows(7), compute_metrics=far
        )
        trainer.train()
    return {
        "there": sorted(path.name for path in out.iterdir()),
        "best": Path(trainer.state.best_model_checkpoint).name,
        "weights": [plain(one) for one in trainer.model.state_dict().values()],
        "told": told.getvalue(),
        "log": [sorted(one) for one in trainer.state.log_history],
    }


def checks(rank: int, world: int, folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        for name, more in EVALUATIONS.items():
            for count in (7, 13) if name in ("plain", "lists") else (13,):
                found[f"{name} {count}"] = evaluation(folder, world, count, **more)
        found["by batch 7"] = by_batch(folder, world, 7)
        for name in ("bert", "llama"):
            for count in (7, 9):
                found[f"{name} {count}"] = counted(folder, world, count, name)
        for name, (kind, count, more) in TRAININGS.items():
            found[name] = rows_seen(folder, world, kind, count, more)
        found["apart"] = apart(folder, world)
        found["files"] = files(folder, world, rank)
        found["stopped"] = stopped(folder, world, rank)
        found["spoiled"] = spoiled(folder, world, rank)
        found["written 7"] = written(folder, world, 7)
        found["written 9"] = written(folder, world, 9)
    found["told"] = told.getvalue()
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    for name in ("bert", "llama", "t5"):
        KINDS[name].save(folder / name)
    return [*all_of(checks, 1, folder / "one", folder), *all_of(checks, 2, folder / "both", folder)]


def close(found: object, expected: object, where: str = "") -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name in expected:
            close(found[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), (where, found, expected)
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            close(one, other, f"{where}[{place}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=2e-5), where
    else:
        assert found == expected, where


NAMES = [
    *(f"{name} {count}" for name in EVALUATIONS for count in ((7, 13) if name in ("plain", "lists") else (13,))),
    "by batch 7", "bert 7", "bert 9", "llama 7", "llama 9", "written 7", "written 9",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_evaluations_are_those_of_one_process(name, results):
    alone, *both = results
    for one in both:
        close(one[name], alone[name])


@pytest.mark.parametrize("name", TRAININGS)
def test_every_row_once_an_epoch_over_both(name, results):
    count = TRAININGS[name][1]
    (_, weights, numbers, loss, steps), *both = (one[name] for one in results)
    for epoch in range(2):
        first, second = (one[0][epoch] for one in both)
        # A process that has no row in the last round has one that counts for nothing.
        second = second[:-1] if count % 4 == 1 else second
        assert sorted(i for batch in first + second for i in batch) == list(range(count)), (first, second)
    for one in both:
        assert one[4] == steps and sorted(one[2]) == list(range(count))
        if name != "by length":  # whose groups depend on the size of a batch
            assert one[2] == numbers and one[3] == pytest.approx(loss, abs=2e-5)
            close(one[1], weights)


def test_tokens_of_each_process_apart(results):
    _, first, second = (one["apart"] for one in results)
    assert first[0] == second[0] and first[1] == pytest.approx(second[1], abs=1e-6)


def test_both_stop_where_one_says_so_and_with_one_error(results):
    _, first, second = results
    assert first["stopped"] == second["stopped"] == 2
    assert first["spoiled"][:3] == second["spoiled"][:3] == [2, True, True], (first["spoiled"], second["spoiled"])


def test_the_best_of_few_checkpoints(results):
    alone, *both = (one["files"] for one in results)
    for one in both:
        assert one["there"] == alone["there"] and one["best"] == alone["best"]
        close(one["weights"], alone["weights"])
    assert both[0]["told"] and not both[1]["told"]
    assert both[0]["log"] == both[1]["log"]
