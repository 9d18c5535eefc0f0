"""ConfigReader: every method with a right, missing, null, mistyped and out-of-range value, and older spellings."""

from __future__ import annotations

import pytest

from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader

# method, keyword arguments, (raw value, expected value) pairs that are right, raw values that are wrong
CASES = [
    ("integer", {}, [(1, 1), (7, 7), (7.0, 7), (2**53, 2**53)], [0, -1, 1.5, True, "7", [], {}, 2**53 + 1, 1e300]),
    ("integer", {"least": 0}, [(0, 0)], [-1]),
    ("maybe_integer", {}, [(3, 3), (None, None)], [0, "3", False, 1.25]),
    ("number", {}, [(1, 1.0), (0.5, 0.5), (-2, -2.0)], ["1", True, None, [], float("inf"), float("nan"), 10**400]),
    ("maybe_number", {}, [(1.5, 1.5), (None, None)], ["x", float("-inf"), {}]),
    ("probability", {}, [(0, 0.0), (1, 1.0), (0.1, 0.1), (None, 0.0)], [-0.1, 1.1, "0.1", True, float("nan")]),
    ("flag", {}, [(True, True), (False, False)], [0, 1, "true", None, []]),
    ("text", {}, [("a", "a"), ("", "")], [1, None, ["a"], True]),
    ("maybe_text", {}, [("a", "a"), (None, None)], [1, ["a"]]),
    ("choice", {"allowed": ("silu", "gelu")}, [("gelu", "gelu")], ["gelo", 3, None, ""]),
    ("integers", {}, [([], ()), ([0, 3], (0, 3)), ((1, 2), (1, 2))], [3, [-1], [1.5], ["1"], [True], "12", None]),
    ("one_or_more", {"default": (1,)}, [(-2, (-2,)), ([-2, 5], (-2, 5)), (None, (1,))], [[], "2", [1.5], {}]),
    ("numbers", {}, [([0.5, 1], (0.5, 1.0))], [0.5, ["a"], [float("nan")], None]),
    ("texts", {}, [(["a", "b"], ("a", "b")), ([], ())], ["ab", [1], None]),
    ("pair", {}, [(224, (224, 224)), ([1, 2], (1, 2))], [0, [1], [1, 2, 3], "ab", [0, 1], {"height": 1, "width": 2}]),
    ("ids", {}, [(5, (5,)), ([5, 6], (5, 6)), (None, ()), (-1, (-1,)), ([], ())], ["5", [1.5], -2, {}, True]),
    ("mapping", {}, [({"a": 1}, {"a": 1}), (None, None)], [[], "a", 3]),
]


@pytest.mark.parametrize(("method", "options", "right", "wrong"), CASES)
def test_values(method, options, right, wrong):
    for raw, expected in right:
        found = getattr(ConfigReader({"key": raw}), method)("key", **options)
        assert found == expected and type(found) is type(expected), raw
    for raw in wrong:
        with pytest.raises(ConfigError, match="key") as error:
            getattr(ConfigReader({"key": raw}, where="folder/config.json"), method)("key", **options)
        assert "folder/config.json" in str(error.value), raw


@pytest.mark.parametrize("method", ["integer", "number", "flag", "text", "integers", "numbers", "texts", "pair", "sub"])
def test_required_keys_tell_missing_from_null(method):
    with pytest.raises(ConfigError, match="key is missing"):
        getattr(ConfigReader({}), method)("key")
    with pytest.raises(ConfigError, match="key must not be null"):
        getattr(ConfigReader({"key": None}), method)("key")


@pytest.mark.parametrize(
    ("method", "default"),
    [
        ("integer", 4), ("maybe_integer", 4), ("number", 0.5), ("maybe_number", 0.5), ("flag", True), ("text", "a"),
        ("maybe_text", "a"), ("integers", (1,)), ("numbers", (0.5,)), ("texts", ("a",)), ("pair", (1, 2)),
        ("ids", (9,)), ("one_or_more", (3,)), ("probability", 0.3),
    ],
)  # fmt: skip
def test_a_missing_key_reads_as_the_default_and_null_as_nothing(method, default):
    # Where a null is a value, it is that value; where it cannot be one, it is left to the default.
    null = {"maybe_integer": None, "maybe_number": None, "maybe_text": None, "flag": False}.get(method, default)
    for raw, right in (({}, default), ({"key": None}, null)):
        reader = ConfigReader(raw)
        assert getattr(reader, method)("key", default) == right
        assert reader.touched == {"key"}
        assert reader.unknown() == ()


def test_older_spellings():
    assert ConfigReader({"n_embd": 8}).integer("hidden_size", 4, also=("n_embd", "d_model")) == 8
    assert ConfigReader({"d_model": 9}).integer("hidden_size", 4, also=("n_embd", "d_model")) == 9
    both = ConfigReader({"hidden_size": 7, "n_embd": 8})
    assert both.integer("hidden_size", 4, also=("n_embd",)) == 7
    assert both.unknown() == ()
    assert both.values == {"hidden_size": 7, "n_embd": 7}
    # A null beside an older spelling does not hide it.
    assert ConfigReader({"hidden_size": None, "n_embd": 8}).integer("hidden_size", 4, also=("n_embd",)) == 8
    with pytest.raises(ConfigError, match="n_embd has a wrong value"):
        ConfigReader({"n_embd": "8"}).integer("hidden_size", 4, also=("n_embd",))


def test_errors_say_where_expected_found_and_the_nearest():
    with pytest.raises(ConfigError) as error:
        ConfigReader({"act": "gelu_nwe"}, where="m/config.json").choice("act", ("gelu_new", "relu"))
    text = str(error.value)
    assert all(part in text for part in ("m/config.json", "act", "'gelu_nwe'", "Did you mean 'gelu_new'?"))
    with pytest.raises(ConfigError, match="an integer >= 1") as error:
        ConfigReader({"n": "x" * 500}).integer("n")
    assert len(str(error.value)) < 250  # a long value is cut


def test_only():
    reader = ConfigReader({"a": 1, "b": True, "c": None})
    reader.only("a", 1, 2)
    reader.only("missing", 1)
    with pytest.raises(ConfigError, match=r"b is not supported: no bees.*expected 1.*found True"):
        reader.only("b", 1, why="no bees")
    with pytest.raises(ConfigError, match="c is not supported"):
        reader.only("c", False)
    assert reader.touched == {"a", "b", "c", "missing"}


def test_accounting():
    reader = ConfigReader({"used": 1, "inert": 2, "_private": 3, "strange": 4, "another": 5})
    reader.integer("used")
    reader.inert("inert", "absent")
    assert reader.unknown() == ("another", "strange")
    assert reader.values == {"used": 1, "inert": 2}


def test_nested_readers():
    reader = ConfigReader({"text_config": {"n": 0}}, where="config.json")
    inner = reader.sub("text_config")
    with pytest.raises(ConfigError, match=r"config.json: text_config: n has a wrong value"):
        inner.integer("n")
    assert ConfigReader({}).sub("text_config", {"n": 3}).integer("n") == 3
    with pytest.raises(ConfigError, match="text_config has a wrong value"):
        ConfigReader({"text_config": []}).sub("text_config", {})


def test_sizes_keep_the_form_they_came_in():
    for raw, shown in ((8, 8), ([8, 8], [8, 8]), ([4, 8], [4, 8])):
        reader = ConfigReader({"size": raw})
        reader.pair("size")
        assert reader.values["size"] == shown
