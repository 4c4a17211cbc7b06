"""From the states of a language model to log-probabilities, in parts where its vocabulary is large.

The logits of N tokens are N · V numbers, with a vocabulary of 150,000 more than all that the body
keeps for its gradient, and a log-probability is one number of them. So a large head reads some
states at a time, and its logits are computed again for the gradient::

    states (N, H) -> part 1: head -> what the model does to logits -> log π   (n,)
                     part 2: ...

What a model does to its logits (soft caps, scales) is the model's own: its forward pass runs, with
the states in the place of what its body would give (``after_body``). Left out on purpose:
losses that read all logits of a token, such as the entropy of PPO.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

__all__: list[str] = []

# To compute logits again takes a head a third of its time more: worth it where they are large.
WHOLE = 2**28  # logits: up to 1 GiB of float32 stands in memory whole, and its gradient beside it
PART = 2**26

Head = Callable[[Tensor], Tensor]


def log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Compute log π of tokens, (N,), from their logits (N, V)."""
    # log π is minus the cross-entropy, which needs no second tensor of the logits' size.
    return -F.cross_entropy(logits, tokens, reduction="none")


def log_probs_in_parts(head: Head, states: Tensor, tokens: Tensor, size: int) -> Tensor:
    """Compute log π of tokens without all of their logits at once, with gradient.

    Args:
        head: (n, H) states -> (n, V) logits.
        states: (N, H) what each token is predicted from.
        tokens: (N,) token ids.
        size: n, how many states the head reads at a time.

    Returns:
        (N,) log-probabilities in nats, those of ``log_probs(head(states), tokens)``.
    """

    def part(some: Tensor, wanted: Tensor) -> Tensor:
        return log_probs(head(some), wanted)

    def lean(some: Tensor, wanted: Tensor) -> Tensor:
        return checkpoint(part, some, wanted, use_reentrant=False, preserve_rng_state=False)

    read = lean if torch.is_grad_enabled() else part
    parts = zip(states.split(size), tokens.split(size), strict=True)
    return torch.cat([read(*pair) for pair in parts])


def after_body(model: torch.nn.Module, states: Tensor) -> Tensor:
    """Do what a causal model does after its body, by the model itself.

    Args:
        model: of transformers, any family, with a body of its own (``base_model``).
        states: (n, H) what the body gives.

    Returns:
        (n, V) logits.
    """
    from transformers.modeling_outputs import MoeModelOutputWithPast

    body = model.base_model
    # Of the outputs of bodies it has most fields; all but the states are None.
    output = MoeModelOutputWithPast(last_hidden_state=states.unsqueeze(0))
    before = vars(body).get("forward")
    body.forward = lambda *_, **__: output
    try:
        tokens = torch.zeros((1, len(states)), dtype=torch.long, device=states.device)
        return model(input_ids=tokens, use_cache=False).logits.flatten(0, 1)
    finally:
        if before is None:
            del body.forward
        else:
            body.forward = before


@torch.no_grad()
def follows_body(model: torch.nn.Module, like: Tensor) -> bool:
    """Say whether the head reads just what the body gives, so that ``after_body`` holds.

    A model that norms or scales in between fails here, in whatever way.

    Args:
        model: as for ``after_body``, with a head.
        like: (N, H) states, for their kind.
    """
    reached: list[Tensor] = []
    # No states of a body, whose norm would change nothing if it came twice.
    states = torch.linspace(-3, 5, 2 * like.shape[1]).view(2, -1).to(like)
    layer = model.get_output_embeddings()
    hook = layer.register_forward_pre_hook(lambda _, inputs: reached.append(inputs[0]))
    try:
        after_body(model, states)
    except Exception:
        return False
    finally:
        hook.remove()
    return len(reached) == 1 and torch.equal(reached[0], states.unsqueeze(0))
