"""Exports in several threads leave the process as it was."""

import os
import subprocess
import sys
import textwrap

_PROGRAM = """
    import io, logging, os, sys, threading, warnings
    import keras
    import force_tf
    from force_tf.export.quiet import quiet

    def state():
        streams = [(os.fstat(number).st_dev, os.fstat(number).st_ino) for number in (1, 2)]
        return streams, sys.stdout, sys.stderr, logging.root.manager.disable, list(warnings.filters)

    def both(*actions):
        failures = []
        def run(action):
            try:
                action()
            except BaseException as error:
                failures.append(error)
        threads = [threading.Thread(target=run, args=[action]) for action in actions]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert not failures, failures

    # Each begins while the other is inside, and ends after it, unless one waits for the other.
    first, second = threading.Event(), threading.Event()
    def early():
        with quiet():
            first.set()
            second.wait(0.5)
    def late():
        first.wait()
        with quiet():
            second.set()
            os.write(2, b"chatter")
            threading.Event().wait(0.1)

    before = state()
    both(early, late)
    assert state() == before, "redirected for good"

    folder = sys.argv[1]
    def model(layers):
        return keras.Sequential([keras.Input((8,)), *(keras.layers.Dense(4, "relu") for _ in range(layers))])
    models = [model(1), model(4)]
    before = state()
    both(*(
        lambda model=model, index=index: force_tf.export_tflite(model, f"{folder}/{index}", verbose=False)
        for index, model in enumerate(models)
    ))
    assert state() == before, "redirected for good"
    print("heard")
"""


def test_streams_and_logging_are_restored_after_exports_in_two_threads(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(_PROGRAM), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "heard\n"
    assert "chatter" not in result.stderr
    assert sorted(os.listdir(tmp_path)) == ["0", "1"]
