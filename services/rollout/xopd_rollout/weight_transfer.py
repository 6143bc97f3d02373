"""vLLM's weight-transfer interface over the weight store: runs in the process that holds the model.

An update is two calls, each made in every worker before the next: `check` reads a version's bytes and holds them and
their tensors against manifest and checkpoint, `load` touches the model. What is refused thus leaves the old weights in
place, in all workers. Files hold the trained tensors only, under the checkpoint's (hub) names; the frozen audio tower
and adapter keep their values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from safetensors import SafetensorError
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
from xopd.weights.base import WeightsUnavailableError
from xopd.weights.contents import TrainedTensors

BACKEND = "xopd-store"
REFUSED = "weights refused: "
"""Begins the text of a refusal: of a worker's error, vLLM passes on the text alone."""


@dataclass
class StoreInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """What every version is held against."""

    root: str
    """URI of the weight store: nothing outside of it is read."""
    trained: dict[str, Any]
    """TrainedTensors, as JSON has them."""


@dataclass
class StoreUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """What of a manifest the worker needs (see xopd.v1.WeightManifest), and which of the two calls this is."""

    stage: Literal["check", "load"]
    uri: str
    sha256: str
    version: int
    size_bytes: int
    tensor_count: int


class StoreWeightTransferEngine(WeightTransferEngine[StoreInitInfo, StoreUpdateInfo]):  # type: ignore[misc]
    """Loads one verified safetensors file into the model, in place."""

    init_info_cls = StoreInitInfo
    update_info_cls = StoreUpdateInfo
    supports_draft_weight_update = False

    def init_transfer_engine(self, init_info: StoreInitInfo) -> None:
        """Learn what versions must hold."""
        self.root = init_info.root
        self.trained = TrainedTensors.from_plain(init_info.trained)
        self.checked: dict[str, torch.Tensor] = {}

    def start_weight_update(self) -> None:
        """Nothing yet: the model is opened for loading only once everything is verified."""
        self.checked = {}

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """One stage of an update.

        Raises:
            WeightsUnavailableError: from `check`, if the version is not what it must be; the model is untouched.
        """
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: StoreUpdateInfo) -> None:
        """Fetch and verify, or load layer by layer into the tensors that the kernels hold."""
        if update_info.stage == "check":
            try:
                self.checked = self._verified(update_info)
            except WeightsUnavailableError as error:
                raise WeightsUnavailableError(f"{REFUSED}{error}") from None
            return
        tensors, self.checked = self.checked, {}
        initialize_layerwise_reload(self.model)
        try:
            self.model.load_weights(tensors.items())
        finally:
            # Also after a failure: layers that were not loaded get their tensors back.
            finalize_layerwise_reload(self.model, self.model_config)

    def _verified(self, update_info: StoreUpdateInfo) -> dict[str, torch.Tensor]:
        manifest = pb.WeightManifest(
            uri=update_info.uri,
            sha256=update_info.sha256,
            version=update_info.version,
            size_bytes=update_info.size_bytes,
        )
        where = f"weight version {update_info.version}: {update_info.uri}"
        try:
            tensors = load(fetch_weights(manifest, self.root, self.trained.most_bytes))
        except SafetensorError as error:
            raise WeightsUnavailableError(f"{where} is no safetensors file ({error})") from None
        if len(tensors) != update_info.tensor_count:
            raise WeightsUnavailableError(
                f"{where} holds {len(tensors)} tensors, its manifest says {update_info.tensor_count}"
            )
        self.trained.check(update_info.version, tensors)
        return tensors

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
