"""The pictures of one run and of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlhf_lessons.evaluation.sentiment.record import SentimentRun

__all__ = ["plot_run", "plot_runs"]


def plot_run(run: SentimentRun, path: Path) -> None:
    """Draw what was measured over the steps, and a policy's way on the plane of KL and reward."""
    from matplotlib.figure import Figure

    s, steps = run.settings, [point["step"] for point in run.points]
    unit = {"bon": "n", "ppo": "cycles"}.get(s.method, "updates")
    panels = [
        ("step", unit, "held_out_loss", "held-out loss (nats)"),
        ("step", unit, "held_out_accuracy", "share of held-out pairs right"),
        ("step", unit, "reward", "reward of the judge"),
        ("step", unit, "kl", "KL (nats per response)"),
        ("kl", "KL (nats per response)", "reward", "reward of the judge"),
    ]
    panels = [panel for panel in panels if panel[2] in run.points[0]]
    figure = Figure(figsize=(4 * len(panels), 3.4), dpi=120, layout="constrained")
    for axes, (x, x_label, y, y_label) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        xs, ys = ([point[name] for point in run.points] for name in (x, y))
        errors = [point.get(f"{y}_error", 0.0) for point in run.points]
        axes.errorbar(xs, ys, yerr=errors, fmt="o-", color="#0b6ba8", capsize=3, markersize=4)
        axes.plot(xs[-1:], ys[-1:], "D", color="#c2410c", markersize=8)
        end = f"{'best of' if s.method == 'bon' else 'step'} {steps[-1]}: {ys[-1]:.3g}"
        axes.set_title(end, loc="right", fontsize="medium", color="#c2410c")
        if s.method == "bon" and x == "step":
            axes.set_xscale("log", base=2)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(alpha=0.3)
    figure.suptitle(f"{run.name}: {Path(s.policy).name} on {Path(s.data).name}, seed {s.seed}")
    figure.savefig(path)


def plot_runs(runs: Sequence[SentimentRun], path: Path) -> None:
    """Draw where the runs ended, on the plane of KL and reward; beside it what VADER says."""
    from matplotlib.figure import Figure

    names = [("reward", "reward of the judge")]
    if any("vader" in run.points[-1] for run in runs):
        names.append(("vader", "VADER, which nobody optimised"))
    figure = Figure(figsize=(5 * len(names), 4), dpi=120, layout="constrained")
    methods = dict.fromkeys(run.settings.method for run in runs if "kl" in run.points[-1])
    for axes, (y, label) in zip(
        figure.subplots(1, len(names), squeeze=False)[0], names, strict=True
    ):
        for method in methods:
            own = [run for run in runs if run.settings.method == method]
            points = own[0].points if method == "bon" else [run.points[-1] for run in own]
            points = sorted((p for p in points if y in p), key=lambda point: point["kl"])
            xs, ys = ([point[name] for point in points] for name in ("kl", y))
            errors = [point.get(f"{y}_error", 0.0) for point in points]
            axes.errorbar(xs, ys, yerr=errors, fmt="o-", capsize=3, markersize=4, label=method)
        axes.set_xlabel("KL (nats per response)")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    if methods:
        figure.axes[0].legend()
    s = runs[0].settings
    figure.suptitle(f"{Path(s.policy).name} on {Path(s.data).name}, seed {s.seed}")
    figure.savefig(path)
