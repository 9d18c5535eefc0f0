"""200 random requests of every decoder family, in every format: greedy tokens are equal alone and in every company.

Families are those of the parity tests' tables that write from text, and the architectures of GGUF files, in every type
of blocks and with prompts past windows and blocks of keys. ``OMNIFORM_REQUESTS`` asks for fewer. A family whose layers
torch computes is told, and not held to bits that torch does not promise.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "parity"), str(TESTS / "hub")]

import gguf_random  # noqa: E402
from harness import TABLES, Case, build  # noqa: E402
from writers import Prompts, Sources  # noqa: E402

from equal_rows import FORMATS, answered, answered_otherwise, narrow_matrices_too, requests  # noqa: E402
from omniform.native.library import library  # noqa: E402
from reference import omniform  # noqa: E402

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


def check(name, form, found):
    """Nobody's tokens and nobody's vectors were others; who is torch's is told."""
    print(f"\n{name} {form}: unequal {found.unequal}, bits {found.bits}, torch: {sorted(found.reasons)}")
    if found.reasons:
        pytest.skip(f"layers are torch's: {sorted(found.reasons)[0]}; unequal {found.unequal}")
    assert not found.unequal and not found.bits


@pytest.mark.parametrize("ask", [answered, answered_otherwise], ids=lambda ask: ask.__name__)
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("name", WRITERS)
def test_tokens_are_equal(name, dtype, ask):
    table = WRITERS[name]
    case = table.case(table.writes[0], scale=table.scale)
    with narrow_matrices_too():
        model = build(case).again(case, dtype=dtype)
        if not model.can_generate():  # BERT and its kin, as decoders
            model = build(case).again(case, dtype=dtype, is_decoder=True)
        check(name, dtype, ask(model, prompts_of(case, COUNT)))


@pytest.mark.parametrize("ask", [answered, answered_otherwise], ids=lambda ask: ask.__name__)
@pytest.mark.parametrize("form", gguf_random.FORMATS)
@pytest.mark.parametrize("name", gguf_random.CASES)
def test_tokens_of_gguf_files_are_equal(name, form, ask, tmp_path):
    path = gguf_random.random_file(tmp_path, name, form)
    with narrow_matrices_too():
        model = omniform.AutoModelForCausalLM.from_pretrained(path)
        check(name, form, ask(model, requests(COUNT, 1, gguf_random.SIZE, longest=100)))
