"""The base of pipelines: ways in which inputs come, batches, errors, parts, tasks; with a pipeline of a user's own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import bert

from omniform import PIPELINE_REGISTRY, AutoModelForSequenceClassification, AutoTokenizer, Pipeline, pipeline
from omniform.core.errors import InputError, RepoError, TrustError, UnknownArgumentError, UnknownNameError
from omniform.pipelines import ChunkPipeline, KeyDataset
from omniform.pipelines.batching import Padding, groups
from omniform.pipelines.pt_utils import KeyPairDataset
from reference import transformers

LABELS = {"id2label": {0: "no", 1: "yes", 2: "maybe"}, "label2id": {"no": 0, "yes": 1, "maybe": 2}}
TEXTS = ["the cat", "a dog ran over the hill and sat on the mat", "blue", "this film is not very good !", "the sea"]


def steps_of_pairs(base: type) -> type:
    """The pipeline that the ecosystem's documentation writes as its example, over a base of either library."""

    class PairClassificationPipeline(base):
        def _sanitize_parameters(self, **kwargs):
            preprocess_kwargs = {}
            if "second_text" in kwargs:
                preprocess_kwargs["second_text"] = kwargs["second_text"]
            return preprocess_kwargs, {}, {}

        def preprocess(self, text, second_text=None):
            return self.tokenizer(text, text_pair=second_text, return_tensors="pt")

        def _forward(self, model_inputs):
            return self.model(**model_inputs)

        def postprocess(self, model_outputs):
            logits = model_outputs.logits[0].numpy()
            chances = np.exp(logits) / np.exp(logits).sum()
            best = int(np.argmax(chances))
            return {"label": self.model.config.id2label[best], "score": chances[best].item(), "logits": logits.tolist()}

    return PairClassificationPipeline


Pairs = steps_of_pairs(Pipeline)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert(tmp_path_factory.mktemp("pairs"), "SequenceClassification", **LABELS)


@pytest.fixture(scope="module")
def parts(folder: Path):
    return AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def expected(folder: Path):
    theirs = steps_of_pairs(transformers.Pipeline)(
        transformers.AutoModelForSequenceClassification.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
        device="cpu",
    )
    return theirs(TEXTS, second_text="a bird flew")


def same(ours: object, theirs: object) -> bool:
    """Whether two answers have the same structure, and numbers within 1e-5."""
    if isinstance(theirs, dict):
        return isinstance(ours, dict) and list(ours) == list(theirs) and all(same(ours[k], theirs[k]) for k in theirs)
    if isinstance(theirs, list):
        return isinstance(ours, list) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == pytest.approx(theirs, abs=1e-5) if isinstance(theirs, float) else ours == theirs


@pytest.fixture
def registered():
    PIPELINE_REGISTRY.register_pipeline(
        "pair-classification", pipeline_class=Pairs, pt_model=AutoModelForSequenceClassification, type="text"
    )
    yield "pair-classification"
    del PIPELINE_REGISTRY.supported_tasks["pair-classification"]


def test_a_users_pipeline_registered(folder: Path, registered: str, expected) -> None:
    pipe = pipeline(registered, model=str(folder), second_text="a bird flew")
    assert type(pipe) is Pairs and pipe.task == registered and registered in PIPELINE_REGISTRY.get_supported_tasks()
    assert same(pipe(TEXTS), expected) and same(pipe(TEXTS[1]), expected[1])
    assert not same(pipe(TEXTS[1], second_text="home"), expected[1])  # a call's parameters lie over those of making it
    assert same(pipe.predict(TEXTS), expected)
    for size in (2, 3, 64, "auto"):
        assert same(pipe(TEXTS, batch_size=size), expected), size
    assert same(pipe(TEXTS, batch_size=2, num_workers=2), expected)
    assert repr(pipe).startswith("PairClassificationPipeline(task='pair-classification', model=BertForSequence")


def test_a_users_class_given(folder: Path, parts, expected) -> None:
    pipe = pipeline("whatever", model=folder, pipeline_class=Pairs, second_text="a bird flew")
    assert same(pipe(TEXTS), expected)
    model, tokenizer = parts
    pipe = pipeline("whatever", model=model, tokenizer=tokenizer, pipeline_class=Pairs, second_text="a bird flew")
    assert same(pipe(TEXTS), expected) and pipe.device == torch.device("cpu")


def test_datasets_and_streams(parts, expected) -> None:
    pipe = Pairs(*parts, second_text="a bird flew")
    rows = [{"text": text, "other": "x"} for text in TEXTS]
    answers = pipe(KeyDataset(rows, "text"), batch_size=2)
    assert len(answers) == len(TEXTS) and same([*answers], expected)
    assert same([*pipe(KeyDataset(rows, "text"))], expected)
    assert KeyPairDataset(rows, "text", "other")[1] == {"text": TEXTS[1], "text_pair": "x"}

    read: list[str] = []

    def stream():
        for text in TEXTS * 10:
            read.append(text)
            yield text

    answers = pipe(stream())
    assert len(read) == 1  # the first is looked at, to see whether it is a chat
    assert same(next(answers), expected[0]) and len(read) == 1
    assert same(next(answers), expected[1]) and len(read) == 2
    answers = pipe(stream(), batch_size=2)
    read.clear()
    assert same([next(answers) for _ in range(3)], expected[:3]) and len(read) < 10
    assert same([*answers], expected[3:] + expected * 9)
    assert pipe([]) == []
    with pytest.raises(TypeError):
        len(pipe(stream()))


class Seen(Pairs):
    """Notes the shapes that come to the model."""

    def _forward(self, model_inputs):
        self.seen = [*vars(self).get("seen", []), tuple(model_inputs["input_ids"].shape)]
        return super()._forward(model_inputs)


def test_like_lengths_share_a_batch(parts) -> None:
    pipe = Seen(*parts)
    short, long = ["the cat"] * 6, ["the cat sat on the old blue mat and ran home"] * 6
    mixed = [text for pair in zip(short, long, strict=True) for text in pair]
    answers = pipe(mixed, batch_size=6)
    assert sorted(pipe.seen) == [(6, 4), (6, 13)]  # no padding at all
    assert [same(a, answers[i % 2]) for i, a in enumerate(answers)] == [True] * 12


def test_without_a_padding_token(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    pipe = Seen(AutoModelForSequenceClassification.from_pretrained(folder), tokenizer)
    assert same(pipe(TEXTS, batch_size=8), pipe(TEXTS))
    assert (1, 4) not in pipe.seen[:1]


class Picky(Pairs):
    """Fails at each of its steps, if it is told to."""

    def preprocess(self, text, second_text=None):
        if "hate" in text:
            raise RuntimeError("not that word")
        return {**super().preprocess(text, second_text), "text": text}

    def _forward(self, model_inputs):
        texts = model_inputs.pop("text")
        if any("bad" in text for text in ([texts] if isinstance(texts, str) else texts)):
            raise ArithmeticError("not with this one")
        return {"text": texts, "logits": self.model(**model_inputs).logits}

    def postprocess(self, model_outputs):
        if "old" in model_outputs["text"]:
            raise KeyError("old")
        return model_outputs["text"]


@pytest.mark.parametrize("size", [1, 2, 8])
def test_errors_kept_apart(parts, size: int) -> None:
    pipe = Picky(*parts)
    texts = ["a cat", "i hate it", "very bad", "the old sea", "a dog"]
    answers = pipe(texts, batch_size=size, on_error="return")
    assert [answers[0], answers[4]] == ["a cat", "a dog"]
    assert [type(a) for a in answers[1:4]] == [RuntimeError, ArithmeticError, KeyError]
    with pytest.raises(RuntimeError, match="not that word"):
        pipe(texts, batch_size=size)
    stream = pipe(iter(texts), batch_size=size)
    assert next(stream) == "a cat"  # what came before is not lost
    with pytest.raises(RuntimeError) as raised:
        next(stream)
    assert "input 1" in raised.value.__notes__[0]
    assert type(pipe("very bad", on_error="return")) is ArithmeticError
    with pytest.raises(ArithmeticError):
        pipe("very bad")


class Windows(ChunkPipeline):
    """Reads a text two words at a time."""

    def _sanitize_parameters(self, joiner=None):
        return {}, {}, {} if joiner is None else {"joiner": joiner}

    def preprocess(self, text):
        words = text.split()
        for at in range(0, len(words), 2):
            part = " ".join(words[at : at + 2])
            yield {"is_last": at + 2 >= len(words), "part": part, **self.tokenizer(part, return_tensors="pt")}

    def _forward(self, model_inputs):
        is_last, part = model_inputs.pop("is_last"), model_inputs.pop("part")
        return {"is_last": is_last, "part": part, "logits": self.model(**model_inputs).logits}

    def postprocess(self, model_outputs, joiner="|"):
        return {
            "parts": joiner.join(one["part"] for one in model_outputs),
            "sum": sum(one["logits"][0].sum().item() for one in model_outputs),
        }


def test_chunks(parts) -> None:
    pipe = Windows(*parts)
    alone = [pipe(text) for text in TEXTS]
    assert alone[1]["parts"] == "a dog|ran over|the hill|and sat|on the|mat"
    for size in (1, 2, 5):
        assert same(pipe(TEXTS, batch_size=size), alone)
        assert same([*pipe(iter(TEXTS), batch_size=size)], alone)
    assert pipe(TEXTS[3], joiner="+")["parts"] == "this film+is not+very good+!"


def test_progress(parts, capsys: pytest.CaptureFixture[str]) -> None:
    Pairs(*parts)(TEXTS, progress_bar=True)
    said = capsys.readouterr()
    assert "5/5" in said.err and said.out == ""
    Pairs(*parts)(TEXTS)
    assert capsys.readouterr().err == ""


def test_saved_and_loaded(folder: Path, parts, registered: str, tmp_path: Path) -> None:
    pipeline(registered, model=folder).save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {*os.listdir(tmp_path)}
    assert same(pipeline(registered, model=tmp_path)(TEXTS), Pairs(*parts)(TEXTS))


def test_code_of_a_folder_is_not_run_unasked(folder: Path, registered: str, tmp_path: Path) -> None:
    pipeline(registered, model=folder).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name, fine in (("pair-classification", True), ("other", False)):
        config["custom_pipelines"] = {name: {"impl": "code.Pairs", "pt": ["AutoModelForSequenceClassification"]}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        if fine:
            assert type(pipeline(model=tmp_path)) is Pairs
        else:
            with pytest.raises(TrustError, match="'other'"):
                pipeline(model=tmp_path)


def test_devices(parts) -> None:
    pipe = Pairs(*parts, device="cpu", torch_dtype="auto")
    with pipe.device_placement():
        assert pipe.ensure_tensor_on_device(a=torch.zeros(1), b=["x"])["a"].device.type == "cpu"
    assert pipe.dtype == pipe.torch_dtype == torch.float32
    assert Pairs(*parts, device=-1).device == Pairs(*parts, device=torch.device("cpu")).device == torch.device("cpu")
    for device in ("nowhere", 3.5, "cuda:99"):
        with pytest.raises(InputError, match="device"):
            Pairs(*parts, device=device)


def test_how_a_model_is_loaded(folder: Path, registered: str) -> None:
    for given in ({"dtype": "bfloat16"}, {"torch_dtype": torch.bfloat16}, {"model_kwargs": {"dtype": "bfloat16"}}):
        assert pipeline(registered, folder, **given).dtype == torch.bfloat16
    pipe = pipeline(registered, folder, device_map="cpu", model_kwargs={"attn_implementation": "eager"})
    assert pipe.model.attn_backend == "eager"
    with pytest.raises(InputError, match="twice"):
        pipeline(registered, folder, dtype="float32", model_kwargs={"dtype": "bfloat16"})
    with pytest.raises(InputError, match="exclude"):
        pipeline(registered, folder, device="cpu", device_map="auto")


def test_bad_calls(folder: Path, parts, tmp_path: Path) -> None:
    for wrong, error, words in (
        (lambda: pipeline(), InputError, "neither a task nor a model"),
        (lambda: pipeline("no-such-task", folder), UnknownNameError, "no such task"),
        (lambda: pipeline("whatever", tokenizer=folder), InputError, "without the model"),
        (lambda: pipeline("whatever", tmp_path / "none", pipeline_class=Pairs), RepoError, "no such folder"),
        (lambda: pipeline("whatever", folder, pipeline_class=dict), InputError, "no pipeline"),
        (lambda: pipeline("whatever", folder, pipeline_class=Pairs, tokenizer=3), InputError, "tokenizer"),
        (lambda: Pairs("model", parts[1]), InputError, "no model"),
        (lambda: Pairs(*parts, batch_size=0), InputError, "batch_size"),
        (lambda: Pairs(*parts)("a", num_workers=-1), InputError, "num_workers"),
        (lambda: Pairs(*parts)("a", on_error="maybe"), InputError, "on_error"),
        (lambda: Pairs(*parts)("a", "b"), UnknownArgumentError, "one input"),
        (lambda: Windows(*parts)("a", joinr="+"), UnknownArgumentError, "joiner"),
    ):
        with pytest.raises(error, match=words):
            wrong()


def test_texts_read_at_once(folder: Path) -> None:
    pipe = pipeline("text-classification", folder, top_k=None)
    alone = [pipe(text)[0] for text in TEXTS]
    assert same(pipe(TEXTS * 3), alone * 3) and same(pipe(TEXTS, batch_size=1), alone)
    answers = pipe([*TEXTS, 5, TEXTS[0]], on_error="return")
    assert same(answers[:5], alone) and same(answers[6], alone[0]) and type(answers[5]) is InputError
    short = pipe(TEXTS, truncation=True, max_length=4)
    assert same(short, [pipe(text, truncation=True, max_length=4)[0] for text in TEXTS]) and not same(short, alone)
    with pytest.raises(InputError, match="text"):
        pipe([*TEXTS, 5])


def test_what_shares_a_batch() -> None:
    def row(length: int) -> dict[str, object]:
        return {"input_ids": torch.ones(1, length), "attention_mask": torch.ones(1, length)}

    padding = Padding(token=0)
    lengths = [3] * 60 + [30] * 40 + [29] * 2 + [500, 499, 100]
    found = groups([row(length) for length in lengths], "auto", padding)
    assert sorted(at for group in found for at in group) == [*range(len(lengths))]
    for group in found:
        tokens = sum(lengths[at] for at in group)
        padded = len(group) * max(lengths[at] for at in group)
        assert padded <= 1024 and (padded <= 256 or padded - tokens <= padded / 16)
    assert len(groups([row(2), row(3)], 2, Padding())) == 2  # nothing to pad with
    assert len(groups([{"input_ids": torch.ones(1, 2)}, {"input_ids": torch.ones(1, 3)}], 2, padding)) == 2  # no mask
    pictures = [{"pixel_values": torch.ones(1, 3, 8, size)} for size in (8, 9, 8)]
    assert [*map(sorted, groups(pictures, 4, padding))] == [[0, 2], [1]]
