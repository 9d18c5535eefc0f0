"""Finding a watermark again: how many of a text's tokens are of the part that was made likelier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omniform.core.errors import InputError
from omniform.core.watermark import WatermarkingConfig, watermarking
from omniform.engine.processors.watermark import WatermarkLogitsProcessor

Numbers = NDArray[np.float64]


class _Config(Protocol):
    """What a detector reads of a model's config."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def is_encoder_decoder(self) -> bool: ...
    @property
    def decoder_start_token_id(self) -> int | None: ...


@dataclass
class WatermarkDetectorOutput:
    """What a detector found, one number for each text. Shape: [B] each.

    Attributes:
        num_tokens_scored: tokens that were looked at.
        num_green_tokens: those of the part that was made likelier.
        green_fraction: the one over the other.
        z_score: how many standard deviations that is above chance.
        p_value: how likely a text without a watermark scores as high.
        prediction: whether the score is above the threshold.
        confidence: ``1 - p_value``.
    """

    num_tokens_scored: Numbers | None = None
    num_green_tokens: Numbers | None = None
    green_fraction: Numbers | None = None
    z_score: Numbers | None = None
    p_value: Numbers | None = None
    prediction: NDArray[np.bool_] | None = None
    confidence: Numbers | None = None


class WatermarkDetector:
    """Tells whether texts have the watermark of :class:`WatermarkLogitsProcessor`.

    Args:
        model_config: of the model that wrote, or is thought to have written: tells its vocabulary and its first token.
        device: where the watermark was drawn, as draws differ between devices.
        watermarking_config: how it was made.
        ignore_repeated_ngrams: a run of tokens counts once, however often it occurs.
        max_cache_size: so many runs are remembered.
    """

    def __init__(
        self,
        model_config: _Config,
        device: str | torch.device,
        watermarking_config: WatermarkingConfig | Mapping[str, object],
        ignore_repeated_ngrams: bool = False,
        max_cache_size: int = 128,
    ) -> None:
        config = watermarking(watermarking_config)
        if not isinstance(config, WatermarkingConfig):
            raise InputError(
                "this detector knows another watermark",
                where="watermarking_config",
                expected="a WatermarkingConfig",
                found=type(config).__name__,
            )
        both = model_config.is_encoder_decoder
        self.bos_token_id = model_config.decoder_start_token_id if both else model_config.bos_token_id
        self.greenlist_ratio = config.greenlist_ratio
        self.ignore_repeated_ngrams = ignore_repeated_ngrams
        self.processor = WatermarkLogitsProcessor(
            model_config.vocab_size,
            device,
            config.greenlist_ratio,
            config.bias,
            config.hashing_key,
            config.seeding_scheme,
            config.context_width,
        )
        self._device = device
        self._is_green = lru_cache(maxsize=max_cache_size)(self._score)

    def __call__(
        self, input_ids: Tensor, z_threshold: float = 3.0, return_dict: bool = False
    ) -> WatermarkDetectorOutput | NDArray[np.bool_]:
        """Look for the watermark.

        Args:
            input_ids: the texts, without padding; they begin with the model's first token all or none. Shape: [B, T].
            z_threshold: how many standard deviations above chance are a watermark.
            return_dict: give back everything that was found, not the answers only.

        Raises:
            InputError: texts that are too short, or that begin differently.
        """
        first = -1 if self.bos_token_id is None else self.bos_token_id
        begins = input_ids[:, 0].eq(first)
        if bool(begins.any() != begins.all()):
            raise InputError(
                "some texts begin with the model's first token and some do not",
                where="input_ids",
                remedy="Encode all of them the same way.",
            )
        text = input_ids[:, 1:] if bool(begins[0]) else input_ids
        if text.shape[-1] <= self.processor.context_width:
            raise InputError(
                "the texts are too short",
                where="input_ids",
                expected=f"more than {self.processor.context_width} tokens",
                found=text.shape[-1],
            )
        scored, green = self._count(text)
        share = self.greenlist_ratio
        z = (green - share * scored) / np.sqrt(scored * share * (1 - share))
        prediction: NDArray[np.bool_] = z > z_threshold
        if not return_dict:
            return prediction
        p: Numbers = 0.5 * torch.special.erfc(torch.as_tensor(z / np.sqrt(2))).numpy()
        return WatermarkDetectorOutput(scored, green, green / scored, z, p, prediction, 1 - p)

    def _score(self, run: tuple[int, ...]) -> bool:
        itself = self.processor.seeding_scheme == "selfhash"
        before = torch.tensor(run if itself else run[:-1], device=self._device)
        return self.processor.is_green(before, run[-1])

    def _count(self, ids_BT: Tensor) -> tuple[Numbers, Numbers]:
        """How many tokens of each text were looked at, and how many are green. Shape: [B] each."""
        itself = self.processor.seeding_scheme == "selfhash"
        runs = ids_BT.unfold(1, self.processor.context_width + (not itself), 1).tolist()
        scored, green = np.zeros(len(runs)), np.zeros(len(runs))
        for row, theirs in enumerate(runs):
            counts = Counter(map(tuple, theirs))
            for run, times in counts.items():
                times = 1 if self.ignore_repeated_ngrams else times
                scored[row] += times
                green[row] += times * self._is_green(run)
        return scored, green
