"""Faults on purpose: what can happen to each part of a run on this machine, and how soon the run goes on."""
