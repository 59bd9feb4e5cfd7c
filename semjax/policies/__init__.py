"""How a batch is mixed: factories of pure functions `policy(key, batch, probe) -> Mix`.

A policy draws; it never touches a pixel. What it draws depends on the key, the shapes, validity and
attributes of the batch, what it asks the model for and its own options, on nothing else.
"""

from semjax.policies.common import Policy
from semjax.policies.cutmix import cutmix
from semjax.policies.fmix import fmix
from semjax.policies.gridmix import gridmix
from semjax.policies.mixup import mixup
from semjax.policies.resizemix import resizemix
from semjax.policies.smoothmix import smoothmix

__all__ = [
    "Policy",
    "cutmix",
    "fmix",
    "gridmix",
    "mixup",
    "resizemix",
    "smoothmix",
]
