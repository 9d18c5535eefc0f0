"""``text2text-generation``, ``summarization`` and ``translation``: texts out of texts, by an encoder-decoder."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from threading import Lock
from typing import ClassVar, Final, TypedDict, cast

from torch import Tensor

from omniform.architectures.model import Model
from omniform.core.batch import Batch
from omniform.core.errors import InputError, brief
from omniform.core.generation import GenerationConfig
from omniform.hub.auto import AutoModelForSeq2SeqLM
from omniform.inputs.text.translating import TranslatingTokenizer
from omniform.pipelines.base import Params
from omniform.pipelines.batching import Inputs
from omniform.pipelines.registry import Task, languages_in
from omniform.pipelines.writing import ReturnType, WritingPipeline, Written

log = logging.getLogger("omniform")

_TURN: Final = Lock()


class Text2Text(TypedDict, total=False):
    """One answer; ``generated_token_ids`` where tensors were asked for."""

    generated_text: str
    generated_token_ids: Tensor


class Summary(TypedDict, total=False):
    """One summary; ``summary_token_ids`` where tensors were asked for."""

    summary_text: str
    summary_token_ids: Tensor


class Translation(TypedDict, total=False):
    """One translation; ``translation_token_ids`` where tensors were asked for."""

    translation_text: str
    translation_token_ids: Tensor


class Text2TextGenerationPipeline(WritingPipeline):
    """Writes a text for each text.

    What the checkpoint's config says of the task (``task_specific_params``: T5's prefixes and beams) holds, where the
    caller says nothing; after it four beams and up to 256 tokens.

    Args of a call, besides those of ``generate``:
        return_tensors: give token ids instead of text; ``return_text`` is its opposite, and the default.
        clean_up_tokenization_spaces: close the spaces before punctuation (False).
        truncation: how texts that are too long are cut; by default they are not.
        stop_sequence: a text that ends an answer, or a list of them.
        prefix: a text before every input, instead of the checkpoint's.
    """

    default_batch_size = "auto"
    return_name: ClassVar[str] = "generated"
    _default_generation_config = GenerationConfig(max_new_tokens=256, num_beams=4)

    def __init__(self, model: Model, *args: object, **kwargs: object) -> None:
        super().__init__(model, *args, **kwargs)
        self.check_model_type(AutoModelForSeq2SeqLM)
        own = self.model.config.get("task_specific_params")
        said = own.get(self.task) if isinstance(own, Mapping) else None
        settings = {str(name): value for name, value in said.items()} if isinstance(said, Mapping) else {}
        prefix = settings.pop("prefix", None)
        self.prefix = prefix if isinstance(prefix, str) else self.prefix
        if "max_length" in settings and "max_new_tokens" not in self._generate_kwargs:
            self._generation_defaults.pop("max_new_tokens", None)
        self._generate_kwargs = {**settings, **self._generate_kwargs}

    def _sanitize_parameters(  # type: ignore[override]
        self,
        return_tensors: bool | None = None,
        return_text: bool | None = None,
        return_type: ReturnType | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        truncation: bool | str | None = None,
        stop_sequence: str | list[str] | None = None,
        prefix: str | None = None,
        **generate_kwargs: object,
    ) -> tuple[Params, Params, Params]:
        said: Params = {"truncation": truncation, "prefix": prefix}
        reading = {name: value for name, value in said.items() if value is not None}
        if stop_sequence is not None:
            generate_kwargs["stop_strings"] = [stop_sequence] if isinstance(stop_sequence, str) else stop_sequence
        if return_type is None and (return_tensors is not None or return_text is not None):
            tensors = not return_text if return_tensors is None else return_tensors
            return_type = ReturnType.TENSORS if tensors else ReturnType.NEW_TEXT
        telling: Params = {} if return_type is None else {"return_type": return_type}
        if clean_up_tokenization_spaces is not None:
            telling["clean_up_tokenization_spaces"] = clean_up_tokenization_spaces
        return reading, generate_kwargs, telling

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Write for one text, or for many.

        Args:
            args: a text, or any of the ways in which many come; see :meth:`Pipeline.__call__`.
            kwargs: parameters.

        Returns:
            For a text, its answers; for a list of texts one answer each, or a list of several where these are wanted.
        """
        answers = super().__call__(*args, **kwargs)  # type: ignore[arg-type]
        listed = bool(args) and isinstance(args[0], list) and all(isinstance(text, str) for text in args[0])
        if listed and all(isinstance(one, list) and len(one) == 1 for one in cast("list[object]", answers)):
            return [one[0] for one in cast("list[list[object]]", answers)]
        return answers

    def check_inputs(self, input_length: int, min_length: int | None, max_length: int | None) -> None:
        """Warn of lengths that hardly can be meant."""

    def preprocess(  # type: ignore[override]
        self, text: object, truncation: bool | str = False, prefix: str | None = None
    ) -> Inputs:
        """The token ids of one text."""
        if self.tokenizer is None:
            raise InputError("the task needs a tokenizer", where="tokenizer", found="None")
        if not isinstance(text, str):
            raise InputError("this is no text", where="inputs", expected="a text", found=brief(text))
        before = prefix if prefix is not None else self.prefix or ""
        inputs = self.tokenizer(before + text, truncation=truncation, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        said = self._get_set_generation_params(self._generate_kwargs)
        shortest, longest = (said.get(name) for name in ("min_length", "max_length"))
        self.check_inputs(
            cast(Tensor, inputs["input_ids"]).shape[1],
            shortest if isinstance(shortest, int) else None,
            longest if isinstance(longest, int) else None,
        )
        return inputs

    def prompt_of(self, inputs: Inputs) -> dict[str, object]:
        return dict(inputs)

    def outcome(self, inputs: Inputs, written: Written) -> object:
        return {"output_ids": written.sequences.cpu()[None]}

    def _prepare_generate_kwargs(self, generate_kwargs: Mapping[str, object], **overrides: object) -> Params:
        given = super()._prepare_generate_kwargs(generate_kwargs, **overrides)
        if isinstance(generate_kwargs.get("max_new_tokens"), int) and "max_length" not in generate_kwargs:
            given.pop("max_length", None)  # what the call says of the length is all that is said
        return given

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: Mapping[str, Tensor],
        return_type: ReturnType = ReturnType.NEW_TEXT,
        clean_up_tokenization_spaces: bool = False,
    ) -> list[dict[str, object]]:
        """A record for each answer."""
        assert self.tokenizer is not None, "texts were read with it"
        rows = model_outputs["output_ids"][0]
        if return_type == ReturnType.TENSORS:
            return [{f"{self.return_name}_token_ids": row} for row in rows]
        texts = self.tokenizer.batch_decode(rows, True, clean_up_tokenization_spaces)
        return [{f"{self.return_name}_text": text} for text in texts]


class SummarizationPipeline(Text2TextGenerationPipeline):
    """Sums texts up; see :class:`Text2TextGenerationPipeline`."""

    return_name = "summary"

    def check_inputs(self, input_length: int, min_length: int | None, max_length: int | None) -> None:
        if max_length is not None and min_length is not None and max_length < min_length:
            log.warning("min_length=%d is more than max_length=%d", min_length, max_length)
        if max_length is not None and input_length < max_length:
            log.warning(
                "a text of %d tokens may be summed up in up to %d; max_length=%d would ask for less",
                input_length, max_length, input_length // 2,
            )  # fmt: skip


class TranslationPipeline(Text2TextGenerationPipeline):
    """Translates texts; see :class:`Text2TextGenerationPipeline`.

    Args of a call:
        src_lang, tgt_lang: the languages, as the tokenizer names them; by default those in the task's name
            (``translation_en_to_de``), else the tokenizer's own.
    """

    default_batch_size = "auto"
    return_name = "translation"

    def __init__(self, model: Model, *args: object, **kwargs: object) -> None:
        known = model.config.get("task_specific_params") if isinstance(model, Model) else None
        named = [str(name) for name in known if languages_in(str(name))] if isinstance(known, Mapping) else []
        if kwargs.get("task") == "translation" and named:
            warnings.warn(f"no languages are named; {named[0]} is taken, the checkpoint's first", stacklevel=2)
            kwargs["task"] = named[0]
        super().__init__(model, *args, **kwargs)

    def _sanitize_parameters(  # type: ignore[override]
        self, src_lang: str | None = None, tgt_lang: str | None = None, **kwargs: object
    ) -> tuple[Params, Params, Params]:
        reading, writing, telling = super()._sanitize_parameters(**kwargs)  # type: ignore[arg-type]
        if src_lang is None and tgt_lang is None:
            src_lang, tgt_lang = languages_in(self.task) or (None, None)
        languages = (("src_lang", src_lang), ("tgt_lang", tgt_lang))
        return {**reading, **{name: value for name, value in languages if value is not None}}, writing, telling

    def check_inputs(self, input_length: int, min_length: int | None, max_length: int | None) -> None:
        if max_length is not None and input_length > 0.9 * max_length:
            log.warning(
                "a text of %d tokens is translated into %d at most; max_length=%d would allow more",
                input_length, max_length, 2 * input_length,
            )  # fmt: skip

    def preprocess(  # type: ignore[override]
        self,
        text: object,
        truncation: bool | str = False,
        prefix: str | None = None,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
    ) -> Inputs:
        """The token ids of one text in its language, and which language is to be written."""
        reader = self.tokenizer
        if not isinstance(reader, TranslatingTokenizer):
            return super().preprocess(text, truncation, prefix)
        target = reader.tgt_lang if tgt_lang is None else tgt_lang
        if target is None:
            raise InputError(
                "nobody says which language is to be written",
                where="tgt_lang",
                expected="a language's code",
                found="None",
                remedy="Pass src_lang and tgt_lang, or name the task translation_xx_to_yy.",
            )
        with _TURN:  # a tokenizer reads one language at a time
            before = reader.src_lang
            try:
                if src_lang is not None:
                    reader.src_lang = src_lang
                inputs = super().preprocess(text, truncation, prefix)
            finally:
                if reader.src_lang != before:
                    reader.src_lang = before
        return Batch({**inputs, "forced_bos_token_id": reader.get_lang_id(target)})


TASKS: Final = tuple(
    Task(name=name, pipeline=kind, models=(AutoModelForSeq2SeqLM,), inferred=inferred)
    for name, kind, inferred in (
        ("text2text-generation", Text2TextGenerationPipeline, ("seq2seq-lm",)),
        ("summarization", SummarizationPipeline, ()),
        ("translation", TranslationPipeline, ()),
    )
)
