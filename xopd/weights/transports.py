"""The weight transports there are, by the name that `weights.transport` and the manifests give them.

A transport is imported when it is first used: each brings libraries of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from xopd.config import Config
from xopd.v1 import weights_pb2 as pb
from xopd.weights.base import WeightReceiver, WeightSender, WeightsUnavailableError

if TYPE_CHECKING:
    from xopd.weights.contents import TrainedTensors

Settings = Mapping[str, Any]
"""What receivers need of the configuration, by transport; as JSON has it, since engines run in other processes."""
STORE = "store"


def make_sender(config: Config, run_id: str) -> WeightSender:
    """The trainer's sender, as `weights.transport` says."""
    return SENDERS[config.weights.transport](config, run_id)


def receiver_settings(config: Config) -> dict[str, Any]:
    """What `Receivers` need of the configuration."""
    from xopd.weights.store import store_uri

    return {STORE: store_uri(config)}


class Receivers:
    """A process's receivers, one for each transport that manifests have named."""

    def __init__(self, settings: Settings, trained: TrainedTensors) -> None:
        """Versions must hold the `trained` tensors."""
        self.settings = settings
        self.trained = trained
        self._made: dict[str, WeightReceiver] = {}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Receivers:
        """Receivers like those that `as_plain` told of, in another process."""
        from xopd.weights.contents import TrainedTensors

        return cls(plain["settings"], TrainedTensors.from_plain(plain["trained"]))

    def as_plain(self) -> dict[str, Any]:
        """What they were made with, as JSON has it."""
        return {"settings": dict(self.settings), "trained": self.trained.as_plain()}

    def of(self, manifest: pb.WeightManifest) -> WeightReceiver:
        """The receiver for a manifest.

        Raises:
            WeightsUnavailableError: if there is none for its transport.
        """
        name = manifest.transport or STORE
        if name not in RECEIVERS:
            raise WeightsUnavailableError(
                f"weight version {manifest.version} travels by {name!r}; this pod knows {', '.join(RECEIVERS)}"
                " (run the same version of X-OPD everywhere)"
            )
        if name not in self._made:
            self._made[name] = RECEIVERS[name](self.settings, self.trained)
        return self._made[name]


def _store_sender(config: Config, run_id: str) -> WeightSender:
    from xopd.weights.store import StoreSender, store_uri

    return StoreSender(store_uri(config), run_id, config.weights.keep)


def _store_receiver(settings: Settings, trained: TrainedTensors) -> WeightReceiver:
    from xopd.weights.store import StoreReceiver

    return StoreReceiver(settings[STORE], trained)


SENDERS: dict[str, Callable[[Config, str], WeightSender]] = {STORE: _store_sender}
RECEIVERS: dict[str, Callable[[Settings, TrainedTensors], WeightReceiver]] = {STORE: _store_receiver}
