"""What every method of `PruneDuringTraining` promises: killed and resumed, seen from outside, and at its end."""

import keras
import numpy as np
import pytest
import tf_keras

import force_tf
from force_tf.callbacks import PruneDuringTraining
from force_tf.training.methods import METHODS
from helpers.moving_masks import X, Y, dense_model, fit, masked_weights, raw, sparse_model

# What changes the steps in a way of its own, in one Keras each; rigl is killed and resumed in
# test_prune_during_training_forms too.
QUICK = {"granet": keras, "flipout": keras, "greg_2": keras, "greg": tf_keras, "dpf": tf_keras, "annealing": tf_keras}


def make(module, method):
    optimizer = module.optimizers.SGD(0.1, momentum=0.9)
    if METHODS[method].score is None:
        return sparse_model(module, optimizer)
    return force_tf.apply_masks(dense_model(module, optimizer))


def pruning_by(method):
    return PruneDuringTraining(method, 0.8, data=(X, Y), batch_size=32)


@pytest.mark.parametrize(
    ("module", "method"),
    [
        pytest.param(
            module,
            name,
            marks=[] if QUICK.get(name) is module else pytest.mark.slow,
            id=f"{name}-{module.__name__.rpartition('.')[2]}",
        )
        for name in METHODS
        for module in (keras, tf_keras)
    ],
)
def test_every_method(tmp_path, module, method):
    module.utils.set_random_seed(0)
    at_once, killed, resumed = (make(module, method) for _ in range(3))
    pruning = pruning_by(method)
    seen = []

    def look(epoch, logs):
        masks = force_tf.get_masks(at_once)
        shown = {path: np.array(each.variable) for path, each in masked_weights(at_once).items()}
        assert all(not shown[path][~mask].any() for path, mask in masks.items())
        plain = force_tf.strip_pruning(at_once)
        np.testing.assert_allclose(plain(X).numpy(), at_once(X, training=False).numpy(), rtol=1e-5, atol=1e-5)
        seen.append(masks.kept)

    fit(at_once, pruning, module.callbacks.LambdaCallback(on_epoch_end=look), epochs=3)
    masks = force_tf.get_masks(at_once)
    assert masks.kept == seen[-1]
    of_a_unit = 20 if method == "snap_it" else 1  # of the first layer: the 12 weights that it reads, and 8 that read it
    assert 69 - of_a_unit < masks.kept <= 69
    for path, each in masked_weights(at_once).items():
        assert not raw(each.variable)[~masks[path]].any(), "pruned weights are zero in memory"
    rows = pruning.history
    assert rows
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    assert rows[-1]["density"] == pytest.approx(masks.kept / 344)

    def kill(epoch, logs):
        if epoch == 1:
            raise KeyboardInterrupt

    def backup():
        return module.callbacks.BackupAndRestore(str(tmp_path / "backup"))

    with pytest.raises(KeyboardInterrupt):
        fit(killed, backup(), pruning_by(method), module.callbacks.LambdaCallback(on_epoch_end=kill), epochs=3)
    fit(resumed, pruning_by(method), backup(), epochs=3)
    assert force_tf.get_masks(resumed) == masks
    for one, other in zip(at_once.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
