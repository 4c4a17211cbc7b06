"""Every response there is, as a tree: exact Q, V, A, Z, π*, KL and J by summation (lessons 4 to 6).

::

    ""  --very-->  "very"  --good-->  "very good"  --<end>-->  response "very good"
        --good-->  "good"  --<end>-->  response "good"
        --<end>->  response ""

A node of the tree is a *prefix*, an edge an *action* (a word or the end token), a leaf a
*response*. A response ends at its end token or when it has the most tokens allowed. A policy is a
table of logits (N prefixes, A actions), or one such table per prompt.

``table_policy`` puts such a table behind the interface of a language model, so that the very loops
that train transformers (PPO, DPO) run here, beside the exact answer.

Left out on purpose: sampling (``LanguagePolicy.sample`` does it) and pruning: the tree is complete,
and with W words and L tokens it has about W^L leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from rlhf_lessons.formulas.optimum import exact_objective, optimal_policy
from rlhf_lessons.formulas.shapes import check_unit_interval
from rlhf_lessons.models.language_policy import LanguagePolicy
from rlhf_lessons.models.tokenizer import word_tokenizer

__all__ = ["ResponseTree", "TreeValues", "table_policy"]


@dataclass(frozen=True)
class TreeValues:
    """What each prefix and each action is worth under a policy, exactly.

    Attributes:
        q: (..., N, A) expected return of taking an action at a prefix and following the policy.
        v: (..., N) expected return from a prefix on, Σ_a π(a | s) · Q(s, a).
        advantage: (..., N, A) Q − V; its mean under the policy is 0 at each prefix.
    """

    q: Tensor
    v: Tensor
    advantage: Tensor


class ResponseTree:
    """All responses of at most L tokens over a few words, and sums over them.

    Tensors of policies have shape (..., N, A), those over responses (..., Y); the leading
    dimensions are for prompts or policies side by side. Results keep the dtype; float64 is advised.

    Args:
        words: the W words; the end token is added as the last action.
        longest: the most tokens L a response may have, its end token included.

    Attributes:
        words: the words.
        longest: L.
        actions: the A = W + 1 actions, the end token's name last.
        prefixes: the N prefixes as text, the empty one first, shorter ones before longer ones.
        responses: the Y responses as text. No two are equal.
        depth: (N,) number of words in each prefix.
        child: (N, A) the prefix that an action leads to, −1 where the response ends.
        leaf: (N, A) the response that an action completes, −1 where it goes on.
        path_prefixes: (Y, L) the prefixes at which the tokens of each response are chosen.
        path_actions: (Y, L) the actions chosen there.
        path_mask: (Y, L) boolean, True = a token of the response, its end token included.

    Raises:
        ValueError: if there are no words, one comes twice, or ``longest`` is below 1.
    """

    def __init__(self, words: Sequence[str], longest: int) -> None:
        self.words = tuple(words)
        self.longest = longest
        if not self.words or len(set(self.words)) < len(self.words):
            raise ValueError(f"ResponseTree: words must be different words, got {self.words}")
        if longest < 1:
            raise ValueError(f"ResponseTree: longest must be 1 or more, got {longest}")
        self.actions = (*self.words, "<end>")
        end = len(self.words)

        # Level by level; each entry: the way to the prefix as (prefix, action) pairs.
        paths: list[tuple[tuple[int, int], ...]] = [()]
        self._levels = [slice(0, 1)]
        child, leaf, leaf_paths = [], [], []
        for level in range(longest):
            first, after = self._levels[-1].start, self._levels[-1].stop
            for node in range(first, after):
                child.append([-1] * (end + 1))
                leaf.append([-1] * (end + 1))
                for action in range(end + 1):
                    path = (*paths[node], (node, action))
                    if action == end or level == longest - 1:
                        leaf[node][action] = len(leaf_paths)
                        leaf_paths.append(path)
                    else:
                        child[node][action] = len(paths)
                        paths.append(path)
            self._levels.append(slice(after, len(paths)))
        del self._levels[-1]  # beyond the last level nothing is left

        def text(path: tuple[tuple[int, int], ...]) -> str:
            return " ".join(self.words[action] for _, action in path if action != end)

        self.prefixes = tuple(map(text, paths))
        self.responses = tuple(map(text, leaf_paths))
        self.depth = torch.tensor([len(path) for path in paths])
        self.child = torch.tensor(child)
        self.leaf = torch.tensor(leaf)
        padded = torch.tensor(
            [list(path) + [(0, 0)] * (longest - len(path)) for path in leaf_paths]
        )
        self.path_prefixes, self.path_actions = padded.unbind(-1)
        lengths = torch.tensor([len(path) for path in leaf_paths])
        self.path_mask = torch.arange(longest) < lengths.unsqueeze(1)

    def __repr__(self) -> str:
        return (
            f"ResponseTree({len(self.words)} words, {self.longest} tokens: "
            f"{len(self.prefixes):,} prefixes, {len(self.responses):,} responses)"
        )

    # -- Policies as tables ------------------------------------------------------------------------

    def response_log_probs(self, logits: Tensor) -> Tensor:
        """Give log π(y) of every response: the sum along its path, with gradient.

        Args:
            logits: (..., N, A) the policy.

        Returns:
            (..., Y) log-probabilities in nats; their exponentials add up to 1.

        Raises:
            ValueError: if the shape does not fit the tree.
        """
        self._check("response_log_probs", logits)
        chosen = logits.log_softmax(-1)[..., self.path_prefixes, self.path_actions]
        return chosen.masked_fill(~self.path_mask, 0).sum(-1)

    def conditionals(self, response_log_probs: Tensor) -> Tensor:
        """Turn a distribution over responses into a policy over next tokens: log π(a | s).

        π(a | s) = Σ of π(y) over the responses that begin with s and a / the same with s alone. It
        undoes ``response_log_probs``: so π* of ``formulas.optimal_policy`` becomes a policy.

        Args:
            response_log_probs: (..., Y) log-probabilities of every response.

        Returns:
            (..., N, A) log-probabilities, which are logits too.

        Raises:
            ValueError: if the shape does not fit the tree.
        """
        self._check_responses("conditionals", response_log_probs)
        shape = (*response_log_probs.shape[:-1], *self.leaf.shape)
        total = response_log_probs.new_full(shape, -torch.inf)
        ends = self.leaf >= 0
        total[..., ends] = response_log_probs[..., self.leaf[ends]]
        for level in reversed(self._levels[:-1]):
            goes_on = self.child[level] >= 0
            below = total[..., self.child[level][goes_on], :].logsumexp(-1)
            part = total[..., level, :].clone()
            part[..., goes_on] = below
            total[..., level, :] = part
        return total.log_softmax(-1)

    def reach(self, logits: Tensor) -> Tensor:
        """Give the probability that a response passes through each prefix.

        Args:
            logits: (..., N, A) the policy.

        Returns:
            (..., N) probabilities; 1 for the empty prefix.

        Raises:
            ValueError: if the shape does not fit the tree.
        """
        self._check("reach", logits)
        p = logits.softmax(-1)
        reached = [torch.ones_like(p[..., :1, 0])]
        for level in self._levels[:-1]:
            goes_on = self.child[level] >= 0
            # Children are numbered in the order of (prefix, action), so this is their order.
            reached.append((reached[-1].unsqueeze(-1) * p[..., level, :])[..., goes_on])
        return torch.cat(reached, dim=-1)

    def evaluate(
        self,
        logits: Tensor,
        rewards: Tensor,
        *,
        reference_logits: Tensor | None = None,
        beta: float = 0.0,
        gamma: float = 1.0,
    ) -> TreeValues:
        """Compute Q, V and A of a policy by one sweep from the leaves to the root.

        Q(s, a) = −β · log(π(a | s)/π_ref(a | s)) + r(y) where a completes y, else + γ · V(s, a)

        With a β the values are those of the KL-shaped rewards, and V of the empty prefix is J.

        Args:
            logits: (..., N, A) the policy.
            rewards: (..., Y) or (Y,) reward of every response.
            reference_logits: (..., N, A) the reference; needed where ``beta`` is above 0.
            beta: KL strength β, 0 or more, in reward per nat.
            gamma: discount γ in [0, 1] per token.

        Returns:
            Q, V and A.

        Raises:
            ValueError: if a shape does not fit the tree, β is negative or without a reference, or
                γ lies outside [0, 1].
        """
        self._check("evaluate", logits)
        self._check_responses("evaluate", rewards)
        check_unit_interval("evaluate", gamma=gamma)
        if not beta >= 0:
            raise ValueError(f"evaluate: beta must be 0 or more, got {beta}")
        log_p = logits.log_softmax(-1)
        p = log_p.exp()
        rewards = rewards.expand(*logits.shape[:-2], -1)
        q = torch.zeros_like(p)
        ends = self.leaf >= 0
        q[..., ends] = rewards[..., self.leaf[ends]].to(q.dtype)
        if beta > 0:
            if reference_logits is None:
                raise ValueError(f"evaluate: beta = {beta} needs reference_logits, got None")
            self._check("evaluate", reference_logits)
            log_ratio = log_p - reference_logits.log_softmax(-1)
            q = q - beta * log_ratio.masked_fill(p == 0, 0)
        v = torch.zeros_like(p[..., 0])
        for level in reversed(self._levels):
            goes_on = self.child[level] >= 0
            part = q[..., level, :].clone()
            part[..., goes_on] = part[..., goes_on] + gamma * v[..., self.child[level][goes_on]]
            q[..., level, :] = part
            v[..., level] = (p[..., level, :] * part).sum(-1)
        return TreeValues(q, v, q - v.unsqueeze(-1))

    # -- What is best, and how far from it ---------------------------------------------------------

    def objective(
        self, logits: Tensor, reference_logits: Tensor, rewards: Tensor, beta: float
    ) -> Tensor:
        """Sum J(π) = E_π[r] − β · KL(π ‖ π_ref) over all responses, with gradient.

        Args:
            logits: (..., N, A) the policy.
            reference_logits: (..., N, A) or (N, A) the reference.
            rewards: (..., Y) or (Y,) reward of every response.
            beta: KL strength β, 0 or more.

        Returns:
            (...) J in the unit of the rewards.

        Raises:
            ValueError: if a shape does not fit the tree or β is negative.
        """
        log_p = self.response_log_probs(logits)
        reference = self.response_log_probs(reference_logits).expand_as(log_p)
        self._check_responses("objective", rewards)
        return exact_objective(log_p, reference, rewards.to(log_p.dtype).expand_as(log_p), beta)

    def kl(self, logits: Tensor, reference_logits: Tensor) -> Tensor:
        """Sum KL(π ‖ π_ref) over all responses, with gradient.

        Args:
            logits: (..., N, A) the policy.
            reference_logits: (..., N, A) or (N, A) the reference.

        Returns:
            (...) divergences in nats.

        Raises:
            ValueError: if a shape does not fit the tree.
        """
        log_p = self.response_log_probs(logits)
        reference = self.response_log_probs(reference_logits)
        p = log_p.exp()
        return (p * (log_p - reference).masked_fill(p == 0, 0)).sum(-1)

    def optimum(self, reference_logits: Tensor, rewards: Tensor, beta: float) -> Tensor:
        """Give the logits of π*, the policy with the highest J.

        Args:
            reference_logits: (..., N, A) the reference.
            rewards: (..., Y) or (Y,) reward of every response.
            beta: KL strength β above 0.

        Returns:
            (..., N, A) log-probabilities log π*(a | s).

        Raises:
            ValueError: if a shape does not fit the tree or β is not above 0.
        """
        reference = self.response_log_probs(reference_logits)
        self._check_responses("optimum", rewards)
        rewards = rewards.to(reference.dtype).expand_as(reference)
        return self.conditionals(optimal_policy(reference, rewards, beta))

    def total_variation(self, logits: Tensor, other_logits: Tensor) -> Tensor:
        """Measure how different two policies are: TV = ½ · Σ_y |π(y) − π'(y)|, in [0, 1].

        Args:
            logits: (..., N, A) a policy.
            other_logits: (..., N, A) another one.

        Returns:
            (...) the largest difference in probability that any set of responses has.

        Raises:
            ValueError: if a shape does not fit the tree.
        """
        p, q = (self.response_log_probs(table).exp() for table in (logits, other_logits))
        return 0.5 * (p - q).abs().sum(-1)

    @torch.no_grad()
    def read(self, policy: LanguagePolicy, prompts: Sequence[str]) -> Tensor:
        """Read the table of any language model that knows the words of this tree.

        Args:
            policy: the policy, for instance one made by ``table_policy``.
            prompts: P prompts.

        Returns:
            (P, N, A) log π(a | prompt, prefix), float64.

        Raises:
            ValueError: if the policy's tokenizer lacks a word, or the policy gives tokens that are
                no action of the tree a probability above 1e-6 in total.
        """
        ids = [policy.tokenizer.convert_tokens_to_ids(word) for word in self.words]
        unknown = [
            word
            for word, token in zip(self.words, ids, strict=True)
            if token is None or token == policy.tokenizer.unk_token_id
        ]
        if unknown:
            raise ValueError(f"read: policy must know each word of the tree, got none of {unknown}")
        columns = torch.tensor([*ids, policy.end_token_id])
        tables = []
        for prompt in prompts:
            batch = policy.encode([prompt] * len(self.prefixes), list(self.prefixes))
            logits = policy.logits_of(batch)[torch.arange(len(self.prefixes)), self.depth]
            log_p = logits.double().log_softmax(-1)[:, columns]
            lost = 1 - log_p.exp().sum(-1)
            if bool((lost > 1e-6).any()):
                raise ValueError(
                    f"read: policy must choose among the actions of the tree alone, got a "
                    f"probability of {float(lost.max()):.2g} for other tokens"
                )
            tables.append(log_p)
        return torch.stack(tables)

    def _check(self, function: str, logits: Tensor) -> None:
        if tuple(logits.shape[-2:]) != tuple(self.child.shape):
            raise ValueError(
                f"{function}: logits must have shape (..., N, A) = (..., {len(self.prefixes)}, "
                f"{len(self.actions)}), got {tuple(logits.shape)}"
            )

    def _check_responses(self, function: str, values: Tensor) -> None:
        if values.shape[-1:] != (len(self.responses),):
            raise ValueError(
                f"{function}: one number per response is needed, (..., Y) = (..., "
                f"{len(self.responses)}), got {tuple(values.shape)}"
            )


def table_policy(
    tree: ResponseTree, logits: Tensor, prompts: Sequence[str] = ("",)
) -> LanguagePolicy:
    """Put a table of logits behind the interface of a language model.

    The body turns each text into a one-hot vector of its prefix, the head is a linear map without
    bias: its weights *are* the table. So a value head on this body is a table of values too, and
    every loop of the course trains it as it trains a transformer.

    Args:
        tree: the responses that there are.
        logits: (N, A) one table for all prompts, or (P, N, A) one for each; copied, dtype kept.
        prompts: the P prompts, equally long in words; no other prompt can be asked.

    Returns:
        a policy whose weights are trained; sample with ``max_new_tokens=tree.longest``.

    Raises:
        ValueError: if the shape does not fit, or prompts are not different and equally long.
    """
    prompts = tuple(prompts)
    if len(set(prompts)) < len(prompts) or len({len(p.split()) for p in prompts}) != 1:
        raise ValueError(
            f"table_policy: prompts must be different and equally long in words, got {prompts}"
        )
    logits = logits.expand(len(prompts), -1, -1) if logits.ndim == 2 else logits
    if tuple(logits.shape) != (len(prompts), *tree.child.shape):
        raise ValueError(
            f"table_policy: logits must have shape (P, N, A) = "
            f"{(len(prompts), *tree.child.shape)}, got {tuple(logits.shape)}"
        )
    context = dict.fromkeys(word for prompt in prompts for word in prompt.split())
    tokenizer = word_tokenizer([*tree.words, *(w for w in context if w not in tree.words)])
    return LanguagePolicy(_TableModel(tree, logits, prompts, tokenizer), tokenizer)


class _TableModel(torch.nn.Module):
    """A causal language model whose body is "which prefix is this?", one-hot."""

    def __init__(self, tree: ResponseTree, logits: Tensor, prompts, tokenizer) -> None:
        super().__init__()
        count, prefixes, _ = logits.shape
        prompt_ids = torch.tensor([tokenizer(prompt)["input_ids"] for prompt in prompts])
        columns = torch.tensor(
            [*tokenizer.convert_tokens_to_ids(list(tree.words)), tokenizer.eos_token_id]
        )
        self.config = SimpleNamespace(
            hidden_size=count * prefixes,
            eos_token_id=tokenizer.eos_token_id,
            max_position_embeddings=prompt_ids.shape[1] + tree.longest,
        )
        action_of = torch.full((len(tokenizer),), -1)
        action_of[columns] = torch.arange(len(columns))
        forbidden = torch.full((len(tokenizer),), -torch.inf, dtype=logits.dtype)
        forbidden[columns] = 0
        self.register_buffer("prompt_ids", prompt_ids, persistent=False)
        self.register_buffer("action_of", action_of, persistent=False)
        self.register_buffer("child", tree.child, persistent=False)
        self.register_buffer("forbidden", forbidden, persistent=False)
        self.lm_head = torch.nn.Linear(
            count * prefixes, len(tokenizer), bias=False, dtype=logits.dtype
        )
        with torch.no_grad():
            self.lm_head.weight.zero_()
            self.lm_head.weight[columns] = logits.flatten(0, 1).T.to(logits.dtype)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.lm_head

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.lm_head

    def _states(self, tokens: Tensor) -> Tensor:
        """Name the state (prompt, prefix) at each token from the end of the prompt on."""
        width = self.prompt_ids.shape[1]
        same = (tokens[:, None, :width] == self.prompt_ids).all(-1)
        if not bool(same.any(1).all()):
            row = int((~same.any(1)).nonzero()[0])
            raise ValueError(
                f"table_policy: prompts must be those that the table was made for, got another "
                f"one in row {row}"
            )
        first = same.long().argmax(1) * len(self.child)
        prefix = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
        states = [first]
        for token in tokens[:, width:].unbind(1):
            # Behind the end of a response there is padding: any prefix will do there.
            prefix = self.child[prefix, self.action_of[token].clamp(min=0)].clamp(min=0)
            states.append(first + prefix)
        return torch.stack(states, dim=1)

    def forward(
        self, input_ids: Tensor, attention_mask=None, logits_to_keep: int = 0, use_cache=False
    ) -> SimpleNamespace:
        del attention_mask, use_cache  # prompts are equally long, and nothing is worth caching
        states = self._states(input_ids)
        before = input_ids.shape[1] - states.shape[1]
        states = torch.nn.functional.pad(states, (before, 0))[:, -logits_to_keep or None :]
        hidden = torch.nn.functional.one_hot(states, self.lm_head.in_features)
        logits = self.lm_head(hidden.to(self.lm_head.weight.dtype)) + self.forbidden
        return SimpleNamespace(logits=logits, past_key_values=None)
