"""What the pipelines that understand texts share: their tokenizer, and how texts are padded for a batch."""

from __future__ import annotations

from dataclasses import replace

from omniform.architectures.heads import SequenceClassifier
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.pipelines.base import Pipeline
from omniform.pipelines.batching import Padding
from omniform.pipelines.given import needed


class Understanding(Pipeline):
    """A pipeline that reads texts and writes none."""

    _load_tokenizer = True
    _load_processor = _load_image_processor = _load_feature_extractor = False

    @property
    def reader(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            InputError: there is none.
        """
        return needed(self.tokenizer)

    def of_rows(self) -> dict[str, bool]:
        """What to ask of a model that tells rows from their first tokens: to compute no others in its last layer."""
        return {"first_only": True} if isinstance(self.model, SequenceClassifier) and self.model.reads_first else {}

    def padding(self) -> Padding:
        """Behind a text, whatever side the tokenizer pads for generating: nobody's positions are moved, so that a text
        in a batch is answered as it is alone. The token is the one that the model's config calls padding: by it some
        models count their positions, and find a row's last token."""
        padding, told = super().padding(), self.model.config.common.pad_token_id
        return replace(padding, side="right", token=padding.token if told is None or told < 0 else told)
