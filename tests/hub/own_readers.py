"""Readers of a user's own, written once: derived from the bases of whichever library is handed in."""

# ruff: noqa: RUF012
from __future__ import annotations

from types import SimpleNamespace

import numpy as np


def readers(lib) -> SimpleNamespace:
    """An image processor, a feature extractor and processors as a user of the ecosystem writes them."""
    BatchFeature = lib.BatchFeature
    base = lib.image_processing_utils.BaseImageProcessor if lib.__name__ == "transformers" else lib.BaseImageProcessor

    class Config(lib.PretrainedConfig):
        model_type = "own-read"

        def __init__(self, width=4, **kwargs):
            self.width = width
            super().__init__(**kwargs)

    class Pictures(base):
        model_input_names = ["pixel_values"]

        def __init__(self, size=None, factor=1 / 255, mean=(0.5, 0.4, 0.3), names=None, **kwargs):
            super().__init__(**kwargs)
            self.size = {"height": 4, "width": 6} if size is None else size
            self.factor, self.mean, self.names = factor, list(mean), names

        def preprocess(self, images, factor=None, return_tensors=None, **kwargs):
            images = images if isinstance(images, list) else [images]
            images = [one for row in images for one in (row if isinstance(row, list) else [row])]
            factor = self.factor if factor is None else factor
            made = []
            for image in images:
                array = self.center_crop(np.asarray(image), self.size, input_data_format="channels_last")
                array = self.rescale(array, factor, input_data_format="channels_last")
                array = self.normalize(array, self.mean, 0.5, input_data_format="channels_last")
                made.append(array.transpose(2, 0, 1))
            return BatchFeature(data={"pixel_values": made}, tensor_type=return_tensors)

    class Sounds(lib.SequenceFeatureExtractor):
        model_input_names = ["input_values", "attention_mask"]

        def __init__(self, feature_size=1, sampling_rate=8000, padding_value=0.0, gain=2.0, **kwargs):
            super().__init__(feature_size, sampling_rate, padding_value, **kwargs)
            self.gain = gain
            self.window = np.hanning(4)

        def __call__(self, raw_speech, sampling_rate=None, padding=True, return_tensors=None, **kwargs):
            waves = raw_speech if isinstance(raw_speech, list) else [raw_speech]
            made = [np.asarray(wave, dtype=np.float32) * self.gain for wave in waves]
            return self.pad(BatchFeature({"input_values": made}), padding=padding, return_tensors=return_tensors)

    class Both(lib.ProcessorMixin):
        def __init__(self, image_processor=None, tokenizer=None, mark="<image>", chat_template=None, **kwargs):
            super().__init__(image_processor, tokenizer, chat_template=chat_template)
            self.mark = mark

        def __call__(self, images=None, text=None, **kwargs):
            kind = kwargs.pop("return_tensors", None)
            made = dict(self.tokenizer([one.replace(self.mark, "the") for one in text], padding=True))
            if images is not None:
                made.update(self.image_processor(images, **kwargs))
            return BatchFeature(made, tensor_type=kind)

    class Heard(lib.ProcessorMixin):
        attributes = ["feature_extractor", "tokenizer"]
        feature_extractor_class = "Sounds"
        tokenizer_class = "AutoTokenizer"

        def __init__(self, feature_extractor, tokenizer):
            super().__init__(feature_extractor, tokenizer)

    return SimpleNamespace(**{name: value for name, value in locals().items() if isinstance(value, type)})
