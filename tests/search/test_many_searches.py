"""A process that searches again and again does not grow."""

import gc
import importlib
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import force_tf

STATUS = pathlib.Path("/proc/self/status")
X = np.random.default_rng(0).normal(size=(32, 20)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 32)


def resident_bytes():
    gc.collect()
    return int(STATUS.read_text().partition("VmRSS:")[2].split()[0]) * 1024


def search(module, times):
    for seed in range(times):
        layers = module.layers
        model = module.Sequential([module.Input((20,)), layers.Dense(400, "relu"), layers.Dense(400), layers.Dense(3)])
        loss = module.losses.SparseCategoricalCrossentropy(from_logits=True)
        force_tf.PruneAtInit(("force", "grasp")[seed % 2], 0.5, steps=2, seed=seed).find_masks(
            model, (X, Y), loss, verbose=0
        )
        module.backend.clear_session()


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="needs Linux")
def test_sixty_searches_hold_no_more_memory_than_twenty(either_keras):
    # In a process that has done nothing else: what other tests leave behind comes and goes.
    done = subprocess.run(
        [sys.executable, __file__, either_keras.__name__.rpartition(".")[2]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    copy = 4 * (20 * 400 + 400 * 400 + 400 * 3)
    # Allocators keep some pages now and then; 40 networks with their masks and traces would be more than 40 copies.
    assert int(done.stdout.split()[-1]) < 30 * copy


if __name__ == "__main__":
    search(module := importlib.import_module(sys.argv[1]), 20)
    before = resident_bytes()
    search(module, 40)
    print(resident_bytes() - before)  # noqa: T201
