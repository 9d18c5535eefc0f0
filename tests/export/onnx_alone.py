"""Run in a process without torch: a folder's graphs through onnxruntime, on inputs that a file holds.

``python onnx_alone.py FOLDER CALLS.npz OUT.npz``: entries of the first are ``CALL/FILE/INPUT``; of the second
``CALL/OUTPUT``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def alone(folder: Path, calls: Mapping[str, Mapping[str, Tensor]], scratch: Path) -> dict[str, np.ndarray]:
    """What the graphs of a folder give in a process without torch; by ``NAME/FILE``, answers by ``NAME/OUTPUT``."""
    import numpy as np

    np.savez(scratch / "in.npz", **{f"{c}/{n}": v.numpy() for c, named in calls.items() for n, v in named.items()})
    command = [sys.executable, __file__, str(folder), str(scratch / "in.npz"), str(scratch / "out.npz")]
    subprocess.run(command, check=True, env={"PATH": ""})
    with np.load(scratch / "out.npz") as file:
        return {name: file[name] for name in file.files}


class NoTorch:
    """Refuses to find torch."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in ("torch", "omniform"):
            raise ImportError(f"{name} is not here")


def main(folder: str, calls: str, out: str) -> None:
    sys.meta_path.insert(0, NoTorch())  # type: ignore[arg-type]
    import numpy as np
    import onnxruntime

    given: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    with np.load(calls) as file:
        for entry in file.files:
            call, graph, name = entry.split("/")
            given.setdefault((call, graph), {})[name] = file[entry]
    sessions: dict[str, onnxruntime.InferenceSession] = {}
    found = {}
    for (call, graph), inputs in given.items():
        if graph not in sessions:
            sessions[graph] = onnxruntime.InferenceSession(
                str(Path(folder) / graph), providers=["CPUExecutionProvider"]
            )
        session = sessions[graph]
        for port, value in zip(session.get_outputs(), session.run(None, inputs), strict=True):
            found[f"{call}/{port.name}"] = value
    np.savez(out, **found)
    assert "torch" not in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])
