"""Outputs, batches, errors, generation settings: the small values that users hold."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.utils._pytree as pytree

from omniform.core import errors
from omniform.core.batch import Batch, Span
from omniform.core.errors import InputError, OmniformError, check_arguments, nearest
from omniform.core.outputs import BaseModelOutput, CausalLMOutput, DetectorModelOutput, DualEncoderOutput
from omniform.core.spans import find_spans

LOGITS, STATES = torch.ones(2, 3), (torch.zeros(1), torch.ones(1))


def test_outputs_by_attribute_key_and_index():
    output = CausalLMOutput(logits=LOGITS, hidden_states=STATES)
    assert output.logits is LOGITS and output["logits"] is LOGITS and output[0] is LOGITS
    assert output[1] is STATES and output[-1] is STATES and output["hidden_states"] is STATES
    assert output[:1] == (LOGITS,) and output[1:] == (STATES,)
    assert output.loss is None and output.get("loss", 3) == 3 and output.get("logits") is LOGITS
    assert list(output) == output.keys() == ["logits", "hidden_states"]
    assert len(output) == 2 and "logits" in output and "loss" not in output
    assert output.to_tuple() == (LOGITS, STATES) == tuple(output.values())
    assert dict(output.items()) == {"logits": LOGITS, "hidden_states": STATES}
    with pytest.raises(KeyError, match="Did you mean 'logits'"):
        output["logit"]
    with pytest.raises(KeyError, match="loss"):
        output["loss"]  # None entries are not there
    with pytest.raises(IndexError):
        output[2]


def test_a_loss_comes_first():
    output = CausalLMOutput(loss=torch.tensor(1.0), logits=LOGITS)
    loss, logits = output.to_tuple()
    assert loss.item() == 1.0 and logits is LOGITS and output[:2] == (loss, logits)


def test_what_was_noted_stands_after_what_a_class_adds():
    whole = BaseModelOutput(LOGITS, LOGITS, router_logits=STATES, attentions=STATES, hidden_states=STATES)
    assert whole.keys() == ["last_hidden_state", "pooler_output", "hidden_states", "attentions", "router_logits"]
    pair = DetectorModelOutput(LOGITS, intermediate_hidden_states=LOGITS, encoder_last_hidden_state=LOGITS)
    assert pair.keys() == ["last_hidden_state", "encoder_last_hidden_state", "intermediate_hidden_states"]
    assert pair.noted()["encoder_last_hidden_state"] is LOGITS and whole.noted()["attentions"] is STATES
    again = pytree.tree_map(lambda entry: entry, pair)
    assert type(again) is DetectorModelOutput and again.keys() == pair.keys()


def test_nested_outputs_become_tuples():
    inner = BaseModelOutput(last_hidden_state=LOGITS)
    output = DualEncoderOutput(logits_per_image=LOGITS, text_model_output=inner)
    assert output.to_tuple() == (LOGITS, (LOGITS,))
    assert output.text_model_output is inner


def test_batch_entries_read_as_attributes():
    batch = Batch({"input_ids": LOGITS}, spans=[Span("image", 0, 1, 4, 0)])
    assert batch.input_ids is LOGITS and batch["input_ids"] is LOGITS and dict(**batch) == {"input_ids": LOGITS}
    assert batch.spans == (Span("image", 0, 1, 4, 0),)
    assert batch.tensor("input_ids") is LOGITS
    with pytest.raises(AttributeError, match="Did you mean 'input_ids'"):
        batch.input_id  # noqa: B018
    for name in ("nothing", "word"):
        with pytest.raises(InputError, match=name):
            Batch({"word": "a"}).tensor(name)


def test_batches_can_be_copied_and_pickled():
    batch = Batch({"a": torch.ones(2)}, spans=[Span("audio", 0, 0, 1, 0)])
    for again in (copy.deepcopy(batch), copy.copy(batch), pickle.loads(pickle.dumps(batch))):
        assert type(again) is Batch and torch.equal(again.a, batch.a) and again.spans == batch.spans


def test_batches_move_whatever_they_hold():
    labels = [Batch({"boxes": torch.ones(2, 4), "class_labels": torch.tensor([1, 2])}), {"boxes": torch.zeros(1, 4)}]
    batch = Batch({
        "pixel_values": torch.ones(1), "input_ids": torch.ones(1, dtype=torch.long), "labels": labels,
        "pair": (torch.ones(1), "word"), "names": ["a"], "number": 3, "none": None,
    })  # fmt: skip
    moved = batch.to(torch.bfloat16)
    assert moved is batch
    assert batch.pixel_values.dtype == torch.bfloat16 and batch.input_ids.dtype == torch.long
    assert batch.labels[0]["boxes"].dtype == torch.bfloat16 and batch.labels[1]["boxes"].dtype == torch.bfloat16
    assert batch.labels[0].class_labels.dtype == torch.long and type(batch.labels[0]) is Batch
    assert batch.pair[0].dtype == torch.bfloat16 and batch.pair[1] == "word" and isinstance(batch.pair, tuple)
    assert (batch.names, batch.number, batch.none) == (["a"], 3, None)
    batch.to("meta", torch.float16)
    assert batch.labels[0].boxes.device.type == "meta" and batch.labels[0].boxes.dtype == torch.float16
    assert batch.labels[0].class_labels.device.type == "meta" and batch.input_ids.device.type == "meta"


def test_batches_become_tensors():
    batch = Batch({"input_ids": [[1, 2], [3, 4]], "mask": [[1, 0], [1, 1]], "text": "kept"}).as_tensors("pt")
    assert batch.input_ids.tolist() == [[1, 2], [3, 4]] and batch.text == "kept"
    assert isinstance(Batch({"a": [1.0]}).as_tensors("np").a, np.ndarray)
    assert Batch({"a": [torch.ones(2), torch.zeros(2)]}).as_tensors("pt").a.shape == (2, 2)
    assert Batch({"a": [[1], [1, 2]]}).as_tensors(None).a == [[1], [1, 2]]
    for ragged in ([[1], [1, 2]], [torch.ones(1), torch.ones(2)]):
        with pytest.raises(InputError, match=r"a: rows of different lengths.*padding=True"):
            Batch({"a": ragged}).as_tensors("pt")
    with pytest.raises(InputError, match="'tf'"):
        Batch({"a": [1]}).as_tensors("tf")


ERRORS = {
    errors.ConfigError: ValueError, errors.WeightsError: ValueError, errors.RepoError: OSError,
    errors.InputError: ValueError, errors.DependencyError: ImportError, errors.UnknownNameError: KeyError,
    errors.UnknownArgumentError: TypeError,
}  # fmt: skip


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_read_well_and_are_what_the_ecosystem_expects(kind):
    error = kind("it broke", where="file.json", expected="a", found="b", remedy="Mend it.")
    assert isinstance(error, OmniformError) and isinstance(error, ERRORS[kind])
    assert str(error) == "file.json: it broke; expected a; found b. Mend it."
    assert str(kind("it broke")) == "it broke"
    assert (error.message, error.where, error.expected, error.found) == ("it broke", "file.json", "a", "b")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(copy.copy(error)) == str(error)


def test_a_long_value_is_cut():
    error = errors.ConfigError("it broke", expected="a" * 10**6, found=["b"] * 10**6)
    assert len(str(error)) < 3000 and "characters)" in str(error)


def test_nearest():
    assert nearest("top_j", ["top_k", "temperature"]) == "Did you mean 'top_k'?"
    assert nearest("xyz", ["b", "a"]) == "Known: a, b."
    assert nearest("xyz", []) == "There are none."
    check_arguments("f", ["a"], ["a", "b"])
    with pytest.raises(TypeError, match=r"f has no argument 'tempreature'. Did you mean 'temperature'"):
        check_arguments("f", ["tempreature"], ["temperature"])


def test_spans():
    ids = torch.tensor([[5, 9, 9, 5, 9, 9], [9, 9, 9, 5, 5, 5]])
    spans = find_spans(ids, 9, [2, 2, 3], "image")
    assert [(s.row, s.start, s.length, s.item) for s in spans] == [(0, 1, 2, 0), (0, 4, 2, 1), (1, 0, 3, 2)]
    assert find_spans(ids, 7, [], "image") == []


@pytest.mark.parametrize(
    ("lengths", "row", "numbers"),
    [
        ([2, 2], "row 1", ("4 placeholder tokens for 2", "found 7")),
        ([2, 2, 3, 1], "rows 0 to 1", ("8 placeholder tokens for 4", "found 7")),
        ([4, 4], "row 1", ("8 placeholder tokens for 2", "found 7")),
        ([3, 3], "row 0", ("6 placeholder tokens for 2", "found 7")),
    ],
)
def test_a_wrong_number_of_placeholders_names_the_row_and_both_numbers(lengths, row, numbers):
    ids = torch.tensor([[5, 9, 9, 5, 9, 9], [9, 9, 9, 5, 5, 5]])
    with pytest.raises(InputError) as error:
        find_spans(ids, 9, lengths, "image")
    assert row in str(error.value) and all(number in str(error.value) for number in numbers), str(error.value)
