"""GPTQ (https://arxiv.org/abs/2210.17323): its settings, and its checkpoints as they are read."""

from __future__ import annotations

import atexit
import copy
import logging
import re
import shutil
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from omniform.blocks.moe import Stacked
from omniform.core.errors import ConfigError, InputError, WeightsError, brief, listed
from omniform.transforms.quantize.config import QuantizationConfigMixin, Texts, register_quantization_config
from omniform.transforms.quantize.formats import FormatQuantizer
from omniform.transforms.quantize.gptq_making import LayerReport, Making, batches_of, blocks_of, is_named
from omniform.transforms.quantize.gptq_solving import How
from omniform.transforms.quantize.layers import QuantLinear
from omniform.transforms.quantize.placing import Chosen, chosen
from omniform.transforms.quantize.quantizer import register_quantizer
from omniform.transforms.quantize.stacks import chosen_stacks
from omniform.weights.formats.base import Format
from omniform.weights.formats.gptq import BITS, Gptq
from omniform.weights.keymap import KeyMap

log = logging.getLogger("omniform")

VERSIONS = {"gptq": 1, "gptq_v2": 2}
"""What files call their layout, and which version of it that is."""


@register_quantization_config("gptq")
class GPTQConfig(QuantizationConfigMixin):
    """Settings of GPTQ.

    Args:
        bits: 2, 3, 4 or 8.
        tokenizer: what makes ids of the texts: a tokenizer, or where one is found; by default the model's own.
        dataset: what to calibrate with: texts, rows of ids, a text file's path, or a known set's name.
        group_size: inputs that share a scale; -1 for all of them.
        damp_percent: what is added to the Hessian's diagonal, as a share of its mean.
        desc_act: whether inputs are quantized from the most active one on, and grouped in this order.
        act_group_aware: whether groups, and inputs within each, are quantized from the most active one on, and stay
            grouped as they lie; not along with ``desc_act``.
        sym: whether the code of nought is the middle one.
        true_sequential: whether layers within a block see what those before them give once they are quantized.
        format: ``"gptq"`` or ``"gptq_v2"``; ``checkpoint_format`` is its older name.
        meta: notes of the tool that made the checkpoint.
        backend: which kernels others are to use; there is one here.
        model_seqlen: tokens of a row to calibrate with; by default the model's longest, and at most 2048.
        block_name_to_quantize: the list of blocks, as the checkpoint calls it (``"model.layers"``).
        module_name_preceding_first_block: modules that come before it; they are found without being named.
        batch_size: rows that are computed at a time.
        pad_token_id: what fills shorter rows up where there are several at a time.
        max_input_length: tokens that others reserve room for; none is reserved here.
        cache_block_outputs: whether what a block gives is kept for the next, or computed anew from the beginning.
        modules_in_block_to_quantize: layers of a block that are quantized, in lists of those that go together.
        static_groups: whether all scales come from the weights as they are before any is quantized.
        dynamic: settings of some layers: patterns of names, ``+:`` or nothing before them, to what is different there,
            or after ``-:`` to nothing, for layers that are not quantized.
        kwargs: what other tools say; not looked at.

    Raises:
        ConfigError: there are no such numbers of bits or inputs, or such a share.
    """

    quant_method = "gptq"

    def __init__(
        self,
        bits: int,
        tokenizer: object = None,
        dataset: Sequence[str] | Sequence[Sequence[int]] | str | None = None,
        group_size: int = 128,
        damp_percent: float = 0.1,
        desc_act: bool = False,
        act_group_aware: bool = True,
        sym: bool = True,
        true_sequential: bool = True,
        format: str = "gptq",
        meta: Mapping[str, object] | None = None,
        backend: str | None = None,
        model_seqlen: int | None = None,
        block_name_to_quantize: str | None = None,
        module_name_preceding_first_block: Sequence[str] | None = None,
        batch_size: int = 1,
        pad_token_id: int | None = None,
        max_input_length: int | None = None,
        cache_block_outputs: bool = True,
        modules_in_block_to_quantize: Sequence[Sequence[str]] | None = None,
        *,
        static_groups: bool = False,
        dynamic: Mapping[str, Mapping[str, object]] | None = None,
        **kwargs: object,
    ) -> None:
        self.quant_method = "gptq"
        self.bits, self.group_size, self.damp_percent = bits, group_size, damp_percent
        self.tokenizer, self.dataset = tokenizer, dataset
        self.desc_act, self.sym, self.true_sequential = desc_act, sym, true_sequential
        self.act_group_aware = act_group_aware
        self.format = str(kwargs.get("checkpoint_format") or format).lower()
        self.meta = meta
        self.backend = "auto" if backend is None else backend.lower()
        self.model_seqlen, self.batch_size, self.pad_token_id = model_seqlen, batch_size, pad_token_id
        self.block_name_to_quantize = block_name_to_quantize
        self.module_name_preceding_first_block = module_name_preceding_first_block
        self.max_input_length, self.cache_block_outputs = max_input_length, cache_block_outputs
        self.modules_in_block_to_quantize = modules_in_block_to_quantize
        if static_groups:  # others' classes have no such field, and a file none without need
            self.static_groups = True
        if dynamic:
            self.dynamic = dynamic
        self._check()

    def _check(self) -> None:
        _refuse(self.bits not in BITS, "no such whole numbers", "bits", "2, 3, 4 or 8", self.bits)
        size, share = self.group_size, self.damp_percent
        _refuse(size != -1 and size <= 0, "no such groups", "group_size", "-1 or more than 0", size)
        _refuse(not 0 < share < 1, "no such share", "damp_percent", "between 0 and 1", share)
        _refuse(self.batch_size < 1, "no such batch", "batch_size", "at least 1", self.batch_size)
        _refuse(
            not isinstance(self.dataset, str | list | tuple | None),
            "no texts to calibrate with",
            "dataset",
            "texts, rows of ids, a file's path or a set's name",
            brief(self.dataset),
        )
        if self.desc_act and self.act_group_aware:
            self.act_group_aware = False
            log.warning("act_group_aware is off: with desc_act groups follow the activity instead")

    def to_dict(self) -> dict[str, object]:
        """All settings by name."""
        return {**super().to_dict(), "checkpoint_format": self.format}

    def get_loading_attributes(self) -> dict[str, object]:
        return {"max_input_length": self.max_input_length, "backend": self.backend}

    def texts(self) -> Texts:
        return Texts(self.dataset, self.tokenizer, self.model_seqlen)

    def to_dict_optimum(self) -> dict[str, object]:
        """The same, by the name that optimum asks for."""
        return self.to_dict()

    @classmethod
    def from_dict_optimum(cls, config_dict: Mapping[str, object]) -> GPTQConfig:
        """The settings of such a mapping."""
        made = cls.from_dict(config_dict)
        assert isinstance(made, GPTQConfig)
        return made

    def of_layer(self, name: str) -> Mapping[str, object] | None:
        """What is different about a layer, by the checkpoint's name for it; None where it is not quantized."""
        rules: Mapping[str, Mapping[str, object]] = vars(self).get("dynamic", {})
        for pattern, changes in rules.items():
            if _matches(pattern, name):
                return None if pattern.startswith("-:") else changes
        return {}

    def idle(self, names: Collection[str]) -> list[str]:
        """Patterns of ``dynamic`` that none of some layers' names match."""
        return [one for one in vars(self).get("dynamic", {}) if not any(_matches(one, name) for name in names)]


def _matches(pattern: str, name: str) -> bool:
    return re.match(pattern.removeprefix("+:").removeprefix("-:"), name) is not None


def _refuse(wrong: bool, what: str, where: str, expected: str, found: object) -> None:
    if wrong:
        raise ConfigError(what, where=where, expected=expected, found=str(found))


class HasRaw(Protocol):
    """A config that keeps what its file says."""

    @property
    def raw(self) -> Mapping[str, object]: ...


@runtime_checkable
class HasConfig(Protocol):
    """A model with a config."""

    config: HasRaw


@register_quantizer("gptq")
class GptqQuantizer(FormatQuantizer):
    """Reads them, and makes them with texts to calibrate with.

    Attributes:
        reports: what quantizing did to each layer.
    """

    quantization_config: GPTQConfig
    reports: tuple[LayerReport, ...] = ()

    def __init__(self, quantization_config: QuantizationConfigMixin, **kwargs: object) -> None:
        super().__init__(quantization_config, **kwargs)
        said = self.quantization_config.format
        _refuse(said not in VERSIONS, "no such layout", "checkpoint_format", " or ".join(VERSIONS), said)

    def format_of(self, name: str, layer: nn.Linear) -> Format | None:
        settings = self.quantization_config
        changes = settings.of_layer(name)
        if changes is None:
            return None
        bits, group = changes.get("bits", settings.bits), changes.get("group_size", settings.group_size)
        assert isinstance(bits, int) and isinstance(group, int), (bits, group)
        each = 32 if bits == 3 else 32 // bits
        if layer.in_features % each or layer.out_features % each:
            return None
        return Gptq(bits, group, VERSIONS[settings.format], ordered=not self.pre_quantized)

    def keeping(
        self, model: nn.Module, keys: KeyMap, holds: Container[str], prefixes: Sequence[str], dtype: torch.dtype
    ) -> KeyMap:
        read = {one.name for one in chosen(model, keys, self.format_of, holds, prefixes)}
        for stack in chosen_stacks(model, keys, self.format_of, holds, prefixes):
            read |= {piece.key.removesuffix(".") for piece in stack.pieces}
        if isinstance(holds, Iterable):
            told = {str(key).removesuffix(".qweight") for key in holds if str(key).endswith(".qweight")}
            _refuse_unread(model, keys, told - read)
        return super().keeping(model, keys, holds, prefixes, dtype)

    def quantize(self, model: nn.Module, keys: KeyMap, dtype: torch.dtype) -> KeyMap:
        if not self.quantization_config.dataset:
            raise InputError(
                "GPTQ quantizes with texts to calibrate with",
                where="GPTQConfig(dataset=)",
                expected="texts, rows of ids, a file's path or a set's name",
                found=brief(self.quantization_config.dataset),
            )
        settings = self.quantization_config
        linear = [path for path, m in model.named_modules() if type(m) is nn.Linear]
        if idle := settings.idle([keys.places(f"{path}.weight")[0].key.removesuffix(".weight") for path in linear]):
            log.warning("no layer's name matches, and none is quantized otherwise for it: %s", listed(idle))
        layers = self._wanted(model, chosen(model, keys, self.format_of))
        blocks, inside = blocks_of(model, layers, settings.block_name_to_quantize)
        left = [path for path, m in model.named_modules() if isinstance(m, Stacked)]
        if left:
            log.warning("experts in stacks are not quantized: %s", listed(left))
        assert self.learn_from is not None, "a model is loaded from somewhere"
        rows, folder = self.learn_from(_longest(model))
        making = Making(
            model,
            blocks,
            inside,
            batches_of(rows, settings.batch_size, settings.pad_token_id),
            How(
                settings.damp_percent,
                settings.desc_act,
                settings.act_group_aware,
                settings.sym,
                vars(settings).get("static_groups") is True,
            ),
            settings.true_sequential,
            settings.cache_block_outputs,
            settings.modules_in_block_to_quantize,
            folder,
            dtype,
        )
        self._plain, training = keys, model.training
        rules = making.run()
        model.train(training).requires_grad_(False)
        self.reports = tuple(making.reports)
        worst = max(self.reports, key=lambda one: one.error)
        log.info("quantized %d layers; the one that is farthest off is %s", len(self.reports), worst)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)  # a run that is killed leaves it behind
        self.quantization_config = _as_written(settings)
        return keys | rules

    def _wanted(self, model: nn.Module, layers: list[Chosen]) -> list[Chosen]:
        """Those that the settings name, if they do."""
        settings = self.quantization_config
        paths = {path for path, _ in model.named_modules()}
        for name in settings.module_name_preceding_first_block or ():
            if name not in paths and not any(path.endswith(f".{name}") for path in paths):
                log.warning("no module is called so, which is to come before the first block: %s", name)
        if settings.modules_in_block_to_quantize is None:
            return layers
        names = [name for group in settings.modules_in_block_to_quantize for name in group]
        idle = [name for name in names if not any(is_named(one, [name]) for one in layers)]
        found = [one for one in layers if is_named(one, names)]
        if not found:
            raise InputError(
                "no layer is called so",
                where="modules_in_block_to_quantize",
                expected=listed(sorted({one.name.rpartition(".")[2] for one in layers})),
                found=listed(idle),
            )
        if idle:
            log.warning("no layer is called so, and none is quantized for it: %s", listed(idle))
        return found

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: object) -> object:
        for path, layer in model.named_modules():
            if isinstance(layer, QuantLinear) and isinstance(layer.format, Gptq):
                if any(tensor.is_meta for tensor in layer.held.values()):
                    continue
                try:
                    layer.format.order(layer.held, layer.in_features)
                except WeightsError as error:
                    raise WeightsError(
                        error.message, where=f"{path}.g_idx", expected=error.expected, found=error.found
                    ) from None
        return model


def _as_written(settings: GPTQConfig) -> GPTQConfig:
    """Settings for a file, which needs no texts."""
    made = copy.copy(settings)
    made.tokenizer = settings.tokenizer if isinstance(settings.tokenizer, str) else None
    made.dataset = settings.dataset if isinstance(settings.dataset, str) else None
    return made


def _longest(model: nn.Module) -> int:
    """The longest row that a model reads, as its config says."""
    raw = model.config.raw if isinstance(model, HasConfig) else {}
    found = [raw.get(name) for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")]
    return next((one for one in found if isinstance(one, int)), 2048)


def _refuse_unread(model: nn.Module, keys: KeyMap, left: Collection[str]) -> None:
    """Raise if layers that a checkpoint holds quantized are no linear layers of the model: experts in a stack."""
    plain = [keys.places(f"{path}.weight")[0].key for path, m in model.named_modules() if type(m) is nn.Linear]
    own = {key.removesuffix(".weight") for key in plain}
    unread = sorted(name for name in left if ".experts." in name or name in own)
    if unread:
        raise WeightsError(
            "quantized layers that are no linear layers here: experts in a stack, or sizes that do not fill words",
            expected="layers each of a matrix of its own",
            found=listed(unread),
            remedy="Load the checkpoint that it was made from.",
        )
