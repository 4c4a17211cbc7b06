"""The tables that learn."""

from __future__ import annotations

import numpy as np
import torch

from rlhf_lessons.models import ActionValueTable, SoftmaxPolicy, ValueTable

LEGAL = np.array([[True, True, False], [False, False, False], [True, False, False]])


def test_tables_start_at_0():
    values, q_values = ValueTable(3), ActionValueTable(LEGAL)
    assert values.values.tolist() == [0, 0, 0] and values.visits.dtype == torch.long
    assert q_values.values.shape == (3, 3) and q_values.values.dtype == torch.float64


def test_a_new_policy_is_uniform_over_legal_actions():
    policy = SoftmaxPolicy(LEGAL)
    assert policy.probabilities().tolist() == [[0.5, 0.5, 0], [0, 0, 0], [1, 0, 0]]


def test_probabilities_are_a_softmax_over_legal_actions():
    policy = SoftmaxPolicy(LEGAL)
    policy.logits[0] = torch.tensor([800.0, 798.0, 5000.0])
    got = policy.log_probabilities()
    expected = torch.tensor([800.0, 798.0], dtype=torch.float64).log_softmax(dim=0)
    torch.testing.assert_close(got[0, :2], expected)
    assert got[0, 2] == -torch.inf and (got[1] == -torch.inf).all()


def test_a_table_does_not_share_the_legal_moves_it_was_given():
    legal = torch.tensor(LEGAL)
    policy, table = SoftmaxPolicy(legal), ActionValueTable(legal)
    legal[0, 0] = False
    assert policy.legal[0, 0] and table.legal[0, 0]
