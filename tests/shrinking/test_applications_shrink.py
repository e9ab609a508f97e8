"""Networks that others designed pass through `shrink` unharmed, and lose what channel pruning takes."""

import numpy as np

import force_tf
from force_tf.models.prunable import prunable_weights
from helpers.application_cases import applications, each_family
from helpers.shrinking import assert_same_function, random_masks
from helpers.training_forms import dtype_policy

# The family whose networks are traced fastest among those with residual sums; chains have tests of their own.
QUICK = {("MobileNetV2", "tf_keras")}


@each_family(quick=QUICK)
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
