"""Quality and diversity: how different responses are, and a choice that keeps them so.

Belongs to lesson 3. ``pick_one_per_cell`` takes the best response of each cell of a latent space;
``mean_distance`` and ``coverage`` measure what that buys.

Left out on purpose: an evolutionary search for new responses (MAP-Elites); a pool is enough to see
the idea.
"""

from __future__ import annotations

import numpy as np

from rlhf_lessons.evaluation.preferences import numbers

__all__ = ["coverage", "mean_distance", "pick_one_per_cell"]


def places_of(where: str, places: np.ndarray) -> np.ndarray:
    """A finite (N, D) array, or an error that says what came."""
    (array,) = numbers(where, places=places)
    if array.ndim != 2:
        raise ValueError(f"{where}: places must have shape (N, D), got {array.shape}")
    return array


def cells_of(places: np.ndarray, reference: np.ndarray, cells: int) -> np.ndarray:
    """(N,) number of the cell of each place.

    The first axis is cut at the reference's quantiles, each part along the next axis at quantiles
    of its own, and so on: whatever the axes have in common, cells hold equally many of the
    reference.
    """
    if places.shape[1] == 0 or len(reference) == 0:
        return np.zeros(len(places), dtype=int)
    borders = np.quantile(reference[:, 0], np.linspace(0, 1, cells + 1)[1:-1])
    part_of_place = np.searchsorted(borders, places[:, 0])
    part_of_reference = np.searchsorted(borders, reference[:, 0])
    numbers = part_of_place * cells ** (places.shape[1] - 1)
    for part in range(cells):
        inside = part_of_place == part
        rest = reference[part_of_reference == part, 1:]
        numbers[inside] += cells_of(places[inside, 1:], rest, cells)
    return numbers


def pick_one_per_cell(places: np.ndarray, scores: np.ndarray, cells: int) -> np.ndarray:
    """Choose the best response of each occupied cell of a latent space.

    chosen = {argmax of score among the responses in cell c : c occupied}

    Cells hold equally many responses: the first axis is cut at its quantiles, each part along the
    next axis at its own.

    Args:
        places: (N, D) where each response lies.
        scores: (N,) how good each is.
        cells: number of parts of each axis, at least 1; there are cells^D cells.

    Returns:
        Indices of the chosen responses, best first.

    Raises:
        ValueError: shapes differ, a number is not finite, or ``cells`` < 1.

    Source:
        Ding et al. 2024, "Quality Diversity through Human Feedback", section 3.
    """
    places = places_of("pick_one_per_cell", places)
    (values,) = numbers("pick_one_per_cell", scores=scores)
    if values.shape != (len(places),) or cells < 1:
        raise ValueError(
            f"pick_one_per_cell: scores must have shape ({len(places)},) and cells be at least 1, "
            f"got {values.shape} and {cells}"
        )
    order = np.argsort(-values, kind="stable")
    _, first = np.unique(cells_of(places, places, cells)[order], return_index=True)
    return order[np.sort(first)]


def mean_distance(places: np.ndarray) -> float:
    """Mean Euclidean distance between two different responses.

    distance = mean over i < j of ‖z_i − z_j‖

    Args:
        places: (N, D) where each response lies, N >= 2.

    Returns:
        The mean, in the unit of the places.

    Raises:
        ValueError: fewer than two places, or a number that is not finite.
    """
    places = places_of("mean_distance", places)
    if len(places) < 2:
        raise ValueError(f"mean_distance: places must hold at least 2, got {len(places)}")
    i, j = np.triu_indices(len(places), 1)
    return float(np.linalg.norm(places[i] - places[j], axis=1).mean())


def coverage(places: np.ndarray, all_places: np.ndarray, cells: int) -> float:
    """Share of the cells that all responses occupy in which a selection has a response.

    coverage = |cells of the selection| / |cells of all|

    Args:
        places: (N, D) where the selected responses lie.
        all_places: (M, D) where all responses lie; they set the cells' borders.
        cells: number of parts of each axis, at least 1.

    Returns:
        A share between 0 and 1.

    Raises:
        ValueError: shapes do not fit, a number is not finite, or ``cells`` < 1.
    """
    places = places_of("coverage", places)
    everything = places_of("coverage", all_places)
    if places.shape[1] != everything.shape[1] or cells < 1:
        raise ValueError(
            f"coverage: places must have {everything.shape[1]} axes like all_places and cells be "
            f"at least 1, got {places.shape[1]} and {cells}"
        )
    occupied = set(cells_of(everything, everything, cells).tolist())
    return len(set(cells_of(places, everything, cells).tolist()) & occupied) / len(occupied)
