"""``omniform eval``."""

from __future__ import annotations

import json
from pathlib import Path

from omniform.cli.loading import opened
from omniform.core.errors import InputError, RepoError, brief


def eval_command(
    name: str,
    tasks: str,
    *,
    limit: float | None,
    num_fewshot: int | None,
    tasks_dir: str | None,
    output: str | None,
    chat: bool,
    system: str | None,
    dtype: str,
    quantize: str | None = None,
    metadata: str | None = None,
) -> None:
    """Evaluate a checkpoint on tasks of lm-eval and print a table; what is wrong is told before the model is loaded.

    Args:
        name: the model.
        tasks: names, separated by commas.
        limit, num_fewshot, tasks_dir, chat, system: see :func:`omniform.evals.run.evaluate`.
        output: a file for all results as JSON.
        dtype: what it is computed with.
        quantize: what weights become as they are loaded.
        metadata: a JSON object, told to tasks that make up their questions; the model's name is in it.
    """
    from omniform.evals.lm import OmniformLM
    from omniform.evals.run import as_json, evaluate, load_tasks, table

    names = [task.strip() for task in tasks.split(",") if task.strip()]
    if output is not None and not Path(output).expanduser().parent.is_dir():
        raise RepoError("no such folder", where=str(Path(output).parent))
    if system is not None and not chat:
        raise InputError("a system message is part of a chat", where="--system", remedy="Add --apply-chat-template.")
    told = {"pretrained": name, **_object(metadata)}
    load_tasks(names, tasks_dir, told)
    model, reader = opened(name, dtype=dtype, quantize=quantize)
    lm = OmniformLM(model, reader)
    if chat and lm.tokenizer.chat_template is None:
        raise InputError("the checkpoint has no chat template", where="--apply-chat-template", found=name)
    results = evaluate(
        lm,
        names,
        limit=limit,
        num_fewshot=num_fewshot,
        tasks_dir=tasks_dir,
        apply_chat_template=chat,
        system_instruction=system,
        metadata=told,
    )
    print(table(results))
    if output is not None:
        results["config"] = {"omniform": {"model": name, "tasks": names, "limit": limit, "dtype": dtype}}
        Path(output).expanduser().write_text(as_json(results), encoding="utf-8")


def _object(text: str | None) -> dict[str, object]:
    """A JSON object of the command line."""
    try:
        found = {} if text is None else json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        expected = 'a JSON object, as {"max_seq_lengths": [4096]}'
        raise InputError("this is no JSON object", where="--metadata", expected=expected, found=brief(text))
    return found
