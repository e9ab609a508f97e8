"""Rewrites for phones' sparse kernels: what they compute stays, and what is left is of the form that was measured."""

import functools

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import force_tf
from force_tf.export import flatbuffer
from force_tf.export.convert import convert
from force_tf.export.multiply_adds import multiply_adds
from force_tf.export.rewrites.fit import fit
from force_tf.export.samples import signature_of
from force_tf.export.sparse_encoding import encode
from force_tf.export.sparse_kernels import clusters_of
from force_tf.models.keras_models import array_variables
from helpers import phone_networks
from helpers.keras_phone_networks import NETWORKS, network

EXPECTED = {
    "even": {"explicit padding": 2, "flipped image": 1},
    "odd": {"explicit padding": 2},
    "even and odd": {"explicit padding": 2, "flipped image": 1},
    "padded below": {"explicit padding": 2, "flipped image": 1},
    "padded below and around": {"explicit padding": 1, "flipped image": 1},
    # Of the hard sigmoid's two constants the converter draws one into the convolution.
    "squeezed": {
        "mean that keeps its axes": 1,
        "constant put first": 1,
        "explicit padding": 2,
        "flipped image": 1,
    },
    "1x1 convolution at the end": {"mean that loses its axes": 1, "explicit padding": 2, "flipped image": 1},
    "detector": {"explicit padding": 3, "gate where a map leaves": 3, "flipped image": 1},
    "a shared padding": {"explicit padding": 4, "flipped image": 1},
    "bilinear": {"explicit padding": 2, "gate where a map leaves": 1, "flipped image": 1},
}


@functools.cache
def content_of(name, module=keras):
    model = network(name, module) if name in NETWORKS else phone_networks.network(name, module)
    return convert(model, signature_of(model), [variable.numpy() for variable in array_variables(model)])


def verdicts(content):
    return [cluster.verdict for cluster in clusters_of(flatbuffer.parse(content), sparse=True)]


def outputs(content, count=1):
    interpreter = Interpreter(model_content=content)
    runner = interpreter.get_signature_runner()
    ((name, details),) = runner.get_input_details().items()
    shape = (count, *details["shape_signature"][1:])
    x = np.random.default_rng(1).standard_normal(shape).astype("float32")
    return runner(**{name: x})


@pytest.mark.parametrize("name", NETWORKS)
def test_rewritten_files_compute_the_same_and_fit(name):
    content = content_of(name)
    assert verdicts(content) == [], "as Keras users write them, none fits"
    fitted = fit(content)
    assert fitted.rewrites == EXPECTED[name]
    assert verdicts(fitted.content) == ["sparse"], clusters_of(flatbuffer.parse(fitted.content), sparse=True)
    for count in (1, 2):
        before, after = outputs(content, count), outputs(fitted.content, count)
        assert list(before) == list(after)
        for key, expected in before.items():
            assert np.abs(expected).std() > 0
            np.testing.assert_allclose(after[key], expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    "name", ["max pooling", "3x3", "one padding for two", "two outputs", "Flatten beside", "max pooling beside"]
)
def test_what_was_measured_as_wrong_is_let_out_by_gates(name):
    content = content_of(name)
    fitted = fit(content)
    assert fitted.rewrites["gate where a map leaves"] == 1
    assert verdicts(fitted.content) == ["sparse"]
    for key, expected in outputs(content).items():
        np.testing.assert_allclose(
            outputs(fitted.content)[key], expected, atol=2e-6 * np.abs(expected).max(), err_msg=key
        )


def test_only_axes_that_need_it_are_flipped():
    def axes(name):
        model = flatbuffer.parse(fit(content_of(name)).content)
        (graph,) = model.subgraphs
        operators = (op for op in graph.operators if flatbuffer.operation_name(model, op) == "REVERSE_V2")
        data = (model.buffers[graph.tensors[op.inputs[1]].buffer].data for op in operators)
        return [int(np.frombuffer(bytes(values), "int32")[0]) for values in data]

    assert axes("odd") == []
    # At an odd width "same" is the same from both sides.
    assert axes("even and odd") == [1, 2] or axes("even and odd") == [1]
    assert axes("padded below and around") == [1]


def test_what_nothing_reads_any_more_is_gone():
    model = flatbuffer.parse(fit(content_of("squeezed")).content)
    (graph,) = model.subgraphs
    read = {int(index) for operator in graph.operators for index in (*operator.inputs, *operator.outputs)}
    assert read - {-1} == set(range(len(graph.tensors)))
    assert "SHAPE" not in flatbuffer.count_operations(model)


def test_multiply_adds_by_hand():
    """Stem, 1x1 to 32, 3x3, 1x1 to 16, again with 5x5 of stride 2, Dense; a tenth of the 1x1 weights is left."""
    content = fit(content_of("even")).content
    model = flatbuffer.parse(content)
    found = multiply_adds(model, clusters_of(model, sparse=True))
    pointwise = 64 * (16 * 32 + 32 * 16) + 64 * 16 * 32 + 16 * 32 * 16
    others = 64 * 27 * 16 + 64 * 9 * 32 + 16 * 25 * 32 + 16 * 5
    assert found.dense == pointwise + others
    assert found.with_sparse_kernels == pointwise
    assert found.on_phones == others + 64 * (51 + 51) + 64 * 51 + 16 * 51


def export(model, tmp_path, **arguments):
    return force_tf.export_tflite(model, tmp_path / "model.tflite", verbose=False, **arguments)


def test_auto_rewrites_what_costs_nothing_elsewhere(either_keras, tmp_path):
    report = export(network("even", either_keras), tmp_path, quantize="float16" if either_keras is keras else None)
    assert report.rewrites == EXPECTED["even"]
    assert [cluster.verdict for cluster in report.clusters] == ["sparse"]
    assert "flipped image" in str(report)
    assert report.multiply_adds.on_phones < report.multiply_adds.dense / 2
    assert force_tf.check_tflite(tmp_path / "model.tflite").sparse


def test_auto_leaves_gates_to_who_wants_them(tmp_path):
    model = network("detector")
    report = export(model, tmp_path)
    assert not report.rewrites
    assert "with sparse_kernels=True" in report.sparse_kernels
    assert report.sparse_kernels in str(report)
    report = export(model, tmp_path, sparse_kernels=True)
    assert report.rewrites == EXPECTED["detector"]
    assert force_tf.check_tflite(tmp_path / "model.tflite").sparse


def test_false_keeps_the_kernels_off(tmp_path):
    model = phone_networks.network("mean, Dense")
    assert [cluster.verdict for cluster in export(model, tmp_path).clusters] == ["sparse"]
    report = export(model, tmp_path, sparse_kernels=False)
    assert report.sparse
    assert report.clusters == report.prevented == ()


def test_one_sparse_weight_is_enough_whatever_its_bytes(tmp_path):
    content = content_of("even")
    nothing_smaller, _ = encode(content, lambda *_: "not wanted")
    assert not any(weight.sparse for weight in flatbuffer.weights_of(flatbuffer.parse(nothing_smaller)))
    model = flatbuffer.parse(content)
    small = [weight for weight in flatbuffer.weights_of(model) if weight.shape == (16, 1, 1, 32)]
    assert small
    content, reasons = encode(content, at_least_one=True)
    assert any(weight.sparse for weight in flatbuffer.weights_of(flatbuffer.parse(content)))
    assert any("turns sparse kernels on" in reason or "instead of" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantize": "int8"}, r"integers have no sparse kernels. Received: quantize='int8'"),
        ({"sparse": False}, r"Expected sparse='auto' or True with sparse_kernels=True"),
        ({"sparse_kernels": "yes"}, r"to be True, False or 'auto'. Received: sparse_kernels='yes'"),
    ],
)
def test_arguments_that_exclude_each_other(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(network("even"), tmp_path, **{"sparse_kernels": True} | arguments)
    assert not (tmp_path / "model.tflite").exists()


def test_what_stands_in_the_way_is_named(tmp_path):
    layers = keras.layers
    stem = layers.Conv2D(16, 5, strides=2, padding="same", name="wide_stem")
    rest = [layers.Conv2D(16, 1), layers.GlobalAveragePooling2D(), layers.Dense(3)]
    model = keras.Sequential([keras.Input((16, 16, 3)), stem, *rest])
    with pytest.raises(ValueError, match=r"they cannot: CONV_2D 'wide_stem/kernel' is no 3x3 convolution of stride 2"):
        export(model, tmp_path, sparse_kernels=True)
    assert "wide_stem" in export(model, tmp_path).sparse_kernels
    with pytest.raises(
        ValueError, match=r"no more than two thirds .* The most are missing in .*conv2d.*/kernel \(50%\)"
    ):
        export(network("even", zeros=0.5), tmp_path, sparse_kernels=True)


def test_integers_say_that_they_have_none(tmp_path):
    report = export(network("even"), tmp_path, quantize="dynamic")
    assert report.sparse_kernels == "none: integers have no sparse kernels"


def test_layers_to_prune_for_phones(either_keras):
    model = network("1x1 convolution at the end", either_keras, zeros=0.0)
    layers = force_tf.sparse_kernel_layers(model)
    names = [layer.name for layer in model.layers if getattr(layer, "kernel_size", 0) == (1, 1)]
    assert list(layers) == [f"{name}/kernel" for name in names if name != "classes"]
    assert len(layers) == 4
    assert "classes/kernel" not in layers
    assert layers.blocked["classes/kernel"] in str(layers)
    assert layers.rewrites == EXPECTED["1x1 convolution at the end"]
    # As in `test_multiply_adds_by_hand`; the last layer is as large as the Dense one there.
    assert layers.all_multiply_adds == force_tf.count_flops(model)
    pointwise = 64 * (16 * 32 + 32 * 16) + 64 * 16 * 32 + 16 * 32 * 16
    assert layers.multiply_adds == pointwise
    pruned = force_tf.PruneAtInit(method="random", sparsity=0.9, layers=layers, seed=0).prune(model, verbose=0)
    masks = force_tf.get_masks(pruned)
    assert list(masks) == list(layers)
    kept = [int(mask.sum()) for mask in masks.values()]
    expected = layers.all_multiply_adds - pointwise + 64 * sum(kept[:3]) + 16 * kept[3]
    assert force_tf.count_flops(pruned, sparse_kernels=True) == expected
    assert force_tf.count_flops(force_tf.strip_pruning(pruned), sparse_kernels=True) == expected
    # Half of the weights are too many for the kernels.
    half = {path: np.arange(mask.size).reshape(mask.shape) % 2 == 0 for path, mask in masks.items()}
    assert force_tf.count_flops(model, half, sparse_kernels=True) == layers.all_multiply_adds
    assert force_tf.count_flops(model, half) < layers.all_multiply_adds


def test_a_shrunk_network_still_fits(tmp_path):
    """Channels that nothing reads are removed first; what is left is sparse, and runs so."""
    model = network("even", zeros=0.95)
    names = [layer.name for layer in model.layers if getattr(layer, "kernel_size", 0) == (1, 1)]
    expand, project = model.get_layer(names[2]), model.get_layer(names[3])
    kernel, bias = project.get_weights()
    kernel[:, :, :8] = 0
    project.set_weights([kernel, bias])
    smaller = force_tf.shrink(model)
    assert smaller.get_layer(expand.name).filters < 32
    report = export(smaller, tmp_path, sparse_kernels=True)
    assert report.rewrites == EXPECTED["even"]
    x = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype("float32")
    np.testing.assert_allclose(model.predict(x, verbose=0), smaller.predict(x, verbose=0), atol=1e-5)
