"""Prints the table of docs/shrink.md on accuracy: training a pruned network as it is, and shrunk.

    python benchmarks/shrink_accuracy.py --dataset=digits --network=small_convnet --sparsities=0.97 --seeds=8

Both are trained from the same weights, on the same batches in the same order. They compute the same function at first,
and differ by what dead channels learn: the biases and offsets that shrinking folds into the layers behind them.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import warnings
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read once, when TensorFlow is imported

import keras
import numpy as np
from absl import flags

import force_tf

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
import image_data
import networks
from list_flags import check_fractions
from script import run_script
from training import cross_entropy, train

_DATASET = flags.DEFINE_enum("dataset", "digits", image_data.NAMES, "The images to learn.")
_NETWORK = flags.DEFINE_enum("network", "small_convnet", networks.NAMES, "The network to prune.")
_SPARSITIES = flags.DEFINE_list("sparsities", ["0.9", "0.95", "0.97"], "Fractions of the weights that FORCE removes.")
_SEEDS = flags.DEFINE_integer("seeds", 8, "How many seeds of weights and batches.", lower_bound=2)
_EPOCHS = flags.DEFINE_integer("epochs", 20, "How often every training image is seen.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images in a batch.", lower_bound=2)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 0.1, "The learning rate to begin with.", lower_bound=0.0)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps its data. Default: its own folder.")
_OUTPUT = flags.DEFINE_string("output", "shrink_accuracy.jsonl", "A file with a line for each pair of trainings.")
check_fractions("sparsities")


def main() -> None:
    output = pathlib.Path(_OUTPUT.value)
    rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    setting = {"dataset": _DATASET.value, "network": _NETWORK.value, "epochs": _EPOCHS.value}
    data = image_data.load(_DATASET.value, _DATA_DIR.value)
    for sparsity in map(float, _SPARSITIES.value):
        for seed in range(_SEEDS.value):
            case = {**setting, "sparsity": sparsity, "seed": seed}
            if not any(case.items() <= row.items() for row in rows):
                rows.append(case | compare(data, sparsity, seed))
                print(rows[-1], file=sys.stderr)
                with output.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                keras.backend.clear_session()
    packages = ("tensorflow", "keras")
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    print(f"{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}\n")
    head = ("Network", "Sparsity", "Seeds", "Parameters", "As it is", "Shrunk", "Difference, paired")
    print("\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *summaries(rows))))


def compare(data: image_data.ImageData, sparsity: float, seed: int) -> dict[str, Any]:
    """Returns the test accuracy of a pruned network trained as it is, and of the same one shrunk before."""
    dense = networks.build(_NETWORK.value, data.input_shape, data.classes, seed)
    batches = data.train_batches(_BATCH_SIZE.value, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", force_tf.LayerCollapseWarning)  # `shrink` refuses such a network
        pruned = force_tf.PruneAtInit("force", sparsity, seed=seed).prune(
            dense, batches, cross_entropy(dense), verbose=0
        )
    try:
        small = force_tf.shrink(pruned)
    except force_tf.CollapsedError:
        return {"collapsed": True}
    found = {"parameters": [force_tf.strip_pruning(model).count_params() for model in (pruned, small)]}
    for name, model in (("as_it_is", pruned), ("shrunk", small)):
        settings = {"learning_rate": _LEARNING_RATE.value, "batch_size": _BATCH_SIZE.value, "epochs": _EPOCHS.value}
        found[name] = train(model, data, **settings, seed=seed, whole_epochs=True)[-1]["val_accuracy"]
    return found


def summaries(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Returns a row of the table for each network and sparsity: means, standard deviations over seeds in brackets."""
    lines = []
    for key in dict.fromkeys((row["dataset"], row["network"], row["sparsity"]) for row in rows):
        found = [row for row in rows if (row["dataset"], row["network"], row["sparsity"]) == key]
        trained = [row for row in found if "shrunk" in row]
        before, after = (100 * np.array([row[name] for row in trained]) for name in ("as_it_is", "shrunk"))
        sizes = np.mean([row["parameters"] for row in trained], axis=0)
        collapsed = f", {len(found) - len(trained)} collapsed" if len(trained) < len(found) else ""
        lines.append(
            [
                f"{key[1]}, {key[0]}",
                f"{key[2]:.1%}",
                f"{len(trained)}{collapsed}",
                f"{sizes[0]:,.0f} → {sizes[1]:,.0f}",
                *(f"{values.mean():.2f}% ({values.std(ddof=1):.2f})" for values in (before, after)),
                f"{(after - before).mean():+.2f} ± {(after - before).std(ddof=1) / np.sqrt(len(trained)):.2f}",
            ]
        )
    return lines


if __name__ == "__main__":
    run_script(main, "--sparsities=0.9", "Run the same command again to go on.")
