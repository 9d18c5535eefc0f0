"""Videos: every way in, which frames are taken, the processors beside the reference, files of strangers."""

from __future__ import annotations

import base64
import io
import json
import struct

import numpy as np
import pytest
import torch
from films import film, frames, sound
from PIL import Image

import omniform
from omniform.core.errors import ConfigError, InputError, RepoError, UnknownArgumentError, UnknownNameError
from omniform.inputs.media_access import MediaAccess
from omniform.inputs.videos import VideoMetadata, load_video
from omniform.inputs.videos.decode import VideoFile
from reference import transformers

SMALL = {"size": {"shortest_edge": 20}, "crop_size": {"height": 18, "width": 18}}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("films") / "clip.mp4"
    path.write_bytes(film())
    return path


def theirs(path, **how):
    return transformers.video_utils.load_video(str(path), backend="pyav", **how)


@pytest.mark.parametrize("how", [{}, {"num_frames": 5}, {"num_frames": 20}, {"fps": 3}, {"fps": 0.1}])
def test_frames_are_the_references(clip, how):
    ours, known = load_video(clip, **how)
    expected, told = theirs(clip, **how)
    assert np.array_equal(ours, expected)
    assert list(known.frames_indices) == list(told.frames_indices)
    for name in ("total_num_frames", "fps", "width", "height", "duration"):
        assert known[name] == told[name], name
    assert known.timestamps == told.timestamps and known.sampled_fps == told.sampled_fps


def test_every_way_in(clip):
    data = clip.read_bytes()
    expected, _ = load_video(str(clip), num_frames=4)
    uri = "data:video/mp4;base64," + base64.b64encode(data).decode()
    for source in (clip, f"file://{clip}", data, bytearray(data), io.BytesIO(data), {"path": str(clip)},
                   {"bytes": data, "path": None}, uri):  # fmt: skip
        assert np.array_equal(load_video(source, num_frames=4)[0], expected)
    whole, _ = load_video(clip)
    tensor = torch.from_numpy(whole).permute(0, 3, 1, 2)
    for source in (whole, tensor, [Image.fromarray(frame) for frame in whole], list(whole)):
        assert np.array_equal(load_video(source, num_frames=4)[0], expected)


@pytest.mark.parametrize(("kind", "codec", "pixels"), [
    ("matroska", "mpeg4", "yuv420p"), ("avi", "mjpeg", "yuvj420p"), ("gif", "gif", "rgb8"), ("mpegts", "mpeg2video",
    "yuv420p"), ("mp4", "libx264", "yuv420p"), ("webm", "libvpx-vp9", "yuv420p"),
])  # fmt: skip
def test_kinds_of_files(kind, codec, pixels):
    """Those whose header does not say how many frames there are, too."""
    data = film(frames(9), kind, codec, 25, pixels)
    found, known = load_video(data, num_frames=3)
    assert known.total_num_frames == 9 and list(known.frames_indices) == [0, 3, 6]
    whole, _ = load_video(data)
    assert len(whole) == 9 and np.array_equal(found, whole[[0, 3, 6]])
    brightness = whole.reshape(9, -1).mean(1)
    assert (np.diff(brightness) > 5).all()


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_films_are_turned_upright(clip, matrix, turns):
    """As telephones write them: how they were held is a matrix in the header."""
    data = bytearray(clip.read_bytes())
    at = data.find(b"tkhd") + 44
    a, b, c, d = (number << 16 for number in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    found, known = load_video(bytes(data), num_frames=2)
    plain, _ = load_video(clip, num_frames=2)
    assert np.array_equal(found, np.rot90(plain, turns, (1, 2)))
    assert (known.height, known.width) == found.shape[1:3]


def test_frames_in_any_order_and_twice(clip):
    whole, _ = load_video(clip)
    found, known = load_video(clip, sample_indices_fn=lambda metadata, last: [last, 0, 0, -1], last=7)
    assert np.array_equal(found, whole[[7, 0, 0, 19]]) and known.frames_indices == [7, 0, 0, 19]


def test_nothing_behind_the_last_frame_is_decoded(clip, monkeypatch):
    seen = []
    decoded = VideoFile._decoded
    monkeypatch.setattr(VideoFile, "_decoded", lambda self: (seen.append(1) or frame for frame in decoded(self)))
    load_video(clip, sample_indices_fn=lambda metadata: [0, 3])
    assert len(seen) == 4


@pytest.mark.parametrize(("kind", "codec", "pixels"), [
    ("mp4", "mpeg4", "yuv420p"), ("mp4", "libx264", "yuv420p"), ("matroska", "mpeg4", "yuv420p"),
    ("avi", "mjpeg", "yuvj420p"), ("mpegts", "mpeg2video", "yuv420p"),
])  # fmt: skip
def test_frames_far_apart_are_found_by_keyframes(kind, codec, pixels, monkeypatch):
    """They are the same as where all are decoded; where a seek leads astray (MPEG-TS), all are."""
    data = film(frames(260, 16, 16), kind, codec, 25, pixels)
    whole, _ = load_video(data)
    places = [250, 0, 3, 90, 91, 90]
    all_of_them = []
    decoded = VideoFile._decoded
    monkeypatch.setattr(VideoFile, "_decoded", lambda self: all_of_them.append(1) or decoded(self))
    assert np.array_equal(load_video(data, sample_indices_fn=lambda **_: places)[0], whole[places])
    assert len(all_of_them) == (kind == "mpegts")


@pytest.mark.parametrize("kind", ["VideoMAE", "Timesformer"])
def test_pixels_are_the_references(kind):
    ours, other = (getattr(home, f"{kind}VideoProcessor")(**SMALL) for home in (omniform, transformers))
    wide, tall = frames(5), frames(5, 56, 40, seed=2)
    cases = [
        (wide, {}), (wide, {"num_frames": 2, "do_sample_frames": True}), (torch.from_numpy(wide), {"resample": 3}),
        ([wide, tall], {}), ([[Image.fromarray(x) for x in wide], [Image.fromarray(x) for x in tall]], {}),
        (np.stack([wide, wide]), {"do_center_crop": False}), (wide.transpose(0, 3, 1, 2), {"do_normalize": False}),
        (wide, {"do_resize": False, "do_rescale": False}), (wide[..., :1], {}), (wide, {"size": 24}),
        (torch.from_numpy(wide) / 255, {"do_rescale": False}), (wide, {"crop_size": 40, "image_mean": 0.3}),
        (wide, {"size": {"height": 20, "width": 30}}), (wide[:1], {"do_convert_rgb": False}),
        (wide, {"do_sample_frames": True, "fps": 5, "video_metadata": {"total_num_frames": 5, "fps": 10.0}}),
    ]  # fmt: skip
    for videos, how in cases:
        found, expected = (one(videos, return_tensors="pt", **how)["pixel_values"] for one in (ours, other))
        assert found.shape == expected.shape and found.dtype == expected.dtype, how
        assert torch.allclose(found, expected, atol=1e-6), how
    loose = ours([wide, tall], do_center_crop=False)["pixel_values"]
    assert [tuple(one.shape) for one in loose] == [(5, 3, 20, 26), (5, 3, 28, 20)]


def test_what_shines_through_is_laid_on_white():
    alpha = np.concatenate([frames(2), np.full((2, 48, 64, 1), 100, np.uint8)], 3)
    found = omniform.VideoMAEVideoProcessor(**SMALL)(alpha, return_tensors="pt")["pixel_values"]
    other = transformers.VideoMAEVideoProcessor(**SMALL)
    expected = other(alpha, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    assert torch.allclose(found, expected, atol=1e-5)
    metadata = omniform.VideoMAEVideoProcessor()(frames(2), return_metadata=True)["video_metadata"]
    assert metadata[0].frames_indices == [0, 1] and (metadata[0].height, metadata[0].width) == (48, 64)


def test_files_are_sampled(clip):
    ours = omniform.TimesformerVideoProcessor(**SMALL, num_frames=4, do_sample_frames=True, return_metadata=True)
    found = ours(str(clip), return_tensors="pt")
    assert found["video_metadata"][0].frames_indices == [0, 5, 10, 15] and found["video_metadata"][0].fps == 10
    whole, _ = load_video(clip)
    again = ours(whole[[0, 5, 10, 15]], do_sample_frames=False, return_tensors="pt")
    assert torch.equal(found["pixel_values"], again["pixel_values"])
    assert ours([clip, str(clip)], fps=2, num_frames=None, return_tensors="np")["pixel_values"].shape[:2] == (2, 4)
    with pytest.raises(InputError, match="exclude"):
        ours(clip, fps=2)


def test_frames_by_path(tmp_path):
    """Lists of paths three deep are the frames of a video, as in the ecosystem."""
    paths = []
    for number, frame in enumerate(frames(3)):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(frame).save(paths[-1])
    ours = omniform.VideoMAEVideoProcessor(**SMALL)
    expected = ours(frames(3), return_tensors="pt")["pixel_values"]
    assert torch.equal(ours([[paths]], return_tensors="pt")["pixel_values"], expected)


def test_files_of_processors_go_between_libraries(tmp_path):
    kinds = [(omniform, transformers), (transformers, omniform)]
    for number, (writer, reader) in enumerate(kinds):
        folder = tmp_path / str(number)
        writer.VideoMAEVideoProcessor(**SMALL, num_frames=4, do_sample_frames=True).save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps({"model_type": "videomae"}))
        read = reader.AutoVideoProcessor.from_pretrained(folder)
        assert type(read).__name__ == "VideoMAEVideoProcessor" and read.num_frames == 4
        assert read(frames(8), return_tensors="pt")["pixel_values"].shape == (1, 4, 3, 18, 18)
    ours = omniform.VideoMAEVideoProcessor.from_pretrained(tmp_path / "1", num_frames=3)
    assert ours.num_frames == 3 and ours.size == {"shortest_edge": 20}


@pytest.mark.parametrize(("file", "family", "expected"), [
    ({"image_processor_type": "VideoMAEImageProcessor", "size": 20}, "timesformer", "VideoMAEVideoProcessor"),
    ({"feature_extractor_type": "VideoMAEFeatureExtractor"}, "timesformer", "TimesformerVideoProcessor"),
    ({"image_processor_type": "VideoMAEImageProcessorFast", "crop_size": 9}, "videomae", "VideoMAEVideoProcessor"),
])  # fmt: skip
def test_old_files(tmp_path, file, family, expected):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(file))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    ours, other = (home.AutoVideoProcessor.from_pretrained(tmp_path) for home in (omniform, transformers))
    assert type(ours).__name__ == expected == type(other).__name__
    found, wanted = (one(frames(2), return_tensors="pt")["pixel_values"] for one in (ours, other))
    assert torch.allclose(found, wanted, atol=1e-6)


def test_files_that_say_nothing_of_use(tmp_path):
    with pytest.raises(RepoError, match="no video processor"):
        omniform.AutoVideoProcessor.from_pretrained(tmp_path)
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps({"video_processor_type": "VideoMAEVideo"}))
    with pytest.raises(UnknownNameError, match="VideoMAEVideoProcessor"):
        omniform.AutoVideoProcessor.from_pretrained(tmp_path)
    for options in ({"num_frames": 0}, {"fps": -1}, {"do_sample_frames": 1}, {"size": "large"}):
        with pytest.raises(ConfigError):
            omniform.VideoMAEVideoProcessor(**options)
    with pytest.raises(UnknownArgumentError, match="num_frames"):
        omniform.VideoMAEVideoProcessor(num_frame=3)


CUT = film(frames(40), "avi", "mjpeg", 25, "yuvj420p")


@pytest.mark.parametrize(("source", "words"), [
    (CUT[: len(CUT) * 2 // 3], "cut"), (CUT[:300], "cut"), (b"", "cut"), (b"no video at all" * 90, "no video"),
    (sound(), "no pictures"), (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\nfile:///etc/passwd\n" * 9, "no video"),
    (np.zeros((0, 8, 8, 3), np.uint8), "no frames"), ([], "no frames"), (np.zeros((2, 8, 8, 7), np.uint8), "channels"),
    (np.zeros((2, 3, 8, 3), np.uint8), "first or last"), (np.full((2, 8, 8, 3), np.nan), "NaN"), (3, "not a video"),
    ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], "differ"), (np.zeros((2, 0, 8, 3)), "no pixels"),
])  # fmt: skip
def test_what_is_no_video(source, words):
    with pytest.raises(InputError, match=words):
        load_video(source)


@pytest.mark.parametrize(("how", "words"), [
    ({"num_frames": 21}, "fewer frames"), ({"num_frames": 2, "fps": 2}, "exclude"), ({"backend": "decord"}, "backend"),
    ({"sample_indices_fn": lambda metadata: [20]}, "no such frame"), ({"sample_indices_fn": lambda **_: []}, "no "),
    ({"media_access": MediaAccess(max_frames=19)}, "19"), ({"media_access": MediaAccess(max_pixels=3000)}, "3,000"),
    ({"media_access": MediaAccess(max_total_pixels=60_000)}, "60,000"),
])  # fmt: skip
def test_limits_and_numbers_of_frames(clip, how, words):
    with pytest.raises(InputError, match=words):
        load_video(clip, **how)
    if "media_access" in how:
        with pytest.raises(InputError, match=words):
            omniform.VideoMAEVideoProcessor()([str(clip)], media_access=how["media_access"])


def test_what_may_not_be_read(clip):
    with pytest.raises(RepoError):
        load_video(clip, media_access=MediaAccess(roots=[]))
    with pytest.raises(RepoError):
        load_video("https://example.org/clip.mp4", media_access=MediaAccess(urls="none"))
    with pytest.raises(RepoError, match="no such video file"):
        load_video("nowhere.mp4")


@pytest.mark.parametrize(("videos", "how", "words"), [
    ([frames(2), frames(3)], {"return_tensors": "pt"}, "different shapes"), ([], {}, "no video"),
    ([frames(2), frames(2)[0]], {}, "mixed"), (frames(2), {"video_metadata": [{"total_num_frames": 2}] * 2}, "entry"),
    (frames(2), {"video_metadata": {"fps": 3}}, "describes no video"),
    (frames(2), {"do_sample_frames": True, "fps": 2}, "how fast"),
    (frames(2), {"do_sample_frames": True, "video_metadata": {"total_num_frames": 9}}, "fewer frames than is said"),
])  # fmt: skip
def test_calls_that_cannot_be_meant(videos, how, words):
    with pytest.raises(InputError, match=words):
        omniform.VideoMAEVideoProcessor()(videos, **how)


def test_metadata_is_a_mapping():
    ours = VideoMetadata(total_num_frames=8, fps=4.0, frames_indices=[0, 4])
    other = transformers.video_utils.VideoMetadata(total_num_frames=8, fps=4.0, frames_indices=[0, 4])
    assert dict(ours) == dict(other) and ours.timestamps == other.timestamps and ours.sampled_fps == other.sampled_fps
