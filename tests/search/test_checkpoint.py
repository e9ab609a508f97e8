"""Searches that are killed go on where they were, and end with the same masks."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import force_tf
from force_tf.search import checkpoint as checkpoint_module


class KilledError(Exception):
    """Stands for a kill between two steps."""


@pytest.fixture(autouse=True)
def _every_step(monkeypatch):
    """States are written after every step, however quick the steps are."""
    monkeypatch.setattr(checkpoint_module, "_SHARE", float("inf"))


def model_of(module, dropout=False):
    layers = module.layers
    parts = [layers.Conv2D(6, 3, use_bias=False, name="conv"), layers.BatchNormalization(), layers.ReLU()]
    parts += [layers.Dropout(0.4, seed=7)] if dropout else []
    parts += [layers.Flatten(), layers.Dense(8, activation="relu"), layers.Dense(3, activation="softmax")]
    model = module.Sequential([module.Input((6, 6, 2)), *parts])
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def arrays(rows=48):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, 6, 6, 2)).astype("float32"), rng.integers(0, 3, rows)


def unshuffled():
    return tf.data.Dataset.from_tensor_slices(arrays()).batch(16)


def shuffled():
    return unshuffled().unbatch().shuffle(48).batch(16)  # in another order every time


def generated():
    x, y = arrays()
    return tf.data.Dataset.from_generator(
        lambda: ((x[i : i + 16], y[i : i + 16]) for i in range(0, 48, 16)),
        output_signature=(tf.TensorSpec((None, 6, 6, 2)), tf.TensorSpec((None,), tf.int64)),
    )


def generator():
    x, y = arrays()
    while True:
        for begin in range(0, 48, 16):
            yield x[begin : begin + 16], y[begin : begin + 16]


def search(model, data, folder, method="force", kill_after=None, **settings):
    """Searches, and stops after some steps as a kill would: the file is all that is left."""
    settings = {"sparsity": 0.9, "steps": 6, "seed": 3, **settings}
    pruner = force_tf.PruneAtInit(method, **settings)
    save, done = checkpoint_module.Checkpoint.save, []

    def save_and_die(self, network, progress):
        save(self, network, progress)
        done.append(progress.step)
        if len(done) == kill_after:
            raise KilledError

    checkpoint_module.Checkpoint.save = save_and_die
    try:
        masks = pruner.find_masks(model, data, batch_size=16, verbose=0, checkpoint=folder)
    except KilledError:
        masks = None
    finally:
        checkpoint_module.Checkpoint.save = save
    return masks, done, pruner


METHODS = ["snip", "iter_snip", "force", "grasp", "iter_grasp", "synflow", "prospr", "early_ticket", "random"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning")
def test_a_search_goes_on_and_ends_with_the_same_masks(either_keras, method, tmp_path):
    # Dropout of tf_keras draws from the runtime, whose state nobody can save.
    model = model_of(either_keras, dropout=either_keras is keras)
    whole, _, pruner = search(model, arrays(), tmp_path / "whole", method)
    before = [np.array(variable) for variable in model.variables]
    # Killed in three places, one of them before anything was drawn anew.
    parts = [search(model, arrays(), tmp_path / "parts", method, kill_after=count) for count in (1, 2, None)]
    assert [done for _, done, _ in parts] == [[1], [2, 3], [4, 5, 6]]
    assert parts[-1][0] == whole
    assert parts[-1][0].metadata == whole.metadata
    rows = [[{**row, "seconds": 0} for row in each.history] for each in (pruner, parts[-1][2])]
    assert rows[0] == rows[1]
    for variable, value in zip(model.variables, before):
        np.testing.assert_array_equal(variable, value)


def test_states_of_stateful_layers_go_on(either_keras, tmp_path):
    """Every batch goes on from the state that the one before left."""

    def build():
        either_keras.utils.set_random_seed(0)
        layers = either_keras.layers
        recurrent = layers.LSTM(6, stateful=True, name="lstm")
        if either_keras is keras:
            inputs = keras.Input(batch_shape=(16, 5, 4))
        else:
            inputs = either_keras.Input((5, 4), batch_size=16)
        model = either_keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(recurrent(inputs)))
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model

    rng = np.random.default_rng(0)
    data = [(rng.normal(size=(16, 5, 4)).astype("float32"), rng.integers(0, 3, 16)) for _ in range(6)]
    whole, _, _ = search(build(), data, tmp_path / "whole")
    parts = [search(build(), data, tmp_path / "parts", kill_after=count)[0] for count in (2, 2, None)]
    assert parts[-1] == whole


@pytest.mark.parametrize("data", [unshuffled, generated, generator, lambda: list(unshuffled())])
def test_data_that_was_drawn_is_skipped(data, tmp_path):
    model = model_of(keras)
    whole, _, _ = search(model, data(), tmp_path / "whole")
    search(model, data(), tmp_path / "parts", kill_after=4)
    assert search(model, data(), tmp_path / "parts")[0] == whole


def test_a_shuffled_dataset_goes_on_with_what_is_left_of_its_order(tmp_path):
    """Each image is drawn once an epoch, also where the order of the epoch is known to the killed process alone."""
    x = np.arange(48, dtype="float32").reshape(48, 1)
    data = tf.data.Dataset.from_tensor_slices((x, np.zeros(48, int))).shuffle(48).batch(8)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(3, activation="softmax")])
    seen = []

    class Seeing(force_tf.criteria.Magnitude):
        def scores(self, network):
            (batch,) = network.next_batches()
            seen.extend(batch.x.numpy().ravel().tolist())
            return super().scores(network)

    for kill_after in (2, None):
        search(model, data, tmp_path, Seeing(), kill_after=kill_after, sparsity=0.3)
    assert sorted(seen) == list(range(48))


def test_a_finished_search_returns_at_once(tmp_path):
    model = model_of(keras)
    masks, done, _ = search(model, arrays(), tmp_path)
    assert done == list(range(1, 7))
    again, done, pruner = search(model, arrays(), tmp_path)
    assert (again, done, len(pruner.history)) == (masks, [], 6)


@pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning")  # as chance has it
def test_without_a_seed_the_same_one_is_drawn_on(tmp_path):
    model = model_of(keras)
    search(model, arrays(), tmp_path, kill_after=3, seed=None, method="random")
    state = (tmp_path / "search.npz").read_bytes()
    first, _, _ = search(model, arrays(), tmp_path, seed=None, method="random")
    (tmp_path / "search.npz").write_bytes(state)
    assert search(model, arrays(), tmp_path, seed=None, method="random")[0] == first


@pytest.mark.parametrize(
    ("changed", "settings", "what"),
    [
        (None, {"sparsity": 0.8}, "sparsity"),
        (None, {"method": "iter_snip"}, "method"),
        (None, {"seed": 4}, "seed"),
        ("data", {}, "shape of the data"),
        ("weights", {}, "values of the model"),
        ("model", {}, "prunable weights"),
    ],
)
def test_refuses_to_go_on_with_another_search(changed, settings, what, tmp_path):
    model, data = model_of(keras), arrays()
    search(model, data, tmp_path, kill_after=2)
    if changed == "data":
        data = tf.data.Dataset.from_tensor_slices((data[0], data[1].astype("int32"))).batch(16)
    elif changed == "weights":
        model.get_layer("conv").kernel.assign_add(np.full((3, 3, 2, 6), 1e-6, "float32"))
    elif changed == "model":
        model = keras.Sequential([*model.layers[:-1], keras.layers.Dense(3, activation="softmax", name="other")])
        model.build((None, 6, 6, 2))
        model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=rf"^Expected the search that the checkpoint in .* Received: another {what}: "):
        search(model, data, tmp_path, **settings)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:200] + b"x" * 50 + b[250:]])
def test_refuses_a_damaged_file(damage, tmp_path):
    model = model_of(keras)
    search(model, arrays(), tmp_path, kill_after=2)
    path = tmp_path / "search.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"^Expected a checkpoint of a search in .*remove it to begin anew"):
        search(model, arrays(), tmp_path)


def test_refuses_the_path_of_a_file(tmp_path):
    path = tmp_path / "search.npz"
    path.write_bytes(b"mine")
    with pytest.raises(NotADirectoryError, match="Expected `checkpoint` to be a folder"):
        search(model_of(keras), arrays(), path)
    assert path.read_bytes() == b"mine"


def test_states_cost_a_twentieth_of_the_time_at_most(tmp_path, monkeypatch):
    monkeypatch.undo()
    clock, writes = [0.0], []
    monkeypatch.setattr(checkpoint_module.time, "monotonic", lambda: clock[0])
    savez = np.savez

    def slow(file, **content):
        clock[0] += 1.0  # a second to write
        writes.append(json.loads(content["facts"].tobytes())["step"])
        savez(file, **content)

    monkeypatch.setattr(checkpoint_module.np, "savez", slow)

    class Slow(force_tf.criteria.Magnitude):
        def scores(self, network):
            clock[0] += 8.0
            return super().scores(network)

    model = model_of(keras)
    force_tf.PruneAtInit(Slow(), 0.9, steps=8).find_masks(model, verbose=0, checkpoint=tmp_path)
    assert writes == [1, 4, 7, 8]  # 20 seconds lie between two, but for the last


KILLED = """
    import sys
    import keras
    import numpy as np
    import force_tf
    from force_tf.search import checkpoint

    checkpoint._SHARE = float("inf")
    keras.utils.set_random_seed(0)
    layers = [keras.Input((20,)), keras.layers.Dense(30, "relu"), keras.layers.Dropout(0.2, seed=1)]
    model = keras.Sequential([*layers, keras.layers.Dense(3, "softmax")])
    rng = np.random.default_rng(0)
    data = rng.normal(size=(64, 20)).astype("float32"), rng.integers(0, 3, 64)
    pruner = force_tf.PruneAtInit(sys.argv[2], 0.95, steps=100, seed=0)
    print("begin", flush=True)
    masks = pruner.find_masks(model, data, "sparse_categorical_crossentropy", batch_size=16, verbose=0,
                              checkpoint=sys.argv[1] if sys.argv[1] != "none" else None)
    masks.save(sys.argv[3])
"""


@pytest.mark.slow
def test_a_process_that_is_killed_ten_times(tmp_path):
    script = tmp_path / "search.py"
    script.write_text(textwrap.dedent(KILLED))

    def start(folder, result):
        command = [sys.executable, str(script), str(folder), "early_ticket", str(result)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
        with process.stdout as output:
            assert output.readline() == "begin\n"
        return process

    assert start("none", tmp_path / "whole.npz").wait() == 0
    random, killed = np.random.default_rng(5), 0
    folder = tmp_path / "folder"
    while killed < 10:
        process = start(folder, tmp_path / "parts.npz")
        time.sleep(random.uniform(0.2, 1.5))
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        killed += 1
    assert killed > 3, "the search ended too soon to be killed"
    assert start(folder, tmp_path / "parts.npz").wait() == 0
    masks = [force_tf.Masks.load(tmp_path / f"{name}.npz") for name in ("whole", "parts")]
    assert masks[0] == masks[1]
    left = {path.name for path in pathlib.Path(folder).iterdir()}
    assert left == {"search.npz"}
