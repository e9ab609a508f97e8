"""TFLite files as what they are: tensors, operations and metadata in a flatbuffer."""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import struct
from collections.abc import Iterator
from typing import Any

import flatbuffers
import numpy as np

from force_tf.models.keras_internals.tflite_schema import schema

# Types of the file's weights; other constants, such as shapes, are integers of 32 or 64 bits.
WEIGHT_TYPES = {
    schema.TensorType.FLOAT32: np.dtype("float32"),
    schema.TensorType.FLOAT16: np.dtype("float16"),
    schema.TensorType.INT8: np.dtype("int8"),
}
_FILE_IDENTIFIER = b"TFL3"
# What the schema demands of the data of a buffer, so that kernels may read it in place.
_ALIGNMENT = 16
_RUNTIME_VERSION = b"min_runtime_version"


@dataclasses.dataclass(frozen=True)
class Weight:
    """A constant tensor of weights in a parsed file.

    Attributes:
        graph: The subgraph that it belongs to.
        index: Its number there.
        buffer: Its data.
        dtype: Its type, one of `WEIGHT_TYPES`.
        shape: Its shape.
    """

    graph: schema.SubGraphT
    index: int
    buffer: schema.BufferT
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def tensor(self) -> schema.TensorT:
        """The tensor in the subgraph."""
        return self.graph.tensors[self.index]

    @property
    def name(self) -> str:
        """The name of the tensor in the file."""
        return self.tensor.name.decode()

    @property
    def size(self) -> int:
        """The number of values, zeros included."""
        return math.prod(self.shape)

    @property
    def sparse(self) -> bool:
        """Whether only some values are stored, and their places."""
        return self.tensor.sparsity is not None

    @property
    def values(self) -> np.ndarray:
        """The values that are stored, as a flat array; of a sparsely encoded tensor, not all of them."""
        data = self.buffer.data
        return np.empty(0, self.dtype) if data is None else np.asarray(data, np.uint8).view(self.dtype)

    @property
    def zero(self) -> int:
        """The number that stands for zero: the zero point of a quantized tensor."""
        quantization = self.tensor.quantization
        points = None if quantization is None else quantization.zeroPoint
        return 0 if points is None or not len(points) else int(points[0])

    @property
    def bytes(self) -> int:
        """The size of the stored values, and of their places."""
        levels = self.tensor.sparsity.dimMetadata if self.sparse else ()
        vectors = (vector for level in levels for vector in (level.arraySegments, level.arrayIndices) if vector)
        return len(self.buffer.data) + sum(np.asarray(vector.values).nbytes for vector in vectors)

    @property
    def nonzero(self) -> np.ndarray:
        """Of a dense tensor: which values are not zero, as an array of the tensor's shape."""
        return (self.values != self.zero).reshape(self.shape)

    @property
    def zeros(self) -> int:
        """The number of zeros."""
        return self.size - int(np.count_nonzero(self.values != self.zero))


def parse(content: bytes) -> schema.ModelT:
    """Returns the content of a TFLite file as objects that may be changed."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    for graph in model.subgraphs:
        # What is empty may be missing.
        graph.operators = graph.operators or []
        for part in (graph, *graph.operators):
            part.inputs = [] if part.inputs is None else part.inputs
            part.outputs = [] if part.outputs is None else part.outputs
    return model


def parse_checked(content: bytes, path: str) -> schema.ModelT:
    """Returns what `parse` does, of a file of unknown origin.

    Raises:
        ValueError: If it is no TFLite file.
    """
    try:
        if content[4:8] == _FILE_IDENTIFIER:
            return parse(content)
    except (AttributeError, IndexError, TypeError, ValueError, struct.error):
        pass  # what reading past the end of a damaged file ends in
    raise ValueError(f"Expected a TFLite file. Received: {path!r}, which is none, or is damaged")


def made(kind: type, **fields: Any) -> Any:
    """Returns an object of one of the schema's classes with some fields set.

    Before TensorFlow 2.21 the classes take no arguments.
    """
    item = kind()
    for name, value in fields.items():
        if not hasattr(item, name):
            raise AttributeError(f"Expected a field of {kind.__name__} among {sorted(vars(item))}. Received: {name!r}")
        setattr(item, name, value)
    return item


def has_signature(content: bytes) -> bool:
    """Returns whether a TFLite file names its inputs and outputs."""
    return schema.Model.GetRootAs(content).SignatureDefsLength() > 0


def serialize(model: schema.ModelT) -> bytes:
    """Returns a TFLite file of what `parse` returned."""
    size = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    builder = flatbuffers.Builder(size + 1024)
    model.buffers = [made(_AlignedBuffer, **vars(buffer)) for buffer in model.buffers]
    builder.Finish(model.Pack(builder), file_identifier=_FILE_IDENTIFIER)
    return bytes(builder.Output())


def add_buffer(model: schema.ModelT, data: np.ndarray | None = None) -> int:
    """Appends a buffer; returns its number."""
    model.buffers.append(made(schema.BufferT, data=data))
    return len(model.buffers) - 1


def drop_unused_buffers(model: schema.ModelT) -> None:
    """Empties the buffers that nothing refers to any more; their numbers stay, since others count on from them."""
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used |= {metadata.buffer for metadata in model.metadata or ()}
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None


class _AlignedBuffer(schema.BufferT):
    """A buffer that is written at a multiple of 16 bytes, as the schema's own Python code forgets to."""

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802 (a method of the schema's)
        data = None
        if self.data is not None:
            values = np.asarray(self.data, np.uint8).tobytes()
            builder.StartVector(1, len(values), _ALIGNMENT)
            builder.head = builder.Head() - len(values)
            builder.Bytes[builder.Head() : builder.Head() + len(values)] = values
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        schema.BufferAddOffset(builder, self.offset)
        schema.BufferAddSize(builder, self.size)
        return schema.BufferEnd(builder)


def weights_of(model: schema.ModelT) -> Iterator[Weight]:
    """Yields the weights of a parsed file: constant tensors of floating-point numbers or of 8-bit integers."""
    tensors = ((graph, *item) for graph in model.subgraphs for item in enumerate(graph.tensors))
    for graph, index, tensor in tensors:
        dtype = WEIGHT_TYPES.get(tensor.type)
        buffer = model.buffers[tensor.buffer]
        # Activations have empty buffers.
        if dtype is not None and buffer.data is not None and len(buffer.data):
            shape = () if tensor.shape is None else tuple(map(int, tensor.shape))
            yield Weight(graph, index, buffer, dtype, shape)


def operation_name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    """Returns the name of an operation, such as "CONV_2D"; one that is not built in has a name of its own."""
    code = model.operatorCodes[operator.opcodeIndex]
    # Codes that do not fit a byte stand in the newer field alone, and files of old converters lack that one.
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM:
        return code.customCode.decode()
    return _builtin_names()[number]


@functools.cache
def _builtin_names() -> dict[int, str]:
    return {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}


def count_operations(model: schema.ModelT) -> dict[str, int]:
    """Returns how often each operation stands in a parsed file, the most frequent first."""
    names = (operation_name(model, operator) for graph in model.subgraphs for operator in graph.operators)
    return dict(collections.Counter(names).most_common())


def runtime_version(model: schema.ModelT) -> str | None:
    """Returns the smallest version of the runtime that knows the file's operations, if the converter tells."""
    buffer = _runtime_version_buffer(model)
    return None if buffer is None else bytes(np.asarray(buffer.data, np.uint8)).rstrip(b"\0").decode() or None


def require_runtime_version(model: schema.ModelT, version: str) -> None:
    """Raises the version that `runtime_version` returns to this one."""
    known = runtime_version(model)
    if known is not None and _numbers(known) < _numbers(version):
        _runtime_version_buffer(model).data = np.frombuffer(version.encode().ljust(_ALIGNMENT, b"\0"), np.uint8)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _runtime_version_buffer(model: schema.ModelT) -> schema.BufferT | None:
    buffers = [model.buffers[item.buffer] for item in model.metadata or () if item.name == _RUNTIME_VERSION]
    return buffers[0] if buffers else None
