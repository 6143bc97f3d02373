"""The accounts: every dispatched trajectory is trained once, or its fate is named."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class Ledger:
    """Counts of training trajectories over the whole run; restored with the checkpoint they belong to."""

    dispatched: int = 0
    """Trajectories asked for, each counted once however often its group was sent."""
    trained: int = 0
    given_up: int = 0
    """Trajectories of groups that could not be answered, such as for missing audio."""
    duplicates_dropped: int = 0
    """Further answers to a group already answered."""
    stale_dropped: int = 0
    """Answers of another life of the trainer, or sampled from the wrong policy version."""
    redispatched: int = 0
    policy_lag_max: int = 0

    @property
    def lost(self) -> int:
        """Dispatched trajectories of finished steps that were neither trained nor given up: always 0."""
        return self.dispatched - self.trained - self.given_up

    def as_json(self) -> dict[str, int]:
        """The counts, and what is lost."""
        return {**asdict(self), "lost": self.lost}

    @classmethod
    def from_json(cls, counts: dict[str, int]) -> Ledger:
        """Read back what `as_json` gave."""
        return cls(**{name: value for name, value in counts.items() if name != "lost"})
