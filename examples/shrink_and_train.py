r"""Prunes a network at initialization, shrinks it, trains what is left, and compares it with the dense network.

    python examples/shrink_and_train.py --dataset=cifar10 --network=vgg19 --sparsity=0.995 --epochs=160

FORCE leaves whole channels without any live path at such sparsities. `force_tf.shrink` removes them, so that training
and the device pay only for the rest. With --granularity=channel whole channels are pruned, and all of the sparsity is
removed. A quick start that needs no download:

    python examples/shrink_and_train.py --dataset=digits --network=small_convnet --sparsity=0.97 --epochs=20

The output folder receives the shrunk, trained network (small.keras, small.tflite), the dense one as it was made
(dense.tflite), all numbers (results.json) and plots: channels.png shows every layer before and after.
"""

from __future__ import annotations

import quiet_tensorflow  # noqa: F401 (first, so that TensorFlow starts without its messages)

# isort: split
import sys
import warnings
from typing import Any

import image_data
import keras
import networks
from absl import flags
from figures import accuracy_figure, channels_figure
from run_folder import RunFolder
from script import run_script
from training import cross_entropy, for_use, train

import force_tf

_DATASET = flags.DEFINE_enum("dataset", "digits", image_data.NAMES, "The images to learn.")
_NETWORK = flags.DEFINE_enum("network", "small_convnet", networks.NAMES, "The network to prune.")
_METHOD = flags.DEFINE_enum("method", "force", ("force", "iter_snip", "snip", "synflow"), "How to find the masks.")
_SPARSITY = flags.DEFINE_float("sparsity", 0.97, "The fraction of the prunable weights to remove, in [0, 1).")
_GRANULARITY = flags.DEFINE_enum("granularity", "weight", ("weight", "channel"), "What is pruned as one.")
_STEPS = flags.DEFINE_integer("steps", None, "Steps of the search. Default: the method's own.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 20, "How often every training image is seen.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images in a batch.", lower_bound=2)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 0.1, "The learning rate to begin with.", lower_bound=0.0)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the weights, the batches and the search.", lower_bound=0)
_LIMIT = flags.DEFINE_integer("limit", None, "Use only so many images, to try things out.", lower_bound=1)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "runs/shrink_and_train", "Where everything goes.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps its data. Default: its own folder.")
flags.register_validator("sparsity", lambda value: 0 <= value < 1, "expected a fraction in [0, 1).")


def run() -> None:
    """Goes the whole way, and says what came out."""
    folder = RunFolder(_OUTPUT_DIR.value)
    data = image_data.load(_DATASET.value, _DATA_DIR.value, _LIMIT.value)
    dense = networks.build(_NETWORK.value, data.input_shape, data.classes, _SEED.value)
    pruned = _prune(dense, data)
    small = force_tf.shrink(pruned)
    report = force_tf.shrink_report(pruned, small)
    print(report.details())

    results: dict[str, Any] = {"report": report.to_dict()}
    histories = {}
    for name, model in (("dense", dense), ("pruned and shrunk", small)):
        print(f"Training the {name} network")
        rows = train(
            model,
            data,
            learning_rate=_LEARNING_RATE.value,
            batch_size=_BATCH_SIZE.value,
            epochs=_EPOCHS.value,
            seed=_SEED.value,
        )
        histories[name] = [row["val_accuracy"] for row in rows]
        results[name] = {"history": rows} | _export(model, folder, name.rpartition(" ")[-1])
    with folder.writing("small.keras") as path:
        for_use(small).save(path)
    folder.write_json("results.json", results)
    title = f"{_NETWORK.value} on {_DATASET.value}, {_METHOD.value} at {_SPARSITY.value:.4g} sparsity"
    folder.save_figures(
        {"channels.png": channels_figure(report, title), "accuracy.png": accuracy_figure(histories, title)}
    )
    _say_outcome(results)
    print(f"All files are in {folder.path}.")


def _prune(dense: keras.Model, data: image_data.ImageData) -> keras.Model:
    pruner = force_tf.PruneAtInit(
        _METHOD.value, _SPARSITY.value, steps=_STEPS.value, granularity=_GRANULARITY.value, seed=_SEED.value
    )
    batches = data.train_batches(_BATCH_SIZE.value, _SEED.value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", force_tf.LayerCollapseWarning)  # `shrink` refuses such a network
        return pruner.prune(dense, batches, cross_entropy(dense), verbose=1 if sys.stdout.isatty() else 2)


def _export(model: keras.Model, folder: RunFolder, name: str) -> dict[str, Any]:
    path = folder / ("small.tflite" if name == "shrunk" else f"{name}.tflite")
    report = force_tf.export_tflite(model, path, verbose=False)
    return {"tflite": report.to_dict(), "latency": force_tf.benchmark_tflite(path).to_dict()}


def _say_outcome(results: dict[str, Any]) -> None:
    print(f"\n{'Network':<20}{'Accuracy':>10}{'Epoch':>10}{'TFLite file':>16}{'Latency':>12}")
    for name in ("dense", "pruned and shrunk"):
        outcome = results[name]
        epoch = min(row["seconds"] for row in outcome["history"])
        accuracy = outcome["history"][-1]["val_accuracy"]
        size, latency = outcome["tflite"]["bytes"], outcome["latency"]["default"]["median"]
        print(f"{name:<20}{accuracy:>10.2%}{epoch:>8.2f} s{size:>10,} bytes{latency:>9.3f} ms")


if __name__ == "__main__":
    run_script(run)
