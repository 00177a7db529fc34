"""What users feel of a rollout: requests at a constant rate through an endpoint, over a deploy and a rollback.

    python tests/benchmarks/rollout_load.py [--rate 20] [--soak 3] [--picture build/rollout_load.png]

A workspace of its own, a trivial scoring script, real HTTPS through the proxy; latency counts from the time at which a
request was due. Exits with 1 if a single request failed.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.fault_injection.load import Load, Moment, Stretch, load, moments, render  # noqa: E402
from tests.fault_injection.workspace import Endpoint, Workspace  # noqa: E402

STEPS = [10, 50, 100]
QUIET_S = 8.0
WARM_S = 2.0
"""The first connections are made in it."""
OLD, NEW, BAD = "#4878a8", "#e08a3c", "#c03030"


def measure(endpoint: Endpoint, rate: float) -> tuple[Load, list[Stretch], list[str]]:
    """The load, how users fared before, during and after, and the two versions."""
    workspace = endpoint.workspace
    versions = [workspace.version(), workspace.version()]
    done = endpoint.deploy(versions[0], modules=True).finish()
    if done.code != 0:
        raise SystemExit(f"the first release ended with {done.code}:\n{done.log}")
    workspace.warm_up(done.modules)
    times = []
    with load(endpoint, rate=rate) as users:
        for action in ("deploy", "rollback"):
            time.sleep(QUIET_S)
            start = users.now_s()
            command = endpoint.deploy(versions[1]) if action == "deploy" else endpoint.rollback()
            done = command.finish()
            times.append((start, users.now_s()))
            if done.code != 0:
                print(f"the command ended with {done.code}:\n{done.log[-2000:]}", file=sys.stderr)
        time.sleep(QUIET_S)
        end = users.now_s()
    (deploy, deployed), (rollback, rolled) = times
    intervals = [
        ("before", WARM_S, deploy),
        ("deploy", deploy, deployed),
        ("between", deployed, rollback),
        ("rollback", rollback, rolled),
        ("after", rolled, end),
    ]
    return users, [Stretch.of(users, *interval) for interval in intervals], versions


def draw(
    users: Load,
    stretches: Sequence[Stretch],
    events: Sequence[Moment],
    versions: Sequence[str],
    rate: float,
    path: Path,
) -> None:
    """Latency over time, and who answered."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    names = {versions[0]: ("the version before", OLD), versions[1]: ("the new version", NEW)}
    for version, (name, colour) in names.items():
        some = [each for each in users.requests if each.version == version and not each.failed]
        x, y = [each.due_s for each in some], [each.latency_ms for each in some]
        top.scatter(x, y, s=7, color=colour, alpha=0.75, linewidths=0, label=f"answered by {name}")
    bad = users.failed
    top.scatter(
        [each.due_s for each in bad],
        [each.latency_ms for each in bad],
        s=40,
        marker="x",
        color=BAD,
        label=f"failed ({len(bad)})",
    )
    top.set_yscale("log")
    top.set_ylabel("latency from due time (ms)")
    top.set_title(
        f"{rate:g} requests/s through a deploy and a rollback: {len(users.requests)} requests, {len(bad)} failed"
    )
    high, low = (pick(each.latency_ms for each in users.requests) for pick in (max, min))
    top.set_ylim(low * 0.6, high * 40)  # room for the words
    for each in stretches:
        if each.name in ("deploy", "rollback"):
            for axes in (top, bottom):
                axes.axvspan(each.begin_s, each.end_s, color="#808080", alpha=0.12, linewidth=0)
        last = each is stretches[-1]
        where, side = (each.end_s - 0.4, "right") if last else ((each.begin_s + each.end_s) / 2, "center")
        text = f"{each.name}\np50 {each.p50_ms:.1f} ms\np99 {each.p99_ms:.1f} ms"
        top.text(where, high * 33, text, ha=side, va="top", fontsize=8)
    mark(top, events, high, width_s=users.requests[-1].due_s)
    seconds = range(int(users.requests[-1].due_s) + 1)
    under = [0.0] * len(seconds)
    for version, (_, colour) in names.items():
        counts = [sum(each.version == version for each in users.between(s, s + 1)) for s in seconds]
        bottom.bar([s + 0.5 for s in seconds], counts, width=1.0, bottom=under, color=colour, linewidth=0)
        under = [a + b for a, b in zip(under, counts, strict=True)]
    bottom.set(xlabel="seconds", ylabel="answers per second", ylim=(0, rate * 1.15), xlim=(0, len(seconds)))
    top.legend(loc="lower center", fontsize=8, framealpha=0.9, ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def mark(axes: Any, events: Sequence[Moment], high: float, *, width_s: float) -> None:
    """The rollout's own moments as thin lines, their words along them; what comes close behind another moves aside."""
    last = float("-inf")
    for each in events:
        if each.what == "end" or "begins" in each.what or each.what.startswith("soak"):
            continue
        axes.axvline(each.at_s, ymax=0.8, color="#505050", linewidth=0.7, linestyle=":")
        last = max(each.at_s, last + width_s / 70)
        axes.text(last + width_s / 400, high * 5, each.what, fontsize=7, color="#303030", va="top", rotation=90)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--soak", type=float, default=3)
    parser.add_argument("--picture", type=Path, default=ROOT / "build" / "rollout_load.png")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fault-", ignore_cleanup_errors=True) as folder:
        workspace = Workspace(Path(folder), rollout={"steps": STEPS, "soak_s": arguments.soak, "probes_per_s": 5})
        try:
            workspace.open()
            endpoint = workspace.endpoint()
            users, stretches, versions = measure(endpoint, arguments.rate)
            events = moments(endpoint, users)
        finally:
            workspace.close()
    draw(users, stretches, events, versions, arguments.rate, arguments.picture)
    print(render(stretches))
    for each in users.failed[:5]:
        print(f"failed at {each.due_s:.1f} s: {each.status} {each.error}")
    print(f"{len(users.failed)} of {len(users.requests)} requests failed (goal: 0); picture: {arguments.picture}")
    return 1 if users.failed else 0


if __name__ == "__main__":
    sys.exit(main())
