"""Encoders of pictures and films of any sizes, all of them end to end in one long row of patches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Self, Unpack

import torch
from torch import Tensor, nn

from omniform.architectures.model import Model
from omniform.architectures.parts import read_width
from omniform.blocks.attention import Attention
from omniform.blocks.layers import PreNorm, passed
from omniform.blocks.lowering import Stack
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.packed_patches import (
    FRAME,
    AxialRotary,
    FlatPatches,
    Grid,
    InterpolatedTable,
    PatchContext,
    PatchMerger,
    plan_of,
    read_grids,
)
from omniform.core.context import Tapped
from omniform.core.outputs import PatchesOutput
from omniform.core.reader import ConfigReader
from omniform.core.rules import Rule
from omniform.weights.keymap import Rule as Place
from omniform.weights.links import shares


class PackedVision(Model):
    """A transformer over the patches of many pictures; ``merge`` by ``merge`` of them become one token at the end.

    Args:
        patch_embed: patches to vectors.
        pos_embed: learned positions, added to them; None where the layers know places otherwise.
        layers: called as ``layer(hidden, ctx)``.
        merger: what the last layer gives, to tokens.
        merge: rows and columns of patches that become one.
        window: rows and columns of such tokens in a window; None where no layer looks at windows.
        deepstack_merger_list: what earlier layers give, to tokens.
        deep_layers: the layers that these read, in their order.
    """

    main_input = "hidden_states"

    patch_embed: FlatPatches
    pos_embed: InterpolatedTable | None = None
    layers: nn.ModuleList
    merger: PatchMerger
    merge: int
    window: int | None = None
    deepstack_merger_list: nn.ModuleList | None = None
    deep_layers: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Width of a token, what earlier layers say of it included."""
        return self.out * (1 + len({i for i in self.deep_layers if i < len(self.layers)}))

    @property
    def out(self) -> int:
        """Width of a token."""
        return self.merger.linear_fc2.out_features

    def get_input_embeddings(self) -> nn.Module:
        return self.patch_embed

    def length(self, grid: Grid) -> int:
        """How many tokens a picture becomes."""
        return grid[0] * grid[1] * grid[2] // self.merge**2

    def arrive(self, inputs: dict[str, object]) -> None:
        grids = read_grids(inputs.get("grid_thw"), self.merge, where="grid_thw")
        self.patch_embed.check(inputs.get("hidden_states"), grids, where="hidden_states")
        inputs["grid_thw"] = grids

    def forward(
        self, hidden_states: Tensor, grid_thw: Tensor | tuple[Grid, ...], **given: Unpack[Tapped]
    ) -> PatchesOutput:
        """Hidden states of patches, and the tokens that they become.

        Args:
            hidden_states: the patches of all pictures, one after another. Shape: [N, numbers of a patch].
            grid_thw: patches in time, down and across, of each picture. Shape: [pictures, 3].
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: grids and patches do not fit.
        """
        grids = grid_thw if isinstance(grid_thw, tuple) else read_grids(grid_thw, self.merge, where="grid_thw")
        plan = plan_of(grids, self.merge, self.window, hidden_states.device)
        x_ND = self.patch_embed(hidden_states)
        if self.pos_embed is not None:
            x_ND = x_ND + self.pos_embed.at(grids, self.merge).to(x_ND.dtype)
        x_1ND = (x_ND if plan.order is None else x_ND[plan.order])[None]
        ctx = PatchContext.of(self.step(x_1ND, given), plan)
        deep: list[Tensor] = []
        edges = sorted({0, len(self.layers), *(i + 1 for i in self.deep_layers if i < len(self.layers))})
        for first, stop in pairwise(edges):
            x_1ND = self._through(x_1ND, ctx, slice(first, stop))
            if stop - 1 in self.deep_layers:
                assert self.deepstack_merger_list is not None
                deep.append(self.deepstack_merger_list[self.deep_layers.index(stop - 1)](x_1ND[0]))
        ctx.taps.hidden(x_1ND[0])
        merged: Tensor = self.merger(x_1ND[0])
        return PatchesOutput(
            last_hidden_state=x_1ND[0],
            pooler_output=merged if plan.back is None else merged[plan.back],
            deepstack_features=None if self.deepstack_merger_list is None else deep,
            **ctx.taps.noted(),
        )

    def _through(self, x_1ND: Tensor, ctx: PatchContext, part: slice) -> Tensor:
        """Some layers, in one go where they can be."""
        if isinstance(self.layers, Stack) and (made := self.layers.through(x_1ND, ctx, None, part)) is not None:
            return made
        for number in range(len(self.layers))[part]:
            ctx.taps.hidden(x_1ND[0])
            x_1ND = passed(self.layers[number], number, x_1ND, ctx)
        return x_1ND

    def tokens(self, patches: Tensor, grids: tuple[Grid, ...]) -> Tensor:
        """The tokens of all pictures, what earlier layers say of each behind its own. Shape: [tokens, width]."""
        out = self.forward(patches, grids)
        assert out.pooler_output is not None
        return torch.cat((out.pooler_output, *(out.deepstack_features or ())), dim=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchTower:
    """What such encoders have in common.

    Attributes:
        dim: width of a patch's vector.
        out: width of a token.
        time: frames of a patch.
        theta: base of the rotary positions.
    """

    dim: int
    hidden: int
    layers: int
    heads: int
    act: str
    out: int
    channels: int
    patch: int
    time: int
    merge: int
    theta: float

    @classmethod
    def read(
        cls,
        r: ConfigReader,
        *,
        dim: int,
        hidden: int | None,
        layers: int,
        act: str,
        patch: int,
        width_key: str = "hidden_size",
        out_key: str = "out_hidden_size",
    ) -> Self:
        """The fields under their usual names; the arguments are their defaults.

        Args:
            hidden: of ``intermediate_size``; None where the feed-forward is ``mlp_ratio`` times as wide.
            width_key: the name of the patches' width.
            out_key: the name of the tokens' width.
        """
        width, heads = read_width(r, width_key, dim, "num_heads", 16, heads_also=("num_attention_heads",))
        if width // heads % 4:
            raise r.fail("num_heads", f"so many that heads of {width} ({width_key}) are a multiple of 4 wide", heads)
        wide = int(width * r.number("mlp_ratio", 4)) if hidden is None else r.integer("intermediate_size", hidden)
        r.inert("in_chans", "spatial_patch_size")  # in the files of first releases, and nobody reads them
        return cls(
            dim=width,
            hidden=wide,
            layers=r.layers("depth", layers, also=("num_hidden_layers",)),
            heads=heads,
            act=r.choice("hidden_act", ACTIVATIONS, act),
            out=r.integer(out_key, 3584),
            channels=r.integer("in_channels", 3),
            patch=r.integer("patch_size", patch),
            time=r.integer("temporal_patch_size", 2),
            merge=r.integer("spatial_merge_size", 2),
            theta=read_axial(r),
        )

    def patches(self, *, bias: bool) -> FlatPatches:
        """What patches become first."""
        return FlatPatches(self.channels, self.time, (self.patch, self.patch), self.dim, bias=bias)

    def layer(self, norm: Callable[[], nn.Module], mlp: nn.Module, rule: Rule = FRAME) -> PreNorm:
        """One layer."""
        rotary = AxialRotary(self.dim // self.heads, self.theta)
        attention = Attention(self.dim, self.heads, rule=rule, positions=rotary)
        return PreNorm.of(norm, self_attn=attention, mlp=mlp)

    def norm(self) -> nn.Module:
        """One norm, where they are not of another kind."""
        return nn.LayerNorm(self.dim, 1e-6)

    def merger(self, norm: nn.Module, kind: type[PatchMerger] = PatchMerger) -> PatchMerger:
        """What makes tokens of patches."""
        return kind.of(norm, self.dim, self.merge**2, self.out)


def read_axial(r: ConfigReader) -> float:
    """The base of rotary positions by rows and columns (``rope_parameters``)."""
    own = r.mapping("rope_parameters") or {}
    s = r.within(own, "rope_parameters")
    kind, theta = s.text("rope_type", "axial", also=("type",)), s.number("rope_theta", r.number("rope_theta", 10000.0))
    if kind != "axial":
        raise s.fail("rope_type", "axial: patches turn by rows and columns", repr(kind))
    r.values["rope_parameters"] = {**own, "rope_type": kind, "rope_theta": theta}
    return theta


def block_keys(feed_forward: Mapping[str, str]) -> dict[str, Place]:
    """Where the layers of such an encoder lie; ``feed_forward``: from our names within it to the checkpoint's."""
    ours, theirs = "layers.{i}", "blocks.{i}"
    return {
        ours: theirs,
        f"{ours}.input_layernorm": f"{theirs}.norm1",
        f"{ours}.post_attention_layernorm": f"{theirs}.norm2",
        **shares(f"{ours}.self_attn", f"{theirs}.attn.qkv", "qkv"),
        f"{ours}.self_attn.o_proj": f"{theirs}.attn.proj",
        **{f"{ours}.mlp.{name}": f"{theirs}.mlp.{key}" for name, key in feed_forward.items()},
    }
