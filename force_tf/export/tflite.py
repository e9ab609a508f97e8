"""`export_tflite`: a verified TFLite file from a pruned or plain Keras model."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from force_tf.export import flatbuffer
from force_tf.export.convert import QUANTIZATIONS, Converted, Quantization, convert_with_reference, in_float32
from force_tf.export.encoding import Encoded, encode_and_run
from force_tf.export.multiply_adds import multiply_adds
from force_tf.export.processors import Processor, processors_in
from force_tf.export.report import StoredTensor, TFLiteReport
from force_tf.export.samples import Signature, flat_samples, random_samples, signature_of
from force_tf.export.sizes import sizes_of
from force_tf.export.sparse_kernels import clusters_of
from force_tf.export.verify import Comparison, RunError, keras_outputs, largest
from force_tf.layers import without_masks
from force_tf.models import keras_models
from force_tf.models.keras_models import preserved_random_state
from force_tf.models.paths import layers_of
from force_tf.objective.batches import first_inputs
from force_tf.support.arguments import one_of
from force_tf.support.files import atomic_file

# How many samples are used: a file runs them one by one, and ranges hardly change after some hundred.
_VERIFY_SAMPLES, _CALIBRATION_SAMPLES = 1000, 500
# Fewer tell too little of the ranges of activations.
_MIN_CALIBRATION_SAMPLES = 10
# The default tolerance relative to the largest output, by `quantize`. What integers lose depends on the model.
_TOLERANCES = {None: 1e-3, "float16": 2e-2}


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    quantize: str | None = None,
    representative_data: Any = None,
    sparse: bool | str = "auto",
    sparse_kernels: bool | str = "auto",
    verify_data: Any = None,
    tolerance: float | None = None,
    allow_select_tf_ops: bool = False,
    verify_on: str | os.PathLike | None = None,
    verbose: bool | int = True,
) -> TFLiteReport:
    """Writes a model as a TFLite file, runs the file against the model, and reports what was written.

    The file appears only once it has been loaded and run by the default interpreter (LiteRT where `ai-edge-litert` is
    installed, or else TensorFlow's own), and its outputs compared with those of the model. A model that computes in
    another precision is rebuilt in float32 first, and the file compared with that. The model itself stays as it is.

    The batch size of the file may vary if that of the model may; it is 1 where TFLite cannot express the model
    otherwise, as with recurrent layers. The LSTM of tf_keras becomes an operation that keeps its state from one run to
    the next: call the interpreter's `reset_all_variables()` between sequences.
    Stateful layers keep their states in the file, which begins with zeros: make a new interpreter to begin anew.

    Phones compute some sparse files with kernels of their own, which leave zeros out, and some of those wrongly, which
    no run on a PC with AVX shows. `sparse_kernels` rewrites the file's graph, which computes what it did, so that they
    take it. Every file is checked against the rules that tell (see `check_tflite`). Where a part of it would come out
    wrong, the paddings of its first convolution are written otherwise, which keeps that part from these kernels and
    changes no output, and the report says why.

    The report compares with a dense model: the same architecture in a dense float32 file, its pruned weights refilled
    with seeded random numbers of the mean and deviation of the kernel's other weights, since zeros would compress.

    Args:
        model: A built model of either Keras, pruned by `apply_masks` or plain.
        path: The file to write.
        quantize: The types of the file's numbers. None: float32. "float16": 16-bit weights. "dynamic": 8-bit weights,
            and activations quantized as they come. "int8": 8-bit weights and activations, float32 inputs and outputs,
            and float32 for operations that have no 8-bit form. "int8_io": 8-bit inputs and outputs too, and nothing in
            float32. Zeros stay exactly zero in all of them.
        representative_data: For "int8" and "int8_io": inputs as the device will see them, to measure the ranges of
            activations on, in any form that `fit` takes, with or without targets; up to 500 samples are used. Not
            needed after quantization-aware training.
        sparse: Whether to store tensors of mostly zeros by their non-zero values and the places of these. "auto" does
            so tensor by tensor, where it makes the file smaller and the default interpreter runs it: LiteRT's XNNPACK
            cannot run most sparse 8-bit tensors. True does so wherever it makes the file smaller, with a warning if the
            default interpreter cannot load that file. False never does, as TFLite Micro needs it. On a PC the
            runtime is hardly ever faster for it: `benchmark_tflite` tells.
        sparse_kernels: Whether phones are to run the file with kernels that leave out the zeros of 1x1 convolutions
            (see `sparse_kernel_layers`). They need more than two thirds of these weights to be zero, in float32 or
            float16. True: all that this network needs is rewritten in the file (images and kernels flipped, paddings
            explicit, constants in place, gates where a map leaves), or an error says what stands in the way. False:
            nothing is, and the file stays with its other kernels. "auto": as True where at least half of the
            multiply-adds would run so and no gates are needed, which costs next to nothing on other processors; else
            nothing is rewritten, and the report says what True would bring.
        verify_data: Inputs on which to compare the file with the model, in any form that `fit` takes, with or without
            targets; up to 1000 samples are used. None: `representative_data`, or else eight random samples.
        tolerance: The largest absolute output difference to accept. None: a thousandth of the largest output in
            float32, a fiftieth in float16, and no limit with 8-bit numbers, whose error depends on the model. Outputs
            that are not numbers are never accepted.
        allow_select_tf_ops: Whether the file may hold operations that only a runtime built with TensorFlow's "select
            ops" knows. Where no installed package can run such a file, it is written without having been compared with
            the model, with a warning.
        verify_on: A folder of emulated processors, made by `tools/setup_emulators.py`: the file also runs on these, on
            its first few samples, and there is no file if it does not load there or its outputs differ. A file that
            this machine could not run, or only without delegates, is not run there.
        verbose: Whether to show a progress bar over the stages (the model is run, converted, the file is run) and print
            the report: True or 1 prints a few lines, 2 every tensor, False or 0 shows nothing.

    Returns:
        A `TFLiteReport`: bytes, compressed and not, and those of the dense model; output differences; every tensor with
        its zeros, read back from the file, and how it is stored and why.

    Raises:
        TypeError: If `model` is not a Keras model, or data is not of a form that `fit` takes.
        ValueError: If the model is not built, an argument does not fit, TFLite cannot express the model, the
            interpreter cannot run the file, or the outputs differ by more than `tolerance`.
        OSError: If the file cannot be written.

    Example:

    >>> report = force_tf.export_tflite(pruned, "model.tflite", quantize="float16", verbose=False)
    >>> report.dense_bytes / report.bytes
    22.4
    """
    keras_models.check_model(model)
    _check_arguments(quantize, sparse, tolerance)
    one_of("verbose", verbose, (0, 1, 2))
    _check_sparse_kernels(sparse_kernels, sparse, quantize)
    processors = processors_in(verify_on)
    calibration = _calibration(model, quantize, representative_data)
    samples = calibration if verify_data is None else first_inputs(verify_data, _VERIFY_SAMPLES)
    signature = signature_of(model, samples)
    what = "representative_data" if verify_data is None else "verify_data"
    arrays = random_samples(model, signature) if samples is None else flat_samples(signature, samples, what)
    if calibration is not None:
        calibration = flat_samples(signature, calibration, "representative_data")
    quantization = Quantization(quantize, calibration, allow_select_tf_ops)
    progress = keras.utils.Progbar(3, verbose=int(bool(verbose)), unit_name="stage")
    with atomic_file(path) as file, preserved_random_state():
        with without_masks(model) as plain:
            plain = in_float32(plain)
            expected = keras_outputs(plain, signature, arrays)
            progress.update(1)
            converted = convert_with_reference(plain, signature, quantization)
            progress.update(2)
        encoded = encode_and_run(converted, sparse, arrays, expected, sparse_kernels)
        if encoded.comparison is not None:
            _check_outputs(encoded.comparison, tolerance, quantize, largest(expected))
        verified = [] if encoded.failure is not None else processors
        for processor in verified:
            comparison = _compare_on(processor, encoded.content, converted.signature, arrays, expected)
            _check_outputs(comparison, tolerance, quantize, largest(expected), f" on {processor.name}")
        progress.update(3)
        file.write(encoded.content)
        report = _report(os.fspath(path), converted, encoded, len(arrays[0]), [item.name for item in verified])
    if encoded.failure is not None:
        warnings.warn(_warning(report), stacklevel=2)
    if verbose:
        print(report.details() if verbose == 2 else report)  # noqa: T201 (what the user asked for)
    return report


def _check_arguments(quantize, sparse, tolerance) -> None:
    if quantize not in QUANTIZATIONS:
        raise ValueError(f"Expected `quantize` to be one of {QUANTIZATIONS}. Received: quantize={quantize!r}")
    if not (isinstance(sparse, bool) or sparse == "auto"):
        raise ValueError(f"Expected `sparse` to be True, False or 'auto'. Received: sparse={sparse!r}")
    if tolerance is not None and not (isinstance(tolerance, (int, float)) and tolerance >= 0):
        raise ValueError(
            f"Expected `tolerance` to be None or a number of at least 0. Received: tolerance={tolerance!r}"
        )


def _check_sparse_kernels(sparse_kernels, sparse, quantize) -> None:
    if not (isinstance(sparse_kernels, bool) or sparse_kernels == "auto"):
        raise ValueError(
            f"Expected `sparse_kernels` to be True, False or 'auto'. Received: sparse_kernels={sparse_kernels!r}"
        )
    if sparse_kernels is True and quantize not in (None, "float16"):
        raise ValueError(
            "Expected quantize=None or 'float16' with sparse_kernels=True: integers have no sparse kernels. "
            f"Received: quantize={quantize!r}"
        )
    if sparse_kernels is True and sparse is False:
        raise ValueError(
            "Expected sparse='auto' or True with sparse_kernels=True: a weight that is stored sparsely turns them on. "
            "Received: sparse=False"
        )


def _calibration(model, quantize: str | None, representative_data: Any) -> Any:
    """Returns the samples to calibrate on, if `quantize` needs any."""
    if quantize not in ("int8", "int8_io"):
        return None
    if representative_data is None:
        if any(type(layer).__name__.startswith("Quantize") for layer in layers_of(model)):
            return None  # tfmot's quantization-aware training has measured the ranges
        raise ValueError(
            f"Expected `representative_data`, some hundred inputs to measure the ranges of activations on, for "
            f"quantize={quantize!r}. Received: representative_data=None"
        )
    samples = first_inputs(representative_data, _CALIBRATION_SAMPLES)
    count = min((len(array) for array in keras.tree.flatten(samples) if np.ndim(array)), default=0)
    if count < _MIN_CALIBRATION_SAMPLES:
        raise ValueError(
            f"Expected `representative_data` to hold {_MIN_CALIBRATION_SAMPLES} samples or more, better some hundred. "
            f"Received: {count}"
        )
    return samples


def _compare_on(processor: Processor, content: bytes, signature: Signature, arrays: list, expected: list) -> Comparison:
    try:
        return processor.compare(content, signature, arrays, expected)
    except RunError as error:
        raise ValueError(
            f"Expected a file that runs on {processor.name}. Received: {error.reason}. No file was written."
        ) from error


def _check_outputs(
    comparison: Comparison, tolerance: float | None, quantize: str | None, largest_output: float, where: str = ""
) -> None:
    limit = tolerance
    if limit is None:
        limit = _TOLERANCES[quantize] * largest_output if quantize in _TOLERANCES else np.finfo("float64").max
    if not comparison.maximum <= limit:
        raise ValueError(
            f"Expected outputs within {limit:.3g} of the Keras model's; check the model on these inputs, or pass "
            f"another `tolerance`. Received: outputs{where} that differ by up to {comparison.maximum:.3g}, "
            f"{comparison.mean:.3g} on average. No file was written."
        )


def _warning(report: TFLiteReport) -> str:
    if report.max_difference is None:
        return (
            f"{report.path!r} holds operations of TensorFlow's, which {report.runtime} cannot run ({report.failure}): "
            "the file has not been compared with the model. Run it where it is used."
        )
    return (
        f"{report.path!r} does not load in {report.runtime} with its default delegate ({report.failure}); it runs "
        "without delegates. Pass sparse='auto' for a file that does."
    )


def _report(path: str, converted: Converted, encoded: Encoded, samples: int, processors: Sequence[str]) -> TFLiteReport:
    content, sizes, dense = encoded.content, sizes_of(encoded.content), converted.reference.sizes
    model = flatbuffer.parse(content)
    clusters = tuple(clusters_of(model))
    comparison = encoded.comparison or Comparison(None, None, None)
    return TFLiteReport(
        path=path,
        quantize=converted.quantization.kind,
        bytes=sizes.plain,
        gzip_bytes=sizes.gzip,
        zstd_bytes=sizes.zstd,
        dense_bytes=dense.plain,
        dense_gzip_bytes=dense.gzip,
        dense_zstd_bytes=dense.zstd,
        batch_size=converted.signature.batch_size,
        max_difference=comparison.maximum,
        mean_difference=comparison.mean,
        top_class_agreement=comparison.agreement,
        samples=0 if encoded.comparison is None else samples,
        runtime=encoded.runtime,
        failure=encoded.failure,
        min_runtime_version=flatbuffer.runtime_version(model),
        operations=flatbuffer.count_operations(model),
        tensors=tuple(
            StoredTensor(
                name=weight.name,
                shape=weight.shape,
                dtype=weight.dtype.name,
                size=weight.size,
                zeros=weight.zeros,
                bytes=weight.bytes,
                sparse=weight.sparse,
                reason=reason,
            )
            for weight, reason in zip(flatbuffer.weights_of(model), encoded.reasons, strict=True)
        ),
        clusters=clusters,
        prevented=encoded.prevented,
        rewrites=encoded.rewrites,
        sparse_kernels=encoded.sparse_kernels,
        multiply_adds=multiply_adds(model, clusters),
        verified_on=(*([platform.machine()] if encoded.comparison is not None else []), *processors),
    )
