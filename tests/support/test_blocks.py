"""Passes over blocks return what a pass over the whole does, by however many threads."""

import concurrent.futures
import subprocess
import sys
import threading
from unittest import mock

import numpy as np
import pytest

from force_tf.support import blocks
from force_tf.support.blocks import BLOCK, of_size, over_blocks


@pytest.fixture
def threads():
    with (
        concurrent.futures.ThreadPoolExecutor(3) as pool,
        mock.patch.multiple(blocks, _threads=lambda: 3, _pool=lambda: pool),
    ):
        yield


@pytest.mark.parametrize("size", [0, 1, BLOCK, BLOCK + 1, 50 * BLOCK - 1])
def test_blocks_cover_an_array_in_order(threads, size):
    array = np.arange(size, dtype=np.int32)
    parts = over_blocks(lambda block: array[block], size)
    np.testing.assert_array_equal(np.concatenate([array[:0], *parts]), array)
    assert len(parts) == len(of_size(size)) == -(-size // BLOCK)


def test_several_threads_share_the_blocks(threads):
    meet = threading.Barrier(3, timeout=30)  # broken unless three wait at once
    waiting = iter(range(3))
    seen = threading.local()

    def compute(block):
        if not hasattr(seen, "waited") and next(waiting, None) is not None:
            seen.waited = True
            meet.wait()
        return threading.get_ident()

    assert len(set(over_blocks(compute, 50 * BLOCK))) == 3


def test_errors_of_a_block_are_raised(threads):
    def fail(block):
        raise ValueError(f"block at {block.start}")

    with pytest.raises(ValueError, match="block at 0"):
        over_blocks(fail, 50 * BLOCK)


@pytest.mark.skipif(not hasattr(blocks.os, "fork"), reason="forks")
def test_a_forked_process_has_threads_of_its_own():
    code = f"""
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("blocks", {blocks.__file__!r})
blocks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(blocks)
blocks._threads = lambda: 2
count = lambda: len(blocks.over_blocks(lambda block: block, 50 * blocks.BLOCK))
assert count() == 50
child = os.fork()
if not child:
    os._exit(0 if count() == 50 else 1)
sys.exit(os.waitpid(child, 0)[1])
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)
