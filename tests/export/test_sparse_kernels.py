"""What phones' sparse kernels make of a file: rules against verdicts that were measured, and files kept right."""

import functools
import json

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import force_tf
from force_tf.export import flatbuffer
from force_tf.export.convert import convert
from force_tf.export.samples import signature_of
from force_tf.export.sparse_encoding import encode
from force_tf.export.sparse_kernels import clusters_of
from force_tf.export.sparse_repair import kept_right
from helpers.phone_networks import NETWORKS, network, sparse_file


@functools.cache
def content_of(name, **arguments):
    return sparse_file(network(name, **arguments))


def verdicts(content):
    return [cluster.verdict for cluster in clusters_of(flatbuffer.parse(content))]


def outputs(content, x):
    interpreter = Interpreter(model_content=content)
    (details,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(details["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(details["index"], x)
    interpreter.invoke()
    return [interpreter.get_tensor(details["index"]) for details in interpreter.get_output_details()]


def images(size=16, count=1):
    return np.random.default_rng(1).standard_normal((count, size, size, 3)).astype("float32")


def test_what_came_out_wrong_counts_as_wrong():
    assert all(verdict == "wrong" for _, verdict, measured in NETWORKS.values() if measured != "right")


@pytest.mark.parametrize("name", NETWORKS)
def test_verdicts_are_those_measured_and_repaired_files_are_not_sparse(name):
    content, (_, verdict, _) = content_of(name), NETWORKS[name]
    assert verdicts(content) == [verdict], clusters_of(flatbuffer.parse(content))
    repaired, changed = kept_right(content)
    assert bool(changed) == (verdict == "wrong")
    if not changed:
        assert repaired is content
        return
    # Without an entry there is no way to the sparse kernels.
    assert verdicts(repaired) == []
    assert flatbuffer.count_operations(flatbuffer.parse(repaired)) == flatbuffer.count_operations(
        flatbuffer.parse(content)
    )
    for before, after in zip(outputs(content, images()), outputs(repaired, images()), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-6 * np.abs(before).max())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"zeros": 0.70}, ["wrong"]),
        ({"zeros": 0.65}, ["off"]),
        ({"channels": 4}, []),
        ({"stride": 1}, []),
        ({"padding": ((1, 1), (0, 1))}, []),
        ({"padding": 2}, []),
        ({"padding": 0}, []),
        # The converter knows that this amounts to "same", of which the kernels know nothing.
        ({"size": 17}, []),
    ],
)
def test_the_form_that_the_kernels_need(arguments, expected):
    content = content_of("max pooling", **arguments)
    assert verdicts(content) == expected
    assert flatbuffer.count_operations(flatbuffer.parse(content))["DENSIFY"] >= 3


def test_one_sparse_weight_is_enough_and_none_is_not():
    model = network("max pooling")
    dense = convert(model, signature_of(model), [variable.numpy() for variable in model.variables])
    (cluster,) = clusters_of(flatbuffer.parse(dense))
    assert cluster.verdict == "off"
    assert cluster.reasons == ("no floating-point weight of the file is stored sparsely",)
    assert kept_right(dense) == (dense, ())
    one, _ = encode(dense, lambda weight, readers: None if weight.shape == (32, 1, 1, 16) else "another")
    assert verdicts(one) == ["wrong"]


@pytest.mark.parametrize("pads", ["both even", "height odd", "both odd"])
def test_paddings_are_changed_so_that_no_output_changes(pads):
    height, width = {"both even": (16, 18), "height odd": (17, 16), "both odd": (17, 19)}[pads]
    model = flatbuffer.parse(content_of("max pooling", size=None))
    graph = model.subgraphs[0]
    image = graph.tensors[graph.inputs[0]]
    image.shape, image.shapeSignature = [1, height, width, 3], [-1, height, width, 3]
    content = flatbuffer.serialize(model)
    assert verdicts(content) == ["wrong"]
    repaired, _ = kept_right(content)
    assert verdicts(repaired) == []
    x = np.random.default_rng(0).standard_normal((1, height, width, 3)).astype("float32")
    for before, after in zip(outputs(content, x), outputs(repaired, x), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-6 * np.abs(before).max())


def test_images_of_any_size_are_padded_in_two_steps():
    content = content_of("max pooling", size=None)
    repaired, _ = kept_right(content)
    assert verdicts(repaired) == []
    operations = [flatbuffer.count_operations(flatbuffer.parse(file))["PAD"] for file in (content, repaired)]
    assert operations == [1, 2]
    model = flatbuffer.parse(repaired)
    (graph,) = model.subgraphs
    # The runtime looks at values in the order of their numbers, and would draw both in if this one came last.
    first, second = (operator for operator in graph.operators if flatbuffer.operation_name(model, operator) == "PAD")
    assert first.outputs[0] == second.inputs[0] < second.outputs[0]
    for size in (16, 17, 22):
        for before, after in zip(outputs(content, images(size)), outputs(repaired, images(size)), strict=True):
            np.testing.assert_allclose(after, before, atol=1e-6 * np.abs(before).max())


@pytest.mark.long
@pytest.mark.parametrize(("quantize", "sparse"), [(None, "auto"), ("float16", True)])
def test_exported_files_are_kept_right_and_the_report_says_why(either_keras, quantize, sparse, tmp_path):
    model = network("two outputs", either_keras)
    report = force_tf.export_tflite(
        model, tmp_path / "model.tflite", quantize=quantize, sparse=sparse, verify_data=images(count=3), verbose=False
    )
    assert report.sparse
    (prevented,) = report.prevented
    assert prevented.reasons == ("the result of CONV_2D 'c/kernel' leaves the file",)
    assert prevented.reasons[0] in str(report)
    check = force_tf.check_tflite(tmp_path / "model.tflite")
    assert check.right
    assert not check.sparse
    assert json.loads(json.dumps(report.to_dict()))["prevented"][0]["verdict"] == "wrong"


def test_what_comes_out_right_is_left_to_the_sparse_kernels(tmp_path):
    report = force_tf.export_tflite(network("mean, Dense"), tmp_path / "model.tflite", verbose=False)
    assert report.prevented == ()
    (cluster,) = report.clusters
    assert cluster.operations[0] == "CONV_2D 'stem/kernel'"
    assert (cluster.weights, cluster.zeros) == (16 * 32 + 32 * 32, 486 + 973)
    assert "runs with sparse kernels: 5 operations from CONV_2D 'stem/kernel' on" in report.details()


def test_a_file_of_other_origin_is_checked_and_repaired(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(content_of("max pooling"))
    check = force_tf.check_tflite(path)
    assert not check.right
    assert "comes out wrong on Arm" in str(check)
    assert "MAX_POOL_2D" in str(check)
    repaired = check.repair(tmp_path / "repaired.tflite")
    assert repaired.right
    assert path.read_bytes() == content_of("max pooling")
    assert force_tf.check_tflite(path).to_dict() == check.to_dict()
    assert repaired.repair(tmp_path / "again.tflite").right
    assert (tmp_path / "again.tflite").read_bytes() == (tmp_path / "repaired.tflite").read_bytes()


def test_integers_have_no_sparse_kernels(tmp_path):
    data = images(count=20)
    report = force_tf.export_tflite(
        network("two outputs"),
        tmp_path / "model.tflite",
        quantize="int8",
        representative_data=data,
        verbose=False,
    )
    assert report.clusters == report.prevented == ()


def test_what_is_no_tflite_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected a TFLite file. Received: .*which does not exist"):
        force_tf.check_tflite(tmp_path / "model.tflite")
    for content in (b"", b"not a file of TFLite", content_of("no mean")[:100]):
        (tmp_path / "model.tflite").write_bytes(content)
        with pytest.raises(ValueError, match=r"Expected a TFLite file. Received: .*which is none, or is damaged"):
            force_tf.check_tflite(tmp_path / "model.tflite")


def test_blocks_run_along_the_output_channels_of_a_file(either_keras, tmp_path):
    """The kernels take channels 2i and 2i + 1, or four, of one input at once: rows of the file's (out, …, in)."""
    layers = either_keras.layers
    stack = [layers.Conv2D(8, 1, use_bias=False), layers.BatchNormalization(), layers.GlobalAveragePooling2D()]
    model = either_keras.Sequential([either_keras.Input((4, 4, 6)), *stack, layers.Dense(12)])
    for block in (2, 4):
        pruner = force_tf.PruneAtInit("random", 0.5, granularity=(1, block), layers=lambda layer: True, seed=0)
        path = tmp_path / "model.tflite"
        force_tf.export_tflite(pruner.prune(model, verbose=0), path, sparse=False, verbose=False)
        for shape in ((8, 1, 1, 6), (12, 8)):
            (weight,) = (
                item for item in flatbuffer.weights_of(flatbuffer.parse(path.read_bytes())) if item.shape == shape
            )
            kept = weight.nonzero.reshape(shape[0] // block, block, shape[-1])
            assert (kept == kept[:, :1]).all()
            assert not (kept[..., ::2] == kept[..., 1::2]).all(), "not along the inputs as well"
            assert 0.4 < kept.mean() < 0.6
