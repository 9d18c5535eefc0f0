"""The image processors by the names that the ecosystem imports them by.

They are made when they are asked for, one per kind: ``ViTImageProcessor(size=...)`` is the kind with some options
changed. ``ViTImageProcessorFast`` and ``ViTFeatureExtractor`` are the same class; ``ViTImageProcessorPil`` is another,
whose pixels are those of the reference's slow class.
"""

from __future__ import annotations

import os
from dataclasses import fields
from typing import ClassVar, Self, cast

from omniform.core.errors import check_arguments
from omniform.core.upstairs import upstairs
from omniform.inputs.images.base import BaseImageProcessor
from omniform.inputs.images.kinds import FORMER, image_processor, kind_named, read_options
from omniform.inputs.images.options import ImageOptions
from omniform.inputs.images.processor import ImageProcessor

_made: dict[str, type[ImageProcessor]] = {}


def any_class_named(name: str) -> type[BaseImageProcessor] | None:
    """As :func:`class_named`, of classes without a kind too."""
    if name == "TimmWrapperImageProcessor":
        from omniform.inputs.images.timm_wrapper import TimmWrapperImageProcessor

        return TimmWrapperImageProcessor
    return class_named(name)


def class_named(name: str) -> type[ImageProcessor] | None:
    """The class of a name (``ViTImageProcessor``, ``ViTFeatureExtractor``, with ``Fast`` or without); None for none."""
    kind = kind_named(name)
    if kind is None:
        return None
    if kind.name not in _made:
        # Pickles name the class by this module, whose attribute it is.
        space: dict[str, object] = {
            "__module__": __name__,
            "__doc__": f"An image processor of the kind {kind.name}.",
            "type_name": kind.name,
            "defaults": kind.defaults,
        }
        _made[kind.name] = type(kind.name, (_Named, kind.processor), space)
    return _made[kind.name]


class _Named(ImageProcessor):
    """An image processor whose class says its kind.

    Args:
        options: those of :class:`~omniform.inputs.images.options.ImageOptions` that differ from the kind's defaults.

    Raises:
        ConfigError: an option has a wrong value.
        UnknownArgumentError: there is no such option; the nearest is named.
    """

    type_name: ClassVar[str]
    defaults: ClassVar[ImageOptions]

    def __init__(self, **options: object) -> None:
        name = self.type_name
        check_arguments(name, options, [*(field.name for field in fields(self.defaults)), *self.beside, *FORMER])
        super().__init__(*read_options({**options, "image_processor_type": name}, where=name))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: object) -> Self:
        """Load from a folder or a Hub id, as ``AutoImageProcessor`` does; this is the kind, whatever the file says."""
        found = upstairs("hub.auto_inputs:load_image_processor")(pretrained_model_name_or_path, **kwargs)
        assert isinstance(found, ImageProcessor)
        if not isinstance(found, cls):
            found = image_processor({**found.to_dict(), "image_processor_type": cls.type_name}, where=cls.type_name)
        return cast(Self, found)


def __getattr__(name: str) -> type[ImageProcessor]:
    found = class_named(name)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found
