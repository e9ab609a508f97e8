"""In float64 the masks equal those of the official implementations, weight for weight, in either Keras."""

import numpy as np
import pytest

from helpers.golden_cases import build, load, pruner_for, settings, tags

pytestmark = pytest.mark.filterwarnings("ignore::force_tf.LayerCollapseWarning")  # some official masks do collapse


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
