"""Two replicas of a MirroredStrategy share searches; to be run in a process of its own.

Its arguments are the Kerases to use, `keras` or `tf_keras`, after `all` for everything: without it, fewer golden cases,
and what both Kerases share, such as losses, in the first one alone.
"""

import contextlib
import importlib
import pathlib
import re
import sys
import warnings

from two_cpus import STRATEGY  # isort: skip (before TensorFlow starts)

import keras
import numpy as np
import tensorflow as tf

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import force_tf
from force_tf.objective.distribution import Distribution
from helpers.golden_cases import build, load, pruner_for, tags

GOLDEN = (
    "lenet:force:d=0.05,T=10,B=1,ties",
    "lenet:grasp:d=0.1,T=1,B=2",
    "lenet:synflow:d=0.1,T=100",
    "lenet:prospr:d=0.05,M=3,lr=0.1,momentum=0,full",
)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(9, 6, 4)), RNG.integers(0, 3, 9)
WEIGHTS = RNG.uniform(0.1, 2.0, 9)


def check_golden_masks(module, cases):
    """Of official codes, which know one device. BatchNorm has the statistics of the whole batch if synchronized."""
    plain = module.layers.BatchNormalization
    module.layers.BatchNormalization = lambda **arguments: plain(synchronized=True, **arguments)
    for case, tag in (each.split(":", 1) for each in cases):
        _, batches, _, golden = load(case)
        with STRATEGY.scope():
            model = build(module, case)
        loss = module.losses.SparseCategoricalCrossentropy(from_logits=True)
        masks = pruner_for(tag).find_masks(model, batches, loss, verbose=0)
        differing = sum(int(np.sum(masks[path] != mask)) for path, mask in golden[tag].items())
        assert not differing, f"{case} {tag}: {differing} weights differ"
    module.layers.BatchNormalization = plain


class Recorder(force_tf.criteria.Criterion):
    """Keeps the gradient that a search scores."""

    def scores(self, network):
        self.gradient = [tensor.numpy() for tensor in network.mean_gradient()]
        return [tf.abs(tensor) for tensor in self.gradient]


def gradient(make, data, loss, scope):
    """Returns the gradient of a new model, on one device or shared, and the model."""
    with scope:
        model = make()
    recorder = Recorder()
    force_tf.PruneAtInit(recorder, sparsity=0.1).find_masks(model, data, loss, verbose=0)
    return recorder.gradient


def one_device():
    return tf.device("CPU:0")


def recurrent(module, normalization=False, adds=False, masking=False, outputs=1):
    """Returns a function that makes a float64 model of sequences of 6 × 4."""

    def make():
        module.utils.set_random_seed(0)
        layers = module.layers
        inputs = module.Input((6, 4), dtype="float64")
        x = layers.Masking(dtype="float64")(inputs) if masking else inputs
        x = layers.Dense(5, "tanh", dtype="float64", name="hidden")(x)
        x = layers.BatchNormalization(dtype="float64", name="norm")(x) if normalization else x
        x = layers.ActivityRegularization(l2=0.0, dtype="float64")(x) if adds else x
        x = Adding(module)(x) if adds else x
        if not masking:
            x = layers.Flatten(dtype="float64")(x)
        heads = [layers.Dense(3, dtype="float64", name=f"head_{i}")(x) for i in range(outputs)]
        return module.Model(inputs, heads if outputs > 1 else heads[0])

    return make


def Adding(module):  # noqa: N802 (a class for each Keras)
    class Adding(module.layers.Layer):
        def call(self, inputs):
            self.add_loss(tf.reduce_mean(tf.square(inputs)))
            return inputs

    return Adding(dtype="float64")


def check_gradients(module):
    """Equal to those of one device, on the same batch, for every kind of mean and sum."""
    losses = module.losses
    mean = losses.SparseCategoricalCrossentropy(from_logits=True)
    total = losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    square, padded = losses.MeanSquaredError(), X.copy()
    padded[:7, 2:] = 0.0
    forms = {
        "mean, 5 rows and 4": (recurrent(module), (X, Y), mean),
        "one row, so that a replica has none": (recurrent(module), (X[:1], Y[:1]), mean),
        "sum, with weights": (recurrent(module), (X, Y, WEIGHTS), total),
        "masked steps": (recurrent(module, masking=True), (padded, np.repeat(Y[:, None], 6, 1)), mean),
        "a sum of what is masked": (recurrent(module, masking=True), (padded, np.repeat(Y[:, None], 6, 1)), total),
        "two outputs, of other losses": (
            recurrent(module, outputs=2),
            (X, [Y, np.eye(3)[Y]]),
            [total, square],
        ),
        "a mean by the function itself": (recurrent(module), (X[:8], np.eye(3)[Y[:8]]), mean_square),
    }
    if module is keras and "mean_with_sample_weight" in str(keras.losses.Loss.__doc__):
        by_weight = losses.MeanSquaredError(reduction="mean_with_sample_weight")
        forms["a mean by weights"] = (recurrent(module), (X, np.eye(3)[Y], WEIGHTS), by_weight)
    for name, (make, data, loss) in forms.items():
        alone = gradient(make, data, loss, one_device())
        shared = gradient(make, data, loss, STRATEGY.scope())
        assert any(np.any(tensor) for tensor in alone), name
        for one, other in zip(alone, shared, strict=True):
            # Older versions of Keras add 1e-7 to the number of steps that are not masked.
            np.testing.assert_allclose(other, one, rtol=1e-7 if "masked" in name else 1e-9, atol=1e-14, err_msg=name)


def mean_square(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - y_pred))


def check_added_losses(module):
    def make():
        model = recurrent(module, adds=True)()
        model.compile("sgd", "mse")
        return model

    data = (X[:8], np.eye(3)[Y[:8]])
    for one, other in zip(gradient(make, data, None, one_device()), gradient(make, data, None, STRATEGY.scope())):
        np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-14)


def check_statistics_of_each_replica(module):
    """With BatchNorm a shared gradient is the mean of those of the two halves, by their rows."""
    loss = module.losses.SparseCategoricalCrossentropy(from_logits=True)
    make = recurrent(module, normalization=True)
    # Batches as they come: arrays would be shuffled.
    shared = gradient(make, [(X, Y)], loss, STRATEGY.scope())
    halves = [gradient(make, [(X[part], Y[part])], loss, one_device()) for part in (slice(0, 5), slice(5, 9))]
    for both, first, second in zip(shared, *halves, strict=True):
        np.testing.assert_allclose(both, (5 * first + 4 * second) / 9, rtol=1e-9, atol=1e-14)


def check_data(module):
    """A dataset, one that is distributed, and a list have the same batches, hence the same masks."""
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    distributed = STRATEGY.experimental_distribute_dataset(dataset)
    loss = module.losses.SparseCategoricalCrossentropy(from_logits=True)
    pruner = force_tf.PruneAtInit("force", sparsity=0.5, steps=3, batches=2)
    with STRATEGY.scope():
        model = recurrent(module)()
    masks = [pruner.find_masks(model, data, loss, verbose=0) for data in (list(dataset), dataset, distributed)]
    assert masks[0] == masks[1] == masks[2]
    plain = recurrent(module)()
    assert pruner.find_masks(plain, dataset, loss, verbose=0) == masks[0]
    with refused("Expected data that is not distributed, .* Received: .* DistributedDataset"):
        pruner.find_masks(plain, distributed, loss, verbose=0)


def check_methods_without_a_loss(module):
    """PX and NTK-SAP find the masks of one device, whatever form the data has."""

    def make():
        module.utils.set_random_seed(0)
        layers, kinds = module.layers, {"dtype": "float64"}
        inputs = module.Input((6, 4), **kinds)
        x = layers.BatchNormalization(name="norm", **kinds)(layers.Conv1D(6, 3, name="conv", **kinds)(inputs))
        x = layers.Flatten(**kinds)(layers.ReLU(**kinds)(x))
        return module.Model(inputs, layers.Dense(3, name="head", **kinds)(x))

    plain = make()
    with STRATEGY.scope():
        model = make()
    # One row, so that a replica has none, comes at the end.
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    for method in ("px", "ntk_sap"):
        pruner = force_tf.PruneAtInit(method, sparsity=0.7, steps=3, batches=3, seed=0)
        masks = pruner.find_masks(plain, dataset, verbose=0)
        for data in (list(dataset), dataset, STRATEGY.experimental_distribute_dataset(dataset)):
            assert pruner.find_masks(model, data, verbose=0) == masks, f"{method}, {type(data).__name__}"


def check_batches_that_are_put_together():
    """Of every kind of tensor; over several processes only of those that TensorFlow can send."""
    ragged = tf.ragged.constant([[1, 2], [], [3]])
    wholes = [tf.cast(tf.range(5), tf.uint8), tf.constant([["a"], ["b"], ["c"]]), tf.sparse.eye(3), ragged]
    of_one = Distribution(STRATEGY)
    for whole in wholes:
        again = of_one.whole(of_one.parts(whole)[1])
        assert type(again) is type(whole)
        for one, other in zip(tf.nest.flatten(whole, True), tf.nest.flatten(again, True), strict=True):
            np.testing.assert_array_equal(one, other)
    of_several = SeveralProcesses(STRATEGY)
    np.testing.assert_array_equal(of_several.whole(of_several.parts(wholes[0])[1]), wholes[0])
    for whole in wholes[1:]:
        parts = of_several.parts(whole)[1]
        with refused("Expected data that every worker draws as a whole, .* Received: a distributed dataset of "):
            of_several.whole(parts)


class SeveralProcesses(Distribution):
    """What would be done if the replicas were in processes of their own."""

    workers = 2


def check_what_is_put_back(module):
    """Statistics, seeds and metrics come back as they were, on each replica its own."""
    with STRATEGY.scope():
        module.utils.set_random_seed(0)
        layers = module.layers
        hidden = [layers.Dense(16, "relu"), layers.BatchNormalization(), layers.Dropout(0.3)]
        model = module.Sequential([module.Input((6, 4)), layers.Flatten(), *hidden, layers.Dense(3)])
        loss = module.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, metrics=["accuracy"])
    model.fit(X[:8].astype("float32"), Y[:8], batch_size=8, verbose=0)
    before = copies(model)
    assert not np.array_equal(*statistics(model)), "replicas have the same statistics: the check is void"
    for method in ("early_ticket", "prospr"):
        steps = 2 if method == "early_ticket" else 1
        pruner = force_tf.PruneAtInit(method, 0.5, seed=0, steps=steps, min_per_layer=8)
        pruner.find_masks(model, (X.astype("float32"), Y), batch_size=9, verbose=0)
        for one, other in zip(before, copies(model), strict=True):
            np.testing.assert_array_equal(one, other)


def copies(model):
    variables = [*model.variables, *(variable for metric in model.metrics for variable in metric.variables)]
    return [copy.numpy() for each in variables for copy in local_copies(each)]


def statistics(model):
    norm = next(layer for layer in model.layers if type(layer).__name__ == "BatchNormalization")
    return [copy.numpy() for copy in local_copies(norm.moving_mean)]


def local_copies(variable):
    whole = variable.value if isinstance(variable, keras.Variable) else variable
    return STRATEGY.experimental_local_results(whole)


def check_refusals(module):
    loss = module.losses.SparseCategoricalCrossentropy(from_logits=True)
    with STRATEGY.scope():
        fixed = module.Sequential([module.Input((6, 4), batch_size=8), module.layers.Flatten(), module.layers.Dense(3)])
    with refused("Expected a model that takes batches of any size, .* Received: .* and 2 replicas"):
        force_tf.PruneAtInit("snip", 0.5).find_masks(fixed, (X[:8], Y[:8]), loss, verbose=0)
    central = tf.distribute.experimental.CentralStorageStrategy(["CPU:0", "CPU:1"], "CPU:0")
    with central.scope():
        model = recurrent(module)()
    with refused("Expected a model that was made in the scope of a MirroredStrategy, .* Received: CentralStorage"):
        force_tf.PruneAtInit("snip", 0.5).find_masks(model, (X, Y), loss, verbose=0)


@contextlib.contextmanager
def refused(pattern):
    try:
        yield
    except ValueError as error:
        assert re.search(pattern, str(error)), f"expected {pattern}, got {error}"  # noqa: PT017 (no pytest here)
    else:
        raise AssertionError(f"expected an error: {pattern}")


if __name__ == "__main__":
    warnings.simplefilter("ignore", force_tf.LayerCollapseWarning)
    is_whole, names = sys.argv[1] == "all", [name for name in sys.argv[1:] if name != "all"]
    for name in names:
        of = importlib.import_module(name)
        check_golden_masks(of, [":".join(each) for each in tags()] if is_whole else GOLDEN)
        check_statistics_of_each_replica(of)
        check_methods_without_a_loss(of)
        check_what_is_put_back(of)
        if is_whole or name == names[0]:
            check_gradients(of)
            check_added_losses(of)
            check_data(of)
            check_batches_that_are_put_together()
            check_refusals(of)
