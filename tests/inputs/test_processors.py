"""Processors against the reference's: the same inputs from the same folder, whatever is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from test_tokenizers_folders import clip, llava, whisper

import omniform
from omniform.core.errors import InputError, OmniformError, RepoError, UnknownArgumentError
from omniform.inputs.processors import CLIPProcessor, LlavaProcessor, Processor, WhisperProcessor
from reference import saved_reference, transformers

PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40 + 9 * seed, 50, 3), dtype=np.uint8))
    for seed in range(3)
]
ARRAYS = [np.asarray(picture) for picture in PICTURES]
WAVES = [np.random.default_rng(n).standard_normal(n).astype(np.float32) for n in (9000, 16000, 20000)]
TEXTS = ["hello <image> the <image>", "world", "<image>\nfox"]
SMALL = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
OPTIONS = {"patch_size": 7, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}


def save(folder: Path, kind: str, **options: object) -> Path:
    """A processor's folder, written by the reference."""
    build = {"llava": llava, "clip": clip, "whisper": whisper}[kind]
    tokenizer = transformers.AutoTokenizer.from_pretrained(build(folder / "tokenizer"))
    if kind == "whisper":
        theirs = transformers.WhisperProcessor(transformers.WhisperFeatureExtractor(chunk_length=1), tokenizer)
    elif kind == "clip":
        theirs = transformers.CLIPProcessor(transformers.CLIPImageProcessor(**SMALL), tokenizer)
    else:
        images = transformers.CLIPImageProcessor(**SMALL)
        theirs = transformers.LlavaProcessor(images, tokenizer, **{**OPTIONS, **options})
    theirs.save_pretrained(folder / "saved")
    return folder / "saved"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory):
    """Both libraries' processors, by kind."""
    found = {}
    for kind in ("llava", "clip", "whisper"):
        folder = save(tmp_path_factory.mktemp(kind), kind)
        found[kind] = (
            omniform.AutoProcessor.from_pretrained(folder),
            transformers.AutoProcessor.from_pretrained(folder),
        )
    return found


def same(found: object, expected: object, where: str = "") -> None:
    """Fail unless two results are equal, in type and shape too; floats of sounds within the size of rounding."""
    if isinstance(expected, (torch.Tensor, np.ndarray)):
        assert isinstance(found, type(expected)), f"{where}: {type(found)}"
        assert found.dtype == expected.dtype and found.shape == expected.shape, f"{where}: {found.dtype} {found.shape}"
        np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=0, atol=1e-5, err_msg=where)
    elif isinstance(expected, (list, tuple)):
        assert isinstance(found, (list, tuple)) and len(found) == len(expected), f"{where}: {found!r:.60}"
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            same(one, other, f"{where}[{index}]")
    else:
        assert found == expected, where


def compare(pair, **call: object) -> omniform.Batch:
    ours, theirs = pair
    expected, found = theirs(**call), ours(**call)
    assert list(found) == list(expected)
    for name in expected:
        same(found[name], expected[name], name)
    return found


LLAVA_CALLS = [
    {"images": PICTURES, "text": TEXTS},
    {"images": PICTURES, "text": TEXTS, "padding": True, "return_tensors": "pt"},
    {"images": PICTURES, "text": TEXTS, "padding": True, "return_tensors": "np", "padding_side": "right"},
    {"images": [PICTURES[:2], [], PICTURES[2:]], "text": TEXTS, "padding": True, "return_tensors": "pt"},
    {"images": PICTURES[0], "text": "a <image>", "return_tensors": "pt", "return_mm_token_type_ids": True},
    {"images": PICTURES, "text": TEXTS, "text_kwargs": {"return_mm_token_type_ids": True}},
    {"images": [PICTURES], "text": "<image><image><image>"},
    {"text": "hello"},
    {"text": ["hello", "the fox"], "padding": True, "return_tensors": "pt"},
    {"text": ["hello " * 9, "the fox"], "truncation": True, "max_length": 6},
    {"images": PICTURES},
    {"images": PICTURES[0], "return_tensors": "np"},
    {"images": ARRAYS, "text": TEXTS},
    {"images": np.stack([ARRAYS[0]] * 3), "text": TEXTS},
    {"images": torch.from_numpy(np.stack([ARRAYS[0]] * 3)).permute(0, 3, 1, 2), "text": TEXTS},
    {"images": PICTURES, "text": TEXTS, "crop_size": {"height": 14, "width": 21}, "padding": True},
    {"images": PICTURES, "text": TEXTS, "do_center_crop": False, "size": {"height": 21, "width": 28}},
    {"images": PICTURES, "text": TEXTS, "do_center_crop": False, "do_resize": False},
    {
        "images": PICTURES, "text": TEXTS, "return_tensors": "pt", "images_kwargs": {"do_normalize": False},
        "text_kwargs": {"padding": "max_length", "max_length": 64, "padding_side": "right"},
    },
    {"images": PICTURES, "text": TEXTS, "text_kwargs": {"return_tensors": "pt", "padding": True}},
    {"images": PICTURES, "text": TEXTS, "images_kwargs": {"return_tensors": "pt"}},
    {"images": PICTURES, "text": TEXTS, "common_kwargs": {"return_tensors": "pt"}, "padding": True},
    {"images": PICTURES, "text": TEXTS, "return_offsets_mapping": True, "return_special_tokens_mask": True},
    {"images": PICTURES, "text": TEXTS, "padding": True, "pad_to_multiple_of": 8, "return_length": True},
    {"images": PICTURES[0], "text": "a <image>", "add_special_tokens": False},
]  # fmt: skip


@pytest.mark.parametrize("call", LLAVA_CALLS, ids=lambda call: ",".join(call))
def test_llava(pairs, call) -> None:
    found = compare(pairs["llava"], **call)
    if "text" in call and "images" in call:
        check_spans(found, pairs["llava"][0].image_token_id)


def check_spans(batch: omniform.Batch, token_id: int) -> None:
    """Every placeholder lies in exactly one span, and spans are in reading order."""
    rows = [torch.as_tensor(row).tolist() for row in batch["input_ids"]]
    covered = [(span.row, place) for span in batch.spans for place in range(span.start, span.start + span.length)]
    assert covered == [(r, place) for r, row in enumerate(rows) for place, token in enumerate(row) if token == token_id]
    assert [span.item for span in batch.spans] == list(range(len(batch["pixel_values"])))


@pytest.mark.parametrize("side", ["left", "right"])
def test_spans_follow_the_padding(pairs, side: str) -> None:
    ours = pairs["llava"][0]
    batch = ours(images=PICTURES, text=TEXTS, padding=True, padding_side=side, return_tensors="pt")
    assert [(span.row, span.length, span.item) for span in batch.spans] == [(0, 16, 0), (0, 16, 1), (2, 16, 2)]
    padding = int((batch.input_ids[2] == ours.tokenizer.pad_token_id).sum())
    assert padding > 0
    assert batch.spans[2].start == (padding if side == "left" else 0) + 1  # after <s>


@pytest.mark.parametrize(
    "options",
    [
        {"vision_feature_select_strategy": "full"},
        {"vision_feature_select_strategy": "full", "num_additional_image_tokens": 0},
        {"num_additional_image_tokens": 0},
        {"num_additional_image_tokens": 5, "patch_size": 4},
        {"vision_feature_select_strategy": None},
    ],
    ids=str,
)
def test_llava_counts_tokens(tmp_path: Path, options: dict[str, object]) -> None:
    folder = save(tmp_path, "llava", **options)
    pair = (omniform.AutoProcessor.from_pretrained(folder), transformers.AutoProcessor.from_pretrained(folder))
    check_spans(compare(pair, images=PICTURES, text=TEXTS, padding=True, return_tensors="pt"), pair[0].image_token_id)


@pytest.mark.parametrize(
    ("images", "text", "said"),
    [
        (PICTURES[:2], TEXTS, ["row 2", "0 picture(s)", "1 placeholder(s)"]),
        (PICTURES, ["<image>", "<image>"], ["row 1", "2 picture(s)", "1 placeholder(s)"]),
        ([PICTURES[:1], PICTURES[1:]], ["<image><image>", "<image>"], ["row 0", "1 picture(s)", "2 placeholder(s)"]),
        ([[], PICTURES[:1]], ["<image>", "a"], ["row 0", "0 picture(s)", "1 placeholder(s)"]),
        (None, ["a", "<image>"], ["row 1", "0 picture(s)", "1 placeholder(s)"]),
        (PICTURES[0], "no placeholder", ["row 0", "1 picture(s)", "0 placeholder(s)"]),
    ],
)
def test_placeholders_and_pictures_must_match(pairs, images, text, said: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        pairs["llava"][0](images=images, text=text)
    assert all(words in str(caught.value) for words in said), caught.value


def test_truncation_does_not_cut_pictures(pairs) -> None:
    ours = pairs["llava"][0]
    with pytest.raises(InputError, match=r"row 0: truncation cuts .* 32 placeholder .* 2 image\(s\)"):
        ours(images=PICTURES, text=TEXTS, truncation=True, max_length=20)
    long = {"text": "<image>" + " fox" * 99, "max_length": 20, "truncation": True}
    with pytest.raises(InputError, match="several rows"):
        ours(images=PICTURES[0], **long, return_overflowing_tokens=True)
    assert len(ours(images=PICTURES[0], **long)["input_ids"][0]) == 20


BAD_CALLS = [
    ("llava", {}, InputError, "neither text nor a picture"),
    ("clip", {}, InputError, "neither text nor a picture"),
    ("whisper", {}, InputError, "neither sound nor text"),
    ("llava", {"text": ["a", 1]}, InputError, "row 1"),
    ("llava", {"text": []}, InputError, "text"),
    ("clip", {"text": [["a", "b"]]}, InputError, "row 0"),
    ("llava", {"images": [PICTURES[:1], PICTURES[1]], "text": "a"}, InputError, r"images\[1\]"),
    ("llava", {"images": [None], "text": "<image>"}, InputError, "picture"),
    ("llava", {"images": "nowhere.png", "text": "<image>"}, RepoError, "nowhere.png"),
    ("llava", {"text": "a", "paddding": True}, UnknownArgumentError, "'padding'"),
    ("llava", {"text": "a", "sampling_rate": 3}, UnknownArgumentError, "sampling_rate"),
    ("clip", {"text": "a", "return_mm_token_type_ids": True}, UnknownArgumentError, "return_mm_token_type_ids"),
    ("clip", {"text": "a", "text_kwargs": {"do_resize": True}}, UnknownArgumentError, "text_kwargs"),
    ("clip", {"text": "a", "images_kwargs": {"do_resise": True}}, UnknownArgumentError, "do_resize"),
    ("clip", {"text": "a", "images_kwargs": 3}, InputError, "images_kwargs"),
    ("clip", {"text": "a", "audio_kwargs": {}}, UnknownArgumentError, "audio_kwargs"),
    ("clip", {"text": "a", "padding": True, "text_kwargs": {"padding": True}}, InputError, "given twice"),
    ("clip", {"images": PICTURES[0], "crop_size": "large"}, InputError, "crop_size"),
    ("whisper", {"audio": WAVES[0], "sampling_rate": 8000}, InputError, "8000"),
    ("whisper", {"audio": []}, InputError, "sound"),
    ("whisper", {"audio": "nowhere.wav"}, RepoError, "nowhere.wav"),
    ("whisper", {"audio": [WAVES[0], "nowhere.wav"]}, RepoError, "nowhere.wav"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "call", "error", "said"), BAD_CALLS, ids=lambda value: str(value)[:40])
def test_bad_calls(pairs, kind: str, call, error: type[OmniformError], said: str) -> None:
    with pytest.raises(error, match=said):
        pairs[kind][0](**call)


CLIP_CALLS = [
    {"images": PICTURES, "text": ["hello", "the dog"], "padding": True, "return_tensors": "pt"},
    {"images": PICTURES[0], "text": "hello"},
    {"text": "hello"},
    {"text": "hello", "return_tensors": "pt"},
    {"text": ["hello", "x y"]},
    {"text": "hello " * 99, "truncation": True},
    {"text": ["hello"], "padding": "max_length", "return_tensors": "np"},
    {"images": PICTURES, "return_tensors": "np"},
    {"images": [[PICTURES[0]], [PICTURES[1]]], "text": "a", "return_tensors": "pt"},
    {
        "images": PICTURES[0], "images_kwargs": {"do_normalize": False}, "text": ["hello"] * 2, "return_tensors": "pt",
        "text_kwargs": {"padding": "max_length", "max_length": 9},
    },
]  # fmt: skip


@pytest.mark.parametrize("call", CLIP_CALLS, ids=lambda call: ",".join(call))
def test_clip(pairs, call) -> None:
    compare(pairs["clip"], **call)


WHISPER_CALLS = [
    {"audio": WAVES[0]},
    {"audio": WAVES[0].tolist(), "return_tensors": "pt"},
    {"audio": WAVES, "sampling_rate": 16000, "return_tensors": "pt"},
    {"audio": WAVES, "text": ["a", "b", "c"], "return_tensors": "pt"},
    {"audio": WAVES[0], "text": "hello", "return_tensors": "np"},
    {"text": "hello"},
    {"text": ["hello", "fox"]},
    {"audio": WAVES, "padding": "longest", "truncation": False, "return_tensors": "pt", "return_attention_mask": True},
    {"audio": WAVES, "do_normalize": True, "return_tensors": "pt"},
]


@pytest.mark.parametrize("call", WHISPER_CALLS, ids=lambda call: ",".join(call))
def test_whisper(pairs, call) -> None:
    compare(pairs["whisper"], **call)


def test_whisper_takes_the_sound_first_and_reads_files(pairs, tmp_path: Path) -> None:
    ours, theirs = pairs["whisper"]
    same(ours(WAVES[0], return_tensors="pt").input_features, theirs(WAVES[0], return_tensors="pt").input_features)
    path = tmp_path / "a.wav"
    soundfile.write(path, WAVES[1] / 8, 16000, subtype="FLOAT")
    expected = theirs([WAVES[1] / 8, WAVES[0]], return_tensors="pt", sampling_rate=16000).input_features
    for sound in (path, str(path), path.read_bytes(), (WAVES[1] / 8, 16000)):
        same(ours(audio=sound, return_tensors="pt").input_features, expected[:1])
        same(ours(audio=[sound, WAVES[0]], sampling_rate=16000, return_tensors="pt").input_features, expected)
    soundfile.write(path, WAVES[1][:4000], 8000, subtype="FLOAT")
    assert ours(audio=str(path), return_tensors="pt").input_features.shape == (1, 80, 100)
    grouped = ours(audio=WAVES[0], audio_kwargs={"sampling_rate": 16000, "do_normalize": True}, return_tensors="pt")
    same(grouped.input_features, theirs(WAVES[0], do_normalize=True, return_tensors="pt").input_features)


def test_whisper_prompts(pairs) -> None:
    ours, theirs = pairs["whisper"]
    asked = {"task": "transcribe", "language": "german"}
    assert ours.get_decoder_prompt_ids(**asked) == theirs.get_decoder_prompt_ids(**asked)
    same(ours.get_prompt_ids("hello fox"), theirs.get_prompt_ids("hello fox"))
    same(ours.get_prompt_ids("fox", return_tensors="pt"), theirs.get_prompt_ids("fox", return_tensors="pt"))
    with pytest.raises(InputError, match="unknown language"):
        ours.get_decoder_prompt_ids(language="klingon")


@pytest.mark.parametrize("kind", ["llava", "clip", "whisper"])
def test_names_decoding_and_parts(pairs, kind: str) -> None:
    ours, theirs = pairs[kind]
    assert isinstance(ours, {"llava": LlavaProcessor, "clip": CLIPProcessor, "whisper": WhisperProcessor}[kind])
    assert isinstance(ours, Processor)
    assert list(ours.model_input_names) == list(theirs.model_input_names)
    ids = theirs.tokenizer(["hello the fox", "dog"]).input_ids
    assert ours.batch_decode(ids) == theirs.batch_decode(ids)
    assert ours.decode(ids[0], skip_special_tokens=True) == theirs.decode(ids[0], skip_special_tokens=True)
    assert ours.post_process_image_text_to_text(ids) == theirs.post_process_image_text_to_text(ids)
    assert ours.to_dict() == json.loads(theirs.to_json_string())
    assert ours.tokenizer.recipe.name in repr(ours)


def test_from_pictures_to_an_answer(tmp_path: Path) -> None:
    """What the processor makes goes into ``generate``, and what comes out is the reference's text."""
    folder = save(tmp_path, "llava")
    theirs = transformers.AutoProcessor.from_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = transformers.LlamaConfig(**size, vocab_size=len(theirs.tokenizer) + 3, num_key_value_heads=1)
    vision = transformers.CLIPVisionConfig(**size, image_size=28, patch_size=7)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_id=theirs.image_token_id)
    expected_model = saved_reference(transformers.LlavaForConditionalGeneration, config, folder)
    model = omniform.AutoModelForImageTextToText.from_pretrained(folder)
    ours = omniform.AutoProcessor.from_pretrained(folder)
    call = {"images": PICTURES, "text": TEXTS, "padding": True, "return_tensors": "pt"}
    found = model.generate(**ours(**call), max_new_tokens=5, do_sample=False)
    expected = expected_model.generate(**theirs(**call), max_new_tokens=5, do_sample=False)
    assert torch.equal(found, expected)
    assert ours.post_process_image_text_to_text(found) == theirs.post_process_image_text_to_text(expected)


def test_a_tokenizer_without_the_image_token_is_refused(tmp_path: Path) -> None:
    tokenizer = omniform.AutoTokenizer.from_pretrained(clip(tmp_path / "clip"))
    images = omniform.AutoProcessor.from_pretrained(save(tmp_path, "llava")).image_processor
    with pytest.raises(OmniformError, match="no such image token"):
        LlavaProcessor(images, tokenizer, patch_size=7)
    with pytest.raises(InputError, match="no tokenizer"):
        CLIPProcessor(tokenizer, images)


def test_options_that_the_tokenizer_file_states(tmp_path: Path) -> None:
    """Its ``max_length`` and ``padding`` are defaults of the processor, though not of the tokenizer itself."""
    folder = llava(tmp_path / "a", max_length=24, padding="max_length", stride=0)
    images = transformers.CLIPImageProcessor(**SMALL)
    theirs = transformers.LlavaProcessor(images, transformers.AutoTokenizer.from_pretrained(folder), **OPTIONS)
    theirs.save_pretrained(tmp_path / "b")
    pair = (
        omniform.AutoProcessor.from_pretrained(tmp_path / "b"),
        transformers.AutoProcessor.from_pretrained(tmp_path / "b"),
    )
    found = compare(pair, images=PICTURES[0], text="hello <image>", return_tensors="pt")
    assert found.input_ids.shape == (1, 24)
    compare(pair, text=["hello", "the fox"], padding=True, return_tensors="pt")
