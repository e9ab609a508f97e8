"""The paths through a network of ReLUs: which of them a batch of inputs opens, and what its weights make of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf.models.graph import Graph, graphs_of
from force_tf.models.keras_models import array_variables, call_traced, check_is_graph, is_graph, tf_variable
from force_tf.models.layer_kinds import computes_as, copies_as
from force_tf.models.paths import layers_of
from force_tf.models.prunable import all_prunable_weights
from force_tf.models.rebuild import Change, rebuild
from force_tf.models.weights import PrunableWeight, variable_paths

_PRECISION = "float64"  # numbers of paths grow beyond float32 in deep networks
_POOLINGS = ("MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling")
# Layers that hand on what comes through them, weighted or not, by the names that `copies_as` returns.
_WEIGHTED = {
    *("Dense", "Conv1D", "Conv2D", "Conv3D", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
    *("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"),
}
_PASSING = {
    *(f"{kind}{n}D" for kind in (*_POOLINGS, "ZeroPadding", "Cropping", "UpSampling") for n in "123"),
    *("Flatten", "Reshape", "Permute", "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"),
    *("GaussianNoise", "GaussianDropout", "Add", "Average", "Concatenate", "BatchNormalization", "InputLayer"),
    *("ops.Add", "ops.Concatenate"),
}
_ACTIVATIONS = {"Activation", "ReLU", "LeakyReLU", "Softmax"}
_RELUS = {"relu", "relu6", "leaky_relu"}
_PROBABILITIES = {"softmax", "sigmoid"}  # taken off at the end, so that the outputs are logits


class UnknownPathsError(ValueError):
    """A model whose paths cannot be told, since something else than ReLUs bends what comes through."""


class ReluPaths:
    """The paths from the input of a network of ReLUs to its outputs.

    A path is open for an input if every ReLU on it is: its unit is positive. The network is copied in float64 without
    its activations, so that what comes through is linear in the weights of each layer, and every ReLU is a gate.

    Args:
        model: A built Functional or Sequential model of either Keras with one input.
        weights: Its prunable weights.
        spread: Takes a function of a batch, and returns one of what replicas hold of it; if `sums`, what they return is
            added up. None where one replica holds the whole.

    Raises:
        UnknownPathsError: If the model is of other layers than those that hand on what comes through them and ReLUs.
        NotCopyableError: If Keras cannot copy it.
    """

    def __init__(self, model: Any, weights: Sequence[PrunableWeight], spread: Callable[..., Callable] | None = None):
        check_is_graph(model)
        if len(model.inputs or ()) != 1:
            raise UnknownPathsError(
                f"Expected a model with one input, whose paths can be told. Received: {model.name!r} with "
                f"{len(model.inputs or ())}"
            )
        _check_layers(model)
        old = [model, *layers_of(model)]
        fused = [layer for layer in old if _activation(layer) is not None and copies_as(layer) in _WEIGHTED]
        linear = {id(layer): Change({"activation": "linear"}, {}) for layer in fused}
        self._copy = rebuild(model, precision=_PRECISION, changes=linear)
        pairs = zip(old, [self._copy, *layers_of(self._copy)], strict=True)
        self._gates = {id(copy): gate for layer, copy in pairs if (gate := _gate(layer)) is not None}
        self._graphs = graphs_of(self._copy)[0]
        self._find_variables(weights)
        opened, counted = self._opened, self._counted
        if spread is not None:
            opened, counted = spread(opened, sums=False), spread(counted, sums=True)
        self._open = tf.function(opened, autograph=False, reduce_retracing=True)
        self._count = tf.function(counted, autograph=False, reduce_retracing=True)
        self._derive = tf.function(self._derived, autograph=False)

    def _find_variables(self, weights: Sequence[PrunableWeight]) -> None:
        by_path = {weight.path: weight.variable for weight in all_prunable_weights(self._copy)}
        self._prunable = [by_path[weight.path] for weight in weights]
        prunable = {id(variable) for variable in self._prunable}
        floats = [each for each in array_variables(self._copy) if tf.as_dtype(each.dtype).is_floating]
        self._others = [each for each in floats if id(each) not in prunable]
        self._values = [tf.convert_to_tensor(variable) for variable in self._others]
        paths = variable_paths(self._copy)
        self._ones = [_one(paths[id(variable)], tuple(variable.shape)) for variable in self._others]

    def open_paths(self, weights: Sequence[tf.Tensor], masks: Sequence[Any], inputs: tf.Tensor) -> list[tf.Tensor]:
        """Returns Σ over rows and open paths of the square of the input from which a path comes, for every output.

        Args:
            weights: θ̄, the present values of the prunable weights, which open and close the gates.
            masks: m, one array or tensor of booleans per weight: paths through pruned weights do not count.
            inputs: A batch, of shape (rows, …), or what replicas hold of it. Rows of zeros open no path.

        Returns:
            One tensor per output of the model, of its shape without rows, float64.
        """
        self._assign(weights, self._values)
        gates = call_traced(self._open, inputs)
        self._assign(masks, self._ones)
        return call_traced(self._count, inputs, gates)

    def derivative(self, weights: Sequence[tf.Tensor], outputs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns ∂R/∂(θ̄²), with R = Σ c · z for the outputs z of the network of squared weights, for an input of ones.

        Args:
            weights: θ̄, the present values of the prunable weights.
            outputs: c, what `open_paths` returns.

        Returns:
            One tensor per weight, of its shape, float64.
        """
        self._assign([tf.square(tf.cast(w, _PRECISION)) for w in weights], [tf.square(v) for v in self._values])
        return call_traced(self._derive, outputs)

    def _assign(self, prunable: Sequence[Any], others: Sequence[Any]) -> None:
        for variable, value in zip([*self._prunable, *self._others], [*prunable, *others]):
            variable.assign(tf.cast(value, _PRECISION))

    def _opened(self, inputs: tf.Tensor) -> list[tf.Tensor]:
        gates = []

        def pass_relu(layer: Any, value: tf.Tensor) -> tf.Tensor:
            highest, slope = self._gates[id(layer)]
            gates.append((value > 0) & (value < highest))
            value = tf.minimum(value, tf.cast(highest, value.dtype))
            return tf.where(value > 0, value, slope * value)

        self._run(self._copy, [tf.cast(inputs, _PRECISION)], pass_relu)
        return gates

    def _counted(self, inputs: tf.Tensor, gates: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        remaining, squares = iter(gates), tf.square(tf.cast(inputs, _PRECISION))
        outputs = self._run(self._copy, [squares], lambda layer, value: value * tf.cast(next(remaining), value.dtype))
        return [tf.reduce_sum(output, axis=0) for output in outputs]

    def _derived(self, weighting: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        shape = [1, *self._copy.inputs[0].shape[1:]]
        variables = [tf_variable(variable) for variable in self._prunable]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            outputs = self._run(self._copy, [tf.ones(shape, _PRECISION)], lambda layer, value: value)
            value = tf.add_n([tf.reduce_sum(c * output[0]) for c, output in zip(weighting, outputs)])
        return tape.gradient(value, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def _run(self, model: Any, inputs: Sequence[tf.Tensor], at_relu: Callable) -> list[tf.Tensor]:
        """Runs a graph without its activations; what they are given goes through `at_relu(layer, value)` instead."""
        graph: Graph = self._graphs[id(model)]
        values = dict(zip(graph.inputs, inputs))
        for call in graph.calls:
            if not call.inputs:
                continue  # an input
            given = [values[i] for i in call.inputs]
            if is_graph(call.layer):
                outputs = self._run(call.layer, given, at_relu)
            elif copies_as(call.layer) in _ACTIVATIONS:
                outputs = given
            else:
                outputs = tf.nest.flatten(call.evaluate(given))
            if id(call.layer) in self._gates:
                outputs = [at_relu(call.layer, output) for output in outputs]
            values.update(zip(call.outputs, outputs))
        return [values[i] for i in graph.outputs]


def _check_layers(model: Any) -> None:
    """Raises unless all that a model calls hands on what comes through, or is a ReLU."""
    graphs, _ = graphs_of(model)
    ends = {id(layer) for layer in _last_layers(graphs, model)}
    for graph in graphs.values():
        for call in graph.calls:
            kind, activation = computes_as(call.layer), _activation(call.layer)
            known = is_graph(call.layer) or kind in _PASSING or _gate(call.layer) is not None
            if kind in _WEIGHTED or kind == "Activation":
                at_end = activation in _PROBABILITIES and id(call.layer) in ends
                known = copies_as(call.layer) is not None and (activation in _RELUS | {None} or at_end)
            elif kind == "Softmax":
                known = id(call.layer) in ends
            if not known:
                what = f" with the activation {activation!r}" if activation and kind is not None else ""
                raise UnknownPathsError(
                    "Expected a model of dense and convolution layers, BatchNorm, pooling, sums and ReLUs, whose paths "
                    f"can be told. Received: {model.name!r} with {call.layer.name!r} of class "
                    f"{type(call.layer).__name__}{what}"
                )


def _last_layers(graphs: dict[int, Graph], model: Any) -> Iterator[Any]:
    """Yields the layers that make the outputs of a model, those at the end of a model inside it too."""
    graph = graphs[id(model)]
    for call in graph.calls:
        if set(call.outputs) & set(graph.outputs):
            if is_graph(call.layer):
                yield from _last_layers(graphs, call.layer)
            else:
                yield call.layer


def _activation(layer: Any) -> str | None:
    """Returns the name of the activation inside a layer; None if it has none or a linear one."""
    activation = getattr(layer, "activation", None)
    name = getattr(activation, "__name__", type(activation).__name__)
    return None if activation is None or name == "linear" else name


def _gate(layer: Any) -> tuple[float, float] | None:
    """Returns where the ReLU at the end of a layer stops to rise, and its slope below zero; None if it has none."""
    kind, activation = computes_as(layer), _activation(layer)
    if kind in _WEIGHTED or kind == "Activation":
        gates = {"relu": (np.inf, 0.0), "relu6": (6.0, 0.0), "leaky_relu": (np.inf, 0.2)}
        return gates.get(activation)
    if kind == "LeakyReLU":
        slope = getattr(layer, "negative_slope", None)
        return np.inf, float(layer.alpha if slope is None else slope)
    if kind == "ReLU" and not float(layer.threshold):
        return np.inf if layer.max_value is None else float(layer.max_value), float(layer.negative_slope)
    return None


def _one(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the value of a variable that is not pruned with which it hands on what comes: offsets are zero."""
    name = path.rpartition("/")[-1]
    is_offset = any(part in name for part in ("bias", "beta", "mean"))
    return np.zeros(shape) if is_offset else np.ones(shape)
