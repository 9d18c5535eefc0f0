"""The usual heads of models that read waves, by config: what each family names and none builds anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import nn

from omniform.architectures.audio import LayerMix
from omniform.architectures.speech_heads import (
    CTC,
    CTCLoss,
    FrameClassifier,
    MarginSoftmax,
    VoiceSizes,
    VoiceTeller,
    WaveClassifier,
)
from omniform.architectures.waves import SoundEncoder
from omniform.core.config import Common
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSizes:
    """What the heads need of a config."""

    vocab_size: int | None
    dropout: float
    ctc: CTCLoss
    mixes: bool
    classifier: int
    voice: VoiceSizes | None

    @classmethod
    def read(
        cls,
        r: ConfigReader,
        *,
        reduction: str = "sum",
        voices: bool = True,
        letters: int | None = 32,
        classifier: int = 256,
    ) -> HeadSizes:
        """The fields under their usual names.

        Args:
            reduction: of the loss of letters, by default.
            voices: whether the family tells voices apart.
            letters: how many there are by default; None where a config that does not say has no such head.
            classifier: width that is told apart, by default.
        """
        return cls(
            vocab_size=r.maybe_integer("vocab_size", letters),
            dropout=r.probability("final_dropout", 0.1),
            ctc=CTCLoss.read(r, reduction),
            mixes=r.flag("use_weighted_layer_sum", False),
            classifier=r.integer("classifier_proj_size", classifier),
            voice=VoiceSizes.read(r) if voices else None,
        )


class Sized(Protocol):
    """What the heads need of an encoder's config.

    Attributes:
        dim: width of the layers.
        width: of what comes out.
        layers: how many there are.
        adapting: what makes fewer frames behind the layers; None for nothing.
    """

    @property
    def dim(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def layers(self) -> int: ...

    @property
    def adapting(self) -> object | None: ...


def check_width(dim: int, width: int) -> None:
    """Look whether a head that reads what is as wide as the layers can read what comes out.

    Raises:
        ConfigError: an adapter makes it of another width.
    """
    if dim != width:
        raise ConfigError(
            "this head reads what is as wide as the layers",
            where="config.json: output_hidden_size",
            expected=f"{dim}, as hidden_size",
            found=width,
        )


C = TypeVar("C")

MIXED = {"layer_mix.weights": "layer_weights"}
"""Where the heads that read all layers keep their shares."""


class WaveHeads(Generic[C]):
    """The heads that stand on any encoder of waves, each a builder for :meth:`Builder.head`.

    Args:
        build: makes the encoder.
        waves: the encoder's part of a config.
        sizes: the heads' part.
    """

    def __init__(
        self, build: Callable[[C], SoundEncoder], waves: Callable[[C], Sized], sizes: Callable[[C], HeadSizes]
    ) -> None:
        self._build = build
        self._waves = waves
        self._sizes = sizes

    def ctc(self, c: C, _: Common) -> CTC:
        """Letters by frames."""
        sizes = self._sizes(c)
        if sizes.vocab_size is None:
            raise ConfigError(
                "nobody says how many letters there are",
                where="config.json: vocab_size",
                expected="a number",
                found="null",
                remedy="Load with vocab_size=...",
            )
        head = nn.Linear(self._waves(c).width, sizes.vocab_size)
        return CTC(model=self._build(c), lm_head=head, ctc=sizes.ctc, dropout=sizes.dropout)

    def classifier(self, c: C, common: Common) -> WaveClassifier:
        """One class per sound."""
        self._refuse_adapter(c, "classes of sounds")
        width = self._sizes(c).classifier
        return WaveClassifier(
            model=self._build(c),
            layer_mix=self._mix(c),
            projector=nn.Linear(self._waves(c).dim, width),
            classifier=nn.Linear(width, common.num_labels),
        )

    def frame_classifier(self, c: C, common: Common) -> FrameClassifier:
        """Classes of every frame."""
        self._refuse_adapter(c, "classes of frames")
        classifier = nn.Linear(self._waves(c).dim, common.num_labels)
        return FrameClassifier(model=self._build(c), layer_mix=self._mix(c), classifier=classifier)

    def voice_teller(self, c: C, common: Common) -> VoiceTeller:
        """Vectors of voices."""
        voice, waves = self._sizes(c).voice, self._waves(c)
        assert voice is not None, "the family says that it tells voices apart"
        if not self._sizes(c).mixes:
            check_width(waves.dim, waves.width)
        return VoiceTeller(
            model=self._build(c),
            layer_mix=self._mix(c),
            projector=nn.Linear(self._waves(c).dim, voice.widths[0]),
            tdnn=voice.convolutions(),
            feature_extractor=nn.Linear(2 * voice.widths[-1], voice.vector),
            classifier=nn.Linear(voice.vector, voice.vector),
            objective=MarginSoftmax(voice.vector, common.num_labels),
        )

    def _mix(self, c: C) -> LayerMix | None:
        return LayerMix(self._waves(c).layers + 1) if self._sizes(c).mixes else None

    def _refuse_adapter(self, c: C, what: str) -> None:
        if self._waves(c).adapting is not None:
            raise ConfigError(
                f"there are no {what} behind an adapter", where="config.json: add_adapter", expected="false", found=True
            )
