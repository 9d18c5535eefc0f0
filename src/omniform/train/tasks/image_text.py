"""Which text belongs to which picture (CLIP)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from omniform.train.tasks.base import RAW, Loaded, Parts, model_of, no_options, processor_of

if TYPE_CHECKING:
    from omniform.inputs.processors import CLIPProcessor
    from omniform.train.recipe import Recipe


class ImageText:
    name = "image-text"
    columns: ClassVar = {"image": ("image", "img", "picture"), "text": ("text", "caption", "captions", "sentence")}
    optional: ClassVar[frozenset[str]] = frozenset()

    def parts(self, recipe: Recipe, data: Loaded) -> Parts:
        from omniform.train.collators import DataCollatorForMultimodal, ImageTextPairs

        no_options(recipe)
        processor = cast("CLIPProcessor", processor_of(recipe, "AutoProcessor"))
        return Parts(
            model=model_of(recipe, "AutoModel"),
            processing_class=processor,
            train=data.train,
            eval=data.eval,
            collate=DataCollatorForMultimodal(processor, ImageTextPairs()),
            # Every batch compares its own pairs, so that the scores of two batches are not of one kind.
            arguments={**RAW, "prediction_loss_only": True},
        )


TASK = ImageText()
