"""The processor of timm's models: timm's own transforms, as a checkpoint's ``pretrained_cfg`` describes them."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import ClassVar, cast

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import ConfigError, DependencyError, InputError, brief
from omniform.inputs.images.base import BaseImageProcessor
from omniform.inputs.images.load import load_image
from omniform.inputs.images.processor import ImageInput, flattened
from omniform.inputs.media_access import MediaAccess

logger = logging.getLogger("omniform")

Transform = Callable[[object], Tensor]


class TimmWrapperImageProcessor(BaseImageProcessor):
    """Turns pictures into what a model of timm's reads. Needs timm and torchvision.

    Args:
        pretrained_cfg: the checkpoint's; sizes, statistics, the share of a crop.
        architecture: the model's name in timm.
        others: what else the file holds, kept as attributes.

    Raises:
        DependencyError: timm cannot be imported.
        ConfigError: timm makes no transforms of it.
    """

    model_input_names: ClassVar[Sequence[str]] = ("pixel_values",)
    main_input_name: ClassVar[str] = "pixel_values"
    left_out: ClassVar[frozenset[str]] = frozenset({"val_transforms", "train_transforms", "pretrained_cfg"})

    def __init__(self, pretrained_cfg: Mapping[str, object], architecture: str | None = None, **others: object) -> None:
        super().__init__(architecture=architecture, **others)
        if not isinstance(pretrained_cfg, Mapping):
            raise ConfigError("no settings of timm's", where="pretrained_cfg", found=brief(pretrained_cfg))
        self.pretrained_cfg = dict(pretrained_cfg)
        try:
            resolved = _timm().resolve_data_config(self.pretrained_cfg, model=None, verbose=False)
        except (TypeError, ValueError, KeyError, AttributeError, AssertionError) as error:
            raise ConfigError("timm cannot read its settings", where="pretrained_cfg", found=str(error)) from error
        self.data_config: dict[str, object] = resolved

    @cached_property
    def val_transforms(self) -> Transform:
        """What is done with pictures that are looked at."""
        return cast(Transform, _timm().create_transform(**self.data_config, is_training=False))

    @cached_property
    def train_transforms(self) -> Transform:
        """What is done with pictures that are learned from."""
        return cast(Transform, _timm().create_transform(**self.data_config, is_training=True))

    def preprocess(  # type: ignore[override]
        self, images: ImageInput, return_tensors: str | None = "pt", *, media_access: MediaAccess | None = None
    ) -> Batch:
        """Preprocess pictures.

        Args:
            images: one picture or several, whatever :func:`~omniform.inputs.images.load.load_image` reads.
            return_tensors: ``"pt"``.
            media_access: which files and addresses may be read, and how many pixels.

        Returns:
            ``pixel_values [N, C, H, W]``.

        Raises:
            InputError: another kind of tensors is asked for, or a picture is unusable.
            RepoError: a picture's file or address cannot be read.
        """
        if return_tensors != "pt":
            raise InputError("timm makes tensors", where="return_tensors", expected="'pt'", found=brief(return_tensors))
        flat = flattened(images)
        if not flat:
            raise InputError("there is no picture", where="images", expected="at least one")
        pixels = [self.val_transforms(load_image(image, media_access=media_access)) for image in flat]
        return Batch({"pixel_values": torch.stack(pixels)})

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **hub: object) -> None:
        """Nothing is written: the model's ``config.json`` holds these settings."""
        logger.warning("a processor of timm's is saved in the config.json of its model, not in a file of its own")


class _Timm:
    """``timm.data``."""

    resolve_data_config: Callable[..., dict[str, object]]
    create_transform: Callable[..., object]


def _timm() -> _Timm:
    try:
        return cast(_Timm, importlib.import_module("timm.data"))
    except (ImportError, RuntimeError) as error:  # torchvision of another torch fails with the latter
        raise DependencyError(
            "timm's pictures need timm and torchvision", where="TimmWrapperImageProcessor", remedy="pip install timm"
        ) from error
