"""Numbers of users: what is one, and that whole numbers without end are refused wherever numbers are read."""

from __future__ import annotations

import contextlib

import pytest
import torch

import omniform
from omniform.core.errors import OmniformError
from omniform.core.numbers import is_finite
from omniform.core.settings import SETTINGS


@pytest.mark.parametrize("value", [0, -1, 1.5, 10**300, -0.0])
def test_numbers(value):
    assert is_finite(value)


@pytest.mark.parametrize(
    "value", [True, None, "1", [1], float("inf"), float("-inf"), float("nan"), 10**400, -(10**400)]
)
def test_no_numbers(value):
    assert not is_finite(value)


@pytest.fixture(scope="module")
def model():
    config = omniform.AutoConfig.for_model(
        "llama", vocab_size=97, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    return omniform.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.filterwarnings("ignore")
def test_whole_numbers_without_end(model, name):
    for value in (10**400, -(10**400), [10**400], {"a": 10**400}):
        given = {name: value} if name == "max_new_tokens" else {"max_new_tokens": 1, name: value}
        with contextlib.suppress(OmniformError):  # whatever is wrong with it is said, or it is taken
            model.generate(torch.tensor([[3, 4]]), **given)
