"""Several processes search together: they agree, the first one writes files, and a lost one is told of."""

import importlib
import json
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

import force_tf
from force_tf.search import workers
from force_tf.search.workers import Workers
from helpers.golden_cases import build, load

SCRIPT = pathlib.Path(__file__).parents[1] / "helpers" / "searching_worker.py"
EVERYWHERE = SCRIPT.with_name("settings_everywhere.py")
LIMIT = 600  # seconds, on a machine that does other things too


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
    ports = free_ports()
    commands = [[SCRIPT, str(index), ports, module, str(folder), "6" if index == fatal else "0"] for index in range(2)]
    lines, codes, errors = run(commands)
    if fatal is None:
        assert codes == [0, 0], errors
    return lines, codes


def free_ports():
    """Returns two ports of this machine, with a comma between them."""
    with socket.socket() as one, socket.socket() as other:
        sockets = (one, other)
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return ",".join(str(each.getsockname()[1]) for each in sockets)


def run(commands):
    """Runs Python scripts at once to their ends; returns each one's lines, exit code and last errors."""
    started = []
    try:
        for command in commands:
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            started.append(subprocess.Popen([sys.executable, *command], **pipes, text=True))
        ended = [process.communicate(timeout=LIMIT) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    lines = [[json.loads(line) for line in out.splitlines() if line.startswith("[")] for out, _ in ended]
    return lines, [process.returncode for process in started], [error[-3000:] for _, error in ended]


@pytest.mark.slow
@pytest.mark.parametrize("module", ["keras", "tf_keras"])
def test_two_workers_find_the_masks_of_one_device(module, tmp_path):
    lines, _ = search(module, tmp_path)
    expected = [["force", 0, 10], ["grasp", 0, 1], ["prospr", 0, 1], ["iter_snip", 0, 10]]
    assert [worker[:-1] for worker in lines] == [expected, expected]
    (name, returned, moved, digest), other = (worker[-1] for worker in lines)
    assert (name, returned, moved) == ("trained", 0, True)
    assert other[-1] == digest
    files = {path.name for path in tmp_path.iterdir()} - {"trained.npz"}
    assert files == {f"{name}-0" for name, *_ in expected}  # the chief's alone
    check_trained_as_on_one_device(importlib.import_module(module), tmp_path / "trained.npz")


def check_trained_as_on_one_device(keras, path):
    """By the loop of docs/scale.md in Keras 3, and by `fit` in tf_keras: as `fit` trains alone."""
    _, batches, _, golden = load("lenet")
    pruned = force_tf.apply_masks(build(keras, "lenet"), golden["iter_snip:d=0.05,T=10,B=1,ties"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pruned.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    x, y = (np.concatenate(parts) for parts in zip(*batches))
    pruned.fit(x, y, batch_size=len(batches[0][0]), shuffle=False, verbose=0)
    with np.load(path) as file:
        for weight, found in zip(pruned.trainable_weights, file.values(), strict=True):
            np.testing.assert_allclose(found, weight, rtol=1e-5, atol=1e-7)  # losses are float32


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("module", ["keras", "tf_keras"])
def test_every_setting_finds_the_masks_of_one_device(module, tmp_path):
    """On two replicas and with two workers: methods without a loss, kinds of cuts, tickets, masks that move."""
    start = [EVERYWHERE, module, str(tmp_path)]
    ports = free_ports()
    found = []
    for roles in (["alone"], ["replicas"], ["0", "1"]):
        lines, codes, errors = run([[*start, role, ports] for role in roles])
        assert codes == [0] * len(roles), (lines[0][-1], errors)
        found += lines
    alone, replicas, chief, other = found
    assert chief == other  # the weights that were trained too
    for lines in (alone, replicas, chief):
        assert lines[-1][0] == "weights"
        assert all(returned == 0 for _, _, *trained in lines[:-1] for returned in trained)
    assert replicas[:-1] == alone[:-1]
    assert chief[:-1] == alone[:-1]
    files = {f"{kind}-{role}" for kind in ("ticket", "log") for role in ("alone", "replicas", "0")}  # not worker 1's
    if module == "keras":
        files.remove("log-0")  # of a callback of `fit`, which fails with plain models there
    assert {path.name for path in tmp_path.iterdir()} == files


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
