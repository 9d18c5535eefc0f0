"""A training that is stopped, in whatever moment, and gone on with ends bit for bit as if it had not been."""

import itertools
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import IterableDataset
from train_saving import Net, Points, forked, logs, noisy, same, state_of, trainer, weights

from omniform import EarlyStoppingCallback, Trainer, TrainerCallback
from omniform.core.errors import InputError, WeightsError
from omniform.train import writing
from omniform.train.rotation import get_last_checkpoint, last_whole


@pytest.fixture(autouse=True)
def _told(caplog):
    caplog.set_level("WARNING", logger="omniform")  # other tests may want silence


def _straight(folder, **given):
    made = trainer(folder, **given)
    made.train()
    return made


def _on(folder, checkpoint=True, **given):
    made = trainer(folder, **given)
    torch.rand(5)  # a new process is in other states
    random.random()
    made.train(resume_from_checkpoint=checkpoint)
    return made


def _numbers(folder):
    return sorted(int(path.name.rpartition("-")[2]) for path in Path(folder).glob("checkpoint-*"))


# -- from every checkpoint ---------------------------------------------------------------------------------------------


class Noisy(IterableDataset):
    """A stream that is shuffled by the global generator."""

    def __iter__(self):
        for index in torch.randperm(37).tolist():
            yield Points()[index]


class Masking:
    """A collator that makes its generator with the first batch."""

    generator = None

    def __call__(self, rows):
        if self.generator is None:
            self.generator = torch.Generator().manual_seed(1)
        batch = noisy(rows)
        return {**batch, "x": batch["x"] * (torch.rand(batch["x"].shape, generator=self.generator) > 0.2)}


class Measured(Trainer):
    """Evaluations draw random numbers too."""

    def _evaluate(self, trial, ignore_keys_for_eval, skip_scheduler=False):
        return self.evaluate(ignore_keys=ignore_keys_for_eval)

    def evaluate(self, *args, **kwargs):
        self.model.eval()
        with torch.no_grad():
            losses = [self.model(**batch)["loss"].item() for batch in self.get_eval_dataloader()]
        metrics = {"eval_loss": sum(losses) / len(losses)}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


CASES = {
    "plain": {},
    "by epochs": {"save_strategy": "epoch", "logging_strategy": "epoch"},
    "masking": {"collator": Masking, "save_steps": 4},
    "no shuffling": {"train_sampling_strategy": "sequential", "warmup_steps": 3, "save_steps": 5},
    "stream": {"data": Noisy, "max_steps": 11, "save_steps": 4},
    "workers": {"dataloader_num_workers": 2, "num_train_epochs": 2, "collator": Masking, "save_steps": 4},
    "bf16": {"bf16": True, "save_steps": 3},
    "evaluation": {
        "kind": Measured,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 4,
        "eval_data": Points(9),
    },
    "evaluation by epochs": {"kind": Measured, "eval_strategy": "epoch", "eval_data": Points(9)},
    "no clipping": {"max_grad_norm": 0.0, "logging_first_step": True, "save_steps": 5},
}


@pytest.mark.parametrize("case", CASES)
def test_from_every_checkpoint(case, tmp_path):
    given = dict(CASES[case])

    def fresh():
        return {name: value() if isinstance(value, type) and name != "kind" else value for name, value in given.items()}

    whole = _straight(tmp_path, **fresh())
    assert len(_numbers(tmp_path)) >= 2
    for number in _numbers(tmp_path):
        again = _on(tmp_path, f"{tmp_path}/checkpoint-{number}", **fresh())
        assert same(weights(whole), weights(again)), number
        assert logs(whole) == logs(again), number


# -- kill -9 -----------------------------------------------------------------------------------------------------------


def _until_done(folder, kill, **given):
    """Start again and again, each time killed by ``kill(count, work)``, until one comes to its end; how often."""

    def work():
        made = trainer(folder, **given)
        whole, _ = last_whole(Path(folder))
        made.train(resume_from_checkpoint=True if whole else None)
        torch.save((weights(made), made.state.log_history), Path(folder) / "end.pt")

    for count in itertools.count(1):
        if kill(count, work) == 0:
            return count
        for path in Path(folder).glob("checkpoint-*"):  # whatever there is, is whole
            assert state_of(path)["global_step"] == int(path.name.rpartition("-")[2])
            writing.check_files(path)
        assert count < 80
    raise AssertionError


def test_killed_at_random_moments(tmp_path):
    given = {"save_steps": 1, "save_total_limit": 2, "collator": noisy}
    began = time.monotonic()
    whole = _straight(tmp_path / "whole", **given)
    longest = time.monotonic() - began
    luck = random.Random(3)

    def kill(count, work):
        # Lives grow, since nobody knows how long a start will take: the machine may be as busy as it likes.
        return forked(work, luck.uniform(0.02, longest * count / 4))

    count = _until_done(tmp_path / "killed", kill, **given)
    assert count > 1
    _compare(whole, tmp_path / "killed")


def _compare(whole, folder):
    tensors, history = torch.load(folder / "end.pt")
    assert same(weights(whole), tensors)
    assert logs(whole) == logs(history)
    assert not list(folder.glob(".*")), "what the dead left is removed"


MOMENTS = ["write_model", "write_file", "sync", "rename", "rmtree", "mkdir"]


@pytest.mark.parametrize("where", MOMENTS)
def test_killed_in_the_midst_of_writing(where, tmp_path, monkeypatch):
    given = {"save_steps": 1, "save_total_limit": 1, "max_steps": 4}
    whole = _straight(tmp_path / "whole", **given)

    def kill(count, work):
        def dying():
            _die_at(where, 3 * count if where in ("sync", "write_file") else count)
            work()

        return forked(dying, 60)

    count = _until_done(tmp_path / "killed", kill, **given)
    assert count > 1
    _compare(whole, tmp_path / "killed")


def _die_at(where, count):
    """In this process: the (count + 1)-th call of a function kills it, having done half of its work."""
    import shutil

    from omniform.train import checkpoints

    home = {"write_model": checkpoints, "write_file": checkpoints, "rename": Path, "mkdir": Path, "rmtree": shutil}
    place = home.get(where, writing)
    inner, left = getattr(place, where), [count + 1]

    def dying(first, *rest, **named):
        if where in ("rename", "mkdir") and ".checkpoint-" not in str(first):
            return inner(first, *rest, **named)
        left[0] -= 1
        if left[0] == 0:
            half = Path(first) / "model.safetensors" if Path(first).is_dir() else Path(first)
            if where == "rmtree" and half.exists():
                half.unlink()
            elif where in ("write_file", "write_model"):
                Path(str(half) if where == "write_file" else f"{rest[0]}/model.safetensors").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(first, *rest, **named)

    setattr(place, where, dying)


# -- callbacks, stops --------------------------------------------------------------------------------------------------


class Worse(Measured):
    """Its evaluations are the better the earlier, but for the second."""

    def evaluate(self, *args, **kwargs):
        step = self.state.global_step
        metrics = {"eval_loss": {2: 1.0, 4: 0.5}.get(step, 0.5 + step / 100)}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


STOPPING = {
    "kind": Worse, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True,
    "metric_for_best_model": "loss", "eval_data": Points(5),
}  # fmt: skip


def test_early_stopping_counts_on(tmp_path):
    def patient():
        return [EarlyStoppingCallback(early_stopping_patience=3)]

    whole = _straight(tmp_path, callbacks=patient(), **STOPPING)
    assert whole.state.global_step == 10
    assert whole.state.best_model_checkpoint == f"{tmp_path}/checkpoint-4"
    for number in _numbers(tmp_path):
        again = _on(tmp_path, f"{tmp_path}/checkpoint-{number}", callbacks=patient(), **STOPPING)
        assert again.state.global_step == 10, number
        assert same(weights(whole), weights(again))
        assert logs(whole) == logs(again)
        assert again.state.best_model_checkpoint == f"{tmp_path}/checkpoint-4"


def test_a_callback_set_otherwise_begins_anew_unless_it_is_to_be_restored(tmp_path, caplog):
    _straight(tmp_path, callbacks=[EarlyStoppingCallback(3)], **STOPPING)
    mine = EarlyStoppingCallback(20)
    again = _on(tmp_path, callbacks=[mine], **STOPPING)
    assert mine.early_stopping_patience == 20
    assert "EarlyStoppingCallback was set otherwise" in caplog.text
    again = _on(
        tmp_path, f"{tmp_path}/checkpoint-6", callbacks=[EarlyStoppingCallback(20)],
        restore_callback_states_from_checkpoint=True, **STOPPING,
    )  # fmt: skip
    found = next(one for one in again.callback_handler.callbacks if isinstance(one, EarlyStoppingCallback))
    assert found.early_stopping_patience == 3


class Terminated(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **given):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("step", [0, 3, 4, 8])
def test_sigterm_saves_and_what_was_due_comes_afterwards(step, tmp_path):
    given = {"kind": Measured, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 5, "eval_data": Points(9)}
    before = signal.getsignal(signal.SIGTERM)
    whole = _straight(tmp_path / "whole", **given)
    stopped = trainer(tmp_path / "on", enable_jit_checkpoint=True, callbacks=[Terminated(step)], **given)
    stopped.train()
    assert stopped.state.global_step == step + 1
    assert _numbers(tmp_path / "on")[-1] == step + 1
    assert signal.getsignal(signal.SIGTERM) == before
    again = _on(tmp_path / "on", **given)
    assert same(weights(whole), weights(again))
    assert logs(whole) == logs(again)


# -- what does not fit -------------------------------------------------------------------------------------------------


def test_another_model_is_refused_before_anything_is_changed(tmp_path):
    _straight(tmp_path, num_train_epochs=1)
    made = trainer(tmp_path, net=lambda: Net(width=9))
    before = weights(made)
    with pytest.raises(WeightsError, match=r"of another model.*first\.bias \[8\] for \[9\]"):
        made.train(resume_from_checkpoint=True)
    assert same(before, weights(made))


def test_other_arguments_are_named_and_gone_on_with(tmp_path, caplog):
    _straight(tmp_path, num_train_epochs=1)
    again = _on(tmp_path, f"{tmp_path}/checkpoint-4", per_device_train_batch_size=2, seed=6, num_train_epochs=2)
    assert again.state.global_step > 4
    for words in ("per_device_train_batch_size: 4 then, 2 now", "seed: 5 then, 6 now", "num_train_epochs"):
        assert words in caplog.text


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "resume_state.pth", "trainer_state.json"])
@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_damaged_files_are_named(file, how, tmp_path):
    _straight(tmp_path, num_train_epochs=1)
    path = Path(get_last_checkpoint(tmp_path)) / file
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 255
        content = content if file != "trainer_state.json" else content.replace(b'"epoch"', b'"epoch')
    path.write_bytes(content if how == "flipped" else content[: len(content) // 2])
    with pytest.raises((WeightsError, InputError), match=file):
        _on(tmp_path)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    _straight(tmp_path, num_train_epochs=1)
    checkpoint = Path(get_last_checkpoint(tmp_path))
    (checkpoint / "checkpoint_files.json").unlink()
    torch.save(Path("x"), checkpoint / "scheduler.pt", pickle_protocol=2)
    with pytest.raises(WeightsError, match=r"scheduler\.pt"):
        _on(tmp_path)


def test_there_is_nothing_to_go_on_from(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint to go on from"):
        _on(tmp_path)
    with pytest.raises(ValueError, match="no such checkpoint"):
        _on(tmp_path, f"{tmp_path}/checkpoint-9")
    (tmp_path / "checkpoint-9").mkdir()
    with pytest.raises(ValueError, match=r"no checkpoint of a training.*trainer_state\.json"):
        _on(tmp_path, f"{tmp_path}/checkpoint-9")
    (tmp_path / "checkpoint-9" / "trainer_state.json").write_text("{}")
    with pytest.raises(ValueError, match="no weights"):
        _on(tmp_path, f"{tmp_path}/checkpoint-9")


def test_the_last_whole_one_is_taken(tmp_path, caplog):
    whole = _straight(tmp_path)
    (tmp_path / "checkpoint-99").mkdir()
    (tmp_path / "checkpoint-99" / "model.safetensors").write_bytes(b"")
    assert get_last_checkpoint(tmp_path).endswith("checkpoint-99")
    assert same(weights(whole), weights(_on(tmp_path)))
    assert "checkpoint-99" in caplog.text


def test_states_keep_their_dtype():
    from omniform.train.resume import set_optimizer

    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = torch.optim.SGD([parameter], momentum=0.9, lr=0.1)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    exact = torch.full((3,), 1.001)
    optimizer.state[parameter]["momentum_buffer"] = exact
    other = torch.optim.SGD([torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))], momentum=0.9, lr=0.1)
    set_optimizer(other, optimizer.state_dict(), "here")
    assert torch.equal(other.state_dict()["state"][0]["momentum_buffer"], exact)
