"""Where things are in a picture, and what they are: boxes as COCO has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from omniform.train.tasks.base import (
    RAW,
    Loaded,
    Parts,
    class_names,
    labels_config,
    model_of,
    numbered,
    options_of,
    processor_of,
)

if TYPE_CHECKING:
    import datasets

    from omniform.inputs.images.detr import DetectingImageProcessor
    from omniform.train.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The task's own.

    Attributes:
        names: of the classes, in the order of their numbers, where the data do not tell them.
        masks: learn the pixels of things too (DETR for segmentation); annotations hold outlines then.
    """

    names: list[str] | None = None
    masks: bool = False


class ObjectDetection:
    name = "object-detection"
    columns: ClassVar = {
        "image": ("image", "img", "picture"),
        "objects": ("objects", "annotations"),
        "image_id": ("image_id",),
    }
    optional = frozenset({"image_id"})

    def parts(self, recipe: Recipe, data: Loaded) -> Parts:
        from omniform.train.collators import DataCollatorForMultimodal, ImageObjects

        options = options_of(recipe, Options)
        processor = cast("DetectingImageProcessor", processor_of(recipe, "AutoImageProcessor"))
        names = options.names or class_names(_kinds(data.train))
        auto = "AutoModelForImageSegmentation" if options.masks else "AutoModelForObjectDetection"
        train, held_out = (None if part is None else _numbered(part, names) for part in (data.train, data.eval))
        assert train is not None
        return Parts(
            model=model_of(recipe, auto, **labels_config(names)),
            processing_class=processor,
            train=train,
            eval=held_out,
            collate=DataCollatorForMultimodal(processor, ImageObjects(masks=options.masks or None)),
            arguments={**RAW, "prediction_loss_only": True},
        )


def _kinds(dataset: datasets.Dataset) -> Iterator[object]:
    """The class of every object."""
    for objects in dataset["objects"]:
        if isinstance(objects, Mapping):
            yield from objects.get("category", objects.get("category_id", ()))
        else:
            yield from (one["category_id"] for one in objects)


def _numbered(dataset: datasets.Dataset, names: Sequence[str]) -> datasets.Dataset:
    """Objects whose classes are numbers, where they were names."""
    if not any(isinstance(kind, str) for kind in _kinds(dataset)):
        return dataset

    def change(row: dict[str, object]) -> dict[str, object]:
        objects = row["objects"]
        if isinstance(objects, Mapping):
            key = "category" if "category" in objects else "category_id"
            return {"objects": {**objects, key: numbered(objects[key], names)}}
        listed = cast("list[dict[str, object]]", objects)
        kinds = numbered([one["category_id"] for one in listed], names)
        return {"objects": [{**one, "category_id": kind} for one, kind in zip(listed, kinds, strict=True)]}

    return dataset.map(change)


TASK = ObjectDetection()
