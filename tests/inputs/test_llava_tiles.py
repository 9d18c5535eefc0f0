"""LLaVA-NeXT's and LLaVA-OneVision's processors against the reference's: the same tiles, the same placeholders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_images_processors import assert_same, both, import_reference, picture
from test_processors import check_spans, compare
from test_tokenizers_folders import llava

import omniform
from omniform.core.errors import ConfigError, InputError
from omniform.inputs.images.kinds import image_processor
from reference import saved_reference, transformers

PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28]]
SMALL = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}, "image_grid_pinpoints": PINPOINTS}
SQUARE = {"size": {"height": 28, "width": 28}, "image_grid_pinpoints": PINPOINTS}
SIZES = [(1, 1), (1, 90), (90, 1), (61, 29), (28, 28), (56, 56), (200, 150)]
PICTURES = [picture(width, height, seed) for seed, (width, height) in enumerate([(50, 40), (29, 70), (60, 60)])]
FILMS = [np.random.default_rng(n).integers(0, 256, (n, 30, 40, 3), dtype=np.uint8) for n in (2, 2)]


@pytest.fixture(scope="module")
def reference():
    return import_reference()


@pytest.mark.parametrize("pixels", ["", "Pil"])
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("LlavaNext", SMALL),
        ("LlavaNext", {**SMALL, "do_center_crop": False, "size": {"height": 28, "width": 28}, "resample": 2}),
        ("LlavaNext", {**SMALL, "do_rescale": False, "do_normalize": False, "size": {"shortest_edge": 30}}),
        ("LlavaNext", {**SMALL, "do_resize": False, "size": {"height": 28, "width": 28}}),
        ("LlavaOnevision", SQUARE),
        ("LlavaOnevision", {**SQUARE, "image_mean": [0.1, 0.9, 0.5], "do_normalize": False}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_tiles_are_the_references(reference, name, config, pixels):
    theirs, ours = both(reference, f"{name}ImageProcessor{pixels}", **config)
    pictures = [Image.fromarray(picture(width, height, seed)) for seed, (width, height) in enumerate(SIZES)]
    assert_same(theirs, ours, pictures)
    assert_same(theirs, ours, pictures[3])
    assert_same(theirs, ours, [pictures[3:5], pictures[5:]])
    listed, expected = ours(pictures[3:5], do_pad=False), theirs(pictures[3:5], do_pad=False)
    for mine, other in zip(listed["pixel_values"], expected["pixel_values"], strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(other))
    assert [tuple(size) for size in listed["image_sizes"]] == [tuple(map(int, s)) for s in expected["image_sizes"]]


@pytest.mark.parametrize("name", ["LlavaNextImageProcessor", "LlavaOnevisionImageProcessor"])
def test_usual_settings_and_saved_files(reference, name, tmp_path):
    theirs, ours = both(reference, name)
    assert ours.image_grid_pinpoints == [list(one) for one in theirs.image_grid_pinpoints]
    for option in ("size", "crop_size", "resample", "image_mean", "image_std", "do_pad", "do_center_crop"):
        mine, other = getattr(ours, option), getattr(theirs, option)
        if isinstance(other, (list, tuple)):
            other = list(other)
        assert (mine or None) == (dict(other) if option.endswith("size") and other else other or None), option
    ours.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["image_grid_pinpoints"][0] == [
        *theirs.image_grid_pinpoints[0]
    ]
    assert omniform.AutoImageProcessor.from_pretrained(tmp_path) == ours
    again = getattr(transformers, name).from_pretrained(tmp_path)
    assert_same(again, ours, picture(40, 30), image_grid_pinpoints=PINPOINTS)


@pytest.mark.parametrize("value", [[], [[28]], [[28, 0]], [[28, 28.5]], "28", 7, [[28, 10**6]], [None]])
def test_resolutions_that_are_none(value):
    with pytest.raises(ConfigError, match="image_grid_pinpoints"):
        image_processor({"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": value}, where="x")


def test_tiles_that_make_no_tensor():
    ours = image_processor({"image_processor_type": "LlavaNextImageProcessor", **SMALL}, where="x")
    with pytest.raises(InputError, match=r"numbers of tiles.*do_pad"):
        ours([picture(80, 28), picture(28, 84), picture(200, 200)], do_pad=False, return_tensors="pt")


def test_frames_are_the_references(reference):
    ours = omniform.LlavaOnevisionVideoProcessor(size={"height": 28, "width": 28})
    theirs = transformers.LlavaOnevisionVideoProcessor(size={"height": 28, "width": 28})
    found, expected = ours(FILMS, return_tensors="pt"), theirs(FILMS, return_tensors="pt")
    torch.testing.assert_close(found["pixel_values_videos"], expected["pixel_values_videos"], rtol=0, atol=1e-5)
    usual, other = omniform.LlavaOnevisionVideoProcessor(), transformers.LlavaOnevisionVideoProcessor()
    for option in ("size", "resample", "image_mean", "image_std", "do_sample_frames", "do_convert_rgb"):
        theirs_is = getattr(other, option)
        if isinstance(theirs_is, (list, tuple)):
            theirs_is = list(theirs_is)
        assert getattr(usual, option) == (dict(theirs_is) if option == "size" else theirs_is), option


def folder(home: Path, kind: str, **options: object) -> Path:
    """A processor's folder, written by the reference."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(llava(home / "tokenizer"))
    if kind == "next":
        images = transformers.LlavaNextImageProcessor(**SMALL)
        usual = {"patch_size": 7, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
        made = transformers.LlavaNextProcessor(images, tokenizer, **{**usual, **options})
    else:
        tokenizer.add_tokens(["<video>"], special_tokens=True)
        images = transformers.LlavaOnevisionImageProcessor(**SQUARE)
        films = transformers.LlavaOnevisionVideoProcessor(size={"height": 28, "width": 28})
        usual = {"num_image_tokens": 9, "vision_feature_select_strategy": "full"}
        made = transformers.LlavaOnevisionProcessor(images, tokenizer, films, **{**usual, **options})
    made.save_pretrained(home / "saved")
    return home / "saved"


def pair(home: Path, kind: str, **options: object):
    saved = folder(home, kind, **options)
    return omniform.AutoProcessor.from_pretrained(saved), transformers.AutoProcessor.from_pretrained(saved)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return {kind: pair(tmp_path_factory.mktemp(kind), kind) for kind in ("next", "onevision")}


TEXT = {"type": "text", "text": "hello fox"}
TEXTS = ["hello <image> the <image>", "world", "<image>\nfox"]
CALLS = [
    {"images": PICTURES, "text": TEXTS},
    {"images": PICTURES, "text": TEXTS, "padding": True, "return_tensors": "pt"},
    {"images": PICTURES[0], "text": "a <image>", "return_tensors": "np", "return_mm_token_type_ids": True},
    {"images": [PICTURES[:2], [], PICTURES[2:]], "text": TEXTS, "padding": True, "return_tensors": "pt"},
    {"images": [PICTURES], "text": "<image><image><image>", "return_tensors": "pt"},
    {"text": ["hello", "the fox"], "padding": True, "return_tensors": "pt"},
    {"images": PICTURES, "return_tensors": "pt"},
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: ",".join(call))
@pytest.mark.parametrize("kind", ["next", "onevision"])
def test_placeholders_are_the_references(pairs, kind, call):
    found = compare(pairs[kind], **call)
    if "text" in call and "images" in call:
        check_spans(found, pairs[kind][0].image_token_id)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("next", {"vision_feature_select_strategy": "full", "patch_size": 14}),
        ("next", {"num_additional_image_tokens": 0, "vision_feature_select_strategy": None}),
        ("onevision", {"vision_aspect_ratio": "anyres_max_1"}),
        ("onevision", {"vision_feature_select_strategy": "default", "num_image_tokens": 17}),
    ],
    ids=str,
)
def test_other_settings(tmp_path, kind, options):
    ours, theirs = pair(tmp_path, kind, **options)
    compare((ours, theirs), images=PICTURES, text=TEXTS, padding=True, return_tensors="pt")
    ours.save_pretrained(tmp_path / "again")
    again = transformers.AutoProcessor.from_pretrained(tmp_path / "again")
    compare((ours, again), images=PICTURES[0], text="a <image>", return_tensors="pt")


def test_pictures_and_videos_together(pairs):
    texts = ["a <video> and <image>", "<image> <image>", "fox <video>"]
    call = {"images": [PICTURES[:1], PICTURES[1:], []], "videos": FILMS, "text": texts, "padding": True}
    found = compare(pairs["onevision"], **call, return_tensors="pt", return_mm_token_type_ids=True)
    kinds = [(span.modality, span.row, span.item) for span in found.spans]
    assert sorted(kinds) == [("image", 0, 0), ("image", 1, 1), ("image", 1, 2), ("video", 0, 0), ("video", 2, 1)]
    with pytest.raises(InputError, match=r"row 2.*<video>"):
        pairs["onevision"][0](**{**call, "videos": FILMS[:1]})


def test_other_resolutions_for_one_call(pairs):
    """The reference counts placeholders by the processor's own resolutions, whatever the call asks for."""
    ours, theirs = pairs["next"]
    asked = {"images": PICTURES[2], "text": "a <image>", "return_tensors": "pt", "image_grid_pinpoints": [[28, 28]]}
    found = ours(**asked)
    assert found["pixel_values"].shape[1] == theirs(**asked)["pixel_values"].shape[1] == 2
    assert (found["input_ids"] == ours.image_token_id).sum() == 4 * 4 + 4 * 5


TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}"
    "{% else %}<{{ c['type'] }}>{% endif %}{% endfor %}\n{% endfor %}"
)


@pytest.mark.parametrize("kind", ["next", "onevision"])
def test_chats_are_the_references(pairs, kind):
    """Several pictures of one conversation are not cut into tiles by LLaVA-OneVision."""
    ours, theirs = pairs[kind]
    pictures = [Image.fromarray(one) for one in PICTURES]
    chats = [
        [{"role": "user", "content": [*({"type": "image", "image": one} for one in pictures[:count]), TEXT]}]
        for count in (1, 0, 2)
    ]
    asked = {"chat_template": TEMPLATE, "tokenize": True, "return_dict": True, "return_tensors": "pt", "padding": True}
    found, expected = ours.apply_chat_template(chats, **asked), theirs.apply_chat_template(chats, **asked)
    assert list(found) == list(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=0)


def test_a_processor_of_its_parts(pairs):
    ours = pairs["onevision"][0]
    made = omniform.LlavaOnevisionProcessor(ours.image_processor, ours.tokenizer, num_image_tokens=9)
    assert type(made.video_processor).__name__ == "LlavaOnevisionVideoProcessor"
    assert made(text="a <video>", videos=FILMS[:1])["input_ids"][0].count(ours.video_token_id) == 2 * 4 + 1
    with pytest.raises(ConfigError, match="num_image_tokens"):
        omniform.LlavaOnevisionProcessor(ours.image_processor, ours.tokenizer)(text="<image>", images=PICTURES[0])
    with pytest.raises(ConfigError, match="vision_aspect_ratio"):
        omniform.LlavaOnevisionProcessor(ours.image_processor, ours.tokenizer, vision_aspect_ratio="square")


def model_pair(home: Path, kind: str, image: int, video: int):
    """A tiny model of a processor's kind, of both libraries."""
    text = {"vocab_size": 512, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512, "pad_token_id": None,
        "bos_token_id": 1, "eos_token_id": None}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 7 if kind == "next" else 9}  # fmt: skip
    if kind == "next":
        config = transformers.LlavaNextConfig(
            text_config=transformers.LlamaConfig(**text), vision_config=transformers.CLIPVisionConfig(**vision),
            image_token_index=image, image_grid_pinpoints=PINPOINTS,
        )  # fmt: skip
        made = transformers.LlavaNextForConditionalGeneration
    else:
        config = transformers.LlavaOnevisionConfig(
            text_config=transformers.Qwen2Config(**text), image_token_index=image, video_token_index=video,
            vision_config=transformers.SiglipVisionConfig(**vision, vision_use_head=False),
            image_grid_pinpoints=PINPOINTS,
        )  # fmt: skip
        made = transformers.LlavaOnevisionForConditionalGeneration
    theirs = saved_reference(made, config, home / "model", scale=0.3)
    return omniform.AutoModelForImageTextToText.from_pretrained(home / "model"), theirs


@pytest.mark.parametrize("kind", ["next", "onevision"])
def test_answers_are_the_references(pairs, tmp_path, kind):
    """Rows of no, one and many pictures (and videos) in one batch, a picture twice, and every row alone."""
    processor, other = pairs[kind]
    ours, theirs = model_pair(tmp_path, kind, processor.image_token_id, getattr(processor, "video_token_id", 3))
    rows = [("a <image> the <image>", PICTURES[:2], []), ("hello world", [], []), ("<image> fox", PICTURES[:1], [])]
    if kind == "onevision":
        rows.append(("<video> <image> fox", PICTURES[2:], FILMS[:1]))
    asked = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
    answers = []
    for text, pictures, films in rows:
        call = {"text": [text], **({"images": [pictures]} if pictures else {}), **({"videos": films} if films else {})}
        given, expected = processor(**call, **asked), other(**call, **asked)
        long = expected["input_ids"].shape[1]
        wanted = theirs.generate(**expected, max_new_tokens=5, do_sample=False)[0, long:].tolist()
        assert ours.generate(**given, max_new_tokens=5, do_sample=False)[0, long:].tolist() == wanted
        answers.append(wanted)
    films = {"videos": FILMS[:1]} if kind == "onevision" else {}
    texts, pictures = [row[0] for row in rows], [row[1] for row in rows]
    batch = processor(text=texts, images=pictures, **films, **asked)
    found = ours.generate(**batch, max_new_tokens=5, do_sample=False)
    assert found[:, batch["input_ids"].shape[1] :].tolist() == answers
