"""Texts in another language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from omniform.core.errors import ConfigError, listed, nearest
from omniform.train.scores import Pairs, bleu
from omniform.train.tasks.summarization import Options, TextToText

if TYPE_CHECKING:
    from omniform.train.metrics import Metrics


class Translation(TextToText):
    name = "translation"
    columns: ClassVar = {
        "source": ("source", "src", "source_text"),
        "target": ("target", "tgt", "target_text"),
        "translation": ("translation",),
    }
    optional = frozenset({"source", "target", "translation"})

    def measure(self, pairs: Pairs) -> Metrics:
        return bleu(pairs)

    def texts(self, rows: Mapping[str, Sequence[object]], options: Options) -> tuple[list[str], list[str]]:
        if "source" in rows and "target" in rows:
            return super().texts(rows, options)
        if "translation" not in rows:
            raise ConfigError(
                "which columns are read and written?",
                where="data: columns",
                expected="source and target, or translation",
                found=listed(rows),
            )
        pairs = cast("Sequence[Mapping[str, str]]", rows["translation"])
        for name, language in (("source_lang", options.source_lang), ("target_lang", options.target_lang)):
            if language not in pairs[0]:
                raise ConfigError(
                    "the data have no such language",
                    where=f"options: {name}",
                    expected=listed(pairs[0]),
                    found=language,
                    remedy=nearest(str(language), pairs[0]),
                )
        source, target = cast("tuple[str, str]", (options.source_lang, options.target_lang))
        return [pair[source] for pair in pairs], [pair[target] for pair in pairs]


TASK = Translation()
