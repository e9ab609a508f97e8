"""DPF: values train under the masks, nobody sees them, and they are zero at the end."""

import numpy as np
import pytest
import tensorflow as tf

import force_tf
from force_tf.callbacks import PruneDuringTraining, Swap
from helpers.moving_masks import X, Y, dense_model, fit, keras_3_first, masked_weights, raw, state

TARGET = np.array([0.0, 1.0, -0.2, 0.9])


def half_the_squared_distance(y, output):
    return 2 * (output - y) ** 2  # of which there is a mean over four


def four_weights(module):
    """Returns a model of four weights whose loss is half the squared distance of θ⊙m to a target."""
    model = module.Sequential([module.Input((4,)), module.layers.Dense(1, use_bias=False, name="d")])
    model.get_layer("d").set_weights([np.array([[1.0], [0.5], [-0.8], [0.2]])])
    model.compile(module.optimizers.SGD(0.5), half_the_squared_distance)
    return force_tf.apply_masks(model)


def trained_by_hand(model, **settings):
    options = {"schedule": [0.5] * 10, "initial_sparsity": 0.5, "end": 10, "every": 1, **settings}
    pruning = PruneDuringTraining("dpf", 0.5, **options)
    pruning.start(model)
    found = []
    for _ in range(5):
        kept = set(np.flatnonzero(force_tf.get_masks(model)["d/kernel"]))
        model.train_on_batch(np.eye(4), TARGET[:, None])
        found.append((kept, raw(model.get_layer("d").layer.kernel).ravel()))
        pruning.after_step()
    return found, pruning


def test_the_example_by_hand(either_keras):
    found, _ = trained_by_hand(four_weights(either_keras))
    assert [kept for kept, _ in found] == [{0, 2}, {1, 3}, {1, 3}, {1, 3}, {1, 3}]
    np.testing.assert_allclose(found[0][1], [0.5, 1, -0.5, 0.65], rtol=1e-6)
    np.testing.assert_allclose(found[1][1], [0.5, 1, -0.6, 0.775], rtol=1e-6)
    np.testing.assert_allclose(found[4][1], [0.5, 1, -0.9, 0.884375], rtol=1e-6)
    # With gradients that are masked no pruned weight ever comes to life.
    found, _ = trained_by_hand(four_weights(either_keras), pruned="zero")
    assert [kept for kept, _ in found] == [{0, 2}] * 5


def test_nobody_sees_what_is_under_the_mask(either_keras, tmp_path):
    pruned = four_weights(either_keras)
    _, pruning = trained_by_hand(pruned)
    held = raw(pruned.get_layer("d").layer.kernel).ravel()
    mask = force_tf.get_masks(pruned)["d/kernel"].ravel()
    assert np.all(held != 0)
    shown = held * mask
    np.testing.assert_array_equal(pruned.predict(np.eye(4), verbose=0).ravel(), shown)
    assert pruned.evaluate(np.eye(4), TARGET[:, None], verbose=0) == pytest.approx(0.5 * ((shown - TARGET) ** 2).sum())
    assert any(np.array_equal(weight.ravel(), shown) for weight in pruned.get_weights())
    np.testing.assert_array_equal(np.ravel(pruned.get_layer("d").kernel), shown)
    np.testing.assert_array_equal(force_tf.strip_pruning(pruned).get_weights()[0].ravel(), shown)
    pruned.save(tmp_path / "model.keras")
    loaded = either_keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(raw(loaded.get_layer("d").layer.kernel).ravel(), shown)
    folder, rows = str(tmp_path / "saved_model"), np.eye(4, dtype="float32")
    if either_keras.__name__ == "keras":
        pruned.export(folder, verbose=False)
        exported = tf.saved_model.load(folder)
        served = exported.serve(rows)
    else:
        pruned.save(folder)
        served = either_keras.models.load_model(folder, compile=False)(rows)
    np.testing.assert_array_equal(np.ravel(served), shown)
    np.testing.assert_array_equal(raw(pruned.get_layer("d").layer.kernel).ravel(), held)
    pruning.stop()
    np.testing.assert_array_equal(raw(pruned.get_layer("d").layer.kernel).ravel(), shown)


def dpf(**settings):
    return PruneDuringTraining("dpf", 0.8, **{"end": 24, "every": 4, **settings})


def test_weights_return_and_are_zero_at_the_end(either_keras):
    pruned = force_tf.apply_masks(dense_model(either_keras, either_keras.optimizers.SGD(0.2, momentum=0.9)))
    pruning = dpf()
    logger = force_tf.callbacks.SparsityLogger(data=(X, Y))
    history = fit(pruned, pruning, logger).history
    assert sum(row["grown"] for row in pruning.history) > 0
    assert pruning.history[-1]["density"] == 69 / 344
    assert history["nonzero_masked_weights"] == [0] * 4
    masks = force_tf.get_masks(pruned)
    for path, values in state(pruned).items():
        assert len(values) == 2
        for value in values:
            assert not value[~masks[path]].any()
    fit(pruned)  # and they stay so
    for path, each in masked_weights(pruned).items():
        assert not raw(each.variable)[~masks[path]].any()


@pytest.mark.parametrize("form", ["jit_compile", "regularizer", "layer"])
def test_forms_of_training(either_keras, form):
    model = dense_model(either_keras, **({form: True} if form == "jit_compile" else {}))
    if form == "regularizer":
        model.get_layer("a").kernel_regularizer = either_keras.regularizers.L2(0.01)
    pruned = force_tf.apply_masks(model)
    fit(pruned, dpf(scope="layer" if form == "layer" else "global"))
    masks = force_tf.get_masks(pruned)
    assert masks.kept == 69
    for path, each in masked_weights(pruned).items():
        assert not raw(each.variable)[~masks[path]].any()


@keras_3_first
def test_scores_of_the_network_leave_what_is_under_the_mask(either_keras):
    pruned = force_tf.apply_masks(dense_model(either_keras))
    pruning = PruneDuringTraining(
        force_tf.criteria.SNIP(), 0.8, pruned="dense", revive=True, end=24, every=4, data=(X, Y), batch_size=16
    )
    pruning.start(pruned)
    for _ in range(12):
        pruned.train_on_batch(X, Y)
        before = [raw(each.variable) for each in masked_weights(pruned).values()]
        pruning.after_step()
        for old, each in zip(before, masked_weights(pruned).values()):
            np.testing.assert_array_equal(raw(each.variable), old)
    assert len(pruning.history) == 4
    assert not np.all([mask.all() for mask in force_tf.get_masks(pruned).values()])


@pytest.mark.parametrize("file", ["checkpoint", "weights"])
def test_files_keep_what_is_under_the_mask_aside(either_keras, tmp_path, file):
    one, other = four_weights(either_keras), four_weights(either_keras)
    _, pruning = trained_by_hand(one)
    held, mask = raw(one.get_layer("d").layer.kernel), force_tf.get_masks(one)["d/kernel"]
    if file == "checkpoint":
        path = tf.train.Checkpoint(model=one).save(str(tmp_path / "checkpoint"))
        reader = tf.train.load_checkpoint(path)
        found = [
            reader.get_tensor(name) for name, shape in reader.get_variable_to_shape_map().items() if shape == [4, 1]
        ]
        assert any(np.array_equal(value, held * mask) for value in found)
        assert not any(np.array_equal(value, held) for value in found)
        tf.train.Checkpoint(model=other).restore(path)
    else:
        one.save_weights(str(tmp_path / "of.weights.h5"))
        other.load_weights(str(tmp_path / "of.weights.h5"))
    np.testing.assert_array_equal(other.get_layer("d").layer.kernel, held * mask)
    pruning = PruneDuringTraining("dpf", 0.5, schedule=[0.5] * 10, initial_sparsity=0.5, end=20, every=1)
    pruning.start(other)
    np.testing.assert_array_equal(raw(other.get_layer("d").layer.kernel), held)


@keras_3_first
def test_what_it_goes_with(either_keras):
    ema = either_keras.optimizers.Adam(use_ema=True)
    with pytest.raises(
        ValueError, match=r"^Expected an optimizer without moving averages .* Received: Adam with use_ema"
    ):
        fit(force_tf.apply_masks(dense_model(either_keras, ema)), dpf())
    with pytest.raises(ValueError, match=r"^Expected a model whose training steps are traced.*run_eagerly=True"):
        fit(force_tf.apply_masks(dense_model(either_keras, run_eagerly=True)), dpf())


def test_settings_that_do_not_go_together():
    with pytest.raises(ValueError, match=r'^Expected pruned="zero" for a method that swaps'):
        PruneDuringTraining("granet", pruned="dense", data=(X, Y))
    with pytest.raises(
        ValueError, match=r"^Expected `pruned` to be one of 'zero', 'dense', 'random'\. Received: pruned='gone'"
    ):
        PruneDuringTraining("gmp", pruned="gone")
    with pytest.raises(ValueError, match="swaps"):
        PruneDuringTraining("gmp", pruned="dense", swap=Swap(0.1, "random"))


@keras_3_first
def test_an_interrupted_training_is_ended_by_hand(either_keras):
    def on_epoch_end(epoch, logs):
        raise KeyboardInterrupt

    pruned, pruning = force_tf.apply_masks(dense_model(either_keras)), dpf()
    with pytest.raises(KeyboardInterrupt):
        fit(pruned, pruning, either_keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end))
    masks = force_tf.get_masks(pruned)
    assert any(raw(each.variable)[~masks[path]].any() for path, each in masked_weights(pruned).items())
    pruning.stop()
    fit(pruned)
    for path, each in masked_weights(pruned).items():
        assert not raw(each.variable)[~masks[path]].any()


@pytest.mark.filterwarnings("ignore:distutils Version classes are deprecated")
def test_tools_of_tfmot_find_what_shows_and_leave_the_rest():
    import tf_keras

    import tensorflow_model_optimization as tfmot  # isort: skip

    pruned = four_weights(tf_keras)
    _, pruning = trained_by_hand(pruned)
    wrapper = pruned.get_layer("d")
    held, mask = raw(wrapper.layer.kernel), force_tf.get_masks(pruned)["d/kernel"]
    assert "PruneLowMagnitude" in [each.__name__ for each in type(wrapper).__mro__]
    wrapper.pruning_obj.weight_mask_op()  # as `UpdatePruningStep` does after every epoch
    plain = tfmot.sparsity.keras.strip_pruning(pruned)
    np.testing.assert_array_equal(plain.get_weights()[0], held * mask)
    np.testing.assert_array_equal(raw(wrapper.layer.kernel), held)
    pruning.stop()
    wrapper.pruning_obj.weight_mask_op()
    np.testing.assert_array_equal(raw(wrapper.layer.kernel), held * mask)
