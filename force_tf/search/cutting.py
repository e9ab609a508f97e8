"""Where the cuts of a search are made."""

from __future__ import annotations

from collections.abc import Callable

from force_tf.criteria import Network
from force_tf.granularity import BoundGranularity, Granularity, Pattern, Plan, Weights
from force_tf.search.budget_cut import BudgetCut
from force_tf.search.cut import Cut
from force_tf.search.device_cut import DeviceCut, compiles_on
from force_tf.search.flat_scores import score_dtype
from force_tf.search.host_cut import HostCut
from force_tf.search.limits import BoundLimits, Limits
from force_tf.search.repair import Repair
from force_tf.search.zero_scores import ZeroScores


def check_place(cut: str, granularity: Granularity, repair: bool, budget: Limits | None) -> None:
    """Raises unless cuts of a granularity can be made where `cut=` says, and be repaired or meet a budget if asked.

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
    if budget and (cut == "device" or isinstance(granularity, Pattern)):
        raise ValueError(
            'Expected cut="auto" or "host" and a granularity other than a pattern, whose sparsity is given, for a '
            f"search to a budget. Received: cut={cut!r}, granularity={granularity.value!r}"
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
    keep_memory: bool,
    repair: Repair | None = None,
    limits: BoundLimits | None = None,
    plan_to: Callable[[float], Plan],
    show: Callable[[float], None],
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
        keep_memory: Whether to keep the memory of the scores from one cut to the next, on the host.
        repair: What the last cut goes through, on the host; None for nothing.
        limits: The budget to which to cut, on the host; None for the plan's own end.
        plan_to: Returns the plan of all steps that lead to a density.
        show: Called with the density of each cut that is tried for a budget.
    """
    device = network.dense[0].device if network.dense else ""
    dtype = score_dtype(network.weights)
    if limits:
        of_host = (plan, zeros, invert, dtype, granularity, keep_memory)
        return BudgetCut(*of_host, limits=limits, plan_to=plan_to, show=show)
    if cut == "device" or (cut == "auto" and not repair and granularity.on_device and compiles_on(device)):
        return DeviceCut(plan, zeros, invert, dtype, device)
    return HostCut(plan, zeros, invert, dtype, granularity, keep_memory, repair)
