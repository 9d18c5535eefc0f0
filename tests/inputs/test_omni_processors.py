"""The processors of Qwen3-Omni and Qwen2.5-Omni against the reference's: pictures, films, sounds, films with theirs."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
import torch
from films import film, frames
from test_processors import same
from test_qwen_vl_processors import FILM, IMAGES, PICTURE, PICTURES, TEMPLATE, TOKENS
from test_tokenizers_folders import _byte_level, write

import omniform
from omniform.core.errors import InputError, UnknownArgumentError
from omniform.inputs.processors.omni import Qwen2_5OmniProcessor, Qwen3OmniMoeProcessor
from reference import transformers

SOUND = "<|audio_start|><|audio_pad|><|audio_end|>"
NAMED = {
    "image_token": "<|image_pad|>", "audio_token": "<|audio_pad|>", "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>", "vision_eos_token": "<|vision_end|>",
    "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>",
}  # fmt: skip
KINDS = ["Qwen3OmniMoe", "Qwen2_5Omni"]
RNG = np.random.default_rng(3)
WAVES = [RNG.normal(0, 0.1, length).astype(np.float32) for length in (16000, 41000, 3000)]
SHORT, LONG = frames(6, 32, 48), frames(11, 48, 40, seed=2)
CHAT = TEMPLATE.replace(
    "{% else %}{{ c['text'] }}", "{% elif c['type'] == 'audio' %}" + SOUND + "{% else %}{{ c['text'] }}"
)


def tokenizer(folder):
    vocab, merges = _byte_level()
    text = "#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in merges)
    tokens = [*TOKENS, "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>"]
    added = {str(len(vocab) + i): {"content": t, "special": True} for i, t in enumerate(tokens)}
    values = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added, "eos_token": "<|im_end|>",
              "pad_token": "<|endoftext|>", "extra_special_tokens": NAMED}  # fmt: skip
    return write(folder, vocab=vocab, merges=text, tokenizer_config=values, config={"model_type": "qwen2_vl"})


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    made = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        theirs = getattr(transformers, f"{kind}Processor")(
            transformers.Qwen2VLImageProcessor(**IMAGES), transformers.Qwen2VLVideoProcessor(patch_size=4),
            transformers.WhisperFeatureExtractor(feature_size=8),
            transformers.AutoTokenizer.from_pretrained(tokenizer(folder)), chat_template=CHAT,
        )  # fmt: skip
        theirs.save_pretrained(folder / "saved")
        made[kind] = tuple(home.AutoProcessor.from_pretrained(folder / "saved") for home in (omniform, transformers))
    return made


def compare(pair, **call):
    ours, theirs = pair
    expected, found = theirs(**call), ours(**call)
    assert list(found) == list(expected)
    for name in expected:
        same(found[name], expected[name], name)
    return found


SMALL = {"size": {"shortest_edge": 256, "longest_edge": 1600}}
CALLS = [
    {"text": ["hello", "the fox " + PICTURE], "images": PICTURES[0], "padding": True, "return_tensors": "pt"},
    {"text": ["hear " + SOUND, SOUND + "and" + SOUND], "audio": WAVES, "padding": True, "return_tensors": "pt"},
    {"text": "what " + FILM, "videos": [SHORT], "return_tensors": "pt", "videos_kwargs": SMALL},
    {"text": "what " + FILM, "videos": [SHORT], "return_tensors": "pt"},
    {"text": [FILM + PICTURE, "text only", PICTURE + SOUND + FILM], "images": PICTURES[:2], "videos": [SHORT, LONG],
     "audio": WAVES[:1], "padding": True, "return_tensors": "pt", "do_sample_frames": False, "videos_kwargs": SMALL,
     "return_mm_token_type_ids": True},
    {"text": ["hello", "world"], "padding_side": "right", "padding": "max_length", "max_length": 9},
    {"text": PICTURE, "images": PICTURES[1], "images_kwargs": {"size": {"shortest_edge": 64, "longest_edge": 300}}},
    # Films among the tokens of their sounds.
    {"text": ["a" + FILM, FILM + "b"], "videos": [SHORT, LONG], "audio": WAVES[:2], "padding": True,
     "load_audio_from_video": True, "audio_from_video_indices": [0, 1], "return_tensors": "pt",
     "videos_kwargs": SMALL},
    {"text": [SOUND + "a" + FILM, FILM + SOUND], "videos": [SHORT, LONG], "audio": [*WAVES, WAVES[0]], "padding": True,
     "load_audio_from_video": True, "audio_from_video_indices": [None, 0, 1, None], "return_tensors": "pt",
     "videos_kwargs": {**SMALL, "fps": 0.7, "do_sample_frames": False}, "position_id_per_seconds": 9.5},
    {"text": FILM + FILM, "videos": [SHORT, LONG], "audio": WAVES[1:2], "load_audio_from_video": True,
     "audio_from_video_indices": [1], "return_tensors": "pt", "seconds_per_chunk": 0.5, "videos_kwargs": SMALL},
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_calls(pairs, kind):
    for call in CALLS:
        compare(pairs[kind], **call)
    ours, theirs = pairs[kind]
    assert ours.model_input_names == theirs.model_input_names


@pytest.mark.parametrize("kind", KINDS)
def test_places(pairs, kind):
    ours, _ = pairs[kind]
    batch = ours(**CALLS[8])
    for span in batch.spans:
        token = {"video": ours.video_token_id, "audio": ours.audio_token_id}[span.modality]
        assert (batch["input_ids"][span.row, span.start : span.start + span.length] == token).all()
    assert sorted({(s.modality, s.row, s.item) for s in batch.spans}) == [
        ("audio", 0, 0), ("audio", 0, 1), ("audio", 1, 2), ("audio", 1, 3), ("video", 0, 0), ("video", 1, 1)
    ]  # fmt: skip


def talkie(pictures, wave, rate=16000):
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        shown = container.add_stream("mpeg4", rate=5)
        shown.height, shown.width, shown.pix_fmt = pictures.shape[1], pictures.shape[2], "yuv420p"
        heard = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        for picture in pictures:
            container.mux(shown.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        block = av.AudioFrame.from_ndarray((wave * 32767).astype(np.int16)[None], format="s16", layout="mono")
        block.sample_rate = rate
        container.mux(heard.encode(block))
        container.mux([*shown.encode(), *heard.encode()])
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_tracks_of_files_in_a_chat(pairs, kind, tmp_path):
    (tmp_path / "talkie.mkv").write_bytes(talkie(SHORT, WAVES[0]))
    (tmp_path / "silent.mp4").write_bytes(film(LONG, fps=5))
    parts = [{"type": "audio", "audio": WAVES[2]}, {"type": "video", "path": str(tmp_path / "silent.mp4")},
             {"type": "text", "text": "then"}, {"type": "video", "path": str(tmp_path / "talkie.mkv")}]  # fmt: skip
    how = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "videos_kwargs": SMALL}
    ours, _ = pairs[kind]
    found = ours.apply_chat_template([{"role": "user", "content": parts}], load_audio_from_video=True, **how)
    kept = (WAVES[0] * 32767).astype(np.int16).astype(np.float32) / 32768
    text = ours.apply_chat_template([{"role": "user", "content": parts}])
    films = [omniform.video_utils.load_video(tmp_path / name)[0] for name in ("silent.mp4", "talkie.mkv")]
    expected = ours(text=text, videos=films, audio=[WAVES[2], kept], audio_from_video_indices=[None, 1],
                    load_audio_from_video=True, return_tensors="pt", videos_kwargs=SMALL)  # fmt: skip
    for name in expected:
        torch.testing.assert_close(torch.as_tensor(found[name]), torch.as_tensor(expected[name]))


def test_answers(pairs):
    for ours, theirs in pairs.values():
        ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
        wave = torch.randn(1, 1, 30)
        assert ours.post_process_image_text_to_text(ids) == theirs.post_process_image_text_to_text(ids)
        for given in ((ids, wave), (ids, [wave, wave])):
            assert ours.post_process_multimodal_output(given) == theirs.post_process_multimodal_output(given)
            found, expected = (
                one.post_process_multimodal_output(given, generation_mode="audio") for one in (ours, theirs)
            )
            assert len(found) == len(expected) and all(map(np.array_equal, found, expected))
        times = np.array([0, 1, 5, 9, 9, 9, 9, 12, 30.0, 31])
        for length in (2, 5, 40):
            assert ours.get_chunked_index(times, length) == theirs.get_chunked_index(times, length)
        with pytest.raises(InputError):
            ours.post_process_multimodal_output(ids, generation_mode="image")


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_read_by_both(pairs, kind, tmp_path):
    ours, theirs = pairs[kind]
    ours.save_pretrained(tmp_path)
    back = tuple(home.AutoProcessor.from_pretrained(tmp_path) for home in (omniform, transformers))
    assert [type(one).__name__ for one in back] == [f"{kind}Processor"] * 2
    for call in (CALLS[4], CALLS[7]):
        compare(back, **call)
        same(back[0](**call)["input_ids"], theirs(**call)["input_ids"], "input_ids")


def test_wrong_inputs_refused(pairs):
    ours = pairs["Qwen3OmniMoe"][0]
    track = {"load_audio_from_video": True, "videos": [SHORT]}
    for call in (
        {"text": None, "images": PICTURES[0]}, {"text": SOUND}, {"text": SOUND, "audio": WAVES[:2]},
        {"text": FILM + SOUND, "audio": WAVES[:1], **track}, {"text": FILM, **track},
        {"text": FILM, "audio": WAVES[:1], "audio_from_video_indices": [1], **track},
        {"text": FILM, "audio": WAVES[:2], "audio_from_video_indices": [0], **track},
    ):  # fmt: skip
        with pytest.raises(InputError):
            ours(**call)
    with pytest.raises(UnknownArgumentError):
        ours(text="a", load_audio_from_videos=True)
    with pytest.raises(InputError, match="patches"):
        Qwen3OmniMoeProcessor(
            omniform.CLIPImageProcessor(), ours.video_processor, ours.feature_extractor, ours.tokenizer
        )
    assert Qwen2_5OmniProcessor.tokens(100) == 25
