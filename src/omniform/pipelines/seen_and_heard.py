"""What the pipelines share that write about pictures, sounds and videos: how inputs come, and what answers are."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, TypedDict, cast

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, brief
from omniform.core.generation import GenerationConfig
from omniform.core.settings import SETTINGS
from omniform.inputs.media_access import MediaAccess, checked_access
from omniform.inputs.processors import Processor
from omniform.pipelines.base import Params
from omniform.pipelines.batching import Inputs
from omniform.pipelines.chats import Chat, Message, is_chat
from omniform.pipelines.writing import ReturnType, WritingPipeline, Written

log = logging.getLogger("omniform")


class Told(TypedDict, total=False):
    """One answer: ``input_text`` (the prompt, or the messages of a chat), and ``generated_text`` (the prompt and what
    was written; of a chat, its messages with the new one) or ``generated_token_ids``."""

    input_text: str | list[Message]
    generated_text: str | list[Message]
    generated_token_ids: Tensor


class SeeingAndHearing(WritingPipeline):
    """Writes on from texts with media among them, or answers chats that hold media.

    Options, for the pipeline or for a call, besides those of ``generate`` (by name, or in ``generate_kwargs``):
        max_new_tokens: tokens of an answer, 256 where the checkpoint does not say.
        return_full_text: whether the prompt stands before the answer (True), or only what is new is given.
        return_tensors: give token ids instead of text.
        stop_sequence: a text that ends an answer, or several.
        continue_final_message: whether a chat's last message is written on; by default if it is the assistant's.
        skip_special_tokens, clean_up_tokenization_spaces: of decoding.
        timeout, media_access: how files and addresses are read.
        processor_kwargs: options of the processor, which may also stand by themselves.
    """

    media: ClassVar[Mapping[str, tuple[str, ...]]]
    """What of a mapping is a medium: the processor's argument, and the names by which it comes."""

    _load_processor = True
    _load_tokenizer = False
    _default_generation_config = GenerationConfig(max_new_tokens=256)
    default_batch_size = "auto"

    def _sanitize_parameters(  # type: ignore[override]
        self,
        max_new_tokens: int | None = None,
        generate_kwargs: Mapping[str, object] | None = None,
        timeout: float | None = None,
        media_access: MediaAccess | None = None,
        return_full_text: bool | None = None,
        return_tensors: bool | None = None,
        return_type: ReturnType | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        stop_sequence: str | Sequence[str] | None = None,
        continue_final_message: bool | None = None,
        skip_special_tokens: bool | None = None,
        processor_kwargs: Mapping[str, object] | None = None,
        **others: object,
    ) -> tuple[Params, Params, Params]:
        writing: Params = {name: others.pop(name) for name in [*others] if name in SETTINGS}
        for name, value in (generate_kwargs or {}).items():
            if name in writing or (name == "max_new_tokens" and max_new_tokens is not None):
                raise InputError("the setting is given twice", where=name, found="directly and in generate_kwargs")
            writing[name] = value
        if max_new_tokens is not None:
            writing["max_new_tokens"] = max_new_tokens
        if stop_sequence is not None:
            writing["stop_strings"] = [stop_sequence] if isinstance(stop_sequence, str) else stop_sequence
        if return_full_text is not None and return_tensors is not None and return_type is None:
            raise InputError("these exclude each other", where="return_full_text", found="return_tensors beside it")
        if return_type is None and return_full_text is not None:
            return_type = ReturnType.FULL_TEXT if return_full_text else ReturnType.NEW_TEXT
        if return_type is None and return_tensors is not None:
            return_type = ReturnType.TENSORS
        reading: Params = {**others}
        if processor_kwargs is not None:
            reading["processor_kwargs"] = processor_kwargs
        access = access_of(media_access, timeout)
        said: Params = {"media_access": access, "continue_final_message": continue_final_message}
        telling: Params = {
            "return_type": return_type, "continue_final_message": continue_final_message,
            "skip_special_tokens": skip_special_tokens, "clean_up_tokenization_spaces": clean_up_tokenization_spaces,
        }  # fmt: skip
        return {**reading, **_said(said)}, writing, _said(telling)

    # -- how inputs come -------------------------------------------------------------------------------------------

    @property
    def reader(self) -> Processor:
        """The processor."""
        if self.processor is None:
            raise InputError("the task needs a processor", where="processor", remedy="Pass it beside the model.")
        return self.processor

    def asked(self, text: object, media: Mapping[str, object], given: Params) -> object:
        """Answer a text or several with media beside them, or whatever else comes as the first argument.

        Args:
            text: a text, several, a chat, several, a mapping with a text and media, or several of them.
            media: of the call, by the processor's names; None where there are none.
            given: the other arguments.
        """
        beside = {name: value for name, value in media.items() if value is not None}
        if text is None and len(beside) == 1 and not _is_plain(only := next(iter(beside.values()))):
            text, beside = only, {}
        if isinstance(text, Chat) or is_chat(text) or _are_chats(text):
            if beside:
                raise InputError(
                    "a chat holds its media itself",
                    where=", ".join(beside),
                    expected="parts such as {'type': 'image', 'image': ...} in the messages' content",
                )
            return super().__call__(text, **given)  # type: ignore[arg-type]
        if isinstance(text, str) or _are_texts(text):
            if self.reader.chat_template is not None:
                log.warning(
                    "%s: this model answers chats; a list of messages is more likely to be understood", self.task
                )
            return super().__call__({"text": text, **beside}, **given)  # type: ignore[arg-type]
        if text is None:
            raise InputError("there is no text", where=self.task or type(self).__name__, expected="a text or a chat")
        if beside:
            raise InputError("no text or chat", where="text", found=brief(text))
        return super().__call__(text, **given)  # type: ignore[arg-type]

    def preprocess(  # type: ignore[override]
        self,
        inputs: object,
        media_access: MediaAccess | None = None,
        continue_final_message: bool | None = None,
        processor_kwargs: Mapping[str, object] | None = None,
        **options: object,
    ) -> Inputs:
        """The model's inputs for a chat, a text, or a mapping of a text and its media."""
        call: Params = {} if media_access is None else {"media_access": media_access}
        if isinstance(inputs, Chat):
            on = _goes_on(inputs, continue_final_message)
            batch = cast(Batch, self.reader.apply_chat_template(
                inputs.messages, continue_final_message=on, add_generation_prompt=not on, return_tensors="pt",
                tokenize=True, return_dict=True, processor_kwargs=processor_kwargs, **call, **options,  # type: ignore[arg-type]
            ))  # fmt: skip
            return {**batch.to(self.dtype), "text": inputs}
        if isinstance(inputs, str):
            inputs = {"text": inputs}
        if not isinstance(inputs, Mapping):
            raise InputError(
                "this is no input", where="inputs", expected="a text, a chat, a mapping", found=brief(inputs)
            )
        given = dict(inputs)
        text = given.pop("text", None)
        if isinstance(text, (list, tuple)) and len(text) > 1:
            options.setdefault("padding", True)
        read = self._media_of(given)
        batch = self.reader(text=text, **read, return_tensors="pt", **{**call, **options, **(processor_kwargs or {})})
        return {**batch.to(self.dtype), "text": text}

    def _media_of(self, given: Mapping[str, object]) -> Params:
        found: Params = {}
        for argument, names in self.media.items():
            for name in names:
                if given.get(name) is not None:
                    found[argument] = given[name]
        known = {name for names in self.media.values() for name in names}
        if strange := given.keys() - known:
            raise InputError("no such medium", where=", ".join(sorted(strange)), expected=", ".join(sorted(known)))
        return found

    # -- what is written -------------------------------------------------------------------------------------------

    def prompt_of(self, inputs: Inputs) -> dict[str, object]:
        return {name: value for name, value in inputs.items() if name != "text"}

    def outcome(self, inputs: Inputs, written: Written) -> object:
        ids = inputs.get("input_ids", inputs.get("decoder_input_ids"))
        return {"generated_sequence": written.sequences.cpu(), "input_ids": ids, "prompt_text": inputs["text"]}

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: Mapping[str, object],
        return_type: ReturnType = ReturnType.FULL_TEXT,
        continue_final_message: bool | None = None,
        skip_special_tokens: bool = True,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[Told]:
        """A record for each answer."""
        prompt, sequences = model_outputs["prompt_text"], cast(Tensor, model_outputs["generated_sequence"])
        prompts = [*prompt] if isinstance(prompt, (list, tuple)) else [prompt]
        each = len(sequences) // len(prompts)
        prompts = [one for one in prompts for _ in range(each)]
        if return_type == ReturnType.TENSORS:
            pairs = zip(prompts, sequences, strict=True)
            return [{"input_text": prompt_told(one), "generated_token_ids": ids} for one, ids in pairs]

        def texts(ids: Tensor) -> list[str]:
            decode = self.reader.post_process_image_text_to_text
            return cast("list[str]", decode(ids, skip_special_tokens, clean_up_tokenization_spaces))

        written = texts(sequences)
        ids = model_outputs["input_ids"]
        if isinstance(ids, Tensor):
            read = [text for text in texts(ids) for _ in range(each)]
            written = [after(text, before) for text, before in zip(written, read, strict=True)]
        told: list[Told] = []
        for one, text in zip(prompts, written, strict=True):
            whole = _whole(one, text, continue_final_message) if return_type == ReturnType.FULL_TEXT else text
            told.append({"input_text": prompt_told(one), "generated_text": whole})
        return told


def _said(parameters: Params) -> Params:
    return {name: value for name, value in parameters.items() if value is not None}


def access_of(media_access: MediaAccess | None, timeout: float | None) -> MediaAccess | None:
    """What a call may read, and for how long it waits; None where it says nothing of either.

    Raises:
        InputError: a timeout that is none.
    """
    access = None if media_access is None else checked_access(media_access)
    if timeout is None:
        return access
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise InputError("no time", where="timeout", expected="seconds", found=brief(timeout))
    return replace(access or MediaAccess(), timeout=float(timeout))


def _are_chats(value: object) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(o, Chat) or is_chat(o) for o in value)


def _are_texts(value: object) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(one, str) for one in value)


def _is_plain(value: object) -> bool:
    """Whether it is media alone, and not a chat, a mapping or a stream of them."""
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    if isinstance(first, (list, tuple)) and first:
        first = first[0]
    return isinstance(first, (str, bytes, torch.Tensor)) or type(first).__module__.split(".")[0] in ("PIL", "numpy")


def _goes_on(chat: Chat, said: bool | None) -> bool:
    return chat.messages[-1]["role"] == "assistant" if said is None else said


def prompt_told(prompt: object) -> str | list[Message]:
    """A prompt as answers tell it: a text, or a chat's messages."""
    return prompt.messages if isinstance(prompt, Chat) else cast(str, prompt)


def after(text: str, before: str) -> str:
    """What was written after the prompt: up to two characters may stand in front of it."""
    at = text.find(before)
    return text[at + len(before) :] if 0 <= at <= 2 else text


def _whole(prompt: object, text: str, said: bool | None) -> str | list[Message]:
    """The prompt with its answer."""
    if not isinstance(prompt, Chat):
        return f"{prompt}{text}" if isinstance(prompt, str) else text
    if not _goes_on(prompt, said):
        return [*prompt.messages, {"role": "assistant", "content": text}]
    last = prompt.messages[-1]
    content = last["content"]
    if isinstance(content, (list, tuple)):
        ending = {**content[-1], "text": f"{content[-1].get('text', '')}{text}"}
        return [*prompt.messages[:-1], {"role": last["role"], "content": [*content[:-1], ending]}]
    return [*prompt.messages[:-1], {"role": last["role"], "content": f"{content}{text}"}]
