"""What a step computes under a strategy is what XLA compiles, as it has to be on a TPU."""

import types

import numpy as np
import pytest
import tensorflow as tf

import force_tf
from force_tf.objective import distribution, gradients

STEPS = {
    "force": "force",
    "grasp": "grasp",  # Hessian products
    "prospr": force_tf.criteria.ProsPr(inner_steps=2),
    "early_ticket": force_tf.criteria.EarlyTicket(inner_steps=2),
    "synflow": "synflow",
    "ntk_sap": "ntk_sap",
}


def cases():
    for module in ("keras", "tf_keras"):
        for name in STEPS:
            quick = module == "keras" and name in ("force", "grasp")
            yield pytest.param(module, name, marks=[] if quick else [pytest.mark.slow])


def network(strategy, module):
    layers = module.layers
    with strategy.scope():
        model = module.Sequential(
            [
                module.Input((8, 8, 2)),
                layers.Conv2D(6, 3, name="conv"),
                layers.BatchNormalization(name="norm"),
                layers.ReLU(),
                layers.AveragePooling2D(2),  # of maxima XLA has no second derivative in float64
                layers.Flatten(),
                layers.Dense(4, name="head"),
            ]
        )
        model.compile("sgd", module.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.usefixtures("all_float64")
@pytest.mark.parametrize(("either_keras", "name"), list(cases()), indirect=["either_keras"])
def test_xla_compiles_the_step_of_a_strategy(either_keras, name, monkeypatch):
    """On one device of the CPU, by the code of several: `strategy.run`, shares of rows and sums over replicas."""
    random = np.random.default_rng(0)
    data = [(random.normal(size=(12, 8, 8, 2)), random.integers(0, 4, 12)) for _ in range(4)]
    pruner = force_tf.PruneAtInit(STEPS[name], sparsity=0.7, steps=2, seed=0, min_per_layer=8)
    model = network(tf.distribute.MirroredStrategy(["CPU:0"]), either_keras)
    masks = pruner.find_masks(model, data, verbose=0)
    compiled = []

    def function(python_function, **options):
        compiled.append(python_function)
        return tf.function(python_function, jit_compile=True, **options)

    with_xla = types.SimpleNamespace(**{**vars(tf), "function": function})
    monkeypatch.setattr(gradients, "tf", with_xla)
    monkeypatch.setattr(
        gradients,
        "distribution_of",
        lambda variable: distribution.Distribution(gradients.whole_variable(variable).distribute_strategy),
    )
    found = pruner.find_masks(model, data, verbose=0)
    assert compiled
    assert found == masks
