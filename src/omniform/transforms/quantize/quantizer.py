"""The base of quantizers, with the hooks that the ecosystem's have, and the transform that calls them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from omniform.core.errors import ConfigError, InputError, MissingPartError, WeightsError, brief, listed
from omniform.transforms.quantize.config import QuantizationConfigMixin, known
from omniform.weights.keymap import KeyMap
from omniform.weights.tensors import assign, named_tensors, tensors_and_ties
from omniform.weights.transform import Transform

Q = TypeVar("Q", bound="type[HfQuantizer]")

_QUANTIZERS: dict[str, type[HfQuantizer]] = {}


class ConversionOps(ABC):
    """What makes a quantized layer's tensors of a weight; see :meth:`HfQuantizer.get_quantize_ops`."""

    @abstractmethod
    def convert(
        self, input_dict: dict[str, list[Tensor]], *, model: nn.Module, full_layer_name: str, **kwargs: object
    ) -> dict[str, Tensor | list[Tensor]]:
        """The tensors, by full name.

        Args:
            input_dict: the weight, under its full name, in a list of one.
            model: with the quantizer's own layers in it.
            full_layer_name: the weight's full name.
            kwargs: ``missing_keys``, a set to strike names from that are made here; ``config``.
        """


class HfQuantizer(ABC):
    """Base of quantizers; a user's own registers under its method's name.

    Two ways lead through it. A checkpoint that is quantized already has its layers replaced before the weights are
    loaded (:meth:`preprocess_model`). One that is not is loaded as it is, and its weights are then turned, one by one
    (:meth:`param_needs_quantization`, :meth:`get_quantize_ops`), into those of the layers that take their places.

    Args:
        quantization_config: the settings.
        kwargs: ``pre_quantized``, whether the checkpoint is quantized already.

    Attributes:
        learn_from: set where a plain checkpoint is loaded and the settings have texts to learn from: gives, for the
            longest row that the model reads, rows of ids, and a folder for what is finished.

    Raises:
        InputError: it is not, and the method needs to be calibrated.
    """

    requires_calibration: ClassVar[bool] = False
    requires_parameters_quantization: ClassVar[bool] = True
    learn_from: Callable[[int], tuple[list[list[int]], Path]] | None = None

    def __init__(self, quantization_config: QuantizationConfigMixin, **kwargs: object) -> None:
        self.quantization_config = quantization_config
        self.pre_quantized = kwargs.pop("pre_quantized", True) is True
        if not self.pre_quantized and self.requires_calibration:
            raise InputError(
                "this method quantizes with calibration data, which loading has none of",
                where="quantization_config",
                found=quantization_config.quant_method,
                remedy="Load a checkpoint that is quantized already.",
            )

    # -- before the model is built

    def validate_environment(self, *args: object, **kwargs: object) -> None:  # noqa: B027 a hook
        """Raise if the arguments of ``from_pretrained`` (``dtype``, ``device_map``) or this machine do not suit."""

    def update_dtype(self, dtype: torch.dtype | None) -> torch.dtype | None:
        """The dtype of what is not quantized, given what is asked for; None is the checkpoint's own."""
        return self.update_torch_dtype(dtype)

    def update_torch_dtype(self, torch_dtype: torch.dtype | None) -> torch.dtype | None:
        """The same by its older name."""
        return torch_dtype

    def update_device_map(self, device_map: object) -> object:
        """The places to use, given those that are asked for."""
        return device_map

    def adjust_max_memory(self, max_memory: object) -> object:
        """The bounds to use, given those that are asked for."""
        return max_memory

    def update_tp_plan(self, config: object) -> object:
        """The config with the quantizer's own names in its plan for many processes."""
        return config

    def update_ep_plan(self, config: object) -> object:
        """Likewise for experts."""
        return config

    # -- the model

    def preprocess_model(self, model: nn.Module, **kwargs: object) -> None:
        """Replace layers, on the meta device; calls :meth:`_process_model_before_weight_loading`."""
        self._process_model_before_weight_loading(model, **kwargs)

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: object) -> object:
        return model

    def keeping(
        self, model: nn.Module, keys: KeyMap, holds: Container[str], prefixes: Sequence[str], dtype: torch.dtype
    ) -> KeyMap:
        """Where the tensors of a quantized checkpoint live; by default where plain weights would."""
        return keys

    def quantize(self, model: nn.Module, keys: KeyMap, dtype: torch.dtype) -> KeyMap | None:
        """Quantize a loaded model as a whole; where its tensors live then. None: it is done weight by weight."""
        return None

    def param_needs_quantization(self, model: nn.Module, param_name: str, **kwargs: object) -> bool:
        """Whether a weight of the checkpoint is to be quantized, by its full name in the model."""
        return False

    def check_quantized_param(
        self, model: nn.Module, param_value: Tensor, param_name: str, state_dict: Mapping[str, Tensor], **kwargs: object
    ) -> bool:
        """The same as quantizers of releases before 5 are asked it; by default :meth:`param_needs_quantization`.

        Args:
            param_value: the weight as it was loaded.
            state_dict: what was loaded and is not quantized yet.
        """
        return self.param_needs_quantization(model, param_name, **kwargs)

    def create_quantized_param(
        self,
        model: nn.Module,
        param_value: Tensor,
        param_name: str,
        target_device: torch.device,
        state_dict: Mapping[str, Tensor],
        unexpected_keys: list[str] | None = None,
    ) -> None:
        """Quantize one weight into its layer, as quantizers of releases before 5 do; by default the conversion's work.

        Args:
            target_device: where the layer is to be.
        """
        missing = {path for path, tensor in named_tensors(model) if tensor.is_meta}
        made = self.get_quantize_ops().convert(
            {param_name: [param_value]}, model=model, full_layer_name=param_name, missing_keys=missing
        )
        for name, values in made.items():
            for value in values if isinstance(values, list) else [values]:
                assign(model, name, value)

    def get_quantize_ops(self) -> ConversionOps:
        """What quantizes one weight.

        Raises:
            MissingPartError: the method quantizes nothing on loading.
        """
        raise MissingPartError(f"{type(self).__name__} has no get_quantize_ops, and cannot quantize what it loads")

    def postprocess_model(self, model: nn.Module, **kwargs: object) -> object:
        """Change the model once its weights are loaded; calls :meth:`_process_model_after_weight_loading`."""
        return self._process_model_after_weight_loading(model, **kwargs)

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: object) -> object:
        return model

    def dequantize(self, model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
        """The model with plain layers again, by :meth:`_dequantize`.

        Raises:
            MissingPartError: the method has no way back.
        """
        return self._dequantize(model, dtype=dtype)

    def _dequantize(self, model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
        raise MissingPartError(f"{type(self).__name__} has no _dequantize, and knows no way back")

    # -- what may be done with it

    @abstractmethod
    def is_serializable(self) -> bool:
        """Whether the quantized model can be saved."""

    @property
    @abstractmethod
    def is_trainable(self) -> bool:
        """Whether adapters can be trained on it."""

    @property
    def wants_plain(self) -> bool:
        """Whether its settings ask for plain weights once a checkpoint is loaded."""
        return False

    @property
    def is_qat_trainable(self) -> bool:
        """Whether it can be trained as it is."""
        return False

    @property
    def is_compileable(self) -> bool:
        """Whether ``torch.compile`` can be used on it."""
        return False

    def get_state_dict_and_metadata(self, model: nn.Module) -> tuple[Mapping[str, Tensor] | None, dict[str, str]]:
        """Tensors to save instead of the model's own, and notes for the file's header."""
        return None, {}

    @staticmethod
    def get_modules_to_not_convert(
        model: nn.Module,
        skip_modules: Sequence[str] | None = None,
        keep_in_fp32_modules: Sequence[str] | None = None,
        add_default_skips: bool = False,
    ) -> list[str]:
        """Names of modules that stay as they are: the head and what is tied, unless the caller names others."""
        usual = get_keys_to_not_convert(model) if skip_modules is None or add_default_skips else []
        return sorted({*usual, *(skip_modules or ()), *(keep_in_fp32_modules or ())})


def get_keys_to_not_convert(model: nn.Module) -> list[str]:
    """Modules that are best left alone: tied ones, and the last, which is the head."""
    _, ties = tensors_and_ties(model)
    last = [path for path, _ in model.named_parameters()][-1:]
    return sorted({path.rpartition(".")[0] or path for path in (*ties, *ties.values(), *last)})


def get_module_from_name(module: nn.Module, tensor_name: str) -> tuple[nn.Module, str]:
    """The module that holds a tensor or a child, and its name there."""
    parent, _, name = tensor_name.rpartition(".")
    return module.get_submodule(parent), name


def should_convert_module(full_name: str, patterns: Sequence[str] | None) -> bool:
    """Whether a module is to be quantized: no pattern is its name, or the beginning, the end or a part of its path."""
    return not any(
        full_name == pattern
        or full_name.endswith(f".{pattern}")
        or full_name.startswith(f"{pattern}.")
        or f".{pattern}." in full_name
        or re.match(pattern, full_name) is not None
        for pattern in patterns or ()
    )


def register_quantizer(name: str) -> Callable[[Q], Q]:
    """Register a user's quantizer under its method's name; a decorator.

    Raises:
        ConfigError: the name is taken.
        InputError: this is no quantizer.
    """

    def register(quantizer: Q) -> Q:
        if not (isinstance(quantizer, type) and issubclass(quantizer, HfQuantizer)):
            found = brief(quantizer)
            raise InputError("not a quantizer", where="register_quantizer", expected="an HfQuantizer", found=found)
        if name in _QUANTIZERS:
            raise ConfigError("this method has its quantizer", where="register_quantizer", found=repr(name))
        _QUANTIZERS[name] = quantizer
        return quantizer

    return register


def quantizer_for(settings: QuantizationConfigMixin, *, pre_quantized: bool) -> HfQuantizer:
    """The quantizer of a method.

    Raises:
        ConfigError: nobody registered one.
    """
    method = settings.quant_method
    known(method)
    if method not in _QUANTIZERS:
        raise ConfigError(
            "no quantizer is registered for this method",
            where="quantization_config",
            expected=listed(_QUANTIZERS) or "none are",
            found=repr(method),
            remedy="Register one with register_quantizer.",
        )
    return _QUANTIZERS[method](settings, pre_quantized=pre_quantized)


@runtime_checkable
class HasKeys(Protocol):
    """A model that knows where its modules live in a checkpoint."""

    keymap: KeyMap | None


class Quantizing(Transform):
    """A quantizer's work, at the moments when a model is transformed.

    Args:
        quantizer: whose.
        dtype: of what is not quantized.
        holds: the checkpoint's keys.
        prefixes: what those may lack at their beginning, or have too many of.
    """

    def __init__(
        self,
        quantizer: HfQuantizer,
        dtype: torch.dtype | None,
        holds: Container[str] = (),
        prefixes: Sequence[str] = (),
    ) -> None:
        self.quantizer = quantizer
        self._dtype = dtype
        self._holds, self._prefixes = holds, prefixes
        self._plain: KeyMap | None = None

    def prepare(self, model: nn.Module, keys: KeyMap) -> KeyMap:
        """Replace the layers that a checkpoint holds quantized; where they live then."""
        self._plain = keys
        if self.quantizer.pre_quantized:
            self._preprocess(model)
            return self.quantizer.keeping(model, keys, self._holds, self._prefixes, self._dtype or torch.float32)
        return keys

    def finish(self, model: nn.Module) -> None:
        """Quantize what was loaded plain."""
        if not self.quantizer.pre_quantized:
            assert self._plain is not None, "a model is prepared before it is loaded"
            made = self.quantizer.quantize(model, self._plain, self._dtype or torch.float32)
            if made is None:
                self._quantize(model)
            elif isinstance(model, HasKeys):
                model.keymap = made
        self.quantizer.postprocess_model(model)

    @property
    def plain(self) -> KeyMap | None:
        """Where plain weights live."""
        return self._plain

    def belongs_to(self, owner: object) -> bool:
        """Whether it is this quantizer's."""
        return owner is self.quantizer

    def written(self, config: Mapping[str, object]) -> Mapping[str, object]:
        """With the settings, so that the checkpoint is read as it was written."""
        settings = self.quantizer.quantization_config
        return {**config, "quantization_config": {"quant_method": settings.quant_method, **settings.to_dict()}}

    def _preprocess(self, model: nn.Module) -> None:
        dtype = self._dtype or torch.get_default_dtype()
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device("meta"):
                self.quantizer.preprocess_model(model, dtype=dtype, keep_in_fp32_modules=[])
        finally:
            torch.set_default_dtype(before)

    @torch.no_grad()
    def _quantize(self, model: nn.Module) -> None:
        loaded = dict(named_tensors(model))
        training = model.training
        self._preprocess(model)
        model.train(training)
        missing = {path for path, tensor in named_tensors(model) if tensor.is_meta}
        for path in [path for path in loaded if _is_gone(model, path) or path in missing]:
            tensor = loaded[path]
            if self.quantizer.check_quantized_param(model, tensor, path, state_dict=loaded):
                self.quantizer.create_quantized_param(
                    model, tensor, path, tensor.device, state_dict=loaded, unexpected_keys=[]
                )
            elif path in missing:
                assign(model, path, tensor)
            del loaded[path], tensor
        left = sorted(path for path, tensor in named_tensors(model) if tensor.is_meta)
        if left:
            raise WeightsError(
                f"{type(self.quantizer).__name__} left tensors without values",
                expected="get_quantize_ops().convert to return every tensor of a layer, by its full name",
                found=listed(left),
            )


def _is_gone(model: nn.Module, path: str) -> bool:
    """Whether a module no longer has a tensor of this name: its weight is to be kept in another form."""
    parent, _, name = path.rpartition(".")
    try:
        module = model.get_submodule(parent)
    except AttributeError:
        return True
    return name not in module._parameters and name not in module._buffers
