"""LayoutLMv3's tokenizer, image processor and processor against the reference's: words with boxes and labels."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_processors import compare, same
from test_tokenizers_folders import WORDS, as_bytes, byte_alphabet, grow, write

import omniform
from omniform.core.errors import ConfigError, InputError, MissingPartError, UnknownArgumentError
from reference import transformers

PAGES = [
    Image.fromarray(np.random.default_rng(n).integers(0, 256, (40 + 17 * n, 50, 3), dtype=np.uint8)) for n in range(2)
]
TEXTS = [["hello", "worlds", "fox"], ["the", "12,50", "unbelievable!"]]
BOXES = [[[n, 10 * n, 900 + n, 20 + 10 * n] for n in range(3)], [[7, 8, 9, n] for n in range(3)]]
LABELS = [[1, 2, 3], [0, 5, 4]]


def layout(folder: Path, **config: object) -> Path:
    vocab, merges = grow(byte_alphabet(), [as_bytes(f" {word}") for word in WORDS])
    for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>"):
        vocab[token] = len(vocab)
    text = "#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in merges)
    values = {"tokenizer_class": "LayoutLMv3Tokenizer", "model_max_length": 64, **config}
    return write(folder, vocab=vocab, merges=text, tokenizer_config=values, config={"model_type": "layoutlmv3"})


OWN = {
    "only_label_first_subword": False, "cls_token_box": [1, 2, 3, 4], "sep_token_box": [1000] * 4,
    "pad_token_box": [5, 5, 5, 5], "pad_token_label": -7,
}  # fmt: skip


@pytest.fixture(scope="module", params=[{}, OWN], ids=["usual", "own"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = layout(tmp_path_factory.mktemp("layout"), **request.param)
    return tuple(lib.AutoTokenizer.from_pretrained(folder) for lib in (omniform, transformers))


CALLS = [
    {"text": TEXTS[0], "boxes": BOXES[0]},
    {"text": TEXTS[0], "boxes": BOXES[0], "word_labels": LABELS[0], "return_tensors": "pt"},
    {"text": TEXTS, "boxes": BOXES, "word_labels": LABELS, "padding": True, "return_tensors": "pt"},
    {"text": TEXTS, "boxes": BOXES, "padding": "max_length", "max_length": 40, "padding_side": "left"},
    {"text": TEXTS, "boxes": BOXES, "word_labels": LABELS, "truncation": True, "max_length": 6},
    {"text": "the world?", "text_pair": TEXTS[1], "boxes": BOXES[1]},
    {"text": ["a fox", "hello hello"], "text_pair": TEXTS, "boxes": BOXES, "padding": True, "return_tensors": "np",
        "return_token_type_ids": True},
    {"text": ["a fox", "hello hello"], "text_pair": TEXTS, "boxes": BOXES, "word_labels": LABELS},
    {"text": TEXTS, "boxes": BOXES, "word_labels": LABELS, "truncation": True, "max_length": 7, "stride": 2,
        "return_overflowing_tokens": True, "return_offsets_mapping": True},
    {"text": TEXTS, "boxes": BOXES, "add_special_tokens": False, "return_special_tokens_mask": True,
        "return_length": True},
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS, ids=lambda call: ",".join(call))
def test_words_and_boxes(pair, call):
    compare(pair, **call)


def test_padding_later_and_saving(pair, tmp_path):
    ours, theirs = pair
    rows = [ours(words, boxes=boxes, word_labels=labels) for words, boxes, labels in zip(TEXTS, BOXES, LABELS,
        strict=True)]  # fmt: skip
    whole = ours(TEXTS, boxes=BOXES, word_labels=LABELS, padding=True, return_tensors="pt")
    again = ours.pad(rows, return_tensors="pt")
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    ours.save_pretrained(tmp_path)
    read = transformers.AutoTokenizer.from_pretrained(tmp_path)
    compare((ours, read), **CALLS[2])
    assert ours.encode(TEXTS[0], boxes=BOXES[0]) == theirs.encode(TEXTS[0], boxes=BOXES[0])
    assert type(ours).__name__ == "LayoutLMv3Tokenizer" and omniform.LayoutLMv3TokenizerFast is type(ours)
    tensors = ours(TEXTS[0], boxes=torch.tensor(BOXES[0]), word_labels=np.array(LABELS[0]))
    assert tensors["bbox"] == rows[0]["bbox"] and tensors["labels"] == rows[0]["labels"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"text": TEXTS[0]}, "boxes, page 0"),
        ({"text": TEXTS[0], "boxes": BOXES[0][:2]}, "3 words"),
        ({"text": TEXTS, "boxes": BOXES[:1]}, "boxes, page 1"),
        ({"text": TEXTS, "boxes": [*BOXES, BOXES[0]]}, "other pages"),
        ({"text": TEXTS[0], "boxes": [[1, 2, 3]] * 3}, "4 numbers"),
        ({"text": TEXTS[0], "boxes": BOXES[0], "word_labels": [1]}, "word_labels"),
        ({"text": "a text", "boxes": BOXES[0]}, "words of pages"),
        ({"text": ["one"], "text_pair": TEXTS, "boxes": BOXES}, "one question"),
        ({"text": TEXTS[0], "boxes": 3}, "boxes"),
    ],
)
def test_words_that_do_not_fit(pair, call, words):
    with pytest.raises(InputError, match=words):
        pair[0](**call)


def processors(folder: Path, **images: object):
    tokenizer = transformers.AutoTokenizer.from_pretrained(layout(folder / "tokenizer"))
    made = transformers.LayoutLMv3ImageProcessor(size={"height": 20, "width": 24}, **images)
    transformers.LayoutLMv3Processor(made, tokenizer).save_pretrained(folder / "saved")
    return tuple(lib.AutoProcessor.from_pretrained(folder / "saved") for lib in (omniform, transformers))


GIVEN = {"images": PAGES, "text": TEXTS, "boxes": BOXES}


@pytest.mark.parametrize(
    "call",
    [
        {**GIVEN, "word_labels": LABELS, "padding": True, "return_tensors": "pt"},
        {**GIVEN, "text": ["a fox", "the"], "text_pair": TEXTS, "padding": True, "return_tensors": "pt"},
        {"images": PAGES[0], "text": TEXTS[0], "boxes": BOXES[0]},
        {**GIVEN, "truncation": True, "max_length": 7, "stride": 1, "return_overflowing_tokens": True},
    ],
    ids=lambda call: ",".join(call),
)
def test_pages_with_their_words(tmp_path, call):
    compare(processors(tmp_path, apply_ocr=False), **call)


def test_pages_that_are_read(tmp_path, monkeypatch):
    """Tesseract is played: both ask it the same and make the same of what it says."""
    data = {"text": ["", "hello", " ", "fox"], "left": [0, 3, 4, 11], "top": [0, 5, 1, 7], "width": [50, 20, 1, 30],
        "height": [40, 9, 1, 8]}  # fmt: skip
    asked = []

    def image_to_data(picture, lang, output_type, config):
        asked.append((np.asarray(picture).tobytes(), lang, output_type, config))
        return data

    ours, theirs = processors(tmp_path, ocr_lang="deu", tesseract_config="--psm 6")
    with pytest.raises(InputError, match="apply_ocr=False"):
        ours(PAGES, text=TEXTS, boxes=BOXES)
    monkeypatch.setattr("omniform.inputs.images.pages.find_spec", lambda name: None)
    with pytest.raises(MissingPartError, match="pip install pytesseract"):
        ours(PAGES)
    monkeypatch.setattr("omniform.inputs.images.pages.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "pytesseract", SimpleNamespace(image_to_data=image_to_data))
    module = sys.modules[type(theirs.image_processor).__module__]
    monkeypatch.setattr(module, "pytesseract", sys.modules["pytesseract"], raising=False)
    monkeypatch.setattr(module, "requires_backends", lambda *_: None)
    for call in ({"images": PAGES, "padding": True, "return_tensors": "pt"},
                 {"images": PAGES[0], "text": "a fox?", "return_tensors": "pt"}):  # fmt: skip
        asked.clear()
        compare((ours, theirs), **call)
        half = len(asked) // 2
        assert asked[:half] == asked[half:] and half
    found = ours.image_processor(PAGES, return_tensors="pt")
    expected = theirs.image_processor(PAGES, return_tensors="pt")
    same(found["words"], expected["words"])
    same(found["boxes"], expected["boxes"])


def test_wrong_settings(tmp_path):
    with pytest.raises(ConfigError, match="cls_token_box"):
        omniform.AutoTokenizer.from_pretrained(layout(tmp_path / "box", cls_token_box=[1, 2]))
    ours, _ = processors(tmp_path, apply_ocr=False)
    with pytest.raises(UnknownArgumentError, match="padding"):
        ours(**GIVEN, paddding=True)
