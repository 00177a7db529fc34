"""Checks at the same time: their order, their limits, and what becomes of those that need a failed one."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from mlops.core.errors import PreconditionError
from mlops.doctor.findings import Finding, Mark, bad, doubtful, good, skipped
from mlops.doctor.runner import Check, needed, run
from tests.support.waiting import HANG_S


def says(finding: Finding) -> Any:
    return lambda _facts: finding


def marks(findings: list[Finding]) -> list[tuple[str, Mark]]:
    return [(each.check, each.mark) for each in findings]


def test_findings_come_in_the_order_of_the_checks_whichever_ends_first() -> None:
    ended = threading.Event()

    def slow(_facts: Any) -> Finding:
        return good("slow") if ended.wait(HANG_S) else bad("too slow")

    def quick(_facts: Any) -> Finding:
        ended.set()
        return good("quick")

    findings = run([Check(name="slow", inspect=slow), Check(name="quick", inspect=quick)], None)

    assert [each.what for each in findings] == ["slow", "quick"]


def test_checks_that_need_nothing_of_each_other_run_at_the_same_time() -> None:
    meeting = threading.Barrier(5, timeout=HANG_S)

    def meet(_facts: Any) -> Finding:
        meeting.wait()  # breaks, and makes a finding, unless all five are here
        return good("met")

    findings = run([Check(name=f"check-{number}", inspect=meet) for number in range(5)], None)

    assert {each.what for each in findings} == {"met"}


def test_a_check_sees_what_the_one_that_it_needs_has_written_down() -> None:
    def write(context: dict[str, int]) -> Finding:
        time.sleep(0.02)
        context["seen"] = 7
        return good("written")

    def read(context: dict[str, int]) -> Finding:
        return good(str(context["seen"]))

    findings = run([Check(name="write", inspect=write), Check(name="read", inspect=read, after=("write",))], {})

    assert findings[1].what == "7"


def test_what_needs_a_failed_check_is_not_looked_at_and_says_what_lacked_first() -> None:
    looked = []

    def record(_facts: Any) -> Finding:
        looked.append(1)
        return good("looked")

    checks = [
        Check(name="login", inspect=says(bad("refused")), gives="no login"),
        Check(name="workspace", inspect=record, after=("login",), gives="no workspace"),
        Check(name="quota", inspect=record, after=("workspace",)),
        Check(name="python", inspect=says(good("3.11"))),
    ]

    findings = run(checks, None)

    assert not looked
    assert marks(findings) == [
        ("login", Mark.BAD),
        ("workspace", Mark.SKIPPED),
        ("quota", Mark.SKIPPED),
        ("python", Mark.GOOD),
    ]
    assert findings[1].what == findings[2].what == "not looked at: no login"


def test_a_doubt_stops_nothing_and_who_only_follows_looks_whatever_happened() -> None:
    checks = [
        Check(name="registry", inspect=says(bad("closed"))),
        Check(name="size", inspect=says(doubtful("old"))),
        Check(name="cluster", inspect=says(good("there")), after=("size",), follows=("registry",)),
    ]

    assert marks(run(checks, None))[2] == ("cluster", Mark.GOOD)


def test_a_check_that_hangs_is_a_finding_and_holds_up_only_what_needs_it() -> None:
    release, ended = threading.Event(), threading.Event()

    def hang(_facts: Any) -> Finding:
        release.wait(HANG_S)
        ended.set()
        return good("too late")

    checks = [
        Check(name="hangs", inspect=hang, limit_s=0.1, gives="no answer"),
        Check(name="needs-it", inspect=says(good("")), after=("hangs",)),
        Check(name="other", inspect=says(good("fine"))),
    ]
    findings = run(checks, None)
    assert not ended.is_set()
    release.set()

    assert marks(findings) == [("hangs", Mark.BAD), ("needs-it", Mark.SKIPPED), ("other", Mark.GOOD)]
    assert findings[0].what == "no answer within 0.1 s"


def test_an_answer_that_comes_too_late_changes_nothing() -> None:
    release = threading.Event()
    threads: list[threading.Thread] = []

    def late(_facts: Any) -> Finding:
        threads.append(threading.current_thread())
        release.wait(HANG_S)
        return good("too late")

    def wait_for_it(_facts: Any) -> Finding:
        release.set()
        threads[0].join(HANG_S)
        return good("waited")

    checks = [
        Check(name="late", inspect=late, limit_s=0.05),
        Check(name="then", inspect=wait_for_it, follows=("late",)),
    ]

    assert marks(run(checks, None)) == [("late", Mark.BAD), ("then", Mark.GOOD)]


def test_a_process_ends_without_the_checks_that_do_not() -> None:
    program = """
import threading
from mlops.doctor.runner import Check, run
(found,) = run([Check(name="hangs", inspect=lambda _: threading.Event().wait(), limit_s=0.1)], None)
print(found.what)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG_S, check=False)

    assert (done.returncode, done.stdout.strip()) == (0, "no answer within 0.1 s"), done.stderr


@pytest.mark.parametrize(
    ("error", "says_what", "hint"),
    [
        (PreconditionError("no quota", hint="ask for it"), "no quota", "ask for it"),
        (ZeroDivisionError("x"), "this check broke: ZeroDivisionError: x", "a bug in mlops"),
    ],
)
def test_what_a_check_raises_is_its_finding(error: Exception, says_what: str, hint: str) -> None:
    def fail(_facts: Any) -> Finding:
        raise error

    (finding,) = run([Check(name="quota", inspect=fail)], None)

    assert (finding.check, finding.mark, finding.what) == ("quota", Mark.BAD, says_what)
    assert hint in (finding.hint or "")


def test_a_check_with_nothing_to_say_is_a_bug() -> None:
    (finding,) = run([Check(name="mute", inspect=lambda _: [])], None)

    assert finding.mark is Mark.BAD


def test_a_named_check_brings_along_what_it_needs() -> None:
    checks = [
        Check(name="settings", inspect=says(good(""))),
        Check(name="login", inspect=says(good("")), after=("settings",)),
        Check(name="endpoint", inspect=says(skipped(""))),
        Check(name="quota", inspect=says(good("")), after=("login",), follows=("endpoint",)),
        Check(name="python", inspect=says(good(""))),
    ]

    assert [check.name for check in needed(checks, ["quota"])] == ["settings", "login", "endpoint", "quota"]


def test_the_doctors_own_checks_need_only_what_comes_before_them() -> None:
    from mlops.doctor import CHECKS

    earlier: set[str] = set()
    for check in CHECKS:
        assert {*check.after, *check.follows} <= earlier, check.name
        earlier.add(check.name)
    assert len(earlier) == len(CHECKS)
