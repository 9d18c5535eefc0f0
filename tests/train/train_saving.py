"""A tiny training in which everything draws random numbers, for tests of saving and going on."""

import json
import multiprocessing
import os
import random
import signal

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from omniform import Trainer, TrainingArguments, set_seed

TIMED = ("runtime", "per_second")


class Points(Dataset):
    """Examples with noise from two global generators."""

    def __init__(self, length=37):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        x = torch.randn(6, generator=torch.Generator().manual_seed(index))
        return {"x": x + 0.1 * torch.rand(6) + 0.1 * random.random(), "labels": x.sum()}


class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(6, width), nn.Dropout(0.3), nn.Linear(width, 1)

    def forward(self, x, labels=None):
        scores = self.last(self.drop(torch.relu(self.first(x)))).squeeze(-1)
        return {"loss": ((scores - labels) ** 2).mean(), "logits": scores}


def noisy(rows):
    """A collator that draws from NumPy's generator."""
    scale = 1 + 0.01 * np.random.rand()
    return {name: torch.stack([row[name] for row in rows]) * scale for name in rows[0]}


def arguments(folder, **given):
    usual = {
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_train_epochs": 3, "save_steps": 2,
        "logging_steps": 3, "learning_rate": 1e-2, "report_to": [], "disable_tqdm": True, "seed": 5, "use_cpu": True,
    }  # fmt: skip
    args = TrainingArguments(output_dir=str(folder), **{**usual, **given})
    assert args.device.type == "cpu"
    return args


def trainer(folder, *, net=Net, data=None, collator=noisy, callbacks=None, kind=Trainer, eval_data=None, **given):
    set_seed(5)
    return kind(
        net(), arguments(folder, **given), train_dataset=data or Points(), data_collator=collator, callbacks=callbacks,
        eval_dataset=eval_data,
    )  # fmt: skip


def weights(of):
    return {name: value.clone() for name, value in of.model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def logs(of):
    history = of if isinstance(of, list) else of.state.log_history
    return [{n: v for n, v in one.items() if not any(word in n for word in TIMED)} for one in history]


def forked(work, after=None):
    """Run in a forked process; with ``after``, kill it so many seconds later. Its exit code."""
    process = multiprocessing.get_context("fork").Process(target=_quiet, args=(work,))
    process.start()
    process.join(after)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    return process.exitcode


def _quiet(work):
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    work()


def state_of(checkpoint):
    return json.loads((checkpoint / "trainer_state.json").read_text())
