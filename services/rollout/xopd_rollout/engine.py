"""The student in vLLM: one asynchronous engine, the same for CPU and GPU builds.

Each trajectory is a request of its own, since each has its own seed; the prefix cache makes the prompt's cost shared.
Log-probabilities are those of the untouched distribution (`raw_logprobs`, no top-p, no top-k), so that at
temperature 1 they are log pi_b exactly. vLLM's engine process stamps each token with the version of the weights that
sampled it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Sequence
from typing import Any

from vllm.config.weight_transfer import WeightTransferConfig
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from xopd.config.schema import Config
from xopd.v1 import trajectory_pb2 as pb
from xopd.v1 import weights_pb2
from xopd.weights.transports import Receivers
from xopd_rollout.contract import NO_VERSION, BadPromptError, EngineDiedError, Prompt, WeightsRejectedError
from xopd_rollout.environment import runs_on_cpu
from xopd_rollout.executor import ManyWorkersExecutor, OneWorkerExecutor
from xopd_rollout.weight_transfer import BACKEND, REJECTED

GIB = 2**30
# Tokens of a block that requests can share: prompts of a few dozen tokens should fill some.
CPU_BLOCK = 32
CPU_MAX_SEQUENCES = 256
CPU_BATCHED_TOKENS = 4096
SEED_MASK = 2**63 - 1
LEAST_CLIP_CACHE_GB = 0.0625
"""What one clip takes must fit into vLLM's cache of clips: half a minute of a large model is 12 MiB."""


def engine_args(config: Config) -> AsyncEngineArgs:
    """VLLM's options for this configuration."""
    rollout, student = config.rollout, config.student
    options: dict[str, Any] = {
        "model": student.path,
        "dtype": student.dtype,
        "seed": config.run.seed,
        "enforce_eager": rollout.enforce_eager,
        "max_model_len": rollout.max_model_len,
        "tensor_parallel_size": rollout.tensor_parallel,
        "distributed_executor_backend": OneWorkerExecutor if rollout.tensor_parallel == 1 else ManyWorkersExecutor,
        "limit_mm_per_prompt": {"audio": 1},
        "enable_mm_embeds": student.audio_input == "features",
        # Left to itself, vLLM would keep 4 GiB of clips, in this process and in the engine's.
        "mm_processor_cache_gb": max(LEAST_CLIP_CACHE_GB, student.features_in_memory_gb),
        "enable_prefix_caching": True,
        "logprobs_mode": "raw_logprobs",
        # The checkpoint's own defaults (top-p and the like) must not touch the distribution.
        "generation_config": "vllm",
        "weight_transfer_config": WeightTransferConfig(backend=BACKEND),
        "disable_log_stats": True,
    }
    if runs_on_cpu():
        options |= {
            "kv_cache_memory_bytes": int(rollout.kv_cache_gb * GIB),
            "block_size": CPU_BLOCK,
            "max_num_seqs": CPU_MAX_SEQUENCES,
            # A prompt prefilled in parts rewinds its seeded generator, which torch's CPU generator cannot.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(CPU_BATCHED_TOKENS, rollout.max_model_len),
        }
    else:
        options["gpu_memory_utilization"] = rollout.gpu_memory_utilization
    if config.run.deterministic:
        # One sequence in every forward pass, from its first token: what shares a batch changes the last bits of a sum.
        options |= {"max_num_seqs": 1, "enable_prefix_caching": False}
    # Left to itself, vLLM would unpickle a .bin file where there is no other.
    return AsyncEngineArgs(load_format="safetensors", **options)


class Engine:
    """A started engine; see `xopd_rollout.contract.PolicyEngine`."""

    def __init__(self, config: Config, receivers: Receivers) -> None:
        """Start the engine's process and load the checkpoint; takes seconds. Each worker has `receivers` of its own.

        The engine's process is forked, not started afresh: what is imported here is not imported again. Nothing
        may have used torch's threads before.
        """
        vllm_config = engine_args(config).create_engine_config()
        if runs_on_cpu():
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
        executor = vllm_config.parallel_config.distributed_executor_backend
        self._llm = AsyncLLM(vllm_config, executor_class=executor, log_stats=False, log_requests=False)
        self._ids = itertools.count()
        self._receivers: dict[str, Any] | None = receivers.as_plain()
        self._workers = config.rollout.tensor_parallel

    async def generate(self, prompt: Prompt, seeds: Sequence[int], sampling: pb.Sampling) -> list[pb.Trajectory]:
        """Sample one response for each seed.

        Returns:
            Trajectories in the order of `seeds`; the end-of-turn token, where one was sampled, is their last.

        Raises:
            BadPromptError: if the prompt does not fit the model.
            EngineDiedError: if the engine's process has ended.
        """
        request: dict[str, Any] = {"prompt_token_ids": list(prompt.token_ids)}
        if prompt.audio is not None:
            request["multi_modal_data"] = prompt.audio
            request["multi_modal_uuids"] = {"audio": [prompt.audio_id]}
        tasks = [asyncio.ensure_future(self._one(request, seed, sampling)) for seed in seeds]
        try:
            outputs = await asyncio.gather(*tasks)
        except VLLMClientError as error:
            raise BadPromptError("engine", str(error).splitlines()[0]) from None
        except EngineDeadError as error:
            raise EngineDiedError(str(error)) from None
        finally:
            for task in tasks:
                task.cancel()
        return [
            _trajectory(index, seed, output) for index, (seed, output) in enumerate(zip(seeds, outputs, strict=True))
        ]

    async def apply(self, manifest: weights_pb2.WeightManifest) -> None:
        """Load a version in place, between engine steps; generation under way finishes first.

        Caches of keys and values, of processed media and of encoder outputs are emptied.

        Raises:
            WeightsRejectedError: if the version is not what it must be; the weights held before are held still.
            EngineDiedError: if the engine's process has ended.
            Exception: whatever vLLM raises in place of the worker's own error, with its text.
        """
        try:
            if self._receivers is not None:
                await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(self._receivers))
                self._receivers = None
            await self._llm.pause_generation(mode="wait", clear_cache=True)
            try:
                await self._apply(manifest)
            except Exception:
                await self._llm.resume_generation()
                raise
            # Not after a cancellation: an engine that hangs would keep its caller here, whose time limit has passed.
            await self._llm.resume_generation()
        except EngineDeadError as error:
            raise EngineDiedError(str(error)) from None

    async def _apply(self, manifest: weights_pb2.WeightManifest) -> None:
        update = {"manifest": manifest.SerializeToString()}
        await self._llm.start_weight_update()
        try:
            await self._llm.update_weights(WeightTransferUpdateRequest({**update, "stage": "check"}))
        except EngineDeadError:
            raise
        except Exception as error:
            if self._workers > 1:
                # Those that found nothing wrong still wait for more of this update.
                with contextlib.suppress(Exception):
                    await self._llm.finish_weight_update()
            _, rejected, text = str(error).partition(REJECTED)
            if rejected:
                raise WeightsRejectedError(text.splitlines()[0]) from None
            raise
        await self._llm.update_weights(WeightTransferUpdateRequest({**update, "stage": "load"}))
        await self._llm.finish_weight_update(weight_version=str(manifest.version))

    async def check_health(self) -> None:
        """Return if the engine works.

        Raises:
            EngineDiedError: if its process has ended.
        """
        try:
            await self._llm.check_health()
        except EngineDeadError as error:
            raise EngineDiedError(str(error)) from None

    def close(self) -> None:
        """End the engine's process. It holds nothing that would be missed: it gets no time to tidy its memory up."""
        self._llm.shutdown(timeout=0.5)

    async def _one(self, request: dict[str, Any], seed: int, sampling: pb.Sampling) -> RequestOutput:
        params = SamplingParams(
            n=1,
            temperature=sampling.temperature,
            top_p=1.0,
            top_k=0,
            seed=seed & SEED_MASK,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=list(sampling.stop_token_ids),
            # Only the tokens asked for end a response, not those of the checkpoint's generation config.
            ignore_eos=True,
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        final: RequestOutput | None = None
        async for output in self._llm.generate(dict(request), params, f"t{next(self._ids)}"):
            final = output
        if final is None:
            raise RuntimeError("the engine ended a request without an output")
        return final


def _trajectory(index: int, seed: int, output: RequestOutput) -> pb.Trajectory:
    completion = output.outputs[0]
    tokens = list(completion.token_ids)
    if not tokens or completion.logprobs is None or completion.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"the engine broke a request off ({completion.finish_reason})")
    versions = [NO_VERSION] * len(tokens)
    for span in completion.weight_versions or ():
        if span.version.isdecimal():
            versions[span.start : span.end] = [int(span.version)] * (span.end - span.start)
    stopped = completion.finish_reason == "stop"
    return pb.Trajectory(
        index=index,
        seed=seed,
        token_ids=tokens,
        logprobs=[step[token].logprob for step, token in zip(completion.logprobs, tokens, strict=True)],
        policy_versions=versions,
        finish_reason=pb.FINISH_REASON_STOP if stopped else pb.FINISH_REASON_LENGTH,
    )
