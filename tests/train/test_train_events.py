"""Callbacks: every event in the reference's order, with what the reference tells; what they ask for happens."""

from __future__ import annotations

import json

import pytest
from train_tiny import KINDS, arguments, curve, their_arguments

from omniform.core.errors import InputError, UnknownArgumentError
from reference import omniform, transformers

LLAMA = KINDS["llama"]
EVENTS = [name for name in vars(transformers.TrainerCallback) if name.startswith("on_")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return LLAMA.save(tmp_path_factory.mktemp("llama"))


def recorder(base, wishes=()):
    """A callback that writes everything down, and asks for something at some event and step."""

    class Recorder(base):
        def __init__(self):
            self.told = []

    def event(name):
        def told(self, args, state, control, **kwargs):
            given = sorted(key for key, value in kwargs.items() if value is not None)
            asked = [key for key, value in vars(control).items() if value]
            self.told.append((name, state.global_step, round(state.epoch, 4), given, asked))
            for at, step, wish in wishes:
                if (at, step) == (name, state.global_step):
                    setattr(control, wish, True)
            return control

        return told

    for name in EVENTS:
        setattr(Recorder, name, event(name))
    return Recorder()


def recorded(folder, tmp_path, wishes=(), rows=7, **settings):
    theirs, ours = recorder(transformers.TrainerCallback, wishes), recorder(omniform.TrainerCallback, wishes)
    data = LLAMA.rows(rows)
    transformers.Trainer(
        LLAMA.theirs(folder), their_arguments(tmp_path, **settings), train_dataset=data, callbacks=[theirs]
    ).train()
    omniform.Trainer(LLAMA.ours(folder), arguments(tmp_path, **settings), train_dataset=data, callbacks=[ours]).train()
    return theirs.told, ours.told


def test_there_is_every_event():
    assert [name for name in vars(omniform.TrainerCallback) if name.startswith("on_")] == EVENTS
    assert all(name in vars(omniform.train.callbacks.CallbackHandler) for name in EVENTS)


@pytest.mark.parametrize(
    ("wishes", "settings"),
    [
        ((), {"num_train_epochs": 2, "gradient_accumulation_steps": 3}),
        ((), {"max_steps": 3, "logging_steps": 2, "logging_first_step": True}),
        ((), {"num_train_epochs": 2, "logging_strategy": "epoch"}),
        ([("on_step_end", 2, "should_epoch_stop")], {"num_train_epochs": 2}),
        ([("on_step_end", 2, "should_training_stop")], {"num_train_epochs": 2}),
        ([("on_step_end", 1, "should_log"), ("on_epoch_end", 4, "should_log")], {"logging_strategy": "no"}),
        ([("on_epoch_begin", 4, "should_training_stop")], {"num_train_epochs": 3}),
        ([("on_optimizer_step", 1, "should_log")], {"num_train_epochs": 1, "logging_strategy": "no"}),
    ],
)
def test_the_order_of_events(folder, tmp_path, wishes, settings):
    theirs, ours = recorded(folder, tmp_path, wishes, **settings)
    assert ours == theirs and len(ours) > 10


class Heard(omniform.TrainerCallback):
    """What a real callback reads."""

    def on_log(self, args, state, control, logs=None, model=None, optimizer=None, **kwargs):
        self.logs, self.model, self.optimizer = logs, model, optimizer

    def on_train_begin(self, args, state, control, train_dataloader=None, lr_scheduler=None, **kwargs):
        self.batches, self.scheduler = len(train_dataloader), lr_scheduler


def test_what_callbacks_are_told(folder, tmp_path, capsys):
    heard = Heard()
    trainer = omniform.Trainer(
        LLAMA.ours(folder), arguments(tmp_path, max_steps=2), train_dataset=LLAMA.rows(7), callbacks=[heard]
    )
    trainer.train()
    assert heard.model is trainer.model and heard.optimizer is trainer.optimizer
    assert heard.scheduler is trainer.lr_scheduler and heard.batches == 4
    assert heard.logs["train_loss"] > 0 and "train_runtime" in heard.logs
    assert "'loss'" in capsys.readouterr().out  # disable_tqdm: a line for each report


def test_callbacks_come_and_go(folder, tmp_path, caplog):
    caplog.set_level("WARNING", "omniform")
    trainer = omniform.Trainer(LLAMA.ours(folder), arguments(tmp_path), callbacks=[Heard])
    names = trainer.callback_handler.callback_list.split("\n")
    assert names[0] == "DefaultFlowCallback" and "Heard" in names and names[-1] == "PrinterCallback"
    heard = trainer.pop_callback(Heard)
    assert isinstance(heard, Heard) and trainer.pop_callback(Heard) is None
    trainer.add_callback(heard)
    trainer.add_callback(Heard)
    assert "There is a Heard already" in caplog.text
    trainer.remove_callback(heard)
    with pytest.raises(InputError, match="Heard"):
        trainer.remove_callback(heard)
    trainer.remove_callback(Heard)
    trainer.remove_callback(Heard)  # a class that is not there is no mistake
    trainer.remove_callback(omniform.DefaultFlowCallback)
    omniform.Trainer(LLAMA.ours(folder), arguments(tmp_path)).callback_handler.__class__([], None, None, None, None)
    assert "No DefaultFlowCallback" in caplog.text


def test_the_flow_is_the_reference_s():
    """What the arguments ask for, at every step of ten."""
    settings = [
        {"logging_steps": 3, "eval_strategy": "steps", "eval_steps": 4, "save_steps": 5, "save_strategy": "steps"},
        {"logging_strategy": "epoch", "eval_strategy": "epoch", "save_strategy": "epoch", "eval_delay": 2},
        {"logging_strategy": "no", "eval_strategy": "steps", "eval_steps": 3, "eval_delay": 5, "save_strategy": "no"},
        {"logging_first_step": True, "logging_steps": 0.3, "eval_strategy": "steps", "eval_steps": 0.4},
        {"logging_steps": 100, "save_steps": 0.2},
    ]
    for one in settings:
        asked = []
        for package in (omniform, transformers):
            args = package.TrainingArguments(output_dir="out", report_to="none", use_cpu=True, **one)
            state, control = package.TrainerState(), package.TrainerControl()
            state.max_steps = 10
            state.compute_steps(args, 10)
            flow = package.DefaultFlowCallback()
            told = []
            for step in range(1, 11):
                state.global_step, state.epoch = step, step / 5
                control._new_step()
                told.append(vars(flow.on_step_end(args, state, control)).copy())
                if step % 5 == 0:
                    told.append(vars(flow.on_epoch_end(args, state, control)).copy())
            asked.append(told)
        assert asked[0] == asked[1], one


def test_state_is_read_by_either_library(tmp_path):
    kept = [omniform.EarlyStoppingCallback(2, 0.1)]
    state = omniform.TrainerState(global_step=3, log_history=[{"loss": 1.0, "step": 3}], stateful_callbacks=kept)
    state.save_to_json(tmp_path / "state.json")
    theirs = transformers.TrainerState.load_from_json(tmp_path / "state.json")
    assert vars(theirs) == {name: value for name, value in vars(state).items() if name != "tokens_read"}
    theirs.save_to_json(tmp_path / "theirs.json")
    assert omniform.TrainerState.load_from_json(tmp_path / "theirs.json") == state
    again = omniform.EarlyStoppingCallback.from_state(state.stateful_callbacks["EarlyStoppingCallback"])
    assert (again.early_stopping_patience, again.early_stopping_threshold) == (2, 0.1)
    (tmp_path / "bad.json").write_text(json.dumps({"global_stp": 1}))
    with pytest.raises(UnknownArgumentError, match="global_step"):
        omniform.TrainerState.load_from_json(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="JSON"):
        omniform.TrainerState.load_from_json(tmp_path / "bad.json")
    with pytest.raises(InputError, match=r"ExportableState.*int"):
        omniform.TrainerState(stateful_callbacks=[3])


@pytest.mark.parametrize("greater", [True, False])
def test_early_stopping(tmp_path, greater):
    """The same verdict after every evaluation."""
    metrics = [0.5, 0.6, 0.59, 0.61, 0.4, 0.3, 0.2, 0.65]
    found = []
    for package in (omniform, transformers):
        args = package.TrainingArguments(
            output_dir=str(tmp_path), report_to="none", use_cpu=True, eval_strategy="steps", eval_steps=1, save_steps=1,
            load_best_model_at_end=True, metric_for_best_model="eval_score", greater_is_better=greater,
        )  # fmt: skip
        stop = package.EarlyStoppingCallback(early_stopping_patience=2, early_stopping_threshold=0.02)
        state, control = package.TrainerState(), package.TrainerControl()
        stop.on_train_begin(args, state, control)
        told = []
        for value in metrics:
            stop.on_evaluate(args, state, control, metrics={"eval_score": value})
            told.append((stop.early_stopping_patience_counter, control.should_training_stop))
            if state.best_metric is None or (value > state.best_metric) == greater:
                state.best_metric = value
        found.append(told)
    assert found[0] == found[1] and any(stopped for _, stopped in found[0])


def test_early_stopping_needs_something_to_watch(folder, tmp_path):
    for settings, words in [({}, "metric_for_best_model"), ({"metric_for_best_model": "loss"}, "eval_strategy")]:
        trainer = omniform.Trainer(
            LLAMA.ours(folder),
            arguments(tmp_path, max_steps=1, **settings),
            train_dataset=LLAMA.rows(4),
            callbacks=[omniform.EarlyStoppingCallback],
        )
        with pytest.raises(InputError, match=words):
            trainer.train()


def test_train_again(folder, tmp_path):
    """A second train() goes on with the weights, and begins to count anew."""
    trainer = omniform.Trainer(LLAMA.ours(folder), arguments(tmp_path, max_steps=3), train_dataset=LLAMA.rows(8))
    first = trainer.train()
    losses = curve(trainer)[0]
    second = trainer.train()
    assert first.global_step == second.global_step == 3 and len(trainer.state.log_history) == 4
    assert curve(trainer)[0][0] < losses[0]
