"""What tests of masks that move share: a small network of either Keras, its data, and what optimizers remember."""

import keras
import numpy as np
import pytest

import force_tf
from force_tf.models import keras_internals
from force_tf.models.paths import mask_wrappers

# For tests whose code hardly knows which Keras it is: that of tf_keras is run with the slow ones.
keras_3_first = pytest.mark.parametrize(
    "either_keras", ["keras", pytest.param("tf_keras", marks=pytest.mark.slow)], indirect=True
)

X = np.random.default_rng(0).normal(size=(64, 12)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 64)


def dense_model(module, optimizer="adam", seed=0, **compile_arguments):
    """Returns a compiled network of 12 inputs, 16 and 8 hidden units, 3 classes: 344 prunable weights."""
    module.utils.set_random_seed(seed)
    layers = module.layers
    model = module.Sequential(
        [
            module.Input((12,)),
            layers.Dense(16, "relu", name="a"),
            layers.Dense(8, "relu", name="b"),
            layers.Dense(3, name="c"),
        ]
    )
    loss = module.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **compile_arguments)
    return model


def sparse_model(module, optimizer="adam", sparsity=0.8, **arguments):
    model = dense_model(module, optimizer, **arguments)
    return force_tf.PruneAtInit("random", sparsity=sparsity, seed=0).prune(model, verbose=0)


def masked_weights(model):
    """Maps the path of each masked weight to what its wrapper holds of it."""
    return {f"{path}/{each.path}": each for path, wrapper in mask_wrappers(model) for each in wrapper.masked_weights}


def raw(variable):
    """Returns what a variable holds in memory, past all that projects it when it is read."""
    inner = variable._value if isinstance(variable, keras.Variable) else keras_internals.without_autocast(variable)
    return keras_internals.resource_variable_class()._read_variable_op(inner).numpy()


def state(model):
    """Maps the path of each masked weight to its values, and to those of all that the optimizer remembers of it."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return {
        path: [
            raw(each.variable),
            *(np.array(slot) for slot in keras_internals.optimizer_slots(optimizer, each.variable)),
        ]
        for path, each in masked_weights(model).items()
    }


def fit(model, *callbacks, epochs=4, batch_size=8, **arguments):
    options = {"shuffle": False, "verbose": 0, **arguments}
    return model.fit(X, Y, batch_size, epochs, callbacks=list(callbacks), **options)


def flat(masks):
    return np.concatenate([mask.ravel() for mask in masks.values()])
