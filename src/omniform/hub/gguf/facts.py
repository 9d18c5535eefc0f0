"""What a GGUF file says of its model, asked by name and checked: its architecture's metadata, which tensors it has."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from omniform.core.errors import ConfigError, brief
from omniform.weights.gguf.dequantize import dequantize
from omniform.weights.gguf.reader import GgufFile, TensorInfo, Value


class Facts:
    """The metadata and the table of tensors of a model's file or files.

    Args:
        files: the files of one model, the first of which holds the metadata.

    Attributes:
        where: the first file, for errors.
        metadata: all of it.
        tensors: every tensor by name.
        architecture: what the file calls its architecture.

    Raises:
        ConfigError: the file does not say which architecture it is of.
    """

    def __init__(self, files: tuple[GgufFile, ...]) -> None:
        self.where = str(files[0].path)
        self.metadata: Mapping[str, Value] = files[0].metadata
        self.tensors: dict[str, TensorInfo] = {name: info for file in files for name, info in file.tensors.items()}
        self._files = {name: file for file in files for name in file.tensors}
        self.architecture = self.text("general.architecture")

    def own(self, key: str) -> str:
        """The full name of a key of the architecture."""
        return f"{self.architecture}.{key}"

    def has(self, key: str) -> bool:
        """Whether there is such a key of the architecture."""
        return self.own(key) in self.metadata

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number of the architecture's; of one for each layer, that which all share."""
        found = self._shared(key, default)
        if type(found) is not int:
            raise self.fail(self.own(key), "a whole number", found)
        return found

    def number(self, key: str, default: float | None = None) -> float:
        """A number of the architecture's."""
        found = self._shared(key, default)
        if type(found) not in (int, float):
            raise self.fail(self.own(key), "a number", found)
        return float(found)  # type: ignore[arg-type]

    def integers(self, key: str) -> list[int]:
        """A number for each layer, which the file may say once for all."""
        found = self.metadata.get(self.own(key))
        layers = self.integer("block_count")
        made = found if isinstance(found, list) else [found] * layers
        if len(made) < layers or not all(type(one) is int for one in made):
            raise self.fail(self.own(key), "a whole number for each layer", found)
        return [one for one in made[:layers] if isinstance(one, int)]

    def text(self, key: str, default: str | None = None) -> str:
        """A text, by its full key."""
        found = self.metadata.get(key, default)
        if not isinstance(found, str):
            raise self.fail(key, "a text", found)
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape.

        Raises:
            ConfigError: the file has no such tensor.
        """
        if name not in self.tensors:
            raise ConfigError("the file lacks a tensor", where=self.where, expected=name)
        return self.tensors[name].shape

    def raw(self, name: str) -> Tensor:
        """A tensor's bytes, as they lie in the mapped file. Shape: [..., bytes of a row]; uint8."""
        return self._files[name].raw(name)

    def numbers(self, name: str) -> list[float]:
        """A short tensor's numbers."""
        made: list[float] = dequantize(self.raw(name), self.tensors[name].kind, name).flatten().double().tolist()
        return made

    def _shared(self, key: str, default: Value | None) -> Value | None:
        found = self.metadata.get(self.own(key), default)
        if isinstance(found, list) and found and all(one == found[0] for one in found):
            return found[0]
        return found

    def fail(self, key: str, expected: str, found: object) -> ConfigError:
        """The error for a key that is missing or has a wrong value."""
        if found is None:
            return ConfigError("the file's metadata lacks a key", where=self.where, expected=key)
        return ConfigError(f"{key} has a wrong value", where=self.where, expected=expected, found=brief(found))
