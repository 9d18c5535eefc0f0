"""Calls of which only the loss is wanted: the same loss and gradients, and less is computed."""

from __future__ import annotations

import pytest
import torch
from test_loss_items import HEADS, LENGTH, built, learned
from torch import Tensor, nn

from citizens import CITIZENS, Text, ids, registered, shared
from omniform.architectures.labels import IGNORED
from omniform.blocks import packed as packing
from omniform.core.packed import PackedContext
from reference import close, omniform

ROWS = 4
MASK = (torch.arange(LENGTH)[None] < torch.tensor([7, 2, 1, 4])[:, None]).long()
LABELS = ids(ROWS, LENGTH).masked_fill(MASK == 0, IGNORED)
LABELS[0, 3] = IGNORED

COMPUTED_WHOLE = {
    "deberta", "deberta-v2", "esm",  # padding is a part of what they compute
    "mamba", "mamba2", "bamba", "falcon_h1", "qwen3_next",  # recurrences read rows side by side
    "gpt2, two heads",
}  # fmt: skip


PICTURED = {"pixel_values", "visual_feats"}


def taught() -> list[str]:
    """Models that learn tokens of texts alone, and encoder-decoders."""
    asks = {n: c for n, c in registered().items() if {"attention_mask", "labels"} <= shared(n).accepts()}
    return [
        n
        for n, c in asks.items()
        if isinstance(c.asks, Text) and c.asks.labels == "words" and not PICTURED & shared(n).accepts()
    ]


@pytest.fixture
def steps(monkeypatch):
    """The tokens of every packed step."""
    seen: list[int] = []
    init = PackedContext.__init__

    def noted(self, *args, **fields):
        init(self, *args, **fields)
        seen.append(self.positions.shape[-1])

    monkeypatch.setattr(PackedContext, "__init__", noted)
    return seen


def inputs_of(name: str) -> dict[str, Tensor]:
    model, inputs = shared(name), {"input_ids": ids(ROWS, LENGTH), "attention_mask": MASK}
    if model.main_input != "input_ids":
        return {**CITIZENS[name].asks.inputs(ROWS, LENGTH), "labels": LABELS}
    return {**inputs, "labels": LABELS}


@pytest.mark.parametrize("name", taught())
def test_the_loss_and_its_gradients_are_the_same(name, steps):
    model, inputs = built(CITIZENS[name]), inputs_of(name)
    if model.main_input != "input_ids":
        inputs.pop("decoder_input_ids", None)
    for count in (None, torch.tensor(31)):
        whole = model(**inputs, num_items_in_batch=count)
        whole.loss.backward()
        expected = learned(model)
        assert not steps and "logits" in whole
        lean = model(**inputs, num_items_in_batch=count, loss_only=True)
        lean.loss.backward()
        close(lean.loss.detach(), whole.loss.detach(), "loss", 1e-5)
        found = learned(model)
        assert found.keys() == expected.keys()
        for path in expected:
            close(found[path], expected[path], path, 1e-5)
        if name not in COMPUTED_WHOLE and model.main_input == "input_ids":
            assert {*steps} == {int(MASK.sum())}, "padding was left out"
        steps.clear()


@pytest.mark.parametrize("name", HEADS)
def test_heads_of_all_kinds_give_the_same_loss(name):
    citizen, inputs = HEADS[name]
    model = built(citizen)
    mask, labels = inputs.get("attention_mask"), inputs.get("labels")
    if mask is not None and isinstance(labels, Tensor) and labels.shape == mask.shape and "replaced" not in name:
        inputs = {**inputs, "labels": labels.masked_fill(mask == 0, IGNORED)}
    whole = model(**inputs).loss
    whole.backward()
    expected = learned(model)
    lean = model(**inputs, loss_only=True).loss
    lean.backward()
    close(lean.detach(), whole.detach(), "loss", 1e-5)
    found = learned(model)
    for path in expected:
        close(found[path], expected[path], path, 1e-5)


def test_rows_told_by_their_last_token_leave_padding_out_where_mask_and_ids_agree(steps):
    citizen, inputs = HEADS["rows, told last"]
    model = built(citizen)
    model(**inputs, loss_only=True)
    assert not steps, "the tokens that the mask hides are no padding, and the last of them is what counts"
    inputs = {**inputs, "input_ids": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, 0)}
    close(model(**inputs, loss_only=True).loss.detach(), model(**inputs).loss.detach(), "loss", 1e-5)
    assert {*steps} == {int(inputs["attention_mask"].sum())}


def test_labels_of_padding_are_scored_as_ever(steps):
    model = built(CITIZENS["llama"])
    inputs = {**inputs_of("llama"), "labels": ids(ROWS, LENGTH)}
    close(model(**inputs, loss_only=True).loss.detach(), model(**inputs).loss.detach(), "loss", 1e-5)
    assert not steps


@pytest.mark.parametrize("name", ["llama", "bert", "gpt_oss", "gemma2", "t5", "deepseek_v3"])
def test_recomputed_layers_have_the_same_gradients(name):
    model, inputs = built(CITIZENS[name]), inputs_of(name)
    model(**inputs, loss_only=True).loss.backward()
    expected = learned(model)
    model.gradient_checkpointing_enable()
    model(**inputs, loss_only=True).loss.backward()
    for path, found in learned(model).items():
        close(found, expected[path], path, 1e-6)


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2", "t5"])
def test_under_autocast(name):
    model, inputs = built(CITIZENS[name]), inputs_of(name)
    losses = []
    for more in ({}, {"loss_only": True}):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**inputs, **more).loss
        loss.backward()
        assert loss.dtype == torch.float32
        losses.append((loss.detach(), learned(model)))
    close(losses[1][0], losses[0][0], "loss", 3e-2)
    for path, grad in losses[0][1].items():
        assert (losses[1][1][path] - grad).norm() <= 0.08 * grad.norm() + 1e-3, path


def test_attention_weights_are_dropped(monkeypatch):
    seen = []
    original = packing.attend_padded
    monkeypatch.setattr(packing, "attend_padded", lambda *a, **k: seen.append(k["dropout"]) or original(*a, **k))
    model = omniform.BertForMaskedLM(omniform.BertConfig(
        vocab_size=61, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        attention_probs_dropout_prob=0.25,
    )).train()  # fmt: skip
    model(**inputs_of("bert"), loss_only=True).loss.backward()
    assert seen == [0.25] * ROWS
    model.eval()(**inputs_of("bert"), loss_only=True)
    assert seen[ROWS:] == [0.0] * ROWS


@pytest.mark.parametrize("adapted", ["hook", "adapter", "frozen", "tied"])
def test_a_projection_that_is_more_than_a_matrix(adapted):
    model, inputs = built(CITIZENS["gpt2" if adapted == "tied" else "llama"]), inputs_of("llama")
    called = []
    if adapted == "hook":
        model.lm_head.register_forward_hook(lambda *_: called.append(1))
    elif adapted == "adapter":
        model.lm_head = nn.Sequential(model.lm_head, nn.Linear(61, 61))
    elif adapted == "frozen":
        model.lm_head.weight.requires_grad_(False)
    model(**inputs).loss.backward()
    expected = learned(model)
    called.clear()
    model(**inputs, loss_only=True).loss.backward()
    assert bool(called) == (adapted == "hook")
    found = learned(model)
    assert found.keys() == expected.keys()
    for path in expected:
        close(found[path], expected[path], path, 1e-5)


def test_what_the_host_cannot_see_is_computed_and_scored_in_pieces(monkeypatch):
    for module in ("lean", "unpadded"):
        monkeypatch.setattr(f"omniform.architectures.{module}.is_readable", lambda x: False)
    monkeypatch.setattr("omniform.architectures.lean.SCORES", 3 * 61)
    for name in ("llama", "bart", "gemma2"):
        model, inputs = built(CITIZENS[name]), inputs_of(name)
        model(**inputs).loss.backward()
        expected = learned(model)
        out = model(**inputs, loss_only=True)
        out.loss.backward()
        assert "logits" not in out
        for path, found in learned(model).items():
            close(found, expected[path], path, 1e-5)


def test_whoever_asks_to_see_more_sees_it(steps):
    model, inputs = built(CITIZENS["llama"]), inputs_of("llama")
    out = model(**inputs, loss_only=True, output_hidden_states=True)
    assert len(out.hidden_states) == 3 and out.hidden_states[0].shape[:2] == MASK.shape and not steps
    out = model(input_ids=inputs["input_ids"], attention_mask=MASK, loss_only=True)
    assert out.logits.shape[:2] == MASK.shape and not steps
    close(out.logits, model(input_ids=inputs["input_ids"], attention_mask=MASK).logits, "logits", 1e-6)


def test_forwards_and_hooks_of_the_users_own_see_all(steps):
    class Own(omniform.LlamaForCausalLM):
        def forward(self, input_ids, attention_mask=None, labels=None, **more):
            assert not more
            out = super().forward(input_ids, attention_mask=attention_mask, labels=labels)
            assert out.logits.shape[:2] == input_ids.shape
            return out

    inputs = inputs_of("llama")
    Own(shared("llama").config)(**inputs, loss_only=True).loss.backward()
    model = built(CITIZENS["llama"])
    model.register_forward_hook(lambda m, args, out: out.logits.shape)
    model(**inputs, loss_only=True)
    assert not steps


def test_the_trainer_wants_the_loss_only(steps, tmp_path):
    rows = [{"input_ids": ids(1, n, 5)[0], "labels": ids(1, n, 5)[0]} for n in (7, 2, 3, 7, 1, 5)]

    def collate(rows):
        pad = torch.nn.utils.rnn.pad_sequence
        tokens = pad([row["input_ids"] for row in rows], batch_first=True)
        mask = pad([torch.ones_like(row["input_ids"]) for row in rows], batch_first=True)
        labels = pad([row["labels"] for row in rows], batch_first=True, padding_value=IGNORED)
        return {"input_ids": tokens, "attention_mask": mask, "labels": labels}

    asked = {"max_steps": 2, "per_device_train_batch_size": 3, "report_to": "none", "disable_tqdm": True,
        "train_sampling_strategy": "sequential", "use_cpu": True, "save_strategy": "no"}  # fmt: skip
    arguments = omniform.TrainingArguments(str(tmp_path), **asked)
    trainer = omniform.Trainer(built(CITIZENS["llama"]), arguments, train_dataset=rows, data_collator=collate)
    trainer.train()
    assert steps == [12, 13]

    class Looking(omniform.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss, out = super().compute_loss(model, inputs, True, num_items_in_batch)
            assert out.logits.shape[:2] == inputs["input_ids"].shape
            return (loss, out) if return_outputs else loss

    Looking(built(CITIZENS["llama"]), arguments, train_dataset=rows, data_collator=collate).train()
    assert len(steps) == 2
