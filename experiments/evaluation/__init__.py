"""What a robustness report is made of: one file a part, a context they share, and the runner.

>>> from experiments.evaluation import Plan, Subject, evaluate
"""

from experiments.evaluation.plan import Plan
from experiments.evaluation.runner import evaluate
from experiments.evaluation.subject import Subject

__all__ = ["Plan", "Subject", "evaluate"]
