"""Every form of data that `fit` takes gives the masks that an independent search finds on the same batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import force_tf
from helpers.reference import blobs, mlp, snip_masks

pytestmark = pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning")  # tiny networks do
SIZE = 8  # rows of a batch; 24 rows make three batches, 20 rows two and a half
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Slices(keras.utils.PyDataset):
    """Batches cut out of arrays; told to be endless, it starts over by itself."""

    def __init__(self, arrays, endless=False):
        super().__init__()
        self.arrays = arrays
        self.endless = endless
        self.count = -(-len(arrays[0]) // SIZE)

    @property
    def num_batches(self):
        return None if self.endless else self.count

    def __getitem__(self, index):
        begin = index % self.count * SIZE
        return tuple(array[begin : begin + SIZE] for array in self.arrays)


class Restartable:
    """An iterable that is neither a list nor its own iterator."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


class Recorder(force_tf.criteria.Criterion):
    """Scores nothing, and remembers the batches that each step got."""

    def __init__(self):
        self.steps = []

    def scores(self, network):
        self.steps.append([tf.nest.map_structure(np.asarray, tuple(batch)) for batch in network.next_batches()])
        return [tf.zeros(weight.shape) for weight in network.weights]


def cut_by_hand(*arrays):
    return [tuple(array[i : i + SIZE] for array in arrays) for i in range(0, len(arrays[0]), SIZE)]


def batches_seen(data, steps=1, batches=1, seed=0, **options):
    recorder = Recorder()
    pruner = force_tf.PruneAtInit(recorder, sparsity=0.5, steps=steps, batches=batches, seed=seed)
    pruner.find_masks(mlp(), data, LOSS, verbose=0, **options)
    return [batch for step in recorder.steps for batch in step]


FORMS = {
    "dataset": lambda *arrays: tf.data.Dataset.from_tensor_slices(arrays).batch(SIZE),
    "endless_dataset": lambda *arrays: tf.data.Dataset.from_tensor_slices(arrays).batch(SIZE).repeat(),
    "py_dataset": lambda *arrays: Slices(arrays),
    "endless_py_dataset": lambda *arrays: Slices(arrays, endless=True),
    "list": lambda *arrays: cut_by_hand(*arrays),
    "list_of_lists": lambda *arrays: [list(batch) for batch in cut_by_hand(*arrays)],
    "list_of_tensors": lambda *arrays: [tuple(map(tf.constant, batch)) for batch in cut_by_hand(*arrays)],
    "iterable": lambda *arrays: Restartable(cut_by_hand(*arrays)),
    "generator": lambda *arrays: (batch for _ in range(3) for batch in cut_by_hand(*arrays)),
}


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_steps_take_consecutive_batches_and_the_data_starts_over(form, weighted):
    x, y = blobs(rows=20)
    arrays = (x, y, np.linspace(0, 2, 20)) if weighted else (x, y)
    first, second, last = cut_by_hand(*arrays)
    model = mlp()
    # 42 weights at the densities 0.75, 0.5 and 0.25.
    pruner = force_tf.PruneAtInit("iter_snip", sparsity=0.75, steps=3, schedule="linear", batches=2)
    masks = pruner.find_masks(model, form(*arrays), LOSS, verbose=0)
    assert masks == snip_masks(model, [(first, second), (last, first), (second, last)], [32, 21, 10])


@pytest.mark.parametrize("convert", [np.asarray, tf.constant], ids=["numpy", "tensors"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_arrays_in_one_batch(convert, weighted):
    arrays = (*blobs(), np.linspace(0, 2, 24)) if weighted else blobs()
    model = mlp()
    pruner = force_tf.PruneAtInit("snip", sparsity=0.5)
    masks = pruner.find_masks(model, tuple(map(convert, arrays)), LOSS, verbose=0)
    assert masks == snip_masks(model, [[arrays]], [21])


@pytest.mark.parametrize("as_batches", [False, True], ids=["arrays", "batches"])
def test_sample_weights_may_be_none(as_batches):
    data = (*blobs(), None)
    model = mlp()
    masks = force_tf.PruneAtInit("snip", sparsity=0.5).find_masks(
        model, [data] if as_batches else data, LOSS, verbose=0
    )
    assert masks == snip_masks(model, [[blobs()]], [21])


@pytest.mark.filterwarnings("ignore::force_tf.ZeroScoresWarning")
def test_arrays_are_cut_into_shuffled_batches_that_keep_rows_together():
    x, y = blobs(rows=20)
    weights = np.arange(20.0)
    seen = batches_seen((x, y, weights), steps=2, batches=3, batch_size=SIZE)
    assert [len(batch[0]) for batch in seen] == [8, 8, 4, 8, 8, 4]
    order = np.concatenate([batch[2] for batch in seen[:3]]).astype(int)
    assert sorted(order) == list(range(20)), "every row once"
    assert order.tolist() != list(range(20)), "shuffled"
    np.testing.assert_array_equal(np.concatenate([batch[0] for batch in seen[:3]]), x[order])
    np.testing.assert_array_equal(np.concatenate([batch[1] for batch in seen[:3]]), y[order])
    np.testing.assert_array_equal(np.concatenate([batch[2] for batch in seen[3:]]), order, "the same order again")


@pytest.mark.filterwarnings("ignore::force_tf.ZeroScoresWarning")
def test_the_seed_alone_decides_the_order():
    def order(seed):
        return np.concatenate([batch[0] for batch in batches_seen(blobs(), batches=3, seed=seed, batch_size=SIZE)])

    np.testing.assert_array_equal(order(1), order(1))
    assert not np.array_equal(order(1), order(2))
    state = np.random.get_state()[1].copy()  # noqa: NPY002 (the user's)
    assert not np.array_equal(order(None), order(None)), "24! orders, and twice the same"
    np.testing.assert_array_equal(np.random.get_state()[1], state, "the global generator moved")  # noqa: NPY002


@pytest.mark.filterwarnings("ignore::force_tf.ZeroScoresWarning")
def test_shuffled_arrays_give_the_masks_of_their_batches():
    seen = batches_seen(blobs(), batches=3, seed=5, batch_size=SIZE)
    model = mlp()
    pruner = force_tf.PruneAtInit("snip", sparsity=0.5, batches=3, seed=5)
    masks = pruner.find_masks(model, blobs(), LOSS, batch_size=SIZE, verbose=0)
    assert masks == snip_masks(model, [[batch[:2] for batch in seen]], [21])


@pytest.mark.filterwarnings("ignore::force_tf.ZeroScoresWarning")
@pytest.mark.parametrize("form", ["dataset", "py_dataset", "list", "iterable"])
def test_other_data_keeps_its_order_and_batch_size(form):
    expected = cut_by_hand(*blobs(rows=20))
    seen = batches_seen(FORMS[form](*blobs(rows=20)), batches=3, batch_size=5)
    assert len(seen) == 3
    for (x, y), batch in zip(expected, seen):
        np.testing.assert_array_equal(batch[0], x)
        np.testing.assert_array_equal(batch[1], y)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_batches_of_all_sizes_run_through_one_trace(form):
    traces = []

    def loss(y_true, y_pred):
        traces.append(y_pred.shape)
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)

    pruner = force_tf.PruneAtInit("force", sparsity=0.5, steps=4, batches=2)
    pruner.find_masks(mlp(), form(*blobs(rows=20)), loss, verbose=0)
    assert len(traces) == 1, f"traced for {traces}"


def test_a_generator_gives_no_more_batches_than_are_asked_for():
    drawn = []

    def generator():
        for batch in cut_by_hand(*blobs()) * 10:
            drawn.append(batch)
            yield batch

    force_tf.PruneAtInit("iter_snip", sparsity=0.5, steps=3, batches=2).find_masks(mlp(), generator(), LOSS, verbose=0)
    assert len(drawn) == 6


def test_a_generator_that_runs_out_says_so_and_leaves_the_model_alone():
    model = mlp()
    before = [weight.numpy() for weight in model.weights]
    pruner = force_tf.PruneAtInit("iter_snip", sparsity=0.5, steps=2, batches=2)
    with pytest.raises(ValueError, match=r"^Expected data for 4 batches or more.*Received: a generator that ran out"):
        pruner.find_masks(model, iter(cut_by_hand(*blobs())), LOSS, verbose=0)
    for weight, value in zip(model.weights, before):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8, np.int64, bool])
def test_inputs_of_any_type_are_cast_as_the_model_casts_them(dtype):
    x, y = blobs()
    x = (20 * np.abs(x)).astype(dtype)
    model = mlp()
    masks = force_tf.PruneAtInit("snip", sparsity=0.5).find_masks(model, [(x, y)], LOSS, verbose=0)
    assert masks == snip_masks(model, [[(x.astype(np.float64), y)]], [21])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("column", [False, True], ids=["row", "column"])
def test_targets_of_any_type(dtype, column):
    x, y = blobs()
    model = mlp()
    targets = (y[:, None] if column else y).astype(dtype)
    masks = force_tf.PruneAtInit("snip", sparsity=0.5).find_masks(model, (x, targets), LOSS, verbose=0)
    assert masks == snip_masks(model, [[(x, y)]], [21])


def split_inputs(structure):
    """An `mlp` whose four features come in two parts, in a dict, list or tuple."""
    left, right = keras.Input((1,), name="left"), keras.Input((3,), name="right")
    inner = mlp()
    joined = keras.layers.Concatenate(dtype="float64")([left, right])
    outputs = inner.layers[1](inner.layers[0](joined))
    return keras.Model(structure(left, right), outputs), inner


STRUCTURES = {
    "dict": lambda left, right: {"left": left, "right": right},
    "dict_in_another_order": lambda left, right: {"right": right, "left": left},
    "list": lambda left, right: [left, right],
    "tuple": lambda left, right: (left, right),
    "nested": lambda left, right: {"both": (left, right)},
}


@pytest.mark.parametrize("as_dataset", [False, True], ids=["arrays", "dataset"])
@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES.keys())
def test_nested_inputs(structure, as_dataset):
    x, y = blobs()
    model, inner = split_inputs(structure)
    data = (structure(x[:, :1], x[:, 1:]), y)
    if as_dataset:
        if isinstance(data[0], list):
            data = (tuple(data[0]), y)  # datasets take lists for tensors
        data = tf.data.Dataset.from_tensor_slices(data).batch(24)
    masks = force_tf.PruneAtInit("snip", sparsity=0.5).find_masks(model, data, LOSS, verbose=0)
    rounded = x.astype(np.float32).astype(np.float64)  # the inputs are declared float32
    assert masks == snip_masks(inner, [[(rounded, y)]], [21])


def test_sequences_of_other_lengths_get_one_more_trace():
    random = np.random.default_rng(0)
    sequences = [random.standard_normal((8, length, 4)) for length in (5, 7, 6, 5)]
    targets = [random.integers(0, 3, 8) for _ in sequences]
    inner = mlp()
    model = keras.Sequential(
        [keras.Input((None, 4)), keras.layers.GlobalAveragePooling1D(dtype="float64"), *inner.layers]
    )
    traces = []

    def loss(y_true, y_pred):
        traces.append(y_pred)
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)

    pruner = force_tf.PruneAtInit("snip", sparsity=0.5, batches=4)
    masks = pruner.find_masks(model, list(zip(sequences, targets)), loss, verbose=0)
    means = [sequence.astype(np.float32).astype(np.float64).mean(1) for sequence in sequences]
    assert masks == snip_masks(inner, [list(zip(means, targets))], [21])
    assert len(traces) <= 2, f"{len(traces)} traces"


def test_a_model_of_fixed_batch_size():
    inner = mlp()
    model = keras.Sequential([keras.Input(batch_shape=(SIZE, 4), dtype="float64"), *inner.layers])
    batches = cut_by_hand(*blobs())
    masks = force_tf.PruneAtInit("snip", sparsity=0.5, batches=3).find_masks(model, batches, LOSS, verbose=0)
    assert masks == snip_masks(inner, [batches], [21])


def test_the_data_is_not_modified():
    x, y = blobs()
    weights = np.ones(24)
    force_tf.PruneAtInit("force", sparsity=0.5, steps=3).find_masks(mlp(), (x, y, weights), LOSS, verbose=0)
    for array, fresh in zip((x, y, weights), (*blobs(), np.ones(24))):
        np.testing.assert_array_equal(array, fresh)
        assert array.flags.writeable
    batches = cut_by_hand(x, y)
    force_tf.PruneAtInit("force", sparsity=0.5, steps=3).find_masks(mlp(), batches, LOSS, verbose=0)
    assert len(batches) == 3


@pytest.mark.parametrize("method", ["synflow", "magnitude", "random"])
def test_methods_without_data_draw_nothing_beyond_the_first_batch(method):
    drawn = []
    generator = (drawn.append(batch) or batch for batch in cut_by_hand(*blobs()))
    pruner = force_tf.PruneAtInit(method, sparsity=0.5, seed=0)
    masks = pruner.find_masks(mlp(), generator, verbose=0)
    assert masks.kept == 21
    assert len(drawn) <= 1
