"""Several processes search together: they agree, the first one writes files, and a lost one is told of."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from force_tf.search import workers
from force_tf.search.workers import Workers

SCRIPT = pathlib.Path(__file__).parents[1] / "helpers" / "searching_worker.py"
LIMIT = 300  # seconds, on a machine that does other things too


class Two:
    """A distribution over two processes, of which the other one gives other content, or none."""

    workers, is_chief = 2, False

    def __init__(self, other):
        self._other = other

    def of_all_workers(self, numbers):
        return np.stack([numbers, numbers if self._other is None else np.frombuffer(self._other, np.int32)])

    def from_chief(self, content):
        return self._other


def test_what_differs_is_told(monkeypatch):
    monkeypatch.setattr(workers, "distribution_of_model", lambda model: Two(b"\1" * 32))
    with pytest.raises(ValueError, match=r"Expected the same masks on every worker: .* Received: others on worker 1"):
        Workers(None).check_same("masks", lambda: b"mine", "seed")
    monkeypatch.setattr(workers, "distribution_of_model", lambda model: Two(None))
    Workers(None).check_same("masks", lambda: b"mine", "seed")


def test_others_have_what_the_chief_tells_them(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "distribution_of_model", lambda model: Two(b"17"))
    of_two = Workers(None)
    assert of_two.agree(5) == 17
    assert of_two.common_seed(None) == 17
    assert of_two.common_seed(3) == 3
    assert of_two.content_of(str(tmp_path / "missing")) == b"7"  # behind the mark that there is a file


def test_one_process_asks_nobody(monkeypatch):
    monkeypatch.setattr(workers, "distribution_of_model", lambda model: None)
    alone = Workers(None)
    assert alone.is_chief
    assert alone.common_seed(None) is None
    alone.check_same("masks", lambda: pytest.fail("needless"), "seed")


def search(module, folder, fatal=None):
    """Runs two workers to their end, and returns what each printed and its exit code.

    Args:
        module: "keras" or "tf_keras".
        folder: Where checkpoints lie.
        fatal: The index of a worker that kills itself in step 6, or None.
    """
    with socket.socket() as one, socket.socket() as other:
        sockets = (one, other)
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = ",".join(str(each.getsockname()[1]) for each in sockets)
    started = []
    try:
        for index in range(2):
            command = [sys.executable, SCRIPT, str(index), ports, module, str(folder), "6" if index == fatal else "0"]
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        ended = [process.communicate(timeout=LIMIT) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    lines = [[json.loads(line) for line in out.splitlines() if line.startswith("[")] for out, _ in ended]
    if fatal is None:
        assert [process.returncode for process in started] == [0, 0], [error[-3000:] for _, error in ended]
    return lines, [process.returncode for process in started]


@pytest.mark.slow
@pytest.mark.parametrize("module", ["keras", "tf_keras"])
def test_two_workers_find_the_masks_of_one_device(module, tmp_path):
    lines, _ = search(module, tmp_path)
    expected = [["force", 0, 10], ["grasp", 0, 1], ["prospr", 0, 1], ["iter_snip", 0, 10]]
    assert [worker[:-1] for worker in lines] == [expected, expected]
    (name, returned, moved, digest), other = (worker[-1] for worker in lines)
    assert (name, returned, moved) == ("trained", 0, True)
    assert other[-1] == digest
    assert sorted(os.listdir(tmp_path)) == sorted(f"{name}-0" for name, *_ in expected)  # the chief's alone


@pytest.mark.slow
@pytest.mark.parametrize(("module", "fatal"), [("keras", 1), ("tf_keras", 0)])
def test_a_search_that_lost_a_worker_goes_on_where_it_was(module, fatal, tmp_path):
    lines, codes = search(module, tmp_path, fatal)
    survivor = 1 - fatal
    assert codes[fatal] == -9
    assert codes[survivor] == 3
    (kind, name, message) = lines[survivor][-1]
    assert (kind, name) == ("error", "LostWorkerError"), lines
    assert "Expected all 2 workers to go on to the end" in message
    lines, _ = search(module, tmp_path)
    assert [worker[0] for worker in lines] == [["force", 0, 5]] * 2  # five of ten steps were done
