"""200 random requests of every decoder family, in every format: greedy tokens are equal alone and in every company.

Families are those of the parity tests' tables that write from text. ``OMNIFORM_REQUESTS`` asks for fewer. A family
whose layers torch computes is told, and not held to bits that torch does not promise.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS / "parity"))

from harness import TABLES, Case, build  # noqa: E402
from writers import Prompts, Sources  # noqa: E402

from equal_rows import FORMATS, answered, narrow_matrices_too, requests  # noqa: E402
from omniform.native.library import library  # noqa: E402

COUNT = int(os.environ.get("OMNIFORM_REQUESTS", "200"))
for path in sorted((TESTS / "parity").glob("test_*.py")):
    import_module(path.stem)
WRITERS = {
    table.model_type: table
    for table in TABLES
    if table.writes is not None and isinstance(table.writes[1], Prompts | Sources)
}
pytestmark = pytest.mark.skipif(library() is None, reason="no kernels here")


def prompts_of(case: Case, count: int) -> list[object]:
    """Texts, or texts to be answered."""
    writer = case.table.writes[1]
    rows = requests(count, 1, writer.vocabulary)
    return [{"input_ids": torch.tensor([row])} for row in rows] if isinstance(writer, Sources) else list(rows)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("name", WRITERS)
def test_tokens_are_equal(name, dtype):
    table = WRITERS[name]
    case = table.case(table.writes[0], scale=table.scale)
    with narrow_matrices_too():
        model = build(case).again(case, dtype=dtype)
        if not model.can_generate():  # BERT and its kin, as decoders
            model = build(case).again(case, dtype=dtype, is_decoder=True)
        found = answered(model, prompts_of(case, COUNT))
    print(f"\n{name} {dtype}: unequal {found.unequal}, bits {found.bits}, torch: {sorted(found.reasons)}")
    if found.reasons:
        pytest.skip(f"layers are torch's: {sorted(found.reasons)[0]}; unequal {found.unequal}")
    assert not found.unequal and not found.bits
