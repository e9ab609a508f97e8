"""Every method of `PruneDuringTraining` under every form of training: it ends as a plain `fit` does, or is refused."""

import pathlib
import subprocess
import sys

import keras
import pytest
import tf_keras

from helpers import moving_conditions
from helpers.moving_conditions import CONDITIONS, METHODS

# Each method once and each condition once; the rest of the grid is slow.
QUICK = {
    ("gmp", "several_fits", tf_keras),
    ("dpf", "ema", keras),
    ("granet", "accumulation", keras),
    ("granet_st", "train_on_batch", tf_keras),
    ("rigl", "initial_epoch", keras),
    ("set", "steps_per_execution", tf_keras),
    ("fggp", "mixed_precision", tf_keras),
    ("flipout", "steps_per_execution", keras),
    ("snip_it", "jit_compile", keras),
    ("annealing", "train_on_batch", keras),
    ("greg", "several_fits", keras),
    ("greg_2", "ema", tf_keras),
    ("snap_it", "mixed_precision", keras),
}


def _grid():
    for module in (keras, tf_keras):
        for method in METHODS:
            for condition in CONDITIONS:
                if condition == "accumulation" and module is tf_keras:
                    continue  # whose optimizers have none
                marks = [] if (method, condition, module) in QUICK else pytest.mark.slow
                name = f"{module.__name__.rpartition('.')[2]}-{method}-{condition}"
                yield pytest.param(module, method, condition, marks=marks, id=name)


@pytest.mark.filterwarnings("ignore:Pruning has gone too far")  # of so small a network
@pytest.mark.parametrize(("module", "method", "condition"), list(_grid()))
def test_method_under_condition(module, method, condition):
    CONDITIONS[condition](module, method)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["keras", "tf_keras"])
def test_on_two_replicas(module):
    script = pathlib.Path(moving_conditions.__file__).with_name("two_replicas_moving.py")
    done = subprocess.run([sys.executable, script, module], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
