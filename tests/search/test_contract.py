"""What every method keeps to, whatever the Keras, the schedule and the scope: one contract for all."""

import numpy as np
import pytest

import force_tf
from force_tf.search.presets import PRESETS

pytestmark = pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning")  # tiny networks at high sparsity

SCHEDULES = {
    "exponential": lambda t, steps, d: d ** (t / steps),
    "linear": lambda t, steps, d: 1 - (t / steps) * (1 - d),
    "callable": lambda t, steps, d: 1 - (1 - d) * (t / steps) ** 0.5,
}


# Methods that do all but their scores as another one does: in `make test` that one speaks for them.
ALIKE = {"iter_snip", "snip_it", "iter_grasp", "synflow_l2", "ntk_sap", "px", "magnitude"}


def methods(*slow):
    """Every method, those of `slow` in the slow tests alone."""
    return [pytest.param(each, marks=[pytest.mark.slow] if each in slow else []) for each in PRESETS]


def methods_and_schedules():
    """Every method with every schedule. A schedule knows of no method, so that two methods speak for it."""
    for method in PRESETS:
        for schedule in SCHEDULES:
            is_slow = schedule != "exponential" and method not in ("force", "snip")
            yield pytest.param(method, schedule, marks=[pytest.mark.slow] if is_slow else [])


def network(keras):
    inputs = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(6, 3, padding="same", kernel_regularizer="l2", name="conv1")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Add()([x, keras.layers.Conv2D(6, 1, name="shortcut")(inputs)])
    x = keras.layers.Dropout(0.3, name="dropout")(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, keras.layers.Dense(4, activation="softmax", name="head")(x))
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(), metrics=["accuracy"]
    )
    model.fit(*arrays(), batch_size=16, epochs=1, verbose=0)  # so that optimizer, metrics and statistics hold something
    return model


def arrays():
    random = np.random.default_rng(0)
    return random.standard_normal((40, 8, 8, 2)).astype("float32"), random.integers(0, 4, 40)


def everything(model):
    """Every number that a model holds."""
    variables = [*model.variables, *model.optimizer.variables, *(v for m in model.metrics for v in m.variables)]
    return [(v.name, v.numpy()) for v in variables]


def assert_unchanged(model, before):
    after = everything(model)
    assert len(before) == len(after)
    for (name, old), (_, new) in zip(before, after):
        np.testing.assert_array_equal(new, old, err_msg=f"{name} changed")


@pytest.mark.parametrize(("method", "schedule"), list(methods_and_schedules()))
def test_contract(either_keras, method, schedule):
    model, steps, sparsity = network(either_keras), 4, 0.9
    before = everything(model)
    pruner = force_tf.PruneAtInit(
        method,
        sparsity=sparsity,
        steps=steps,
        schedule=SCHEDULES[schedule] if schedule == "callable" else schedule,
        batches=2,
        seed=3,
    )
    masks = pruner.find_masks(model, arrays(), batch_size=16, verbose=0)

    total = 3 * 3 * 2 * 6 + 2 * 6 + 8 * 8 * 6 * 4
    counts = [round(total * SCHEDULES[schedule](t, steps, 1 - sparsity)) for t in range(1, steps + 1)]
    assert_unchanged(model, before)
    assert list(masks) == ["conv1/kernel", "shortcut/kernel", "head/kernel"]
    assert {path: mask.shape for path, mask in masks.items()} == {
        "conv1/kernel": (3, 3, 2, 6),
        "shortcut/kernel": (1, 1, 2, 6),
        "head/kernel": (384, 4),
    }
    assert (masks.kept, masks.total) == (counts[-1], total)
    assert masks.left_out == {"norm": "BatchNormalization has no prunable weights"}

    history = pruner.history
    assert [row["step"] for row in history] == [1, 2, 3, 4]
    assert [row["kept"] for row in history] == counts
    assert [row["density"] for row in history] == pytest.approx([count / total for count in counts])
    assert all(0 <= row["saliency_kept"] <= 1 and row["seconds"] > 0 for row in history), history
    if method != "force":
        assert not any(row["revived"] for row in history), history

    metadata = masks.metadata
    assert metadata["method"] == method
    assert (metadata["sparsity"], metadata["steps"], metadata["batches"], metadata["seed"]) == (sparsity, steps, 2, 3)
    assert metadata["versions"][either_keras.__name__] == either_keras.__version__

    again = pruner.find_masks(model, arrays(), batch_size=16, verbose=0)
    assert again == masks, f"the same seed gave other masks: overlap {masks.intersection_over_union(again)}"


@pytest.mark.parametrize("method", methods(*ALIKE))
def test_scope_and_floor(either_keras, method):
    model = network(either_keras)
    layerwise = force_tf.PruneAtInit(method, sparsity=0.75, steps=3, scope="layer", seed=0)
    masks = layerwise.find_masks(model, arrays(), batch_size=16, verbose=0)
    # 1656 weights, of which 414 are kept: exactly a quarter of each tensor.
    assert [np.count_nonzero(mask) for mask in masks.values()] == [27, 3, 384]

    floor = force_tf.PruneAtInit(method, sparsity=0.98, steps=3, min_per_layer=10, seed=0)
    masks = floor.find_masks(model, arrays(), batch_size=16, verbose=0)
    assert masks.kept == round(1656 * 0.02)
    assert all(np.count_nonzero(mask) >= 10 for mask in masks.values()), masks.to_table()


@pytest.mark.parametrize("method", methods(*ALIKE))
def test_blocks_and_patterns(either_keras, method):
    model = network(either_keras)
    before = everything(model)
    blocks = force_tf.PruneAtInit(method, sparsity=0.9, steps=3, granularity=(1, 4), seed=0)
    masks = blocks.find_masks(model, arrays(), batch_size=16, verbose=0)
    # Six columns are a block of four and one of two; the head has four.
    fours = np.concatenate([mask[..., :4].reshape(-1, 4) for mask in masks.values()])
    twos = np.concatenate([masks[path][..., 4:].reshape(-1, 2) for path in ("conv1/kernel", "shortcut/kernel")])
    for of_one_size in (fours, twos):
        np.testing.assert_array_equal(of_one_size.any(1), of_one_size.all(1))
    assert np.count_nonzero(fours.all(1)) + np.count_nonzero(twos.all(1)) == round((18 * 2 + 2 * 2 + 384) * 0.1)
    assert masks.kept == blocks.history[-1]["kept"]

    pattern = force_tf.PruneAtInit(method, sparsity=0.5, steps=3, schedule="exponential", granularity="2:4", seed=0)
    masks = pattern.find_masks(model, arrays(), batch_size=16, verbose=0)
    assert [row["kept"] for row in pattern.history] == [round(1656 * 0.5 ** (t / 3)) for t in (1, 2, 3)]
    # Of the two inputs of a convolution one is kept, of every four of the head two.
    assert (masks["conv1/kernel"].sum(2) == 1).all()
    assert (masks["shortcut/kernel"].sum(2) == 1).all()
    assert (masks["head/kernel"].reshape(96, 4, 4).sum(1) == 2).all()
    assert_unchanged(model, before)


@pytest.mark.parametrize("method", methods(*ALIKE))
def test_channels(either_keras, method):
    model = network(either_keras)
    before = everything(model)
    pruner = force_tf.PruneAtInit(method, sparsity=0.5, steps=3, schedule="exponential", granularity="channel", seed=0)
    pruned = pruner.prune(model, arrays(), batch_size=16, verbose=0)
    masks = force_tf.get_masks(pruned)
    # A channel has 18 weights of `conv1` and 2 of `shortcut`, which are added, and is read by 64 * 4 of the head.
    assert [row["kept"] for row in pruner.history] == [276 * n for n in (4, 3, 3)]
    stays = masks["shortcut/kernel"].all(axis=(0, 1, 2))
    assert stays.sum() == 3
    np.testing.assert_array_equal(masks["shortcut/kernel"], np.broadcast_to(stays, (1, 1, 2, 6)))
    np.testing.assert_array_equal(masks["conv1/kernel"], np.broadcast_to(stays, (3, 3, 2, 6)))
    head = np.broadcast_to(np.tile(stays, 64)[:, np.newaxis], (384, 4))
    np.testing.assert_array_equal(masks["head/kernel"], head)
    assert_unchanged(model, before)

    small = force_tf.shrink(pruned)
    assert {path: mask.shape for path, mask in force_tf.get_masks(small).items()} == {
        "conv1/kernel": (3, 3, 2, 3),
        "shortcut/kernel": (1, 1, 2, 3),
        "head/kernel": (192, 4),
    }
    x = arrays()[0][:5]
    np.testing.assert_allclose(small(x), pruned(x), rtol=1e-5, atol=1e-6)


def test_force_revives_weights_and_iter_snip_does_not(either_keras):
    model, revived = network(either_keras), {}
    for method in ("force", "iter_snip"):
        for revive in (None, True, False):
            pruner = force_tf.PruneAtInit(method, sparsity=0.95, steps=10, revive=revive, seed=0)
            pruner.find_masks(model, arrays(), batch_size=16, verbose=0)
            revived[method, revive] = sum(row["revived"] for row in pruner.history)
    assert revived["force", None] == revived["force", True] > 0
    # Iterative SNIP scores pruned weights zero, so that even when they may return they do not.
    assert {key: count for key, count in revived.items() if key != ("force", None) and key != ("force", True)} == {
        ("force", False): 0,
        ("iter_snip", None): 0,
        ("iter_snip", True): 0,
        ("iter_snip", False): 0,
    }


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        *(("snip", 1), ("grasp", 1), ("prospr", 1), ("synflow", 100), ("synflow_l2", 100)),
        *(("ntk_sap", 20), ("px", 100)),
        *(("iter_snip", 60), ("force", 60), ("iter_grasp", 60), ("early_ticket", 60)),
    ],
)
def test_default_steps(method, expected):
    assert force_tf.PruneAtInit(method).steps == expected


def test_a_criterion_brings_the_defaults_of_its_method():
    by_name, by_object = force_tf.PruneAtInit("synflow"), force_tf.PruneAtInit(force_tf.criteria.SynFlow())
    assert (by_object.method, by_object.steps, by_object.revive) == (by_name.method, by_name.steps, by_name.revive)
    assert force_tf.PruneAtInit(force_tf.criteria.FORCE()).revive
    assert force_tf.PruneAtInit(force_tf.criteria.SynFlowL2()).method == "synflow_l2"
    assert force_tf.PruneAtInit(force_tf.criteria.GraSP(temperature=1.0)).criterion.temperature == 1.0


class SquaredWeight(force_tf.criteria.Criterion):
    needs_data = False

    def scores(self, network):
        return [np.square(weight) for weight in network.masked_weights()]


def test_a_criterion_of_ones_own(either_keras):
    model = network(either_keras)
    pruner = force_tf.PruneAtInit(SquaredWeight(), sparsity=0.9)
    masks = pruner.find_masks(model, verbose=0)
    assert (pruner.method, pruner.steps, pruner.revive) == ("SquaredWeight", 1, False)
    assert masks == force_tf.PruneAtInit("magnitude", sparsity=0.9).find_masks(model, verbose=0)


@pytest.mark.parametrize("method", ["force", "grasp", "prospr", "early_ticket", "ntk_sap", "synflow"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_model_comes_back_when_the_search_is_interrupted(either_keras, method, error):
    model = network(either_keras)
    before = everything(model)
    x, y = arrays()

    def batches():
        for _ in range(3):
            yield x[:16], y[:16]
        raise error("in the middle")

    class Failing(force_tf.criteria.SynFlow):
        def scores(self, network):
            network.next_batches()
            return super().scores(network)

    method = Failing() if method == "synflow" else method
    with pytest.raises(error, match="in the middle"):
        force_tf.PruneAtInit(method, sparsity=0.9, steps=5, batches=2).find_masks(model, batches(), verbose=0)
    assert_unchanged(model, before)


@pytest.mark.parametrize(
    ("method", "expected"), [("force", 1), ("iter_snip", 1), ("grasp", 2), ("prospr", 2), ("early_ticket", 1)]
)
def test_the_loss_is_traced_once_per_search(either_keras, method, expected):
    """Once for first derivatives, and once more where there are second ones: not per step, batch or batch size."""
    traces = []

    def loss(y_true, y_pred):
        traces.append(y_pred.shape)
        return either_keras.losses.sparse_categorical_crossentropy(y_true, y_pred)

    pruner = force_tf.PruneAtInit(method, sparsity=0.9, steps=5, batches=3)
    pruner.find_masks(
        network(either_keras), arrays(), loss, batch_size=16, verbose=0
    )  # 40 rows: the last batch is smaller
    assert len(traces) == expected, traces


def test_progress_shows_step_density_and_saliency(either_keras, capsys):
    pruner = force_tf.PruneAtInit("force", sparsity=0.9, steps=3)
    model = network(either_keras)
    pruner.find_masks(model, arrays())
    shown = capsys.readouterr().out
    assert "3/3" in shown
    assert "density: 0.1" in shown
    assert "saliency kept: " in shown
    pruner.find_masks(model, arrays(), verbose=0)
    assert not capsys.readouterr().out


def test_prune_wraps_what_find_masks_finds(either_keras):
    model = network(either_keras)
    pruner = force_tf.PruneAtInit("snip", sparsity=0.9, seed=0)
    pruned = pruner.prune(model, arrays(), verbose=0)
    assert force_tf.get_masks(pruned) == pruner.find_masks(model, arrays(), verbose=0)
    pruned.fit(*arrays(), verbose=0)


def test_selecting_layers(either_keras):
    model = network(either_keras)

    def paths(layers):
        return list(force_tf.PruneAtInit("magnitude", sparsity=0.5, layers=layers).find_masks(model, verbose=0))

    assert paths("head") == ["head/kernel"]
    assert paths(["conv1", "short.*"]) == ["conv1/kernel", "shortcut/kernel"]
    assert paths(lambda layer: isinstance(layer, either_keras.layers.Conv2D)) == ["conv1/kernel", "shortcut/kernel"]


def test_layers_that_join_only_when_they_are_selected(either_keras):
    model = either_keras.Sequential(
        [
            either_keras.Input((5,), dtype="int32"),
            either_keras.layers.Embedding(10, 4, name="words"),
            either_keras.layers.LSTM(3, name="lstm"),
            either_keras.layers.Dense(2, name="frozen", trainable=False),
            either_keras.layers.Dense(2, name="head"),
        ]
    )
    masks = force_tf.PruneAtInit("magnitude", sparsity=0.5).find_masks(model, verbose=0)
    assert list(masks) == ["lstm/lstm_cell/kernel", "lstm/lstm_cell/recurrent_kernel", "head/kernel"]
    assert masks.left_out == {
        "words/embeddings": "not pruned by default: select its layer with `layers=`",
        "frozen/kernel": "frozen",
    }
    masks = force_tf.PruneAtInit("magnitude", sparsity=0.5, layers=["words", "head"]).find_masks(model, verbose=0)
    assert list(masks) == ["words/embeddings", "head/kernel"]


@pytest.mark.parametrize(("steps", "scope"), [(1, "global"), (3, "global"), (3, "layer")])
def test_inverted_the_lowest_scores_are_kept(either_keras, steps, scope):
    model = network(either_keras)
    settings = {"sparsity": 0.7, "steps": steps, "scope": scope}
    masks = force_tf.PruneAtInit("magnitude", invert=True, **settings).find_masks(model, verbose=0)
    assert masks.kept == force_tf.PruneAtInit("magnitude", **settings).find_masks(model, verbose=0).kept
    values = {w.path: np.abs(np.asarray(w.variable)) for w in force_tf.models.prunable.all_prunable_weights(model)}
    groups = [list(masks)] if scope == "global" else [[path] for path in masks]
    for paths in groups:
        kept = np.concatenate([values[path][masks[path]] for path in paths])
        pruned = np.concatenate([values[path][~masks[path]] for path in paths])
        assert kept.max() < pruned.min()
    assert masks.metadata["invert"] is True
