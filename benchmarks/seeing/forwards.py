"""Forwards of models of the usual sizes: both libraries on the same random weights, turn by turn in one process."""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from turns import OURS, THEIRS, Contest, in_turns

RESNET_50: Mapping[str, object] = {"model_type": "resnet"}
SWIN_T: Mapping[str, object] = {"model_type": "swin"}
OLD: Mapping[str, object] = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}

TINY_RESNET: Mapping[str, object] = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
TINY_SWIN: Mapping[str, object] = {"embed_dim": 12, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4}
TINY_DETR: Mapping[str, object] = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_queries": 4,
}  # fmt: skip


def _staged(base: Mapping[str, object], *stages: str, tiny: Mapping[str, object] | None = None) -> dict[str, object]:
    return {**base, **(tiny or {}), "out_features": [f"stage{stage}" for stage in stages]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """A model whose forward is measured.

    Attributes:
        head: its class.
        config: what its config says beside the defaults, which are those of the size that gives it its name.
        tiny: what it says where only the benchmark is tested.
        size: height and width of its pictures.
        batches: how many pictures at a time.
        goal: how many times as fast as the reference it is to be.
    """

    head: str
    config: Mapping[str, object]
    tiny: Mapping[str, object]
    size: tuple[int, int]
    batches: tuple[int, ...] = (1, 4)
    goal: float = 1.0


TINY_SIZE = (96, 96)
WINDOWED = 1.2
"""The goal of windowed and deformable ones."""

SIGHTS: Mapping[str, Sight] = {
    "ViT-B": Sight(
        head="ViTForImageClassification",
        config={},
        tiny={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
        size=(224, 224),
    ),
    "Swin-T": Sight(head="SwinForImageClassification", config=SWIN_T, tiny=TINY_SWIN, size=(224, 224), goal=WINDOWED),
    "DETR-R50": Sight(
        head="DetrForObjectDetection",
        config={**OLD, "backbone_config": _staged(RESNET_50, "4")},
        tiny={**OLD, **TINY_DETR, "backbone_config": _staged(RESNET_50, "4", tiny=TINY_RESNET)},
        size=(800, 1066),
        batches=(1,),
    ),
    "SegFormer-B0": Sight(
        head="SegformerForSemanticSegmentation",
        config={"num_labels": 150},
        tiny={"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 1, 1]},
        size=(512, 512),
    ),
    "Deformable DETR": Sight(
        head="DeformableDetrForObjectDetection",
        config={**OLD, "backbone_config": _staged(RESNET_50, "2", "3", "4")},
        tiny={
            **OLD, **TINY_DETR, "d_model": 32,
            "backbone_config": _staged(RESNET_50, "2", "3", "4", tiny=TINY_RESNET),
        },
        size=(800, 1066),
        batches=(1,),
        goal=WINDOWED,
    ),
    "RT-DETR-R50": Sight(
        head="RTDetrForObjectDetection",
        config={},
        tiny={
            "backbone_config": _staged({"model_type": "rt_detr_resnet"}, "2", "3", "4", tiny=TINY_RESNET),
            "encoder_hidden_dim": 16, "encoder_in_channels": [16, 16, 16], "decoder_in_channels": [16, 16, 16],
            "d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "decoder_layers": 2, "num_queries": 4,
        },
        size=(640, 640),
        batches=(1,),
        goal=WINDOWED,
    ),
    "Mask2Former-Swin-T": Sight(
        head="Mask2FormerForUniversalSegmentation",
        config={"backbone_config": _staged(SWIN_T, "1", "2", "3", "4")},
        tiny={
            "backbone_config": _staged(
                SWIN_T, "1", "2", "3", "4",
                tiny={**TINY_SWIN, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "image_size": 96},
            ),
            "hidden_dim": 32, "feature_size": 32, "mask_feature_size": 32, "encoder_layers": 1, "decoder_layers": 2,
            "num_attention_heads": 2, "encoder_feedforward_dim": 16, "dim_feedforward": 16, "num_queries": 4,
        },
        size=(384, 384),
        batches=(1,),
        goal=WINDOWED,
    ),
    "ConvNeXt-T": Sight(
        head="ConvNextForImageClassification",
        config={},
        tiny={"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]},
        size=(224, 224),
    ),
    "ResNet-50": Sight(head="ResNetForImageClassification", config={}, tiny=TINY_RESNET, size=(224, 224)),
    "DINOv2-S": Sight(
        head="Dinov2Model",
        config={"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14},
        tiny={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 16},
        size=(224, 224),
    ),
}  # fmt: skip


def config_of(sight: Sight, tiny: bool) -> object:
    """The reference's config."""
    import transformers

    wanted = dict(sight.tiny if tiny else sight.config)
    nested = wanted.get("backbone_config")
    if isinstance(nested, dict):
        wanted["backbone_config"] = transformers.AutoConfig.for_model(**nested)
    wanted.pop("model_type", None)
    config = getattr(transformers, sight.head).config_class(**wanted)
    if tiny and "image_size" in config.to_dict():
        config.image_size = TINY_SIZE[0]
    return config


def save_random(sight: Sight, folder: Path, tiny: bool) -> None:
    """A model of random weights."""
    import transformers

    torch.manual_seed(0)
    getattr(transformers, sight.head)(config_of(sight, tiny)).save_pretrained(folder)


def loaded(library: str, sight: Sight, folder: Path) -> nn.Module:
    """The model of one library."""
    import transformers

    import omniform

    named = {OURS: omniform, THEIRS: transformers}[library]
    model: nn.Module = getattr(named, sight.head).from_pretrained(folder)
    return model.eval()


def first(output: object) -> Tensor:
    """The first tensor of an output."""
    return next(t for t in output.to_tuple() if isinstance(t, Tensor) and t.dim())  # type: ignore[attr-defined]


def pixels(sight: Sight, batch: int, tiny: bool) -> Tensor:
    """Pictures of noise. Shape: [batch, 3, height, width]."""
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, 3, *(TINY_SIZE if tiny else sight.size), generator=generator)


def forwards(only: tuple[str, ...], runs: int, tiny: bool) -> dict[str, Contest]:
    """All models, or some, with each number of pictures."""
    found: dict[str, Contest] = {}
    for name in only or SIGHTS:
        sight = SIGHTS[name]
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            save_random(sight, Path(folder), tiny)
            models = {library: loaded(library, sight, Path(folder)) for library in (OURS, THEIRS)}
            for batch in sight.batches:
                given = pixels(sight, batch, tiny)
                ours, theirs = (first(model(pixel_values=given)) for model in models.values())
                off = float((ours - theirs).abs().max() / theirs.abs().max())
                ways = {
                    library: lambda model=model, x=given: model(pixel_values=x) for library, model in models.items()
                }
                title = "{}, {} of {} x {}".format(name, *given.shape[::2], given.shape[3])
                found[title] = Contest(in_turns(ways, runs), {THEIRS: sight.goal}, {"apart": off})
                print(title, found[title].medians, found[title].ratios, file=sys.stderr, flush=True)
            del models, ways
        gc.collect()
    return found
