"""What an engine knows of its model's weights: their version, and whether they are prepared for many steps."""

from __future__ import annotations

from omniform.architectures.model import Model
from omniform.native.library import library
from omniform.transforms import pack as native
from omniform.transforms.lower import forget, lower
from omniform.transforms.prepack import drop_changed, prepack
from omniform.transforms.widen import widen
from omniform.weights.version import WeightWatch


class Weights:
    """The weights that an engine computes with.

    Attributes:
        version: the one that it knows; everything that it keeps carries it.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._prepacked = False
        self._watch = WeightWatch.of(model)
        with self._watch.lock:
            self._suit()
            self.version = self._watch.version

    def look(self) -> bool:
        """Look at them; whether they have changed since."""
        with self._watch.lock:
            version = self._watch.look()
            if version == self.version:
                return False
            self.version, self._prepacked = version, False
            forget(self._model)
            self._suit()
            return True

    def _suit(self) -> None:
        """Have the layers computed as suits their matrices and dtypes now."""
        drop_changed(self._model)
        native.drop_changed(self._model)
        if self._model.device.type != "cpu":
            return  # nothing of this is for it
        changed = widen(self._model) if self._visits or library() is None else self._made_native()
        if changed:
            self._watch.accept()

    def _made_native(self) -> int:
        """Have layers multiply by native matrices, and stacks of them be programs.

        Before the first step, not after it: a row's numbers are the same in every step.
        """
        return native.pack(self._model) + widen(self._model) + lower(self._model)

    @property
    def _visits(self) -> bool:
        """Whether weights come from the disk when they are needed, and go again."""
        return "disk" in self._model.placed_at.values()

    def say_changed(self) -> None:
        """Have the next look find a change."""
        self._watch.raise_()

    def prepack(self) -> None:
        """Without native kernels bring the matrices into oneDNN's layout: worth its time once a second step is made."""
        if self._prepacked:
            return
        self._prepacked = True
        here = self._model.device.type == "cpu"
        if here and not self._visits and library() is None and prepack(self._model, mapped_only=True):
            self._watch.accept()
