"""Keys that older releases wrote into processors' files, as those of today."""

from __future__ import annotations

from omniform.core.errors import ConfigError
from omniform.inputs.images.options import wrong_value
from omniform.inputs.images.sizes import FORMS_TEXT, parse_size, size_entries

_DETR_LONGEST = 1333


def modern_clip(given: dict[str, object], where: str) -> None:
    """CLIP's ``use_square_size``."""
    if given.get("use_square_size") is True:
        del given["use_square_size"]
        given["size"] = {"height": 224, "width": 224}


def modern_owl(given: dict[str, object], where: str) -> None:
    """OWL-ViT's ``rescale``."""
    rescale = given.pop("rescale", None)
    if rescale is not None:
        given["do_rescale"] = rescale


def modern_detr(given: dict[str, object], where: str) -> None:
    """DETR's ``max_size`` and ``pad_and_return_pixel_mask``.

    Raises:
        ConfigError: a size is none.
    """
    masked = given.pop("pad_and_return_pixel_mask", None)
    if masked is not None:
        given.setdefault("do_pad", masked)
    size = given.get("size")
    if size is None:
        given.pop("size", None)
        return
    longest = _edge(given.pop("max_size", None), where)
    given["size"] = _size(size, where, _DETR_LONGEST if longest is None else longest)


def modern_labels(given: dict[str, object], where: str) -> None:
    """``reduce_labels``, as ``do_reduce_labels`` was called."""
    reduce = given.pop("reduce_labels", None)
    if reduce is not None and given.get("do_reduce_labels") is None:
        given["do_reduce_labels"] = reduce


def modern_maskformer(given: dict[str, object], where: str) -> None:
    """MaskFormer's ``max_size``, ``size_divisibility`` and ``reduce_labels``.

    Raises:
        ConfigError: a size is none.
    """
    modern_labels(given, where)
    divisor = given.pop("size_divisibility", None)
    if divisor is not None and given.get("size_divisor") is None:
        given["size_divisor"] = divisor
    given.pop("_max_size", None)
    longest = _edge(given.pop("max_size", None), where)
    size = given.get("size")
    if size is not None:
        given["size"] = _size(size, where, longest)
    elif longest is not None:
        given["size"] = {"shortest_edge": 800, "longest_edge": longest}


def _edge(value: object, where: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise wrong_value("max_size", value, "a length in pixels", where, ConfigError)
    return value


def _size(value: object, where: str, longest: int | None) -> dict[str, int]:
    try:
        return size_entries(parse_size(value, square=False, longest_edge=longest))
    except (TypeError, ValueError, OverflowError):
        raise wrong_value("size", value, FORMS_TEXT, where, ConfigError) from None
