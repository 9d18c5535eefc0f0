"""Pictures from every source, and what is refused before it is decoded."""

from __future__ import annotations

import base64
import http.server
import io
import struct
import tempfile
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from test_images_processors import import_reference

from omniform.core.errors import InputError, OmniformError, RepoError
from omniform.inputs import fetch
from omniform.inputs.fetch import fetch_url
from omniform.inputs.images import load
from omniform.inputs.images.load import load_image
from omniform.inputs.media_access import MediaAccess

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(form: str = "PNG", mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def same(image: Image.Image, pixels: np.ndarray = PIXELS) -> bool:
    return image.mode == "RGB" and np.array_equal(np.asarray(image), pixels)


def test_files_bytes_and_text(tmp_path: Path) -> None:
    data = encoded()
    path = tmp_path / "a picture.png"
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    wrapped = "\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    for source in (path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), text, wrapped):
        assert same(load_image(source))
    assert same(load_image(f"data:image/png;base64,{text}"))
    with open(path, "rb") as file:
        file.read(7)
        assert same(load_image(file))
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        assert same(load_image(file))


def test_pillow_arrays_and_tensors() -> None:
    image = Image.fromarray(PIXELS)
    unit = PIXELS.astype(np.float32) / 255
    first = PIXELS.transpose(2, 0, 1)
    for source in (
        image,
        PIXELS,
        first,
        unit,
        torch.from_numpy(first),
        torch.from_numpy(unit),
        PIXELS[:, ::-1][:, ::-1],
    ):
        assert same(load_image(source))
    grey = PIXELS[:, :, 0]
    assert same(load_image(grey), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA", "JPEG2000"])
def test_formats(form: str) -> None:
    data = encoded(form)
    assert same(load_image(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I", "YCbCr", "CMYK"])
def test_modes_as_the_reference_loads_them(mode: str) -> None:
    reference = import_reference().image_utils.load_image

    image = Image.fromarray(PIXELS).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if mode in ("I", "YCbCr", "CMYK") else "PNG")
    assert same(load_image(buffer), np.asarray(reference(Image.open(buffer))))
    assert same(load_image(image), np.asarray(reference(image)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded("JPEG", exif=exif, quality=90)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert upright.size == ((30, 20) if orientation < 5 else (20, 30))
    assert same(load_image(data), np.asarray(upright))


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert same(load_image(buffer), np.full((8, 8, 3), 10))


# -- refused ----------------------------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "empty"),
        (b"not a picture at all, only text", "not a picture"),
        (b"\x00" * 500, "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not a picture"),
        (encoded()[:60], "cut"),
        (encoded()[:-200], "cut"),
        (encoded("JPEG")[: len(encoded("JPEG")) // 2], "cut"),
        (encoded("WEBP")[:40], "."),
        (encoded("TIFF")[:40], "."),
        (encoded("GIF")[:30], "."),
        (png_header(9500, 9500), "too large"),
        (png_header(20_000, 20_000), "too large"),
        (png_header(2**31 - 1, 2**31 - 1), "too large"),
        (png_header(2**31 - 1, 1), "too large"),
        (png_header(0, 5), "."),
        (png_header(50, 50), "cut"),
    ],
    ids=lambda v: None if isinstance(v, bytes) else str(v),
)
def test_bad_pictures(data: bytes, text: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(InputError, match=text):
        load_image(data)
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(InputError, match=r"x\.png"):
        load_image(tmp_path / "x.png")
    assert not recwarn.list


def test_a_bomb_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded()
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(InputError, match="600"):
        load_image(data, max_pixels=599)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA", "JPEG2000"])
def test_mutated_files_give_a_picture_or_a_typed_error(form: str) -> None:
    rng = np.random.default_rng(3)
    clean = np.frombuffer(encoded(form), np.uint8)
    refused = 0
    for _ in range(60):
        data = clean.copy()
        at = rng.integers(0, min(len(data), 200), size=rng.integers(1, 6))
        data[at] = rng.integers(0, 256, size=len(at))
        try:
            load_image(data[: rng.integers(1, len(data) + 1)].tobytes(), max_pixels=10_000)
        except OmniformError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        ("no/such/picture.png", RepoError, "no such picture file"),
        (Path("no/such/picture.png"), RepoError, "no such picture file"),
        ("", RepoError, "."),
        ("\0", RepoError, "no such"),
        ("x" * 5000 + ".png", RepoError, "no such"),
        (str(Path(__file__).parent), RepoError, "folder"),
        ("a" * 40, InputError, "base64"),
        ("data:image/png;base64,@@@@", InputError, "base64"),
        ("data:image/png,abc", InputError, "data URI"),
        ("data:", InputError, "data URI"),
        ("file://elsewhere/x.png", InputError, "this machine"),
        (12, InputError, "not a picture"),
        (None, InputError, "not a picture"),
        (object(), InputError, "not a picture"),
        (io.StringIO("text"), InputError, "."),
        (np.zeros((2, 2, 7), np.uint8), InputError, "channels"),
        (np.zeros((2, 2, 3), np.float32) - 1, InputError, "0..1"),
        (np.full((2, 2, 3), 256, np.int64), InputError, "full scale"),
        (np.zeros((3, 2, 3), np.uint8), InputError, "input_data_format"),
        (torch.full((3, 2, 2), float("nan")), InputError, "NaN"),
    ],
    ids=lambda v: str(v)[:30] if isinstance(v, str) else None,
)
def test_bad_sources(source: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        load_image(source)  # type: ignore[arg-type]


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "locked.png"
    path.write_bytes(encoded())

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(RepoError, match=r"locked\.png.*Permission denied"):
        load_image(path)


def test_a_huge_file_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "MAX_FILE_BYTES", 100)
    with pytest.raises(InputError, match="too large"):
        load_image(encoded())


# -- the network ------------------------------------------------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/picture")
            self.end_headers()
        elif self.path in ("/file", "/ftp"):
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd" if self.path == "/file" else "ftp://localhost/x")
            self.end_headers()
        elif self.path == "/picture":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(encoded())
        else:
            self.send_error(404)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("no_proxy", "*")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


LOCAL = MediaAccess(hosts=["127.0.0.1"], timeout=5)


@pytest.mark.parametrize("access", [LOCAL, MediaAccess(urls="any")], ids=["named", "any"])
def test_urls(site: str, access: MediaAccess) -> None:
    assert same(load_image(f"{site}/picture", media_access=access))
    assert same(load_image(f"{site}/moved", media_access=access))
    with pytest.raises(RepoError, match="404"):
        load_image(f"{site}/nothing", media_access=access)
    for path in ("/file", "/ftp"):
        with pytest.raises(RepoError, match="only http"):
            load_image(site + path, media_access=access)
    with pytest.raises(InputError, match="too large"):
        access.fetch(f"{site}/picture", max_bytes=100)


def test_a_download_has_a_time(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr(fetch.time, "monotonic", lambda: next(clock))
    with pytest.raises(RepoError, match="too long"):
        fetch_url(f"{site}/picture", anywhere=True)


def test_unreachable_and_malformed_addresses(site: str) -> None:
    with pytest.raises(RepoError, match="cannot be reached"):
        load_image("http://127.0.0.1:9/x.png", media_access=LOCAL)
    for url in ("http://[bad", "http://a b/", "http://127.0.0.1:port/", "http://", "https://"):
        with pytest.raises(OmniformError):
            load_image(url, media_access=LOCAL)
    with pytest.raises(RepoError, match="only http"):
        fetch_url("file:///etc/passwd")


def test_offline_opens_no_connection(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RepoError, match="offline"):
        load_image(f"{site}/picture")


def test_a_server_brings_its_own_fetch() -> None:
    assert same(load_image("https://nowhere.invalid/x", fetch=lambda url: encoded()))
