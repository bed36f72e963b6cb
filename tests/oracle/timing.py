"""The reference memory controller, stepped cycle by cycle and written as plainly as possible.

A second implementation of reference/controller.md that shares nothing with the package, to check
its compiled kernel against. Where that page leaves room, the golden traces and command logs
decided. They never exercise requests of pseudo-channel 1, a barrier chosen in the second pass, or
a run whose last requests leave while a refresh is pending: there the page is read literally.

Two things go beyond that page. The rules `hbm-pim` are those of reference/dram.md, "Rules of
ordinary traffic", asked of every bank that a command acts on. Per-bank refresh is this project's.
"""

import gzip
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

Placement = Literal["bank", "bankgroup", "buffer"]

QUEUE_ACCEPTS_WHILE_HOLDING = 32

HBM3_5200_UNLIMITED: dict[str, int] = {
    "nBL": 2,
    "nRCD": 19,
    "nRP": 19,
    "nRAS": 45,
    "nRC": 63,
    "nRTPL": 8,
    "nCCDS": 2,
    "nCCDL": 4,
    "nREFI": 5070,
    "nRFC": 456,
    "nCCDAB": 4,
    "nCCDSB": 4,
}
"""HBM3 at 5.2 Gbit/s in cycles, without the power limit (reference/controller.md, "Timing")."""

HBM3_5200: dict[str, int] = HBM3_5200_UNLIMITED | {"nCCDAB": 6, "nCCDSB": 6}
"""The same with the power limit, which stretches the MAC cadence."""


class Request(NamedTuple):
    """One line of a trace; `kind` as spelt there (PIM_MAC_AB, PIM_BARRIER, ...)."""

    kind: str
    channel: int
    pch: int
    rank: int
    bank_group: int
    bank: int
    row: int
    column: int


class Command(NamedTuple):
    """One line of a command log."""

    cycle: int
    name: str
    channel: int
    pch: int
    rank: int
    bank_group: int
    bank: int
    row: int
    column: int

    def line(self) -> str:
        return ", ".join(str(field) for field in self)


class Result(NamedTuple):
    """Cycles of the run, and the commands of all channels in the order they were issued."""

    cycles: int
    log: list[Command]


class Rule(NamedTuple):
    """`following` not before `latency` cycles after `preceding` on the same instance of `scope`.

    With a window of 4, the fourth last of the preceding commands counts.
    """

    scope: str
    preceding: tuple[str, ...]
    following: tuple[str, ...]
    latency: int
    window: int = 1


class Device(NamedTuple):
    """How a stack behaves, beyond its cycles; by default as the reference."""

    rules: Literal["attacc-pim", "hbm-pim"] = "attacc-pim"
    refresh: Literal["all_bank", "per_bank"] = "all_bank"
    channels: int = 16
    pchs: int = 2
    ranks: int = 2
    bank_groups: int = 4
    banks: int = 4
    windows: int = 0
    """Sets of four banks that an ACTAB or ACTSB opens one after the other; 0 for all at once."""


REFERENCE = Device()


MAC_KINDS = {"bank": "PIM_MAC_AB", "bankgroup": "PIM_MAC_SB", "buffer": "PIM_MAC_PB"}
SUFFIXES = {"bank": "AB", "bankgroup": "SB", "buffer": "PB"}
PLAIN_COMMANDS = {
    "PIM_WR_GB": "WRGB",
    "PIM_MV_SB": "MVSB",
    "PIM_MV_GB": "MVGB",
    "PIM_SFM": "SFM",
    "PIM_BARRIER": "BARRIER",
}
KINDS = {*MAC_KINDS.values(), *PLAIN_COMMANDS, "LD", "ST"}

# A field of -1 is what the logs show for the fields that a maintenance command does not have.
UNUSED = -1

SCOPES: dict[str, Callable[[Request], tuple[int, ...]]] = {
    "channel": lambda _: (),
    "pch": lambda a: (a.pch,),
    "rank": lambda a: (a.pch, a.rank),
    "bank group": lambda a: (a.pch, a.rank, a.bank_group),
    # The two pCHs of a channel act together in a MACPB: one instance for both.
    "rank of both pchs": lambda a: (a.rank,),
    "bank group of both pchs": lambda a: (a.rank, a.bank_group),
    "bank of both pchs": lambda a: (a.rank, a.bank_group, a.bank),
    "bank": lambda a: (a.pch, a.rank, a.bank_group, a.bank),
    # The same bank of every bank group acts together in a MACSB.
    "bank index": lambda a: (a.bank,),
}


def timing_table(placement: Placement, t: dict[str, int]) -> list[Rule]:
    """All rules of a placement, as the page lists them."""
    suffix = SUFFIXES[placement]
    act, mac = "ACT" + suffix, "MAC" + suffix
    pre = "PREA" if placement == "bank" else "PRE" + suffix
    buses = ("WRGB", "MVSB", "MVGB", "SFM")

    rules = [
        Rule("channel", (act,), (act, pre, "PREA", "REFab"), 2),
        Rule("pch", (act,), ("REFab",), t["nRC"]),
        Rule("pch", (pre, "PREA"), ("REFab",), t["nRP"]),
        Rule("channel", ("REFab",), (act,), t["nRFC"]),
        Rule("pch", buses, buses, t["nBL"]),
        Rule("rank", buses, buses, t["nCCDS"]),
        Rule("bank group", buses, buses, t["nCCDL"]),
    ]
    if placement == "bank":
        row_scope = "channel"
        rules.append(Rule("channel", (mac,), (mac,), t["nCCDAB"]))
    elif placement == "bankgroup":
        row_scope = "bank index"
        rules.append(Rule("channel", (mac,), (mac,), t["nCCDSB"]))
    else:
        row_scope = "bank of both pchs"
        rules.append(Rule("channel", (mac,), (mac,), t["nBL"]))
        rules.append(Rule("rank of both pchs", (mac,), (mac,), t["nCCDS"]))
        rules.append(Rule("bank group of both pchs", (mac,), (mac,), t["nCCDL"]))
    rules += [
        Rule(row_scope, (act,), (act,), t["nRC"]),
        Rule(row_scope, (act,), (mac,), t["nRCD"]),
        Rule(row_scope, (act,), (pre,), t["nRAS"]),
        Rule(row_scope, (mac,), (pre,), t["nRTPL"]),
        Rule(row_scope, (pre,), (act,), t["nRP"]),
    ]
    return rules


ROW_SCOPES = {"bank": "channel", "bankgroup": "bank index", "buffer": "bank of both pchs"}


def complete_timing_table(placement: Placement, t: dict[str, int], windows: int = 0) -> list[Rule]:
    """All rules of `hbm-pim` for the commands of a placement.

    ACT*, MAC* and PRE*, PREA included, act in both pchs; REFab and REFsb in the one addressed.

    Args:
        placement: whose commands.
        t: cycles by name.
        windows: sets of four banks that an ACTAB or ACTSB opens one after the other, nFAW apart; 0
            if it opens all its banks at once.
    """
    # The last four banks open so much later than the first four.
    late = max(0, windows - 1) * t["nFAW"]
    suffix = SUFFIXES[placement]
    act, mac = "ACT" + suffix, "MAC" + suffix
    pre = "PREA" if placement == "bank" else "PRE" + suffix
    buses = ("WRGB", "MVSB", "MVGB", "SFM")
    own = ROW_SCOPES[placement]

    rules = [
        # The row bus.
        Rule("channel", (act,), (act, pre, "PREA", "REFab", "REFsb"), t["nACT"]),
        Rule("channel", (pre, "PREA"), (pre, "PREA"), t["nPPD"]),
        # Closing all banks.
        Rule("channel", (act,), ("PREA",), late + t["nRAS"]),
        Rule("channel", (mac,), ("PREA",), t["nRTPL"]),
        Rule("channel", ("PREA",), (act,), t["nRP"]),
        # Banks.
        Rule(own, (act,), (act,), t["nRC"]),
        Rule(own, (act,), (mac,), late + t["nRCDMAC"]),
        Rule(own, (act,), (pre,), late + t["nRAS"]),
        Rule(own, (mac,), (pre,), t["nRTPL"]),
        Rule(own, (pre,), (act,), t["nRP"]),
        # Refresh of all banks.
        Rule("channel", (act,), ("REFab",), late + t["nRC"]),
        Rule("channel", (pre, "PREA"), ("REFab",), t["nRP"]),
        Rule("channel", ("REFab",), (act, pre, "PREA"), t["nRFC"]),
        Rule("pch", ("REFab",), ("REFab", "REFsb"), t["nRFC"]),
        # Refresh of one bank.
        Rule(own, (act,), ("REFsb",), late + t["nRC"]),
        Rule("channel", ("PREA",), ("REFsb",), t["nRP"]),
        Rule(own, (pre,), ("REFsb",), t["nRP"]),
        Rule(own, ("REFsb",), (act,), t["nRFCpb"]),
        Rule("bank", ("REFsb",), ("REFsb",), t["nRFCpb"]),
        Rule("pch", ("REFsb",), ("REFab",), t["nRFCpb"]),
        Rule("pch", ("REFsb",), ("REFsb",), t["nRREFD"]),
        # The data bus.
        Rule("pch", buses, buses, t["nBL"]),
        Rule("rank", buses, buses, t["nCCDS"]),
        Rule("bank group", buses, buses, t["nCCDL"]),
    ]
    if placement == "bank":
        rules.append(Rule("channel", (mac,), (mac,), t["nCCDAB"]))
        rules.append(Rule("channel", (act,), (act,), windows * t["nFAW"]))
        return rules
    rules.append(Rule("channel", ("REFsb",), (act,), t["nRREFD"]))
    rules.append(Rule("channel", (act,), ("REFsb",), late + t["nRRDL"]))
    if placement == "bankgroup":
        rules.append(Rule("channel", (mac,), (mac,), t["nCCDSB"]))
        rules.append(Rule("channel", (act,), (act,), max(windows * t["nFAW"], t["nRRDL"])))
    else:
        rules.append(Rule("channel", (mac,), (mac,), t["nCCDPB"]))
        rules.append(Rule("rank of both pchs", (mac,), (mac,), t["nCCDS"]))
        rules.append(Rule("bank group of both pchs", (mac,), (mac,), t["nCCDL"]))
        rules.append(Rule("channel", (act,), (act,), t["nRRDS"]))
        rules.append(Rule("bank group of both pchs", (act,), (act,), t["nRRDL"]))
        rules.append(Rule("channel", (act,), (act,), t["nFAW"], window=4))
    return rules


def command_class(name: str) -> Literal["row", "column", "none"]:
    if name.startswith(("ACT", "PRE", "REF")):
        return "row"
    return "none" if name == "BARRIER" else "column"


@dataclass(eq=False)
class Entry:
    """A request in a queue, with the cycle in which it entered."""

    request: Request
    arrival: int


class Constraint:
    """A rule, and when its preceding commands were issued on every instance of its scope."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.instance_of = SCOPES[rule.scope]
        self.issued: dict[tuple[int, ...], list[int]] = {}
        self.not_before: dict[tuple[int, ...], int] = {}

    def note(self, a: Request, now: int) -> None:
        """A preceding command is issued."""
        instance = self.instance_of(a)
        issued = self.issued.setdefault(instance, [])
        issued.append(now)
        if len(issued) >= self.rule.window:
            self.not_before[instance] = issued[-self.rule.window] + self.rule.latency


class Constraints:
    """All rules of a channel, and what the commands issued so far make of them."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.after: dict[str, list[Constraint]] = {}
        self.on: dict[str, list[Constraint]] = {}
        for rule in rules:
            constraint = Constraint(rule)
            for preceding in set(rule.preceding):
                self.after.setdefault(preceding, []).append(constraint)
            for following in set(rule.following):
                self.on.setdefault(following, []).append(constraint)

    def note(self, name: str, a: Request, now: int) -> None:
        """A command is issued."""
        for constraint in self.after.get(name, []):
            constraint.note(a, now)

    def allow(self, name: str, a: Request, now: int) -> bool:
        """Whether a command may be issued now."""
        for constraint in self.on.get(name, []):
            if now < constraint.not_before.get(constraint.instance_of(a), 0):
                return False
        return True


class Channel:
    """One channel's controller and the state of its banks."""

    def __init__(
        self,
        number: int,
        placement: Placement,
        timing: dict[str, int],
        log: list[Command],
        device: Device = REFERENCE,
    ) -> None:
        self.number = number
        self.device = device
        self.placement = placement
        self.timing = timing
        self.log = log
        self.queue: list[Entry] = []
        self.maintenance: deque[Request] = deque()
        self.open_rows: dict[tuple[int, ...], int] = {}
        self.constraints = Constraints(
            timing_table(placement, timing)
            if device.rules == "attacc-pim"
            else complete_timing_table(placement, timing, device.windows)
        )

    # State of the banks.

    def bank_of(self, a: Request) -> tuple[int, ...]:
        if self.placement == "bank":
            return ()
        return (a.bank,) if self.placement == "bankgroup" else (a.rank, a.bank_group, a.bank)

    def next_command(self, a: Request) -> str:
        if a.kind in PLAIN_COMMANDS:
            return PLAIN_COMMANDS[a.kind]
        suffix = SUFFIXES[self.placement]
        row = self.open_rows.get(self.bank_of(a))
        if row is None:
            return "ACT" + suffix
        if row == a.row:
            return "MAC" + suffix
        return "PREA" if self.placement == "bank" else "PRE" + suffix

    def next_maintenance_command(self) -> str:
        refresh = self.maintenance[0]
        if refresh.bank == UNUSED:
            return "PREA" if self.open_rows else "REFab"
        if self.bank_of(refresh) not in self.open_rows:
            return "REFsb"
        return "PREA" if self.placement == "bank" else "PRE" + SUFFIXES[self.placement]

    # Timing.

    def ready(self, name: str, a: Request, now: int) -> bool:
        return self.constraints.allow(name, a, now)

    def issue(self, name: str, a: Request, now: int) -> None:
        self.log.append(Command(now, name, *a[1:]))
        self.constraints.note(name, a, now)
        if name == "PREA":
            self.open_rows.clear()
        elif name.startswith("PRE"):
            del self.open_rows[self.bank_of(a)]
        elif name.startswith("ACT"):
            self.open_rows[self.bank_of(a)] = a.row

    # Selection.

    def is_row_hit(self, a: Request) -> bool:
        return self.next_command(a).startswith("MAC")

    def yields(self, a: Request) -> bool:
        """Whether row hits go before it."""
        return not self.is_row_hit(a)

    def disturbs_a_row_hit(self, a: Request) -> bool:
        """Whether some queued MAC, behind a barrier or not, hits its row at the same address."""
        return any(
            self.is_row_hit(b.request)
            and b.request.rank == a.rank
            and b.request.bank_group == a.bank_group
            and b.request.bank == a.bank
            for b in self.queue
        )

    def select(self, now: int) -> Entry | None:
        """The best request; takes a barrier off the head of the queue, if one is there."""
        if self.queue and self.queue[0].request.kind == "PIM_BARRIER":
            self.queue.pop(0)
        if not self.queue:
            return None

        candidate = self.queue[0]
        candidate_ready = self.entry_ready(candidate, now)
        behind_barrier = candidate.request.kind == "PIM_BARRIER"
        for entry in self.queue[1:]:
            if entry.request.kind == "PIM_BARRIER":
                behind_barrier = True
                continue
            if behind_barrier and command_class(self.next_command(entry.request)) != "row":
                continue
            entry_ready = self.entry_ready(entry, now)
            if candidate_ready and not entry_ready:
                continue
            if entry_ready and not candidate_ready:
                a = entry.request
                entry_wins = not self.yields(a) or not self.disturbs_a_row_hit(a)
            else:
                entry_wins = entry.arrival < candidate.arrival
            if entry_wins:
                candidate, candidate_ready = entry, entry_ready
        return candidate

    def entry_ready(self, entry: Entry, now: int) -> bool:
        return self.ready(self.next_command(entry.request), entry.request, now)

    # One cycle.

    def fall_due(self, now: int) -> None:
        d = self.device
        if d.refresh == "all_bank":
            if now % self.timing["nREFI"] == 0:
                for pch in range(d.pchs):
                    refresh = Request("REFRESH", self.number, pch, *[UNUSED] * 5)
                    self.maintenance.append(refresh)
            return
        banks = d.ranks * d.bank_groups * d.banks
        interval = self.timing["nREFI"] // banks
        if now % interval == 0:
            # Bank groups change fastest, then ranks, then banks: those that one MACSB reads are
            # refreshed one after the other.
            number = (now // interval - 1) % banks
            bank_group = number % d.bank_groups
            rank = number // d.bank_groups % d.ranks
            bank = number // d.bank_groups // d.ranks
            for pch in range(d.pchs):
                place = (pch, rank, bank_group, bank, UNUSED, UNUSED)
                self.maintenance.append(Request("REFRESH", self.number, *place))

    def tick(self, now: int) -> None:
        self.fall_due(now)
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

    def serve_maintenance(self, now: int) -> None:
        refresh = self.maintenance[0]
        name = self.next_maintenance_command()
        if self.ready(name, refresh, now):
            self.issue(name, refresh, now)
            if name.startswith("REF"):
                self.maintenance.popleft()

    def serve_queue(self, now: int, other_than: str | None) -> str:
        """Issue the best request if it may; returns the class of its next command."""
        entry = self.select(now)
        if entry is None:
            return "none"
        a = entry.request
        name = self.next_command(a)
        kind = command_class(name)
        if kind != other_than and self.entry_ready(entry, now):
            self.issue(name, a, now)
            if kind != "row":
                self.queue.remove(entry)
        return kind

    def busy(self) -> bool:
        return bool(self.queue or self.maintenance)


class Controller:
    """The front end and the controllers of all channels."""

    def __init__(
        self,
        requests: Iterable[Request],
        placement: Placement,
        timing: dict[str, int],
        device: Device = REFERENCE,
    ) -> None:
        self.waiting = deque(requests)
        for request in self.waiting:
            if request.kind != MAC_KINDS[placement] and request.kind not in PLAIN_COMMANDS:
                raise ValueError(f"{request.kind} is not part of the {placement} placement")
        self.log: list[Command] = []
        self.channels = [
            Channel(c, placement, timing, self.log, device) for c in range(device.channels)
        ]
        self.cycle = 0

    def tick(self) -> None:
        self.cycle += 1
        while self.waiting:
            queue = self.channels[self.waiting[0].channel].queue
            if len(queue) > QUEUE_ACCEPTS_WHILE_HOLDING:
                break
            queue.append(Entry(self.waiting.popleft(), self.cycle))
        for channel in self.channels:
            channel.tick(self.cycle)

    def finished(self) -> bool:
        return not self.waiting and not any(channel.busy() for channel in self.channels)


def parse(source: Path | Iterable[str]) -> list[Request]:
    """Requests of a trace, given as its file (.gz or plain) or its lines.

    Raises:
        ValueError: for a line that is not a known kind and a hexadecimal address.
    """
    if isinstance(source, Path):
        opened = gzip.open if source.suffix == ".gz" else open
        with opened(source, "rt") as file:
            return parse(file.readlines())
    requests: list[Request] = []
    for number, line in enumerate(source, 1):
        words = line.split()
        if len(words) != 2 or words[0] not in KINDS or not words[1].startswith("0x"):
            raise ValueError(f"line {number} is not 'KIND 0xADDRESS': {line!r}")
        rest = int(words[1], 16) >> 5
        fields: dict[str, int] = {}
        for name, bits in (
            ("column", 5),
            ("row", 14),
            ("bank", 2),
            ("bank_group", 2),
            ("rank", 1),
            ("pch", 1),
            ("channel", 4),
        ):
            fields[name] = rest % (1 << bits)
            rest >>= bits
        requests.append(Request(words[0], **fields))
    return requests


def simulate(
    requests: Iterable[Request],
    *,
    placement: Placement,
    timing: dict[str, int],
    device: Device = REFERENCE,
) -> Result:
    """Run a trace to its end.

    Args:
        requests: in trace order.
        placement: where the units sit; only its own kind of MAC may occur.
        timing: cycles by name, such as `HBM3_5200`.
        device: its rules, refresh and banks.

    Raises:
        ValueError: for a request that the placement does not have (another MAC, LD, ST).
    """
    controller = Controller(requests, placement, timing, device)
    controller.tick()
    while not controller.finished():
        controller.tick()
    return Result(controller.cycle, controller.log)


# Programs whose requests wait for each other's data, which the reference has not.


class Signal(NamedTuple):
    """A request's part in making an event, `delay` cycles after it issued."""

    event: int
    delay: int


@dataclass(eq=False)
class DependentEntry(Entry):
    """A request that waits for an event (0: none), and signals others."""

    waits: int
    signals: tuple[Signal, ...]


class DependentRequest(NamedTuple):
    """A request, the event that it waits for (0: none), and those that it signals."""

    request: Request
    waits: int = 0
    signals: tuple[Signal, ...] = ()


class DependentChannel(Channel):
    """A channel fed by itself, which holds back what waits for an event.

    An event has happened when all requests of the channel that signal it have issued, each its
    delay ago. Opening and closing rows waits for nothing.
    """

    def __init__(
        self,
        number: int,
        placement: Placement,
        timing: dict[str, int],
        requests: list[DependentRequest],
        *,
        moves_yield: bool,
        device: Device = REFERENCE,
    ) -> None:
        super().__init__(number, placement, timing, [], device)
        self.waiting = deque(requests)
        self.moves_yield = moves_yield
        self.unsignalled = Counter(signal.event for r in requests for signal in r.signals)
        self.effects: dict[int, list[int]] = {}

    def happened(self, event: int, now: int) -> bool:
        return self.unsignalled[event] == 0 and all(
            now >= cycle for cycle in self.effects.get(event, [])
        )

    def yields(self, a: Request) -> bool:
        is_row = command_class(self.next_command(a)) == "row"
        return is_row or (self.moves_yield and super().yields(a))

    def entry_ready(self, entry: Entry, now: int) -> bool:
        if not super().entry_ready(entry, now):
            return False
        if command_class(self.next_command(entry.request)) != "column":
            return True
        assert isinstance(entry, DependentEntry)
        return entry.waits == 0 or self.happened(entry.waits, now)

    def serve_queue(self, now: int, other_than: str | None) -> str:
        before = list(self.queue)
        kind = super().serve_queue(now, other_than)
        for entry in before:
            if entry not in self.queue:
                assert isinstance(entry, DependentEntry)
                for signal in entry.signals:
                    self.unsignalled[signal.event] -= 1
                    self.effects.setdefault(signal.event, []).append(now + signal.delay)
        return kind

    def feed(self, now: int) -> None:
        while self.waiting and len(self.queue) <= QUEUE_ACCEPTS_WHILE_HOLDING:
            request, waits, signals = self.waiting.popleft()
            self.queue.append(DependentEntry(request, now, waits, signals))

    def run(self) -> int:
        """Serve everything; returns the cycles."""
        now = 1
        while True:
            self.feed(now)
            self.tick(now)
            if not self.waiting and not self.busy():
                return now
            now += 1


def simulate_dependent(
    requests: dict[int, list[DependentRequest]],
    *,
    placement: Placement,
    timing: dict[str, int],
    moves_yield: bool,
    device: Device = REFERENCE,
) -> Result:
    """Run programs of channels that are fed independently, and refreshed until the last has ended.

    Args:
        requests: per channel, in order.
        placement: where the units sit.
        timing: cycles by name, such as `HBM3_5200`.
        moves_yield: whether row hits go before ready moves, as in the reference.
        device: its rules, refresh and banks.
    """
    channels = [
        DependentChannel(number, placement, timing, own, moves_yield=moves_yield, device=device)
        for number, own in requests.items()
    ]
    ends = [channel.run() for channel in channels]
    cycles = max(ends, default=1)
    for channel, end in zip(channels, ends, strict=True):
        for now in range(end + 1, cycles + 1):
            channel.tick(now)
    return Result(cycles, [command for channel in channels for command in channel.log])
