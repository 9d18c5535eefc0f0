"""What ``encode`` can be asked for, beside sentence-transformers; order, batches and memory; what is refused."""

from __future__ import annotations

import folders
import numpy as np
import pytest
from folders import TEXTS, models, st

from omniform.core.errors import InputError, UnknownArgumentError
from omniform.embeddings import rows
from reference import omniform, torch


@pytest.fixture(scope="module")
def folder(plain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    prompts = {"query": "query : ", "passage": "passage : ", "plain": ""}
    folders.built(folder, plain("bert"), models.Dense(16, 8), prompts=prompts, default_prompt_name="plain")
    return folder


@pytest.fixture(scope="module")
def theirs(folder):
    return st.SentenceTransformer(str(folder), device="cpu")


@pytest.fixture
def ours(folder):
    return omniform.SentenceTransformer(folder, device="cpu")


def same(found, expected, tolerance=1e-5):
    if isinstance(expected, list):
        assert isinstance(found, list) and len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other, tolerance)
        return
    assert type(found) is type(expected) and found.shape == expected.shape
    assert not expected.shape or not expected.shape[0] or found.dtype == expected.dtype
    if len(expected.shape) and expected.shape[0]:
        assert float(abs(found - expected).max()) <= tolerance


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 1},
        {"batch_size": 5, "show_progress_bar": True},
        {"normalize_embeddings": True},
        {"truncate_dim": 3},
        {"truncate_dim": 3, "normalize_embeddings": True},
        {"truncate_dim": 99},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"output_value": "token_embeddings"},
        {"prompt_name": "query"},
        {"prompt": "what is ", "prompt_name": "query"},
        {"prompt": ""},
        {"precision": "binary"},
        {"precision": "ubinary"},
        {"precision": None},
    ],
    ids=str,
)
def test_options(options, ours, theirs):
    for texts in (TEXTS, tuple(TEXTS), np.array(TEXTS), TEXTS[0], [TEXTS[0]], []):
        same(ours.encode(texts, **options), theirs.encode(texts, **options))


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_bytes_span_the_ranges_of_the_texts(precision, ours, theirs):
    found, expected = (model.encode(TEXTS, precision=precision) for model in (ours, theirs))
    assert found.dtype == expected.dtype and np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    with pytest.raises(InputError, match="many vectors"):
        ours.encode("one", precision=precision)


def test_questions_and_documents(ours, theirs):
    same(ours.encode_query(TEXTS), theirs.encode_query(TEXTS))
    same(ours.encode_document(TEXTS, batch_size=2), theirs.encode_document(TEXTS))
    same(ours.encode_query("a dog", prompt="the "), theirs.encode("a dog", prompt="the "))
    assert np.abs(ours.encode_query("a dog") - ours.encode_document("a dog")).max() > 1e-3
    with ours.truncate_embeddings(2):
        assert ours.encode("a").shape == (2,) and ours.get_embedding_dimension() == 2
    assert ours.encode("a").shape == (8,)


def test_all_features_of_each_text(ours, theirs):
    found, expected = (model.encode(TEXTS[:3], output_value=None) for model in (ours, theirs))
    for one, other in zip(found, expected, strict=True):
        same(one["sentence_embedding"], other["sentence_embedding"])
        real = other["attention_mask"].bool()
        same(one["token_embeddings"][: real.sum()], other["token_embeddings"][real])


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities(name, ours, theirs):
    a, b = ours.encode(TEXTS), ours.encode(TEXTS[:5])
    ours.similarity_fn_name = theirs.similarity_fn_name = name
    same(ours.similarity(a, b), theirs.similarity(a, b))
    same(ours.similarity(a[0], torch.tensor(b)), theirs.similarity(a[0], torch.tensor(b)))
    same(ours.similarity(list(a), [list(map(float, row)) for row in b]), theirs.similarity(list(a), b))
    same(ours.similarity_pairwise(a, a[::-1].copy()), theirs.similarity_pairwise(a, a[::-1].copy()))
    with pytest.raises(InputError, match="two widths"):
        ours.similarity(a, b[:, :3])


def test_the_door_for_one_call(folder, ours):
    same(omniform.embed(TEXTS, model=str(folder)), ours.encode(TEXTS))
    same(omniform.embed("a dog", model=ours, prompt_name="query", normalize_embeddings=True),
         ours.encode("a dog", prompt_name="query", normalize_embeddings=True))  # fmt: skip


def test_a_batch_goes_through_forward_with_gradients(ours, theirs):
    batch, other = ours.tokenize(TEXTS[:4]), theirs.preprocess(TEXTS[:4])
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(batch[name], other[name])
    made = ours(batch)["sentence_embedding"]
    made.sum().backward()
    assert ours[2].linear.weight.grad is not None and ours[0].model.embed_tokens.weight.grad is not None
    assert not ours.encode(TEXTS, convert_to_tensor=True).requires_grad


def test_order_is_kept_over_many_windows_and_little_is_padded(ours, monkeypatch):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(folders.WORDS, rng.integers(1, 36))) for _ in range(300)]
    alone = np.stack([ours.encode(text) for text in texts[:40]])
    seen, asked = [], []
    reader = ours[0]
    run, encode = reader.forward, type(reader.wording).encode

    def watched(features):
        seen.append(features["attention_mask"])
        return run(features)

    def counted(self, tokenizer, some, prompt):
        asked.append(len(some))
        return encode(self, tokenizer, some, prompt)

    monkeypatch.setattr(rows, "WINDOW", 64)
    monkeypatch.setattr(reader, "forward", watched)
    monkeypatch.setattr(type(reader.wording), "encode", counted)
    found = ours.encode(texts, batch_size=16)
    assert np.abs(found[:40] - alone).max() < 1e-5
    assert max(asked) <= 64 and max(len(mask) for mask in seen) <= 16
    places, real = sum(mask.numel() for mask in seen), sum(int(mask.sum()) for mask in seen)
    assert real / places > 0.93


def test_a_window_holds_so_many_characters(monkeypatch):
    monkeypatch.setattr(rows, "WINDOW_CHARACTERS", 10)
    assert list(rows.windows(["abcd", "x" * 30, "abcdef", "", "abc"])) == [[1], [2, 0], [4, 3]]
    assert list(rows.windows([])) == []


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.encode(b"bytes"), "no text.*Decode them"),
        (lambda m: m.encode(["fine", b"bytes"]), r"sentences\[1\].*no text.*Decode them"),
        (lambda m: m.encode(bytearray(b"x")), "Decode them"),
        (lambda m: m.encode(["fine", None, 3]), r"sentences\[1\]"),
        (lambda m: m.encode([["a", "b"]]), r"sentences\[0\]"),
        (lambda m: m.encode(None), "no texts"),
        (lambda m: m.encode(5), "no texts"),
        (lambda m: m.encode("a", prompt_name="quary"), "no such prompt.*Did you mean 'query'"),
        (lambda m: m.encode("a", prompt=b"x"), "prompt.*no text"),
        (lambda m: m.encode("a", batch_size=0), "batch_size"),
        (lambda m: m.encode("a", batch_size=True), "batch_size"),
        (lambda m: m.encode("a", truncate_dim=0), "truncate_dim"),
        (lambda m: m.encode("a", truncate_dim=-3), "truncate_dim"),
        (lambda m: m.encode("a", precision="int4"), "no such precision.*int8"),
        (lambda m: m.encode("a", output_value="sentence"), "no such output"),
        (lambda m: m.encode("a", device=["cpu", "cpu"]), "processes"),
        (lambda m: m.encode("a", pool={}), "processes"),
        (lambda m: m.tokenize("a text"), "a list of texts"),
        (lambda m: m.similarity([[1.0, 2.0]], "abc"), "no vectors"),
        (lambda m: m.encode({"a", "b"}), "no texts"),
        (lambda m: m.encode({"a": 1}), "no texts"),
        (lambda m: m.encode(["fine and long", "ab\ud800"]), r"sentences\[1\], character 2.*surrogate"),
    ],
    ids=range(22),
)
def test_what_is_refused(call, words, ours):
    with pytest.raises(InputError, match=f"(?s){words}"):
        call(ours)


def test_unknown_keywords(ours, folder):
    with pytest.raises(TypeError):
        ours.encode("a", normalise=True)
    with pytest.raises(TypeError):
        omniform.SentenceTransformer(folder, promts={})
    with pytest.raises((UnknownArgumentError, InputError)):
        omniform.SentenceTransformer(folder, model_kwargs={"dtyp": "float32"})
    with pytest.raises(UnknownArgumentError, match="Did you mean 'batch_size'"):
        omniform.embed("a", model=ours, batchsize=3)
    with pytest.raises(InputError, match="prompts: query"):
        omniform.SentenceTransformer(folder, prompts={"query": 3})
    with pytest.raises(InputError, match="model_kwargs"):
        omniform.SentenceTransformer(folder, model_kwargs="float32")
    with pytest.raises(InputError, match="only torch"):
        omniform.SentenceTransformer(folder, backend="onnx")
    with pytest.raises(InputError, match="no such device"):
        omniform.SentenceTransformer(folder, device="gpux")
