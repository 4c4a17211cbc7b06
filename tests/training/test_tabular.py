"""The table loops, against exact values, hand arithmetic and a second pass over the same games."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from rlhf_lessons import formulas
from rlhf_lessons.models import ActionValueTable, SoftmaxPolicy, ValueTable
from rlhf_lessons.training import (
    MonteCarlo,
    QSettings,
    ReinforceSettings,
    TemporalDifference,
    ValueSettings,
    train_q,
    train_reinforce,
    train_values,
)
from rlhf_lessons.worlds import tic_tac_toe as world

SIZE, LEGAL = len(world.state_space()), world.state_space().legal
RANDOM = world.random_policy()


def finish(loop):
    records = list(loop)
    assert [record.step for record in records] == list(range(1, records[0].total + 1))
    return records


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [1.0, 0.7])
def test_monte_carlo_is_the_mean_over_all_games(gamma):
    table = ValueTable(SIZE)
    chosen = ValueSettings(steps=5, games_per_step=40, gamma=gamma, agent_plays="both", seed=4)
    finish(train_values(table, RANDOM, RANDOM, chosen))
    generator = np.random.default_rng(4)
    seen: dict[int, list[float]] = {}
    for _ in range(5):
        games = world.play_games(RANDOM, RANDOM, 40, generator, "both")
        for states, rewards, mask in zip(games.states, games.rewards, games.mask, strict=True):
            length = mask.sum()
            for t in range(length):
                value = sum(gamma ** (k - t) * rewards[k] for k in range(t, length))
                seen.setdefault(int(states[t]), []).append(value)
    for state, returns in seen.items():
        assert table.values[state].item() == pytest.approx(np.mean(returns), abs=1e-12)
        assert table.visits[state].item() == len(returns)
    assert table.visits.sum() == sum(map(len, seen.values()))


@pytest.mark.parametrize("method", [MonteCarlo(), TemporalDifference()])
def test_learned_values_approach_the_exact_ones(method):
    table = ValueTable(SIZE)
    chosen = ValueSettings(steps=30, games_per_step=1000)
    records = finish(train_values(table, RANDOM, RANDOM, chosen, method=method))
    # 30,000 games reach a mean error of 0.06; a first batch of 1,000 leaves about 0.3.
    assert records[-1].mean_error < 0.08 < 0.2 < records[0].mean_error
    assert records[-1].max_error < records[0].max_error
    exact = world.exact_values(RANDOM, RANDOM)
    assert table.values[0].item() == pytest.approx(exact[0], abs=0.05)
    error = np.abs(table.values.numpy() - exact)
    meets = world.visit_probabilities(RANDOM, RANDOM, "X") * (world.state_space().marks % 2 == 0)
    meets *= ~world.state_space().finished
    assert records[-1].mean_error == pytest.approx(meets @ error / meets.sum(), abs=1e-12)
    assert records[-1].max_error == pytest.approx(error[meets > 0].max(), abs=1e-12)


def test_td_moves_each_state_of_one_game_by_hand():
    table = ValueTable(SIZE)
    chosen = ValueSettings(steps=1, games_per_step=1, gamma=0.9, seed=2)
    start = torch.linspace(-1, 1, SIZE, dtype=torch.float64)
    table.values.copy_(start)
    table.visits += 3
    list(train_values(table, RANDOM, RANDOM, chosen, method=TemporalDifference(step_decay=0.5)))
    game = world.play_games(RANDOM, RANDOM, 1, np.random.default_rng(2), "X")
    states = game.states[0][game.mask[0]]
    alpha = 4**-0.5
    for t, state in enumerate(states):
        last = t == len(states) - 1
        target = game.rewards[0, t] if last else 0.9 * start[states[t + 1]].item()
        expected = start[state].item() + alpha * (target - start[state].item())
        assert table.values[state].item() == pytest.approx(expected, abs=1e-12)
    assert (table.values != start).sum() == len(states)


def test_the_loops_use_the_formulas_they_are_given():
    def halved(rewards, mask, gamma):
        return formulas.discounted_returns(rewards, mask, gamma) / 2

    full, half = ValueTable(SIZE), ValueTable(SIZE)
    chosen = ValueSettings(steps=1, games_per_step=50)
    list(train_values(full, RANDOM, RANDOM, chosen))
    list(train_values(half, RANDOM, RANDOM, chosen, method=MonteCarlo(returns=halved)))
    torch.testing.assert_close(half.values, full.values / 2)

    calls = []

    def td(*arguments):
        calls.append(arguments)
        return 0.25

    table, q_table = ValueTable(SIZE), ActionValueTable(LEGAL)
    list(train_values(table, RANDOM, RANDOM, chosen, method=TemporalDifference(td)))
    assert set(table.values.unique().tolist()) == {0.0, 0.25} and len(calls) == table.visits.sum()
    list(train_q(q_table, RANDOM, QSettings(steps=1, games_per_step=5), update=td))
    assert set(q_table.values.unique().tolist()) == {0.0, 0.25}

    policy = SoftmaxPolicy(LEGAL)
    chosen = ReinforceSettings(steps=1, games_per_step=5)
    list(train_reinforce(policy, RANDOM, chosen, gradient=lambda z, legal, a, w: 0 * z))
    assert not policy.logits.any()
    list(train_reinforce(policy, RANDOM, chosen, returns=lambda r, m, g: 0 * r))
    assert not policy.logits.any()


# --- control --------------------------------------------------------------------------------------


def test_q_learning_of_one_batch_by_hand():
    table = ActionValueTable(LEGAL)
    table.values[:] = torch.where(torch.tensor(LEGAL), 0.5, 0.0)
    chosen = QSettings(
        steps=1, games_per_step=3, gamma=0.8, explore=1.0, step_decay=1.0, agent_plays="O", seed=6
    )
    list(train_q(table, RANDOM, chosen))
    games = world.play_games(RANDOM, RANDOM, 3, np.random.default_rng(6), "O")
    q = {}
    n = {}
    for game in range(3):
        length = games.mask[game].sum()
        for t in range(length):
            s, a = games.states[game, t], games.actions[game, t]
            target = games.rewards[game, t]
            if t < length - 1:
                following = games.states[game, t + 1]
                legal = np.flatnonzero(LEGAL[following])
                target += 0.8 * max(q.get((following, b), 0.5) for b in legal)
            n[s, a] = n.get((s, a), 0) + 1
            q[s, a] = q.get((s, a), 0.5) + (target - q.get((s, a), 0.5)) / n[s, a]
    for (s, a), value in q.items():
        assert table.values[s, a].item() == pytest.approx(value, abs=1e-12)
        assert table.visits[s, a].item() == n[s, a]
    assert table.visits.sum() == sum(n.values())


def test_q_learning_nears_the_best_response_and_never_loses_to_minimax():
    table = ActionValueTable(LEGAL)
    chosen = QSettings(steps=150, games_per_step=500, agent_plays="X")
    records = finish(train_q(table, RANDOM, chosen))
    greedy = world.greedy_policy(table.values.numpy())
    best = world.expected_return(world.best_response(RANDOM), RANDOM)
    assert records[-1].objective == world.expected_return(greedy, RANDOM)
    assert best - 0.05 < records[-1].objective <= best + 1e-12
    assert world.result_probabilities(greedy, world.minimax_policy(), "X")[2] == 0
    assert not table.values[~torch.tensor(LEGAL)].any()


def test_reinforce_follows_the_exact_gradient_on_average():
    policy = SoftmaxPolicy(LEGAL)
    generator = torch.Generator().manual_seed(0)
    policy.logits += torch.randn(policy.logits.shape, generator=generator, dtype=torch.float64) / 2
    before, pi = policy.logits.clone(), policy.probabilities().numpy()
    games = 40_000
    chosen = ReinforceSettings(steps=1, games_per_step=games, learning_rate=1.0)
    list(train_reinforce(policy, RANDOM, chosen))
    step = (policy.logits - before).numpy() / games
    # The policy gradient theorem, from exact tables: ∂J/∂z(s, a) = ρ(s)·π(a|s)·A(s, a)
    visits = world.visit_probabilities(pi, RANDOM, "X")
    visits *= world.state_space().marks % 2 == 0
    exact = visits[:, None] * pi * world.advantages_of(world.exact_q_values(pi, RANDOM), pi)
    # A mean of 40,000 numbers in [-1, 1] is within 5 standard errors, 0.025.
    assert np.abs(step - exact).max() < 0.025
    cosine = (step * exact).sum() / np.linalg.norm(step) / np.linalg.norm(exact)
    assert cosine > 0.9


def test_a_baseline_judges_a_batch_before_it_has_seen_it():
    chosen = ReinforceSettings(steps=1, games_per_step=50, seed=3)
    plain, based = SoftmaxPolicy(LEGAL), SoftmaxPolicy(LEGAL)
    baseline = ValueTable(SIZE)
    list(train_reinforce(plain, RANDOM, chosen))
    list(train_reinforce(based, RANDOM, chosen, baseline=baseline))
    # In the first batch the baseline is still 0 everywhere: the same step.
    torch.testing.assert_close(plain.logits, based.logits)
    games = world.play_games(RANDOM, RANDOM, 50, np.random.default_rng(3), "X")
    assert baseline.values[0].item() == pytest.approx(games.results.mean(), abs=1e-12)
    baseline.values.fill_(0.5)
    shifted = SoftmaxPolicy(LEGAL)
    list(train_reinforce(shifted, RANDOM, chosen, baseline=baseline))
    rows = formulas.reinforce_gradient(
        torch.zeros(50, 9, dtype=torch.float64),
        torch.tensor(LEGAL)[:1].expand(50, 9),
        torch.from_numpy(games.actions[:, 0]),
        torch.from_numpy(games.results) - 0.5,
    )
    torch.testing.assert_close(shifted.logits[0], chosen.learning_rate * rows.sum(dim=0))


def test_a_baseline_forgets_the_returns_of_old_policies():
    baseline = ValueTable(SIZE)
    baseline.values[0], baseline.visits[0] = -1.0, 10_000
    policy = SoftmaxPolicy(LEGAL)
    chosen = ReinforceSettings(steps=30, games_per_step=100)
    list(train_reinforce(policy, RANDOM, chosen, baseline=baseline))
    assert baseline.values[0] > 0.3


@pytest.mark.parametrize("with_baseline", [False, True])
def test_reinforce_learns_to_win(with_baseline):
    policy = SoftmaxPolicy(LEGAL)
    baseline = ValueTable(SIZE) if with_baseline else None
    chosen = ReinforceSettings(steps=150, learning_rate=0.5)
    records = finish(train_reinforce(policy, RANDOM, chosen, baseline=baseline))
    exact = world.expected_return(policy.probabilities().numpy(), RANDOM)
    assert records[-1].objective == pytest.approx(exact)
    assert records[0].objective < 0.4 and exact > 0.88
    assert records[-1].weight_variance < records[0].weight_variance


def test_self_play_improves_both_sides():
    table = ActionValueTable(LEGAL)
    finish(train_q(table, None, QSettings(steps=60, games_per_step=200)))
    greedy = world.greedy_policy(table.values.numpy())
    for side in "XO":
        win = world.result_probabilities(greedy, RANDOM, side)[0]
        assert win > world.result_probabilities(RANDOM, RANDOM, side)[0] + 0.2


# --- loops as generators --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loop",
    [
        lambda: train_values(ValueTable(SIZE), RANDOM, RANDOM, ValueSettings(steps=3)),
        lambda: train_q(ActionValueTable(LEGAL), RANDOM, QSettings(steps=3)),
        lambda: train_reinforce(
            SoftmaxPolicy(LEGAL),
            None,
            ReinforceSettings(steps=3),
            baseline=ValueTable(SIZE),
        ),
    ],
)
def test_loops_are_repeatable(loop):
    assert finish(loop()) == finish(loop())


def test_an_interrupted_loop_keeps_what_was_learned():
    table = ActionValueTable(LEGAL)
    loop = train_q(table, RANDOM, QSettings(steps=10, games_per_step=20, agent_plays="X"))
    assert len(list(itertools.islice(loop, 2))) == 2
    loop.close()
    assert table.visits[0].sum() == 40


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ValueSettings(steps=0), "ValueSettings: steps must be a whole number"),
        (lambda: ValueSettings(games_per_step=1.5), "games_per_step must be a whole number"),
        (lambda: QSettings(gamma=-0.1), "QSettings: gamma must be between 0 and 1, got -0.1"),
        (lambda: QSettings(explore=2), "explore must be between 0 and 1, got 2"),
        (lambda: QSettings(step_decay=0.5), "step_decay must be above 0.5"),
        (lambda: ReinforceSettings(learning_rate=0.0), "learning_rate must be positive"),
        (lambda: ReinforceSettings(agent_plays="x"), "must be 'X', 'O' or 'both', got 'x'"),
        (
            lambda: next(train_values(ValueTable(3), RANDOM, RANDOM)),
            r"train_values: the table must have shape \(5478,\).*got \(3,\)",
        ),
        (
            lambda: next(train_q(ActionValueTable(LEGAL[:2]), RANDOM)),
            r"train_q: the table must have shape \(5478, 9\)",
        ),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
