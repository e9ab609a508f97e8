"""`python -m force_tf`: every command on files of small networks, what it prints, and how it fails."""

import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import force_tf
from force_tf.cli.main import main, parser

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A compiled model, data for it, and a pruned model with its masks."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    np.savez(folder / "data.npz", x=rng.normal(size=(64, 8)).astype("float32"), y=rng.integers(0, 3, 64))
    np.save(folder / "inputs.npy", rng.normal(size=(64, 8)).astype("float32"))
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(16, "relu", name="one"), layers.Dense(3, activation="softmax", name="two")]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.save(folder / "model.keras")
    # By hand: 8 x 16 weights, of which four channels keep none, and the others all eight.
    one = np.repeat(np.arange(16) >= 4, 8).reshape(16, 8).T
    masks = force_tf.Masks({"one/kernel": one, "two/kernel": np.ones((16, 3), bool)}, metadata={"method": "by hand"})
    masks.save(folder / "masks.npz")
    force_tf.apply_masks(model, masks).save(folder / "pruned.keras")
    return folder


def load(path):
    return keras.saving.load_model(path, compile=False)


def run(capsys, *arguments):
    """Returns the JSON value that a command prints."""
    assert main([*map(str, arguments), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments):
    """Returns the sentence with which a command fails."""
    assert main(list(map(str, arguments))) == 1
    output = capsys.readouterr()
    assert not output.out
    assert output.err.count("\n") == 1, output.err
    return output.err


@pytest.mark.parametrize("name", ["pruned.keras", "masks.npz"])
def test_inspect_counts_what_is_kept(folder, name, capsys):
    found = run(capsys, "inspect", folder / name)
    assert [(row["path"], row["weights"], row["kept"], row["dead_channels"]) for row in found["tensors"]] == [
        ("one/kernel", 128, 96, 4),
        ("two/kernel", 48, 48, 0),
    ]
    assert found["sparsity"] == pytest.approx(32 / 176)


def test_inspect_tells_what_a_model_costs(folder, capsys):
    found = run(capsys, "inspect", folder / "pruned.keras")
    assert (found["parameters"], found["prunable"]) == (8 * 16 + 16 + 16 * 3 + 3, 8 * 16 + 16 * 3)
    assert (found["multiply_adds"], found["multiply_adds_kept"]) == (176, 144)
    assert found["masked"]
    assert not run(capsys, "inspect", folder / "model.keras")["masked"]
    assert main(["inspect", str(folder / "pruned.keras")]) == 0
    assert "one/kernel  8x16       128    96   75.00%              4" in capsys.readouterr().out


def test_prune_writes_a_model_or_masks(folder, tmp_path, capsys):
    flags = ("--method=snip", "--sparsity=0.75", f"--data={folder / 'data.npz'}", "--seed=0")
    found = run(capsys, "prune", folder / "model.keras", tmp_path / "snip.keras", *flags)
    assert (found["kept"], found["total"]) == (44, 176)
    run(capsys, "prune", folder / "model.keras", tmp_path / "snip.npz", *flags)
    expected = force_tf.PruneAtInit("snip", sparsity=0.75, seed=0).find_masks(
        load(folder / "model.keras"),
        tuple(np.load(folder / "data.npz")[name] for name in "xy"),
        "sparse_categorical_crossentropy",
    )
    assert force_tf.Masks.load(tmp_path / "snip.npz") == expected
    assert force_tf.get_masks(load(tmp_path / "snip.keras")) == expected
    assert sorted(os.listdir(tmp_path)) == ["snip.keras", "snip.npz"], "something half-written was left"


def test_prune_takes_masks_blocks_and_layers(folder, tmp_path, capsys):
    run(capsys, "prune", folder / "model.keras", tmp_path / "a.keras", f"--masks={folder / 'masks.npz'}")
    again = force_tf.get_masks(load(tmp_path / "a.keras"))
    assert again == force_tf.Masks.load(folder / "masks.npz")
    flags = ("--method=magnitude", "--sparsity=0.5", "--granularity=1,4", "--layers=one")
    run(capsys, "prune", folder / "model.keras", tmp_path / "b.npz", *flags)
    masks = force_tf.Masks.load(tmp_path / "b.npz")
    assert list(masks) == ["one/kernel"]
    blocks = masks["one/kernel"].reshape(8, 4, 4).sum(axis=-1)
    assert set(blocks.ravel()) == {0, 4}


def test_prune_to_a_budget(folder, tmp_path, capsys):
    flags = ("--method=magnitude", "--granularity=channel", "--parameters=100", "--flops=0.5")
    found = run(capsys, "prune", folder / "model.keras", tmp_path / "small.keras", *flags)
    budget = found["metadata"]["budget"]
    # Of c channels by hand: 8c + c + 3c + 3 parameters, 8c + 3c multiply-adds. 100 leaves 8 of 16, half of 176 too.
    assert {name: (cost["budget"], cost["result"], cost["dense"]) for name, cost in budget.items()} == {
        "parameters": (100, 99, 195),
        "flops": (88, 88, 176),
    }
    costs = run(capsys, "inspect", tmp_path / "small.keras", "--costs")["costs"]
    assert (costs["parameters"], costs["flops"]) == ({"dense": 195, "left": 99}, {"dense": 176, "left": 88})
    written = {
        "dense": run(capsys, "export", folder / "model.keras", tmp_path / "dense.tflite")["bytes"],
        "left": force_tf.export_tflite(force_tf.shrink(load(tmp_path / "small.keras")), tmp_path / "left.tflite").bytes,
    }
    capsys.readouterr()
    for name, size in written.items():  # of networks that are not trained: equal biases are stored once
        assert 0 <= costs["file_bytes"][name] - size < 400
    assert main(["inspect", str(tmp_path / "small.keras"), "--costs"]) == 0
    assert re.search(r"^parameters +195 +99$", capsys.readouterr().out, re.MULTILINE)


def test_shrink_removes_dead_channels(folder, tmp_path, capsys):
    found = run(capsys, "shrink", folder / "pruned.keras", tmp_path / "small.keras")
    # Dead channels give relu(0): zero, so nothing is left of them.
    assert [(row["channels_before"], row["channels_after"]) for row in found["layers"]] == [(16, 12), (3, 3)]
    assert load(tmp_path / "small.keras").layers[0].units == 12


@pytest.mark.long
def test_export_inspect_and_benchmark(folder, tmp_path, capsys):
    report = run(capsys, "export", folder / "pruned.keras", tmp_path / "a.tflite", f"--c-array={tmp_path / 'a.c'}")
    assert report["bytes"] == (tmp_path / "a.tflite").stat().st_size
    assert f"a_len = {report['bytes']};" in (tmp_path / "a.c").read_text()
    found = run(capsys, "inspect", tmp_path / "a.tflite")
    assert {row["path"]: row["kept"] for row in found["tensors"] if "kernel" in row["path"]} == {
        "one/kernel": 96,
        "two/kernel": 48,
    }
    assert found["right_on_arm"]
    layers = run(capsys, "inspect", folder / "pruned.keras", "--sparse-kernels")["sparse_kernel_layers"]
    assert layers["paths"] == []
    assert layers["blocked"], "a network of dense layers alone has none"
    flags = ("--quantize=int8", f"--representative-data={folder / 'inputs.npy'}")
    assert run(capsys, "export", folder / "pruned.keras", tmp_path / "b.tflite", *flags)["quantize"] == "int8"
    times = run(capsys, "benchmark", tmp_path / "a.tflite", tmp_path / "b.tflite", "--runs=3")
    assert [each["runs"] for each in times] == [3, 3]
    assert all(each["without_delegate"]["median"] > 0 for each in times)
    assert main(["export", str(folder / "pruned.keras"), str(tmp_path / "a.tflite"), "--full"]) == 0
    assert "two/kernel" in capsys.readouterr().out


def test_what_is_wrong_gets_a_sentence_and_writes_nothing(folder, tmp_path, capsys):
    model, output = folder / "model.keras", tmp_path / "out.keras"
    assert "no file" in refused(capsys, "inspect", tmp_path / "missing.keras")
    assert "written by Masks.save" in refused(capsys, "inspect", folder / "data.npz")
    assert "ends with .keras or .h5 or .npz" in refused(capsys, "prune", model, tmp_path / "out.txt")
    assert "folder that exists" in refused(capsys, "prune", model, tmp_path / "no" / "out.keras")
    assert "to be in [0, 1)" in refused(capsys, "prune", model, output, "--sparsity=1")
    assert "force" in refused(capsys, "prune", model, output, "--method=forse")
    assert "Received" in refused(capsys, "prune", model, output, "--granularity=1,x")
    assert "data" in refused(capsys, "prune", model, output, "--method=snip")
    aims = ("--sparsity=0.5", "--flops=0.5")
    assert "either --masks, or --sparsity, or a budget" in refused(capsys, "prune", model, output, *aims)
    assert "Received: --masks=" in refused(
        capsys, "prune", model, output, f"--masks={folder / 'masks.npz'}", "--sparsity=0.5"
    )
    assert "--file-bytes" in refused(capsys, "prune", model, output, "--flops=0.5", "--quantize=int8")
    assert main(["prune", str(model), str(output), "--method=magnitude", "--parameters=3"]) == 1
    assert "the least" in capsys.readouterr().err  # after the bar of the search
    assert "arrays" in refused(capsys, "prune", model, output, f"--data={model}")
    assert "representative_data" in refused(
        capsys, "export", folder / "pruned.keras", tmp_path / "a.tflite", "--quantize=int8"
    )
    assert "absent_module" in refused(capsys, "inspect", model, "--load=absent_module")
    assert not list(tmp_path.iterdir())


def test_wrong_options_end_with_2(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["prune", "model.keras"])
    assert ended.value.code == 2
    assert "OUTPUT" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["prune", "model.keras", "small.keras", "--flops=half"])
    assert ended.value.code == 2
    assert "--flops: expected a fraction below 1 or a number" in capsys.readouterr().err


def test_an_interruption_ends_with_130(folder, monkeypatch, capsys):
    monkeypatch.setattr("force_tf.cli.commands.load_model", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["shrink", str(folder / "pruned.keras"), str(folder / "never.keras")]) == 130
    assert "No file was written" in capsys.readouterr().err


def test_every_option_is_explained():
    for command in parser()._subparsers._group_actions[0].choices.values():
        assert "python -m force_tf" in command.epilog
        assert all(action.help for action in command._actions)


@pytest.mark.long
def test_it_runs_as_a_module(folder):
    command = [sys.executable, "-m", "force_tf", "inspect", str(folder / "masks.npz"), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kind"] == "masks"
