from __future__ import annotations

import io
import time
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress, TaskID

from expunge.bench.jobs import Job, run_jobs
from expunge.errors import DataError
from tests.bench.work import leave_a_note, refuse, sleep


def quiet() -> Console:
    return Console(file=io.StringIO(), width=80)


def noting(notes: list[str], name: str, *after: str, seconds: float = 0.0) -> Job:
    def work() -> None:
        notes.append(f"+{name}")
        time.sleep(seconds)
        notes.append(f"-{name}")

    return Job(name=name, work=work, after=after)


@pytest.mark.usefixtures("in_threads")
def test_one_worker_takes_jobs_in_their_order() -> None:
    notes: list[str] = []
    console = quiet()
    run_jobs([noting(notes, name) for name in "abc"], workers=1, console=console)
    assert notes == ["+a", "-a", "+b", "-b", "+c", "-c"]
    assert [line.split()[:2] for line in console.file.getvalue().splitlines()] == [
        ["✓", name] for name in "abc"
    ]


@pytest.mark.usefixtures("in_threads")
def test_a_job_waits_for_those_it_comes_after_and_others_go_first() -> None:
    notes: list[str] = []
    jobs = [noting(notes, "a", seconds=0.1), noting(notes, "b", "a", "c"), noting(notes, "c", seconds=0.2)]
    run_jobs(jobs, workers=2, console=quiet())
    assert notes.index("+c") < notes.index("-a")  # side by side
    assert notes[-2:] == ["+b", "-b"]


@pytest.mark.usefixtures("in_threads")
def test_never_more_jobs_at_once_than_workers() -> None:
    notes: list[str] = []
    run_jobs([noting(notes, name, seconds=0.02) for name in "abcde"], workers=2, console=quiet())
    running, most = 0, 0
    for note in notes:
        running += 1 if note[0] == "+" else -1
        most = max(most, running)
    assert most == 2


@pytest.mark.usefixtures("in_threads")
def test_an_error_stops_what_was_to_come() -> None:
    notes: list[str] = []
    jobs = [Job(name="bad", work=refuse), noting(notes, "b", "bad"), noting(notes, "c", "bad")]
    with pytest.raises(DataError, match="it is empty"):
        run_jobs(jobs, workers=1, console=quiet())
    assert notes == []


@pytest.mark.usefixtures("in_threads")
def test_a_job_that_waits_for_none_that_comes_is_an_error_and_no_endless_wait() -> None:
    with pytest.raises(ValueError, match="'b' waits for"):
        run_jobs([Job(name="b", work=refuse, after=("nobody",))], workers=1, console=quiet())


@pytest.mark.usefixtures("in_threads")
def test_the_bar_follows_the_run_behind_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.bench.jobs.POLL", 0.02)
    seen: set[tuple[int, int]] = set()
    update = Progress.update

    def spy(bars: Progress, task: TaskID, *, completed: int, total: int) -> None:
        seen.add((completed, total))
        update(bars, task, completed=completed, total=total)

    monkeypatch.setattr(Progress, "update", spy)
    beats = tmp_path / "model.partial" / "stage-0" / "progress.json"
    beats.parent.mkdir(parents=True)
    beats.write_text('{"step": 30, "steps": 40}')
    job = Job(name="train", work=partial(sleep, 0.2), output=tmp_path / "model")
    run_jobs([job, Job(name="audit", work=partial(sleep, 0.1))], workers=2, console=quiet())
    assert seen == {(30, 40)}


def test_a_refusal_in_another_process_arrives_whole_and_ends_the_others(tmp_path: Path) -> None:
    started = time.monotonic()
    jobs = [
        Job(name="note", work=partial(leave_a_note, tmp_path / "note")),
        Job(name="long", work=partial(sleep, 600.0), after=("note",)),
        Job(name="bad", work=refuse, after=("note",)),
    ]
    with pytest.raises(DataError) as caught:
        run_jobs(jobs, workers=2, console=quiet())
    assert (caught.value.what, caught.value.fix) == ("the forget set", "Give it an example.")
    assert (tmp_path / "note").read_text() == "done"
    assert time.monotonic() - started < 300  # the long job did not get its ten minutes
