"""The mathematics alone, in a loop of your own: pure functions of PyTorch tensors.

    python examples/formulas_only.py

Nothing here has a model, a tokenizer or a trainer. ``rlhf_lessons.formulas`` needs torch alone, so
a loss drops into whatever you train with; each docstring has equation, shapes and source.
"""

from __future__ import annotations

import torch

from rlhf_lessons import formulas


def main() -> None:
    """Compute one DPO loss, one set of PPO's losses, and a KL, on numbers small enough to read."""
    # DPO on three pairs, from the summed log-probabilities that your model gave.
    chosen = torch.tensor([-12.0, -8.5, -20.0], requires_grad=True)
    rejected = torch.tensor([-11.0, -9.0, -21.0], requires_grad=True)
    reference_chosen = torch.tensor([-12.5, -8.5, -19.0])
    reference_rejected = torch.tensor([-11.0, -8.0, -21.0])
    loss = formulas.dpo_loss(
        chosen, rejected, reference_chosen, reference_rejected, beta=0.1
    ).mean()
    loss.backward()
    print(f"DPO loss {loss.item():.4f}, gradient on chosen {chosen.grad.tolist()}")

    # PPO on two responses of up to four tokens; the mask says which tokens count.
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    log_probs = torch.log(torch.tensor([[0.3, 0.5, 0.2, 0.9], [0.6, 0.1, 1.0, 1.0]]))
    reference = torch.log(torch.tensor([[0.2, 0.5, 0.3, 0.9], [0.5, 0.2, 1.0, 1.0]]))
    values = torch.tensor([[0.1, 0.2, 0.2, 0.3], [0.0, 0.1, 0.0, 0.0]])
    scores = torch.tensor([1.0, -0.5])
    kl = formulas.kl_k1(log_probs - reference)
    rewards = formulas.kl_shaped_rewards(scores, kl, mask, beta=0.1)
    advantages = formulas.gae(rewards, values, mask, gamma=1.0, lam=0.95)
    returns = advantages + values
    # What your model says after an update: the third token has left the clip range.
    new_log_probs = log_probs + torch.tensor([0.1, -0.1, 0.5, 0.0])
    policy_loss = formulas.ppo_policy_loss(
        new_log_probs, log_probs, formulas.whiten(advantages, mask), epsilon=0.2
    )
    value_loss = formulas.value_loss(values, returns)
    print(f"policy loss {formulas.masked_mean(policy_loss, mask).item():.4f}")
    print(f"value loss {formulas.masked_mean(value_loss, mask).item():.4f}")

    # The exact KL of two next-token distributions, and what best-of-16 may cost at most.
    p, q = torch.tensor([2.0, 0.0, -1.0]), torch.tensor([1.0, 1.0, 0.0])
    print(f"KL(p‖q) {formulas.categorical_kl(p, q).item():.4f} nats")
    print(f"KL of best-of-16 ≤ {formulas.best_of_n_kl(16):.4f} nats")


if __name__ == "__main__":
    main()
