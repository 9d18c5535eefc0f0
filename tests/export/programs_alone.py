"""Run in a process without omniform: a folder's programs through torch alone, on inputs that a file holds.

``python programs_alone.py FOLDER CALLS.pt OUT.pt``: the first holds ``{CALL: (FILE, {KEYWORD: tensor})}``; the second
``{CALL: {NAME: tensor}}``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Calls = Mapping[str, "tuple[str, Mapping[str, Tensor]]"]


def alone(folder: Path, calls: Calls, scratch: Path) -> dict[str, dict[str, Tensor]]:
    """What the programs of a folder give in a process without omniform."""
    import torch

    torch.save(calls, scratch / "in.pt")
    command = [sys.executable, __file__, str(folder), str(scratch / "in.pt"), str(scratch / "out.pt")]
    subprocess.run(command, check=True, env={"PATH": "", "TMPDIR": os.environ.get("TMPDIR", "/tmp")})
    found: dict[str, dict[str, Tensor]] = torch.load(scratch / "out.pt")
    return found


class NoOmniform:
    """Refuses to find it."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "omniform":
            raise ImportError(f"{name} is not here")


def main(folder: str, calls: str, out: str) -> None:
    sys.meta_path.insert(0, NoOmniform())  # type: ignore[arg-type]
    import torch

    loaded = {}
    found = {}
    for call, (file, inputs) in torch.load(calls).items():
        if file not in loaded:
            loaded[file] = torch.export.load(Path(folder) / file).module()
        with torch.no_grad():
            found[call] = loaded[file](**inputs)
    torch.save(found, out)
    assert "omniform" not in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])
