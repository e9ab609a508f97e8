"""`python -m force_tf`: the parser, and how commands end."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from force_tf.version import __version__

FAILED, INTERRUPTED = 1, 130
_QUANTIZATIONS = ("float16", "dynamic", "int8", "int8_io")
_EPILOG = """\
exit codes: 0, done; 1, not done, and a sentence on the standard error tells why; 2, wrong options; 130, interrupted.
With --json the standard output is one JSON value; progress bars and messages go to the standard error.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: What stands behind `python -m force_tf`; None: that of this process.

    Returns:
        The exit code.
    """
    options = parser().parse_args(arguments)
    try:
        if options.load:
            sys.path.insert(0, os.getcwd())
        for module in options.load:
            importlib.import_module(module)
        commands = importlib.import_module("force_tf.cli.commands")
        with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
            outcome = getattr(commands, options.command)(options)
    except KeyboardInterrupt:
        print("\nInterrupted. No file was written.", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"force_tf {options.command}: {error}", file=sys.stderr)  # noqa: T201
        return FAILED
    print(json.dumps(outcome.values, indent=2) if options.json else outcome.text)  # noqa: T201
    return 0


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    top = argparse.ArgumentParser(
        prog="python -m force_tf",
        description="Prunes Keras models, and looks into, shrinks, exports and times what comes out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"force_tf {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_inspect, _add_prune, _add_shrink, _add_export, _add_benchmark):
        command = add(commands)
        command.add_argument("--json", action="store_true", help="print one JSON value instead of a table")
        command.add_argument(
            "--load",
            metavar="MODULE",
            action="append",
            default=[],
            help="import this module first, from the present folder or an installed package: it registers layers "
            "or losses of your own; may be given several times",
        )
    return top


def _amount(text: str) -> float | int:
    try:
        return int(text) if text.strip().isdecimal() else float(text)
    except ValueError:
        message = f"expected a fraction below 1 or a number, such as 0.25 or 50000. Received: {text!r}"
        raise argparse.ArgumentTypeError(message) from None


# What `add_subparsers` returns has no public type: below it is Any.
def _command(commands: Any, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  python -m force_tf {example}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_inspect(commands: Any) -> argparse.ArgumentParser:
    summary = "tells what a model (.keras, .h5), masks (.npz) or a .tflite file hold, tensor by tensor"
    command = _command(commands, "inspect", summary, "inspect model.keras")
    command.add_argument("file", metavar="FILE", help="a .keras, .h5, .npz or .tflite file")
    command.add_argument(
        "--sparse-kernels",
        action="store_true",
        help="tell of a model which layers phones could run sparsely, which takes seconds (of a .tflite file it is "
        "told anyway)",
    )
    command.add_argument(
        "--costs",
        action="store_true",
        help="measure of a model what a budget counts, dense and of what `shrink` leaves: multiply-adds, parameters, "
        "and bytes of the .tflite file, which takes seconds",
    )
    command.add_argument("--full", action="store_true", help="list all that masks left out")
    return command


def _add_prune(commands: Any) -> argparse.ArgumentParser:
    summary = "finds the weights worth keeping, and writes the pruned model, or the masks alone"
    command = _command(
        commands, "prune", summary, "prune model.keras pruned.keras --method=force --sparsity=0.95 --data=train.npz"
    )
    command.add_argument("model", metavar="MODEL", help="a .keras or .h5 file of a whole model")
    command.add_argument(
        "output", metavar="OUTPUT", help="the pruned model (.keras, .h5), or masks alone (.npz), to write"
    )
    command.add_argument("--masks", metavar="FILE", help="put these masks (.npz) on the model instead of a search")
    command.add_argument("--method", default="force", help="how weights are scored (default: %(default)s)")
    command.add_argument(
        "--sparsity",
        type=float,
        help="the fraction of the prunable weights to remove (default: 0.9, or what a budget asks)",
    )
    budget = command.add_argument_group(
        "budget", "What the network may cost that `shrink` leaves, in place of a sparsity; several must all be met."
    )
    fraction = "a fraction, below 1, of what the dense model has, or a number"
    budget.add_argument("--flops", type=_amount, help=f"multiply-adds for one sample: {fraction}")
    budget.add_argument("--parameters", type=_amount, help=f"kept weights, biases and statistics: {fraction}")
    budget.add_argument("--file-bytes", type=_amount, help=f"bytes of the .tflite file: {fraction}")
    budget.add_argument("--quantize", choices=_QUANTIZATIONS, help="the numbers of that file (default: float32)")
    command.add_argument(
        "--data",
        metavar="FILE",
        help="an .npz file with the model's inputs `x` and targets `y`, or an .npy file of inputs; several inputs are "
        "named as in the model. Not needed by synflow, synflow_l2, ntk_sap, magnitude and random",
    )
    command.add_argument("--loss", help="a Keras loss by its name (default: that with which the model was compiled)")
    command.add_argument("--batch-size", type=int, default=128, help="rows per batch (default: %(default)s)")
    command.add_argument("--batches", type=int, help="batches per step (default: the method's own)")
    command.add_argument("--steps", type=int, help="steps of the search (default: the method's own)")
    command.add_argument("--schedule", help="how the density falls, such as exponential (default: the method's own)")
    command.add_argument("--scope", default="global", help="global, layer or erk (default: %(default)s)")
    command.add_argument("--min-per-layer", type=int, default=0, help="weights that each tensor keeps (default: 0)")
    command.add_argument(
        "--granularity",
        default="weight",
        help="what goes as one: weight, channel, a pattern such as 2:4, or a block such as 1,4 (default: %(default)s)",
    )
    command.add_argument(
        "--layers",
        action="append",
        help="prune layers that fit this name or regular expression; may be given several times",
    )
    command.add_argument("--seed", type=int, help="seed of the order of the data (default: another every time)")
    command.add_argument("--checkpoint", metavar="FOLDER", help="keep the search's state here, and go on from it")
    command.add_argument("--full", action="store_true", help="list all that is left out")
    return command


def _add_shrink(commands: Any) -> argparse.ArgumentParser:
    summary = "removes the channels that pruning has killed, and writes the smaller model"
    command = _command(commands, "shrink", summary, "shrink pruned.keras small.keras")
    command.add_argument("model", metavar="MODEL", help="a .keras or .h5 file of a pruned model")
    command.add_argument("output", metavar="OUTPUT", help="the smaller model (.keras, .h5) to write")
    command.add_argument("--full", action="store_true", help="print every layer")
    return command


def _add_export(commands: Any) -> argparse.ArgumentParser:
    summary = "writes a model as a TFLite file, runs it, and compares it with the model"
    command = _command(
        commands, "export", summary, "export pruned.keras model.tflite --quantize=int8 --representative-data=train.npz"
    )
    command.add_argument("model", metavar="MODEL", help="a .keras or .h5 file")
    command.add_argument("output", metavar="OUTPUT", help="the .tflite file to write")
    command.add_argument("--quantize", choices=_QUANTIZATIONS, help="the file's numbers (default: float32)")
    command.add_argument(
        "--representative-data",
        metavar="FILE",
        help="an .npz or .npy file of some hundred inputs, to measure ranges on; int8 and int8_io need it",
    )
    command.add_argument("--verify-data", metavar="FILE", help="inputs to compare the file with the model on")
    command.add_argument(
        "--sparse",
        choices=("auto", "always", "never"),
        default="auto",
        help="store zeros by their absence; never for TFLite Micro (default: %(default)s)",
    )
    command.add_argument(
        "--sparse-kernels",
        choices=("auto", "always", "never"),
        default="auto",
        help="rewrite the graph for the sparse kernels of phones (default: %(default)s)",
    )
    command.add_argument("--tolerance", type=float, help="the largest difference of outputs to accept")
    command.add_argument("--c-array", metavar="FILE", help="write the file as a C array too, for microcontrollers")
    command.add_argument("--full", action="store_true", help="print every tensor of the file")
    return command


def _add_benchmark(commands: Any) -> argparse.ArgumentParser:
    summary = "times TFLite files on this machine, and measures their memory"
    command = _command(commands, "benchmark", summary, "benchmark dense.tflite pruned.tflite --threads=2")
    command.add_argument("files", metavar="FILE", nargs="+", help="a .tflite file")
    command.add_argument("--threads", type=int, default=1, help="threads of the interpreter (default: %(default)s)")
    command.add_argument("--runs", type=int, default=50, help="timed calls in each mode (default: %(default)s)")
    return command
