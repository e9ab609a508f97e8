"""Export to TFLite: convert, verify, report, benchmark, evaluate."""

from force_tf.export.benchmark import ModeLatency, TFLiteLatency, benchmark_tflite
from force_tf.export.check import TFLiteCheck, check_tflite
from force_tf.export.evaluate import evaluate_tflite
from force_tf.export.report import StoredTensor, TFLiteReport
from force_tf.export.sparse_layers import SparseKernelLayers, sparse_kernel_layers
from force_tf.export.tflite import export_tflite

__all__ = [
    "ModeLatency",
    "SparseKernelLayers",
    "StoredTensor",
    "TFLiteCheck",
    "TFLiteLatency",
    "TFLiteReport",
    "benchmark_tflite",
    "check_tflite",
    "evaluate_tflite",
    "export_tflite",
    "sparse_kernel_layers",
]
