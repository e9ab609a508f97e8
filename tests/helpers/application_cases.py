"""The networks of `keras.applications` as cases of a test, one of every family, for each Keras that has it."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks"))

# isort: split
import applications

# tf_keras warns when it serializes this family, whose initializers are TensorFlow's.
WARNS, WARNING = ("EfficientNetV2", "tf_keras"), "The `keras.initializers.serialize"


def marks(family, module, quick):
    found = [] if (family, module) in quick else [pytest.mark.slow]
    if (family, module) == WARNS:
        found.append(pytest.mark.filterwarnings(f"ignore:{WARNING}"))
    return found


def each_family(quick):
    """Makes a test run for each `family` and `module`, in processes of their own; all but the quick ones are slow."""
    cases = [
        pytest.param(name, module, marks=marks(name, module, quick))
        for name, family in applications.FAMILIES.items()
        for module in family.kerases
    ]

    def decorate(test):
        for mark in (pytest.mark.own_process, pytest.mark.timeout(1800)):
            test = mark(test)
        return pytest.mark.parametrize(("family", "module"), cases)(test)

    return decorate
