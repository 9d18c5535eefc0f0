"""lm-eval on a model of ours: the numbers of its own class for the reference, tasks of folders, the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from omniform.cli.main import main
from omniform.core.errors import DependencyError, InputError, OmniformError, RepoError
from reference import omniform, saved_reference, transformers

sys.path.insert(0, str(Path(__file__).parent.parent / "inputs"))

import test_tokenizers_folders as folders

instance = pytest.importorskip("lm_eval.api.instance")
huggingface = pytest.importorskip("lm_eval.models.huggingface")

from omniform.evals.lm import OmniformLM  # noqa: E402
from omniform.evals.run import OWN, evaluate, load_tasks, table  # noqa: E402

FOX = "the quick brown fox jumps over the lazy dog. "
PAIRS = [
    ("the quick fox", " jumps over"), ("the quick fox ", " over"), ("", "dog"), ("hello", " world"), ("hello", " w"),
    (FOX * 4, " and hello world"), ("日本", " world"), ("hello  ", "dog"), ("<s>the quick", " fox"),
]  # fmt: skip
GENERATIONS = [
    ("the quick fox", {"until": ["a", "o"], "max_gen_toks": 20}), ("hello", {"until": ["\n"], "max_gen_toks": 12}),
    (FOX * 5, {"until": [], "max_gen_toks": 12}), ("over", {"until": "zzz", "max_new_tokens": 5, "do_sample": False}),
    ("the lazy dog", {"temperature": 0.0, "max_gen_toks": 9}),
]  # fmt: skip
SIZES = {
    "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": None,
}  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)


def made(folder, kind, seq2seq=False):
    getattr(folders, kind)(folder)
    tokenizer = folders.reference(folder)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    if seq2seq:
        config = transformers.T5Config(
            vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, num_decoder_layers=2,
            pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        )  # fmt: skip
        theirs = saved_reference(transformers.T5ForConditionalGeneration, config, folder, scale=1.0)
        ours = omniform.AutoModelForSeq2SeqLM.from_pretrained(folder)
    else:
        config = transformers.LlamaConfig(vocab_size=len(tokenizer), **SIZES, **ids)
        theirs = saved_reference(transformers.LlamaForCausalLM, config, folder, scale=0.3)
        ours = omniform.AutoModelForCausalLM.from_pretrained(folder)
    options = {"backend": "seq2seq"} if seq2seq else {}
    reference = huggingface.HFLM(pretrained=theirs, tokenizer=tokenizer, batch_size=3, max_length=64, **options)
    return OmniformLM(ours, folders.ours(folder), max_length=64), reference, folder


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def pair(request, tmp_path_factory):
    return made(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return made(tmp_path_factory.mktemp("one"), "llama")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")


def asked(kind, arguments):
    return [
        instance.Instance(request_type=kind, doc={}, arguments=own, idx=number) for number, own in enumerate(arguments)
    ]


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine[0] == pytest.approx(other[0], abs=1e-4, rel=1e-5) and mine[1] == other[1]


def test_log_likelihoods_are_those_of_the_reference(pair):
    ours, theirs, _ = pair
    assert (ours.max_length, ours.prefix_token_id, ours.eot_token_id) == (
        64,
        theirs.prefix_token_id,
        theirs.eot_token_id,
    )
    requests = asked("loglikelihood", PAIRS)
    same(ours.loglikelihood(requests), theirs.loglikelihood(requests, disable_tqdm=True))
    # Among all continuations of one token there is the one that greedy search writes.
    ids = [(None, ours.tok_encode("the quick"), [token]) for token in range(3, ours.model.vocabulary)]
    same(ours._loglikelihood_tokens(ids), theirs._loglikelihood_tokens(ids, disable_tqdm=True))
    assert any(greedy for _, greedy in ours._loglikelihood_tokens(ids))


def test_whole_texts_are_as_likely_as_in_the_reference(pair):
    ours, theirs, _ = pair
    requests = asked("loglikelihood_rolling", [(FOX * 7,), ("hello",), ("日本 world",), (FOX,)])
    expected = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    assert ours.loglikelihood_rolling(requests) == pytest.approx(expected, abs=1e-4, rel=1e-5)


def test_texts_are_written_until_the_same_place(pair):
    ours, theirs, _ = pair
    requests = asked("generate_until", GENERATIONS)
    assert ours.generate_until(requests) == theirs.generate_until(requests, disable_tqdm=True)


def test_an_encoder_decoder_s_continuations(tmp_path):
    ours, theirs, _ = made(tmp_path, "t5", seq2seq=True)
    requests = asked("loglikelihood", [pair for pair in PAIRS if pair[0]])
    same(ours.loglikelihood(requests), theirs.loglikelihood(requests, disable_tqdm=True))
    requests = asked("generate_until", [(text, {**own, "until": []}) for text, own in GENERATIONS[:2]])
    # The reference's class lets an encoder-decoder write as many tokens more as its encoder has read.
    longer = theirs.generate_until(requests, disable_tqdm=True)
    assert all(text.startswith(own) and own for own, text in zip(ours.generate_until(requests), longer, strict=True))


def test_pairs_of_texts_are_cut_as_lm_eval_cuts_them(pair):
    ours, theirs, _ = pair
    pairs = [own for own in PAIRS if not own[0].startswith("<s>") and len(own[0]) < 100]
    expected = theirs.loglikelihood(asked("loglikelihood", pairs), disable_tqdm=True)
    same([(score.total, score.is_greedy) for score in ours.engine.score(pairs)], expected)
    one = ours.model.score(*pairs[0], tokenizer=ours.tokenizer)
    assert one.total == pytest.approx(expected[0][0], abs=1e-4)
    assert one.tokens == ours.tok_encode("".join(pairs[0]))[-len(one.tokens) :]


def test_chats_are_put_as_the_reference_puts_them(one):
    ours, theirs, _ = one
    chat = [{"role": "user", "content": "the quick"}, {"role": "assistant", "content": "fox"}]
    ours.tokenizer.chat_template = theirs.tokenizer.chat_template = TEMPLATE
    for more in ({}, {"add_generation_prompt": False}):
        assert ours.apply_chat_template(chat, **more) == theirs.apply_chat_template(chat, **more)
    assert ours.chat_template(True) == theirs.chat_template(True) == TEMPLATE and isinstance(ours.tokenizer_name, str)
    ours.tokenizer.chat_template = theirs.tokenizer.chat_template = None


def test_a_context_is_read_once_for_all_its_continuations(one):
    ours, _, folder = one
    fresh = OmniformLM(ours.model, folders.ours(folder), max_length=64)
    context = ours.tok_encode(FOX * 2)
    endings = [ours.tok_encode(text, add_special_tokens=False) for text in (" fox", " dog", " hello world", " quick")]
    fresh._loglikelihood_tokens([(None, context, own) for own in endings])
    most = len(context) + sum(8 + len(own) for own in endings)
    assert fresh.engine.stats().tokens_computed <= most < 3 * len(context)


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_our_own_tasks_give_the_reference_s_numbers(one):
    from lm_eval import evaluator

    ours, theirs, _ = one
    names = ["omniform_choices", "omniform_sums", "omniform_sentences"]
    found = evaluate(ours, names, limit=5, num_fewshot=None)
    expected = evaluator.evaluate(lm=theirs, task_dict=load_tasks(names), limit=5, bootstrap_iters=0, verbosity=None)
    assert list(found["results"]) == names
    for name in names:
        values = {key: v for key, v in found["results"][name].items() if isinstance(v, float) and "stderr" not in key}
        assert values == pytest.approx({key: expected["results"][name][key] for key in values}, rel=1e-4)
    shown = table(found)
    assert all(word in shown for word in ["omniform_choices", "acc_norm", "exact_match", "bits_per_byte", "stderr"])
    found["results"]["omniform_sums"]["exact_match,first-number"] = 12345678.9
    assert "1.2346e+07" in table(found)
    # Questions before the question change what is asked.
    assert evaluate(ours, names[:1], limit=5, num_fewshot=1)["n-shot"]["omniform_choices"] == 1


def own_task(folder, name="mine", data="mine.jsonl", **more):
    settings = {
        "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": data}}, "test_split": "test",
        "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}",
        "doc_to_choice": "{{choices}}", "metric_list": [{"metric": "acc"}], **more,
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(json.dumps(settings))  # JSON is YAML
    rows = [{"question": "the quick", "choices": ["fox", "dog"], "answer": n % 2} for n in range(4)]
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_a_folder_s_tasks_find_their_data_beside_them(one, tmp_path, monkeypatch):
    ours, _, _ = one
    own_task(tmp_path)
    assert evaluate(ours, ["mine"], tasks_dir=tmp_path)["results"]["mine"]["acc,none"] == 0.5
    monkeypatch.chdir(tmp_path.parent)
    assert (
        evaluate(ours, ["mine", "omniform_sums"], limit=0.5, tasks_dir=tmp_path.name)["n-samples"]["mine"]["effective"]
        == 2
    )


def test_what_cannot_be_evaluated_is_told_in_one_line(tmp_path):
    own_task(tmp_path, "gone", data="nowhere.jsonl")
    own_task(tmp_path, "bad", output_type="guesswork")
    own_task(tmp_path, "poor")
    yaml = (tmp_path / "poor.yaml").read_text()
    (tmp_path / "poor.yaml").write_text(yaml[:-1] + ', "process_docs": !function poor_docs.process}')
    (tmp_path / "poor_docs.py").write_text("import nothing_of_this_name")
    for names, error, words in (
        (["poor"], DependencyError, "package that is not installed"),
        (["gone"], RepoError, "data is not here"),
        (["bad"], InputError, "not described"),
        ([], InputError, "nothing to evaluate"),
    ):
        with pytest.raises(error, match=words) as caught:
            load_tasks(names, tmp_path)
        assert "\n" not in str(caught.value)
    with pytest.raises(RepoError, match="no such folder"):
        load_tasks(["gone"], tmp_path / "nowhere")
    assert {path.suffix for path in OWN.iterdir()} == {".yaml", ".jsonl"}


@pytest.mark.parametrize(("asked", "where"), [({"limit": 0}, "limit"), ({"num_fewshot": -1}, "num_fewshot")])
def test_settings_that_cannot_be_are_refused(one, asked, where):
    with pytest.raises(InputError) as caught:
        evaluate(one[0], ["omniform_sums"], **asked)
    assert caught.value.where == where


def test_a_model_that_does_not_write_is_refused(one, tmp_path):
    with pytest.raises(OmniformError):
        OmniformLM(one[0].model)
    with pytest.raises(InputError, match="reads no texts"):
        OmniformLM(one[0].model, object())


# -- the command line --------------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_and_writes_a_file(one, tmp_path, capsys):
    folder, out = str(one[2]), tmp_path / "all.json"
    assert main(["eval", folder, "--tasks", "omniform_sums, omniform_choices", "--limit", "3", "-o", str(out)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("task") and "omniform_choices" in shown and "exact_match" in shown
    told = json.loads(out.read_text())
    assert set(told["results"]) == {"omniform_sums", "omniform_choices"}
    assert told["config"]["omniform"]["model"] == folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tasks", "omniform_sums", "--tasks-dir", "nowhere"], "no such folder"),
        (["--tasks", ","], "nothing to evaluate"),
        (["--tasks", "omniform_sums", "--system", "be short"], "--apply-chat-template"),
        (["--tasks", "omniform_sums", "--apply-chat-template"], "no chat template"),
        (["--tasks", "omniform_sums", "--metadata", "[1]"], "no JSON object"),
        (["--tasks", "omniform_sums", "--metadata", "{"], "no JSON object"),
        (["--tasks", "omniform_sums", "-o", "nowhere/all.json"], "no such folder"),
        ([], "--tasks"),
    ],
)
def test_mistakes_are_one_line(one, arguments, words, capsys):
    assert main(["eval", str(one[2]), *arguments]) == 2
    told = capsys.readouterr()
    assert words in told.err and told.err.count("\n") == 1 and not told.out
