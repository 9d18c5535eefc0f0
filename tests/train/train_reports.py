"""A short training as callbacks of either library see it; and tools that only note their calls."""

from __future__ import annotations

import os
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from reference import transformers

HISTORY = [
    (2, {"loss": 0.5, "grad_norm": 1.5, "learning_rate": 5e-5, "epoch": 1.0}),
    (2, {"eval_loss": 0.4, "eval_accuracy": 0.75, "eval_runtime": 1.0, "epoch": 1.0}),
    (4, {"loss": 0.25, "grad_norm": 1.25, "learning_rate": 1e-5, "epoch": 2.0}),
    (4, {"train_runtime": 3.0, "train_samples_per_second": 10.0, "train_steps_per_second": 1.0, "total_flos": 123.0,
         "train_loss": 0.375, "epoch": 2.0}),
]  # fmt: skip


def tiny() -> nn.Module:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=20, **sizes))


def arguments(folder: Path, **more):
    return transformers.TrainingArguments(
        output_dir=str(folder / "run"), report_to="none", **{"run_name": "mine"} | more
    )


def begun(**more):
    return transformers.TrainerState(max_steps=4, num_train_epochs=2, logging_steps=2, **more)


class Played:
    """A training of four steps with an evaluation and a checkpoint, and a prediction after it."""

    def __init__(self, callback, folder: Path, model: nn.Module | None = None, state=None, **args) -> None:
        self.callback = callback
        self.args, self.state = arguments(folder, **args), state or begun()
        self.model = model or tiny()

    def tell(self, event: str, **more) -> None:
        control = transformers.TrainerControl()
        shown = {"model": self.model, "processing_class": None, "optimizer": None, "lr_scheduler": None}
        loaders = {"train_dataloader": None, "eval_dataloader": None}
        told = getattr(self.callback, event)
        told(self.args, self.state, control, **shown, **loaders, **more)

    def log(self, step: int, logs: dict) -> None:
        self.state.global_step, self.state.epoch = step, logs.get("epoch", self.state.epoch)
        self.state.log_history.append({**logs, "step": step})
        self.tell("on_log", logs=dict(logs))

    def training(self, history=HISTORY) -> None:
        os.makedirs(self.args.output_dir, exist_ok=True)
        self.tell("on_init_end")
        self.tell("on_train_begin")
        for step, logs in history:
            self.log(step, logs)
            if "eval_loss" in logs:
                self.tell("on_evaluate", metrics=dict(logs))
                folder = Path(self.args.output_dir, f"checkpoint-{step}")
                folder.mkdir(exist_ok=True)
                (folder / "weights").write_text("0")
                self.tell("on_save")
        self.tell("on_train_end")

    def everything(self) -> None:
        self.training()
        self.tell("on_predict", metrics={"test_loss": 0.3, "test_f1": 0.9})


class Noted:
    """Whatever is asked of it, it gives another of its kind, or what ``gives`` says for that name; calls are noted."""

    def __init__(self, name: str, calls: list, gives: dict) -> None:
        self.__dict__.update(_name=name, _calls=calls, _gives=gives)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return Noted(f"{self._name}.{name}", self._calls, self._gives)

    def __call__(self, *args: object, **kw: object) -> object:
        self._calls.append((self._name, args, kw))
        given = self._gives.get(self._name, self)
        return given(*args) if callable(given) and not isinstance(given, Noted) else given

    def __setitem__(self, name: str, value: object) -> None:
        self._calls.append((f"{self._name}[{name}]", (value,), {}))


class FakeTool(ModuleType):
    """A package that notes what is called in it."""

    def __init__(self, name: str, calls: list, gives: dict) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None, origin="noted")
        self.__path__ = []
        self.__version__ = "99.0"
        self.__dict__["_noted"] = Noted(name, calls, gives)

    def __getattr__(self, name: str) -> object:
        return getattr(self.__dict__["_noted"], name)


class Plain(nn.Module):
    """A user's own module: no config, no counting."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
