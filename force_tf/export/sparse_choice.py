"""Decides whether a file is rewritten for a phone's sparse kernels, and says what that brings or what is in the way."""

from __future__ import annotations

import dataclasses

from force_tf.export import flatbuffer
from force_tf.export.rewrites.fit import Fitted, fit
from force_tf.export.rewrites.plan import Plan
from force_tf.export.sparse_kernels import OFF, SPARSE, Cluster, clusters_of

# "auto" rewrites where sparse kernels take at least this part of the multiply-adds.
_LEAST_SHARE = 0.5
# How many layers an error or a report names.
_NAMED = 4


@dataclasses.dataclass(frozen=True)
class Choice:
    """What becomes of a file.

    Attributes:
        content: The dense file to go on with.
        on: Whether it is to run with sparse kernels.
        off: Whether it must not.
        rewrites: What was rewritten, and how often.
        note: What was done or what True would bring, in a sentence.
    """

    content: bytes
    on: bool
    off: bool
    rewrites: dict[str, int]
    note: str


def choose(content: bytes, sparse: bool | str, sparse_kernels: bool | str, quantize: str | None) -> Choice:
    """Returns what becomes of a converted file.

    Args:
        content: The dense file.
        sparse: As `export_tflite` takes it.
        sparse_kernels: As `export_tflite` takes it.
        quantize: The types of the file's numbers.

    Raises:
        ValueError: If sparse kernels are demanded, and something stands in the way.
    """
    plain = Choice(content, on=False, off=sparse_kernels is False, rewrites={}, note="off, as asked for")
    if sparse_kernels is False:
        return plain
    if quantize not in (None, "float16"):
        return dataclasses.replace(plain, note="none: integers have no sparse kernels")
    fitted = fit(content)
    obstacle = obstacle_of(fitted)
    if sparse_kernels is True:
        if obstacle is not None:
            raise ValueError(refusal(obstacle))
        return Choice(fitted.content, True, False, fitted.rewrites, sentence(fitted))
    if sparse is False:
        return dataclasses.replace(plain, note="off, since sparse=False stores no weight sparsely")
    if obstacle is not None:
        return dataclasses.replace(plain, note=f"none: {obstacle}")
    share = share_of(fitted.plan)
    if fitted.rewrites and (share < _LEAST_SHARE or fitted.plan.gates):
        gates = f" behind {len(fitted.plan.gates)} gates, which cost time elsewhere" if fitted.plan.gates else ""
        brings = f"{share:.1%} of the multiply-adds would run with sparse kernels{gates}"
        return dataclasses.replace(plain, note=f"off; with sparse_kernels=True {brings}")
    return Choice(fitted.content, True, False, fitted.rewrites, sentence(fitted))


def refusal(obstacle: str) -> str:
    """Returns the error for a network that cannot run with sparse kernels."""
    return (
        "Expected a network that phones' sparse kernels can take, for sparse_kernels=True; pass 'auto' for a file in "
        f"any case. Received: one that they cannot: {obstacle}"
    )


def obstacle_of(fitted: Fitted) -> str | None:
    """Returns why a rewritten file would not run with sparse kernels, or None."""
    if fitted.plan.obstacle is not None:
        return fitted.plan.obstacle
    clusters = clusters_of(flatbuffer.parse(fitted.content), sparse=True)
    if any(cluster.verdict == SPARSE for cluster in clusters):
        return None
    if not clusters:
        return "nothing of it begins as they need it"
    reasons = "; ".join(clusters[0].reasons)
    return f"{reasons}{_least_sparse(fitted, clusters[0])}"


def _least_sparse(fitted: Fitted, cluster: Cluster) -> str:
    """Names the layers with the fewest zeros, if it is for want of these that nothing switches."""
    if cluster.verdict != OFF or 3 * cluster.zeros > 2 * cluster.weights:
        return ""
    kernels = {product.kernel for product in fitted.plan.products if product.sparse}
    weights = [item for item in flatbuffer.weights_of(flatbuffer.parse(fitted.content)) if item.name in kernels]
    fewest = sorted(weights, key=lambda weight: weight.zeros - 2 * weight.size / 3)[:_NAMED]
    named = ", ".join(f"{weight.name} ({weight.zeros / weight.size:.0%})" for weight in fewest)
    return f". The most are missing in {named}"


def share_of(plan: Plan) -> float:
    """Returns the part of the multiply-adds whose operations could run with sparse kernels."""
    return plan.multiply_adds / max(sum(product.multiply_adds for product in plan.products), 1)


def sentence(fitted: Fitted) -> str:
    """Returns what a rewritten file does with sparse kernels, and what stays as it was."""
    share = share_of(fitted.plan)
    done = ", ".join(f"{count} {name}" for name, count in fitted.rewrites.items()) or "nothing"
    outside = [product for product in fitted.plan.products if not product.inside and product.obstacle]
    outside = sorted(outside, key=lambda product: -product.multiply_adds)[:1]
    why = "".join(f"; {product.label} stays dense: {product.obstacle}" for product in outside)
    return f"on for {share:.1%} of the multiply-adds; rewritten: {done}{why}"
