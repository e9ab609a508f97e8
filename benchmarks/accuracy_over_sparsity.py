r"""Repeats a figure of the FORCE paper (arXiv 2006.09081) in short: test accuracy over sparsity, on CIFAR-10.

    python benchmarks/accuracy_over_sparsity.py --output=runs/accuracy_over_sparsity.jsonl

prunes and trains narrow forms of VGG19 and ResNet50, whose hidden layers have `--vgg19_width` and `--resnet50_width`
times the channels of the papers', on a part of the images, averaged to 16x16 pixels, without augmentation. "snip_mb"
and "grasp_mb" look at as many batches as FORCE does, 60. All train by SGD with momentum 0.9 and weight decay 5e-4, and
a learning rate that falls to a tenth after 3/7 and again after 5/7 of the epochs.

Every result is a line in the output file; run the same command again to go on after an interruption, or with more
seeds. Processes with other networks or seeds may share the file. `--tables_only` prints the tables of what is there
for these flags, and `--figures=folder` draws it.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))

import quiet_tensorflow  # noqa: F401 (first, so that TensorFlow starts without its messages)

# isort: split
import compared_methods
import image_data
import keras
import networks
import numpy as np
import tensorflow as tf
from absl import flags
from figures import new_figure
from list_flags import check_counts, check_fractions, check_names
from script import run_script
from training import train

import force_tf

_METHODS_COMPARED = (
    *("dense", "random", "random_erk", "snip", "snip_mb", "grasp", "grasp_mb"),
    *("synflow", "iter_snip", "grasp_it", "force", "early_ticket"),
)
_WEIGHT_DECAY = 5e-4

_OUTPUT = flags.DEFINE_string(
    "output", "runs/accuracy_over_sparsity.jsonl", "The file of results, one JSON object a line."
)
_DATASET = flags.DEFINE_enum("dataset", "cifar10", image_data.NAMES, "The images to learn.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps its data. Default: its own folder.")
_WIDTHS = {
    "vgg19": flags.DEFINE_float("vgg19_width", 0.25, "Channels, in those of VGG19.", lower_bound=0.0),
    "resnet50": flags.DEFINE_float("resnet50_width", 0.125, "Channels, in those of ResNet50.", lower_bound=0.0),
}
_NETWORKS = flags.DEFINE_list("networks", ",".join(_WIDTHS), "Which networks to train.")
_METHODS = flags.DEFINE_list("methods", ",".join(_METHODS_COMPARED), "Which methods to compare.")
_SPARSITIES = flags.DEFINE_list("sparsities", "0.95,0.98,0.99,0.995,0.999", "Fractions of the weights to remove.")
_SEEDS = flags.DEFINE_list("seeds", "0,1", "Which seeds, of the weights, the batches and the search.")
_IMAGES = flags.DEFINE_integer("images", 10_000, "How many of the training images to use.", lower_bound=1)
_SIZE = flags.DEFINE_integer("size", 16, "The pixels to which images are averaged.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 32, "Images in a batch, of the search and the training.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 2, "How often every image is seen.", lower_bound=1)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 0.05, "The learning rate to begin with.", lower_bound=0.0)
_THREADS = flags.DEFINE_integer("threads", 1, "Threads of TensorFlow.", lower_bound=1)
_TABLES_ONLY = flags.DEFINE_bool("tables_only", False, "Train nothing, print what there is for these flags.")
_FIGURES = flags.DEFINE_string("figures", None, "A folder for the figure.")
Row = dict[str, Any]

check_names("networks", _WIDTHS)
check_names("methods", _METHODS_COMPARED)
check_fractions("sparsities")
check_counts("seeds", least=0)


def main() -> None:
    """Does what is missing of what the flags ask for, and prints the tables."""
    path = pathlib.Path(_OUTPUT.value)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if not _TABLES_ONLY.value:
        tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
        tf.config.threading.set_inter_op_parallelism_threads(_THREADS.value)
        path.parent.mkdir(parents=True, exist_ok=True)
        data = image_data.load(_DATASET.value, _DATA_DIR.value, _IMAGES.value).averaged(_SIZE.value)
        missing = [case for case in _cases() if not _found(rows, case)]
        for number, case in enumerate(missing, 1):
            rows.append(case | _result(case, data))
            with path.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            _say(f"{number}/{len(missing)}", rows[-1])
    for network in _NETWORKS.value:
        print(f"\n{network}, {_WIDTHS[network].value:g} of its width\n\n{_table(rows, network)}")
    if _FIGURES.value:
        pathlib.Path(_FIGURES.value).mkdir(parents=True, exist_ok=True)
        _figure(rows).savefig(pathlib.Path(_FIGURES.value) / "accuracy_over_sparsity.png")


def _cases() -> Iterator[Row]:
    # Seeds come outermost: after the first of them, the table has one result in each cell.
    for seed, network, method in itertools.product(map(int, _SEEDS.value), _NETWORKS.value, _METHODS.value):
        for sparsity in _columns(method):
            yield _case(network, method, sparsity, seed)


def _columns(method: str) -> list[float]:
    return [0.0] if method == "dense" else [float(sparsity) for sparsity in _SPARSITIES.value]


def _case(network: str, method: str, sparsity: float, seed: int) -> Row:
    protocol = {
        "dataset": _DATASET.value,
        "images": _IMAGES.value,
        "size": _SIZE.value,
        "batch_size": _BATCH.value,
        "epochs": _EPOCHS.value,
        "learning_rate": _LEARNING_RATE.value,
        "width": _WIDTHS[network].value,
    }
    return {"network": network, "method": method, "sparsity": sparsity, "seed": seed, **protocol}


def _found(rows: Sequence[Row], case: Row) -> list[Row]:
    return [row for row in rows if case.items() <= row.items()]


def _result(case: Row, data: image_data.ImageData) -> Row:
    """Prunes and trains, and returns the test accuracy in percent, and what that took."""
    keras.backend.clear_session()
    seed = case["seed"]
    network = networks.build(case["network"], data.input_shape, data.classes, seed, _WEIGHT_DECAY, width=case["width"])
    facts: Row = {"parameters": network.count_params()}
    begin = time.process_time()
    if case["method"] != "dense":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a collapse is a result here, and told as such
            masks = compared_methods.find_masks(
                case["method"], network, data, case["sparsity"], case["batch_size"], seed
            )
        network = force_tf.apply_masks(network, masks)
        facts |= {"kept": masks.kept, "total": masks.total, "search_cpu_seconds": time.process_time() - begin}
        facts |= {name: masks.metadata.get(name) for name in ("collapsed", "effective_sparsity")}
    begin = time.process_time()
    settings = {name: case[name] for name in ("learning_rate", "batch_size", "epochs", "seed")}
    last = train(network, data, **settings, whole_epochs=True, test_last_only=True)[-1]
    return facts | {"accuracy": 100 * last["val_accuracy"], "train_cpu_seconds": time.process_time() - begin}


def _say(number: str, row: Row) -> None:
    print(
        f"{number} {row['network']} {row['method']} {row['sparsity']:g} seed {row['seed']}: "
        f"{row['accuracy']:.2f} %, CPU: search {row.get('search_cpu_seconds', 0):.0f} s, "
        f"training {row['train_cpu_seconds']:.0f} s",
        flush=True,
    )


def _accuracies(rows: Sequence[Row], network: str, method: str, sparsity: float) -> list[float]:
    cases = [_case(network, method, sparsity, int(seed)) for seed in _SEEDS.value]
    return [row["accuracy"] for case in cases for row in _found(rows, case)[:1]]


def _table(rows: Sequence[Row], network: str) -> str:
    sparsities = _columns("any that prunes")
    lines = [
        "| Method | "
        + " | ".join(f"{100 * sparsity:.4g}%" for sparsity in sparsities)
        + " | CPU seconds of a search |",
        "|---|" + "---|" * (len(sparsities) + 1),
    ]
    for method in _METHODS.value:
        if method == "dense":
            dense = _spread(_accuracies(rows, network, method, 0.0))
            lines.append(f"| dense | {dense} |" + " |" * (len(sparsities) - 1) + " – |")
            continue
        cells = [_cell(rows, network, method, sparsity) for sparsity in sparsities]
        cases = [_case(network, method, each, int(seed)) for each in sparsities for seed in _SEEDS.value]
        seconds = [row["search_cpu_seconds"] for case in cases for row in _found(rows, case)]
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {np.mean(seconds):.0f} |" if seconds else " | – |")
    return "\n".join(lines)


def _cell(rows: Sequence[Row], network: str, method: str, sparsity: float) -> str:
    cell = _spread(_accuracies(rows, network, method, sparsity))
    found = [row for seed in _SEEDS.value for row in _found(rows, _case(network, method, sparsity, int(seed)))]
    collapsed = sum(bool(row["collapsed"]) for row in found)
    return cell + (f" ({collapsed} of {len(found)} collapsed)" if collapsed else "")


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def _figure(rows: Sequence[Row]):
    names = _NETWORKS.value
    figure, axes = new_figure(len(names))
    sparsities = _columns("any that prunes")
    for ax, network in zip(axes, names):
        for number, method in enumerate(name for name in _METHODS.value if name != "dense"):
            found = {each: _accuracies(rows, network, method, each) for each in sparsities}
            found = {sparsity: values for sparsity, values in found.items() if values}
            ax.errorbar(
                [1 - sparsity for sparsity in found],
                [np.mean(values) for values in found.values()],
                [np.std(values) for values in found.values()],
                marker="osD^v<>"[number % 7],
                linestyle=("-", "--")[number // 7 % 2],
                capsize=2,
                label=method,
            )
        dense = _accuracies(rows, network, "dense", 0.0) if "dense" in _METHODS.value else []
        if dense:
            ax.axhline(np.mean(dense), color="0.5", linestyle=":", label="dense")
        ax.set_xscale("log")
        ax.set_xticks([1 - sparsity for sparsity in sparsities], [f"{100 * each:.4g}%" for each in sparsities])
        ax.minorticks_off()
        ax.invert_xaxis()
        ax.set_title(network)
        ax.set_xlabel("Sparsity")
        ax.set_ylabel("Test accuracy (%)")
    axes[-1].legend(frameon=False, fontsize="small")
    return figure


if __name__ == "__main__":
    run_script(main, "--seeds=0,1", "Run the same command again to go on.")
