"""Tokenizers of the user's own in files: saved and loaded by their class, by a config's class and by name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import ModuleType

import pytest
from own_tokenizer_bodies import BODIES, derived
from test_own_tokenizers import CHAT, PAIRS, TEXTS, made, write
from test_tokenizers_folders import bert, llama3

import omniform
from omniform import AutoProcessor, AutoTokenizer
from omniform.core.errors import (
    ConfigError,
    InputError,
    MissingPartError,
    OmniformError,
    RepoError,
    TrustError,
    UnknownNameError,
)  # fmt: skip
from omniform.hub import own
from omniform.models import registry
from reference import transformers


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "_REGISTERED", {})


class MyConfig(omniform.PreTrainedConfig):
    model_type = "d1-own"


@pytest.fixture(params=BODIES)
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[object, object]:
    theirs, ours = made(request.param, write(request.param, tmp_path / "folder"))
    for tokenizer in (theirs, ours):
        tokenizer.add_tokens(["<x>", omniform.AddedToken("<y>", lstrip=True, rstrip=True)])
        tokenizer.add_special_tokens({"mask_token": "<m>"})
        tokenizer.chat_template = CHAT
        tokenizer.padding_side, tokenizer.model_max_length = "left", 77
    return theirs, ours


def seen(tokenizer: object) -> dict[str, object]:
    return {
        "rows": [dict(tokenizer(text, pair)) for text, pair in zip(TEXTS, PAIRS, strict=True)],
        "texts": tokenizer.batch_decode([tokenizer.encode(text) for text in TEXTS], skip_special_tokens=True),
        "vocabulary": tokenizer.get_vocab(),
        "added": {index: repr(token) for index, token in tokenizer.added_tokens_decoder.items()},
        "special": (tokenizer.special_tokens_map, tokenizer.extra_special_tokens, tokenizer.all_special_tokens),
        "settings": (tokenizer.model_max_length, tokenizer.chat_template, tokenizer.model_input_names),
        "length": len(tokenizer),
    }


def test_saved_and_loaded(both: tuple[object, object], tmp_path: Path) -> None:
    theirs, ours = both
    expected = seen(ours)
    written = ours.save_pretrained(tmp_path / "saved")
    names = {Path(path).name for path in written}
    assert names == {path.name for path in (tmp_path / "saved").iterdir()}
    assert names >= {"tokenizer_config.json", "chat_template.jinja", *ours.vocab_files_names.values()} - {"none.txt"}
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == type(ours).__name__ and "name_or_path" not in config
    theirs.save_pretrained(tmp_path / "theirs")
    reference = json.loads((tmp_path / "theirs" / "tokenizer_config.json").read_text())
    # Two flags are not kept there.
    assert {**config, "add_bos_token": None} | {"add_eos_token": None} == {
        **reference, "add_bos_token": None, "add_eos_token": None
    }  # fmt: skip
    for folder in ("saved", "theirs"):
        loaded = type(ours).from_pretrained(tmp_path / folder)
        assert type(loaded) is type(ours) and seen(loaded) == expected
        there = type(theirs).from_pretrained(tmp_path / folder)
        assert seen(there) == expected
    loaded.save_pretrained(tmp_path / "again")
    assert seen(type(ours).from_pretrained(tmp_path / "again", truncation_side="left")) == expected
    changed = type(ours).from_pretrained(tmp_path / "again", pad_token="<x>", model_max_length=5)
    assert changed.model_max_length == 5 and changed.special_tokens_map["pad_token"] == "<x>"


def test_found_by_auto_classes(both: tuple[object, object], tmp_path: Path) -> None:
    ours = both[1]
    kind, expected = type(ours), seen(ours)
    ours.save_pretrained(tmp_path / "saved")
    with pytest.raises(UnknownNameError, match=rf"{kind.__name__}.*AutoTokenizer\.register"):
        AutoTokenizer.from_pretrained(tmp_path / "saved")
    AutoTokenizer.register(None, slow_tokenizer_class=kind)
    by_name = AutoTokenizer.from_pretrained(tmp_path / "saved", use_fast=False)
    assert type(by_name) is kind and seen(by_name) == expected
    assert type(AutoProcessor.from_pretrained(tmp_path / "saved")) is kind


def test_found_by_the_class_of_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_REGISTERED", "_CONFIGS"):  # what is registered here is nobody else's
        monkeypatch.setattr(registry, name, {**getattr(registry, name)})
    kind = derived("CharTokenizer", omniform)
    omniform.AutoConfig.register("d1-own", MyConfig, exist_ok=True)
    folder = write("CharTokenizer", tmp_path / "folder")
    MyConfig().save_pretrained(folder)
    AutoTokenizer.register(MyConfig, slow_tokenizer_class=kind)
    loaded = AutoTokenizer.from_pretrained(folder, lowers=True)
    assert type(loaded) is kind and loaded.lowers and loaded("The")["input_ids"] == loaded("the")["input_ids"]
    assert type(AutoTokenizer.from_pretrained(folder, config=MyConfig())) is kind
    assert type(AutoProcessor.from_pretrained(folder)) is kind
    with pytest.raises(ConfigError, match="exist_ok"):
        AutoTokenizer.register(MyConfig, slow_tokenizer_class=derived("LoudTokenizer", omniform))
    other = derived("LoudTokenizer", omniform)
    AutoTokenizer.register(MyConfig, slow_tokenizer_class=other, exist_ok=True)
    assert type(AutoTokenizer.from_pretrained(folder)) is other
    for wrong in (None, str, "CharTokenizer"):
        with pytest.raises(InputError, match=r"AutoTokenizer\.register"):
            AutoTokenizer.register(MyConfig, slow_tokenizer_class=wrong, exist_ok=True)


def test_from_one_file_and_by_position(tmp_path: Path) -> None:
    folder = write("CharTokenizer", tmp_path / "folder")
    kind = derived("CharTokenizer", omniform)
    one = kind.from_pretrained(folder / "chars.json", lowers=True)
    assert one.lowers and one.encode("A") == one.encode("a")
    assert kind.from_pretrained(folder, str(folder / "chars.json")).encode("A") == kind.from_pretrained(folder).encode(
        "A"
    )
    with pytest.raises(InputError, match="not read from one file"):
        derived("PyBPETokenizer", omniform).from_pretrained(folder / "chars.json")


def test_a_class_of_the_tokenizers_package(tmp_path: Path) -> None:
    """With a constructor of its own, settings of its own, and defaults that the class states."""

    def own_class(library: ModuleType) -> type:
        class MyFast(library.PreTrainedTokenizerFast):
            slow_tokenizer_class = None
            vocab_files_names = {"tokenizer_file": "tokenizer.json"}  # noqa: RUF012
            model_input_names = ["input_ids"]  # noqa: RUF012
            padding_side = "left"

            def __init__(self, tokenizer_file=None, shout=False, unk_token="<unk>", **kwargs):
                super().__init__(tokenizer_file=tokenizer_file, unk_token=unk_token, shout=shout, **kwargs)
                self.shout = shout

            def _decode(self, token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=None, **kwargs):
                text = super()._decode(token_ids, skip_special_tokens, clean_up_tokenization_spaces)
                return text.upper() if self.shout else text

        return MyFast

    folder = llama3(tmp_path / "llama3")
    theirs, ours = (own_class(library) for library in (transformers, omniform))
    # The reference takes a file apart where the class has a constructor; given its path it reads it whole.
    options = {"tokenizer_file": str(folder / "tokenizer.json"), "shout": True, "pad_token": "<|eot_id|>"}
    expected, found = theirs(**options), ours(**options)
    for text in TEXTS:
        assert found(text)["input_ids"] == expected(text)["input_ids"] and set(found(text)) == set(expected(text))
        assert found.decode(found.encode(text)) == expected.decode(expected.encode(text))
    assert dict(found(TEXTS, padding=True)) == dict(expected(TEXTS, padding=True))
    assert found.init_kwargs["shout"] is True and len(found) == len(expected)
    found.shout = False
    found.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "MyFast" and config["shout"] is False
    again = ours.from_pretrained(tmp_path / "saved")
    assert type(again) is ours and not again.shout and again.encode("the fox") == found.encode("the fox")
    assert ours.from_pretrained(tmp_path / "saved", shout=True).shout
    AutoTokenizer.register(None, fast_tokenizer_class=ours)
    assert type(AutoTokenizer.from_pretrained(tmp_path / "saved")) is ours


def test_a_class_that_builds_its_steps(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    class Built(omniform.TokenizersBackend):
        vocab_files_names = {"vocab_file": "vocab.json", "merges_file": "merges.txt"}  # noqa: RUF012

        def __init__(self, vocab=None, merges=None, unk_token="<unk>", **kwargs):
            self._tokenizer = Tokenizer(models.BPE(vocab=vocab or {"<unk>": 0, "a": 1}, merges=merges or []))
            self._tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
            self._tokenizer.decoder = decoders.Metaspace()
            super().__init__(unk_token=unk_token, **kwargs)

    made = Built(
        vocab={"<unk>": 0, "▁": 1, "a": 2, "b": 3, "ab": 4}, merges=[("a", "b")], bos_token="<s>", add_bos_token=True
    )
    assert made.tokenize("ab a") == ["▁", "ab", "▁", "a"] and made.encode("ab") == [made.bos_token_id, 1, 4]
    made.save_pretrained(tmp_path / "saved")
    again = Built.from_pretrained(tmp_path / "saved")
    assert again.get_vocab() == made.get_vocab() and again("ab a")["input_ids"] == made("ab a")["input_ids"]


def test_a_class_that_inherits_from_one_of_omniforms(tmp_path: Path) -> None:
    class MyBert(omniform.BertTokenizer):
        padding_side = "left"

        def __init__(self, *args, suffix="!", **kwargs):
            super().__init__(*args, suffix=suffix, **kwargs)
            self.suffix = suffix

        def decode(self, *args, **kwargs):
            return super().decode(*args, **kwargs) + self.suffix

    folder = bert(tmp_path / "bert")
    made = MyBert.from_pretrained(folder, suffix="?")
    expected = omniform.BertTokenizer.from_pretrained(folder)
    assert made("the fox", "over")["token_type_ids"] == expected("the fox", "over")["token_type_ids"]
    assert made.decode(made.encode("the fox")) == "[CLS] the fox [SEP]?" and made.padding_side == "left"
    made.save_pretrained(tmp_path / "saved")
    assert MyBert.from_pretrained(tmp_path / "saved").suffix == "?"
    # Elsewhere, the class that the tokenizer.json needs no code for.
    plain = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert plain.encode("the fox") == expected.encode("the fox")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    kind = derived("CharTokenizer", omniform)
    with pytest.raises(RepoError, match=r"chars\.json.*CharTokenizer.*vocab_file"):
        kind.from_pretrained(tmp_path)
    tokenizer = kind(str(write("CharTokenizer", tmp_path / "folder") / "chars.json"))

    class Bare(omniform.PreTrainedTokenizer):
        pass

    class Half(omniform.PreTrainedTokenizer):
        vocab_size = 1

        def get_vocab(self):
            return {"a": 0}

    with pytest.raises(MissingPartError, match="Bare has no get_vocab"):
        Bare()
    half = Half()
    for work, name in (
        (lambda: half("a"), "_tokenize"),
        (lambda: half.convert_tokens_to_ids("a"), "_convert_token_to_id"),
        (lambda: half.decode([0]), "_convert_id_to_token"),
    ):
        with pytest.raises(NotImplementedError, match=f"Half has no {name}"):
            work()
    with pytest.raises(MissingPartError, match="return_offsets_mapping"):
        tokenizer("a", return_offsets_mapping=True)
    with pytest.raises(TypeError, match="truncation"):
        tokenizer("a", trunctaion=True)
    with pytest.raises(TypeError, match=r"CharTokenizer\.decode"):
        tokenizer.decode([5], shout=True)
    with pytest.raises(InputError, match="special_tokens_pattern"):
        kind(str(tmp_path / "folder" / "chars.json"), special_tokens_pattern="cls_sepp")("a")
    with pytest.raises(InputError, match="cls_token"):
        kind(str(tmp_path / "folder" / "chars.json"), special_tokens_pattern="cls_sep")("a")
    with pytest.raises(AttributeError, match="method"):
        kind(str(tmp_path / "folder" / "chars.json"), tokenize=True)
    with pytest.raises(ConfigError, match="odd"):
        kind(str(tmp_path / "folder" / "chars.json"), odd=object()).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    for name, value in (("padding_side", "middle"), ("pad_token", 5), ("model_max_length", "many")):
        with pytest.raises(OmniformError):
            setattr(tokenizer, name, value)
    with pytest.raises(AttributeError, match=r"no attribute 'voacb_size'.*vocab_size"):
        tokenizer.voacb_size  # noqa: B018


def test_a_folder_that_brings_code(tmp_path: Path) -> None:
    config = {"tokenizer_class": "FarTokenizer", "auto_map": {"AutoTokenizer": ["far.FarTokenizer", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "vocab.txt").write_text("a\nb")
    with pytest.raises(TrustError, match=r"FarTokenizer.*trust_remote_code"):
        AutoTokenizer.from_pretrained(tmp_path)


def test_the_ecosystems_paths() -> None:
    from omniform.tokenization_python import PreTrainedTokenizer, PythonBackend
    from omniform.tokenization_utils import AddedToken
    from omniform.tokenization_utils_base import EncodedInput, PaddingStrategy, TruncationStrategy
    from omniform.utils import TensorType

    assert PreTrainedTokenizer is PythonBackend is omniform.PreTrainedTokenizer
    assert PaddingStrategy("longest") is PaddingStrategy.LONGEST and TensorType.PYTORCH == "pt"
    assert TruncationStrategy.ONLY_FIRST.value == "only_first" and EncodedInput and AddedToken("a").content == "a"


def test_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "own_tokenizer.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(page.split("```python\n")[1].split("```")[0], "own_tokenizer.md", "exec"), names)
    assert capsys.readouterr().out.endswith("<gene>ATGGCC\n")
    tokenizer = names["tokenizer"]
    assert tokenizer("ATGGCCTAA", max_length=3, truncation=True)["input_ids"] == [3, 4, 2]


def test_pipelines(tmp_path: Path) -> None:
    theirs, ours = made("WordsTokenizer", write("WordsTokenizer", tmp_path / "folder"))
    config = transformers.BertConfig(
        vocab_size=len(ours), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        type_vocab_size=3,
    )  # fmt: skip
    transformers.BertForTokenClassification(config).save_pretrained(tmp_path / "model")
    ours.save_pretrained(tmp_path / "model")
    AutoTokenizer.register(None, slow_tokenizer_class=type(ours))
    found = omniform.pipeline("token-classification", model=str(tmp_path / "model"))
    assert type(found.tokenizer) is type(ours)
    there = transformers.BertForTokenClassification.from_pretrained(tmp_path / "model")
    expected = transformers.pipeline("token-classification", model=there, tokenizer=theirs)("the fox over it")
    entities = found("the fox over it")
    assert [(e["entity"], e["word"], e["index"], e["start"]) for e in entities] == [
        (e["entity"], e["word"], e["index"], e["start"]) for e in expected
    ]
    assert len(entities) == 4
    transformers.BertForQuestionAnswering(config).save_pretrained(tmp_path / "answers")
    ours.save_pretrained(tmp_path / "answers")
    with pytest.raises(InputError, match="places"):
        omniform.pipeline("question-answering", model=str(tmp_path / "answers"))(question="the", context="fox")


@pytest.mark.parametrize(
    "pattern", [None, "none", "cls_sep", "eos", "bos", "bos_eos", "cls_double_sep", "prefix_suffix"]
)
def test_named_framings(pattern: str | None, tmp_path: Path) -> None:
    folder = write("CharTokenizer", tmp_path / "folder")
    for types, included in (("bert_style", True), ("bert_style", False), ("all_zeros", True)):
        theirs, ours = made(
            "CharTokenizer", folder, special_tokens_pattern=pattern, token_type_ids_pattern=types,
            token_type_ids_include_special_tokens=included, cls_token="<c>", sep_token="<s>", bos_token="<b>",
            eos_token="<e>", image_token="<img>", model_specific_special_tokens={"boi": "<boi>"},
        )  # fmt: skip
        asked = {"return_special_tokens_mask": True, "return_token_type_ids": True}
        for given in (("the fox",), ("the fox", "it"), (TEXTS, PAIRS), ("a<img>b<boi>",)):
            for option in (asked, {**asked, "truncation": True, "max_length": 12}):
                assert dict(ours(*given, **option)) == dict(theirs(*given, **option))
        for name in ("image_token", "image_token_id", "boi", "boi_id", "special_tokens_map", "all_special_ids"):
            assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize("legacy", [True, False])
def test_the_base_over_sentencepiece(legacy: bool, tmp_path: Path) -> None:
    from omniform.tokenization_utils_sentencepiece import SentencePieceBackend

    def own_class(base: type) -> type:
        class My(base):
            vocab_files_names = {"vocab_file": "own.model"}  # noqa: RUF012

            def __init__(self, vocab_file, unk_token="<unk>", eos_token="</s>", pad_token="<pad>", **kwargs):
                names = {"unk_token": unk_token, "eos_token": eos_token, "pad_token": pad_token}
                super().__init__(vocab_file=vocab_file, special_tokens_pattern="eos", **names, **kwargs)

        return My

    file = str(write("PiecesTokenizer", tmp_path / "folder") / "own.model")
    kinds = [own_class(base) for base in (transformers.SentencePieceBackend, SentencePieceBackend)]
    theirs, ours = (kind(file, legacy=legacy) for kind in kinds)
    for tokenizer in (theirs, ours):
        tokenizer.add_tokens(["<x>", "Fox"])
    for text in [*TEXTS, "  two  spaces <x> after"]:
        assert ours.tokenize(text) == theirs.tokenize(text) and dict(ours(text, "it")) == dict(theirs(text, "it"))
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))
    assert ours.get_vocab() == theirs.get_vocab() and ours.init_kwargs == theirs.init_kwargs
    ours.save_pretrained(tmp_path / "saved")
    for again in (kinds[0].from_pretrained(tmp_path / "saved"), kinds[1].from_pretrained(tmp_path / "saved")):
        assert dict(again(TEXTS)) == dict(ours(TEXTS)) and again.legacy is legacy
    assert dict(copy.deepcopy(ours)(TEXTS)) == dict(ours(TEXTS))
    (tmp_path / "wrong.model").write_bytes(b"no model")
    for path, error in (("wrong.model", ConfigError), ("none.model", RepoError)):
        with pytest.raises(error, match=path):
            kinds[1](str(tmp_path / path))


def test_nothing_is_half_written(tmp_path: Path) -> None:
    kind = derived("CharTokenizer", omniform)

    class Fails(kind):
        def save_vocabulary(self, save_directory, filename_prefix=None):
            super().save_vocabulary(save_directory)
            raise RuntimeError("no room")

    made = Fails(str(write("CharTokenizer", tmp_path / "folder") / "chars.json"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()}
    for name in ("folder", "new"):
        with pytest.raises(RuntimeError, match="no room"):
            made.save_pretrained(tmp_path / name)
    assert {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()} == before
    assert not (tmp_path / "new").exists()
    made.additional_special_tokens = ["<q>"]
    assert made.extra_special_tokens == ["<q>"] and made.pad_token_type_id == 0
