"""Any picture a user may name becomes a Pillow image: upright, RGB, and known to be small enough before it is decoded.

Pictures come from strangers. The container formats are a short list of pure decoders (Pillow's EPS plugin, for one,
starts another program and is not among them), the pixel count is read from the header and checked before a pixel is
decoded, and whatever a decoder trips over comes back as one typed error.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from omniform.core.errors import InputError, OmniformError, RepoError
from omniform.inputs.images.arrays import MAX_PIXELS, array_to_pil, check_pixels
from omniform.inputs.images.fetch import fetch_url

if TYPE_CHECKING:
    from numpy import generic
    from numpy.typing import NDArray
    from PIL.Image import Image


@runtime_checkable
class ReadableFile(Protocol):
    """A file open for reading bytes, whatever its class (temporary files and web uploads have their own)."""

    def read(self, size: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...

    def tell(self) -> int: ...


ImageSource: TypeAlias = (
    "str | Path | bytes | bytearray | memoryview | ReadableFile | Image | NDArray[generic] | Tensor"
)
"""One picture: a path, a URL, a data URI, base64, the bytes of a file, an open file, a Pillow image or an array."""

MAX_FILE_BYTES: Final = 256 * 1024**2
"""The largest picture file that is read."""

_FORMATS: Final = ("PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "ICO", "TGA", "JPEG2000", "AVIF")

# The shortest picture file (a one-pixel GIF) has 26 bytes, 36 characters in base64: no need to take "cats" for one.
_LEAST_BASE64: Final = 36


def load_image(
    source: ImageSource, *, max_pixels: int = MAX_PIXELS, fetch: Callable[[str], bytes] = fetch_url
) -> Image:
    """Load one picture, upright by its EXIF tag and in RGB. Of an animation it is the first frame.

    Args:
        source: a path, an ``http(s)://`` URL, a data URI, a base64 string, the bytes of a file, a file open for
            reading bytes, a Pillow image, or an array or tensor ``[H, W]``, ``[H, W, C]`` or ``[C, H, W]`` of uint8 or
            of floats in 0..1, with 1, 3 or 4 channels.
        max_pixels: the largest width times height that is decoded.
        fetch: what turns a URL into bytes; a server passes one that refuses.

    Raises:
        RepoError: there is no such file, or the URL cannot be reached.
        InputError: it is no picture, is cut, or is larger than ``max_pixels``.
    """
    from PIL import Image

    if isinstance(source, Image.Image):
        return _upright(source, "the picture", max_pixels)
    if isinstance(source, str):
        return _load_text(source, max_pixels, fetch)
    if isinstance(source, Path):
        return _load_file(source, max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), "bytes", max_pixels)
    if isinstance(source, ReadableFile):
        return _decode(source, "open file", max_pixels)
    return array_to_pil(source, "the picture")


def _load_text(source: str, max_pixels: int, fetch: Callable[[str], bytes]) -> Image:
    if source.startswith(("http://", "https://")):
        return _decode(io.BytesIO(fetch(source)), source, max_pixels)
    if source.startswith("data:"):
        return _decode(io.BytesIO(_data_uri(source)), "data URI", max_pixels)
    if not os.path.exists(source) and len(source) >= _LEAST_BASE64:
        data = _base64(source)
        if data is not None:
            return _decode(io.BytesIO(data), "base64 string", max_pixels)
    return _load_file(Path(source), max_pixels)


def _load_file(path: Path, max_pixels: int) -> Image:
    shown = str(path) if len(str(path)) <= 200 else f"{str(path)[:200]}..."
    # os.path, unlike pathlib, answers False to names that the system cannot even ask about.
    if not os.path.exists(path):
        raise RepoError("no such picture file", where=shown)
    if not os.path.isfile(path):
        raise RepoError("this is a folder, not a picture file" if os.path.isdir(path) else "not a file", where=shown)
    try:
        with open(path, "rb") as file:
            return _decode(file, shown, max_pixels)
    except OmniformError:
        raise
    except OSError as error:
        raise RepoError(
            "the picture file cannot be read", where=shown, found=error.strerror or type(error).__name__
        ) from error


def _data_uri(source: str) -> bytes:
    head, comma, body = source.partition(",")
    if not comma or not head.endswith(";base64"):
        raise InputError("malformed data URI", expected="data:image/...;base64,...", found=repr(source[:60]))
    data = _base64(body)
    if data is None:
        raise InputError("the data URI does not hold base64", found=repr(source[:60]))
    return data


def _base64(text: str) -> bytes | None:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def _decode(file: ReadableFile, where: str, max_pixels: int) -> Image:
    from PIL import Image, UnidentifiedImageError

    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    try:
        file.seek(0, io.SEEK_END)
        size = file.tell()
        file.seek(0)
    except (OSError, ValueError) as error:
        raise InputError(
            "the open file cannot be read from its start", where=where, remedy="Pass its bytes."
        ) from error
    if size == 0:
        raise InputError("the picture file is empty", where=where)
    if size > MAX_FILE_BYTES:
        raise InputError("the picture file is too large", where=where, expected=f"<= {MAX_FILE_BYTES}", found=size)
    with warnings.catch_warnings():
        # What Pillow warns of (size, odd tags) either fails below, in our words, or does not matter.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(file, formats=formats)  # type: ignore[arg-type]
        except Image.DecompressionBombError as error:
            raise InputError("the picture is too large to decode safely", where=where, found=str(error)) from error
        except UnidentifiedImageError as error:
            raise InputError(
                "this is not a picture in a format we read", where=where, expected=", ".join(formats)
            ) from error
        # Pillow's decoders meet damaged files with any exception there is: OSError, SyntaxError, struct.error ...
        except Exception as error:
            raise _damaged(where, error) from error
        return _upright(image, where, max_pixels)


def _upright(image: Image, where: str, max_pixels: int) -> Image:
    from PIL import ImageOps

    check_pixels(image.width, image.height, where, max_pixels)
    try:
        return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:
        raise _damaged(where, error) from error


def _damaged(where: str, error: Exception) -> InputError:
    return InputError("the picture is cut or damaged", where=where, found=f"{type(error).__name__}: {str(error)[:200]}")
