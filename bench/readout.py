"""Reading a policy at 4,096 tokens: the chunked read-out beside whole tensors, by peak memory and time.

    python -m bench.readout [--tokens 4096] [--hidden 1024] [--threads 2]

Each form runs in a process of its own; its memory is the largest resident set beyond that of its inputs and gradients.
Both compute what a training step reads (log-probabilities with gradient, entropy, top-8 overlap), and with `--named 64`
also the buckets of 64 named tokens and the tail. Values and gradients are compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor

from tests.unit.objective.references import entropy, policy_buckets, top_k_overlap
from xopd.objective import Head, read_tokens, token_logprobs

VOCABULARIES = (32_000, 152_000)
OVERLAP = 8


def whole(head: Head, hidden: Tensor, tokens: Tensor, named: Tensor | None, overlap: Tensor) -> Tensor:
    """The loss as whole tensors give it."""
    logits = head.logits(hidden)
    loss = token_logprobs(logits, tokens).mean()
    with torch.no_grad():
        entropy(logits)
        top_k_overlap(logits, overlap)
    return loss if named is None else loss + policy_buckets(logits, named).mean()


def chunked(head: Head, hidden: Tensor, tokens: Tensor, named: Tensor | None, overlap: Tensor) -> Tensor:
    """The same, chunk by chunk."""
    read = read_tokens(head, hidden, tokens, named, overlap)
    return read.logprobs.mean() if read.buckets is None else read.logprobs.mean() + read.buckets.mean()


FORMS = {"whole": whole, "chunked": chunked}


def measure(form: str, vocabulary: int, tokens: int, hidden_size: int, named: int, repeats: int) -> dict[str, Any]:
    """Run one form in this process: seconds of the fastest pass, MB beyond the inputs, a gradient's norm."""
    torch.manual_seed(0)
    hidden = torch.randn(tokens, hidden_size).mul_(0.5).requires_grad_()
    weight = torch.randn(vocabulary, hidden_size).mul_(0.05).requires_grad_()
    ids = torch.randint(vocabulary, (tokens,))
    overlap = torch.randint(vocabulary, (tokens, OVERLAP))
    names = torch.arange(named) * (vocabulary // max(named, 1)) if named else None
    names = None if names is None else names.expand(tokens, named).contiguous()
    hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)
    # What both need is touched before the reading: code of the kernels, and the gradient of the weights on its way.
    (hidden[:64] @ weight[:64].t()).sum().backward()  # type: ignore[no-untyped-call]
    torch.zeros_like(weight).fill_(1.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeats):
        hidden.grad.zero_()
        weight.grad.zero_()
        began = time.perf_counter()
        loss = FORMS[form](Head(weight), hidden, ids, names, overlap)
        loss.backward()  # type: ignore[no-untyped-call]
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": min(seconds),
        "mb": (peak - before) / 1024,
        "loss": loss.item(),
        "gradient": float(hidden.grad.norm()),
    }


def main() -> None:
    """Print a line a form and vocabulary, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--named", type=int, default=0, help="tokens of the teacher whose buckets are read")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("FORM", "VOCABULARY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        form, vocabulary = options.one
        shape = (int(vocabulary), options.tokens, options.hidden, options.named, options.repeats)
        print(json.dumps(measure(form, *shape)))
        return
    print(
        f"{options.tokens:,} tokens, hidden size {options.hidden:,}, {options.named} named, {options.threads} threads"
    )
    for vocabulary in VOCABULARIES:
        found = {form: _apart(form, vocabulary, sys.argv[1:]) for form in FORMS}
        for form, each in found.items():
            print(f"{vocabulary:>8,}  {form:<8} {each['seconds']:7.2f} s  {each['mb']:9,.0f} MB")
        whole_, ours = found["whole"], found["chunked"]
        print(
            f"{vocabulary:>8,}  chunked / whole: time {ours['seconds'] / whole_['seconds']:.2f},"
            f" memory 1/{whole_['mb'] / max(ours['mb'], 1.0):.0f};"
            f" loss differs by {abs(ours['loss'] - whole_['loss']):.1e},"
            f" gradient by {abs(ours['gradient'] / whole_['gradient'] - 1):.1e}"
        )


def _apart(form: str, vocabulary: int, arguments: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.readout", *arguments, "--one", form, str(vocabulary)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
