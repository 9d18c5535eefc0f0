"""Files of several pictures: animations, and pages. Of such a file a picture is the first; all of them are frames."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from omniform.core.errors import InputError
from omniform.inputs.images.load import ImageSource, damaged, load_image, opened_file
from omniform.inputs.media_access import MediaAccess, checked_access

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger("omniform")


def load_frames(source: ImageSource, *, media_access: MediaAccess | None = None) -> list[Image]:
    """All pictures of an animated or multi-page file, upright and in RGB, in their order.

    Args:
        source: what :func:`~omniform.inputs.images.load.load_image` takes; what holds one picture is a list of one.
        media_access: what may be read, and how many pixels all frames may have together.

    Raises:
        RepoError, InputError: as there; or the frames are too large together.
    """
    from PIL import Image

    access = checked_access(media_access)
    opened = source if isinstance(source, Image.Image) else opened_file(source, access, "the picture")
    if opened is None:
        return [load_image(source, media_access=access)]
    frames = []
    total = 0
    for number, frame in enumerate(_frames(opened)):
        total += frame.width * frame.height
        if total > access.max_total_pixels:
            raise InputError(
                "the frames are too large together",
                where=f"frame {number}",
                expected=f"at most {access.max_total_pixels:,} pixels",
                remedy="Pass media_access=MediaAccess(max_total_pixels=...) if you trust them.",
            )
        frames.append(load_image(frame, media_access=access))
    return frames


def _frames(image: Image) -> Iterator[Image]:
    number = 0
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image.seek(number)
        except EOFError:
            return
        except Exception as error:  # decoders meet damaged files with any exception there is
            raise damaged(f"frame {number}", error) from error
        yield image
        number += 1
