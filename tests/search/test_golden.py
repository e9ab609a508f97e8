"""In float64 the masks equal those of the official implementations, weight for weight, in either Keras."""

import numpy as np
import pytest

import force_tf
from helpers.golden_cases import build, load, settings, tags

pytestmark = pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning")  # some official masks do collapse


def pruner_for(tag):
    method, options, flags = settings(tag)
    if method == "prospr":
        method = force_tf.criteria.ProsPr(
            inner_steps=int(options["M"]),
            inner_learning_rate=float(options["lr"]),
            momentum=float(options["momentum"]),
            first_order="first_order" in flags,
        )
    return force_tf.PruneAtInit(
        method,
        sparsity=1 - float(options["d"]),
        steps=int(options.get("T", 1)),
        batches=int(options.get("B", 1)),
        schedule="linear" if "linear" in flags else None,
    )


@pytest.mark.parametrize(("case", "tag"), tags())
def test_equals_official_masks(either_keras, case, tag):
    _, batches, _, golden = load(case)
    loss = either_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    masks = pruner_for(tag).find_masks(build(either_keras, case), batches, loss, verbose=0)
    differing = {path: int(np.sum(masks[path] != mask)) for path, mask in golden[tag].items()}
    assert list(masks) == list(golden[tag])
    assert not any(differing.values()), f"{case} {tag}: differing weights {differing}"


def test_every_method_with_an_official_implementation_has_a_case():
    methods = {settings(tag)[0] for _, tag in tags()}
    assert methods == {"force", "iter_snip", "snip", "iter_grasp", "grasp", "synflow", "prospr"}
