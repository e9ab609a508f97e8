r"""Prunes a small convolutional network to 2% of its weights before training, and compares it with the dense one.

    python examples/quickstart.py

Needs no download: the images are scikit-learn's handwritten digits, 8x8 pixels each. The same network is trained dense,
and with only those weights that the methods `random`, `snip` and `force` choose at initialization; then each is
exported to TFLite. Takes about a minute on two cores.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from typing import Any

import quiet_tensorflow  # noqa: F401 (first, so that TensorFlow starts without its messages)

# isort: split
import image_data
import networks
from absl import flags
from figures import accuracy_figure, density_figure, search_figure
from run_folder import RunFolder
from script import run_script
from training import cross_entropy, train

import force_tf

_KERAS = flags.DEFINE_enum("keras", "keras", ("keras", "tf_keras"), "Keras 3, or the legacy Keras of tfmot.")
_SPARSITY = flags.DEFINE_float("sparsity", 0.98, "The fraction of the prunable weights to remove, in [0, 1).")
_EPOCHS = flags.DEFINE_integer("epochs", 30, "How often every training image is seen.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the weights, the batches and the search.", lower_bound=0)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "runs/quickstart", "Where the plots and the networks go.")
flags.register_validator("sparsity", lambda value: 0 <= value < 1, "expected a fraction in [0, 1).")

_METHODS = ("random", "snip", "force")
_LEARNING_RATE, _WEIGHT_DECAY = 0.1, 5e-4
_SEARCH_BATCH, _TRAIN_BATCH = 128, 32  # images


_HEAD = f"{'Network':<8}{'Accuracy':>10}{'Weights left':>22}{'TFLite file':>16}{'Latency':>12}"
_CLOSING = """
The weights left are all that is trained: biases and BatchNorm too, which are not pruned. The latency is that of one
image on one core; on a PC TFLite computes with zeros as with other numbers, so that the file is smaller, not faster.

In {folder}:
  accuracy.png  the accuracy after each epoch
  density.png   what each method keeps of each layer
  search.png    how FORCE comes down to so few weights, step by step
  *.tflite      the networks, ready for a device
  force.keras   the network that FORCE pruned, for Keras

For smaller and faster files of it, in 16 and 8 bits:
  python examples/export_edge.py --model={folder}/force.keras --data=digits
"""


@dataclasses.dataclass
class Outcome:
    """What became of one of the networks."""

    accuracies: list[float]  # on the test images, after each epoch
    weights: int
    total_weights: int
    file_bytes: int
    latency: float  # milliseconds
    masks: force_tf.Masks | None
    history: list[dict[str, Any]]  # of the search


def run() -> None:
    """Prunes, trains and exports the networks, prints a table, and draws the plots."""
    folder = RunFolder(_OUTPUT_DIR.value)
    data = image_data.load("digits")
    print(
        f"A small convolutional network learns {len(data.train_labels):,} handwritten digits, dense and with "
        f"{100 * (1 - _SPARSITY.value):.4g} % of its kernel weights,\nwhich each method chooses before training. "
        f"The accuracy is that on {len(data.test_labels)} other digits.\n\n{_HEAD}\n{'-' * len(_HEAD)}",
        flush=True,
    )
    outcomes = {}
    for method in ("dense", *_METHODS):
        outcomes[method] = _prune_train_export(method, data, folder)
        print(_row(method, outcomes[method]), flush=True)
    _plot(outcomes, folder)
    print(_CLOSING.format(folder=folder.path), end="")


def _prune_train_export(method: str, data: image_data.ImageData, folder: RunFolder) -> Outcome:
    seed = _SEED.value
    module = importlib.import_module(_KERAS.value)
    model = networks.build("small_convnet", data.input_shape, data.classes, seed, _WEIGHT_DECAY, module)
    total = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    pruner, masks = None, None
    if method != "dense":
        pruner = force_tf.PruneAtInit(method, sparsity=_SPARSITY.value, seed=seed)
        batches = data.train_batches(_SEARCH_BATCH, seed)
        masks = pruner.find_masks(model, batches, loss=cross_entropy(model), verbose=0)
        model = force_tf.apply_masks(model, masks)
    rows = train(
        model,
        data,
        learning_rate=_LEARNING_RATE,
        batch_size=_TRAIN_BATCH,
        epochs=_EPOCHS.value,
        seed=seed,
        whole_epochs=True,
    )
    if method == "force":
        with folder.writing("force.keras") as aside:
            model.save(aside)
    path = folder / f"{method}.tflite"
    report = force_tf.export_tflite(model, path, verbose=False)
    return Outcome(
        accuracies=[row["val_accuracy"] for row in rows],
        weights=total - (masks.total - masks.kept if masks else 0),
        total_weights=total,
        file_bytes=report.bytes,
        latency=force_tf.benchmark_tflite(path).median,
        masks=masks,
        history=pruner.history if pruner else [],
    )


def _row(method: str, outcome: Outcome) -> str:
    weights = f"{outcome.weights:,} ({outcome.weights / outcome.total_weights:.1%})"
    return (
        f"{method:<8}{outcome.accuracies[-1]:>10.1%}{weights:>22}{f'{outcome.file_bytes:,} bytes':>16}"
        f"{f'{outcome.latency:.3f} ms':>12}"
    )


def _plot(outcomes: dict[str, Outcome], folder: RunFolder) -> None:
    masks = {method: outcome.masks for method, outcome in outcomes.items() if outcome.masks}
    sparsity = f"{_SPARSITY.value:.4g} sparsity"
    folder.save_figures(
        {
            "accuracy.png": accuracy_figure(
                {method: outcome.accuracies for method, outcome in outcomes.items()}, f"Digits, at {sparsity}"
            ),
            "density.png": density_figure(masks, f"Weights kept at {sparsity}"),
            "search.png": search_figure({"force": outcomes["force"].history}, f"FORCE's search, to {sparsity}"),
        }
    )


if __name__ == "__main__":
    run_script(run)
