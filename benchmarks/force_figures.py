r"""Repeats two figures of the FORCE paper (arXiv 2006.09081), and the sanity checks of arXiv 2009.08576.

    python benchmarks/force_figures.py --experiments=schedules,structure,sanity --output=runs/force_figures.jsonl

- `schedules`: the saliency that FORCE and Iterative SNIP keep, over the number of steps and the form of the schedule.
- `structure`: what each method keeps of each layer of VGG19 and ResNet50 at full width. Nothing is trained.
- `sanity`: LeNet-300-100 on MNIST, trained under the masks of each method as they are, shuffled within layers, and with
  redrawn initial weights.

Every result is a line in the output file; run the same command again to go on after an interruption. `--tables_only`
prints the tables of what is there, and `--figures=folder` draws it.
"""

from __future__ import annotations

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
import image_data
import keras
import networks
import numpy as np
import tensorflow as tf
from absl import flags
from figures import line_style, new_figure
from list_flags import check_counts, check_names
from result_cells import spread
from script import run_script
from training import cross_entropy, train

import force_tf
from force_tf.search.presets import PRESETS

_EXPERIMENTS = flags.DEFINE_list("experiments", "schedules,structure,sanity", "What to run, in this order.")
_OUTPUT = flags.DEFINE_string("output", "runs/force_figures.jsonl", "The file of results, one JSON object a line.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps its data. Default: its own folder.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "How many seeds, from 0.", lower_bound=1)
_STEPS = flags.DEFINE_list("steps", "1,2,5,10,20,50,100", "The numbers of steps of `schedules`.")
_NETWORK = flags.DEFINE_enum("network", "resnet20", networks.NAMES, "The network of `schedules`.")
_DEEP = flags.DEFINE_list("deep", "vgg19,resnet50", "The networks of `structure`.")
_STRUCTURE_METHODS = flags.DEFINE_list(
    "structure_methods",
    "random,random_erk,snip,grasp,iter_snip,synflow,force",
    "The methods of `structure`.",
)
_STRUCTURE_SIZE = flags.DEFINE_integer(
    "structure_size", 32, "The pixels to which the images of `structure` are averaged.", lower_bound=1
)
_STRUCTURE_BATCH = flags.DEFINE_integer("structure_batch", 128, "Images in a batch of `structure`.", lower_bound=1)
_METHODS = flags.DEFINE_list("methods", "snip,grasp,synflow,force,early_ticket", "The methods of `sanity`.")
_DEEP_DATASET = flags.DEFINE_enum("dataset", "cifar10", image_data.NAMES, "The images of `schedules` and `structure`.")
_SANITY_DATASET = flags.DEFINE_enum("sanity_dataset", "mnist", image_data.NAMES, "The images of `sanity`.")
_EPOCHS = flags.DEFINE_integer("epochs", 8, "Epochs of each training of `sanity`.", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", 1, "Threads of TensorFlow.", lower_bound=1)
_LIMIT = flags.DEFINE_integer("limit", None, "Use only so many images, to try things out.", lower_bound=1)
_TABLES_ONLY = flags.DEFINE_bool("tables_only", False, "Run nothing, print what is there.")
_FIGURES = flags.DEFINE_string("figures", None, "A folder for the figures.")

check_names("experiments", ("schedules", "structure", "sanity"))
check_counts("steps")
check_names("deep", networks.NAMES)
check_names("structure_methods", (*PRESETS, "random_erk"))
check_names("methods", PRESETS)

_SIZE = 16  # CIFAR's images are averaged to this size for `schedules`: a quarter of the work
_ARMS = ("as found", "shuffled", "redrawn")
Row = dict[str, Any]


def main() -> None:
    path = pathlib.Path(_OUTPUT.value)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if not _TABLES_ONLY.value:
        tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
        path.parent.mkdir(parents=True, exist_ok=True)
        for case, run in itertools.chain.from_iterable(_CASES[name]() for name in _EXPERIMENTS.value):
            if any(case.items() <= row.items() for row in rows):
                continue
            keras.backend.clear_session()
            begin = time.perf_counter()
            rows.append({**case, **run(), "seconds": time.perf_counter() - begin})
            with path.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(case, f"{rows[-1]['seconds']:.0f} s", flush=True)
    for name in _EXPERIMENTS.value:
        print(_TABLES[name]([row for row in rows if row["experiment"] == name]), end="\n\n")
        if _FIGURES.value:
            figure = _FIGURE[name]([row for row in rows if row["experiment"] == name])
            pathlib.Path(_FIGURES.value).mkdir(parents=True, exist_ok=True)
            figure.savefig(pathlib.Path(_FIGURES.value) / f"force_{name}.png")


def _images(size: int) -> image_data.ImageData:
    """Returns the images averaged to `size` pixels, where they are larger."""
    return image_data.load(_DEEP_DATASET.value, _DATA_DIR.value, _LIMIT.value).averaged(size)


def _search(network: keras.Model, pruner: force_tf.PruneAtInit, data: image_data.ImageData, batch: int, seed: int):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # collapse is a result here, and told as such
        return pruner.find_masks(network, data.train_batches(batch, seed), cross_entropy(network), verbose=0)


# The saliency that FORCE and Iterative SNIP keep.


def _schedules_cases() -> Iterator[tuple[Row, Callable[[], Row]]]:
    data = _images(_SIZE)
    for seed in range(_SEEDS.value):
        for steps, method, schedule in itertools.product(
            map(int, _STEPS.value), ("force", "iter_snip"), ("exponential", "linear")
        ):
            if steps > 1 or (method, schedule) == ("force", "exponential"):  # one step is SNIP in all of them
                case = {"experiment": "schedules", "seed": seed, "method": method, "schedule": schedule, "steps": steps}
                yield case, lambda case=case: _kept_saliency(data, case)


def _kept_saliency(data: image_data.ImageData, case: Row) -> Row:
    network = networks.build(_NETWORK.value, data.input_shape, data.classes, case["seed"])
    pruner = force_tf.PruneAtInit(case["method"], 0.99, steps=case["steps"], schedule=case["schedule"])
    masks = _search(network, pruner, data, 128, case["seed"])
    # Σ |θ ∂L/∂θ| of the pruned network, on images that the search has not seen.
    batch = min(1000, len(data.test_labels))
    x, y = data.normalize(data.test_images[:batch]), data.test_labels[:batch]
    pruned = force_tf.apply_masks(network, masks)
    loss = cross_entropy(network)
    with tf.GradientTape() as tape:
        value = loss(y, pruned(x, training=True))
    variables = [weight.value for weight in pruned.trainable_weights]
    gradients = tape.gradient(value, variables)
    saliency = sum(
        float(tf.reduce_sum(tf.abs(variable * gradient)))
        for variable, gradient in zip(variables, gradients)
        if len(variable.shape) > 1
    )
    return {"saliency": saliency, "collapsed": masks.metadata["collapsed"]}


def _schedules_table(rows: Sequence[Row]) -> str:
    steps = sorted({row["steps"] for row in rows})
    lines = [
        "| Method, schedule | " + " | ".join(f"T = {number}" for number in steps) + " |",
        "|---" * (1 + len(steps)) + "|",
    ]
    for method, schedule in itertools.product(("force", "iter_snip"), ("exponential", "linear")):
        cells = [spread(_saliencies(rows, method, schedule, number), 2) for number in steps]
        lines.append(f"| {method}, {schedule} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _saliencies(rows: Sequence[Row], method: str, schedule: str, steps: int) -> list[float]:
    if steps == 1:
        method, schedule = "force", "exponential"
    wanted = {"method": method, "schedule": schedule, "steps": steps}
    return [row["saliency"] for row in rows if wanted.items() <= row.items()]


def _schedules_figure(rows: Sequence[Row]):
    figure, (ax,) = new_figure()
    steps = sorted({row["steps"] for row in rows})
    for method, color in (("force", "C0"), ("iter_snip", "C1")):
        for schedule, style in (("exponential", "-"), ("linear", "--")):
            found = [_saliencies(rows, method, schedule, number) for number in steps]
            ax.errorbar(
                steps,
                [np.mean(each) for each in found],
                [np.std(each) for each in found],
                label=f"{method}, {schedule}",
                linestyle=style,
                color=force_tf.plots.COLORS[0 if color == "C0" else 1],
                marker="o",
                capsize=2,
            )
    ax.set_xscale("log")
    ax.set_xlabel("Steps of the search, T")
    ax.set_ylabel("Saliency of the pruned network, Σ |θ ∂L/∂θ|")
    ax.legend(frameon=False)
    return figure


# What each method keeps of each layer.


def _structure_cases() -> Iterator[tuple[Row, Callable[[], Row]]]:
    data = _images(_STRUCTURE_SIZE.value)
    for name, method in itertools.product(_DEEP.value, _STRUCTURE_METHODS.value):
        case = _structure_case(name, method)
        yield case, lambda case=case: _kept_of_layers(data, case)


def _structure_case(network: str, method: str) -> Row:
    sizes = {"size": _STRUCTURE_SIZE.value, "batch_size": _STRUCTURE_BATCH.value}
    return {"experiment": "structure", "network": network, "method": method, **sizes}


def _structure_rows(rows: Sequence[Row]) -> list[Row]:
    """Returns the results for these flags, in their order."""
    cases = [_structure_case(*each) for each in itertools.product(_DEEP.value, _STRUCTURE_METHODS.value)]
    return [row for case in cases for row in rows if case.items() <= row.items()]


def _kept_of_layers(data: image_data.ImageData, case: Row) -> Row:
    network = networks.build(case["network"], data.input_shape, data.classes, 0)
    is_erk = case["method"] == "random_erk"
    method, scope = ("random", "erk") if is_erk else (case["method"], "global")
    masks = _search(network, force_tf.PruneAtInit(method, 0.999, scope=scope, seed=0), data, case["batch_size"], 0)
    try:
        small = force_tf.shrink(force_tf.apply_masks(network, masks))
        parameters = sum(int(np.prod(weight.shape)) for weight in force_tf.strip_pruning(small).weights)
    except force_tf.CollapsedError:
        parameters = 0
    counts = {path: [int(np.count_nonzero(mask)), mask.size] for path, mask in masks.items()}
    return {"layers": counts, "collapsed": masks.metadata["collapsed"], "parameters_after_shrink": parameters}


def _structure_table(rows: Sequence[Row]) -> str:
    lines = [
        "| Network | Method | Kept | Tensors without a weight | Parameters after `shrink` |",
        "|---|---|---|---|---|",
    ]
    for row in _structure_rows(rows):
        kept, total = np.sum([*row["layers"].values()], axis=0)
        empty = sum(not count for count, _ in row["layers"].values())
        left = "collapsed" if row["collapsed"] else f"{row['parameters_after_shrink']:,}"
        tensors = len(row["layers"])
        lines.append(f"| {row['network']} | {row['method']} | {kept:,} of {total:,} | {empty} of {tensors} | {left} |")
    return "\n".join(lines)


def _structure_figure(rows: Sequence[Row]):
    rows = _structure_rows(rows)
    names = list(dict.fromkeys(row["network"] for row in rows))
    figure, axes = new_figure(len(names))
    for ax, name in zip(axes, names):
        for row in (row for row in rows if row["network"] == name):
            densities = [max(kept / total, 1e-6) for kept, total in row["layers"].values()]
            style = line_style(_STRUCTURE_METHODS.value.index(row["method"]))
            ax.plot(range(1, len(densities) + 1), densities, **style, markersize=3, label=row["method"])
        ax.set_yscale("log")
        ax.set_title(f"{name}, 99.9 % sparsity")
        ax.set_xlabel("Prunable tensor")
        ax.set_ylabel("Part that is kept (none: 1e-6)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


# Do the masks matter, or only how many weights each layer keeps?


def _sanity_cases() -> Iterator[tuple[Row, Callable[[], Row]]]:
    data = image_data.load(_SANITY_DATASET.value, _DATA_DIR.value, _LIMIT.value)
    for seed, method, arm in itertools.product(range(_SEEDS.value), _METHODS.value, _ARMS):
        case = {"experiment": "sanity", "seed": seed, "method": method, "arm": arm, "epochs": _EPOCHS.value}
        yield case, lambda case=case: _trained(data, case)


def _trained(data: image_data.ImageData, case: Row) -> Row:
    seed = case["seed"]
    network = networks.build("lenet_300_100", data.input_shape, data.classes, seed, weight_decay=5e-4)
    masks = _search(network, force_tf.PruneAtInit(case["method"], 0.99, seed=seed), data, 128, seed)
    if case["arm"] == "shuffled":
        masks = masks.shuffled(seed)
    pruned = force_tf.apply_masks(network, masks)
    if case["arm"] == "redrawn":
        force_tf.redraw_weights(pruned, seed + 1000)
    history = train(
        pruned, data, learning_rate=0.1, batch_size=128, epochs=case["epochs"], seed=seed, whole_epochs=True
    )
    return {"accuracy": 100 * history[-1]["val_accuracy"]}


def _sanity_table(rows: Sequence[Row]) -> str:
    lines = ["| Method | " + " | ".join(_ARMS) + " |", "|---|---|---|---|"]
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = [spread(_accuracies(rows, method, arm), 2) for arm in _ARMS]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _accuracies(rows: Sequence[Row], method: str, arm: str) -> list[float]:
    return [row["accuracy"] for row in rows if (row["method"], row["arm"]) == (method, arm)]


def _sanity_figure(rows: Sequence[Row]):
    figure, (ax,) = new_figure()
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for number, arm in enumerate(_ARMS):
        found = [_accuracies(rows, method, arm) for method in methods]
        means, spreads = [np.mean(each) for each in found], [np.std(each) for each in found]
        ax.bar(np.arange(len(methods)) + 0.27 * (number - 1), means, 0.25, yerr=spreads, label=arm, capsize=2)
    ax.set_xticks(range(len(methods)), methods)
    ax.set_ylim(bottom=80)
    ax.set_ylabel("Test accuracy (%)")
    ax.legend(frameon=False)
    return figure


_CASES = {"schedules": _schedules_cases, "structure": _structure_cases, "sanity": _sanity_cases}
_TABLES = {"schedules": _schedules_table, "structure": _structure_table, "sanity": _sanity_table}
_FIGURE = {"schedules": _schedules_figure, "structure": _structure_figure, "sanity": _sanity_figure}


if __name__ == "__main__":
    run_script(main, "--seeds=3", "Run the same command again to go on.")
