"""`sparse_kernel_layers`: which layers of a model a phone's runtime can compute without their zeros."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from force_tf.export.convert import convert_for_any_batch, in_float32
from force_tf.export.rewrites.fit import fit
from force_tf.export.rewrites.plan import Product
from force_tf.export.samples import signature_of
from force_tf.export.tensor_names import with_keras_names
from force_tf.layers import without_masks
from force_tf.models import keras_models
from force_tf.models.keras_models import array_variables, preserved_random_state
from force_tf.models.weights import variable_paths
from force_tf.support.tables import aligned

# What a name has behind it if it is that of a second tensor, or of a part.
_MARK = re.compile(r"(#\d+|\[.*)$")


@dataclasses.dataclass(frozen=True)
class SparseKernelLayers:
    """Weights that phones' sparse kernels can leave the zeros out of; iterates over their paths, and prints as a table.

    As `layers=` of `PruneAtInit` it selects these weights.

    Attributes:
        paths: The paths of the weights, such as "conv1/kernel", in the order in which they are computed with.
        multiply_adds: The multiply-adds for one sample of the products with these weights, zeros included.
        all_multiply_adds: Those of the whole model.
        blocked: Why other products cannot run so, by the path of the weight, or else by an operation's name.
        rewrites: What `export_tflite(..., sparse_kernels=True)` rewrites in the file's graph, and how often.
    """

    paths: tuple[str, ...]
    multiply_adds: int
    all_multiply_adds: int
    blocked: dict[str, str]
    rewrites: dict[str, int]

    @property
    def share(self) -> float:
        """The part of the multiply-adds that are products with these weights."""
        return self.multiply_adds / max(self.all_multiply_adds, 1)

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __contains__(self, path: object) -> bool:
        return path in self.paths

    def __str__(self) -> str:
        done = ", ".join(f"{count} {name}" for name, count in self.rewrites.items()) or "nothing"
        head = (
            f"{len(self.paths)} weights with {self.share:.1%} of {self.all_multiply_adds:,} multiply-adds can run "
            f"sparsely on phones; to rewrite: {done}"
        )
        rows = [(path, "sparse") for path in self.paths]
        rows += [(paths, f"dense: {reason}") for paths, reason in blocked_in_short(self)]
        return "\n".join([head, aligned(rows, "<<")]) if rows else head


def blocked_in_short(found: SparseKernelLayers) -> list[tuple[str, str]]:
    """Returns the weights that cannot run sparsely, those of one reason together, such as "a/kernel and 3 more"."""
    by_reason: dict[str, list[str]] = {}
    for path, reason in found.blocked.items():
        by_reason.setdefault(reason, []).append(path)
    return [
        (paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more", reason)
        for reason, paths in by_reason.items()
    ]


def sparse_kernel_layers(model: keras.Model) -> SparseKernelLayers:
    """Tells which layers of a model phones can run sparsely, once most of their weights are pruned.

    On Arm the stock TFLite runtime has kernels for 1x1 convolutions that leave zeros out, at any places, not just in
    blocks. They take what follows a 3x3 convolution of stride 2 on 3 channels, as far as it consists of 1x1 and
    depthwise convolutions, additions, gates and activations, where more than two thirds of the 1x1 weights are zero.
    `export_tflite(..., sparse_kernels=True)` rewrites the graph so that they take it. A dense copy of the model, with
    random weights, is converted to find out, which takes some seconds.

    Args:
        model: A built model of either Keras that declares its inputs, wrapped or plain. It stays as it is.

    Returns:
        `SparseKernelLayers`: the weights to prune, their share of the work, and what blocks the rest.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it does not declare its inputs, or TFLite cannot express it.

    References:
        Elsen et al., Fast Sparse ConvNets, CVPR 2020: the kernels.

    Example:

    >>> layers = force_tf.sparse_kernel_layers(model)
    >>> pruner = force_tf.PruneAtInit(method="force", sparsity=0.9, layers=layers)
    """
    keras_models.check_model(model)
    with preserved_random_state(), without_masks(model) as plain:
        plain = in_float32(plain)
        values = _telling(plain)
        content, _ = convert_for_any_batch(plain, signature_of(plain), values)
        by_variable = variable_paths(plain)
        paths = [by_variable[id(variable)] for variable in array_variables(plain)]
        fitted = fit(with_keras_names(content, paths, values))
    return _found(fitted.plan.products, fitted.plan.obstacle, fitted.rewrites, set(paths))


def _telling(model: keras.Model) -> list[np.ndarray]:
    """Returns a value for each variable by which it is known in the file: no two alike, and none of them zero."""
    rng = np.random.default_rng(0)
    values = []
    for variable in array_variables(model):
        value = np.asarray(variable)
        if value.dtype.kind == "f":
            # Variances among them must be positive.
            drawn = rng.normal(0, 0.1, value.shape) if value.ndim > 1 else rng.uniform(0.5, 1.5, value.shape)
            value = drawn.astype(value.dtype)
        values.append(value)
    return values


def _found(
    products: Sequence[Product], obstacle: str | None, rewrites: dict[str, int], known: set[str]
) -> SparseKernelLayers:
    paths: list[str] = []
    blocked: dict[str, str] = {}
    for product in products:
        path = _MARK.sub("", product.kernel or "")
        if product.sparse and path in known:
            paths.append(path)
        elif not product.inside:
            blocked[path if path in known else product.label] = obstacle or product.obstacle or "of another kind"
    # A layer that is called twice may be inside once only; its zeros are left out there.
    paths = list(dict.fromkeys(paths))
    return SparseKernelLayers(
        paths=tuple(paths),
        multiply_adds=sum(product.multiply_adds for product in products if product.sparse),
        all_multiply_adds=sum(product.multiply_adds for product in products),
        blocked={path: reason for path, reason in blocked.items() if path not in paths},
        rewrites=rewrites,
    )
