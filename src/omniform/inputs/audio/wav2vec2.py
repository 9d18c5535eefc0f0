"""Waves as they are, normalised: what Wav2Vec2 and its kin take (Baevski et al., 2020, section 4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from omniform.core.batch import Batch
from omniform.core.errors import check_arguments
from omniform.core.reader import ConfigReader
from omniform.inputs.audio.extractor import FeatureExtractor, arrays_of, even
from omniform.inputs.audio.pad import Padding, unit_variance
from omniform.inputs.checks import check_flag

if TYPE_CHECKING:
    from omniform.inputs.audio.samples import Waves


class Wav2Vec2FeatureExtractor(FeatureExtractor):
    """Waves with zero mean and unit variance, each by itself.

    Attributes:
        do_normalize: whether they are normalised.
    """

    type_name: ClassVar[str] = "Wav2Vec2FeatureExtractor"
    model_input_names: ClassVar[tuple[str, ...]] = ("input_values", "attention_mask")
    feature_size_default: ClassVar[int] = 1
    mask_default: ClassVar[bool] = False

    def _read(self, r: ConfigReader) -> None:
        self.do_normalize = r.flag("do_normalize", True)
        r.inert("feature_dim")  # how the first release spelled feature_size

    def __call__(
        self,
        raw_speech: Waves,
        padding: Padding = False,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
        **unknown: object,
    ) -> Batch:
        """Turn one wave or several into a model's input.

        Args:
            raw_speech: mono samples: an array, a tensor or a list; or several: a list of those, or
                ``[batch, samples]``. Floats are nominally within -1..1; integers are scaled by their own full scale.
            padding: ``"longest"`` (True), ``"max_length"``, or ``"do_not_pad"`` (False).
            max_length: samples to cut and pad to.
            truncation: cut what is longer than ``max_length``.
            pad_to_multiple_of: round every target length, in samples, up to a multiple of this.
            return_attention_mask: return the mask of given samples; left out, the config decides.
            return_tensors: ``"pt"`` for torch tensors, ``"np"`` for numpy arrays; left out, a list of arrays where
                waves were normalised or differ in length, else an array.
            sampling_rate: rate of the waves in Hz, to be checked; without it the right rate is assumed.

        Returns:
            ``input_values``: ``[batch, samples]``, float32; ``attention_mask``: as much, int32.

        Raises:
            InputError: a wrong sampling rate, no sound, a wave that is not mono or not finite, or waves of different
                lengths that are to become one tensor and are not padded.
            UnknownArgumentError: an argument that does not exist.
        """
        check_arguments(self.type_name, unknown, _ARGUMENTS)
        self._check_rate(sampling_rate)
        check_flag("return_attention_mask", return_attention_mask)
        lengths = self._lengths(padding, max_length, truncation, pad_to_multiple_of)
        masked = self.return_attention_mask if return_attention_mask is None else return_attention_mask
        rows, masks = lengths.apply(arrays_of(raw_speech))
        if self.do_normalize:
            # Without a mask the model takes padding for silence, and so does the mean, as in the reference.
            counted = masked and lengths.rule != "do_not_pad"
            counts = [int(mask.sum()) if counted else None for mask in masks]
            rows = [unit_variance(row, count, self.padding_value) for row, count in zip(rows, counts, strict=True)]
        batch = Batch({"input_values": rows if self.do_normalize else even(rows)})
        if masked:
            batch["attention_mask"] = masks
        return batch.as_tensors(return_tensors)


_ARGUMENTS: Final = frozenset(Wav2Vec2FeatureExtractor.__call__.__annotations__) - {"unknown", "return"}
