"""From a Keras model to the bytes of a TFLite file."""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from force_tf.export import flatbuffer
from force_tf.export.samples import Signature
from force_tf.export.sizes import Sizes, sizes_of
from force_tf.export.tensor_names import with_keras_names
from force_tf.export.trace import Configure, Trace, traced
from force_tf.models.keras_models import array_variables
from force_tf.models.paths import layers_of
from force_tf.models.rebuild import rebuild
from force_tf.models.weights import variable_paths

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

    @property
    def words(self) -> str:
        """What an error says of it."""
        return f" with quantize={self.kind!r}" if self.kind else ""

    def configuration(self, signature: Signature) -> Configure:
        """Returns what tells TensorFlow's converter, for inputs of a signature."""
        return lambda converter: self._configure(converter, signature)

    def _configure(self, converter: tf.lite.TFLiteConverter, signature: Signature) -> None:
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
class Reference:
    """What is worth knowing of the file of the dense model in float32.

    Attributes:
        sizes: What it takes.
        operations: The names of its operations.
    """

    sizes: Sizes
    operations: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Converted:
    """A file and what it is compared with.

    Attributes:
        content: The file, all of whose tensors are dense, and its weights named as in the model.
        reference: That of the dense model in float32.
        signature: The inputs of both.
        quantization: The types of numbers in `content`.
    """

    content: bytes
    reference: Reference
    signature: Signature
    quantization: Quantization


# The dense files that were converted last: None for those that TFLite cannot express. No model is kept for it.
_KNOWN: collections.OrderedDict[tuple[str, bool], Reference | None] = collections.OrderedDict()
_KNOWN_AT_MOST = 64
_LOCK = threading.Lock()


def convert_with_reference(model: keras.Model, signature: Signature, quantization: Quantization) -> Converted:
    """Converts a model; and the dense model that it was pruned from, unless that was done before.

    The batch size becomes 1 where TFLite cannot express the model otherwise.

    Args:
        model: A built model that computes in float32.
        signature: The inputs of the model.
        quantization: The types of the file's numbers.

    Raises:
        ValueError: If TFLite cannot express the model.
    """
    variables = array_variables(model)
    values = [variable.numpy() for variable in variables]
    dense_values = refilled(values, [_plain_name(variable) for variable in variables])
    for each in _for_any_batch(signature):
        with traced(model, each) as trace:
            reference, dense = _reference(trace, values, dense_values, quantization.select_tf_ops)
            if reference is None:
                continue
            _refuse_crashes(model, reference, quantization)
            same = quantization.kind is None and all(value is other for value, other in zip(values, dense_values))
            content = dense if same else None
            if content is None:
                content = trace.convert(values, quantization.configuration(each), quantization.words)
        by_variable = variable_paths(model)
        content = with_keras_names(content, [by_variable[id(variable)] for variable in variables], values)
        return Converted(content, reference, each, quantization)
    raise AssertionError("the last signature gives a file or an error")


def _reference(
    trace: Trace, values: Sequence[np.ndarray], dense_values: Sequence[np.ndarray], select_tf_ops: bool
) -> tuple[Reference | None, bytes | None]:
    """Returns what is worth knowing of the dense file, and that file if it had to be converted.

    None if TFLite cannot express the model unless the batch size is known.
    """
    digest = trace.digest(values)
    key = (digest, select_tf_ops)
    with _LOCK:
        if digest is not None and key in _KNOWN:
            _KNOWN.move_to_end(key)
            return _KNOWN[key], None
    in_floats, found, content = Quantization(select_tf_ops=select_tf_ops), None, None
    try:
        # Converted rather than filled in: kernels without any weight left are merged, and so missing, in the pruned
        # file.
        content = trace.convert(dense_values, in_floats.configuration(trace.signature))
    except ValueError:
        if trace.signature.batch_size is not None:
            raise
    else:
        found = Reference(sizes_of(content), frozenset(flatbuffer.count_operations(flatbuffer.parse(content))))
    if digest is not None:
        with _LOCK:
            _KNOWN[key] = found
            while len(_KNOWN) > _KNOWN_AT_MOST:
                _KNOWN.popitem(last=False)
    return found, content


def _refuse_crashes(model: keras.Model, reference: Reference, quantization: Quantization) -> None:
    loops = _CRASHING & reference.operations
    if quantization.calibration is not None and loops:
        raise ValueError(
            "Expected a model without recurrent layers, on which TensorFlow's converter crashes: pass "
            f"quantize='dynamic', or build them with unroll=True. Received: the model {model.name!r}, which becomes "
            f"{', '.join(sorted(loops))}, with quantize={quantization.kind!r}"
        )


def _plain_name(variable) -> str:
    """The name of a variable in its layer; tf_keras puts the layer's name before it, and a number behind it."""
    return variable.name.rpartition("/")[-1].partition(":")[0]


def _for_any_batch(signature: Signature) -> Iterator[Signature]:
    """Yields the signature, and one of batch size 1 if that of the other may vary.

    The lists of tensors in a recurrent layer, for one, need a batch size known beforehand. If this fails too, its error
    names what really stands in the way.
    """
    yield signature
    if signature.batch_size is None:
        yield signature.with_batch_size(1)


def convert_for_any_batch(
    model: keras.Model, signature: Signature, values: Sequence[np.ndarray]
) -> tuple[bytes, Signature]:
    """Converts a model as `convert` does; the batch size becomes 1 where TFLite cannot express it otherwise."""
    for each in _for_any_batch(signature):
        try:
            return convert(model, each, values), each
        except ValueError:
            if each.batch_size is not None:
                raise
    raise AssertionError("the last signature gives a file or an error")


def convert(
    model: keras.Model, signature: Signature, values: Sequence[np.ndarray], quantization: Quantization | None = None
) -> bytes:
    """Converts a model with the weights given, leaving the model's own weights as they are.

    Args:
        model: A built model that computes in float32.
        signature: The inputs of the file.
        values: An array for each variable of the model.
        quantization: The types of the file's numbers. None: float32.

    Returns:
        The content of a TFLite file, all of whose tensors are dense.

    Raises:
        ValueError: If TFLite's operations cannot express the model.
        OSError: If the converter has no space for its temporary files.
    """
    quantization = quantization or Quantization()
    with traced(model, signature) as trace:
        return trace.convert(values, quantization.configuration(signature), quantization.words)


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
        dense.append(value.astype("float32", copy=False) if value.dtype.kind == "f" else value)
    return dense
