"""A training that pushes: the repository, its card, and what each strategy sends, through the real client."""

import tempfile

import pytest
from test_train_checkpoints import HOW, TINY, Texts, same, weights

from omniform import Trainer, TrainingArguments
from reference import omniform, transformers


@pytest.fixture
def online(hub, tmp_path, monkeypatch):
    rooms = tmp_path / "rooms"
    rooms.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(rooms))
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    with hub.connected(cache=tmp_path / "home", token=hub.token):
        yield hub


def _train(folder, **given):
    model = omniform.AutoModelForCausalLM.from_config(omniform.LlamaConfig(**TINY))
    args = TrainingArguments(output_dir=str(folder), push_to_hub=True, **{**HOW, **given})
    assert args.device.type == "cpu"
    made = Trainer(model, args, train_dataset=Texts(), eval_dataset=Texts())
    made.train()
    return made


MODEL = {"config.json", "generation_config.json", "model.safetensors", "training_args.bin", "README.md"}


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_what_is_pushed_while_it_trains(strategy, online, tmp_path):
    made = _train(tmp_path / "mine", hub_strategy=strategy, hub_model_id="ann/mine", hub_always_push=True)
    paths = set(online.paths("ann/mine")) - {".gitattributes"}
    folders = {path.split("/")[0] for path in paths if "/" in path}
    assert {path for path in paths if "/" not in path} >= MODEL
    wanted = {
        "every_save": set(),
        "checkpoint": {"last-checkpoint"},
        "all_checkpoints": {"checkpoint-4", "checkpoint-8"},
    }
    assert folders == wanted[strategy]
    assert "Training in progress, step 8" in " ".join(online.titles("ann/mine"))
    loaded = omniform.AutoModelForCausalLM.from_pretrained("ann/mine")
    assert same(weights(made), dict(loaded.state_dict()))
    if strategy == "checkpoint":
        assert {"last-checkpoint/optimizer.pt", "last-checkpoint/trainer_state.json"} <= paths


def test_the_end_and_the_card(online, tmp_path):
    made = _train(tmp_path / "mine", hub_strategy="end", eval_strategy="steps", eval_steps=4, max_steps=8)
    told = made.push_to_hub(commit_message="Done", tags="tiny", dataset="numbers", language="en")
    assert told.commit_message == "Done"
    assert told.repo_url.repo_id.endswith("/mine")
    paths = set(online.paths(told.repo_url.repo_id))
    assert paths >= MODEL
    assert not any("checkpoint" in path for path in paths)
    card = (tmp_path / "mine" / "README.md").read_text()
    for words in ("generated_from_trainer", "- tiny", "learning_rate: 0.001", "validation loss", "| 8 |"):
        assert words in card, words
    (tmp_path / "mine" / "README.md").write_text(card + "\nMy own words.\n")
    made.create_model_card()
    again = (tmp_path / "mine" / "README.md").read_text()
    assert "My own words." in again
    assert again.count("## Training") == 1


def test_a_push_that_fails_ends_nothing(online, tmp_path, caplog):
    online.faults.add("POST /api/models/ann/mine/commit/*", status=403)
    caplog.set_level("WARNING", logger="omniform")
    made = _train(tmp_path / "mine", hub_strategy="every_save", hub_model_id="ann/mine")
    assert made.state.global_step == 8
    assert "could not be pushed" in caplog.text
