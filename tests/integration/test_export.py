"""An exported policy, with weights that moved, is the same model in plain transformers and in vLLM."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Qwen2AudioForConditionalGeneration
from xopd_trainer.learning.export import export_policy

from tests.clips import rules
from tests.integration.rollout_pod import PodProcess, make_clip, write_config
from tests.random_models import make_student
from xopd.data.audio import fetch_audio
from xopd.families import open_family
from xopd.local.embedded_redis import EmbeddedServer

pytestmark = pytest.mark.timeout(150)


def test_export_loads_everywhere(tmp_path: Path) -> None:
    family = open_family(str(make_student(tmp_path / "student")))
    policy = family.load_policy(torch.float32)
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=noise)
    exported = export_policy(family, policy, tmp_path / "export")

    model = Qwen2AudioForConditionalGeneration.from_pretrained(exported).eval()
    clip = make_clip(tmp_path, 1, 21000)
    wave = fetch_audio(clip.uri, clip.sha256, 16000, rules("/"))
    with EmbeddedServer(tmp_path / "redis") as server:
        pod = PodProcess(write_config(tmp_path, exported, server.url)).until_ready()
        try:
            spoken = {"audio": {"uri": clip.uri, "sha256": clip.sha256}, "question": "how loud"}
            for body in ({"text": "two plus three"}, spoken):
                status, reply = pod.get("/v1/generate", {**body, "n": 2, "max_new_tokens": 8})
                assert status == 200, reply
                for response in reply["responses"]:
                    inputs = {"input_ids": torch.tensor([reply["prompt_token_ids"]])}
                    if "audio" in body:
                        text = family.tokenizer.decode(reply["prompt_token_ids"])
                        inputs = dict(
                            family.processor(text=text, audio=[wave], sampling_rate=16000, return_tensors="pt")
                        )
                    length = inputs["input_ids"].shape[1]
                    tokens = torch.tensor(response["token_ids"])
                    inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens[None]], dim=1)
                    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
                    with torch.no_grad():
                        logprobs = torch.log_softmax(model(**inputs).logits[0, length - 1 : -1], -1)
                    expected = logprobs[torch.arange(len(tokens)), tokens]
                    torch.testing.assert_close(torch.tensor(response["logprobs"]), expected, atol=1e-4, rtol=0)
        finally:
            pod.end()
