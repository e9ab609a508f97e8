r"""Repeats a figure of the FORCE paper (arXiv 2006.09081) in short: test accuracy over sparsity, on CIFAR-10.

    python benchmarks/accuracy_over_sparsity.py --output=runs/accuracy_over_sparsity.jsonl

prunes and trains narrow forms of VGG19 and ResNet50, whose hidden layers have `--vgg19_16px_width` and
`--resnet50_width` times the channels of the papers', on a part of the images, averaged to 16x16 pixels, without
augmentation. "vgg19_16px" is VGG19 for images of that size, "vgg19" the one for `--size=32`. "snip_mb" and "grasp_mb"
look at as many batches as FORCE does, 60. All train by SGD with momentum 0.9 and weight decay 5e-4, and a learning rate
that falls to a tenth after 3/7 and again after 5/7 of the epochs. `--methods` takes those that move masks during
training, lottery tickets and small dense networks too, as `mnist_results.py` does. A network whose masks leave no path
from the input to the output is not trained: it answers by chance.

Every result is a line in the output file; run the same command again to go on after an interruption, or with more
seeds. Processes with other networks or seeds may share the file. `--tables_only` prints the tables of what is there
for these flags, and `--figures=folder` draws it.
"""

from __future__ import annotations

import functools
import itertools
import json
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
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
from figures import line_style, new_figure
from list_flags import check_counts, check_fractions, check_names
from result_cells import cell, ticket_cell
from script import run_script
from training import train

_METHODS_COMPARED = (
    *("dense", compared_methods.SMALL_DENSE, "random", "random_erk", "snip", "snip_mb", "grasp", "grasp_mb"),
    *("synflow", "iter_snip", "grasp_it", "force", "early_ticket"),
)
_WEIGHT_DECAY = 5e-4

_OUTPUT = flags.DEFINE_string(
    "output", "runs/accuracy_over_sparsity.jsonl", "The file of results, one JSON object a line."
)
_DATASET = flags.DEFINE_enum("dataset", "cifar10", image_data.NAMES, "The images to learn.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps its data. Default: its own folder.")
_WIDTHS = {
    "vgg19_16px": flags.DEFINE_float("vgg19_16px_width", 0.25, "Channels, in those of VGG19.", lower_bound=0.0),
    "vgg19": flags.DEFINE_float("vgg19_width", 0.25, "The same, with all poolings.", lower_bound=0.0),
    "resnet50": flags.DEFINE_float("resnet50_width", 0.125, "Channels, in those of ResNet50.", lower_bound=0.0),
    "vgg11": flags.DEFINE_float("vgg11_width", 0.25, "Channels, in those of VGG11.", lower_bound=0.0),
}
_NETWORKS = flags.DEFINE_list("networks", "vgg19_16px,resnet50", "Which networks to train.")
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
check_names("methods", compared_methods.NAMES)
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
    sparsities = [float(sparsity) for sparsity in _SPARSITIES.value]
    if method == compared_methods.TICKET:
        return [max(sparsities)]  # the rounds pass by the others
    return [0.0] if method == "dense" else sparsities


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
    build = functools.partial(networks.build, case["network"], data.input_shape, data.classes, seed, _WEIGHT_DECAY)
    network = build(width=case["width"])
    parameters = network.count_params()
    fit = _fit(case, data)
    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a collapse is a result here, and told as such
        model, callbacks, facts = compared_methods.start(
            case["method"],
            network,
            data,
            sparsity=case["sparsity"],
            batch=case["batch_size"],
            seed=seed,
            fit=fit,
            folder=f"{_OUTPUT.value}.{case['network']}-{case['sparsity']}-{seed}",
            scaled=lambda width: build(width=width * case["width"]),
        )
        found = time.process_time()
        # Without a live path the network answers the same to every image, whatever its biases learn.
        dead = facts.get("effective_sparsity") == 1
        accuracy = 100 / data.classes if dead else compared_methods.unless_diverged(lambda: fit(model, callbacks))
    seconds = {"search_cpu_seconds": found - begin, "train_cpu_seconds": time.process_time() - found}
    facts |= compared_methods.end(model, callbacks, data)
    return {"parameters": parameters, **facts, "accuracy": accuracy, **seconds}


def _fit(case: Row, data: image_data.ImageData) -> Callable[..., float]:
    """Returns what trains a model as all are trained here, and returns its test accuracy in percent."""
    settings = {name: case[name] for name in ("learning_rate", "batch_size", "epochs", "seed")}

    def fit(model: Any, callbacks: Sequence[Any] = ()) -> float:
        whole = not callbacks  # which are called between executions
        rows = train(model, data, **settings, whole_epochs=whole, test_last_only=True, callbacks=callbacks)
        return 100 * rows[-1]["val_accuracy"]

    return fit


def _say(number: str, row: Row) -> None:
    accuracy = "diverged" if row.get("diverged") else f"{row['accuracy']:.2f} %"
    print(
        f"{number} {row['network']} {row['method']} {row['sparsity']:g} seed {row['seed']}: "
        f"{accuracy}, CPU: search {row.get('search_cpu_seconds', 0):.0f} s, "
        f"training {row['train_cpu_seconds']:.0f} s",
        flush=True,
    )


def _table(rows: Sequence[Row], network: str) -> str:
    sparsities = _columns("any that prunes")
    heads = [*(f"{100 * sparsity:.4g}%" for sparsity in sparsities), "CPU seconds, search", "and training"]
    lines = [f"| Method | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for method in _METHODS.value:
        found = _all_found(rows, network, method, _columns(method))
        if method == "dense":
            cells = [cell(found, "accuracy", 1)] * len(sparsities)
        elif method == compared_methods.TICKET:
            cells = [ticket_cell([(row["sparsity"], row) for row in found], "accuracy", each, 1) for each in sparsities]
        else:
            cells = [cell(_all_found(rows, network, method, [each]), "accuracy", 1) for each in sparsities]
        cells += [_mean_seconds(found, "search_cpu_seconds"), _mean_seconds(found, "train_cpu_seconds")]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _all_found(rows: Sequence[Row], network: str, method: str, sparsities: Sequence[float]) -> list[Row]:
    cases = [_case(network, method, sparsity, int(seed)) for sparsity in sparsities for seed in _SEEDS.value]
    return [row for case in cases for row in _found(rows, case)[:1]]


def _mean_seconds(found: Sequence[Row], name: str) -> str:
    return f"{np.mean([row[name] for row in found]):.0f}" if found else "–"


def _figure(rows: Sequence[Row]):
    names = _NETWORKS.value
    figure, axes = new_figure(len(names))
    sparsities = _columns("any that prunes")
    for ax, network in zip(axes, names):
        pruning = [name for name in _METHODS.value if name not in ("dense", compared_methods.TICKET)]
        for number, method in enumerate(pruning):
            found = {
                each: [row["accuracy"] for row in _all_found(rows, network, method, [each])] for each in sparsities
            }
            found = {sparsity: values for sparsity, values in found.items() if values}
            ax.errorbar(
                [1 - sparsity for sparsity in found],
                [np.mean(values) for values in found.values()],
                [np.std(values) for values in found.values()],
                capsize=2,
                label=method,
                **line_style(number),
            )
        dense = _all_found(rows, network, "dense", [0.0]) if "dense" in _METHODS.value else []
        if dense:
            ax.axhline(np.mean([row["accuracy"] for row in dense]), color="0.5", linestyle=":", label="dense")
        ax.set_xscale("log")
        ax.set_xticks([1 - sparsity for sparsity in sparsities], [f"{100 * each:.4g}%" for each in sparsities])
        ax.minorticks_off()
        ax.invert_xaxis()
        ax.set_title(network)
        ax.set_xlabel("Sparsity")
        ax.set_ylabel("Test accuracy (%)")
    labels = axes[0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    return figure


if __name__ == "__main__":
    run_script(main, "--seeds=0,1", "Run the same command again to go on.")
