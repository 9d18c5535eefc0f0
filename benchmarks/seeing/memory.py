"""The most memory that a process held: one library, one job, a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from seeing.forwards import SIGHTS, TINY_SIZE, save_random
from turns import OURS, THEIRS, Contest

BENCHMARKS = Path(__file__).parents[1]
SIDE, TINY_SIDE = 12_000, 300
"""Of the large picture."""
LARGE_GOAL = 3.0
"""The large picture is to need less than so many times its decoded size."""
PROCESSORS = ("ViT", "Detr", "Segformer")


def peak() -> int:
    """Bytes that this process held at most since it began."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def child(job: Mapping[str, object]) -> dict[str, float]:
    """What one process measures: ``before`` the job with everything imported, and the ``peak``; in bytes."""
    sys.path.insert(0, str(BENCHMARKS.parent / "tests"))
    import torch

    import reference  # noqa: F401 # makes the reference importable beside a CPU torch

    torch.set_num_threads(1)
    work: Callable[[Mapping[str, object]], float] = {"forward": _forward, "large": _large}[str(job["kind"])]
    before = work(job)
    return {"before": before, "peak": float(peak())}


def _forward(job: Mapping[str, object]) -> float:
    import torch
    from seeing.forwards import loaded, pixels

    sight, batch = SIGHTS[str(job["sight"])], int(str(job["batch"]))
    before = float(peak())
    model = loaded(str(job["library"]), sight, Path(str(job["folder"])))
    with torch.inference_mode():
        model(pixel_values=pixels(sight, batch, bool(job["tiny"])))
    return before


def _large(job: Mapping[str, object]) -> float:
    import transformers
    from PIL import Image

    import omniform
    from omniform.inputs.media_access import MediaAccess

    named = {OURS: omniform, THEIRS: transformers}[str(job["library"])]
    make = getattr(named, f"{job['processor']}ImageProcessor")
    processor = make()
    processor(Image.new("RGB", (64, 64)), return_tensors="pt")  # what is imported only now is no part of it
    # By default ours refuses what Pillow warns of.
    more = {"media_access": MediaAccess(max_pixels=2 * SIDE**2)} if job["library"] == OURS else {}
    before = float(peak())
    with Image.open(str(job["file"])) as picture:
        processor(picture, return_tensors="pt", **more)
    return before


def measured(**job: object) -> dict[str, float]:
    """A job in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "seeing.memory", json.dumps(job)]
    path = os.pathsep.join(filter(None, (str(BENCHMARKS), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{job}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def forward_peaks(only: tuple[str, ...], tiny: bool) -> dict[str, Contest]:
    """Peaks of loading a model and one forward; in megabytes, all that the process holds."""
    found: dict[str, Contest] = {}
    for name in only or SIGHTS:
        sight = SIGHTS[name]
        with tempfile.TemporaryDirectory() as folder:
            save_random(sight, Path(folder), tiny)
            batch = sight.batches[-1]
            jobs = {
                library: measured(
                    kind="forward", library=library, sight=name, batch=batch, folder=folder, tiny=tiny
                )["peak"] / 2**20
                for library in (OURS, THEIRS)
            }  # fmt: skip
        height, width = TINY_SIZE if tiny else sight.size
        found[f"{name}, {batch} of {height} x {width}"] = Contest(
            {who: [value] for who, value in jobs.items()}, {THEIRS: 1.0}
        )
    return found


def large_picture(only: tuple[str, ...], tiny: bool) -> dict[str, Contest]:
    """What a large picture needs beyond what was held before it was decoded, in parts of its decoded size."""
    from PIL import Image

    side = TINY_SIDE if tiny else SIDE
    found: dict[str, Contest] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.png"
        bands = [Image.linear_gradient("L").rotate(angle).resize((side, side)) for angle in (0, 90, 180)]
        Image.merge("RGB", bands).save(file, compress_level=1)
        del bands
        for processor in only or PROCESSORS:
            taken = {
                library: measured(kind="large", library=library, processor=processor, file=str(file))
                for library in (OURS, THEIRS)
            }
            parts = {who: [(one["peak"] - one["before"]) / (3 * side**2)] for who, one in taken.items()}
            allowed = {"allowed": [LARGE_GOAL]}
            found[f"{processor}, {side} x {side}"] = Contest({**parts, **allowed}, {THEIRS: 1.0, "allowed": 1.0})
    return found


if __name__ == "__main__":
    print(json.dumps(child(json.loads(sys.argv[1]))))
