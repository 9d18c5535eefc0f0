"""Pictures in classes: a folder of folders, or a column of pictures and one of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from omniform.train.scores import classes
from omniform.train.tasks.base import RAW, Loaded, Parts, labels_config, model_of, names_of, no_options, processor_of

if TYPE_CHECKING:
    from omniform.inputs.images import ImageProcessor
    from omniform.train.recipe import Recipe


class ImageClassification:
    name = "image-classification"
    columns: ClassVar = {"image": ("image", "img", "picture"), "label": ("label", "labels", "fine_label", "class")}
    optional: ClassVar[frozenset[str]] = frozenset()

    def parts(self, recipe: Recipe, data: Loaded) -> Parts:
        from omniform.train.collators import DataCollatorForMultimodal, ImageClasses

        no_options(recipe)
        processor = cast("ImageProcessor", processor_of(recipe, "AutoImageProcessor"))
        names = names_of(data.train, "label")
        labels = labels_config(names)
        return Parts(
            model=model_of(recipe, "AutoModelForImageClassification", **labels),
            processing_class=processor,
            train=data.train,
            eval=data.eval,
            collate=DataCollatorForMultimodal(
                processor, ImageClasses(label2id={name: i for i, name in enumerate(names)})
            ),
            compute_metrics=classes,
            arguments=RAW,
        )


TASK = ImageClassification()
