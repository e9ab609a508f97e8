"""Where a layer keeps a weight, and what is asked of one that may be pruned."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from force_tf.models.keras_models import array_variables
from force_tf.models.layer_kinds import is_kind, kind_of
from force_tf.models.output_channels import output_axes
from force_tf.models.paths import layers_by_path, split_path, sub_layers, walk_layers


@dataclasses.dataclass(frozen=True)
class PrunableWeight:
    """A weight tensor that may be pruned.

    Attributes:
        path: `layer/attribute`, with outer models and sub-layers before it.
        layers: The layers from the model's own child down to the one that holds the weight.
        layer_paths: The paths of `layers`, in which names of tf_keras's layers may hold slashes themselves.
        attribute: The name of the weight in that layer, such as "kernel".
        variable: The variable: a `keras.Variable`, or the `tf.Variable` of a tf_keras layer.
    """

    path: str
    layers: tuple[Any, ...]
    layer_paths: tuple[str, ...]
    attribute: str
    variable: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.variable.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def input_axes(self) -> tuple[int, ...]:
        """The axes along which lie the inputs that one output sums: of a convolution the channels, not the window.

        A depthwise kernel has only its window to sum over. Where nothing is summed, as of a vector, they are all axes.
        """
        axes, outputs = range(len(self.shape)), output_axes(self.layers[-1], self.attribute)
        inputs = tuple(axis for axis in axes if axis - len(axes) not in outputs) or tuple(axes)
        return inputs if is_kind(self.layers[-1], "EinsumDense") or len(outputs) > 1 else inputs[-1:]


def values_of(weights: Sequence[PrunableWeight]) -> list[tf.Tensor]:
    """Returns the present values of weights, one tensor each, which share the variables' memory until those change."""
    return [tf.convert_to_tensor(weight.variable) for weight in weights]


def weight_variable(layer: Any, attribute: str) -> Any | None:
    """Returns the variable of a layer's weight, or None if the layer has none."""
    slot = weight_slot(layer, attribute)
    return None if slot is None else vars(layer)[slot]


def weight_slot(layer: Any, attribute: str) -> str | None:
    """Returns the entry of `vars(layer)` that holds the variable of a weight, or None if the layer has none.

    Several Keras layers keep `kernel` in `_kernel`, and compute what the public property returns.
    """
    names = (attribute, f"_{attribute}", kind_of(layer).legacy_names.get(attribute, attribute))
    return next((name for name in names if _is_variable(vars(layer).get(name))), None)


def own_weights(layer: Any) -> dict[str, Any]:
    """Returns the variables that a layer itself holds, by the entries of `vars(layer)`."""
    return {name: value for name, value in vars(layer).items() if _is_variable(value)}


def _is_variable(value: Any) -> bool:
    return isinstance(value, (keras.Variable, tf.Variable))


def variable_at(layer: Any, path: str) -> Any | None:
    """Returns the variable of a weight of a layer, or of a layer inside it, or None if there is none.

    Args:
        layer: A built layer of either Keras, without a wrapper that masks it.
        path: The weight's path relative to the layer, such as "kernel" or "lstm_cell/kernel".
    """
    owner, attribute = split_path(path)
    owners = layers_by_path(layer) if owner else {"": layer}
    return weight_variable(owners[owner], attribute)


def variable_paths(model: Any) -> dict[int, str]:
    """Maps the `id` of each variable of a model to its path, such as "conv1/kernel", prunable or not.

    A variable that several layers share has one path, the first.
    """
    paths: dict[int, str] = {}
    for path, layer in [*((f"{path}/", chain[-1]) for path, chain in walk_layers(model)), ("", model)]:
        inner = {id(variable) for sub in sub_layers(layer) for variable in array_variables(sub)}
        for variable in array_variables(layer):
            if id(variable) not in inner:
                paths.setdefault(id(variable), f"{path}{_attribute_of(layer, variable)}")
    return paths


def _attribute_of(layer: Any, variable: Any) -> str:
    names = [name.lstrip("_") for name, value in own_weights(layer).items() if value is variable]
    # tf_keras puts the layer's name before that of a variable, and a number behind it.
    name = names[0] if names else variable.name.rpartition("/")[-1].partition(":")[0]
    return next((new for new, old in kind_of(layer).legacy_names.items() if old == name), name)
