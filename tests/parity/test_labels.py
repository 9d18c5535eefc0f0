"""Labels that no loss can be computed from are refused where they arrive, by every head of every family."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch
from harness import TABLES, Case

from omniform.core.errors import InputError
from reference import omniform

for _path in Path(__file__).parent.glob("test_*.py"):
    if _path.stem != Path(__file__).stem:
        import_module(_path.stem)


def cases() -> list[Case]:
    """Every head with a loss, as it is, once."""
    return [case for table in TABLES for case in table.taught()]


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.table.model_type}, {case}")
def test_labels_are_checked_where_they_arrive(case: Case) -> None:
    inputs = case.lesson()
    assert inputs is not None
    name = case.architecture.auto or case.architecture.reference
    told = {name: value for name, value in case.config().to_dict().items() if not name.startswith("_")}
    config = omniform.AutoConfig.for_model(**told)
    model = getattr(omniform, name).from_config(config) if name.startswith("Auto") else getattr(omniform, name)(config)
    rules = model.targets()
    assert rules or not isinstance(inputs.get("labels"), torch.Tensor), "it says what its labels may be"
    reached = []
    model.base_model.register_forward_pre_hook(lambda *_: reached.append(1))
    for key in [key for key in rules if key in inputs]:
        given = inputs[key]
        wrong: dict[str, object] = {"a text": "labels"}
        if given.dtype is torch.int64 and "regression" not in str(case):
            wrong["far"] = torch.where(torch.arange(given.numel()).view(given.shape) == 0, 10**6, given)
            wrong["negative"] = torch.where(torch.arange(given.numel()).view(given.shape) == 0, -7, given)
        if "positions" in key:
            del wrong["far"]  # past the end: left out of the loss, as the reference does
        elif "one class" in str(case):
            wrong.pop("negative", None)  # leaves a pixel out
        elif case.table.model_type.startswith("deberta") and "Sequence" in str(case):
            wrong = {k: v for k, v in wrong.items() if k in ("a text", "far")}  # negative ones leave a row out
        for what, labels in wrong.items():
            with pytest.raises(InputError) as caught:
                model(**{**inputs, key: labels})
            assert key in str(caught.value) and not reached, (key, what)
            if what in ("far", "negative"):
                assert str(int(labels.flatten()[0])) in str(caught.value) and "0" in str(caught.value)
        for labels in (given[..., None, None].expand(*given.shape, 2, 3), given[:1].expand(5, *given.shape[1:])):
            with pytest.raises(InputError):
                model(**{**inputs, key: labels})
        reached.clear()
