"""Texts are spoken, or played: by a model of waves, or by one of spectra with a vocoder behind it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict, cast

import torch
from torch import Tensor, nn

from omniform.architectures.model import Model
from omniform.architectures.speaking import Speaker
from omniform.core.config import ModelConfig
from omniform.core.errors import InputError, UnknownArgumentError, brief, check_arguments
from omniform.core.generation import GenerationConfig
from omniform.core.outputs import ModelOutput
from omniform.hub.auto import AutoModel, AutoModelForTextToSpectrogram, AutoModelForTextToWaveform, tasks_of
from omniform.pipelines.base import Params, Pipeline
from omniform.pipelines.batching import BatchSize, Inputs, Padding, in_order, moved
from omniform.pipelines.given import needed
from omniform.pipelines.registry import Task

if TYPE_CHECKING:
    import numpy as np

    Wave = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

DEFAULT_VOCODER_ID = "microsoft/speecht5_hifigan"
"""What spectra become sound with, where nobody says."""


class AudioOutput(TypedDict):
    """A sound: ``audio``, Shape: [samples] or [channels, samples], and how many samples a second has."""

    audio: Wave | list[Wave]
    sampling_rate: int | None


class TextToAudioPipeline(Pipeline):
    """Speaks texts; also known as ``"text-to-speech"``. ``pipe("hello")`` gives an :class:`AudioOutput`.

    Options, for the pipeline or for a call:
        preprocess_params: options of the tokenizer.
        forward_params: inputs of the model beside the text (``speaker_embeddings``, ``speaker_id``), and settings.
        generate_kwargs: settings of ``generate``, for models that write; they go before ``forward_params``.

    Args:
        vocoder: what makes sound of spectra, or its name; for models of spectra by default SpeechT5's HiFi-GAN.
        sampling_rate: samples per second of the sound; by default what vocoder or config say.
    """

    _pipeline_calls_generate = True
    _load_processor = _load_image_processor = _load_feature_extractor = False
    _load_tokenizer = True
    _default_generation_config = GenerationConfig(max_new_tokens=256)

    def __init__(
        self,
        model: Model,
        *args: object,
        vocoder: nn.Module | str | os.PathLike[str] | None = None,
        sampling_rate: int | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(model, *args, **kwargs)  # type: ignore[arg-type]
        self.vocoder = self._vocoder(vocoder)
        told = _rate(self.vocoder.config) if isinstance(self.vocoder, Model) else None
        self.sampling_rate = told or sampling_rate or self._told_rate()

    def _vocoder(self, given: object) -> nn.Module | None:
        """What makes sound of the model's answers; None where they are sound."""
        does = tasks_of(type(self.model)) or self.model.origin.architecture.tasks
        if "text-to-spectrogram" not in does:
            return None
        if given is None or isinstance(given, (str, os.PathLike)):
            return cast(nn.Module, AutoModel.from_pretrained(given or DEFAULT_VOCODER_ID).to(self.device))
        if not isinstance(given, nn.Module):
            raise InputError("this is no vocoder", where="vocoder", expected="a model or a name", found=brief(given))
        return given.to(self.device)

    def _told_rate(self) -> int | None:
        """The rate that the checkpoint says, the generation's config before the model's."""
        said = self.model.generation_config.to_dict() if self.model.can_generate() else {}
        found = next((said[name] for name in ("sampling_rate", "sample_rate") if said.get(name) is not None), None)
        return cast("int | None", found) or _rate(self.model.config)

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        check_arguments(type(self).__name__, given, ("preprocess_params", "forward_params", "generate_kwargs"))
        groups = {name: _group(name, value) for name, value in given.items()}
        read = groups.pop("preprocess_params", {})
        if self.model.can_generate() and self.assistant_model is not None:
            helper: Params = {"assistant_model": self.assistant_model}
            if self.assistant_tokenizer is not None:
                helper |= {"tokenizer": self.tokenizer, "assistant_tokenizer": self.assistant_tokenizer}
            groups["generate_kwargs"] = {**helper, **groups.get("generate_kwargs", {})}
        return read, cast(Params, groups), {}

    def __call__(self, inputs: object = None, *args: object, **given: object) -> object:
        """The sound of one text (also ``text_inputs=``), or of several.

        Raises:
            InputError: there is no text.
        """
        inputs = given.pop("text_inputs", None) if inputs is None else inputs
        if inputs is None:
            raise InputError("there is no text", where=self.task or type(self).__name__, expected="at least one")
        return super().__call__(inputs, *args, **given)  # type: ignore[arg-type]

    def preprocess(self, input_: object, **given: object) -> Inputs:
        """The ids of a text."""
        if not isinstance(input_, str):
            raise InputError("this is not text", where="inputs", expected="a text", found=brief(input_))
        return needed(self.tokenizer)([input_], return_tensors="pt", **given)  # type: ignore[arg-type]

    def together(self, chunks: Sequence[Inputs], size: BatchSize, padding: Padding) -> list[list[int]]:
        """Texts share batches as they come."""
        return super().together(chunks, size, padding) if size == "auto" else in_order(len(chunks), size)

    def _forward(self, input_tensors: Inputs, **given: object) -> object:
        more = cast(Params, moved(given.get("forward_params", {}), self.device))
        settings = cast(Params, moved(given.get("generate_kwargs", {}), self.device))
        if self.model.can_generate():
            asked = self._prepare_generate_kwargs({**more, **settings}, return_dict_in_generate=True)
            output = self.model.generate(**{**input_tensors, **asked})
        elif isinstance(self.model, Speaker):  # which draws frames by a way of its own
            output = self.model.generate(**{**input_tensors, **more, **settings})
        elif settings:
            raise UnknownArgumentError(
                f"a {type(self.model).__name__} does not write",
                where="generate_kwargs",
                found=brief([*settings]),
                remedy="Pass what it takes as forward_params.",
            )
        else:
            output = self.model(**{**input_tensors, **more})[0]
        return output if self.vocoder is None else self.vocoder(_spectrum(output))

    def postprocess(self, model_outputs: object, **given: object) -> AudioOutput:
        """The sound of one text."""
        sound = model_outputs
        if isinstance(sound, Mapping | ModelOutput):
            sound = next((sound[name] for name in ("audio", "waveform", "sequences") if name in sound), None)
        elif isinstance(sound, tuple):
            sound = sound[0]
        if isinstance(sound, list) and len(sound) == 1:
            sound = sound[0]
        heard = [_wave(one) for one in sound] if isinstance(sound, list) else _wave(sound)
        return AudioOutput(audio=heard, sampling_rate=self.sampling_rate)


def _group(name: str, value: object) -> Params:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError("options come as a mapping", where=name, found=brief(value))
    return {str(key): one for key, one in value.items()}


def _rate(config: ModelConfig) -> int | None:
    """Samples per second, as a config or that of its codec says."""
    for name in ("sampling_rate", "sample_rate"):
        if isinstance(config.get(name), int):
            return cast(int, config.get(name))
    for part in ("audio_encoder", "codec_config"):
        inner = config.get(part)
        if isinstance(inner, ModelConfig):
            return _rate(inner)
        if isinstance(inner, Mapping) and isinstance(inner.get("sampling_rate"), int):
            return cast(int, inner["sampling_rate"])
    return None


def _spectrum(output: object) -> object:
    return output["spectrogram"] if isinstance(output, Mapping) and "spectrogram" in output else output


def _wave(sound: object) -> Wave:
    if not isinstance(sound, Tensor):
        raise InputError("the model gives no sound", where="model", expected="a tensor", found=brief(sound))
    return cast("Wave", sound.to("cpu", torch.float32).numpy().squeeze())


TASKS = (
    Task(
        name="text-to-audio",
        pipeline=TextToAudioPipeline,
        models=(AutoModelForTextToWaveform, AutoModelForTextToSpectrogram),
        aliases=("text-to-speech",),
        inferred=("text-to-waveform", "text-to-spectrogram"),
    ),
)

__all__ = ["TASKS", "AudioOutput", "TextToAudioPipeline"]
