"""Qwen2-Audio's processor: each sound's marker becomes as many tokens as the model has vectors for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final, Self, cast

from torch import Tensor

from omniform.core.batch import Batch, Modality
from omniform.core.errors import InputError
from omniform.core.reader import ConfigReader
from omniform.inputs.audio import FeatureExtractor
from omniform.inputs.images import ImageProcessor
from omniform.inputs.processors.base import PartName, Parts
from omniform.inputs.processors.options import CallOptions
from omniform.inputs.processors.placed import PlacedProcessor, Slot, Taken
from omniform.inputs.processors.speech import waves_of
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer

TEMPLATE: Final = (
    "{%- set sounds = namespace(count=0) -%}"
    "{%- for message in messages -%}"
    "{%- if loop.first and message['role'] != 'system' -%}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}{%- endif -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if 'audio' in part or 'audio_url' in part or part['type'] == 'audio' -%}"
    "{%- set sounds.count = sounds.count + 1 -%}"
    "{{- 'Audio ' + sounds.count | string + ': <|audio_bos|><|AUDIO|><|audio_eos|>\\n' -}}"
    "{%- elif 'text' in part -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
"""How conversations are written where the folder holds no template: ChatML, sounds numbered through."""

_NAMES: Final = ("audio_token", "audio_bos_token", "audio_eos_token")


class Qwen2AudioProcessor(PlacedProcessor):
    """Texts with sounds in them, for Qwen2-Audio.

    Args:
        feature_extractor: of the sounds.
        tokenizer: of the texts; tokens of the following names in it win.
        chat_template: the template for conversations; by default the tokenizer's, else ChatML.
        audio_token: what stands for a sound in a text.
        audio_bos_token, audio_eos_token: what templates put around it.

    Raises:
        ConfigError: the tokenizer does not know the audio token.
    """

    needs: ClassVar[tuple[PartName, ...]] = ("feature_extractor", "tokenizer")
    settings: ClassVar[tuple[str, ...]] = _NAMES

    def __init__(
        self,
        feature_extractor: FeatureExtractor,
        tokenizer: Tokenizer,
        chat_template: ChatTemplates = None,
        audio_token: str = "<|AUDIO|>",
        audio_bos_token: str = "<|audio_bos|>",
        audio_eos_token: str = "<|audio_eos|>",
    ) -> None:
        given = (audio_token, audio_bos_token, audio_eos_token)
        tokens = (tokenizer.named_token(name) or token for name, token in zip(_NAMES, given, strict=True))
        self.audio_token, self.audio_bos_token, self.audio_eos_token = tokens
        own = chat_template or tokenizer.chat_template or TEMPLATE
        super().__init__(tokenizer, [Slot("audio", self.audio_token, self.audio_token)], chat_template=own)
        self.feature_extractor = feature_extractor
        self.audio_token_id = self._ids["audio"]

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the processor of a folder."""
        assert parts.feature_extractor is not None
        settings = {name: value for name, value in parts.settings.items() if value is not None}
        r = ConfigReader(settings, where=f"{parts.where}: processor_config.json")
        return cls(
            parts.feature_extractor,
            parts.tokenizer,
            chat_template=parts.chat_template,
            audio_token=r.text("audio_token", "<|AUDIO|>"),
            audio_bos_token=r.text("audio_bos_token", "<|audio_bos|>"),
            audio_eos_token=r.text("audio_eos_token", "<|audio_eos|>"),
        )

    @property
    def model_input_names(self) -> list[str]:
        """The entries that a full batch has."""
        return [*self.tokenizer.model_input_names, *self.feature_extractor.model_input_names, "feature_attention_mask"]

    # The base takes any keyword in its signature.
    def __call__(  # type: ignore[override]
        self,
        text: str | Sequence[str] | None = None,
        audio: object = None,
        audios: object = None,
        **options: object,
    ) -> Batch:
        """Turn texts and the sounds in them into the model's inputs.

        Args:
            text: a text or several, with ``<|AUDIO|>`` for each sound.
            audio: the sounds of all rows in reading order: files, ``(samples, rate)`` pairs or waves.
            audios: the same, as releases before 2025 call it.
            options: of the tokenizer and the feature extractor, flat or as ``text_kwargs`` and ``audio_kwargs``;
                ``return_mm_token_type_ids``. Sounds are always filled up to a whole window, with a mask.

        Returns:
            ``input_ids`` and ``attention_mask [B, T]``; if there are sounds, ``input_features [sounds, bands, frames]``
            and ``feature_attention_mask [sounds, frames]``, with one :class:`~omniform.core.batch.Span` for each sound
            in ``spans``.

        Raises:
            InputError: a row has more or fewer placeholders than sounds, or an input cannot be used.
            RepoError: a file or an address cannot be read.
            UnknownArgumentError: there is no such option.
        """
        if audio is not None and audios is not None:
            raise InputError("the sounds are given twice", where="audio, audios")
        return self._placed(text, {"audio": audio if audios is None else audios}, options)

    def _take(self, modality: Modality, media: Sequence[object], asked: CallOptions) -> Taken:
        options = {**asked.audio, "return_attention_mask": True, "padding": "max_length"}
        waves = waves_of(list(media), self.feature_extractor.sampling_rate, options)
        made = self.feature_extractor(waves, **options)  # type: ignore[arg-type]
        made["feature_attention_mask"] = made.pop("attention_mask")
        counts = [int(count) for count in cast(Tensor, made["feature_attention_mask"]).sum(-1).tolist()]
        lengths = [(((count - 1) // 2 + 1) - 2) // 2 + 1 for count in counts]
        return Taken(made, [self.audio_token * length for length in lengths])

    def _parts(self) -> dict[str, ImageProcessor | FeatureExtractor]:
        return {"feature_extractor": self.feature_extractor}

    def to_dict(self) -> dict[str, object]:
        return {**super().to_dict(), **{name: getattr(self, name) for name in _NAMES}}
