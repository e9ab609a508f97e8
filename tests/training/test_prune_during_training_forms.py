"""Masks that move under every form of training, and trainings that are killed and resumed."""

import keras
import numpy as np
import pytest

import force_tf
from force_tf.callbacks import PruneDuringTraining
from helpers.moving_masks import X, Y, dense_model, fit, keras_3_first, masked_weights, raw, sparse_model, state
from helpers.training_forms import dtype_policy


def gmp(**settings):
    return PruneDuringTraining("gmp", sparsity=0.8, **{"end": 24, "every": 8, **settings})


def rigl(**settings):
    options = {"end": 28, "every": 4, "data": (X, Y), "batch_size": 16, **settings}
    return PruneDuringTraining("rigl", sparsity=0.8, **options)


def is_pruned_to(model, sparsity=0.8):
    """Checks the sparsity, and that pruned weights are zero in memory and in all that the optimizer remembers."""
    masks = force_tf.get_masks(model)
    assert masks.kept == round((1 - sparsity) * 344)
    for path, values in state(model).items():
        for value in values:
            assert not value[~masks[path]].any(), path
    return masks


OPTIMIZERS = {
    "sgd": lambda k: k.optimizers.SGD(0.05),
    "nesterov": lambda k: k.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "amsgrad": lambda k: k.optimizers.Adam(0.01, amsgrad=True),
    "adamw": lambda k: k.optimizers.AdamW(0.01, weight_decay=0.1),
    "nadam": lambda k: k.optimizers.Nadam(0.01),
    "adamax": lambda k: k.optimizers.Adamax(0.01),
    "adagrad": lambda k: k.optimizers.Adagrad(0.05),
    "adadelta": lambda k: k.optimizers.Adadelta(1.0),
    "rmsprop": lambda k: k.optimizers.RMSprop(0.01, momentum=0.9, centered=True),
    "ftrl": lambda k: k.optimizers.Ftrl(0.05),
    "lion": lambda k: k.optimizers.Lion(0.01),
    "lamb": lambda k: k.optimizers.Lamb(0.01),
    "muon": lambda k: k.optimizers.Muon(0.01),
    "ema": lambda k: k.optimizers.Adam(0.01, use_ema=True),
    "accumulation": lambda k: k.optimizers.Adam(0.01, gradient_accumulation_steps=2),
    "legacy sgd": lambda k: k.optimizers.legacy.SGD(0.05, momentum=0.9),
    "legacy rmsprop": lambda k: k.optimizers.legacy.RMSprop(0.01, momentum=0.9, centered=True),
}
KERAS_3 = {"lamb", "muon", "accumulation"}
# What keeps its state in a way of its own; the others are tried in the slow tests.
QUICK = {
    "keras": {"nesterov", "amsgrad", "rmsprop", "muon", "ema", "accumulation"},
    "tf_keras": {"ftrl", "rmsprop", "ema", "legacy sgd"},
}


def _optimizers():
    for module, quick in QUICK.items():
        for name in OPTIMIZERS:
            if name not in KERAS_3 if module == "tf_keras" else not name.startswith("legacy"):
                marks = [] if name in quick else pytest.mark.slow
                yield pytest.param(module, name, marks=marks, id=f"{module}-{name}")


@pytest.mark.parametrize(("either_keras", "name"), list(_optimizers()), indirect=["either_keras"])
def test_optimizers(either_keras, name):
    pruned = force_tf.apply_masks(dense_model(either_keras, OPTIMIZERS[name](either_keras)))
    end = 12 if name == "accumulation" else 24
    fit(pruned, PruneDuringTraining("gmp", sparsity=0.8, end=end, every=end // 3))
    is_pruned_to(pruned)
    assert all(np.isfinite(weight).all() for weight in pruned.get_weights())


@pytest.mark.parametrize("way", ["jit_compile", "run_eagerly"])
def test_ways_to_run_a_step(either_keras, way):
    pruned = sparse_model(either_keras, **{way: True})
    pruning = rigl()
    fit(pruned, pruning)
    is_pruned_to(pruned)
    plain = sparse_model(either_keras, **({"jit_compile": False} if either_keras is keras else {}))
    again = rigl()
    fit(plain, again)
    assert [row["step"] for row in pruning.history] == [row["step"] for row in again.history]


@keras_3_first
def test_several_steps_at_once(either_keras):
    one, four, five = (
        sparse_model(either_keras, **({"steps_per_execution": steps} if steps > 1 else {})) for steps in (1, 4, 5)
    )
    found = []
    for model in (one, four, five):
        found.append(rigl())
        fit(model, found[-1])
    assert [row["step"] for row in found[1].history] == [row["step"] for row in found[0].history]
    assert force_tf.get_masks(one) == force_tf.get_masks(four)
    # 8 steps an epoch run as 5 and 3; what was due within them comes after them.
    assert [row["step"] for row in found[2].history] == [0, 5, 8, 13, 16, 21, 24, 29]
    is_pruned_to(five)


@keras_3_first
@pytest.mark.parametrize("policy", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)])
def test_mixed_precision(either_keras, policy):
    with dtype_policy(policy, either_keras):
        sparse, dense = sparse_model(either_keras), force_tf.apply_masks(dense_model(either_keras))
        fit(sparse, rigl(), epochs=5)
        fit(dense, gmp(), epochs=5)
        is_pruned_to(sparse)
        is_pruned_to(dense)


def test_a_model_that_is_wrapped_in_place(either_keras):
    layers = either_keras.layers

    class Net(either_keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden, self.logits = layers.Dense(16, "relu", name="hidden"), layers.Dense(3, name="logits")

        def call(self, x):
            return self.logits(self.hidden(x))

    model = Net()
    model(X[:1])
    model.compile("adam", either_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    fit(model)  # its optimizer has momenta before there are masks
    pruned = force_tf.apply_masks(model)
    assert pruned is model
    fit(pruned, PruneDuringTraining("granet", sparsity=0.7, every=4, data=(X, Y)))
    masks = force_tf.get_masks(pruned)
    assert masks.kept == round(0.3 * 240)
    for path, each in masked_weights(pruned).items():
        assert not raw(each.variable)[~masks[path]].any()


def killing(module, kill_after):
    """Returns a callback that ends `fit` after an epoch as a kill does."""

    def on_epoch_end(epoch, logs):
        if epoch == kill_after:
            raise KeyboardInterrupt

    return module.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)


@pytest.mark.parametrize("pruning", [pytest.param(gmp, marks=pytest.mark.slow), rigl])
def test_backup_and_restore(either_keras, tmp_path, pruning):
    def make():
        return force_tf.apply_masks(dense_model(either_keras)) if pruning is gmp else sparse_model(either_keras)

    at_once, killed, resumed = make(), make(), make()
    fit(at_once, pruning())

    def callbacks(order):
        return [either_keras.callbacks.BackupAndRestore(str(tmp_path / "backup")), pruning()][::order]

    with pytest.raises(KeyboardInterrupt):
        fit(killed, *callbacks(1), killing(either_keras, 2))
    fit(resumed, *callbacks(-1))
    assert is_pruned_to(resumed) == force_tf.get_masks(at_once)
    for one, other in zip(at_once.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("pruning", [pytest.param(gmp, marks=pytest.mark.slow), rigl])
def test_a_saved_model(either_keras, tmp_path, pruning):
    def make():
        return force_tf.apply_masks(dense_model(either_keras)) if pruning is gmp else sparse_model(either_keras)

    path, at_once, killed = str(tmp_path / "model.keras"), make(), make()
    fit(at_once, pruning())
    with pytest.raises(KeyboardInterrupt):
        fit(killed, pruning(), either_keras.callbacks.ModelCheckpoint(path), killing(either_keras, 1))
    resumed = either_keras.models.load_model(path)
    fit(resumed, pruning(), initial_epoch=2)
    assert is_pruned_to(resumed) == force_tf.get_masks(at_once)
    for one, other in zip(at_once.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("granularity", [(1, 4), "2:4", "channel"])
def test_what_is_pruned_as_one(either_keras, granularity):
    pruned = force_tf.apply_masks(dense_model(either_keras))
    sparsity = 0.5 if granularity == "2:4" else 0.7
    pruning = PruneDuringTraining("gmp", sparsity, end=24, every=6, granularity=granularity, scope="global")
    fit(pruned, pruning)
    masks = force_tf.get_masks(pruned)
    kernel = masks["a/kernel"]
    if granularity == (1, 4):
        blocks = kernel.reshape(12, 4, 4)
        assert set(blocks.sum(-1).ravel()) <= {0, 4}
        assert masks.sparsity == pytest.approx(0.7, abs=0.02)
    elif granularity == "2:4":
        assert kernel.reshape(3, 4, 16).sum(1).max() <= 2
        assert masks.kept == 172
    else:
        dead = ~kernel.any(0)
        assert dead.any()
        assert kernel[:, ~dead].all()
        small = force_tf.shrink(pruned)
        assert small.get_layer("a").units == (~dead).sum()
    densities = [row["density"] for row in pruning.history]
    assert densities == sorted(densities, reverse=True)


@pytest.mark.parametrize("scope", ["layer", "erk"])
def test_scopes(scope):
    pruned = force_tf.apply_masks(dense_model(keras))
    fit(pruned, gmp(scope=scope))
    counts = [int(mask.sum()) for mask in force_tf.get_masks(pruned).values()]
    # 69 of 344: by their sizes 192, 128, 24; by the sums of their shapes 28, 24, 11, of which the last stays within 24.
    assert counts == {"layer": [38, 26, 5], "erk": [31, 26, 12]}[scope]


def test_frozen_layers_keep_their_masks():
    model = dense_model(keras)
    pruned = force_tf.PruneAtInit("random", sparsity=0.5, seed=0).prune(model, verbose=0)
    pruned.get_layer("b").trainable = False
    pruned.compile("adam", pruned.loss)
    before = force_tf.get_masks(pruned)
    fit(pruned, PruneDuringTraining("gmp", 0.8, initial_sparsity=0.5, end=24, every=8))
    after = force_tf.get_masks(pruned)
    assert np.array_equal(before["b/kernel"], after["b/kernel"])
    assert after["a/kernel"].sum() + after["c/kernel"].sum() == round(0.2 * 216)


def test_logs_show_what_has_moved(either_keras):
    pruned = sparse_model(either_keras)
    pruning = rigl()
    history = fit(pruned, pruning).history
    assert history["density"] == [69 / 344] * 4
    moved = [sum(row["grown"] for row in pruning.history if row["step"] in steps) for steps in ((0, 4, 8), (12, 16))]
    assert [history["weights_grown"][i] for i in (0, 1)] == moved
    assert history["weights_dropped"] == history["weights_grown"]


def test_a_training_too_short_for_its_updates_says_so(either_keras):
    model = force_tf.apply_masks(dense_model(either_keras))
    with pytest.warns(UserWarning, match="ended at step 16 of the optimizer, and weights were to go at step 200"):
        fit(model, gmp(end=2000, every=200), epochs=2)
    assert force_tf.get_masks(model).sparsity == 0
    fit(model, gmp(end=40), epochs=4)  # goes on at step 16
    assert is_pruned_to(model).sparsity > 0


def test_a_layer_that_empties_is_named_in_its_epoch(either_keras):
    pruned = force_tf.apply_masks(dense_model(either_keras))

    rank = {"a/kernel": 1, "b/kernel": 0, "c/kernel": 2}

    class LastFirst(force_tf.criteria.Criterion):
        needs_data = False

        def scores(self, network):
            return [rank[weight.path] + np.random.default_rng(0).random(weight.shape) for weight in network.weights]

    seen = []
    note = either_keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    pruning = PruneDuringTraining(LastFirst(), 0.5, end=24, every=4)
    message = r"by step 16: no weight is left of b/kernel; .*output no longer"
    with pytest.warns(force_tf.LayerCollapseWarning, match=message):
        fit(pruned, note, pruning)
    assert seen == [0, 1, 2, 3]
