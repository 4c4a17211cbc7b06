"""Widgets as a learner meets them: in JupyterLab, by keyboard, by mouse, by typing."""

from __future__ import annotations

import re

from jupyter_page import contrast, look, luminance

EXPLORE = """
from rlhf_lessons.classroom import Choice, Slider, Toggle, explore

def draw(figure, gamma, beta, opponent, grid):
    if gamma == 0.5:
        raise ValueError("no half measures")
    if not figure.axes:
        axes = figure.subplots()
        axes.plot(range(20), [1] * 20)
        axes.set(ylim=(0, 1.05), xlabel="step t", ylabel="weight", title="γ to the power of t")
    axes = figure.axes[0]
    axes.lines[0].set_ydata([gamma ** t for t in range(20)])
    axes.grid(grid)
    return f"discount {gamma:.3g}, beta {beta:.3g}, {opponent}, grid {grid}"

explore(
    draw,
    gamma=Slider("γ", "discount", 0.0, 1.0, 0.9, step=0.01),
    beta=Slider("β", "KL strength", 0.001, 10.0, 0.1, step=1, log=True),
    opponent=Choice("opponent", ["random", "minimax"]),
    grid=Toggle("grid lines", True),
    caption="A smaller γ forgets sooner.",
)
"""

BOARD = """
from rlhf_lessons.classroom import play
from rlhf_lessons.worlds.tic_tac_toe import exact_q_values, minimax_policy, random_policy

random = random_policy()

def lowest(board):
    return board.legal_moves()[0]

play(
    lowest,
    show={"π": random, "Q": exact_q_values(random, random)},
    caption="Blue squares promise more.",
)
"""

WATCH = """
import time
from dataclasses import dataclass
from rlhf_lessons.classroom import watch

@dataclass(frozen=True)
class Step:
    step: int
    total: int
    loss: float
    win_rate: float

delay = 0.2  # long enough to be stopped on the busiest machine; what follows sets it to 0

def loop():
    for step in range(1, 1001):
        time.sleep(delay)
        yield Step(step, 1000, 1 / step, 1 - 1 / step)

run = watch(loop(), curves=("loss", "win_rate"), title="lesson")
"""

RESUME = "delay = 0\nrun.resume();"

GLOSSARY = """
from rlhf_lessons.classroom.glossary import Entry, Glossary

Glossary([
    Entry("policy", "The chance of each action in a state.", "π(a|s)", 1, "策略", "chính sách"),
    Entry("return", "The discounted sum of rewards.", "G = Σ γᵗ r", 1, "回报", "lợi tức"),
], "")
"""

HIDE_CODE = """() => {
    for (const code of document.querySelectorAll('.jp-Cell-inputWrapper')) {
        code.style.display = 'none';
    }
}"""


def wait_alt(notebook, part):
    """Wait for a picture whose words contain the part, and return its data."""
    image = notebook.output(0).locator(f'img[alt*="{part}"]')
    image.wait_for()
    return image.get_attribute("src")


def test_a_picture_follows_keys_typing_and_choices(notebook_of):
    notebook = notebook_of(EXPLORE)
    page = notebook.page
    notebook.run_all()
    first = wait_alt(notebook, "discount 0.9,")
    page.evaluate(HIDE_CODE)
    look(notebook.page, "explore_light")
    output = notebook.output(0)

    # A handle says its name, and a logarithmic one its value, not the power of ten.
    discount = output.get_by_role("slider", name="γ discount")
    strength = output.get_by_role("slider", name="β KL strength")
    assert strength.get_attribute("aria-valuetext") == "0.1"
    # White on a white page, it is seen by its rim.
    assert contrast(page, ".rlhf-lessons-explore .noUi-handle", "borderColor") >= 3.0
    discount.focus()
    page.keyboard.press("ArrowRight")
    second = wait_alt(notebook, "discount 0.91,")
    assert second != first
    box = output.get_by_role("textbox", name="γ discount")
    assert box.input_value() == "0.91"

    # One step of the logarithmic slider is a factor of ten, and the box shows the value.
    strength.focus()
    page.keyboard.press("ArrowRight")
    wait_alt(notebook, "beta 1,")
    assert output.get_by_role("textbox", name="β KL strength").input_value() == "1"
    assert strength.get_attribute("aria-valuetext") == "1"

    box.fill("0.25")
    page.keyboard.press("Enter")
    assert wait_alt(notebook, "discount 0.25,") != second

    for refused in ("1.5", "much"):
        box.fill(refused)
        page.keyboard.press("Enter")
        output.get_by_role("alert").filter(has_text=refused).wait_for()
        page.wait_for_function("box => box.value === '0.25'", arg=box.element_handle())
    look(notebook.page, "explore_refused")

    box.fill("0.5")
    page.keyboard.press("Enter")
    output.get_by_role("alert").filter(has_text="no half measures").wait_for()
    wait_alt(notebook, "discount 0.25,")  # the last good picture stays
    look(notebook.page, "explore_error")

    output.get_by_label("opponent").select_option("minimax")
    output.get_by_label("grid lines").uncheck()
    box.fill("0.6")
    page.keyboard.press("Enter")
    wait_alt(notebook, "discount 0.6, beta 1, minimax, grid False")
    assert output.get_by_role("alert").count() == 0
    assert output.get_by_text("A smaller γ forgets sooner.").is_visible()


def test_the_board_answers_clicks_and_keys(notebook_of):
    notebook = notebook_of(BOARD)
    page = notebook.page
    notebook.run_all()
    output = notebook.output(0)
    output.get_by_role("button", name="centre, empty").wait_for()
    page.evaluate(HIDE_CODE)

    def seen(square):
        return page.evaluate(
            f"""() => getComputedStyle(document.querySelector('.rlhf-lessons-square-{square}'),
                '::before').content"""
        )

    assert "×" not in seen(4)
    output.get_by_role("button", name="centre, empty").click()
    output.get_by_role("button", name="centre, X").wait_for()
    output.get_by_role("button", name="top left, O").wait_for()
    assert "×" in seen(4)
    assert "○" in seen(0)

    numbers = output.get_by_label("on the squares")
    assert numbers.input_value() == "nothing"
    numbers.select_option("Q")
    output.get_by_role("button", name=re.compile(r"top middle, empty, Q [+−]?\d\.\d\d")).wait_for()
    look(notebook.page, "board_light")

    # By keyboard: Tab from the taken top left to the top middle, whose name says what it holds.
    output.get_by_role("button", name="top left, O").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    output.get_by_role("button", name="top middle, X").wait_for()
    output.get_by_role("alert").filter(has_text="You took top middle").wait_for()

    # A taken square is refused in words, and nothing else changes.
    output.get_by_role("button", name="centre, X").click()
    output.get_by_role("alert").filter(has_text="taken").wait_for()

    # The agent sits on top left and top right; the middle column is open.
    output.get_by_role("button", name="bottom middle, empty").focus()
    page.keyboard.press("Enter")
    output.get_by_role("alert").filter(has_text="You win").wait_for()
    output.get_by_text("won 1 · drawn 0 · lost 0").wait_for()
    look(notebook.page, "board_won")

    output.get_by_label("who begins").select_option("agent")
    output.get_by_role("button", name="top left, X").wait_for()
    output.get_by_role("button", name="New game").click()
    output.get_by_role("button", name="centre, empty").wait_for()


def test_a_run_stops_by_button_and_goes_on(notebook_of):
    notebook = notebook_of(WATCH, RESUME)
    notebook.run_cell(0)
    output = notebook.output(0)
    early = wait_alt(notebook, "Curves of lesson")
    notebook.page.wait_for_function(
        "early => document.querySelector('img[alt*=\"Curves\"]').src !== early", arg=early
    )
    look(notebook.page, "watch_running")
    output.get_by_role("button", name="Stop").click()
    stopped = output.locator(".jp-OutputArea-output pre").filter(has_text="stopped after")
    stopped.wait_for()
    assert int(re.search(r"stopped after (\d+) of 1000", stopped.inner_text())[1]) < 1000
    assert output.get_by_role("button", name="Stop").count() == 0
    notebook.run_cell(1)
    notebook.output(1).get_by_text("lesson: 1000 of 1000 steps").first.wait_for()
    look(notebook.page, "watch_done")


def test_a_run_survives_the_interrupt_of_the_kernel(notebook_of):
    notebook = notebook_of(WATCH, RESUME)
    notebook.run_cell(0)
    wait_alt(notebook, "Curves of lesson")
    notebook.command("kernelmenu:interrupt")
    stopped = notebook.output(0).locator("pre").filter(has_text="resume() on this run goes on")
    stopped.wait_for()
    assert "Traceback" not in notebook.output(0).inner_text()
    notebook.run_cell(1)
    notebook.output(1).get_by_text("lesson: 1000 of 1000 steps").first.wait_for()


def test_the_glossary_is_searched_as_one_types(notebook_of):
    notebook = notebook_of(GLOSSARY)
    notebook.run_all()
    output = notebook.output(0)
    output.get_by_role("row", name=re.compile("policy")).wait_for()
    box = output.get_by_label("search")
    box.focus()
    notebook.page.keyboard.type("loi tuc")
    output.get_by_text("Glossary, 1 entry").wait_for()
    assert output.get_by_role("row", name=re.compile("^return")).is_visible()
    assert output.get_by_role("row", name=re.compile("^policy")).count() == 0


def test_everything_can_be_read_in_the_dark_theme(notebook_of):
    notebook = notebook_of(EXPLORE, BOARD, GLOSSARY, theme="JupyterLab Dark")
    page = notebook.page
    page.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
    notebook.run_all()
    notebook.output(2).get_by_role("row", name=re.compile("policy")).wait_for()
    page.evaluate(HIDE_CODE)
    look(notebook.page, "dark_explore")
    notebook.cell(1).scroll_into_view_if_needed()
    notebook.output(1).get_by_label("on the squares").select_option("Q")
    look(notebook.page, "dark_board")
    notebook.cell(2).scroll_into_view_if_needed()
    look(notebook.page, "dark_glossary")
    for text in (
        ".rlhf-lessons-explore p",
        ".rlhf-lessons-explore label",
        ".rlhf-lessons-board p",
        ".rlhf-lessons-board button.rlhf-lessons-square-0",
        ".rlhf-lessons-glossary td",
        ".rlhf-lessons-glossary th",
        ".rlhf-lessons-glossary caption",
    ):
        assert contrast(page, text) >= 4.5, text
    # The picture has a white ground of its own.
    assert luminance(page, ".rlhf-lessons-explore img", "ground") == 1.0
