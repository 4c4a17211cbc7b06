"""GRPO's loop against updates worked out apart from it in float64, and all that can go wrong."""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics

import numpy as np
import pytest
import torch

from rlhf_lessons import formulas
from rlhf_lessons.models import (
    LanguagePolicy,
    ResponseTree,
    small_gpt2,
    table_policy,
    word_tokenizer,
)
from rlhf_lessons.training import GRPOSettings, train_grpo
from rlhf_lessons.worlds import OPINION_WORDS, opinion_habits, opinion_score

WORDS = ("good", "bad", "film")
PROMPTS = ["film", "good film", "bad"]
SMALL = GRPOSettings(
    cycles=3, group_size=4, batch_size=8, max_new_tokens=5, epochs=2, minibatch_size=4,
    learning_rate=1e-2,
)  # fmt: skip


def make_policy(words=WORDS, seed=0, scale=1.0) -> LanguagePolicy:
    tokenizer = word_tokenizer(words)
    policy = LanguagePolicy(small_gpt2(len(tokenizer), 16, 1, 2, 16, seed=seed), tokenizer)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(scale)
    return policy


def count_good(prompts, responses):
    return np.array([r.split().count("good") - 0.1 * len(r) for r in responses])


def says_good(prompts, responses):
    return [float("good" in response.split()) for response in responses]


def weights_of(policy):
    return {name: w.detach().clone() for name, w in policy.model.state_dict().items()}


def same_weights(policy, before):
    return all(torch.equal(w, before[name]) for name, w in policy.model.state_dict().items())


def change(**fields):
    return dataclasses.replace(SMALL, **fields)


# --- it finds what is best ------------------------------------------------------------------------


def test_leave_one_out_finds_the_closed_form_optimum():
    """RLOO with the KL in the score maximises J(π) = E[r] − β · KL, whose optimum is known."""
    tree = ResponseTree(OPINION_WORDS, 3)
    reference = torch.tensor(opinion_habits(tree.prefixes)).log()
    rewards = torch.tensor(opinion_score([""] * len(tree.responses), tree.responses))
    policy = table_policy(tree, reference, ["the film was"])
    settings = GRPOSettings(
        cycles=100, group_size=512, batch_size=512, max_new_tokens=3, minibatch_size=512,
        learning_rate=0.1, final_learning_rate=0.0, beta=0.0, max_gradient_norm=10.0,
    )  # fmt: skip
    place = {response: i for i, response in enumerate(tree.responses)}
    habits = tree.response_log_probs(reference)

    def judge(prompts, responses):
        # The objective's KL is that of whole responses: it is part of the score here.
        now = tree.response_log_probs(tree.read(policy, ["the film was"])[0])
        scores = rewards - (now - habits).detach()
        return [float(scores[place[response]]) for response in responses]

    list(
        train_grpo(
            policy, ["the film was"], judge, settings, advantages=formulas.rloo_advantages,
            mean=formulas.mean_over_length,
        )
    )  # fmt: skip
    learned = tree.read(policy, ["the film was"])[0]
    best = tree.optimum(reference, rewards, 1.0)
    assert float(tree.total_variation(reference, best)) > 0.3  # there was something to learn
    assert float(tree.total_variation(learned, best)) < 0.06


def test_the_kl_of_the_loss_holds_the_policy():
    runs = {}
    for beta in (0.0, 5.0):
        settings = change(cycles=25, batch_size=32, minibatch_size=32, beta=beta)
        records = list(
            train_grpo(make_policy(), ["film"], count_good, settings, reference=make_policy())
        )
        runs[beta] = records[-1]
    assert runs[0.0].kl > 3 > 0.5 > runs[5.0].kl
    assert runs[0.0].reward > runs[5.0].reward


# --- one update, worked out apart -----------------------------------------------------------------


def by_hand(log_probs, old, anchor, scores, mask, kind, settings):
    """The loss of one minibatch in plain loops over float64 tensors of one number each."""
    advantage, loss, size = kind
    low, high = settings.epsilon_low, settings.epsilon_high
    total, tokens = 0.0, int(mask.sum())
    for row in range(len(mask)):
        group = scores[row // 4].tolist()
        mean, own = statistics.mean(group), group[row % 4]
        a = {
            "grpo": (own - mean) / (statistics.stdev(group) + 1e-4),
            "dr_grpo": own - mean,
            "rloo": own - (sum(group) - own) / 3,
        }[advantage]
        length = int(mask[row].sum())
        s = ((log_probs[row, :length] - old[row, :length]).sum() / length).exp()
        for t in range(length):
            new = log_probs[row, t]
            rho = (new - old[row, t]).exp()
            if loss == "token":
                it = -torch.minimum(a * rho, a * rho.clamp(1 - low, 1 + high))
            elif loss == "sequence":
                it = -torch.minimum(a * s, a * s.clamp(1 - low, 1 + high))
            else:
                it = -min(float(rho), 1 + high) * a * new
            gap = anchor[row, t] - new
            it = it + settings.beta * (gap.exp() - gap - 1)
            per = {"tokens": tokens, "responses": len(mask) * length, "length": len(mask) * 5}
            total = total + it / per[size]
    return total


KINDS = {
    "GRPO": ({}, ("grpo", "token", "responses")),
    "RLOO": (
        {"advantages": formulas.rloo_advantages, "mean": formulas.mean_over_length},
        ("rloo", "token", "length"),
    ),
    "Dr. GRPO": (
        {"advantages": formulas.dr_grpo_advantages, "mean": formulas.mean_over_length},
        ("dr_grpo", "token", "length"),
    ),
    "DAPO": ({"mean": formulas.masked_mean}, ("grpo", "token", "tokens")),
    "GSPO": ({"policy_loss": formulas.gspo_policy_loss}, ("grpo", "sequence", "responses")),
    "CISPO": (
        {"policy_loss": formulas.cispo_policy_loss, "mean": formulas.masked_mean},
        ("grpo", "weight", "tokens"),
    ),
}


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("name", KINDS)
def test_updates_are_those_worked_out_by_hand_in_float64(name, beta):
    """Two epochs of one minibatch, so that ratios differ from 1 and some are clipped."""
    chosen, kind = KINDS[name]
    settings = GRPOSettings(
        cycles=1, group_size=4, batch_size=12, max_new_tokens=5, epochs=2, minibatch_size=12,
        learning_rate=1e-2, beta=beta, epsilon_low=0.02, epsilon_high=0.05, max_gradient_norm=0.3,
    )  # fmt: skip
    policy, twin, anchor = (make_policy(seed=i, scale=2.0) for i in (0, 0, 1))
    (record,) = train_grpo(policy, PROMPTS, count_good, settings, reference=anchor, **chosen)

    order = torch.Generator().manual_seed(0)
    asked = [PROMPTS[i] for i in torch.randperm(3, generator=order).tolist() for _ in range(4)]
    rollout = twin.sample(asked, 5, generator=torch.Generator().manual_seed(0))
    mask = rollout.response_mask
    scores = torch.tensor(count_good(asked, rollout.responses)).view(3, 4)
    twin.model.double()
    anchored = anchor.log_probs_of(rollout).detach().double()
    with torch.no_grad():
        old = twin.log_probs_of(rollout)
    parameters = list(twin.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-2, eps=1e-5)
    norms, log_probs = [], []
    for _ in range(2):
        log_probs.append(twin.log_probs_of(rollout))
        by_hand(log_probs[-1], old, anchored, scores, mask, kind, settings).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, 0.3)))
        optimizer.step()
        optimizer.zero_grad()

    assert record.gradient_norm == pytest.approx(max(norms), rel=1e-4)
    for got, expected in zip(policy.parameters(), parameters, strict=True):
        # Adam divides by a gradient's size: a rounding of a small one becomes a larger step.
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=5e-4)
        assert float((got.double() - expected).abs().mean()) < 1e-5
    assert record.updates == 2
    assert record.reward == pytest.approx(float(scores.mean()))
    assert record.kl == pytest.approx(float(((old - anchored) * mask).sum(1).mean()), abs=1e-5)
    assert record.entropy == pytest.approx(-float(old[mask].mean()), abs=1e-5)
    assert record.response_length == pytest.approx(float(mask.sum(1).double().mean()))
    if beta > 0:  # all responses are read
        moved = (log_probs[1].detach() - old)[mask]
        assert record.update_kl == pytest.approx(float((moved.exp() - moved - 1).mean()), rel=1e-2)
    if kind[1] == "token":
        a = (scores - scores.mean(1, keepdim=True)).view(-1, 1).expand(mask.shape)
        share = formulas.clip_fraction(log_probs[1].detach(), old, a, mask, 0.02, 0.05)
        assert record.clip_fraction == pytest.approx(float(share) / 2, abs=0.02)  # epoch 1 has none
        assert record.clip_fraction > 0.1
    if kind[1] == "weight":
        assert record.clip_fraction == 0  # CISPO takes no token's gradient away


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("name", KINDS)
def test_a_minibatch_in_parts_gives_the_same_updates(name, beta):
    runs = []
    for parts in (1, 3):
        policy = make_policy()
        settings = change(
            cycles=2, batch_size=12, minibatch_size=5, beta=beta, accumulate=parts, redraws=1
        )
        records = list(train_grpo(policy, PROMPTS, says_good, settings, **KINDS[name][0]))
        runs.append((records, weights_of(policy)))
    (whole, moved), (in_parts, moved_too) = runs
    for one, other in zip(whole, in_parts, strict=True):
        one, other = (
            [math.nan if x is None else x for x in dataclasses.astuple(record)]
            for record in (one, other)
        )
        assert one == pytest.approx(other, abs=2e-4, nan_ok=True)
    for key, weight in moved.items():
        torch.testing.assert_close(weight, moved_too[key], rtol=0, atol=2e-4)


def test_responses_without_advantage_are_not_read_and_change_nothing():
    """The same numbers with β = 0 as with β so small that it adds nothing, in fewer rows."""
    runs = {}
    for beta in (0.0, 1e-12):
        policy, rows = make_policy(), []
        read = policy.log_probs_of

        def spy(batch, read=read, rows=rows):
            rows.append(len(batch.response_mask))
            return read(batch)

        policy.log_probs_of = spy
        settings = change(cycles=4, batch_size=24, minibatch_size=24, max_new_tokens=3, beta=beta)
        records = list(train_grpo(policy, PROMPTS, says_good, settings))
        runs[beta] = (sum(rows), [r.policy_loss for r in records], weights_of(policy))
    assert runs[0.0][0] < runs[1e-12][0] == 4 * 2 * 24
    assert runs[0.0][1] == pytest.approx(runs[1e-12][1], abs=1e-5)
    for name, weight in runs[0.0][2].items():
        torch.testing.assert_close(weight, runs[1e-12][2][name], rtol=0, atol=2e-4)


def test_a_loss_with_a_term_where_there_is_no_advantage_is_read_there_too():
    """With β = 0 and a term of its own that holds the policy: as the loop's KL of that strength."""

    def held(log_probs, old_log_probs, advantages, epsilon_low, epsilon_high):
        ppo = formulas.dapo_policy_loss(
            log_probs, old_log_probs, advantages, epsilon_low, epsilon_high
        )
        return ppo + 0.5 * formulas.kl_k3(log_probs - old_log_probs)

    runs = []
    for extra in ({"beta": 0.0, "policy_loss": held}, {"beta": 0.5}):
        policy, rows = make_policy(), []
        read = policy.log_probs_of

        def spy(batch, read=read, rows=rows):
            rows.append(len(batch.response_mask))
            return read(batch)

        policy.log_probs_of = spy
        settings = change(
            cycles=1, batch_size=24, minibatch_size=24, max_new_tokens=3, beta=extra.pop("beta")
        )
        # In the first cycle π_old is the reference, so both hold to the same policy.
        (record,) = train_grpo(policy, PROMPTS, only_film_can_be_right, settings, **extra)
        assert 0 < record.silent_groups < 1
        runs.append((rows, record.gradient_norm, weights_of(policy)))
    assert runs[0][0] == runs[1][0] == [24, 24]
    assert runs[0][1] == pytest.approx(runs[1][1], rel=1e-4)
    for name, weight in runs[0][2].items():
        torch.testing.assert_close(weight, runs[1][2][name], rtol=0, atol=2e-4)


# --- groups without signal ------------------------------------------------------------------------


def only_film_can_be_right(prompts, responses):
    return [
        float("good" in r.split()) if prompt == "film" else 1.0
        for prompt, r in zip(prompts, responses, strict=True)
    ]


def test_groups_without_signal_are_counted_and_make_no_update_alone():
    settings = change(cycles=12, group_size=4, batch_size=4, minibatch_size=4, beta=0.0)
    policy, moved = make_policy(), []
    before = weights_of(policy)
    # The first prompt that is dealt is "film" under this seed: the first cycle has a signal.
    seed = next(
        seed
        for seed in range(50)
        if PROMPTS[int(torch.randperm(3, generator=torch.Generator().manual_seed(seed))[0])]
        == "film"
    )
    run = train_grpo(
        policy, PROMPTS, only_film_can_be_right, dataclasses.replace(settings, seed=seed)
    )
    for record in run:
        moved.append(not same_weights(policy, before))
        before = weights_of(policy)
        assert moved[-1] == (record.updates > 0) == (record.silent_groups < 1)
        assert math.isnan(record.policy_loss) == (record.updates == 0)
    assert True in moved and False in moved


def test_drawing_again_finds_groups_with_signal():
    asked = []

    def judge(prompts, responses):
        asked.append(list(prompts))
        return only_film_can_be_right(prompts, responses)

    settings = change(cycles=1, group_size=4, batch_size=4, minibatch_size=4, beta=0.0)
    seed = next(
        seed
        for seed in range(50)
        if PROMPTS[int(torch.randperm(3, generator=torch.Generator().manual_seed(seed))[2])]
        == "film"
    )  # dealt last
    settings = dataclasses.replace(settings, seed=seed, redraws=2)
    (record,) = train_grpo(make_policy(), PROMPTS, judge, settings)
    assert [len(set(prompts)) for prompts in asked] == [1, 1, 1]
    assert {prompts[0] for prompts in asked} == set(PROMPTS)  # another prompt each time
    assert asked[2] == ["film"] * 4
    assert (record.silent_groups, record.redrawn, record.left_silent) == (1.0, 2, 0.0)
    assert record.reward == 1.0  # that of the first draw
    assert record.updates == 2
    with pytest.raises(ValueError, match="must tell responses to one prompt apart, got equal"):
        next(train_grpo(make_policy(), PROMPTS, judge, dataclasses.replace(settings, redraws=1)))


def test_what_is_drawn_again_stands_in_the_place_of_what_was_silent():
    """The batch that is learned from is the one that the judge's last words describe."""
    seen, learned = {}, []

    def judge(prompts, responses):
        scores = only_film_can_be_right(prompts, responses)
        seen.update({(p, r): s for p, r, s in zip(prompts, responses, scores, strict=True)})
        return scores

    policy = make_policy()

    def loss(log_probs, old_log_probs, advantages, mask):
        torch.testing.assert_close(log_probs * mask, old_log_probs * mask, atol=1e-5, rtol=0)
        learned.append((advantages[:, 0], mask.sum(1)))
        return formulas.reinforce_loss(log_probs, advantages)

    settings = change(
        cycles=1, batch_size=12, epochs=1, minibatch_size=12, redraws=3, beta=0.1, seed=3
    )
    (record,) = train_grpo(
        policy, ["film", "good film good film", "bad"], judge, settings, policy_loss=loss
    )
    assert record.redrawn > 0
    ((advantages, lengths),) = learned
    assert (advantages != 0).sum() >= 4 and lengths.min() >= 1


# --- formulas that drop in ------------------------------------------------------------------------


def test_every_formula_is_used_in_place_of_the_default():
    for name in ("advantages", "policy_loss", "mean", "kl_estimate"):

        def refuse(*_, name=name, **__):
            raise ArithmeticError(name)

        with pytest.raises(ArithmeticError, match=name):
            list(train_grpo(make_policy(), ["film"], count_good, SMALL, **{name: refuse}))


def test_formulas_that_do_not_fit_are_named_before_any_weight_changes():
    policy = make_policy()
    before = weights_of(policy)
    wrong = {
        "policy_loss": (lambda log_probs: log_probs.sum(), "policy_loss must give one value per"),
        "advantages": (lambda scores: scores[0], "advantages must give one value per response"),
        "kl_estimate": (lambda x: x.sum(), "kl_estimate must give one value per token"),
        "mean": (lambda x: x, "mean must give one number"),
    }
    for name, (formula, message) in wrong.items():
        with pytest.raises(ValueError, match=f"train_grpo: {message}"):
            list(train_grpo(policy, ["film"], count_good, SMALL, **{name: formula}))
    with pytest.raises(ValueError, match="mean must be linear in x"):
        list(train_grpo(policy, ["film"], count_good, SMALL, mean=lambda x: (x**2).mean()))
    with pytest.raises(ValueError, match=r"policy_loss must take .* asks for epsilon"):
        train_grpo(policy, ["film"], count_good, policy_loss=formulas.ppo_policy_loss)
    assert same_weights(policy, before)


# --- reference, precision, adapters ---------------------------------------------------------------


def test_without_beta_there_is_no_reference():
    copied = []
    policy = make_policy()
    policy.copy = lambda: copied.append(1)
    records = list(train_grpo(policy, ["film"], count_good, change(beta=0.0)))
    assert not copied and all(record.kl is None for record in records)
    reference = make_policy(seed=1)
    still = weights_of(reference)
    plain, measured = make_policy(), make_policy()
    list(train_grpo(plain, ["film"], count_good, change(beta=0.0)))
    records = list(
        train_grpo(measured, ["film"], count_good, change(beta=0.0), reference=reference)
    )
    assert all(record.kl is not None for record in records)
    assert same_weights(reference, still)
    assert same_weights(measured, weights_of(plain))  # it was only measured


@pytest.mark.parametrize("minibatch_size", [8, 4])
def test_bfloat16_is_for_sampling_and_forward_passes(minibatch_size, sampled_in_bfloat16):
    runs = {}
    for bf16 in (False, True):
        policy, seen = make_policy(), []

        def loss(log_probs, old_log_probs, advantages, seen=seen):
            seen.append((log_probs.dtype, float((log_probs.detach() - old_log_probs).abs().max())))
            return formulas.dapo_policy_loss(log_probs, old_log_probs, advantages, 0.2, 0.2)

        settings = change(cycles=1, epochs=1, minibatch_size=minibatch_size, bf16=bf16)
        (record,) = train_grpo(policy, ["film"], count_good, settings, policy_loss=loss)
        assert all(weight.dtype == torch.float32 for weight in policy.parameters())
        assert seen[0][0] == torch.float32 and seen[0][1] < 1e-5  # the ratio starts at one
        runs[bf16] = record
    assert sampled_in_bfloat16 == [False, True]
    assert runs[True].gradient_norm != runs[False].gradient_norm
    assert runs[True].kl == pytest.approx(0, abs=1e-5) == runs[False].kl


def test_adapters_learn_beside_a_frozen_base():
    pytest.importorskip("peft")
    base = make_policy()
    still = weights_of(base)
    policy = base.with_adapter(2)
    records = list(train_grpo(policy, ["film"], count_good, change(cycles=15, batch_size=32)))
    assert records[0].kl == pytest.approx(0, abs=1e-5) and records[-1].kl > 0.01
    assert records[-1].reward > records[0].reward
    moved = weights_of(policy.base())
    assert all(torch.equal(weight, moved[name]) for name, weight in still.items() if name in moved)


def test_gradients_that_were_there_before_do_not_count():
    runs = []
    for left in (0.0, 1e3):
        policy = make_policy()
        for weight in policy.parameters():
            weight.grad = torch.full_like(weight, left)
        (record, *_) = train_grpo(policy, ["film"], count_good, SMALL)
        runs.append((record, weights_of(policy)))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(weight, runs[1][1][name]) for name, weight in runs[0][1].items())


def test_the_same_seed_gives_the_same_numbers_and_another_does_not():
    runs = [
        list(train_grpo(make_policy(), ["film"], count_good, change(seed=seed)))
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2]


# --- interrupted and taken up ---------------------------------------------------------------------


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_an_interrupted_run_goes_on_with_the_same_numbers(tmp_path, stop_after, beta):
    settings = change(cycles=6, save_every=2, final_learning_rate=1e-3, redraws=1, beta=beta)

    def start(folder=None):
        policy = make_policy()
        return policy, train_grpo(policy, PROMPTS, count_good, settings, checkpoint=folder)

    whole_policy, whole = start()
    whole = list(whole)
    _, first = start(tmp_path / "run")
    begun = [next(first) for _ in range(stop_after)]
    first.close()
    policy, rest = start(tmp_path / "run")
    rest = list(rest)
    assert begun == whole[:stop_after]
    assert rest == whole[stop_after // 2 * 2 :]
    assert same_weights(policy, weights_of(whole_policy))


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    settings = change(save_every=1)
    list(train_grpo(make_policy(), ["film"], count_good, settings, checkpoint=tmp_path))
    same = functools.partial(train_grpo, make_policy(), checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"settings.beta \(0.04, now 0.7\)"):
        same(["film"], count_good, dataclasses.replace(settings, beta=0.7))
    with pytest.raises(ValueError, match="differs in prompts"):
        same(["a film"], count_good, settings)
    with pytest.raises(ValueError, match="differs in judge"):
        same(["film"], says_good, settings)
    with pytest.raises(ValueError, match="differs in formulas"):
        same(["film"], count_good, settings, policy_loss=formulas.gspo_policy_loss)
    with pytest.raises(ValueError, match="differs in formulas"):
        same(["film"], count_good, settings, mean=formulas.masked_mean)
    with pytest.raises(ValueError, match="differs in reference"):
        same(["film"], count_good, settings, reference=make_policy(seed=2))


def test_a_judge_that_raises_loses_nothing(tmp_path):
    calls = []

    def judge(prompts, responses):
        calls.append(1)
        if len(calls) == 3:
            raise TimeoutError("the checker hung")
        return count_good(prompts, responses)

    policy = make_policy()
    settings = change(save_every=1)
    run = train_grpo(policy, ["film"], judge, settings, checkpoint=tmp_path)
    begun = [next(run), next(run)]
    before = weights_of(policy)
    with pytest.raises(TimeoutError, match="the checker hung"):
        next(run)
    assert same_weights(policy, before)
    again = make_policy()
    rest = list(train_grpo(again, ["film"], judge, settings, checkpoint=tmp_path))
    whole = list(train_grpo(make_policy(), ["film"], count_good, settings))
    assert begun + rest == whole


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"group_size": 1}, {"group_size": 2.0}, {"batch_size": 60, "group_size": 8},
        {"redraws": -1}, {"cycles": 0}, {"beta": -0.1}, {"epsilon_low": 0.0},
        {"epsilon_high": math.nan}, {"learning_rate": 0.0}, {"final_learning_rate": -1.0},
        {"max_gradient_norm": math.inf}, {"epochs": True}, {"accumulate": 0}, {"bf16": 1},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=rf"GRPOSettings: {next(iter(wrong))} must be"):
        GRPOSettings(**wrong)


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (lambda p, r: np.zeros((len(r), 1)), r"one score per response, \(B,\) = \(8,\)"),
        (lambda p, r: np.zeros((2, 4)), r"one score per response, \(B,\) = \(8,\)"),
        (lambda p, r: 1.0, r"got \(\)"),
        (lambda p, r: None, "must return numbers, got NoneType"),
        (lambda p, r: ["right"] * len(r), "must return numbers, got list"),
        (lambda p, r: np.array([0.0] * 7 + [math.nan]), "finite scores, got nan for response 7"),
        (lambda p, r: np.array([math.inf] + [0.0] * 7), "finite scores, got inf for response 0"),
        (lambda p, r: [0] * len(r), "got equal scores in each of the 2 groups .* such as 0 for"),
        # Prompts differ, the responses to one of them do not.
        (lambda p, r: [0.1] * 4 + [0.7] * 4, "got equal scores in each of the 2 groups"),
    ],
)
def test_a_bad_judge_is_named_before_any_weight_changes(judge, message):
    policy = make_policy()
    before = weights_of(policy)
    with pytest.raises(ValueError, match=f"train_grpo: .*{message}"):
        list(train_grpo(policy, ["film"], judge, SMALL))
    assert same_weights(policy, before)


def test_the_scores_of_a_judge_stay_as_they_are():
    kept = []

    def judge(prompts, responses):
        kept.append(torch.tensor(only_film_can_be_right(prompts, responses), dtype=torch.float64))
        kept.append(kept[-1].clone())
        return kept[-2]

    list(train_grpo(make_policy(), PROMPTS, judge, change(batch_size=12, redraws=3)))
    assert all(torch.equal(*pair) for pair in zip(kept[::2], kept[1::2], strict=True))


def biased(token: int, by: float) -> LanguagePolicy:
    tree = ResponseTree(WORDS, 6)
    table = torch.zeros(len(tree.prefixes), 4)
    table[:, token] += by
    return table_policy(tree, table)


def test_empty_responses():
    policy = biased(3, 100.0)
    before = weights_of(policy)
    with pytest.raises(ValueError, match="train_grpo: policy must write something"):
        list(train_grpo(policy, [""], count_good, SMALL))
    assert same_weights(policy, before)
    assert len(list(train_grpo(biased(3, 1.0), [""], count_good, SMALL))) == 3  # some are empty


def test_responses_of_fixed_length_are_judged_where_they_are_cut():
    with pytest.warns(UserWarning, match="train_grpo: none of the 32 responses") as said:
        settings = change(cycles=30, batch_size=32, minibatch_size=32, learning_rate=3e-2)
        records = list(train_grpo(biased(3, -100.0), [""], count_good, settings))
    assert len(said) == 1
    assert all(r.finished == 0 and r.response_length == 5 for r in records)
    assert np.mean([r.reward for r in records[-5:]]) > records[0].reward + 0.5


def test_models_and_prompts_that_do_not_go_together_are_refused():
    policy = make_policy()
    with pytest.raises(ValueError, match="train_grpo: reference must have the tokens of policy"):
        train_grpo(policy, ["film"], count_good, reference=make_policy(("good", "bad", "play")))
    with pytest.raises(ValueError, match="another model than policy"):
        train_grpo(policy, ["film"], count_good, reference=policy)
    with pytest.raises(ValueError, match="frozen"):
        train_grpo(policy.copy(), ["film"], count_good)
    with pytest.raises(ValueError, match="at least one"):
        train_grpo(policy, [], count_good)
    with pytest.raises(TypeError, match="list of str"):
        train_grpo(policy, "film", count_good)


def test_saving_is_tried_before_the_first_update(monkeypatch):
    def refuse(where, model, tokenizer):
        raise ValueError(f"{where}: cannot be saved")

    monkeypatch.setattr("rlhf_lessons.training.grpo.try_saving", refuse)
    with pytest.raises(ValueError, match="train_grpo: cannot be saved"):
        train_grpo(make_policy(), ["film"], count_good)


def test_the_weights_after_a_broken_update_are_those_before_it():
    policy, kept, calls = make_policy(), {}, []

    def loss(log_probs, old_log_probs, advantages):
        kept.clear()
        kept.update(weights_of(policy))
        calls.append(1)
        losses = formulas.reinforce_loss(log_probs, advantages)
        return losses * (math.nan if len(calls) == 3 else 1.0)

    with pytest.raises(FloatingPointError, match="train_grpo: .* at step 1 of 3"):
        list(train_grpo(policy, ["film"], count_good, SMALL, policy_loss=loss))
    assert same_weights(policy, kept)
