"""Raw examples (conversations, pictures, sounds, texts) to batches with labels, by a processor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from omniform.core.errors import InputError
from omniform.inputs.images import ImageProcessor
from omniform.inputs.processors import CLIPProcessor, Processor
from omniform.inputs.processors.speech import SpeechProcessor
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.train.collators.faults import column
from omniform.train.collators.mixin import Example, Kind, read_examples, read_kind

Reads = Processor | Tokenizer | ImageProcessor
"""What reads examples."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """How texts are padded and cut.

    Attributes:
        max_length: texts are cut to so many tokens; None for the tokenizer's own limit.
        pad_to_multiple_of: pad to a multiple of it.
        fixed: pad to ``max_length`` rather than to the longest of the batch.
    """

    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    fixed: bool = False

    def options(self) -> dict[str, object]:
        """The options of a tokenizer's call."""
        made: dict[str, object] = {"padding": "max_length" if self.fixed else True}
        if self.max_length is not None:
            made |= {"truncation": True, "max_length": self.max_length}
        if self.pad_to_multiple_of is not None:
            made["pad_to_multiple_of"] = self.pad_to_multiple_of
        return made


class Task(ABC):
    """What examples hold, and what of them is to be learned. A subclass of the user's own does as well."""

    @abstractmethod
    def batch(self, processor: Reads, examples: Sequence[Example], lengths: Lengths, kind: Kind) -> dict[str, object]:
        """The model's inputs and labels.

        Raises:
            InputError: an example lacks a column, or holds what cannot be read.
        """


def read_column(name: str, examples: Sequence[Example]) -> list[object]:
    """The values of a column that every example has.

    Raises:
        InputError: one of them has it not.
    """
    if name not in examples[0]:
        raise InputError(
            f"the examples have no {name!r}",
            where="example 0 of the batch",
            found=f"columns {sorted(examples[0])}",
            remedy="Name the columns of your dataset when you make the task; and set remove_unused_columns=False, or "
            "the Trainer takes out what is no input of the model.",
        )
    return column(name, examples)


def usual_task(processor: Reads) -> Task:
    """What is learned with a processor where nobody says: answers, pairs, transcripts, classes of pictures."""
    from omniform.train.collators.chats import ChatAnswers
    from omniform.train.collators.media import ImageClasses, ImageTextPairs, Transcripts

    usual: Final[tuple[tuple[type, Callable[[], Task]], ...]] = (
        (CLIPProcessor, ImageTextPairs),
        (SpeechProcessor, Transcripts),
        (ImageProcessor, ImageClasses),
        (Processor, ChatAnswers),
        (Tokenizer, ChatAnswers),
    )
    for kind, make in usual:
        if isinstance(processor, kind):
            return make()
    raise InputError(
        "it is not known what is to be learned with this processor",
        where="processor",
        found=type(processor).__name__,
        remedy="Pass task=, an object of a class derived from omniform.train.collators.multimodal.Task.",
    )


@dataclass
class DataCollatorForMultimodal:
    """Makes batches of raw examples with a processor: pads, and labels what is to be learned.

    The dataset keeps its pictures, sounds and messages, which are processed batch by batch, in the loader's workers
    where there are any. Set ``remove_unused_columns=False``.

    Args:
        processor: a processor, an image processor, or a tokenizer (for conversations of texts).
        task: what examples hold and what is learned of them: :class:`ChatAnswers`, :class:`ImageTextPairs`,
            :class:`Transcripts`, :class:`ImageClasses`, :class:`ImageObjects`, or one of the user's own; by default
            what the processor is for.
        max_length: texts are cut to so many tokens.
        pad_to_multiple_of: pad to a multiple of it.
        padding: True (the longest of the batch) or ``"max_length"``.
        return_tensors: ``"pt"`` or ``"np"``.
    """

    processor: Reads
    task: Task | None = None
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    padding: bool | str = True
    return_tensors: str = "pt"
    _task: Task = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.padding not in (True, "longest", "max_length"):
            raise InputError(
                "a batch is padded", where="padding", expected="True or 'max_length'", found=repr(self.padding)
            )
        self._task = usual_task(self.processor) if self.task is None else self.task

    def __call__(self, features: Sequence[object], return_tensors: str | None = None) -> dict[str, object]:
        """A batch of examples.

        Raises:
            InputError: there are none, or one cannot be read.
        """
        kind = read_kind(self.return_tensors if return_tensors is None else return_tensors)
        examples: Sequence[Mapping[str, object]] = read_examples(features)
        lengths = Lengths(self.max_length, self.pad_to_multiple_of, self.padding == "max_length")
        return self._task.batch(self.processor, examples, lengths, kind)
