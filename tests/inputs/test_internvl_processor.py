"""InternVL's video processor and processor against the reference's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_images_processors import picture
from test_processors import compare, same
from test_tokenizers_folders import llava

import omniform
from omniform.core.errors import ConfigError, InputError
from reference import saved_reference, transformers

EDGE = {"size": {"height": 16, "width": 16}}
PICTURES = [picture(width, height, seed) for seed, (width, height) in enumerate([(50, 20), (16, 16), (20, 60)])]
FILMS = [np.random.default_rng(n).integers(0, 256, (3, 30, 40, 3), dtype=np.uint8) for n in (1, 2)]
LONG = np.random.default_rng(3).integers(0, 256, (11, 20, 20, 3), dtype=np.uint8)
TOKENS = {
    "context_image_token": "<IMG_CONTEXT>", "start_image_token": "<img>", "end_image_token": "</img>",
    "video_token": "<video>",
}  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}"
    "{% elif c['type'] == 'image' %}<IMG_CONTEXT>\n{% else %}<video>\n{% endif %}{% endfor %}\n{% endfor %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("internvl")
    tokenizer = transformers.AutoTokenizer.from_pretrained(llava(home / "tokenizer"), extra_special_tokens=TOKENS)
    tokenizer.add_special_tokens({"additional_special_tokens": [*TOKENS.values()]})
    parts = transformers.GotOcr2ImageProcessor(**EDGE, max_patches=4), tokenizer
    films = transformers.InternVLVideoProcessor(**EDGE)
    made = transformers.InternVLProcessor(*parts, films, image_seq_length=4, chat_template=TEMPLATE)
    made.save_pretrained(home / "saved")
    return home / "saved"


@pytest.fixture(scope="module")
def pair(folder):
    return tuple(library.AutoProcessor.from_pretrained(folder) for library in (omniform, transformers))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_sample_frames": True, "num_frames": 4},
        {"do_sample_frames": True, "num_frames": 3, "initial_shift": False},
        {"do_sample_frames": True, "num_frames": 5, "initial_shift": 2.5},
        {"do_sample_frames": True, "num_frames": 11, "fps": 2},
        {"do_sample_frames": True, "fps": 2, "video_metadata": {"fps": 5.0, "total_num_frames": 11, "duration": 2.2}},
        {"do_normalize": False, "do_center_crop": True, "crop_size": {"height": 12, "width": 10}, "resample": 2},
    ],
    ids=lambda options: ",".join(options),
)
def test_frames(options):
    ours, theirs = (library.InternVLVideoProcessor(**EDGE) for library in (omniform, transformers))
    known = options.pop("video_metadata", {"total_num_frames": 11})
    expected = theirs([LONG], return_tensors="pt", video_metadata=[known], **options)
    same(ours([LONG], return_tensors="pt", video_metadata=[known], **options)["pixel_values_videos"],
        expected["pixel_values_videos"])  # fmt: skip


def test_usual_settings_and_saved_files(tmp_path):
    usual, other = omniform.InternVLVideoProcessor(), transformers.InternVLVideoProcessor()
    for option in ("resample", "image_mean", "image_std", "do_sample_frames", "do_convert_rgb", "initial_shift"):
        theirs = getattr(other, option)
        assert getattr(usual, option) == (list(theirs) if isinstance(theirs, tuple) else theirs), option
    assert usual.size == dict(other.size)
    made = omniform.InternVLVideoProcessor(initial_shift=1, num_frames=3)
    made.save_pretrained(tmp_path)
    again = transformers.InternVLVideoProcessor.from_pretrained(tmp_path)
    assert (again.initial_shift, again.num_frames) == (1, 3)
    assert omniform.AutoVideoProcessor.from_pretrained(tmp_path) == made


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_frames": 12}, "num_frames"),
        ({"num_frames": 0}, "num_frames"),
        ({}, "num_frames, fps"),
        ({"fps": 1}, "num_frames, fps"),
        ({"num_frames": 2, "initial_shift": 11}, "no frame"),
        ({"num_frames": 2, "initial_shift": -1}, "initial_shift"),
        ({"num_frames": 2, "initial_shift": "no"}, "initial_shift"),
    ],
)
def test_frames_that_there_are_not(options, named):
    with pytest.raises(InputError, match=named):
        omniform.InternVLVideoProcessor(**EDGE)([LONG], do_sample_frames=True, **options)


TEXTS = ["a <IMG_CONTEXT> the <IMG_CONTEXT>", "hello", "<IMG_CONTEXT>\nfox"]
MIXED = ["a <video> and <IMG_CONTEXT>", "<IMG_CONTEXT> fox", "hello", "<IMG_CONTEXT><video>"]


@pytest.mark.parametrize(
    "call",
    [
        {"text": TEXTS, "images": PICTURES},
        {"text": TEXTS, "images": [PICTURES[:2], [], PICTURES[2:]], "return_tensors": "pt"},
        {"text": TEXTS, "images": PICTURES, "crop_to_patches": False, "return_tensors": "pt"},
        {"text": TEXTS, "images": PICTURES, "padding_side": "right", "max_patches": 2, "return_tensors": "np"},
        {"text": TEXTS, "images": PICTURES, "return_mm_token_type_ids": True, "return_tensors": "pt"},
        {"text": "a <video> fox", "videos": FILMS[0], "return_tensors": "pt"},
        {"text": "a <video> fox", "videos": FILMS[:1]},
        {"text": MIXED, "images": PICTURES, "videos": FILMS, "return_tensors": "pt"},
        {"text": MIXED, "images": [[one] for one in PICTURES[:2]] + [[], PICTURES[2:]], "videos": FILMS,
            "videos_kwargs": {"do_sample_frames": True, "num_frames": 2}, "return_tensors": "pt",
            "return_mm_token_type_ids": True},
        {"text": ["hello", "the fox"], "return_tensors": "pt"},
    ],
    ids=lambda call: ",".join(call),
)  # fmt: skip
def test_same_inputs(pair, call):
    if isinstance(call.get("images"), list) and len(call["images"]) == 4:
        call = {**call, "images": [[PICTURES[0]], [PICTURES[1]], [], [PICTURES[2]]]}
    compare(pair, padding=True, **call)


def test_spans_and_attributes(pair):
    ours, theirs = pair
    batch = ours(text=MIXED, images=PICTURES, videos=FILMS, padding=True, return_tensors="pt")
    order = dict.fromkeys((span.row, span.modality, span.item) for span in batch.spans)
    assert [*order] == [(0, "video", 0), (0, "image", 0), (1, "image", 1), (3, "image", 2), (3, "video", 1)]
    assert sum(span.length for span in batch.spans) == 4 * len(batch["pixel_values"])
    assert sum(span.length for span in batch.spans) == (batch["input_ids"] == ours.image_token_id).sum()
    for name in ("image_token", "video_token", "image_token_id", "image_token_ids", "start_image_token_id",
            "end_image_token", "image_seq_length", "model_input_names"):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name), name


def test_videos_of_different_lengths(pair):
    """The reference's frames must be as many in each video."""
    call = {"text": ["<video>", "<video> fox"], "padding": True, "return_tensors": "pt"}
    batch = pair[0](videos=[FILMS[0], LONG], return_metadata=True, **call)
    alone = [pair[1](text="<video>", videos=[film], return_tensors="pt")["pixel_values"] for film in (FILMS[0], LONG)]
    same(batch["pixel_values"], torch.cat(alone))
    assert [known.total_num_frames for known in batch["video_metadata"]] == [3, 11]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        ({"images": PICTURES}, "no text"),
        ({"text": "<IMG_CONTEXT>", "images": PICTURES[:2]}, "<IMG_CONTEXT>"),
        ({"text": "<video>", "images": PICTURES[:1]}, "<IMG_CONTEXT>|<video>"),
        ({"text": "a <IMG_CONTEXT>", "images": PICTURES[:1], "truncation": True, "max_length": 6}, "truncation"),
        ({"text": MIXED[0], "images": PICTURES[:1], "videos": FILMS[:1],
            "videos_kwargs": {"size": {"height": 8, "width": 8}}}, "differ in size"),
    ],
)  # fmt: skip
def test_what_does_not_fit(pair, call, named):
    with pytest.raises(InputError, match=named):
        pair[0](**call)


def test_conversations(pair):
    ours, theirs = pair
    parts = [{"type": "video", "video": FILMS[0]}, {"type": "text", "text": "what?"}]
    talk = [
        {"role": "user", "content": [*parts, {"type": "image", "image": PICTURES[2]}]},
        {"role": "user", "content": [{"type": "image", "image": PICTURES[0]}]},
    ]
    asked = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    found = ours.apply_chat_template(talk, **asked)
    text = theirs.apply_chat_template(talk)
    expected = theirs(text=text, images=[PICTURES[2], PICTURES[0]], videos=FILMS[:1], return_tensors="pt",
        add_special_tokens=not text.startswith("<s>"))  # fmt: skip
    for name in expected:
        same(found[name], expected[name], name)


def test_saved_and_loaded_both_ways(pair, folder, tmp_path):
    ours = omniform.InternVLProcessor.from_pretrained(folder, image_seq_length=3, num_frames=2)
    ours.save_pretrained(tmp_path)
    call = {"text": MIXED[0], "images": PICTURES[:1], "videos": FILMS[:1], "return_tensors": "pt"}
    for library in (omniform, transformers):
        again = library.AutoProcessor.from_pretrained(tmp_path)
        assert (again.image_seq_length, again.video_processor.num_frames) == (3, 2)
        compare((ours, again), do_sample_frames=True, **call)
    made = omniform.InternVLProcessor(ours.image_processor, ours.tokenizer)
    assert type(made.video_processor) is omniform.InternVLVideoProcessor and made.image_seq_length == 256
    with pytest.raises(InputError, match="image_processor"):
        omniform.InternVLProcessor(omniform.CLIPImageProcessor(), ours.tokenizer)
    with pytest.raises(ConfigError, match="image_seq_length"):
        omniform.InternVLProcessor(ours.image_processor, ours.tokenizer, image_seq_length=0)


def test_answers_are_the_references(pair, tmp_path):
    """A picture of several tiles, a video and no media, by one token."""
    processor, other = pair
    text = {"vocab_size": 512, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": None, "eos_token_id": None}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 16, "patch_size": 4}  # fmt: skip
    config = transformers.InternVLConfig(
        text_config=transformers.Qwen2Config(**text), vision_config=transformers.InternVLVisionConfig(**vision),
        image_token_id=processor.image_token_id,
    )  # fmt: skip
    theirs = saved_reference(transformers.InternVLForConditionalGeneration, config, tmp_path, scale=0.3)
    ours = omniform.AutoModelForImageTextToText.from_pretrained(tmp_path)
    call = {"text": MIXED, "images": PICTURES, "videos": FILMS, "padding": True, "return_tensors": "pt"}
    found = ours.generate(**processor(**call), max_new_tokens=4, do_sample=False)
    assert found.tolist() == theirs.generate(**other(**call), max_new_tokens=4, do_sample=False).tolist()


@pytest.mark.parametrize("name", ["PixtralPreTrainedModel", "Qwen3OmniMoeThinkerTextPreTrainedModel"])
def test_bases_have_the_references_names(name):
    ours = getattr(omniform, name)
    assert ours.__name__ == name and ours.config_class.__name__ == getattr(transformers, name).config_class.__name__
