"""What each family's processor does, in which order: plans made of steps, from options.

A family that differs from another by a rule of sizes or by an order has a function of a few lines here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias, cast

from omniform.core.errors import InputError
from omniform.inputs.images import options as of
from omniform.inputs.images.backends import PILLOW, Backend
from omniform.inputs.images.options import ImageOptions
from omniform.inputs.images.sizes import Exact, ShortestEdge, Size, exact
from omniform.inputs.images.steps import (
    CenterCrop,
    Divisible,
    Flip,
    Mirrored,
    Normalize,
    Pad,
    Plan,
    Rescale,
    Resize,
    ResizeCorners,
    Reverse,
    Shift,
    Square,
    Step,
)
from omniform.inputs.images.targets import (
    CocoEdges,
    Multiple,
    RoundedDown,
    RoundedUp,
    Target,
    Unchanged,
    bounded,
    enlarged,
    longest,
    shortest,
    stepped,
    unusable,
)

Planner: TypeAlias = Callable[[ImageOptions, Backend], Plan]

# ConvNeXt cuts the middle out of pictures smaller than this, and squeezes larger ones.
_CONVNEXT_WHOLE: Final = 384
# The share of an enlarged picture that LeViT's crop leaves.
_LEVIT_SCALE: Final = 256 / 224
_YOLOS_STEP: Final = 16
_CORNER_MODES: Final = {2: "bilinear", 3: "bicubic"}


def standard(o: ImageOptions, b: Backend) -> Plan:
    """Resize, crop, normalise; pad the batch at the end."""
    return Plan((*resizing(o, b), *cropping(o, b)), valuing(o, b), padding(o))


def unpadded(o: ImageOptions, b: Backend) -> Plan:
    """Resize, crop, normalise."""
    return Plan((*resizing(o, b), *cropping(o, b)), valuing(o, b), None)


def uncropped(o: ImageOptions, b: Backend) -> Plan:
    """Segformer's: resize and normalise."""
    return Plan(resizing(o, b), valuing(o, b), None)


def square(o: ImageOptions, b: Backend) -> Plan:
    """LLaVA's: pad to a square of the mean colour *before* resizing; the batch is not padded."""
    first: tuple[Step, ...] = (square_of_mean(o),) if o.do_pad else ()
    return Plan((*first, *resizing(o, b), *cropping(o, b)), valuing(o, b), None)


def square_of_mean(o: ImageOptions) -> Square:
    """Pads to a square of the mean colour."""
    if o.image_mean is None:
        raise _unset("do_pad", "image_mean")
    mean = o.image_mean if isinstance(o.image_mean, tuple) else (o.image_mean,)
    return Square(tuple(int(x * 255) for x in mean))


def valued(o: ImageOptions, b: Backend) -> Plan:
    """Normalise alone: sizes are the processor's own affair."""
    return Plan((), valuing(o, b), None)


def detecting(o: ImageOptions, b: Backend) -> Plan:
    """DETR's: resize and normalise, no crop; pad the batch at the end."""
    return Plan(resizing(o, b, bounded), valuing(o, b), padding(o))


def yolos(o: ImageOptions, b: Backend) -> Plan:
    """DETR's, with edges that patches fill."""
    return Plan(resizing(o, b, lambda size: stepped(size, _YOLOS_STEP)), valuing(o, b), padding(o))


def masking(o: ImageOptions, b: Backend) -> Plan:
    """MaskFormer's: resized to multiples of ``size_divisor``, padded at the end in any case."""
    step = cast(of.MaskFormerOptions, o).size_divisor or 0

    def rounded(size: Size) -> Target:
        return RoundedUp(bounded(size), step) if step else bounded(size)

    return Plan(resizing(o, b, rounded), valuing(o, b), _pad_to(o))


def oneformer(o: ImageOptions, b: Backend) -> Plan:
    """OneFormer's: as DETR's, padded to the largest of the batch in any case."""
    return Plan(resizing(o, b), valuing(o, b), Pad(None))


def rescaled_first(o: ImageOptions, b: Backend) -> Plan:
    """DINOv3's: rescale before resizing, so that what is resized are floats."""
    return Plan((*rescaling(o, b), *resizing(o, b), *cropping(o, b)), normalizing(o, PILLOW, None), None)


def convnext(o: ImageOptions, b: Backend) -> Plan:
    """ConvNeXt's: below 384 pixels a crop of an enlarged picture (``crop_pct``), from there on squeezed to a square."""
    share = cast(of.CropOptions, o).crop_pct
    shaping: tuple[Step, ...] = ()
    if o.do_resize:
        size, resample = _resize_settings(o)
        edge = shortest(size)
        whole = Exact(edge, edge)
        if edge >= _CONVNEXT_WHOLE:
            shaping = (Resize(whole, resample, b),)
        elif share is None:
            raise _unset("do_resize", "crop_pct")
        else:
            shaping = (Resize(ShortestEdge(int(edge / share)), resample, b), CenterCrop(whole, b))
    return Plan((*shaping, *cropping(o, b)), valuing(o, b), None)


def poolformer(o: ImageOptions, b: Backend) -> Plan:
    """PoolFormer's: enlarged by ``crop_pct`` before the crop."""
    share = cast(of.CropOptions, o).crop_pct
    rule = _same if share is None else lambda size: enlarged(size, share)
    return Plan((*resizing(o, b, rule), *cropping(o, b)), valuing(o, b), padding(o))


def levit(o: ImageOptions, b: Backend) -> Plan:
    """LeViT's: a size for the shorter edge is enlarged before the crop."""

    def scaled(size: Size) -> Target:
        return size if isinstance(size, Exact) else ShortestEdge(int(_LEVIT_SCALE * shortest(size)))

    return Plan((*resizing(o, b, scaled), *cropping(o, b)), valuing(o, b), padding(o))


def efficientnet(o: ImageOptions, b: Backend) -> Plan:
    """EfficientNet's: ``rescale_offset`` subtracts one; ``include_top`` divides by the deviation once more."""
    e = cast(of.EfficientNetOptions, o)
    values: tuple[Step, ...] = valuing(o, b)
    if o.do_rescale and e.rescale_offset:
        values = (Rescale(_factor(o), b), Shift(1), *normalizing(o, b, None))
    if e.include_top:
        if o.image_std is None:
            raise _unset("include_top", "image_std")
        values = (*values, Normalize(0.0, o.image_std, None, PILLOW))
    return Plan((*resizing(o, b), *cropping(o, b)), values, None)


def mobilevit(o: ImageOptions, b: Backend) -> Plan:
    """MobileViT's: rescaled, then blue first; never normalised."""
    values: tuple[Step, ...] = (Rescale(_factor(o), b),) if o.do_rescale else ()
    if cast(of.FlipOptions, o).do_flip_channel_order:
        # The slow class turns a fourth channel around as well.
        values = (*values, Flip() if b.name == "torchvision" else Reverse())
    return Plan((*resizing(o, b), *cropping(o, b)), values, None)


def dpt(o: ImageOptions, b: Backend) -> Plan:
    """DPT's: multiples of ``ensure_multiple_of``; with ``do_pad`` a border up to multiples of ``size_divisor``."""
    d = cast(of.DPTOptions, o)
    border: tuple[Step, ...] = ()
    if o.do_pad:
        if not d.size_divisor and b.name == "torchvision":
            raise _unset("do_pad", "size_divisor")
        border = (Divisible(d.size_divisor),) if d.size_divisor else ()
    crops = cropping(o, b) if b.name == "torchvision" else ()  # the slow class does not crop
    return Plan((*resizing(o, b, lambda size: _multiple(d, size)), *crops), (*valuing(o, b), *border), None)


def zoedepth(o: ImageOptions, b: Backend) -> Plan:
    """ZoeDepth's: rescale, a mirrored border, resize corner to corner, normalise."""
    z = cast(of.DepthOptions, o)
    steps: list[Step] = [Rescale(_factor(o), b)] if o.do_rescale else []
    if o.do_pad:
        steps.append(Mirrored())
    if o.do_resize:
        size, resample = _resize_settings(o)
        if resample not in _CORNER_MODES:
            raise InputError(
                "unsupported resampling filter", where="resample", expected="2 (bilinear), 3 (bicubic)", found=resample
            )
        steps.append(ResizeCorners(_multiple(z, size), _CORNER_MODES[resample]))
    return Plan(tuple(steps), normalizing(o, PILLOW, None), None)


def glpn(o: ImageOptions, b: Backend) -> Plan:
    """GLPN's: rounded down to multiples of ``size_divisor``, whatever the size."""
    step = cast(of.DivisorOptions, o).size_divisor
    shaping: tuple[Step, ...] = ()
    if o.do_resize:
        if not step or o.resample is None:
            raise _unset("do_resize", "resample" if step else "size_divisor")
        shaping = (Resize(RoundedDown(Unchanged(), step), o.resample, b),)
    return Plan(shaping, valuing(o, b), None)


def sam(o: ImageOptions, b: Backend) -> Plan:
    """SAM's: the longer edge to a length, padded to a square."""
    return Plan((*resizing(o, b, longest), *cropping(o, b)), valuing(o, b), padding(o))


def vilt(o: ImageOptions, b: Backend) -> Plan:
    """ViLT's: edges that patches fill, no crop; the batch is padded to its largest, whatever ``pad_size`` says."""
    return Plan(resizing(o, b, _coco(o)), valuing(o, b), Pad(None) if o.do_pad else None)


def bridgetower(o: ImageOptions, b: Backend) -> Plan:
    """BridgeTower's: ViLT's with a square cut out of the middle, as long as ``crop_size`` has its shorter edge."""
    crop: tuple[Step, ...] = ()
    if o.do_center_crop:
        if isinstance(o.crop_size, ShortestEdge):
            crop = (CenterCrop(Exact(o.crop_size.shortest_edge, o.crop_size.shortest_edge), b),)
        else:
            crop = cropping(o, b)
    return Plan((*resizing(o, b, _coco(o)), *crop), valuing(o, b), Pad(None) if o.do_pad else None)


def _coco(o: ImageOptions) -> Callable[[Size], Target]:
    step = cast(of.DivisorOptions, o).size_divisor
    return lambda size: CocoEdges(shortest(size), step)


def resizing(o: ImageOptions, b: Backend, rule: Callable[[Size], Target] | None = None) -> tuple[Step, ...]:
    """The resize step, if asked for.

    Args:
        rule: what a family makes of a size.
    """
    if not o.do_resize:
        return ()
    size, resample = _resize_settings(o)
    return (Resize(size if rule is None else rule(size), resample, b),)


def cropping(o: ImageOptions, b: Backend) -> tuple[Step, ...]:
    """The crop step, if asked for."""
    return (CenterCrop(exact(o.crop_size, "crop_size"), b),) if o.do_center_crop else ()


def valuing(o: ImageOptions, b: Backend) -> tuple[Step, ...]:
    """The step that changes values: rescale, normalise, both in one, or none."""
    factor = _factor(o) if o.do_rescale else None
    if o.do_normalize:
        return normalizing(o, b, factor)
    return () if factor is None else (Rescale(factor, b),)


def rescaling(o: ImageOptions, b: Backend) -> tuple[Step, ...]:
    """The step that rescales, if asked for, where it stands by itself."""
    return (Rescale(_factor(o), b),) if o.do_rescale else ()


def normalizing(o: ImageOptions, b: Backend, factor: float | None) -> tuple[Step, ...]:
    """The step that normalises, if asked for, and rescales before by a factor, if there is one.

    Args:
        b: how. What is rescaled in a step of its own is normalised in its own precision by either: that is Pillow's.
    """
    if not o.do_normalize:
        return ()
    if o.image_mean is None or o.image_std is None:
        raise _unset("do_normalize", "image_mean" if o.image_mean is None else "image_std")
    return (Normalize(o.image_mean, o.image_std, factor, b),)


def padding(o: ImageOptions) -> Pad | None:
    """The padding of the batch, if asked for."""
    return _pad_to(o) if o.do_pad else None


def _pad_to(o: ImageOptions) -> Pad:
    return Pad(None if o.pad_size is None else exact(o.pad_size, "pad_size"))


def _same(size: Size) -> Target:
    return size


def _multiple(o: of.DepthOptions, size: Size) -> Target:
    if not isinstance(size, Exact):
        raise unusable(size, "height and width")
    if o.ensure_multiple_of is None:
        raise _unset("do_resize", "ensure_multiple_of")
    return Multiple(size, bool(o.keep_aspect_ratio), o.ensure_multiple_of)


def _factor(o: ImageOptions) -> float:
    if o.rescale_factor is None:
        raise _unset("do_rescale", "rescale_factor")
    return o.rescale_factor


def _resize_settings(o: ImageOptions) -> tuple[Size, int]:
    if o.size is None or o.resample is None:
        raise _unset("do_resize", "size" if o.size is None else "resample")
    return o.size, o.resample


def _unset(option: str, name: str) -> InputError:
    return InputError(f"{option} needs {name}, which is not set", where=name)
