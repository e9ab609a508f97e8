r"""Prunes a small MobileNet for the sparse kernels of phones, trains it, and exports it so that they take it.

    python examples/prune_for_phones.py

Needs no download: the images are scikit-learn's handwritten digits, enlarged to 32x32 pixels in three equal colours.
For each sparsity the layers that phones can run sparsely are pruned at initialization, the rest stays dense. The table
and the plot show the test accuracy beside the multiply-adds that a phone takes, which leaves zeros out; a PC with AVX
takes those of the dense network. With --emulators, a folder that `tools/setup_emulators.py` made, every file also runs
on an emulated phone before it appears. Takes some minutes on two cores.
"""

from __future__ import annotations

import dataclasses

import quiet_tensorflow  # noqa: F401 (first, so that TensorFlow starts without its messages)

# isort: split
import image_data
import keras
import numpy as np
from absl import flags
from figures import new_figure
from list_flags import check_fractions
from run_folder import RunFolder
from script import run_script

import force_tf

layers = keras.layers


_SPARSITIES = flags.DEFINE_list("sparsities", ["0", "0.8", "0.9", "0.95"], "Fractions of these weights to remove.")
check_fractions("sparsities")
_METHOD = flags.DEFINE_string("method", "force", "Method of PruneAtInit.")
_EPOCHS = flags.DEFINE_integer("epochs", 20, "How often every training image is seen.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the weights, the batches and the search.", lower_bound=0)
_LIMIT = flags.DEFINE_integer("limit", None, "Use only so many images, to try things out.", lower_bound=1)
_EMULATORS = flags.DEFINE_string("emulators", None, "A folder of emulated processors to run the files on too.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "runs/prune_for_phones", "Where the files and the plot go.")

_SIZE, _BATCH, _LEARNING_RATE = 32, 64, 2e-3
_HEAD = f"{'Zeros':>6}{'Accuracy':>10}{'Multiply-adds':>16}{'on phones':>12}{'TFLite file':>14}  On Arm"


@dataclasses.dataclass
class Outcome:
    """What became of the network at one sparsity."""

    sparsity: float
    accuracy: float  # of the file, on the test images
    report: force_tf.export.TFLiteReport


def network() -> keras.Model:
    """Returns a MobileNet of a few blocks, padded as Keras users do it."""
    x = inputs = keras.Input((_SIZE, _SIZE, 3))
    x = _normalized(layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False, name="stem")(x))
    for number, (channels, stride) in enumerate([(32, 1), (64, 2), (64, 1), (128, 2), (128, 1)]):
        depthwise = layers.DepthwiseConv2D(
            3, strides=stride, padding="same", use_bias=False, name=f"depthwise_{number}"
        )
        x = _normalized(depthwise(x))
        x = _normalized(layers.Conv2D(channels, 1, use_bias=False, name=f"pointwise_{number}")(x))
    return keras.Model(inputs, layers.Dense(10, name="classes")(layers.GlobalAveragePooling2D()(x)), name="phone")


def _normalized(x):
    return layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(x))


def images(small: np.ndarray) -> np.ndarray:
    """Returns images of 8x8 pixels as a phone's network takes them: larger, and in three colours."""
    factor = _SIZE // small.shape[1]
    larger = np.repeat(small.repeat(factor, axis=1).repeat(factor, axis=2), 3, axis=3)
    return larger.astype("float32") / 127.5 - 1


def run() -> None:
    """Prunes, trains and exports the network at each sparsity, prints a table, and draws the plot."""
    folder = RunFolder(_OUTPUT_DIR.value)
    data = image_data.load("digits")
    train = images(data.train_images)[: _LIMIT.value], data.train_labels[: _LIMIT.value]
    test = images(data.test_images)[: _LIMIT.value], data.test_labels[: _LIMIT.value]
    keras.utils.set_random_seed(_SEED.value)
    selected = force_tf.sparse_kernel_layers(network())
    # All of them before any training, so that a wrong method costs none.
    pruners = {
        sparsity: force_tf.PruneAtInit(_METHOD.value, sparsity=sparsity, layers=selected, seed=_SEED.value)
        for sparsity in map(float, _SPARSITIES.value)
    }
    print(f"{selected}\n\n{_HEAD}\n{'-' * len(_HEAD)}", flush=True)
    outcomes = []
    for sparsity, pruner in pruners.items():
        outcomes.append(_outcome(sparsity, pruner, train, test, folder))
        print(_row(outcomes[-1]), flush=True)
    folder.save_figures({"accuracy_and_work.png": _figure(outcomes)})
    print(f"\nIn {folder.path}: the files, and accuracy_and_work.png.")


def _outcome(sparsity: float, pruner: force_tf.PruneAtInit, train: tuple, test: tuple, folder: RunFolder) -> Outcome:
    keras.utils.set_random_seed(_SEED.value)
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(_LEARNING_RATE), loss, metrics=["accuracy"])
    if sparsity:
        model = pruner.prune(model, train, verbose=0)
    model.fit(*train, batch_size=_BATCH, epochs=_EPOCHS.value, verbose=0)
    path = folder / f"sparsity_{sparsity:g}.tflite"
    report = force_tf.export_tflite(
        model,
        path,
        sparse_kernels="auto" if sparsity else False,
        verify_data=test[0][:100],
        verify_on=_EMULATORS.value,
        verbose=False,
    )
    accuracy = force_tf.evaluate_tflite(path, test, metrics=["accuracy"], verbose=0)["accuracy"]
    return Outcome(sparsity, accuracy, report)


def _row(outcome: Outcome) -> str:
    counts, report = outcome.report.multiply_adds, outcome.report
    verdict = "sparse kernels" if counts.with_sparse_kernels else "dense kernels"
    numbers = f"{counts.dense:>16,}{counts.on_phones:>12,}{report.bytes:>14,}"
    return f"{outcome.sparsity:>6.0%}{outcome.accuracy:>10.1%}{numbers}  {verdict}"


def _figure(outcomes: list[Outcome]):
    figure, (ax,) = new_figure()
    work = [outcome.report.multiply_adds.on_phones / 1e6 for outcome in outcomes]
    ax.plot(work, [100 * outcome.accuracy for outcome in outcomes], marker="o")
    for outcome, x in zip(outcomes, work):
        ax.annotate(f"{outcome.sparsity:.0%} zeros", (x, 100 * outcome.accuracy), (4, -12), textcoords="offset points")
    ax.set(xlabel="Millions of multiply-adds on a phone", ylabel="Test accuracy (%)", title="Pruned for phones")
    return figure


if __name__ == "__main__":
    run_script(run)
