"""What `revo bench memory` says of shared memory: a row for each thing measured and each door, and what it is to be."""

from __future__ import annotations

import statistics
from typing import Any, Final, NamedTuple

from revo.bench.crowd import PAUSE
from revo.bench.rig import percentile, rounded
from revo.cli.common import console, table

PLAIN: Final = "plain"
PLAIN_DIRECT: Final = "plain, direct"
STREAMS: Final = "streams"
"""The door of who may touch the streams, as commands of an operator and trusted actors may."""
COORDINATOR: Final = "coordinator"
"""The door of everybody else: a coordinator is asked."""


class Target(NamedTuple):
    """What a figure is to be: at least, and what is aimed at."""

    least: float
    aim: float
    more: bool
    """Whether more is better."""

    def met(self, value: float) -> str:
        """Which of the two it meets."""
        for name, bound in (("aim", self.aim), ("least", self.least)):
            if value >= bound if self.more else value <= bound:
                return name
        return "no"


TARGETS: Final = {
    "get": Target(0.6, 0.9, more=True),
    "put": Target(0.4, 0.7, more=True),
    "lock": Target(4.0, 2.0, more=False),
    "load": Target(10.0, 3.0, more=False),
    "watch": Target(20.0, 5.0, more=False),
}
LABELS: Final = {"get": "get /s", "put": "put /s", "lock": "lock ms", "load": "get p95 ms", "watch": "seen p99 ms"}


def rows_of(name: str, rates: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A row for each door. A ratio is of one round, for the machine is not as fast in the next; their median counts."""
    rows = []
    for door in (STREAMS, COORDINATOR):
        ratios = {
            plain: statistics.median(
                one / other if TARGETS[name].more else other / one
                for one, other in zip(rates[door], rates[plain], strict=True)
            )
            for plain in (PLAIN, PLAIN_DIRECT)
            if plain in rates
        }
        values = {way: statistics.median(rates[way]) for way in (door, *ratios)}
        if not TARGETS[name].more:
            values = {way: 1e3 / value for way, value in values.items()}
        row = {"name": name, "door": door, "value": values[door], "plain": values[PLAIN], "ratio": ratios[PLAIN]}
        if PLAIN_DIRECT in ratios:
            row |= {"plain_direct": values[PLAIN_DIRECT], "ratio_direct": ratios[PLAIN_DIRECT]}
        rows.append(_judged(row, ratios[PLAIN]))
    return rows


def rows_at(name: str, found: dict[str, list[float]], percent: int) -> list[dict[str, Any]]:
    """A row for each door, of seconds that single things took."""
    rows = []
    for door in (STREAMS, COORDINATOR):
        value, plain = percentile(found[door], percent), percentile(found[PLAIN], percent)
        row = {"name": name, "door": door, "value": value, "plain": plain, "ratio": value / plain}
        rows.append(_judged(row, value))
    return rows


def _judged(row: dict[str, Any], value: float) -> dict[str, Any]:
    """With what it is to be. The targets are of the streams' door."""
    if row["door"] == STREAMS:
        target = TARGETS[row["name"]]
        row |= {"least": target.least, "aim": target.aim, "met": target.met(value)}
    return rounded(row)


def show(figures: dict[str, Any]) -> None:
    """Print it all as a table."""
    made = table("", "=what", "=door", ">ours", ">plain", ">ratio", ">to direct", ">least", ">aim", "met")
    for row in figures["rows"]:
        form = ",.0f" if TARGETS[row["name"]].more else ".2f"
        made.add_row(
            LABELS[row["name"]],
            row["door"],
            f"{row['value']:{form}}",
            f"{row['plain']:{form}}",
            f"{row['ratio']:.2f}",
            f"{row['ratio_direct']:.2f}" if "ratio_direct" in row else "",
            f"{row['least']:g}" if "least" in row else "",
            f"{row['aim']:g}" if "aim" in row else "",
            row.get("met", ""),
        )
    terminal = console()
    terminal.print(made)
    rate = figures["clients"] / PAUSE
    crowd = f"{figures['clients']} connections in {figures['processes']} processes"
    size = f"{figures['in_flight']} in flight, {figures['bytes']:,} bytes"
    for line in (
        f"get, put: {size}; ours is put on the condition that nothing was written since the version before",
        "lock: taken and given up by the only one who wants it; in plain a new key is created and deleted",
        f"get p95: {crowd} do {rate:,.0f} things a second, of 20 are 14 gets, 5 puts and a lock",
        "seen p99: from the call of a put until the last of as many watchers has it",
        "plain: nats-py's KV of the same history and storage, gets from the leader; direct: its direct gets",
    ):
        terminal.print(line, style="dim", soft_wrap=True)
