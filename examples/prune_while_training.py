r"""Prunes a network while it trains, by several methods, and compares what comes out with the dense network.

    python examples/prune_while_training.py --sparsity=0.95 --methods=gmp,granet,rigl

Needs no download by default: the images are scikit-learn's handwritten digits. "rigl" and "set" train a sparse network
from the first step to the last, under random masks by Erdős–Rényi kernel, and "granet_st" is "granet" from half of the
weights, chosen so. The others start dense. "snap_it" prunes whole channels. On MNIST or CIFAR-10, of TensorFlow
Datasets:

    python examples/prune_while_training.py --dataset=cifar10 --network=resnet20 --epochs=160 --every=1000

The output folder receives the networks as TFLite files, all numbers (results.json) and plots: accuracy.png and, of the
weights that are left after each epoch, density.png.
"""

from __future__ import annotations

import quiet_tensorflow  # noqa: F401 (first, so that TensorFlow starts without its messages)

# isort: split
import importlib
from typing import Any

import image_data
import networks
from absl import flags
from figures import accuracy_figure, density_figure
from list_flags import check_names
from run_folder import RunFolder
from script import run_script
from training import cross_entropy, train

import force_tf

_START_SPARSE = ("granet_st", "rigl", "set")
_START_DENSE = ("gmp", "granet", "dpf", "fggp", "snip_it", "snap_it", "flipout", "greg", "greg_2", "annealing")
_METHODS_KNOWN = (*_START_DENSE, *_START_SPARSE)
_KERAS = flags.DEFINE_enum("keras", "keras", ("keras", "tf_keras"), "Keras 3, or the legacy Keras of tfmot.")
_DATASET = flags.DEFINE_enum("dataset", "digits", image_data.NAMES, "The images to learn.")
_NETWORK = flags.DEFINE_enum("network", "small_convnet", networks.NAMES, "The network to prune.")
_METHODS = flags.DEFINE_list("methods", ["gmp", "granet", "rigl"], f"Some of {', '.join(_METHODS_KNOWN)}.")
_SPARSITY = flags.DEFINE_float("sparsity", 0.95, "The fraction of the prunable weights to remove, in [0, 1).")
_EVERY = flags.DEFINE_integer("every", None, "Steps between two updates. Default: the method's own.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 30, "How often every training image is seen.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images in a batch.", lower_bound=2)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 0.1, "The learning rate to begin with.", lower_bound=0.0)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the weights, the batches and the masks.", lower_bound=0)
_LIMIT = flags.DEFINE_integer("limit", None, "Use only so many images, to try things out.", lower_bound=1)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "runs/prune_while_training", "Where everything goes.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps its data. Default: its own folder.")
flags.register_validator("sparsity", lambda value: 0 <= value < 1, "expected a fraction in [0, 1).")
check_names("methods", _METHODS_KNOWN)


def run() -> None:
    """Trains the networks, prints a table, and draws the plots."""
    folder = RunFolder(_OUTPUT_DIR.value)
    data = image_data.load(_DATASET.value, _DATA_DIR.value, _LIMIT.value)
    print(f"{'Network':<10}{'Accuracy':>10}{'Weights left':>14}{'TFLite file':>16}{'Epoch':>10}", flush=True)
    results, masks = {}, {}
    for method in ("dense", *_METHODS.value):
        model, rows, updates = _train(method, data)
        report = force_tf.export_tflite(model, folder / f"{method}.tflite", verbose=False)
        results[method] = {"history": rows, "updates": updates, "tflite": report.to_dict()}
        if method != "dense":
            masks[method] = force_tf.get_masks(model)
        density = rows[-1].get("density", 1.0)
        epoch = min(row["seconds"] for row in rows)
        size = f"{report.bytes:,} bytes"
        print(f"{method:<10}{rows[-1]['val_accuracy']:>10.2%}{density:>14.2%}{size:>16}{epoch:>8.2f} s", flush=True)
    folder.write_json("results.json", results)
    title = f"{_NETWORK.value} on {_DATASET.value}, at {_SPARSITY.value:.4g} sparsity"
    accuracies = {method: [row["val_accuracy"] for row in outcome["history"]] for method, outcome in results.items()}
    figures = {"accuracy.png": accuracy_figure(accuracies, title)}
    if masks:
        figures["density.png"] = density_figure(masks, title)
    folder.save_figures(figures)
    print(f"All files are in {folder.path}.")


def _train(method: str, data: image_data.ImageData) -> tuple[Any, list[dict[str, float]], list[dict[str, Any]]]:
    """Returns the trained network, a row of metrics per epoch, and a row per update of its masks."""
    module = importlib.import_module(_KERAS.value)
    model = networks.build(_NETWORK.value, data.input_shape, data.classes, _SEED.value, module=module)
    callbacks = []
    if method != "dense":
        callbacks.append(
            force_tf.callbacks.PruneDuringTraining(
                method.removesuffix("_st"),
                sparsity=_SPARSITY.value,
                initial_sparsity=_start(method),
                every=None if method in ("snip_it", "snap_it") else _EVERY.value,
                data=data.train_batches(_BATCH_SIZE.value, _SEED.value + 1),
                loss=cross_entropy(model),
                seed=_SEED.value,
            )
        )
        model = _masked(method, model)
    rows = train(
        model,
        data,
        learning_rate=_LEARNING_RATE.value,
        batch_size=_BATCH_SIZE.value,
        epochs=_EPOCHS.value,
        seed=_SEED.value,
        callbacks=callbacks,
    )
    return model, rows, callbacks[0].history if callbacks else []


def _masked(method: str, model: Any) -> Any:
    """Returns the network with the masks that a method starts from."""
    if method not in _START_SPARSE:
        return force_tf.apply_masks(model)
    at_random = force_tf.PruneAtInit("random", sparsity=_start(method), scope="erk", seed=_SEED.value)
    return at_random.prune(model, verbose=0)


def _start(method: str) -> float:
    """Returns the sparsity that a method starts from."""
    if method == "granet_st":
        return min(0.5, _SPARSITY.value)
    return _SPARSITY.value if method in _START_SPARSE else 0.0


if __name__ == "__main__":
    run_script(run)
