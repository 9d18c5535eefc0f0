"""Vision transformers as backbones: what their layers give, laid out as maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, Unpack

from torch import Tensor, nn

from omniform.architectures.backbone import Backbone, read_outputs
from omniform.architectures.vision import VisionEncoder
from omniform.blocks.patches import Size
from omniform.core.context import Tapped, Taps
from omniform.core.outputs import BackboneOutput, TokenBackboneOutput
from omniform.core.reader import ConfigReader


class Layout(Protocol):
    """How the tokens of one stage are given. Shape: [B, T, D], to a map or to fewer tokens."""

    def __call__(self, encoder: VisionEncoder, hidden_BTD: Tensor, grid: Size) -> Tensor: ...


def as_map(encoder: VisionEncoder, hidden_BTD: Tensor, grid: Size) -> Tensor:
    """Patches where they stand in the picture. Shape: [B, D, rows, columns]."""
    return encoder.map_of(hidden_BTD, grid).contiguous()


def as_tokens(encoder: VisionEncoder, hidden_BTD: Tensor, grid: Size) -> Tensor:
    """All tokens, as they are. Shape: [B, T, D]."""
    return hidden_BTD


def as_patches(encoder: VisionEncoder, hidden_BTD: Tensor, grid: Size) -> Tensor:
    """The patches, one after another. Shape: [B, N, D]."""
    return hidden_BTD[:, encoder.first_patch :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Which layers' hidden states a backbone gives.

    Attributes:
        names: of all of them, what enters the first layer before the others.
        outputs: those that are given.
        normed: those to which the final norm is applied.
        shaped: whether they are laid out as maps.
    """

    names: tuple[str, ...]
    outputs: tuple[int, ...]
    normed: tuple[int, ...]
    shaped: bool

    @classmethod
    def read(cls, r: ConfigReader, layers: int, always: Sequence[int] = ()) -> Self:
        """The fields under their usual names; ``always``: what is normed whatever the config says."""
        names = ("stem", *(f"stage{i + 1}" for i in range(layers)))
        every = tuple(range(len(names)))
        return cls(
            names=names,
            outputs=read_outputs(r, names),
            normed=every if r.flag("apply_layernorm", True) else tuple(always),
            shaped=r.flag("reshape_hidden_states", True),
        )


class TokenBackbone(Backbone):
    """A vision transformer whose layers' hidden states are feature maps.

    Args:
        network: the encoder; no layer beyond the last one that is wanted is computed.
        normed: the stages to which its final norm is applied.
        layout: how a stage's tokens are given.
    """

    network: VisionEncoder
    normed: tuple[int, ...]
    layout: Layout

    def get_input_embeddings(self) -> nn.Module:
        return self.network.patches

    def maps(self, pixel_values: Tensor, taps: Taps | None = None) -> tuple[Tensor, ...]:
        grid = self.network.grid_of(pixel_values)
        return tuple(self.layout(self.network, hidden, grid) for hidden in self.stages(pixel_values, taps or Taps()))

    def stages(self, pixel_values: Tensor, taps: Taps, attention_mask: Tensor | None = None) -> list[Tensor]:
        """All tokens of the stages that are given, normed. Shape: [B, T, D] each."""
        net = self.network
        embeds = net.embed(pixel_values)
        ctx = net.context(embeds, net.grid_of(pixel_values), attention_mask=attention_mask).with_(taps=taps)
        told = taps.wants_hidden or taps.wants_attentions
        states = net.states(embeds, ctx, len(net.layers) if told else self.outputs[-1])
        assert net.norm is not None
        return [net.norm(states[i]) if i in self.normed else states[i] for i in self.outputs]

    def forward(
        self, pixel_values: Tensor, *, attention_mask: Tensor | None = None, **given: Unpack[Tapped]
    ) -> BackboneOutput:
        """The feature maps of pictures.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            attention_mask: Shape: [B, T], 0 for tokens that nobody may look at.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: pictures of the wrong shape.
        """
        taps = Taps(given)
        stages = self.stages(pixel_values, taps, attention_mask)
        return self.output(stages, self.network.grid_of(pixel_values), taps)

    def output(self, stages: Sequence[Tensor], grid: Size, taps: Taps) -> BackboneOutput:
        """What is told of the stages; Shape: [B, T, D] each."""
        return BackboneOutput(
            feature_maps=tuple(self.layout(self.network, hidden, grid) for hidden in stages), **taps.noted()
        )


class ClassTokenBackbone(TokenBackbone):
    """One that gives the class token of each stage as well."""

    def output(self, stages: Sequence[Tensor], grid: Size, taps: Taps) -> TokenBackboneOutput:
        return TokenBackboneOutput(
            feature_maps=tuple(self.layout(self.network, hidden, grid) for hidden in stages),
            cls_tokens=tuple(hidden[:, 0] for hidden in stages),
            **taps.noted(),
        )


def token_backbone(
    network: VisionEncoder, stages: Stages, flat: Layout = as_tokens, kind: type[TokenBackbone] = TokenBackbone
) -> TokenBackbone:
    """The backbone.

    Args:
        flat: how tokens are given that are not laid out as maps.
        kind: what it tells.
    """
    count = len(stages.names)
    return kind(
        network=network,
        names=stages.names,
        outputs=stages.outputs,
        num_features=(network.width,) * count,
        reductions=(network.patches.patching.patch_size[0],) * count,
        normed=stages.normed,
        layout=as_map if stages.shaped else flat,
    )
