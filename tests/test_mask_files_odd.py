"""Mask files that nobody's `save` wrote: one sentence, and nothing large is unpacked."""

import json
import tracemalloc

import numpy as np
import pytest

from force_tf import Masks


def write(path, tensors, bits, left_out=None):
    header = {"format": "force_tf.masks", "version": 1, "tensors": tensors, "left_out": left_out or {}, "metadata": {}}
    np.savez_compressed(
        path, header=np.array(json.dumps(header)), **{f"bits_{i}": array for i, array in enumerate(bits)}
    )


@pytest.mark.parametrize(
    ("tensors", "sizes", "left_out", "reason"),
    [
        ([["a", [8]], ["a", [8]]], [1, 1], {}, "two masks for 'a'"),
        ([["a", [-8]]], [1], {}, r"the shape \[-8\] for 'a'"),
        ([["a", [8.0]]], [1], {}, r"the shape \[8.0\] for 'a'"),
        ([[3, [8]]], [1], {}, r"the shape \[8\] for 3"),
        ([["a", [8]]], [1], {"b": 3}, "as left out"),
        ([["a", [2**30, 2**30]]], [1], {}, "bytes for 'a' of shape"),
        ([["a", [8]]], [50_000_000], {}, "bytes for 'a' of shape"),
    ],
)
def test_odd_headers_and_sizes_get_one_sentence(tensors, sizes, left_out, reason, tmp_path):
    path = tmp_path / "masks.npz"
    write(path, tensors, [np.zeros(size, np.uint8) for size in sizes], left_out)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf"^Expected an intact file.*Received: '.*' \(.*{reason}.*\)$") as caught:
            Masks.load(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


def test_a_header_that_unpacks_to_gigabytes(tmp_path):
    np.savez_compressed(tmp_path / "masks.npz", header=np.array(" " * 20_000_000))
    with pytest.raises(ValueError, match="with a header of 80,000,128 bytes"):
        Masks.load(tmp_path / "masks.npz")


def test_more_weights_than_memory_holds(tmp_path, monkeypatch):
    monkeypatch.setattr("force_tf.masks._MOST_WEIGHTS", 1000)
    masks = Masks({"a": np.ones(1000, bool)})
    masks.save(tmp_path / "masks.npz")
    assert Masks.load(tmp_path / "masks.npz") == masks
    Masks({"a": np.ones(1000, bool), "b": np.ones(1, bool)}).save(tmp_path / "masks.npz")
    with pytest.raises(ValueError, match="masks of 1,001 weights, more than 1,000"):
        Masks.load(tmp_path / "masks.npz")
