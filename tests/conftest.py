"""What every test starts from: a quiet TensorFlow and the same seeds."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read once, when TensorFlow is imported

import keras
import pytest


@pytest.fixture(autouse=True)
def _seeds():
    keras.utils.set_random_seed(0)
