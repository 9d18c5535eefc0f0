"""Tokenizer folders as they come: written here and read there, older releases, overrides, and damaged files."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from test_tokenizers_folders import KINDS, PAIRS, TEXTS, bert, gpt2, llama, llama3, llava, ours, reference, t5, whisper

from omniform.core.errors import ConfigError, OmniformError, RepoError
from omniform.inputs.text.load import tokenizer_from_files
from omniform.inputs.text.tokenizer import Tokenizer

ROWS = [text for text in TEXTS if len(text) < 500]


def facts(tokenizer) -> dict[str, object]:
    """What two tokenizers have in common if they are the same."""
    encoded = tokenizer(ROWS, return_offsets_mapping=True, return_special_tokens_mask=True)
    pairs = tokenizer(*map(list, zip(*PAIRS, strict=True)))
    return {
        "encoded": {name: encoded[name] for name in sorted(encoded)},
        "pairs": {name: pairs[name] for name in sorted(pairs)},
        "decoded": [tokenizer.decode(ids) for ids in encoded["input_ids"]],
        "skipped": tokenizer.batch_decode(encoded["input_ids"], skip_special_tokens=True),
        "tokens": tokenizer.special_tokens_map,
        "all": tokenizer.all_special_tokens,
        "vocab": tokenizer.get_vocab(),
        "settings": [
            tokenizer.model_max_length, tokenizer.padding_side, tokenizer.truncation_side, tokenizer.model_input_names,
            tokenizer.clean_up_tokenization_spaces, tokenizer.split_special_tokens,
        ],
    }  # fmt: skip


def with_config(source: Path, target: Path) -> Path:
    shutil.copy(source / "config.json", target) if (source / "config.json").exists() else None
    return target


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_written_and_read(tmp_path: Path, kind: str) -> None:
    folder = KINDS[kind](tmp_path / "first")
    mine = ours(folder)
    expected = facts(reference(folder))
    assert facts(mine) == expected
    written = mine.save_files(tmp_path / "mine")
    # The vocabulary's own files, from which it was read, are beside them: test_tokenizers_layouts.
    new = {"tokenizer.json", "tokenizer_config.json"} | {"normalizer.json"} & {path.name for path in folder.iterdir()}
    assert {path.name for path in written} - set(mine.settings.sources) == new
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == sorted(path.name for path in written)
    reference(folder).save_pretrained(tmp_path / "theirs")
    for saved in ("mine", "theirs"):
        with_config(folder, tmp_path / saved)
        # What the reference reads back may differ from what it wrote; what counts is that the two agree.
        again = facts(reference(tmp_path / saved))
        assert facts(ours(tmp_path / saved)) == again, saved
        if saved == "mine":
            assert again == facts(reference(with_config(folder, tmp_path / "theirs")))
    bare = tmp_path / "bare"
    shutil.copytree(tmp_path / "mine", bare)
    (bare / "config.json").unlink(missing_ok=True)
    assert facts(ours(bare)) == facts(reference(bare))
    ours(bare).save_pretrained(str(tmp_path / "twice"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "twice" / name).read_text() == (bare / name).read_text()


def test_changes_are_saved(tmp_path: Path) -> None:
    tokenizer = ours(llava(tmp_path / "a"))
    tokenizer.add_tokens(["newword"])
    tokenizer.add_special_tokens({"mask_token": "<mask>", "extra_special_tokens": ["<one>"]})
    tokenizer.padding_side, tokenizer.model_max_length = "right", 99
    tokenizer.save_files(tmp_path / "b")
    for again in (ours(tmp_path / "b"), reference(tmp_path / "b")):
        text = "a newword <one><mask><image>"
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert (again.mask_token, again.image_token, again.image_token_id) == ("<mask>", "<image>", 392)
        assert (again.padding_side, again.model_max_length) == ("right", 99)
        assert again.extra_special_tokens == ["<one>"]


# ---- older releases: the same facts in other files


def edit(folder: Path, name: str, **changes: object) -> Path:
    path = folder / f"{name}.json"
    values = json.loads(path.read_text()) if path.exists() else {}
    values.update(changes)
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))
    return folder


TOKEN = {"content": "[CLS]", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
MASK = {"content": "<mask>", "lstrip": True, "rstrip": False, "normalized": True, "single_word": False}

OLDER = {
    "no config at all": lambda f: ((f / "tokenizer_config.json").unlink(), f)[1],
    "special tokens as text": lambda f: edit(f, "special_tokens_map", mask_token="<mask>", pad_token="</s>"),
    "special tokens as mappings": lambda f: edit(f, "special_tokens_map", mask_token=MASK, cls_token=TOKEN),
    "additional special tokens": lambda f: edit(f, "special_tokens_map", additional_special_tokens=["<a>", "<b>"]),
    "extra special tokens": lambda f: edit(
        f, "special_tokens_map", extra_special_tokens=["<a>", dict(MASK, content="<b>")]
    ),
    "additional in the config": lambda f: edit(f, "tokenizer_config", additional_special_tokens=["<a>", "<b>"]),
    "extra in the config": lambda f: edit(f, "tokenizer_config", extra_special_tokens=["<b>", "<a>"]),
    "extra by name": lambda f: edit(f, "tokenizer_config", extra_special_tokens={"boi_token": "<boi>", "eoi": "<eoi>"}),
    "marked mappings": lambda f: edit(f, "tokenizer_config", mask_token={"__type": "AddedToken", **MASK}),
    "own tokens": lambda f: edit(f, "tokenizer_config", image_token="<image>", audio_token=None),
    "split": lambda f: edit(f, "tokenizer_config", split_special_tokens=True),
    "sides": lambda f: edit(f, "tokenizer_config", padding_side="left", truncation_side="left"),
    "an old limit": lambda f: edit(f, "tokenizer_config", model_max_length=..., max_len=17),
    "no limit": lambda f: edit(f, "tokenizer_config", model_max_length=int(1e30)),
    "a null limit": lambda f: edit(f, "tokenizer_config", model_max_length=None),
    "inputs": lambda f: edit(f, "tokenizer_config", model_input_names=["input_ids", "token_type_ids"]),
    "clean up": lambda f: edit(f, "tokenizer_config", clean_up_tokenization_spaces=True),
    "forced clean up": lambda f: edit(
        f,
        "tokenizer_config",
        clean_up_tokenization_spaces=True,
        clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output=True,
    ),
    "the fast name": lambda f: edit(
        f,
        "tokenizer_config",
        tokenizer_class=json.loads((f / "tokenizer_config.json").read_text())["tokenizer_class"] + "Fast",
    ),
    "no name": lambda f: edit(f, "tokenizer_config", tokenizer_class=...),
    "the name in the model's config": lambda f: edit(
        edit(f, "tokenizer_config", tokenizer_class=...), "config", tokenizer_class="GPT2Tokenizer"
    ),
    "a generic name": lambda f: edit(f, "tokenizer_config", tokenizer_class="PreTrainedTokenizerFast"),
    "an unknown name": lambda f: edit(f, "tokenizer_config", tokenizer_class="NovelTokenizer"),
    "eos asked for": lambda f: edit(f, "tokenizer_config", add_eos_token=True),
    "bos and eos": lambda f: edit(f, "tokenizer_config", add_bos_token=True, add_eos_token=True),
    "no bos": lambda f: edit(f, "tokenizer_config", add_bos_token=False, add_eos_token=False),
    "prefix space": lambda f: edit(f, "tokenizer_config", add_prefix_space=True),
    "no prefix space": lambda f: edit(f, "tokenizer_config", add_prefix_space=False),
    "legacy": lambda f: edit(f, "tokenizer_config", legacy=True),
    "legacy unsaid": lambda f: edit(f, "tokenizer_config", legacy=None),
    "cased": lambda f: edit(f, "tokenizer_config", do_lower_case=False),
    "accents stripped": lambda f: edit(f, "tokenizer_config", strip_accents=True, do_lower_case=False),
    "accents kept": lambda f: edit(f, "tokenizer_config", strip_accents=False, tokenize_chinese_chars=False),
    "more sentinels": lambda f: edit(f, "tokenizer_config", extra_ids=12),
    "no sentinels": lambda f: edit(f, "tokenizer_config", extra_ids=0),
    "added tokens": lambda f: edit(
        edit(f, "added_tokens", **{"<new>": 5000, "newword": 5001}), "special_tokens_map", mask_token="<new>"
    ),
    "a decoder of tokens": lambda f: edit(
        f,
        "tokenizer_config",
        added_tokens_decoder={"9000": {**MASK, "special": True}, "9001": {**TOKEN, "content": "plainword"}},
        mask_token="<mask>",
    ),
    "inert settings": lambda f: edit(
        f,
        "tokenizer_config",
        name_or_path="/tmp/x",
        sp_model_kwargs={},
        use_fast=True,
        errors="replace",
        never_split=None,
        special_tokens_map_file="x",
        tokenizer_file=None,
        use_default_system_prompt=False,
        spaces_between_special_tokens=False,
    ),
}


BYTE_LEVEL = ("gpt2", "clip", "whisper", "llama3", "llava", "unigram")


@pytest.mark.parametrize("stage", ["vocabulary files", "tokenizer.json"])
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"wordlevel"}))
def test_older_releases(tmp_path: Path, kind: str, stage: str) -> None:
    base = KINDS[kind](tmp_path / "base")
    if stage == "tokenizer.json" and not (base / "tokenizer.json").exists():
        reference(base).save_pretrained(tmp_path / "saved")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tmp_path / "saved" / name, base / name)
    compared = 0
    for index, (name, change) in enumerate(OLDER.items()):
        folder = tmp_path / str(index)
        shutil.copytree(base, folder)
        change(folder)
        if name.startswith("the name in") and stage == "vocabulary files" and kind not in BYTE_LEVEL:
            with pytest.raises(ConfigError, match="no vocabulary"):  # the reference makes one up
                ours(folder)
            continue
        try:
            expected = facts(reference(folder))
        except ValueError:
            with pytest.raises(ConfigError, match="no vocabulary"):
                ours(folder)
            continue
        except TypeError:
            continue  # the reference trips over its own null
        compared += 1
        assert facts(ours(folder)) == expected, name
    assert compared >= len(OLDER) - 4


@pytest.mark.parametrize("options", [
    {"padding_side": "left"}, {"model_max_length": 7}, {"pad_token": "<fresh>"}, {"add_bos_token": True},
    {"add_eos_token": True, "add_bos_token": False}, {"do_lower_case": False}, {"add_prefix_space": True},
    {"extra_special_tokens": ["<x>"]}, {"additional_special_tokens": ["<y>"]}, {"split_special_tokens": True},
    {"clean_up_tokenization_spaces": True}, {"image_token": "<image>"}, {"truncation_side": "left"},
])  # fmt: skip
@pytest.mark.parametrize("kind", [bert, gpt2, llama, llama3, llava, t5])
def test_overrides(tmp_path: Path, kind, options: dict) -> None:
    folder = kind(tmp_path / "a")
    assert facts(ours(folder, **options)) == facts(reference(folder, **options))


def older_backend(raw: dict, change: str, special: tuple[str, int]) -> None:
    """Make the content of a tokenizer.json what other releases and other hands wrote."""
    match change:
        case "merges as text":
            raw["model"]["merges"] = [" ".join(pair) for pair in raw["model"].get("merges", [])]
        case "no type of model":
            del raw["model"]["type"]
        case "no post-processor":
            raw["post_processor"] = None
        case "stored limits":
            raw["truncation"] = {"direction": "Left", "max_length": 6, "strategy": "LongestFirst", "stride": 1}
            raw["padding"] = {
                "strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": special[1],
                "pad_type_id": 0, "pad_token": special[0],
            }  # fmt: skip
        case "another post-processor":
            raw["post_processor"] = {"type": "BertProcessing", "sep": list(special), "cls": list(special)}
        case "other steps":
            raw["normalizer"] = {"type": "Lowercase"}
            raw["pre_tokenizer"] = {"type": "Whitespace"}
            raw["decoder"] = None
        case "no added tokens":
            raw["added_tokens"] = []
        case "tokens not special":
            for token in raw["added_tokens"]:
                token["special"], token["lstrip"] = False, True


@pytest.mark.parametrize("change", [
    "merges as text", "no type of model", "no post-processor", "stored limits", "another post-processor", "other steps",
    "no added tokens", "tokens not special",
])  # fmt: skip
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"wordlevel"}))
def test_older_tokenizer_json(tmp_path: Path, kind: str, change: str) -> None:
    folder = KINDS[kind](tmp_path / "base")
    if not (folder / "tokenizer.json").exists():
        ours(folder).save_files(folder)
    tokenizer = ours(folder)
    raw = json.loads((folder / "tokenizer.json").read_text())
    token = tokenizer.eos_token or tokenizer.sep_token
    older_backend(raw, change, (token, tokenizer.convert_tokens_to_ids(token)))
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    for name in (..., "PreTrainedTokenizerFast"):
        if name is not ...:
            edit(edit(folder, "tokenizer_config", tokenizer_class=name), "config", model_type=...)
        mine, theirs = ours(folder), reference(folder)
        assert facts(mine) == facts(theirs)
        assert (mine.pad_token, mine.padding_side) == (theirs.pad_token, theirs.padding_side)


@pytest.mark.parametrize("legacy", [True, False, None])
@pytest.mark.parametrize("family", ["llama", "llava", None])
@pytest.mark.parametrize("named", ["LlamaTokenizer", "LlamaTokenizerFast", ...])
def test_llama_as_release_4_wrote_it(tmp_path: Path, legacy: bool | None, family: str | None, named) -> None:
    """Its tokenizer.json normalizes where release 5 splits; which of the two holds hangs on class and family."""
    folder = llava(tmp_path / "a", legacy=legacy, tokenizer_class=named if named is not ... else "x")
    edit(folder, "tokenizer_config", tokenizer_class=named)
    edit(folder, "config", model_type=family) if family else (folder / "config.json").unlink()
    assert facts(ours(folder)) == facts(reference(folder))
    edit(folder, "tokenizer_config", added_tokens_decoder=...)
    assert facts(ours(folder)) == facts(reference(folder))


# ---- malformed folders


def load(folder: Path, family: str | None = None) -> Tokenizer:
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return tokenizer_from_files(files, where=str(folder), model_type=family)


def test_missing_vocabularies(tmp_path: Path) -> None:
    for kind, name in ((gpt2, "merges.txt"), (bert, "vocab.txt"), (llama, "tokenizer.model")):
        folder = kind(tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(ConfigError, match="no vocabulary"):
            load(folder)
    with pytest.raises(ConfigError, match="no vocabulary"):
        load(tmp_path / "nothing")
    with pytest.raises(RepoError):
        tokenizer_from_files({"tokenizer.json": tmp_path / "gone.json"}, where="gone")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.json", b"{"),
        ("vocab.json", b"[]"),
        ("vocab.json", b'{"a": "b"}'),
        ("vocab.json", b'{"a": -1}'),
        ("vocab.json", b"\xff\xfe"),
        ("merges.txt", b"one\n"),
        ("merges.txt", b"a b c\n"),
        ("merges.txt", b"\xff"),
        ("merges.txt", b"not_there x\n"),
        ("tokenizer_config.json", b"{"),
        ("tokenizer_config.json", b"[1]"),
        ("tokenizer_config.json", b"\xff"),
        ("tokenizer_config.json", b'{"pad_token": 3}'),
        ("tokenizer_config.json", b'{"padding_side": "up"}'),
        ("tokenizer_config.json", b'{"model_max_length": "x"}'),
        ("tokenizer_config.json", b'{"add_prefix_space": "yes"}'),
        ("tokenizer_config.json", b'{"tokenizer_class": 3}'),
        ("tokenizer_config.json", b'{"added_tokens_decoder": []}'),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {}}}'),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"1": {"content": 3}}}'),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"1": {"content": "x", "lstrip": 3}}}'),
        ("tokenizer_config.json", b'{"model_input_names": "x"}'),
        ("tokenizer_config.json", b'{"extra_special_tokens": 3}'),
        ("special_tokens_map.json", b'{"pad_token": [1]}'),
        ("added_tokens.json", b'{"a": "x"}'),
        ("added_tokens.json", b"[]"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"null"),
        ("tokenizer.json", b'{"model": {}}'),
        ("tokenizer.json", b"\x00"),
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": [], "merges": 3}}'),
        ("tokenizer.json", b"[" * 100000),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 1.5}, "merges": []}, "added_tokens": [3]}'),
    ],
)
def test_malformed_files(tmp_path: Path, name: str, content: bytes) -> None:
    folder = gpt2(tmp_path / "a")
    if name == "tokenizer_config.json" and content.startswith(b'{"') and b"tokenizer_class" not in content:
        content = content[:-1] + b', "tokenizer_class": "GPT2Tokenizer"}'
    (folder / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(folder)
    assert caught.value.where


def test_extra_ids_disagree(tmp_path: Path) -> None:
    reference(t5(tmp_path / "a")).save_pretrained(tmp_path / "b")
    edit(tmp_path / "b", "special_tokens_map", additional_special_tokens=["<extra_id_0>"])
    with pytest.raises(ConfigError, match="disagree"):
        load(tmp_path / "b")


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5", "llama3", "llava", "whisper"])
def test_damaged_files(tmp_path: Path, kind: str) -> None:
    """Cut, changed and overwritten files give a tokenizer or a typed error, nothing else."""
    folder = KINDS[kind](tmp_path / "a")
    if kind == "bert":
        ours(folder).save_files(folder)
    chance = random.Random(kind)
    errors = 0
    for path in sorted(folder.iterdir()):
        original = path.read_bytes()
        for _ in range(8 if len(original) < 20000 else 4):
            data = bytearray(original)
            for _ in range(chance.choice((1, 3, 20))):
                where = chance.randrange(len(data) or 1)
                match chance.randrange(4):
                    case 0:
                        data[where : where + 1] = bytes([chance.randrange(256)])
                    case 1:
                        del data[where : where + chance.randrange(1, 30)]
                    case 2:
                        data[where:where] = bytes(chance.choice(b'{}[]",:0a-') for _ in range(chance.randrange(1, 4)))
                    case _:
                        del data[where + 1 + len(data) // 2 :]
            path.write_bytes(bytes(data))
            try:
                load(folder, kind)("hello world <s> 日本")
            except OmniformError:
                errors += 1
        path.write_bytes(original)
    load(folder, kind)
    assert errors > 5


def test_nothing_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names in a folder are names, whatever they say."""
    import importlib

    folder = edit(
        gpt2(tmp_path / "a"), "tokenizer_config", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]},
        tokenizer_file="/etc/passwd", vocab_file="/etc/passwd", name_or_path="evil/evil",
    )  # fmt: skip
    (folder / "evil.py").write_text("raise SystemExit")
    monkeypatch.setattr(importlib, "import_module", None)
    tokenizer = load(folder)
    assert tokenizer.decode(tokenizer("hello")["input_ids"]) == "hello"


def test_whisper_needs_its_tokens(tmp_path: Path) -> None:
    folder = whisper(tmp_path / "a")
    (folder / "added_tokens.json").unlink()
    edit(folder, "special_tokens_map", additional_special_tokens=[])
    edit(folder, "tokenizer_config", unk_token=None)
    with pytest.raises(ConfigError, match="prefix"):
        load(folder)
