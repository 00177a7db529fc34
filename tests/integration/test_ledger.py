"""The ledger against the local workspace: one holder at a time, no line lost, none twice, whatever call fails."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from mlops import cli
from mlops.azure.session import Session
from mlops.core.console import Console
from mlops.core.errors import AzureError
from mlops.ledger import (
    Begin,
    End,
    LeaseLost,
    Ledger,
    Locked,
    Outcome,
    Planned,
    TrafficMoved,
    Verdict,
    history,
    unfinished,
)
from tests.support.checkout import ROOT
from tests.support.waiting import HANG_S, until

from .conftest import Bench

pytestmark = [pytest.mark.slow]
LEASE_S = 15  # the shortest that Azure grants
HOLDER = """
    import sys
    from pathlib import Path
    from mlops.azure.session import connect
    from mlops.core.console import Console
    from mlops.ledger import Begin, Ledger
    from mlops.config.settings import load

    session = connect(load("local", Path("mlops.yaml")), Console(quiet=True))
    facts = {"machine": {"boot": "another machine", "pid": 1}} if sys.argv[2] == "far" else {}
    with Ledger(session, sys.argv[1], lease_s=int(sys.argv[3])).acquire(action="deploy") as lock:
        lock.write(Begin(model="m", version="7", **facts))
        print(lock.rollout, flush=True)
        sys.stdin.read()  # until the test ends
"""


@pytest.fixture(scope="module")
def session(workbench: Bench) -> Session:
    """A session that waits for one second only, so that a hanging call does not make the test hang."""
    found = workbench.session
    http = found.settings.http.model_copy(update={"read_timeout_s": 1})
    return dataclasses.replace(found, settings=found.settings.model_copy(update={"http": http}))


def ledger(session: Session, name: str | None = None) -> Ledger:
    return Ledger(session, name or f"chat-{uuid.uuid4().hex[:8]}", lease_s=LEASE_S)


def again(session: Session, found: Ledger) -> Ledger:
    """The same endpoint's, as another process has it."""
    return ledger(session, found.endpoint)


@contextmanager
def holder(
    endpoint: str, where: str = "here", *, lease_s: int = LEASE_S
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that holds it; its rollout."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), endpoint, where, str(lease_s)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=env, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


# -- one at a time -------------------------------------------------------------------------------------------------


def test_what_is_written_stands_there(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    found = ledger(session)
    assert found.read() == []
    with found.acquire(action="deploy") as lock:
        written = [
            lock.write(Begin(model="m", version="1", before={})),
            lock.write(Verdict(what="gate", verdict="pass", reason="Grüße\nvon hier")),
            lock.write(End(outcome=Outcome.RELEASED, traffic={"blue": 100})),
        ]
        assert lock.superseded is None
        assert lock.records() == written
        assert found.inspect() == (written, True)
    assert again(session, found).inspect() == (written, False)
    begin = written[0].facts
    assert isinstance(begin, Begin)
    assert begin.action == "deploy"
    assert begin.machine["pid"] == os.getpid()
    assert len(begin.commit or "") >= 40
    with found.acquire(action="rollback") as lock:
        assert lock.records() == written
        lock.write(Begin(model="m", version="0"))
    assert len(again(session, found).read()) == 4
    capsys.readouterr()
    assert cli.main(["endpoint", "history", "--endpoint", found.endpoint, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [entry["outcome"] for entry in shown["rollouts"]] == ["unfinished", "released"]
    assert cli.main(["endpoint", "history", "--endpoint", "never-there"]) == 0
    assert "no rollout of 'never-there'" in capsys.readouterr().out


def test_one_wins_and_the_other_says_who_and_since_when(session: Session) -> None:
    found = ledger(session)
    with found.acquire(action="deploy") as lock:
        begin = lock.write(Begin(model="m", version="7"))
        started = time.monotonic()
        other = again(session, found)
        with pytest.raises(Locked, match="deploy of m:7") as refused, other.acquire(action="deploy", wait_s=60):
            pass
        # a live process of this machine: no use in waiting. Without waiting it takes 0.04 s
        assert time.monotonic() - started < 60
    assert begin.by in str(refused.value)
    assert f"{begin.at:%F %T}" in str(refused.value)
    assert refused.value.exit_code == 3
    with again(session, found).acquire(action="deploy"):
        pass


def test_many_at_once_have_one_winner(session: Session) -> None:
    found = ledger(session)
    gate = threading.Barrier(6, timeout=HANG_S)
    winners: list[str] = []
    refused: list[int] = []

    def deploy(number: int) -> None:
        own = again(session, found)
        gate.wait()
        try:
            with own.acquire(action="deploy", wait_s=0) as lock:
                winners.append(lock.rollout)
                lock.write(Begin(version=str(number)))
                until(lambda: len(winners) + len(refused) == 6, what="an answer to all six")
                lock.write(End(outcome=Outcome.RELEASED))
        except Locked:
            refused.append(number)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(deploy, range(6)))
    assert (len(winners), len(refused)) == (1, 5)
    assert [(record.rollout, record.kind) for record in found.read()] == [(winners[0], "begin"), (winners[0], "end")]


def test_a_lease_is_given_back_after_an_error(session: Session) -> None:
    found = ledger(session)

    def fail() -> None:
        with found.acquire(action="deploy") as lock:
            lock.write(Begin())
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        fail()
    with again(session, found).acquire(action="deploy", wait_s=0) as lock:
        assert [record.kind for record in unfinished(lock.records())] == ["begin"]


def test_a_rollback_breaks_the_lease_and_the_deploy_stops_at_its_next_write(session: Session) -> None:
    found = ledger(session)
    with found.acquire(action="deploy") as deploy:
        deploy.write(Begin(model="m", version="7"))
        with again(session, found).acquire(action="rollback", break_lease=True) as rollback:
            assert rollback.superseded == deploy.rollout
            rollback.write(Begin(model="m", version="6"))
            with pytest.raises(LeaseLost, match="rollback of m:6") as stopped:
                deploy.write(TrafficMoved(traffic={"green": 100}))
            assert stopped.value.exit_code == 3
            assert deploy.lost
            with pytest.raises(LeaseLost):
                deploy.write(End())
            rollback.write(End(outcome=Outcome.ROLLED_BACK))
    records = found.read()
    assert [(record.rollout, record.kind) for record in records] == [
        (deploy.rollout, "begin"),
        (rollback.rollout, "begin"),
        (rollback.rollout, "end"),
    ]
    assert [entry.outcome for entry in history(records)] == ["rolled_back", "overruled"]
    with found.acquire(action="rollback", break_lease=True) as lock:
        assert lock.superseded is None


def test_a_killed_process_of_this_machine_is_replaced_at_once(session: Session) -> None:
    found = ledger(session)
    with holder(found.endpoint, lease_s=60) as (process, rollout):
        with pytest.raises(Locked, match="deploy of m:7"), found.acquire(action="deploy"):
            pass
        process.kill()
        process.wait(HANG_S)
        with found.acquire(action="deploy", wait_s=0) as lock:  # its lease is not waited for
            assert {record.rollout for record in unfinished(lock.records())} == {rollout}
            assert lock.superseded is None  # nobody was overruled
            lock.write(Begin())
    assert [entry.outcome for entry in history(found.read())] == ["unfinished", "interrupted"]


def test_lines_by_hand_are_skipped(session: Session) -> None:
    found = ledger(session)
    with found.acquire(action="deploy") as lock:
        lock.write(Begin())
        found.log.append(str(uuid.UUID(lock.rollout)), b"something else\n")
        lock.write(End())
    assert [record.kind for record in found.read()] == ["begin", "end"]


def test_a_long_ledger_is_written_anew_and_nothing_is_lost(session: Session) -> None:
    found = ledger(session)
    found.most_appends = 3
    with found.acquire(action="deploy") as lock:
        records = [lock.write(Begin()), lock.write(Planned()), lock.write(End())]
    with found.acquire(action="deploy") as lock:
        assert lock.records() == records
        content = found.log.read()
        assert content is not None
        assert (content.appends, content.is_copy) == (1, False)
        records.append(lock.write(Begin()))
        found.log._blob.create_append_blob(lease=str(uuid.UUID(lock.rollout)))  # as one does who dies half way
    assert found.read() == records[:3]
    with again(session, found).acquire(action="deploy") as lock:
        lock.write(End())
    content = found.log.read()
    assert content is not None
    assert (content.appends, content.is_copy) == (2, False)
    assert [record.kind for record in found.read()] == ["begin", "plan", "end", "end"]


def test_the_end_of_a_dead_rollout_is_written_by_the_next(session: Session) -> None:
    found = ledger(session)
    with found.acquire(action="deploy") as dead:
        dead.write(Begin(version="1"))
    with found.acquire(action="deploy") as lock:
        lock.write(Begin(version="2"))
        lock.write(End(outcome=Outcome.RESTORED), rollout=dead.rollout)
        assert {record.rollout for record in unfinished(lock.records())} == {lock.rollout}
        lock.write(End(outcome=Outcome.RELEASED))
    assert [entry.outcome for entry in history(found.read())] == ["released", "restored"]


# -- what takes time, all of it at the same time -------------------------------------------------------------------


def _kept(session: Session) -> tuple[list[bool], list[str]]:
    """Longer than a lease lasts, with one renewal that fails: whether another got it meanwhile."""
    found, control = ledger(session), ledger(session)
    lease = str(uuid.uuid4())
    with found.acquire(action="deploy") as lock:
        lock.write(Begin())
        assert control.log.acquire(str(uuid.uuid4()))  # later, and nobody renews it
        fault(found, kind="drop", times=2)
        until(lambda: control.log.acquire(lease), what="the end of a lease", every_s=0.2)
        taken = [again(session, found).log.acquire(lease), lock.lost]
        lock.write(End())
    return taken, [record.kind for record in found.read()]


def _left(session: Session) -> bool:
    """A holder of another machine that is dead: whether it was found unfinished by who came next."""
    found = ledger(session)
    with holder(found.endpoint, "far") as (process, rollout):
        with pytest.raises(Locked, match="since"), found.acquire(action="deploy", wait_s=1):
            pass
        process.kill()
        process.wait(HANG_S)
    patient = Ledger(session, found.endpoint, lease_s=60)  # waits for 65 s by default; the dead one's lasts for 15
    with patient.acquire(action="deploy") as lock:
        return unfinished(lock.records())[0].rollout == rollout


def _slept(session: Session) -> tuple[list[str], list[str], str]:
    """A holder that slept over the end of its lease goes on, unless somebody came and went meanwhile."""
    lone, visited = ledger(session), ledger(session)
    with lone.acquire(action="deploy") as first, visited.acquire(action="deploy") as second:
        for lock in (first, second):
            lock.write(Begin(version="1"))
            lock._done.set()  # no renewal, as on a laptop whose lid is closed

        def visit() -> bool:
            try:
                with again(session, visited).acquire(action="deploy", wait_s=0) as visitor:
                    visitor.write(Begin(model="m", version="2"))
            except Locked:
                return False
            return True

        until(visit, what="the end of the lease", every_s=0.2)  # the other's has ended before
        first.write(End())
        with pytest.raises(LeaseLost, match="m:2") as stopped:
            second.write(End())
    kinds = [[str(record.kind) for record in each.read()] for each in (lone, visited)]
    return kinds[0], kinds[1], str(stopped.value)


@pytest.fixture(scope="module", autouse=True)
def later(session: Session) -> Iterator[dict[str, Future[Any]]]:
    with ThreadPoolExecutor(3) as pool:
        yield {story.__name__: pool.submit(story, session) for story in (_kept, _left, _slept)}


def test_a_lease_is_kept_for_as_long_as_the_work_takes(later: dict[str, Future[Any]]) -> None:
    assert later["_kept"].result() == ([False, False], ["begin", "end"])


def test_a_lease_that_nobody_renews_is_taken_over(later: dict[str, Future[Any]]) -> None:
    assert later["_left"].result()


def test_who_slept_goes_on_unless_somebody_was_there(later: dict[str, Future[Any]]) -> None:
    assert later["_slept"].result()[:2] == (["begin", "end"], ["begin", "begin"])


# -- each call fails once ------------------------------------------------------------------------------------------

FAULTS: dict[str, dict[str, Any]] = {
    "429": {"kind": "status", "status": 429},
    "429 with Retry-After": {"kind": "status", "status": 429, "retry_after": 1},
    "500": {"kind": "status", "status": 500},
    "503": {"kind": "status", "status": 503},
    "dropped before": {"kind": "drop"},
    "dropped after": {"kind": "drop", "when": "after"},
    "hangs before": {"kind": "hang", "delay_s": 5},
    "hangs after": {"kind": "hang", "delay_s": 5, "when": "after"},
    "500 after": {"kind": "status", "status": 500, "when": "after"},
}
SAMPLE = ("429", "503", "dropped before", "dropped after", "hangs after")
"""What `make test` tries; `make test-full` tries them all."""
CALLS = ("acquire", "create", "acquire again", "read", "begin", "end", "release")
"""Of the first rollout of an endpoint; it looks for a copy too, which is another blob."""
BREAKING = ("refused", "break", "acquire", "read", "begin", "end", "release")
REWRITING = ("acquire", "read", "empty", "all lines", "begin", "end", "release")


def fault(found: Ledger, **rule: Any) -> None:
    import mlops.local.daemon.client as daemon

    match = {"host": "blob", "path": f"{found.endpoint}.jsonl"}
    daemon.request("faults", method="POST", body={"name": found.endpoint, **rule, "match": match})


def matched(found: Ledger) -> int:
    import mlops.local.daemon.client as daemon

    return sum(rule["matched"] for rule in daemon.request("faults") if rule["name"] == found.endpoint)


def _deployed(session: Session, rule: dict[str, Any], call: int) -> None:
    found = ledger(session)
    fault(found, **rule, skip=call)
    with found.acquire(action="deploy", wait_s=0) as lock:
        lock.write(Begin())
        lock.write(End())
    assert matched(found) > call, "the call was never made"
    assert [record.kind for record in found.read()] == ["begin", "end"]
    assert unfinished(found.read()) == []
    with again(session, found).acquire(action="deploy", wait_s=0):  # it was given back
        pass


def _rolled_back(session: Session, rule: dict[str, Any], call: int) -> None:
    found = ledger(session)
    with found.acquire(action="deploy") as deploy:
        deploy.write(Begin())
        fault(found, **rule, skip=call)
        with again(session, found).acquire(action="rollback", break_lease=True) as rollback:
            assert rollback.superseded == deploy.rollout
            rollback.write(Begin())
            rollback.write(End())
        assert matched(found) > call, "the call was never made"
        with pytest.raises(LeaseLost):
            deploy.write(End())
    kinds = [(record.rollout, record.kind) for record in found.read()]
    assert kinds == [(deploy.rollout, "begin"), (rollback.rollout, "begin"), (rollback.rollout, "end")]


def _rewritten(session: Session, rule: dict[str, Any], call: int) -> None:
    found = ledger(session)
    with found.acquire(action="deploy") as lock:
        first = [lock.write(Begin()), lock.write(End())]
    found.most_appends = 2
    fault(found, **rule, skip=call)
    with found.acquire(action="deploy", wait_s=0) as lock:
        second = [lock.write(Begin()), lock.write(End())]
    assert matched(found) > call, "the call was never made"
    assert found.read() == first + second
    content = found.log.read()
    assert content is not None
    assert content.appends <= 4


@pytest.mark.parametrize("story", [_deployed, _rolled_back, _rewritten])
def test_each_call_fails_once(session: Session, story: Any) -> None:
    import mlops.local.daemon.client as daemon

    places = {_deployed: CALLS, _rolled_back: BREAKING, _rewritten: REWRITING}[story]
    faults = {name: rule for name, rule in FAULTS.items() if name in SAMPLE or os.environ.get("MLOPS_FULL")}
    try:
        with ThreadPoolExecutor(8) as pool:
            running = {
                (name, place): pool.submit(story, session, rule, number)
                for name, rule in faults.items()
                for number, place in enumerate(places)
            }
        failed = {where: str(future.exception()) for where, future in running.items() if future.exception()}
    finally:
        daemon.request("faults", method="DELETE")
    assert failed == {}


def test_a_renewal_that_fails_is_tried_again(session: Session) -> None:
    found = ledger(session)
    with found.acquire(action="deploy") as lock:
        lease = str(uuid.UUID(lock.rollout))
        for rule in FAULTS.values():
            fault(found, **rule)
            assert found.log.renew(lease)


def test_what_stays_broken_is_said(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    import mlops.local.daemon.client as daemon

    found = Ledger(dataclasses.replace(session, console=Console()), f"chat-{uuid.uuid4().hex[:8]}", lease_s=LEASE_S)
    with found.acquire(action="deploy") as lock:
        fault(found, kind="status", status=503, times=None)
        with pytest.raises(AzureError, match=r"write to 'mlops/endpoints/chat-.*jsonl'"):
            lock.write(Begin())
        daemon.request("faults", method="DELETE")
        lock.write(Begin())
        fault(found, kind="status", status=503, times=None)
    daemon.request("faults", method="DELETE")
    assert "the lease ends by itself in 15 s" in capsys.readouterr().err
    assert [record.kind for record in found.read()] == ["begin"]
