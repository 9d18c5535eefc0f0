"""Which cases of wide tables a run of the whole suite leaves out.

Many checks times many families is more than a quarter of an hour holds. Where one check is tried on hundreds of
families, and the code that it is about is shared by all of them, a run of the whole suite tries one case in N: every
check on some families, every family by some checks, the principal families by all. `make exhaustive` runs all, and so
does any run that names a path: `pytest tests/citizens`, `pytest tests/parity/test_bert.py`.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pytest

ONE_IN: dict[str, int] = {
    # What the ecosystem's tools do to a model: what they stumble over is in the modules, which families share.
    "citizens": 3,
    "citizens/test_citizen_models.py": 8,
    "citizens/test_citizen_models.py::test_export": 12,
    "citizens/test_citizen_models.py::test_compile": 12,
    "citizens/test_citizen_models.py::test_jit_trace": 8,
    "citizens/test_adapter_files.py": 4,
    "citizens/test_beginnings.py": 6,
    "citizens/test_loss_only.py": 4,
    "citizens/test_packed_rows.py": 4,
    "blocks/test_attention_by_name.py": 3,
    # The project's own benchmarks in their small size: each starts processes.
    "bench/test_bench_own_configs.py::test_the_first_run_goes_through": 5,
    # The engine's promises in every arrangement of steps, kernels and families.
    "engine": 2,
    "engine/test_beam_generate.py::test_beams_token_for_token": 4,
    "engine/test_beams.py::test_families_token_for_token": 4,
    "engine/test_block_pool.py::test_random_operations_keep_the_account": 4,
    "engine/test_cache_dtypes.py::test_rows_are_alike_in_every_company": 3,
    "engine/test_contract.py": 6,
    "engine/test_contrasts.py::test_contrastive_search_by_definition": 3,
    "engine/test_faults.py::test_a_row_that_makes_steps_fail": 4,
    "engine/test_guesses.py::test_tokens_are_the_same_with_guesses": 3,
    "engine/test_hearing.py::test_window_after_window": 4,
    "engine/test_request_options.py": 4,
    "engine/test_settings_table.py::test_a_value_without_effect_is_never_refused": 3,
    "engine/test_settings_table.py::test_odd_values_of_every_setting": 8,
    "engine/test_speculation_assistants.py": 3,
    "engine/test_stress.py::test_many_requests": 3,
    # The parity harness: every head gives the reference's numbers and is saved as it was, every family reads in pieces
    # what it reads whole; of the rest, some.
    "parity::test_variant_outputs": 6,
    "parity::test_small_outputs": 12,
    "parity::test_crossed_outputs": 8,
    "parity::test_variants_saved_as_they_were": 8,
    "parity::test_bfloat16": 24,
    "parity::test_old_spellings": 4,
    "parity::test_labels_are_checked_where_they_arrive": 6,
    "parity::test_labels_of_several_batches": 4,
    "parity::test_a_program_is_its_modules": 4,
    "parity::test_packed_steps": 3,
    "parity::test_trains": 8,
    "parity::test_base_and_head_load_one_another": 8,
    "parity::test_cached_equals_uncached_in_variants": 5,
    "parity::test_writes_the_same_tokens": 3,
    "parity::test_losses": 3,
    "parity::test_bad_inputs": 3,
    "parity::test_inputs_refused": 3,
    "parity::test_variants_write_the_same_tokens": 8,
    # Values of every other kind in every argument: the doors are shared.
    "inputs/test_audio_extractors.py::test_every_kind_of_sound": 3,
    "inputs/test_audio_extractors.py::test_settings_and_calls": 3,
    "inputs/test_images_kinds.py::test_options_and_kinds_of_pictures": 3,
    "inputs/test_images_other_kinds.py::test_calls_and_settings": 4,
    "inputs/test_tokenizers_types.py": 3,
    "inputs/test_own_tokenizers.py::test_calls": 3,
    # Folders as older releases wrote them: every kind of tokenizer times every release and every step.
    "inputs/test_tokenizers_files.py::test_older_releases": 5,
    "inputs/test_tokenizers_files.py::test_older_tokenizer_json": 5,
    # Files of packed matrices, each format times families, widths and placings.
    "quantize": 2,
    "quantize/test_awq_format.py::test_read_computed_and_saved": 3,
    "quantize/test_bitsandbytes_models.py::test_files_are_alike_and_read_by_each_other": 4,
    "quantize/test_formats_placed.py": 4,
    "quantize/test_gptq_format.py::test_whole_models": 3,
    "quantize/test_gptq_making.py::test_settings": 3,
    "quantize/test_native_format.py::test_made_saved_and_loaded": 3,
    "quantize/test_quantize_command.py::test_every_target_is_made_and_read": 3,
    "hub/test_gguf_families.py::test_experts_stay_in_their_blocks": 4,
    "hub/test_gguf_kept.py::test_blocks_come_back_byte_for_byte": 4,
    "hub/test_attention_names.py::test_flex_writes_what_sdpa_writes": 4,
    # A process or two for each case, of a machine's memory or of training.
    "train": 2,
    "core/test_background.py::test_the_program_s_exit_code_stands": 2,
    "hub/test_files.py::test_an_unreachable_hub_is_one_line_within_ten_seconds": 2,
    "hub/test_place.py::test_resident_memory": 2,
    "train/test_train_command.py::test_tasks": 3,
    "train/test_train_counting.py::test_any_split": 3,
    "train/test_train_fsdp.py::test_layers_are_found_by_structure": 6,
    "train/test_train_memory.py::test_compiled_models_of_more_kinds_train": 2,
    "train/test_train_padding.py::test_every_family_keeps_the_padding_token_as_the_reference_does": 6,
    "train/test_train_processes.py": 2,
    "train/test_train_reading.py::test_goes_on_with_workers": 3,
    "train/test_train_resume.py::test_from_every_checkpoint": 3,
    # A file is written and read in seconds: those of principal families are; of the others some.
    "export/test_eject.py::test_main_heads": 4,
    "export/test_eject.py::test_other_main_heads": 8,
    "export/test_eject.py::test_all_heads": 9,
    "export/test_eject.py::test_files_are_in_good_form": 2,
    "export/test_eject.py::test_what_is_not_written_down_is_refused": 4,
    # A compiler and sanitizers for a minute and a half each: the first, this machine's own.
    "native/test_driver.py::test_kernels": 9,
    "native/test_driver.py::test_products_where_others_have_instructions": 9,
}
"""Of what one case in how many is tried: a folder, a file or a function (`file.py::test_name`, or `folder::test_name`
of every file in it), seen from tests/. What is named most closely decides; 1 keeps all.

What alone guards a family (that its heads give the reference's numbers, its key table, its config, saved and loaded
again) does not belong here."""

PRINCIPAL = frozenset({"llama", "bert", "t5", "whisper", "llava", "vit"})
"""One family of each kind, of which all cases are tried: by the name of the file, or by a word of the case."""

FEW = ("engine/", "export/", "quantize/")
"""Where there are few families and most are principal: there these are thinned as all others are."""


@dataclass(frozen=True)
class Case:
    """One case of a test.

    Attributes:
        file: the file's path, seen from tests/.
        check: the function, after its class if it has one.
        id: what stands in brackets, or None for a function without cases.
    """

    file: str
    check: str
    id: str | None


def left_out(cases: Sequence[Case], one_in: Mapping[str, int] = ONE_IN) -> set[int]:
    """Which cases are not tried, as places in the list.

    The cases of a file are a table with a column for each check and a row for each id, shuffled, for ids that stand
    beside one another are often alike ("bert", "bert, masked"); what is kept are diagonals of it: one id in N of every
    check, one check in N of every id.

    Args:
        cases: all cases of a run, in order.
        one_in: as ``ONE_IN``.
    """
    ids, checks = defaultdict(set), defaultdict(dict)
    for case in cases:
        checks[case.file].setdefault(case.check, len(checks[case.file]))
        ids[case.file].add(case.id or "")
    rows = {file: {name: row for row, name in enumerate(sorted(found, key=_shuffled))} for file, found in ids.items()}

    kept: dict[tuple[str, str], int] = defaultdict(int)
    tables = [_table(case, one_in) for case in cases]
    out: list[int] = []
    for place, case in enumerate(cases):
        n = thinned(case, one_in)
        turn = rows[case.file][case.id or ""] + checks[case.file][case.check]
        if case.id is None or n == 1 or turn % n == 0 or principal(case):
            kept[tables[place]] += 1
        else:
            out.append(place)
    # A check of so few cases that no diagonal meets it keeps its first.
    first = {tables[place]: place for place in reversed(out)}
    return {*out} - {place for check, place in first.items() if not kept[check]}


def thinned(case: Case, one_in: Mapping[str, int] = ONE_IN) -> int:
    """One in how many of the cases of this one's kind is tried."""
    return one_in.get(_rule(case, one_in), 1)


def _table(case: Case, one_in: Mapping[str, int]) -> tuple[str, str]:
    """Of what a case is one: a check of a file, or one that the files of a folder share."""
    rule = _rule(case, one_in)
    folder, _, check = rule.partition("::")
    return (folder, check) if check and not folder.endswith(".py") else (case.file, case.check)


def _rule(case: Case, one_in: Mapping[str, int]) -> str:
    """What names it most closely; empty if nothing does."""
    own, folders = case.check.rpartition("::")[2], [*map(str, PurePosixPath(case.file).parents)]
    shared = (f"{folder}::{own}" for folder in folders)
    names = (f"{case.file}::{case.check}", *shared, case.file, *folders)
    return next((name for name in names if name in one_in), "")


def principal(case: Case) -> bool:
    """Whether a case is about a family of which all is tried."""
    if case.file.startswith(FEW):
        return False
    name = PurePosixPath(case.file).stem.removeprefix("test_")
    return not PRINCIPAL.isdisjoint((name, *_words(case.id or "")))


def _shuffled(name: str) -> tuple[int, str]:
    return zlib.crc32(name.encode()), name


def _words(text: str) -> Iterable[str]:
    return re.findall(r"\w+", text)


# What follows are pytest's hooks; conftest.py registers this module.

_THIN, _OUT = pytest.StashKey[bool](), pytest.StashKey[tuple[int, int]]()
"""Whether a run leaves cases out; how many, of how many."""


def pytest_configure(config: pytest.Config) -> None:
    told = getattr(config, "workerinput", None)  # what the process says that started this one
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    config.stash[_THIN] = told["thin"] if told else not named


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:  # type: ignore[no-untyped-def]  # a worker of xdist, before it starts
    node.workerinput["thin"] = node.config.stash[_THIN]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.stash[_THIN]:
        return
    out = left_out([case_of(item) for item in items])
    config.stash[_OUT] = len(out), len(items)
    if hasattr(config, "workeroutput"):
        config.workeroutput["left out"] = config.stash[_OUT]
    if out:
        config.hook.pytest_deselected(items=[items[place] for place in sorted(out)])
        items[:] = [item for place, item in enumerate(items) if place not in out]


def case_of(item: pytest.Item) -> Case:
    """A test as a row and a column of its file's table."""
    file, _, check = item.nodeid.partition("::")
    held = getattr(item, "callspec", None)
    name = check.removesuffix(f"[{held.id}]") if held else check
    return Case(file.removeprefix("tests/"), name, held.id if held else None)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error: object) -> None:  # type: ignore[no-untyped-def]  # a worker of xdist that ended
    found = getattr(node, "workeroutput", {}).get("left out")
    if found:
        node.config.stash[_OUT] = tuple(found)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    out, every = config.stash.get(_OUT, (0, 0))
    if out:
        terminalreporter.write_line(
            f"{out:,} of {every:,} cases were left out (tests/thinning.py); `make exhaustive` runs all"
        )
