"""Sparse encoding of TFLite files: what the runtime reads is what was there, in as few bytes as can be."""

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tensorflow.lite.python import schema_py_generated as schema

from force_tf.export import flatbuffer
from force_tf.export.flatbuffer import made
from force_tf.export.sparse_encoding import best_layout, encode

TYPES = {"float32": schema.TensorType.FLOAT32, "float16": schema.TensorType.FLOAT16, "int8": schema.TensorType.INT8}


def file_of(weight, scale=0.5, zero_point=0):
    """A file that takes a number, adds it to a constant tensor, and returns the sum."""
    ops, types = schema.BuiltinOperator, schema.TensorType
    buffers = [schema.BufferT(), made(schema.BufferT, data=np.frombuffer(weight.tobytes(), "u1"))]
    tensors = [
        made(schema.TensorT, shape=list(shape), type=dtype, buffer=buffer, name=name, hasRank=True)
        for shape, dtype, buffer, name in [
            ([1], types.FLOAT32, 0, b"x"),
            (weight.shape, TYPES[weight.dtype.name], 1, b"weight"),
            (weight.shape, types.FLOAT32, 0, b"floats"),
            (weight.shape, types.FLOAT32, 0, b"y"),
        ]
    ]
    if weight.dtype == "int8":
        tensors[1].quantization = made(schema.QuantizationParametersT, scale=[scale], zeroPoint=[zero_point])
    codes = [
        made(schema.OperatorCodeT, deprecatedBuiltinCode=code, version=3, builtinCode=code)
        for code in (ops.DEQUANTIZE, ops.ADD)
    ]
    add = made(schema.OperatorT, opcodeIndex=1, inputs=[0, 2], outputs=[3])
    add.builtinOptionsType, add.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    operators = [made(schema.OperatorT, opcodeIndex=0, inputs=[1], outputs=[2]), add]
    if weight.dtype == "float32":
        operators, add.inputs = [add], [0, 1]
    graph = made(schema.SubGraphT, tensors=tensors, inputs=[0], outputs=[3], operators=operators)
    model = made(schema.ModelT, version=3, operatorCodes=codes, subgraphs=[graph], buffers=buffers)
    return flatbuffer.serialize(model)


def read(content):
    """The constant tensor as the runtime's own kernels see it."""
    interpreter = Interpreter(
        model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.zeros(1, "float32"))
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def sparse_weight(shape, dtype, density, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 100, shape) * rng.choice([-1, 1], shape)
    return np.where(rng.random(shape) < density, values, 0).astype(dtype)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=arrays.array_shapes(min_dims=1, max_dims=4, max_side=40).filter(lambda shape: 600 < np.prod(shape) < 40_000),
    dtype=st.sampled_from(["float32", "float16", "int8"]),
    density=st.sampled_from([0.0, 0.01, 0.05, 0.2]),
    seed=st.integers(0, 2**16),
)
def test_the_runtime_reads_what_was_there(shape, dtype, density, seed):
    weight = sparse_weight(shape, dtype, density, seed)
    dense = file_of(weight)
    small, (reason,) = encode(dense)
    np.testing.assert_array_equal(read(small), weight.astype("float32") * (0.5 if dtype == "int8" else 1))
    (tensor,) = flatbuffer.weights_of(flatbuffer.parse(small))
    assert tensor.zeros == np.sum(weight == 0), reason
    assert tensor.bytes <= weight.nbytes


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_a_tensor_that_lives_in_one_channel_costs_little_whatever_its_axis(axis):
    shape = [24, 24, 24, 24]
    weight = np.zeros(shape, "float32")
    weight[tuple(3 if i == axis else slice(0, 4) for i in range(4))] = 1 + np.arange(4**3).reshape(4, 4, 4)
    small, _ = encode(file_of(weight))
    np.testing.assert_array_equal(read(small), weight)
    (tensor,) = flatbuffer.weights_of(flatbuffer.parse(small))
    # 64 values of four bytes; the rest is where they are.
    assert 256 < tensor.bytes < 256 + 300


def test_the_bytes_of_a_layout_are_those_of_its_tree():
    # Rows 0 and 2 of three have two and one values: two dense rows of 4, or values with their columns and ends of rows.
    nonzero = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]], bool)
    layout = best_layout(nonzero, itemsize=100)
    assert (layout.order, layout.compressed) == ((0, 1), (False, True))
    assert layout.bytes == 3 * 100 + 3 * 1 + (3 + 1) * 1
    assert best_layout(nonzero, itemsize=1).bytes == 3 + 3 + 4


def test_a_zero_that_is_not_stored_as_zero_keeps_a_tensor_dense():
    weight = sparse_weight((40, 40), "int8", 0.05, 0)
    weight[weight == 0] = -3
    content, (reason,) = encode(file_of(weight, zero_point=-3))
    assert "zero is stored as -3" in reason
    np.testing.assert_array_equal(read(content), (weight.astype("float32") + 3) * 0.5)


def test_data_is_aligned_for_kernels_that_read_it_in_place():
    content, _ = encode(file_of(sparse_weight((50, 50), "float32", 0.1, 0)))
    for values in (weight.values for weight in flatbuffer.weights_of(flatbuffer.parse(content))):
        offset = content.index(values.tobytes())
        assert offset % 16 == 0, offset


def test_scalars_and_what_no_operation_reads_stay_as_they_are():
    assert encode(file_of(np.float32(0).reshape(())))[1] == ["sparse would be no smaller"]
    model = flatbuffer.parse(file_of(np.zeros((40, 40), "float32")))
    model.subgraphs[0].operators[0].inputs = [0, 0]
    model.subgraphs[0].outputs = [1]
    content, reasons = encode(flatbuffer.serialize(model))
    assert reasons == ["an output of the file"]
    assert flatbuffer.count_operations(flatbuffer.parse(content)) == {"ADD": 1}
