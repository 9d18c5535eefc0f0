"""The names that scripts and notebooks of the ecosystem import: there, or left out for a reason; and what they do."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import logging
import types

import pytest

import omniform
from omniform.core import logs
from omniform.core.errors import DependencyError, InputError
from omniform.hub import mappings
from omniform.models.index import FAMILIES
from reference import transformers

LEFT_OUT = {
    # Releases that the reference asks for, its docstrings' machinery, and devices that omniform does not run on, are
    # left out everywhere.
    "trainer": {"MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_MAPPING_NAMES", "LOSS_MAPPING", "MIN_PEFT_VERSION",
                "ALL_HYPERPARAMETER_SEARCH_BACKENDS", "FSDP_MODEL_NAME", "OPTIMIZER_NAME_BIN", "IS_XLA_FSDPV2_POST_2_2",
                "XLA_FSDPV2_MIN_VERSION"},
    "trainer_utils": set(),
    "trainer_pt_utils": set(),
    "trainer_callback": set(),
    "trainer_optimizer": set(),
    "trainer_seq2seq": set(),
    "training_args": {"ACCELERATE_MIN_VERSION"},
    "training_args_seq2seq": set(),
    "trainer_jit_checkpoint": {"CheckpointManager"},
    "optimization": set(),
    "hf_argparser": set(),
    "data": set(),
    "data.data_collator": set(),
    # Omniform names the layer that first overflows by its loss guard.
    "debug_utils": {"DebugUnderflowOverflow", "detect_overflow", "get_abs_min_max"},
    "utils.logging": set(),
    "utils.versions": set(),
    "utils": {
        "ACCELERATE_MIN_VERSION", "BITSANDBYTES_MIN_VERSION", "CLOUDFRONT_DISTRIB_PREFIX", "ClassAttrs",
        "ClassDocstring", "DocstringParsingException", "DummyObject", "ENV_VARS_TRUE_AND_AUTO_VALUES",
        "ENV_VARS_TRUE_VALUES", "GGUF_MIN_VERSION", "ImageProcessorArgs", "KernelConfig", "MISTRAL_COMMON_MIN_VERSION",
        "ModelArgs", "ModelOutputArgs", "OptionalDependencyNotAvailable", "PushInProgress", "S3_BUCKET_PREFIX",
        "TRANSFORMERS_DYNAMIC_MODULE_NAME", "TRITON_MIN_VERSION", "TypeHintParsingException", "XLA_FSDPV2_MIN_VERSION",
        "auto_class_docstring", "check_peft_version", "check_torch_load_is_safe", "define_sagemaker_information",
        "direct_transformers_import", "enable_tf32", "find_adapter_config_file", "get_args_doc_from_source",
        "get_current_accelerator", "get_device_type", "get_json_schema", "hf_api", "http_user_agent",
        "is_habana_gaudi1", "is_quanto_greater", "is_timm_config_dict", "is_timm_local_checkpoint",
        "is_torch_fx_proxy", "is_torchcodec_greater_or_equal", "is_torchcodec_usable", "is_tracing",
        "no_inherit_decorator", "parse_docstring", "resolve_revision", "set_min_indent", "torch_compilable_check",
        "torch_only_method",
    },
    "models.auto.modeling_auto": {
        f"MODEL_FOR_{name}_MAPPING{end}" for end in ("", "_NAMES")
        for name in ("CAUSAL_IMAGE_MODELING", "IMAGE", "RETRIEVAL", "TIME_SERIES_CLASSIFICATION",
                     "TIME_SERIES_REGRESSION")
    } | {"MODEL_FOR_AUDIO_TOKENIZATION_NAMES"},
}  # fmt: skip


def _is_public(path: str, name: str, value: object) -> bool:
    """Whether a name belongs to a module: made there, a constant, or handed on by a package."""
    if name.startswith("_") or name == "TYPE_CHECKING" or isinstance(value, types.ModuleType):
        return False
    home = getattr(value, "__module__", None) or f"transformers.{path}"
    return home.startswith("transformers.") and (path in ("data", "utils") or home == f"transformers.{path}")


@pytest.mark.parametrize("path", LEFT_OUT)
def test_every_name_of_a_module_is_there_or_known_to_be_left_out(path: str) -> None:
    theirs = importlib.import_module(f"{transformers.__name__}.{path}")
    ours = importlib.import_module(f"omniform.{path}")
    own = [name for name in dir(theirs) if _is_public(path, name, vars(theirs).get(name))]
    missing = set()
    for name in own:
        try:
            getattr(ours, name)
        except (AttributeError, ImportError):
            missing.add(name)
    assert missing <= LEFT_OUT[path], sorted(missing - LEFT_OUT[path])


ITS_DECODER_S = {("MODEL_MAPPING_NAMES", "musicgen"), ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "musicgen")}
"""Classes that the reference names and that its config of that family cannot build: they take the decoder's."""


@pytest.mark.parametrize("name", [name for name in mappings.__all__ if name.endswith("_NAMES")])
def test_mappings_name_the_class_that_the_reference_names(name: str) -> None:
    theirs = vars(importlib.import_module(f"{transformers.__name__}.models.auto.modeling_auto")).get(name)
    if theirs is None or not name.startswith("MODEL"):
        return
    for model_type in FAMILIES:
        expected = theirs.get(model_type)
        found = vars(mappings)[name].get(model_type)
        if (
            expected is not None
            and name != "MODEL_FOR_DECISION_MAPPING_NAMES"
            and (name, model_type) not in ITS_DECODER_S
        ):
            assert found in ([expected] if isinstance(expected, str) else list(expected)), model_type


def test_mappings_are_asked_as_scripts_ask_them() -> None:
    kinds = list(omniform.MODEL_FOR_CAUSAL_LM_MAPPING.keys())
    assert {"llama", "gpt2", "opt"} <= {kind.model_type for kind in kinds}
    assert omniform.MODEL_FOR_CAUSAL_LM_MAPPING[omniform.LlamaConfig] is omniform.LlamaForCausalLM
    assert omniform.MODEL_FOR_CAUSAL_LM_MAPPING.get(omniform.DetrConfig) is None
    assert omniform.CONFIG_MAPPING["gpt2"]().model_type == "gpt2"
    assert type(omniform.AutoTokenizer) is type
    assert omniform.BertConfig in omniform.TOKENIZER_MAPPING
    assert omniform.BertForMaskedLM in omniform.get_values(omniform.MODEL_FOR_MASKED_LM_MAPPING)
    assert not omniform.MODEL_FOR_RNNT_MAPPING
    with pytest.raises(KeyError):
        omniform.CONFIG_MAPPING["nothing"]


def test_auto_classes_that_wait_for_families_refuse_with_words() -> None:
    with pytest.raises(omniform.OmniformError, match="no head for AutoModelForCTC"):
        omniform.AutoModelForCTC.from_config(omniform.BertConfig())


def test_releases_are_asked_for() -> None:
    utils = importlib.import_module("omniform.utils")
    versions = importlib.import_module("omniform.utils.versions")
    utils.check_min_version("4.57.0.dev0")
    utils.check_min_version(transformers.__version__)
    with pytest.raises(ImportError):
        utils.check_min_version("99.0.0")
    versions.require_version("torch>=2.0,<99", "hint")
    versions.require_version("numpy")
    with pytest.raises(importlib.metadata.PackageNotFoundError, match="not installed"):
        versions.require_version("no-such-package-at-all")
    with pytest.raises(DependencyError, match="fix it so"):
        versions.require_version("torch<1.0", "fix it so")
    with pytest.raises(InputError):
        versions.require_version("torch~=2")
    assert utils.send_example_telemetry("run_glue", object(), object()) is None


def test_questions_about_packages_agree_with_the_reference() -> None:
    theirs = importlib.import_module(f"{transformers.__name__}.utils.import_utils")
    ours = importlib.import_module("omniform.utils.import_utils")
    # The first asks the Hub; the second gives a tuple, which always counts as yes.
    skipped = {"is_flash_attn_kernel_fallback_available", "is_sinq_available"}
    for name in dir(theirs):
        if name.startswith("is_") and name.endswith("_available") and name not in skipped:
            assert getattr(ours, name)() == bool(vars(theirs)[name]()), name
    assert omniform.is_datasets_available() and not omniform.is_torch_xla_available()


def test_what_is_said_goes_where_it_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    root = logs.get_logger()
    before = root.level, root.propagate, list(root.handlers)
    heard: list[str] = []

    class Hears(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(self.format(record))

    mine = Hears()
    try:
        omniform.logging.set_verbosity_info()
        assert omniform.logging.get_verbosity() == omniform.logging.INFO
        omniform.logging.add_handler(mine)
        omniform.logging.enable_explicit_format()
        logs.get_logger("omniform.somewhere").info("said")
        omniform.logging.reset_format()
        logs.get_logger("omniform.somewhere").info("plain")
        assert heard[0].startswith("[INFO|test_train_names.py:") and heard[1] == "plain"
        omniform.logging.remove_handler(mine)
        with pytest.raises(InputError):
            omniform.logging.remove_handler(mine)
        omniform.logging.enable_default_handler()
        assert not root.propagate and len(root.handlers) == len(before[2]) + 1
        omniform.logging.disable_default_handler()
        omniform.logging.enable_propagation()
        assert root.handlers == before[2]
    finally:
        root.setLevel(before[0])
        root.propagate, root.handlers = before[1], before[2]


def test_bars_can_be_silenced_and_made_by_a_hook() -> None:
    bars = omniform.logging
    was = bars.is_progress_bar_enabled()
    try:
        bars.disable_progress_bar()
        bar = bars.tqdm([1, 2])
        assert isinstance(bar, bars.EmptyTqdm) and list(bar) == [1, 2] and bar.update(3) is None
        assert bars.set_tqdm_hook(lambda made, args, kwargs: (made, args)) is None
        assert bars.tqdm("ab") == (bars.EmptyTqdm, ("ab",))
    finally:
        bars.set_tqdm_hook(None)
        (bars.enable_progress_bar if was else bars.disable_progress_bar)()


def test_what_is_logged_and_printed_is_kept_for_a_while() -> None:
    helpers = importlib.import_module("omniform.testing_utils")
    heard = logs.get_logger("omniform.heard")
    with helpers.CaptureLogger(heard) as kept:
        heard.error("a text is too long")
    heard.error("another one")
    assert kept.out == "a text is too long\n"
    with helpers.CaptureStdout(replay=False) as printed:
        print("once")
    assert printed.out == "once\n"


def test_classes_that_are_yet_to_come_can_be_compared_with_and_not_made() -> None:
    assert not isinstance(object(), omniform.TimmWrapperImageProcessor)
    with pytest.raises(NotImplementedError, match="pair of any two"):
        omniform.VisionTextDualEncoderModel()
    assert importlib.import_module("omniform.utils.quantization_config").GPTQConfig is omniform.GPTQConfig


def test_an_encoding_is_asked_by_the_ecosystems_keywords() -> None:
    theirs = importlib.import_module(f"{transformers.__name__}.tokenization_utils_base").BatchEncoding
    for name in ("tokens", "word_ids", "sequence_ids", "token_to_chars", "char_to_token", "token_to_word",
                 "token_to_sequence", "word_to_tokens", "word_to_chars", "char_to_word"):  # fmt: skip
        expected = list(inspect.signature(vars(theirs)[name]).parameters)
        assert list(inspect.signature(getattr(omniform.BatchEncoding, name)).parameters) == expected, name
