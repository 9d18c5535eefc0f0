"""Encoders with random weights: their checkpoints, what they are given, and what is compared of what they give.

A model of each kind is made by omniform from the config of the size that gives it its name, and saved; both libraries
load that.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .workloads import Job

FORMAT = 1
"""Part of a folder's name: raised when a new version writes other files."""

# Beside the defaults of each kind, which are those of BERT-base, uncased, and of ViT-B/16 at 224 pixels.
CONFIGS: Mapping[str, Mapping[str, object]] = {"bert": {"model_type": "bert"}, "vit": {"model_type": "vit"}}
TINY: Mapping[str, object] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
}  # fmt: skip
TINY_OF: Mapping[str, Mapping[str, object]] = {"bert": {"vocab_size": 512}, "vit": {"image_size": 32}}
VOCABULARY = 512
"""Token numbers are below this, so that they are in the tiny vocabulary too."""


def encoder_folder(cache: Path, name: str, tiny: bool) -> Path:
    """An encoder's checkpoint under ``cache``, made if it is not there yet."""
    folder = cache / f"{name}-{'tiny' if tiny else 'base'}-{FORMAT}"
    if not (folder / "model.safetensors").is_file():
        import torch

        from omniform import AutoConfig, AutoModel

        config = {**CONFIGS[name], **(TINY | TINY_OF[name] if tiny else {})}
        torch.manual_seed(0)
        model = AutoModel.from_config(AutoConfig.for_model(**config)).to(torch.bfloat16)
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        model.save_pretrained(unfinished)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    return folder


def batches(job: Job, name: str) -> list[dict[str, Any]]:
    """All that is to be encoded, the same for everyone: texts in order of length, padded; or pictures."""
    import torch

    sizes = job.sizes
    if name == "vit":
        side = _picture_side(Path(job.encoders[name]))
        generator = torch.Generator().manual_seed(0)
        pictures = torch.randn(sizes.pictures, 3, side, side, generator=generator).to(job.device, torch.bfloat16)
        return [{"pixel_values": part} for part in pictures.split(sizes.picture_rows)]
    chance = random.Random("texts")
    span = sizes.text_longest - sizes.text_shortest
    lengths = [sizes.text_shortest + round(span * k / (sizes.texts - 1)) for k in range(sizes.texts)]
    texts = [[chance.randrange(3, VOCABULARY) for _ in range(length)] for length in lengths]
    return [_padded(texts[start : start + sizes.text_rows], job) for start in range(0, len(texts), sizes.text_rows)]


def _padded(texts: list[list[int]], job: Job) -> dict[str, Any]:
    import torch

    width = max(map(len, texts))
    ids = torch.tensor([text + [0] * (width - len(text)) for text in texts], device=job.device)
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=job.device)
    return {"input_ids": ids, "attention_mask": mask}


def _picture_side(folder: Path) -> int:
    import json

    return int(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("image_size", 224))


def winners(outputs: list[Any]) -> list[list[int]]:
    """Of every text or picture, which features are the largest at its first place; near ties may differ."""
    return [row[0].float().topk(8).indices.sort().values.tolist() for output in outputs for row in output]
