"""Ctrl-C at any moment, and twice, leaves a model as it was."""

import os
import signal
import threading
import warnings

import keras
import numpy as np
import pytest

import force_tf
from force_tf.models.model_state import preserved_variables
from force_tf.support.interrupts import restoring


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def _default_handler():
    """Python's own handler, also where the tests run in the background, with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "another handler was left behind"
    signal.signal(signal.SIGINT, before)


def test_no_interrupt_half_way():
    done = []

    def restore():
        for step in range(3):
            done.append(step)
            ctrl_c()
            _ = [None for _ in range(10)]  # where Python would look for signals

    with pytest.raises(KeyboardInterrupt), restoring(restore):
        done.append("body")
    assert done == ["body", 0, 1, 2]


def test_an_interrupt_ends_the_block_and_a_second_one_waits():
    done = []

    def restore():
        ctrl_c()
        done.append("restored")

    with pytest.raises(KeyboardInterrupt), restoring(restore):
        done.append(ctrl_c())
    assert done == ["restored"]


def test_blocks_in_blocks():
    done = []

    def restore(name):
        ctrl_c()
        done.append(name)

    with pytest.raises(KeyboardInterrupt), restoring(lambda: restore("outer")), restoring(lambda: restore("inner")):
        ctrl_c()
    assert done == ["inner", "outer"]


def test_a_change_is_undone_if_it_is_interrupted_or_fails():
    done = []

    def change():
        ctrl_c()
        done.append("changed")

    with pytest.raises(KeyboardInterrupt), restoring(lambda: done.append("restored"), change):
        done.append("never")
    assert done == ["changed", "restored"]
    with pytest.raises(ZeroDivisionError), restoring(lambda: done.append("again"), lambda: 1 / 0):
        done.append("never")
    assert done[2:] == ["again"]


def test_handlers_of_the_user_are_called_and_stay():
    seen = []
    own = lambda number, frame: seen.append(number)  # noqa: E731
    signal.signal(signal.SIGINT, own)
    try:
        with restoring(lambda: ctrl_c()):
            ctrl_c()
            ctrl_c()
        assert seen == [signal.SIGINT] * 3
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_other_threads():
    done = []

    def work():
        with restoring(lambda: done.append("restored")):
            done.append("body")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["body", "restored"]


def bits(model):
    return [np.array(variable).tobytes() for variable in model.variables]


@pytest.mark.parametrize("moment", range(0, 42, 6))
def test_a_search_interrupted_twice_while_variables_are_put_back(either_keras, moment, monkeypatch):
    layers = either_keras.layers
    stack = [layer for _ in range(4) for layer in (layers.Dense(8, "relu"), layers.BatchNormalization())]
    model = either_keras.Sequential([either_keras.Input((8,)), *stack, layers.Dropout(0.5), layers.Dense(3)])
    before = bits(model)
    count = 0
    kind = keras.Variable if either_keras is keras else type(model.variables[0])
    assign = kind.assign

    def interrupting(variable, *args, **kwargs):
        nonlocal count
        count += 1
        if count >= 20 + moment:  # after the assignments of the first cut, in the midst of the next or of the way back
            ctrl_c()
        return assign(variable, *args, **kwargs)

    x = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
    loss = either_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pruner = force_tf.PruneAtInit("force", sparsity=0.5, steps=3, seed=0)
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(kind, "assign", interrupting)
        with pytest.raises(KeyboardInterrupt):
            pruner.find_masks(model, (x, np.arange(16) % 3), loss, verbose=0)
    assert bits(model) == before


def test_preserved_variables_put_back_all_of_them():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization()])
    before = bits(model)

    def add_one():
        for variable in model.variables:
            variable.assign(variable + 1)
        ctrl_c()

    with pytest.raises(KeyboardInterrupt), preserved_variables(model):
        add_one()
    assert bits(model) == before
