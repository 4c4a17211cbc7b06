from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient

from rlhf_lessons.classroom import Choice, Slider, Toggle, explore, watch
from rlhf_lessons.classroom.widgets.run import Run, _NotebookView, _panel_texts

GAMMA = Slider("γ", "discount", 0.0, 1.0, 0.9, step=0.01)
BETA = Slider("β", "KL strength", 0.001, 10.0, 0.1, step=1, log=True)
COUNT = Slider("n", "candidates", 1, 16, 4)


class Drawing:
    """A draw function that counts its calls."""

    def __init__(self):
        self.calls = []
        self.figures = set()

    def __call__(self, figure, **values):
        self.calls.append(values)
        self.figures.add(id(figure))
        if not figure.axes:
            figure.subplots().plot([0, 1], [0, 1])
        if values.get("gamma") == 0.5:
            raise ZeroDivisionError("half")
        return f"picture of {values}"


def message(widget):
    return widget._message.value


# --- sliders -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slider", "text", "value"),
    [
        (GAMMA, "0.25", 0.25),
        (GAMMA, " 0,25 ", 0.25),
        (GAMMA, "1", 1.0),
        (BETA, "1e-3", 0.001),
        (COUNT, "8", 8),
    ],
)
def test_what_a_number_box_accepts(slider, text, value):
    assert slider.read(text) == value
    assert isinstance(slider.read(text), int) == slider.whole


@pytest.mark.parametrize(
    ("slider", "text", "complaint"),
    [
        (GAMMA, "1.5", "γ discount takes a number from 0 to 1; got 1.5"),
        (GAMMA, "much", "'much' is no number"),
        (GAMMA, "", "'' is no number"),
        (GAMMA, "nan", "from 0 to 1; got nan"),
        (BETA, "0", "from 0.001 to 10; got 0"),
        (COUNT, "2.5", "a whole number from 1 to 16; got 2.5"),
    ],
)
def test_what_a_number_box_refuses(slider, text, complaint):
    with pytest.raises(ValueError, match=complaint):
        slider.read(text)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"minimum": 1.0, "maximum": 1.0, "value": 1.0}, "minimum must be below maximum"),
        ({"minimum": 0.0, "maximum": 1.0, "value": 2.0}, r"value must lie in \[0.0, 1.0\], got 2"),
        ({"minimum": 0.0, "maximum": 1.0, "value": 0.5, "step": 0.0}, "step must be positive"),
        ({"minimum": 0.0, "maximum": 1.0, "value": 0.5, "log": True}, "needs minimum > 0"),
        ({"minimum": "0", "maximum": 1.0, "value": 0.5}, "minimum must be a number"),
    ],
)
def test_a_slider_that_cannot_be(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        Slider("γ", "discount", **arguments)


def test_a_choice_that_cannot_be():
    with pytest.raises(ValueError, match="must not be empty"):
        Choice("opponent", [])
    with pytest.raises(ValueError, match="must be one of"):
        Choice("opponent", ["random"], value="nobody")


# --- explore -------------------------------------------------------------------------------------


def test_every_kind_of_control_reaches_the_drawing():
    draw = Drawing()
    widget = explore(
        draw,
        gamma=GAMMA,
        count=COUNT,
        who=Choice("opponent", {"at random": 1, "perfect": 2}),
        grid=Toggle("grid", True),
    )
    assert draw.calls == [{"gamma": 0.9, "count": 4, "who": 1, "grid": True}]
    widget._controls["gamma"]._slider.value = 0.3
    widget._controls["count"]._slider.value = 7
    widget._controls["who"].widget.value = 2
    widget._controls["grid"].widget.value = False
    assert draw.calls[-1] == {"gamma": 0.3, "count": 7, "who": 2, "grid": False}
    assert isinstance(draw.calls[-1]["count"], int)
    assert len(draw.calls) == 5
    assert len(draw.figures) == 1
    assert widget.alt in widget._picture.value.replace("&#x27;", "'")


def test_slider_and_box_hold_one_value():
    draw = Drawing()
    widget = explore(draw, gamma=GAMMA, beta=BETA)
    gamma, beta = widget._controls["gamma"], widget._controls["beta"]
    gamma._slider.value = 0.31
    assert gamma._box.value == "0.31"
    gamma._box.value = "0.77"
    assert gamma._slider.value == 0.77
    # One step of the slider is a power of ten; the box shows the value, never the exponent.
    beta._slider.value = 10**-2.0
    assert beta._box.value == "0.01"
    assert beta.value == 0.01
    assert len(draw.calls) == 4


def test_a_refused_number_changes_nothing_but_the_message():
    draw = Drawing()
    widget = explore(draw, gamma=GAMMA)
    picture = widget._picture.value
    control = widget._controls["gamma"]
    control._box.value = "2"
    assert "got 2. Kept 0.9" in message(widget)
    assert 'role="alert"' in message(widget)
    assert (control._box.value, control._slider.value, control.value) == ("0.9", 0.9, 0.9)
    assert widget._picture.value == picture
    assert len(draw.calls) == 1
    control._box.value = "0.8"
    assert message(widget) == ""


def test_equal_values_are_not_drawn_again():
    draw = Drawing()
    widget = explore(draw, gamma=GAMMA)
    widget._controls["gamma"]._box.value = "0.90"
    assert len(draw.calls) == 1
    widget._refresh()
    assert len(draw.calls) == 1


def test_an_error_is_shown_and_survived():
    draw = Drawing()
    widget = explore(draw, gamma=GAMMA)
    good = widget._picture.value
    widget._controls["gamma"]._box.value = "0.5"
    assert "ZeroDivisionError: half" in message(widget)
    assert "gamma=0.5" in message(widget)
    assert widget._picture.value == good
    # The same number again is a second try: the learner may have mended the function.
    widget._controls["gamma"]._box.value = "0.50"
    assert len(draw.calls) == 3
    # Back to the value of the last good picture: it is drawn again, for the figure is half-made.
    widget._controls["gamma"]._box.value = "0.9"
    assert message(widget) == ""
    assert len(draw.calls) == 4


def test_an_error_in_the_first_picture_is_raised():
    with pytest.raises(ZeroDivisionError):
        explore(Drawing(), gamma=Slider("γ", "discount", 0.0, 1.0, 0.5))


def test_a_picture_without_words_is_refused():
    with pytest.raises(TypeError, match="must return the picture in words"):
        explore(lambda figure: None)


def test_a_control_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="gamma must be a Slider, Choice or Toggle, got float"):
        explore(Drawing(), gamma=0.9)


def test_the_first_picture_is_there_without_a_kernel():
    bundle = explore(Drawing(), gamma=GAMMA, caption="What to see.")._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert bundle["text/plain"] == "picture of {'gamma': 0.9}\nWhat to see."


@pytest.mark.parametrize(
    ("slider", "reported", "next_step"),
    [
        (Slider("τ", "", minimum=0.1, maximum=5.0, value=1.0, log=True), 1.0061, 1.0463),
        (Slider("γ", "", minimum=0.0, maximum=1.0, value=0.905, step=0.01), 0.91, 0.92),
        (Slider("k", "", minimum=0, maximum=100, value=12, step=5), 10, 15),
    ],
)
def test_the_page_does_not_round_a_value_that_nobody_dragged(slider, reported, next_step):
    seen = []

    def draw(figure, x):
        seen.append(x)
        return "a picture"

    control = explore(draw, x=slider)._controls["x"]
    control._slider.value = reported
    assert control.value == slider.value
    assert seen == [slider.value]
    control._slider.value = next_step
    assert seen == [slider.value, pytest.approx(next_step)]
    assert control._box.value == slider.show(next_step)


def test_a_log_slider_of_whole_numbers_gives_whole_numbers_and_never_gets_stuck():
    draw = Drawing()
    widget = explore(draw, n=Slider("n", "completions", 1, 1_000, 30, step=0.1, log=True))
    n = widget._controls["n"]
    for tenth in range(31):  # from one end to the other, as the arrow keys do
        n._slider.value = 10 ** (tenth / 10)
        # What the page holds is not taken back, or the next key would start behind it.
        assert n._slider.value == 10 ** (tenth / 10)
    seen = [call["n"] for call in draw.calls[1:]]
    assert seen == sorted(set(seen)) and (seen[0], seen[-1]) == (1, 1_000)
    assert all(type(value) is int for value in seen)
    assert n._box.value == "1000"
    n._box.value = "2.5"
    assert "takes a whole number from 1 to 1000; got 2.5. Kept 1000." in message(widget)


def test_the_range_of_a_slider_follows_another_control():
    draw = Drawing()
    ends = {"short": 19, "long": 25}
    step = Slider("t", "step", 1, 25, 20, end=lambda values: ends[values["of"]])
    widget = explore(draw, of=Choice("of", list(ends)), step=step)
    of, t = widget._controls["of"], widget._controls["step"]
    assert draw.calls == [{"of": "short", "step": 19}]
    assert (t._slider.max, t._slider.value, t._box.value) == (19, 19, "19")
    t._box.value = "20"
    assert "from 1 to 19; got 20. Kept 19." in message(widget)
    of.widget.value = "long"
    t._box.value = "24"
    assert t._slider.max == 25
    of.widget.value = "short"  # one drawing, at the new end
    assert draw.calls[1:] == [
        {"of": "long", "step": 19},
        {"of": "long", "step": 24},
        {"of": "short", "step": 19},
    ]


def test_texts_are_escaped():
    widget = explore(lambda figure: "a < b", caption="<script>")
    assert "a &lt; b" in widget._picture.value
    assert "<script>" not in widget.widget.children[-1].value


# --- watch ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    step: int
    total: int
    loss: float
    accuracy: float | None = None


def steps(total=5, fail_at=None, then=lambda step: None):
    for step in range(1, total + 1):
        if step == fail_at:
            raise FloatingPointError("the loss is NaN")
        then(step)
        yield Step(step, total, 1.0 / step, 0.5 if step == 3 else None)


def test_a_run_keeps_its_records_and_prints_one_line(capfd):
    run = watch(steps(), curves=("loss", "accuracy"), title="fitting")
    assert [record.step for record in run.records] == [1, 2, 3, 4, 5]
    assert run.last is run.records[-1]
    assert run.finished
    out, err = capfd.readouterr()
    # The latest value of a curve that not every step measures.
    assert out == "fitting: 5 of 5 steps · loss 0.2 · accuracy 0.5\n"
    assert err == ""


@pytest.mark.parametrize(
    ("names", "title", "labels"),
    [
        (["chosen_log_prob", "rejected_log_prob"], "log prob", ["chosen", "rejected"]),
        (["mean_error", "max_error"], "error", ["mean", "max"]),
        (["loss", "validation_loss"], "loss, validation loss", ["loss", "validation loss"]),
        (["objective", "mean_return"], "objective, mean return", ["objective", "mean return"]),
        (["clip_fraction"], "clip fraction", ["clip fraction"]),
    ],
)
def test_the_words_that_all_curves_end_in_stand_above_the_panel(names, title, labels):
    assert _panel_texts(names) == (title, labels)


def test_stopping_between_steps_and_resuming(capsys):
    run = Run(steps(then=lambda step: run.stop() if step == 2 else None))
    run.resume()
    assert not run.finished
    assert len(run.records) == 2
    assert (
        "stopped after 2 of 5 steps · loss 0.5 · resume() on this run goes on"
        in capsys.readouterr().out
    )
    assert run.resume() is run
    assert run.finished
    assert [record.step for record in run.records] == [1, 2, 3, 4, 5]
    run.resume()  # nothing is left to do
    assert len(run.records) == 5


def test_an_interrupt_ends_the_step_not_the_run():
    def interrupt(step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    run = watch(steps(then=interrupt))
    assert [record.step for record in run.records] == [1, 2]
    assert signal.getsignal(signal.SIGINT) is before
    run.resume()
    assert run.finished
    assert len(run.records) == 5


def test_a_second_interrupt_goes_through_and_the_records_stay():
    def insist(step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        watch(steps(then=insist))
    assert len(caught.value.run.records) == 2


def test_an_exception_of_the_loop_comes_with_the_records():
    with pytest.raises(FloatingPointError, match="NaN") as caught:
        watch(steps(fail_at=4))
    assert [record.step for record in caught.value.run.records] == [1, 2, 3]
    assert not caught.value.run.finished


def test_a_run_on_another_thread_leaves_signals_alone():
    results = []
    thread = threading.Thread(target=lambda: results.append(watch(steps())))
    thread.start()
    thread.join()
    assert results[0].finished


def test_a_run_is_not_entered_twice():
    run = Run(steps(then=lambda step: run.resume()))
    with pytest.raises(RuntimeError, match="still going on"):
        run.resume()


def test_curves_are_checked():
    with pytest.raises(ValueError, match=r"fields of the record \(step, total, loss, accuracy\)"):
        watch(steps(), curves=("los",))
    with pytest.raises(TypeError, match=r"\('loss',\)"):
        watch(steps(), curves="loss")
    with pytest.raises(ValueError, match="every must be"):
        watch(steps(), every=-1)


def test_the_names_of_curves_that_end_together_stand_apart():
    records = [Step(step, 3, 1 / step, 1.001 / step) for step in (1, 2, 3)]
    run = Run(records, curves=[("loss", "accuracy")])
    run.resume()
    view = _NotebookView(run)
    view._redraw(compression=1)
    loss, accuracy = (view._labels[name].xyann[1] for name in ("loss", "accuracy"))
    assert abs(accuracy - loss) > 10  # points; the letters are 11 high
    view._redraw(compression=1)
    assert accuracy - loss == pytest.approx(
        view._labels["accuracy"].xyann[1] - view._labels["loss"].xyann[1], abs=2
    )


def test_a_curve_without_a_value_yet_shows_no_name():
    run = Run([Step(1, 1000, 0.5)], curves=[("loss", "accuracy")])
    run.resume()
    view = _NotebookView(run)
    view._redraw(compression=1)
    assert [view._labels[name].get_visible() for name in ("loss", "accuracy")] == [True, False]
    run.records.append(Step(2, 1000, 0.4, 0.7))
    view._redraw(compression=1)
    assert view._labels["accuracy"].get_visible()


def test_a_short_run_has_no_half_steps():
    run = Run(steps(3))
    run.records.extend(steps(3))
    view = _NotebookView(run)
    view._redraw(compression=1)
    assert all(tick == round(tick) for tick in view._figure.axes[0].get_xticks())


def test_the_last_picture_does_not_depend_on_how_often_it_was_drawn():
    records = [Step(step, 50, 1000 / step, 0.3 * step) for step in range(1, 51)]
    kept = []
    for drawn_at in ((), (1, 2, 7, 20, 40)):
        run = Run(records, curves=[("loss", "accuracy")])
        run.resume()
        view = _NotebookView(run)
        view._handle = SimpleNamespace(update=lambda bundle, raw: kept.append(bundle["image/png"]))
        for count in drawn_at:
            run.records[:] = records[:count]
            view._redraw(compression=1)
        run.records[:] = records
        view.__exit__()
    assert kept[0] == kept[1]


def test_one_step_is_no_steps(capsys):
    watch(iter([SimpleNamespace(step=1, loss=2.0)]), title="short")
    assert capsys.readouterr().out == "short: 1 step · loss 2\n"


def test_an_empty_loop_and_one_without_numbers(capsys):
    run = watch(iter(()), title="nothing")
    assert run.finished
    assert run.last is None
    assert capsys.readouterr().out == "nothing: 0 steps\n"


def test_a_terminal_that_no_one_reads_stays_clean():
    code = (
        "from types import SimpleNamespace as S\n"
        "from rlhf_lessons.classroom import watch\n"
        "watch((S(step=i, total=3, loss=1 / i) for i in (1, 2, 3)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "training: 3 of 3 steps · loss 0.3333\n"
    assert done.stderr == ""


NOTEBOOK = """
from types import SimpleNamespace as S
from rlhf_lessons.classroom import explore, watch, Slider

def draw(figure, gamma):
    if not figure.axes:
        figure.subplots().plot([0, 1])
    return f"discount {gamma}"

run = watch((S(step=i, total=3, loss=1 / i) for i in (1, 2, 3)), every=0.0)
"""


def test_outputs_that_a_notebook_keeps():
    """Executed without a browser, a notebook keeps static pictures and no noise."""
    cells = [
        nbformat.v4.new_code_cell(NOTEBOOK),
        nbformat.v4.new_code_cell("explore(draw, gamma=Slider('γ', 'discount', 0.0, 1.0, 0.9))"),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown, printed = notebook.cells[0].outputs
    assert shown["data"]["image/png"]
    assert printed["text"] == "training: 3 of 3 steps · loss 0.3333\n"
    (explored,) = notebook.cells[1].outputs
    assert explored["data"]["image/png"]
    assert explored["data"]["text/plain"] == "discount 0.9"
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    assert not any(output.get("name") == "stderr" for output in outputs)
