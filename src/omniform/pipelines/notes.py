"""What the ecosystem's pipelines are documented with, for classes that carry its decorators."""

from __future__ import annotations

from typing import Final

from torch import Tensor

GenericTensor = list["GenericTensor"] | Tensor
"""A tensor, or lists of them."""

_PARTS: Final = ("tokenizer", "image_processor", "feature_extractor", "processor")


def build_pipeline_init_args(
    has_tokenizer: bool = False,
    has_feature_extractor: bool = False,
    has_image_processor: bool = False,
    has_processor: bool = False,
    supports_binary_output: bool = True,
) -> str:
    """The lines of a docstring that name a pipeline's arguments."""
    asked = dict(zip(_PARTS, (has_tokenizer, has_image_processor, has_feature_extractor, has_processor), strict=True))
    lines = [f"        {name}: turns inputs into the model's." for name, wanted in asked.items() if wanted]
    return "\n".join(["", "    Arguments:", "        model: what computes.", *lines, ""])


PIPELINE_INIT_ARGS: Final = build_pipeline_init_args(True, True, True, True)
