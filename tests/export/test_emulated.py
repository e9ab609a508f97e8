"""Exported files on emulated processors: Arm, and a PC without AVX. `make test-arm64` sets them up and runs this.

Without FORCE_TF_EMULATORS, the folder that tools/setup_emulators.py made, these tests skip.
"""

import os
import warnings

import keras
import numpy as np
import pytest
import tf_keras

import force_tf
from force_tf.export.processors import processors_in
from force_tf.export.samples import signature_of
from force_tf.export.sparse_repair import kept_right
from force_tf.export.verify import RunError, compare, file_outputs, largest
from helpers import keras_phone_networks
from helpers.phone_networks import NETWORKS, network, random_network, sparse_file

FOLDER = os.environ.get("FORCE_TF_EMULATORS")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(FOLDER is None, reason="FORCE_TF_EMULATORS is not set")]


def images(model, count=2):
    shape = [16 if size is None else size for size in model.input_shape[1:]]
    return np.random.default_rng(1).standard_normal((count, *shape)).astype("float32")


@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_measured_is_so(name):
    """Unrepaired files come out as the table of networks says, on the processors that have the kernels."""
    model = network(name)
    content, x = sparse_file(model), images(model, 1)
    signature = signature_of(model)
    expected = file_outputs(content, signature, [x])
    worst = "right"
    for processor in processors_in(FOLDER):
        try:
            gap = compare(expected, file_outputs(content, signature, [x], python=processor.python)).maximum
            found = "right" if gap < 1e-4 * largest(expected) else "wrong"
        except RunError:
            found = "refused"
        worst = max(worst, found, key=["right", "wrong", "refused"].index)
    assert worst == NETWORKS[name][2]


@pytest.mark.parametrize("name", ["mean, Dense", "squeeze and excite", "max pooling", "two outputs"])
def test_images_of_any_size_and_batches_come_out_right(name):
    x = np.random.default_rng(1).standard_normal((4, 18, 17, 3)).astype("float32")
    model = network(name, size=None)
    signature = signature_of(model).with_batch_size(4)
    content, _ = kept_right(sparse_file(model, signature))
    expected = file_outputs(content, signature, [x])
    for processor in processors_in(FOLDER):
        received = file_outputs(content, signature, [x], python=processor.python)
        assert compare(expected, received).maximum < 1e-4 * largest(expected), processor.name


@pytest.mark.parametrize("module", [keras, tf_keras], ids=["keras", "tf_keras"])
@pytest.mark.parametrize("quantize", [None, "float16", "dynamic", "int8", "int8_io"])
@pytest.mark.parametrize("name", ["mean, Dense", "max pooling", "two outputs", "squeeze and excite"])
def test_every_variant_comes_out_right(name, quantize, module, tmp_path):
    model = network(name, module)
    data = images(model, 20)
    for sparse in ("auto", True, False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of sparse integers, which need another interpreter
            report = force_tf.export_tflite(
                model,
                tmp_path / "model.tflite",
                quantize=quantize,
                sparse=sparse,
                representative_data=data,
                verify_on=FOLDER,
                verbose=False,
            )
        assert len(report.verified_on) == (3 if report.failure is None else 1)


@pytest.mark.parametrize("quantize", [None, "float16"])
@pytest.mark.parametrize("name", [*NETWORKS, *(f"keras: {name}" for name in keras_phone_networks.NETWORKS)])
def test_rewritten_files_run_sparsely_and_come_out_right(name, quantize, tmp_path):
    *written_by_keras, name = name.split("keras: ")
    model = keras_phone_networks.network(name) if written_by_keras else network(name)
    report = force_tf.export_tflite(
        model,
        tmp_path / "model.tflite",
        quantize=quantize,
        sparse_kernels=True,
        verify_data=images(model),
        verify_on=FOLDER,
        verbose=False,
    )
    assert len(report.verified_on) == 3
    assert [cluster.verdict for cluster in report.clusters] == ["sparse"]


@pytest.mark.parametrize("sparse_kernels", ["auto", True])
@pytest.mark.parametrize("seed", range(40))
def test_random_networks_come_out_right(seed, sparse_kernels, tmp_path):
    model = random_network(seed, keras if seed % 3 else tf_keras)
    try:
        report = force_tf.export_tflite(
            model,
            tmp_path / "model.tflite",
            quantize=None if seed % 4 else "float16",
            sparse=True,
            sparse_kernels=sparse_kernels,
            verify_data=images(model),
            verify_on=FOLDER,
            verbose=False,
        )
    except ValueError as error:
        if sparse_kernels is True and "Expected a network that phones' sparse kernels can take" in str(error):
            pytest.skip("has what the kernels do not know, and is refused")
        raise
    assert report.verified_on[1].startswith("arm64")
