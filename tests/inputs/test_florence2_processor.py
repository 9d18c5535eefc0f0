"""Florence-2's processor against the reference's: questions, and answers of every kind."""

from __future__ import annotations

import json

import pytest
import torch
from test_processors import ARRAYS, PICTURES, compare, same
from test_tokenizers_folders import gpt2

import omniform
from omniform.core.errors import ConfigError, InputError
from omniform.inputs.processors.florence2 import ABOUT, ALONE
from reference import transformers

PARSING = {
    "ocr": {"PATTERN": None, "AREA_THRESHOLD": 0.0},
    "phrase_grounding": {"banned_grounding_tokens": ["it", "the image"]},
    **{
        kind: {}
        for kind in (
            "pure_text", "description_with_bboxes", "description_with_polygons", "polygons", "bboxes",
            "description_with_bboxes_or_polygons",
        )
    },
}  # fmt: skip
SIZE = {"height": 28, "width": 28}


def folder_of(path, **options):
    """A processor's folder, written by the reference."""
    gpt2(path / "tokenizer")
    added = [f"<loc_{i}>" for i in range(1000)] + ["<od>", "</od>", "<sep>", "<poly>", "</poly>", "<obj>", "<ground>"]
    raw = json.loads((path / "tokenizer" / "vocab.json").read_text())
    for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>"):
        raw[token] = len(raw)
    (path / "tokenizer" / "vocab.json").write_text(json.dumps(raw))
    named = {"image_token": "<image>"}
    tokenizer = transformers.BartTokenizer.from_pretrained(path / "tokenizer", extra_special_tokens=named)
    tokenizer.add_tokens(added)
    images = transformers.CLIPImageProcessor(size=SIZE, do_center_crop=False, image_seq_length=5)
    theirs = transformers.Florence2Processor(images, tokenizer, post_processor_config=PARSING, **options)
    theirs.save_pretrained(path / "saved")
    return path / "saved"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = folder_of(tmp_path_factory.mktemp("florence"))
    ours, theirs = (lib.AutoProcessor.from_pretrained(folder) for lib in (omniform, transformers))
    assert type(ours) is omniform.Florence2Processor
    return ours, theirs


@pytest.mark.parametrize("task", [*ALONE, *(f"{task} a fox" for task in ABOUT), "hello world"])
def test_tasks(pair, task):
    compare(pair, images=PICTURES[0], text=task, return_tensors="pt")


@pytest.mark.parametrize(
    "call",
    [
        {"images": PICTURES, "text": ["<OD>", "<CAPTION_TO_PHRASE_GROUNDING>  the fox ", "hello"], "padding": True},
        {"images": ARRAYS, "text": ["<OD>"] * 3, "padding": True, "return_tensors": "pt", "padding_side": "left"},
        {"images": PICTURES[:2]},
        {"images": PICTURES[0], "text": "<OCR>", "return_mm_token_type_ids": True},
        {"images": [PICTURES[0]], "text": ["<OCR>"], "size": {"height": 14, "width": 20}, "return_tensors": "np"},
        {"text": ["<OD>", "<REGION_TO_OCR> <loc_1><loc_2>"], "padding": True, "return_tensors": "pt"},
        {"text": "<CAPTION>", "add_special_tokens": True},
        {"text": "hello", "text_kwargs": {"add_special_tokens": True, "padding": "max_length", "max_length": 9}},
    ],
    ids=lambda call: ",".join(call),
)
def test_calls(pair, call):
    compare(pair, **call)


QUAD = "".join(f"<loc_{i}>" for i in (10, 20, 500, 20, 500, 80, 10, 80))
BOX, OTHER = "<loc_52><loc_332><loc_932><loc_774>", "<loc_1><loc_2><loc_3><loc_999>"
ANSWERS = {
    "<CAPTION>": ["</s><s>A green car.</s><pad>", "", " <s> a </s>"],
    "<MORE_DETAILED_CAPTION>": ["a <loc_1> b"],
    "<OCR>": ["ab</s>c"],
    "<REGION_TO_CATEGORY>": ["car<loc_1><loc_2><loc_3><loc_4>"],
    "<OCR_WITH_REGION>": [f"</s><s>hello{QUAD}wörld {QUAD}</s>", f"{QUAD}", f"a{BOX}b{QUAD}", ""],
    "<OD>": [
        f"</s><s>car{BOX}wheel{BOX}{OTHER}</s>", f"{BOX}", f"a<loc_1><loc_2>b{BOX}", "none", f"é naïve{BOX}<loc_4>",
        f"<od>car{BOX}</od>", f"<obj>dog{BOX}", f" two\nlines{BOX}", f"  {BOX}",
    ],
    "<DENSE_REGION_CAPTION>": [f"a red car{BOX}a  wheel {OTHER}"],
    "<REGION_PROPOSAL>": [f"{BOX}{OTHER}", f"<s>{BOX}</s><pad>", "car", f"a{BOX}b{OTHER}<loc_3>", ""],
    "<CAPTION_TO_PHRASE_GROUNDING>": [
        f"A green car{BOX}{OTHER} it{BOX} the image{OTHER}", "it", f"<ground>a{BOX}", f"naïve{BOX}",
        f"it{BOX}the image{BOX}dog{OTHER}",
    ],
    "<REFERRING_EXPRESSION_SEGMENTATION>": [
        f"{BOX}{OTHER}", f"{BOX}<sep>{OTHER}<loc_5>", f"<poly>{BOX}<sep>{OTHER}</poly><poly>{BOX}</poly>",
        f"a{BOX}b{OTHER}", "<loc_1><loc_2><loc_3>", f"<poly>{BOX}", "<sep><sep><sep><sep>", "",
    ],
    "<REGION_TO_SEGMENTATION>": [f"{BOX}{BOX}{OTHER}"],
    "<OPEN_VOCABULARY_DETECTION>": [
        f"car{BOX}dog{OTHER}", f"car<poly>{BOX}<sep>{OTHER}</poly>dog<poly>{BOX}</poly>", f"car{BOX}<poly>", "",
        f"naïve<poly>{BOX}</poly>", "<loc_1>car<poly><loc_1></poly><loc_2><loc_3>",
    ],
    "<UNKNOWN>": ["<s>whatever</s>"],
}  # fmt: skip


@pytest.mark.parametrize("size", [(640, 480), (333, 1001), (7.5, 3)])
@pytest.mark.parametrize("task", ANSWERS)
def test_answers(pair, task, size):
    ours, theirs = pair
    for text in ANSWERS[task]:
        expected = theirs.post_process_generation(text=text, task=task, image_size=size)
        assert ours.post_process_generation(text=text, task=task, image_size=size) == expected, text


@pytest.mark.parametrize("task", ["<OD>", "<CAPTION>", "<OCR_WITH_REGION>"])
def test_tokens(pair, task):
    """Tokens are read one by one."""
    ours, theirs = pair
    for text in ANSWERS[task]:
        ids = theirs.tokenizer(text + "wörld 日本", add_special_tokens=False, return_tensors="pt")["input_ids"][0]
        for given in (ids, torch.cat((torch.tensor([theirs.tokenizer.bos_token_id]), ids)), ids.tolist()):
            expected = theirs.post_process_generation(sequence=given, task=task, image_size=(64, 48))
            assert ours.post_process_generation(sequence=given, task=task, image_size=(64, 48)) == expected


def test_a_checkpoint_reads_answers_its_own_way(tmp_path):
    small = {**PARSING, "ocr": {"PATTERN": r"(\w+)" + r"<loc_(\d+)>" * 8, "AREA_THRESHOLD": 0.02}}
    folder = folder_of(tmp_path)
    raw = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps({**raw, "post_processor_config": small}))
    ours, theirs = (lib.AutoProcessor.from_pretrained(folder) for lib in (omniform, transformers))
    tiny = "".join(f"<loc_{i}>" for i in (10, 20, 12, 20, 12, 22, 10, 22))
    for text in (f"a b{QUAD}", f"a{tiny}b{QUAD}"):
        call = {"text": text, "task": "<OCR_WITH_REGION>", "image_size": (640, 480)}
        assert ours.post_process_generation(**call) == theirs.post_process_generation(**call)


def test_saved(pair, tmp_path):
    ours, theirs = pair
    ours.save_pretrained(tmp_path)
    again = transformers.AutoProcessor.from_pretrained(tmp_path)
    call = {"images": PICTURES[0], "text": "<OD>", "return_tensors": "pt"}
    expected, found = theirs(**call), again(**call)
    for name in expected:
        same(found[name], expected[name], name)
    assert again.post_processor_config == theirs.post_processor_config


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"images": PICTURES[0], "text": "<OD> a car"}, "stands alone"),
        ({"images": PICTURES, "text": ["<OD>"]}, "one picture"),
        ({"images": PICTURES[0], "text": ["<OD>", "<OD>"]}, "one picture"),
        ({"images": PICTURES[0], "text": "look <image>"}, "row 0"),
        ({"images": PICTURES[0], "text": "<OD>", "truncation": True, "max_length": 3}, "placeholder"),
        ({}, "neither"),
    ],
)
def test_bad_calls(pair, call, says):
    with pytest.raises(InputError, match=says):
        pair[0](**call)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"text": "a"}, "what was asked"),
        ({"task": "<OD>"}, "one way"),
        ({"task": "<OD>", "text": "a", "sequence": [1]}, "one way"),
        ({"task": "<OD>", "text": "a"}, "image_size"),
    ],
)
def test_bad_questions_about_answers(pair, call, says):
    with pytest.raises(InputError, match=says):
        pair[0].post_process_generation(**call)


def test_parts_that_do_not_fit(pair):
    ours, _ = pair
    with pytest.raises(ConfigError, match="image_seq_length"):
        omniform.Florence2Processor(omniform.CLIPImageProcessor(), ours.tokenizer)
