"""TimeSformer (https://arxiv.org/abs/2102.05095): attention along the frames and within them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from omniform.architectures.family import Builder
from omniform.architectures.heads import SequenceClassifier, first_token
from omniform.architectures.tower import Tower
from omniform.architectures.video import FrameEncoder
from omniform.architectures.vision import classes_of
from omniform.architectures.vit_family import LAYER
from omniform.blocks.attention import Attention
from omniform.blocks.drop_path import DropPath, DroppedBranches
from omniform.blocks.mlp import MLP
from omniform.blocks.patches import ClassToken, Patching, PatchStem, read_patching
from omniform.blocks.videos import DividedSpaceTime, NearestGridPositions, TimePositions, nearest
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap, Rule
from omniform.weights.links import shares, unsqueezed

DIVIDED, SPACE, JOINT = "divided_space_time", "space_only", "joint_space_time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a TimeSformer computes.

    Attributes:
        kind: how space and time are looked at.
        drop_path: of the last layer; those before it go less often without a branch.
    """

    tower: Tower
    patching: Patching
    frames: int
    kind: str
    qkv_bias: bool
    dropout: float
    drop_path: float


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    dropout_key = "attention_probs_dropout_prob"
    return Config(
        tower=Tower.read(r, dim=768, hidden=3072, heads=12, act="gelu", eps=1e-6, dropout_key=dropout_key),
        patching=read_patching(r, patch_size=16),
        frames=r.integer("num_frames", 8),
        kind=r.choice("attention_type", (DIVIDED, SPACE, JOINT), DIVIDED),
        qkv_bias=r.flag("qkv_bias", True),
        dropout=r.probability("hidden_dropout_prob"),
        drop_path=r.probability("drop_path_rate"),
    )


def build(c: Config) -> FrameEncoder:
    """The encoder."""
    t, biases = c.tower, "qkvo" if c.qkv_bias else "o"

    def attention() -> Attention:
        return Attention(t.dim, t.heads, rule=Full(), biases=biases, dropout=t.attention_dropout)

    def layer(number: int) -> DroppedBranches:
        kind: Callable[..., DroppedBranches] = partial(DroppedBranches.of, t.norm)
        if c.kind == DIVIDED:
            dense = nn.Linear(t.dim, t.dim)
            along = attention()
            kind = partial(DividedSpaceTime.of, t.norm, temporal_attn=along, temporal_dense=dense, frames=c.frames)
        return kind(
            self_attn=attention(),
            mlp=MLP(t.dim, t.hidden, t.act, dropout=c.dropout),
            drop_path=DropPath(c.drop_path * number / max(t.layers - 1, 1)),
            dropout=c.dropout,
        )

    return FrameEncoder(
        patches=PatchStem(c.patching, t.dim),
        class_token=ClassToken(t.dim),
        positions=NearestGridPositions(c.patching.grid, t.dim, before=1, resample=nearest),
        times=None if c.kind == SPACE else TimePositions(c.frames, t.dim),
        layers=nn.ModuleList(map(layer, range(t.layers))),
        norm=t.norm(),
        dropout=c.dropout,
        run_length=c.frames if c.kind == DIVIDED else 1,
    )


def classifier(c: Config, common: Common) -> SequenceClassifier:
    """One class per video (per frame, where every frame is read by itself), told from the class token."""
    scores = classes_of(c.tower.dim, common)
    return SequenceClassifier(model=build(c), pool=first_token, classifier=scores, common=common)


def attention_keys(ours: str, theirs: str) -> dict[str, Rule]:
    """Where checkpoints keep an attention: queries, keys and values lie in one matrix."""
    fused = shares(f"layers.{{i}}.{ours}", f"{LAYER}.{theirs}.attention.qkv", "qkv")
    return {**fused, f"layers.{{i}}.{ours}.o_proj": f"{LAYER}.{theirs}.output.dense"}


KEYS = KeyMap(
    {
        "class_token.weight": unsqueezed("embeddings.cls_token", 2),
        "patches": "embeddings.patch_embeddings",
        "positions.weight": unsqueezed("embeddings.position_embeddings", 1),
        "times.weight": unsqueezed("embeddings.time_embeddings", 1),
        "layers.{i}": LAYER,
        "layers.{i}.input_layernorm": f"{LAYER}.layernorm_before",
        "layers.{i}.post_attention_layernorm": f"{LAYER}.layernorm_after",
        **attention_keys("self_attn", "attention"),
        **attention_keys("temporal_attn", "temporal_attention"),
        "layers.{i}.mlp.fc1": f"{LAYER}.intermediate.dense",
        "layers.{i}.mlp.fc2": f"{LAYER}.output.dense",
        "norm": "layernorm",
    }
)

FAMILY = (
    Builder("timesformer", read, KEYS, prefix="timesformer")
    .public(
        config="TimesformerConfig",
        image_processor="VideoMAEImageProcessor",
        video_processor="TimesformerVideoProcessor",
        row="video classification",
    )
    .base("TimesformerModel", build)
    .head("TimesformerForVideoClassification", "video-classification", classifier)
    .done()
)
