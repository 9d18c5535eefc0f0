"""The table of processor types: every family's, with the reference's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, TypedDict

from omniform.inputs.images import options as of
from omniform.inputs.images import plans
from omniform.inputs.images.cropped import CropOptions, CroppingImageProcessor
from omniform.inputs.images.depth import DPTImageProcessor, GLPNImageProcessor, ZoeDepthImageProcessor
from omniform.inputs.images.detection import (
    ConditionalDetrImageProcessor,
    DeformableDetrImageProcessor,
    RTDetrImageProcessor,
    YolosImageProcessor,
)
from omniform.inputs.images.detr import DetrImageProcessor
from omniform.inputs.images.donut import DonutImageProcessor, donut, width_first
from omniform.inputs.images.former import modern_clip, modern_detr, modern_labels, modern_maskformer, modern_owl
from omniform.inputs.images.masked import MaskedImageProcessor, ViltImageProcessor
from omniform.inputs.images.maskformer import Mask2FormerImageProcessor, MaskFormerImageProcessor
from omniform.inputs.images.oneformer import OneFormerImageProcessor
from omniform.inputs.images.open_detection import (
    GroundingDinoImageProcessor,
    Owlv2ImageProcessor,
    OwlViTImageProcessor,
)
from omniform.inputs.images.packed import USUAL_PIXELS, PackedImageProcessor, PatchOptions, modern_pixels, packed
from omniform.inputs.images.pages import PageImageProcessor
from omniform.inputs.images.pan import PanImageProcessor
from omniform.inputs.images.phi4 import Phi4ImageProcessor
from omniform.inputs.images.pix2struct import FlatImageProcessor, flat
from omniform.inputs.images.processor import ImageProcessor, Kind
from omniform.inputs.images.sam import Sam2ImageProcessor, SamImageProcessor
from omniform.inputs.images.semantic import (
    BeitImageProcessor,
    MobileViTImageProcessor,
    SemanticImageProcessor,
)
from omniform.inputs.images.shaped import ShapedImageProcessor, ShapedOptions
from omniform.inputs.images.sized import SizedImageProcessor, SizedOptions, sized
from omniform.inputs.images.sizes import EdgeRange, Exact, LongestEdge, ShortestEdge
from omniform.inputs.images.smooth import owlv2
from omniform.inputs.images.split import SplitImageProcessor
from omniform.inputs.images.tiled import SampledTiles, TiledImageProcessor
from omniform.inputs.images.videos import VideoMAEImageProcessor


class _Statistics(TypedDict):
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]


class _Switches(TypedDict):
    do_resize: bool
    do_rescale: bool
    do_normalize: bool


# Statistics of the pictures that the published checkpoints were trained on, per channel.
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_IMAGENET: Final[_Statistics] = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
_HALVES: Final[_Statistics] = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}

_NEAREST, _LANCZOS, _BILINEAR, _BICUBIC = 0, 1, 2, 3
_USUAL: Final[_Switches] = {"do_resize": True, "do_rescale": True, "do_normalize": True}

_VIT: Final = of.ImageOptions(size=Exact(224, 224), resample=_BILINEAR, **_USUAL, **_HALVES)
_CLIP: Final = replace(
    _VIT,
    do_convert_rgb=True,
    size=ShortestEdge(224),
    resample=_BICUBIC,
    do_center_crop=True,
    crop_size=Exact(224, 224),
    image_mean=_CLIP_MEAN,
    image_std=_CLIP_STD,
)
_CROPPED: Final = replace(
    _VIT, size=ShortestEdge(256), do_center_crop=True, crop_size=Exact(224, 224), resample=_BILINEAR
)
_DETR: Final = of.DetrOptions(size=EdgeRange(800, 1333), resample=_BILINEAR, do_pad=True, **_USUAL, **_IMAGENET)
_MASKFORMER: Final = of.MaskFormerOptions(
    size=EdgeRange(800, 1333), resample=_BILINEAR, size_divisor=32, do_reduce_labels=False, **_USUAL, **_IMAGENET
)
_SAM: Final = of.SamOptions(
    size=LongestEdge(1024),
    mask_size=LongestEdge(256),
    do_pad=True,
    pad_size=Exact(1024, 1024),
    mask_pad_size=Exact(256, 256),
    do_convert_rgb=True,
    resample=_BILINEAR,
    **_USUAL,
    **_IMAGENET,
)


def _plain() -> tuple[Kind, ...]:
    """Kinds that only turn pictures into ``pixel_values``."""
    levit = replace(_CLIP, do_convert_rgb=None, **_IMAGENET)
    convnext = of.CropOptions(
        size=ShortestEdge(384), resample=_BICUBIC, crop_pct=224 / 256, **_USUAL, **_HALVES
    )  # fmt: skip
    poolformer = of.CropOptions(
        size=ShortestEdge(224), resample=_BICUBIC, crop_pct=0.9, do_center_crop=True, crop_size=Exact(224, 224),
        **_USUAL, **_IMAGENET,
    )  # fmt: skip
    efficientnet = of.EfficientNetOptions(
        size=Exact(346, 346), resample=_BICUBIC, crop_size=Exact(289, 289), do_center_crop=False,
        rescale_offset=False, include_top=True, **_USUAL, **_HALVES,
    )  # fmt: skip
    deit = replace(
        _VIT, size=Exact(256, 256), resample=_BICUBIC, do_center_crop=True, crop_size=Exact(224, 224)
    )  # fmt: skip
    siglip = replace(_VIT, do_convert_rgb=True, resample=_BICUBIC)
    blip = replace(siglip, size=Exact(384, 384), image_mean=_CLIP_MEAN, image_std=_CLIP_STD)
    vilt = of.DivisorOptions(
        size=ShortestEdge(384), resample=_BICUBIC, do_pad=True, size_divisor=32, **_USUAL, **_HALVES
    )  # fmt: skip
    bridgetower = replace(
        vilt, size=ShortestEdge(288), do_center_crop=True, crop_size=ShortestEdge(288),
        image_mean=_CLIP_MEAN, image_std=_CLIP_STD,
    )  # fmt: skip
    pages = of.OcrOptions(
        size=Exact(224, 224), resample=_BILINEAR, apply_ocr=True, tesseract_config="", **_USUAL, **_HALVES
    )  # fmt: skip
    standing = of.ThumbnailOptions(
        size=Exact(2560, 1920), resample=_BILINEAR, do_thumbnail=True, do_align_long_axis=False, do_pad=True,
        **_USUAL, **_HALVES,
    )  # fmt: skip
    plain = ImageProcessor
    return (
        Kind("CLIPImageProcessor", _CLIP, False, plans.standard, plain, modern_clip),
        Kind("ChineseCLIPImageProcessor", _CLIP, False, plans.standard, plain),
        Kind("ViTImageProcessor", _VIT, True, plans.standard, plain),
        Kind("DeiTImageProcessor", deit, True, plans.standard, plain),
        Kind("SiglipImageProcessor", siglip, False, plans.standard, plain),
        Kind("BlipImageProcessor", blip, True, plans.standard, plain),
        Kind("BitImageProcessor", _CLIP, False, plans.standard, plain),
        Kind("PvtImageProcessor", replace(_VIT, resample=_BICUBIC, **_IMAGENET), True, plans.standard, plain),
        Kind("LevitImageProcessor", levit, False, plans.levit, plain),
        Kind("MobileNetV1ImageProcessor", _CROPPED, False, plans.standard, plain),
        Kind("DINOv3ViTImageProcessor", replace(_VIT, **_IMAGENET), True, plans.rescaled_first, plain, slow=False),
        Kind("ConvNextImageProcessor", convnext, False, plans.convnext, plain),
        Kind("PoolFormerImageProcessor", poolformer, False, plans.poolformer, plain),
        Kind("EfficientNetImageProcessor", efficientnet, True, plans.efficientnet, plain),
        Kind("LlavaImageProcessor", replace(_CLIP, do_pad=False), False, plans.square, plain),
        Kind("ViltImageProcessor", vilt, False, plans.vilt, ViltImageProcessor),
        Kind("BridgeTowerImageProcessor", bridgetower, False, plans.bridgetower, MaskedImageProcessor),
        Kind("LayoutLMv3ImageProcessor", pages, True, plans.unpadded, PageImageProcessor),
        Kind("DonutImageProcessor", standing, True, donut, DonutImageProcessor, width_first),
        Kind("VideoMAEImageProcessor", replace(_CROPPED, size=ShortestEdge(224)), False, plans.unpadded,
             VideoMAEImageProcessor),
    )  # fmt: skip


def _dense() -> tuple[Kind, ...]:
    """Kinds whose models name every pixel, or tell its depth."""
    beit = of.LabelOptions(
        size=Exact(224, 224), crop_size=Exact(224, 224), resample=_BICUBIC, do_center_crop=False,
        do_reduce_labels=False, **_USUAL, **_HALVES,
    )  # fmt: skip
    mobilenet = of.LabelOptions(
        size=ShortestEdge(256), crop_size=Exact(224, 224), resample=_BILINEAR, do_center_crop=True,
        do_reduce_labels=False, **_USUAL, **_HALVES,
    )  # fmt: skip
    mobilevit = of.FlipOptions(
        size=ShortestEdge(224), crop_size=Exact(256, 256), resample=_BICUBIC, do_center_crop=True, do_resize=True,
        do_rescale=True, do_flip_channel_order=True, do_reduce_labels=False, **_HALVES,
    )  # fmt: skip
    segformer = of.LabelOptions(
        size=Exact(512, 512), resample=_BILINEAR, do_reduce_labels=False, **_USUAL, **_IMAGENET
    )  # fmt: skip
    dpt = of.DPTOptions(
        size=Exact(384, 384), resample=_BICUBIC, do_pad=False, ensure_multiple_of=1, keep_aspect_ratio=False,
        **_USUAL, **_HALVES,
    )  # fmt: skip
    zoedepth = of.DepthOptions(
        size=Exact(384, 512), resample=_BILINEAR, do_pad=True, ensure_multiple_of=1 / 32, keep_aspect_ratio=True,
        **_USUAL, **_HALVES,
    )  # fmt: skip
    glpn = of.DivisorOptions(do_resize=True, do_rescale=True, resample=_BILINEAR, size_divisor=32)
    return (
        Kind("BeitImageProcessor", beit, True, plans.unpadded, BeitImageProcessor, modern_labels),
        Kind("MobileNetV2ImageProcessor", mobilenet, False, plans.unpadded, SemanticImageProcessor, modern_labels),
        Kind("MobileViTImageProcessor", mobilevit, False, plans.mobilevit, MobileViTImageProcessor, modern_labels),
        Kind("SegformerImageProcessor", segformer, True, plans.uncropped, SemanticImageProcessor, modern_labels),
        Kind("DPTImageProcessor", dpt, True, plans.dpt, DPTImageProcessor, modern_labels),
        Kind("ZoeDepthImageProcessor", zoedepth, True, plans.zoedepth, ZoeDepthImageProcessor),
        Kind("GLPNImageProcessor", glpn, True, plans.glpn, GLPNImageProcessor),
    )


def _finding() -> tuple[Kind, ...]:
    """Kinds whose models find things, by boxes or masks."""
    rtdetr = replace(
        _DETR, size=Exact(640, 640), do_normalize=False, do_pad=False, do_convert_annotations=True
    )  # fmt: skip
    oneformer = of.OneFormerOptions(
        size=EdgeRange(800, 1333), resample=_BILINEAR, do_convert_rgb=True, do_reduce_labels=False,
        repo_path="shi-labs/oneformer_demo", **_USUAL, **_IMAGENET,
    )  # fmt: skip
    sam2 = replace(
        _SAM, size=Exact(1024, 1024), mask_size=Exact(256, 256), do_pad=None, pad_size=None, mask_pad_size=None
    )  # fmt: skip
    owl = replace(
        _CLIP, size=Exact(768, 768), crop_size=Exact(768, 768), do_center_crop=False
    )  # fmt: skip
    owl2 = replace(
        _CLIP, size=Exact(960, 960), crop_size=None, do_center_crop=None, do_pad=True, resample=_BILINEAR
    )  # fmt: skip
    detecting, masking = plans.detecting, plans.masking
    return (
        Kind("DetrImageProcessor", _DETR, False, detecting, DetrImageProcessor, modern_detr),
        Kind("ConditionalDetrImageProcessor", _DETR, False, detecting, ConditionalDetrImageProcessor, modern_detr),
        Kind("DeformableDetrImageProcessor", _DETR, False, detecting, DeformableDetrImageProcessor, modern_detr),
        Kind("RTDetrImageProcessor", rtdetr, False, detecting, RTDetrImageProcessor),
        Kind("YolosImageProcessor", _DETR, False, plans.yolos, YolosImageProcessor, modern_detr),
        Kind("MaskFormerImageProcessor", _MASKFORMER, False, masking, MaskFormerImageProcessor, modern_maskformer),
        Kind("Mask2FormerImageProcessor", _MASKFORMER, False, masking, Mask2FormerImageProcessor, modern_maskformer),
        Kind("OneFormerImageProcessor", oneformer, False, plans.oneformer, OneFormerImageProcessor, modern_labels),
        Kind("GroundingDinoImageProcessor", _DETR, False, detecting, GroundingDinoImageProcessor, modern_detr),
        Kind("OwlViTImageProcessor", owl, True, plans.standard, OwlViTImageProcessor, modern_owl),
        Kind("Owlv2ImageProcessor", owl2, True, owlv2, Owlv2ImageProcessor, modern_owl),
        Kind("SamImageProcessor", _SAM, True, plans.sam, SamImageProcessor),
        Kind("Sam2ImageProcessor", sam2, True, plans.standard, Sam2ImageProcessor, slow=False),
    )


def _tiled() -> tuple[Kind, ...]:
    """Kinds that cut large pictures into tiles."""
    tiled = of.TiledOptions(
        size=ShortestEdge(224), crop_size=Exact(224, 224), resample=_BICUBIC, do_pad=True,
        do_center_crop=True, do_convert_rgb=True, image_mean=_CLIP_MEAN, image_std=_CLIP_STD,
        image_grid_pinpoints=((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)), **_USUAL,
    )  # fmt: skip
    steps = range(384, 2305, 384)
    sampled = replace(
        tiled, size=Exact(384, 384), crop_size=None, do_center_crop=None,
        image_grid_pinpoints=tuple((height, width) for height in steps for width in steps),
    )  # fmt: skip
    return (
        Kind("LlavaNextImageProcessor", tiled, False, plans.unpadded, TiledImageProcessor),
        Kind("LlavaOnevisionImageProcessor", sampled, False, plans.unpadded, SampledTiles),
    )


def _in_squares() -> tuple[Kind, ...]:
    """Kinds that cut pictures into tiles of their own resolution."""
    phi4 = of.TileOptions(
        size=Exact(448, 448), resample=_BICUBIC, patch_size=14, dynamic_hd=36, do_convert_rgb=True, do_rescale=True,
        do_normalize=True, **_HALVES,
    )  # fmt: skip
    split = of.SplitOptions(
        size=LongestEdge(4 * 364), max_image_size=LongestEdge(364), resample=_LANCZOS, do_image_splitting=True,
        do_pad=True, do_convert_rgb=True, return_row_col_info=False, **_USUAL, **_HALVES,
    )  # fmt: skip
    pan = of.PanOptions(size=Exact(224, 224), resample=_BILINEAR, do_convert_rgb=True, **_USUAL, **_HALVES)
    cropped = CropOptions(
        size=Exact(384, 384), resample=_BICUBIC, crop_to_patches=False, min_patches=1, max_patches=12,
        do_convert_rgb=True, image_mean=_CLIP_MEAN, image_std=_CLIP_STD, **_USUAL,
    )  # fmt: skip
    return (
        Kind("GotOcr2ImageProcessor", cropped, True, plans.uncropped, CroppingImageProcessor),
        Kind("Gemma3ImageProcessor", pan, True, plans.standard, PanImageProcessor),
        Kind("Phi4MultimodalImageProcessor", phi4, True, plans.valued, Phi4ImageProcessor, slow=False),
        Kind("Idefics3ImageProcessor", split, True, plans.valued, SplitImageProcessor),
        Kind("SmolVLMImageProcessor", split, True, plans.valued, SplitImageProcessor),
    )


def _packed() -> tuple[Kind, ...]:
    """Kinds that cut pictures of any size into patches."""
    qwen = PatchOptions(
        size=USUAL_PIXELS, resample=_BICUBIC, do_convert_rgb=True, image_mean=_CLIP_MEAN, image_std=_CLIP_STD, **_USUAL
    )  # fmt: skip
    flattened = of.FlatOptions(
        patch_size=Exact(16, 16), max_patches=2048, is_vqa=False, do_normalize=True, do_convert_rgb=True,
        rescale_factor=None,
    )  # fmt: skip
    pixtral = SizedOptions(
        size=LongestEdge(1024), patch_size=Exact(16, 16), default_to_square=True, resample=_BICUBIC, do_pad=True,
        do_convert_rgb=True, image_mean=_CLIP_MEAN, image_std=_CLIP_STD, **_USUAL,
    )  # fmt: skip
    shaped = ShapedOptions(resample=_BILINEAR, **_USUAL, **_HALVES)
    return (
        Kind("Qwen2VLImageProcessor", qwen, False, packed, PackedImageProcessor, modern_pixels),
        Kind("PixtralImageProcessor", pixtral, True, sized, SizedImageProcessor),
        Kind("Siglip2ImageProcessor", shaped, True, plans.valued, ShapedImageProcessor),
        Kind("Pix2StructImageProcessor", flattened, True, flat, FlatImageProcessor),
    )


KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind for kinds in (_plain, _dense, _finding, _tiled, _in_squares, _packed) for kind in kinds()
}
"""Every type of processor, by the name that files give it."""
