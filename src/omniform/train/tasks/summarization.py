"""Long texts told shortly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from omniform.train.scores import Pairs, rouge, written
from omniform.train.tasks.base import Loaded, Parts, model_of, options_of, sizes_of, tokenizer_of

if TYPE_CHECKING:
    from omniform.train.metrics import Metrics
    from omniform.train.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Those of tasks from text to text.

    Attributes:
        max_length: tokens that are read of a text at most.
        max_target_length: and of what is to be written.
        prefix: put before each text, as T5 wants it ("summarize: ").
        source_lang: where the data have a column of translations: the language that is read.
        target_lang: and the one that is written.
        vocab_size: of the tokenizer that is made of the data, where the recipe names none.
    """

    max_length: int = 512
    max_target_length: int = 128
    prefix: str = ""
    source_lang: str | None = None
    target_lang: str | None = None
    vocab_size: int = 2048


class TextToText:
    """A text is read, another one written."""

    name: ClassVar[str]
    columns: ClassVar[Mapping[str, Sequence[str]]]
    optional: ClassVar[frozenset[str]] = frozenset()

    def measure(self, pairs: Pairs) -> Metrics:
        """The words that were written and those that were wanted, compared."""
        raise NotImplementedError

    def texts(self, rows: Mapping[str, Sequence[object]], options: Options) -> tuple[list[str], list[str]]:
        """What is read and what is to be written."""
        return [str(text) for text in rows["source"]], [str(text) for text in rows["target"]]

    def parts(self, recipe: Recipe, data: Loaded) -> Parts:
        from omniform.train.collators import DataCollatorForSeq2Seq

        options = options_of(recipe, Options)
        known = [text for part in self.texts(_all(data), options) for text in part]
        tokenizer = tokenizer_of(recipe, known, options.vocab_size)
        fresh = recipe.processor is None and not isinstance(recipe.model, str)

        def prepare(rows: dict[str, list[object]]) -> dict[str, object]:
            sources, targets = self.texts(rows, options)
            read = tokenizer(
                [options.prefix + text for text in sources], truncation=True, max_length=options.max_length - fresh
            )
            labels = tokenizer(text_target=targets, truncation=True, max_length=options.max_target_length - fresh)
            # A tokenizer that was made here puts no end behind a text itself.
            end = [tokenizer.eos_token_id] if fresh else []
            rows_of = (cast("list[list[int]]", x["input_ids"]) for x in (read, labels))
            return {
                name: [[*ids, *end] for ids in part]
                for name, part in zip(("input_ids", "labels"), rows_of, strict=True)
            }

        ready = data.map(prepare)
        sizes = sizes_of(recipe, tokenizer)
        start = {"decoder_start_token_id": sizes["pad_token_id"]} if sizes else {}
        model = model_of(recipe, "AutoModelForSeq2SeqLM", **start, **sizes)
        return Parts(
            model=model,
            processing_class=tokenizer,
            train=ready.train,
            eval=ready.eval,
            collate=DataCollatorForSeq2Seq(tokenizer, model=model),
            compute_metrics=written(tokenizer, self.measure),
            trainer="Seq2SeqTrainer",
            arguments={"predict_with_generate": True, "generation_max_length": options.max_target_length},
        )


def _all(data: Loaded) -> Mapping[str, Sequence[object]]:
    return {name: data.train[name] for name in data.train.column_names}


class Summarization(TextToText):
    name = "summarization"
    columns: ClassVar = {
        "source": ("document", "article", "text", "dialogue"),
        "target": ("summary", "highlights", "abstract"),
    }

    def measure(self, pairs: Pairs) -> Metrics:
        return rouge(pairs)


TASK = Summarization()
