"""Expert iteration beside the exact answer, the same written out, and all that can go wrong."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch

from rlhf_lessons.models import (
    LanguagePolicy,
    ResponseTree,
    small_gpt2,
    table_policy,
    word_tokenizer,
)
from rlhf_lessons.training import (
    ExpertIterationSettings,
    SupervisedSettings,
    train_expert_iteration,
    train_sft,
)
from rlhf_lessons.worlds import OPINION_WORDS, opinion_habits

PROMPTS = ["film", "good film", "bad"]
TUNING = SupervisedSettings(steps=3, batch_size=8, learning_rate=1e-2, warmup=0.0)
SMALL = ExpertIterationSettings(
    rounds=3, group_size=4, batch_size=24, max_new_tokens=5, fine_tuning=TUNING
)


def make_policy(seed=0) -> LanguagePolicy:
    tokenizer = word_tokenizer(("good", "bad", "film"))
    model = small_gpt2(len(tokenizer), 16, 1, 2, 16, seed=seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2.0)
    return LanguagePolicy(model, tokenizer)


def says_good(prompts, responses):
    return [float("good" in response.split()) for response in responses]


def weights_of(policy):
    return {name: w.detach().clone() for name, w in policy.model.state_dict().items()}


def same_weights(policy, before):
    return all(torch.equal(w, before[name]) for name, w in policy.model.state_dict().items())


def change(**fields):
    return dataclasses.replace(SMALL, **fields)


def test_one_round_finds_the_policy_given_that_it_is_accepted():
    """Fine-tuned to the end, π becomes π(y | y accepted): every odds among those is kept."""
    tree = ResponseTree(OPINION_WORDS, 2)
    habits = torch.tensor(opinion_habits(tree.prefixes)).log()
    policy = table_policy(tree, habits, ["the film was"])
    wanted = ("good", "great", "dull")
    settings = ExpertIterationSettings(
        rounds=1, group_size=8_192, batch_size=8_192, max_new_tokens=2,
        fine_tuning=SupervisedSettings(
            steps=120, batch_size=4_096, learning_rate=0.3, weight_decay=0.0
        ),
    )  # fmt: skip
    judge = lambda prompts, responses: [float(r in wanted) for r in responses]  # noqa: E731
    (record,) = train_expert_iteration(policy, ["the film was"], judge, settings)
    exact = tree.response_log_probs(habits).exp()
    accepted = torch.tensor([response in wanted for response in tree.responses])
    chance = float(exact[accepted].sum())
    assert record.reward == pytest.approx(chance, abs=4 * math.sqrt(0.25 / 8_192))
    assert record.kept == pytest.approx(8_192 * chance, abs=4 * math.sqrt(0.25 * 8_192))
    target = torch.where(accepted, exact, 0.0) / chance
    learned = tree.response_log_probs(tree.read(policy, ["the film was"])[0]).exp()
    # 3,000 draws of 3 kinds are within 0.02 of their shares, and the last steps leave 0.02.
    assert float((learned - target).abs().sum()) / 2 < 0.05
    assert float((exact - target).abs().sum()) / 2 > 0.5


def test_a_round_is_fine_tuning_on_what_was_kept():
    """Two rounds written out: sample, leave out what is wrong or cut, fine-tune."""
    policy, twin = make_policy(), make_policy()
    records = list(train_expert_iteration(policy, PROMPTS, says_good, change(rounds=2)))
    order, sampling = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    left_out = {"wrong": 0, "cut": 0}
    for at, record in enumerate(records):
        turn = torch.randperm(3, generator=order).tolist()
        asked = [PROMPTS[turn[i % 3]] for i in range(6) for _ in range(4)]
        rollout = twin.sample(asked, 5, generator=sampling)
        kept = []
        for row, response in enumerate(rollout.responses):
            right, ended = "good" in response.split(), bool(rollout.finished[row])
            left_out["wrong"] += not right
            left_out["cut"] += right and not ended
            if right and ended:
                kept.append((asked[row], response))
        marks = torch.tensor(says_good(asked, rollout.responses))
        assert record.kept == len(kept)
        assert record.reward == pytest.approx(float(marks.mean()))
        assert record.solved == pytest.approx(float(marks.view(6, 4).amax(1).mean()))
        assert record.finished == pytest.approx(float(rollout.finished.double().mean()))
        lengths = rollout.response_mask.sum(1).double()
        assert record.response_length == pytest.approx(float(lengths.mean()))
        steps = list(train_sft(twin, kept, dataclasses.replace(TUNING, seed=at)))
        assert record.loss == steps[-1].loss
    assert left_out["wrong"] > 3 and left_out["cut"] > 0
    assert same_weights(policy, weights_of(twin))
    assert [(r.step, r.total) for r in records] == [(1, 2), (2, 2)]


def test_it_learns_to_be_accepted():
    settings = change(rounds=6, batch_size=96)
    records = list(train_expert_iteration(make_policy(), PROMPTS, says_good, settings))
    assert records[0].reward < 0.5 and records[-1].reward > 0.75
    assert records[-1].kept > records[0].kept


def test_the_least_score_decides():
    def length(prompts, responses):
        return [len(response.split()) for response in responses]

    settings = change(rounds=1, least_score=3.0, batch_size=96)
    (record,) = train_expert_iteration(make_policy(), PROMPTS, length, settings)
    loose = change(rounds=1, least_score=-1.0, batch_size=96)
    (all_kept,) = train_expert_iteration(make_policy(), PROMPTS, length, loose)
    assert 0 < record.kept < all_kept.kept == round(96 * all_kept.finished)
    assert record.reward == all_kept.reward  # the mean score, not the share accepted


def test_adapters_learn_beside_a_frozen_base():
    pytest.importorskip("peft")
    base = make_policy()
    still = weights_of(base)
    policy = base.with_adapter(2)
    before = weights_of(policy)
    list(train_expert_iteration(policy, PROMPTS, says_good, SMALL))
    assert not same_weights(policy, before)
    moved = weights_of(policy.base())
    assert all(torch.equal(weight, moved[name]) for name, weight in still.items() if name in moved)


# --- interrupted and taken up ---------------------------------------------------------------------


@pytest.mark.parametrize("stop_after", [1, 3])
def test_an_interrupted_run_goes_on_with_the_same_numbers(tmp_path, stop_after):
    settings = change(rounds=4, save_every=2)

    def start(folder=None):
        policy = make_policy()
        return policy, train_expert_iteration(
            policy, PROMPTS, says_good, settings, checkpoint=folder
        )

    whole_policy, whole = start()
    whole = list(whole)
    _, first = start(tmp_path / "run")
    begun = [next(first) for _ in range(stop_after)]
    first.close()
    policy, rest = start(tmp_path / "run")
    assert begun == whole[:stop_after]
    assert list(rest) == whole[stop_after // 2 * 2 :]
    assert same_weights(policy, weights_of(whole_policy))


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    list(train_expert_iteration(make_policy(), ["film"], says_good, SMALL, checkpoint=tmp_path))
    same = functools.partial(train_expert_iteration, make_policy(), checkpoint=tmp_path)
    tuning = dataclasses.replace(TUNING, steps=4)
    with pytest.raises(ValueError, match="differs in settings.fine_tuning"):
        same(["film"], says_good, change(fine_tuning=tuning))
    with pytest.raises(ValueError, match="differs in prompts"):
        same(["a film"], says_good, SMALL)
    with pytest.raises(ValueError, match="differs in judge"):
        same(["film"], len, SMALL)
    with pytest.raises(ValueError, match="differs in policy"):
        train_expert_iteration(make_policy(seed=1), ["film"], says_good, SMALL, checkpoint=tmp_path)


def test_a_judge_that_raises_loses_nothing(tmp_path):
    calls = []

    def judge(prompts, responses):
        calls.append(1)
        if len(calls) == 3:
            raise TimeoutError("the checker hung")
        return says_good(prompts, responses)

    policy = make_policy()
    run = train_expert_iteration(policy, ["film"], judge, SMALL, checkpoint=tmp_path)
    begun = [next(run), next(run)]
    before = weights_of(policy)
    with pytest.raises(TimeoutError, match="the checker hung"):
        next(run)
    assert same_weights(policy, before)
    rest = list(train_expert_iteration(make_policy(), ["film"], judge, SMALL, checkpoint=tmp_path))
    assert begun + rest == list(train_expert_iteration(make_policy(), ["film"], says_good, SMALL))


def test_a_later_round_without_anything_right_changes_nothing():
    rounds = []

    def judge(prompts, responses):
        rounds.append(1)
        return [0.0] * len(responses) if len(rounds) == 2 else says_good(prompts, responses)

    policy, before = make_policy(), []
    records = []
    for record in train_expert_iteration(policy, PROMPTS, judge, SMALL):
        records.append(record)
        before.append(weights_of(policy))
    assert (records[1].kept, records[1].loss, records[1].solved) == (0, None, 0.0)
    assert same_weights_of(before[0], before[1]) and not same_weights_of(before[1], before[2])


def same_weights_of(one, other):
    return all(torch.equal(weight, other[name]) for name, weight in one.items())


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds": 0}, {"group_size": 0}, {"batch_size": 60}, {"max_new_tokens": 0},
        {"least_score": math.nan}, {"least_score": "1"}, {"fine_tuning": None},
        {"fine_tuning": {"steps": 3}}, {"save_every": 0}, {"seed": -1},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=rf"ExpertIterationSettings: {next(iter(wrong))} must be"):
        ExpertIterationSettings(**wrong)


def test_a_group_of_one_is_allowed():
    """Nothing is compared within a group, so one response to a prompt will do."""
    settings = change(rounds=1, group_size=1)
    (record,) = train_expert_iteration(make_policy(), PROMPTS, says_good, settings)
    assert record.solved == record.reward and record.kept > 0


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (lambda p, r: np.zeros((len(r), 1)), r"one score per response, \(B,\) = \(24,\)"),
        (lambda p, r: 1.0, r"got \(\)"),
        (lambda p, r: None, "must return numbers, got NoneType"),
        (lambda p, r: ["right"] * len(r), "must return numbers, got list"),
        (lambda p, r: [0.0] * 23 + [math.nan], "finite scores, got nan for response 23"),
        (lambda p, r: [math.inf] + [0.0] * 23, "finite scores, got inf for response 0"),
        (
            lambda p, r: [0.25] * 24,
            "with a score of 1 or .* highest score is 0.2",
        ),
    ],
)
def test_a_bad_judge_is_named_before_any_weight_changes(judge, message):
    policy = make_policy()
    before = weights_of(policy)
    with pytest.raises(ValueError, match=f"train_expert_iteration: .*{message}"):
        list(train_expert_iteration(policy, ["film"], judge, SMALL))
    assert same_weights(policy, before)


def test_what_was_cut_is_never_kept():
    """One token at most: all that is not empty is cut, however right it is."""
    policy = make_policy()
    settings = change(max_new_tokens=1)
    with pytest.raises(ValueError, match="no finished response"):
        next(train_expert_iteration(policy, PROMPTS, says_good, settings))


def test_a_policy_that_says_nothing_is_refused():
    policy = make_policy()
    ends = policy.sample
    empty = dataclasses.replace
    policy.sample = lambda prompts, *rest, **kw: empty(
        ends(prompts, *rest, **kw), responses=("",) * len(prompts)
    )
    with pytest.raises(ValueError, match="train_expert_iteration: policy must write something"):
        next(train_expert_iteration(policy, PROMPTS, lambda p, r: [1.0] * len(r), SMALL))


def test_an_empty_response_among_others_is_one_like_any():
    policy = make_policy()
    judge = lambda prompts, responses: [float(not r) for r in responses]  # noqa: E731
    records = list(train_expert_iteration(policy, PROMPTS, judge, change(rounds=6, batch_size=96)))
    assert records[-1].reward > records[0].reward


def test_what_can_not_be_trained_is_refused():
    with pytest.raises(ValueError, match="train_expert_iteration: policy must have weights"):
        train_expert_iteration(make_policy().copy(), ["film"], says_good)
    with pytest.raises(ValueError, match="train_expert_iteration: prompts must hold at least one"):
        train_expert_iteration(make_policy(), [], says_good)
    with pytest.raises(TypeError, match="train_expert_iteration: prompts must be a list of str"):
        train_expert_iteration(make_policy(), "film", says_good)
