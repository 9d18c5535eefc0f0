"""Folders of quantized weights from before ``config.json`` said so: their settings lie in a file of their own.

AutoGPTQ wrote ``quantize_config.json`` and named the weights by it (``gptq_model-4bit-128g.safetensors``, or what
``model_file_base_name`` says); llm-awq and AutoAWQ wrote ``quant_config.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from omniform.core.errors import ConfigError, brief
from omniform.hub.files import Source, read_json

GPTQ, AWQ = "quantize_config.json", "quant_config.json"

NAMES = {"w_bit": "bits", "q_group_size": "group_size"}
"""What llm-awq calls settings, to what they are called since."""


def old_settings(source: Source, keys: Iterable[str]) -> Mapping[str, object] | None:
    """The settings of such a folder, as ``quantization_config`` would have them; None where it is none.

    Args:
        keys: of its weights; the folder is looked at only where they are of such a method.

    Raises:
        ConfigError: the weights lie as a kernel of others reads them.
    """
    if not any(key.endswith(".qweight") for key in keys):
        return None
    if (path := source.find(GPTQ)) is not None:
        said = read_json(path)
        if said.get("is_marlin_format"):
            raise ConfigError(
                "weights that lie as Marlin's kernels read them are not read",
                where=str(path), expected="is_marlin_format: false", found="true",
                remedy="Load the checkpoint that it was made from.",
            )  # fmt: skip
        return {"quant_method": "gptq", **{name: value for name, value in said.items() if value is not None}}
    if (path := source.find(AWQ)) is not None:
        said = read_json(path)
        return {"quant_method": "awq", **{NAMES.get(name, name): value for name, value in said.items()}}
    return None


def old_weights(source: Source) -> str | None:
    """What the weights of such a folder are called; None where it is none, or they are called as others are.

    Raises:
        ConfigError: the name is none of a file in the folder.
    """
    path = source.find(GPTQ)
    if path is None:
        return None
    said = read_json(path)
    name = said.get("model_file_base_name")
    if name is not None and (not isinstance(name, str) or "/" in name or "\\" in name):
        raise ConfigError("no file's name", where=str(path), expected="a name within the folder", found=brief(name))
    bits, group = said.get("bits"), said.get("group_size")
    usual = (f"gptq_model-{bits}bit-{group}g", f"gptq_model-{bits}bit", "gptq_model")
    names = [f"{one}.safetensors" for one in ((name,) if name else ()) + usual]
    return next((one for one in names if source.has(one)), None)
