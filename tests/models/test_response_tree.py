"""The tree against brute force: every response walked one token at a time in plain Python."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from rlhf_lessons import formulas
from rlhf_lessons.models import ResponseTree, table_policy

WORDS = ("a", "b", "c")
LONGEST = 3


@pytest.fixture
def tree():
    return ResponseTree(WORDS, LONGEST)


def draw(tree, seed, *leading):
    generator = torch.Generator().manual_seed(seed)
    shape = (*leading, len(tree.prefixes), len(tree.actions))
    return 1.5 * torch.randn(shape, generator=generator, dtype=torch.float64)


def every_response():
    """Texts with the words of their path; the end token is None."""
    found = {}
    for length in range(LONGEST + 1):
        for words in itertools.product(WORDS, repeat=length):
            found[" ".join(words)] = [*words, None][:LONGEST]
    return found


def walk(tree, table, steps):
    """The probability of a response, and the prefixes it passes, by multiplying softmaxes."""
    probability, prefix, passed = 1.0, "", []
    for step in steps:
        row = table[tree.prefixes.index(prefix)].softmax(-1)
        action = len(WORDS) if step is None else WORDS.index(step)
        probability *= float(row[action])
        passed.append((prefix, action))
        prefix = f"{prefix} {step}".strip()
    return probability, passed


def test_all_responses_are_there_once(tree):
    assert sorted(tree.responses) == sorted(every_response())
    assert len(tree.prefixes) == 1 + 3 + 9
    assert len(tree.responses) == 1 + 3 + 9 * 1 + 27


def test_response_log_probs_by_walking(tree):
    table = draw(tree, 0)
    log_p = tree.response_log_probs(table)
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-12)
    for text, steps in every_response().items():
        expected, _ = walk(tree, table, steps)
        assert float(log_p[tree.responses.index(text)]) == pytest.approx(math.log(expected))


def test_conditionals_undo_response_log_probs(tree):
    table = draw(tree, 1, 2)
    back = tree.conditionals(tree.response_log_probs(table))
    torch.testing.assert_close(back, table.log_softmax(-1), rtol=0, atol=1e-12)


def test_reach_is_the_share_of_responses_that_pass(tree):
    table = draw(tree, 2)
    expected = dict.fromkeys(tree.prefixes, 0.0)
    for steps in every_response().values():
        probability, passed = walk(tree, table, steps)
        for prefix, _ in passed:
            expected[prefix] += probability
    got = dict(zip(tree.prefixes, tree.reach(table).tolist(), strict=True))
    assert got == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("beta", "gamma"), [(0.0, 1.0), (0.7, 1.0), (0.0, 0.8), (0.4, 0.9)])
def test_values_are_expected_returns_over_all_responses(tree, beta, gamma):
    table, reference = draw(tree, 3), draw(tree, 4)
    rewards = draw(tree, 5).flatten()[: len(tree.responses)]
    values = tree.evaluate(table, rewards, reference_logits=reference, beta=beta, gamma=gamma)
    log_ratio = table.log_softmax(-1) - reference.log_softmax(-1)
    reach, p = tree.reach(table), table.softmax(-1)
    q = torch.zeros_like(p)
    for text, steps in every_response().items():
        probability, passed = walk(tree, table, steps)
        places = [(tree.prefixes.index(prefix), action) for prefix, action in passed]
        paid = [-beta * float(log_ratio[place]) for place in places]
        paid[-1] += float(rewards[tree.responses.index(text)])
        for t, (n, a) in enumerate(places):
            to_go = sum(gamma**k * r for k, r in enumerate(paid[t:]))
            q[n, a] += probability / float(reach[n] * p[n, a]) * to_go
    torch.testing.assert_close(values.q, q, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(values.v, (p * q).sum(-1), rtol=1e-9, atol=1e-9)
    mean_advantage = (p * values.advantage).sum(-1)
    torch.testing.assert_close(mean_advantage, torch.zeros_like(values.v), rtol=0, atol=1e-12)


def test_the_value_of_the_root_is_the_objective(tree):
    table, reference = draw(tree, 6, 2), draw(tree, 7, 2)
    rewards = draw(tree, 8).flatten()[: len(tree.responses)]
    values = tree.evaluate(table, rewards, reference_logits=reference, beta=0.3)
    objective = tree.objective(table, reference, rewards, 0.3)
    torch.testing.assert_close(values.v[:, 0], objective, rtol=0, atol=1e-12)
    p = tree.response_log_probs(table).exp()
    expected = (p * rewards).sum(-1) - 0.3 * tree.kl(table, reference)
    torch.testing.assert_close(objective, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_no_policy_beats_the_optimum(tree, beta):
    reference = draw(tree, 9)
    rewards = draw(tree, 10).flatten()[: len(tree.responses)]
    best = tree.optimum(reference, rewards, beta)
    highest = float(tree.objective(best, reference, rewards, beta))
    log_z = formulas.log_partition(tree.response_log_probs(reference), rewards, beta)
    assert highest == pytest.approx(beta * float(log_z), abs=1e-12)
    values = tree.evaluate(best, rewards, reference_logits=reference, beta=beta)
    # At the optimum every action is worth the same once its own KL is paid.
    assert float(values.advantage.abs().max()) < 1e-9
    for seed in range(20):
        other = best + 0.1 * draw(tree, seed + 100)
        assert float(tree.objective(other, reference, rewards, beta)) < highest


def test_total_variation_by_hand():
    tree = ResponseTree(("x",), 1)
    half, sure = torch.zeros(1, 2).double(), torch.tensor([[math.log(3.0), 0.0]]).double()
    assert float(tree.total_variation(half, sure)) == pytest.approx(0.25)


def test_a_table_policy_is_a_language_model(tree):
    tables = draw(tree, 11, 2)
    prompts = ["the film", "the plot"]
    policy = table_policy(tree, tables, prompts)
    torch.testing.assert_close(
        tree.read(policy, prompts), tables.log_softmax(-1), rtol=0, atol=1e-12
    )
    rollout = policy.sample(prompts * 50, LONGEST, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(policy.log_probs_of(rollout), rollout.log_probs)
    places = [tree.responses.index(text) for text in rollout.responses]
    expected = tree.response_log_probs(tables)[torch.arange(100) % 2, torch.tensor(places)]
    torch.testing.assert_close(rollout.log_probs.sum(1), expected, rtol=0, atol=1e-9)


def test_samples_follow_the_table(tree):
    table = draw(tree, 12)
    policy = table_policy(tree, table)
    rollout = policy.sample([""] * 20_000, LONGEST, generator=torch.Generator().manual_seed(1))
    counts = torch.zeros(len(tree.responses), dtype=torch.float64)
    for text in rollout.responses:
        counts[tree.responses.index(text)] += 1
    p = tree.response_log_probs(table).exp()
    error = (p * (1 - p) / 20_000).sqrt()
    assert float(((counts / 20_000 - p).abs() / (error + 1e-4)).max()) < 5


def test_gradients_reach_the_table(tree):
    policy = table_policy(tree, draw(tree, 13))
    policy.log_probs([""], ["a b"])[0].sum().backward()
    gradient = policy.model.lm_head.weight.grad
    assert bool(gradient.isfinite().all()) and float(gradient.abs().sum()) > 0


def test_other_prompts_and_shapes_are_refused(tree):
    table = draw(tree, 14)
    policy = table_policy(tree, table, ["the film"])
    with pytest.raises(ValueError, match="those that the table was made for"):
        policy.log_probs(["film the"], ["a"])
    with pytest.raises(ValueError, match=r"\(P, N, A\) = \(1, 13, 4\)"):
        table_policy(tree, table[:-1])
    with pytest.raises(ValueError, match="equally long"):
        table_policy(tree, table, ["one", "one two"])
    with pytest.raises(ValueError, match=r"\(\.\.\., N, A\)"):
        tree.response_log_probs(table.T)
    with pytest.raises(ValueError, match=r"\(\.\.\., Y\)"):
        tree.optimum(table, torch.zeros(3).double(), 1.0)
    with pytest.raises(ValueError, match="needs reference_logits"):
        tree.evaluate(table, torch.zeros(len(tree.responses)).double(), beta=1.0)
    with pytest.raises(ValueError, match="different words"):
        ResponseTree(("a", "a"), 2)


def test_a_model_that_leaves_the_tree_is_refused(tree):
    wider = ResponseTree((*WORDS, "d"), LONGEST)
    policy = table_policy(wider, torch.zeros(len(wider.prefixes), 5))
    with pytest.raises(ValueError, match="0.2 for other tokens"):
        tree.read(policy, [""])
    with pytest.raises(ValueError, match="got none of"):
        wider.read(table_policy(tree, draw(tree, 15)), [""])
