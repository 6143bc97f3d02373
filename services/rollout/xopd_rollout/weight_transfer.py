"""vLLM's weight-transfer interface over a weight receiver: runs in each process that holds a part of the model.

An update is two calls, each made in every worker before the next: `check` holds a version against manifest and
checkpoint, `load` applies it. What is rejected thus leaves the old weights in place, in all workers. A version holds
the trained tensors only, under the checkpoint's (hub) names; the frozen audio tower and adapter keep their values.

Memory beyond the model: `check` has one tensor at a time. While it loads, vLLM keeps the tensors of the module that is
being filled (one linear or embedding, or all experts of a layer) until the last of them is there, then makes that
module anew beside them and copies it over: twice the largest module, on a CPU with its packed form three times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from xopd.v1 import weights_pb2 as pb
from xopd.weights.base import WeightReceiver, WeightsUnavailableError
from xopd.weights.transports import Receivers

BACKEND = "xopd"
REJECTED = "weights rejected: "
"""Begins the text of a rejection: of a worker's error, vLLM passes on the text alone."""


@dataclass
class ReceiverInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """What `Receivers.from_plain` needs."""

    settings: dict[str, Any]
    trained: dict[str, Any]


@dataclass
class ReceiverUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """A version, and which of the two calls this is."""

    stage: Literal["check", "load"]
    manifest: bytes
    """xopd.v1.WeightManifest."""


class ReceiverWeightTransferEngine(WeightTransferEngine[ReceiverInitInfo, ReceiverUpdateInfo]):  # type: ignore[misc]
    """Loads what a receiver yields into the model, in place."""

    init_info_cls = ReceiverInitInfo
    update_info_cls = ReceiverUpdateInfo
    supports_draft_weight_update = False

    def init_transfer_engine(self, init_info: ReceiverInitInfo) -> None:
        """Learn how versions travel, and what they must hold."""
        self.receivers = Receivers.from_plain({"settings": init_info.settings, "trained": init_info.trained})

    def start_weight_update(self) -> None:
        """Nothing yet: the model is opened for loading only once everything is checked."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """One stage of an update.

        Raises:
            WeightsUnavailableError: from `check`, if the version is not what it must be; the model is untouched.
        """
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: ReceiverUpdateInfo) -> None:
        """Check a version, or load it layer by layer into the tensors that the kernels hold."""
        manifest = pb.WeightManifest.FromString(update_info.manifest)
        if update_info.stage == "load":
            self._load(self.receivers.of(manifest), manifest)
            return
        try:
            self.receivers.of(manifest).check(manifest)
        except WeightsUnavailableError as error:
            raise WeightsUnavailableError(f"{REJECTED}{error}") from None

    def _load(self, receiver: WeightReceiver, manifest: pb.WeightManifest) -> None:
        initialize_layerwise_reload(self.model)
        try:
            self.model.load_weights(receiver.tensors(manifest))
        finally:
            # Also after a failure: layers that were not loaded get their tensors back.
            finalize_layerwise_reload(self.model, self.model_config)

    def finish_weight_update(self) -> None:
        """Nothing is left to do."""

    def shutdown(self) -> None:
        """Nothing is held."""


def register() -> None:
    """Make the backend known to vLLM in this process; may be called again.

    The executor calls it in the engine's process; the `vllm.general_plugins` entry point of the installed package
    calls it in worker processes that are spawned afresh.
    """
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, ReceiverWeightTransferEngine)
