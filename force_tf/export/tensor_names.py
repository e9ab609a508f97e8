"""Names the weights of a TFLite file by the paths that they have in the Keras model, such as "conv1/kernel".

TensorFlow's converter names a constant after all operations that it merged into the one that reads it, or numbers it.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from force_tf.export import flatbuffer
from force_tf.export.flatbuffer import Weight
from force_tf.models.keras_internals.tflite_schema import schema

# How long a name may be that is made of the converter's.
_LONGEST = 48
# By how much of the largest value what is stored may differ from what it was made of.
_ROUNDING = {"float32": 1e-5, "float16": 2e-3, "int8": 6e-3}
# How parallel the weights of a channel must be to those of the model, of which scales were folded into them.
_PARALLEL = {"float32": 1 - 1e-6, "float16": 1 - 1e-5, "int8": 0.98}
_PROBED = 16
# Operations that a value is merely handed through.
_PASSING = {"DEQUANTIZE", "DENSIFY"}
_EXACT, _SCALED = 2, 1
_NUMBERED = re.compile(r"^(arith\.constant|tfl\.pseudo_\w+|std\.constant|cst)\d*$")


@dataclasses.dataclass(frozen=True)
class Variable:
    """A weight of the Keras model.

    Attributes:
        path: Its path.
        value: Its value when the model was converted.
    """

    path: str
    value: np.ndarray

    @property
    def layer(self) -> str:
        return self.path.rpartition("/")[0]


def with_keras_names(content: bytes, paths: Sequence[str], values: Sequence[np.ndarray]) -> bytes:
    """Returns a TFLite file whose weights go by the paths of the weights of the model that it was converted from.

    A weight is known by its values, which the converter may have transposed, scaled by a batch normalization, cut into
    the gates of a recurrent layer, or quantized; among several by the names of layers that the converter left. The
    offset that takes the place of a bias and of a batch normalization's numbers goes by "beta" of the latter. What has
    no counterpart in the model, such as an epsilon, keeps a shortened name.

    Args:
        content: A TFLite file whose tensors are all dense.
        paths: The path of each weight of the model.
        values: Their values.
    """
    model = flatbuffer.parse(content)
    variables = [Variable(path, value) for path, value in zip(paths, values, strict=True) if value.dtype.kind == "f"]
    names = _Names(variables)
    weights = [weight for weight in flatbuffer.weights_of(model) if weight.index not in weight.graph.outputs]
    # Offsets are known by the kernel beside them.
    for weight in sorted(weights, key=lambda weight: -weight.size):
        weight.tensor.name = names.name(model, weight).encode()
    return flatbuffer.serialize(model)


def shortened(name: str) -> str:
    """Returns a name of the converter's, cut to fit a terminal: the first operation of those that it merged."""
    name = name.split(";")[0]
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"


class _Names:
    """Finds a name for one weight after another."""

    def __init__(self, variables: Sequence[Variable]):
        self._variables = variables
        parts = (variable.layer.split("/") for variable in variables if variable.layer)
        layers = {"/".join(names[: end + 1]) for names in parts for end in range(len(names))}
        self._layers = sorted(layers, key=lambda path: (-path.count("/"), path))
        self._paths = {variable.path for variable in variables}
        self._used: collections.Counter[str] = collections.Counter()
        # The layer whose kernel an operation reads, by the number of the operation's output.
        self._layer_of: dict[tuple[int, int], str] = {}

    def name(self, model: schema.ModelT, weight: Weight) -> str:
        readers = [reader for reader in _readers(model, weight.graph, weight.index) if len(reader.outputs)]
        outputs = [weight.graph.tensors[operator.outputs[0]].name.decode() for operator in readers]
        hints = [weight.name, *outputs]
        found = self._by_values(weight, hints)
        if found is not None and weight.size > max(weight.shape, default=1):
            for operator in readers:
                self._layer_of[id(weight.graph), operator.outputs[0]] = found.rpartition("/")[0]
        name = found or self._offset(weight, readers, hints) or self._by_hints(hints)
        self._used[name] += 1
        return name if self._used[name] == 1 else f"{name}#{self._used[name]}"

    def _by_values(self, weight: Weight, hints: Sequence[str]) -> str | None:
        values = _floats(weight)
        candidates = []
        for order, variable in enumerate(self._variables):
            for path, value in _parts(variable, values.size):
                match = _match(values, value, weight.dtype.name)
                if match:
                    named = self._named_layers(hints[:1]), self._named_layers(hints)
                    rank = [match, *(variable.layer in layers for layers in named), not self._used[path], -order]
                    candidates.append((rank, path))
        # A number alone, or a vector of equal ones, could be anybody's.
        alike = values.size == 1 or bool(np.all(values == values.flat[0]))
        if alike and not any(rank[1] or rank[2] for rank, _ in candidates):
            return None
        return max(candidates)[1] if candidates else None

    def _offset(self, weight: Weight, readers: Sequence[schema.OperatorT], hints: Sequence[str]) -> str | None:
        """Returns the name of what is added to the products with a kernel."""
        for operator in readers:
            layer = self._layer_of.get((id(weight.graph), operator.outputs[0]))
            if layer is not None and len(operator.inputs) > 2 and weight.size == max(weight.shape, default=1):
                betas = (f"{named}/beta" for named in self._named_layers(hints) if f"{named}/beta" in self._paths)
                return next(betas, f"{layer}/bias")
        return None

    def _by_hints(self, hints: Sequence[str]) -> str:
        """Returns the innermost layer that the names tell of, and the operation in it."""
        for hint in hints:
            segment = hint.split(";")[0]
            parts = segment.split("/")
            for layer in self._layers:
                end = _end_of(layer, parts)
                if end:
                    return shortened("/".join([layer, *parts[end:]]))
        return shortened("constant" if _NUMBERED.match(hints[0]) else hints[0])

    def _named_layers(self, hints: Iterable[str]) -> list[str]:
        segments = [segment.split("/") for hint in hints for segment in hint.split(";")]
        best = []
        for parts in segments:
            best += next(([layer] for layer in self._layers if _end_of(layer, parts)), [])
        return best


def _end_of(layer: str, parts: Sequence[str]) -> int:
    """Returns how many parts of an operation's name lead to a layer, 0 if they do not lead there.

    Tracing appends numbers to the names of layers.
    """
    position = 0
    for name in layer.split("/"):
        fits = (i for i in range(position, len(parts)) if parts[i] == name or re.sub(r"_\d+$", "", parts[i]) == name)
        position = next(fits, -1) + 1
        if not position:
            return 0
    return position


def _readers(model: schema.ModelT, graph: schema.SubGraphT, index: int) -> Iterator[schema.OperatorT]:
    for operator in graph.operators:
        if index in operator.inputs:
            if flatbuffer.operation_name(model, operator) in _PASSING:
                yield from _readers(model, graph, operator.outputs[0])
            else:
                yield operator


def _floats(weight: Weight) -> np.ndarray:
    """Returns the numbers that a weight stands for."""
    values = weight.values.astype("float32").reshape(weight.shape)
    quantization = weight.tensor.quantization
    if quantization is None or quantization.scale is None or not len(quantization.scale):
        return values
    scales = np.asarray(quantization.scale, "float32")
    shape = [1] * values.ndim
    if len(scales) > 1:
        shape[quantization.quantizedDimension] = len(scales)
    return (values - weight.zero) * scales.reshape(shape)


def _parts(variable: Variable, size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yields a variable if it has the size wanted, or else its gates if these have."""
    value = variable.value
    if value.size == size:
        yield variable.path, value
    elif value.ndim and size and value.size in (3 * size, 4 * size) and value.shape[-1] % (value.size // size) == 0:
        width = value.shape[-1] // (value.size // size)
        for start in range(0, value.shape[-1], width):
            axes = ":, " * (value.ndim - 1)
            yield f"{variable.path}[{axes}{start}:{start + width}]", value[..., start : start + width]


def _match(stored: np.ndarray, value: np.ndarray, dtype: str) -> int:
    """Returns `_EXACT` or `_SCALED` if a constant was made of a variable's value, and how, or 0."""
    if stored.any() != value.any():
        return 0
    best = 0
    channels = {stored.shape[0], stored.shape[-1]} if stored.ndim > 1 else {1}
    for order, count, axis in itertools.product(_orders(value.ndim), channels, (0, -1)):
        turned = value.transpose(order)
        # Most are told apart by a few numbers, and a variable need not be copied for these.
        few = _few(stored.size, count, axis)
        if not _parallel(stored.ravel()[few], turned[np.unravel_index(few, turned.shape)], dtype):
            continue
        rows, others = _rows(stored, count, axis), _rows(turned, count, axis)
        if np.abs(rows - others).max() <= _ROUNDING[dtype] * np.abs(others).max():
            return _EXACT
        if _parallel(rows, others, dtype):
            best = _SCALED
    return best


def _rows(values: np.ndarray, count: int, axis: int) -> np.ndarray:
    """Returns the values of each channel, of which there are so many along the first or the last axis."""
    return values.reshape(count, -1) if axis == 0 else values.reshape(-1, count).T


def _few(size: int, count: int, axis: int) -> np.ndarray:
    """Returns where some numbers of the first channels stand in a flat array, as an array of (channels, numbers)."""
    numbers = np.unique(np.linspace(0, size // count - 1, _PROBED, dtype=int))
    channels = np.arange(min(count, _PROBED))[:, np.newaxis]
    return channels * (size // count) + numbers if axis == 0 else numbers * count + channels


def _orders(ndim: int) -> list[tuple[int, ...]]:
    """Returns in which orders TFLite may have the axes of a weight: some last ones first, as a rule.

    A transposed convolution has (height, width, outputs, inputs) as (outputs, height, width, inputs).
    """
    axes = tuple(range(ndim))
    rotated = [axes[start:] + axes[:start] for start in range(max(ndim, 1))]
    return rotated + [(2, 0, 1, 3)] * (ndim == 4)


def _parallel(rows: np.ndarray, others: np.ndarray, dtype: str) -> bool:
    """Returns whether each row is a multiple of the other array's row."""
    products = np.einsum("ij,ij->i", rows, others, dtype="float64")
    norms = np.einsum("ij,ij->i", rows, rows, dtype="float64"), np.einsum("ij,ij->i", others, others, dtype="float64")
    scaled = np.sqrt(norms[0] * norms[1])
    # A scale may be zero, and a value may be too small for fewer bits.
    no_more = (norms[1] > 0) | (norms[0] == 0)
    return bool(np.all(no_more) and np.all(np.abs(products) >= _PARALLEL[dtype] * scaled))
