"""The pieces of PPO that TRL 1.12 lets one call, on random batches. Skipped without that TRL.

These are whitening, masked means, log-probs and entropy. Its GAE, clipped losses and KL stand
inside ``PPOTrainer.train`` and cannot be called alone; ours are checked by hand arithmetic,
enumeration and finite differences in tests/formulas, and as a whole update in test_ppo.py.
"""

from __future__ import annotations

import pytest
import torch
from oracles import draw, right_padded_mask

from rlhf_lessons import formulas

ppo = pytest.importorskip("trl.experimental.ppo.ppo_trainer")
trl_utils = pytest.importorskip("trl.trainer.utils")


@pytest.mark.parametrize("seed", range(5))
def test_whitening_and_masked_means(seed):
    x, mask = draw(4, 7, seed=seed, scale=3.0), right_padded_mask([7, 5, 2, 1], 7)
    torch.testing.assert_close(formulas.masked_mean(x, mask), ppo.masked_mean(x, mask))
    torch.testing.assert_close(formulas.masked_variance(x, mask), ppo.masked_var(x, mask))
    theirs = ppo.masked_whiten(x, mask) * mask
    torch.testing.assert_close(formulas.whiten(x, mask), theirs)
    theirs = ppo.masked_whiten(x, mask, shift_mean=False) * mask
    torch.testing.assert_close(formulas.whiten(x, mask, shift_mean=False), theirs)


@pytest.mark.parametrize("seed", range(5))
def test_log_probs_and_entropy(seed):
    logits = draw(3, 6, 9, seed=seed, scale=2.0)
    tokens = torch.randint(9, (3, 6), generator=torch.Generator().manual_seed(seed))
    theirs = trl_utils.selective_log_softmax(logits[:, :-1], tokens[:, 1:])
    torch.testing.assert_close(formulas.token_log_probs(logits, tokens), theirs)
    torch.testing.assert_close(formulas.entropy(logits), trl_utils.entropy_from_logits(logits))
