"""Any picture a user may name becomes a Pillow image: upright, RGB, and known to be small enough before it is decoded.

Pictures come from strangers. The container formats are a short list of pure decoders (Pillow's EPS plugin, for one,
starts another program and is not among them), the pixel count is read from the header and checked before a pixel is
decoded, and whatever a decoder trips over comes back as one typed error.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from omniform.core.errors import InputError, brief
from omniform.inputs.checks import whole_limit
from omniform.inputs.images.arrays import Layout, array_picture, array_to_pil, check_pixels, finite, is_array
from omniform.inputs.images.modes import is_numbers, numbers, on_white
from omniform.inputs.media_access import (
    MAX_FILE_BYTES,
    MediaAccess,
    checked_access,
    from_base64,
    is_web,
    local_path,
    read_file,
)

if TYPE_CHECKING:
    from numpy import generic
    from numpy.typing import NDArray
    from PIL.Image import Image

logger = logging.getLogger("omniform")


@runtime_checkable
class ReadableFile(Protocol):
    """A file open for reading bytes, whatever its class (temporary files and web uploads have their own)."""

    def read(self, size: int = -1, /) -> bytes: ...


ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | ReadableFile | Mapping[str, object] | Image"
    " | NDArray[generic] | Tensor"
)
"""One picture: a path, a URL, a data URI, base64, the bytes of a file, an open file, a mapping with ``bytes`` or
``path``, a Pillow image or an array."""

# Photographs in MPO come with previews of themselves.
_PAGED: Final = ("GIF", "WEBP", "TIFF", "PNG", "AVIF")
_ORIENTATION: Final = 0x0112
ENDINGS: Final = (
    ".png", ".jpg", ".jpeg", ".jpe", ".mpo", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".pnm", ".ico", ".tga", ".jp2", ".j2k", ".avif",
)  # fmt: skip
"""Files of a folder that are pictures, by their endings in any letters."""
_FORMATS: Final = ("PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "ICO", "TGA", "JPEG2000", "AVIF")


def load_image(
    source: ImageSource,
    *,
    max_pixels: int | None = None,
    fetch: Callable[[str], bytes] | None = None,
    input_data_format: Layout | None = None,
    media_access: MediaAccess | None = None,
) -> Image:
    """Load one picture, upright by its EXIF tag and in RGB. Of an animation it is the first frame.

    The same picture gives the same pixels through every door: transparency is laid on white, 16 bits become 8,
    and palettes become colours.

    Args:
        source: a path, an ``http(s)://`` or ``file://`` URL, a data URI, a base64 string, the bytes of a file, a file
            open for reading bytes, a mapping with ``bytes`` or ``path``, a Pillow image, or an array or tensor
            ``[H, W]``, ``[H, W, C]`` or ``[C, H, W]`` with 1, 3 or 4 channels: uint8, uint16, bool, other whole
            numbers from 0 to 255, or floats in 0..1.
        max_pixels: the largest width times height that is decoded; by default that of ``media_access``.
        fetch: what turns a URL into bytes, instead of ``media_access``.
        input_data_format: where the channels of an array are; without it they are looked for.
        media_access: what may be read; by default every local file and public addresses.

    Raises:
        RepoError: there is no such file, it may not be read, or the URL cannot be reached.
        InputError: it is no picture, is cut, is larger than ``max_pixels``, or its layout or scale is not clear.
    """
    access = checked_access(media_access)
    if fetch is not None and not callable(fetch):
        raise InputError("this fetches nothing", where="fetch", expected="a function", found=brief(fetch))
    if max_pixels is not None:
        whole_limit("max_pixels", max_pixels)
        access = replace(access, max_pixels=max_pixels)
    if isinstance(source, Tensor) or is_array(source):
        known = isinstance(input_data_format, str) and input_data_format in ("channels_first", "channels_last")
        if input_data_format is not None and not known:
            raise InputError(
                "unknown layout",
                where="input_data_format",
                expected="'channels_first' or 'channels_last'",
                found=brief(input_data_format),
            )
        return array_to_pil(array_picture(source, input_data_format, "the picture", access.max_pixels), "the picture")
    image, where = open_image(source, access, "the picture", fetch)
    if is_numbers(image):
        return array_to_pil(finite(numbers(image, where), where), where)
    try:
        shown = on_white(image)
        # Neither the caller's own nor one that an open file hangs on.
        return shown.copy() if shown is image else shown
    except Exception as error:
        raise damaged(where, error) from error


def open_image(
    source: ImageSource,
    access: MediaAccess,
    where: str,
    fetch: Callable[[str], bytes] | None = None,
    count: Callable[[int], None] | None = None,
) -> tuple[Image, str]:
    """A picture that is no array, decoded and upright, in the mode it has; and what to call it in messages.

    Args:
        source: see :func:`load_image`.
        access: what may be read.
        where: how to name a picture that has no name of its own.
        fetch: what turns a URL into bytes, instead of ``access``.
        count: told the pixels before they are decoded; it may refuse.

    Raises:
        RepoError, InputError: as :func:`load_image`.
    """
    from PIL import Image

    if isinstance(source, Image.Image):
        image = source
    else:
        data, where = _encoded(source, access, where, fetch)
        image = _opened(data, where)
        _say_more(image, where)
    check_pixels(image.width, image.height, where, access.max_pixels)
    if count is not None:
        count(image.width * image.height)
    # Of PPM's kinds Pillow gives the one of 16 bits as integers of 32.
    sixteen = image.mode == "I" and image.format == "PPM"
    image = _upright(image, where)
    return (image.convert("I;16") if sixteen else image), where


def opened_file(source: ImageSource, access: MediaAccess, where: str) -> Image | None:
    """The picture file that a source names or holds, not decoded yet; None of an array.

    Raises:
        RepoError, InputError: as :func:`load_image`.
    """
    if isinstance(source, Tensor) or is_array(source):
        return None
    data, where = _encoded(source, access, where, None)
    return _opened(data, where)


def _say_more(image: Image, where: str) -> None:
    """Say that a file holds more pictures than the one that is read."""
    if image.format not in _PAGED:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.seek(1)
            image.seek(0)
    except EOFError:
        return
    except Exception as error:  # decoders meet damaged files with any exception there is
        raise damaged(where, error) from error
    logger.warning("%s: the first of several frames is read; load_frames reads all", where)


def _encoded(
    source: object, access: MediaAccess, where: str, fetch: Callable[[str], bytes] | None
) -> tuple[bytes, str]:
    """The bytes of a picture file, and what to call it."""
    if isinstance(source, Mapping):
        # As ``datasets`` has undecoded pictures.
        given = [source.get(key) for key in ("bytes", "path")]
        source = next((one for one in given if isinstance(one, (str, bytes, bytearray, os.PathLike))), source)
    if isinstance(source, str):
        return _encoded_text(source, access, fetch)
    if isinstance(source, os.PathLike):
        return _file_bytes(os.fspath(source), access)
    if isinstance(source, (bytes, bytearray, memoryview)):
        if len(source) > MAX_FILE_BYTES:
            raise InputError("the picture file is too large", where="bytes", expected=f"at most {MAX_FILE_BYTES:,}")
        return bytes(source), "bytes"
    # A class (a Path, not one of its objects) has the methods as well.
    if isinstance(source, ReadableFile) and not isinstance(source, type):
        return read_file(source, "open file", MAX_FILE_BYTES, "picture file"), "open file"
    raise InputError(
        "this is not a picture",
        where=where,
        expected="a path, a URL, base64, bytes, an open file, a Pillow image, an array or a tensor",
        found=type(source).__name__,
    )


def _encoded_text(source: str, access: MediaAccess, fetch: Callable[[str], bytes] | None) -> tuple[bytes, str]:
    if is_web(source):
        return (access.fetch(source) if fetch is None else fetch(source)), source
    if source[:5].lower() == "data:":
        return _data_uri(source), "data URI"
    path = local_path(source)
    if path == source and not access.names_file(path):
        data = from_base64(source)
        if data is not None:
            return data, "base64 string"
    return _file_bytes(path, access)


def _file_bytes(path: str | bytes, access: MediaAccess) -> tuple[bytes, str]:
    name = os.fsdecode(path)
    return access.read(name, "picture file", MAX_FILE_BYTES), name[:200]


def _data_uri(source: str) -> bytes:
    head, comma, body = source.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise InputError("malformed data URI", expected="data:image/...;base64,...", found=repr(source[:60]))
    data = from_base64(body, 0)
    if data is None:
        raise InputError("the data URI does not hold base64", found=repr(source[:60]))
    return data


def _opened(data: bytes, where: str) -> Image:
    """The picture in a file's bytes, its header read and its pixels not yet."""
    from PIL import Image, UnidentifiedImageError

    Image.init()
    formats: list[str] = [name for name in _FORMATS if name in Image.OPEN]
    if not data:
        raise InputError("the picture file is empty", where=where)
    with warnings.catch_warnings():
        # What Pillow warns of (size, odd tags) either fails below, in our words, or does not matter.
        warnings.simplefilter("ignore")
        try:
            return Image.open(io.BytesIO(data), formats=formats)
        except Image.DecompressionBombError as error:
            raise InputError("the picture is too large to decode safely", where=where, found=str(error)) from error
        except UnidentifiedImageError as error:
            raise InputError(
                "this is not a picture in a format we read", where=where, expected=", ".join(formats)
            ) from error
        # Pillow's decoders meet damaged files with any exception there is: OSError, SyntaxError, struct.error ...
        except Exception as error:
            raise damaged(where, error) from error


def _upright(image: Image, where: str) -> Image:
    from PIL import ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            # Pillow would copy what needs no turning.
            turned = image.getexif().get(_ORIENTATION, 1) != 1
            return ImageOps.exif_transpose(image) if turned else image
    except Exception as error:
        raise damaged(where, error) from error


def damaged(where: str, error: Exception) -> InputError:
    """The error for a picture that a decoder trips over."""
    return InputError("the picture is cut or damaged", where=where, found=f"{type(error).__name__}: {str(error)[:200]}")
