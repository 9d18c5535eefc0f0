"""WavLM (https://arxiv.org/abs/2110.13900)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omniform.architectures.family import Builder
from omniform.architectures.wave_family import WAVE_KEYS, Stem, Waves
from omniform.architectures.wave_heads import MIXED, HeadSizes, WaveHeads
from omniform.architectures.waves import WaveEncoder
from omniform.blocks.attend import attend
from omniform.blocks.attention import Attention
from omniform.blocks.relative import BucketedBias
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap


class GatedAttention(Attention):
    """Attention whose bias for distances each query opens or closes, head by head (section 3.2).

    Args:
        distances: the bias, one table for all layers.
    """

    def __init__(self, dim: int, heads: int, *, distances: BucketedBias, dropout: float) -> None:
        super().__init__(dim, heads, rule=Full(), bias=distances, dropout=dropout)
        self.gru_rel_pos_const = nn.Parameter(torch.empty(1, heads, 1, 1))
        self.gru_rel_pos_linear = nn.Linear(self.head_dim, 8)

    def reset(self, std: float) -> None:
        """All heads alike."""
        nn.init.ones_(self.gru_rel_pos_const)

    def gates(self, x_BTD: Tensor) -> Tensor:
        """How far each query opens the bias. Shape: [B, T, D] to [B, H, T, 1]."""
        told = self.gru_rel_pos_linear(self.split(x_BTD).transpose(1, 2))
        one, other = torch.sigmoid(told.unflatten(-1, (2, 4)).sum(-1)).chunk(2, dim=-1)
        gates: Tensor = one * (other * self.gru_rel_pos_const - 1.0) + 2.0
        return gates

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        q, k, v = self.queries_keys_values(x_BTD, ctx)
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        assert self.bias is not None
        distances = self.bias(q, k, ctx)
        assert isinstance(distances, Tensor), "rows of sound are padded"
        seen: list[Tensor] = []
        mixed = attend(
            q,
            k,
            v,
            ctx.mask(self.rule, x_BTD.shape[1], x_BTD.device),
            scores=self.scores,
            backend=ctx.backend,
            bias=self.gates(x_BTD) * distances,
            dropout=self.dropout if self.training else 0.0,
            weights=seen if ctx.taps.wants_attentions else None,
        )
        # What is told of heads is the mean of all of them, as the reference tells it.
        ctx.taps.attentions.extend(one.mean(dim=1, keepdim=True).expand_as(one) for one in seen)
        if self.training:  # the reference's is laid out by time, along which the dropout behind it is drawn
            return self.output(mixed.transpose(0, 1).contiguous(), x_BTD, ctx).transpose(0, 1)
        return self.output(mixed, x_BTD, ctx)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a WavLM computes."""

    waves: Waves
    sizes: HeadSizes
    buckets: int
    max_distance: int


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert(num_ctc_classes=80)
    # Of code vectors, which WavLM does not have any more.
    r.inert(
        num_codevectors_per_group=320, num_codevector_groups=2, contrastive_logits_temperature=0.1, num_negatives=100,
        codevector_dim=256, proj_codevector_dim=256, diversity_loss_weight=0.1,
    )  # fmt: skip
    buckets, distance = r.integer("num_buckets", 320, least=4), r.integer("max_bucket_distance", 800)
    if distance <= buckets // 4:
        raise r.fail("max_bucket_distance", f"more than {buckets // 4}, a quarter of num_buckets", distance)
    return Config(
        waves=Waves.read(r, stem=Stem.read(r), stable=r.flag("do_stable_layer_norm", False)),
        sizes=HeadSizes.read(r, reduction="mean"),
        buckets=buckets,
        max_distance=distance,
    )


def build(c: Config) -> WaveEncoder:
    """The encoder."""
    waves = c.waves
    table = BucketedBias(c.buckets, waves.heads, max_distance=c.max_distance, two_sided=True)
    attentions = [
        GatedAttention(waves.dim, waves.heads, distances=table.twin(), dropout=waves.attention_dropout)
        for _ in range(waves.layers)
    ]
    return waves.build(waves.stack(waves.positions(), attentions, spared=1))


HEADS = WaveHeads[Config](build, lambda c: c.waves, lambda c: c.sizes)

KEYS = WAVE_KEYS | KeyMap({"encoder.layers.{i}.self_attn.bias": "encoder.layers.{i}.attention.rel_attn_embed"})
"""The table of distances lies in the first layer."""

FAMILY = (
    Builder("wavlm", read, KEYS, prefix="wavlm")
    .public(
        config="WavLMConfig",
        tokenizer="Wav2Vec2CTCTokenizer",
        feature_extractor="Wav2Vec2FeatureExtractor",
        processor="Wav2Vec2Processor",
        row="speech to letters, audio classification, voices",
    )
    .base("WavLMModel", build)
    .head("WavLMForCTC", "ctc", HEADS.ctc)
    .head("WavLMForSequenceClassification", "audio-classification", HEADS.classifier, MIXED)
    .head("WavLMForAudioFrameClassification", "audio-frame-classification", HEADS.frame_classifier, MIXED)
    .head("WavLMForXVector", "audio-xvector", HEADS.voice_teller, MIXED)
    .done()
)
