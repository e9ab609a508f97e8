"""What every test starts from: a quiet TensorFlow and the same seeds."""

import importlib
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read once, when TensorFlow is imported

import hypothesis
import keras
import pytest

# The same examples in every run, and no failure because a machine is busy.
hypothesis.settings.register_profile(
    "steady", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("steady")


@pytest.fixture(autouse=True)
def _seeds():
    keras.utils.set_random_seed(0)


@pytest.fixture(params=["keras", "tf_keras"])
def either_keras(request):
    """The module of each Keras in turn."""
    module = importlib.import_module(request.param)
    module.utils.set_random_seed(0)
    return module
