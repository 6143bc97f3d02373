"""The equations once more, in Python floats and loops, and what is read in chunks, from whole tensors: plain to see."""

import math
from itertools import pairwise

import numpy as np
import torch

from xopd.objective import TeacherTop


def softmax(logits):
    """Probabilities of a list of logits."""
    largest = max(logits)
    weights = [math.exp(x - largest) for x in logits]
    return [w / sum(weights) for w in weights]


def mean(values, lengths, aggregation):
    """Mean of values[i][t] over tokens, then responses (`sequence_mean`), or over all tokens (`token_mean`)."""
    rows = [[values[i][t] for t in range(length)] for i, length in enumerate(lengths)]
    if aggregation == "sequence_mean":
        return sum(sum(row) / len(row) for row in rows) / len(rows)
    return sum(sum(row) for row in rows) / sum(lengths)


def modality(policy, behaviour, teacher, lengths, aggregation, clamp=None, truncation=None, mask=None):
    """Equations 1 to 4, one token at a time: (loss, its gradient in log π_θ, whether a limit changed the token)."""
    gains, slopes, clipped = ([[0.0] * len(row) for row in policy] for _ in range(3))
    for i, length in enumerate(lengths):
        for t in range(length):
            advantage = used_advantage = teacher[i][t] - policy[i][t]
            ratio = used_ratio = math.exp(policy[i][t] - behaviour[i][t])
            slope = ratio
            if clamp is not None:
                used_advantage = min(max(advantage, -clamp), clamp)
            if truncation is not None:
                used_ratio = min(max(ratio, truncation[0]), truncation[1])
            if mask is not None and not mask[0] <= ratio <= mask[1]:
                used_ratio = 0.0
            if used_ratio != ratio:
                slope = 0.0
            gains[i][t] = used_ratio * used_advantage
            share = len(lengths) * length if aggregation == "sequence_mean" else sum(lengths)
            slopes[i][t] = -slope * used_advantage / share
            clipped[i][t] = float(used_ratio != ratio or used_advantage != advantage)
    return -mean(gains, lengths, aggregation), slopes, clipped


def buckets(probabilities, token_ids):
    """Probability of each named token, then of all others together."""
    named = [probabilities[v] for v in token_ids]
    return [*named, sum(p for v, p in enumerate(probabilities) if v not in token_ids)]


def kl(p, q):
    """KL(p ‖ q) of two lists of probabilities."""
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def jsd(teacher, policy, beta):
    """The generalised Jensen-Shannon divergence; forward and reverse KL at the ends."""
    if beta == 0:
        return kl(teacher, policy)
    if beta == 1:
        return kl(policy, teacher)
    middle = [beta * t + (1 - beta) * p for t, p in zip(teacher, policy, strict=True)]
    return beta * kl(teacher, middle) + (1 - beta) * kl(policy, middle)


def expected_gain(policy, teacher, clamp=None):
    """Σ_v π_θ(v) A(v) of two lists of probabilities."""
    total = 0.0
    for p, t in zip(policy, teacher, strict=True):
        advantage = math.log(t) - math.log(p)
        total += p * (advantage if clamp is None else min(max(advantage, -clamp), clamp))
    return total


def clamped_mass(policy, teacher, clamp=None):
    """The policy's probability of all v whose advantage lies outside [-clamp, clamp]; of two lists of probabilities."""
    if clamp is None:
        return 0.0
    return sum(p for p, t in zip(policy, teacher, strict=True) if abs(math.log(t) - math.log(p)) > clamp)


def policy_buckets(logits, token_ids):
    """Log-probabilities of named tokens and of all others as one tail, from whole logits, [..., k + 1]."""
    logprobs = torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)
    tail = logprobs.scatter(-1, token_ids, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logprobs.gather(-1, token_ids), tail], dim=-1)


def entropy(logits):
    """Entropy of the next-token distribution from whole logits, in nats, [...]."""
    logprobs = torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def top_k_overlap(logits, teacher_token_ids):
    """Share of the k largest logits that are among the teacher's k, [...]."""
    ours = logits.topk(teacher_token_ids.shape[-1], dim=-1).indices
    return (ours.unsqueeze(-1) == teacher_token_ids.unsqueeze(-2)).any(-1).float().mean(-1)


def random_lengths(seed, responses, tokens):
    """Lengths from 1 to `tokens`, and their mask."""
    lengths = np.random.default_rng(seed).integers(1, tokens + 1, responses).tolist()
    return lengths, torch.arange(tokens)[None, :] < torch.tensor(lengths)[:, None]


def random_distributions(seed, *shape, spread=1.5):
    """(logits, log-probabilities of another distribution), float64, of `shape`; the last axis is the vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    logits, other = (spread * torch.randn(*shape, dtype=torch.float64, generator=generator) for _ in range(2))
    return logits, torch.log_softmax(other, -1)


def top_of(logprobs, k):
    """What a teacher with these log-probabilities says when it is asked for its `k` most probable tokens."""
    best = logprobs.topk(k, dim=-1)
    rest = logprobs.scatter(-1, best.indices, -math.inf)
    return TeacherTop(best.indices, best.values, rest.logsumexp(-1))


def ascends(values, slack=1e-12):
    """Whether no value is below the one before it."""
    return all(b >= a - slack for a, b in pairwise(values))
