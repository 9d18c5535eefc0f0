"""What models of depth share: necks that make maps of a backbone's tokens and fuse them from coarse to fine (DPT).

The paper is https://arxiv.org/abs/2103.13413. Families differ in what becomes of the class token (a readout), in how
large a fused map is made (:meth:`DepthNeck.size_of`), and in their heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.composed import Composed
from omniform.blocks.mlp import activation
from omniform.blocks.patches import Size
from omniform.core.errors import ConfigError, InputError
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap

READOUTS = ("ignore", "add", "project")
"""What may become of the class token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusing:
    """A neck.

    Attributes:
        widths: channels of the maps that the tokens become, from fine to coarse.
        factors: how much larger each is than the grid of patches.
        dim: channels of what is fused.
        index: which of the fused maps the head reads.
        bias: whether the convolutions of the residual units have biases.
        norm_eps: of the batch norms behind them; None where there are none.
    """

    widths: tuple[int, ...]
    factors: tuple[float, ...]
    dim: int
    index: int
    bias: bool = True
    norm_eps: float | None = None

    @classmethod
    def read(cls, r: ConfigReader, *, widths: tuple[int, ...] = (96, 192, 384, 768), dim: int = 256) -> Self:
        """The fields that all have, under their usual names."""
        widths = r.integers("neck_hidden_sizes", widths, least=1)
        factors = r.numbers("reassemble_factors", (4, 2, 1, 0.5))
        if not widths:
            raise r.fail("neck_hidden_sizes", "one number or more", list(widths))
        if len(factors) < len(widths) or any(not _is_factor(f) for f in factors):
            expected = f"{len(widths)} whole numbers or fractions of one (neck_hidden_sizes)"
            raise r.fail("reassemble_factors", expected, list(factors))
        count = len(widths)
        index = r.integer("head_in_index", -1, least=-count)
        if index >= count:
            raise r.fail("head_in_index", f"below {count} (neck_hidden_sizes)", index)
        return cls(widths=widths, factors=factors, dim=r.integer("fusion_hidden_size", dim), index=index)

    def unit(self) -> ResidualUnit:
        """One residual unit."""
        return ResidualUnit(self.dim, bias=self.bias, norm_eps=self.norm_eps)

    def reassembly(self, place: int, inner: int, readout: nn.Module) -> Reassembly:
        """How the tokens of one stage become a map.

        Args:
            place: which one.
            inner: width of the tokens.
        """
        width, factor = self.widths[place], self.factors[place]
        return Reassembly(
            readout=readout, projection=nn.Conv2d(inner, width, kernel_size=1), resize=_resized(width, factor)
        )


def read_normed(r: ConfigReader, fusing: Fusing, eps: float = 1e-5) -> Fusing:
    """The fields of necks whose residual units may have batch norms; with norms, biases have to be asked for."""
    normed = r.flag("use_batch_norm_in_fusion_residual", False)
    asked = r.raw.get("use_bias_in_fusion_residual") is not None
    bias = r.flag("use_bias_in_fusion_residual", True)
    if not asked:
        r.values["use_bias_in_fusion_residual"] = None
        bias = not normed
    return Fusing(
        widths=fusing.widths,
        factors=fusing.factors,
        dim=fusing.dim,
        index=fusing.index,
        bias=bias,
        norm_eps=eps if normed else None,
    )


def _is_factor(factor: float) -> bool:
    return factor > 0 and (factor < 1 or factor == int(factor))


def _resized(width: int, factor: float) -> nn.Module:
    if factor > 1:
        return nn.ConvTranspose2d(width, width, kernel_size=int(factor), stride=int(factor))
    if factor == 1:
        return nn.Identity()
    return nn.Conv2d(width, width, kernel_size=3, stride=int(1 / factor), padding=1)


class IgnoredReadout(nn.Module):
    """The class token is left out."""

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Shape: [B, 1 + N, D] to [B, N, D]."""
        return hidden_BTD[:, 1:]


class AddedReadout(nn.Module):
    """The class token is added to every patch."""

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Shape: [B, 1 + N, D] to [B, N, D]."""
        return hidden_BTD[:, 1:] + hidden_BTD[:, :1]


class ProjectedReadout(nn.Module):
    """The class token stands beside every patch, and both are projected.

    Args:
        dim: width of the tokens.
        act: name of the activation.
    """

    def __init__(self, dim: int, act: str) -> None:
        super().__init__()
        self.project = nn.Linear(2 * dim, dim)
        self.act = act
        self._act = activation(act)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Shape: [B, 1 + N, D] to [B, N, D]."""
        patches = hidden_BTD[:, 1:]
        return self._act(self.project(torch.cat((patches, hidden_BTD[:, :1].expand_as(patches)), dim=-1)))

    def extra_repr(self) -> str:
        return f"act={self.act}"


def readout(kind: str, dim: int, act: str) -> nn.Module:
    """One of :data:`READOUTS` for tokens of a width."""
    if kind == "project":
        return ProjectedReadout(dim, act)
    return AddedReadout() if kind == "add" else IgnoredReadout()


class Reassembly(Composed):
    """A class token and patches to a map.

    Args:
        readout: what becomes of the class token.
        projection: to the map's channels.
        resize: to its size.
    """

    readout: nn.Module
    projection: nn.Conv2d
    resize: nn.Module

    def forward(self, hidden_BTD: Tensor, grid: Size) -> Tensor:
        """Shape: [B, 1 + rows * columns, D] to [B, C, H, W].

        Raises:
            InputError: there are not as many tokens, as of backbones that give maps.
        """
        if hidden_BTD.dim() != 3 or hidden_BTD.shape[1] != 1 + grid[0] * grid[1]:
            raise InputError(
                "the neck reads a class token and patches",
                where="backbone_config",
                expected=f"tokens of shape [batch, {1 + grid[0] * grid[1]}, width]",
                found=f"shape {list(hidden_BTD.shape)}",
                remedy="Its config should say reshape_hidden_states=False.",
            )
        patches = self.readout(hidden_BTD)
        as_map = patches.transpose(1, 2).reshape(patches.shape[0], -1, *grid)
        out: Tensor = self.resize(self.projection(as_map))
        return out


class Kept(nn.Module):
    """What is a map already stays as it is."""

    def forward(self, x_BCHW: Tensor, grid: Size) -> Tensor:
        """Shape: [B, C, H, W] in and out."""
        return x_BCHW


class ResidualUnit(nn.Module):
    """Two convolutions behind an activation each, and what went in.

    Args:
        dim: channels.
        bias: whether the convolutions have biases.
        norm_eps: of the batch norms behind them; None for none.
    """

    def __init__(self, dim: int, *, bias: bool, norm_eps: float | None) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(dim, dim, kernel_size=3, padding=1, bias=bias)
        self.convolution2 = nn.Conv2d(dim, dim, kernel_size=3, padding=1, bias=bias)
        self.batch_norm1 = nn.Identity() if norm_eps is None else nn.BatchNorm2d(dim, norm_eps)
        self.batch_norm2 = nn.Identity() if norm_eps is None else nn.BatchNorm2d(dim, norm_eps)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] in and out."""
        inner = self.batch_norm1(self.convolution1(F.relu(x_BCHW)))
        out: Tensor = self.batch_norm2(self.convolution2(F.relu(inner))) + x_BCHW
        return out


def bigger(x_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    """A map at another size, corner to corner. Shape: [B, C, h, w] to [B, C, *size]."""
    if tuple(x_BCHW.shape[-2:]) == tuple(size):
        return x_BCHW
    return F.interpolate(x_BCHW, size=tuple(size), mode="bilinear", align_corners=True)


def doubled(x_BCHW: Tensor) -> Tensor:
    """A map of twice the size, corner to corner. Shape: [B, C, H, W] to [B, C, 2 * H, 2 * W]."""
    return F.interpolate(x_BCHW, scale_factor=2.0, mode="bilinear", align_corners=True)


class Fusion(nn.Module):
    """One step from coarse to fine: a finer map is added to what is fused already, which is then made larger."""

    def __init__(self, fusing: Fusing) -> None:
        super().__init__()
        self.projection = nn.Conv2d(fusing.dim, fusing.dim, kernel_size=1)
        self.residual_layer1 = fusing.unit()
        self.residual_layer2 = fusing.unit()

    def forward(self, fused: Tensor | None, x_BCHW: Tensor, size: Size | None) -> Tensor:
        """Shape: [B, C, H, W] each.

        Args:
            fused: the coarser maps; None where this is the coarsest.
            x_BCHW: the next map.
            size: of what is given back; None for twice the size.
        """
        if fused is None:
            fused = x_BCHW
        else:
            if fused.shape != x_BCHW.shape:
                x_BCHW = F.interpolate(x_BCHW, size=fused.shape[2:], mode="bilinear", align_corners=False)
            fused = fused + self.residual_layer1(x_BCHW)
        # A projection of places and bilinear weights that add up to 1 may change places: at a quarter of the cost.
        out: Tensor = self.projection(self.residual_layer2(fused))
        return doubled(out) if size is None else bigger(out, size)


class DepthNeck(nn.Module):
    """A backbone's stages to fused maps.

    Args:
        fusing: the sizes.
        reassembly: for each stage, from fine to coarse, what makes a map of it.
    """

    def __init__(self, fusing: Fusing, reassembly: Sequence[nn.Module]) -> None:
        super().__init__()
        self.fusing = fusing
        self.reassemble_stage = nn.ModuleList(reassembly)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, fusing.dim, kernel_size=3, padding=1, bias=False) for width in fusing.widths
        )
        self.fusion_stage = nn.ModuleList(Fusion(fusing) for _ in fusing.widths)

    def gathered(self, stages: Sequence[Tensor], grid: Size) -> list[Tensor]:
        """The stages as maps of the same width. Shape: [B, dim, H, W] each.

        Args:
            stages: from fine to coarse; Shape: [B, T, D] each, or [B, C, H, W] where one is a map already.
            grid: rows and columns of patches.

        Raises:
            InputError: stages that are no tokens and should be.
        """
        maps = [made(stage, grid) for made, stage in zip(self.reassemble_stage, stages, strict=True)]
        return [conv(one) for conv, one in zip(self.convs, maps, strict=True)]

    def size_of(self, features: Sequence[Tensor], place: int) -> Size | None:
        """How large what is fused at a place is made; None for twice the size."""
        return None

    def fused(self, features: Sequence[Tensor]) -> list[Tensor]:
        """What is fused after each step, from coarse to fine. Shape: [B, dim, H, W] each."""
        found: list[Tensor] = []
        for number, layer in enumerate(self.fusion_stage):
            place = len(features) - 1 - number
            found.append(layer(found[-1] if found else None, features[place], self.size_of(features, place)))
        return found

    def forward(self, stages: Sequence[Tensor], grid: Size) -> list[Tensor]:
        """See :meth:`gathered` and :meth:`fused`."""
        return self.fused(self.gathered(stages, grid))


class MatchingNeck(DepthNeck):
    """One that makes what is fused as large as the next finer map (Depth Anything)."""

    def size_of(self, features: Sequence[Tensor], place: int) -> Size | None:
        if not place:
            return None
        height, width = features[place - 1].shape[2:]
        return height, width


def neck_on(
    fusing: Fusing,
    widths: Sequence[int],
    readout_of: Callable[[int], nn.Module],
    kept: int = 0,
    kind: type[DepthNeck] = DepthNeck,
) -> DepthNeck:
    """The neck on stages of some widths.

    Args:
        readout_of: what becomes of the class token, of tokens of a width.
        kept: how many of the stages are maps already, the first ones.
        kind: how large it makes what is fused.

    Raises:
        ConfigError: it was made for another number of stages.
    """
    if len(widths) != len(fusing.widths):
        raise ConfigError(
            "the neck reads another number of stages",
            where="config.json: neck_hidden_sizes",
            expected=f"{len(widths)} numbers, one per stage",
            found=list(fusing.widths),
        )
    made: list[nn.Module] = [Kept() for _ in range(kept)]
    made += [fusing.reassembly(i, w, readout_of(w)) for i, w in enumerate(widths) if i >= kept]
    return kind(fusing, made)


NECK_KEYS = KeyMap(
    {
        "neck.reassemble_stage.{i}": "neck.reassemble_stage.layers.{i}",
        "neck.reassemble_stage.{i}.readout.project": "neck.reassemble_stage.readout_projects.{i}.0",
        "neck.fusion_stage.{i}": "neck.fusion_stage.layers.{i}",
    }
)
"""Where a neck keeps its weights."""
