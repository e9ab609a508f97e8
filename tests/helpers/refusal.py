"""What every refusal of bad input has in common: one sentence, and a model left as it was."""

import re

import keras
import numpy as np
import pytest

import force_tf
from helpers.reference import blobs, mlp

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X, Y = blobs()


def assert_one_sentence(error, expected, received=""):
    message = str(error)
    assert "\n" not in message, message
    assert re.search(f"^Expected .*{expected}", message), message
    assert re.search(f"Received: .*{received}[^:]*$", message), message


def refuse(error, expected, received="", *, model=None, data=(X, Y), loss=LOSS, **options):
    """Checks that a search fails in one sentence and leaves the model as it was."""
    model = mlp() if model is None else model
    variables = model.variables if isinstance(model, keras.Model) else []
    before = [variable.numpy() for variable in variables]
    with pytest.raises(error) as caught:
        force_tf.PruneAtInit(**{"method": "snip", "sparsity": 0.5} | options).find_masks(model, data, loss, verbose=0)
    assert_one_sentence(caught.value, expected, received)
    for variable, value in zip(variables, before):
        np.testing.assert_array_equal(variable, value, variable.path)
