"""From a Keras model to the bytes of a TFLite file."""

from __future__ import annotations

import dataclasses
import inspect
import re
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from force_tf.export import flatbuffer
from force_tf.export.quiet import quiet
from force_tf.export.samples import Signature, leaf_name, unique_names
from force_tf.export.states import initial_states
from force_tf.export.tensor_names import with_keras_names
from force_tf.models.keras_models import array_variables, state_variables, tf_variable
from force_tf.models.model_state import preserved_variables
from force_tf.models.paths import layers_of
from force_tf.models.rebuild import rebuild
from force_tf.models.weights import variable_paths

# How the converter's messages locate an operation: its name, and the path of the layer that made it.
_FAILED_OP = re.compile(r'fused\["(\w+):", callsite\("([^"@]+)@')
_OTHER_PRECISIONS = ("float16", "bfloat16", "float64")

# Operations that end the whole process when TensorFlow's converter measures the ranges of their activations.
_CRASHING = {"WHILE", "UNIDIRECTIONAL_SEQUENCE_LSTM"}

#: What `export_tflite` takes as `quantize=`.
QUANTIZATIONS = (None, "float16", "dynamic", "int8", "int8_io")


@dataclasses.dataclass(frozen=True)
class Quantization:
    """The types of a file's numbers.

    Attributes:
        kind: One of `QUANTIZATIONS`.
        calibration: For int8: an array of samples for each input, to measure the range of all activations on. None if
            the model has the ranges itself, after quantization-aware training.
        select_tf_ops: Whether the file may hold operations of TensorFlow's.
    """

    kind: str | None = None
    calibration: Sequence[np.ndarray] | None = None
    select_tf_ops: bool = False

    def configure(self, converter: tf.lite.TFLiteConverter, signature: Signature) -> None:
        """Tells TensorFlow's converter."""
        # Where some operation has no integer form, it computes in float32, unless everything must be of integers.
        strict = self.kind == "int8_io" and self.calibration is not None
        known = tf.lite.OpsSet.TFLITE_BUILTINS_INT8 if strict else tf.lite.OpsSet.TFLITE_BUILTINS
        converter.target_spec.supported_ops = [known] + [tf.lite.OpsSet.SELECT_TF_OPS] * self.select_tf_ops
        if self.kind is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if self.kind == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if self.calibration is not None:
            converter.representative_dataset = lambda: _calibration_batches(signature, self.calibration)
        if self.kind == "int8_io":
            converter.inference_input_type = converter.inference_output_type = tf.int8


def _calibration_batches(signature: Signature, calibration: Sequence[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    step = signature.batch_size or 1
    for start in range(0, len(calibration[0]) // step * step, step):
        arrays = (array[start : start + step] for array in calibration)
        yield {spec.name: array for spec, array in zip(signature.specs, arrays)}


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


@dataclasses.dataclass(frozen=True)
class Converted:
    """A file and what it is compared with.

    Attributes:
        content: The file, all of whose tensors are dense, and its weights named as in the model.
        reference: The file of the dense model in float32.
        signature: The inputs of both.
        quantization: The types of numbers in `content`.
    """

    content: bytes
    reference: bytes
    signature: Signature
    quantization: Quantization


def convert_with_reference(model: keras.Model, signature: Signature, quantization: Quantization) -> Converted:
    """Converts a model, and the dense model that it was pruned from.

    The batch size becomes 1 where TFLite cannot express the model otherwise.

    Args:
        model: A built model that computes in float32.
        signature: The inputs of the model.
        quantization: The types of the file's numbers.

    Raises:
        ValueError: If TFLite cannot express the model.
    """
    values = [variable.numpy() for variable in array_variables(model)]
    dense_values = refilled(values, [_plain_name(variable) for variable in array_variables(model)])
    in_floats = Quantization(select_tf_ops=quantization.select_tf_ops)
    # Converted rather than filled in: kernels without any weight left are merged, and so missing, in the pruned file.
    reference, signature = convert_for_any_batch(model, signature, dense_values, in_floats)
    loops = _CRASHING.intersection(flatbuffer.count_operations(flatbuffer.parse(reference)))
    if quantization.calibration is not None and loops:
        raise ValueError(
            "Expected a model without recurrent layers, on which TensorFlow's converter crashes: pass "
            f"quantize='dynamic', or build them with unroll=True. Received: the model {model.name!r}, which becomes "
            f"{', '.join(loops)}, with quantize={quantization.kind!r}"
        )
    same = quantization.kind is None and all(value is other for value, other in zip(values, dense_values))
    content = reference if same else convert(model, signature, values, quantization)
    by_variable = variable_paths(model)
    paths = [by_variable[id(variable)] for variable in array_variables(model)]
    return Converted(with_keras_names(content, paths, values), reference, signature, quantization)


def _plain_name(variable) -> str:
    """The name of a variable in its layer; tf_keras puts the layer's name before it, and a number behind it."""
    return variable.name.rpartition("/")[-1].partition(":")[0]


def convert_for_any_batch(
    model: keras.Model, signature: Signature, values: Sequence[np.ndarray], quantization: Quantization = Quantization()
) -> tuple[bytes, Signature]:
    """Converts a model as `convert` does; the batch size becomes 1 where TFLite cannot express it otherwise."""
    try:
        return convert(model, signature, values, quantization), signature
    except ValueError:
        if signature.batch_size is not None:
            raise
    # The lists of tensors in a recurrent layer, for one, need a batch size known beforehand. If this fails too, its
    # error names what really stands in the way.
    single = signature.with_batch_size(1)
    return convert(model, single, values, quantization), single


def convert(
    model: keras.Model, signature: Signature, values: Sequence[np.ndarray], quantization: Quantization = Quantization()
) -> bytes:
    """Converts a model with the weights given, leaving the model's own weights as they are.

    Args:
        model: A built model that computes in float32.
        signature: The inputs of the file.
        values: An array for each variable of the model.
        quantization: The types of the file's numbers.

    Returns:
        The content of a TFLite file, all of whose tensors are dense.

    Raises:
        ValueError: If TFLite's operations cannot express the model.
        OSError: If the converter has no space for its temporary files.
    """
    # A converted file holds what the variables hold at that moment.
    written = ""
    states = state_variables(model)
    with preserved_variables(model), initial_states(states):
        for variable, value in zip(array_variables(model), values, strict=True):
            variable.assign(value)
        try:
            serve = _serving_function(model, signature)
            function = serve.get_concrete_function(**{spec.name: spec for spec in signature.specs})
            module = tf.Module()
            module.serve = serve
            module.weights = [tf_variable(variable) for variable in [*array_variables(model), *states]]
            with quiet() as messages:
                try:
                    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
                    quantization.configure(converter, signature)
                    # The file keeps the states of recurrent layers; without them, every variable is a constant.
                    converter.experimental_enable_resource_variables = bool(states)
                    content = converter.convert()
                finally:
                    written = messages()
        except Exception as error:
            raise ValueError(_explain(model, error, written, quantization)) from error
    if not flatbuffer.has_signature(content):
        # The converter goes on without the names of inputs and outputs if it cannot write its copy of the model.
        raise OSError(
            "Expected a temporary folder with space enough for a copy of the model. "
            f"Received: {tempfile.gettempdir()!r}, where TensorFlow's converter could not write its copy"
        )
    return content


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


def _explain(model: keras.Model, error: Exception, messages: str, quantization: Quantization) -> str:
    found = _FAILED_OP.search(messages)
    if found is None:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        how = f" with quantize={quantization.kind!r}" if quantization.kind else ""
        return f"Expected a model that TFLite can express{how} ({reason}). Received: the model {model.name!r}"
    op, location = found.groups()
    # Tracing appends numbers to the names of layers. The innermost layer made the operation; models hold it.
    parts = [re.sub(r"_\d+$", "", part) for part in reversed(location.split("/"))]
    names = [name for pair in zip(reversed(location.split("/")), parts) for name in pair]
    layers = {layer.name: layer for layer in layers_of(model)}
    layer = next((layers[name] for name in names if name in layers), None)
    where = f"the layer {layer.name!r} ({type(layer).__name__})" if layer is not None else repr(location)
    return (
        "Expected a model of TFLite's built-in operations: replace a layer that needs another one, or pass "
        "allow_select_tf_ops=True if the runtime on the device has TensorFlow's operations too. "
        f"Received: {where} of the model {model.name!r}, which needs tf.{op}"
    )
