"""Weight versions: their bytes in a store, their announcements on a Redis stream."""

from xopd.weights.announcements import WeightAnnouncements
from xopd.weights.store import WeightStore, fetch_weights

__all__ = ["WeightAnnouncements", "WeightStore", "fetch_weights"]
