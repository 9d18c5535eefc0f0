"""Our table of tokenizer classes against the reference's own tables: names and facts, every row."""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import pickle
from pathlib import Path

import pytest
from test_tokenizers_folders import bert, llama_pieces, ours, reference
from tokenizers import AddedToken, decoders, normalizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

import omniform
from omniform.inputs.text import classes
from omniform.inputs.text.names import (
    ALIASES,
    AS_THEY_STAND,
    CLASSES,
    FAMILIES,
    GENERIC,
    MISNAMED,
    Origin,
    class_of,
    known_class,
)
from omniform.inputs.text.recipes import recipe_of
from omniform.inputs.text.special import NAMES


@pytest.fixture(scope="module")
def auto():
    from reference import import_torchvision

    import_torchvision()
    return importlib.import_module("transformers.models.auto.tokenization_auto")


@pytest.fixture(scope="module")
def theirs(auto) -> dict[str, type]:
    """Every tokenizer class of the reference by name, those whose packages are missing excepted."""
    import transformers
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    found: dict[str, type] = {}
    for path in sorted((Path(transformers.__file__).parent / "models").glob("*/tokenization_*.py")):
        try:
            module = importlib.import_module(f"transformers.models.{path.parent.name}.{path.stem}")
        except (ImportError, NameError):
            continue
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, PreTrainedTokenizerBase):
                found[value.__name__] = value
    return {name: kind for name, kind in found.items() if kind.__module__.startswith("transformers.models")}


def test_families_and_the_wrongly_named(auto) -> None:
    expected = {family: name for family, name in auto.TOKENIZER_MAPPING_NAMES.items() if name}
    generic = ("TokenizersBackend", "MistralCommonBackend")
    assert {family: FAMILIES[family] for family in expected} == {
        family: GENERIC if name in generic else name.removesuffix("Fast") for family, name in expected.items()
    }
    assert set(FAMILIES) == set(auto.TOKENIZER_MAPPING_NAMES)
    assert MISNAMED == auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
    assert list(AS_THEY_STAND) == auto.MODEL_IDS_TO_TOKENIZERS_BACKEND


def test_classes(theirs) -> None:
    assert len(theirs) > 95
    for name, kind in theirs.items():
        if name.endswith("Fast"):
            assert known_class(name) == name.removesuffix("Fast")
            continue
        ours = CLASSES[name]
        assert ours.side == kind.padding_side, name
        assert ours.inputs.split() == kind.model_input_names, name
        others = ("tokenizer.json", "tokenizer_config.json", "normalizer.json")
        assert list(ours.files) == [file for file in kind.vocab_files_names.values() if file not in others], name
        bases = {"TokenizersBackend": "tokenizers", "SentencePieceBackend": "sentencepiece", "PythonBackend": "python"}
        assert ours.runs == next(bases[base.__name__] for base in kind.__mro__ if base.__name__ in bases), name
        signatures = [inspect.signature(base.__init__).parameters for base in kind.__mro__ if "__init__" in vars(base)]
        says = next(s for s in signatures if "unk_token" in s or "kwargs" not in s or s is signatures[-1])
        if any(token in says for token in NAMES):
            defaults = {token: says[token].default if token in says else None for token in NAMES}
            assert ours.tokens == defaults, name
    assert set(CLASSES) <= set(theirs)


def test_second_names(auto, theirs) -> None:
    from transformers.convert_slow_tokenizer import SLOW_TO_FAST_CONVERTERS

    unknown = {name for name in SLOW_TO_FAST_CONVERTERS if name not in theirs}
    assert {name for name in unknown if not name.endswith("Fast")} == set(ALIASES)
    for name, target in ALIASES.items():
        assert auto.tokenizer_class_from_name(name).__name__ == target


def test_the_class_of_a_folder_is_the_reference_s(auto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever family and class a folder names, both choose the same class: the reference's loaders are watched."""
    from transformers import PreTrainedConfig
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    monkeypatch.setattr(PreTrainedTokenizerBase, "from_pretrained", classmethod(lambda cls, *a, **k: cls.__name__))
    hub = [None, "LlamaTokenizer", "LlamaTokenizerFast", "BertTokenizer", "GPT2TokenizerFast", "GPT2Tokenizer"]
    hub += [
        "PreTrainedTokenizerFast",
        "Qwen2Tokenizer",
        "ElectraTokenizer",
        "DistilBertTokenizer",
        "BloomTokenizerFast",
    ]
    hub += ["RobertaTokenizer", "OwnTokenizer", "TokenizersBackend", "BloomTokenizerFast"]
    families = [None, "llama", "mistral", "mixtral", "phi3", "qwen2", "qwen3", "bert", "electra", "gpt2", "llava"]
    families += [
        "siglip2",
        "florence2",
        "opt",
        "hyperclovax_vision_v2",
        "modernbert",
        "olmo2",
        "idefics2",
        "t5",
        "bart",
    ]
    generic, compared = {"TokenizersBackend", "PythonBackend", "PreTrainedTokenizerFast", "PreTrainedTokenizer"}, 0
    for number, (family, name, in_bytes) in enumerate(itertools.product(families, hub, (False, True))):
        folder = tmp_path / str(number)
        folder.mkdir()
        values = {"tokenizer_class": name} if name else {}
        (folder / "tokenizer_config.json").write_text(json.dumps(values))
        (folder / "config.json").write_text(json.dumps({"model_type": family} if family else {}))
        step = {"type": "ByteLevel"} if in_bytes else None
        (folder / "tokenizer.json").write_text(json.dumps({"pre_tokenizer": step, "decoder": step}))
        config = PreTrainedConfig.from_pretrained(str(folder))
        if family:
            config = auto.AutoConfig.for_model(family) if family in auto.CONFIG_MAPPING_NAMES else config
            config.model_type = family
        try:
            expected = auto.AutoTokenizer.from_pretrained(str(folder), config=config, trust_remote_code=False)
        except (ValueError, AttributeError):
            continue  # nothing to go by, or code of the repository's own is asked for
        found = class_of(Origin(family=family, config_class=name, in_bytes=in_bytes, repository="x"))
        where, compared = f"{family}, {name}, bytes={in_bytes}", compared + 1
        assert found == (GENERIC if expected in generic else expected), where
    assert compared > 400


def test_mistral_s_file_is_taken_as_it_stands(tmp_path: Path) -> None:
    """All of Mistral's folders say LlamaTokenizer; their file puts a prefix before a space that was given."""
    pieces = llama_pieces()
    vocab = {text: index for index, (text, _, _) in enumerate(pieces)}
    merges = [(p[:cut], p[cut:]) for p in vocab for cut in range(1, len(p)) if p[:cut] in vocab and p[cut:] in vocab]
    backend = Backend(BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in ("<unk>", "<s>", "</s>")])
    backend.save(str(tmp_path / "tokenizer.json"))
    values = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(values))
    results = {}
    for family in ("mistral", "mixtral", "ministral", "phi3", "mistral3", "pixtral", "llama", "idefics2"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
        results[family] = ours(tmp_path)(" wow").tokens()
        assert results[family] == reference(tmp_path)(" wow").tokens(), family
    assert results["mistral"] != results["llama"]


# ---- the classes themselves


def test_every_class_can_be_imported_and_has_a_recipe() -> None:
    for name in classes.names():
        kind = vars(classes).get(name) or classes.class_named(name)
        assert issubclass(kind, classes.Tokenizer)
        assert pickle.loads(pickle.dumps(kind)) is kind
        recipe = recipe_of(kind.recipe_name)
        assert recipe.name == kind.recipe_name
    with pytest.raises(AttributeError, match="NoTokenizer"):
        classes.NoTokenizer  # noqa: B018


def test_loaded_tokenizers_are_of_their_class(tmp_path: Path) -> None:
    folder = bert(tmp_path / "bert")
    loaded = omniform.AutoTokenizer.from_pretrained(folder)
    assert type(loaded) is omniform.BertTokenizer is omniform.BertTokenizerFast
    assert isinstance(loaded, omniform.PreTrainedTokenizerFast)
    assert isinstance(loaded, omniform.PreTrainedTokenizer) and isinstance(loaded, omniform.PreTrainedTokenizerBase)
    assert not isinstance(loaded, omniform.GPT2Tokenizer)
    direct = omniform.BertTokenizer.from_pretrained(folder, padding_side="left")
    assert type(direct) is omniform.BertTokenizer and direct.padding_side == "left"
    assert direct("the fox")["input_ids"] == loaded("the fox")["input_ids"]
    assert isinstance(loaded("the fox"), omniform.BatchEncoding) and isinstance(loaded("x"), omniform.BatchFeature)
    loaded.save_pretrained(tmp_path / "again")
    assert type(omniform.AutoTokenizer.from_pretrained(tmp_path / "again")) is omniform.BertTokenizer


def test_a_subclass_is_what_its_from_pretrained_gives(tmp_path: Path) -> None:
    class Shouting(omniform.BertTokenizer):
        def decode(self, *arguments: object, **options: object) -> str:
            return str(super().decode(*arguments, **options)).upper()

    tokenizer = Shouting.from_pretrained(bert(tmp_path / "bert"))
    assert type(tokenizer) is Shouting and tokenizer.decode(tokenizer.encode("the fox")) == "[CLS] THE FOX [SEP]"


def test_a_class_is_made_by_its_own_recipe(tmp_path: Path) -> None:
    """As the ecosystem does: DistilBERT's class over BERT's folder gives no types."""
    tokenizer = omniform.DistilBertTokenizer.from_pretrained(bert(tmp_path / "bert"))
    assert sorted(tokenizer("the fox")) == ["attention_mask", "input_ids"]
