"""data2vec for sound (https://arxiv.org/abs/2202.03555)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from omniform.architectures.family import Builder
from omniform.architectures.wave_family import WAVE_KEYS, Stem, Waves
from omniform.architectures.wave_heads import MIXED, HeadSizes, WaveHeads
from omniform.architectures.waves import WaveEncoder
from omniform.blocks.composed import Composed
from omniform.blocks.convolutions import SoundConv1d
from omniform.blocks.mlp import activation
from omniform.core.config import Beginning, ModelConfig
from omniform.core.reader import ConfigReader


class PlaceLayer(Composed):
    """A convolution in groups, normed over channels without a scale of its own.

    Args:
        conv: as many steps out as in, or one more where its kernel is even; that one is cut off.
        act: name of the activation.
    """

    conv: nn.Conv1d
    act: str

    def __post_init__(self) -> None:
        self._act = activation(self.act)
        self.layer_norm = nn.LayerNorm(self.conv.out_channels, elementwise_affine=False)

    def forward(self, x_BDT: Tensor) -> Tensor:
        """Shape: [B, D, T] in and out."""
        found = self.conv(x_BDT)[..., : x_BDT.shape[-1]]
        return self._act(self.layer_norm(found.transpose(1, 2)).transpose(1, 2))


class DeepPositions(nn.Module):
    """Where frames stand, told by several small convolutions instead of a wide one.

    Args:
        layers: one after another.
    """

    def __init__(self, layers: Sequence[PlaceLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """What is added to each frame. Shape: [B, T, D] in and out."""
        x_BDT = x_BTD.transpose(1, 2)
        for layer in self.layers:
            x_BDT = layer(x_BDT)
        return x_BDT.transpose(1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a data2vec for sound computes."""

    waves: Waves
    sizes: HeadSizes
    depth: int


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert("do_stable_layer_norm", "feat_extract_norm")  # of wav2vec 2.0, in published files; nobody reads it
    stem = Stem.read(r, norm="layer")
    return Config(
        waves=Waves.read(r, stem=stem, stable=False, positions="conv_pos_kernel_size", kernel=19),
        sizes=HeadSizes.read(r),
        depth=r.layers("num_conv_pos_embeddings", 5),
    )


def build(c: Config) -> WaveEncoder:
    """The encoder."""
    waves = c.waves
    convs = (
        SoundConv1d(waves.dim, waves.dim, waves.kernel, padding=waves.kernel // 2, groups=waves.groups)
        for _ in range(c.depth)
    )
    return waves.build(waves.stack(DeepPositions([PlaceLayer(conv=conv, act=waves.stem.act) for conv in convs])))


def begins(config: ModelConfig, path: str) -> Beginning | None:
    """Convolutions that tell places begin without biases."""
    return nn.init.zeros_ if "pos_conv_embed" in path and path.endswith("bias") else None


HEADS = WaveHeads[Config](build, lambda c: c.waves, lambda c: c.sizes)

FAMILY = (
    Builder("data2vec-audio", read, WAVE_KEYS, prefix="data2vec_audio")
    .public(
        config="Data2VecAudioConfig",
        tokenizer="Wav2Vec2CTCTokenizer",
        feature_extractor="Wav2Vec2FeatureExtractor",
        processor="Wav2Vec2Processor",
        row="speech to letters, audio classification, voices",
    )
    .begins(begins)
    .base("Data2VecAudioModel", build)
    .head("Data2VecAudioForCTC", "ctc", HEADS.ctc)
    .head("Data2VecAudioForSequenceClassification", "audio-classification", HEADS.classifier, MIXED)
    .head("Data2VecAudioForAudioFrameClassification", "audio-frame-classification", HEADS.frame_classifier, MIXED)
    .head("Data2VecAudioForXVector", "audio-xvector", HEADS.voice_teller, MIXED)
    .done()
)
