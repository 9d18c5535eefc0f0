"""Writes what is generated from the families: the index of names, and README's table. `make index` runs it.

python tools/index.py           # write both
python tools/index.py --check   # fail if one of them is stale
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from omniform.architectures.family import Family

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "src" / "omniform" / "models"
INDEX, README = MODELS / "index.py", ROOT / "README.md"
BEGIN, END = "<!-- families: written by tools/index.py -->", "<!-- /families -->"

HEAD = '''"""Which file holds which name. Written by tools/index.py from the families (`make index`): do not edit."""

from __future__ import annotations

'''


def families() -> dict[str, tuple[str, str, Family]]:
    """Every family by ``model_type``: its file, its name there, and itself."""
    found = {}
    for path in sorted(MODELS.glob("*.py")):
        if path.stem in ("__init__", "index", "registry"):
            continue
        for name, value in vars(import_module(f"omniform.models.{path.stem}")).items():
            if isinstance(value, Family):
                found[value.model_type] = (path.stem, name, value)
    return dict(sorted(found.items()))


def table(name: str, words: str, entries: dict[str, str]) -> str:
    """One table of the index as source text."""
    lines = "".join(f'    "{key}": "{value}",\n' for key, value in sorted(entries.items()))
    return f'{name}: dict[str, str] = {{\n{lines}}}\n"""{words}"""\n'


def index() -> str:
    """The text of ``models/index.py``."""
    known = families()
    classes = {name: file for file, _, family in known.values() for name in family.names}
    inputs = {
        "TOKENIZERS": ("tokenizer", "Class name of the tokenizer, by ``model_type``."),
        "IMAGE_PROCESSORS": ("image_processor", "Class name of the image processor, by ``model_type``."),
        "VIDEO_PROCESSORS": ("video_processor", "Class name of the video processor, by ``model_type``."),
        "FEATURE_EXTRACTORS": ("feature_extractor", "Class name of the feature extractor, by ``model_type``."),
        "PROCESSORS": ("processor", "Class name of the processor, by ``model_type``."),
    }
    tables = [
        table(
            "FAMILIES",
            "Module and name of every family, by ``model_type``.",
            {kind: f"{file}:{name}" for kind, (file, name, _) in known.items()},
        ),
        table("CLASSES", "The file that holds a class, by its name.", classes),
    ]
    for name, (field, words) in inputs.items():
        said = {kind: getattr(family.public, field) for kind, (_, _, family) in known.items()}
        tables.append(table(name, words, {kind: value for kind, value in said.items() if value}))
    return HEAD + "\n".join(tables)


def readme() -> str:
    """The text of README with its table of families renewed."""
    rows = [f"| `{kind}` | {family.public.row} |" for kind, (_, _, family) in families().items() if family.public.row]
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return before + "\n".join((BEGIN, "| family | heads |", "|---|---|", *rows, END)) + after


def main() -> int:
    """Write, or check."""
    stale = [path for path, text in ((INDEX, index()), (README, readme())) if path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: run `make index`", file=sys.stderr)
        return bool(stale)
    for path in stale:
        path.write_text(index() if path == INDEX else readme(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
