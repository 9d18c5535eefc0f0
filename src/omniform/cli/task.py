"""``omniform run --task``: one input through a pipeline, its answer printed to be read, or as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor

from omniform.cli.loading import loading_options, progress
from omniform.cli.pictures import Form, Plan, Showing, answer_pictures
from omniform.cli.run import question_of
from omniform.cli.table import cell, table
from omniform.core.errors import InputError
from omniform.pipelines import check_task, pipeline
from omniform.pipelines.seeing import Seeing
from omniform.pipelines.writing import WritingPipeline


def task_command(
    task: str,
    text: str | None,
    media: Sequence[str],
    name: str | None,
    settings: Mapping[str, object],
    drawing: Mapping[str, object],
    *,
    dtype: str,
    quantize: str | None = None,
    as_json: bool,
    showing: Showing,
) -> int:
    """Load, answer, print; the exit code.

    Args:
        task: a pipeline's task.
        text: the input, or a JSON object where the task takes several things by name; None reads standard input.
        media: pictures or sounds, for tasks that take them.
        name: a folder or a Hub id; what is at hand by default.
        settings: parameters of the task.
        drawing: the same for tasks that write, where some of them ask for tokens that are drawn.
        quantize: what weights become as they are loaded.
        showing: what becomes of answers about pictures.
    """
    started = time.perf_counter()
    kind = check_task(task)[1]["impl"]
    sees = issubclass(kind, Seeing)
    if (not sees and showing != Showing(form=showing.form)) or (not sees and showing.form is Form.CSV):
        raise InputError("only answers about pictures are drawn, or are rows of a file", where="--task", found=task)
    told = _told(kind, text, task) if issubclass(kind, Seeing) else {}
    plan = Plan.of(media, showing) if sees else None  # a mistake is told before anybody waits
    options = loading_options(dtype, quantize)
    with progress(f"loading {name or task}"):
        pipe = pipeline(task, name, dtype=str(options.pop("dtype")), model_kwargs=options)
    loaded = time.perf_counter()
    called = str(name or os.path.basename(pipe.model.name_or_path))
    if plan is not None and isinstance(pipe, Seeing):
        if name is None:
            print(f"omniform: no --model: {called} answers, which comes with omniform", file=sys.stderr, flush=True)
        return answer_pictures(plan, pipe, {**settings, **told}, showing, model=called, load_seconds=loaded - started)
    asked = drawing if isinstance(pipe, WritingPipeline) else settings
    answer = pipe(_input(text, media), **asked)  # type: ignore[arg-type]
    if not as_json:
        print(readable(answer))
        return 0
    record = {
        "task": pipe.task,
        "model": called,
        "answer": answer,
        "timings": {"load_s": round(loaded - started, 4), "answer_s": round(time.perf_counter() - loaded, 4)},
    }
    print(json.dumps(record, ensure_ascii=False, default=_plain))
    return 0


def _told(kind: type[Seeing], text: str | None, task: str) -> Mapping[str, object]:
    """What a text beside a picture is to the task.

    Raises:
        InputError: nothing.
    """
    if text is None:
        return {}
    if kind.says is None:
        raise InputError(
            "the task reads no text", where="--text", found=task, remedy="Its options are --set NAME=VALUE."
        )
    return {kind.says: text}


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
    return "\n".join(table(records))


def _has_records(answer: Sequence[object]) -> bool:
    return any(isinstance(one, Mapping) for row in answer for one in cast("list[object]", row))


def _text(record: Mapping[str, object]) -> str | None:
    """What was written, of a record that holds it: a text, or the last message of a chat."""
    written = next((value for name, value in record.items() if str(name).endswith("_text")), None)
    if isinstance(written, list) and written and isinstance(written[-1], Mapping):
        written = written[-1].get("content")
    return written if isinstance(written, str) else None


def _numbers(answer: object) -> str:
    """Anything else, with its shape if it is numbers."""
    if isinstance(answer, Tensor):
        return f"numbers of shape {[*answer.shape]}: {cell(answer.flatten()[:8].tolist())} ..."
    return json.dumps(answer, ensure_ascii=False, default=str)
