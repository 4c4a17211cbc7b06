"""PPO against exact answers, an update worked out apart from it, and all that can go wrong."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from rlhf_lessons import formulas
from rlhf_lessons.models import (
    LanguagePolicy,
    ResponseTree,
    ValueHead,
    small_gpt2,
    table_policy,
    word_tokenizer,
)
from rlhf_lessons.training import PPOSettings, train_ppo
from rlhf_lessons.worlds import OPINION_WORDS, opinion_habits, opinion_score

WORDS = ("good", "bad", "film")
SMALL = PPOSettings(
    cycles=3, batch_size=8, max_new_tokens=5, epochs=2, minibatch_size=4, learning_rate=1e-2
)


def make_policy(words=WORDS, seed=0) -> LanguagePolicy:
    tokenizer = word_tokenizer(words)
    return LanguagePolicy(small_gpt2(len(tokenizer), 16, 1, 2, 16, seed=seed), tokenizer)


def count_good(prompts, responses):
    return np.array(
        [response.split().count("good") - 0.1 * len(response) for response in responses]
    )


def weights_of(policy):
    return {name: w.detach().clone() for name, w in policy.model.state_dict().items()}


def same_weights(policy, before):
    return all(torch.equal(w, before[name]) for name, w in policy.model.state_dict().items())


# --- it finds what is best ------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_with_the_true_reward_it_converges_to_the_closed_form_optimum(beta):
    tree = ResponseTree(OPINION_WORDS, 3)
    reference = torch.tensor(opinion_habits(tree.prefixes)).log()
    rewards = torch.tensor(opinion_score([""] * len(tree.responses), tree.responses))
    policy = table_policy(tree, reference, ["the film was"])
    settings = PPOSettings(
        cycles=100, batch_size=512, max_new_tokens=3, minibatch_size=512, learning_rate=0.1,
        final_learning_rate=0.0, beta=beta, max_gradient_norm=10.0, value_coefficient=0.5,
    )  # fmt: skip
    records = list(train_ppo(policy, ["the film was"], opinion_score, settings))
    learned = tree.read(policy, ["the film was"])[0]
    best = tree.optimum(reference, rewards, beta)
    assert float(tree.total_variation(reference, best)) > 0.3  # there was something to learn
    assert float(tree.total_variation(learned, best)) < 0.04
    gap = tree.objective(best, reference, rewards, beta) - tree.objective(
        learned, reference, rewards, beta
    )
    assert 0 <= float(gap) < 0.05
    assert records[-1].kl == pytest.approx(float(tree.kl(learned, reference)), abs=0.25)
    assert records[-1].explained_variance > 0.8 > 0.2 > records[0].explained_variance


def test_values_approach_the_exact_values():
    tree = ResponseTree(("good", "dull"), 2)
    reference = torch.zeros(len(tree.prefixes), 3).double()
    policy = table_policy(tree, reference)
    head = ValueHead(policy)
    settings = PPOSettings(
        cycles=60, batch_size=256, max_new_tokens=2, minibatch_size=256, learning_rate=0.1,
        final_learning_rate=0.0, beta=50.0, lam=1.0, value_epsilon=10.0, value_coefficient=0.5,
    )  # fmt: skip
    list(train_ppo(policy, [""], opinion_score, settings, value_head=head))
    learned = tree.read(policy, [""])[0]
    rewards = torch.tensor(opinion_score([""] * len(tree.responses), tree.responses))
    exact = tree.evaluate(learned, rewards, reference_logits=reference, beta=50.0).v
    values = (head.linear.weight[0] + head.linear.bias).detach()
    torch.testing.assert_close(values, exact, rtol=0, atol=0.15)
    assert float(exact.max() - exact.min()) > 1


# --- one update, worked out apart -----------------------------------------------------------------


def test_one_update_is_the_gradient_of_the_total():
    """One cycle of one epoch and one minibatch, rebuilt from the formulas in plain code."""
    settings = PPOSettings(
        cycles=1, batch_size=6, max_new_tokens=5, epochs=1, minibatch_size=6, learning_rate=1e-3,
        beta=0.3, lam=0.9, gamma=0.95, entropy_coefficient=0.02, value_coefficient=0.3,
        max_gradient_norm=0.5,
    )  # fmt: skip
    policy, twin = make_policy(), make_policy()
    prompts = [f"film {word}" for word in WORDS]
    head = ValueHead(policy)
    torch.nn.init.constant_(head.linear.weight, 0.1)
    (record,) = train_ppo(
        policy, prompts, count_good, settings, value_head=head, reference=make_policy(seed=1)
    )

    order = torch.Generator().manual_seed(0)
    drawn = torch.randperm(3, generator=order).tolist()
    rollout = twin.sample(
        [prompts[i] for i in drawn * 2], 5, generator=torch.Generator().manual_seed(0)
    )
    mask = rollout.response_mask
    twin_head = ValueHead(twin)
    torch.nn.init.constant_(twin_head.linear.weight, 0.1)
    logits, values = twin_head(rollout)
    log_probs = twin.log_probs_of(rollout)
    reference = make_policy(seed=1).log_probs_of(rollout).detach()
    scores = torch.tensor(count_good(rollout.prompts, rollout.responses)).float()
    rewards = -0.3 * (log_probs.detach() - reference) * mask
    for row in range(6):
        rewards[row, int(mask[row].sum()) - 1] += scores[row]
    old_values = values.detach() * mask
    advantages = torch.zeros_like(rewards)
    for row in range(6):
        after = 0.0
        for t in reversed(range(int(mask[row].sum()))):
            last = t == int(mask[row].sum()) - 1
            next_value = 0.0 if last else float(old_values[row, t + 1])
            delta = float(rewards[row, t]) + 0.95 * next_value - float(old_values[row, t])
            after = delta + 0.95 * 0.9 * after
            advantages[row, t] = after
    returns = advantages + old_values
    counted = advantages[mask]
    white = (advantages - counted.mean()) / (counted.var() + 1e-8).sqrt()
    surrogate = -(white * (log_probs - log_probs.detach()).exp())[mask].mean()
    squares = 0.5 * ((values - returns) ** 2)[mask].mean()
    p = logits.softmax(-1)
    spread = -(p * logits.log_softmax(-1)).sum(-1)[mask].mean()
    (surrogate + 0.3 * squares - 0.02 * spread).backward()
    parameters = [*twin.parameters(), *twin_head.parameters()]
    norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
    torch.optim.Adam(parameters, lr=1e-3, eps=1e-5).step()

    assert record.gradient_norm == pytest.approx(float(norm), rel=1e-4)
    for got, expected in zip([*policy.parameters(), *head.parameters()], parameters, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)
    assert record.reward == pytest.approx(float(scores.mean()), abs=1e-6)
    kl = ((log_probs.detach() - reference) * mask).sum(1).mean()
    assert record.kl == pytest.approx(float(kl), abs=1e-5)
    assert record.objective == pytest.approx(record.reward - 0.3 * record.kl)
    assert record.entropy == pytest.approx(spread.item(), abs=1e-5)
    assert record.policy_loss == pytest.approx(surrogate.item(), abs=1e-5)
    assert record.value_loss == pytest.approx(squares.item(), rel=1e-4)
    assert record.clip_fraction == 0.0
    assert record.response_length == pytest.approx(float(mask.sum(1).double().mean()))
    assert record.finished == pytest.approx(float(rollout.finished.double().mean()))
    left = ((returns - old_values)[mask]).var() / returns[mask].var()
    assert record.explained_variance == pytest.approx(1 - float(left), abs=1e-4)
    assert (record.step, record.total, record.updates) == (1, 1, 1)


def test_gradients_that_were_there_before_do_not_count():
    runs = []
    for left in (0.0, 1e3):
        policy = make_policy()
        for weight in policy.parameters():
            weight.grad = torch.full_like(weight, left)
        (record, *_) = train_ppo(policy, ["film"], count_good, SMALL)
        runs.append((record, weights_of(policy)))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(weight, runs[1][1][name]) for name, weight in runs[0][1].items())


def test_every_formula_is_used_in_place_of_the_default():
    """A formula that raises must be the one that is called."""
    names = (
        "token_rewards", "kl_estimate", "advantages", "whiten", "policy_loss", "value_loss",
        "entropy", "total_loss", "adapt",
    )  # fmt: skip
    for name in names:

        def refuse(*_, name=name):
            raise ArithmeticError(name)

        settings = dataclasses.replace(SMALL, kl_target=1.0)
        with pytest.raises(ArithmeticError, match=name):
            list(train_ppo(make_policy(), ["film"], count_good, settings, **{name: refuse}))


def test_a_formula_of_the_wrong_shape_is_named():
    for name in ("token_rewards", "advantages", "whiten", "policy_loss", "value_loss", "entropy"):
        policy = make_policy()
        before = weights_of(policy)
        with pytest.raises(ValueError, match=rf"{name} must give one value per token"):
            list(
                train_ppo(policy, ["film"], count_good, SMALL, **{name: lambda *_: torch.zeros(1)})
            )
        assert same_weights(policy, before)
    with pytest.raises(ValueError, match="total_loss must give one number"):
        list(
            train_ppo(make_policy(), ["film"], count_good, SMALL, total_loss=lambda p, *_: p * 1.0)
        )


def test_the_reference_and_a_body_of_its_own():
    policy = make_policy()
    critic = make_policy(seed=3)
    reference = make_policy(seed=1)
    still, moved = weights_of(reference), weights_of(critic)
    head = ValueHead(critic)
    list(train_ppo(policy, ["film"], count_good, SMALL, value_head=head, reference=reference))
    assert same_weights(reference, still)
    assert not same_weights(critic, moved)
    shared = make_policy()
    list(train_ppo(shared, ["film"], count_good, SMALL, reference=reference))
    assert not same_weights(shared, weights_of(policy))


# --- settings at work -----------------------------------------------------------------------------


def test_an_adaptive_coefficient_steers_the_kl():
    settings = dataclasses.replace(SMALL, cycles=4, kl_target=1e-6, kl_horizon=100.0)
    records = list(train_ppo(make_policy(), ["film"], count_good, settings))
    assert records[0].beta == 0.2
    for before, after in zip(records, records[1:], strict=False):
        error = min(max(before.kl / 1e-6 - 1, -0.2), 0.2)
        assert after.beta == pytest.approx(before.beta * (1 + error * 8 / 100))
    assert records[-1].beta != 0.2


def test_stop_kl_ends_a_cycle_early():
    settings = dataclasses.replace(SMALL, epochs=10, learning_rate=0.1)
    free = list(train_ppo(make_policy(), ["film"], count_good, settings))
    held = list(
        train_ppo(make_policy(), ["film"], count_good, dataclasses.replace(settings, stop_kl=1e-3))
    )
    assert [record.updates for record in free] == [20, 20, 20]
    assert all(1 <= record.updates < 20 and record.update_kl > 1e-3 for record in held)


def test_the_step_size_changes_in_a_line():
    settings = dataclasses.replace(SMALL, final_learning_rate=0.0)
    records = list(train_ppo(make_policy(), ["film"], count_good, settings))
    assert [r.learning_rate for r in records] == pytest.approx([1e-2, 5e-3, 0.0])


def test_the_same_seed_gives_the_same_numbers_and_another_does_not():
    runs = [
        list(train_ppo(make_policy(), ["film"], count_good, dataclasses.replace(SMALL, seed=seed)))
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_a_batch_takes_each_prompt_once_before_any_twice():
    asked = []

    def judge(prompts, responses):
        asked.append(list(prompts))
        return count_good(prompts, responses)

    prompts = ["good", "bad", "film", "good film", "bad film"]
    list(train_ppo(make_policy(), prompts, judge, SMALL))
    for batch in asked:
        assert len(batch) == 8 and set(batch) == set(prompts)
    asked.clear()
    list(train_ppo(make_policy(), prompts, judge, dataclasses.replace(SMALL, batch_size=4)))
    assert all(len(set(batch)) == 4 for batch in asked)
    assert len({tuple(batch) for batch in asked}) == 3


@pytest.mark.parametrize("own_body", [False, True])
def test_a_minibatch_in_parts_gives_the_same_updates(own_body):
    settings = dataclasses.replace(
        SMALL, cycles=2, batch_size=9, minibatch_size=5, entropy_coefficient=0.1, kl_target=1.0
    )
    runs = []
    for parts in (1, 3):
        policy = make_policy()
        head = ValueHead(make_policy(seed=5) if own_body else policy)
        records = list(
            train_ppo(
                policy, ["film", "good film"], count_good,
                dataclasses.replace(settings, accumulate=parts), value_head=head,
            )
        )  # fmt: skip
        runs.append((records, weights_of(policy)))
    (whole, moved), (in_parts, moved_too) = runs
    # Sums in another order; Adam turns a rounding of a small gradient into a larger step.
    for one, other in zip(whole, in_parts, strict=True):
        assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(other), abs=2e-4)
    for name, weight in moved.items():
        torch.testing.assert_close(weight, moved_too[name], rtol=0, atol=2e-4)


@pytest.mark.parametrize("minibatch_size, passes", [(8, 3), (4, 2 + 3 * 2)])
def test_an_update_of_the_whole_batch_gives_the_old_values_too(minibatch_size, passes):
    """Three epochs read a whole batch three times; minibatches are read for V_old beforehand."""
    settings = dataclasses.replace(SMALL, cycles=1, epochs=3, minibatch_size=minibatch_size)
    body, read = make_policy(seed=1), []
    body.packed = False  # nobody asks it by a pass more whether it reads packed rows
    body.model.transformer.register_forward_pre_hook(lambda *_: read.append(1))
    list(train_ppo(make_policy(), ["film"], count_good, settings, value_head=ValueHead(body)))
    assert len(read) == passes


@pytest.mark.parametrize("minibatch_size", [8, 4])
def test_bfloat16_is_for_sampling_and_forward_passes(minibatch_size, sampled_in_bfloat16):
    settings = dataclasses.replace(SMALL, cycles=1, epochs=1, minibatch_size=minibatch_size)
    runs = {}
    for bf16 in (False, True):
        policy, seen = make_policy(), []

        def loss(log_probs, old, advantages, epsilon, seen=seen):
            seen.append((log_probs.dtype, float((log_probs.detach() - old).abs().max())))
            return formulas.ppo_policy_loss(log_probs, old, advantages, epsilon)

        (record,) = train_ppo(
            policy, ["film"], count_good, dataclasses.replace(settings, bf16=bf16), policy_loss=loss
        )
        assert all(weight.dtype == torch.float32 for weight in policy.parameters())
        # The ratio starts at one: the old log-probs are those of the same precision.
        (dtype, difference) = seen[0]
        assert dtype == torch.float32 and difference < 1e-5
        runs[bf16] = record
    assert runs[True].policy_loss == pytest.approx(runs[False].policy_loss, abs=1e-2)
    assert sampled_in_bfloat16 == [False, True]
    assert runs[True].gradient_norm != runs[False].gradient_norm
    assert runs[True].kl == pytest.approx(0, abs=1e-5) == runs[False].kl


# --- interrupted and taken up ---------------------------------------------------------------------


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
@pytest.mark.parametrize("own_body", [False, True])
def test_an_interrupted_run_goes_on_with_the_same_numbers(tmp_path, stop_after, own_body):
    settings = dataclasses.replace(
        SMALL, cycles=6, save_every=2, kl_target=0.05, kl_horizon=100.0, final_learning_rate=1e-3
    )

    def start(folder=None):
        policy = make_policy()
        head = ValueHead(make_policy(seed=5) if own_body else policy)
        prompts = ["film", "good film", "bad"]
        return policy, train_ppo(
            policy, prompts, count_good, settings, value_head=head, checkpoint=folder
        )

    whole_policy, whole = start()
    whole = list(whole)
    _, first = start(tmp_path / "run")
    begun = [next(first) for _ in range(stop_after)]
    first.close()
    policy, rest = start(tmp_path / "run")
    rest = list(rest)
    assert [record.step for record in rest][0] == stop_after // 2 * 2 + 1
    assert begun == whole[:stop_after]
    assert rest == whole[stop_after // 2 * 2 :]
    assert same_weights(policy, weights_of(whole_policy))
    # A finished run has nothing left to do.
    finished_policy, nothing = start(tmp_path / "run")
    assert list(nothing) == []
    assert same_weights(finished_policy, weights_of(whole_policy))


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    settings = dataclasses.replace(SMALL, save_every=1)
    list(train_ppo(make_policy(), ["film"], count_good, settings, checkpoint=tmp_path))
    policy = make_policy()
    before = weights_of(policy)
    with pytest.raises(ValueError, match=r"settings.beta \(0.2, now 0.7\)"):
        train_ppo(
            policy, ["film"], count_good, dataclasses.replace(settings, beta=0.7),
            checkpoint=tmp_path,
        )  # fmt: skip
    with pytest.raises(ValueError, match="differs in reference"):
        train_ppo(make_policy(seed=2), ["film"], count_good, settings, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="differs in prompts"):
        train_ppo(policy, ["a film"], count_good, settings, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="differs in judge"):
        train_ppo(policy, ["film"], weights_of, settings, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="differs in formulas"):
        train_ppo(policy, ["film"], count_good, settings, whiten=formulas.masked_mean,
                  checkpoint=tmp_path)  # fmt: skip
    (tmp_path / "ppo.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="delete it to start anew"):
        train_ppo(policy, ["film"], count_good, settings, checkpoint=tmp_path)
    assert same_weights(policy, before)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    settings = dataclasses.replace(SMALL, save_every=1)
    run = train_ppo(make_policy(), ["film"], count_good, settings, checkpoint=tmp_path)
    next(run)
    old = (tmp_path / "ppo.safetensors").read_bytes()

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="no space left.*unchanged"):
        next(run)
    assert (tmp_path / "ppo.safetensors").read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["ppo.safetensors"]


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": 0.0}, {"epsilon": -0.1}, {"epsilon": math.nan}, {"beta": -0.1},
        {"gamma": 1.1}, {"gamma": -0.1}, {"lam": 1.5}, {"lam": math.nan}, {"cycles": 0},
        {"batch_size": 1}, {"batch_size": 2.5}, {"learning_rate": 0.0}, {"stop_kl": 0.0},
        {"value_epsilon": 0.0}, {"entropy_coefficient": -1.0}, {"kl_target": 0.0},
        {"kl_target": 1.0, "beta": 0.0}, {"kl_target": 1.0, "kl_horizon": 5.0},
        {"final_learning_rate": -1.0}, {"max_gradient_norm": math.inf}, {"epochs": True},
        {"accumulate": 0}, {"bf16": 1},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(wrong):
    name = next(reversed(wrong))
    with pytest.raises(ValueError, match=rf"PPOSettings: {name} must be"):
        PPOSettings(**wrong)


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (lambda p, r: np.zeros((len(r), 1)), r"one score per response, \(B,\) = \(8,\)"),
        (lambda p, r: np.arange(len(r) - 1.0), r"got \(7,\)"),
        (lambda p, r: 1.0, r"got \(\)"),
        (lambda p, r: None, "must return numbers, got NoneType"),
        (lambda p, r: ["high"] * len(r), "must return numbers, got list"),
        (lambda p, r: np.array([0.0] * 7 + [math.nan]), "finite scores, got nan for response 7"),
        (lambda p, r: np.array([math.inf] + [0.0] * 7), "finite scores, got inf for response 0"),
        (lambda p, r: np.full(len(r), 0.5), "must tell responses apart, got the score 0.5"),
    ],
)
def test_a_bad_judge_is_named_before_any_weight_changes(judge, message):
    policy = make_policy()
    before = weights_of(policy)
    with pytest.raises(ValueError, match=message):
        list(train_ppo(policy, ["film"], judge, SMALL))
    assert same_weights(policy, before)


@pytest.mark.parametrize("kind", ["list", "array", "tensor", "with gradient", "whole numbers"])
def test_a_judge_may_return_any_kind_of_numbers(kind):
    def judge(prompts, responses):
        scores = [float(len(response)) for response in responses]
        return {
            "list": scores,
            "array": np.array(scores, dtype=np.float32),
            "tensor": torch.tensor(scores),
            "with gradient": torch.tensor(scores, requires_grad=True) * 1,
            "whole numbers": np.array(scores, dtype=np.int64),
        }[kind]

    assert len(list(train_ppo(make_policy(), ["film"], judge, SMALL))) == 3


def biased(token: int, by: float) -> LanguagePolicy:
    tree = ResponseTree(WORDS, 6)
    table = torch.zeros(len(tree.prefixes), 4)
    table[:, token] += by
    return table_policy(tree, table)


def test_responses_that_are_all_empty_are_refused():
    policy = biased(3, 100.0)
    before = weights_of(policy)
    with pytest.raises(ValueError, match="must write something, got empty responses"):
        list(train_ppo(policy, [""], count_good, SMALL))
    assert same_weights(policy, before)


def test_responses_of_fixed_length_are_judged_where_they_are_cut():
    policy, seen = biased(3, -100.0), []

    def kept(scores, kl, mask, beta):
        seen.append((scores, formulas.kl_shaped_rewards(scores, kl, mask, beta), mask))
        return seen[-1][1]

    with pytest.warns(UserWarning, match="none of the 32 responses .* max_new_tokens = 5") as said:
        settings = dataclasses.replace(SMALL, cycles=30, batch_size=32)
        records = list(train_ppo(policy, [""], count_good, settings, token_rewards=kept))
    assert len(said) == 1
    assert all(r.finished == 0 and r.response_length == 5 for r in records)
    for scores, rewards, mask in seen:
        assert mask.all()
        kl_part = rewards.clone()
        kl_part[:, -1] -= scores  # what is left is −β · KL of each token; scores are from −4 to 4
        assert kl_part.abs().max() < 0.9
    assert np.mean([r.reward for r in records[-5:]]) > records[0].reward + 0.5


def test_some_empty_responses_are_learned_from():
    assert len(list(train_ppo(biased(3, 1.0), [""], count_good, SMALL))) == 3


def test_models_that_do_not_go_together_are_refused():
    policy = make_policy()
    with pytest.raises(ValueError, match="vocabulary"):
        train_ppo(policy, ["film"], count_good, reference=make_policy(("good", "bad", "play")))
    with pytest.raises(ValueError, match="vocabulary"):
        train_ppo(policy, ["film"], count_good, reference=make_policy((*WORDS, "play")))
    with pytest.raises(ValueError, match="another model than policy"):
        train_ppo(policy, ["film"], count_good, reference=policy)
    with pytest.raises(ValueError, match="frozen"):
        train_ppo(policy.copy(), ["film"], count_good)
    with pytest.raises(ValueError, match="at least one"):
        train_ppo(policy, [], count_good)
    with pytest.raises(TypeError, match="list of str"):
        train_ppo(policy, "film", count_good)
    with pytest.raises(ValueError, match="context"):
        list(train_ppo(policy, ["film"], count_good, dataclasses.replace(SMALL, max_new_tokens=99)))


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_step():
    policy = make_policy()
    calls = []

    def loss(log_probs, old, advantages, epsilon):
        calls.append(1)
        losses = formulas.ppo_policy_loss(log_probs, old, advantages, epsilon)
        return losses * (math.nan if len(calls) == 6 else 1.0)

    run = train_ppo(policy, ["film"], count_good, SMALL, policy_loss=loss)
    next(run)  # four updates
    with pytest.raises(FloatingPointError, match="got a loss of nan.* at step 2 of 3"):
        next(run)
    assert len(calls) == 6
    assert all(bool(weight.isfinite().all()) for weight in policy.parameters())


def test_the_weights_after_a_broken_update_are_those_before_it():
    policy = make_policy()
    kept = {}
    calls = []

    def total(*arguments):
        kept.clear()
        kept.update(weights_of(policy))
        calls.append(1)
        loss = formulas.ppo_total_loss(*arguments)
        return loss * math.inf if len(calls) == 3 else loss

    with pytest.raises(FloatingPointError, match="at step 1 of 3"):
        list(train_ppo(policy, ["film"], count_good, SMALL, total_loss=total))
    assert same_weights(policy, kept)
