r"""Compares the methods on MNIST, as in table 2 of the SNIP paper (arXiv 1810.02340).

    python benchmarks/mnist_results.py --output=runs/mnist_results.jsonl

trains LeNet-300-100 and LeNet-5, dense and pruned by each method, for several seeds, and prints a Markdown table of the
test errors after the last epoch. Every finished training is a line in the output file; run the same command again to go
on after an interruption, or with more seeds. `--tables_only` prints the table of what is there.

All use SGD with momentum 0.9, weight decay 5e-4, batches of 128 and a learning rate that falls to a tenth after 3/7 and
again after 5/7 of the epochs. The masks come from one batch of 128 per step, and each method's own number of steps.

Methods that move masks during training have the settings of their table in docs/training.md. "rigl", "set" and
"granet_st" begin under random masks with densities by Erdős–Rényi kernel, the last at half of the weights; "random_erk"
leaves such masks as they are. "ticket" is a lottery ticket, found by as many trainings as it takes to prune a fifth
again and again, and trained once more; where other sparsities are asked for, the table has the nearest of its rounds.
"small_dense" has no masks, but hidden layers so narrow that it has no more weights than masks keep (where one unit in
each has more already, those).

    python benchmarks/mnist_results.py --output=runs/during.jsonl --methods=dense,random_erk,gmp,rigl --sparsities=0.9
"""

from __future__ import annotations

import functools
import itertools
import json
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

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
from list_flags import check_fractions, check_names
from result_cells import cell, ticket_cell
from script import run_script
from training import train

from force_tf.support.files import atomic_file

# The published error in percent of SNIP, by network and sparsity.
_PUBLISHED = {
    ("lenet_300_100", 0.95): 1.6,
    ("lenet_300_100", 0.98): 2.4,
    ("lenet_5", 0.98): 0.8,
    ("lenet_5", 0.99): 1.1,
}
_ALL_METHODS = ("dense", *compared_methods.AT_INIT)
_WEIGHT_DECAY, _BATCH = 5e-4, 128

_OUTPUT = flags.DEFINE_string("output", "runs/mnist_results.jsonl", "The file of results, one JSON object a line.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps its data. Default: its own folder.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "How many seeds, from 0.", lower_bound=1)
_EPOCHS = {
    "lenet_300_100": flags.DEFINE_integer("lenet_300_100_epochs", 30, "Epochs of LeNet-300-100.", lower_bound=1),
    "lenet_5": flags.DEFINE_integer("lenet_5_epochs", 10, "Epochs of LeNet-5.", lower_bound=1),
}
_NETWORKS = flags.DEFINE_list("networks", ",".join(_EPOCHS), "Which networks to train.")
check_names("networks", _EPOCHS)
_METHODS = flags.DEFINE_list("methods", ",".join(_ALL_METHODS), "Which methods to compare.")
check_names("methods", compared_methods.NAMES)
_SPARSITIES = flags.DEFINE_list("sparsities", None, "Fractions to remove. Default: those of the SNIP paper.")
check_fractions("sparsities")
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 0.1, "The learning rate to begin with.", lower_bound=0.0)
_LIMIT = flags.DEFINE_integer("limit", None, "Use only so many images, to try things out.", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", None, "Threads for TensorFlow. Default: as it likes.", lower_bound=1)
_TABLES_ONLY = flags.DEFINE_bool("tables_only", False, "Train nothing, print what there is for these flags.")


class Setting(NamedTuple):
    """What distinguishes one training from another."""

    network: str
    method: str
    sparsity: float
    seed: int
    epochs: int
    learning_rate: float
    limit: int | None


def main() -> None:
    if _THREADS.value:
        tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
        tf.config.threading.set_inter_op_parallelism_threads(_THREADS.value)
    output = pathlib.Path(_OUTPUT.value)
    rows = _read(output)
    missing = [setting for setting in _settings() if setting not in rows]
    if missing and not _TABLES_ONLY.value:
        output.parent.mkdir(parents=True, exist_ok=True)
        data = image_data.load("mnist", _DATA_DIR.value, _LIMIT.value)
        for number, setting in enumerate(missing, 1):
            rows[setting] = result = _train(setting, data)
            _write(output, rows)
            error = "diverged" if result["diverged"] else f"{result['error']:.2f} % error"
            print(
                f"{number}/{len(missing)} {setting.network} {setting.method} {setting.sparsity:g} seed {setting.seed}: "
                f"{error}, {result['seconds']:.0f} s",
                flush=True,
            )
    print(_table(rows))


def _settings() -> Iterator[Setting]:
    # Seeds come outermost: after a third of the time, the table has one result in each cell.
    for seed, network in itertools.product(range(_SEEDS.value), _NETWORKS.value):
        for method in _METHODS.value:
            for sparsity in _sparsities(network, method):
                yield _setting(network, method, sparsity, seed)


def _sparsities(network: str, method: str) -> list[float]:
    sparsities = [sparsity for name, sparsity in _columns() if name == network]
    if method == compared_methods.TICKET:
        return [max(sparsities)]  # the rounds pass by the others
    return [0.0] if method == "dense" else sparsities


def _columns() -> list[tuple[str, float]]:
    if _SPARSITIES.value is None:
        return [column for column in _PUBLISHED if column[0] in _NETWORKS.value]
    return [(network, float(sparsity)) for network in _NETWORKS.value for sparsity in _SPARSITIES.value]


def _setting(network: str, method: str, sparsity: float, seed: int) -> Setting:
    return Setting(network, method, sparsity, seed, _EPOCHS[network].value, _LEARNING_RATE.value, _LIMIT.value)


def _train(setting: Setting, data: image_data.ImageData) -> dict[str, Any]:
    """Returns the test error in percent after the last epoch, and what else is worth knowing."""
    keras.backend.clear_session()
    begin, cpu_begin = time.perf_counter(), time.process_time()
    build = functools.partial(
        networks.build, setting.network, data.input_shape, data.classes, setting.seed, _WEIGHT_DECAY
    )
    network = build()

    def fit(model: Any, callbacks: Sequence[Any] = ()) -> list[float]:
        rows = train(
            model,
            data,
            learning_rate=setting.learning_rate,
            batch_size=_BATCH,
            epochs=setting.epochs,
            seed=setting.seed,
            whole_epochs=not callbacks,  # callbacks are called between executions
            callbacks=callbacks,
        )
        return [100 * (1 - row["val_accuracy"]) for row in rows]

    model, callbacks, facts = compared_methods.start(
        setting.method,
        network,
        data,
        sparsity=setting.sparsity,
        batch=_BATCH,
        seed=setting.seed,
        fit=fit,
        folder=f"{_OUTPUT.value}.{setting.network}-{setting.sparsity}-{setting.seed}",
        scaled=lambda width: build(width=width),
    )
    errors = compared_methods.unless_diverged(lambda: fit(model, callbacks))
    times = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu_begin}
    found = {"error": errors and errors[-1], "errors": errors, **times}
    return facts | compared_methods.end(model, callbacks, data) | found


def _read(path: pathlib.Path) -> dict[Setting, dict[str, Any]]:
    if not path.exists():
        return {}
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {Setting(**row.pop("setting")): row for row in rows}


def _write(path: pathlib.Path, rows: dict[Setting, dict[str, Any]]) -> None:
    with atomic_file(path) as file:
        for setting, row in rows.items():
            file.write((json.dumps({"setting": setting._asdict(), **row}) + "\n").encode())


def _table(rows: dict[Setting, dict[str, Any]]) -> str:
    columns = _columns()
    heads = [f"{network}, {100 * sparsity:.4g}%" for network, sparsity in columns]
    lines = [
        f"Test error in percent, mean ± standard deviation over the seeds; {_LEARNING_RATE.value:g} is the first "
        f"learning rate, {', '.join(f'{name}: {_EPOCHS[name].value} epochs' for name in _NETWORKS.value)}.",
        "",
        f"| Method | {' | '.join(heads)} | CPU minutes |",
        "|---|" + "---|" * (len(columns) + 1),
    ]
    for method in _METHODS.value:
        cells = [_cell(rows, network, method, sparsity) for network, sparsity in columns]
        lines.append(f"| {method} | " + " | ".join([*cells, _minutes(rows, method)]) + " |")
    if any(column in _PUBLISHED for column in columns):
        published = [str(_PUBLISHED.get(column, "–")) for column in columns]
        lines.append("| SNIP, as published | " + " | ".join(published) + " | – |")
    return "\n".join(lines)


def _cell(rows: dict[Setting, dict[str, Any]], network: str, method: str, sparsity: float) -> str:
    if method == compared_methods.TICKET:
        (last,) = _sparsities(network, method)
        tickets = [(last, row) for row in _found(rows, network, method, last)]
        return ticket_cell(tickets, "error", sparsity, 2)
    return cell(_found(rows, network, method, 0.0 if method == "dense" else sparsity), "error", 2)


def _found(rows: dict[Setting, dict[str, Any]], network: str, method: str, sparsity: float) -> list[dict[str, Any]]:
    wanted = [_setting(network, method, sparsity, seed) for seed in range(_SEEDS.value)]
    return [rows[setting] for setting in wanted if setting in rows]


def _minutes(rows: dict[Setting, dict[str, Any]], method: str) -> str:
    """The mean over what is in a row of the table, searches and rounds included."""
    found = [
        row
        for network in _NETWORKS.value
        for sparsity in _sparsities(network, method)
        for row in _found(rows, network, method, sparsity)
    ]
    seconds = [row["cpu_seconds"] for row in found if "cpu_seconds" in row]
    return f"{np.mean(seconds) / 60:.2f}" if seconds else "–"


if __name__ == "__main__":
    run_script(main, "--seeds=3", "Run the same command again to go on.")
