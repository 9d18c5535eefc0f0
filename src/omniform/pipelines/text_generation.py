"""``text-generation``: prompts and chats that a decoder writes on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypedDict, cast

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, brief
from omniform.core.generation import GenerationConfig
from omniform.hub.auto import AutoModelForCausalLM
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.pipelines.base import Params
from omniform.pipelines.batching import Inputs
from omniform.pipelines.chats import Chat, Message, is_chat
from omniform.pipelines.registry import Task
from omniform.pipelines.writing import ReturnType, WritingPipeline, Written


class GeneratedText(TypedDict, total=False):
    """One answer: ``generated_text`` (the prompt and what was written; of a chat, its messages with the new one), or
    ``generated_token_ids``."""

    generated_text: str | list[Message]
    generated_token_ids: list[int]


class TextGenerationPipeline(WritingPipeline):
    """Writes on from a prompt, or answers a chat (a list of messages, or a :class:`Chat`).

    Where neither the call nor the checkpoint says otherwise, up to 256 tokens are drawn at temperature 0.7.

    Args of a call, besides those of ``generate``:
        return_full_text: whether the prompt stands before the answer (True), or only what is new is given.
        return_tensors: give token ids instead of text.
        return_text: give text; the default.
        clean_up_tokenization_spaces: close the spaces before punctuation; by default as the tokenizer says.
        skip_special_tokens: leave special tokens out of the text (True).
        prefix: a text before every prompt.
        continue_final_message: whether a chat's last message is written on, or answered; by default it is written on
            if it is the assistant's.
        handle_long_generation: ``"hole"`` cuts a prompt's beginning off where prompt and answer would not fit.
        stop_sequence: a text that ends an answer, or a list of them; it stands in the answer.
        add_special_tokens, truncation, padding, max_length: of the tokenizer; ``max_length`` also of ``generate``.
        tokenizer_encode_kwargs: more keywords of the tokenizer's call, or of its chat template.
        tools, documents: for the chat template.
    """

    default_batch_size = "auto"
    _default_generation_config = GenerationConfig(max_new_tokens=256, do_sample=True, temperature=0.7)

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.check_model_type(AutoModelForCausalLM)
        if self.prefix is not None and "prefix" not in self._preprocess_params:
            preprocess, forward, _ = self._sanitize_parameters(prefix=self.prefix)
            self._preprocess_params = {**self._preprocess_params, **preprocess}
            self._forward_params = {**self._forward_params, **forward}

    def _sanitize_parameters(  # type: ignore[override]
        self,
        return_full_text: bool | None = None,
        return_tensors: bool | None = None,
        return_text: bool | None = None,
        return_type: ReturnType | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        prefix: str | None = None,
        handle_long_generation: str | None = None,
        stop_sequence: str | Sequence[str] | None = None,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        continue_final_message: bool | None = None,
        skip_special_tokens: bool | None = None,
        tokenizer_encode_kwargs: Mapping[str, object] | None = None,
        tools: Sequence[object] | None = None,
        documents: Sequence[object] | None = None,
        **generate_kwargs: object,
    ) -> tuple[Params, Params, Params]:
        reading: Params = {
            "truncation": truncation, "max_length": max_length, "tools": tools, "documents": documents,
            "prefix": prefix, "handle_long_generation": _check_hole(handle_long_generation),
            "continue_final_message": continue_final_message, "tokenizer_encode_kwargs": tokenizer_encode_kwargs,
            "add_special_tokens": generate_kwargs.pop("add_special_tokens", None),
            "padding": generate_kwargs.pop("padding", None),
        }  # fmt: skip
        if max_length is not None:
            generate_kwargs["max_length"] = max_length
        if handle_long_generation is not None:
            reading["generate_kwargs"] = {**generate_kwargs}
        if prefix:
            generate_kwargs["prefix_length"] = len(self._tokenizer().encode(prefix, add_special_tokens=False))
        if stop_sequence is not None:
            generate_kwargs["stop_strings"] = [stop_sequence] if isinstance(stop_sequence, str) else stop_sequence
        if self.assistant_model is not None and "assistant_model" not in generate_kwargs:
            generate_kwargs["assistant_model"] = self.assistant_model
            if self.assistant_tokenizer is not None:
                generate_kwargs |= {"tokenizer": self.tokenizer, "assistant_tokenizer": self.assistant_tokenizer}
        telling: Params = {
            "return_type": return_type or _returned(return_full_text, return_tensors, return_text),
            "clean_up_tokenization_spaces": clean_up_tokenization_spaces,
            "continue_final_message": continue_final_message, "skip_special_tokens": skip_special_tokens,
        }  # fmt: skip
        return _said(reading), generate_kwargs, _said(telling)

    # -- a call ----------------------------------------------------------------------------------------------------

    def __call__(self, text_inputs: object, *args: object, **kwargs: object) -> object:  # type: ignore[override]
        """Write on from a prompt or answer a chat, or many; see the class and :meth:`Pipeline.__call__`.

        Args:
            text_inputs: a text, a chat, or any of the ways in which many come.
            kwargs: parameters.

        Returns:
            A list of records, one for each answer; a list of such lists for many inputs.
        """
        return super().__call__(text_inputs, *args, **kwargs)  # type: ignore[arg-type]

    def preprocess(  # type: ignore[override]
        self,
        prompt_text: object,
        prefix: str = "",
        handle_long_generation: str | None = None,
        continue_final_message: bool | None = None,
        tokenizer_encode_kwargs: Mapping[str, object] | None = None,
        tools: object = None,
        documents: object = None,
        generate_kwargs: Mapping[str, object] | None = None,
        **options: object,
    ) -> Inputs:
        """The token ids of a prompt or a chat, and the prompt itself."""
        options |= tokenizer_encode_kwargs or {}
        if is_chat(prompt_text):
            prompt_text = Chat(cast("list[Message]", prompt_text))
        inputs: dict[str, object]
        if isinstance(prompt_text, Chat):
            options.pop("add_special_tokens", None)
            on = _goes_on(prompt_text, continue_final_message)
            inputs = cast(Batch, self._tokenizer().apply_chat_template(
                prompt_text.messages, add_generation_prompt=not on, continue_final_message=on, return_dict=True,
                return_tensors="pt", tools=tools, documents=documents, **options,  # type: ignore[arg-type]
            ))  # fmt: skip
        elif isinstance(prompt_text, str):
            inputs = self._tokenizer()(prefix + prompt_text, return_tensors="pt", **options)  # type: ignore[arg-type]
        else:
            raise InputError(
                "this is no prompt", where="text_inputs", expected="a text or a chat", found=brief(prompt_text)
            )
        inputs["prompt_text"] = prompt_text
        if handle_long_generation == "hole":
            self._cut(inputs, self._prepare_generate_kwargs(generate_kwargs or {}))
        return inputs

    def prompt_of(self, inputs: Inputs) -> dict[str, object]:
        ids, mask = cast(Tensor, inputs["input_ids"]), inputs.get("attention_mask")
        if ids.shape[1] == 0:  # written from nothing, which begins with the token of beginnings
            begin = self._get_set_generation_params({}).get("bos_token_id")
            if not isinstance(begin, int):
                raise InputError("there is no prompt", where="text_inputs", expected="a text", found="no token at all")
            return {"input_ids": torch.tensor([[begin]])}
        return {"input_ids": ids} if mask is None else {"input_ids": ids, "attention_mask": mask}

    def _prepare_generate_kwargs(self, generate_kwargs: Mapping[str, object], **overrides: object) -> Params:
        given = {**generate_kwargs}
        prefix = given.pop("prefix_length", 0)
        given = super()._prepare_generate_kwargs(given, **overrides)
        if prefix:  # lengths of the whole, the prefix included
            said = self._get_set_generation_params(given)
            for whole, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
                if isinstance(length := said.get(whole), int) and said.get(new) is None:
                    given[whole] = length + cast(int, prefix)
        return given

    def outcome(self, inputs: Inputs, written: Written) -> object:
        ids = cast(Tensor, inputs["input_ids"])
        noted = {name: value[None] for name, value in written.noted.items()}
        return {
            "generated_sequence": written.sequences.cpu()[None],
            "input_ids": ids if ids.shape[1] else None,
            "prompt_text": inputs["prompt_text"],
            **noted,
        }

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: Mapping[str, object],
        return_type: ReturnType = ReturnType.FULL_TEXT,
        clean_up_tokenization_spaces: bool | None = None,
        continue_final_message: bool | None = None,
        skip_special_tokens: bool = True,
    ) -> list[GeneratedText]:
        """A record for each answer."""
        ids, prompt = model_outputs["input_ids"], model_outputs["prompt_text"]
        start = ids.shape[-1] if isinstance(ids, Tensor) else 0
        own = ("generated_sequence", "input_ids", "prompt_text")
        more = {k: v[0].tolist() for k, v in model_outputs.items() if k not in own and isinstance(v, Tensor)}
        records: list[GeneratedText] = []
        for number, sequence in enumerate(cast(Tensor, model_outputs["generated_sequence"])[0].tolist()):
            if return_type == ReturnType.TENSORS:
                records.append({"generated_token_ids": sequence})
                continue
            text = cast(
                str, self._tokenizer().decode(sequence[start:], skip_special_tokens, clean_up_tokenization_spaces)
            )
            whole = _whole(prompt, text, continue_final_message) if return_type == ReturnType.FULL_TEXT else text
            records.append(cast(GeneratedText, {"generated_text": whole, **{k: v[number] for k, v in more.items()}}))
        return records

    def _cut(self, inputs: dict[str, object], given: Mapping[str, object]) -> None:
        """Cut a prompt's beginning off, so that the answer fits."""
        said, ids = self._get_set_generation_params(given), cast(Tensor, inputs["input_ids"])
        length, limit = ids.shape[-1], self._tokenizer().model_max_length
        new, whole = said.get("max_new_tokens"), said.get("max_length")
        if not isinstance(new, int):
            new = whole - length if isinstance(whole, int) else -1
        if new < 0:
            raise InputError(
                "nobody says how long the answer may be", where="handle_long_generation", remedy="Set max_new_tokens."
            )
        if length + new <= limit:
            return
        if new >= limit:
            raise InputError(
                "the answer alone is longer than the tokenizer's limit",
                where="handle_long_generation",
                expected=f"max_new_tokens below {limit}",
                found=new,
            )
        for name in ("input_ids", "attention_mask"):
            if name in inputs:
                inputs[name] = cast(Tensor, inputs[name])[:, new - limit :]

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise InputError("the task needs a tokenizer", where="tokenizer", found="None")
        return self.tokenizer


def _said(parameters: Params) -> Params:
    return {name: value for name, value in parameters.items() if value is not None}


def _check_hole(value: str | None) -> str | None:
    if value not in (None, "hole"):
        raise InputError("no such way", where="handle_long_generation", expected="None or 'hole'", found=repr(value))
    return value


def _returned(full: bool | None, tensors: bool | None, text: bool | None) -> ReturnType | None:
    """What is to be given back, of three ways to say it."""
    for first, second, words in (
        (full, text, "return_full_text and return_text"),
        (full, tensors, "return_full_text and return_tensors"),
        (tensors, text, "return_tensors and return_text"),
    ):
        if first is not None and second is not None:
            raise InputError("these exclude each other", where="text-generation", found=words, remedy="Leave one out.")
    if full is not None:
        return ReturnType.FULL_TEXT if full else ReturnType.NEW_TEXT
    return None if tensors is None else ReturnType.TENSORS


def _goes_on(chat: Chat, said: bool | None) -> bool:
    """Whether a chat's last message is to be written on: by default if it is the assistant's."""
    return chat.messages[-1]["role"] == "assistant" if said is None else said


def _whole(prompt: object, text: str, said: bool | None) -> str | list[Message]:
    """The prompt with its answer."""
    if not isinstance(prompt, Chat):
        return f"{prompt}{text}"
    if _goes_on(prompt, said):
        last = prompt.messages[-1]
        return [*prompt.messages[:-1], {"role": last["role"], "content": f"{last['content']}{text}"}]
    return [*prompt.messages, {"role": "assistant", "content": text}]


TASKS: Final = (
    Task(
        name="text-generation",
        pipeline=TextGenerationPipeline,
        models=(AutoModelForCausalLM,),
        inferred=("causal-lm",),
    ),
)
