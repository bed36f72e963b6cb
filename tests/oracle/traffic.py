"""A channel that serves its units and the host, stepped cycle by cycle (docs/model/traffic.md).

Written from that page and reference/controller.md, as plainly as possible. Of the package it uses
the device's rules as data, and the evaluation of a latency expression, nothing else.
"""

from collections.abc import Iterable
from typing import NamedTuple

from attacc.hardware.dram import DramDevice, evaluate_cycles
from tests.oracle.timing import (
    QUEUE_ACCEPTS_WHILE_HOLDING,
    UNUSED,
    Command,
    Constraints,
    DependentChannel,
    DependentEntry,
    DependentRequest,
    Device,
    Placement,
    Request,
    Rule,
    command_class,
)

SCOPE_NAMES = {
    "channel": "channel",
    "pseudo_channel": "pch",
    "rank": "rank",
    "bank_group": "bank group",
    "bank": "bank",
    "bank_index": "bank index",
    "bank_pair": "bank of both pchs",
    "bank_group_pair": "bank group of both pchs",
    "rank_pair": "rank of both pchs",
}
"""How a device's rules and `tests.oracle.timing` call the same scopes."""

ORDINARY = ("ACT", "PRE", "RD", "WR")
DIRECTIONS = {"LD": "RD", "ST": "WR"}


class Arrival(NamedTuple):
    """A load or store of one channel, when it arrives, and its place in the traffic."""

    request: Request
    cycle: int
    place: int


class Waiting(NamedTuple):
    """A load or store in a queue, and the cycle in which it entered."""

    request: Request
    place: int
    entered: int


class Policy(NamedTuple):
    """As `attacc.pim.program.traffic.TrafficPolicy`."""

    queue: int = 64
    write_high: int = 48
    write_low: int = 16
    patience: int = 2000
    turn: int = 1000


class NeverServedError(Exception):
    """Nothing is served any more, or not within a sensible time."""


class SharedChannel(DependentChannel):
    """One channel's controller, for the units' requests and ordinary ones."""

    def __init__(
        self,
        number: int,
        device: DramDevice,
        placement: Placement,
        requests: list[DependentRequest],
        arrivals: list[Arrival],
        policy: Policy,
        *,
        power_limited: bool,
    ) -> None:
        timing = device.parameters(power_limited=power_limited)
        o = device.organization
        shape = Device(
            rules="hbm-pim",
            refresh="per_bank" if device.refresh.mode.value == "per_bank" else "all_bank",
            channels=o.channels,
            pchs=o.pseudo_channels,
            ranks=o.ranks,
            bank_groups=o.bank_groups,
            banks=o.banks,
        )
        super().__init__(
            number, placement, timing, requests, moves_yield=not device.moves_pass_hits,
            device=shape,
        )  # fmt: skip
        self.constraints = Constraints(
            Rule(
                SCOPE_NAMES[rule.scope.value],
                rule.before,
                rule.after,
                evaluate_cycles(rule.latency, timing),
                rule.window,
            )
            for rule in device.rule_set.rules
        )
        self.policy = policy
        self.arrivals = list(arrivals)
        self.reads: list[list[Waiting]] = [[] for _ in range(o.pseudo_channels)]
        self.writes: list[list[Waiting]] = [[] for _ in range(o.pseudo_channels)]
        self.writing = [False] * o.pseudo_channels
        self.ordinary_mode = False
        self.mode_began = 0
        self.changing = False
        self.rows: dict[tuple[int, ...], int] = {}
        self.served: dict[int, int] = {}

    # State of the banks.

    @staticmethod
    def place_of(a: Request) -> tuple[int, ...]:
        return (a.pch, a.rank, a.bank_group, a.bank)

    def any_row_open(self) -> bool:
        return bool(self.open_rows or self.rows)

    def next_ordinary_command(self, a: Request) -> str:
        row = self.rows.get(self.place_of(a))
        if row is None:
            return "ACT"
        return DIRECTIONS[a.kind] if row == a.row else "PRE"

    def next_maintenance_command(self) -> str:
        if not self.ordinary_mode:
            return super().next_maintenance_command()
        refresh = self.maintenance[0]
        if refresh.bank == UNUSED:
            return "PREA" if self.rows else "REFab"
        return "PRE" if self.place_of(refresh) in self.rows else "REFsb"

    def issue(self, name: str, a: Request, now: int) -> None:
        if name not in ORDINARY:
            super().issue(name, a, now)
            if name == "PREA":
                self.rows.clear()
            return
        self.log.append(Command(now, name, *a[1:]))
        self.constraints.note(name, a, now)
        if name == "ACT":
            self.rows[self.place_of(a)] = a.row
        elif name == "PRE":
            del self.rows[self.place_of(a)]

    # What waits.

    def all_ordinary(self) -> list[Waiting]:
        return [waiting for queue in self.reads + self.writes for waiting in queue]

    def decided(self) -> list[Waiting]:
        """Requests of the directions decided, oldest first."""
        chosen: list[Waiting] = []
        for pch, writing in enumerate(self.writing):
            chosen += self.writes[pch] if writing else self.reads[pch]
        return sorted(chosen, key=lambda waiting: waiting.place)

    def busy(self) -> bool:
        return super().busy() or bool(self.arrivals or self.all_ordinary())

    # The steps of a cycle, numbered as on the page.

    def take_arrivals(self, now: int) -> None:
        """1."""
        while self.arrivals and self.arrivals[0].cycle <= now:
            request, _, place = self.arrivals[0]
            queue = (self.reads if request.kind == "LD" else self.writes)[request.pch]
            if len(queue) >= self.policy.queue:
                return
            queue.append(Waiting(request, place, now))
            self.arrivals.pop(0)

    def decide_directions(self, now: int) -> None:
        """2."""
        for pch in range(len(self.writing)):
            reads, writes = len(self.reads[pch]), len(self.writes[pch])
            old = any(now - one.entered >= self.policy.patience for one in self.writes[pch])
            if self.writing[pch]:
                few = writes <= self.policy.write_low
                if writes == 0 or (few and reads > 0 and not old):
                    self.writing[pch] = False
            elif writes >= self.policy.write_high or (writes > 0 and reads == 0) or old:
                self.writing[pch] = True

    def decide_mode(self, now: int) -> None:
        """3."""
        if self.changing:
            return
        ordinary = self.all_ordinary()
        if self.ordinary_mode:
            old = now - self.mode_began >= self.policy.turn
            self.changing = bool(self.queue) and (not ordinary or old)
        else:
            full = any(len(queue) >= self.policy.write_high for queue in self.writes)
            rested = now - self.mode_began >= self.policy.turn
            impatient = any(
                now - max(one.entered, self.mode_began) >= self.policy.patience for one in ordinary
            )
            urgent = (full and rested) or impatient
            self.changing = bool(ordinary) and (not self.queue or urgent)

    def change_mode(self, now: int) -> bool:
        """4; whether the cycle ends with it."""
        done = len(self.log)
        if self.any_row_open():
            change = Request("CHANGE", self.number, 0, *[UNUSED] * 5)
            if self.maintenance:
                self.serve_maintenance(now)
            elif self.ready("PREA", change, now):
                self.issue("PREA", change, now)
        if self.any_row_open():
            return True
        self.ordinary_mode = not self.ordinary_mode
        self.mode_began = now
        self.changing = False
        return len(self.log) > done

    def serve_units(self, now: int) -> None:
        """5: as reference/controller.md."""
        if self.maintenance:
            self.serve_maintenance(now)
            first = "row"
        else:
            first = self.serve_queue(now, other_than=None)
        if first == "none":
            return
        if self.maintenance and first == "column":
            self.serve_maintenance(now)
        else:
            self.serve_queue(now, other_than=first)

    def serve_host(self, now: int) -> None:
        """6."""
        free = {"row", "column"}
        if self.maintenance:
            self.serve_maintenance(now)
            free.remove("row")
        for _ in range(2):
            chosen = self.choose(free, now)
            if chosen is None:
                return
            name = self.next_ordinary_command(chosen.request)
            free.remove(command_class(name))
            self.issue(name, chosen.request, now)
            if name in ("RD", "WR"):
                queues = self.reads if name == "RD" else self.writes
                queues[chosen.request.pch].remove(chosen)
                self.served[chosen.place] = now

    def choose(self, free: set[str], now: int) -> Waiting | None:
        """The first-ready choice, row hits first, of what takes a free bus."""
        candidates = self.decided()
        hits = [
            one
            for one in candidates
            if self.next_ordinary_command(one.request) in DIRECTIONS.values()
        ]
        if "column" in free:
            for one in hits:
                if self.ready(self.next_ordinary_command(one.request), one.request, now):
                    return one
        if "row" in free:
            wanted = {self.place_of(one.request) for one in hits}
            for one in candidates:
                name = self.next_ordinary_command(one.request)
                if name == "PRE" and self.place_of(one.request) in wanted:
                    continue
                if name in ("ACT", "PRE") and self.ready(name, one.request, now):
                    return one
        return None

    def tick(self, now: int) -> None:
        self.fall_due(now)
        self.take_arrivals(now)
        self.decide_directions(now)
        self.decide_mode(now)
        if self.changing and self.change_mode(now):
            return
        if self.ordinary_mode:
            self.serve_host(now)
        else:
            self.serve_units(now)


class Outcome(NamedTuple):
    """Cycles of the run, the commands, and when each load or store was served on all channels."""

    cycles: int
    log: list[Command]
    served: dict[int, int]


def simulate_shared(
    requests: Iterable[DependentRequest],
    arrivals: Iterable[Arrival],
    *,
    device: DramDevice,
    placement: Placement,
    policy: Policy,
    power_limited: bool,
    one_entrance: bool,
    limit: int = 1_000_000,
    channel_type: type[SharedChannel] = SharedChannel,
) -> Outcome:
    """Run the units' program beside ordinary traffic.

    Args:
        requests: of the units, of all channels, in order.
        arrivals: loads and stores of all channels, in order.
        device: with the rules.
        placement: where the units sit.
        policy: of ordinary traffic.
        power_limited: which cadence of multiplies counts.
        one_entrance: whether one full queue holds up all channels, which then end together.
            Otherwise each channel is fed by itself, and refreshed until the last has ended.
        limit: cycles after which it is said that this never ends.
        channel_type: what a channel is.

    Raises:
        NeverServedError: it has not ended after the limit.
    """
    requests, arrivals = list(requests), list(arrivals)
    channels = [
        channel_type(
            number,
            device,
            placement,
            [] if one_entrance else [one for one in requests if one.request.channel == number],
            [one for one in arrivals if one.request.channel == number],
            policy,
            power_limited=power_limited,
        )
        for number in range(device.organization.channels)
    ]
    if one_entrance:
        cycles = _run_together(channels, requests, limit)
    else:
        ends = [_run_alone(channel, limit) for channel in channels]
        cycles = max(ends, default=1)
        for channel, end in zip(channels, ends, strict=True):
            if channel.log:
                for now in range(end + 1, cycles + 1):
                    channel.tick(now)
    served: dict[int, int] = {}
    for channel in channels:
        for place, cycle in channel.served.items():
            served[place] = max(cycle, served.get(place, 0))
    return Outcome(cycles, [command for channel in channels for command in channel.log], served)


def _run_alone(channel: SharedChannel, limit: int) -> int:
    now = 0
    while channel.waiting or channel.busy():
        now += 1
        if now > limit:
            raise NeverServedError
        channel.feed(now)
        channel.tick(now)
    return now


def _run_together(
    channels: list[SharedChannel], requests: list[DependentRequest], limit: int
) -> int:
    for channel in channels:
        for one in requests:
            if one.request.channel == channel.number:
                for signal in one.signals:
                    channel.unsignalled[signal.event] += 1
    waiting = list(requests)
    now = 0
    while waiting or any(channel.busy() for channel in channels):
        now += 1
        if now > limit:
            raise NeverServedError
        while waiting:
            request, waits, signals = waiting[0]
            queue = channels[request.channel].queue
            if len(queue) > QUEUE_ACCEPTS_WHILE_HOLDING:
                break
            queue.append(DependentEntry(request, now, waits, signals))
            waiting.pop(0)
        for channel in channels:
            channel.tick(now)
    return now
