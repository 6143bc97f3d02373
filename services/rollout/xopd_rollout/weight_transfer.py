"""vLLM's weight-transfer interface over the weight store: runs in the process that holds the model.

The worker reads a version's bytes itself, checks them against the manifest's hash, and only then touches the model,
so that a missing or damaged file leaves the old weights in place. Files hold the trained tensors only, under the
checkpoint's (hub) names; the frozen audio tower and adapter keep their values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from xopd.v1 import weights_pb2 as pb
from xopd.weights import fetch_weights
from xopd.weights.store import WeightsUnavailableError

BACKEND = "xopd-store"


@dataclass
class StoreInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """The store needs no handshake."""


@dataclass
class StoreUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """What of a manifest the worker needs; see xopd.v1.WeightManifest."""

    uri: str
    sha256: str
    version: int
    tensor_count: int


class StoreWeightTransferEngine(WeightTransferEngine[StoreInitInfo, StoreUpdateInfo]):  # type: ignore[misc]
    """Loads one verified safetensors file into the model, in place."""

    init_info_cls = StoreInitInfo
    update_info_cls = StoreUpdateInfo
    supports_draft_weight_update = False

    def init_transfer_engine(self, init_info: StoreInitInfo) -> None:
        """Nothing to connect to."""

    def start_weight_update(self) -> None:
        """Nothing yet: the model is opened for loading only once the bytes are verified."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Fetch, verify and load one version.

        Raises:
            WeightsUnavailableError: if the bytes are missing or not what the manifest says; the model is untouched.
        """
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: StoreUpdateInfo) -> None:
        """Fetch and verify, then load layer by layer into the tensors that the kernels hold."""
        manifest = pb.WeightManifest(uri=update_info.uri, sha256=update_info.sha256, version=update_info.version)
        tensors = load(fetch_weights(manifest))
        if len(tensors) != update_info.tensor_count:
            raise WeightsUnavailableError(
                f"weight version {update_info.version}: {update_info.uri} holds {len(tensors)} tensors, "
                f"its manifest says {update_info.tensor_count}"
            )
        initialize_layerwise_reload(self.model)
        try:
            self.model.load_weights(tensors.items())
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
        WeightTransferEngineFactory.register_engine(BACKEND, StoreWeightTransferEngine)
