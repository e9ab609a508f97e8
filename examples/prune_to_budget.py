r"""Prunes a small MobileNetV2 to what a device can spare, and plots what each budget leaves of the accuracy.

    python examples/prune_to_budget.py --dataset=cifar10 --epochs=20

prunes whole channels until the network fits each of `--budgets`: multiply-adds (flops), parameters, or bytes of its
TFLite file; numbers below 1 are fractions of what the dense network has. Each is shrunk, trained and exported, and so
is the dense network: MobileNetV2 of keras.applications with `--alpha` times its channels. A quick start that needs no
download, on scikit-learn's digits, enlarged:

    python examples/prune_to_budget.py --dataset=digits --budgets=flops=0.25,file_bytes=100000 --epochs=5

Layers keep equal parts of their channels. With --scope=global all are compared; late layers, which have many channels
and take few multiply-adds, then lose nearly all of theirs before a budget of multiply-adds is met.

The output folder receives the files, all numbers (results.json) and budgets.png. Run the same command again to go on
after an interruption, or with other budgets to add them.
"""

from __future__ import annotations

import dataclasses

import quiet_tensorflow  # noqa: F401 (first, so that TensorFlow starts without its messages)

# isort: split
import time
from typing import Any

import image_data
import keras
import numpy as np
from absl import flags
from figures import budgets_figure
from list_flags import check_limits
from run_folder import RunFolder
from script import run_script
from training import cross_entropy, for_use, train

import force_tf

_COSTS = ("flops", "parameters", "file_bytes")
_MIN_SIZE = 32  # pixels, of keras.applications; after five strides of 2 a single one is left of them
_BUDGETS = [f"{name}={part}" for name in _COSTS for part in (0.5, 0.25, 0.1)]
_INT8 = ("int8", "int8_io")

_SETTINGS = {
    flag.name
    for flag in (
        flags.DEFINE_enum("dataset", "cifar10", image_data.NAMES, "The images to learn."),
        flags.DEFINE_integer("size", 64, "Pixels to which smaller images are enlarged.", lower_bound=_MIN_SIZE),
        flags.DEFINE_float("alpha", 0.35, "Channels, in those of MobileNetV2.", lower_bound=0.05),
        flags.DEFINE_string("method", "force", "Method of PruneAtInit."),
        flags.DEFINE_enum("granularity", "channel", ("channel", "weight"), "What is pruned as one."),
        flags.DEFINE_enum("scope", "layer", ("layer", "global"), "Whether layers keep equal parts, or are compared."),
        flags.DEFINE_integer("steps", None, "Steps of the search. Default: the method's own.", lower_bound=1),
        flags.DEFINE_enum("quantize", None, ("float16", "dynamic", *_INT8), "The types of the files' numbers."),
        flags.DEFINE_integer("epochs", 20, "How often every training image is seen.", lower_bound=1),
        flags.DEFINE_integer("batch_size", 128, "Images in a batch, of the search and the training.", lower_bound=2),
        flags.DEFINE_float("learning_rate", 0.1, "The learning rate to begin with.", lower_bound=0.0),
        flags.DEFINE_integer("seed", 0, "Seed of the weights, the batches and the search.", lower_bound=0),
        flags.DEFINE_integer("limit", None, "Use only so many images, to try things out.", lower_bound=1),
    )
}
_BUDGET_LIST = flags.DEFINE_list("budgets", _BUDGETS, "What to prune to, such as flops=0.25,parameters=50000.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "runs/prune_to_budget", "Where everything goes.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps its data. Default: its own folder.")

check_limits("budgets", _COSTS)


def run() -> None:
    """Goes the whole way for each budget that has no result yet, and says what came out."""
    settings = {name: flags.FLAGS[name].value for name in sorted(_SETTINGS)}
    # All of them before any work, so that a wrong one costs none.
    pruners = {"dense": None} | {text: _pruner(text, settings) for text in _BUDGET_LIST.value}
    folder = RunFolder(_OUTPUT_DIR.value, settings)
    rows = folder.read_json("results.json") if folder.has("results.json") else []
    done = {row["budget"] for row in rows}
    if set(pruners) - done:
        data = _enlarged(image_data.load(settings["dataset"], _DATA_DIR.value, settings["limit"]), settings["size"])
    for text, pruner in pruners.items():
        if text not in done:
            print(f"{text} …", flush=True)
            rows.append({"budget": text} | _outcome(text, pruner, data, folder, settings))
            folder.write_json("results.json", rows)
    rows = [row for row in rows if row["budget"] in pruners]
    folder.save_figures({"budgets.png": budgets_figure(rows, f"MobileNetV2 on {settings['dataset']}")})
    print("\n".join(["", _row(_HEAD), *map(_cells, rows)]))
    print(f"\nAll files are in {folder.path}.")


def _pruner(text: str, settings: dict[str, Any]) -> force_tf.PruneAtInit:
    name, _, number = text.partition("=")
    quantize = settings["quantize"] if name == "file_bytes" else None
    return force_tf.PruneAtInit(
        settings["method"],
        budget=force_tf.Budget(**{name: float(number)}, quantize=quantize),
        granularity=settings["granularity"],
        scope=settings["scope"],
        steps=settings["steps"],
        seed=settings["seed"],
    )


def _enlarged(data: image_data.ImageData, size: int) -> image_data.ImageData:
    """Returns images of at least a size: each pixel becomes several."""
    factor = -(-size // min(data.input_shape[:2]))
    larger = [images.repeat(factor, axis=1).repeat(factor, axis=2) for images in (data.train_images, data.test_images)]
    return dataclasses.replace(data, train_images=larger[0], test_images=larger[1])


def network(data: image_data.ImageData, alpha: float, seed: int) -> keras.Model:
    """Returns a MobileNetV2 that ends in logits. Its moving averages are for as few steps as are taken here."""
    keras.utils.set_random_seed(seed)
    model = keras.applications.MobileNetV2(
        data.input_shape, alpha, weights=None, classes=data.classes, classifier_activation=None
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9
    return model


def _outcome(text: str, pruner: Any, data: image_data.ImageData, folder: RunFolder, settings: dict) -> dict[str, Any]:
    """Prunes, trains and exports, and returns what there is to say."""
    model = network(data, settings["alpha"], settings["seed"])
    facts: dict[str, Any] = {}
    begin = time.perf_counter()
    if pruner is not None:
        batches = data.train_batches(settings["batch_size"], settings["seed"])
        masks = pruner.find_masks(model, batches, cross_entropy(model), verbose=0)
        model = force_tf.shrink(force_tf.apply_masks(model, masks))
        facts = {"limits": masks.metadata["budget"], "search_seconds": time.perf_counter() - begin}
    begin = time.perf_counter()
    protocol = {name: settings[name] for name in ("learning_rate", "batch_size", "epochs", "seed")}
    history = train(model, data, **protocol)
    facts |= {"train_seconds": time.perf_counter() - begin, "keras_accuracy": history[-1]["val_accuracy"]}
    kept = force_tf.get_masks(model) if pruner is not None else None
    small = for_use(model)
    return facts | _exported(small, kept, data, folder / f"{text.replace('=', '_')}.tflite", settings["quantize"])


def _exported(small: keras.Model, masks: Any, data: image_data.ImageData, path: Any, quantize: str | None) -> dict:
    images = np.asarray(data.normalize(data.train_images[:256]))
    report = force_tf.export_tflite(
        small,
        path,
        quantize=quantize,
        representative_data=images if quantize in _INT8 else None,
        tolerance=float("inf") if quantize in _INT8 else None,
        verbose=False,
    )
    test = np.asarray(data.normalize(data.test_images)), data.test_labels
    return {
        "flops": force_tf.count_flops(small),
        "parameters": small.count_params() - (0 if masks is None else masks.total - masks.kept),
        "file_bytes": report.bytes,
        "accuracy": force_tf.evaluate_tflite(path, test, metrics=["accuracy"], verbose=0)["accuracy"],
        "latency_ms": force_tf.benchmark_tflite(path).to_dict()["default"]["median"],
    }


_HEAD = ("Budget", "Accuracy", "Multiply-adds", "Parameters", "TFLite file", "Latency")


def _cells(row: dict[str, Any]) -> str:
    numbers = [f"{row[name]:,}" for name in _COSTS]
    return _row((row["budget"], f"{row['accuracy']:.1%}", *numbers, f"{row['latency_ms']:.3f} ms"))


def _row(cells: tuple[str, ...]) -> str:
    return f"{cells[0]:<20}" + "".join(f"{cell:>15}" for cell in cells[1:])


if __name__ == "__main__":
    run_script(run, when_interrupted="Run the same command again to go on.")
