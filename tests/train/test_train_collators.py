"""Collators give what the reference's give, field for field and draw for draw; what makes no batch is named."""

from __future__ import annotations

import pickle
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from train_tokenizers import MADE, both, texts, write
from transformers.data import data_collator as theirs_module

import omniform
from omniform import data
from omniform.core.errors import InputError
from omniform.train import collators
from reference import transformers

KINDS = ("pt", "np")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[object, object]]:
    root = tmp_path_factory.mktemp("tokenizers")
    made = {kind: both(write(kind, root / kind)) for kind in MADE}
    return {**made, "left": both(write("wordpiece", root / "left", side="left"))}


def same(mine: dict, theirs: dict) -> None:
    """One batch is the other: names, order, kinds, dtypes, shapes, values."""
    assert [*mine] == [*theirs]
    for name, expected in theirs.items():
        found = mine[name]
        if isinstance(expected, Tensor):
            assert isinstance(found, Tensor), name
            assert found.dtype == expected.dtype and torch.equal(found, expected), name
        elif isinstance(expected, np.ndarray):
            assert isinstance(found, np.ndarray), name
            assert found.dtype == expected.dtype and np.array_equal(found, expected), name
        else:
            assert type(found) is type(expected) and found == expected, name


def seeded(call: object) -> object:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    return call()


def as_given(kind: str, rows: list[dict]) -> list[dict]:
    """Rows as a dataset may give them: lists, tensors, arrays."""
    if kind == "list":
        return rows
    make = torch.tensor if kind == "tensor" else np.array
    return [{k: v if isinstance(v, str) else make(v) for k, v in row.items()} for row in rows]


# ---- default

ROWS = [
    [{"label": i, "inputs": [i] * 6} for i in range(4)],
    [{"label": i / 2, "x": [0.5 * i, 1.0]} for i in range(3)],
    [{"label_ids": [0, 1, i], "mask": [True, False]} for i in range(3)],
    [{"label_ids": [0.5, float(i)], "b": i, "name": "left out", "none": None} for i in range(3)],
    [{"label": [0, 1, 1], "x": np.ones((2, 3), dtype=np.float32) * i} for i in range(3)],
    [{"labels": [i, 2], "pixel_values": torch.full((2, 2), float(i))} for i in range(3)],
    [{"label": torch.tensor(i), "x": torch.tensor([i, 2])} for i in range(2)],
    [{"label": np.int64(i), "x": [[1, 2], [3, i]]} for i in range(2)],
    [{"label_ids": torch.tensor([i, 1])} for i in range(2)],
    [{"label": None, "x": 1}, {"label": None, "x": 2}],
    [{"label": True}, {"label": False}],
]


@pytest.mark.parametrize("rows", ROWS, ids=range(len(ROWS)))
@pytest.mark.parametrize("kind", KINDS)
def test_default(rows: list[dict], kind: str) -> None:
    if kind == "np":
        as_array = lambda value: value.numpy() if isinstance(value, Tensor) else value
        rows = [{name: as_array(value) for name, value in row.items()} for row in rows]
    same(omniform.default_data_collator(rows, kind), transformers.default_data_collator(rows, kind))
    mine, theirs = omniform.DefaultDataCollator(kind), transformers.DefaultDataCollator(kind)
    same(mine(rows), theirs(rows))
    same(mine(rows, return_tensors="pt"), theirs(rows, return_tensors="pt")) if kind == "pt" else None


def test_default_reads_objects() -> None:
    @dataclass(slots=True)
    class Row:
        label: int
        x: list[int]

    class Plain:
        def __init__(self) -> None:
            self.label, self.x = 1, [2, 3]

    for made in (Row(1, [2, 3]), Plain()):
        batch = omniform.default_data_collator([made, made])
        assert batch["labels"].tolist() == [1, 1] and batch["x"].tolist() == [[2, 3], [2, 3]]


class Picture:
    """Something that is no number."""


FAULTS = [
    ([{"x": [1]}, {"x": ["a"]}], ["'x'", "example 1", "'a'", "Tokenize|numbers"]),
    ([{"x": [1, 2]}, {"x": [1]}], ["'x'", "example 1", "shape [1]", "Pad"]),
    ([{"labels": [1, 2]}, {"labels": [1]}], ["'labels'", "example 1", "DataCollatorForTokenClassification"]),
    ([{"x": [[1, 2], [1]]}, {"x": [[1, 2], [1]]}], ["'x'", "example 0", "different lengths"]),
    ([{"x": 1}, {"x": None}], ["'x'", "example 1", "None", "remove_columns('x')"]),
    ([{"x": 1}, {"y": 2}], ["'x'", "example 1", "['y']"]),
    ([{"x": Picture()}, {"x": Picture()}], ["'x'", "example 0", "Picture"]),
    ([{"x": {"a": 1}}, {"x": {"a": 1}}], ["'x'", "example 0", "dict"]),
    ([{"x": [b"bytes"]}], ["'x'", "example 0", "bytes"]),
    ([{"label": 1}, {"label": 0.5}], ["'label'", "example 1", "0.5", "whole"]),
    ([{"label": 1}, {"label": "cat"}], ["'label'", "example 1", "'cat'", "ClassLabel"]),
    ([{"x": torch.ones(2)}, {"x": torch.ones(3)}], ["'x'", "example 1", "[3]"]),
    ([{"x": np.array(["a"])}, {"x": np.array(["b"])}], ["'x'", "example 0"]),
    ([3, 4], ["example 0", "mapping"]),
    ([torch.ones(2)], ["example 0", "mapping"]),
    ([], ["no example"]),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "words"), FAULTS, ids=range(len(FAULTS)))
def test_columns_that_make_no_tensor_are_named(rows: list, words: list[str], kind: str) -> None:
    with pytest.raises(InputError) as caught:
        omniform.default_data_collator(rows, kind)
    text = str(caught.value)
    assert len(text) < 1900
    for word in words:
        assert any(one in text for one in word.split("|")), (word, text)


# ---- padding


@pytest.mark.parametrize("given", ["list", "tensor", "array", "encoding"])
@pytest.mark.parametrize("side", ["wordpiece", "left", "metaspace"])
@pytest.mark.parametrize("kind", KINDS)
def test_padding(pairs, given: str, side: str, kind: str) -> None:
    mine, theirs = pairs[side]
    for seed, options in enumerate(
        ({}, {"pad_to_multiple_of": 8}, {"padding": "max_length", "max_length": 60}, {"padding": "longest"})
    ):
        rows = []
        for tokenizer in (mine, theirs):
            encoded = [{**tokenizer(text)} for text in texts(4, seed)]
            encoded = [{**row, "label": i} for i, row in enumerate(encoded)]
            if given == "encoding":
                rows.append([type(tokenizer(text))({**row}) for row, text in zip(encoded, texts(4), strict=True)])
            else:
                rows.append(as_given(given, encoded))
        ours = omniform.DataCollatorWithPadding(mine, return_tensors=kind, **options)(rows[0])
        same(dict(ours), dict(transformers.DataCollatorWithPadding(theirs, return_tensors=kind, **options)(rows[1])))
        assert ours.input_ids is ours["input_ids"]


def test_padding_names_what_is_wrong(pairs) -> None:
    mine, _ = pairs["wordpiece"]
    rows = [{**mine(text)} for text in texts(3)]
    pad = omniform.DataCollatorWithPadding(mine)
    cases = {
        "text": ("the tokens", "example 0"),
        "labels": ([1] * 3, None),
        "none": (None, "example 0"),
    }
    for name, (value, where) in cases.items():
        with pytest.raises(InputError) as caught:
            pad([{**row, name: [1] * (i + 1) if where is None else value} for i, row in enumerate(rows)])
        assert repr(name) in str(caught.value) and (where or "DataCollatorForSeq2Seq") in str(caught.value)
    with pytest.raises(InputError, match=r"'extra'.*example 1"):
        pad([{**rows[0], "extra": 1}, rows[1]])
    with pytest.raises(InputError, match="no example"):
        pad([])
    bare = pickle.loads(pickle.dumps(mine))
    bare.pad_token = None
    with pytest.raises(InputError, match="no token to pad with"):
        omniform.DataCollatorWithPadding(bare)(rows)


# ---- labels beside the ids


def labelled(tokenizer: object, seed: int, name: str, same_length: bool = True) -> list[dict]:
    chance = random.Random(seed)
    rows = [{**tokenizer(text)} for text in texts(4, seed)]
    lengths = [len(row["input_ids"]) if same_length else chance.randint(1, 9) for row in rows]
    return [{**row, name: [chance.randrange(5) for _ in range(n)]} for row, n in zip(rows, lengths, strict=True)]


@pytest.mark.parametrize("name", ["label", "labels"])
@pytest.mark.parametrize("side", ["wordpiece", "left"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", ["list", "tensor", "array"])
def test_token_classification(pairs, name: str, side: str, kind: str, given: str) -> None:
    mine, theirs = pairs[side]
    for options in ({}, {"pad_to_multiple_of": 8, "label_pad_token_id": -1}):
        rows = as_given(given, labelled(mine, 3, name))
        ours = omniform.DataCollatorForTokenClassification(mine, return_tensors=kind, **options)
        other = transformers.DataCollatorForTokenClassification(theirs, return_tensors=kind, **options)
        same(dict(ours(rows)), dict(other(rows)))
    bare = [{k: v for k, v in row.items() if k != name} for row in rows]
    same(dict(ours(bare)), dict(other(bare)))


def test_token_labels_fit_their_tokens(pairs) -> None:
    mine, _ = pairs["wordpiece"]
    rows = labelled(mine, 3, "labels")
    collate = omniform.DataCollatorForTokenClassification(mine)
    for change in (lambda row: [*row, 1], lambda row: row[:-1], lambda row: [0.5] * len(row)):
        wrong = [*rows[:2], {**rows[2], "labels": change(rows[2]["labels"])}]
        with pytest.raises(InputError, match="'labels', example 2"):
            collate(wrong)
    with pytest.raises(InputError, match=r"example 1.*others have"):
        collate([rows[0], {k: v for k, v in rows[1].items() if k != "labels"}])


@pytest.mark.parametrize("side", ["wordpiece", "left"])
def test_multiple_choice(pairs, side: str) -> None:
    mine, theirs = pairs[side]
    rows = [{**mine(texts(3, seed)), "label": seed} for seed in range(3)]
    ours = omniform.DataCollatorForMultipleChoice(mine, pad_to_multiple_of=4)
    other = transformers.DataCollatorForMultipleChoice(theirs, pad_to_multiple_of=4)
    same(ours(rows), other(rows))
    assert ours(rows)["input_ids"].dim() == 3
    arrays = ours(rows, return_tensors="np")
    assert np.array_equal(arrays["labels"], [0, 1, 2]) and arrays["input_ids"].shape == ours(rows)["input_ids"].shape
    assert "labels" not in ours([{k: v for k, v in row.items() if k != "label"} for row in rows])
    with pytest.raises(InputError, match=r"example 1.*3 choices.*2 choices"):
        ours([rows[0], {**mine(texts(2)), "label": 0}])


@pytest.fixture(scope="module")
def seq2seq() -> tuple[object, object]:
    sizes = {"vocab_size": 60, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    theirs = transformers.T5ForConditionalGeneration(
        transformers.T5Config(**sizes, decoder_start_token_id=0, pad_token_id=0)
    )
    mine = omniform.AutoModelForSeq2SeqLM.from_config(
        omniform.AutoConfig.for_model("t5", **sizes, decoder_start_token_id=0, pad_token_id=0)
    )
    return mine, theirs


@pytest.mark.parametrize("given", ["list", "tensor", "array"])
@pytest.mark.parametrize("side", ["wordpiece", "left"])
def test_seq2seq(pairs, seq2seq, given: str, side: str) -> None:
    mine, theirs = pairs[side]
    for options in (
        {}, {"pad_to_multiple_of": 8}, {"padding": "max_length", "max_length": 24}, {"label_pad_token_id": -7},
    ):  # fmt: skip
        rows = as_given(given, labelled(mine, 4, "labels", same_length=False))
        models = seq2seq if "label_pad_token_id" not in options else (None, None)
        ours = omniform.DataCollatorForSeq2Seq(mine, model=models[0], **options)
        other = transformers.DataCollatorForSeq2Seq(theirs, model=models[1], **options)
        same(dict(ours(rows)), dict(other(rows)))
        arrays = omniform.DataCollatorForSeq2Seq(mine, model=models[0], return_tensors="np", **options)(rows)
        for name, value in ours(rows).items():
            assert isinstance(arrays[name], np.ndarray) and np.array_equal(arrays[name], value.numpy())
    bare = [{**row, "labels": None} for row in rows]
    assert ours(bare)["labels"] is None and other(bare)["labels"] is None
    with pytest.raises(InputError, match="at most 4 tokens"):
        short = [{**row, "input_ids": row["input_ids"][:4], "labels": [1] * 5} for row in bare]
        short = [{name: row[name] for name in ("input_ids", "labels")} for row in short]
        omniform.DataCollatorForSeq2Seq(mine, padding="max_length", max_length=4)(short)


def test_decoder_inputs_are_the_models_own(tmp_path: Path) -> None:
    labels = torch.tensor([[5, 6, -100], [7, 8, 9]])
    for kind, auto in (("bart", "AutoModelForSeq2SeqLM"), ("mbart", "AutoModelForSeq2SeqLM")):
        sizes = {"vocab_size": 60, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8}
        sizes |= {"decoder_ffn_dim": 8, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
        other = getattr(transformers, auto).from_config(transformers.AutoConfig.for_model(kind, **sizes))
        other.save_pretrained(tmp_path / kind)
        mine = getattr(omniform, auto).from_pretrained(tmp_path / kind)
        found = mine.prepare_decoder_input_ids_from_labels(labels=labels.clone())
        assert torch.equal(found, other.prepare_decoder_input_ids_from_labels(labels=labels.clone()))


# ---- language modeling


def language(pairs, kind: str, **options: object) -> tuple[object, object]:
    mine, theirs = pairs[kind]
    return (
        omniform.DataCollatorForLanguageModeling(mine, **options),
        transformers.DataCollatorForLanguageModeling(theirs, **options),
    )


MASKING = [
    {},
    {"mlm_probability": 0.5, "seed": 3},
    {"mask_replace_prob": 0.0, "random_replace_prob": 1.0, "mlm_probability": 0.4},
    {"mask_replace_prob": 0.5, "random_replace_prob": 0.4, "mlm_probability": 1, "pad_to_multiple_of": 8},
    {"mask_replace_prob": 1, "random_replace_prob": 0, "seed": 1},
    {"mlm": False},
    {"mlm": False, "pad_to_multiple_of": 16},
]


@pytest.mark.parametrize("options", MASKING, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["wordpiece", "left", "bytes"])
def test_language_modeling_masks_as_the_reference(pairs, options: dict, kind: str, side: str) -> None:
    ours, other = language(pairs, side, return_tensors=kind, **options)
    mine, _ = pairs[side]
    for special in (False, True):
        for seed in range(2):
            rows = [{**mine(text, return_special_tokens_mask=special)} for text in texts(5, seed)]
            found, expected = (seeded(lambda c=c, r=rows: c([dict(row) for row in r])) for c in (ours, other))
            same(dict(found), dict(expected))
    ids = [row["input_ids"] for row in rows]
    for given in (ids, [torch.tensor(row) for row in ids], [np.array(row) for row in ids]):
        if kind == "np" and isinstance(given[0], Tensor):
            continue  # the reference makes arrays of lists and arrays only
        found, expected = (seeded(lambda c=c, g=given: c(g)) for c in (ours, other))
        same(dict(found), dict(expected))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["wordpiece", "trimmed bytes"])
def test_whole_words_as_the_reference(pairs, kind: str, side: str) -> None:
    given = {"whole_word_mask": True, "mask_replace_prob": 1, "random_replace_prob": 0, "return_tensors": kind}
    ours, other = language(pairs, side, seed=2, mlm_probability=0.4, **given)
    mine, _ = pairs[side]
    for seed in range(3):
        # One length, since the reference cannot pad offsets.
        rows = mine(texts(6, seed, 8), return_offsets_mapping=True, return_special_tokens_mask=True)
        length = min(len(ids) for ids in rows["input_ids"])
        cut = [{name: column[i][:length] for name, column in rows.items()} for i in range(6)]
        same(dict(ours(cut)), dict(other(cut)))


@pytest.mark.parametrize("hint", ["offsets", "word_ids", "nothing"])
@pytest.mark.parametrize("side", ["wordpiece", "trimmed bytes", "bytes", "metaspace", "left"])
def test_words_are_masked_whole_whatever_the_tokenizer(pairs, side: str, hint: str) -> None:
    mine, _ = pairs[side]
    collate = omniform.DataCollatorForWholeWordMask(mine, mlm_probability=0.4, seed=1)
    found = []
    for seed in range(3):
        encoded = mine(texts(6, seed), return_offsets_mapping=hint == "offsets", return_special_tokens_mask=True)
        rows = [{name: column[i] for name, column in encoded.items()} for i in range(6)]
        if hint == "word_ids":
            rows = [{**row, "word_ids": encoded.word_ids(i)} for i, row in enumerate(rows)]
        batch = collate(rows)
        assert {"input_ids", "labels"} <= {*batch} and not {"offset_mapping", "word_ids"} & {*batch}
        for i, (row, labels) in enumerate(zip(batch["input_ids"], batch["labels"], strict=True)):
            words = texts(6, seed)[i].split()
            masked = labels != -100
            assert torch.equal(row[masked], torch.full_like(row[masked], mine.mask_token_id))
            # What is left of the text and what was masked are whole words of it.
            kept = mine.decode(row[~masked & (row != 0) & (row != 2) & (row != 3)])
            hidden = mine.decode(labels[masked])
            split = lambda text: sorted(text.replace(" ' ", "'").split())
            if "don't" not in words:
                assert sorted(split(kept) + split(hidden)) == sorted(words)
            found.append(int(masked.sum()))
    assert sum(found) > 10


def test_words_that_cannot_be_told(pairs) -> None:
    mine, _ = pairs["wordpiece"]
    plain = omniform.PreTrainedTokenizerFast(
        vocab=None, tokenizer_object=word_level(), unk_token="[UNK]", mask_token="[MASK]", pad_token="[PAD]"
    )
    collate = omniform.DataCollatorForWholeWordMask(plain)
    with pytest.raises(InputError, match="offset_mapping"):
        collate([[5, 6], [6, 5]])
    with pytest.warns(UserWarning, match="mask_replace_prob"):
        omniform.DataCollatorForLanguageModeling(mine, whole_word_mask=True)


def word_level() -> object:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fox")
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


WRONG = [
    {"mlm_probability": 1.5}, {"mlm_probability": None}, {"mlm_probability": -0.1}, {"mask_replace_prob": 2},
    {"random_replace_prob": -1}, {"mask_replace_prob": 0.8, "random_replace_prob": 0.4},
    {"mlm": False, "whole_word_mask": True},
]  # fmt: skip


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_probabilities_are_checked(pairs, options: dict) -> None:
    with pytest.raises(ValueError):
        transformers.DataCollatorForLanguageModeling(pairs["left"][1], **options)
    with pytest.raises(InputError):
        omniform.DataCollatorForLanguageModeling(pairs["left"][0], **options)


def test_tokenizers_without_mask_or_padding(pairs) -> None:
    bare = pickle.loads(pickle.dumps(pairs["wordpiece"][0]))
    bare.mask_token = None
    with pytest.raises(InputError, match="mlm=False"):
        omniform.DataCollatorForLanguageModeling(bare)
    bare.pad_token = None
    causal = omniform.DataCollatorForLanguageModeling(bare, mlm=False)
    assert causal([[5, 6], [6, 7]])["labels"].tolist() == [[5, 6], [6, 7]]
    with pytest.raises(InputError, match="no token to pad with"):
        causal([[5, 6], [6]])
    with pytest.raises(InputError, match="no token to mask"):
        omniform.DataCollatorForPermutationLanguageModeling(bare)([[5, 6], [6, 7]])


class Texts(torch.utils.data.Dataset):
    def __init__(self, rows: list) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> object:
        return self.rows[index]


def test_seeds_in_workers(pairs) -> None:
    mine, theirs = pairs["wordpiece"]
    rows = [{**mine(text)} for text in texts(12)]
    batches = []
    for module, tokenizer in ((omniform, mine), (transformers, theirs)):
        collate = module.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.4, seed=9)
        batches.append([*DataLoader(Texts(rows), batch_size=3, num_workers=2, collate_fn=collate)])
    for found, expected in zip(*batches, strict=True):
        same(dict(found), dict(expected))


@pytest.mark.parametrize("given", ["rows", "mappings"])
def test_permutation(pairs, given: str) -> None:
    mine, theirs = pairs["wordpiece"]
    ours = omniform.DataCollatorForPermutationLanguageModeling(mine, max_span_length=3)
    other = transformers.DataCollatorForPermutationLanguageModeling(theirs, max_span_length=3)
    for seed in range(3):
        ids = [row + [0] * (len(row) % 2) for row in mine(texts(4, seed))["input_ids"]]
        rows = ids if given == "rows" else [{"input_ids": row} for row in ids]
        same(seeded(lambda r=rows: ours(r)), seeded(lambda r=rows: other(r)))
    arrays = ours(rows, return_tensors="np")
    assert {name: value.dtype for name, value in arrays.items()} == {
        "input_ids": np.int64, "perm_mask": np.float32, "target_mapping": np.float32, "labels": np.int64
    }  # fmt: skip
    with pytest.raises(InputError, match="even"):
        ours([[5, 6, 7], [5, 6, 7]])


# ---- flattening


@pytest.mark.parametrize("given", ["list", "tensor", "array"])
@pytest.mark.parametrize("kind", KINDS)
def test_flattening(pairs, given: str, kind: str) -> None:
    mine, _ = pairs["wordpiece"]
    every = {"return_flash_attn_kwargs": True, "return_seq_idx": True, "position_ids_start": 2}
    for options in ({}, every, {"return_position_ids": False, "separator_id": -1}):
        ours = omniform.DataCollatorWithFlattening(return_tensors=kind, **options)
        other = transformers.DataCollatorWithFlattening(return_tensors=kind, **options)
        for rows in (labelled(mine, 1, "labels"), [{**mine(text)} for text in texts(3)]):
            rows = as_given(given, rows)
            same(ours(rows), other(rows))
            same(ours(rows, separator_id=-5), other(rows, separator_id=-5))


def test_flattening_refuses_what_does_not_fit() -> None:
    flat = omniform.DataCollatorWithFlattening(return_seq_idx=True)
    with pytest.raises(InputError, match=r"example 1.*3 labels"):
        flat([{"input_ids": [1]}, {"input_ids": [1, 2], "labels": [1, 2, 3]}])
    with pytest.raises(InputError, match=r"example 0.*input_ids"):
        flat([{"pixel_values": [1]}])
    batch = flat([{"input_ids": [1, 2], "labels": [1, 2]}, {"input_ids": [], "labels": []}, {"input_ids": [3]}])
    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": [[1, 2, 3]], "labels": [[-100, 2, -100]], "position_ids": [[0, 1, 0]], "seq_idx": [[0, 0, 2]]
    }  # fmt: skip


# ---- names


def test_names_are_the_ecosystems() -> None:
    for name in dir(theirs_module):
        value = getattr(theirs_module, name)
        if getattr(value, "__module__", None) == theirs_module.__name__ and not name.startswith("_"):
            found = getattr(data.data_collator, name)
            assert found is getattr(collators, name)
            if isinstance(value, type):
                given = lambda kind: list(__import__("inspect").signature(kind).parameters)
                assert given(found) == given(value) or name == "DataCollatorWithFlattening"
    assert omniform.data.DataCollatorWithPadding is omniform.DataCollatorWithPadding
    for name in ("DataCollator", "DataCollatorForSeq2Seq", "DefaultDataCollator", "default_data_collator"):
        assert getattr(omniform, name) is getattr(collators, name)


def test_a_subclass_is_asked_for_tensors() -> None:
    class Mine(omniform.data.data_collator.DataCollatorMixin):
        return_tensors = "pt"

        def torch_call(self, features: list) -> dict:
            return {"x": torch.tensor(features)}

    assert Mine()([1, 2])["x"].tolist() == [1, 2]
    with pytest.raises(ValueError, match="return_tensors"):
        Mine()([1], return_tensors="tf")
    with pytest.raises(NotImplementedError, match="numpy"):
        Mine()([1], return_tensors="np")
