"""The Auto classes for quantizers, and the settings that a load is to follow."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from omniform.core.config import ModelConfig
from omniform.core.errors import ConfigError, brief
from omniform.hub.checkpoint import load_config
from omniform.transforms.quantize.config import QuantizationConfigMixin, settings_from
from omniform.transforms.quantize.quantizer import HfQuantizer, quantizer_for

log = logging.getLogger("omniform")


class AutoQuantizationConfig:
    """Reads the settings of a quantized checkpoint."""

    @classmethod
    def from_dict(cls, quantization_config_dict: Mapping[str, object]) -> QuantizationConfigMixin:
        """The settings that a mapping holds, by its ``quant_method``.

        Raises:
            ConfigError: it names none, or one that is not registered.
        """
        return settings_from(quantization_config_dict)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: object
    ) -> QuantizationConfigMixin:
        """The settings of a checkpoint.

        Args:
            kwargs: where to look (see :meth:`omniform.AutoConfig.from_pretrained`).

        Raises:
            ConfigError: it is not quantized, or by a method that is not registered.
        """
        config = load_config(ModelConfig, pretrained_model_name_or_path, **kwargs)
        settings = config.raw.get("quantization_config")
        if not isinstance(settings, Mapping):
            raise ConfigError("this checkpoint is not quantized", where=os.fspath(pretrained_model_name_or_path),
                              expected="quantization_config", found=brief(settings))  # fmt: skip
        return settings_from(settings)


class AutoHfQuantizer:
    """Makes the quantizer that settings are for."""

    @classmethod
    def from_config(
        cls, quantization_config: QuantizationConfigMixin | Mapping[str, object], **kwargs: object
    ) -> HfQuantizer:
        """The quantizer of settings.

        Args:
            kwargs: ``pre_quantized``, whether the checkpoint is quantized already (True).

        Raises:
            ConfigError: nobody registered one for the method.
        """
        if not isinstance(quantization_config, QuantizationConfigMixin):
            quantization_config = settings_from(quantization_config)
        return quantizer_for(quantization_config, pre_quantized=kwargs.get("pre_quantized", True) is True)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: object) -> HfQuantizer:
        """The quantizer of a checkpoint; see :meth:`AutoQuantizationConfig.from_pretrained`."""
        return cls.from_config(AutoQuantizationConfig.from_pretrained(pretrained_model_name_or_path, **kwargs))
