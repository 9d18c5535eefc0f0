"""Command lines and files to dataclasses, as the reference's parser reads them."""

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Optional, Union

import pytest
from omniform.hf_argparser import HfArg
from omniform.hf_argparser import HfArgumentParser as SameParser

from omniform import HfArgumentParser, Seq2SeqTrainingArguments, TrainingArguments
from reference import transformers


class Colour(Enum):
    RED = "red"
    BLUE = "blue"
    NUMBER = 42


@dataclass
class Sample:
    needed: int
    number: float = 1.5
    flag: bool = False
    on: bool = True
    perhaps: bool | None = None
    surely: bool | None = True
    text: str | None = None
    old: Optional[int] = None  # noqa: UP045
    both: Union[Colour, str] = "red"  # noqa: UP007
    colour: Colour = "red"
    word: Literal["a", "b", 3] = "a"
    numbers: list[int] = field(default_factory=lambda: [1, 2])
    texts: list[str] | None = None
    nick: str = field(default="x", metadata={"aliases": ["--n", "-n"], "help": "a %% sign"})


THEIRS = transformers.HfArgumentParser


@pytest.mark.parametrize(
    "words",
    [
        "--needed 3",
        "--needed 3 --flag --no_on --perhaps no --number 2",
        "--needed 3 --flag false --on 0 --no-on --perhaps true --surely false --text hello --old 7",
        "--needed 3 --no_surely --both blue --colour 42 --word 3 --numbers 4 5 6 --texts a b -n me",
    ],
)
def test_command_lines_mean_what_the_reference_reads(words):
    (ours,) = HfArgumentParser(Sample).parse_args_into_dataclasses(words.split(), look_for_args_file=False)
    (theirs,) = THEIRS(Sample).parse_args_into_dataclasses(words.split(), look_for_args_file=False)
    assert ours == theirs


@pytest.mark.parametrize(
    "words", ["", "--needed x", "--needed 1 --colour green", "--needed 1 --word c", "--needed 1 --flag 2"]
)
def test_what_cannot_be_read_ends_with_the_usage(words, capsys):
    for parser in (HfArgumentParser, THEIRS):
        with pytest.raises(SystemExit):
            parser(Sample).parse_args_into_dataclasses(words.split(), look_for_args_file=False)
        assert "usage:" in capsys.readouterr().err


def test_options_are_the_references():
    def told(parser):
        found = []
        for action in parser._actions[1:]:
            facts = {key: value for key, value in vars(action).items() if key not in ("container", "type")}
            found.append(facts | {"class": type(action).__name__})
        return found

    assert told(HfArgumentParser(Sample)) == told(THEIRS(Sample))


def test_files_come_before_the_command_line(tmp_path, monkeypatch):
    (tmp_path / "script.args").write_text("--needed 1 --number 2.5\n--flag")
    (tmp_path / "other.args").write_text("--needed 2")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "script.py"), "--number", "3.5"])
    parser = HfArgumentParser(Sample)
    (found,) = parser.parse_args_into_dataclasses()
    assert (found.needed, found.number, found.flag) == (1, 3.5, True)
    (found,) = parser.parse_args_into_dataclasses(["--number", "4"], args_filename=str(tmp_path / "other.args"))
    assert (found.needed, found.number, found.flag) == (2, 4, False)
    (found,) = parser.parse_args_into_dataclasses(
        ["--args", str(tmp_path / "other.args"), "--old", "3"], args_file_flag="--args"
    )
    assert (found.needed, found.number, found.old) == (2, 2.5, 3)
    with pytest.raises(SystemExit):
        parser.parse_args_into_dataclasses(["--number", "4"], look_for_args_file=False)


def test_words_that_no_option_takes():
    parser = HfArgumentParser(Sample)
    with pytest.raises(ValueError, match="numbr") as error:
        parser.parse_args_into_dataclasses(["--needed", "1", "--numbr", "2"], look_for_args_file=False)
    assert "number" in str(error.value)
    found, rest = parser.parse_args_into_dataclasses(
        ["--needed", "1", "--else", "2"], return_remaining_strings=True, look_for_args_file=False
    )
    assert (found.needed, rest) == (1, ["--else", "2"])


def test_other_options_are_returned_behind():
    parser = HfArgumentParser([Sample])
    parser.add_argument("--more", type=int)
    _, namespace = parser.parse_args_into_dataclasses(["--needed", "1", "--more", "2"], look_for_args_file=False)
    assert vars(namespace) == {"more": 2}


def test_dicts_and_files(tmp_path):
    held = {"needed": 3, "numbers": [1], "text": "hello"}
    parser = SameParser(Sample)
    assert parser.parse_dict(held) == (Sample(**held),)
    with pytest.raises(ValueError, match="numbers"):
        parser.parse_dict({**held, "numbrs": 1})
    assert parser.parse_dict({**held, "numbrs": 1}, allow_extra_keys=True) == (Sample(**held),)
    (tmp_path / "a.json").write_text(json.dumps(held))
    assert parser.parse_json_file(tmp_path / "a.json") == (Sample(**held),)
    (tmp_path / "a.yaml").write_text("needed: 3\nnumbers: [1]\ntext: hello\n")
    assert parser.parse_yaml_file(str(tmp_path / "a.yaml")) == (Sample(**held),)
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="mapping"):
        parser.parse_yaml_file(tmp_path / "list.yaml")


def test_fields_of_hfarg_and_groups():
    @dataclass
    class Grouped:
        _argument_group_name = "mine"
        rate: float = HfArg(default=1.0, aliases="-r", help="how fast")

    parser = HfArgumentParser([Grouped])
    assert "mine:" in parser.format_help()
    assert "how fast" in parser.format_help()
    assert parser.parse_args_into_dataclasses(["-r", "2"], look_for_args_file=False) == (Grouped(2.0),)


def test_a_union_that_no_option_can_hold():
    @dataclass
    class Bad:
        both: int | float = 1

    with pytest.raises(ValueError, match="both"):
        HfArgumentParser(Bad)


WORDS = """--output_dir out --do_train --learning_rate 3e-5 --num_train_epochs 1 --eval_strategy steps --eval_steps 50
    --bf16 false --lr_scheduler_type cosine --lr_scheduler_kwargs {"num_cycles":2} --report_to tensorboard --optim sgd
    --save_total_limit 2 --use_cpu --label_names a b --no_dataloader_pin_memory --warmup_steps 0.1 --log-level info
    --include_for_metrics loss --gradient_checkpointing --disable_tqdm true --greater_is_better false"""


def test_trainings_are_read_from_command_lines(monkeypatch):
    for ours, theirs in (
        (TrainingArguments, transformers.TrainingArguments),
        (Seq2SeqTrainingArguments, transformers.Seq2SeqTrainingArguments),
    ):
        (found,) = HfArgumentParser(ours).parse_args_into_dataclasses(WORDS.split(), look_for_args_file=False)
        (wanted,) = THEIRS(theirs).parse_args_into_dataclasses(WORDS.split(), look_for_args_file=False)
        assert found.to_dict() == wanted.to_dict()
        (again,) = THEIRS(ours).parse_args_into_dataclasses(WORDS.split(), look_for_args_file=False)
        assert again.to_dict() == wanted.to_dict()  # the reference's parser reads our class


def test_arguments_of_earlier_releases_on_command_lines_and_in_files():
    words = """--output_dir x --evaluation_strategy epoch --overwrite_output_dir --no_cuda --warmup_ratio 0.1
        --per-gpu-train-batch-size 3"""
    parser = HfArgumentParser(TrainingArguments)
    (found,) = parser.parse_args_into_dataclasses(words.split(), look_for_args_file=False)
    assert (found.eval_strategy, found.overwrite_output_dir, found.use_cpu) == ("epoch", True, True)
    assert (found.warmup_steps, found.per_device_train_batch_size) == (0.1, 3)
    (found,) = parser.parse_dict({"evaluation_strategy": "epoch", "learning_rate": "5e-5"})
    assert (found.eval_strategy, found.learning_rate) == ("epoch", 5e-5)
    assert "evaluation_strategy" not in parser.format_help()


def test_words_that_are_flags_or_texts_and_fsdp():
    parser = HfArgumentParser(TrainingArguments)
    for words, value in (("", "all"), ("non_padding", "non_padding"), ("false", "no")):
        given = ["--include_num_input_tokens_seen", *words.split()]
        (found,) = parser.parse_args_into_dataclasses(given, look_for_args_file=False)
        assert found.include_num_input_tokens_seen == value
    (found,) = parser.parse_args_into_dataclasses(["--fsdp"], look_for_args_file=False)
    assert found.fsdp is True
    assert found.fsdp_plugin_args["fsdp_version"] == 2


def test_help_and_metadata_can_be_shown():
    text = HfArgumentParser(Seq2SeqTrainingArguments).format_help()
    for one in dataclasses.fields(Seq2SeqTrainingArguments):
        assert f"--{one.name}" in text
