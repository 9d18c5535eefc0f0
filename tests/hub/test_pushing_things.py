"""``push_to_hub`` of everything but models: loaded back by id it is the same, and the files are the reference's."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch

from checkpoints import picture_checkpoint, text_checkpoint
from inputs import test_tokenizers_folders as folders
from omniform.core.errors import InputError, RepoError, UnknownArgumentError
from omniform.core.pushing import PushToHub
from reference import omniform, transformers


@pytest.fixture
def online(hub, tmp_path, monkeypatch):
    """The loopback Hub, a user who is logged in, and a place for temporary files that has to be empty at the end."""
    rooms = tmp_path / "rooms"
    rooms.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(rooms))
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)  # it keeps the first Hub's address
    with hub.connected(cache=tmp_path / "home", token=hub.token):
        yield hub
    assert not list(rooms.iterdir())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return picture_checkpoint(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A model that writes, and its tokenizer."""
    return text_checkpoint(tmp_path_factory.mktemp("written"), chat=True)


def byt5(folder: Path) -> Path:
    transformers.ByT5Tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", [folders.bert, folders.gpt2, folders.llama, folders.t5, folders.whisper, byt5])
def test_tokenizers(online, tmp_path, kind):
    ours = omniform.AutoTokenizer.from_pretrained(kind(tmp_path / "made"))
    ours.chat_template = {"default": "x", "tools": "y"}
    old = {"special_tokens_map.json": b'{"pad_token": "older"}', "additional_chat_templates/gone.jinja": b"gone"}
    online.upload("ann/ours", {**old, "notes.txt": b"kept"})
    ours.push_to_hub("ann/ours", commit_message="words")
    assert not old.keys() & set(online.paths("ann/ours")) and "notes.txt" in online.paths("ann/ours")
    again = omniform.AutoTokenizer.from_pretrained("ann/ours")
    assert again.get_vocab() == ours.get_vocab() and again.special_tokens_map == ours.special_tokens_map
    assert again("hello a HELLO").input_ids == ours("hello a HELLO").input_ids
    assert online.read("ann/ours", "additional_chat_templates/tools.jinja") == b"y"
    made = ours.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="ann/saved")
    assert {str(Path(path).relative_to(tmp_path / "saved")) for path in made} | {"README.md", ".gitattributes"} == set(
        online.paths("ann/saved")
    )
    assert online.titles("ann/saved")[0] == "Upload tokenizer" and online.titles("ann/ours")[0] == "words"
    ours.save_pretrained(tmp_path / "by-name", push_to_hub=True)
    assert online.paths("ann/by-name") == online.paths("ann/saved")


def test_files_and_titles_are_the_reference_s(online, pictures):
    """And each loads in either library."""
    ours, theirs = (library.AutoProcessor.from_pretrained(pictures) for library in (omniform, transformers))
    voice = transformers.WhisperFeatureExtractor(feature_size=8)
    voice.save_pretrained(pictures / "voice")
    config = transformers.AutoConfig.from_pretrained(pictures)
    pairs = {
        "processor": (ours, theirs), "tokenizer": (ours.tokenizer, theirs.tokenizer),
        "images": (ours.image_processor, theirs.image_processor),
        "voice": (omniform.AutoFeatureExtractor.from_pretrained(pictures / "voice"), voice),
        "config": (omniform.AutoConfig.from_pretrained(pictures), config),
        "settings": (lib.GenerationConfig(do_sample=True, top_k=7) for lib in (omniform, transformers)),
    }  # fmt: skip
    for name, (mine, other) in pairs.items():
        assert isinstance(mine, PushToHub)
        told = mine.push_to_hub(f"ann/{name}")
        assert type(told) is type(other.push_to_hub(f"ann/their-{name}"))
        assert online.paths(f"ann/{name}") == online.paths(f"ann/their-{name}")
        assert online.titles(f"ann/{name}") == online.titles(f"ann/their-{name}")
        with online.watch() as log:
            assert mine.push_to_hub(f"ann/{name}").oid == told.oid
        assert not log.count("*/commit/*")
    assert omniform.AutoProcessor.from_pretrained("ann/processor").to_dict() == ours.to_dict()
    assert omniform.AutoImageProcessor.from_pretrained("ann/images") == ours.image_processor
    found = omniform.AutoFeatureExtractor.from_pretrained("ann/voice")
    assert found.to_dict() == pairs["voice"][0].to_dict()
    assert omniform.AutoConfig.from_pretrained("ann/config") == pairs["config"][0]
    assert omniform.GenerationConfig.from_pretrained("ann/settings").top_k == 7
    assert transformers.AutoConfig.from_pretrained("ann/config").to_diff_dict() == config.to_diff_dict()


def test_saved_and_pushed_at_once(online, pictures, tmp_path):
    processor = omniform.AutoProcessor.from_pretrained(pictures)
    things = {
        "processor": processor, "images": processor.image_processor, "config": omniform.LlamaConfig(vocab_size=7),
        "settings": omniform.GenerationConfig(do_sample=True, top_k=7),
    }  # fmt: skip
    for name, thing in things.items():
        thing.save_pretrained(tmp_path / name, push_to_hub=True, commit_message=name, private=True, tags=["x"])
        written = {path.name for path in (tmp_path / name).iterdir()}
        assert written | {".gitattributes"} == set(online.paths(f"ann/{name}")) and "README.md" in written
        assert online.titles(f"ann/{name}")[0] == name and online.repo(f"ann/{name}").settings.private
        for wrong in ({"commit_mesage": "x"}, {"organization": "x"}, {"push_to_hub": False, "reop_id": "x"}):
            with pytest.raises(UnknownArgumentError):
                thing.save_pretrained(tmp_path / "none", **wrong)
        with pytest.raises(InputError, match="repo_id"):
            thing.save_pretrained(tmp_path / "none", push_to_hub=True, repo_id="a/b/c")
        with pytest.raises(RepoError):
            thing.save_pretrained(tmp_path / "none", push_to_hub=True, token=online.read_token, repo_id="ann/no")
    things["settings"].save_pretrained(tmp_path / "more", "other.json", push_to_hub=True)
    assert "other.json" in online.paths("ann/more")


def test_a_processor_takes_the_place_of_older_files(online, pictures):
    old = dict.fromkeys(("preprocessor_config.json", "chat_template.json", "added_tokens.json"), b"{}")
    others = {"model.safetensors": b"kept", "config.json": b"{}"}
    online.upload("ann/x", {**old, "additional_chat_templates/old.jinja": b"x", **others})
    omniform.AutoProcessor.from_pretrained(pictures).push_to_hub("ann/x")
    left = set(online.paths("ann/x"))
    assert not left & {*old, "additional_chat_templates/old.jinja"} and others.keys() <= left


def test_pipelines(online, written, tmp_path):
    pipe = omniform.pipeline("text-generation", str(written), device=-1)
    made = pipe.push_to_hub("ann/pipe", max_shard_size="20KB", commit_message="all of it")
    assert online.titles("ann/pipe") == ["all of it", "initial commit"]
    assert made.oid == online.repo("ann/pipe").head("main")
    assert {"tokenizer.json", "config.json", "model.safetensors.index.json"} <= set(online.paths("ann/pipe"))
    again = omniform.pipeline("text-generation", "ann/pipe", device=-1)
    assert again("ab", max_new_tokens=3, do_sample=False) == pipe("ab", max_new_tokens=3, do_sample=False)
    assert all(torch.equal(a, b) for a, b in zip(pipe.model.parameters(), again.model.parameters(), strict=True))
    pipe.save_pretrained(tmp_path / "whole", push_to_hub=True)
    assert len(online.titles("ann/whole")) == 2
    kept = {path.name for path in (tmp_path / "whole").iterdir()}
    assert kept | {".gitattributes"} == set(online.paths("ann/whole")) and "tokenizer.json" in kept
    (tmp_path / "whole" / "pytorch_model.bin").write_bytes(b"old")
    (tmp_path / "whole" / "notes.txt").write_text("kept")
    pipe.save_pretrained(tmp_path / "whole")
    assert {path.name for path in (tmp_path / "whole").iterdir()} == kept - {"README.md"} | {"notes.txt", "README.md"}
    with pytest.raises(UnknownArgumentError, match="max_shard_size"):
        pipe.push_to_hub("ann/x", max_shard_sise=3)


class Mine(PushToHub):
    """Something of the user's own that saves itself."""

    def save_pretrained(self, save_directory, **kwargs):
        Path(save_directory).mkdir(parents=True)
        (Path(save_directory) / "mine.json").write_text(json.dumps(kwargs))


def test_things_of_the_user_s_own(online):
    Mine().push_to_hub("ann/mine", max_shard_size=5)
    assert online.read("ann/mine", "mine.json") == b'{"max_shard_size": 5}'
    assert online.titles("ann/mine")[0] == "Upload Mine"
    with pytest.raises(NotImplementedError, match="save_pretrained"):
        PushToHub().push_to_hub("ann/none")
