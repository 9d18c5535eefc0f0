"""The processors of Qwen2-VL, Qwen2.5-VL and Qwen3-VL against the reference's: pictures, films, texts and files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from films import film, frames
from PIL import Image
from test_processors import same
from test_tokenizers_folders import _byte_level, write

import omniform
from omniform.core.errors import ConfigError, InputError, UnknownArgumentError
from reference import transformers

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
          "<|video_pad|>"]  # fmt: skip
PICTURE, FILM = "<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}" + PICTURE + "{% elif c['type'] == 'video' %}" + FILM
    + "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)  # fmt: skip
PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30 + 17 * seed, 41, 3), dtype=np.uint8))
    for seed in range(3)
]
SHORT, LONG = frames(6, 32, 48), frames(11, 48, 40, seed=2)
IMAGES = {"patch_size": 4, "size": {"shortest_edge": 256, "longest_edge": 1600}}
KINDS = {
    "Qwen2VL": ("Qwen2VLVideoProcessor", {"patch_size": 4, "size": {"shortest_edge": 256, "longest_edge": 1600}}),
    "Qwen2_5_VL": ("Qwen2VLVideoProcessor", {"patch_size": 4, "size": {"shortest_edge": 256, "longest_edge": 1600}}),
    "Qwen3VL": ("Qwen3VLVideoProcessor", {"patch_size": 4, "size": {"shortest_edge": 256, "longest_edge": 9000}}),
}  # fmt: skip


def tokenizer(folder):
    vocab, merges = _byte_level()
    text = "#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in merges)
    added = {str(len(vocab) + i): {"content": t, "special": True} for i, t in enumerate(TOKENS)}
    values = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added, "eos_token": "<|im_end|>",
              "pad_token": "<|endoftext|>", "padding_side": "left"}  # fmt: skip
    return write(folder, vocab=vocab, merges=text, tokenizer_config=values, config={"model_type": "qwen2_vl"})


def save(folder, kind):
    films, how = KINDS[kind]
    theirs = getattr(transformers, f"{kind}Processor")(
        transformers.Qwen2VLImageProcessor(**IMAGES), transformers.AutoTokenizer.from_pretrained(tokenizer(folder)),
        getattr(transformers, films)(**how), chat_template=TEMPLATE,
    )  # fmt: skip
    theirs.save_pretrained(folder / "saved")
    return folder / "saved"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: save(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture(scope="module")
def pairs(folders):
    return {
        kind: tuple(home.AutoProcessor.from_pretrained(folder) for home in (omniform, transformers))
        for kind, folder in folders.items()
    }


def compare(pair, **call):
    ours, theirs = pair
    expected, found = theirs(**call), ours(**call)
    assert list(found) == list(expected)
    for name in expected:
        same(found[name], expected[name], name)
    return found


RATE = {"total_num_frames": 6, "fps": 3.0}
CALLS = [
    {"text": ["hello", "the fox " + PICTURE], "images": PICTURES[0], "padding": True, "return_tensors": "pt"},
    {"text": [PICTURE + "a" + PICTURE, "none", "b" + PICTURE], "images": PICTURES, "padding": True,
     "padding_side": "right", "return_tensors": "pt"},
    {"text": "what " + FILM, "videos": [SHORT], "return_tensors": "pt"},
    {"text": [FILM + PICTURE, "text only", PICTURE + FILM], "images": PICTURES[:2], "videos": [SHORT, LONG],
     "padding": True, "return_tensors": "pt", "do_sample_frames": False},
    {"text": FILM, "videos": SHORT, "video_metadata": [RATE], "fps": 2, "do_sample_frames": True,
     "return_tensors": "pt"},
    {"text": PICTURE, "images": PICTURES[1], "images_kwargs": {"size": {"shortest_edge": 64, "longest_edge": 300}}},
    {"images": PICTURES[:2], "text": PICTURE * 2, "return_tensors": "np"},
    {"text": ["hello", "world"]},
    {"text": FILM, "videos": [[Image.fromarray(frame) for frame in SHORT]], "return_tensors": "pt",
     "do_sample_frames": False, "cap_pixels_per_frame": True},
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_calls(pairs, kind):
    for call in CALLS:
        compare(pairs[kind], **call)
    ours, theirs = pairs[kind]
    assert ours.model_input_names == theirs.model_input_names


@pytest.mark.parametrize("kind", KINDS)
def test_chats_and_files(pairs, kind, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(film(frames(20, 32, 48), fps=5))
    parts = [{"type": "image", "image": PICTURES[0]}, {"type": "text", "text": "then"},
             {"type": "video", "path": str(tmp_path / "clip.mp4")}]  # fmt: skip
    chats = [[{"role": "user", "content": parts}], [{"role": "user", "content": "nothing to see"}]]
    how = {"tokenize": True, "return_dict": True, "add_generation_prompt": True, "return_tensors": "pt"}
    more = {"padding": True, "do_sample_frames": True, "fps": 1}
    ours, theirs = pairs[kind]
    found = ours.apply_chat_template(chats, **how, processor_kwargs=more)
    # The reference decodes no files here: it gets all frames, and what is known of them.
    whole, known = omniform.video_utils.load_video(tmp_path / "clip.mp4")
    texts = theirs.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    told = [{"total_num_frames": len(whole), "fps": known.fps}]
    expected = theirs(
        text=texts, images=[PICTURES[0]], videos=[whole], video_metadata=told, return_tensors="pt", **more
    )
    for name in expected:
        same(found[name], expected[name], name)
    typed = ours.apply_chat_template(
        [{"role": "user", "content": [parts[0], {"type": "text", "text": "<|video_pad|>"}]}], **how
    )
    assert not (typed["mm_token_type_ids"] == 2).any()


def test_runs_of_a_film_between_its_times(pairs):
    batch = pairs["Qwen3VL"][0](text="a" + FILM, videos=[SHORT], do_sample_frames=False, return_tensors="pt")
    time, rows, columns = batch["video_grid_thw"][0].tolist()
    each = rows * columns // 4
    assert [(s.length, s.offset, s.item) for s in batch.spans] == [(each, each * i, 0) for i in range(time)]
    text = pairs["Qwen3VL"][0].decode(batch["input_ids"][0])
    assert "<0.0 seconds>" in text and "<0.2 seconds>" in text  # 24 a second, where nobody knows


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_known_of_films_makes_no_tensor(pairs, kind):
    call = {"text": FILM, "videos": [SHORT], "do_sample_frames": False, "return_metadata": True, "return_tensors": "pt"}
    found, expected = (one(**call) for one in pairs[kind])
    assert sorted(found) == sorted(expected)
    assert found["video_metadata"][0].total_num_frames == expected["video_metadata"][0].total_num_frames


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_read_by_both(folders, pairs, kind, tmp_path):
    ours, theirs = pairs[kind]
    ours.save_pretrained(tmp_path)
    again = tuple(home.AutoProcessor.from_pretrained(tmp_path) for home in (omniform, transformers))
    for pair in (again, (again[0], theirs), (ours, again[1])):
        compare(pair, **CALLS[3])
    read = [json.loads((one / "processor_config.json").read_text()) for one in (folders[kind], tmp_path)]
    assert read[1] == read[0]


OLD = {
    "min_pixels": 256, "max_pixels": 2000, "patch_size": 4, "temporal_patch_size": 2, "merge_size": 2,
    "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.2], "image_processor_type": "Qwen2VLImageProcessor",
}  # fmt: skip
FILES = [
    OLD,
    {**OLD, "size": {"min_pixels": 256, "max_pixels": 2000}},
    {**OLD, "size": {"shortest_edge": 100, "longest_edge": 5000}, "image_processor_type": "Qwen2VLImageProcessorFast"},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(len(FILES)))
def test_files_of_first_releases(tmp_path, kind, number):
    folder = tokenizer(tmp_path)
    file = {**FILES[number], "processor_class": f"{kind}Processor"}
    if kind == "Qwen3VL":
        films = {"video_processor_type": "Qwen3VLVideoProcessor", **KINDS[kind][1]}
        (folder / "video_preprocessor_config.json").write_text(json.dumps(films))
    (folder / "preprocessor_config.json").write_text(json.dumps(file))
    family = {"Qwen2VL": "qwen2_vl", "Qwen2_5_VL": "qwen2_5_vl", "Qwen3VL": "qwen3_vl"}[kind]
    (folder / "config.json").write_text(json.dumps({"model_type": family}))
    pair = tuple(home.AutoProcessor.from_pretrained(folder) for home in (omniform, transformers))
    compare(pair, **CALLS[3])
    changed = omniform.AutoProcessor.from_pretrained(folder, min_pixels=64, max_pixels=400)
    assert changed.image_processor.size == {"shortest_edge": 64, "longest_edge": 400}


FILM_CASES = [
    ([SHORT], {"do_sample_frames": False}), ([LONG, SHORT], {"do_sample_frames": False, "merge_size": 1}),
    ([LONG], {"do_sample_frames": True, "num_frames": 5, "fps": None}),
    ([LONG], {"do_sample_frames": True, "fps": 4, "video_metadata": [{"total_num_frames": 11, "fps": 6.0}]}),
    ([LONG], {"do_sample_frames": True, "fps": 24, "video_metadata": [{"total_num_frames": 11, "fps": 6.0}]}),
    ([LONG], {"do_sample_frames": True, "fps": 1, "video_metadata": [{"total_num_frames": 11, "fps": 30.0}]}),
    ([SHORT], {"do_sample_frames": False, "cap_pixels_per_frame": True}),
    ([SHORT], {"do_sample_frames": False, "temporal_patch_size": 4, "do_normalize": False}),
    ([SHORT], {"do_sample_frames": False, "do_resize": False}),
    ([frames(1, 8, 300)], {"do_sample_frames": False, "temporal_patch_size": 1}),
    ([LONG[:4, :6, :30]], {"do_sample_frames": False}),
    (torch.from_numpy(np.stack([SHORT, SHORT])), {"do_sample_frames": False, "resample": 2}),
    ([SHORT], {"do_sample_frames": False, "size": {"shortest_edge": 10, "longest_edge": 700}}),
]  # fmt: skip


@pytest.mark.parametrize("name", ["Qwen2VLVideoProcessor", "Qwen3VLVideoProcessor"])
def test_films(name):
    how = next(settings for films, settings in KINDS.values() if films == name)
    ours, theirs = (getattr(home, name)(**how) for home in (omniform, transformers))
    for videos, call in FILM_CASES:
        expected = theirs(videos, return_tensors="pt", return_metadata=True, **call)
        found = ours(videos, return_tensors="pt", return_metadata=True, **call)
        for entry in ("pixel_values_videos", "video_grid_thw"):
            same(found[entry], expected[entry], f"{call} {entry}")
        for one, other in zip(found["video_metadata"], expected["video_metadata"], strict=True):
            assert [int(i) for i in one.frames_indices] == [int(i) for i in other.frames_indices], call
    told = json.loads(getattr(transformers, name)().to_json_string())
    assert getattr(omniform, name)().to_dict() == {**told, "video_processor_type": name}
    for size in ((7, 33, 60), (4, 100, 20), (12, 64, 64)):
        for call in ({}, {"patch_size": 8}, {"cap_pixels_per_frame": True} if "3" in name else {"merge_size": 1}):
            assert ours.get_num_of_video_patches(*size, call) == theirs.get_num_of_video_patches(*size, call), call


def test_pixels_between_two_numbers():
    """The smart resize, for odd pictures."""
    ours, theirs = (home.Qwen2VLImageProcessor(**IMAGES) for home in (omniform, transformers))
    rng = np.random.default_rng(0)
    for height, width in [*rng.integers(3, 300, (60, 2)).tolist(), [1, 150], [400, 3], [8, 8]]:
        for call in ({}, {"patch_size": 5}):
            assert ours.get_number_of_image_patches(height, width, call) == theirs.get_number_of_image_patches(
                height, width, call
            )
    for call in ({"min_pixels": 100, "max_pixels": 900}, {"max_pixels": 500}, {"size": IMAGES["size"]}):
        same(ours(PICTURES[0], return_tensors="pt", **call)["pixel_values"],
             theirs(PICTURES[0], return_tensors="pt", **call)["pixel_values"])  # fmt: skip
    for made in ({"min_pixels": 100, "max_pixels": 900}, {"max_pixels": 500}):
        found, expected = (
            home.Qwen2VLImageProcessor(patch_size=4, **made)(PICTURES[0]) for home in (omniform, transformers)
        )
        same(found["image_grid_thw"], expected["image_grid_thw"])


def test_what_is_refused(pairs):
    ours = pairs["Qwen2VL"][0]
    for call in (
        {"text": PICTURE, "images": PICTURES}, {"text": [PICTURE, "b"], "images": PICTURES[:2]}, {"text": FILM},
        {"text": PICTURE, "images": Image.new("RGB", (900, 2))},
        {"text": PICTURE, "images": PICTURES[0], "size": {"height": 4, "width": 4}},
        {"text": PICTURE, "images": PICTURES[0], "do_resize": False},
        {"text": PICTURE, "images": PICTURES[0], "max_length": 6, "truncation": True},
        {"text": FILM, "videos": SHORT, "num_frames": 2, "fps": 1},
        {"text": FILM, "videos": SHORT, "num_frames": 60, "do_sample_frames": True},
    ):  # fmt: skip
        with pytest.raises(InputError):
            ours(**call)
    with pytest.raises(UnknownArgumentError, match="max_pixels"):
        ours(text=PICTURE, images=PICTURES[0], max_pixel=400)
    with pytest.raises(ConfigError):
        omniform.Qwen2VLImageProcessor(patch_size=0)
    with pytest.raises(InputError, match="patches"):
        omniform.Qwen2VLProcessor(omniform.CLIPImageProcessor(), ours.tokenizer, ours.video_processor)
