"""Operations in a graph that are no layers of their own, such as `x * 2.0`, `x + y` or `keras.ops.relu(x)`."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from force_tf.channels.rules.base import ChannelRule
from force_tf.channels.rules.channelwise import Elementwise, Merge
from force_tf.models.graph import GraphCall
from force_tf.models.keras_models import is_layer

# By their names in `keras.ops` and in TensorFlow, in small letters and without underscores.
_RELUS = ("relu", "relu6", "leakyrelu", "elu", "selu", "celu", "gelu", "silu", "hardsilu", "hardsigmoid", "hardtanh")
_FUNCTIONS = ("abs", "absolute", "cos", "erf", "exp", "expm1", "log", "log1p", "logsigmoid", "negative", "reciprocal")
_MORE_FUNCTIONS = ("rsqrt", "sigmoid", "sign", "sin", "softplus", "softsign", "sqrt", "square", "tanh")
_OF_ONE_NUMBER = {*_RELUS, *_FUNCTIONS, *_MORE_FUNCTIONS}
_OF_TWO_NUMBERS = {"add", "subtract", "multiply", "divide", "truediv", "truedivide", "pow", "power"}
_OF_TWO_NUMBERS |= {"maximum", "minimum"}


class Operation(Elementwise):
    """A function of each number of one tensor, the other arguments of which are numbers."""

    def __init__(self, layer: Any, shapes: tuple[Sequence, Sequence], call: GraphCall):
        super().__init__(layer, None, shapes)
        self.call = call

    def evaluate(self, arguments):
        return self.call.evaluate(arguments)

    def _dtype(self):
        return self.call.tensors[0].dtype


class MergeOperation(Operation, Merge):
    """A function of two tensors."""

    @property
    def is_product(self):
        return _name(self.layer) == "multiply"


def operation_rule(layer: Any, shapes: tuple[Sequence, Sequence], call: GraphCall) -> ChannelRule | None:
    """Returns the rule of a call of an operation, or None if the layer is nothing that is known so well.

    Args:
        layer: A layer of either Keras, or an operation of Keras 3.
        shapes: The shapes of the inputs and of the outputs of the call.
        call: The call.
    """
    if is_layer(layer) and type(layer).__name__ != "TFOpLambda":
        return None
    types = {tf.as_dtype(tensor.dtype) for tensor in call.tensors}
    if len(types) != 1 or not types.pop().is_floating or not all(map(_is_number, call.other_arguments)):
        return None
    inputs, _ = shapes
    binary = _name(layer) in _OF_TWO_NUMBERS
    if len(inputs) == 1 and (binary or _name(layer) in _OF_ONE_NUMBER):
        return Operation(layer, shapes, call)
    if len(inputs) == 2 and binary and len(inputs[0]) == len(inputs[1]):
        return MergeOperation(layer, shapes, call)
    return None


def _is_number(value: Any) -> bool:
    """Returns whether an argument is the same for all channels, such as a number or an option."""
    if isinstance(value, (np.ndarray, tf.Tensor)):
        return value.ndim == 0
    return value is None or isinstance(value, (numbers.Number, str))


def _name(layer: Any) -> str:
    symbol = layer.symbol if is_layer(layer) else type(layer).__name__
    return (symbol or "").rpartition(".")[-1].replace("_", "").lower()
