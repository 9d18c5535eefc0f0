"""The processors of BLIP, BLIP-2 and InstructBLIP against the reference's."""

from __future__ import annotations

import json

import pytest
import torch
from test_processors import ARRAYS, PICTURES, compare, same
from test_tokenizers_folders import bert, gpt2, llava

import omniform
from omniform.core.errors import ConfigError, InputError, UnknownArgumentError
from reference import transformers

SMALL = {"size": {"height": 24, "width": 32}}
TEXTS = ["hello the fox", "world", "a lazy dog"]


def save(folder, kind, count=4, text=gpt2):
    images = transformers.BlipImageProcessor(**SMALL)
    text = bert if kind == "Blip" else text
    tokenizer = transformers.AutoTokenizer.from_pretrained(text(folder / "tokenizer"))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or "<|endoftext|>"
    more = {} if kind == "Blip" else {"num_query_tokens": count}
    if kind == "InstructBlip":
        more["qformer_tokenizer"] = transformers.AutoTokenizer.from_pretrained(bert(folder / "queries"))
    getattr(transformers, f"{kind}Processor")(images, tokenizer, **more).save_pretrained(folder / "saved")
    return folder / "saved"


def load(folder):
    return omniform.AutoProcessor.from_pretrained(folder), transformers.AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return {kind: load(save(tmp_path_factory.mktemp(kind), kind)) for kind in ("Blip", "Blip2", "InstructBlip")}


CALLS = [
    {"images": PICTURES, "text": TEXTS},
    {"images": PICTURES, "text": TEXTS, "padding": True, "return_tensors": "pt"},
    {"images": PICTURES, "text": TEXTS, "padding": True, "padding_side": "left", "return_tensors": "pt"},
    {"images": PICTURES[0], "text": "hello", "return_tensors": "np"},
    {"images": PICTURES[0], "text": TEXTS, "padding": True, "return_tensors": "pt"},
    {"images": PICTURES[:1], "text": TEXTS[:1]},
    {"text": TEXTS, "padding": "max_length", "max_length": 20, "return_tensors": "pt"},
    {"images": PICTURES, "text": TEXTS, "padding": "max_length", "max_length": 20, "truncation": True},
    {"images": PICTURES, "text": ["hello the fox " * 5] * 3, "max_length": 9, "truncation": True},
    {"images": ARRAYS, "text": TEXTS, "add_special_tokens": False, "images_kwargs": {"do_normalize": False}},
    {"images": PICTURES, "text": TEXTS, "size": {"height": 12, "width": 12}, "do_rescale": False},
    {"images": PICTURES},
    {"images": PICTURES[0], "return_tensors": "pt"},
    {"images": PICTURES, "text": TEXTS, "return_token_type_ids": True},
    {"images": PICTURES, "text": TEXTS, "text_kwargs": {"padding": True}, "common_kwargs": {"return_tensors": "pt"}},
]  # fmt: skip


@pytest.mark.parametrize("kind", ["Blip", "Blip2", "InstructBlip"])
def test_calls(pairs, kind) -> None:
    for call in CALLS:
        compare(pairs[kind], **call)


def test_one_text_alone(pairs) -> None:
    for kind, pair in pairs.items():
        compare(pair, text="hello", return_tensors="pt")
        if kind == "Blip":
            compare(pair, text="hello")
        assert pair[0].model_input_names == pair[1].model_input_names, kind


def test_the_places_of_pictures(pairs) -> None:
    ours = pairs["Blip2"][0]
    token = ours.tokenizer.convert_tokens_to_ids("<image>")
    batch = ours(PICTURES, TEXTS, padding=True, padding_side="left", return_tensors="pt")
    assert [(s.row, s.start, s.length, s.item) for s in batch.spans] == [(row, 0, 4, row) for row in range(3)]
    assert (batch["input_ids"][:, :4] == token).all() and (batch["input_ids"] == token).sum() == 12
    assert ours(text=TEXTS).spans == ()


def test_a_token_that_the_tokenizer_knows_is_taken(pairs, tmp_path) -> None:
    tokenizer = omniform.AutoTokenizer.from_pretrained(llava(tmp_path), image_token="<image>")
    count = len(tokenizer)
    ours = omniform.Blip2Processor(pairs["Blip2"][0].image_processor, tokenizer, 2)
    row = ours(PICTURES[0], "hello")["input_ids"][0]
    assert row[:2] == [tokenizer.image_token_id] * 2 and len(tokenizer) == count


@pytest.mark.parametrize("kind", ["Blip", "Blip2", "InstructBlip"])
def test_saved_and_read_by_both(tmp_path, kind) -> None:
    ours, theirs = load(save(tmp_path, kind))
    ours.save_pretrained(tmp_path / "again")
    again = load(tmp_path / "again")
    for pair in (again, (again[0], theirs), (ours, again[1])):
        compare(pair, images=PICTURES, text=TEXTS)
    for name in ("processor_config.json",):
        read = [json.loads((tmp_path / folder / name).read_text()) for folder in ("saved", "again")]
        same({k: v for k, v in read[1].items() if k != "image_processor"},
             {k: v for k, v in read[0].items() if k != "image_processor"}, name)  # fmt: skip


def test_old_files_put_nothing_in_front(tmp_path) -> None:
    folder = save(tmp_path, "Blip2", count=None)
    found = compare(load(folder), images=PICTURES, text=TEXTS)
    assert all(len(row) < 12 for row in found["input_ids"])
    settings = json.loads((folder / "processor_config.json").read_text())
    preprocessor = {**settings.pop("image_processor"), "processor_class": "Blip2Processor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    (folder / "processor_config.json").unlink()
    compare(load(folder), images=PICTURES, text=TEXTS)


def test_made_of_parts(pairs) -> None:
    ours = pairs["InstructBlip"][0]
    made = omniform.InstructBlipProcessor(ours.image_processor, ours.tokenizer, ours.qformer_tokenizer, 4)
    compare((made, pairs["InstructBlip"][1]), images=PICTURES, text=TEXTS)
    with pytest.raises(InputError, match="qformer_tokenizer: this is no tokenizer"):
        omniform.InstructBlipProcessor(ours.image_processor, ours.tokenizer, ours.image_processor, 4)


def test_wrong_calls(pairs, tmp_path) -> None:
    ours = pairs["Blip2"][0]
    with pytest.raises(InputError, match="neither text nor a picture"):
        ours()
    with pytest.raises(InputError, match="max_length: a picture alone is longer"):
        ours(PICTURES, TEXTS, max_length=3)
    with pytest.raises(InputError, match="row 1"):
        ours(PICTURES, ["a", 3])
    with pytest.raises(UnknownArgumentError, match="padding"):
        ours(PICTURES, TEXTS, paddding=True)
    folder = save(tmp_path, "InstructBlip")
    with pytest.raises(ConfigError, match="num_query_tokens"):
        omniform.AutoProcessor.from_pretrained(folder, num_query_tokens="many")
    for file in (folder / "qformer_tokenizer").iterdir():
        file.unlink()
    with pytest.raises(ConfigError, match="the queries have no tokenizer"):
        omniform.AutoProcessor.from_pretrained(folder)


def test_trocr(tmp_path) -> None:
    """A text beside pictures is what is to be read in them."""
    images = transformers.ViTImageProcessor(**SMALL)
    tokenizer = transformers.AutoTokenizer.from_pretrained(gpt2(tmp_path / "tokenizer"))
    tokenizer.pad_token = "<|endoftext|>"
    transformers.TrOCRProcessor(images, tokenizer).save_pretrained(tmp_path / "saved")
    pair = load(tmp_path / "saved")
    for call in (CALLS[0], CALLS[1], {"text": TEXTS}, {"images": PICTURES}, {"images": PICTURES[0], "text": "fox"}):
        compare(pair, **call)
    assert pair[0].model_input_names == pair[1].model_input_names
    pair[0].save_pretrained(tmp_path / "again")
    compare((load(tmp_path / "again")[0], pair[1]), **CALLS[1])


def test_a_batch_is_what_the_model_takes(pairs) -> None:
    batch = pairs["InstructBlip"][0](PICTURES, TEXTS, padding=True, return_tensors="pt")
    assert {*batch} == {"input_ids", "attention_mask", "pixel_values", "qformer_input_ids", "qformer_attention_mask"}
    assert all(isinstance(value, torch.Tensor) and len(value) == 3 for value in batch.values())
