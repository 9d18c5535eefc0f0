"""Which parts of a picture a model looked at when it wrote each word of an answer.

One more pass over the prompt and the answer gives the attention weights; those from the token before each written one
to the picture's vectors, averaged over layers and heads, are how much each of its patches was looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.core.errors import InputError
from omniform.engine.text import Decodes

Weights = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Look:
    """A word, and where the model looked for it.

    Attributes:
        word: as it stands in the answer.
        weights: how much, for each patch of a grid over the picture, top row first. Shape: [rows, columns].
    """

    word: str
    weights: Weights


def looks(
    model: Generative, reader: Decodes, inputs: Mapping[str, Tensor], answer: Sequence[int], *, shape: tuple[int, int]
) -> list[Look]:
    """Where a model looked in its prompt's one picture, word by word.

    Args:
        model: a decoder that reads pictures among its tokens, or one that looks at a picture by cross-attention.
        inputs: of one row, as they were answered.
        answer: the tokens of the answer, at least one.
        shape: the picture's height and width; its grid is of the like shape.

    Raises:
        InputError: the prompt holds no picture or several, or the vectors of the picture are no grid.
    """
    attended_TP = _attended(model, inputs, answer)
    grid = _grid(attended_TP.shape[1], shape)
    behind = attended_TP.shape[1] - grid[0] * grid[1]
    # What stands beside the patches (a class token) stands in front of them.
    maps = attended_TP[:, behind:].reshape(-1, *grid).float().cpu().numpy()
    return [Look(word, maps[first:stop].mean(0)) for word, first, stop in _words(reader, answer)]


@torch.inference_mode()
def _attended(model: Generative, inputs: Mapping[str, Tensor], answer: Sequence[int]) -> Tensor:
    """How much each written token's predecessor looked at each vector of the picture. Shape: [written, vectors]."""
    ids = inputs.get("input_ids")
    if "output_attentions" not in model.accepts() or ids is None or model.encoder_inputs:
        raise InputError("this model does not show where it looks", where="model", found=model.origin.architecture.name)
    row = ids[0].tolist()
    whole = torch.tensor([[*row, *answer]], device=ids.device)
    others = {n: v for n, v in inputs.items() if n not in ("input_ids", "attention_mask", "token_type_ids")}
    output = model(input_ids=whole, **others, output_attentions=True)
    crossed = output.get("cross_attentions")
    layers = crossed if crossed else output["attentions"]
    assert isinstance(layers, tuple), "they were asked for"
    mean_TS = torch.stack([layer[0].float().mean(0) for layer in layers if isinstance(layer, Tensor)]).mean(0)
    rows = mean_TS[len(row) - 1 : len(row) - 1 + len(answer)]
    return rows if crossed else rows[:, _places(model, row, others)]


def _places(model: Generative, row: Sequence[int], others: Mapping[str, Tensor]) -> Tensor:
    """Where the vectors of the prompt's picture stand."""
    (items,) = model.items([row], others)
    pictures = [item for item in items if item.modality == "image"]
    if len(pictures) != 1 or len(items) != 1:
        raise InputError(
            "where a model looks is drawn for one picture", where="inputs", expected="one picture", found=len(items)
        )
    lengths = [len(vectors) for vectors in model.encode_items(items)]
    spans = model.spans(row, items, lengths)
    return torch.cat([torch.arange(span.start, span.start + span.length) for span in spans])


def _grid(vectors: int, shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of so many vectors over a picture: most like its shape, or a square that it was cut to.

    Raises:
        InputError: there is no such grid.
    """
    for extra in range(3):
        left = vectors - extra
        pairs = [(rows, left // rows) for rows in range(1, left + 1) if left % rows == 0]
        wanted = np.log(shape[0] / shape[1])
        fits = [(abs(np.log(rows / columns) - wanted), rows, columns) for rows, columns in pairs]
        best = min(fits, default=(np.inf, 0, 0))
        side = round(left**0.5)
        if side * side == left and left > 1:
            return side, side
        if best[0] < np.log(1.5) and left > 3:
            return best[1], best[2]
    raise InputError(
        "the vectors of the picture are no grid over it",
        where="model",
        found=f"{vectors} vectors for {shape[0]} x {shape[1]} pixels",
        remedy="Models that cut a picture into several tiles have no one map.",
    )


def _words(reader: Decodes, answer: Sequence[int]) -> list[tuple[str, int, int]]:
    """The words of an answer, and which of its tokens each is."""
    found: list[tuple[str, int, int]] = []
    before = ""
    for place in range(len(answer)):
        text = str(reader.decode(list(answer[: place + 1]), skip_special_tokens=True))
        new = text[len(before) :] if text.startswith(before) else text
        if not new.strip():
            before = text
            continue
        begins = new[:1].isspace() or before[-1:].isspace() or not found
        if begins:
            found.append((new.strip(), place, place + 1))
        else:
            word, first, _ = found[-1]
            found[-1] = (word + new.strip(), first, place + 1)
        before = text
    return found
