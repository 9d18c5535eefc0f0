"""What the families of windowed encoders share: their config's part, its reader, and the stages made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypedDict

from torch import nn

from omniform.architectures.backbone import read_outputs
from omniform.architectures.stages import PatchMap, PatchMerging, Stage
from omniform.blocks.fused import FusedMLP
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.patches import Patching, Size, read_patching
from omniform.core.reader import MOST_LAYERS, ConfigReader
from omniform.weights.keymap import Rule
from omniform.weights.links import unsqueezed


class BackboneFacts(TypedDict):
    """What a backbone says of itself; see :class:`~omniform.architectures.backbone.Backbone`."""

    names: tuple[str, ...]
    outputs: tuple[int, ...]
    num_features: tuple[int, ...]
    reductions: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """Where in the stages a layer stands.

    Attributes:
        stage: which stage.
        dim: width of its vectors.
        heads: of its attention.
        grid: rows and columns of its map, of pictures of the model's own size.
        shift: whether it is one of those that shift their windows.
        drop_path: how often it is left out in training.
    """

    stage: int
    dim: int
    heads: int
    grid: Size
    shift: bool
    drop_path: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """Stages of windowed attention: each halves the map and doubles the width."""

    patching: Patching
    dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int
    mlp_ratio: float
    act: str
    eps: float
    qkv_bias: bool
    dropout: float
    attention_dropout: float
    drop_path: float
    outputs: tuple[int, ...]

    @classmethod
    def read(cls, r: ConfigReader) -> Staged:
        """The fields under their usual names."""
        dim = r.integer("embed_dim", 96)
        depths, heads = read_depths(r, dim, "num_heads", (3, 6, 12, 24), also=("num_attention_heads",))
        r.inert("hidden_size")
        r.integer("num_layers", len(depths), also=("num_hidden_layers",))  # the reference counts depths, as we do
        r.values["hidden_size"] = dim * 2 ** (len(depths) - 1)
        return cls.over(
            r,
            read_patching(r, patch_size=4),
            dim,
            (depths, heads),
            window=7,
            drop_path=0.1,
            outputs=read_outputs(r, _names(len(depths))),
        )

    @classmethod
    def over(
        cls,
        r: ConfigReader,
        patching: Patching,
        dim: int,
        stages: tuple[tuple[int, ...], tuple[int, ...]],
        *,
        window: int,
        drop_path: float,
        dropout: float = 0.0,
        outputs: tuple[int, ...] = (),
    ) -> Staged:
        """Stages over such patches; the fields of their layers are read.

        Args:
            dim: width of the first stage.
            stages: their depths and their heads; see :func:`read_depths`.
            window: the usual side of a square; ``drop_path`` and ``dropout`` are usual numbers too.
            outputs: which maps a backbone gives.
        """
        ratio = r.number("mlp_ratio", 4.0)
        if int(ratio * dim) < 1:
            raise r.fail("mlp_ratio", "a positive number", ratio)
        return cls(
            patching=patching,
            dim=dim,
            depths=stages[0],
            heads=stages[1],
            window=r.integer("window_size", window),
            mlp_ratio=ratio,
            act=r.choice("hidden_act", ACTIVATIONS, "gelu"),
            eps=r.number("layer_norm_eps", 1e-5),
            qkv_bias=r.flag("qkv_bias", True),
            dropout=r.probability("hidden_dropout_prob", dropout),
            attention_dropout=r.probability("attention_probs_dropout_prob"),
            drop_path=r.probability("drop_path_rate", drop_path),
            outputs=outputs,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the stages, the stem's first."""
        return _names(len(self.depths))

    @property
    def facts(self) -> BackboneFacts:
        """What a backbone says of itself."""
        return {
            "names": self.names,
            "outputs": self.outputs,
            "num_features": self.widths,
            "reductions": self.strides,
        }

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the stages' maps, the stem's first."""
        return (self.dim, *(self.dim * 2**i for i in range(len(self.depths))))

    @property
    def strides(self) -> tuple[int, ...]:
        """How many pixels a place of the stages' maps stands for, the stem's first."""
        patch = self.patching.patch_size[0]
        return (patch, *(patch * 2**i for i in range(len(self.depths))))

    def patches(self) -> PatchMap:
        """Pixels to the first map."""
        return PatchMap(self.patching, self.dim)

    def mlp(self, dim: int) -> FusedMLP:
        """One feed-forward."""
        return FusedMLP(dim, int(self.mlp_ratio * dim), self.act)

    def norm(self, dim: int) -> nn.LayerNorm:
        """One norm of a layer."""
        return nn.LayerNorm(dim, self.eps)

    def stages(
        self, layer: Callable[[Spot], nn.Module], merging: type[PatchMerging], stage_kind: type[Stage] = Stage
    ) -> nn.ModuleList:
        """The stages.

        Args:
            layer: makes a layer.
            merging: what makes maps coarser.
            stage_kind: what runs the layers of a stage.
        """
        layers = sum(self.depths)
        made, count, grid = [], 0, self.patching.grid
        for stage, depth in enumerate(self.depths):
            dim = self.dim * 2**stage
            spots = [
                Spot(
                    stage=stage,
                    dim=dim,
                    heads=self.heads[stage],
                    grid=(grid[0] // 2**stage, grid[1] // 2**stage),
                    shift=number % 2 == 1,
                    drop_path=self.drop_path * (count + number) / max(layers - 1, 1),
                )
                for number in range(depth)
            ]
            count += depth
            last = stage == len(self.depths) - 1
            made.append(stage_kind(blocks=nn.ModuleList(map(layer, spots)), downsample=None if last else merging(dim)))
        return nn.ModuleList(made)


def read_depths(
    r: ConfigReader, dim: int, name: str, usual: tuple[int, ...], *, also: tuple[str, ...] = ()
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How many layers each stage has, and how many heads.

    Args:
        dim: width of the first stage.
        name: the key of the heads; ``usual``, ``also``: their default, and other spellings.
    """
    depths = r.integers("depths", (2, 2, 6, 2), least=1)
    heads = r.integers(name, usual, least=1, also=also)
    if not depths or sum(depths) > MOST_LAYERS:
        raise r.fail("depths", f"1 to {MOST_LAYERS} layers altogether", list(depths))
    if len(heads) < len(depths):
        raise r.fail(name, f"{len(depths)} numbers, one for each of depths", list(heads))
    for stage, count in enumerate(heads[: len(depths)]):
        if dim * 2**stage % count:
            raise r.fail(name, f"a divisor of {dim * 2**stage} in stage {stage + 1}", count)
    return depths, heads


def _names(stages: int) -> tuple[str, ...]:
    return ("stem", *(f"stage{i + 1}" for i in range(stages)))


OUTER_KEYS: Mapping[str, Rule] = {
    "patches": "embeddings.patch_embeddings",
    "patch_norm": "embeddings.norm",
    "mask_token.weight": unsqueezed("embeddings.mask_token", 2),
    "positions.weight": unsqueezed("embeddings.position_embeddings", 1),
    "stages.{i}": "encoder.layers.{i}",
    "norm": "layernorm",
}
"""Where checkpoints keep what stands around the layers."""

LAYER_KEYS: Mapping[str, str] = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
"""Where checkpoints keep what all their layers have."""


def layer_keys(more: Mapping[str, str]) -> dict[str, Rule]:
    """Where checkpoints keep a layer's parts: those that all have, and some more."""
    ours, theirs = "stages.{i}.blocks.{j}", "encoder.layers.{i}.blocks.{j}"
    return {f"{ours}.{mine}": f"{theirs}.{place}" for mine, place in {**LAYER_KEYS, **more}.items()}
