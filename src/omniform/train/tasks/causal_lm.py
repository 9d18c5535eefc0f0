"""Texts, or conversations, continued token by token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from omniform.core.errors import ConfigError
from omniform.train.tasks.base import Loaded, Parts, model_of, options_of, processor_of

if TYPE_CHECKING:
    from omniform.inputs.text.tokenizer import Tokenizer
    from omniform.train.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The task's own.

    Attributes:
        max_length: tokens in a row.
        packing: whether texts are put end to end into full rows, each still seeing itself only.
        vocab_size: of the tokenizer that is made of the data, where the recipe names no processor.
    """

    max_length: int = 512
    packing: bool = True
    vocab_size: int = 2048


class CausalLanguageModel:
    name = "causal-lm"
    columns: ClassVar = {"text": ("text", "content", "document", "story"), "messages": ("messages", "conversations")}
    optional = frozenset({"text", "messages"})

    def parts(self, recipe: Recipe, data: Loaded) -> Parts:
        from omniform.train.collators import DataCollatorForLanguageModeling, DataCollatorWithFlattening

        options = options_of(recipe, Options)
        if not data.columns:
            raise ConfigError("which column is the text?", where="data: columns", expected="text, or messages")
        tokenizer = _tokenizer(recipe, data, options)

        def prepare(rows: dict[str, list[object]]) -> dict[str, object]:
            if "messages" in data.columns:
                read = [tokenizer.apply_chat_template(m, tokenize=True, return_dict=False) for m in rows["messages"]]  # type: ignore[arg-type]
                ids = [row[: options.max_length] for row in cast("list[list[int]]", read)]
            else:
                ids = list(_cut(tokenizer, cast("list[str]", rows["text"]), options.max_length))
            return {"input_ids": ids}

        ready = data.map(prepare)
        if options.packing:
            collate: object = DataCollatorWithFlattening(return_tensors="pt")
        else:
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
            collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
        config = {} if isinstance(recipe.model, str) else {"vocab_size": len(tokenizer)}
        return Parts(
            model=model_of(recipe, "AutoModelForCausalLM", **config),
            processing_class=tokenizer,
            train=ready.train,
            eval=ready.eval,
            collate=collate,  # type: ignore[arg-type]
        )


def _cut(tokenizer: Tokenizer, texts: list[str], length: int) -> Iterator[list[int]]:
    """The tokens of texts, each with the end token behind it, long ones in pieces."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for ids in cast("list[list[int]]", tokenizer(texts)["input_ids"]):
        whole = [*ids, *end] if list(ids[-1:]) != end else list(ids)
        yield whole[:length]


def _tokenizer(recipe: Recipe, data: Loaded, options: Options) -> Tokenizer:
    """The recipe's tokenizer; one made of the training texts where the model begins from nothing without one."""
    if recipe.processor is not None or isinstance(recipe.model, str):
        return cast("Tokenizer", processor_of(recipe))
    from omniform.train.fresh_tokenizer import byte_level

    return byte_level(cast("list[str]", data.train["text"]), options.vocab_size)


TASK = CausalLanguageModel()
