"""``omniform run --task``: one input through a pipeline, its answer printed to be read, or as JSON."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor

from omniform.cli.loading import progress
from omniform.cli.run import question_of
from omniform.core.errors import InputError
from omniform.pipelines import pipeline
from omniform.pipelines.writing import WritingPipeline

WIDEST = 100
"""Characters of a column at most."""


def task_command(
    task: str,
    text: str | None,
    media: Sequence[str],
    name: str | None,
    settings: Mapping[str, object],
    drawing: Mapping[str, object],
    *,
    dtype: str,
    as_json: bool,
) -> None:
    """Load, answer, print.

    Args:
        task: a pipeline's task.
        text: the input, or a JSON object where the task takes several things by name; None reads standard input.
        media: pictures or sounds, for tasks that take them.
        name: a folder or a Hub id; what is at hand by default.
        settings: parameters of the task.
        drawing: the same for tasks that write, where some of them ask for tokens that are drawn.
    """
    started = time.perf_counter()
    with progress(f"loading {name or task}"):
        pipe = pipeline(task, name, dtype=dtype)
    loaded = time.perf_counter()
    asked = drawing if isinstance(pipe, WritingPipeline) else settings
    answer = pipe(_input(text, media), **asked)  # type: ignore[arg-type]
    if not as_json:
        print(readable(answer))
        return
    record = {
        "task": pipe.task,
        "model": str(name or os.path.basename(pipe.model.name_or_path)),
        "answer": answer,
        "timings": {"load_s": round(loaded - started, 4), "answer_s": round(time.perf_counter() - loaded, 4)},
    }
    print(json.dumps(record, ensure_ascii=False, default=_plain))


def _input(text: str | None, media: Sequence[str]) -> object:
    if media and text is None:
        return media[0] if len(media) == 1 else list(media)
    given = question_of(text, needed=True)
    if not given.lstrip().startswith(("{", "[{")):
        return given
    try:
        return cast(object, json.loads(given))
    except ValueError:
        return given  # a text that begins with a brace


def _plain(value: object) -> object:
    if isinstance(value, Tensor):
        return cast(object, value.tolist())
    raise InputError("the answer cannot be written as JSON", where="--json", found=type(value).__name__)


def readable(answer: object) -> str:
    """An answer as a few lines of text: what was written, or a table of what was found."""
    if isinstance(answer, list) and answer and all(isinstance(one, list) for one in answer):
        return "\n\n".join(readable(one) for one in answer) if _has_records(answer) else _numbers(answer)
    records = [one for one in (answer if isinstance(answer, list) else [answer]) if isinstance(one, Mapping)]
    if not records or (isinstance(answer, list) and len(records) < len(answer)):
        return _numbers(answer)
    texts = [_text(record) for record in records]
    if all(text is not None for text in texts):
        return "\n\n".join(map(str, texts))
    return "\n".join(_table(records))


def _has_records(answer: Sequence[object]) -> bool:
    return any(isinstance(one, Mapping) for row in answer for one in cast("list[object]", row))


def _text(record: Mapping[str, object]) -> str | None:
    """What was written, of a record that holds it: a text, or the last message of a chat."""
    written = next((value for name, value in record.items() if str(name).endswith("_text")), None)
    if isinstance(written, list) and written and isinstance(written[-1], Mapping):
        written = written[-1].get("content")
    return written if isinstance(written, str) else None


def _table(records: Sequence[Mapping[str, object]]) -> list[str]:
    """Records as rows: lists side by side are rows of their own (labels and scores of a text)."""
    rows = [row for record in records for row in _unfolded(record)]
    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(names))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _unfolded(record: Mapping[str, object]) -> list[Mapping[str, object]]:
    lists = {name: value for name, value in record.items() if isinstance(value, list)}
    lengths = {len(value) for value in lists.values()}
    if len(lists) < 2 or len(lengths) != 1:
        return [record]
    first = next(iter(lists))
    return [
        {name: value[at] if name in lists else (value if at == 0 else "") for name, value in record.items()}  # type: ignore[index]
        for at in range(len(lists[first]))
    ]


def _cell(value: object) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
    text = " ".join(text.split())
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."


def _numbers(answer: object) -> str:
    """Anything else, with its shape if it is numbers."""
    if isinstance(answer, Tensor):
        return f"numbers of shape {[*answer.shape]}: {_cell(answer.flatten()[:8].tolist())} ..."
    return json.dumps(answer, ensure_ascii=False, default=str)
