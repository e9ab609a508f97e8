"""Pruning criteria: a score for every prunable weight, one class per definition."""

from force_tf.criteria.base import Criterion
from force_tf.criteria.baselines import Magnitude, Random
from force_tf.criteria.channels import SNAP, Skeletonization
from force_tf.criteria.early_ticket import EarlyTicket
from force_tf.criteria.force import FORCE
from force_tf.criteria.gradient import GradientMagnitude
from force_tf.criteria.grasp import GraSP, IterGraSP
from force_tf.criteria.network import Network
from force_tf.criteria.ntk_sap import NTKSAP
from force_tf.criteria.pool import Pool
from force_tf.criteria.prospr import ProsPr
from force_tf.criteria.px import PX
from force_tf.criteria.sign_flips import SignFlips
from force_tf.criteria.snip import SNIP
from force_tf.criteria.synflow import SynFlow, SynFlowL2

__all__ = [
    "FORCE",
    "NTKSAP",
    "PX",
    "SNAP",
    "SNIP",
    "Criterion",
    "EarlyTicket",
    "GraSP",
    "GradientMagnitude",
    "IterGraSP",
    "Magnitude",
    "Network",
    "Pool",
    "ProsPr",
    "Random",
    "SignFlips",
    "Skeletonization",
    "SynFlow",
    "SynFlowL2",
]
