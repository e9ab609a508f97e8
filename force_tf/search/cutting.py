"""Where the cuts of a search are made."""

from __future__ import annotations

from force_tf.criteria import Network
from force_tf.granularity import BoundGranularity, Granularity, Plan, Weights
from force_tf.search.cut import Cut
from force_tf.search.device_cut import DeviceCut, compiles_on
from force_tf.search.flat_scores import score_dtype
from force_tf.search.host_cut import HostCut
from force_tf.search.repair import Repair
from force_tf.search.zero_scores import ZeroScores


def check_place(cut: str, granularity: Granularity, repair: bool) -> None:
    """Raises unless cuts of a granularity can be made where `cut=` says, and repaired if that is asked for.

    Raises:
        ValueError: If they cannot.
    """
    if cut == "device" and not granularity.on_device:
        raise ValueError(
            'Expected cut="auto" or "host", since only single weights are cut on an accelerator. '
            f"Received: cut='device', granularity={granularity.value!r}"
        )
    if cut == "device" and repair:
        raise ValueError(
            'Expected cut="auto" or "host" for a repair, which is made on the host. '
            "Received: cut='device', repair=True"
        )
    if repair and not isinstance(granularity, Weights):
        raise ValueError(
            'Expected granularity="weight" for a repair of live paths, which exchanges single weights. '
            f"Received: repair=True, granularity={granularity.value!r}"
        )


def make_cut(
    cut: str,
    plan: Plan,
    zeros: ZeroScores,
    *,
    invert: bool,
    granularity: BoundGranularity,
    network: Network,
    repair: Repair | None = None,
) -> Cut:
    """Returns what cuts the scores of a search.

    Args:
        cut: "host", "device", or "auto": the device if weights by themselves are cut, they live on an accelerator, and
            XLA compiles for it.
        plan: What the search keeps.
        zeros: Is shown the scores where zeros may decide.
        invert: Whether to keep the lowest scores instead.
        granularity: What is kept or pruned as one.
        network: What is scored, whose weights lie where the scores will.
        repair: What the last cut goes through, on the host; None for nothing.
    """
    device = network.dense[0].device if network.dense else ""
    dtype = score_dtype(network.weights)
    if cut == "device" or (cut == "auto" and not repair and granularity.on_device and compiles_on(device)):
        return DeviceCut(plan, zeros, invert, dtype, device)
    return HostCut(plan, zeros, invert, dtype, granularity, repair)
