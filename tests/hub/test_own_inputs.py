"""Readers of inputs of the user's own: as over the reference's bases, and registered."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from own_readers import readers

import omniform
from omniform import AutoConfig, AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, AutoTokenizer
from omniform.core.errors import ConfigError, InputError, RepoError, UnknownArgumentError, UnknownNameError
from omniform.hub import own
from omniform.models import registry
from reference import transformers

sys.path.insert(0, str(Path(__file__).parent.parent / "inputs"))

import test_tokenizers_folders as folders

THEIRS, OURS = readers(transformers), readers(omniform)
PICTURE = (np.random.RandomState(0).rand(5, 9, 3) * 255).astype(np.uint8)
WAVES = [np.arange(3.0), np.arange(5.0)]
TEXTS = ["the cat <image>", "a"]


@pytest.fixture
def registries(monkeypatch):
    monkeypatch.setattr(registry, "_CONFIGS", {})
    monkeypatch.setattr(own, "_REGISTERED", {})
    AutoConfig.register("own-read", OURS.Config)


@pytest.fixture
def words(tmp_path):
    folder = tmp_path / "words"
    folder.mkdir()
    folders.bert(folder)
    return folder


def test_pictures_and_sounds_as_in_the_reference(tmp_path):
    for kind, file, given in (("Pictures", "pixel_values", [PICTURE, PICTURE]), ("Sounds", "input_values", WAVES)):
        theirs, ours = vars(THEIRS)[kind](), vars(OURS)[kind]()
        for how in ("pt", "np"):
            one, two = (reader(given, return_tensors=how) for reader in (theirs, ours))
            assert list(one) == list(two) and type(one[file]) is type(two[file]) and one[file].dtype == two[file].dtype
            assert all(np.array_equal(np.asarray(one[name]), np.asarray(two[name])) for name in one)
        assert ours(given[0])[file] is not None and two.data is two
        theirs.save_pretrained(tmp_path / f"theirs-{kind}")
        ours.save_pretrained(tmp_path / f"ours-{kind}")
        read = [(tmp_path / f"{side}-{kind}" / "preprocessor_config.json").read_bytes() for side in ("theirs", "ours")]
        assert read[0] == read[1]
        for folder in (f"theirs-{kind}", f"ours-{kind}"):
            again = [vars(side)[kind].from_pretrained(tmp_path / folder) for side in (THEIRS, OURS)]
            assert again[0].to_dict() == again[1].to_dict() == ours.to_dict()
        assert type(ours).from_json_file(tmp_path / folder / "preprocessor_config.json").to_dict() == ours.to_dict()


def test_settings_are_changed_at_load(tmp_path):
    OURS.Pictures(factor=0.5).save_pretrained(tmp_path)
    found = OURS.Pictures.from_pretrained(tmp_path, names=["x"], size={"height": 2, "width": 2})
    assert (found.factor, found.names, found.size["width"]) == (0.5, ["x"], 2)
    assert found(PICTURE, return_tensors="pt")["pixel_values"].shape == (1, 3, 2, 2)
    with pytest.raises(UnknownArgumentError, match="factor"):
        OURS.Pictures.from_pretrained(tmp_path, facto=2)
    found, left = OURS.Pictures.from_pretrained(tmp_path, facto=2, return_unused_kwargs=True)
    assert left == {"facto": 2}
    with pytest.raises(RepoError, match=r"preprocessor_config\.json"):
        OURS.Pictures.from_pretrained(tmp_path.parent)


def test_registered_with_the_auto_classes(registries, tmp_path, words):
    OURS.Config(width=2).save_pretrained(words)
    AutoImageProcessor.register(OURS.Config, slow_image_processor_class=OURS.Pictures)
    AutoFeatureExtractor.register(OURS.Config, OURS.Sounds)
    AutoProcessor.register(OURS.Config, OURS.Both)
    OURS.Pictures(factor=0.5).save_pretrained(tmp_path / "p")  # found by the name in its file
    found = AutoImageProcessor.from_pretrained(tmp_path / "p", names=["n"])
    assert type(found) is OURS.Pictures and found.factor == 0.5 and found.names == ["n"]
    assert type(AutoProcessor.from_pretrained(tmp_path / "p")) is OURS.Pictures
    OURS.Sounds(gain=3.0).save_pretrained(tmp_path / "s")
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "s").gain == 3.0
    file = tmp_path / "p" / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    del settings["image_processor_type"]
    file.write_text(json.dumps(settings))
    OURS.Config().save_pretrained(tmp_path / "p")  # found by the config beside it
    assert type(AutoImageProcessor.from_pretrained(tmp_path / "p")) is OURS.Pictures
    OURS.Both(OURS.Pictures(), AutoTokenizer.from_pretrained(words)).save_pretrained(words)
    both = AutoProcessor.from_pretrained(words, mark="<x>")
    assert type(both) is OURS.Both and type(both.image_processor) is OURS.Pictures and both.mark == "<x>"
    own._REGISTERED.clear()
    for auto in (AutoProcessor, AutoImageProcessor):
        with pytest.raises(UnknownNameError, match=r"Both|Pictures"):
            auto.from_pretrained(words)


def test_processors_as_in_the_reference(registries, tmp_path, words):
    AutoImageProcessor.register(OURS.Config, OURS.Pictures)
    made = []
    for side, lib in ((THEIRS, transformers), (OURS, omniform)):
        made.append(side.Both(side.Pictures(), lib.AutoTokenizer.from_pretrained(words), mark="<image>"))
    one, two = (p(images=[PICTURE], text=TEXTS, return_tensors="pt") for p in made)
    assert list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)
    assert list(made[0].model_input_names) == made[1].model_input_names
    for side, processor in zip(("theirs", "ours"), made, strict=True):
        processor.save_pretrained(tmp_path / side)
    files = [(tmp_path / side / "processor_config.json").read_bytes() for side in ("theirs", "ours")]
    assert files[0] == files[1]
    for side in ("theirs", "ours"):
        again = OURS.Both.from_pretrained(tmp_path / side)
        three = again(images=[PICTURE], text=TEXTS, return_tensors="pt")
        assert all(torch.equal(one[name], three[name]) for name in one)
    assert isinstance(two, omniform.BatchFeature) and isinstance(made[1], omniform.ProcessorMixin)
    assert made[1].batch_decode(two["input_ids"], skip_special_tokens=True)[1] == "a"


def test_chats_templates_and_default_calls(registries, tmp_path, words):
    class Plain(omniform.ProcessorMixin):
        def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
            super().__init__(image_processor, tokenizer, chat_template=chat_template)

    AutoImageProcessor.register(None, OURS.Pictures)
    template = "{% for m in messages %}{% for p in m.content %}{{ p.text or 'the' }} {% endfor %}{% endfor %}"
    tokenizer = AutoTokenizer.from_pretrained(words)
    processor = Plain(OURS.Pictures(), tokenizer, chat_template=template)
    processor.save_pretrained(tmp_path / "plain")
    processor = Plain.from_pretrained(tmp_path / "plain")
    assert processor.chat_template == template
    messages = [{"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "cat"}]}]
    assert processor.apply_chat_template(messages) == "the cat "
    batch = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 4, 6) and batch["input_ids"].shape[0] == 1
    whole = processor(text=TEXTS, images=PICTURE, padding=True, images_kwargs={"factor": 0.5}, return_tensors="pt")
    assert set(whole) == {"input_ids", "token_type_ids", "attention_mask", "pixel_values"}
    merged = processor._merge_kwargs(
        type("K", (omniform.ProcessingKwargs,), {"_defaults": {"text_kwargs": {"padding": True, "stride": 1}}}),
        {"padding": False}, stride=3, return_tensors="pt",
    )  # fmt: skip
    assert merged["text_kwargs"] == {"padding": False, "stride": 3, "return_tensors": "pt"}
    assert merged["images_kwargs"] == {"return_tensors": "pt"}
    for wrong in ({"paddin": True}, {"padding": True, "text_kwargs": {"padding": False}}):
        with pytest.raises((UnknownArgumentError, InputError), match="padding"):
            processor(text=TEXTS, **wrong)
    for nothing in ({}, {"audio": WAVES}):
        with pytest.raises(InputError, match="Plain"):
            processor(**nothing)


def test_older_spellings_and_several_parts(registries, tmp_path, words):
    class Two(omniform.ProcessorMixin):
        attributes = ("feature_extractor", "tokenizer", "further_tokenizer", "further_feature_extractor")

        def __init__(self, feature_extractor, tokenizer, further_tokenizer, further_feature_extractor):
            super().__init__(feature_extractor, tokenizer, further_tokenizer, further_feature_extractor)

    own.register("AutoFeatureExtractor", None, OURS.Sounds, omniform.FeatureExtractionMixin)
    tokenizer = AutoTokenizer.from_pretrained(words)
    Two(OURS.Sounds(gain=3), tokenizer, tokenizer, OURS.Sounds(gain=4)).save_pretrained(tmp_path / "two")
    two = Two.from_pretrained(tmp_path / "two")
    assert (two.feature_extractor.gain, two.further_feature_extractor.gain) == (3, 4)
    assert two.further_tokenizer("the cat")["input_ids"] == tokenizer("the cat")["input_ids"]
    OURS.Heard(OURS.Sounds(gain=5), tokenizer).save_pretrained(tmp_path / "heard")
    assert OURS.Heard.from_pretrained(tmp_path / "heard").feature_extractor.gain == 5
    assert OURS.Heard.get_attributes() == ["feature_extractor", "tokenizer"]


def test_bad_input(registries, tmp_path, words):
    tokenizer = AutoTokenizer.from_pretrained(words)
    for parts, said in (
        ((OURS.Pictures(),), r"(?s)tokenizer.*missing|missing.*tokenizer"),
        ((tokenizer, OURS.Pictures()), r"image_processor"),
        ((OURS.Pictures(), OURS.Pictures()), r"tokenizer"),
        ((OURS.Sounds(), tokenizer), r"image_processor"),
    ):
        with pytest.raises(InputError, match=said):
            OURS.Both(*parts)
    with pytest.raises(UnknownArgumentError, match="strange"):
        omniform.ProcessorMixin.__init__(OURS.Both.__new__(OURS.Both), OURS.Pictures(), tokenizer, strange=1)
    with pytest.raises(RepoError, match=r"(?s)image_processor of a Both is missing.*preprocessor_config"):
        OURS.Both.from_pretrained(words)

    class Lossy(OURS.Pictures):
        def __init__(self, factor=1.0, **kwargs):
            super().__init__(**kwargs)
            self.half = factor / 2
            self.factor = 2 * factor

    class Unkept(OURS.Both):
        def __init__(self, image_processor=None, tokenizer=None, width=3):
            super().__init__(image_processor, tokenizer)

    class Odd(OURS.Sounds):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.thing = object()

    for saved, said in ((Lossy(), "factor"), (Unkept(OURS.Pictures(), tokenizer), "width"), (Odd(), "JSON")):
        with pytest.raises(ConfigError, match=said):
            saved.save_pretrained(tmp_path / "lossy")
        assert not (tmp_path / "lossy").exists()
    for auto, wrong in ((AutoImageProcessor, OURS.Sounds), (AutoFeatureExtractor, OURS.Config), (AutoProcessor, int)):
        with pytest.raises(InputError, match=f"{auto.__name__}.register"):
            auto.register(OURS.Config, wrong)
    AutoProcessor.register(OURS.Config, OURS.Both)
    with pytest.raises(ConfigError, match="exist_ok"):
        AutoProcessor.register(OURS.Config, OURS.Heard)
    AutoProcessor.register(OURS.Config, OURS.Heard, exist_ok=True)


def test_ours_are_instances_and_bases(words, tmp_path, caplog):
    whisper = omniform.inputs.audio.WhisperFeatureExtractor
    assert issubclass(whisper, omniform.SequenceFeatureExtractor)
    assert issubclass(omniform.CLIPProcessor, omniform.ProcessorMixin)
    assert not issubclass(omniform.CLIPProcessor, OURS.Both)
    transformers.CLIPImageProcessor(size={"shortest_edge": 8}, crop_size=8).save_pretrained(tmp_path)
    made = AutoImageProcessor.from_pretrained
    assert isinstance(made(tmp_path), omniform.BaseImageProcessor)
    with caplog.at_level(logging.WARNING):
        assert type(made(tmp_path)).from_pretrained(tmp_path) == made(tmp_path)
    assert not caplog.records
    whisper({"feature_size": 40}).save_pretrained(tmp_path / "w")
    assert whisper.from_pretrained(tmp_path / "w").feature_size == 40

    class Mine(whisper):
        def __call__(self, audio, **kwargs):
            return {"mine": len(audio)}

    assert Mine.from_pretrained(tmp_path / "w")([1, 2]) == {"mine": 2}
