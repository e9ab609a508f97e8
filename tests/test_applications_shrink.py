"""Networks that others designed pass through `shrink` unharmed, and lose what channel pruning takes."""

import pathlib
import sys

import numpy as np
import pytest
from shrinking import assert_same_function, random_masks
from test_applications import WARNING, WARNS
from training_forms import dtype_policy

import force_tf
from force_tf.prunable import prunable_weights

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))

# isort: split
import applications

# The families whose networks are traced fastest, the one without and the one with residual sums.
QUICK = {"VGG", "MobileNetV2"}


def marks(family, module):
    found = [] if family in QUICK else [pytest.mark.slow]
    if (family, module) == WARNS:
        found.append(pytest.mark.filterwarnings(f"ignore:{WARNING}"))
    return found


@pytest.mark.parametrize(
    ("family", "module"),
    [
        pytest.param(name, module, marks=marks(name, module))
        for name, family in applications.FAMILIES.items()
        for module in family.kerases
    ],
)
@pytest.mark.timeout(1800)
@pytest.mark.own_process
def test_every_family_of_keras_applications(family, module):
    keras, rng = applications.import_keras(module), np.random.default_rng(0)
    with dtype_policy("float64", keras):
        model = applications.build(family, module)
    images = applications.random_images(model, count=2)[0].astype("float64")

    # Masks of single weights and of whole channels, but of nothing else than what is pruned by default.
    masks = random_masks(model, rng, sparsity=0.2, dead=0.1)
    pruned = force_tf.apply_masks(model, {weight.path: masks[weight.path] for weight in prunable_weights(model)[0]})
    small = force_tf.shrink(pruned)
    assert small.count_params() < pruned.count_params()
    assert_same_function(pruned, small, images)

    channels = force_tf.PruneAtInit("magnitude", 0.3, scope="layer", granularity="channel")
    pruned = channels.prune(model, verbose=0)
    small = force_tf.shrink(pruned)
    left = force_tf.get_masks(small)
    assert all(mask.all() for mask in left.values()), left.to_table()
    assert left.total == force_tf.get_masks(pruned).kept == channels.history[-1]["kept"]
    assert 0.3 <= force_tf.get_masks(pruned).sparsity < 0.31
    assert_same_function(pruned, small, images)
