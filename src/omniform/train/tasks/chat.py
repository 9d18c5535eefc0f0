"""Conversations, with pictures or without: the assistant's words are learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from omniform.train.tasks.base import RAW, Loaded, Parts, model_of, options_of, processor_of

if TYPE_CHECKING:
    from omniform.inputs.processors import Processor
    from omniform.train.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The task's own.

    Attributes:
        max_length: tokens that are read of a conversation at most; None for what the tokenizer says.
        all_text: learn all that is written, not the assistant's words alone.
    """

    max_length: int | None = None
    all_text: bool = False


class Chat:
    name = "chat"
    columns: ClassVar = {"messages": ("messages", "conversations"), "images": ("images", "image")}
    optional = frozenset({"images"})

    def parts(self, recipe: Recipe, data: Loaded) -> Parts:
        from omniform.train.collators import ChatAnswers, DataCollatorForMultimodal

        options = options_of(recipe, Options)
        pictures = "images" in data.columns
        processor = cast("Processor", processor_of(recipe, "AutoProcessor" if pictures else "AutoTokenizer"))
        return Parts(
            model=model_of(recipe, "AutoModelForImageTextToText" if pictures else "AutoModelForCausalLM"),
            processing_class=processor,
            train=data.train,
            eval=data.eval,
            collate=DataCollatorForMultimodal(
                processor, ChatAnswers(all_text=options.all_text), max_length=options.max_length
            ),
            arguments={**RAW, "prediction_loss_only": True},
        )


TASK = Chat()
