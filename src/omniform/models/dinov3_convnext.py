"""DINOv3 (https://arxiv.org/abs/2508.10104) distilled into a ConvNeXt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor, nn

from omniform.architectures.backbone import ConvBackbone, read_outputs
from omniform.architectures.convnext_family import read_stages
from omniform.architectures.family import Builder
from omniform.architectures.model import Model
from omniform.blocks.convnext import ConvNext, ConvNextBlock, MapNorm, convnext_stages, convnext_stem
from omniform.blocks.drop_path import DropPath, LayerScale
from omniform.blocks.mlp import ACTIVATIONS, activation
from omniform.core.context import Tapped, Taps
from omniform.core.outputs import BaseModelOutput
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a DINOv3 ConvNeXt computes; see :class:`~omniform.architectures.convnext_family.ConvNextConfig`."""

    channels: int
    dims: tuple[int, ...]
    depths: tuple[int, ...]
    act: str
    eps: float
    scale: float
    drop_path: float
    names: tuple[str, ...]
    outputs: tuple[int, ...]

    @property
    def strides(self) -> tuple[int, ...]:
        """How many pixels of a picture a place of every stage's map stands for."""
        return (1, *(4 * 2**i for i in range(len(self.dims))))


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert("num_stages", image_size=224)
    dims, depths, names = read_stages(r)
    return Config(
        channels=r.integer("num_channels", 3),
        dims=dims,
        depths=depths,
        act=r.choice("hidden_act", ACTIVATIONS, "gelu"),
        eps=r.number("layer_norm_eps", 1e-6),
        scale=r.number("layer_scale_init_value", 1e-6),
        drop_path=r.probability("drop_path_rate"),
        names=names,
        outputs=read_outputs(r, names),
    )


class TokensOfMap(Model):
    """A network of convolutions whose last map is given place by place, its mean before them in a class token's place.

    Args:
        network: whose hidden states are the pixels and the maps of all stages.
        stages: how many it has.
        norm: of the tokens.
    """

    main_input = "pixel_values"

    network: ConvNext
    stages: int
    norm: nn.LayerNorm

    def forward(self, pixel_values: Tensor, **given: Unpack[Tapped]) -> BaseModelOutput:
        """Hidden states of pictures, and the first of them.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: pictures of the wrong shape.
        """
        taps = Taps(given)
        states = self.network.states(pixel_values, self.stages)
        for state in states:
            taps.hidden(state)
        places = states[-1].flatten(2).transpose(1, 2)
        hidden = self.norm(torch.cat((places.mean(dim=1, keepdim=True), places), dim=1))
        return BaseModelOutput(last_hidden_state=hidden, pooler_output=hidden[:, 0], hidden_states=taps.hidden_or_none)


def network(c: Config) -> ConvNext:
    """The network; its stem does nothing."""

    def block(dim: int, rate: float) -> ConvNextBlock:
        return ConvNextBlock(
            dwconv=nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim),
            layernorm=nn.LayerNorm(dim, eps=c.eps),
            pwconv1=nn.Linear(dim, 4 * dim),
            act=activation(c.act),
            pwconv2=nn.Linear(4 * dim, dim),
            drop_path=DropPath(rate),
            scale=LayerScale(dim, c.scale),
        )

    def downsampling(stage: int) -> list[nn.Module]:
        outer = c.dims[stage]
        if not stage:
            return [nn.Conv2d(c.channels, outer, kernel_size=4, stride=4), MapNorm(outer, eps=c.eps)]
        inner = c.dims[stage - 1]
        return [MapNorm(inner, eps=c.eps), nn.Conv2d(inner, outer, kernel_size=2, stride=2)]

    return ConvNext(
        stem=convnext_stem(),
        stages=convnext_stages(c.dims, c.depths, block, downsampling, c.drop_path),
        channels=c.channels,
        strides=tuple((stride, stride) for stride in c.strides),
    )


def build(c: Config) -> TokensOfMap:
    """The network and the norm of its last map."""
    return TokensOfMap(network=network(c), stages=len(c.dims), norm=nn.LayerNorm(c.dims[-1], eps=c.eps))


def backbone(c: Config) -> ConvBackbone:
    """The network as a backbone; its stem's map is the picture."""
    widths = (c.channels, *c.dims)
    return ConvBackbone(network=network(c), names=c.names, outputs=c.outputs, num_features=widths, reductions=c.strides)


KEYS = KeyMap(
    {
        "network": "",
        "network.stages.{i}.downsampling": "stages.{i}.downsample_layers",
        "network.stages.{i}.layers.{j}.dwconv": "stages.{i}.layers.{j}.depthwise_conv",
        "network.stages.{i}.layers.{j}.layernorm": "stages.{i}.layers.{j}.layer_norm",
        "network.stages.{i}.layers.{j}.pwconv1": "stages.{i}.layers.{j}.pointwise_conv1",
        "network.stages.{i}.layers.{j}.pwconv2": "stages.{i}.layers.{j}.pointwise_conv2",
        "network.stages.{i}.layers.{j}.scale.lambda1": "stages.{i}.layers.{j}.gamma",
        "norm": "layer_norm",
    },
    # In the reference's memory the stages lie in a part of their own.
    aliases=((r"^model\.stages\.", "stages."),),
    modules=((r"^stages\.", "model.stages."),),
)

FAMILY = (
    Builder("dinov3_convnext", read, KEYS, prefix="model")
    .public(config="DINOv3ConvNextConfig", image_processor="DINOv3ViTImageProcessor", row="image features, backbone")
    .base("DINOv3ConvNextModel", build)
    .backbone("DINOv3ConvNextBackbone", backbone)
    .done()
)
