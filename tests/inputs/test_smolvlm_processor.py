"""SmolVLM's video processor and processor against the reference's."""

from __future__ import annotations

import numpy as np
import pytest
from test_idefics3_processor import PICTURES, SMALL
from test_processors import compare, same
from test_tokenizers_folders import llava

import omniform
from omniform.core.errors import InputError
from omniform.inputs.processors.smolvlm import in_words
from reference import transformers

FILMS = [np.random.default_rng(n).integers(0, 256, (n, 40, 56, 3), dtype=np.uint8) for n in (5, 3)]
KNOWN = [{"fps": 2.0, "duration": len(film) / 2, "total_num_frames": len(film)} for film in FILMS]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    module = transformers.models.smolvlm.processing_smolvlm
    module.num2words = in_words  # the package that it asks for is not installed
    folder = tmp_path_factory.mktemp("smolvlm")
    tokenizer = transformers.AutoTokenizer.from_pretrained(llava(folder / "tokenizer"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<fake_token_around_image>", "<end_of_utterance>"]})
    parts = transformers.SmolVLMImageProcessor(**SMALL), tokenizer, transformers.SmolVLMVideoProcessor(**SMALL)
    transformers.SmolVLMProcessor(*parts, image_seq_len=4).save_pretrained(folder / "saved")
    return tuple(library.AutoProcessor.from_pretrained(folder / "saved") for library in (omniform, transformers))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_sample_frames": True, "num_frames": 3, "fps": 1, "video_metadata": KNOWN},
        {"size": {"height": 20, "width": 30}, "do_normalize": False},
    ],
)
def test_frames(options):
    ours, theirs = (library.SmolVLMVideoProcessor(**SMALL) for library in (omniform, transformers))
    expected = theirs(FILMS, return_tensors="pt", **options)
    found = ours(FILMS, return_tensors="pt", **options)
    for name in expected:
        same(found[name], expected[name], name)


def test_settings_of_the_first_release():
    sampling = {"video_sampling": {"max_frames": 6, "fps": 2, "video_size": {"longest_edge": 32}}}
    ours = omniform.SmolVLMVideoProcessor.from_dict(sampling)
    theirs = transformers.SmolVLMVideoProcessor(**sampling)
    assert (ours.num_frames, ours.fps, ours.size["longest_edge"]) == (theirs.num_frames, theirs.fps, 32)


@pytest.mark.parametrize(
    "call",
    [
        {"text": "hello <image> the <image>", "images": PICTURES[:2]},
        {"text": ["hello <image>", "fox"], "images": [[PICTURES[1]], []]},
        {
            "text": ["the <video> fox"],
            "videos": FILMS[:1],
            "video_metadata": KNOWN[:1],
            "do_sample_frames": True,
            "num_frames": 3,
            "fps": 1,
        },
        {"text": ["hello", "the fox"]},
    ],
)
def test_same_inputs(pair, call):
    compare(pair, padding=True, return_tensors="pt", **call)


def test_conversations_with_videos(pair):
    talk = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "what?"}]}]
    found, expected = (one.apply_chat_template(talk, add_generation_prompt=True) for one in pair)
    assert found == expected


def test_pictures_and_videos_in_one_call(pair):
    with pytest.raises(InputError, match="calls of their own"):
        pair[0](text="<image><video>", images=PICTURES[:1], videos=FILMS[:1])


def test_numbers_in_words():
    told = {8: "eight", 64: "sixty-four", 110: "one hundred and ten", 1001: "one thousand and one"}
    assert {number: in_words(number) for number in told} == told
