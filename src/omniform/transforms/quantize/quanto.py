"""Settings of optimum-quanto, which are kept and compared, and the quantizer that says what to use instead."""

from __future__ import annotations

from collections.abc import Sequence

from omniform.core.errors import ConfigError
from omniform.transforms.quantize.config import QuantizationConfigMixin, register_quantization_config
from omniform.transforms.quantize.quantizer import HfQuantizer, register_quantizer

WEIGHTS = {
    "int8": "NativeConfig(bits=8)",
    "int4": "HqqConfig(nbits=4, group_size=128)",
    "int2": "HqqConfig(nbits=2, group_size=32)",
    "float8": "FineGrainedFP8Config()",
}
"""Kinds of weights, to what is as small here."""


@register_quantization_config("quanto")
class QuantoConfig(QuantizationConfigMixin):
    """Settings of optimum-quanto.

    Args:
        weights: ``"int8"``, ``"int4"``, ``"int2"`` or ``"float8"``.
        activations: None, ``"int8"`` or ``"float8"``.
        modules_to_not_convert: names of modules that stay as they are.
        kwargs: what other releases say; not looked at.

    Raises:
        ConfigError: there are no such weights or activations.
    """

    quant_method = "quanto"

    def __init__(
        self,
        weights: str = "int8",
        activations: str | None = None,
        modules_to_not_convert: Sequence[str] | None = None,
        **kwargs: object,
    ) -> None:
        for where, found, known in (
            ("weights", weights, tuple(WEIGHTS)),
            ("activations", activations, (None, "int8", "float8")),
        ):
            if found not in known:
                raise ConfigError("quanto has no such", where=where, expected=", ".join(map(str, known)), found=found)
        self.quant_method = "quanto"
        self.weights, self.activations = weights, activations
        self.modules_to_not_convert = None if modules_to_not_convert is None else list(modules_to_not_convert)


@register_quantizer("quanto")
class QuantoQuantizer(HfQuantizer):
    """Refuses, by name: the ecosystem saves no checkpoint of this method, so that there is none to read.

    Raises:
        ConfigError: always.
    """

    def __init__(self, quantization_config: QuantizationConfigMixin, **kwargs: object) -> None:
        super().__init__(quantization_config, **kwargs)
        weights = str(vars(quantization_config).get("weights"))
        raise ConfigError(
            "quantizing by quanto is not here",
            where="quantization_config",
            expected="a method that is both made and saved",
            found=f"quanto, weights {weights}",
            remedy=f"Load the plain checkpoint with quantization_config={WEIGHTS.get(weights, 'HqqConfig()')}.",
        )

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return False
