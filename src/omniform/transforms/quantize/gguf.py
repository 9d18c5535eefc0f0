"""How a GGUF file is to be loaded, as the ecosystem says it."""

from __future__ import annotations

from collections.abc import Mapping

from omniform.core.errors import InputError
from omniform.transforms.quantize.config import QuantizationConfigMixin


class GgufConfig(QuantizationConfigMixin):
    """Settings of loading a GGUF file, for ``quantization_config`` of ``from_pretrained`` beside ``gguf_file``.

    Args:
        gguf_file: the file; filled in by loading.
        dequantize: whether matrices become plain weights, instead of staying in the file's blocks.
        kwargs: what other settings in a file say; not looked at.
    """

    quant_method = "gguf"

    def __init__(self, gguf_file: str | None = None, dequantize: bool = False, **kwargs: object) -> None:
        self.quant_method = "gguf"
        self.gguf_file, self.dequantize = gguf_file, dequantize


def gguf_settings(asked: object, file: str | None) -> GgufConfig | None:
    """The settings of loading a GGUF file that are asked for; None where others, or none.

    Args:
        asked: ``quantization_config`` of ``from_pretrained``: settings, or a mapping of them.
        file: the GGUF file that is loaded; None where that is none.

    Raises:
        InputError: there are such settings, and no file.
    """
    if isinstance(asked, Mapping) and asked.get("quant_method") == "gguf":
        asked = GgufConfig(**{str(name): value for name, value in asked.items() if name != "quant_method"})
    if not isinstance(asked, GgufConfig):
        return None
    if file is None:
        raise InputError(
            "these are settings of loading a GGUF file, and what is loaded is none",
            where="quantization_config",
            expected="the file, as gguf_file= of from_pretrained, or as the model",
            found=repr(asked.gguf_file),
        )
    asked.gguf_file = file
    return asked
