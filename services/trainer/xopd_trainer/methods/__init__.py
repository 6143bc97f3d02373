"""The training methods, one file each: where responses come from, what the teacher is asked, and the loss."""

from xopd_trainer.methods.base import LossTerms, Method, PolicyReadout, Preparation, Response
from xopd_trainer.methods.registry import make_method

__all__ = ["LossTerms", "Method", "PolicyReadout", "Preparation", "Response", "make_method"]
