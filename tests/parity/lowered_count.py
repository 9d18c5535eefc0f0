"""How many families' stacks are programs: ``python tests/parity/lowered_count.py`` from the repository's root.

Every family's tiny base model is asked its first question with all stacks lowered; what was not a program is told, with
the reason. Weights are fresh, so no reference is built.
"""

from __future__ import annotations

import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]


def asked(table) -> list[str]:
    """What computed each stack of a family's base model that was asked for a step."""
    import omniform
    from omniform.transforms import lower

    case = table.case(next(iter(table.heads)))
    told = {name: value for name, value in case.config().to_dict().items() if not name.startswith("_")}
    told.pop("model_type", None)
    config = omniform.AutoConfig.for_model(table.model_type, **told)
    model = getattr(omniform, case.architecture.auto or "AutoModel").from_config(config).eval()
    lower.lower(model)
    with torch.no_grad():
        model(**case.questions()[0].inputs)
    stacks = [m for m in model.modules() if isinstance(m, lower.LoweredLayers) and m in lower._HELD]
    return [lower.computed_by(stack) for stack in stacks]


def main() -> None:
    """Print the count, and a line for every family that is not wholly lowered."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        import_module(path.stem)
    from harness import TABLES

    counts: Counter[str] = Counter()
    seen: set[str] = set()
    for table in TABLES:
        if table.model_type in seen:
            continue
        seen.add(table.model_type)
        try:
            found = asked(table)
        except Exception as error:
            counts["could not be asked"] += 1
            print(f"{table.model_type}: {type(error).__name__} {str(error)[:120]}")
            continue
        others = [how for how in found if how != "one native program"]
        kind = "no stack asked" if not found else "every stack lowered" if not others else "not every stack lowered"
        counts[kind] += 1
        for how in others:
            print(f"{table.model_type}: {how[:200]}")
        if not found:
            print(f"{table.model_type}: no stack of layers was asked")
    print(f"{len(seen)} families: {dict(counts)}")


if __name__ == "__main__":
    main()
