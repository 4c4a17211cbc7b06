"""Surrogate, truth and bound on a tree of 40 responses, against walking it by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import assert_gradient, draw, finite_difference

from rlhf_lessons.evaluation import (
    profile_direction,
    step_to_kl,
    surrogate_bound,
    surrogate_objective,
)
from rlhf_lessons.models import ResponseTree

TREE = ResponseTree(("a", "b", "c"), 3)
SHAPE = (len(TREE.prefixes), len(TREE.actions))
REWARDS = draw(len(TREE.responses), seed=100)


def objective(logits, rewards=REWARDS):
    return (TREE.response_log_probs(logits).exp() * rewards).sum(-1)


def surrogate_by_walking(old, new):
    """Go through every response that the old policy can give, one token at a time.

    E_{y ~ π_old}[Σ_t (π/π_old)(a_t | s_t) · A_old(s_t, a_t)], with A from Q and V by enumeration of
    all responses below a prefix.
    """
    p_old, p_new = old.softmax(-1).tolist(), new.softmax(-1).tolist()

    def value(node):  # V(s) by recursion in Python floats
        return sum(p_old[node][a] * quality(node, a) for a in range(SHAPE[1]))

    def quality(node, action):
        leaf, child = int(TREE.leaf[node, action]), int(TREE.child[node, action])
        return float(REWARDS[leaf]) if leaf >= 0 else value(child)

    def walk(node, reached):
        total = 0.0
        for a in range(SHAPE[1]):
            total += reached * p_new[node][a] * (quality(node, a) - value(node))
            if TREE.child[node, a] >= 0:
                total += walk(int(TREE.child[node, a]), reached * p_old[node][a])
        return total

    return value(0) + walk(0, 1.0)


def test_surrogate_by_walking():
    old, new = draw(*SHAPE, seed=1), draw(*SHAPE, seed=2)
    got = float(surrogate_objective(TREE, old, new, REWARDS))
    assert got == pytest.approx(surrogate_by_walking(old, new), abs=1e-12)


def test_at_the_old_policy_surrogate_and_truth_touch():
    old = draw(*SHAPE, seed=3)
    torch.testing.assert_close(surrogate_objective(TREE, old, old, REWARDS), objective(old))
    promised = finite_difference(lambda z: surrogate_objective(TREE, old, z, REWARDS), old)
    torch.testing.assert_close(promised, finite_difference(objective, old), rtol=1e-6, atol=1e-8)


def test_the_gradient_flows_into_the_new_policy_alone():
    old, new = draw(*SHAPE, seed=4), draw(*SHAPE, seed=5)
    assert_gradient(lambda z: surrogate_objective(TREE, old, z, REWARDS), new)
    old = old.requires_grad_()
    assert not surrogate_objective(TREE, old, new, REWARDS).requires_grad


def test_policies_side_by_side():
    old, new = draw(2, *SHAPE, seed=6), draw(2, *SHAPE, seed=7)
    rewards = draw(2, len(TREE.responses), seed=8)
    together = surrogate_objective(TREE, old, new, rewards)
    bounds = surrogate_bound(TREE, old, new, rewards)
    for i in range(2):
        alone = surrogate_objective(TREE, old[i], new[i], rewards[i])
        torch.testing.assert_close(together[i], alone)
        for name in ("by_kl", "by_total_variation", "by_visits", "largest_advantage"):
            one = getattr(surrogate_bound(TREE, old[i], new[i], rewards[i]), name)
            torch.testing.assert_close(getattr(bounds, name)[i], one)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 6), st.floats(0.1, 4))
def test_the_gap_never_exceeds_the_bounds_which_tighten(seed, size, scale):
    old = scale * draw(*SHAPE, seed=seed)
    new = old + size * draw(*SHAPE, seed=seed + 1)
    rewards = draw(len(TREE.responses), seed=seed + 2)
    gap = (objective(new, rewards) - surrogate_objective(TREE, old, new, rewards)).abs()
    bound = surrogate_bound(TREE, old, new, rewards)
    chain = [gap, bound.by_visits, bound.by_total_variation, bound.by_kl]
    for smaller, larger in zip(chain, chain[1:], strict=False):
        assert float(smaller) <= float(larger) + 1e-12


def test_bound_by_hand():
    # Two tokens, one word. Root: go on or end; then again. Only y = "a a" pays 1.
    tree = ResponseTree(("a",), 2)
    old = torch.zeros(2, 2, dtype=torch.float64)
    rewards = torch.tensor([1.0 if y == "a a" else 0.0 for y in tree.responses]).double()
    new = torch.tensor([[3.0, 1.0], [3.0, 1.0]], dtype=torch.float64).log()  # P(a) from ½ to ¾
    bound = surrogate_bound(tree, old, new, rewards)
    assert float(bound.max_total_variation) == pytest.approx(0.25)
    assert float(bound.largest_advantage) == pytest.approx(0.5)  # after "a": 1 − ½
    assert float(bound.by_total_variation) == pytest.approx(2 * 0.5 * 2 * 0.25**2)
    kl = 0.5 * torch.tensor(2 / 3).log() + 0.5 * torch.tensor(2.0).log()
    assert float(bound.by_kl) == pytest.approx(0.5 * 2 * float(kl), rel=1e-6)
    # After the first token they have parted with probability ¼, and the promise there is ¼.
    assert float(bound.by_visits) == pytest.approx(2 * 0.25 * 0.25)
    # J(π_old) = ¼; at the root A = ±¼, after "a", visited half the time, A = ±½.
    promise = 0.25 + (0.75 - 0.25) * 0.25 + 0.5 * (0.75 - 0.25) * 0.5
    assert float(surrogate_objective(tree, old, new, rewards)) == pytest.approx(promise)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_advantage_may_be_a_negative_one(sign):
    old, new = draw(*SHAPE, seed=13), draw(*SHAPE, seed=14)
    advantages = TREE.evaluate(old, sign * REWARDS).advantage
    bound = surrogate_bound(TREE, old, new, sign * REWARDS)
    assert float(bound.largest_advantage) == max(map(abs, advantages.flatten().tolist()))


def test_bound_by_visits_by_loops():
    # Nearly opposite policies: after the first token the chances to have parted add up beyond 1.
    old = draw(*SHAPE, seed=15, scale=0.1)
    new = old.clone()
    old[:, 0], new[:, 1] = 4.0, 4.0
    p, q = old.softmax(-1).tolist(), new.softmax(-1).tolist()
    advantages = TREE.evaluate(old, REWARDS).advantage.tolist()
    visits, depth = TREE.reach(old).tolist(), TREE.depth.tolist()
    expected, parted = 0.0, 0.0
    for t in range(TREE.longest):
        nodes = [n for n in range(SHAPE[0]) if depth[n] == t]
        promises = [
            abs(sum(x * a for x, a in zip(q[n], advantages[n], strict=True))) for n in nodes
        ]
        expected += 2 * min(parted, 1.0) * max(promises)
        for n in nodes:
            parted += visits[n] * sum(abs(x - y) for x, y in zip(p[n], q[n], strict=True)) / 2
    assert parted > 1.5
    got = surrogate_bound(TREE, old, new, REWARDS).by_visits
    assert float(got) == pytest.approx(expected, rel=1e-10)


def test_a_profile_holds_what_its_parts_say():
    old, direction = draw(*SHAPE, seed=9), draw(*SHAPE, seed=10)
    profile = profile_direction(TREE, old, direction, [0.0, 0.5, 2.0], REWARDS)
    assert profile.kl[0] == 0 and profile.bound.by_kl[0] == 0
    torch.testing.assert_close(profile.surrogate[0], profile.objective[0])
    far = old + 2 * direction
    torch.testing.assert_close(profile.objective[2], objective(far))
    torch.testing.assert_close(profile.surrogate[2], surrogate_objective(TREE, old, far, REWARDS))
    p, q = (TREE.response_log_probs(z) for z in (old, far))
    torch.testing.assert_close(profile.kl[2], (p.exp() * (p - q)).sum())


@pytest.mark.parametrize("max_kl", [1e-6, 0.05, 3.0])
def test_the_step_ends_at_the_limit(max_kl):
    old, direction = draw(*SHAPE, seed=11), draw(*SHAPE, seed=12)
    size = step_to_kl(TREE, old, direction, max_kl)
    kl = float(TREE.kl(old, old + size * direction))
    assert kl <= max_kl
    assert kl == pytest.approx(max_kl, rel=1e-6, abs=1e-12)


def test_refusals_name_the_argument():
    old = draw(*SHAPE)
    with pytest.raises(ValueError, match="logits must have shape"):
        surrogate_objective(TREE, old, old[:, :2], REWARDS)
    with pytest.raises(ValueError, match="logits must have shape"):
        surrogate_bound(TREE, old, old[:2], REWARDS)
    with pytest.raises(ValueError, match="one number per response"):
        surrogate_objective(TREE, old, old, REWARDS[:3])
    with pytest.raises(ValueError, match="max_kl must be above 0, got 0"):
        step_to_kl(TREE, old, old, 0)
    with pytest.raises(ValueError, match="never"):
        step_to_kl(TREE, old, torch.ones_like(old), 0.1)
