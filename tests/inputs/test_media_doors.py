"""One door per medium: the same picture or sound through every door, and what no door lets in."""

from __future__ import annotations

import base64
import http.server
import io
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from omniform.core.errors import InputError, OmniformError, RepoError
from omniform.inputs.fetch import fetch_url, is_public
from omniform.inputs.images.kinds import image_processor
from omniform.inputs.images.load import load_image
from omniform.inputs.images.processor import ImageProcessor
from omniform.inputs.media_access import MediaAccess

# All processors read pictures through the same door; these stand for them.
KINDS = [f"{name}ImageProcessor" for name in ("CLIP", "Detr", "Llava", "Siglip", "ViT")]
RNG = np.random.default_rng(0)
RGBA = RNG.integers(0, 256, (13, 17, 4), dtype=np.uint8)
GREY = RGBA[..., 0]
SMALL = {"size": {"height": 10, "width": 8}, "crop_size": {"height": 9, "width": 7}}
LEVEL = 1 / 255 / 0.22  # one of 256 levels, over the least deviation of the processors


def processor(name: str, **more: object) -> ImageProcessor:
    return image_processor({"image_processor_type": name, **SMALL, **more}, where="test")


def in_mode(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(GREY.astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(GREY.astype(np.float32))
    if mode == "LAB":
        return Image.merge("LAB", [Image.fromarray(RGBA[..., n].copy()) for n in range(3)])
    image = Image.fromarray(RGBA)
    if mode == "PA":
        return image.convert("LA").convert("PA")
    if mode == "P+":
        image = image.convert("RGB").quantize(8)
        image.info["transparency"] = 3
        return image
    return image.convert(mode) if mode in ("LA", "RGBA", "RGBa") else image.convert("RGB").convert(mode)


FILES = {"1": "PNG", "L": "PNG", "LA": "PNG", "P": "PNG", "P+": "PNG", "RGB": "PNG", "RGBA": "PNG", "I;16": "PNG",
         "CMYK": "TIFF", "YCbCr": "TIFF", "LAB": "TIFF", "I": "TIFF", "F": "TIFF"}  # fmt: skip
PLAIN = ("1", "L", "RGB", "RGBA", "I", "I;16", "F")  # modes that an array tells without a word beside it
MODES = (*FILES, "PA", "RGBa", "HSV")


def doors(image: Image.Image, mode: str, folder: Path) -> dict[str, Callable[[], object]]:
    """The same picture in every form that can hold it."""
    found: dict[str, Callable[[], object]] = {"pillow": lambda: image}
    if mode in FILES:
        path = folder / "a picture"
        image.save(path, FILES[mode])
        data = path.read_bytes()
        text = base64.b64encode(data).decode()

        def at_its_end() -> object:
            file = path.open("rb")
            file.read()
            return file

        found |= {
            "path": lambda: path,
            "name": lambda: str(path),
            "file URL": path.as_uri,
            "bytes": lambda: data,
            "base64": lambda: text,
            "data URL": lambda: f"data:image/png;base64,{text}",
            "mapping of bytes": lambda: {"bytes": data, "path": None},
            "mapping of a path": lambda: {"bytes": None, "path": str(path)},
            "open": lambda: path.open("rb"),
            "at its end": at_its_end,
            "opened by Pillow": lambda: Image.open(path),
        }
    if mode in PLAIN:
        array = np.asarray(image)
        first = array if array.ndim == 2 else array.transpose(2, 0, 1)
        found |= {
            "array": lambda: array,
            "channels first": lambda: first,
            "tensor": lambda: torch.from_numpy(first.copy()),
            "tensor channels last": lambda: torch.from_numpy(array.copy()),
        }
    return found


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_is_the_same_through_every_door(mode: str, tmp_path: Path) -> None:
    """Source x mode x processor: arrays may differ by a level, since the reference rounds theirs differently."""
    sources = doors(in_mode(mode), mode, tmp_path)
    for name in KINDS:
        for options in ({}, {"do_convert_rgb": True}, {"do_normalize": False}):
            reader = processor(name, **options)
            expected = reader(sources["pillow"](), return_tensors="pt").pixel_values
            if not (name == "ViTImageProcessor" or name == "DetrImageProcessor") or options != {"do_normalize": False}:
                assert expected.shape[1] == 3
            for door, source in sources.items():
                found = reader(source(), return_tensors="pt").pixel_values
                array = "array" in door or "tensor" in door or "channels" in door
                torch.testing.assert_close(found, expected, rtol=0, atol=LEVEL if array else 0, msg=f"{name} {door}")
    if mode != "F":
        expected = np.asarray(load_image(sources["pillow"]())).astype(int)
        for source in sources.values():
            assert np.abs(np.asarray(load_image(source())) - expected).max() <= 1


def test_alpha_is_laid_on_white_in_every_mode() -> None:
    logo = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    for mode in ("RGBA", "LA", "RGBa", "PA"):
        image = logo.convert("L") if mode == "PA" else logo.convert(mode)
        if mode == "PA":
            image = image.convert("P")
            image.putalpha(0)
        assert image.mode == mode
        assert np.asarray(load_image(image)).min() == 255
        for name in KINDS:
            pixels = processor(name, do_normalize=False, do_convert_rgb=True)(image, return_tensors="pt").pixel_values
            assert pixels.min() > 0.99
            assert torch.equal(
                processor(name)(image, return_tensors="pt").pixel_values,
                processor(name)(Image.new("RGB", (16, 16), "white"), return_tensors="pt").pixel_values,
            )
    sixteen = Image.fromarray(np.full((8, 8), 500, np.uint16))
    sixteen.info["transparency"] = 500
    assert np.asarray(load_image(sixteen)).min() == 255


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.int64, np.uint32, ">i4", ">u2", bool])
def test_integers_have_their_own_full_scale(dtype: object) -> None:
    if dtype is bool:
        array, twin = GREY > 99, np.where(GREY > 99, 255, 0).astype(np.uint8)
    else:
        array, twin = (
            GREY.astype(dtype) * (257 if np.dtype(dtype).kind + str(np.dtype(dtype).itemsize) == "u2" else 1),
            GREY,
        )
    reader = processor("CLIPImageProcessor")
    expected = reader(twin, return_tensors="pt").pixel_values
    torch.testing.assert_close(reader(array, return_tensors="pt").pixel_values, expected, rtol=0, atol=LEVEL)
    assert np.array_equal(np.asarray(load_image(array)), np.asarray(load_image(twin)))


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.full((9, 9), 256, np.int16), "full scale"),
        (np.full((9, 9), -1, np.int32), "full scale"),
        (np.full((9, 9), 2**40), "full scale"),
        (np.full((9, 9), 5, np.int8), "full scale"),
        (Image.fromarray(np.full((9, 9), 2**30, np.int32)), "full scale"),
        (np.zeros((3, 3, 9), np.uint8)[:, :, :3], "input_data_format"),
        (np.zeros((3, 9, 3), np.uint8), "input_data_format"),
        (np.zeros((4, 9, 3), np.uint8), "input_data_format"),
        (np.zeros((1, 9, 3), np.uint8), "input_data_format"),
        (np.zeros((1, 9, 1), np.uint8), "input_data_format"),
        (torch.zeros(1, 1, 3), "input_data_format"),
        (torch.zeros(3, 9, 9).to_sparse(), "one by one"),
        (torch.zeros(3, 9, 9, device="meta"), "one by one"),
        (torch.zeros(3, 9, 9, dtype=torch.float8_e4m3fn), "number type"),
        (np.full((9, 9), np.nan), "NaN"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_one_refusal_in_the_same_words(picture: object, words: str) -> None:
    texts = set()
    for read in (load_image, *(processor(name) for name in KINDS)):
        with pytest.raises(InputError, match=words) as caught:
            read(picture)
        texts.add(str(caught.value).partition(":")[2])
    assert len(texts) == 1


def test_a_stated_layout_is_taken() -> None:
    strip = RGBA[:3, :, :3]
    for name in KINDS:
        pixels = processor(name)(strip, input_data_format="channels_last", return_tensors="pt").pixel_values
        assert torch.equal(pixels, processor(name)(Image.fromarray(strip), return_tensors="pt").pixel_values)
    assert load_image(strip, input_data_format="channels_last").size == (17, 3)
    assert load_image(strip, input_data_format="channels_first").size == (3, 17)
    assert load_image(np.zeros((1, 1, 1), np.uint8)).size == (1, 1)
    with pytest.raises(InputError, match="input_data_format"):
        load_image(strip, input_data_format=np.arange(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_one_pixel_high_or_wide(mode: str, size: tuple[int, int], tmp_path: Path) -> None:
    image = Image.new(mode, size, "red" if mode != "L" else 90)
    image.save(tmp_path / "x.png")
    for name in KINDS:
        reader = processor(name)
        expected = reader(image, return_tensors="pt").pixel_values
        assert torch.equal(reader(tmp_path / "x.png", return_tensors="pt").pixel_values, expected)
        stated = reader(np.asarray(image), input_data_format="channels_last", return_tensors="pt").pixel_values
        torch.testing.assert_close(stated, expected, rtol=0, atol=LEVEL)


@pytest.mark.parametrize("kind", ["array", "F", "tensor"])
def test_floats_off_the_scale_are_said_once(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    unit = (GREY / 255).astype(np.float32)
    make = {"array": np.asarray, "F": Image.fromarray, "tensor": torch.from_numpy}[kind]
    reader = processor("ViTImageProcessor")
    caplog.set_level(logging.WARNING, "omniform")
    for picture, options in ((unit, {}), (unit * 2 - 1, {}), (unit * 300, {})):
        caplog.clear()
        reader([make(picture)] * 3, **options)
        assert len(caplog.records) == 1 and "do_rescale" in caplog.text
    caplog.clear()
    reader(make(unit * 255))
    scaled = reader(make(unit), do_rescale=False, return_tensors="pt").pixel_values
    assert not caplog.records
    torch.testing.assert_close(scaled, reader(GREY, return_tensors="pt").pixel_values, rtol=0, atol=1 / 64)


def test_many_pictures_are_bounded_by_their_sum(tmp_path: Path) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "x.png")
    access = MediaAccess(max_total_pixels=29_999)
    for source in (tmp_path / "x.png", Image.new("L", (100, 100)), np.zeros((100, 100), np.uint8)):
        for name in KINDS:
            processor(name)([source] * 2, media_access=access)
            with pytest.raises(InputError, match=r"too large together.*29,999.*30,000 up to images\[2\]"):
                processor(name)([source] * 3, media_access=access)
            with pytest.raises(InputError, match="too large to decode"):
                processor(name)([source] * 3, media_access=MediaAccess(max_pixels=9_999))


class Stream:
    """What gives bytes once, as a pipe or a response does; or something else."""

    def __init__(self, given: object) -> None:
        self.given = given

    def read(self, size: int = -1, /) -> object:
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


def test_streams_and_files_of_other_kinds(tmp_path: Path) -> None:
    assert load_image(Stream(PNG.getvalue())).size == (17, 13)
    for given, words in (("text", "binary mode"), (3, "bytes"), (KeyError("no"), "cannot be read"), (b"", "empty")):
        with pytest.raises(InputError, match=words):
            load_image(Stream(given))
    closed = io.BytesIO(PNG.getvalue())
    closed.close()
    with pytest.raises(InputError, match="cannot be read"):
        load_image(closed)
    with (tmp_path / "holes.png").open("wb") as file:
        file.truncate(1 << 40)
    for read in (load_image, MediaAccess(roots=[tmp_path]).admit):
        with pytest.raises(InputError, match="too large"):
            read(tmp_path / "holes.png")


# -- the network ------------------------------------------------------------------------------------------------------

PNG = io.BytesIO()
Image.fromarray(RGBA).save(PNG, "PNG")


class Handler(http.server.BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
            return
        self.send_response(200)
        if self.path == "/cut":
            self.send_header("Content-Length", str(len(PNG.getvalue()) + 1))
        self.end_headers()
        if self.path == "/headers":  # ... that never end
            threading.Event().wait(3)
        self.wfile.write(PNG.getvalue())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    Handler.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_which_addresses_are_public() -> None:
    for address in ("8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"):
        assert is_public(address)
    for address in (
        "127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "224.0.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1",
        "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "ff0e::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:db8::1",
    ):  # fmt: skip
        assert not is_public(address), address


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST.", "2130706433", "0x7f.1", "017700000001", "127.1", "0",
             "[::ffff:127.0.0.1]", "[::1]", "[0:0:0:0:0:ffff:7f00:1]"],
)  # fmt: skip
def test_private_hosts_are_refused_however_they_are_written(host: str, port: int) -> None:
    with pytest.raises(RepoError, match=r"not a public one|cannot be reached"):
        load_image(f"http://{host}:{port}/x.png")
    assert not Handler.asked


def test_every_redirect_is_checked(port: int) -> None:
    access = MediaAccess(hosts=[f"127.0.0.1:{port}"])
    site = f"http://127.0.0.1:{port}"
    assert load_image(f"{site}/to//x", media_access=access).size == (17, 13)
    assert load_image(f"{site}/to/{site}/to/{site}/x", media_access=access).size == (17, 13)
    for target in (f"http://localhost:{port}/x", "http://[::1]/x", "http://2130706433/x", "http://169.254.169.254/x"):
        Handler.asked.clear()
        with pytest.raises(RepoError, match=r"not a public one|cannot be reached"):
            load_image(f"{site}/to/{target}", media_access=access)
        assert len(Handler.asked) == 1
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x"):
        with pytest.raises(RepoError, match="only http"):
            load_image(f"{site}/to/{target}", media_access=access)
    with pytest.raises(RepoError, match="redirects"):
        load_image(f"{site}{'/to' * 9}/x", media_access=access)


def test_a_name_is_resolved_once_and_that_address_is_used(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers with a public address first and a private one later gets nothing by it."""
    asked, connected = [], []

    def resolve(host: str, number: int, *args: object, **options: object) -> list[object]:
        asked.append(host)
        address = "93.184.216.34" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, number))]

    def connect(self: socket.socket, address: object) -> None:
        connected.append(address)
        raise OSError("no route")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(RepoError, match="no route"):
        fetch_url(f"http://rebinding.example:{port}/x")
    assert asked == ["rebinding.example"] and connected == [("93.184.216.34", port)]


def test_the_environments_proxy_is_no_way_around(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    with pytest.raises(RepoError, match="not a public one"):
        fetch_url("http://10.0.0.1/x")
    assert not Handler.asked


def test_downloads_are_bounded_in_time_and_whole(port: int) -> None:
    for access in (MediaAccess(hosts=["127.0.0.1"], timeout=0.3), MediaAccess(urls="any", timeout=0.3)):
        with pytest.raises(RepoError, match=r"0\.3 seconds"):
            access.fetch(f"http://127.0.0.1:{port}/headers")
        with pytest.raises(RepoError, match="cut off"):
            access.fetch(f"http://127.0.0.1:{port}/cut")


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_means_offline(name: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    for access in (MediaAccess(urls="any"), MediaAccess(hosts=["127.0.0.1"])):
        with pytest.raises(RepoError, match=f"offline.*{name}"):
            processor("CLIPImageProcessor")(f"http://127.0.0.1:{port}/x", media_access=access)
    assert not Handler.asked


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A root with a picture, another folder with one, and links between them."""
    for name in ("root", "secret", "rooted"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(PNG.getvalue())
    (tmp_path / "root" / "link.png").symlink_to(tmp_path / "secret" / "x.png")
    (tmp_path / "root" / "inner.png").symlink_to(tmp_path / "root" / "x.png")
    (tmp_path / "root" / "folder").symlink_to(tmp_path / "secret")
    return tmp_path


def test_only_files_within_the_roots_are_read(folders: Path) -> None:
    access = MediaAccess(roots=[folders / "root"])
    root = folders / "root"
    for good in (
        root / "x.png",
        str(root / "x.png"),
        root / "inner.png",
        root / "../root/x.png",
        (root / "x.png").as_uri(),
    ):
        assert load_image(good, media_access=access).size == (17, 13)
        admitted = access.admit(good)
        assert admitted == PNG.getvalue() and access.admit({"path": good}) == {"path": None, "bytes": admitted}
        assert load_image({"path": good}, media_access=access).size == (17, 13)
    words = set()
    for bad in (
        folders / "secret" / "x.png", root / "link.png", root / "folder" / "x.png", root / "../secret/x.png",
        folders / "rooted" / "x.png", (folders / "secret" / "x.png").as_uri(), f"file://{root}/%2e%2e/secret/x.png",
        folders / "secret" / "not there.png", "/etc/passwd", "/proc/self/environ",
    ):  # fmt: skip
        for read in (access.admit, lambda source: load_image(source, media_access=access)):
            with pytest.raises(RepoError) as caught:
                read(bad)
            words.add(str(caught.value).split(": ", 1)[1])
    assert len(words) == 1 and "may not be read here" in words.pop()
    with pytest.raises(RepoError, match="no such"):
        load_image(root / "not there.png", media_access=access)


def test_no_roots_and_no_addresses(folders: Path) -> None:
    access = MediaAccess(urls="none", roots=[])
    reader = processor("CLIPImageProcessor")
    for bad in (folders / "root" / "x.png", "http://example.com/x.png", (folders / "root" / "x.png").as_uri()):
        with pytest.raises(RepoError):
            reader(bad, media_access=access)
    text = base64.b64encode(PNG.getvalue()).decode()
    for good in (PNG.getvalue(), text, f"data:image/png;base64,{text}", Image.open(PNG), RGBA):
        assert reader(access.admit(good), media_access=access, return_tensors="pt").pixel_values.shape[0] == 1
    assert access.admit(text) == PNG.getvalue()


def test_a_folder_that_becomes_a_link_meanwhile(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = folders / "root" / "inner"
    inner.mkdir()
    (inner / "x.png").write_bytes(PNG.getvalue())
    access = MediaAccess(roots=[folders / "root"])
    real = os.path.realpath

    def swapped(path: object, **options: object) -> str:
        result = real(path, **options)  # type: ignore[call-overload]
        if inner.exists() and not inner.is_symlink():
            inner.rename(folders / "gone")
            inner.symlink_to(folders / "secret")
        return str(result)

    monkeypatch.setattr(os.path, "realpath", swapped)
    with pytest.raises(RepoError, match="may not be read"):
        access.open(inner / "x.png")


ODD = [
    None,
    float("nan"),
    -1,
    0,
    True,
    "x",
    b"x",
    (),
    {},
    object(),
    np.float32(3),
    np.zeros((2, 2)),
    torch.zeros(2),
    [1],
]


@pytest.mark.parametrize("value", ODD, ids=lambda v: type(v).__name__)
def test_values_of_other_kinds_for_access(value: object) -> None:
    for name in ("urls", "hosts", "roots", "max_pixels", "max_total_pixels", "max_download_bytes", "timeout"):
        try:
            MediaAccess(**{name: value})  # type: ignore[arg-type]
        except InputError as error:
            assert name in str(error)
    for read in (load_image, processor("ViTImageProcessor")):
        for options in ({"media_access": value}, {"max_pixels": value}):
            try:
                read(RGBA, **options)  # type: ignore[operator]
            except OmniformError as error:
                assert len(str(error)) < 2000
    for read in (load_image, processor("ViTImageProcessor"), MediaAccess().admit):
        try:
            read(value)  # type: ignore[operator]
        except OmniformError as error:
            assert len(str(error)) < 2000
