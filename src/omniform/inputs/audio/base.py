"""Bases of feature extractors of the user's own, under the ecosystem's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from omniform.core.auto_class import AutoNamed
from omniform.core.batch import Batch
from omniform.core.pushing import PushToHub
from omniform.inputs.audio.collate import collate
from omniform.inputs.audio.pad import Padding, Side, padding_rule
from omniform.inputs.checks import check_flag, check_length
from omniform.inputs.kept import Kept


class FeatureExtractionMixin(Kept, AutoNamed, PushToHub):
    """What turns raw inputs into features: its attributes are its settings (:class:`~omniform.inputs.kept.Kept`).

    ``feature_extractor_type`` in the file is the class's name; ``mel_filters`` and ``window`` follow from other
    settings and are not saved.
    """

    _usual_auto_class: ClassVar[str] = "AutoFeatureExtractor"
    kept_as = "feature_extractor"
    type_key = "feature_extractor_type"
    left_out = frozenset({"mel_filters", "window"})
    model_input_names: ClassVar[Sequence[str]] = ()


class SequenceFeatureExtractor(FeatureExtractionMixin):
    """A feature extractor of the user's own for inputs that have a length.

    Args:
        feature_size: features per time step.
        sampling_rate: samples per second that waves must have.
        padding_value: what padding holds.
        settings: ``padding_side``, ``return_attention_mask``, and whatever else is to be kept.
    """

    feature_size: int
    sampling_rate: int
    padding_value: float
    padding_side: Side
    return_attention_mask: bool

    def __init__(self, feature_size: int, sampling_rate: int, padding_value: float, **settings: object) -> None:
        self.feature_size, self.sampling_rate, self.padding_value = feature_size, sampling_rate, padding_value
        super().__init__(**{"padding_side": "right", "return_attention_mask": True, **settings})

    def pad(
        self,
        processed_features: Mapping[str, object] | Sequence[Mapping[str, object]],
        padding: Padding = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> Batch:
        """Bring examples whose features were computed before to one length, as a data loader's collate function does.

        Args:
            processed_features: a mapping of names to one value for each example, or a list of mappings, one for each.
                The first of ``model_input_names`` is cut and padded along its first dimension, which is time, and
                ``attention_mask`` with it; other entries are stacked as they are. Shape of an example: ``[time]``, or
                ``[time, feature_size]``.
            padding: to the ``"longest"`` (True), to ``"max_length"``, or ``"do_not_pad"`` (False).
            max_length: time steps to pad to, and with ``truncation`` to cut to.
            truncation: cut what is longer than ``max_length``.
            pad_to_multiple_of: round every target length up to a multiple of this.
            return_attention_mask: add the mask of given time steps, int32; left out, the config decides.
            return_tensors: ``"pt"`` or ``"np"``; left out, tensors give tensors and all else arrays.

        Returns:
            The entries as ``[batch, ...]``; float64 becomes float32.

        Raises:
            InputError: no features, a length that is missing, or examples that do not fit together.
        """
        check_flag("truncation", truncation)
        check_flag("return_attention_mask", return_attention_mask)
        return collate(
            processed_features,
            name=self.model_input_names[0],
            rule=padding_rule(padding),
            max_length=check_length("max_length", max_length),
            truncate=bool(truncation),
            multiple=check_length("pad_to_multiple_of", pad_to_multiple_of),
            mask=self.return_attention_mask if return_attention_mask is None else bool(return_attention_mask),
            value=self.padding_value,
            side=self.padding_side,
            kind=return_tensors,
        )

    def fetch_audio(self, audio_url_or_urls: object, sampling_rate: int | None = None) -> object:
        """Sounds of addresses, paths or whatever :func:`~omniform.inputs.audio.load.load_audio` takes, as arrays.

        Args:
            audio_url_or_urls: one, or a list of them, which gives a list. Arrays and tensors stay as they are.
            sampling_rate: the rate wanted, in Hz; by default the extractor's.

        Raises:
            RepoError, InputError, DependencyError: as there.
        """
        from omniform.inputs.audio.audio_utils import is_valid_audio, load_audio

        if is_valid_audio(audio_url_or_urls):
            return audio_url_or_urls
        if isinstance(audio_url_or_urls, (list, tuple)):
            return [self.fetch_audio(one, sampling_rate) for one in audio_url_or_urls]
        return load_audio(audio_url_or_urls, self.sampling_rate if sampling_rate is None else sampling_rate)
