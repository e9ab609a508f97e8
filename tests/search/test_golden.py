"""In float64 the masks equal those of the official implementations, weight for weight, in either Keras."""

import numpy as np
import pytest

from helpers.golden_cases import build, load, pruner_for, settings, tags

pytestmark = pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning")  # some official masks do collapse


def cases():
    """Every case in Keras 3; in tf_keras the first of each method by default, and the others among the slow tests."""
    seen = set()
    for case, tag in tags():
        method = settings(tag)[0], "first_order" in tag
        repeated = (case, method) in seen
        seen.add((case, method))
        yield pytest.param("keras", case, tag)
        yield pytest.param("tf_keras", case, tag, marks=[pytest.mark.slow] if repeated else [])


@pytest.mark.parametrize(("either_keras", "case", "tag"), list(cases()), indirect=["either_keras"])
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
