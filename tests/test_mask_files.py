"""Mask files: what is saved is what is loaded, files appear whole or not at all, and broken ones are refused."""

import io
import json
import os
import stat
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from force_tf import Masks

ARRAYS = st.one_of(
    npst.arrays(bool, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7)),
    npst.arrays(bool, st.integers(0, 70)),
)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))


@pytest.fixture
def masks():
    random = np.random.default_rng(0)
    return Masks({"conv/kernel": random.random((3, 3, 4, 5)) < 0.5, "dense/kernel": random.random((20, 3)) < 0.1})


@settings(max_examples=60)
@given(
    arrays=st.dictionaries(st.text(min_size=1), ARRAYS, min_size=1, max_size=4),
    left_out=st.dictionaries(st.text(), st.text(), max_size=3),
    metadata=st.dictionaries(st.text(), JSON, max_size=3),
)
def test_what_is_saved_is_loaded(arrays, left_out, metadata):
    masks = Masks(arrays, left_out=left_out, metadata=metadata)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "masks.npz")
        masks.save(path)
        loaded = Masks.load(path)
    assert loaded == masks
    assert list(loaded) == list(arrays), "in model order"
    assert {path: mask.shape for path, mask in loaded.items()} == {path: mask.shape for path, mask in arrays.items()}
    assert (dict(loaded.left_out), loaded.metadata) == (left_out, metadata)


def test_files_hold_one_bit_per_weight(tmp_path):
    random = np.random.default_rng(0)
    masks = Masks({"a": random.random((1000, 80)) < 0.5})  # random bits cannot be compressed
    masks.save(tmp_path / "masks.npz")
    size = (tmp_path / "masks.npz").stat().st_size
    assert 10_000 <= size < 11_500, f"80,000 bits took {size} bytes"


def test_sparse_masks_take_fewer_bits_still(tmp_path):
    masks = Masks({"a": np.arange(80_000) % 1000 == 0})
    masks.save(tmp_path / "masks.npz")
    assert (tmp_path / "masks.npz").stat().st_size < 2_000


def test_files_hold_no_pickles(tmp_path, masks):
    masks.save(tmp_path / "masks.npz")
    with np.load(tmp_path / "masks.npz", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)


def test_the_name_is_taken_as_it_is(tmp_path, masks):
    masks.save(str(tmp_path / "masks"))
    assert os.listdir(tmp_path) == ["masks"]
    assert Masks.load(tmp_path / "masks") == masks


def test_a_name_alone_means_the_working_folder(tmp_path, masks, monkeypatch):
    monkeypatch.chdir(tmp_path)
    masks.save("masks.npz")
    assert Masks.load("masks.npz") == masks


def test_saving_replaces_an_older_file(tmp_path, masks):
    path = tmp_path / "masks.npz"
    masks.save(path)
    (~masks).save(path)
    assert Masks.load(path) == ~masks
    assert os.listdir(tmp_path) == ["masks.npz"]


def test_files_have_the_usual_mode(tmp_path, masks):
    masks.save(tmp_path / "masks.npz")
    (tmp_path / "plain").write_bytes(b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("masks.npz", "plain")]
    assert modes[0] == modes[1], f"expected {modes[1]:o}, saw {modes[0]:o}"


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("earlier", [None, b"what was there"])
def test_a_save_that_fails_leaves_the_folder_as_it_was(tmp_path, masks, monkeypatch, error, earlier):
    if earlier is not None:
        (tmp_path / "masks.npz").write_bytes(earlier)

    def write_half(file, **arrays):
        file.write(b"half")
        raise error

    monkeypatch.setattr(np, "savez_compressed", write_half)
    with pytest.raises(type(error)):
        masks.save(tmp_path / "masks.npz")
    left = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    assert left == ({} if earlier is None else {"masks.npz": earlier})


@pytest.mark.parametrize("name", ["missing/masks.npz", "file/masks.npz", "", "folder", "folder/"])
def test_a_place_that_cannot_be_written_is_refused_in_one_sentence(tmp_path, masks, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=rf"^Expected .*Received: '{name}'$"):
        masks.save(name)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert os.listdir(tmp_path / "folder") == []


def saved_bytes(masks) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        masks.save(os.path.join(folder, "masks"))
        with open(os.path.join(folder, "masks"), "rb") as file:
            return file.read()


def archive(header: object, **arrays) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, header=np.array(json.dumps(header)), **arrays)
    return file.getvalue()


def plain_file(save, *arguments, **arrays) -> bytes:
    file = io.BytesIO()
    save(file, *arguments, **arrays)
    return file.getvalue()


HEADER = {"format": "force_tf.masks", "version": 1, "tensors": [["a", [3, 3]]], "left_out": {}, "metadata": {}}
TWO_BYTES = np.zeros(2, np.uint8)  # what nine bits take
BROKEN = {
    "empty": b"",
    "text": b"conv/kernel: all\n",
    "random": np.random.default_rng(0).bytes(500),
    "zip_signature_alone": b"PK\x03\x04" + bytes(60),
    "pickle": b"\x80\x04N.",
    "npy": plain_file(np.save, np.zeros(3)),
    "npz_of_something_else": plain_file(np.savez, kernel=np.zeros(3)),
    "npz_of_objects": plain_file(np.savez, header=np.array([{"format": "force_tf.masks"}], dtype=object)),
    "header_that_is_no_json": plain_file(np.savez, header=np.array("{")),
    "header_that_is_a_list": archive([1, 2]),
    "another_format": archive({**HEADER, "format": "other"}, bits_0=TWO_BYTES),
    "newer_version": archive({**HEADER, "version": 2}, bits_0=TWO_BYTES),
    "version_0": archive({**HEADER, "version": 0}, bits_0=TWO_BYTES),
    "no_tensors": archive({**HEADER, "tensors": []}),
    "no_metadata": archive({key: HEADER[key] for key in HEADER if key != "metadata"}, bits_0=TWO_BYTES),
    "missing_bits": archive(HEADER),
    "too_few_bits": archive(HEADER, bits_0=np.zeros(1, np.uint8)),
    "too_many_bits": archive(HEADER, bits_0=np.zeros(3, np.uint8)),
    "bits_of_another_type": archive(HEADER, bits_0=np.zeros(2, np.float32)),
    "negative_shape": archive({**HEADER, "tensors": [["a", [-3, -3]]]}, bits_0=TWO_BYTES),
    "huge_shape": archive({**HEADER, "tensors": [["a", [10**12]]]}, bits_0=TWO_BYTES),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_file_that_is_no_mask_file_is_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "masks.npz"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"^Expected an intact file written by Masks\.save\. Received: '.*' \("
    ) as caught:
        Masks.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "pickle" not in str(caught.value), "nobody should be led to unpickle an unknown file"
    assert path.read_bytes() == content


def test_another_format_version_is_told(tmp_path):
    (tmp_path / "masks.npz").write_bytes(BROKEN["newer_version"])
    with pytest.raises(ValueError, match="format version 2, while this release reads 1"):
        Masks.load(tmp_path / "masks.npz")


def test_a_file_cut_short_anywhere_is_refused(tmp_path, masks):
    content = saved_bytes(masks)
    for length in range(0, len(content), 37):
        (tmp_path / "masks.npz").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"^Expected an intact file"):
            Masks.load(tmp_path / "masks.npz")


def test_a_flipped_byte_never_changes_masks_silently(tmp_path, masks):
    content = bytearray(saved_bytes(masks))
    for position in range(0, len(content), 11):
        content[position] ^= 0xFF
        (tmp_path / "masks.npz").write_bytes(content)
        content[position] ^= 0xFF
        try:
            loaded = Masks.load(tmp_path / "masks.npz")
        except ValueError:
            continue
        assert loaded == masks, f"byte {position} of {len(content)}"  # a date or another unused field


def test_a_missing_file_is_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^Expected .* Received: '.*missing.npz', which does not exist$"):
        Masks.load(tmp_path / "missing.npz")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^Expected .* Received: '.*' \(Is a directory\)$"):
        Masks.load(tmp_path)


def test_a_file_that_may_not_be_read_is_refused(tmp_path, masks, monkeypatch):
    masks.save(tmp_path / "masks.npz")

    def deny(*arguments, **options):  # file modes do not stop the superuser, as whom tests may run
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", deny)
    with pytest.raises(ValueError, match=r"Received: '.*masks.npz' \(Permission denied\)$"):
        Masks.load(tmp_path / "masks.npz")
