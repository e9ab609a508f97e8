"""The example scripts run from a shell, go on after interruptions, and explain wrong flags."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tf_keras
from absl import flags
from absl.testing import flagsaver

import force_tf

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))

# isort: split
import prune_and_train  # noqa: E402


def command(script, *flags):
    return [sys.executable, str(ROOT / script), *flags]


def run(script, *flags):
    # Results must not depend on the folder in which a script is started.
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        command(script, *flags), capture_output=True, text=True, check=False, env=environment, timeout=280
    )


def assert_refused(script, *flags, message):
    """Checks that a script ends with a sentence."""
    result = run(script, *flags)
    assert result.returncode != 0
    assert message in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def tiny(folder):
    return (
        "--dataset=digits",
        "--network=lenet_300_100",
        "--sparsity=0.9",
        "--steps=3",
        "--epochs=6",
        "--batch_size=32",
        f"--output_dir={folder}",
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a small run of prune_and_train, from start to end."""
    folder = tmp_path_factory.mktemp("finished")
    result = run("examples/prune_and_train.py", *tiny(folder))
    assert result.returncode == 0, result.stderr
    return folder


def read_results(folder):
    return json.loads((folder / "results.json").read_text())


def test_quickstart(tmp_path):
    result = run("examples/quickstart.py", "--epochs=1", f"--output_dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert result.stderr == "", "nothing but the table belongs on the terminal"
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line.endswith(" ms")}
    assert list(rows) == ["dense", "random", "snip", "force"], result.stdout
    sizes = {name: (tmp_path / f"{name}.tflite").stat().st_size for name in rows}
    assert all(f"{size:,} bytes" in rows[name] for name, size in sizes.items()), result.stdout
    assert sizes["force"] < sizes["dense"] / 5
    for name in ("accuracy", "density", "search"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name
    assert force_tf.get_masks(keras.saving.load_model(tmp_path / "force.keras")).sparsity == pytest.approx(
        0.98, abs=1e-4
    )


@pytest.mark.slow
def test_prune_for_phones(tmp_path):
    flags = ("--sparsities=0,0.9", "--method=snip", "--epochs=1", "--limit=200")
    result = run("examples/prune_for_phones.py", *flags, f"--output_dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert result.stderr == "", "nothing but the table belongs on the terminal"
    assert "  dense kernels\n" in result.stdout
    assert "  sparse kernels\n" in result.stdout
    assert not force_tf.check_tflite(tmp_path / "sparsity_0.tflite").sparse
    assert force_tf.check_tflite(tmp_path / "sparsity_0.9.tflite").sparse
    assert (tmp_path / "accuracy_and_work.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_phones_prints_a_table_and_goes_on(tmp_path):
    output = tmp_path / "phones.jsonl"
    key = {"network": "MobileNetV2", "size": 96, "quantize": None, "block": 1}
    more = {"bytes": 2_000_000, "multiply_adds": 1e6, "rewrites": {}, "difference": 0.0}
    times = [{"arm": 1000.0, "this machine": 5.0}, {"arm": 250.0, "this machine": 5.5}]
    lines = [{**key, **more, "sparsity": sparsity, "times": each} for sparsity, each in zip((0.0, 0.9), times)]
    output.write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = ("--networks=MobileNetV2", "--sparsities=0.9", "--nofloat16", "--noint8", "--emulators=")
    result = run("benchmarks/phones.py", *names, f"--output={output}")
    assert result.returncode == 0, result.stderr
    table = [line for line in result.stdout.splitlines() if line.startswith("|")]
    assert table[:3] == ["| arm, ms | dense | 90% |", "|---|---|---|", "| MobileNetV2, 96 | 1,000 | 250 (4.0x) |"]
    assert "| MobileNetV2, 96 | 5.00 | 5.50 |" in table
    assert "| MobileNetV2, 96 | 2,000 | 2,000 |" in table


@pytest.mark.slow
def test_single_operations_are_timed():
    result = run("benchmarks/emulated_operations.py", "--emulators=", "--pixels=8", "--sizes=32")
    assert result.returncode == 0, result.stderr
    assert all(float(cell) > 0 for cell in re.findall(r"^\| [a-z0-9 ]+ \| ([0-9.]+) \|$", result.stdout, re.MULTILINE))
    # By the table of its paper (1905.11946): the stem, of each block the expansion, the depthwise convolution and the
    # gate, and the head.
    assert "EfficientNetB0 at 32x32 computes swish of 126,044 numbers" in result.stdout


@pytest.mark.slow
def test_phone_accuracy_trains_exports_and_goes_on(tmp_path):
    output, plot = tmp_path / "accuracy.jsonl", tmp_path / "accuracy.png"
    setting = {"network": "MobileNet", "seed": 0, "alpha": 0.25, "epochs": 1, "learning_rate": 0.1}
    done = {**setting, "method": "dense", "sparsity": 0.0, "limit": 128, "test_limit": 128}
    file = {"accuracy": 0.625, "bytes": 870_000, "multiply_adds": 3_854_848, "times": {"this machine": 0.1}}
    output.write_text(json.dumps({**done, "files": {"float32": file}}) + "\n")
    few = ("--dataset=digits", "--limit=128", "--test_limit=128", "--epochs=1", "--networks=MobileNet")
    ways = ("--methods=dense,channels", "--channel_sparsities=0.5", f"--output={output}", f"--plot={plot}")
    result = run("benchmarks/phone_accuracy.py", *few, *ways)
    assert result.returncode == 0, result.stderr
    dense, channels = (json.loads(line) for line in output.read_text().splitlines())
    assert dense["files"]["float32"] == file, "trained again"
    assert list(channels["files"]) == ["float32", "int8"]
    assert channels["files"]["float32"]["multiply_adds"] < 0.8 * file["multiply_adds"]
    assert channels["files"]["int8"]["bytes"] < channels["files"]["float32"]["bytes"] < file["bytes"]
    assert "| MobileNet | – | 0% | float32 | 62.5% | 3.85 M | 870 | 0.10 |" in result.stdout
    assert "| MobileNet | channels | 50% | int8 |" in result.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_shrink_and_train(tmp_path):
    result = run("examples/shrink_and_train.py", "--steps=10", "--epochs=1", "--limit=300", f"--output_dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert result.stderr == "", "nothing but the tables belongs on the terminal"
    results = read_results(tmp_path)
    small = keras.saving.load_model(tmp_path / "small.keras")
    channels = {row["path"]: row["channels_after"] for row in results["report"]["layers"]}
    assert channels == {layer.name: layer.output.shape[-1] for layer in small.layers if layer.name in channels}, (
        "the report is not of the network that was trained"
    )
    assert sum(channels.values()) < sum(row["channels_before"] for row in results["report"]["layers"])
    assert results["pruned and shrunk"]["tflite"]["bytes"] == (tmp_path / "small.tflite").stat().st_size
    for name in ("channels", "accuracy"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name
    assert f"{results['dense']['tflite']['bytes']:,} bytes" in result.stdout


def test_prune_while_training(tmp_path):
    flags = (
        "--methods=gmp,rigl,granet_st,snap_it",
        "--sparsity=0.8",
        "--epochs=2",
        "--limit=320",
        f"--output_dir={tmp_path}",
    )
    result = run("examples/prune_while_training.py", *flags)
    assert result.returncode == 0, result.stderr
    assert result.stderr == "", "nothing but the table belongs on the terminal"
    results = read_results(tmp_path)
    assert list(results) == ["dense", "gmp", "rigl", "granet_st", "snap_it"]
    assert results["granet_st"]["updates"][0]["density"] < 0.5
    assert results["granet_st"]["history"][-1]["density"] == pytest.approx(0.2, abs=1e-3)
    assert 0.1 < results["snap_it"]["history"][-1]["density"] <= 0.2  # whole channels, no more
    for method in ("gmp", "rigl"):
        assert results[method]["history"][-1]["density"] == pytest.approx(0.2, abs=1e-3)
        assert results[method]["updates"][0]["step"] == 0
        assert f"{results[method]['tflite']['bytes']:,} bytes" in result.stdout
    for name in ("density", "accuracy"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name


def test_prune_and_train_writes_everything(finished):
    results = read_results(finished)
    assert results["settings"]["method"] == "force"
    assert results["versions"]["keras"] == keras.__version__
    assert results["tflite"]["bytes"] == (finished / "model.tflite").stat().st_size
    assert [row["epoch"] for row in results["history"]] == [1, 2, 3, 4, 5, 6]
    assert results["test_accuracy"] > 0.5, "ten digits: guessing would give 0.1"

    masks = force_tf.Masks.load(finished / "masks.npz")
    assert (masks.kept, masks.total) == (results["kept_weights"], results["prunable_weights"]) == (5020, 50200)
    model = keras.saving.load_model(finished / "model.keras")
    for layer in ("dense_1", "dense_2", "logits"):
        kernel = model.get_layer(layer).kernel.numpy()
        assert np.all(kernel[~masks[f"{layer}/kernel"]] == 0), f"pruned weights of {layer} are not zero"
    assert list((finished / "logs").rglob("events.*")), "no TensorBoard logs"
    assert {path.name for path in finished.glob("*.png")} == {"accuracy.png", "density.png", "search.png"}
    assert not list(finished.glob(".*")), "half-written files were left"


def test_a_finished_run_does_nothing_more(finished, capsys):
    before = (finished / "results.json").stat().st_mtime_ns
    settings = read_results(finished)["settings"]
    prune_and_train.run(settings, str(finished), None)
    assert "finished already" in capsys.readouterr().out
    assert (finished / "results.json").stat().st_mtime_ns == before


def test_a_folder_of_another_run_is_refused(finished):
    settings = read_results(finished)["settings"] | {"seed": 7}
    with pytest.raises(ValueError, match=r"--seed=0.*Received: --seed=7$"):
        prune_and_train.run(settings, str(finished), None)


@pytest.fixture
def heard_interruptions():
    """Where tests run in the background, interruptions are ignored, and processes inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard_interruptions")
def test_an_interrupted_training_ends_as_if_it_had_not_been(finished, tmp_path):
    for stop, epoch in ((signal.SIGKILL, 3), (signal.SIGINT, 5)):
        process = subprocess.Popen(
            command("examples/prune_and_train.py", *tiny(tmp_path)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        next(line for line in process.stdout if line.startswith(f"Epoch {epoch}/"))
        process.send_signal(stop)
        output = process.communicate(timeout=100)[0]
        assert process.returncode != 0, output
        assert not (tmp_path / "results.json").exists(), output
    assert "Run the same command again to go on." in output
    assert "Traceback" not in output

    resumed = run("examples/prune_and_train.py", *tiny(tmp_path))
    assert resumed.returncode == 0, resumed.stderr
    assert "Going on after epoch" in resumed.stdout
    losses = [[row["loss"] for row in read_results(folder)["history"]] for folder in (tmp_path, finished)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    weights = [keras.saving.load_model(f / "model.keras").get_weights() for f in (tmp_path, finished)]
    for resumed_weight, weight in zip(*weights):
        np.testing.assert_allclose(resumed_weight, weight, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_same_on_tf_keras(tmp_path):
    """Killed once, so that a wrapped model is loaded in another process than the one that saved it."""
    flags = (*tiny(tmp_path), "--keras=tf_keras")
    process = subprocess.Popen(
        command("examples/prune_and_train.py", *flags), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    next(line for line in process.stdout if line.startswith("Epoch 3/"))
    process.kill()
    process.communicate(timeout=100)
    resumed = run("examples/prune_and_train.py", *flags)
    assert resumed.returncode == 0, resumed.stderr
    assert "Going on after epoch" in resumed.stdout
    results = read_results(tmp_path)
    assert results["versions"]["tf_keras"] == tf_keras.__version__
    assert results["test_accuracy"] > 0.5, "ten digits: guessing would give 0.1"
    masks = force_tf.Masks.load(tmp_path / "masks.npz")
    model = tf_keras.saving.load_model(tmp_path / "model.keras")
    for layer in ("dense_1", "dense_2", "logits"):
        kernel = model.get_layer(layer).kernel.numpy()
        assert np.all(kernel[~masks[f"{layer}/kernel"]] == 0), f"pruned weights of {layer} are not zero"


def test_dense_baseline(finished, tmp_path, capsys):
    settings = read_results(finished)["settings"] | {"method": "dense", "epochs": 1, "limit": 100}
    prune_and_train.run(settings, str(tmp_path), None)
    assert read_results(tmp_path)["kept_weights"] is None
    assert not (tmp_path / "masks.npz").exists()
    assert "Test accuracy" in capsys.readouterr().out


@pytest.mark.slow
def test_update_cost_times_steps_and_updates():
    tiny = ("--widths=8", "--steps=6", "--rounds=1", "--batch_size=8", "--methods=granet,annealing")
    result = run("benchmarks/update_cost.py", *tiny)
    assert result.returncode == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["granet", "annealing"]


@pytest.mark.slow
def test_growth_times_each_stage_and_weighs_a_search():
    result = run("benchmarks/growth.py", "--layers=2,4", "--weights=0.01", "--steps=1")
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[0] for row in rows if row[:1] in (["2"], ["4"], ["0.01"])] == ["2", "4", "0.01", "0.01"]
    assert re.fullmatch(r"  force search [\d,]+, [+-][\d.]+ copies", result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_workers_are_timed_and_their_traffic_is_counted():
    result = run("benchmarks/workers.py", "--weights=0.1", "--rows=4", "--steps=4")
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["one_device:", "two_devices:", "two_workers:"]
    assert float(rows[-1][-4]) > 0.5, "two workers send each other gradients of 0.4 MiB"


def test_mnist_results_prints_a_table_and_goes_on(tmp_path):
    output = tmp_path / "results.jsonl"
    setting = {"seed": 0, "epochs": 1, "learning_rate": 0.1, "limit": None}
    cells = {("lenet_5", "dense", 0.0): [1.0, 2.0, 3.0], ("lenet_5", "force", 0.99): [4.0]}
    with output.open("w") as file:
        for (network, method, sparsity), errors in cells.items():
            for seed, error in enumerate(errors):
                row = setting | {"network": network, "method": method, "sparsity": sparsity, "seed": seed}
                file.write(json.dumps({"setting": row, "error": error, "collapsed": method == "force"}) + "\n")
    result = run(
        "benchmarks/mnist_results.py",
        f"--output={output}",
        "--tables_only",
        "--lenet_5_epochs=1",
        "--learning_rate=0.1",
    )
    assert result.returncode == 0, result.stderr
    assert "| dense | – | – | 2.00 ± 1.00 | 2.00 ± 1.00 | – |" in result.stdout
    assert "| force | – | – | – | 4.00 (1 of 1 collapsed) | – |" in result.stdout
    assert "| SNIP, as published | 1.6 | 2.4 | 0.8 | 1.1 | – |" in result.stdout


@pytest.mark.slow
def test_force_figures_goes_on_where_it_was(tmp_path):
    output = tmp_path / "results.jsonl"
    tiny = ("--dataset=digits", "--sanity_dataset=digits", "--limit=64", "--network=lenet_300_100", "--steps=1,2")
    few = ("--deep=lenet_300_100", "--structure_methods=snip,force", "--methods=snip", "--epochs=1", "--seeds=1")
    result = run("benchmarks/force_figures.py", *tiny, *few, f"--output={output}", f"--figures={tmp_path}")
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["experiment"] for row in rows] == ["schedules"] * 5 + ["structure"] * 2 + ["sanity"] * 3
    assert [sum(kept for kept, _ in row["layers"].values()) for row in rows[5:7]] == [50, 50]  # of 50,200 on 8x8 pixels
    assert {path.name for path in tmp_path.glob("*.png")} == {
        f"force_{name}.png" for name in ("schedules", "structure", "sanity")
    }
    output.write_text("".join(f"{json.dumps(row)}\n" for row in rows[:-1]))
    again = run("benchmarks/force_figures.py", *tiny, *few, f"--output={output}", "--experiments=sanity")
    assert again.returncode == 0, again.stderr
    assert len(output.read_text().splitlines()) == 10


@pytest.mark.slow
def test_prune_to_budget(tmp_path):
    budgets = ["flops=0.5", "file_bytes=0.6"]
    tiny = ("--dataset=digits", "--alpha=0.1", "--limit=64", "--epochs=1", "--batch_size=32", "--method=snip")
    settings = (*tiny, "--size=32", f"--output_dir={tmp_path}")
    result = run("examples/prune_to_budget.py", *settings, f"--budgets={budgets[0]}")
    assert result.returncode == 0, result.stderr
    again = run("examples/prune_to_budget.py", *settings, f"--budgets={','.join(budgets)}")
    assert again.returncode == 0, again.stderr
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [row["budget"] for row in rows] == ["dense", *budgets], "what is there is not run again"
    for row in rows[1:]:
        name, _, part = row["budget"].partition("=")
        assert row[name] <= float(part) * rows[0][name]
        assert (tmp_path / f"{row['budget'].replace('=', '_')}.tflite").stat().st_size == row["file_bytes"]
        assert f"{row['budget']:<20}" in again.stdout
    assert (tmp_path / "budgets.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--budgets=flops=0", "expected some of flops=NUMBER, parameters=NUMBER"),
        ("--budgets=latency=3", "with positive numbers"),
        ("--method=forse", "Expected `method` to be one of"),
        ("--alpha=0", "alpha=0"),
        ("--size=16", "size=16"),
    ],
)
def test_prune_to_budget_explains_wrong_flags(flag, message, tmp_path):
    assert_refused("examples/prune_to_budget.py", flag, f"--output_dir={tmp_path / 'new'}", message=message)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_accuracy_over_sparsity_goes_on_and_prints_tables(tmp_path):
    output = tmp_path / "results.jsonl"
    tiny = ("--dataset=digits", "--images=64", "--epochs=1", "--vgg19_width=0.05", "--networks=vgg19", "--seeds=0")
    settings = (*tiny, "--methods=dense,random_erk,grasp_it", "--sparsities=0.9", f"--output={output}")
    result = run("benchmarks/accuracy_over_sparsity.py", *settings)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(row["method"], row["sparsity"]) for row in rows] == [("dense", 0), ("random_erk", 0.9), ("grasp_it", 0.9)]
    assert all(row["kept"] == round(0.1 * row["total"]) for row in rows[1:])
    again = run("benchmarks/accuracy_over_sparsity.py", *settings, f"--figures={tmp_path}")
    assert again.returncode == 0, again.stderr
    assert len(output.read_text().splitlines()) == 3, "what is there is not run again"
    assert f"| random_erk | {rows[1]['accuracy']:.1f}" in again.stdout
    assert (tmp_path / "accuracy_over_sparsity.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--methods=forse", "expected some of dense, random"),
        ("--sparsities=0.9,1", "expected fractions in [0, 1)"),
        ("--seeds=a", "expected whole numbers of at least 0"),
        ("--networks=lenet_5", "expected some of vgg19_16px, vgg19, resnet50, vgg11"),
    ],
)
def test_accuracy_over_sparsity_explains_wrong_lists(flag, message):
    assert_refused("benchmarks/accuracy_over_sparsity.py", flag, message=message)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--sparsity=1", r"sparsity=1.0: expected a fraction in \[0, 1\)"),
        ("--sparsity=nan", r"expected a fraction in \[0, 1\)"),
        ("--method=forse", r"method=forse.*force\|iter_snip\|snip"),
        ("--network=vgg12", r"network=vgg12.*vgg11\|vgg13"),
        ("--epochs=0", "epochs=0"),
        ("--steps=0", "steps=0"),
    ],
)
def test_wrong_flags_are_refused_when_they_are_parsed(flag, message):
    with flagsaver.flagsaver(), pytest.raises(flags.IllegalFlagValueError, match=message):
        flags.FLAGS(["prune_and_train", flag])


def test_bad_settings_get_a_sentence_and_no_traceback():
    flags = ("--dataset=digits", "--network=lenet_300_100", "--output_dir=/dev/null/run")
    assert_refused("examples/prune_and_train.py", *flags, message="Received: '/dev/null/run'")


SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for folder in ("examples", "benchmarks")
    for path in (ROOT / folder).glob("*.py")
    if 'if __name__ == "__main__":' in path.read_text()
)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_word_that_is_no_flag_is_refused(script):
    assert_refused(script, "sparsity=0.9", message="Expected flags such as --")


def test_help_explains():
    assert "python examples/prune_and_train.py --dataset=cifar10" in prune_and_train.__doc__
    assert "The fraction of the prunable weights to remove" in flags.FLAGS.module_help(prune_and_train)
