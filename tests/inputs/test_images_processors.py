"""The image processors against the reference's torchvision-based ones: equal pixels, equal files."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import logging
import random
import types

import numpy as np
import pytest
import torch
from PIL import Image

from omniform.core.errors import ConfigError, InputError, OmniformError, UnknownArgumentError, UnknownNameError
from omniform.inputs.images.kinds import KINDS, image_processor
from omniform.inputs.images.processor import ImageProcessor
from omniform.inputs.images.sizes import parse_size

NAMES = [f"{name}ImageProcessor" for name in ("CLIP", "Detr", "Llava", "Siglip", "ViT")]  # of the others: *_kinds*.py
SIZES = [(1, 1), (1, 500), (500, 1), (333, 77), (224, 224), (31, 20)]  # width, height
SMALL = {"size": {"height": 20, "width": 16}, "crop_size": {"height": 12, "width": 18}}


def import_reference() -> types.ModuleType:
    torch.set_num_threads(1)
    # torchvision's Python half registers kernels for operators that its compiled half, absent here, would define.
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import transformers

    transformers.logging.set_verbosity_error()
    return transformers


@pytest.fixture(scope="module")
def reference() -> types.ModuleType:
    return import_reference()


def both(reference: types.ModuleType, name: str, **config: object):
    theirs = getattr(reference, name)(**config)
    ours = image_processor({"image_processor_type": name, **config}, where="preprocessor_config.json")
    return theirs, ours


def assert_same(theirs, ours: ImageProcessor, images, **call: object) -> None:
    expected = theirs(images, return_tensors="pt", **call)
    found = ours(images, return_tensors="pt", **call)
    assert set(found) == set(expected)
    for name in expected:
        assert found[name].dtype == expected[name].dtype
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)


def picture(width: int, height: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


# -- whole processors with their defaults -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_the_references(reference, name: str) -> None:
    theirs, ours = both(reference, name)
    assert ours.to_dict() == json.loads(theirs.to_json_string())
    assert list(ours.model_input_names) == theirs.model_input_names
    assert ours.size == dict(theirs.size)
    assert ours.image_mean == list(theirs.image_mean)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_odd_sizes(reference, name: str, size: tuple[int, int]) -> None:
    # DETR's own 800 pixels would only take time.
    config = {"size": {"shortest_edge": 40, "longest_edge": 66}} if name.startswith("Detr") else {}
    if name.startswith("Detr") and 500 in size:
        config = {"size": {"height": 30, "width": 44}}
    theirs, ours = both(reference, name, **config)
    assert_same(theirs, ours, Image.fromarray(picture(*size)))


def test_detr_default_size(reference) -> None:
    theirs, ours = both(reference, "DetrImageProcessor")
    assert_same(theirs, ours, [Image.fromarray(picture(64, 48)), Image.fromarray(picture(30, 90))])


@pytest.mark.parametrize("name", ["CLIPImageProcessor", "SiglipImageProcessor", "LlavaImageProcessor"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I"])
def test_modes_become_rgb(reference, name: str, mode: str) -> None:
    theirs, ours = both(reference, name, **SMALL)
    assert_same(theirs, ours, in_mode(mode))


@pytest.mark.parametrize("transparency", [3, b"\x00\x80\xff"])
def test_transparent_palette_and_colour_key(reference, transparency: object) -> None:
    theirs, ours = both(reference, "CLIPImageProcessor", **SMALL)
    image = Image.fromarray(picture(30, 20)).quantize(8)
    image.info["transparency"] = transparency
    assert_same(theirs, ours, image)
    keyed = Image.fromarray(picture(30, 20))
    keyed.info["transparency"] = tuple(int(v) for v in picture(30, 20)[0, 0])
    assert_same(theirs, ours, keyed)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "RGBa", "CMYK", "YCbCr", "F"])
def test_modes_are_kept_without_conversion(reference, mode: str) -> None:
    theirs, ours = both(reference, "ViTImageProcessor", do_normalize=False, **SMALL)
    assert_same(theirs, ours, in_mode(mode))


def in_mode(mode: str) -> Image.Image:
    rgba = Image.fromarray(picture(33, 25, channels=4), "RGBA")
    if mode == "I;16":
        return Image.fromarray(np.random.default_rng(1).integers(0, 65536, (25, 33), dtype=np.uint16))
    if mode == "PA":
        return rgba.convert("LA").convert(mode)
    return rgba.convert(mode) if mode in ("LA", "RGBa", "RGBA") else rgba.convert("RGB").convert(mode)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_turned_upright(reference, name: str) -> None:
    """Whichever way they come; the reference turns what it loads itself, and forgets the Pillow images."""
    theirs, ours = both(reference, name, size={"height": 20, "width": 16})
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(30, 20)).save(buffer, "JPEG", exif=exif)
    upright = reference.image_utils.load_image(Image.open(buffer))
    assert upright.size == (20, 30)
    expected = theirs(upright, return_tensors="pt").pixel_values
    for source in (buffer.getvalue(), buffer, Image.open(buffer)):
        assert torch.equal(ours(source, return_tensors="pt").pixel_values, expected)


ARRAYS = {
    "uint8 HWC": picture(33, 25),
    "uint8 CHW": picture(33, 25).transpose(2, 0, 1),
    "flipped": picture(33, 25)[::-1, ::-1],
    "big-endian": picture(33, 25).astype(">i4"),
    "int32": picture(33, 25).astype(np.int32),
    "float32 0..1": picture(33, 25).astype(np.float32) / 255,
    "float64 0..255": picture(33, 25).astype(np.float64),
    "one channel": picture(33, 25, channels=1),
    "RGBA": picture(33, 25, channels=4),
    "RGBA float": picture(33, 25, channels=4).astype(np.float32) / 255,
    "4 high": picture(7, 4).transpose(2, 0, 1),
}


@pytest.mark.parametrize("tensors", [False, True], ids=["numpy", "torch"])
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays(reference, kind: str, tensors: bool) -> None:
    theirs, ours = both(reference, "CLIPImageProcessor", **SMALL)
    array = ARRAYS[kind]
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    expected = theirs(native, return_tensors="pt").pixel_values
    found = ours(torch.from_numpy(native) if tensors else array, return_tensors="pt").pixel_values
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_half_precision_and_batched_tensors(reference) -> None:
    theirs, ours = both(reference, "CLIPImageProcessor", **SMALL)
    batch = torch.from_numpy(np.stack([picture(33, 25, n) for n in range(3)]))
    assert_same(theirs, ours, (batch / 255).half())
    assert_same(theirs, ours, batch.numpy())
    assert_same(theirs, ours, [batch[:2], batch[2:]])


def test_a_stated_layout_wins(reference) -> None:
    theirs, ours = both(reference, "CLIPImageProcessor", **SMALL)
    ambiguous = picture(4, 3)  # [3, 4, 3]
    for layout in ("channels_first", "channels_last"):
        assert_same(theirs, ours, ambiguous, input_data_format=layout)
    five = torch.rand(5, 9, 8)
    theirs, ours = both(reference, "ViTImageProcessor", size=6, image_mean=[0.1] * 5, image_std=[0.2] * 5)
    assert_same(theirs, ours, five, input_data_format="channels_first")


# -- options ----------------------------------------------------------------------------------------------------------

FLAGS = ["do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_pad"]


@pytest.mark.parametrize("name", NAMES)
def test_every_flag_flipped(reference, name: str) -> None:
    image = Image.fromarray(picture(41, 29))
    theirs, ours = both(reference, name, **SMALL)
    for values in itertools.product([False, True], repeat=len(FLAGS)):
        assert_same(theirs, ours, image, **dict(zip(FLAGS, values, strict=True)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("resample", [0, 1, 2, 3])
@pytest.mark.parametrize("target", [(9, 13), (70, 61), (29, 60), (1, 2)])
def test_filters(reference, name: str, resample: int, target: tuple[int, int]) -> None:
    theirs, ours = both(reference, name, resample=resample, size={"height": target[0], "width": target[1]})
    for image in (picture(41, 29), picture(41, 29).astype(np.float32)):
        assert_same(theirs, ours, image, do_center_crop=False, do_normalize=False, do_rescale=False)


@pytest.mark.parametrize(
    "size",
    [
        17,
        [20, 24],
        {"shortest_edge": 18},
        {"shortest_edge": 18, "longest_edge": 40},
        {"height": 12, "width": 30},
        {"max_height": 25, "max_width": 33},
    ],
    ids=str,
)
@pytest.mark.parametrize("square", [None, True, False])
@pytest.mark.parametrize("name", NAMES)
def test_forms_of_size(reference, name: str, square: bool | None, size: object) -> None:
    if name == "DetrImageProcessor" and (size == {"shortest_edge": 18} or (size == 17 and square is not True)):
        size = {"shortest_edge": 19, "longest_edge": 23}
    more = {} if square is None else {"default_to_square": square}
    per_file = both(reference, name, size=size, **more)
    per_call = both(reference, name)
    for image in (Image.fromarray(picture(41, 29)), Image.fromarray(picture(13, 77)), Image.fromarray(picture(18, 18))):
        assert_same(*per_file, image, do_center_crop=False)
        assert_same(*per_call, image, do_center_crop=False, size=size, **more)
    assert per_file[1].to_dict() == json.loads(per_file[0].to_json_string())


@pytest.mark.parametrize("crop", [7, [8, 50], {"height": 61, "width": 9}, {"height": 30, "width": 41}])
def test_crops_smaller_and_larger(reference, crop: object) -> None:
    theirs, ours = both(reference, "ViTImageProcessor", do_resize=False, do_center_crop=True, crop_size=crop)
    for size in ((41, 29), (40, 30), (1, 1), (9, 61)):
        assert_same(theirs, ours, Image.fromarray(picture(*size)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "values",
    [
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.9, 1.1, 0.3]},
        {"image_mean": 0.4, "image_std": 0.3},
        {"image_mean": 0.4, "do_rescale": False},
        {"rescale_factor": 1 / 127.5, "do_normalize": False},
        {"rescale_factor": 0.5},
    ],
    ids=str,
)
def test_values(reference, name: str, values: dict[str, object]) -> None:
    theirs, ours = both(reference, name, size={"height": 20, "width": 16}, **values)
    assert_same(theirs, ours, picture(41, 29))
    assert_same(theirs, ours, picture(41, 29).astype(np.float32))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "LlavaImageProcessor"])
@pytest.mark.parametrize("pad_size", [None, {"height": 60, "width": 70}, 60])
def test_mixed_sizes_are_padded(reference, name: str, pad_size: object) -> None:
    theirs, ours = both(
        reference,
        name,
        size={"shortest_edge": 20, "longest_edge": 40},
        do_center_crop=False,
        do_pad=True,
        pad_size=pad_size,
    )
    assert_same(theirs, ours, [Image.fromarray(picture(*size)) for size in ((41, 29), (20, 33), (41, 29), (60, 12))])


@pytest.mark.parametrize("size", [(40, 21), (21, 40), (30, 30), (1, 9)])
def test_llava_pads_to_a_square_of_the_mean(reference, size: tuple[int, int]) -> None:
    theirs, ours = both(reference, "LlavaImageProcessor", do_pad=True, size=18, crop_size=14)
    assert_same(theirs, ours, Image.fromarray(picture(*size)))
    assert_same(theirs, ours, picture(*size).astype(np.float32) / 255)


@pytest.mark.parametrize("name", NAMES)
def test_nested_lists_and_kinds_of_result(reference, name: str) -> None:
    theirs, ours = both(reference, name, **SMALL)
    images = [Image.fromarray(picture(20 + n, 30, n)) for n in range(3)]
    nested = [[images[0]], [], [images[1], images[2]]]
    assert_same(theirs, ours, nested)
    array = ours(images, return_tensors="np").pixel_values
    assert isinstance(array, np.ndarray) and np.array_equal(array, theirs(images, return_tensors="np").pixel_values)
    loose = ours(images).pixel_values
    assert all(torch.equal(a, b) for a, b in zip(loose, theirs(images).pixel_values, strict=True))
    assert torch.equal(ours.preprocess(images, return_tensors="pt").pixel_values, torch.stack(list(loose)))


def test_other_device_is_refused_by_name() -> None:
    ours = image_processor({"image_processor_type": "ViTImageProcessor"}, where="x")
    assert ours(picture(8, 8), device="cpu", return_tensors="pt").pixel_values.device.type == "cpu"
    with pytest.raises(InputError, match="device"):
        ours(picture(8, 8), device="cuda:99")


# -- files ------------------------------------------------------------------------------------------------------------

OLD_FILES = [
    {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "size": 30,
        "crop_size": 24,
        "resample": 3,
        "do_normalize": True,
    },
    {"feature_extractor_type": "ViTFeatureExtractor", "size": 30, "image_std": [0.2, 0.3, 0.4], "resample": 2},
    {"feature_extractor_type": "DetrFeatureExtractor", "size": 40, "max_size": 60, "format": "coco_detection"},
    {"feature_extractor_type": "DetrFeatureExtractor", "size": 40, "max_size": 60, "do_normalize": False},
    {"image_processor_type": "DetrImageProcessor", "size": 40},
    {"image_processor_type": "DetrImageProcessor", "size": [33, 44], "pad_and_return_pixel_mask": False},
    {"image_processor_type": "DetrImageProcessor", "size": {"shortest_edge": 30, "longest_edge": 50}, "max_size": 7},
    {
        "image_processor_type": "DetrImageProcessorFast",
        "do_convert_annotations": False,
        "size": None,
        "do_resize": False,
    },
    {"image_processor_type": "CLIPImageProcessorFast", "use_square_size": True, "crop_size": 20},
    {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "crop_size": {"height": 9, "width": 8},
    },
    {
        "image_processor_type": "SiglipImageProcessorFast",
        "size": {"height": 18, "width": 22},
        "crop_size": None,
        "data_format": "channels_first",
        "default_to_square": True,
        "device": None,
        "disable_grouping": None,
        "do_center_crop": None,
        "do_pad": None,
        "input_data_format": None,
        "pad_size": None,
        "return_tensors": None,
        "processor_class": "LlavaProcessor",
    },
    {
        "image_processor_type": "LlavaImageProcessorFast",
        "size": 26,
        "crop_size": 26,
        "do_pad": True,
        "do_convert_rgb": None,
    },
    {
        "image_processor_type": "ViTImageProcessor",
        "size": 224,
        "do_resize": False,
        "rescale_factor": 0.5,
        "resample": None,
    },
]


@pytest.mark.parametrize("config", OLD_FILES, ids=lambda c: "-".join(c)[:60])
def test_files_of_all_releases(reference, config: dict[str, object], tmp_path) -> None:
    ours = image_processor(config, where="preprocessor_config.json")
    theirs = getattr(reference, ours.kind.name)(**config)
    assert ours.to_dict() == json.loads(theirs.to_json_string())
    for image in (Image.fromarray(picture(41, 29)), Image.fromarray(picture(20, 66))):
        assert_same(theirs, ours, image)
    # What we save, the reference loads, and so do we.
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(ours.to_dict()))
    again = reference.AutoImageProcessor.from_pretrained(tmp_path)
    assert type(again).__name__ == ours.kind.name
    assert_same(again, ours, Image.fromarray(picture(41, 29)))
    assert image_processor(json.loads(json.dumps(ours.to_dict())), where="x") == ours


def test_unknown_keys_are_kept_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="omniform"):
        ours = image_processor({"image_processor_type": "ViTImageProcessor", "zip": {"a": [1]}, "tie": 2}, where="F")
    assert len(caplog.records) == 1 and "tie, zip" in caplog.text and "F" in caplog.text
    assert ours.to_dict()["zip"] == {"a": [1]} and ours.to_dict()["tie"] == 2


def test_type_given_by_the_caller() -> None:
    assert image_processor({}, where="x", default_type="CLIPImageProcessor").kind.name == "CLIPImageProcessor"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"size": "large"}, "size"),
        ({"size": {"height": 3}}, "size"),
        ({"size": {"height": 0, "width": 3}}, "size"),
        ({"size": {"height": 10**9, "width": 3}}, "size"),
        ({"size": -1}, "size"),
        ({"size": True}, "size"),
        ({"size": 2.5}, "size"),
        ({"size": [1, 2, 3]}, "size"),
        ({"size": [[1], 2]}, "size"),
        ({"crop_size": []}, "crop_size"),
        ({"pad_size": {"a": 1}}, "pad_size"),
        ({"resample": "bicubic"}, "resample"),
        ({"resample": 6}, "resample"),
        ({"resample": True}, "resample"),
        ({"do_resize": 1}, "do_resize"),
        ({"do_normalize": "yes"}, "do_normalize"),
        ({"image_mean": "0.5"}, "image_mean"),
        ({"image_mean": [0.5, None, 0.5]}, "image_mean"),
        ({"image_mean": []}, "image_mean"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std"),
        ({"image_std": float("nan")}, "image_std"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"rescale_factor": float("inf")}, "rescale_factor"),
        ({"input_data_format": "HWC"}, "input_data_format"),
        ({"data_format": 3}, "data_format"),
        ({"device": "gpu"}, "device"),
        ({"return_tensors": "tf"}, "return_tensors"),
        ({"image_seq_length": -1}, "image_seq_length"),
    ],
    ids=str,
)
def test_wrong_values(change: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        image_processor({"image_processor_type": "CLIPImageProcessor", **change}, where="the file")
    assert key in str(caught.value) and "the file" in str(caught.value)
    assert caught.value.expected is not None and caught.value.found is not None
    ours = image_processor({"image_processor_type": "CLIPImageProcessor"}, where="x")
    with pytest.raises(InputError, match=key):
        ours(picture(4, 4), **change)


ODD_VALUES = [
    *(None, True, False, 0, 1, -1, 3, 224, 2**70, 1e308, float("nan"), float("inf"), -0.0, "", "pt", "x" * 50),
    *([], [1], [1, 2], [1, 2, 3], ["a", "b"], [None, None], [[1], [2]], {}, {"height": 1}, {"height": "8", "width": 8}),
    *({"shortest_edge": None}, {"shortest_edge": 8, "longest_edge": 4}, {"longest_edge": 8}, {1: 2}, {"max_pixels": 9}),
]


@pytest.mark.parametrize("name", NAMES)
def test_mutated_files_give_a_processor_or_a_typed_error(name: str) -> None:
    rng = random.Random(0)
    keys = [field.name for field in dataclasses.fields(KINDS[name].defaults)]
    keys += [
        "max_size",
        "pad_and_return_pixel_mask",
        "use_square_size",
        "feature_extractor_type",
        "another",
        "auto_map",
    ]
    refused = 0
    for _ in range(600):
        config = {"image_processor_type": name, "size": {"height": 8, "width": 8}, "crop_size": 8}
        config |= {rng.choice(keys): rng.choice(ODD_VALUES) for _ in range(rng.randint(1, 3))}
        try:
            processor = image_processor(config, where="F")
            assert repr(processor)
            assert image_processor(processor.to_dict(), where="F") == processor
            processor(picture(7, 9))
        except OmniformError as error:
            assert str(error)
            refused += 1
    assert 100 < refused < 590


@pytest.mark.parametrize(
    ("config", "error", "text"),
    [
        ({"image_processor_type": "CLIPImageProcesor"}, UnknownNameError, "CLIPImageProcessor"),
        ({"image_processor_type": "os.system"}, UnknownNameError, "os.system"),
        ({"image_processor_type": 3}, ConfigError, "image_processor_type"),
        ({"size": 3}, ConfigError, "image_processor_type"),
        ({"image_processor_type": "DetrImageProcessor", "size": 3, "max_size": "x"}, ConfigError, "max_size"),
        ({"image_processor_type": "DetrImageProcessor", "size": {}}, ConfigError, "size"),
        ({"image_processor_type": "DetrImageProcessor", "format": "voc"}, ConfigError, "format"),
    ],
    ids=str,
)
def test_bad_files(config: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        image_processor(config, where="F")


@pytest.mark.parametrize(
    ("images", "call", "error", "text"),
    [
        (picture(5, 5), {"do_resise": False}, UnknownArgumentError, "do_resize"),
        ([], {}, InputError, "no picture"),
        ([[]], {}, InputError, "no picture"),
        ([[[picture(5, 5)]]], {}, InputError, "nested"),
        ([picture(9, 5), picture(5, 9)], {"do_resize": False, "do_center_crop": False}, InputError, "sizes"),
        (np.zeros((2, 2, 2, 2, 3), np.uint8), {}, InputError, "not one picture"),
        (np.zeros(7, np.uint8), {}, InputError, "not one picture"),
        (np.zeros((7, 6, 5), np.uint8), {}, InputError, "channels"),
        (np.zeros((0, 6, 3), np.uint8), {}, InputError, "no pixels"),
        (np.full((6, 6, 3), np.nan, np.float32), {}, InputError, "NaN"),
        (torch.full((3, 6, 6), float("inf")), {}, InputError, "NaN"),
        (np.zeros((6, 6, 3), complex), {}, InputError, "number type"),
        (torch.zeros(3, 6, 6, dtype=torch.complex64), {}, InputError, "number type"),
        (np.array([["a"]]), {}, InputError, "number type"),
        (torch.rand(4, 6, 6) * 2, {}, InputError, "0..1"),
        (torch.zeros(2, 6, 6), {"input_data_format": "channels_first"}, InputError, "channels"),
        (torch.zeros(5, 6, 6), {"input_data_format": "channels_first"}, InputError, "channels"),
        (picture(5, 5), {"image_mean": [0.5, 0.5]}, InputError, "image_mean"),
        (3.5, {}, InputError, "not a picture"),
        (None, {}, InputError, "not a picture"),
        ({"a": 1}, {}, InputError, "not a picture"),
        (picture(5, 5), {"size": None}, InputError, "size"),
        (picture(5, 5), {"crop_size": None}, InputError, "crop_size"),
        (picture(5, 5), {"image_std": None}, InputError, "image_std"),
        (picture(5, 5), {"rescale_factor": None}, InputError, "rescale_factor"),
        (picture(5, 5), {"crop_size": {"shortest_edge": 3}}, InputError, "crop_size"),
        (picture(5, 5), {"size": {"longest_edge": 3}}, InputError, "longest_edge"),
        (picture(5, 5), {"resample": 4}, InputError, "resample"),
        (picture(5, 5), {"do_pad": True, "pad_size": 4}, InputError, "pad_size"),
        (picture(5, 5), {"do_pad": True, "pad_size": 65536}, InputError, "too large"),
        (Image.new("RGB", (60000, 1)), {"size": {"shortest_edge": 60000}}, InputError, "too large"),
        (Image.new("RGB", (6000, 1)), {"size": {"shortest_edge": 10, "longest_edge": 20}}, InputError, "empty"),
        (Image.fromarray(picture(5, 5)).quantize(4), {"do_convert_rgb": False}, InputError, "palette"),
    ],
    ids=lambda v: str(v)[:40] if isinstance(v, (dict, str)) else None,
)
def test_bad_input(images: object, call: dict[str, object], error: type[Exception], text: str) -> None:
    ours = image_processor({"image_processor_type": "CLIPImageProcessor"}, where="x")
    with pytest.raises(error, match=text):
        ours(images, return_tensors="pt", **call)  # type: ignore[arg-type]


def test_grey_is_broadcast_over_the_mean() -> None:
    """The reference fails on grey pictures where it does not convert them; repeating grey is what they mean."""
    ours = image_processor({"image_processor_type": "ViTImageProcessor", "size": 16}, where="x")
    grey = Image.fromarray(picture(20, 30)).convert("L")
    assert torch.equal(
        ours(grey, return_tensors="pt").pixel_values, ours(grey, do_convert_rgb=True, return_tensors="pt").pixel_values
    )


@pytest.mark.parametrize("resample", [1, 2, 3])
def test_a_single_pixel_is_the_mean(resample: int) -> None:
    """The reference stops here on an internal assertion of torch's uint8 kernels; Pillow has the pixel."""
    ours = image_processor({"image_processor_type": "ViTImageProcessor", "size": 1, "resample": resample}, where="x")
    found = ours(picture(41, 29), do_rescale=False, do_normalize=False, return_tensors="pt").pixel_values
    expected = np.asarray(Image.fromarray(picture(41, 29)).resize((1, 1), resample))
    assert np.abs(found.flatten().numpy().astype(int) - expected.flatten().astype(int)).max() <= 1


def test_inputs_are_left_alone() -> None:
    ours = image_processor({"image_processor_type": "ViTImageProcessor", "size": 8}, where="x")
    image = torch.rand(3, 8, 8)
    before = image.clone()
    ours(image, do_resize=False)
    ours(image, do_rescale=False)
    assert torch.equal(image, before)


def test_bytes_normalised_as_they_are_are_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics of values in 0..1 do not fit them; those of bytes do."""
    # Whatever verbosity an earlier test has asked for.
    monkeypatch.setattr(logging.getLogger("omniform"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="omniform")
    ours, bytes_ = image_processor({"image_processor_type": "ViTImageProcessor"}, where="x"), picture(41, 29)
    for image in (bytes_, bytes_.astype(np.float32)):
        caplog.clear()
        ours([image / np.float32(255), image], do_rescale=False)
        assert "images[1]: values up to" in caplog.text and "do_rescale" in caplog.text
    caplog.clear()
    ours(bytes_ / np.float32(255) * 1.1, do_rescale=False)
    ours(bytes_, do_rescale=False, do_normalize=False)
    ours(bytes_, do_rescale=False, image_mean=[123.7, 116.3, 103.5], image_std=[58.4, 57.1, 57.4])
    ours(bytes_)
    assert not caplog.records


def test_layout_of_the_result_is_said_to_be_fixed(caplog: pytest.LogCaptureFixture) -> None:
    ours = image_processor({"image_processor_type": "ViTImageProcessor", "size": 8}, where="x")
    with caplog.at_level(logging.WARNING, logger="omniform"):
        assert ours(picture(9, 9), data_format="channels_last", return_tensors="pt").pixel_values.shape == (1, 3, 8, 8)
    assert "channels first" in caplog.text


def test_sizes_are_the_references_for_every_shape(reference) -> None:
    """The arithmetic of sizes alone, over many shapes: where it rounds, truncates or leaves a picture as it is."""
    from transformers import image_transforms, image_utils

    edges = [1, 2, 3, 7, 19, 20, 21, 29, 30, 31, 49, 50, 51, 97, 400]
    for height, width in itertools.product(edges, edges):
        shape = np.empty((3, height, width), np.uint8)
        for short, long in itertools.product((7, 20, 30, 50), (20, 49, 50, 97, 333)):
            found = parse_size({"shortest_edge": short, "longest_edge": long}, square=True).target(height, width)
            assert found == image_transforms.get_size_with_aspect_ratio((height, width), short, long)
            found = parse_size({"max_height": short, "max_width": long}, square=True).target(height, width)
            assert found == image_utils.get_image_size_for_max_height_width((height, width), short, long)
            found = parse_size(short, square=False).target(height, width)
            assert found == image_transforms.get_resize_output_image_size(
                shape, short, default_to_square=False, input_data_format="channels_first"
            )
