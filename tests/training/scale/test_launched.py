"""Starting TRL's processes from Python: what is followed, what is ended, what is said."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest
from scaled_runs import needs_trl, write_files

from rlhf_lessons.training import DPOSettings, DPOStep, train_dpo_with_trl
from rlhf_lessons.training.scale import handed, launched

SETTINGS = DPOSettings(steps=2, batch_size=4)


@pytest.fixture
def files(tmp_path):
    write_files(tmp_path)
    return {
        "policy": tmp_path / "policy",
        "pairs": tmp_path / "pairs.jsonl",
        "output": tmp_path / "out",
    }


def follow():
    return launched.follow("train_dpo_with_trl", ["accelerate", "launch"], 2, DPOStep)


def test_ending_a_launcher_ends_what_it_launched():
    """Also what writes nothing, and so would never notice that nobody reads."""
    sleeper = "import time; time.sleep(60)"
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleeper!r}])"
    running = subprocess.Popen([sys.executable, "-c", launcher])
    family = psutil.Process(running.pid)
    while not family.children():
        time.sleep(0.01)
    children = family.children()
    launched.end(running)
    assert psutil.wait_procs(children, timeout=10)[1] == []


@needs_trl
def test_leaving_the_loop_ends_what_was_started(files):
    settings = DPOSettings(steps=100_000, batch_size=4)
    run = train_dpo_with_trl(*files.values(), settings, processes=1, cpu=True)
    assert next(run).step == 1
    started = psutil.Process().children(recursive=True)
    started = [p for p in started if any("rlhf_lessons" in word for word in p.cmdline())]
    assert len(started) == 2  # the launcher and the process that trains
    run.close()
    assert psutil.wait_procs(started, timeout=10)[1] == []
    assert not files["output"].exists()


def test_an_interrupt_of_our_group_stops_the_loop_and_not_the_processes(tmp_path):
    """A notebook's stop button goes to the group of the kernel; a stand-in says in which it is."""
    script, group = tmp_path / "launcher.py", tmp_path / "group"
    script.write_text(f"import os; open({str(group)!r}, 'w').write(str(os.getpgrp()))")
    popen = subprocess.Popen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            launched.subprocess, "Popen", lambda _, **how: popen([sys.executable, script], **how)
        )
        assert list(follow()) == []
    assert int(group.read_text()) != os.getpgrp()


def test_a_run_that_fails_says_why(tmp_path):
    """The processes are real, the launcher a stand-in: what it writes comes back as the error."""
    script = tmp_path / "launcher.py"
    script.write_text("import sys; print('noise'); sys.exit('scale: the model is no model')")
    run = follow()
    popen = subprocess.Popen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            launched.subprocess, "Popen", lambda _, **how: popen([sys.executable, script], **how)
        )
        with pytest.raises(RuntimeError, match="failed:\nscale: the model is no model"):
            list(run)
        script.write_text("print('{\"processes\": 1}')")
        with pytest.raises(RuntimeError, match="2 processes were asked for, but .* started 1"):
            list(follow())


TORCHRUN_SAYS = (
    """\
W1129 19:22:03.017000 6905 torch/distributed/elastic/multiprocessing/api.py:1028] Sending SIGTERM
E1129 19:22:03.444000 6905 torch/distributed/elastic/multiprocessing/api.py:1002] failed
Traceback (most recent call last):
  File "/site-packages/accelerate/commands/launch.py", line 1029, in multi_gpu_launcher
    distrib_run.run(args)
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
"""
    + "exitcode  : 2 (pid: 6947)\n" * 20
)


@pytest.mark.parametrize("launcher_says", [TORCHRUN_SAYS, ""])
def test_the_last_words_of_a_process_are_the_reason_and_not_the_launchers_summary(launcher_says):
    """Its own traceback comes whole, the launcher's doesn't."""
    process_says = [f"line {number}" for number in range(20)]
    process_says += ["Traceback (most recent call last):", '  File "own.py"', "KeyError: 'beta'"]
    said = [*process_says, *launcher_says.splitlines()]
    assert launched.why(said).splitlines() == process_says[-15:]


def test_where_no_process_said_a_word_the_launcher_has_it():
    assert launched.why(TORCHRUN_SAYS.splitlines()) == "\n".join(["exitcode  : 2 (pid: 6947)"] * 15)


@needs_trl
@pytest.mark.parametrize("processes", [1, 2])
def test_a_word_that_the_command_does_not_know_is_named(processes):
    """Of the real launcher: what the process wrote stands before all that the launcher adds."""
    words = ["accelerate", "launch", *["--multi_gpu"][: processes - 1], "--num_processes"]
    words += [str(processes), "--num_machines", "1", "--main_process_port", "0"]
    words += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    words += ["-m", "rlhf_lessons", "scale", "nothing"]
    with pytest.raises(RuntimeError, match="invalid choice: 'nothing'") as caught:
        list(launched.follow("train_dpo_with_trl", words, processes, DPOStep))
    assert "Error" not in str(caught.value) and "Traceback" not in str(caught.value)


@needs_trl
def test_files_are_looked_at_before_anything_is_started(files, tmp_path):
    missing = {**files, "pairs": tmp_path / "none.jsonl"}
    with pytest.raises(FileNotFoundError, match="no file of pairs .*none.jsonl"):
        train_dpo_with_trl(*missing.values(), SETTINGS)
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "chosen": "b"}\n')
    bad = {**files, "pairs": tmp_path / "bad.jsonl"}
    with pytest.raises(ValueError, match="line 1: the column 'rejected' is missing"):
        train_dpo_with_trl(*bad.values(), SETTINGS)
    there = {**files, "output": tmp_path}
    with pytest.raises(ValueError, match="output must be a new folder"):
        train_dpo_with_trl(*there.values(), SETTINGS)


def test_without_trl_it_says_how_to_install_it(files, monkeypatch):
    monkeypatch.setattr(
        handed.importlib.util, "find_spec", lambda name: None if name == "trl" else name
    )
    with pytest.raises(ModuleNotFoundError, match=r"trl must be installed .*rlhf-lessons\[scale\]"):
        train_dpo_with_trl(*files.values(), SETTINGS)
