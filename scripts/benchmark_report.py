"""What scripts/benchmark.py found, as plain data and as Markdown."""

from collections.abc import Mapping
from typing import Any

TITLES = ("", "side", "median", "from .. to", "throughput", "CPU", "ratio", "first", "first, cold", "peak MB")


def target(what: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> dict[str, Any]:
    """A figure beside its goal; without a bound there is none to reach ('reached' is None)."""
    reached = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    if at_least is None and at_most is None:
        return {"what": what, "value": value, "target": "no goal", "reached": None}
    bound = f"at most {at_most:g}" if at_least is None else f"at least {at_least:g}"
    return {"what": what, "value": value, "target": bound, "reached": reached}


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """All results as one table, with a line for every target, note and side that is missing.

    'work' of a result, {'amount', 'unit'} of one step, gives the throughput.
    """
    lines, after = [_row(*TITLES), _row("---", "---", *["---:"] * (len(TITLES) - 2))], []
    for name, result in results.items():
        for side, found in result.get("sides", {}).items():
            step, ratio = found["step_s"], result["ratios"].get(side, {"median": 1.0})["median"]
            shown = _time(step["median"]), f"{_time(step['min'])} .. {_time(step['max'])}"
            throughput = _throughput(result.get("work"), step["median"])
            first = _time(found["first_s"]), _time(found.get("first_cold_s"))
            peak = f"{found['peak_mb']:.0f}" if "peak_mb" in found else ""
            cpu = _time(found["cpu_s"]["median"])
            lines.append(_row(name, side, *shown, throughput, cpu, f"{ratio:.3f}", *first, peak))
        for what, value in result.get("figures", {}).items():
            lines.append(_row(name, what, f"{value:.1f}", *[""] * (len(TITLES) - 3)))
        for side, reason in result.get("not_available", {}).items():
            after.append(f"{name}: {side} not measured: {reason}")
        if "note" in result:
            after.append(f"{name}: {result['note']}")
        for found in result.get("targets", ()):
            reached = {True: ": reached", False: ": MISSED", None: ""}[found["reached"]]
            after.append(f"{name}: {found['what']} {found['value']:.3f}, {found['target']}{reached}")
        after.append(f"{name}: {_idleness(result.get('machine', {}))}")
    return "\n".join([*lines, "", *(f"- {line}" for line in after)])


def goals(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of all targets: what was measured, and the goal."""
    lines = [_row("benchmark", "figure", "measured", "goal"), _row("---", "---", "---:", "---")]
    for name, result in results.items():
        busy = "" if result.get("machine", {}).get("idle") else " (machine not idle)"
        for found in result.get("targets", ()):
            missed = ", **missed**" if found["reached"] is False else ""
            lines.append(_row(name, found["what"], f"{found['value']:.3g}{busy}", found["target"] + missed))
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _throughput(work: Mapping[str, Any] | None, seconds: float) -> str:
    if work is None:
        return ""
    rate = work["amount"] / seconds
    return f"{rate:,.0f} {work['unit']}/s" if rate >= 100 else f"{rate:.3g} {work['unit']}/s"


def _idleness(machine: Mapping[str, Any]) -> str:
    before = {True: "idle", False: "NOT idle", None: "not known to be idle"}[machine.get("idle")]
    during = f", others used {machine['others']:.0%} of its CPUs meanwhile" if "others" in machine else ""
    return f"the machine was {before} before{during}"
