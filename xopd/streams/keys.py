"""Names of every Redis key, in one place."""

from __future__ import annotations

from dataclasses import dataclass

ROLLOUT_GROUP = "rollout"
"""Consumer group of the rollout pods, on the prompt stream."""
TRAINER_GROUP = "trainer"
"""Consumer group of the trainer, on the trajectory stream."""


@dataclass(frozen=True)
class Keys:
    """Keys that begin with `prefix`."""

    prefix: str

    @property
    def prompts(self) -> str:
        """Stream of PromptGroup: work for the rollout pods. An entry is removed when it is answered."""
        return f"{self.prefix}:prompts"

    @property
    def trajectories(self) -> str:
        """Stream of TrajectoryGroup: answers for the trainer."""
        return f"{self.prefix}:trajectories"

    @property
    def weights(self) -> str:
        """Stream of WeightManifest: the newest versions, announced by the trainer."""
        return f"{self.prefix}:weights"

    @property
    def run(self) -> str:
        """RunInfo of the run that is under way."""
        return f"{self.prefix}:run"

    @property
    def trainer(self) -> str:
        """Run id of the trainer that leads the pods; expires when it stops renewing it."""
        return f"{self.prefix}:trainer"

    @property
    def status(self) -> str:
        """The run's status as JSON (`xopd.status.model`); expires when the trainer stops writing it."""
        return f"{self.prefix}:status"

    @property
    def dead(self) -> str:
        """Stream of entries that nobody could use, with the reason."""
        return f"{self.prefix}:dead"

    def pod(self, pod_id: str) -> str:
        """PodStatus of one rollout pod; expires when its heartbeat stops."""
        return f"{self.prefix}:pods:{pod_id}"

    @property
    def pods_pattern(self) -> str:
        """Glob of all pod keys."""
        return f"{self.prefix}:pods:*"
