"""Cross-encoders beside those of sentence-transformers: scores, ranks, activations, layouts."""

from __future__ import annotations

import json

import folders
import numpy as np
import pytest
from folders import BERTLIKE, LAST, PLAIN, TEXTS, st

from omniform.core.errors import ConfigError, InputError
from reference import omniform, torch

PAIRS = list(zip(TEXTS, reversed(TEXTS), strict=True))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return made(tmp_path_factory.mktemp("one"), 1)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return made(tmp_path_factory.mktemp("three"), 3)


def made(folder, labels):
    given = {**BERTLIKE, "max_position_embeddings": 40, "num_labels": labels}
    return folders.plain(folder, "Bert", "BertForSequenceClassification", **given)


def both(folder, **given):
    return omniform.CrossEncoder(folder, device="cpu", **given), st.CrossEncoder(str(folder), device="cpu", **given)


def same(ours, theirs, tolerance=1e-5):
    assert type(ours) is type(theirs) and ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert float(abs(ours - theirs).max()) < tolerance


@pytest.mark.parametrize("labels", ["one", "three"])
def test_scores_plain_and_in_the_layout(labels, request, tmp_path):
    folder = request.getfixturevalue(labels)
    ours, theirs = both(folder)
    assert ours.num_labels == theirs.num_labels and ours.max_seq_length == theirs.max_seq_length
    for pairs in (PAIRS, PAIRS[0], list(PAIRS[0]), [list(pair) for pair in PAIRS[:2]], np.array(PAIRS)):
        same(ours.predict(pairs), theirs.predict(pairs))
    for options in ({"apply_softmax": True}, {"activation_fn": torch.nn.Tanh()}, {"convert_to_tensor": True},
                    {"batch_size": 2}, {"prompt": "query : "}):  # fmt: skip
        same(ours.predict(PAIRS, **options), theirs.predict(PAIRS, **options))
    listed = ours.predict(PAIRS, convert_to_numpy=False)
    assert isinstance(listed, list) and torch.equal(torch.stack(listed), ours.predict(PAIRS, convert_to_tensor=True))
    assert ours.predict([]).shape == (0,)
    theirs.save_pretrained(str(tmp_path / "theirs"), create_model_card=False)
    read = omniform.CrossEncoder(tmp_path / "theirs", device="cpu")
    same(read.predict(PAIRS), theirs.predict(PAIRS))
    for name, model in (("again", read), ("plain", ours)):
        model.save_pretrained(tmp_path / name)
        same(st.CrossEncoder(str(tmp_path / name), device="cpu").predict(PAIRS), theirs.predict(PAIRS))


def test_ranking(one, three):
    ours, theirs = both(one)
    texts = [text for text in TEXTS if text != "  "]  # it is the empty text once more, with the same score
    for options in ({}, {"top_k": 3}, {"top_k": 99, "return_documents": True}):
        found, expected = ours.rank("the cat", texts, **options), theirs.rank("the cat", texts, **options)
        assert [{**item, "score": 0} for item in found] == [{**item, "score": 0} for item in expected]
        assert np.allclose([item["score"] for item in found], [item["score"] for item in expected], atol=1e-5)
    assert ours.rank("the cat", []) == []
    with pytest.raises(InputError, match="one score"):
        omniform.CrossEncoder(three).rank("a", TEXTS)


@pytest.mark.parametrize(
    "told",
    [
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.0.0"}},
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}},
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
        {},
    ],
    ids=["identity", "tanh", "older", "none"],
)
def test_the_activation_that_a_config_names(told, tmp_path):
    made(tmp_path, 1)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **told}))
    ours, theirs = both(tmp_path)
    same(ours.predict(PAIRS), theirs.predict(PAIRS))
    assert type(ours.activation_fn) is type(theirs.activation_fn)


@pytest.mark.parametrize("name", ["os.system", "my_package.Act", "torch.nn.Linear", "torch.hub.load"])
def test_other_names_are_refused(name, tmp_path):
    made(tmp_path, 1)
    config = json.loads((tmp_path / "config.json").read_text())
    told = {**config, "sentence_transformers": {"activation_fn": name}}
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match="activation is not known") as caught:
        omniform.CrossEncoder(tmp_path)
    assert name in str(caught.value)


def test_a_decoder_answers_yes_or_no(tmp_path):
    given = {**PLAIN["qwen3"][1], "tokens": dict(LAST)}
    folders.plain(tmp_path / "q", "Qwen3", "Qwen3ForCausalLM", **given)
    ours, theirs = both(tmp_path / "q")
    same(ours.predict(PAIRS), theirs.predict(PAIRS))
    theirs.save_pretrained(str(tmp_path / "theirs"), create_model_card=False)
    read = omniform.CrossEncoder(tmp_path / "theirs", device="cpu")
    same(read.predict(PAIRS), theirs.predict(PAIRS))
    ours.save_pretrained(tmp_path / "ours")
    same(st.CrossEncoder(str(tmp_path / "ours"), device="cpu").predict(PAIRS), theirs.predict(PAIRS))


def test_a_decoder_that_classifies(tmp_path):
    given = {**PLAIN["qwen3"][1], "tokens": dict(LAST), "num_labels": 1}
    folders.plain(tmp_path, "Qwen3", "Qwen3ForSequenceClassification", **given)
    ours, theirs = both(tmp_path)
    pairs = [pair for pair in PAIRS if all(text.strip() for text in pair)]
    same(ours.predict(pairs), theirs.predict(pairs))


CHAT = "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}[SEP]"
ONLY_USERS = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %} yes"


def test_pairs_through_a_chat_template(tmp_path):
    given = {**PLAIN["qwen3"][1], "tokens": {**LAST, "chat_template": CHAT}}
    folders.plain(tmp_path / "q", "Qwen3", "Qwen3ForCausalLM", **given)
    ours, theirs = both(tmp_path / "q")
    same(ours.predict(PAIRS), theirs.predict(PAIRS))
    same(ours.predict(PAIRS, prompt="what is"), theirs.predict(PAIRS, prompt="what is"))
    (tmp_path / "q" / "chat_template.jinja").write_text(ONLY_USERS)
    with pytest.raises(ConfigError, match=r"leaves out.*query and the document"):
        omniform.CrossEncoder(tmp_path / "q").predict(PAIRS)


def test_labels_and_lengths_by_hand(plain, one):
    fresh = omniform.CrossEncoder(plain("bert"), num_labels=4, max_length=12)
    assert fresh.predict(PAIRS).shape == (len(PAIRS), 4) and fresh.max_seq_length == 12
    assert omniform.CrossEncoder(plain("bert")).num_labels == 1
    ours, theirs = both(one, max_length=11)
    same(ours.predict(PAIRS), theirs.predict(PAIRS))
    ours = omniform.CrossEncoder(one, activation_fn=torch.nn.Identity())
    assert not isinstance(ours.activation_fn, torch.nn.Sigmoid)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.predict(["alone"]), "no pair"),
        (lambda m: m.predict([("a", "b", "c")]), "no pair"),
        (lambda m: m.predict([("a", b"b")]), r"sentences\[0\]\[1\].*no text.*Decode"),
        (lambda m: m.predict([("a", "b"), None]), r"sentences\[1\].*no pair"),
        (lambda m: m.predict(None), "no texts"),
        (lambda m: m.rank(b"a", ["b"]), "query.*no text"),
        (lambda m: m.rank("a", "b"), "a list of texts"),
        (lambda m: m.rank("a", ["b", 3]), r"documents\[1\]"),
        (lambda m: m.rank("a", ["b"], top_k=0), "top_k"),
    ],
    ids=range(9),
)
def test_what_is_refused(call, words, one):
    with pytest.raises(InputError, match=f"(?s){words}"):
        call(omniform.CrossEncoder(one))


def test_a_model_of_vectors_is_no_cross_encoder(plain, tmp_path):
    folders.built(tmp_path, plain("bert"))
    with pytest.raises(ConfigError, match="saved as another kind"):
        omniform.CrossEncoder(tmp_path)


def test_scripts_of_older_releases(one):
    ours, theirs = both(one, max_length=6)
    assert ours.max_length == theirs.max_length == 6
    same(ours.predict(PAIRS, num_workers=0), theirs.predict(PAIRS))
    ours.max_length = theirs.max_length = 9
    same(ours.predict(PAIRS), theirs.predict(PAIRS))
    asked = {"convert_to_tensor": True, "convert_to_numpy": False, "num_workers": 0, "pool": None, "chunk_size": None}
    assert ours.rank(TEXTS[0], TEXTS, **asked) == ours.rank(TEXTS[0], TEXTS)
