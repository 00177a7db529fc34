"""What comes from Azure, a model or a person is text on the page, whatever it says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mlops import gate, ledger
from mlops.azure.metrics import JobMetrics
from mlops.core.resources import Deployment, Endpoint, Job, ModelVersion
from mlops.gate.comparison import Comparison
from mlops.gate.judge import Check
from mlops.gate.measurement import Measured
from mlops.gate.report import WorstAnswer
from mlops.ui import fragments, overview, releases, trainings, versions
from mlops.ui.rendering import address, commit_address, page, render, short

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}javascript:alert(3)"
LINK = "javascript:alert(4)//https://example.com"
NOW = datetime.now(UTC)
MEASURED = Measured(
    slot=EVIL,
    requests=1,
    reached=1,
    transport_error_rate=0,
    success_rate=1,
    contract_rate=1,
    p50_ms=1,
    p95_ms=1,
    p99_ms=1,
)
TAGS = dict.fromkeys(
    (
        "base-model",
        "data-hash",
        "commit",
        "actor",
        "run-url",
        "reason",
        "model",
        "job",
        EVIL,
        "tuned_exact_match",
        "evaluation",
        "accepted",
        "accepted-by",
    ),
    EVIL,
)
ENTRY = ledger.Entry(
    rollout=EVIL,
    started=NOW - timedelta(seconds=9),
    ended=NOW,
    action=EVIL,
    by=EVIL,
    model=EVIL,
    version=EVIL,
    slot=EVIL,
    verdicts=(EVIL, f"soak {EVIL} fail"),
    before={EVIL: 100},
    after={EVIL: 90, "blue": 10},
    outcome=ledger.Outcome(EVIL),
    reason=EVIL,
    error=EVIL,
    run_url=LINK,
    commit=EVIL,
)
RECORD = ledger.Record.model_validate(
    {
        "rollout": EVIL,
        "kind": "plan",
        "by": EVIL,
        "facts": {EVIL: EVIL, "before": {EVIL: 100}, "steps": [10, 100], "replaced": {"model": EVIL, "version": EVIL}},
    }
)
MODEL = ModelVersion(name=EVIL, version=EVIL, id=EVIL, tags=TAGS, description=EVIL, created=NOW, job=EVIL, stage=EVIL)
JOB = Job(
    name=EVIL, status=EVIL, display_name=EVIL, experiment=EVIL, tags=TAGS, created=NOW, studio_url=LINK, error=EVIL
)


TRAINING = type("Training", (), {"parameters": {EVIL: 1}})


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def check(html: str, *, scripts: int = 0) -> None:
    """No element and no attribute came from the outside, and the text is there as it was."""
    elements = Elements(html).elements
    assert sum(tag == "script" for tag, _ in elements) == scripts
    for tag, attributes in elements:
        assert tag != "img" or str(attributes["src"]).startswith("/")
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name != "style"
            if name in ("href", "src", "action"):
                assert not str(value).lower().startswith(("javascript:", "data:")), value
    assert "49" not in html  # no template within a template


def page_part(kind: str, value: Any, name: str = "") -> str:
    """A part of the page, of an answer that Azure might give."""

    class Session:
        settings: Any = type(
            "Settings",
            (),
            {
                "experiment": EVIL,
                "is_local": False,
                "target": EVIL,
                "target_flag": f" --target {EVIL}",
                "training": TRAINING,
            },
        )

    part = fragments.fragment(Session(), kind, name)  # type: ignore[arg-type]
    assert part is not None
    return render(part.template, target_flag=part.target_flag, **part.values(value))


def test_the_endpoint_and_the_chat() -> None:
    deployment = Deployment(
        name=EVIL, endpoint=EVIL, state=EVIL, model=EVIL, model_version=EVIL, instance_type=EVIL, tags=TAGS, changed=NOW
    )
    endpoint = Endpoint(name=EVIL, state=EVIL, auth_mode="key", scoring_url=LINK, traffic={EVIL: 100}, tags=TAGS)
    slots = (
        overview.Slot(name=EVIL, deployment=deployment, traffic=100, mirror=5, model=MODEL, cleared=False),
        overview.Slot(name="blue", deployment=deployment, cleared=True, model=MODEL),
        overview.Slot(name="green"),
    )
    other = overview.Other(endpoint=endpoint, kind=EVIL, age=timedelta(days=3))
    page = overview.Overview(name=EVIL, endpoint=endpoint, slots=slots, others=(other,), notes=(EVIL,))
    for kind in ("endpoint", "chat"):
        html = page_part(kind, page)
        check(html)
        assert "&lt;script&gt;alert(1)" in html


def report(tmp_path: Path) -> releases.StoredReport:
    check_ = Check(
        name="latency_p95_ms", title=EVIL, measured=1.0, threshold=1.0, relation="≤", verdict="fail", decisive=True
    )
    comparison = Comparison(
        name="x_difference",
        metric="x",
        title=EVIL,
        pairs=1,
        candidate=1,
        live=1,
        difference=0,
        low=0,
        high=0,
        confidence=0.95,
        max_loss=0.1,
        decisive=True,
        verdict="fail",
    )
    gate_report = gate.Report(
        endpoint=EVIL,
        model=f"{EVIL}:{EVIL}",
        verdict="fail",
        candidate=MEASURED,
        live=MEASURED,
        checks=(check_,),
        comparisons=(comparison,),
        errors=(EVIL,),
        notes=(EVIL,),
        at=NOW - timedelta(seconds=5),
        worst=(WorstAnswer(prompt=EVIL, reference=EVIL, answer=EVIL, scores={}, flaw="echo"),),
    )
    (tmp_path / "latency.png").write_bytes(b"")
    return releases.StoredReport(report=gate_report, folder=tmp_path)


def test_releases_and_their_reports(tmp_path: Path) -> None:
    one = releases.Release(entry=ENTRY, records=(RECORD,), gate_report=report(tmp_path))
    bare = releases.Release(entry=ENTRY, records=(), gate_report=None)
    check(page_part("releases", releases.Releases(endpoint=EVIL, locked=True, releases=(one, bare))))
    for each in (one, bare):
        html = page_part("release", releases.Releases(endpoint=EVIL, locked=False, releases=(each,)), EVIL)
        check(html)
        assert "&lt;script&gt;alert(1)" in html


def test_jobs_curves_and_models() -> None:
    check(page_part("jobs", [JOB]))
    check(
        page_part(
            "job", trainings.Training(job=JOB, steps=(JOB,), parameters={EVIL: EVIL, "x": f"azureml://{EVIL}"}), EVIL
        )
    )
    logged = JobMetrics(job=EVIL, last={EVIL: 1.0}, curves={"train_loss": ((1, 1.0), (2, 0.5)), EVIL: ((1, 1.0),)})
    check(page_part("curve", trainings.Logged(job=JOB, metrics=logged), EVIL))
    version = versions.Version(model=MODEL, slots=(EVIL,), approved=False, entries=(ENTRY,))
    html = page_part("models", versions.Versions(name=EVIL, versions=(version,), total=2, notes=(EVIL,)))
    check(html)
    assert "&lt;script&gt;alert(1)" in html


def test_what_went_wrong() -> None:
    check(render("trouble.html", message=EVIL, hint=EVIL, details=[EVIL]))
    check(bytes(page("refused.html", message=EVIL).body).decode())
    whole = page(
        "page.html", tab="Models", title=EVIL, target=EVIL, contents=[], whole=False, endpoint=EVIL, workspace=EVIL
    )
    check(bytes(whole.body).decode(), scripts=2)


@pytest.mark.parametrize("url", [LINK, "JavaScript:alert(1)", "data:text/html,x", " https://x", "", None, "//x"])
def test_only_addresses_of_the_web_become_links(url: str | None) -> None:
    assert address(url) is None
    assert address("https://ml.azure.com/runs/1") == "https://ml.azure.com/runs/1"


def test_a_commit_is_a_link_where_the_run_says_whose_it_is() -> None:
    run = "https://github.com/o/r/actions/runs/7"
    assert commit_address({"commit": "0123abc", "run-url": run}) == "https://github.com/o/r/commit/0123abc"
    assert commit_address({"commit": "0123abc-changed", "run-url": run}) is None
    assert commit_address({"commit": "0123abc"}) is None
    assert commit_address({"commit": "../x", "run-url": run}) is None
    assert (short("0" * 40), short("0" * 40 + "-changed"), short("plain-text")) == (
        "0" * 12,
        "0" * 12 + "-changed",
        "plain-text",
    )
