"""What is trained and how: the model's config, its first weights, and the probe that teaches the vision tower."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from data import FINE, IGNORED, Layout
from draw import BACKGROUNDS, CELLS, COLOURS, SHAPES, SIZES
from tokenizer import BOS, EOS, IMAGE, PAD
from torch import Tensor, nn
from torch.nn import functional as F

from omniform import AutoConfig, AutoModelForImageTextToText

PATCHES = "model.vision_tower.patches.projection.weight"
POSITIONS = "model.vision_tower.positions.weight"
HEAD_DIM = 32


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that the outcome depends on.

    Attributes:
        width, depth: of the vision tower and of the decoder, each.
        looks: batches from which the vision tower learns alone, to name what every patch shows.
        steps: batches of questions from which everything learns together, the naming of patches included.
        rate: peak learning rate of Adam (tables, norms, biases, projector, head).
        matrix_rate: peak learning rate of Muon (the matrices inside the layers).
        probe: weight of the loss on patches beside the loss on answers.
        sample: pictures from which the first filters are made.
    """

    layout: Layout = field(default_factory=Layout)
    width: int = 128
    hidden: int = 384
    depth: int = 4
    looks: int = 2500
    steps: int = 4200
    batch: int = 48
    rate: float = 2e-3
    matrix_rate: float = 0.02
    decay: float = 0.05
    probe: float = 0.5
    warmup: int = 50
    sample: int = 1000
    seed: int = 0


def model_config(recipe: Recipe, ids: dict[str, int], vocabulary: int) -> dict[str, object]:
    """The checkpoint's config: a CLIP tower and a Llama of the same width."""
    width, heads, layout = recipe.width, recipe.width // HEAD_DIM, recipe.layout
    vision = {
        "model_type": "clip_vision_model", "hidden_size": width, "intermediate_size": 4 * width,
        "num_hidden_layers": recipe.depth, "num_attention_heads": heads, "image_size": layout.side,
        "patch_size": layout.patch, "projection_dim": width,
    }  # fmt: skip
    text = {
        "model_type": "llama", "vocab_size": vocabulary, "hidden_size": width, "intermediate_size": recipe.hidden,
        "num_hidden_layers": recipe.depth, "num_attention_heads": heads, "num_key_value_heads": heads,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "bos_token_id": ids[BOS], "eos_token_id": ids[EOS],
        "pad_token_id": ids[PAD], "tie_word_embeddings": False,
    }  # fmt: skip
    return {
        "vision_config": vision, "text_config": text, "image_token_index": ids[IMAGE], "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default", "tie_word_embeddings": False,
    }  # fmt: skip


def build_model(config: dict[str, object]) -> nn.Module:
    """The model, with attention written out: with bfloat16 on a CPU that trains faster than torch's fused kernel."""
    return AutoModelForImageTextToText.from_config(
        AutoConfig.for_model("llava", **config), attn_implementation="eager"
    ).train()


@torch.no_grad()
def initialise(model: nn.Module, recipe: Recipe, pictures: Tensor) -> None:
    """First weights: every product keeps its scale, residual branches start small, and patches are whitened.

    Args:
        pictures: some pictures to measure. Shape: [N, 3, side, side].
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    branches = ("o_proj.weight", "fc2.weight", "down_proj.weight")
    for name, tensor in model.named_parameters():
        if name.endswith("bias"):
            tensor.zero_()
        elif "norm" in name:
            tensor.fill_(1.0)
        elif name.endswith("embed_tokens.weight"):
            tensor.normal_(0, 0.5, generator=generator)
        elif tensor.dim() == 1 or name == POSITIONS:
            tensor.normal_(0, 0.02, generator=generator)
        else:
            scale = tensor[0].numel() ** -0.5
            if name.endswith(branches):
                scale /= math.sqrt(2 * recipe.depth)
            tensor.normal_(0, 0.3 * scale if name == "lm_head.weight" else scale, generator=generator)
    model.get_parameter(POSITIONS)[1:] = 0.5 * _waves(recipe.layout.grid, recipe.width)
    stem = model.get_parameter(PATCHES)
    stem.copy_(_whitening(pictures, recipe.layout.patch, stem.shape[0]))


def _whitening(pictures: Tensor, patch: int, width: int) -> Tensor:
    """Filters that give the strongest principal components of patches, at equal strength. Shape: [width, 3, p, p].

    It is the start that teaches a tower to tell shapes several times sooner
    (as in https://arxiv.org/abs/2404.00498, there for convolutions).
    """
    patches = F.unfold(pictures, patch, stride=patch).transpose(1, 2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = vectors[:, -width:] / (values[-width:] + 0.02).sqrt()
    return filters.T.flip(0).reshape(width, 3, patch, patch)


def _waves(grid: int, width: int) -> Tensor:
    """Sines and cosines of a patch's row and column. Shape: [grid * grid, width]."""
    quarter = width // 4
    frequencies = math.pi / 2 * torch.exp(-math.log(50) * torch.arange(quarter) / quarter)
    angles = torch.arange(grid)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=-1)
    return torch.cat([line.repeat_interleave(grid, 0), line.repeat(grid, 1)], dim=-1)


class Probe(nn.Module):
    """Names what every patch shows, from the features that the decoder gets; it teaches the tower and is then dropped.

    Answers alone say little about a picture, so a tower learns slowly from them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = (len(BACKGROUNDS), 3, len(SHAPES), len(COLOURS), len(SIZES), len(CELLS), FINE, FINE)
        self.norm = nn.LayerNorm(width)
        self.read = nn.Linear(width, sum(self.sizes))

    def forward(self, features: Tensor, patches: Tensor) -> tuple[Tensor, list[float]]:
        """The loss, and the share of patches named right, for each part of the name.

        Args:
            features: Shape: [B * P, D].
            patches: Shape: [B, P, 8].
        """
        groups = self.read(self.norm(features)).float().split(self.sizes, dim=-1)
        loss, right = torch.zeros(()), []
        for logits, target in zip(groups, patches.flatten(0, 1).unbind(-1), strict=True):
            loss = loss + F.cross_entropy(logits, target, ignore_index=IGNORED)
            known = target != IGNORED
            right.append((logits.argmax(-1) == target)[known].float().mean().item())
        return loss, right
