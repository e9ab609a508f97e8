"""What a layer is: which of Keras's layers, if any, and what users have registered of their own."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

from force_tf.models.keras_models import is_layer, keras_classes

# What a class may have of its own and still compute as the layer of Keras that it derives from.
_HARMLESS = frozenset(
    {"__init__", "build", "build_from_config", "get_build_config", "get_config", "from_config", "get_prunable_weights"}
    | {"compute_output_shape", "compute_output_spec", "supports_jit", "supports_masking"}
)


@dataclasses.dataclass(frozen=True)
class LayerKind:
    """The weights of a kind of layer.

    Attributes:
        prunable: The weights that are pruned unless `layers=` says otherwise: those that the papers prune.
        opt_in: The weights that join only when `layers=` selects their layer.
        output_axes: The axes of the output channels of a weight, counted from the end, where they are not the last
            axis alone. A depthwise kernel has one channel for each pair of an input channel and a multiple; a
            transposed convolution swaps inputs and outputs.
        legacy_names: What the legacy tf_keras calls a weight that has another name in Keras 3, which paths take.
        cell: The name of the cell that the layer makes itself. Keras 3 names it after its class; tf_keras numbers it
            anew in every layer.
    """

    prunable: tuple[str, ...] = ()
    opt_in: tuple[str, ...] = ()
    output_axes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    legacy_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cell: str | None = None


_KERNEL = LayerKind(("kernel",))
_TRANSPOSED = LayerKind(("kernel",), output_axes={"kernel": (-2,)})
_DEPTHWISE = LayerKind((), ("kernel",), output_axes={"kernel": (-2, -1)}, legacy_names={"kernel": "depthwise_kernel"})
_SEPARABLE = LayerKind(("pointwise_kernel",), ("depthwise_kernel",), output_axes={"depthwise_kernel": (-2, -1)})
_CELL = LayerKind(("kernel", "recurrent_kernel"))

# By the names of Keras's classes, which are the same in both Kerases.
_KINDS: dict[str, LayerKind] = {
    "Dense": _KERNEL,
    "EinsumDense": _KERNEL,  # whose equation says where its output channels are
    **{f"Conv{n}D": _KERNEL for n in "123"},
    **{f"Conv{n}DTranspose": _TRANSPOSED for n in "123"},
    **{f"DepthwiseConv{n}D": _DEPTHWISE for n in "12"},
    **{f"SeparableConv{n}D": _SEPARABLE for n in "12"},
    "Embedding": LayerKind(opt_in=("embeddings",)),
    **dict.fromkeys(("SimpleRNNCell", "LSTMCell", "GRUCell", "ConvLSTMCell"), _CELL),
    "SimpleRNN": LayerKind(cell="simple_rnn_cell"),
    "LSTM": LayerKind(cell="lstm_cell"),
    "GRU": LayerKind(cell="gru_cell"),
    "ConvLSTM": LayerKind(cell="conv_lstm_cell"),
}


@dataclasses.dataclass(frozen=True)
class Registration:
    """What a user has said of a class of layers; None where nothing was said. See `register_layer`."""

    like: str | None = None
    prunable: tuple[str, ...] | None = None
    opt_in: tuple[str, ...] | None = None
    output_axes: Mapping[str, tuple[int, ...]] | None = None
    multiply_adds: Callable[[Any, Sequence, Sequence], int | Mapping[str, int]] | None = None
    channels: str | type | None = None


_REGISTERED: dict[type, Registration] = {}

#: The names of what `register_layer` takes for layers that keep each channel by itself.
CHANNEL_BEHAVIOURS = ("elementwise", "passing")


def register_layer(
    layer_class: type,
    *,
    like: type | None = None,
    prunable: Sequence[str] | None = None,
    opt_in: Sequence[str] | None = None,
    output_axes: Mapping[str, int | Sequence[int]] | None = None,
    multiply_adds: Callable[[Any, Sequence, Sequence], int | Mapping[str, int]] | None = None,
    channels: str | type | None = None,
) -> None:
    """Tells what a custom layer is: to searches, `count_flops`, `granularity="channel"` and `shrink`.

    What is said holds for the classes derived from the class too. What is not said stays as it was: as an earlier call
    said, or as it follows from the layer of Keras that the class derives from. A subclass that only changes how a layer
    of Keras is made is known as that layer; one that has a `call` of its own computes something unknown until it is
    registered.

    Args:
        layer_class: A subclass of `keras.layers.Layer` or `tf_keras.layers.Layer`.
        like: A layer class of Keras. In each respect that no other argument tells of, layers are taken for such: they
            have its weights under its names, and compute the same channels from the same weights.
        prunable: The names of the weights to prune: attributes that hold a variable of any shape made by `add_weight`.
        opt_in: The names of the weights that are pruned only where `layers=` selects the layer.
        output_axes: For each weight whose output channels do not lie along its last axis, their axis or axes, counted
            from the end, so all negative.
        multiply_adds: A function of a layer and of the shapes of its inputs and outputs, each a list of tuples without
            the batch size. It returns how many multiply-adds a sample takes: a dict from the name of each weight to how
            often each of its entries is used, so that pruned ones can be left out, or a number that no mask changes.
        channels: What the layer does to channels, the last axis of its inputs and outputs. "elementwise": each number
            of the output depends on the numbers at its own place in the inputs, and on weights that have one number for
            each channel along their last axis or are the same for all. "passing": each channel of the output is
            made of the same channel of the input, whose constants stay as they are, as in pooling. Or a subclass of
            `force_tf.channels.ChannelRule`.

    Raises:
        TypeError: If `layer_class` is no layer class, `like` no layer class of Keras, or another argument of no such
            type.
        ValueError: If nothing is said, a list of weights is empty, an axis is not negative, or `channels` is no name of
            a behaviour.

    Example:

    ```python
    class Scale(keras.layers.Layer):
        def build(self, input_shape):
            self.matrix = self.add_weight(shape=(input_shape[-1], 8))

        def call(self, inputs):
            return inputs @ self.matrix


    def multiply_adds(layer, inputs, outputs):
        return {"matrix": math.prod(inputs[0][:-1])}  # once for each position


    force_tf.register_layer(Scale, prunable=["matrix"], multiply_adds=multiply_adds)
    ```
    """
    _check_layer_class("layer_class", layer_class)
    said = {
        "like": None if like is None else _kind_name(like),
        "prunable": None if prunable is None else _names("prunable", prunable),
        "opt_in": None if opt_in is None else _names("opt_in", opt_in),
        "output_axes": None if output_axes is None else _axes(output_axes),
        "multiply_adds": multiply_adds,
        "channels": channels,
    }
    said = {part: value for part, value in said.items() if value is not None}
    if not said:
        raise ValueError(f"Expected something to know of {layer_class.__name__}. Received: no argument but the class")
    if multiply_adds is not None and not callable(multiply_adds):
        raise TypeError(f"Expected a function of a layer and shapes. Received: multiply_adds={multiply_adds!r}")
    if isinstance(channels, str) and channels not in CHANNEL_BEHAVIOURS:
        raise ValueError(f"Expected channels to be one of {CHANNEL_BEHAVIOURS}, or a class. Received: {channels!r}")
    if not (channels is None or isinstance(channels, str) or hasattr(channels, "mark_needed")):
        raise TypeError(
            f"Expected channels to be one of {CHANNEL_BEHAVIOURS}, or a subclass of force_tf.channels.ChannelRule. "
            f"Received: {channels!r}"
        )
    _REGISTERED[layer_class] = dataclasses.replace(_REGISTERED.get(layer_class, Registration()), **said)


def register_prunable(layer_class: type, *attributes: str) -> None:
    """Declares weights of a custom layer, and of the classes derived from it, to be pruned.

    A layer may instead have a method `get_prunable_weights()` that returns the variables to prune, as custom layers for
    tensorflow-model-optimization do. What is registered goes before it. `register_layer` tells more of a layer.

    Args:
        layer_class: A subclass of `keras.layers.Layer` or `tf_keras.layers.Layer`.
        *attributes: Names of the attributes that hold the weights, each a variable of any shape made by `add_weight`.

    Raises:
        TypeError: If `layer_class` is no layer class, or an attribute no name.
        ValueError: If no attribute is given.

    Example:

    ```python
    class Scale(keras.layers.Layer):
        def build(self, input_shape):
            self.matrix = self.add_weight(shape=(input_shape[-1], 8))

        def call(self, inputs):
            return inputs @ self.matrix


    force_tf.register_prunable(Scale, "matrix")
    ```
    """
    register_layer(layer_class, prunable=attributes)


def kind_of(layer: Any) -> LayerKind:
    """Returns what is known of the weights of a layer of either Keras, a custom one too: by default nothing."""
    found = next((_KINDS[name] for name in _names_of_kinds(type(layer)) if name in _KINDS), LayerKind())
    said = {part: registered(layer, part) for part in ("prunable", "opt_in", "output_axes")}
    return dataclasses.replace(found, **{part: value for part, value in said.items() if value is not None})


def is_kind(layer: Any, name: str) -> bool:
    """Returns whether a layer is one of Keras's of that name, of a class derived from it, or registered as like it."""
    return name in _names_of_kinds(type(layer))


def computes_as(layer: Any) -> str | None:
    """Returns the name of the layer or operation of Keras as which a call is computed; None where that is not known.

    That of a layer is the name of its class, also of one derived from it whose own methods change nothing of the call.
    That of an operation such as `keras.ops.matmul` is "ops.Matmul".
    """
    return _computed_as(layer, _HARMLESS)


def copies_as(layer: Any) -> str | None:
    """Returns the name of the layer or operation of Keras as which it is computed and configured, or None.

    In other words, a layer with other entries in its configuration is to be had from `from_config`.
    """
    return _computed_as(layer, frozenset())


def registered(layer: Any, part: str) -> Any | None:
    """Returns what was registered of a layer's class, or of one that it derives from, in one respect; else None.

    What a class is like goes before what was said of the classes that it derives from.

    Args:
        layer: The layer.
        part: The name of a field of `Registration`.
    """
    for cls in type(layer).__mro__:
        registration = _REGISTERED.get(cls, Registration())
        value = getattr(registration, part)
        if value is not None or registration.like is not None:
            return value
    return None


def _names_of_kinds(layer_class: type) -> Iterator[str]:
    """Yields the names of the classes of Keras that a class derives from or is like, the nearest first."""
    of_keras = keras_classes(layer_class)
    for cls in layer_class.__mro__:
        if cls in _REGISTERED and _REGISTERED[cls].like is not None:
            yield _REGISTERED[cls].like
        if cls in of_keras:
            yield cls.__name__


def _computed_as(layer: Any, allowed: Set[str]) -> str | None:
    classes = keras_classes(type(layer))
    for cls in type(layer).__mro__ if classes else ():
        if cls in _REGISTERED and _REGISTERED[cls].like is not None:
            return _REGISTERED[cls].like
        if cls is classes[0]:
            return cls.__name__ if is_layer(layer) else f"ops.{cls.__name__}"
        own = {name for name in vars(cls) if name in ("__init__", "__call__") or not name.startswith(("__", "_abc_"))}
        if any(hasattr(classes[0], name) for name in own - allowed):
            return None
    return None


def _check_layer_class(argument: str, layer_class: Any) -> None:
    if not (isinstance(layer_class, type) and any(cls.__name__ == "Layer" for cls in keras_classes(layer_class))):
        raise TypeError(f"Expected a subclass of keras.layers.Layer. Received: {argument}={layer_class!r}")


def _kind_name(like: Any) -> str:
    _check_layer_class("like", like)
    if keras_classes(like)[0] is not like:
        raise TypeError(f"Expected a layer class of Keras. Received: like={like!r}, which only derives from one")
    return like.__name__


def _names(argument: str, names: Any) -> tuple[str, ...]:
    names = (names,) if isinstance(names, str) else tuple(names)
    if not names:
        raise ValueError(f"Expected the names of weights. Received: {argument} without any")
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"Expected names of attributes. Received: {argument}={names!r}")
    return names


def _axes(output_axes: Any) -> dict[str, tuple[int, ...]]:
    if not isinstance(output_axes, Mapping):
        raise TypeError(f"Expected a dict from names of weights to axes. Received: output_axes={output_axes!r}")
    axes = {name: (axis,) if isinstance(axis, int) else tuple(axis) for name, axis in output_axes.items()}
    if not all(isinstance(axis, int) and axis < 0 for axis in itertools.chain(*axes.values())):
        raise ValueError(f"Expected axes counted from the end, such as -1. Received: output_axes={output_axes!r}")
    return axes
