"""From a Keras model to the bytes of a TFLite file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from force_tf.export.quiet import quiet
from force_tf.export.samples import Signature, layers_of, leaf_name, unique_names
from force_tf.keras_models import preserved_variables, tf_variable
from force_tf.layers.rebuild import rebuild

# How the converter's messages locate an operation: its name, and the path of the layer that made it.
_FAILED_OP = re.compile(r'fused\["(\w+):", callsite\("([^"@]+)@')
_OTHER_PRECISIONS = ("float16", "bfloat16", "float64")


def in_float32(model: keras.Model) -> keras.Model:
    """Returns the model if it computes in float32, or else a copy that does, with the same weights.

    TFLite's kernels know no mixed precision: a model trained in it cannot be converted as it is.

    Raises:
        ValueError: If the model needs a copy, but Keras cannot clone it.
    """
    if not any(layer.compute_dtype in _OTHER_PRECISIONS for layer in [model, *layers_of(model)]):
        return model
    try:
        return rebuild(model, precision="float32")
    except ValueError as error:
        raise ValueError(
            f"Expected a model in float32, or a functional or Sequential one to rebuild in float32 ({error}). "
            f"Received: the model {model.name!r} with the dtype policy {model.dtype_policy.name!r}"
        ) from error


def refilled(values: Sequence[np.ndarray], names: Sequence[str], seed: int = 0) -> list[np.ndarray]:
    """Returns the weights of a dense model: zeros in kernels replaced by numbers drawn like the others of their kernel.

    Biases and one-dimensional weights (those of normalizations) are never pruned, and keep their zeros.

    Args:
        values: The arrays of a model's weights.
        names: The name of each weight in its layer.
        seed: Seed of the numbers drawn.
    """
    rng = np.random.default_rng(seed)
    dense = []
    for value, name in zip(values, names):
        zero = value == 0
        if value.ndim > 1 and name != "bias" and value.dtype.kind == "f" and zero.any():
            live = value[~zero]
            # An empty kernel tells nothing about its numbers; the variance of LeCun's initialization will do.
            scale = live.std() if live.size > 1 else np.sqrt(1 / np.prod(value.shape[:-1]))
            value = np.where(zero, rng.normal(live.mean() if live.size else 0.0, scale, value.shape), value)
        dense.append(value.astype("float32") if value.dtype.kind == "f" else value)
    return dense


def convert(model: keras.Model, signature: Signature, values: Sequence[np.ndarray], *, sparse: bool) -> bytes:
    """Converts a model with the weights given, leaving the model's own weights as they are.

    Args:
        model: A built model that computes in float32.
        signature: The inputs of the file.
        values: An array for each variable of the model.
        sparse: Whether to store mostly zero tensors by their non-zero values and the places of these.

    Returns:
        The content of a TFLite file.

    Raises:
        ValueError: If TFLite's built-in operations cannot express the model.
    """
    # A converted file holds what the variables hold at that moment.
    with quiet() as messages, preserved_variables(model):
        try:
            for variable, value in zip(model.variables, values, strict=True):
                variable.assign(value)
            serve = _serving_function(model, signature)
            specs = {spec.name: spec for spec in signature.specs}
            module = tf.Module()
            module.serve = serve
            module.weights = [tf_variable(variable) for variable in model.variables]
            converter = tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function(**specs)], module)
            if sparse:
                converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
            return converter.convert()
        except Exception as error:
            raise ValueError(_explain(model, error, messages())) from error


def _serving_function(model, signature: Signature):
    @tf.function(autograph=False)
    def serve(**inputs):
        outputs = infer(model, signature.pack(inputs[spec.name] for spec in signature.specs))
        return dict(zip(output_names(model, outputs), keras.tree.flatten(outputs)))

    return serve


def infer(model: keras.Model, inputs: Any) -> Any:
    """Returns the outputs of a built model in inference mode."""
    mode = {"training": False} if "training" in inspect.signature(model.call).parameters else {}
    return model(inputs, **mode)


def output_names(model: keras.Model, outputs: Any) -> list[str]:
    """Returns a name for every output tensor: its dict keys, or else the name of its layer."""
    leaves = keras.tree.flatten_with_path(outputs)
    layers = getattr(model, "output_names", None) or []
    defaults = layers if len(layers) == len(leaves) else [f"output_{i}" for i in range(len(leaves))]
    return unique_names([leaf_name(path, default) for (path, _), default in zip(leaves, defaults)])


def _explain(model: keras.Model, error: Exception, messages: str) -> str:
    found = _FAILED_OP.search(messages)
    if found is None:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return f"Expected a model that TFLite can express ({reason}). Received: the model {model.name!r}"
    op, location = found.groups()
    # Tracing appends numbers to the names of layers.
    parts = {name for part in location.split("/") for name in (part, re.sub(r"_\d+$", "", part))}
    layer = next((layer for layer in layers_of(model) if layer.name in parts), None)
    where = f"the layer {layer.name!r} ({type(layer).__name__})" if layer is not None else repr(location)
    return (
        "Expected a model of TFLite's built-in operations: replace a layer that needs another one. "
        f"Received: {where} of the model {model.name!r}, which needs tf.{op}"
    )
