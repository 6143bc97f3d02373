"""The accounts of a run, in trajectories: how many were asked for, and what became of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class Accounts:
    """Counts of sampled training trajectories over the whole run. `redispatched` counts groups."""

    dispatched: int = 0
    """Trajectories asked for, each counted once however often its group was sent."""
    trained: int = 0
    given_up: int = 0
    """Trajectories of dead-lettered groups, such as for missing audio."""
    under_way: int = 0
    """Trajectories of the step that is not finished."""
    lost: int = 0
    """Trajectories of finished steps that were neither trained nor given up: always 0."""
    duplicates_dropped: int = 0
    """Further answers to a group already answered."""
    stale_dropped: int = 0
    """Answers of another life of the trainer, or unusable ones, such as from the wrong policy version."""
    redispatched: int = 0
    undone: int = 0
    """Trajectories of steps that a restart took back: their weights were in no checkpoint."""
    policy_lag_max: int = 0

    def as_json(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)
