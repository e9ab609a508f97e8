"""What shrinking asks of every kind of layer, and what it does where nothing is known of one.

A channel is an index of a tensor's last axis. It is constant if its value is the same for every input of the model and
at every position. Constants are arrays with a number for each channel, NaN where the channel is not constant.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from force_tf.models.rebuild import Change
from force_tf.models.weights import variable_at

#: The label of what always stays.
PINNED = 0
_ELEMENTWISE = {
    *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "swish", "mish", "exponential"),
    *("sigmoid", "hard_sigmoid", "log_sigmoid", "sparse_sigmoid", "tanh", "hard_tanh", "hard_silu", "hard_swish"),
    *("softplus", "softsign", "squareplus", "sparse_plus", "soft_shrink", "hard_shrink", "tanh_shrink", "threshold"),
}


@dataclasses.dataclass(frozen=True)
class Cut(Change):
    """A layer's smaller form.

    Attributes:
        masks: New masks of its masked weights, by their paths relative to the layer.
    """

    masks: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


class ChannelRule:
    """What is known of a layer of no known kind: nothing, so that it keeps all its channels.

    Args:
        layer: The layer, without its wrapper.
        masks: The masks of its weights, by their paths relative to the layer; None for a model that is not wrapped.
        shapes: The shapes of the inputs, but for masks of positions, and of the outputs of its first call.
    """

    #: Whether the rule knows the layer.
    known = False
    #: Whether something of the layer has the size of its channels, such as weights, so that all calls have the same.
    is_sized = False
    #: Whether the rule tells of channels of the inputs; if not, all of them stay, and it is asked about outputs alone.
    has_input_channels = True
    #: Whether the layer has channels inside that may go while those of its inputs and outputs stay.
    has_inner_channels = False
    #: The prunable weights through which the layer reads its channels, by their paths: what they do not read may go.
    readers: tuple[str, ...] = ()

    def __init__(self, layer: Any, masks: dict[str, np.ndarray] | None, shapes: tuple[Sequence, Sequence]):
        self.layer, self.masks = layer, masks
        self.input_shapes, self.output_shapes = self.shapes = shapes
        self._stored: dict[str, np.ndarray] = {}

    @classmethod
    def fits(cls, layer: Any, shapes: tuple[Sequence, Sequence]) -> bool:
        """Returns whether the rule holds for a layer of its kind as that is configured and called."""
        return True

    def constants(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the constants of each output, given those of each input."""
        return [np.full(channels(shape), np.nan) for shape in self.output_shapes]

    def ties(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Returns labels of the channels of each input and output: of those with the same label all stay or none.

        What always stays has the label `PINNED`; labels need not be consecutive.
        """
        inputs = self.input_shapes if self.has_input_channels else ()
        return tuple([np.full(channels(shape), PINNED) for shape in shapes] for shapes in (inputs, self.output_shapes))

    def places(self, path: str) -> tuple[np.ndarray, ...]:
        """Returns the labels of what each entry of a prunable weight belongs to, as arrays that spread to its shape.

        The first is that of the output channel, by which a weight counts; there may be others, such as that of the
        input channel. The weight is of use only while all of them stay.
        """
        return (np.array(PINNED),)

    def mark_needed(self, inputs: list[np.ndarray], outputs: list[np.ndarray], constants: Sequence[np.ndarray]) -> None:
        """Marks, in place, the channels of inputs and outputs that must stay, given those that are marked already."""
        marks, tied = [*inputs, *outputs], [*itertools.chain(*self._ties)]
        kept = np.zeros(1 + max(int(own.max(initial=PINNED)) for own in tied), bool)
        kept[PINNED] = True
        for each, own in zip(marks, tied, strict=True):
            kept[own[each]] = True
        for each, own in zip(marks, tied):
            each |= kept[own]

    def cut(
        self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], constants: Sequence[np.ndarray]
    ) -> Cut | None:
        """Returns the layer for the channels kept of its inputs and outputs; None if it stays as it is."""
        return None

    @functools.cached_property
    def _ties(self):
        return self.ties()

    def alive(self, path: str) -> np.ndarray:
        """Returns which entries of a weight may be other than zero, now or after training."""
        if self.masks is None:
            return self.stored(path) != 0
        mask = self.masks.get(path)
        return np.ones(tuple(variable_at(self.layer, path).shape), bool) if mask is None else mask

    def stored(self, path: str) -> np.ndarray:
        """Returns a weight as it is, given its path relative to the layer. It is read once, and not to be written."""
        if path not in self._stored:
            self._stored[path] = np.asarray(variable_at(self.layer, path)).view()
            self._stored[path].flags.writeable = False
        return self._stored[path]

    def value(self, path: str) -> np.ndarray:
        """Returns a weight in float64, to compute with."""
        return self.stored(path).astype("float64")


def channels(shape: Sequence[int | None]) -> int:
    """Returns the number of channels of a tensor."""
    return shape[-1] if len(shape) > 1 and shape[-1] else 1


def labels(count: int, after: np.ndarray | None = None) -> np.ndarray:
    """Returns a new label for each of some channels, other than `PINNED` and all labels of an array before.

    Args:
        count: The number of channels.
        after: Labels, whole numbers of any shape, that are in use; None: none.

    Returns:
        An array of `count` whole numbers, each another.
    """
    return np.arange(count) + (PINNED if after is None else int(after.max(initial=PINNED))) + 1


def is_elementwise(activation: Any) -> bool:
    """Returns whether an activation is known to look at one number at a time."""
    module = getattr(activation, "__module__", "").partition(".")[0]
    return module in ("keras", "tf_keras", "tensorflow") and getattr(activation, "__name__", "") in _ELEMENTWISE
