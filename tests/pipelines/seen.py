"""Tiny checkpoints that look at pictures, odd pictures, and a comparison of answers that hold pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

import omniform
from reference import saved_reference, transformers

sys.path.insert(0, str(Path(__file__).parent.parent / "inputs"))

import test_tokenizers_folders as folders

_FOLDERS: list[TemporaryDirectory[str]] = []


def new_folder() -> Path:
    """A folder that lasts as long as the tests do."""
    _FOLDERS.append(TemporaryDirectory(prefix="omniform-pictures-"))
    return Path(_FOLDERS[-1].name)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with soft edges: noise that was enlarged."""
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def pictures() -> list[Image.Image]:
    """Wide, tall, small; grey, and turned by its EXIF tag."""
    return [picture(90, 60, 1), picture(41, 77, 2), picture(24, 24, 3), picture(64, 48, 4).convert("L")]


LABELS = {"id2label": {0: "cat", 1: "dog", 2: "bird", 3: "traffic light", 4: "sky", 5: "sea"}}
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 24,
       "patch_size": 8}  # fmt: skip


@cache
def vit(kind: str = "ForImageClassification", *changes: tuple[str, object]) -> Path:
    """A ViT with one of its heads."""
    folder, told = new_folder(), dict(changes)
    labels = {} if {"num_labels", "problem_type"} & told.keys() else LABELS
    saved_reference(getattr(transformers, f"ViT{kind}"), transformers.ViTConfig(**{**VIT, **labels, **told}), folder)
    transformers.ViTImageProcessor(size={"height": 24, "width": 24}).save_pretrained(folder)
    return folder


@cache
def detr(kind: str = "ForObjectDetection") -> Path:
    """A DETR that finds objects, or segments."""
    folder = new_folder()
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.DetrConfig(
        use_timm_backbone=False, backbone=None, use_pretrained_backbone=False, backbone_config=backbone, d_model=32,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=8, decoder_attention_heads=8, encoder_ffn_dim=32,
        decoder_ffn_dim=32, num_queries=7, **LABELS,
    )  # fmt: skip
    saved_reference(getattr(transformers, f"Detr{kind}"), config, folder, scale=0.3)
    transformers.DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder


@cache
def segformer() -> Path:
    """A SegFormer that tells the class of each pixel."""
    folder = new_folder()
    config = transformers.SegformerConfig(
        depths=[1, 1], hidden_sizes=[8, 16], num_attention_heads=[1, 2], sr_ratios=[2, 1], patch_sizes=[7, 3],
        strides=[4, 2], mlp_ratios=[2, 2], num_encoder_blocks=2, decoder_hidden_size=16, **LABELS,
    )  # fmt: skip
    saved_reference(transformers.SegformerForSemanticSegmentation, config, folder, scale=0.5)
    transformers.SegformerImageProcessor(size={"height": 32, "width": 40}).save_pretrained(folder)
    return folder


@cache
def yolos() -> Path:
    """A YOLOS: objects found by tokens behind a ViT's patches."""
    folder = new_folder()
    config = transformers.YolosConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=[32, 48],
        patch_size=8, num_detection_tokens=6, **LABELS,
    )  # fmt: skip
    saved_reference(transformers.YolosForObjectDetection, config, folder, scale=0.3)
    transformers.YolosImageProcessor(size={"shortest_edge": 32, "longest_edge": 64}).save_pretrained(folder)
    return folder


RESNET = {
    "embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1], "layer_type": "basic",
}  # fmt: skip
QUERIES = {
    "encoder_feedforward_dim": 24, "encoder_layers": 1, "decoder_layers": 3, "num_attention_heads": 4,
    "dim_feedforward": 24, "num_queries": 6, **LABELS,
}  # fmt: skip


def _stages(kind: str, *stages: int) -> object:
    return getattr(transformers, kind)(**RESNET, out_features=[f"stage{at}" for at in stages])


@cache
def rt_detr() -> Path:
    """An RT-DETR."""
    folder = new_folder()
    config = transformers.RTDetrConfig(
        backbone_config=_stages("RTDetrResNetConfig", 2, 3, 4), encoder_hidden_dim=16, encoder_in_channels=[12, 16, 20],
        encoder_ffn_dim=20, encoder_attention_heads=2, d_model=24, num_queries=8, decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=20, decoder_layers=2, decoder_attention_heads=3, decoder_n_points=2, **LABELS,
    )  # fmt: skip
    saved_reference(transformers.RTDetrForObjectDetection, config, folder, scale=0.3)
    transformers.RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@cache
def mask2former() -> Path:
    """A Mask2Former."""
    folder = new_folder()
    sizes = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32}
    config = transformers.Mask2FormerConfig(backbone_config=_stages("ResNetConfig", 1, 2, 3, 4), **sizes, **QUERIES)
    saved_reference(transformers.Mask2FormerForUniversalSegmentation, config, folder, scale=0.3)
    transformers.Mask2FormerImageProcessor(size={"height": 32, "width": 64}).save_pretrained(folder)
    return folder


@cache
def oneformer() -> Path:
    """A OneFormer, which reads what it is to do."""
    folder = new_folder()
    size = len(folders.ours(folders.clip(folder)))
    sizes = {"conv_dim": 64, "mask_dim": 64, "hidden_dim": 64, "query_dec_layers": 1, "task_seq_len": 17}
    text = {
        "text_encoder_width": 64, "text_encoder_n_ctx": 2, "text_encoder_context_length": 8,
        "text_encoder_num_layers": 1, "text_encoder_vocab_size": size,
    }  # fmt: skip
    backbone = _stages("ResNetConfig", 1, 2, 3, 4)
    config = transformers.OneFormerConfig(backbone_config=backbone, **sizes, **text, **QUERIES)
    saved_reference(transformers.OneFormerForUniversalSegmentation, config, folder, scale=0.3)
    names = {str(at): {"name": name, "isthing": int(at < 4)} for at, name in LABELS["id2label"].items()}
    (folder / "classes.json").write_text(json.dumps(names))
    processor = transformers.OneFormerImageProcessor(
        size={"shortest_edge": 32, "longest_edge": 64}, repo_path=str(folder), class_info_file="classes.json"
    )
    processor.save_pretrained(folder)
    return folder


@cache
def clip() -> Path:
    """A CLIP."""
    folder = new_folder()
    size = len(folders.ours(folders.clip(folder)))
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = {**tower, "vocab_size": size, "projection_dim": 16}
    vision = {**tower, "image_size": 32, "patch_size": 8, "projection_dim": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    saved_reference(transformers.CLIPModel, config, folder)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**sizes).save_pretrained(folder)
    return folder


def both(task: str, folder: Path, **given: object) -> tuple[object, object]:
    """Our pipeline and the reference's, of the same checkpoint."""
    ours = omniform.pipeline(task, str(folder), device="cpu", **given)
    return ours, transformers.pipeline(task, str(folder), device="cpu", **given)


def same(ours: object, theirs: object, where: str = "answer", near: float = 2e-3) -> None:
    """Fail unless two answers have the same structure, words and types, numbers that are near, and like pictures."""
    if isinstance(theirs, dict):
        assert isinstance(ours, dict) and list(ours) == list(theirs), f"{where}: {ours} against {theirs}"
        for name in theirs:
            same(ours[name], theirs[name], f"{where}.{name}", near)
    elif isinstance(theirs, (list, tuple)):
        assert type(ours) is type(theirs) and len(ours) == len(theirs), f"{where}: {ours} against {theirs}"
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            same(mine, other, f"{where}[{index}]", near)
    elif isinstance(theirs, torch.Tensor):
        assert isinstance(ours, torch.Tensor) and ours.shape == theirs.shape, where
        assert (ours.float() - theirs.float()).abs().max() <= near * max(1.0, float(theirs.abs().max())), where
    elif isinstance(theirs, Image.Image):
        assert isinstance(ours, Image.Image) and (ours.mode, ours.size) == (theirs.mode, theirs.size), where
        differing = np.abs(np.asarray(ours, dtype=np.int32) - np.asarray(theirs)) > 2
        assert differing.mean() < 0.005, f"{where}: {differing.mean():.2%} of the pixels differ"
    elif isinstance(theirs, int) and not isinstance(theirs, bool):
        assert type(ours) is int and abs(ours - theirs) <= 1, f"{where}: {ours} against {theirs}"  # a pixel
    elif isinstance(theirs, (str, bool)) or theirs is None:
        assert ours == theirs and type(ours) is type(theirs), f"{where}: {ours!r} against {theirs!r}"
    else:
        assert type(ours) is float and abs(ours - float(theirs)) <= near, f"{where}: {ours!r} against {theirs!r}"


class Rows(torch.utils.data.Dataset):
    """A dataset of pictures."""

    def __init__(self, column: str | None = None) -> None:
        self.rows = [{"picture": one, "name": str(at)} for at, one in enumerate(pictures())]
        self.column = column

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> object:
        return self.rows[index] if self.column is None else self.rows[index][self.column]


def ways(pipe: object, keys: type, **given: object) -> Iterator[tuple[str, list[object]]]:
    """A pipeline's answers to :func:`pictures`, whatever way they come."""
    yield "a list", pipe(pictures(), **given)
    yield "batches", pipe(pictures(), batch_size=3, **given)
    yield "one by one", [pipe(one, **given) for one in pictures()]
    yield "a generator", [*pipe((one for one in pictures()), **given)]
    yield "a dataset", [*pipe(keys(Rows(), "picture"), batch_size=2, **given)]
