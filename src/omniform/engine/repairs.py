"""What an engine does when a step did not come to its end: interrupted, failed, or nothing to compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from omniform.core.errors import InputError
from omniform.engine.request import Request
from omniform.engine.scheduler import Scheduler, StepPlan

Fail = Callable[[Request, BaseException], None]
"""Ends a request with an error."""


@contextmanager
def undone_if_interrupted(scheduler: Scheduler, seat: Callable[[Request], None]) -> Iterator[None]:
    """A step may be interrupted anywhere (by Ctrl-C, say): compute anew what that may have left half done.

    Args:
        scheduler: holds the requests.
        seat: gives a request's first row what it draws with.
    """
    try:
        yield
    except BaseException:
        for request in [*scheduler.running]:
            scheduler.preempt(request)
            for row in request.rows:
                row.proposals.clear()
            if request.strategy is not None:
                request.strategy.restart(request)
            elif not any(row.written for row in request.rows):
                request.rows = [request.rows[0].begun()]
            if not any(row.written for row in request.rows):
                seat(request)
        raise


def isolate(plan: StepPlan, scheduler: Scheduler, fail: Fail, error: Exception) -> None:
    """A step failed: find out whose fault it is by running its requests one at a time."""
    requests = plan.requests
    for request in requests:
        if request in scheduler.running:
            scheduler.preempt(request)
        request.alone = True
    if len(requests) == 1:
        fail(requests[0], error)


def unstick(scheduler: Scheduler, fail: Fail) -> None:
    """Nothing could be planned and nobody has failed: if nobody runs, whoever waits first will never fit."""
    if scheduler.waiting and not scheduler.running:
        fail(scheduler.waiting[0], InputError("the request finds no room in the engine's memory", where="memory"))
