"""Tokenizers, image processors and processors that a checkpoint brings, for omniform and for transformers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from code_folders import home, put  # noqa: F401

from omniform import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, AutoTokenizer
from omniform.core.errors import TrustError
from reference import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))
from tiny import word_pieces

pytestmark = pytest.mark.usefixtures("home")

TOKENIZER = """
import json, os
from omniform import PreTrainedTokenizer

class CharTokenizer(PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "chars.json"}

    def __init__(self, vocab_file, **kwargs):
        with open(vocab_file) as file:
            self.ids = json.load(file)
        self.chars = {index: char for char, index in self.ids.items()}
        super().__init__(**kwargs)

    @property
    def vocab_size(self):
        return len(self.ids)

    def get_vocab(self):
        return dict(self.ids)

    def _tokenize(self, text):
        return list(text)

    def _convert_token_to_id(self, token):
        return self.ids.get(token, 0)

    def _convert_id_to_token(self, index):
        return self.chars[index]

    def save_vocabulary(self, save_directory, filename_prefix=None):
        path = os.path.join(save_directory, "chars.json")
        with open(path, "w") as file:
            json.dump(self.ids, file)
        return (path,)
"""

IMAGES = """
from transformers import BaseImageProcessor, BatchFeature

class Mine(BaseImageProcessor):
    model_input_names = ["pixel_values"]

    def __init__(self, k=2, **kwargs):
        super().__init__(**kwargs)
        self.k = k

    def preprocess(self, images, **kwargs):
        return BatchFeature({"pixel_values": [self.k]})
"""

SOUNDS = """
from transformers import BatchFeature, FeatureExtractionMixin

class Mine(FeatureExtractionMixin):
    def __call__(self, sound):
        return BatchFeature({"input_features": sound})
"""

PROCESSOR = """
from transformers import ProcessorMixin

class Both(ProcessorMixin):
    def __init__(self, image_processor=None, tokenizer=None, **kwargs):
        super().__init__(image_processor, tokenizer, **kwargs)

    def __call__(self, text, images):
        return {**self.tokenizer(text), **self.image_processor(images)}
"""


def chars(folder: Path, library: str, named: object) -> Path:
    config = {"tokenizer_class": "CharTokenizer", "unk_token": "<unk>", "auto_map": named}
    return put(
        folder,
        {
            "tokenization_char.py": TOKENIZER.replace("from omniform", f"from {library}"),
            "chars.json": json.dumps({"<unk>": 0, "a": 1, "b": 2}),
            "tokenizer_config.json": json.dumps(config),
            "config.json": json.dumps({"model_type": "mine"}),
        },
    )


@pytest.mark.parametrize("library", ["omniform", "transformers"])
@pytest.mark.parametrize(
    "named",
    [
        {"AutoTokenizer": ["tokenization_char.CharTokenizer", None]},
        {"AutoTokenizer": "tokenization_char.CharTokenizer"},
        {"AutoTokenizer": ["slow.Gone", "tokenization_char.CharTokenizer"]},  # the fast one is preferred
        ["tokenization_char.CharTokenizer", None],  # an older layout
    ],
    ids=str,
)
def test_a_tokenizer_in_python(tmp_path: Path, library: str, named: object) -> None:
    folder = chars(tmp_path / "chars", library, named)
    for auto in (AutoTokenizer, AutoProcessor):
        with pytest.raises(TrustError, match=r"tokenization_char\.py: CharTokenizer.*trust_remote_code=True"):
            auto.from_pretrained(folder)
        tokenizer = auto.from_pretrained(folder, trust_remote_code=True)
        assert tokenizer("abx")["input_ids"] == [1, 2, 0] and type(tokenizer).__name__ == "CharTokenizer"
        assert isinstance(tokenizer, transformers.PreTrainedTokenizerBase) is (library == "transformers")
    if library == "transformers" and isinstance(named, list):  # it reads the older layout, and cannot save it again
        return
    tokenizer.save_pretrained(tmp_path / "out")
    assert (tmp_path / "out/tokenization_char.py").is_file()
    again = AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert again("ab")["input_ids"] == [1, 2] and type(again).__name__ == "CharTokenizer"


def images(folder: Path, **more: str) -> Path:
    said = {"image_processor_type": "Mine", "k": 5, "auto_map": {"AutoImageProcessor": "images.Mine"}}
    files = {"images.py": IMAGES, "preprocessor_config.json": json.dumps(said)}
    return put(folder, {**files, "config.json": json.dumps({"model_type": "mine"}), **more})


def test_an_image_processor_for_transformers(tmp_path: Path) -> None:
    folder = images(tmp_path / "images")
    for auto in (AutoImageProcessor, AutoProcessor):
        with pytest.raises(TrustError, match=r"images\.py: Mine"):
            auto.from_pretrained(folder)
        assert auto.from_pretrained(folder, trust_remote_code=True)([1])["pixel_values"] == [5]
    assert AutoImageProcessor.from_pretrained(folder, trust_remote_code=True, k=7)([1])["pixel_values"] == [7]


def test_a_feature_extractor_for_transformers(tmp_path: Path) -> None:
    said = {"feature_extractor_type": "Mine", "auto_map": {"AutoFeatureExtractor": "sounds.Mine"}}
    folder = put(tmp_path / "sounds", {"sounds.py": SOUNDS, "preprocessor_config.json": json.dumps(said)})
    with pytest.raises(TrustError, match=r"sounds\.py: Mine"):
        AutoFeatureExtractor.from_pretrained(folder)
    assert AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)([1, 2])["input_features"] == [1, 2]


def test_a_processor_for_transformers_and_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own library would ask at the terminal whether the parts' code may run, or run it unseen."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("nobody is asked"))
    said = {"processor_class": "Both", "auto_map": {"AutoProcessor": "both.Both"}}
    more = {"both.py": PROCESSOR, "processor_config.json": json.dumps(said)}
    folder = images(tmp_path / "both", **more, **{"config.json": json.dumps({"model_type": "bert"})})
    word_pieces().save_pretrained(folder)
    with pytest.raises(TrustError, match=r"both\.py: Both"):
        AutoProcessor.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    assert isinstance(processor, transformers.ProcessorMixin)
    found = processor("the cat", [1])
    assert found["pixel_values"] == [5] and found["input_ids"] == word_pieces()("the cat")["input_ids"]
