"""What the parts of a processor may be asked, by the ecosystem's names, to annotate a call with."""

from __future__ import annotations

from typing import TypedDict


class TextKwargs(TypedDict, total=False):
    """Options of a tokenizer's call."""

    text_pair: object
    text_target: object
    text_pair_target: object
    add_special_tokens: bool
    padding: bool | str
    truncation: bool | str
    max_length: int | None
    stride: int
    is_split_into_words: bool
    pad_to_multiple_of: int | None
    return_token_type_ids: bool | None
    return_attention_mask: bool | None
    return_overflowing_tokens: bool
    return_special_tokens_mask: bool
    return_offsets_mapping: bool
    return_length: bool
    verbose: bool
    padding_side: str | None
    return_tensors: str | None


class ImagesKwargs(TypedDict, total=False):
    """Options of an image processor's call."""

    do_convert_rgb: bool | None
    do_resize: bool | None
    size: dict[str, int] | None
    default_to_square: bool | None
    crop_size: dict[str, int] | None
    resample: int | None
    do_rescale: bool | None
    rescale_factor: float | None
    do_normalize: bool | None
    image_mean: float | list[float] | None
    image_std: float | list[float] | None
    do_pad: bool | None
    pad_size: dict[str, int] | None
    do_center_crop: bool | None
    data_format: str | None
    input_data_format: str | None
    device: str | None
    return_tensors: str | None


class AudioKwargs(TypedDict, total=False):
    """Options of a feature extractor's call."""

    sampling_rate: int | None
    raw_speech: object
    padding: bool | str
    max_length: int | None
    truncation: bool
    pad_to_multiple_of: int | None
    return_attention_mask: bool | None
    return_tensors: str | None


class VideosKwargs(TypedDict, total=False):
    """Options of a video processor's call."""

    do_sample_frames: bool | None
    num_frames: int | None
    fps: int | float | None
    return_metadata: bool | None
    return_tensors: str | None


class CommonKwargs(TypedDict, total=False):
    """Options of every part."""

    return_tensors: str | None


class ProcessingKwargs(TypedDict, total=False):
    """The options of all parts; a subclass adds its own, and ``_defaults`` to them."""

    common_kwargs: CommonKwargs
    text_kwargs: TextKwargs
    images_kwargs: ImagesKwargs
    videos_kwargs: VideosKwargs
    audio_kwargs: AudioKwargs
