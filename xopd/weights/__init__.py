"""Weight versions: how they travel from the trainer to the pods, and their announcements on a Redis stream."""

from xopd.weights.announcements import WeightAnnouncements
from xopd.weights.base import NamedTensors, TensorsInMemory, TensorSpec, WeightReceiver, WeightSender

__all__ = ["NamedTensors", "TensorSpec", "TensorsInMemory", "WeightAnnouncements", "WeightReceiver", "WeightSender"]
