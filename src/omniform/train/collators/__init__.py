"""Collators: what makes a batch of examples, one file for each kind."""

from omniform.train.collators.chats import ChatAnswers
from omniform.train.collators.choices import DataCollatorForMultipleChoice
from omniform.train.collators.default import (
    DefaultDataCollator,
    default_data_collator,
    numpy_default_data_collator,
    torch_default_data_collator,
)
from omniform.train.collators.flattening import DataCollatorWithFlattening
from omniform.train.collators.language import DataCollatorForLanguageModeling, DataCollatorForWholeWordMask
from omniform.train.collators.media import ImageClasses, ImageObjects, ImageTextPairs, Transcripts
from omniform.train.collators.mixin import DataCollator, DataCollatorMixin, InputDataClass, to_numpy
from omniform.train.collators.multimodal import DataCollatorForMultimodal, Task
from omniform.train.collators.padding import DataCollatorWithPadding, pad_without_fast_tokenizer_warning
from omniform.train.collators.permutation import DataCollatorForPermutationLanguageModeling
from omniform.train.collators.seq2seq import DataCollatorForSeq2Seq
from omniform.train.collators.tokens import DataCollatorForTokenClassification

__all__ = [
    "ChatAnswers",
    "DataCollator",
    "DataCollatorForLanguageModeling",
    "DataCollatorForMultimodal",
    "DataCollatorForMultipleChoice",
    "DataCollatorForPermutationLanguageModeling",
    "DataCollatorForSeq2Seq",
    "DataCollatorForTokenClassification",
    "DataCollatorForWholeWordMask",
    "DataCollatorMixin",
    "DataCollatorWithFlattening",
    "DataCollatorWithPadding",
    "DefaultDataCollator",
    "ImageClasses",
    "ImageObjects",
    "ImageTextPairs",
    "InputDataClass",
    "Task",
    "Transcripts",
    "default_data_collator",
    "numpy_default_data_collator",
    "pad_without_fast_tokenizer_warning",
    "to_numpy",
    "torch_default_data_collator",
]
