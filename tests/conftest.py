"""What every test starts from: a quiet TensorFlow and the same seeds."""

import importlib
import os
import pathlib
import subprocess
import sys
import traceback

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


# End-to-end and exhaustive tests, most of the time of a run, which `make test-quick` leaves out.
_LONG = {
    *("test_applications", "test_applications_shrink", "test_examples", "test_docs"),
    *("test_docstrings", "test_derivatives", "test_training_distributed", "test_subclassed_files"),
    *("test_layers_apply", "test_checkpoints", "test_export", "test_export_edge"),
    *("test_export_quantized", "test_evaluate_tflite", "test_benchmark_tflite", "test_granularity_channels"),
    *("test_granularity_searches", "test_shrink", "test_shrink_layers", "test_shared_layers"),
    *("test_masked_positions", "test_contract", "test_either_keras", "test_supported_layers"),
    *("test_tfmot", "test_tf_keras_layers", "test_tf_keras_models", "test_tf_keras_training"),
    *("test_tf_keras_checkpoints", "test_layer_conformance", "test_training", "test_adapted"),
    *("test_interrupts", "test_sparsity_logger", "test_export_errors", "test_export_threads"),
    *("test_prune_during_training", "test_prune_during_training_forms", "test_prune_during_training_bad"),
    *("test_shrink_report", "test_other_ways_to_a_layer", "test_clones", "test_edited_files"),
    *(
        "test_dense_under_masks",
        "test_sign_flips",
        "test_growing_penalty",
        "test_random_draws",
        "test_gradient_noise",
        "test_methods_contract",
        "test_methods_under_conditions",
        "test_budget",
    ),
}


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in _LONG:
            item.add_marker("long")


# Classes of Keras that its older versions, which are supported, lack.
_LATER = {"GroupQueryAttention", "Muon", "RMSNormalization", "ReversibleEmbedding"}
# In Keras 3.10, training any model with its first Muon fails, so it counts as not there yet.
if hasattr(keras.optimizers, "Muon") and tuple(map(int, keras.__version__.split(".")[:2])) < (3, 13):
    del keras.optimizers.Muon


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Skips a test that needs of Keras what the installed version does not have yet, and says so."""
    try:
        return (yield)
    except AttributeError as error:
        *_, last = traceback.extract_tb(error.__traceback__)
        # What the package itself needs must be there.
        is_ours = pathlib.Path(last.filename).is_relative_to(pathlib.Path(__file__).parent)
        is_later = error.name in _LATER and getattr(error.obj, "__name__", "").startswith("keras.")
        if not (is_ours and is_later):
            raise
        pytest.skip(f"Keras {keras.__version__} has no {error.name} that works")


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


@pytest.fixture
def all_float64(either_keras, float64):
    """Losses, learning rates and data are in float64 too."""
    either_keras.backend.set_floatx("float64")
    yield either_keras
    either_keras.backend.set_floatx("float32")
