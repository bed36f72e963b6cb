from pathlib import Path

import pytest

from attacc.errors import DocumentError, UnknownNameError
from attacc.hardware.placement import Placement
from attacc.hardware.system import (
    SYSTEMS,
    AttentionSite,
    CapacityRule,
    Schedule,
    changed_system,
    load_system,
)

GPUS_ONLY = """
name = "mine"
gpu = "h100"
gpus = 4
link = "nvlink4"
attention = "gpu"
"""
WITH_ATTACC = """
name = "mine"
gpu = "h100"
gpus = 4
link = "nvlink4"
attention = "attacc"
[attacc]
devices = 2
stacks_per_device = 6
placement = "bankgroup"
"""


@pytest.mark.parametrize("name", SYSTEMS.names())
def test_every_preset_resolves_and_names_its_source(name: str) -> None:
    """Catches a preset that is malformed, misnamed, unsourced, or names what is not there."""
    system = load_system(name)
    assert system.spec.name == name
    assert system.spec.description
    assert "default" in system.spec.sources
    assert (system.host is not None) == (system.spec.attention is AttentionSite.CPU)
    assert (system.attacc is not None) == (system.spec.attention is AttentionSite.ATTACC)


def test_the_systems_of_the_papers() -> None:
    """Catches a preset whose memory differs from the papers'."""
    gib = {name: load_system(name).gpu_memory_bytes / 2**30 for name in SYSTEMS.names()}
    assert gib["dgx-base"] == gib["dgx-cpu"] == gib["dgx-attacc-bank"] == 640
    assert gib["dgx-large"] == gib["2xdgx"] == 1280
    assert load_system("2xdgx").gpus == 16
    assert [
        load_system(f"dgx-attacc-{placement}").attacc.stacks  # pyright: ignore[reportOptionalMemberAccess]
        for placement in Placement
    ] == [40, 40, 40]


TODAY = {"a100": "nvlink3", "h100": "nvlink4", "h200": "nvlink4", "b200": "nvlink5"}
STACKS = {"hbm3": "hbm3-5.2", "hbm3e": "hbm3e-9.2", "hbm4": "hbm4-8.0"}


@pytest.mark.parametrize("gpu", [*TODAY, "gb200"])
def test_the_systems_of_today(gpu: str) -> None:
    """Catches a variant that changes more than its name says, or a link of another generation."""
    link = TODAY.get(gpu, "nvlink5")
    plain = load_system(f"8x{gpu}")
    assert (plain.gpu.name, plain.gpus, plain.attacc) == (gpu, 8, None)
    for stack, dram in STACKS.items():
        for queries, name in (
            (1, f"8x{gpu}-attacc-{stack}"),
            (8, f"8x{gpu}-attacc-{stack}-shared"),
        ):
            system = load_system(name)
            assert (system.gpu, system.link) == (plain.gpu, plain.link)
            assert system.link is not None
            assert system.attacc is not None
            assert system.attacc.stacks == 40
            assert system.attacc.link.name == system.link.name == link
            assert (system.attacc.table.dram, system.attacc.table.queries_per_read) == (
                dram,
                queries,
            )
            assert system.attacc.table.placement is Placement.BANK
            assert system.spec.memory_reserve == plain.spec.memory_reserve == 0.1


def test_the_papers_reserve_no_memory() -> None:
    """Catches a figure of the papers that changes with the runtime's reserve."""
    papers = [name for name in SYSTEMS.names() if "dgx" in name]
    assert len(papers) == 7
    assert {load_system(name).spec.memory_reserve for name in papers} == {0}


def test_a_preset_on_top_of_another_tells_its_own_sources() -> None:
    """Catches a changed number that keeps the source of the number which it replaces."""
    sources = load_system("8xb200-attacc-hbm4-shared").spec.sources
    assert "up to 8 queries" in sources["attacc.queries_per_read"]
    assert "HBM4" in sources["attacc.dram"]
    assert "B200" in sources["link"]
    assert "gpu_memory_utilization" in sources["memory_reserve"]


def test_a_system_of_ones_own(tmp_path: Path) -> None:
    """Catches defaults other than the documented ones."""
    path = tmp_path / "mine.toml"
    path.write_text(WITH_ATTACC)
    system = load_system(str(path))
    assert system.attacc is not None
    table = system.attacc.table
    assert (system.gpus, system.attacc.stacks, table.dram) == (4, 12, "hbm3-5.2")
    assert (table.power_limited, table.schedule) == (True, Schedule.INTERLEAVED)
    assert table.queries_per_read == 1
    assert (table.capacity, system.attacc.link.name) == (CapacityRule.SEPARATE, "nvlink3")
    assert not system.spec.head_level_pipelining
    assert not system.spec.ff_coprocessing


def test_memory_of_the_host_counts_all_sockets() -> None:
    """Catches the memory of one socket in place of all."""
    host = load_system("dgx-cpu").host
    assert host is not None
    assert host.memory_bytes == 2 * 2**40


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (GPUS_ONLY, '"gpu"', '"attacc"', r'attention = "attacc" needs a table \[attacc\]'),
        (GPUS_ONLY, '"gpu"', '"cpu"', r'attention = "cpu" needs a table \[cpu\]'),
        (GPUS_ONLY, '"gpu"', '"fpga"', r"attention: 'fpga' is unknown .*attacc, cpu, gpu"),
        (WITH_ATTACC, '"attacc"', '"gpu"', r"the table \[attacc\] is of no use .*remove it"),
        (GPUS_ONLY, 'link = "nvlink4"', "", r'4 GPUs need a link: add link = "nvlink3"'),
        (GPUS_ONLY, "gpus = 4", "gpus = 0", r"gpus: 0 is out of range"),
        (
            GPUS_ONLY,
            "gpus = 4",
            "gpus = 4\nff_coprocessing = true",
            r'ff_coprocessing = true needs attention = "attacc", not "gpu"',
        ),
        (
            WITH_ATTACC,
            "devices = 2",
            'devices = 2\nqueries_per_read = 4\nschedule = "complete"',
            r'attacc.queries_per_read = 4 needs attacc.schedule = "interleaved", not "complete"',
        ),
        (
            WITH_ATTACC,
            "devices = 2",
            "devices = 2\nqueries_per_read = 0",
            r"attacc.queries_per_read: 0 is out of range",
        ),
        (WITH_ATTACC, "bankgroup", "bankgruop", r"attacc.placement: .*'bankgroup'"),
        (WITH_ATTACC, "devices", "device", r"attacc.device: unknown key .*did you mean 'devices'"),
        (WITH_ATTACC, "devices = 2", "devices = -2", r"attacc.devices: -2 is out of range"),
    ],
)
def test_a_fault_names_file_field_and_way_out(
    tmp_path: Path, text: str, old: str, new: str, message: str
) -> None:
    """Catches a system that contradicts itself, and messages without a way out."""
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DocumentError, match=message) as caught:
        load_system(str(path))
    assert "mine.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (GPUS_ONLY, "h100", "h1000", r"system mine: gpu: unknown GPU preset 'h1000'.*'h100'"),
        (GPUS_ONLY, "nvlink4", "nvlink9", r"system mine: link: unknown link preset 'nvlink9'"),
        (
            WITH_ATTACC,
            "devices = 2",
            'devices = 2\nlink = "cxl"',
            r"system mine: attacc.link: unknown link preset 'cxl'",
        ),
    ],
)
def test_a_name_that_is_not_there_names_system_and_field(
    tmp_path: Path, text: str, old: str, new: str, message: str
) -> None:
    """Catches a name inside a system that is reported without saying where it stands."""
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UnknownNameError, match=message):
        load_system(str(path))


def test_a_single_gpu_needs_no_link(tmp_path: Path) -> None:
    """Catches a link demanded where there is nothing to link."""
    path = tmp_path / "mine.toml"
    path.write_text(GPUS_ONLY.replace("gpus = 4", "gpus = 1").replace('link = "nvlink4"', ""))
    system = load_system(str(path))
    assert system.link is None


def test_an_unknown_system_names_the_option() -> None:
    """Catches an unknown name reported without its option or the nearest choice."""
    with pytest.raises(UnknownNameError, match=r"--system: unknown system preset 'dgx-bsae'.*base"):
        changed_system("dgx-bsae", where="--system")
