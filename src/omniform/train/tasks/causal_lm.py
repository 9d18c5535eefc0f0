"""Texts, or conversations, continued token by token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from omniform.core.errors import ConfigError
from omniform.train.tasks.base import Loaded, Parts, model_of, options_of, sizes_of, tokenizer_of

if TYPE_CHECKING:
    from omniform.inputs.text.tokenizer import Tokenizer
    from omniform.train.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The task's own.

    Attributes:
        max_length: tokens in a row; longer texts are cut in pieces.
        packing: whether texts are put end to end into full rows, each still seeing itself only.
        vocab_size: of the tokenizer that is made of the data, where the recipe names none.
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
        if "messages" in data.columns and recipe.processor is None and not isinstance(recipe.model, str):
            raise ConfigError("conversations need a tokenizer with a template", where="processor", expected="a folder")
        texts = [] if "text" not in data.columns else cast("list[str]", data.train["text"])
        tokenizer = tokenizer_of(recipe, texts, options.vocab_size)

        def prepare(rows: dict[str, list[object]]) -> dict[str, object]:
            if "messages" in data.columns:
                read = tokenizer.apply_chat_template(rows["messages"], tokenize=True, return_dict=False)
                return {"input_ids": [ids[: options.max_length] for ids in cast("list[list[int]]", read)]}
            return {"input_ids": list(_cut(tokenizer, cast("list[str]", rows["text"]), options.max_length))}

        ready = data.map(prepare)
        model = model_of(recipe, "AutoModelForCausalLM", **sizes_of(recipe, tokenizer))
        if not options.packing:
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
            collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
            return Parts(model, tokenizer, ready.train, ready.eval, collate)
        from omniform.train.packing import pack

        train, held_out = (
            None if part is None else pack(part, options.max_length) for part in (ready.train, ready.eval)
        )
        assert train is not None
        return Parts(model, tokenizer, train, held_out, DataCollatorWithFlattening(return_tensors="pt"))


def _cut(tokenizer: Tokenizer, texts: list[str], length: int) -> Iterator[list[int]]:
    """The tokens of texts, each with the end token behind it; long ones in pieces."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for ids in cast("list[list[int]]", tokenizer(texts)["input_ids"]):
        whole = list(ids) if list(ids[-1:]) == end else [*ids, *end]
        for start in range(0, len(whole), length):
            yield whole[start : start + length]


TASK = CausalLanguageModel()
