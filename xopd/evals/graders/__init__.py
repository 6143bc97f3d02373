"""Graders: is a response right? `evals.grader` names one of `registry.GRADERS`."""
