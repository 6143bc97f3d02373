"""A self-test of teachers before a run: whether their scores can be trained on."""

from xopd.scoring.self_test.findings import Finding, SelfTest
from xopd.scoring.self_test.run import Trial, self_test

__all__ = ["Finding", "SelfTest", "Trial", "self_test"]
