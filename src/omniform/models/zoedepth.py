"""ZoeDepth (https://arxiv.org/abs/2302.12288): depth in metres, of pictures of one domain or of several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, Unpack, cast

from torch import Tensor, nn

from omniform.architectures.backbone import Backbone
from omniform.architectures.depth import DepthEstimator, DepthHead, grid_of
from omniform.architectures.depth_neck import NECK_KEYS, READOUTS, DepthNeck, Fusing, neck_on, read_normed, readout
from omniform.architectures.family import Builder
from omniform.architectures.metric_bins import Bins, DomainHeads, MetricHead, PatchTransformer, Range
from omniform.blocks.mlp import ACTIVATIONS
from omniform.core.config import Common
from omniform.core.context import Tapped
from omniform.core.errors import ConfigError
from omniform.core.outputs import BackboneOutput, DomainDepthOutput
from omniform.core.reader import ConfigReader
from omniform.models.backbones import NestedBackbone, read_backbone
from omniform.weights.keymap import KeyMap

BEIT = {
    "model_type": "beit",
    "image_size": 384,
    "num_hidden_layers": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "use_relative_position_bias": True,
    "reshape_hidden_states": False,
    "out_features": ["stage6", "stage12", "stage18", "stage24"],
}
"""The backbone of a config that names none."""
ONE = {"n_bins": 64, "min_depth": 0.001, "max_depth": 10.0}
"""The range of depths of a config that names none."""
MAPS = 4
"""How many finer maps bins are drawn by, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Domains:
    """How the domain of pictures is told, where there are several: a small encoder."""

    layers: int
    dim: int
    hidden: int
    heads: int

    @classmethod
    def read(cls, r: ConfigReader, several: bool) -> Self | None:
        """The fields under their usual names; None where there is one domain."""
        names = (
            "num_patch_transformer_layers",
            "patch_transformer_hidden_size",
            "patch_transformer_intermediate_size",
            "patch_transformer_num_attention_heads",
        )
        found = [r.maybe_integer(name) for name in names]
        if not several:
            return None
        for name, value in zip(names, found, strict=True):
            if value is None:
                raise r.fail(name, "a number, where there are several bin_configurations", None)
        layers, dim, hidden, heads = (value or 1 for value in found)
        if layers < PatchTransformer.PASSED:
            raise r.fail(names[0], f"at least {PatchTransformer.PASSED}", layers)
        if dim != 128 or dim % heads:
            raise r.fail(names[1], "128, which the classifier of domains reads, and a multiple of the heads", dim)
        return cls(layers=layers, dim=dim, hidden=hidden, heads=heads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a ZoeDepth computes."""

    backbone: NestedBackbone
    readout: str
    act: str
    fusing: Fusing
    projected: bool
    bins: Bins
    spans: tuple[Range, ...]
    domains: Domains | None


def read_spans(r: ConfigReader) -> tuple[Range, ...]:
    """The ranges of depths, one for each domain."""
    given = r.raw.get("bin_configurations") or [ONE]
    r.inert("bin_configurations")
    if not isinstance(given, (list, tuple)) or not all(isinstance(one, dict) for one in given):
        raise r.fail("bin_configurations", "a list of objects", given)
    r.values["bin_configurations"] = [dict(one) for one in given]
    spans = []
    for number, one in enumerate(given):
        inner = ConfigReader(one, where=f"{r.where}: bin_configurations[{number}]")
        name = inner.text("name") if len(given) > 1 else inner.text("name", "")
        span = Range(
            name=name, bins=inner.integer("n_bins"), least=inner.number("min_depth"), most=inner.number("max_depth")
        )
        if span.least >= span.most:
            raise inner.fail("max_depth", f"more than {span.least} (min_depth)", span.most)
        spans.append(span)
    if len({span.name for span in spans}) < len(spans):
        raise r.fail("bin_configurations", "names that differ", [span.name for span in spans])
    return tuple(spans)


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert("backbone_hidden_size")  # the backbone's own says it
    r.inert(attractor_alpha=1000, attractor_gamma=2)  # the reference's attractors have numbers of their own
    spans = read_spans(r)
    counts = r.integers("num_attractors", (16, 8, 4, 1), least=1)
    if not counts or (len(spans) == 1 and len(counts) < MAPS):
        raise r.fail("num_attractors", f"{MAPS} numbers", list(counts))
    fusing = read_normed(r, Fusing.read(r), r.number("batch_norm_eps", 1e-5))
    bins = Bins(
        normed=r.choice("bin_centers_type", ("softplus", "normed"), "softplus") == "normed",
        summed=r.choice("attractor_kind", ("mean", "sum"), "mean") == "sum",
        attractors=counts,
        dim=r.integer("bin_embedding_dim", 128, least=2),
        inner=r.integer("bottleneck_features", 256),
        finer=fusing.dim,
        seen=r.integer("num_relative_features", 32),
        temperatures=(r.number("min_temp", 0.0212), r.number("max_temp", 50.0)),
    )
    return Config(
        backbone=read_backbone(r, BEIT),
        readout=r.choice("readout_type", READOUTS, "project"),
        act=r.choice("hidden_act", ACTIVATIONS, "gelu"),
        fusing=fusing,
        projected=r.flag("add_projection", False),
        bins=bins,
        spans=spans,
        domains=Domains.read(r, len(spans) > 1),
    )


class ZoeDepth(DepthEstimator):
    """Depth in metres of one domain.

    Args:
        backbone: pictures to tokens of some layers, or to maps, from fine to coarse.
        neck: fuses these.
        relative_head: relative depth.
        metric_head: depth in metres.
        patch: side of a patch in pixels.
    """

    backbone: Backbone
    neck: DepthNeck
    relative_head: DepthHead
    metric_head: nn.Module
    patch: int

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def measured(self, seen: Tensor, coarsest: Tensor, fused: list[Tensor], relative: Tensor) -> DomainDepthOutput:
        """Depth in metres; see :class:`~omniform.architectures.metric_bins.MetricHead`."""
        return DomainDepthOutput(predicted_depth=self.metric_head(seen, coarsest, fused, relative))

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **given: Unpack[Tapped]) -> DomainDepthOutput:
        """See :meth:`~omniform.architectures.depth.BackboneDepth.forward`."""
        grid = grid_of(pixel_values, self.patch)
        out = cast(BackboneOutput, self.backbone(pixel_values, **given))
        assert out.feature_maps is not None
        features = self.neck.gathered(out.feature_maps, grid)
        fused = self.neck.fused(features)
        relative, seen = self.relative_head.seen(fused)
        depth = self.measured(seen, features[-1], fused, relative)
        depth.hidden_states, depth.attentions = out.hidden_states, out.attentions
        return depth


class DomainZoeDepth(ZoeDepth):
    """Depth in metres of the domain that a batch's pictures are most likely of."""

    metric_head: DomainHeads

    def measured(self, seen: Tensor, coarsest: Tensor, fused: list[Tensor], relative: Tensor) -> DomainDepthOutput:
        head = self.metric_head
        x = head.conv2(coarsest)
        tokens = head.patch_transformer.embed(x)
        scores = head.mlp_classifier(head.patch_transformer(tokens, self.step(tokens)))
        return DomainDepthOutput(predicted_depth=head(seen, x, fused, scores), domain_logits=scores)


def estimator(c: Config, _: Common) -> ZoeDepth:
    """How far away each pixel is, in metres."""
    if c.bins.inner != c.fusing.dim:
        raise ConfigError(
            "the metric head reads what the neck fuses",
            where="config.json: bottleneck_features",
            expected=f"{c.fusing.dim} (fusion_hidden_size)",
            found=c.bins.inner,
        )
    backbone = c.backbone.build()
    kept = len(backbone.channels) if backbone.is_pyramid else 0
    neck = neck_on(c.fusing, backbone.channels, lambda width: readout(c.readout, width, c.act), kept)
    relative = DepthHead(c.fusing.dim, c.fusing.index, hidden=c.bins.seen, projected=c.projected)
    kind: type[ZoeDepth] = ZoeDepth
    metric: nn.Module = MetricHead(c.bins, c.spans[0], MAPS)
    if c.domains is not None:
        d = c.domains
        patches = PatchTransformer(c.bins.inner, d.dim, d.hidden, d.heads, d.layers)
        kind, metric = DomainZoeDepth, DomainHeads(c.bins, c.spans, MAPS, patches, d.dim)
    patch = backbone.reductions[0]
    return kind(backbone=backbone, neck=neck, relative_head=relative, metric_head=metric, patch=patch)


_LAYER = "metric_head.patch_transformer.transformer_encoder.{i}"
HEAD_KEYS = NECK_KEYS | KeyMap(
    {
        f"{_LAYER}.self_attn.q_proj": f"{_LAYER}.self_attn.query",
        f"{_LAYER}.self_attn.k_proj": f"{_LAYER}.self_attn.key",
        f"{_LAYER}.self_attn.v_proj": f"{_LAYER}.self_attn.value",
        f"{_LAYER}.self_attn.o_proj": f"{_LAYER}.self_attn.out_proj",
        f"{_LAYER}.self_attn_layer_norm": f"{_LAYER}.norm1",
        f"{_LAYER}.mlp.fc1": f"{_LAYER}.linear1",
        f"{_LAYER}.mlp.fc2": f"{_LAYER}.linear2",
        f"{_LAYER}.final_layer_norm": f"{_LAYER}.norm2",
        "metric_head.mlp_classifier.fc1": "metric_head.mlp_classifier.linear1",
        "metric_head.mlp_classifier.fc2": "metric_head.mlp_classifier.linear2",
    }
)


def keys(c: Config) -> KeyMap:
    """Where the weights live."""
    return c.backbone.keys.under("backbone", "backbone") | HEAD_KEYS


FAMILY = (
    Builder("zoedepth", read, keys, prefix="")
    .public(config="ZoeDepthConfig", image_processor="ZoeDepthImageProcessor", row="depth in metres")
    .architecture("ZoeDepthForDepthEstimation", ("depth-estimation",), estimator, keys)
    .done()
)
