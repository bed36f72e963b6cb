from math import isclose

from attacc.hardware.cpu import CPUS


def test_every_preset_loads_and_names_its_sources() -> None:
    """Catches a preset that is malformed, misnamed, or without sources."""
    for name in CPUS.names():
        cpu = CPUS.load(name)
        assert cpu.name == name
        assert {"default", "peak", "memory_bandwidth", "memory", "memory_energy"} <= (
            cpu.sources.keys()
        )


def test_the_cpu_of_a_dgx_a100() -> None:
    """Catches a figure that does not follow from what its source states."""
    cpu = CPUS.load("epyc-7742")
    assert isclose(cpu.memory_bytes_per_s, 8 * 8 * 3200e6)
    assert isclose(cpu.peak_flops_per_s, 64 * 2.25e9 * 2 * 2 * 8)
    assert isclose(cpu.memory_pj_per_byte * 8, 1300, rel_tol=1e-2)
