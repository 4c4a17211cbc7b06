"""A pytest plugin for the ``grade`` command: what nbval saw in each cell, one JSON line a cell.

It runs beside nbval, in the process that holds the kernel, and adds what a grader needs: a time
limit for each cell, a look at the kernel four times a second (alive? within its memory?), and the
outcome of each check. Left out on purpose: any judgement about points, which ``grade`` makes.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from pathlib import Path
from queue import Empty

import nbval.plugin
import psutil
import pytest
from nbval.kernel import RunningKernel

from rlhf_lessons.classroom.exercises import CHECK_MIME

PLAN = "rlhf_grading"  # the entry in a cell's metadata that says what to do with it
LOOK_SECONDS = 0.25
# How long an interrupted cell may take to end. A kernel that does not end in time costs all that is
# below, so a machine that is busy with other things must not decide it.
INTERRUPT_SECONDS = 15.0
_EXAMINER = str(Path(__file__).with_name("examiner.py"))


class KernelLost(Exception):
    """The kernel is gone: it died by itself, or it was ended because of its memory."""


class WatchedKernel(RunningKernel):
    """nbval's kernel, noticed at once when it dies, and ended when it grows too large."""

    memory_bytes = float("inf")
    deadline = float("inf")
    next_look = 0.0
    seconds = float("inf")
    lost = ""
    unanswered = ""  # the cell whose time ran out before the kernel answered

    def execute_cell_input(self, cell_input, allow_stdin=None):
        """Run a cell, and begin to count its time."""
        if self.lost:
            raise KernelLost(self.lost)
        self.unanswered = ""
        self.deadline = time.monotonic() + self.seconds + INTERRUPT_SECONDS
        return super().execute_cell_input(cell_input, allow_stdin)

    def await_reply(self, msg_id, timeout=None):
        """Wait for the answer to a cell, and remember when none came in time."""
        try:
            return super().await_reply(msg_id, timeout)
        except Empty:
            self.unanswered = msg_id
            raise

    def still_answers(self) -> bool:
        """Say whether the interrupted cell was answered after all; end a kernel that is mute."""
        try:
            super().await_reply(self.unanswered, INTERRUPT_SECONDS)
        except Empty:
            self.lost = (
                "the kernel no longer answers: it was broken from inside (for example by a change "
                "of sys.stdout or of a built-in function)"
            )
            self.km.shutdown_kernel(now=True)
        except KernelLost:
            pass
        return not self.lost

    def get_message(self, stream, timeout=None):
        """Wait for a message in short steps, and look at the kernel between them."""
        end = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            # A cell that prints without end keeps messages coming after its time is up.
            if time.monotonic() > self.deadline:
                raise Empty
            if time.monotonic() > self.next_look:
                self._look()
            left = min(end, self.deadline) - time.monotonic()
            try:
                message = super().get_message(stream, timeout=max(0.0, min(LOOK_SECONDS, left)))
            except Empty:
                if time.monotonic() >= end:
                    self._look()
                    raise
                continue
            # No score comes from printed text or pictures, and a cell may show them without end.
            content = message["content"]
            if message["msg_type"] == "stream":
                content["text"] = ""
            elif "data" in content:
                content["data"] = {k: v for k, v in content["data"].items() if k == CHECK_MIME}
            return message

    def _look(self):
        self.next_look = time.monotonic() + LOOK_SECONDS
        if not self.is_alive():
            self.lost = "the kernel died (memory used up, a crash in a library, or exit())"
        else:
            try:
                used = psutil.Process(self.km.provisioner.pid).memory_info().rss
            except (psutil.Error, AttributeError):
                return
            if used > self.memory_bytes:
                self.lost = f"out of memory: more than {self.memory_bytes / 2**30:.1f} GiB used"
                self.km.shutdown_kernel(now=True)
        if self.lost:
            raise KernelLost(self.lost)


class Marks:
    """Gives each cell its limits before it runs, and writes down what happened after."""

    def __init__(self, path: Path, memory_gib: float):
        self.path = path
        WatchedKernel.memory_bytes = memory_gib * 2**30
        nbval.plugin.RunningKernel = WatchedKernel

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        """Set the cell's limit; for a check, put in the examiner with a proof for this cell."""
        plan = item.cell.metadata[PLAN]
        WatchedKernel.seconds = plan["seconds"]
        item.config.option.nbval_cell_timeout = plan["seconds"]
        item.output_timeout = INTERRUPT_SECONDS  # nbval's own patience, 5 s
        # The learner's marker comments must not skip a cell or excuse its error.
        item.options.update(skip=False, check=False, check_exception=False)
        item.proof = None
        if "exercise" in plan:
            item.proof = secrets.token_hex(16)
            item.cell.source = (
                f'__import__("runpy").run_path({_EXAMINER!r})["examine"]'
                f"({plan['exercise']!r}, {plan['function']}, {item.proof!r})"
            )
        self._begin = time.monotonic()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        """Write one line for the cell, from what it raised and showed."""
        report = yield
        if call.when == "call" or (call.when == "setup" and call.excinfo):
            error = call.excinfo.value if call.excinfo else None
            mark = {
                "place": item.cell.metadata[PLAN]["place"],
                "seconds": round(time.monotonic() - self._begin, 2),
                **self._status(item, error),
                "outcome": self._outcome(item),
            }
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(mark) + "\n")
        return report

    def _status(self, item, error) -> dict:
        kernel = item.parent.kernel
        if error is None and kernel.unanswered:
            # Its time was up, and then it ended without an error: the cell caught the interrupt, or
            # the kernel cannot answer any more.
            if kernel.still_answers():
                return {"status": "too long", "message": f"no end after {kernel.seconds:g} s"}
            error = KernelLost(kernel.lost)
        if error is None:
            return {"status": "ok"}
        if kernel is None:
            return {"status": "not reached", "message": f"no kernel could start: {error}"}
        raised = [out for out in item.test_outputs or [] if out.output_type == "error"]
        if isinstance(error, KernelLost):
            first = not getattr(item.parent, "told", False)
            item.parent.told = True
            message = str(error)
            if item.proof is None and time.monotonic() - self._begin < 2.0:
                message += "; the cause may be the cell before"  # exit() ends its own cell first
            return {"status": "lost" if first else "not reached", "message": message}
        if "Timeout of" in str(error):
            message = f"no end after {WatchedKernel.seconds:g} s"
            if not kernel.is_alive():
                message += ", and it did not let itself be interrupted: the kernel was ended"
                item.parent.told = True
            return {"status": "too long", "message": message}
        if raised:
            message = re.sub(r"\x1b\[[0-9;]*m", "", str(raised[-1].evalue))
            message = re.sub(r"\([^()]*, line (\d+)\)$", r"(line \1)", message)
            return {"status": "error", "error": raised[-1].ename, "message": message}
        if not kernel.is_alive():
            return {"status": "not reached", "message": kernel.lost or "the kernel had been ended"}
        return {"status": "error", "error": type(error).__name__, "message": str(error)}

    def _outcome(self, item) -> dict | None:
        """The outcome that this cell's own check showed. Any other display is ignored."""
        for output in item.test_outputs or []:
            shown = output.get("data", {}).get(CHECK_MIME)
            if item.proof and isinstance(shown, dict) and shown.get("proof") == item.proof:
                return shown
        return None


def pytest_addoption(parser):
    """Add the options that the ``grade`` command sets."""
    group = parser.getgroup("rlhf_lessons")
    group.addoption("--marks", type=Path, help="file for one JSON line per cell")
    group.addoption("--kernel-memory", type=float, help="GiB that a kernel may use")


def pytest_configure(config):
    """Take up the work when the ``grade`` command asks for it."""
    if config.option.marks:
        marks = Marks(config.option.marks, config.option.kernel_memory)
        config.pluginmanager.register(marks, "rlhf-marks")
