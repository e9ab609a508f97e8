"""Searches whose cuts are made by TensorFlow where the weights live: the same masks and the same history."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import force_tf
from force_tf.search import cutting, device_cut
from force_tf.search.host_cut import HostCut

pytestmark = pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning")  # tiny networks at high sparsity


def network(keras):
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(6, 3, activation="relu", name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, keras.layers.Dense(4, name="head")(x))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def arrays():
    random = np.random.default_rng(0)
    return random.standard_normal((40, 6, 6, 2)).astype("float32"), random.integers(0, 4, 40)


SETTINGS = {
    "force": {"method": "force"},
    "no return": {"method": "iter_snip"},
    "float64 copy": {"method": "synflow"},
    "layer": {"method": "force", "scope": "layer", "min_per_layer": 20},
    "invert": {"method": "force", "invert": True},
    "training between cuts": {"method": "early_ticket"},
    "ties": {"method": force_tf.criteria.Pool()},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_masks_and_history_are_those_of_the_host(either_keras, name):
    model = network(either_keras)
    found = {}
    for cut in ("host", "device"):
        pruner = force_tf.PruneAtInit(**{"sparsity": 0.9, "steps": 3, "seed": 0, "cut": cut} | SETTINGS[name])
        found[cut] = pruner.find_masks(model, arrays(), batch_size=16, verbose=0), pruner.history
    (masks, history), (on_device, history_on_device) = found["host"], found["device"]
    assert on_device == masks
    assert on_device.metadata == masks.metadata
    for row, other in zip(history, history_on_device, strict=True):
        assert other.pop("saliency_kept") == pytest.approx(row.pop("saliency_kept"), rel=1e-5)
        assert [other[key] for key in ("step", "density", "kept", "revived")] == [*row.values()][:-1]


@pytest.mark.parametrize(
    "name",
    ["force", *(pytest.param(name, marks=pytest.mark.slow) for name in ("no return", "layer", "invert", "ties"))],
)
def test_compiled_by_xla_a_search_finds_the_same(name, monkeypatch):
    model, settings = network(keras), {"sparsity": 0.9, "steps": 3, "seed": 0} | SETTINGS[name]
    masks = force_tf.PruneAtInit(cut="host", **settings).find_masks(model, arrays(), batch_size=16, verbose=0)
    asked = []
    monkeypatch.setattr(device_cut, "compiles_on", lambda device: asked.append(device) or True)  # as on accelerators
    found = force_tf.PruneAtInit(cut="device", **settings).find_masks(model, arrays(), batch_size=16, verbose=0)
    assert asked
    assert found == masks


def test_zeros_are_told_alike(either_keras):
    model = network(either_keras)
    model.get_layer("head").kernel.assign(tf.zeros((96, 4)))
    texts = []
    for cut in ("host", "device"):
        with pytest.warns(force_tf.ZeroScoresWarning) as caught:
            force_tf.PruneAtInit("snip", sparsity=0.5, cut=cut, seed=0).find_masks(model, arrays(), verbose=0)
        texts.append(str(caught[0].message))
    assert texts[0] == texts[1]
    # Half of 108 + 384 weights: all of the convolution, since it comes first, and the rest of the head.
    assert texts[0].startswith("All scores of head/kernel (keeps 138 of 384) are exactly zero"), texts[0]
    assert "Fewer scores than weights to keep are not zero" in texts[0]


class Given(force_tf.criteria.Criterion):
    needs_data = False

    def __init__(self, values):
        self.values = values

    def scores(self, network):
        flat = np.resize(np.array(self.values, np.float32), sum(weight.size for weight in network.weights))
        ends = np.cumsum([weight.size for weight in network.weights])[:-1]
        return [part.reshape(weight.shape) for part, weight in zip(np.split(flat, ends), network.weights)]


@pytest.mark.parametrize("values", [[np.inf, 1, 2, -np.inf], [3e38, 3e38, 1, -3e38], [0.0, -0.0], [1e-3, 2, -5]])
def test_saliency_kept_of_odd_scores(either_keras, values):
    model, kept = network(either_keras), {}
    for cut in ("host", "device"):
        pruner = force_tf.PruneAtInit(Given(values), sparsity=0.6, cut=cut)
        with pytest.warns(force_tf.ZeroScoresWarning) if not any(values) else contextlib.nullcontext():
            pruner.find_masks(model, verbose=0)
        kept[cut] = pruner.history[0]["saliency_kept"]
    assert kept["device"] == pytest.approx(kept["host"], rel=1e-5)


@pytest.mark.parametrize("cut", ["host", "device"])
def test_scores_that_are_nan_name_their_weight(either_keras, cut):
    pruner = force_tf.PruneAtInit(Given([1.0] * 150 + [np.nan]), sparsity=0.5, cut=cut)
    with pytest.raises(ValueError, match=r"Expected scores without NaN\. Received: 3 NaN for 'head/kernel'"):
        pruner.find_masks(network(either_keras), verbose=0)


def test_a_search_goes_on_with_the_other_cut(either_keras, tmp_path):
    model = network(either_keras)

    class StopError(Exception):
        pass

    def batches():
        x, y = arrays()
        for i in range(60):
            if stop and i == 3:
                raise StopError
            rows = np.arange(16) * 2 + i % 3
            yield x[rows % 40], y[rows % 40]

    settings = {"method": "force", "sparsity": 0.9, "steps": 5, "seed": 0}
    stop = False
    expected = force_tf.PruneAtInit(**settings).find_masks(model, batches(), verbose=0)
    for first, second in (("host", "device"), ("device", "host")):
        stop = True
        folder = tmp_path / first
        with pytest.raises(StopError):
            force_tf.PruneAtInit(cut=first, **settings).find_masks(model, batches(), checkpoint=folder, verbose=0)
        stop = False
        other = force_tf.PruneAtInit(cut=second, **settings)
        assert other.find_masks(model, batches(), checkpoint=folder, verbose=0) == expected


def test_auto_is_the_host_where_weights_live_on_a_cpu(either_keras, monkeypatch):
    made = []
    monkeypatch.setattr(cutting, "HostCut", lambda *arguments: made.append(1) or HostCut(*arguments))
    force_tf.PruneAtInit("magnitude", sparsity=0.5).find_masks(network(either_keras), verbose=0)
    assert made


@pytest.mark.parametrize("granularity", [(1, 4), "2:4", "channel"])
def test_only_single_weights_are_cut_on_the_device(granularity):
    with pytest.raises(ValueError, match=r"only single weights are cut on an accelerator\. Received: cut='device'"):
        force_tf.PruneAtInit("force", sparsity=0.5, granularity=granularity, cut="device")


def test_unknown_places_are_refused():
    with pytest.raises(ValueError, match=r"Expected `cut` to be one of 'auto', 'host', 'device'\. .*cut='gpu'"):
        force_tf.PruneAtInit("force", cut="gpu")
