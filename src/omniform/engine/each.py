"""Many prompts side by side, each with its own outcome: one that cannot be answered does not cost the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from omniform.engine.calls import AnyPrompt, read_call
from omniform.engine.engine import Engine
from omniform.engine.handle import Handle
from omniform.engine.request import Completion, Request


def complete_each(
    engine: Engine,
    prompts: Sequence[AnyPrompt],
    settings: Sequence[Mapping[str, object]],
    ended: Callable[[int], None] = lambda _: None,
) -> list[Completion | Exception]:
    """Answer many prompts of any lengths; the caller's thread computes.

    Args:
        prompts: see :meth:`Engine.submit`.
        settings: of each.
        ended: told the tokens of every answer when it is whole.

    Returns:
        In the order of the prompts, each one's answer, or why there is none.
    """
    handles: list[Handle | Exception] = []
    requests: list[Request] = []
    told: set[str] = set()
    for place, (prompt, own) in enumerate(zip(prompts, settings, strict=True)):
        handle = Handle(lambda: None, None)
        try:
            call = read_call(engine.model, engine.processor, prompt, own, place, told)
            requests.append(
                engine.enqueue(call.prompt, call.settings, handle, tokenizer=engine.processor, parts=call.parts)
            )
            handles.append(handle)
        except Exception as error:
            handles.append(error)
    try:
        waiting = [handle for handle in handles if isinstance(handle, Handle)]
        while waiting:
            engine.step()
            for handle in waiting:
                if handle.done:
                    outcome = _outcome(handle)
                    ended(sum(len(one.tokens) for one in outcome.sequences) if isinstance(outcome, Completion) else 0)
            waiting = [handle for handle in waiting if not handle.done]
    finally:
        engine.cancel(requests)
    return [_outcome(handle) if isinstance(handle, Handle) else handle for handle in handles]


def _outcome(handle: Handle) -> Completion | Exception:
    try:
        return handle.result()
    except Exception as error:
        return error
