"""How a batch is mixed: factories of pure functions `policy(key, batch, probe) -> Mix`.

A policy draws; it never touches a pixel. What it draws depends on the key, the shapes, validity and
attributes of the batch, what it asks the model for and its own options, on nothing else.
"""

from semjax.policies.alignmix import alignmix
from semjax.policies.attentive_cutmix import attentive_cutmix
from semjax.policies.common import WEIGHT_SCOPES, Policy
from semjax.policies.composition import CHOICE_SCOPES, choose, lisa, scheduled
from semjax.policies.cutmix import cutmix
from semjax.policies.fmix import fmix
from semjax.policies.gridmix import gridmix
from semjax.policies.hidden_layers import at_layers, manifold_mixup, noisy_feature_mixup, with_noise
from semjax.policies.mixup import mixup
from semjax.policies.puzzlemix import puzzlemix
from semjax.policies.resizemix import resizemix
from semjax.policies.saliencymix import saliencymix
from semjax.policies.smoothmix import smoothmix

__all__ = [
    "CHOICE_SCOPES",
    "WEIGHT_SCOPES",
    "Policy",
    "alignmix",
    "at_layers",
    "attentive_cutmix",
    "choose",
    "cutmix",
    "fmix",
    "gridmix",
    "lisa",
    "manifold_mixup",
    "mixup",
    "noisy_feature_mixup",
    "puzzlemix",
    "resizemix",
    "saliencymix",
    "scheduled",
    "smoothmix",
    "with_noise",
]
