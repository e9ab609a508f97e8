"""Files that appear whole or not at all: what is written through links, to devices, and left by killed processes."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import force_tf
from force_tf.support.files import atomic_file

_UNFINISHED = """
import sys, time
from force_tf.support.files import atomic_file
with atomic_file(sys.argv[1]) as file:
    file.write(b"half")
    print("open", flush=True)
    time.sleep(60)
"""


def write(path, content=b"new"):
    with atomic_file(path) as file:
        file.write(content)


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_written(exists, tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    if exists:
        target.write_bytes(b"old")
    link.symlink_to("folder/target")
    write(link)
    assert link.is_symlink()
    assert not target.is_symlink()
    assert target.read_bytes() == b"new"
    assert os.listdir(target.parent) == ["target"]


def test_masks_are_saved_through_a_link(tmp_path):
    (tmp_path / "link.npz").symlink_to("masks.npz")
    masks = force_tf.Masks({"dense/kernel": np.eye(3, dtype=bool)})
    masks.save(tmp_path / "link.npz")
    assert (tmp_path / "link.npz").is_symlink()
    assert force_tf.Masks.load(tmp_path / "masks.npz") == masks


def test_what_is_no_regular_file_is_refused_and_stays(tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to(os.devnull)
    before = sorted(os.listdir(tmp_path))
    for path in [*tmp_path.iterdir(), os.devnull]:
        with pytest.raises(OSError, match=r"Expected the path of a regular file.*Received: '.*'$"):
            write(path)
    assert sorted(os.listdir(tmp_path)) == before
    assert not os.path.isfile(os.devnull)


def test_the_mode_is_that_of_a_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write(tmp_path / "written")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(os.name != "posix", reason="only there a process can be looked up without harm")
def test_what_a_killed_process_left_is_removed_but_nothing_of_a_live_one(tmp_path):
    path = tmp_path / "masks.npz"
    with subprocess.Popen([sys.executable, "-c", _UNFINISHED, path], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        write(path)
        write(tmp_path / "other")
        assert len(list(tmp_path.glob(".*.tmp"))) == 1, "the file of a live process"
        process.send_signal(signal.SIGKILL)
        process.wait()
    write(tmp_path / "other")
    assert len(list(tmp_path.glob(".*.tmp"))) == 1, "another file is not ours to judge"
    write(path)
    assert sorted(os.listdir(tmp_path)) == ["masks.npz", "other"]
