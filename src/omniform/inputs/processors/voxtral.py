"""Voxtral's processor: conversations with sounds of any length, and requests to write down what is said.

Prompts are Mistral's. They are told by its package ``mistral_common``
(``InstructTokenizerV7``, ``Tekkenizer``: https://github.com/mistralai/mistral-common), which is not needed here: the
vocabulary is read from ``tekken.json`` or ``tokenizer.json``, and the prompt is a chat template.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Self, cast

import torch
from torch import Tensor

from omniform.core.batch import Batch, Modality
from omniform.core.errors import ConfigError, InputError, brief
from omniform.core.reader import ConfigReader
from omniform.inputs.audio import FeatureExtractor, WhisperFeatureExtractor
from omniform.inputs.images import ImageProcessor
from omniform.inputs.media_access import MediaAccess
from omniform.inputs.processors.base import PartName, Parts
from omniform.inputs.processors.media import Media, is_encoded, sounds
from omniform.inputs.processors.options import CallOptions
from omniform.inputs.processors.placed import PlacedProcessor, Slot, Taken
from omniform.inputs.processors.speech import waves_of
from omniform.inputs.text.chat import Tool
from omniform.inputs.text.encoding import Ids
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.template import Prompt
from omniform.inputs.text.tokenizer import Tokenizer

BEGIN: Final = "[BEGIN_AUDIO]"
_AUDIO_ID: Final = 24
_SPECIAL: Final = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_CONTROL: Final = (
    "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", BEGIN, "[TRANSCRIBE]", "<s>", "</s>",
)  # fmt: skip
_LANGUAGE: Final = re.compile(r"^lang:[a-z]{2}")

TEMPLATE: Final = (
    "{%- macro said(content) -%}{%- if content is string -%}{{- content -}}{%- else -%}"
    "{%- for part in content -%}{%- if part.type == 'audio' -%}{{- '[BEGIN_AUDIO][AUDIO]' -}}"
    "{%- else -%}{%- if not loop.first and loop.previtem.type != 'audio' -%}{{- '\\n\\n' -}}{%- endif -%}"
    "{{- part.text -}}{%- endif -%}{%- endfor -%}{%- endif -%}{%- endmacro -%}"
    "{%- macro between(before, after) -%}"
    "{%- if (before is string or before[-1].type != 'audio') and (after is string or after[0].type != 'audio') -%}"
    "{{- '\\n\\n' -}}{%- endif -%}{%- endmacro -%}"
    "{{- '<s>' -}}"
    "{%- set last = namespace(user=-1) -%}"
    "{%- for message in messages -%}{%- if message.role == 'user' and"
    " (loop.first or loop.previtem.role != 'user') -%}{%- set last.user = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'system' -%}{{- '[SYSTEM_PROMPT]' + said(message.content) + '[/SYSTEM_PROMPT]' -}}"
    "{%- elif message.role == 'user' -%}"
    "{%- if tools and loop.index0 == last.user -%}"
    "{{- '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' -}}{%- endif -%}"
    "{%- if loop.first or loop.previtem.role != 'user' -%}{{- '[INST]' -}}"
    "{%- else -%}{{- between(loop.previtem.content, message.content) -}}{%- endif -%}"
    "{{- said(message.content) -}}"
    "{%- if loop.last or loop.nextitem.role != 'user' -%}{{- '[/INST]' -}}{%- endif -%}"
    "{%- elif message.role == 'assistant' -%}"
    "{%- if message.content -%}{{- said(message.content).rstrip(' ') -}}{%- endif -%}"
    "{%- if message.tool_calls -%}{{- '[TOOL_CALLS]' + message.tool_calls | tojson -}}{%- endif -%}{{- '</s>' -}}"
    "{%- elif message.role == 'tool' -%}"
    "{{- '[TOOL_RESULTS]' + message.tool_call_id + '[TOOL_CONTENT]' + said(message.content) + '[/TOOL_RESULTS]' -}}"
    "{%- else -%}{{- raise_exception('roles are system, user, assistant and tool') -}}{%- endif -%}"
    "{%- endfor -%}"
)
"""How Mistral writes conversations (the seventh version of its prompts), for folders that hold no template."""


class VoxtralProcessor(PlacedProcessor):
    """Texts with sounds in them, for Voxtral. A sound is read in windows of half a minute.

    Args:
        feature_extractor: of the sounds.
        tokenizer: of the texts. What Mistral's own files leave unsaid is set on it: its special tokens, and that texts
            are padded at the left.
        chat_template: the template for conversations; by default the tokenizer's, else Mistral's prompts.
        audio_token_id: the token that stands for sounds.
        window_tokens: how many of them a window has; by default one for eight frames.

    Raises:
        ConfigError: the tokenizer has no such token.
    """

    needs: ClassVar[tuple[PartName, ...]] = ("feature_extractor", "tokenizer")
    settings: ClassVar[tuple[str, ...]] = ("audio_token_id", "window_tokens")

    def __init__(
        self,
        feature_extractor: FeatureExtractor,
        tokenizer: Tokenizer,
        chat_template: ChatTemplates = None,
        audio_token_id: int = _AUDIO_ID,
        window_tokens: int | None = None,
    ) -> None:
        if not isinstance(feature_extractor, WhisperFeatureExtractor):
            raise InputError(
                "this is another kind of feature extractor",
                where="feature_extractor",
                expected="a WhisperFeatureExtractor",
                found=type(feature_extractor).__name__,
            )
        _completed(tokenizer)
        token = tokenizer.backend.id_to_token(audio_token_id)
        if token is None:
            raise ConfigError("the tokenizer has no such token", where="audio_token_id", found=audio_token_id)
        own = chat_template or tokenizer.chat_template or TEMPLATE
        super().__init__(tokenizer, [Slot("audio", token, token)], chat_template=own)
        self.feature_extractor = feature_extractor
        self.audio_token, self.audio_token_id = token, audio_token_id
        self.window_tokens = feature_extractor.nb_max_frames // 8 if window_tokens is None else window_tokens

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the processor of a folder; the model's config says which token it is, and how many a window has."""
        assert parts.feature_extractor is not None
        settings = {**_from_model(parts.model), **{k: v for k, v in parts.settings.items() if v is not None}}
        r = ConfigReader(settings, where=f"{parts.where}: processor_config.json")
        return cls(
            parts.feature_extractor,
            parts.tokenizer,
            chat_template=parts.chat_template,
            audio_token_id=r.integer("audio_token_id", _AUDIO_ID, least=0),
            window_tokens=r.maybe_integer("window_tokens"),
        )

    # The base takes any keyword in its signature.
    def __call__(  # type: ignore[override]
        self, text: str | Sequence[str] | None = None, audio: object = None, **options: object
    ) -> Batch:
        """Turn texts and the sounds in them into the model's inputs.

        Conversations are made by :meth:`apply_chat_template`, and requests to write down what is said by
        :meth:`apply_transcription_request`; this is what both end with.

        Args:
            text: a text or several, with ``[AUDIO]`` for each sound.
            audio: the sounds of all rows in reading order: files, ``(samples, rate)`` pairs or waves.
            options: of the tokenizer and the feature extractor, flat or as ``text_kwargs`` and ``audio_kwargs``;
                ``max_source_positions``, the frames of a window; ``return_mm_token_type_ids``.

        Returns:
            ``input_ids`` and ``attention_mask [B, T]``; if there are sounds, ``input_features [windows, bands,
            frames]``, with one :class:`~omniform.core.batch.Span` for each sound in ``spans``. Tensors, and padded, if
            nothing else is asked for.

        Raises:
            InputError: a row has more or fewer placeholders than sounds, or an input cannot be used.
            RepoError: a file or an address cannot be read.
            UnknownArgumentError: there is no such option.
        """
        given: dict[str, object] = {"padding": True, "return_tensors": "pt"}
        told = options.get("text_kwargs")
        for name in given.keys() & (told.keys() if isinstance(told, Mapping) else set()):
            del given[name]
        given |= options
        if text is not None and given.get("add_special_tokens", True) and not self._frames():
            one = isinstance(text, str)
            framed = [f"{_SPECIAL['bos_token']}{row}" for row in ([text] if one else text)]
            text, given["add_special_tokens"] = framed[0] if one else framed, False
        return self._placed(text, {"audio": audio}, given, ("max_source_positions",))

    def _frames(self) -> bool:
        """Whether the tokenizer itself puts tokens around a text."""
        return bool(self.tokenizer("")["input_ids"])

    def _take(self, modality: Modality, media: Sequence[object], asked: CallOptions) -> Taken:
        extractor = self.feature_extractor
        frames = asked.own.get("max_source_positions") or extractor.nb_max_frames
        if not isinstance(frames, int):
            raise InputError("this is no number of frames", where="max_source_positions", found=brief(frames))
        options = {"padding": True, "truncation": False, "pad_to_multiple_of": extractor.n_samples, **asked.audio}
        kind = options.pop("return_tensors", None)
        windows: list[Tensor] = []
        expansions: list[str] = []
        for wave in self._waves(media, options):
            features = cast(Tensor, extractor(wave, return_tensors="pt", **options)["input_features"])  # type: ignore
            if features.shape[-1] % frames:
                raise InputError(
                    "the frames are no whole number of windows",
                    where="max_source_positions",
                    expected=f"a divisor of {features.shape[-1]}",
                    found=frames,
                )
            windows.append(features.reshape(extractor.feature_size, -1, frames).transpose(0, 1))
            expansions.append(self.audio_token * (windows[-1].shape[0] * self.window_tokens))
        made = Batch({"input_features": torch.cat(windows)}).as_tensors(cast("str | None", kind))
        return Taken(made, expansions)

    def _waves(self, media: Sequence[object], options: dict[str, object]) -> list[object]:
        """The samples of every sound."""
        waves = waves_of(list(media), self.feature_extractor.sampling_rate, options)
        return sounds(waves)

    # ---- conversations

    def apply_chat_template(
        self,
        conversation: Sequence[object],
        chat_template: str | None = None,
        tools: Sequence[Tool] | None = None,
        documents: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = True,
        return_tensors: str | None = "pt",
        return_dict: bool = True,
        processor_kwargs: Mapping[str, object] | None = None,
        media_access: MediaAccess | None = None,
        **options: object,
    ) -> Batch | Ids | str | list[str]:
        """Make a conversation into the model's inputs; see :meth:`Processor.apply_chat_template`.

        As the ecosystem has it for this model, inputs are what is given if nothing else is asked for.
        """
        return super().apply_chat_template(
            conversation, chat_template, tools, documents, add_generation_prompt, continue_final_message,
            return_assistant_tokens_mask, tokenize, return_tensors, return_dict, processor_kwargs, media_access,
            **options,
        )  # fmt: skip

    def encode_chats(
        self, prompts: Sequence[Prompt], media: Sequence[Media], many: bool, call: Mapping[str, object]
    ) -> Batch:
        call = dict(call)
        if prompts[0].text.startswith(_SPECIAL["bos_token"]):
            call["add_special_tokens"] = False
        return super().encode_chats(prompts, media, many, call)

    def apply_transcription_request(
        self,
        audio: object,
        model_id: str = "",
        language: str | Sequence[str | None] | None = None,
        sampling_rate: int | None = None,
        format: str | Sequence[str] | None = None,
        *,
        tokenize: bool = True,
        return_dict: bool = True,
        **options: object,
    ) -> Batch | Ids | list[str]:
        """Ask for what is said in sounds, one row for each.

        Args:
            audio: one sound or several: files, addresses, ``(samples, rate)`` pairs or waves.
            model_id: the checkpoint, which the prompt does not depend on.
            language: two letters (ISO 639-1, ``"en"``), for all or for each; None where the model is to find out.
            sampling_rate: rate of waves in Hz, to be checked.
            format: what kind of file waves would be, which they are not made into here.
            tokenize: give the model's inputs rather than the texts.
            return_dict: give all inputs; without it the ids alone.
            options: as of a call.

        Raises:
            InputError: a language is none, or there are more or fewer of them than sounds.
        """
        given = sounds(audio)
        rows = [self._request(code) for code in _languages(language, len(given))]
        options = {**options, "add_special_tokens": False}
        if sampling_rate is not None and not all(is_encoded(sound) for sound in given):
            options["sampling_rate"] = sampling_rate
        if not tokenize:
            taken = self._take("audio", given, self._options(options, ("max_source_positions",)))
            expanded, _, _ = self._expanded(rows, {"audio": taken})
            return expanded
        batch = self(text=rows, audio=audio, **options)
        return batch if return_dict else cast(Ids, batch["input_ids"])

    def _request(self, language: str | None) -> str:
        said = "" if language is None else f"lang:{language}"
        return f"<s>[INST]{BEGIN}{self.audio_token}[/INST]{said}[TRANSCRIBE]"

    @property
    def typed(self) -> Mapping[Modality, tuple[str, ...]]:
        """What is mere text where somebody types it in a conversation: no sound, and no end of what was said."""
        return {"audio": (self.audio_token, *_CONTROL)}

    def marked(self, text: str, kinds: Sequence[Modality]) -> str:
        missing = kinds.count("audio") - text.count(self.audio_token)
        return f"{BEGIN}{self.audio_token}" * missing + text

    # ---- back to text

    def decode(
        self,
        token_ids: int | Sequence[int] | Sequence[Sequence[int]] | Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str | list[str]:
        """The text of ids; without special tokens also without the language that it begins with."""
        text = super().decode(token_ids, skip_special_tokens, clean_up_tokenization_spaces)
        if not skip_special_tokens:
            return text
        return _LANGUAGE.sub("", text) if isinstance(text, str) else [_LANGUAGE.sub("", row) for row in text]

    def batch_decode(
        self,
        sequences: Sequence[int] | Sequence[Sequence[int]] | Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """The texts of rows of ids; see :meth:`decode`."""
        texts = super().batch_decode(sequences, skip_special_tokens, clean_up_tokenization_spaces)
        return [_LANGUAGE.sub("", text) for text in texts] if skip_special_tokens else texts

    # ---- what it is made of

    def _parts(self) -> dict[str, ImageProcessor | FeatureExtractor]:
        return {"feature_extractor": self.feature_extractor}

    def to_dict(self) -> dict[str, object]:
        frames = self.feature_extractor.nb_max_frames
        own: dict[str, object] = {}
        if self.audio_token_id != _AUDIO_ID:
            own["audio_token_id"] = self.audio_token_id
        if self.window_tokens != frames // 8:
            own["window_tokens"] = self.window_tokens
        return {**super().to_dict(), **own}


def _completed(tokenizer: Tokenizer) -> None:
    """Set what Mistral's own files leave unsaid: special tokens, and where texts are padded."""
    named = {name: tokenizer.special_tokens_map.get(name) for name in _SPECIAL}
    if not any(named.values()):
        tokenizer.padding_side = "left"
    for name, token in _SPECIAL.items():
        if named[name] is None and tokenizer.backend.token_to_id(token) is not None:
            setattr(tokenizer, name, token)


def _from_model(config: Mapping[str, object]) -> dict[str, object]:
    """What a model's config tells about the tokens of sounds."""
    sound = config.get("audio_config")
    told: dict[str, object] = {"audio_token_id": config.get("audio_token_id")}
    if isinstance(sound, Mapping):
        sizes = [sound.get(name) for name in ("max_source_positions", "hidden_size", "intermediate_size")]
        frames, width, stacked = (
            size if isinstance(size, int) else usual for size, usual in zip(sizes, (1500, 1280, 5120), strict=True)
        )
        told["window_tokens"] = frames * width // max(stacked, 1)
    return {name: value for name, value in told.items() if value is not None}


def _languages(language: object, count: int) -> list[str | None]:
    """The language of each sound."""
    each = [language] * count if language is None or isinstance(language, str) else language
    if not isinstance(each, (list, tuple)) or len(each) != count:
        raise InputError(
            "the languages do not match the sounds",
            where="language",
            expected=f"one language, or {count} of them",
            found=len(each) if isinstance(each, (list, tuple)) else brief(language),
        )
    for code in each:
        if code is not None and not (isinstance(code, str) and re.fullmatch("[a-z]{2}", code)):
            raise InputError(
                "this is no language's code", where="language", expected="two letters, such as 'en'", found=brief(code)
            )
    return list(each)
