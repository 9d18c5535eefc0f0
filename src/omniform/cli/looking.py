"""``omniform run --image FILE --text QUESTION --save DRAWING``: where the model looked for each word of its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.cli.written import save_picture, target_of
from omniform.core.errors import InputError
from omniform.engine.calls import Reader
from omniform.engine.looking import looks
from omniform.inputs.processors import Processor

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
MOST = 48
"""So many words are drawn at most."""


def look_target(save: str, images: Sequence[str]) -> Path:
    """The file that is to be written, asked for before anybody waits.

    Raises:
        InputError: it is no picture, or there is not one picture to draw on.
    """
    if len(images) != 1:
        found = f"{len(images)} pictures"
        raise InputError("where a model looks is drawn for one picture", where="--save", found=found)
    return target_of(save, ENDINGS, where="--save", what="a drawing")


def save_looks(
    model: Generative, reader: Reader, inputs: Mapping[str, Tensor], answer: Sequence[int], image: str, target: Path
) -> None:
    """Draw the picture once for each word, with what was looked at for it.

    Raises:
        InputError: the model does not show where it looks.
        RepoError: the file cannot be written.
    """
    from omniform.inputs.images.load import load_image
    from omniform.pipelines.attending import seen_by
    from omniform.pipelines.drawing import Print, draw_sheet, looked_at

    picture = load_image(image)
    pixels = inputs.get("pixel_values")
    if isinstance(reader, Processor) and pixels is not None and pixels.dim() == 4:
        picture = seen_by(reader.parts().get("image_processor"), picture, pixels[0])
    found = looks(model, reader, inputs, answer, shape=(picture.height, picture.width))
    prints = [Print(looked_at(picture, look.weights), look.word) for look in found[:MOST]]
    said = " ".join(look.word for look in found)
    save_picture(draw_sheet(said, prints), target)
