r"""Prunes a network at initialization, trains what is left, and exports it to TFLite.

    python examples/prune_and_train.py --dataset=cifar10 --network=resnet20 --method=force --sparsity=0.95 --epochs=160

trains by the CIFAR protocol of the FORCE paper: SGD with learning rate 0.1, momentum 0.9 and weight decay 5e-4 on
batches of 128, a tenth of the learning rate after 3/7 and again after 5/7 of the epochs, random crops and mirroring.
A quick start that needs no download:

    python examples/prune_and_train.py --dataset=digits --network=lenet_300_100 --sparsity=0.95 --epochs=20

The output folder receives the masks (masks.npz), the trained model (model.keras, model.tflite), all numbers
(results.json), TensorBoard's logs (logs/) and plots. Run the same command again to go on after an interruption.
"""

from __future__ import annotations

import quiet_tensorflow  # noqa: F401 (first, so that TensorFlow starts without its messages)

# isort: split
import importlib
import platform
import sys
from typing import Any

import image_data
import keras
import networks
import numpy as np
import tensorflow as tf
from absl import flags
from figures import accuracy_figure, density_figure, search_figure
from run_folder import RunFolder
from script import run_script
from training import cross_entropy, for_use, train_resumably

import force_tf

METHODS = (
    *("force", "iter_snip", "snip", "grasp", "iter_grasp", "synflow", "synflow_l2", "ntk_sap"),
    *("px", "prospr", "early_ticket", "magnitude", "random", "dense"),
)

_SETTINGS = {
    flag.name
    for flag in (
        flags.DEFINE_enum("dataset", "cifar10", image_data.NAMES, "The images to learn."),
        flags.DEFINE_enum("keras", "keras", ("keras", "tf_keras"), "Keras 3, or the legacy Keras of tfmot."),
        flags.DEFINE_enum("network", "resnet20", networks.NAMES, "The network to prune."),
        flags.DEFINE_enum("method", "force", METHODS, "How to find the masks; dense: no pruning."),
        flags.DEFINE_float("sparsity", 0.95, "The fraction of the prunable weights to remove, in [0, 1)."),
        flags.DEFINE_integer("steps", None, "Steps of the search. Default: the method's own.", lower_bound=1),
        flags.DEFINE_enum(
            "schedule", None, ("exponential", "linear"), "How the density falls. Default: the method's own."
        ),
        flags.DEFINE_integer("batches", 1, "Batches that each step of the search averages over.", lower_bound=1),
        flags.DEFINE_integer("epochs", 160, "How often every training image is seen.", lower_bound=1),
        flags.DEFINE_integer("batch_size", 128, "Images in a batch, of the search and the training.", lower_bound=1),
        flags.DEFINE_float("learning_rate", 0.1, "The learning rate to begin with.", lower_bound=0.0),
        flags.DEFINE_float(
            "weight_decay", 5e-4, "PyTorch's weight decay: it is added to the gradients.", lower_bound=0.0
        ),
        flags.DEFINE_integer("seed", 0, "Seed of the weights, the batches and the search.", lower_bound=0),
        flags.DEFINE_integer("limit", None, "Use only so many images, to try things out.", lower_bound=1),
    )
}
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "The folder of this run. Default: runs/<dataset>_<network>_<method>_<sparsity>_seed<seed>."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where TensorFlow Datasets keeps its data. Default: its own folder, in your home."
)
flags.register_validator("sparsity", lambda value: 0 <= value < 1, "expected a fraction in [0, 1).")


def main() -> None:
    """Does what the flags say."""
    run({name: flags.FLAGS[name].value for name in sorted(_SETTINGS)}, _OUTPUT_DIR.value, _DATA_DIR.value)


def run(settings: dict[str, Any], output_dir: str | None, data_dir: str | None) -> None:
    """Does what is left to do of a run, and says what came out."""
    folder = RunFolder(output_dir or _default_folder(settings), settings)
    if folder.has("results.json"):
        print(f"This run is finished already: see {folder / 'results.json'}.")
        _say_outcome(folder.read_json("results.json"))
        return
    data = image_data.load(settings["dataset"], data_dir, settings["limit"])
    network = networks.build(
        settings["network"],
        data.input_shape,
        data.classes,
        settings["seed"],
        settings["weight_decay"],
        importlib.import_module(settings["keras"]),
    )
    masks = None
    if settings["method"] != "dense":
        masks = _masks(network, data, folder, settings)
        network = force_tf.apply_masks(network, masks)
    network, history = train_resumably(
        network,
        data,
        folder,
        learning_rate=settings["learning_rate"],
        batch_size=settings["batch_size"],
        epochs=settings["epochs"],
        seed=settings["seed"],
        verbose=1 if sys.stdout.isatty() else 2,
    )
    results = _export(network, masks, data, folder) | {
        "settings": settings,
        "versions": _versions(settings["keras"]),
        "history": history,
    }
    _plot(masks, results, folder)
    folder.write_json("results.json", results)  # the last file: it says that the run is finished
    folder.remove("checkpoint.keras")
    folder.remove("search")
    _say_outcome(results)
    print(f"All files are in {folder.path}.")


def _default_folder(settings: dict[str, Any]) -> str:
    return "runs/{dataset}_{network}_{method}_{sparsity}_seed{seed}".format(**settings)


def _masks(network: keras.Model, data: image_data.ImageData, folder: RunFolder, settings: dict) -> force_tf.Masks:
    """Searches the masks, or loads those of the run that was interrupted."""
    if folder.has("masks.npz"):
        return force_tf.Masks.load(folder / "masks.npz")
    pruner = force_tf.PruneAtInit(
        settings["method"],
        settings["sparsity"],
        steps=settings["steps"],
        schedule=settings["schedule"],
        batches=settings["batches"],
        seed=settings["seed"],
    )
    batches = data.train_batches(settings["batch_size"], settings["seed"])
    verbose = 1 if sys.stdout.isatty() else 2
    masks = pruner.find_masks(network, batches, cross_entropy(network), verbose=verbose, checkpoint=folder / "search")
    seconds = sum(row["seconds"] for row in pruner.history)  # those before an interruption too
    folder.write_json("search.json", {"seconds": seconds, "history": pruner.history})
    masks.save(folder / "masks.npz")
    return masks


def _export(network: keras.Model, masks: force_tf.Masks | None, data: image_data.ImageData, folder: RunFolder) -> dict:
    """Writes the models, and returns what there is to say about them."""
    loss, accuracy = network.evaluate(data.test_batches(), verbose=0)
    final = for_use(network)
    with folder.writing("model.keras") as path:
        final.save(path)
    report = force_tf.export_tflite(final, folder / "model.tflite", verbose=False)
    return {
        "test_accuracy": accuracy,
        "test_loss": loss,
        "prunable_weights": None if masks is None else masks.total,
        "kept_weights": None if masks is None else masks.kept,
        "collapsed": False if masks is None else masks.metadata["collapsed"],
        "search": None if masks is None else folder.read_json("search.json"),
        "tflite": report.to_dict(),
        "latency": force_tf.benchmark_tflite(folder / "model.tflite").to_dict(),
    }


def _versions(module: str) -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        module: importlib.import_module(module).__version__,
        "numpy": np.__version__,
        "force_tf": force_tf.__version__,
    }


def _plot(masks: force_tf.Masks | None, results: dict[str, Any], folder: RunFolder) -> None:
    settings = results["settings"]
    title = f"{settings['network']} on {settings['dataset']}, {settings['method']}"
    accuracies = [row["val_accuracy"] for row in results["history"]]
    plots = {"accuracy.png": accuracy_figure({settings["method"]: accuracies}, title)}
    if masks is not None:
        title = f"{title} at {masks.sparsity:.4g} sparsity"
        plots["density.png"] = density_figure({settings["method"]: masks}, title)
        plots["search.png"] = search_figure({settings["method"]: results["search"]["history"]}, title)
    folder.save_figures(plots)


def _say_outcome(results: dict[str, Any]) -> None:
    kept = ""
    if results["kept_weights"] is not None:
        kept = f" with {results['kept_weights']:,} of {results['prunable_weights']:,} prunable weights"
    size, dense_size = results["tflite"]["bytes"], results["tflite"]["dense_bytes"]
    print(
        f"Test accuracy {results['test_accuracy']:.2%}{kept}; the TFLite file has {size:,} bytes, "
        f"{size / dense_size:.1%} of the dense one."
    )


if __name__ == "__main__":
    run_script(main, when_interrupted="Run the same command again to go on.")
