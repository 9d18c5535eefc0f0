"""Texts with words left out, which are to be filled in."""

from __future__ import annotations

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
        max_length: tokens that are read of a text at most.
        mask: the share of tokens that are left out.
        whole_words: whether all pieces of a word are left out together.
    """

    max_length: int = 512
    mask: float = 0.15
    whole_words: bool = False


class MaskedLanguageModel:
    name = "masked-lm"
    columns: ClassVar = {"text": ("text", "content", "sentence", "document")}
    optional: ClassVar[frozenset[str]] = frozenset()

    def parts(self, recipe: Recipe, data: Loaded) -> Parts:
        from omniform.train.collators import DataCollatorForLanguageModeling

        options = options_of(recipe, Options)
        tokenizer = cast("Tokenizer", processor_of(recipe))
        if tokenizer.mask_token_id is None:
            raise ConfigError("the tokenizer has no token for a word that is left out", where="processor")

        def prepare(rows: dict[str, list[object]]) -> dict[str, object]:
            texts = cast("list[str]", rows["text"])
            return dict(
                tokenizer(texts, truncation=True, max_length=options.max_length, return_special_tokens_mask=True)
            )

        ready = data.map(prepare)
        config = {} if isinstance(recipe.model, str) else {"vocab_size": len(tokenizer)}
        return Parts(
            model=model_of(recipe, "AutoModelForMaskedLM", **config),
            processing_class=tokenizer,
            train=ready.train,
            eval=ready.eval,
            collate=DataCollatorForLanguageModeling(
                tokenizer, mlm_probability=options.mask, whole_word_mask=options.whole_words
            ),
        )


TASK = MaskedLanguageModel()
