"""What every test starts from: a quiet TensorFlow and the same seeds."""

import importlib
import os
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read once, when TensorFlow is imported

import hypothesis
import keras
import pytest

# The same examples in every run, and no failure because a machine is busy.
hypothesis.settings.register_profile(
    "steady", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("steady")

_CHILD = "FORCE_TF_TEST_IN_CHILD"


def pytest_pyfunc_call(pyfuncitem):
    """Runs a test that is marked `own_process` in one, whose memory the machine has back at the end.

    What TensorFlow traces of some thirty deep networks does not fit into one process, whatever is cleared in between.
    """
    if pyfuncitem.get_closest_marker("own_process") is None or _CHILD in os.environ:
        return None
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", pyfuncitem.nodeid]
    options = {"cwd": pyfuncitem.config.rootpath, "env": {**os.environ, _CHILD: "1"}}
    child = subprocess.run(command, **options, capture_output=True, text=True, check=False)
    if child.returncode:
        pytest.fail(f"in a process of its own, which ended with {child.returncode}:\n{child.stdout}", pytrace=False)
    return True


# Classes of Keras that its older versions, which are supported, lack.
_LATER = {"GroupQueryAttention", "Muon", "RMSNormalization", "ReversibleEmbedding"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Skips a test that needs of Keras what the installed version does not have yet, and says so."""
    try:
        return (yield)
    except AttributeError as error:
        if error.name not in _LATER or not getattr(error.obj, "__name__", "").startswith("keras."):
            raise
        pytest.skip(f"Keras {keras.__version__} has no {error.name}")


@pytest.fixture(autouse=True)
def _seeds():
    keras.utils.set_random_seed(0)


@pytest.fixture(params=["keras", "tf_keras"])
def either_keras(request):
    """The module of each Keras in turn."""
    module = importlib.import_module(request.param)
    module.utils.set_random_seed(0)
    return module


@pytest.fixture
def float64(either_keras):
    """Models of the test compute in float64."""
    either_keras.mixed_precision.set_global_policy("float64")
    yield
    either_keras.mixed_precision.set_global_policy("float32")
