# %% [markdown]
# # Lesson 1 · Reinforcement learning with tic-tac-toe
#
# A language model that learns from human feedback is an agent that acts, sees what comes of it, and
# acts differently next time. Before the agent writes text, it plays noughts and crosses. The game is
# small enough that **every answer is known exactly**: what each position is worth, what the best
# move is, how often the best player wins. So whatever we learn here can be held against the truth.
#
# **After this lesson you can**
#
# - say what an agent, a state, an action, a policy and a reward are, and write the probability of a
#   whole game;
# - compute returns with a discount γ, and the values V, Q and the advantage A = Q − V;
# - learn V by Monte Carlo and by temporal differences, and say how far it is from the truth;
# - train an agent by Q-learning and by REINFORCE, with the gradient of log π worked out by hand;
# - show what a baseline does to the variance of that gradient, and what it leaves alone;
# - translate every one of these words into the language of language models.
#
# **Time** about 120 minutes, 8 exercises, 24 points. **Needs** Python and a little PyTorch (indexing,
# masks). One CPU core is enough, and no network.

# %% kind="setup"
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rlhf_lessons.classroom import Slider, check, explore, glossary, play, use_style, watch, yours
from rlhf_lessons.classroom.pictures.tic_tac_toe import draw_boards, draw_discount, draw_learning
from rlhf_lessons.evaluation import exact_rates, sampled_rates
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
from rlhf_lessons.worlds.tic_tac_toe import (
    best_response,
    exact_q_values,
    exact_values,
    expected_return,
    greedy_policy,
    minimax_policy,
    mix_policies,
    play_games,
    q_values_from,
    random_policy,
    state_space,
)

torch.set_num_threads(1)  # the same numbers on every run
use_style()

# %% [markdown]
# ## 1 · An agent in an environment
#
# An **agent** looks at the **state** s of its **environment**, takes an **action** a, receives a
# **reward** r and sees the next state. Again and again. Here:
#
# | word | in tic-tac-toe |
# | --- | --- |
# | agent | a player |
# | objective | win |
# | environment | the board, and the opponent who answers |
# | state s | what stands on the nine squares |
# | action space | the empty squares: it **depends on the state** |
# | action a | the square to mark |
# | reward r | +1 when the game ends won, −1 when lost, 0 when drawn and before the end |
# | policy π | the strategy: which move, with which probability |
# | playout | one game: a sequence of states and actions |
#
# A board is a string of nine characters, `X`, `O` or `.`, numbered like this:
#
# ```
# 0 1 2
# 3 4 5
# 6 7 8
# ```
#
# Strings never change, so a board is safe to share: a move makes a *new* board. One thing is given,
# who has three in a row:

# %% kind="setup"
LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]


def winner(cells: str) -> str | None:
    """Give the player with three in a row, "X" or "O", or None."""
    for a, b, c in LINES:
        if cells[a] != "." and cells[a] == cells[b] == cells[c]:
            return cells[a]
    return None


# %%
print(winner("XX.OO...."), winner("X.OXO.X.."), winner("X.O.O.OXX"))

# %% [markdown]
# From here on you write the functions. Put your lines in the place of `raise NotImplementedError(...)`,
# run the cell, then the check below it. The check calls your function on fresh inputs, and says which
# mistake it sees. Hints are folded. To go on without an exercise, leave its check out: the cells below
# take `yours("1.1", ...)`, your function when it has passed, and the package's when it has not.
#
# ### Exercise 1.1 · Legal moves
#
# ●○○ · 5 minutes · 2 points
#
# Give the squares that the player to move may mark, in order from 0 to 8. When the game is over,
# nothing is legal.
#
# *Why?* The action space belongs to the state. In tic-tac-toe it shrinks with each move; a language
# model has the same vocabulary in every state. An agent that forgets it plays on finished boards,
# and learns values for moves that do not exist.
#
# <details><summary>Hint 1</summary>
#
# Two things end a game: `winner(cells)` is not None, or no square is empty. The second takes care
# of itself.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `[square for square in range(9) if ...]` collects the empty squares; `enumerate(cells)` gives
# squares with their marks.
#
# </details>


# %% kind="exercise" exercise="1.1"
def legal_moves(cells: str) -> list[int]:
    """List the squares that may be marked.

    Args:
        cells: nine characters, "X", "O" or "." for an empty square.

    Returns:
        The empty squares in order, 0 to 8; an empty list when the game is over.
    """
    ### BEGIN SOLUTION
    if winner(cells):
        return []
    return [square for square, mark in enumerate(cells) if mark == "."]
    ### END SOLUTION


# %% kind="check" exercise="1.1"
check("1.1", legal_moves)

# %% [markdown]
# ### Exercise 1.2 · Step
#
# ●●○ · 8 minutes · 3 points
#
# Give the board after the player to move has marked a square. X begins, so it is X's turn when both
# have equally many marks, and O's turn when X has one more. Raise a `ValueError` when the square is
# taken, is not on the board, or the game is over.
#
# *Why?* `step` is the rule of the world: everything an agent ever learns comes through it. An
# environment that quietly accepts an illegal move teaches nonsense, and nobody notices.
#
# <details><summary>Hint 1</summary>
#
# You have written what is legal: `if square not in legal_moves(cells)`. That also refuses −1, which
# Python would read as the last square.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A string is put together from slices: `cells[:square] + mark + cells[square + 1:]`.
#
# </details>


# %% kind="exercise" exercise="1.2"
def step(cells: str, square: int) -> str:
    """Mark a square for the player to move.

    Args:
        cells: nine characters, "X", "O" or ".".
        square: where to move, 0 to 8.

    Returns:
        The next board.

    Raises:
        ValueError: the move is illegal.
    """
    ### BEGIN SOLUTION
    if square not in legal_moves(cells):
        raise ValueError(f"square {square} is not legal on {cells}: {legal_moves(cells)}")
    player = "X" if cells.count("X") == cells.count("O") else "O"
    return cells[:square] + player + cells[square + 1 :]
    ### END SOLUTION


# %% kind="check" exercise="1.2"
check("1.2", step)

# %% [markdown]
# Two functions make a world. We let them explore it: start with the empty board, follow every legal
# move, and count the boards that come up.
#
# *Predict, then run:* nine squares with three contents each would make $3^9 = 19{,}683$ boards. How
# many can really occur?

# %%
legal_moves, step = yours("1.1", legal_moves), yours("1.2", step)

reached, frontier = {"." * 9}, ["." * 9]
while frontier:
    cells = frontier.pop()
    for square in legal_moves(cells):
        following = step(cells, square)
        if following not in reached:
            reached.add(following)
            frontier.append(following)
finished = [cells for cells in reached if not legal_moves(cells)]
print(f"{len(reached):,} boards can occur, and {len(finished)} of them end the game")

space = state_space()  # the package's table of the same boards
assert reached == {board.cells for board in space.boards}

# %% [markdown]
# Fewer than a third. So a **table** with one row for each state fits into memory, and that is what
# this lesson learns with. `state_space()` numbers the boards; row 0 is the empty one.
#
# Meet the simplest agent. It marks any empty square with the same probability. Press a square (or
# Tab and Space) and play a game or two; losing takes some effort.

# %%
play(random_policy(), caption="An agent that moves at random.")

# %% [markdown]
# ## 2 · A policy, and the probability of a game
#
# A **policy** π(a|s) gives each legal action a probability. As a table it has one row for each
# state and one column for each square; the random agent's row of the empty board is nine times 1/9.
#
# A **trajectory** τ is one game as the agent saw it: $s_0, a_0, s_1, a_1, \dots$ The agent chooses
# $a$ by π. Then the environment chooses the next state: the opponent answers, and p(s'|s, a) is the
# chance of the answer that leads to s'. Both kinds of chance multiply:
#
# $$p(\tau) = p(s_0)\,\prod_t \pi(a_t \mid s_t)\; p(s_{t+1} \mid s_t, a_t)$$
#
# In other words: what a game is *like* depends on the policy **and** on the opponent. The cell
# takes a late position, writes down every way the game can go on when both play at random, and adds
# up the probabilities.


# %%
def games_from(cells: str, agent: str) -> list[tuple[float, float]]:
    """List (p(τ), result for the agent) of every game from here, when both play at random."""
    moves = legal_moves(cells)
    if not moves:
        return [(1.0, 0.0 if winner(cells) is None else 1.0 if winner(cells) == agent else -1.0)]
    return [
        (p / len(moves), result)
        for square in moves
        for p, result in games_from(step(cells, square), agent)
    ]


late = "XO..X.O.."
games = games_from(late, agent="X")
total = sum(p for p, _ in games)
value = sum(p * result for p, result in games)
print(f"{len(games)} games can follow; their probabilities sum to {total:.12f}")
print(f"expected result for X: {value:+.4f}")
assert abs(total - 1) < 1e-12

# %% [markdown]
# The second number is an **expectation**: results weighed by the probability of their game. The
# **objective** of reinforcement learning is that number from the start of the game, over a finite
# horizon of T moves:
#
# $$J(\pi) = \mathbb{E}_{\tau \sim p(\tau)}\Big[\sum_{t=0}^{T-1} \gamma^t\, r_t\Big]$$
#
# (γ comes in a moment; take γ = 1.) An agent can estimate J by playing. Here it can also be
# computed exactly, by summing over all games at once.

# %%
RANDOM, PERFECT = random_policy(), minimax_policy()
print("random against random, exact:  ", exact_rates(RANDOM, RANDOM))
print("random against random, sampled:", sampled_rates(RANDOM, RANDOM, games=10_000, seed=1))
print(f"J(random) = {expected_return(RANDOM, RANDOM):+.4f} for X, who begins")

# %% [markdown]
# To begin is worth a lot, when both play badly: X wins twice as often as O.
#
# ## 3 · The return, and the discount γ
#
# The reward comes at the end, but the moves that earned it came before. The **return** $G_t$ says
# what a step was followed by: all rewards from there on, the later ones discounted by γ each step.
#
# $$G_t = r_t + \gamma\, r_{t+1} + \gamma^2\, r_{t+2} + \dots = r_t + \gamma\, G_{t+1}$$
#
# With γ = 1 a late win counts like an early one; with γ < 1 the agent is in a hurry; with γ = 0 it
# sees nothing but the next reward.
#
# ### Exercise 1.3 · Discounted returns
#
# ●●○ · 12 minutes · 3 points
#
# Compute $G_t$ for a batch of games. They differ in length, so shorter ones are **padded** on the
# right, and a boolean mask says which steps were played. Numbers in the padding mean nothing:
# whatever stands there, even NaN (not a number), must not change a return, and the result there
# is 0.
#
# *Why?* This function turns results into credit for single moves; every algorithm below starts with
# it. Padding comes back in every lesson: texts differ in length too.
#
# <details><summary>Hint 1</summary>
#
# Walk backwards: $G_t$ needs $G_{t+1}$. Start with zeros of shape (B,) and go through
# `reversed(range(T))`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Clear the padding first: `rewards.masked_fill(~mask, 0.0)`. In the loop, one line updates the
# running return for all games of the batch: `following = rewards[:, t] + gamma * following`.
#
# </details>


# %% kind="exercise" exercise="1.3"
def discounted_returns(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Compute the return of each step: G_t = r_t + γ·G_{t+1}.

    Args:
        rewards: (B, T) rewards; anything in the padding.
        mask: (B, T) boolean, True = a step that was played.
        gamma: the discount γ, 0 to 1.

    Returns:
        (B, T) returns in the dtype of the rewards, 0 in the padding.
    """
    ### BEGIN SOLUTION
    counted = rewards.masked_fill(~mask, 0.0)
    returns = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        following = counted[:, t] + gamma * following
        returns[:, t] = following
    return returns.masked_fill(~mask, 0.0)
    ### END SOLUTION


# %% kind="check" exercise="1.3"
check("1.3", discounted_returns)

# %% [markdown]
# Move γ and watch two things. On the left, your function: the return of each of the five steps of a
# game that X wins with the last move. On the right, exact: what the three kinds of first move are
# worth against a random opponent, when X goes on as well as possible.
#
# *Predict first:* does the best opening depend on γ?

# %%
discounted_returns = yours("1.3", discounted_returns)

won_late = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]])
played = torch.ones(1, 5, dtype=torch.bool)
OPENINGS = {"corner": 0, "edge": 1, "centre": 4}


def show_discount(figure, gamma: float) -> str:
    returns = discounted_returns(won_late, played, gamma)[0].tolist()
    q_first = exact_q_values(best_response(RANDOM, gamma), RANDOM, gamma)[0]
    worths = {name: float(q_first[square]) for name, square in OPENINGS.items()}
    draw_discount(figure, returns, worths)
    best = max(worths, key=worths.get)
    return (
        f"γ = {gamma:.2f}: the first step of the won game has the return {returns[0]:.3f}; "
        f"the best first move is the {best}, worth {worths[best]:.3f}."
    )


explore(
    show_discount,
    gamma=Slider("γ", "discount", minimum=0.0, maximum=1.0, value=0.9, step=0.01),
    caption="Left: the reward of the last step, seen from each step. Right: exact values.",
)

# %% [markdown]
# No: the corner stays ahead at every γ above 0, while the values shrink and the differences vanish.
# An agent in a hurry sees little of what lies ahead. Is the discount then harmless? Compare the best
# moves of all boards with those at γ = 1:

# %%
for gamma in np.linspace(0.1, 1, 10):
    q_first = exact_q_values(best_response(RANDOM, gamma), RANDOM, gamma)[0]
    assert q_first[OPENINGS["corner"]] > max(q_first[OPENINGS["edge"]], q_first[OPENINGS["centre"]])

patient = best_response(RANDOM, gamma=1.0) > 0  # (S, 9), True = a best move at γ = 1
for gamma in (0.9, 0.5, 0.3):
    hasty = best_response(RANDOM, gamma) > 0
    differs = (patient != hasty).any(axis=1)
    changed = ~space.finished & ~(patient & hasty).any(axis=1)
    print(
        f"γ = {gamma}: other best moves on {differs.sum()} of {(~space.finished).sum():,} boards, "
        f"none in common on {changed.sum()}"
    )

# %% [markdown]
# A mild discount mostly breaks ties: at γ = 1 a win in three moves is as good as a win now, so many
# moves are "best". A strong one finds other moves best, on a few boards. The discount is no detail
# of the algorithm: it is part of the question, and can change **what is best**. From here on γ = 1,
# as is usual for language models, where a text is judged once, at its end.
#
# ## 4 · Values
#
# The **value** of a state is the return to expect from it when the agent follows π:
#
# $$V^\pi(s) = \mathbb{E}_\pi[\,G_t \mid s_t = s\,]$$
#
# The π in the corner matters: values are **policy-conditional**. The same board is worth little to a
# bad player and much to a good one; and it depends on the opponent as well. Since the game ends, V
# can be computed from the end backwards, each board from the boards after it. This is **dynamic
# programming**, and it takes six lines:


# %%
@cache
def value_to_x(cells: str) -> float:
    """The expected result for X when both play at random."""
    moves = legal_moves(cells)
    if not moves:
        return {"X": 1.0, "O": -1.0, None: 0.0}[winner(cells)]
    return sum(value_to_x(step(cells, square)) for square in moves) / len(moves)


V_RANDOM = exact_values(RANDOM, RANDOM)  # the package: any policy, any opponent, any γ
print(f"V(empty board)  {value_to_x('.........'):+.6f}   package {V_RANDOM[0]:+.6f}")
print(f"V({late})    {value_to_x(late):+.6f}   all games of section 2 {value:+.6f}")
assert abs(value_to_x(".........") - V_RANDOM[0]) < 1e-12 and abs(value_to_x(late) - value) < 1e-12

# %% [markdown]
# `exact_values(policy, opponent)` does this for every board at once. A row speaks about the player
# to move there, so one table serves X and O. Now three policies against two opponents; `BEST` is
# the **best response** to a random opponent, the policy that gets the most out of it.

# %%
BEST = best_response(RANDOM)
print(f"{'V(empty board) of X':<22}{'against random':>16}{'against perfect':>17}")
for name, policy in (("random", RANDOM), ("perfect (minimax)", PERFECT), ("best vs. random", BEST)):
    row = [exact_values(policy, opponent)[0] + 0.0 for opponent in (RANDOM, PERFECT)]
    print(f"{name:<22}{row[0]:>+16.4f}{row[1]:>+17.4f}")

# %% [markdown]
# Read the first column: **perfect play is not best**. Minimax assumes an opponent who never errs,
# so it does not set traps; against a random one that costs 0.027 of V. What is "optimal"
# depends on whom one meets. Keep that in mind.
#
# One step closer, **Q(s, a)** is the value of *a move*: take a now, follow π afterwards. A map of it
# shows what an agent should do.
#
# $$Q^\pi(s,a) = \mathbb{E}\big[r + \gamma V^\pi(s')\big] \qquad V^\pi(s) = \sum_a \pi(a \mid s)\, Q^\pi(s,a)$$

# %% figure="01_value_map"
centre_taken = state_space().index_of["....X...."]
q_random, q_perfect = exact_q_values(RANDOM, RANDOM), exact_q_values(PERFECT, PERFECT) + 0.0
draw_boards(
    {
        "X opens, both random": ("." * 9, q_random[0]),
        "O replies, both random": ("....X....", q_random[centre_taken]),
        "O replies, both perfect": ("....X....", q_perfect[centre_taken]),
    }
)
plt.show()

q_best = exact_q_values(BEST, RANDOM)[0]
print("X opens and goes on as well as possible against random:")
print("   ".join(f"{name} {q_best[square]:+.4f}" for name, square in OPENINGS.items()))

# %% [markdown]
# Left: a player who goes on at random should open in the centre. The printed line: one who goes on
# well should open in a corner. Middle and right show one position under two policies: if both play
# at random, O's reply matters little; if both are perfect, a corner holds the draw and an edge loses
# the game.
#
# ### Exercise 1.4 · V by Monte Carlo
#
# ●●○ · 12 minutes · 3 points
#
# Usually nobody hands us p(s'|s, a), so nothing can be summed. But one can play, and average what
# followed each state:
#
# $$V(s) \approx \frac{1}{N(s)} \sum_{t:\, s_t = s} G_t$$
#
# N(s) counts the visits to s, over all games. Two functions of torch do the work: `index_add_` adds each number to
# the row that it belongs to, `bincount` counts.
#
# *Why?* This is the oldest way to learn a value: no model of the opponent, only games. Language
# models learn theirs this way too, from whole texts.
#
# <details><summary>Hint 1</summary>
#
# `states[mask]` and `returns[mask]` are flat: one entry for each visit. You need two tables of size
# S: the sum of returns, and the number of visits.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `totals.index_add_(0, visited, seen)` adds each return to the row of its state, also where a state
# occurs twice (`totals[visited] += seen` does not). `torch.bincount(visited, minlength=S)` counts;
# `.clamp(min=1)` avoids 0/0.
#
# </details>


# %% kind="exercise" exercise="1.4"
def monte_carlo_values(
    states: Tensor, returns: Tensor, mask: Tensor, number_of_states: int
) -> Tensor:
    """Estimate V(s) by the mean of the returns that followed visits to s.

    Args:
        states: (B, T) integers, the row of the state at each step; 0 in the padding.
        returns: (B, T) the return of each step.
        mask: (B, T) boolean, True = a step that was played.
        number_of_states: S, the number of rows.

    Returns:
        (S,) values in the dtype of the returns; 0 for states that were never visited.
    """
    ### BEGIN SOLUTION
    visited, seen = states[mask], returns[mask]
    totals = torch.zeros(number_of_states, dtype=returns.dtype)
    totals.index_add_(0, visited, seen)
    return totals / torch.bincount(visited, minlength=number_of_states).clamp(min=1)
    ### END SOLUTION


# %% kind="check" exercise="1.4"
check("1.4", monte_carlo_values)

# %% [markdown]
# Now 200,000 games, in batches of 2,000; your two functions turn them into values. The curves show
# the distance to the exact V: its mean over the states that the agent meets, weighed by how often
# it meets them (the distribution $\rho_\pi$), and its largest value over all states. The Stop button
# ends a run early, and `mc_run.resume()` in a new cell goes on with it.

# %% kind="train"
monte_carlo_values = yours("1.4", monte_carlo_values)

mc_table = ValueTable(len(space))
value_settings = ValueSettings(steps=100, games_per_step=2_000, seed=0)
mc_run = watch(
    train_values(
        mc_table,
        RANDOM,
        RANDOM,
        value_settings,
        method=MonteCarlo(returns=discounted_returns, average=monte_carlo_values),
    ),
    curves=(("mean_error", "max_error"),),
    title="V by Monte Carlo",
)

# %%
print(f"{'games':>8}{'mean error':>13}{'max error':>12}")
for record in (mc_run.records[i] for i in (0, 9, 99)):
    print(f"{record.games:>8,}{record.mean_error:>13.4f}{record.max_error:>12.4f}")
first, last = mc_run.records[0], mc_run.records[-1]
assert last.mean_error < first.mean_error / 5 and last.max_error < first.max_error / 2

# %% [markdown]
# The mean error falls with the square root of the number of games, as averages do. The largest error
# belongs to boards that come up in a few games only: what an agent rarely meets, it hardly knows.
# That holds for language models as well.
#
# ### Exercise 1.5 · TD update
#
# ●●○ · 8 minutes · 3 points
#
# Monte Carlo waits for the end of the game. **Temporal differences** learn from every single step:
# the value of the *next* state already says how things stand. Move V(s) a part α of the way towards
# what one step of experience suggests:
#
# $$V(s) \leftarrow V(s) + \alpha\,\big(\underbrace{r + \gamma V(s')}_{\text{target}} - V(s)\big)$$
#
# After the last move nothing follows, so V(s') counts as 0 there.
#
# *Why?* A guess learned from a guess is called **bootstrapping**. It has less noise than the result
# of a whole game, because only one step of chance goes in; and more bias, because V(s') may be
# wrong. The trade-off returns as λ in lesson 4.
#
# <details><summary>Hint 1</summary>
#
# Compute the target first, in two cases: `finished` or not.
#
# </details>
# <details><summary>Hint 2</summary>
#
# The bracket is the *TD error*. Return the new value, not the change.
#
# </details>


# %% kind="exercise" exercise="1.5"
def td_update(
    value: float, reward: float, next_value: float, finished: bool, step_size: float, gamma: float
) -> float:
    """Move V(s) towards r + γ·V(s').

    Args:
        value: V(s).
        reward: r, received between s and s'.
        next_value: V(s'); means nothing when the game is finished.
        finished: True when the game ended with this step.
        step_size: α, 0 to 1.
        gamma: the discount γ, 0 to 1.

    Returns:
        The new V(s).
    """
    ### BEGIN SOLUTION
    target = reward if finished else reward + gamma * next_value
    return value + step_size * (target - value)
    ### END SOLUTION


# %% kind="check" exercise="1.5"
check("1.5", td_update)

# %% [markdown]
# The same games, now step by step with your update. α falls with the visits to a state,
# $\alpha = N(s)^{-0.8}$: the first steps are large, later ones smooth the noise out.

# %% kind="train"
td_update = yours("1.5", td_update)

td_table = ValueTable(len(space))
td_run = watch(
    train_values(
        td_table, RANDOM, RANDOM, value_settings, method=TemporalDifference(update=td_update)
    ),
    curves=(("mean_error", "max_error"),),
    title="V by temporal differences",
)

# %%
print(f"{'after 200,000 games':<22}{'mean error':>11}{'max error':>11}")
for name, run in (("Monte Carlo", mc_run), ("temporal differences", td_run)):
    print(f"{name:<22}{run.last.mean_error:>11.4f}{run.last.max_error:>11.4f}")
assert td_run.last.mean_error < td_run.records[0].mean_error / 5

# %% [markdown]
# By the mean error both come equally near the truth: a game has at most five steps of the agent, so
# there is little to gain from not waiting. By the largest error TD ends behind Monte Carlo in this
# run; one state decides that number.
#
# ## 5 · From values to better play
#
# ### Exercise 1.6 · Advantage
#
# ●●○ · 8 minutes · 3 points
#
# How good is a move *compared with what the policy does anyway*? That is the **advantage**:
#
# $$A^\pi(s,a) = Q^\pi(s,a) - V^\pi(s), \qquad V^\pi(s) = \sum_b \pi(b \mid s)\, Q^\pi(s,b)$$
#
# A positive advantage says "do this more often". Averaged over the policy itself it is 0 in every
# state. Q of an illegal square means nothing: it may hold any number, even −∞, and its advantage
# is 0.
#
# *Why?* The advantage is what PPO multiplies its gradient with, in lesson 4. It takes out of the
# return what has nothing to do with the choice: how good the position was already.
#
# <details><summary>Hint 1</summary>
#
# Clear the illegal entries of Q *before* you multiply: 0 · (−∞) is not a number.
#
# </details>
# <details><summary>Hint 2</summary>
#
# V needs one number for each row that still fits the table: `.sum(dim=1, keepdim=True)`.
#
# </details>


# %% kind="exercise" exercise="1.6"
def advantage(q_values: Tensor, probabilities: Tensor, legal: Tensor) -> Tensor:
    """Compute A(s, a) = Q(s, a) − V(s).

    Args:
        q_values: (B, A) the value of each action; anything where it is illegal.
        probabilities: (B, A) π(a|s), 0 where an action is illegal.
        legal: (B, A) boolean, True = a legal action.

    Returns:
        (B, A) advantages, 0 where an action is illegal.
    """
    ### BEGIN SOLUTION
    q_values = q_values.masked_fill(~legal, 0.0)
    values = (probabilities * q_values).sum(dim=1, keepdim=True)
    return (q_values - values).masked_fill(~legal, 0.0)
    ### END SOLUTION


# %% kind="check" exercise="1.6"
check("1.6", advantage)

# %% [markdown]
# If moves with a positive advantage should happen more often, then put *all* probability on the
# largest one, compute the values of that new policy, and do it again. This is **policy iteration**,
# on exact values and with your function.
#
# *Predict, then run:* how many rounds from random play to the best response?

# %%
advantage = yours("1.6", advantage)

policy, optimum = RANDOM, expected_return(BEST, RANDOM)
for iteration in range(5):
    objective = expected_return(policy, RANDOM)
    q_values = torch.from_numpy(exact_q_values(policy, RANDOM))
    A = advantage(q_values, torch.from_numpy(policy), torch.tensor(space.legal))
    average = float((torch.from_numpy(policy) * A).sum(dim=1).abs().max())
    print(
        f"round {iteration}: J = {objective:.4f}   largest advantage {float(A.max()):.4f}   "
        f"mean under π {average:.4f}"
    )
    assert average < 1e-12
    policy = greedy_policy(A.numpy())
print(f"exact best response: J = {optimum:.4f}")
assert abs(objective - optimum) < 1e-12

# %% [markdown]
# Three improvements. From round 1 to round 2 J stands still, because only later boards improved;
# then the opening follows. At the end no move has a positive advantage: that is what *optimal* means.
#
# Policy iteration needs the exact Q, so it needs to know the opponent. **Q-learning** does not. It
# plays, and moves Q(s, a) with *your TD update* towards the reward plus the best it knows about the
# next state:
#
# $$Q(s,a) \leftarrow Q(s,a) + \alpha\,\big(r + \gamma \max_b Q(s',b) - Q(s,a)\big)$$
#
# Two words for the rest of the course. To find out about moves that look bad the agent must
# **explore**: here it moves at random in 30 % of its moves (`explore=0.3`). The target takes the
# maximum, as if it never did. So it learns about one policy while another one plays: **off-policy**.
# An algorithm that learns about the very policy that plays is **on-policy**; REINFORCE below and
# PPO are.

# %% kind="train"
q_table = ActionValueTable(space.legal)
q_settings = QSettings(steps=400, games_per_step=500, explore=0.3, agent_plays="X", seed=0)
q_run = watch(
    train_q(q_table, RANDOM, q_settings, update=td_update),
    curves=(("objective", "mean_return"),),
    title="Q-learning against random",
)
q_agent = greedy_policy(q_table.values.numpy())

# %% [markdown]
# `objective` is the exact J of the greedy policy learned so far, `mean_return` is what the games
# brought while exploring. Now the exam, exact in every line:

# %%
trained, best = exact_rates(q_agent, RANDOM), exact_rates(BEST, RANDOM)
print("trained X against random: ", trained)
print("best possible:            ", best)
print("trained X against perfect:", exact_rates(q_agent, PERFECT))
assert best.win - trained.win < 0.01
assert exact_rates(q_agent, PERFECT).loss == 0

behaviour = mix_policies(q_agent, RANDOM, q_settings.explore)
print(f"\nJ of what was played, with exploration: {expected_return(behaviour, RANDOM):.3f}")
print(f"J of what was learned about:            {expected_return(q_agent, RANDOM):.3f}")
print(f"max Q(empty board) in the table:        {float(q_table.values[0].max()):.3f}")
assert abs(float(q_table.values[0].max()) - expected_return(q_agent, RANDOM)) < 0.05

# %% [markdown]
# The trained agent wins within a point of the best possible, and it never loses to perfect play,
# although it has never met a perfect player. The last three lines show off-policy learning: the
# table holds the value of the greedy policy, not of the games that filled it.
#
# *Predict, then run:* the same algorithm, the same number of games, but the agent plays **O**, who
# moves second. It trains against the random player and becomes very good at beating it. Will it
# lose to a perfect player?

# %% kind="train"
o_table = ActionValueTable(space.legal)
o_settings = QSettings(steps=400, games_per_step=500, explore=0.3, agent_plays="O", seed=0)
watch(
    train_q(o_table, RANDOM, o_settings, update=td_update),
    curves=(("objective", "mean_return"),),
    title="Q-learning as O against random",
)
o_agent = greedy_policy(o_table.values.numpy())

# %%
print("trained O against random: ", exact_rates(o_agent, RANDOM, "O"))
print("trained O against perfect:", exact_rates(o_agent, PERFECT, "O"))
print("best response to random, against perfect:", exact_rates(BEST, PERFECT, "O"))
assert exact_rates(o_agent, PERFECT, "O").loss > 0
assert exact_rates(BEST, PERFECT, "O").loss > 0.4

# %% [markdown]
# It does, and this is no failure of learning: the *exact* best response loses too, about half of its
# games. Against a player who errs, a risky move pays; against one who never errs, it is punished. The
# agent is optimal **for the opponent it was trained with**, and for no other. Replace "opponent" by
# "reward model" and you have the central problem of lessons 3 to 5.
#
# The cure is to train where one wants to be good. This opponent plays perfectly in half of its
# moves and at random in the others:

# %% kind="train"
CARELESS = mix_policies(RANDOM, PERFECT, 0.5)
safe_table = ActionValueTable(space.legal)
watch(
    train_q(safe_table, CARELESS, o_settings, update=td_update),
    curves=(("objective", "mean_return"),),
    title="Q-learning as O against a careless expert",
)
safe_agent = greedy_policy(safe_table.values.numpy())

# %%
print("trained O against random: ", exact_rates(safe_agent, RANDOM, "O"))
print("best possible:            ", exact_rates(BEST, RANDOM, "O"))
print("trained O against perfect:", exact_rates(safe_agent, PERFECT, "O"))
safety_costs = exact_rates(BEST, RANDOM, "O").win - exact_rates(safe_agent, RANDOM, "O").win
print(f"safety costs {100 * safety_costs:.1f} points of wins against random")
assert exact_rates(safe_agent, PERFECT, "O").loss == 0

# Policy iteration once more, this time among the moves that do not lose to perfect play.
safe_move = exact_q_values(PERFECT, PERFECT) > -0.5
policy = PERFECT
for _ in range(5):
    policy = greedy_policy(np.where(safe_move, exact_q_values(policy, RANDOM), -2))
safe_optimum, o_optimum = (expected_return(p, RANDOM, "O") for p in (policy, BEST))
print(f"J against random: at most {o_optimum:.4f}, and without risk at most {safe_optimum:.4f}")
assert safe_optimum < o_optimum - 0.005

# %% [markdown]
# It no longer loses to anyone, and pays for it with wins against the weak. The last line says that
# this is nobody's fault: as O the most that can be won against random is out of reach for *every*
# policy that never risks a loss.
#
# ## 6 · REINFORCE: learn the policy itself
#
# Q-learning learns values and acts on them. Language models are trained the other way round: the
# **policy** has parameters, and they move in the direction that raises J. Our policy is a table of
# logits z with a softmax over the legal moves:
#
# $$\pi(a \mid s) = \frac{e^{z_a}}{\sum_{b\ \text{legal}} e^{z_b}} \qquad
# \log \pi(a \mid s) = z_a - \log \sum_{b\ \text{legal}} e^{z_b}$$
#
# The gradient of J looks hopeless, because J averages over games and the games depend on π. One
# line of algebra, $\nabla p = p\, \nabla \log p$, turns it into an average again, and what the
# environment does drops out, because p(s'|s, a) does not depend on the parameters:
#
# $$\nabla J = \mathbb{E}_{\tau}\Big[\sum_t G_t\, \nabla \log \pi(a_t \mid s_t)\Big]$$
#
# Play, see what was won, and make each move that was played more likely in proportion to its
# return. Williams called it REINFORCE.
#
# ### Exercise 1.7 · The REINFORCE gradient
#
# ●●● · 15 minutes · 4 points
#
# Differentiate $\log \pi(a \mid s)$ by hand, with respect to each logit $z_b$. The first term gives
# 1 for b = a. The second gives $e^{z_b} / \sum e^{z}$, which is π(b|s). So
#
# $$\frac{\partial \log \pi(a \mid s)}{\partial z_b} = \mathbb{1}[a = b] - \pi(b \mid s)$$
#
# Return this row for each visited state, times the weight of the visit. Illegal squares have no
# probability and no gradient, whatever number stands in their logits.
#
# *Why by hand?* Read the formula: the move that was taken goes up, all others go down, and by more,
# the likelier they were. Each row sums to 0. That is the whole mechanism by which a language model
# is trained with a reward; later, autograd does the same on millions of parameters.
#
# <details><summary>Hint 1</summary>
#
# Illegal squares must leave the softmax *before* it divides: fill their logits with −∞, then π is 0
# there. Clearing the result afterwards is too late.
#
# </details>
# <details><summary>Hint 2</summary>
#
# $e^{1000}$ overflows. Subtract the largest legal logit of each row first, or use `torch.softmax`,
# which does. `torch.nn.functional.one_hot(actions, A)` gives the 1[a = b], with A =
# `logits.shape[1]` (the check also plays on boards of other sizes); `weights[:, None]` multiplies
# each row.
#
# </details>


# %% kind="exercise" exercise="1.7"
def reinforce_gradient(logits: Tensor, legal: Tensor, actions: Tensor, weights: Tensor) -> Tensor:
    """Compute weight · ∇ log π(a|s) with respect to the logits.

    Args:
        logits: (B, A) the logits of each visited state; any number where an action is illegal.
        legal: (B, A) boolean, True = a legal action.
        actions: (B,) integers, the action that was taken.
        weights: (B,) what to multiply each row with: the return, or return minus baseline.

    Returns:
        (B, A) one gradient for each visit; 0 at illegal actions.
    """
    ### BEGIN SOLUTION
    masked = logits.masked_fill(~legal, -torch.inf)
    exponentials = (masked - masked.amax(dim=1, keepdim=True)).exp()
    pi = exponentials / exponentials.sum(dim=1, keepdim=True)
    taken = torch.nn.functional.one_hot(actions, logits.shape[1]).to(logits.dtype)
    return weights[:, None] * (taken - pi)
    ### END SOLUTION


# %% kind="check" exercise="1.7"
check("1.7", reinforce_gradient)

# %% [markdown]
# Your gradient now trains a policy from nothing. It is **on-policy**: each batch of 100 games is
# played by the policy of that moment, used for one step, and thrown away. The panel on the right
# shows how much the weights of a batch, the returns G, differ from one another: near 0 nearly all
# games end alike, and tell the policy little.

# %% kind="train"
reinforce_gradient = yours("1.7", reinforce_gradient)

pg_settings = ReinforceSettings(steps=300, games_per_step=100, learning_rate=0.5, seed=0)
plain_policy = SoftmaxPolicy(space.legal)

plain_run = watch(
    train_reinforce(
        plain_policy,
        RANDOM,
        pg_settings,
        returns=discounted_returns,
        gradient=reinforce_gradient,
    ),
    curves=(("objective", "mean_return"), "weight_variance"),
    title="REINFORCE",
)
print("REINFORCE against random:", exact_rates(plain_policy.probabilities(), RANDOM))
assert plain_run.last.objective > 0.9

# %% [markdown]
# ### Exercise 1.8 · Variance with and without a baseline
#
# ●●○ · 12 minutes · 3 points
#
# When nearly every game is won, nearly every move has G = 1, also the bad ones, and all of them are
# pushed up. What counts is whether a game went *better than usual*. So subtract what is usual, a
# **baseline** b(s) such as V(s):
#
# $$g = \big(G - b(s)\big)\, \nabla \log \pi(a \mid s)$$
#
# The mean does not change, because $\mathbb{E}_\pi[\nabla \log \pi] = \sum_a \nabla \pi = \nabla 1 =
# 0$. The variance does. For N samples $g_n$ with D coordinates give both:
#
# $$\bar g = \frac1N \sum_n g_n \qquad \operatorname{Var} = \frac1N \sum_n \lVert g_n - \bar g
# \rVert^2$$
#
# *Why?* A gradient with less noise needs fewer games for the same progress; for a language model a
# "game" is a whole text to generate and judge. And G − V(s) is, on average over what follows, the
# **advantage** Q − V: this is how the advantage enters policy gradients.
#
# <details><summary>Hint 1</summary>
#
# First the samples: `(returns - baselines)[:, None] * scores` has shape (N, D).
#
# </details>
# <details><summary>Hint 2</summary>
#
# The mean runs over the samples (`dim=0`). For the variance square the differences, sum over the
# coordinates (`dim=1`), then take the mean. `torch.var` divides by N − 1 unless told otherwise.
#
# </details>


# %% kind="exercise" exercise="1.8"
def gradient_statistics(
    scores: Tensor, returns: Tensor, baselines: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the mean and the variance of the gradient samples (G − b)·∇ log π.

    Args:
        scores: (N, D) ∇ log π of each sample.
        returns: (N,) the return G of each sample.
        baselines: (N,) the baseline b of each sample; 0 for none.

    Returns:
        The mean gradient (D,), and the variance: the mean squared distance from it, one number.
    """
    ### BEGIN SOLUTION
    samples = (returns - baselines)[:, None] * scores
    mean = samples.mean(dim=0)
    return mean, ((samples - mean) ** 2).sum(dim=1).mean()
    ### END SOLUTION


# %% kind="check" exercise="1.8"
check("1.8", gradient_statistics)

# %% [markdown]
# We measure at the first move of the game, 20,000 games each, for players between random and best:
# with probability w they make a best move, else a random one. The baseline is the exact $V^\pi$ of
# the empty board. The true gradient is known as well, $\partial J / \partial z_a = \pi(a)\, A(a)$, so
# both means can be held against it.
#
# *Predict, then run:* by what factor does the baseline lower the variance for the random player
# (w = 0), and by what for one that plays best in nine moves of ten?

# %%
gradient_statistics = yours("1.8", gradient_statistics)
LEGAL = torch.tensor(space.legal)


def compare_baselines(pi: Tensor, games: int = 20_000) -> tuple[float, float, float, float]:
    """Give the variance without and with V as baseline, and how far each mean is off, in σ/√N."""
    playouts = play_games(pi, RANDOM, games, np.random.default_rng(1), agent_plays="X")
    actions, results = torch.from_numpy(playouts.actions[:, 0]), torch.from_numpy(playouts.results)
    logits, ones = pi[:1].log(), torch.ones(games, dtype=torch.float64)
    scores = reinforce_gradient(logits.expand(games, 9), LEGAL[:1].expand(games, 9), actions, ones)
    q_first = torch.from_numpy(exact_q_values(pi, RANDOM))[:1]
    exact = (pi[:1] * advantage(q_first, pi[:1], LEGAL[:1]))[0]
    found = []
    for baseline in (0.0, expected_return(pi, RANDOM)):
        mean, variance = gradient_statistics(scores, results, baseline * ones)
        found += [float(variance), float((mean - exact).norm() / (variance / games).sqrt())]
    return found[0], found[2], found[1], found[3]


heading = f"{'player':<20}{'J':>7}{'Var, b = 0':>12}{'Var, b = V':>12}{'ratio':>7}"
print(heading + "   both means off by")
ratios = []
for w in (0.0, 0.3, 0.6, 0.9):
    pi = torch.from_numpy(mix_policies(RANDOM, BEST, w))
    without, with_v, off_0, off_v = compare_baselines(pi)
    ratios.append(without / with_v)
    line = f"best with w = {w:<6}{expected_return(pi, RANDOM):>7.3f}{without:>12.4f}{with_v:>12.4f}"
    print(f"{line}{ratios[-1]:>7.2f}   {off_0:.1f} and {off_v:.1f} standard errors")
    assert max(off_0, off_v) < 4
assert min(ratios) > 1 and ratios == sorted(ratios)

# %% [markdown]
# For the random player the baseline saves little, because wins and losses nearly balance. The better
# the player, the more it saves: when almost every return is +1, the returns carry no news, and the
# baseline takes them out. Each mean lies about one standard error from the exact gradient, which is
# what chance alone does: the direction is the same, the noise is less.
#
# Does it learn better, then? Here nobody hands over the exact V, so the loop learns a value table
# along the way and uses that as its baseline. Three seeds each:

# %% kind="train"
curves_by_name = {"no baseline": [], "baseline": []}
for seed in tqdm(range(3), desc="seeds", leave=False):
    for name, table in (("no baseline", None), ("baseline", ValueTable(len(space)))):
        loop = train_reinforce(
            SoftmaxPolicy(space.legal),
            RANDOM,
            ReinforceSettings(steps=300, games_per_step=100, learning_rate=0.5, seed=seed),
            baseline=table,
            returns=discounted_returns,
            gradient=reinforce_gradient,
        )
        curves_by_name[name].append([record.objective for record in loop])
for games in (10_000, 30_000):
    for name, runs in curves_by_name.items():
        found = ", ".join(f"{run[games // 100 - 1]:.4f}" for run in runs)
        print(f"J after {games:,} games, {name:<12} {found}")
print(f"exact optimum {optimum:.4f}")

# %% [markdown]
# After a third of the games the agents with a baseline are ahead; at the end three seeds are too few
# to tell them apart. Less noise speeds learning up; it does not move the optimum.
#
# And everything in one picture: on the left the learned V, on the right the learned policies, both
# against what is exactly right.

# %% figure="01_learning_curves"
value_games = [record.games for record in mc_run.records]
distances = {
    f"{name}, {word}": (value_games, [getattr(record, measure) for record in run.records])
    for run, name in ((mc_run, "Monte Carlo"), (td_run, "TD"))
    for measure, word in (("max_error", "max"), ("mean_error", "mean"))
}
played_games = [pg_settings.games_per_step * (i + 1) for i in range(pg_settings.steps)]
q_records = [record for record in q_run.records if record.games <= played_games[-1]]
objectives = {
    "REINFORCE": (played_games, curves_by_name["no baseline"]),
    "with baseline": (played_games, curves_by_name["baseline"]),
    "Q-learning": ([r.games for r in q_records], [[r.objective for r in q_records]]),
}
draw_learning(distances, objectives, optimum)
plt.show()

# %% [markdown]
# ## 7 · Self-play
#
# The opponent may also be **the agent itself**. Then nobody has to supply an opponent, and it gets
# stronger as the agent does. `None` as the opponent means that: the agent plays both sides.
#
# *Predict, then run:* what happens to the objective, the agent's result against itself?

# %% kind="train"
self_table = ActionValueTable(space.legal)
self_settings = QSettings(steps=300, games_per_step=500, explore=0.3, agent_plays="both", seed=0)
watch(
    train_q(self_table, None, self_settings, update=td_update),
    curves=(("objective", "mean_return"),),
    title="Q-learning against itself",
)
self_agent = greedy_policy(self_table.values.numpy())

# %%
for side in "XO":
    print(f"self-play {side} against random: ", exact_rates(self_agent, RANDOM, side))
    print(f"self-play {side} against perfect:", exact_rates(self_agent, PERFECT, side))
own_result = expected_return(self_agent, self_agent, "X")
print(f"against itself, X gets J = {own_result:+.3f}")

# %% [markdown]
# Against itself the objective says nothing about strength: whatever one side learns to win, the
# other learns to avoid. One must measure against somebody else, as we did. The same holds when a
# model is judged by a model.
#
# ## 8 · Play against the agent
#
# Your agent, as X or O. Choose what is written on the empty squares: π (what the agent would do in
# your place), Q (from its table), V (one step ahead with the values that *your* Monte Carlo
# learned, for random play) or the advantage (your function, for the random policy). Numbers belong
# to the player who is to move: you.

# %%
agent = np.where((space.marks % 2 == 0)[:, None], q_agent, safe_agent)
q_shown = np.where((space.marks % 2 == 0)[:, None], q_table.values, safe_table.values)
v_shown = q_values_from(mc_table.values, RANDOM)
a_shown = advantage(
    torch.from_numpy(exact_q_values(RANDOM, RANDOM)),
    torch.from_numpy(RANDOM),
    torch.tensor(space.legal),
)
play(
    agent,
    show={"Q": q_shown, "π": agent, "V": v_shown, "A": a_shown},
    showing="Q",
    begins="you",
    caption="Your Q-learning agent. As O it was trained against the careless expert.",
)

# %% [markdown]
# ## 9 · From tic-tac-toe to language models
#
# Nothing in this lesson was about noughts and crosses. Row by row:
#
# | | tic-tac-toe | language model |
# | --- | --- | --- |
# | agent | a player | the language model |
# | policy π(a\|s) | softmax over a row of the table | softmax over the logits of the network |
# | environment | board and opponent | the context window, to which each token is appended |
# | state s | what stands on the board | prompt and text so far |
# | action a | mark a square | write the next token |
# | action space | the empty squares, fewer each move | the vocabulary, the same in every state |
# | transition p(s'\|s, a) | chance: the opponent's reply | certain: the text with the token added |
# | trajectory, p(τ) | one game, $p(s_0)\prod \pi\, p$ | one completion, $\prod_t \pi(a_t \mid s_t)$ |
# | reward r | +1, 0, −1 at the end | how much people prefer the text, at its end |
# | J(π) | expected result | expected human preference |
# | $\rho_\pi$ | boards that the agent comes to | texts that the model writes |
# | V, Q, A | worth of a board, of a move | worth of a beginning, of a next token |
# | playout | one game | a **rollout**: one sampled text |
# | exploration | random moves mixed in | sampling from π itself |
# | on-policy / off-policy | REINFORCE / Q-learning | PPO / DPO on stored pairs |
# | self-play | the opponent is the agent | the model judges or corrects its own texts |
#
# Two rows hide the whole difficulty. The **reward** has no rule book: nobody can write down what
# people prefer, so it must be learned (lesson 3). And the **state space** has no table: there are
# more texts than atoms, so a network must generalise (lesson 2). What stays is the objective, the
# gradient and the advantage.
#
# ## What was shown
#
# | claim | section | measured against |
# | --- | --- | --- |
# | the probabilities of all games sum to 1 | 2 | every continuation of one position |
# | values depend on the policy and on the opponent | 4 | dynamic programming |
# | learned V approaches the exact V | 4 | all states, mean and maximum |
# | acting on the advantage leads to the best response | 5 | exact J |
# | the trained X wins within a point of the optimum, never loses to perfect play | 5 | exact rates |
# | the optimum for one opponent can lose to another | 5 | exact rates, as O |
# | a baseline lowers the variance and leaves the mean | 6 | the exact gradient |
#
# **In the package.** `rlhf_lessons.formulas`: `discounted_returns`, `monte_carlo_values`,
# `td_update`, `advantage`, `log_prob_gradient`, `reinforce_gradient`.
# `rlhf_lessons.worlds.tic_tac_toe`: `Board`, `exact_values`, `exact_q_values`, `best_response`,
# `minimax_policy`, `play_games`. `rlhf_lessons.models`: `ValueTable`, `ActionValueTable`,
# `SoftmaxPolicy`. `rlhf_lessons.training`: `train_values`, `train_q`, `train_reinforce`.
# `rlhf_lessons.evaluation`: `exact_rates`, `sampled_rates`.
#
# **Further reading.**
#
# - Sutton & Barto 2018, *Reinforcement Learning: An Introduction*, chapters 3 to 6 and 13.
# - Williams 1992, *Simple statistical gradient-following algorithms for connectionist
#   reinforcement learning*: REINFORCE and its baseline.
# - Watkins & Dayan 1992, *Q-learning*.
# - Greensmith, Bartlett & Baxter 2004, *Variance reduction techniques for gradient estimates in
#   reinforcement learning*: which baseline is best.
# - Michie 1963, *Experiments on the mechanization of game-learning*: tic-tac-toe learned by 304
#   matchboxes full of beads.
#
# **Three quick questions.**
#
# 1. An agent has $V^\pi(s) = 0.8$ and plays a move with Q = 0.7 there. The game is won. Should the
#    move become more or less likely?
#
# <details><summary>Answer</summary>
#
# Less: its advantage is −0.1, worse than what the policy does on average. This one game, with
# G − V = +0.2, pushes it up; over many games the average push is the advantage, downwards.
#
# </details>
#
# 2. Why may the baseline depend on the state, but not on the action that was taken?
#
# <details><summary>Answer</summary>
#
# The mean stays because $\sum_a \pi(a \mid s)\, b(s)\, \nabla \log \pi(a \mid s) = b(s)\, \nabla
# \sum_a \pi(a \mid s) = 0$. With b(s, a) the factor cannot be taken out of the sum.
#
# </details>
#
# 3. You estimate V from the games of a policy with `explore=0.3`. Whose value is it?
#
# <details><summary>Answer</summary>
#
# That of the exploring policy, random moves included. Monte Carlo averages are on-policy: they
# tell the value of whoever played.
#
# </details>
#
# The words of this lesson, in three languages:

# %%
glossary(1)
