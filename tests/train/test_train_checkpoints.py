"""Checkpoints: their names and files, which stay, what happens when they cannot be written, and who reads them."""

import json
import os
import threading
import time
from pathlib import Path

import pytest
import torch
from train_saving import Net, Points, logs, noisy, same, state_of, trainer, weights

import omniform
from omniform import Trainer, TrainerCallback, TrainingArguments
from omniform.core.errors import RepoError
from omniform.train import checkpoints, writing
from omniform.train.rotation import get_last_checkpoint, hidden, remove_dead, rotate_checkpoints, sort_checkpoints
from omniform.train.safe_files import read_file
from omniform.train.writing import Part, Staging, Writer, host_copy
from reference import transformers


@pytest.fixture(autouse=True)
def _told(caplog):
    caplog.set_level("WARNING", logger="omniform")  # other tests may want silence


def _names(folder):
    return sorted((path.name for path in Path(folder).glob("checkpoint-*")), key=lambda name: int(name[11:]))


OURS = {"checkpoint_files.json", "resume_state.pth"}


# -- our models, and the reference's trainer ---------------------------------------------------------------------------


class Texts(torch.utils.data.Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, index):
        ids = torch.randint(4, 60, (7,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


TINY = {
    "vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "tie_word_embeddings": True, "max_position_embeddings": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A folder with a tiny model in the Hub's layout."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY)).save_pretrained(folder)
    return folder


HOW = {
    "per_device_train_batch_size": 4, "max_steps": 8, "save_steps": 4, "logging_steps": 1, "learning_rate": 1e-3,
    "report_to": [], "disable_tqdm": True, "seed": 3, "use_cpu": True,
}  # fmt: skip


def _train(library, llama, folder, checkpoint=None, **given):
    args = library.TrainingArguments(output_dir=str(folder), **{**HOW, **given})
    assert args.device.type == "cpu"
    model = library.AutoModelForCausalLM.from_pretrained(llama)
    made = library.Trainer(model, args, train_dataset=Texts())
    made.train(resume_from_checkpoint=checkpoint)
    return made


def _tensors(folder):
    from safetensors.torch import load_file

    return load_file(Path(folder) / "model.safetensors")


def test_files_are_the_reference_s_and_each_goes_on_from_the_other_s(llama, tmp_path):
    ours = _train(omniform, llama, tmp_path / "ours")
    theirs = _train(transformers, llama, tmp_path / "theirs")
    for step in ("checkpoint-4", "checkpoint-8"):
        mine, other = (tmp_path / "ours" / step), (tmp_path / "theirs" / step)
        assert {*os.listdir(mine)} - OURS == {*os.listdir(other)}
        assert state_of(mine).keys() == state_of(other).keys()
        assert _tensors(mine).keys() == _tensors(other).keys()
    for name, value in state_of(tmp_path / "theirs" / "checkpoint-8").items():
        mine = state_of(tmp_path / "ours" / "checkpoint-8")[name]
        if name == "stateful_callbacks":
            mine = {one: state for one, state in mine.items() if one != "LossGuard"}
        if name not in ("log_history", "total_flos"):
            assert mine == value, name
    for library, folder, whole in ((omniform, "theirs", theirs), (transformers, "ours", ours)):
        _train(library, llama, tmp_path / f"on-{folder}", str(tmp_path / folder / "checkpoint-4"))
        end = tmp_path / f"on-{folder}" / "checkpoint-8"
        straight = _tensors(tmp_path / folder / "checkpoint-8")
        for name, tensor in _tensors(end).items():
            assert torch.allclose(tensor, straight[name], atol=1e-5), (folder, name)
        assert state_of(end)["global_step"] == whole.state.global_step
    loaded = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "ours" / "checkpoint-8")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), ours.model.parameters(), strict=True))


def test_tokenizer_and_arguments_lie_beside_the_model(llama, tmp_path):
    class Kept:
        def save_pretrained(self, folder):
            (Path(folder) / "kept.json").write_text("{}")

    made = trainer(tmp_path, num_train_epochs=1)
    made.processing_class = Kept()
    made.train()
    assert (tmp_path / "checkpoint-4" / "kept.json").is_file()
    made.save_model(str(tmp_path / "final"))
    assert {*os.listdir(tmp_path / "final")} == {"model.safetensors", "training_args.bin", "kept.json"}
    args = torch.load(tmp_path / "final" / "training_args.bin", weights_only=False)
    assert isinstance(args, TrainingArguments)
    assert args.learning_rate == 1e-2


class Tied(Net):
    """Two names of one tensor, and a state that is none."""

    def __init__(self):
        super().__init__()
        self.again = self.first
        self.register_buffer("count", torch.zeros(3))

    def forward(self, x, labels=None):
        self.count += x.detach().mean()
        return super().forward(x, labels)


def test_plain_modules_with_tied_weights_go_on(tmp_path):
    whole = trainer(tmp_path, net=Tied)
    whole.train()
    assert _tensors(tmp_path / "checkpoint-4").keys() == {
        "first.weight", "first.bias", "last.weight", "last.bias", "count",
    }  # fmt: skip
    again = trainer(tmp_path, net=Tied)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert same(weights(whole), weights(again))


def test_peft_saves_adapters_only_and_goes_on_exactly(llama, tmp_path):
    peft = pytest.importorskip("peft")

    def make(folder):
        torch.manual_seed(1)
        base = omniform.AutoModelForCausalLM.from_pretrained(llama)
        config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.1, task_type="CAUSAL_LM")
        model = peft.get_peft_model(base, config)
        model.base_model.model.model.norm.weight.requires_grad_(True)  # in no adapter
        args = TrainingArguments(output_dir=str(folder), **HOW)
        assert args.device.type == "cpu"
        return Trainer(model, args, train_dataset=Texts())

    whole = make(tmp_path)
    whole.train()
    found = {*os.listdir(tmp_path / "checkpoint-4")}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= found
    assert "model.safetensors" not in found
    again = make(tmp_path)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert same(weights(whole), weights(again))
    assert logs(whole) == logs(again)


# -- which stay --------------------------------------------------------------------------------------------------------


def test_the_last_few_stay(tmp_path):
    made = trainer(tmp_path, save_total_limit=2, save_steps=3)
    made.train()
    assert _names(tmp_path) == ["checkpoint-12", "checkpoint-15"]
    assert not list(tmp_path.glob(".*"))


def test_the_model_alone(tmp_path):
    made = trainer(tmp_path, save_only_model=True, num_train_epochs=1)
    made.train()
    found = {*os.listdir(tmp_path / "checkpoint-4")}
    assert found == {"model.safetensors", "training_args.bin", "trainer_state.json", "checkpoint_files.json"}
    trainer(tmp_path, save_only_model=True, num_train_epochs=2).train(resume_from_checkpoint=True)


def test_names_are_found_where_scripts_look():
    from omniform.trainer import OPTIMIZER_NAME, TRAINER_STATE_NAME, TRAINING_ARGS_NAME
    from omniform.trainer_jit_checkpoint import JITCheckpointCallback
    from omniform.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

    assert (OPTIMIZER_NAME, TRAINER_STATE_NAME) == ("optimizer.pt", "trainer_state.json")
    assert (PREFIX_CHECKPOINT_DIR, TRAINING_ARGS_NAME) == ("checkpoint", "training_args.bin")
    assert callable(get_last_checkpoint)
    assert issubclass(JITCheckpointCallback, TrainerCallback)


def test_sorting_and_rotating_as_the_reference(tmp_path):
    from transformers import trainer_utils

    for number in (5, 20, 100, 9):
        (tmp_path / f"checkpoint-{number}").mkdir()
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    assert get_last_checkpoint(tmp_path) == trainer_utils.get_last_checkpoint(tmp_path)
    for best in (None, f"{tmp_path}/checkpoint-9", f"{tmp_path}/checkpoint-100", f"{tmp_path}/checkpoint-1"):
        given = {"output_dir": str(tmp_path), "best_model_checkpoint": best}
        assert sort_checkpoints(**given) == trainer_utils.sort_checkpoints(**given), best
    rotate_checkpoints(str(tmp_path), 2, f"{tmp_path}/checkpoint-5")
    assert _names_of_folders(tmp_path) == ["checkpoint-100", "checkpoint-5", "checkpoint-x"]
    rotate_checkpoints(str(tmp_path), None)
    assert get_last_checkpoint(tmp_path / "checkpoint-5") is None


def _names_of_folders(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_remains_of_the_dead_go_and_those_of_the_living_stay(tmp_path, monkeypatch):
    mine = hidden(tmp_path / "checkpoint-3")
    mine.mkdir()
    host, process, start, luck = mine.name.rsplit(".", 4)[1:]
    dead = tmp_path / f".checkpoint-3.{host}.{2**22 + 1}.{start}.{luck}"
    reused = tmp_path / f".checkpoint-3.{host}.{process}.{int(start) + 1}.{luck}"  # another process of this number
    elsewhere = tmp_path / f".checkpoint-3.other-host.{process}.{start}.{luck}"
    nested = tmp_path / f"..checkpoint-3.{host}.{2**22 + 1}.{start}.{luck}-77-abcd_123"  # of save_pretrained within
    strange = tmp_path / ".checkpoint-3.my.own.folder.x"
    for folder in (dead, reused, elsewhere, nested, strange):
        folder.mkdir()
        (folder / "file").write_text("x")
    remove_dead(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, elsewhere.name, strange.name}
    monkeypatch.setattr("omniform.train.rotation.time.time", lambda: time.monotonic() + 1e10)
    remove_dead(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, strange.name}


# -- beside the training -----------------------------------------------------------------------------------------------


class Steps(TrainerCallback):
    def __init__(self):
        self.threads = []

    def on_step_begin(self, args, state, control, **given):
        self.threads.append(any(one.name == "omniform-checkpoint" for one in threading.enumerate()))


def test_steps_go_on_while_it_is_written(tmp_path, monkeypatch):
    inner, seen = checkpoints.write_file, Steps()

    def slow(path, value):
        time.sleep(0.05)
        inner(path, value)

    monkeypatch.setattr(checkpoints, "write_file", slow)
    made = trainer(tmp_path, save_steps=4, num_train_epochs=1, callbacks=[seen])
    made.train()
    assert any(seen.threads)
    assert state_of(tmp_path / "checkpoint-4")["global_step"] == 4
    whole = trainer(tmp_path / "other", save_strategy="no", num_train_epochs=1)
    whole.train()
    assert same(weights(whole), weights(made))


class Looks(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_save(self, args, state, control, **given):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self.seen.append(json.loads((folder / "trainer_state.json").read_text())["global_step"])
        (folder / "mine.txt").write_text("kept")


def test_whoever_listens_to_on_save_finds_it_whole(tmp_path):
    looks = Looks()
    trainer(tmp_path, num_train_epochs=1, callbacks=[looks]).train()
    assert looks.seen == [2, 4, 5]
    assert (tmp_path / "checkpoint-4" / "mine.txt").is_file()
    trainer(tmp_path, num_train_epochs=1).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


class Extra(Trainer):
    """Writes a file of its own with the model."""

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        (Path(output_dir) / "extra.txt").write_text(str(self.state.global_step))


def test_what_a_subclass_writes_is_in_the_checkpoint(tmp_path):
    trainer(tmp_path, kind=Extra, num_train_epochs=1).train()
    assert (tmp_path / "checkpoint-4" / "extra.txt").read_text() == "4"
    assert (tmp_path / "checkpoint-4" / "optimizer.pt").is_file()


def test_errors_of_the_thread_come_with_the_next_one(tmp_path, monkeypatch):
    def broken(path, value):
        raise TypeError("a mistake")

    monkeypatch.setattr(checkpoints, "write_file", broken)
    made = trainer(tmp_path, save_steps=2)
    with pytest.raises(TypeError, match="a mistake"):
        made.train()
    assert not list(tmp_path.iterdir())
    assert made.state.global_step == 4


def test_a_full_disk_leaves_the_old_one_and_training_goes_on(tmp_path, monkeypatch, caplog):
    inner = checkpoints.write_file

    def full(path, value):
        if "checkpoint-4" in str(path):
            Path(path).write_bytes(b"begun")
            raise OSError(28, "No space left on device")
        inner(path, value)

    monkeypatch.setattr(checkpoints, "write_file", full)
    made = trainer(tmp_path, num_train_epochs=1)
    made.train()
    assert _names(tmp_path) == ["checkpoint-2", "checkpoint-5"]
    assert not list(tmp_path.glob(".*"))
    writing.check_files(tmp_path / "checkpoint-2")
    assert "checkpoint-4" in caplog.text
    assert "No space left on device" in caplog.text
    assert "are free there" in caplog.text


def test_room_is_looked_for_first(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(writing, "_free", lambda folder: 1000)
    made = trainer(tmp_path, num_train_epochs=1)
    made.train()
    assert not list(tmp_path.iterdir())
    assert "no room for the checkpoint" in caplog.text
    assert "1.0 kB free" in caplog.text


def test_a_file_size_limit_of_the_system(tmp_path):
    import resource

    from train_saving import forked

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        made = trainer(tmp_path, num_train_epochs=1)
        made.train()
        assert made.state.global_step == 5

    trainer(tmp_path, num_train_epochs=1, max_steps=2).train()
    assert forked(work, 60) == 0
    assert _names(tmp_path) == ["checkpoint-2"]
    writing.check_files(tmp_path / "checkpoint-2")


def test_a_staging_folder_changes_places_with_an_old_checkpoint(tmp_path):
    for text in ("old", "new"):
        staging = Staging(tmp_path / "checkpoint-1")
        staging.write([Part(lambda folder, text=text: (folder / "a.txt").write_text(text))])
        staging.finish()
    assert (tmp_path / "checkpoint-1" / "a.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    with pytest.raises(RepoError, match="cannot be written"):
        Staging(tmp_path / "checkpoint-1" / "a.txt" / "b")


def test_a_writer_waits_and_tells(tmp_path):
    writer, done = Writer(), []
    writer.start(lambda: (time.sleep(0.05), done.append(1)))
    writer.start(lambda: done.append(2))
    writer.wait()
    assert done == [1, 2]


def test_copies_keep_what_is_one(tmp_path):
    one = torch.ones(2, requires_grad=True)
    copied = host_copy({"a": one, "b": [one, (one[:1], 3)]})
    assert copied["a"] is copied["b"][0]
    assert copied["a"] is not one
    assert not copied["a"].requires_grad
    with torch.no_grad():
        one += 1
    assert copied["a"].tolist() == [1, 1]
    assert copied["b"][1][1] == 3


def test_best_checkpoint_is_kept_and_loaded(tmp_path):
    from test_train_resume import STOPPING, Worse

    made = trainer(tmp_path, **{**STOPPING, "kind": Worse, "save_total_limit": 1})
    made.train()
    assert _names(tmp_path) == ["checkpoint-4"]
    best = _tensors(tmp_path / "checkpoint-4")
    assert all(torch.equal(value, best[name]) for name, value in made.model.state_dict().items())


def test_every_file_is_read_without_running_code(tmp_path):
    trainer(tmp_path, num_train_epochs=1, data=Points(8), collator=noisy).train()
    for path in (tmp_path / "checkpoint-1").glob("*.p*t*"):
        read_file(path)
