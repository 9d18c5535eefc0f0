"""Feeds damaged checkpoints and media to the public loaders, in a process that is watched.

Run as ``python fuzz.py FOLDER``: every kind of file below FOLDER is damaged in many seeded ways and loaded. Prints one
JSON object: per kind, how many cases there were, what came of them, and everything that must not happen.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import os
import random
import resource
import shutil
import struct
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

MARKER = "evil_marker_module"
SECONDS = 5.0
MEMORY = 3 * 2**30

ODD: list[object] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**63, -(2**63), 2**70, 10**30, 0.5, -0.5, 1e308, float("inf"),
    float("nan"), "", " ", "a", "\ud800", "\0", "é" * 50, "x" * 5000, "nan", "float16", "gelu", MARKER,
    f"{MARKER}.Evil", f"__import__('{MARKER}')", "../../../../etc/passwd", "/etc/passwd", "file:///etc/passwd",
    "http://127.0.0.1:9/x", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{% include '/etc/passwd' %}",
    "{{ cycler.__init__.__globals__.os.system('id') }}", "{% for i in range(10**9) %}x{% endfor %}", "{% for %}",
    [], [None], [0], [-1], [1, 2, 3], ["a"], [[]], [[1, "a"]], [1e9] * 3, [0] * 1000, {}, {"a": 1}, {"": None},
    {"type": MARKER}, {"rope_type": "yarn"}, {"rope_type": MARKER, "factor": 0}, {"shortest_edge": 10**9},
    {"height": -1, "width": 0}, {"0": "a", "2": "b"}, {"AutoModel": f"{MARKER}--{MARKER}.Evil"},
]  # fmt: skip
KEYS = [
    "auto_map", "model_type", "architectures", "quantization_config", "torch_dtype", "dtype", "id2label", "num_labels",
    "rope_scaling", "rope_parameters", "processor_class", "image_processor_type", "tokenizer_class", "chat_template",
    "added_tokens_decoder", "backbone", "backbone_config", "use_timm_backbone", "_name_or_path", "trust_remote_code",
]  # fmt: skip


# -- damage ----------------------------------------------------------------------------------------------------------


def places(value: object, path: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """The path of every entry of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items)[:40]:
        yield (*path, key)
        yield from places(inner, (*path, key))


def mutate_json(rng: random.Random, value: object) -> object:
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        where = list(places(value))
        if not where or rng.random() < 0.15:
            if isinstance(value, dict):
                value[rng.choice(KEYS)] = copy.deepcopy(rng.choice(ODD))
            continue
        *path, last = rng.choice(where)
        owner = value
        for key in path:
            owner = owner[key]  # type: ignore[index]
        if rng.random() < 0.15:
            del owner[last]  # type: ignore[attr-defined]
        else:
            owner[last] = copy.deepcopy(rng.choice(ODD))  # type: ignore[index]
    return rng.choice(ODD) if rng.random() < 0.02 else value


def mutate_bytes(rng: random.Random, data: bytes, head: int = 0) -> bytes:
    """Flip, cut, repeat, insert; ``head`` aims at the first so many bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(min(len(out), head or len(out)) or 1)
        match rng.randrange(5):
            case 0 if out:
                out[at % len(out)] = rng.randrange(256)
            case 1 if out:
                out[at % len(out)] ^= 1 << rng.randrange(8)
            case 2:
                out[at : at + rng.randrange(1, 9)] = rng.choice((b"", b"\xff" * 4, b"\0" * 8, b"9" * 9))
            case 3 if rng.random() < 0.5:
                del out[at:]
            case _:
                out[at:at] = out[at : at + rng.randrange(1, 30)]
    return bytes(out)


def damage_json(rng: random.Random, path: Path) -> None:
    data = path.read_bytes()
    if rng.random() < 0.2:
        path.write_bytes(mutate_bytes(rng, data))
    else:
        path.write_text(json.dumps(mutate_json(rng, json.loads(data))))


def damage_header(rng: random.Random, path: Path) -> None:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    if rng.random() < 0.4:
        path.write_bytes(mutate_bytes(rng, data, 8 + length))
        return
    header = json.dumps(mutate_json(rng, json.loads(data[8 : 8 + length]))).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])


# -- cases: how a file is damaged, and what then reads it -------------------------------------------------------------


def damage_file(name: str, how: Callable[[random.Random, Path], None]) -> Callable[[random.Random, Path], None]:
    return lambda rng, folder: how(rng, folder / name)


def damage_bin(rng: random.Random, path: Path) -> None:
    path.write_bytes(mutate_bytes(rng, path.read_bytes(), rng.choice((0, 0, 400))))


def damage_tokenizer(rng: random.Random, folder: Path) -> None:
    name = rng.choice(("tokenizer.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"))
    path = folder / name
    if name.endswith("json"):
        damage_json(rng, path)
    elif rng.random() < 0.5:
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
    else:
        odd = rng.choice([o for o in ODD if isinstance(o, str) and "\ud800" not in o])
        path.write_text(path.read_text() + odd)


def damage_processor(rng: random.Random, folder: Path) -> None:
    damage_json(rng, rng.choice(sorted(folder.glob("*processor_config.json"))))


def damage_media(rng: random.Random, folder: Path) -> None:
    path = rng.choice(sorted(folder.glob("media.*")))
    damaged = mutate_bytes(rng, path.read_bytes(), rng.choice((0, 64)))
    for other in folder.glob("media.*"):
        other.unlink()
    path.write_bytes(damaged)


def read_config(folder: Path) -> None:
    import omniform
    from omniform.hub.checkpoint import saved_class
    from omniform.hub.load import build_on_meta, table_of

    config = omniform.AutoConfig.from_pretrained(folder)
    table_of(build_on_meta(config, saved_class(config)))


def load_and_generate(folder: Path) -> None:
    import torch

    import omniform

    model = omniform.AutoModelForCausalLM.from_pretrained(folder)
    model.generate(input_ids=torch.tensor([[5, 6, 7]]), max_new_tokens=2)


def load_weights(folder: Path) -> None:
    import omniform

    omniform.AutoModelForCausalLM.from_pretrained(folder)


def tokenize(folder: Path) -> None:
    import omniform

    tokenizer = omniform.AutoTokenizer.from_pretrained(folder)
    options = {"padding": "max_length", "max_length": 20, "truncation": True}
    tokenizer.decode(tokenizer(text="hello <image> you", **options)["input_ids"])
    tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)


def process(folder: Path) -> None:
    from PIL import Image

    import omniform

    picture = Image.new("RGB", (9, 12), (1, 2, 3))
    omniform.AutoProcessor.from_pretrained(folder)(images=[picture], text="<image> hi", return_tensors="pt")


def listen(folder: Path) -> None:
    import torch

    import omniform

    omniform.AutoFeatureExtractor.from_pretrained(folder)(torch.zeros(800).numpy(), sampling_rate=16000)


def see_file(folder: Path) -> None:
    import omniform

    (path,) = folder.glob("media.*")
    omniform.AutoImageProcessor.from_pretrained(folder)(images=str(path), return_tensors="pt")


def hear_file(folder: Path) -> None:
    import omniform
    from omniform.inputs.audio import load_audio

    (path,) = folder.glob("media.*")
    wave = load_audio(path, 16000)
    omniform.AutoFeatureExtractor.from_pretrained(folder)(wave, sampling_rate=16000)


Damage = Callable[[random.Random, Path], None]
KINDS: dict[str, tuple[str, Damage, Callable[[Path], None], int]] = {
    "config": ("families/*", damage_file("config.json", damage_json), read_config, 30),
    "config with weights": ("text", damage_file("config.json", damage_json), load_and_generate, 80),
    "generation config": ("text", damage_file("generation_config.json", damage_json), load_and_generate, 40),
    "safetensors": ("text", damage_file("model.safetensors", damage_header), load_weights, 120),
    "index": ("shards", damage_file("model.safetensors.index.json", damage_json), load_weights, 30),
    "bin": ("bin", damage_file("pytorch_model.bin", damage_bin), load_weights, 40),
    "tokenizer": ("text", damage_tokenizer, tokenize, 120),
    "processor": ("seeing", damage_processor, process, 60),
    "feature extractor": ("listening", damage_processor, listen, 40),
    "pictures": ("seeing", damage_media, see_file, 80),
    "sounds": ("listening", damage_media, hear_file, 50),
}


# -- the watch -------------------------------------------------------------------------------------------------------

FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "socket.bind",
             "socket.getaddrinfo", "ctypes.dlopen", "pickle.find_class")  # fmt: skip
READABLE = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[1]), "/proc", "/dev/null", "/sys", "/usr/lib",
            "/usr/share/zoneinfo", "/lib", "/etc/mime.types", "/etc/apache2")  # fmt: skip
PACKAGE = Path(str(importlib.util.find_spec("omniform").origin)).resolve().parent  # type: ignore[union-attr]
KERNELS = frozenset(map(str, (PACKAGE / "native" / "lib").glob("*.so")))
"""The package's own compiled files, by their whole paths: those that were there before anything was read."""


class Watch:
    """What the interpreter did that no data may make it do."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.on:
            return
        if event == "ctypes.dlopen" and (arguments[0] is None or arguments[0] in KERNELS):
            return  # this process's own symbols, or our own kernels, which are looked for in one place only
        if event in FORBIDDEN or (event == "import" and MARKER in str(arguments[0])):
            self.seen.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            writes = isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            ours = path.startswith(self.root)
            if (writes and path != "/dev/null") or not (ours or path.startswith(READABLE)):
                self.seen.append(f"open {path} {'to write' if writes else ''}")


def run_case(damage: Damage, read: Callable[[Path], None], folder: Path, target: Path, seed: str, watch: Watch) -> str:
    """Damage a copy of a folder and read it; what came of it, or ``WRONG`` and why."""
    from omniform import OmniformError

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    (target / f"{MARKER}.py").write_text("raise SystemExit('code of the checkpoint was run')")
    damage(random.Random(seed), target)
    watch.seen.clear()
    started = time.process_time()  # what others do on the machine meanwhile is no fault of the data
    watch.on = True
    try:
        read(target)
        outcome = "fine"
    except OmniformError as error:
        outcome = type(error).__name__ if len(str(error)) < 5000 else f"WRONG: {len(str(error))} characters of error"
    except BaseException as error:
        frames = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[-5:]]
        outcome = f"WRONG: {type(error).__name__}: {str(error)[:150]} at {' '.join(frames)}"
    finally:
        watch.on = False
    seconds = time.process_time() - started
    if seconds > SECONDS:
        outcome = f"WRONG: took {seconds:.1f} s"
    return f"WRONG: {watch.seen}" if watch.seen else outcome


def main(root: Path, only: str = "") -> dict[str, object]:
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(root / "case"))  # so that the marker could be imported, were anyone to try
    watch, target = Watch(root), root / "case"
    for pattern, _, read, _ in KINDS.values():  # what is undamaged is read, and imports all that reading needs
        for folder in sorted(root.glob(pattern)):
            outcome = run_case(lambda rng, path: keep_one(path), read, folder, target, "", watch)
            assert outcome == "fine", f"{folder} is undamaged and gave {outcome}"
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    report: dict[str, object] = {}
    for kind, (pattern, damage, read, cases) in KINDS.items():
        outcomes: Counter[str] = Counter()
        for folder in sorted(root.glob(pattern)) if only in kind else ():
            for number in range(cases):
                seed = f"{kind} {folder.name} {number}"
                outcome = run_case(damage, read, folder, target, seed, watch)
                outcomes[f"{outcome} [{seed}]" if outcome.startswith("WRONG") else outcome] += 1
        report[kind] = outcomes
    return report


def keep_one(folder: Path) -> None:
    """Leave one media file, as :func:`damage_media` does."""
    for path in sorted(folder.glob("media.*"))[1:]:
        path.unlink()


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), *sys.argv[2:])))
