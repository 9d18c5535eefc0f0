"""The Auto classes for inputs: folders of every age and layout give what the reference makes of them."""

from __future__ import annotations

import copy
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import omniform
from inputs import test_tokenizers_folders as folders
from omniform.core.errors import (
    ConfigError,
    InputError,
    OmniformError,
    RepoError,
    UnknownArgumentError,
    UnknownNameError,
)
from omniform.inputs.audio import WhisperFeatureExtractor
from omniform.inputs.images import DetrImageProcessor, ImageProcessor
from omniform.inputs.text.tokenizer import Tokenizer
from reference import transformers

PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40 + 9 * seed, 50, 3), dtype=np.uint8))
    for seed in range(2)
]
WAVE = np.random.default_rng(0).standard_normal(9000).astype(np.float32)
SMALL = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
TEMPLATE = "{% for m in messages %}{% for c in m['content'] %}{{ c['text'] or '<image>' }}{% endfor %}{% endfor %}"

CALLS = {
    "llava": {"images": PICTURES, "text": ["hello <image>", "<image> the fox"], "padding": True},
    "clip": {"images": PICTURES, "text": ["hello", "the fox"], "padding": True},
    "whisper": {"audio": WAVE, "text": "hello"},
}
PREPROCESSORS: dict[str, dict[str, object]] = {
    "llava": {"image_processor_type": "CLIPImageProcessor", **SMALL},
    "clip": {"feature_extractor_type": "CLIPFeatureExtractor", "size": 28, "crop_size": 28},
    "whisper": {"feature_extractor_type": "WhisperFeatureExtractor", "chunk_length": 1},
}
CLASSES = {"llava": "LlavaProcessor", "clip": "CLIPProcessor", "whisper": "WhisperProcessor"}
LLAVA = {"patch_size": 7, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}


def put(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


def old_folder(folder: Path, kind: str) -> Path:
    """The layout of release 4: one file for each part."""
    {"llava": folders.llava, "clip": folders.clip, "whisper": folders.whisper}[kind](folder)
    put(folder, "preprocessor_config.json", {**PREPROCESSORS[kind], "processor_class": CLASSES[kind]})
    if kind == "llava":
        put(folder, "processor_config.json", {**LLAVA, "image_token": "<image>", "processor_class": "LlavaProcessor"})
    return folder


def same_batches(ours, theirs, **call: object) -> None:
    expected, found = theirs(**call, return_tensors="pt"), ours(**call, return_tensors="pt")
    assert list(found) == list(expected)
    for name in expected:
        assert found[name].dtype == expected[name].dtype
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)


# ---- layouts


def drop_nothing(folder: Path) -> None:
    pass


def drop_class_from_preprocessor(folder: Path) -> None:
    file = json.loads((folder / "preprocessor_config.json").read_text())
    del file["processor_class"]
    put(folder, "preprocessor_config.json", file)


def drop_every_class(folder: Path) -> None:
    drop_class_from_preprocessor(folder)
    for name in ("tokenizer_config.json", "processor_config.json"):
        if (folder / name).exists():
            file = json.loads((folder / name).read_text())
            file.pop("processor_class", None)
            put(folder, name, file)


@pytest.mark.parametrize("change", [drop_nothing, drop_class_from_preprocessor, drop_every_class])
@pytest.mark.parametrize("kind", sorted(CALLS))
def test_folders_of_release_4(tmp_path: Path, kind: str, change) -> None:
    folder = old_folder(tmp_path / kind, kind)
    change(folder)
    ours = omniform.AutoProcessor.from_pretrained(folder)
    assert type(ours).__name__ == CLASSES[kind]
    same_batches(ours, transformers.AutoProcessor.from_pretrained(folder), **CALLS[kind])


@pytest.mark.parametrize("kind", sorted(CALLS))
def test_what_is_saved_here_is_read_by_both(tmp_path: Path, kind: str) -> None:
    folder = old_folder(tmp_path / kind, kind)
    theirs = transformers.AutoProcessor.from_pretrained(folder)
    ours = omniform.AutoProcessor.from_pretrained(
        str(folder), **({"chat_template": TEMPLATE} if kind == "llava" else {})
    )
    ours.save_pretrained(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "processor_config.json"} <= names
    assert "preprocessor_config.json" not in names
    for again in (transformers.AutoProcessor, omniform.AutoProcessor):
        same_batches(again.from_pretrained(tmp_path / "saved"), theirs, **CALLS[kind])
    if kind == "llava":
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hello"}]}]
        for auto in (transformers.AutoProcessor, omniform.AutoProcessor):
            assert auto.from_pretrained(tmp_path / "saved").apply_chat_template(chat) == "<image>hello"
    parts = json.loads((tmp_path / "saved" / "processor_config.json").read_text())
    theirs.save_pretrained(tmp_path / "theirs")
    if kind == "whisper":  # whose settings are written as they were read, not filled up with defaults
        assert parts.keys() == {"feature_extractor", "processor_class"}
        return
    assert parts == json.loads((tmp_path / "theirs" / "processor_config.json").read_text())


def test_saving_over_an_older_folder_leaves_nothing_that_contradicts(tmp_path: Path) -> None:
    folder = old_folder(tmp_path / "a", "llava")
    put(folder, "chat_template.json", {"chat_template": "old"})
    put(folder, "special_tokens_map.json", {"pad_token": "<unk>"})
    put(folder, "model.safetensors", "weights")
    ours = omniform.AutoProcessor.from_pretrained(
        folder, chat_template=TEMPLATE, crop_size={"height": 14, "width": 14}, padding_side="right"
    )
    ours.save_pretrained(folder)
    assert (folder / "model.safetensors").read_text() == "weights"
    assert not any((folder / name).exists() for name in ("chat_template.json", "preprocessor_config.json"))
    again = omniform.AutoProcessor.from_pretrained(folder)
    assert again.chat_template == TEMPLATE
    assert again.image_processor.crop_size == {"height": 14, "width": 14}
    same_batches(again, transformers.AutoProcessor.from_pretrained(folder), **CALLS["llava"])
    again.tokenizer.chat_template = again.chat_template = None
    again.save_pretrained(folder)
    assert omniform.AutoProcessor.from_pretrained(folder).chat_template is None


def test_a_save_that_fails_leaves_the_old_files(tmp_path: Path) -> None:
    folder = old_folder(tmp_path / "a", "llava")
    ours = omniform.AutoProcessor.from_pretrained(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    ours.chat_template = {"../../evil": TEMPLATE}
    with pytest.raises(ConfigError, match="file name"):
        ours.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    put(tmp_path, "file", "")
    ours.chat_template = None
    with pytest.raises(RepoError, match="file"):
        ours.save_pretrained(tmp_path / "file")


def test_templates_of_a_processor(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "x"}]
    folder = old_folder(tmp_path / "a", "llava")
    put(folder, "chat_template.jinja", "jinja")
    steps = {
        "jinja": lambda: None,
        "json": lambda: put(folder, "chat_template.json", {"chat_template": "json"}),
        "key": lambda: put(folder, "processor_config.json", {**LLAVA, "chat_template": "key"}),
    }
    for name, change in steps.items():
        change()
        for auto in (omniform.AutoProcessor, transformers.AutoProcessor):
            assert auto.from_pretrained(folder).apply_chat_template(chat) == name
    assert omniform.AutoProcessor.from_pretrained(folder, chat_template="mine").apply_chat_template(chat) == "mine"
    put(folder, "processor_config.json", {**LLAVA, "chat_template": 3})
    with pytest.raises(ConfigError, match="chat_template"):
        omniform.AutoProcessor.from_pretrained(folder)


def test_named_templates_in_files(tmp_path: Path) -> None:
    folder = old_folder(tmp_path / "a", "llava")
    (folder / "additional_chat_templates").mkdir()
    put(folder, "chat_template.jinja", "main")
    put(folder, "additional_chat_templates/tool_use.jinja", "tools")
    chat = [{"role": "user", "content": "x"}]
    for auto in (omniform.AutoProcessor, transformers.AutoProcessor):
        loaded = auto.from_pretrained(folder)
        assert loaded.apply_chat_template(chat) == "main"
        assert loaded.apply_chat_template(chat, chat_template="tool_use") == "tools"


def test_patch_size_from_the_model_where_the_files_are_silent(tmp_path: Path) -> None:
    folder = old_folder(tmp_path / "a", "llava")
    (folder / "processor_config.json").unlink()
    ours = omniform.AutoProcessor.from_pretrained(folder)
    with pytest.raises(ConfigError, match="patch size"):
        ours(images=PICTURES[0], text="<image>")
    config = {"model_type": "llava", "text_config": {"model_type": "llama"}}
    for vision, strategy, count in (
        ({"model_type": "clip_vision_model", "patch_size": 7}, "default", 16),
        ({"patch_size": 7}, "full", 17),
        ({"model_type": "siglip_vision_model", "patch_size": 7}, "full", 16),
    ):
        put(folder, "config.json", {**config, "vision_config": vision, "vision_feature_select_strategy": strategy})
        batch = omniform.AutoProcessor.from_pretrained(folder)(images=PICTURES[0], text="<image>")
        assert batch.spans[0].length == count


# ---- folders with one part only


def test_a_folder_with_one_part_gives_that(tmp_path: Path) -> None:
    text = folders.bert(tmp_path / "bert")
    assert isinstance(omniform.AutoProcessor.from_pretrained(text), Tokenizer)
    for kind in ("vit", "detr"):
        (tmp_path / kind).mkdir()
        put(tmp_path / kind, "config.json", {"model_type": kind})
        put(
            tmp_path / kind, "preprocessor_config.json", {"size": 32} if kind == "vit" else {"max_size": 66, "size": 40}
        )
        ours = omniform.AutoProcessor.from_pretrained(tmp_path / kind)
        theirs = transformers.AutoProcessor.from_pretrained(tmp_path / kind)
        same_batches(ours, theirs, images=PICTURES)
    assert isinstance(ours, DetrImageProcessor)
    boxes = torch.rand(1, 3, 4)
    outputs = omniform.Batch({"logits": torch.randn(1, 3, 5), "pred_boxes": boxes})
    assert len(ours.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(10, 20)])) == 1
    (tmp_path / "sound").mkdir()
    put(tmp_path / "sound", "preprocessor_config.json", PREPROCESSORS["whisper"])
    assert isinstance(omniform.AutoProcessor.from_pretrained(tmp_path / "sound"), WhisperFeatureExtractor)


# ---- the other Auto classes


@pytest.mark.parametrize("kind", sorted(folders.KINDS))
def test_tokenizers(tmp_path: Path, kind: str) -> None:
    folder = folders.KINDS[kind](tmp_path / kind)
    ours, theirs = omniform.AutoTokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for text in folders.TEXTS[:8]:
        assert dict(ours(text)) == dict(theirs(text))
    ours.save_pretrained(tmp_path / "saved")
    assert dict(transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")(text)) == dict(theirs(text))


def test_image_processors_and_feature_extractors_of_every_layout(tmp_path: Path) -> None:
    for kind in ("llava", "clip"):
        old = old_folder(tmp_path / kind, kind)
        transformers.AutoProcessor.from_pretrained(old).save_pretrained(tmp_path / f"new-{kind}")
        for folder in (old, tmp_path / f"new-{kind}"):
            ours = omniform.AutoImageProcessor.from_pretrained(folder, use_fast=False)
            assert isinstance(ours, ImageProcessor)
            theirs = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)
            same_batches(ours, theirs, images=PICTURES)
    old = old_folder(tmp_path / "whisper", "whisper")
    transformers.AutoProcessor.from_pretrained(old).save_pretrained(tmp_path / "new-whisper")
    for folder in (old, tmp_path / "new-whisper"):
        ours = omniform.AutoFeatureExtractor.from_pretrained(folder)
        theirs = transformers.AutoFeatureExtractor.from_pretrained(folder)
        torch.testing.assert_close(
            ours(WAVE, return_tensors="pt").input_features, theirs(WAVE, return_tensors="pt").input_features
        )
    # The name that image processors had in early releases.
    assert isinstance(omniform.AutoFeatureExtractor.from_pretrained(tmp_path / "clip"), ImageProcessor)


def test_saving_a_part(tmp_path: Path) -> None:
    for kind, auto, theirs in (
        ("clip", omniform.AutoImageProcessor, transformers.AutoImageProcessor),
        ("whisper", omniform.AutoFeatureExtractor, transformers.AutoFeatureExtractor),
    ):
        part = auto.from_pretrained(old_folder(tmp_path / kind, kind))
        part.save_pretrained(tmp_path / "saved" / kind)
        assert auto.from_pretrained(tmp_path / "saved" / kind).to_dict() == part.to_dict()
        given = json.loads(theirs.from_pretrained(tmp_path / kind).to_json_string())
        again = json.loads(theirs.from_pretrained(tmp_path / "saved" / kind).to_json_string())
        assert {**again, "processor_class": None} == {**given, "processor_class": None}


# ---- keywords


def test_settings_changed_by_keyword(tmp_path: Path) -> None:
    folder = old_folder(tmp_path / "a", "llava")
    changes = {
        "padding_side": "right",
        "crop_size": {"height": 14, "width": 14},
        "do_normalize": False,
        "patch_size": 2,
    }
    ours = omniform.AutoProcessor.from_pretrained(folder, **changes)
    same_batches(ours, transformers.AutoProcessor.from_pretrained(folder, **changes), **CALLS["llava"])
    assert (ours.patch_size, ours.tokenizer.padding_side, ours.image_processor.do_normalize) == (2, "right", False)
    assert omniform.AutoTokenizer.from_pretrained(folder, pad_token="</s>", use_fast=True).pad_token == "</s>"
    assert omniform.AutoImageProcessor.from_pretrained(folder, size=20).size == {"shortest_edge": 20}
    sound = old_folder(tmp_path / "b", "whisper")
    assert omniform.AutoFeatureExtractor.from_pretrained(sound, feature_size=128).feature_size == 128
    assert omniform.WhisperProcessor.from_pretrained(sound, chunk_length=2).feature_extractor.chunk_length == 2
    german = {"language": "german", "task": "translate"}
    same_batches(
        omniform.AutoProcessor.from_pretrained(sound, **german),
        transformers.AutoProcessor.from_pretrained(sound, **german),
        **CALLS["whisper"],
    )
    assert omniform.AutoProcessor.from_pretrained(tmp_path, subfolder="b", revision="main").tokenizer.name_or_path
    config = omniform.AutoConfig.for_model("llama")
    assert omniform.AutoTokenizer.from_pretrained(folder, config=config).pad_token == "<pad>"


@pytest.mark.parametrize(
    ("auto", "kind", "keywords", "suggested"),
    [
        ("AutoTokenizer", "llava", {"paddding_side": "left"}, "padding_side"),
        ("AutoImageProcessor", "llava", {"do_resise": False}, "do_resize"),
        ("AutoFeatureExtractor", "whisper", {"chunk_lenght": 2}, "chunk_length"),
        ("AutoProcessor", "llava", {"patch_sise": 2}, "patch_size"),
        ("AutoProcessor", "whisper", {"patch_size": 2}, "chunk"),
        ("AutoProcessor", "clip", {"revison": "main"}, "revision"),
    ],
)
def test_unknown_keywords(tmp_path: Path, auto: str, kind: str, keywords, suggested: str) -> None:
    folder = old_folder(tmp_path / kind, kind)
    with pytest.raises(UnknownArgumentError, match=suggested if suggested != "chunk" else "patch_size"):
        getattr(omniform, auto).from_pretrained(folder, **keywords)


# ---- bad folders

AUTOS = ("AutoTokenizer", "AutoImageProcessor", "AutoFeatureExtractor", "AutoProcessor")


@pytest.mark.parametrize("auto", AUTOS)
def test_nothing_there(tmp_path: Path, auto: str) -> None:
    load = getattr(omniform, auto).from_pretrained
    with pytest.raises(RepoError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(RepoError, match=r"nobody/nothing: .*(cached|repository)"):
        load("nobody/nothing")
    with pytest.raises(RepoError, match="an empty folder"):
        load(tmp_path)
    put(tmp_path, "README.md", "")
    with pytest.raises(RepoError, match=r"expected .*json.*found README.md"):
        load(tmp_path)
    with pytest.raises(RepoError, match=r"expected .*json.*found README.md"):
        load(tmp_path, trust_remote_code=True)  # there is no code, so there is none to trust
    with pytest.raises(OmniformError, match="from_pretrained"):
        getattr(omniform, auto)()


@pytest.mark.parametrize(
    ("name", "content", "error", "said"),
    [
        ("processor_config.json", "{", ConfigError, "not JSON"),
        ("processor_config.json", "[]", ConfigError, "no JSON object"),
        ("processor_config.json", {"processor_class": "LavaProcessor"}, UnknownNameError, "LlavaProcessor"),
        ("processor_config.json", {"processor_class": ["x"]}, UnknownNameError, "processor"),
        ("processor_config.json", {**LLAVA, "patch_size": "seven"}, ConfigError, "patch_size"),
        ("processor_config.json", {**LLAVA, "patch_size": 0}, ConfigError, "patch_size"),
        ("processor_config.json", {**LLAVA, "vision_feature_select_strategy": "best"}, ConfigError, "best"),
        ("processor_config.json", {**LLAVA, "num_additional_image_tokens": -1}, ConfigError, "num_additional"),
        ("processor_config.json", {**LLAVA, "image_token": 3}, ConfigError, "image_token"),
        ("processor_config.json", {**LLAVA, "image_processor": 3}, ConfigError, "image_processor"),
        ("preprocessor_config.json", "nonsense", ConfigError, "not JSON"),
        ("preprocessor_config.json", {"image_processor_type": "CLIPImagProcesor"}, UnknownNameError, "CLIPImage"),
        ("preprocessor_config.json", {"crop_size": "large"}, ConfigError, "crop_size"),
        ("tokenizer_config.json", "{", ConfigError, "not JSON"),
        ("tokenizer.json", "{}", ConfigError, "no tokenizer"),
        ("config.json", "{", ConfigError, "not JSON"),
        ("chat_template.json", "{", ConfigError, "not JSON"),
        ("processor_config.json", None, None, None),
        ("preprocessor_config.json", None, RepoError, "no image processor"),
        ("tokenizer.json", None, RepoError, "no tokenizer.*tokenizer_config.json"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: object, error: type[Exception] | None, said: str) -> None:
    folder = old_folder(tmp_path / "a", "llava")
    put(folder, name, "" if content is None else content)
    if content is None:
        (folder / name).unlink()
    if error is None:
        omniform.AutoProcessor.from_pretrained(folder)
        return
    with pytest.raises(error, match=said):
        omniform.AutoProcessor.from_pretrained(folder)


JUNK = [None, True, -1, 0, 3, 1e308, float("nan"), "", "x", [], [1], {}, {"a": 1}, [[]], "<image><image>", 2**70]


def test_mutated_files_give_a_processor_or_a_typed_error(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    omniform.AutoProcessor.from_pretrained(old_folder(tmp_path / "old", "llava")).save_pretrained(folder)
    put(folder, "config.json", {"model_type": "llava", "vision_config": {"patch_size": 7}})
    names = ("processor_config.json", "tokenizer_config.json", "config.json")
    files = {name: json.loads((folder / name).read_text()) for name in names}
    chance = random.Random(0)
    refused = 0
    for _ in range(150):
        name = chance.choice(names)
        changed = copy.deepcopy(files[name])
        target = changed
        key = chance.choice([*target, "chat_template", "processor_class", "tokenizer_class", "feature_extractor"])
        if isinstance(target.get(key), dict) and target[key] and chance.random() < 0.7:
            target = target[key]
            key = chance.choice(list(target))
        target[key] = chance.choice(JUNK)
        put(folder, name, changed)
        try:
            ours = omniform.AutoProcessor.from_pretrained(folder)
            if isinstance(ours, omniform.LlavaProcessor):
                ours(images=PICTURES[:1], text="<image> a")
        except OmniformError:
            refused += 1
        put(folder, name, files[name])
    assert 20 < refused < 130


def test_trust_without_code_changes_nothing(tmp_path: Path) -> None:
    folder = old_folder(tmp_path, "llava")
    for auto in (omniform.AutoProcessor, omniform.AutoTokenizer, omniform.AutoImageProcessor):
        auto.from_pretrained(folder, trust_remote_code=True)
    put(folder, "config.json", {**json.loads((folder / "config.json").read_text()), "auto_map": {"AutoModel": "a.B"}})
    omniform.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)  # code of the model's only


@pytest.mark.parametrize("odd", [5, 1.5, b"x", [], {"a": 1}, object(), torch.tensor([1, 2]), np.array(["x"]), "../up"])
def test_odd_places_and_switches(tmp_path: Path, odd: object) -> None:
    folder = old_folder(tmp_path, "llava")
    for auto in (omniform.AutoProcessor, omniform.AutoTokenizer, omniform.AutoImageProcessor, omniform.AutoConfig):
        with pytest.raises(OmniformError, match="subfolder"):
            auto.from_pretrained(folder, subfolder=odd)
        auto.from_pretrained(folder, subfolder=None)
    if isinstance(odd, torch.Tensor):
        with pytest.raises(InputError, match="trust_remote_code"):
            omniform.AutoTokenizer.from_pretrained(folder, trust_remote_code=odd)


def test_code_that_a_folder_names_is_neither_imported_nor_run(tmp_path: Path) -> None:
    folder = old_folder(tmp_path / "a", "llava")
    put(folder, "evil.py", "raise SystemExit('imported')")
    named = {"AutoProcessor": "evil.Evil", "AutoImageProcessor": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
    for name in ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json", "config.json"):
        put(folder, name, {**json.loads((folder / name).read_text()), "auto_map": named})
        omniform.AutoProcessor.from_pretrained(folder)
    same_batches(
        omniform.AutoProcessor.from_pretrained(folder),
        omniform.AutoProcessor.from_pretrained(old_folder(tmp_path / "b", "llava")),
        **CALLS["llava"],
    )


# ---- the Hub's cache


def test_a_cached_repository_is_read_offline(tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "models--some--llava"
    snapshot = cache / "snapshots" / ("0" * 40)
    old_folder(tmp_path / "a", "llava")
    put(tmp_path / "a", "chat_template.jinja", "main")
    shutil.copytree(tmp_path / "a", snapshot)
    (cache / "refs").mkdir()
    put(cache / "refs", "main", "0" * 40)
    ours = omniform.AutoProcessor.from_pretrained("some/llava", cache_dir=tmp_path / "cache", local_files_only=True)
    same_batches(ours, omniform.AutoProcessor.from_pretrained(tmp_path / "a"), **CALLS["llava"])
    assert ours.chat_template == "main"
    with pytest.raises(RepoError, match="some/whisper"):
        omniform.AutoProcessor.from_pretrained("some/whisper", cache_dir=tmp_path / "cache", local_files_only=True)
