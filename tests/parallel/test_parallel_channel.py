"""What a message between processes can be made into."""

from __future__ import annotations

import io
import os
import pickle
import subprocess

import pytest
import torch

from omniform.engine.channel import ToldTable, _Pickler, _Unpickler


class Runs:
    def __init__(self, what: object, *given: object) -> None:
        self.what, self.given = what, given

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.what, self.given


def sent(message: object, state: object = None) -> object:
    file = io.BytesIO()
    _Pickler(file, state).dump(message)
    return _Unpickler(io.BytesIO(file.getvalue()), state, torch.device("cpu")).load()


def test_values_arrive() -> None:
    state = object()
    message = ("step", [("forget", (1, 2.5, "x", None, {3}, slice(1, 2)))], (state, torch.arange(3), torch.float16))
    what, notes, given = sent(message, state)
    assert (what, notes) == message[:2] and given[0] is state
    assert torch.equal(given[1], torch.arange(3)) and given[2] is torch.float16
    table = ToldTable(2, ((4, 9), (12, 14)))
    assert sent(table) == table


CALLS = (Runs(os.system, "true"), Runs(subprocess.run, ["true"]), Runs(eval, "1"), Runs(torch.load, "x"))


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.what.__name__)
def test_nothing_is_run(call: Runs) -> None:
    with pytest.raises(pickle.UnpicklingError, match="no value of a message"):
        sent(("step", [], (call,)))
