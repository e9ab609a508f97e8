"""tfmot's own tools on wrapped tf_keras models, and masks to and from tfmot's own wrappers."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import force_tf
import force_tf.layers.tfmot  # imports tfmot without what that otherwise changes
from force_tf.export import flatbuffer
from force_tf.layers import apply_masks, get_masks, strip_pruning
from force_tf.layers.tf_keras import MaskedLayer
from force_tf.models.prunable import all_prunable_weights

import tensorflow_model_optimization as tfmot  # isort: skip
from tensorflow_model_optimization.python.core.clustering.keras.experimental.cluster import cluster_weights  # isort: skip

layers = tf_keras.layers
sparsity = tfmot.sparsity.keras
pytestmark = [
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
    pytest.mark.filterwarnings("ignore:distutils Version classes are deprecated"),  # by tfmot
]


def network():
    stack = [layers.Conv2D(3, 3, activation="relu", name="conv"), layers.Flatten(), layers.Dense(3, name="logits")]
    model = tf_keras.Sequential([tf_keras.Input((6, 6, 1)), *stack], name="net")
    return compiled(model)


def compiled(model):
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.Adam(0.01), loss)
    return model


def masks_for(model, density=0.3):
    rng = np.random.default_rng(0)
    return {weight.path: rng.random(weight.shape) < density for weight in all_prunable_weights(model)}


def data(samples=32):
    rng = np.random.default_rng(1)
    return rng.normal(size=(samples, 6, 6, 1)).astype("float32"), rng.integers(3, size=samples)


@pytest.fixture(autouse=True)
def _seeds_of_tf_keras():
    """Its initializers have a generator of their own, which goes on from test to test once it was seeded."""
    tf_keras.utils.set_random_seed(0)


@pytest.fixture
def masks():
    return masks_for(network())


@pytest.fixture
def pruned(masks):
    return apply_masks(network(), masks)


def train(model, callbacks=()):
    before = [variable.numpy() for variable in model.trainable_variables]
    model.fit(*data(), batch_size=8, epochs=2, verbose=0, callbacks=list(callbacks))
    moved = [(variable.numpy() != old).any() for variable, old in zip(model.trainable_variables, before)]
    assert any(moved), "nothing was trained"


def assert_zero(values, mask, where):
    revived = np.count_nonzero(np.asarray(values)[~mask])
    assert revived == 0, f"{revived} of {np.count_nonzero(~mask)} pruned weights are not zero {where}"
    assert np.count_nonzero(values), f"all weights are zero {where}"


def assert_pruned(model, masks, where):
    for weight in all_prunable_weights(model):
        assert_zero(weight.variable, masks[weight.path], f"in {weight.path} {where}")


def test_stripping_puts_zeros_where_tfmots_own_wrappers_hold_weights_that_are_not():
    never = sparsity.ConstantSparsity(0.5, begin_step=10**9)
    model = sparsity.prune_low_magnitude(network(), never)
    masks = masks_for(network())
    force_tf.layers.tfmot.set_masks(model, masks)
    for weight in all_prunable_weights(model):
        weight.variable.assign(tf.ones_like(weight.variable))  # as in the middle of an epoch
    assert_pruned(strip_pruning(model), masks, "after stripping")


def test_wrappers_are_tfmots(pruned):
    assert sum(isinstance(layer, MaskedLayer) for layer in pruned.layers) == 2
    for layer in pruned.layers:
        for weight, mask, threshold in getattr(layer, "pruning_vars", ()):
            assert weight.shape == mask.shape
            assert threshold.shape == ()


def test_no_callback_is_needed(pruned, masks):
    train(pruned)
    assert_pruned(pruned, masks, "after fit")


def test_strip_pruning_of_tfmot(pruned, masks):
    train(pruned)
    x, _ = data()
    plain = sparsity.strip_pruning(pruned)
    assert [type(layer) for layer in plain.layers] == [type(layer) for layer in network().layers]
    assert_pruned(plain, masks, "after strip_pruning")
    np.testing.assert_allclose(plain(x), pruned(x), rtol=1e-5, atol=1e-6)


def test_update_pruning_step_is_accepted(pruned, masks):
    train(pruned, [sparsity.UpdatePruningStep()])
    assert_pruned(pruned, masks, "after fit")
    assert get_masks(pruned) == masks


def test_pruning_summaries_log_the_sparsity(pruned, masks, tmp_path):
    train(pruned, [sparsity.UpdatePruningStep(), sparsity.PruningSummaries(str(tmp_path))])
    assert_pruned(pruned, masks, "after fit")
    logged = {
        value.tag: tf.make_ndarray(value.tensor)
        for file in (tmp_path / "metrics").iterdir()
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    }
    for path, mask in masks.items():
        assert logged[f"{path}_mask:0/sparsity"] == pytest.approx(1 - mask.mean()), sorted(logged)


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model"])
def test_files_load_in_prune_scope_and_train_on(pruned, masks, name, tmp_path):
    train(pruned)
    pruned.save(tmp_path / name)
    with sparsity.prune_scope():
        loaded = tf_keras.models.load_model(tmp_path / name)
    assert get_masks(loaded) == masks
    train(loaded)
    assert_pruned(loaded, masks, f"after training on from {name}")


def test_clustering_preserves_the_sparsity(pruned, masks):
    initialization = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
    clustered = compiled(
        cluster_weights(
            sparsity.strip_pruning(pruned),
            number_of_clusters=4,
            cluster_centroids_init=initialization,
            preserve_sparsity=True,
        )
    )
    train(clustered)
    plain = tfmot.clustering.keras.strip_clustering(clustered)
    assert_pruned(plain, masks, "after clustering")
    assert max(len(np.unique(layer.kernel)) for layer in plain.layers if hasattr(layer, "kernel")) <= 5  # and zero


@pytest.fixture
def quantized(pruned):
    """Trained with masks, then with masks and quantization."""
    train(pruned)
    annotated = tfmot.quantization.keras.quantize_annotate_model(sparsity.strip_pruning(pruned))
    scheme = tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
    quantized = compiled(tfmot.quantization.keras.quantize_apply(annotated, scheme))
    train(quantized)
    return quantized


def test_quantization_aware_training_preserves_the_sparsity(quantized, masks):
    kernels = [variable for variable in quantized.trainable_variables if "kernel" in variable.name]
    assert len(kernels) == len(masks)
    for kernel, (path, mask) in zip(kernels, masks.items()):
        assert_zero(kernel, mask, f"in {path} after quantization-aware training")


@pytest.mark.parametrize("quantize", ["int8", "int8_io"])
def test_integer_files_of_quantization_aware_training_keep_the_zeros(quantized, masks, quantize, tmp_path):
    path = tmp_path / "model.tflite"
    report = force_tf.export_tflite(quantized, path, quantize=quantize, verify_data=data(), verbose=False)
    stored = {
        weight.shape: weight.values.reshape(weight.shape)
        for weight in flatbuffer.weights_of(flatbuffer.parse(path.read_bytes()))
    }
    for mask in masks.values():
        kernel = stored[np.moveaxis(mask, -1, 0).shape]
        assert kernel.dtype == "int8"
        assert not kernel[np.moveaxis(~mask, -1, 0)].any()
        assert kernel.any()
    # The model has learned with the very rounding that the file does.
    scale = np.abs(quantized.predict(data()[0], verbose=0)).max() / 128
    assert report.max_difference < 2 * scale


def test_masks_are_read_from_models_that_tfmot_pruned():
    theirs = compiled(sparsity.prune_low_magnitude(network(), sparsity.ConstantSparsity(0.75, 0, frequency=1)))
    train(theirs, [sparsity.UpdatePruningStep()])
    masks = get_masks(theirs)
    assert list(masks) == ["conv/kernel", "logits/kernel"]
    plain = sparsity.strip_pruning(theirs)
    for path, mask in masks.items():
        np.testing.assert_array_equal(plain.get_layer(path.split("/")[0]).kernel.numpy() != 0, mask)
        assert mask.mean() == pytest.approx(0.25, abs=0.05)
    ours = compiled(apply_masks(network(), masks))
    train(ours)
    assert_pruned(ours, masks, "after fit")
    assert_pruned(strip_pruning(theirs), masks, "after strip_pruning of theirs")


def test_masks_are_set_in_tfmots_wrappers(masks):
    never = sparsity.ConstantSparsity(0.5, begin_step=10**6)
    theirs = compiled(sparsity.prune_low_magnitude(network(), never))
    force_tf.layers.tfmot.set_masks(theirs, masks)
    assert get_masks(theirs) == masks
    train(theirs, [sparsity.UpdatePruningStep()])
    assert_pruned(theirs, masks, "after fit")
    with pytest.raises(ValueError, match=r"conv/kernel \(3, 3, 1, 3\).*Received: a mask of 'conv/bias' of shape"):
        force_tf.layers.tfmot.set_masks(theirs, {"conv/bias": [True, True, True]})
    with pytest.raises(ValueError, match="strip_pruning first"):
        apply_masks(theirs, masks)


def test_policies_select_layers():
    inputs = tf_keras.Input((8, 8, 3))
    x = layers.ZeroPadding2D(1)(inputs)
    x = layers.Conv2D(4, 3, strides=2, activation="relu", name="first")(x)
    x = layers.Conv2D(4, 1, activation="relu", name="pointwise")(x)
    model = tf_keras.Model(inputs, layers.GlobalAveragePooling2D(keepdims=True)(x))
    pruner = force_tf.PruneAtInit("magnitude", sparsity=0.5, layers=sparsity.PruneForLatencyOnXNNPack())
    masks = pruner.find_masks(model, verbose=0)
    assert list(masks) == ["pointwise/kernel"]
    assert get_masks(apply_masks(model, masks)) == masks
