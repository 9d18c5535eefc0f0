"""The thread that works for an engine: it waits for more, keeps nobody alive meanwhile, and ends when told to."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref

from omniform.engine import worker as worker_module
from omniform.engine.worker import Worker


class Work:
    """Tasks that a worker does, and who did them."""

    def __init__(self) -> None:
        self.left = 0
        self.done: list[threading.Thread] = []
        self.failures: list[BaseException] = []
        self.fails = False
        self.worker = Worker(self.step, lambda: bool(self.left), self.failures.append, self.close)

    def step(self) -> None:
        self.left -= 1
        self.done.append(threading.current_thread())
        if self.fails:
            raise ValueError("a step that fails")

    def close(self) -> None:
        self.left = 0
        self.worker.stop()

    def give(self, count: int = 1) -> None:
        have = len(self.done)
        self.left += count
        self.worker.wake()
        wait_for(lambda: len(self.done) == have + count)


def wait_for(true) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_one_thread_does_what_comes_in_turn():
    work = Work()
    for count in (1, 3, 1):
        work.give(count)
        time.sleep(0.01)
    assert len(set(work.done)) == 1
    work.close()
    assert not work.done[0].is_alive()


def test_it_ends_some_time_after_the_last(monkeypatch):
    monkeypatch.setattr(worker_module, "LINGERS", 0.02)
    work = Work()
    work.give()
    work.done[0].join(20)
    assert not work.done[0].is_alive()
    work.give()
    assert work.done[1] is not work.done[0]


def test_it_keeps_nobody_alive_while_it_waits():
    work = Work()
    work.give()
    thread, gone = work.done[0], weakref.ref(work)
    time.sleep(0.05)
    del work
    gc.collect()
    assert gone() is None
    thread.join(20)
    assert not thread.is_alive()


def test_it_goes_on_after_a_stop():
    work = Work()
    work.give()
    work.worker.stop()
    work.left = 1
    assert not work.done[0].is_alive()
    work.worker.go_on()
    wait_for(lambda: len(work.done) == 2)
    work.close()


def test_a_step_that_fails_does_not_end_it():
    work = Work()
    work.fails = True
    work.give(2)
    wait_for(lambda: len(work.failures) == 2)
    work.fails = False
    work.give()
    assert len(set(work.done)) == 1
    work.close()


def test_a_forked_process_starts_its_own():

    work = Work()
    work.give()
    child = os.fork()
    if child == 0:
        try:
            work.give()
            os._exit(0 if len(set(work.done)) == 2 else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    work.close()
