"""The columns that the published release prints for a run, computed by the product."""

from attacc.gpu.costs import EnergyBreakdown
from attacc.study.papers.step import PublishedRun, decode_of, prefill_of
from attacc.system.step import StepCost
from attacc.units import NS_PER_S

FEED_FORWARD = ("ff1", "ff2", "ff3")
NORMS = ("norm1", "norm2")


def times_ms(run: PublishedRun, cycles: dict[int, int]) -> dict[str, float]:
    """Times of a prefill (s_*) and of the mean decode step (g_*); cycles by length of the cache."""
    prefill, decode = prefill_of(run), decode_of(run, cycles)
    return {
        "s_time": ms(prefill.time_ns),
        "s_matmul": of(prefill, "score", "context"),
        "s_fc": ms(prefill.fc.time_ns),
        "s_comm": ms(prefill.communication.time_ns),
        "s_softmax": of(prefill, "softmax"),
        "s_act": of(prefill, "activation"),
        "s_lnorm": of(prefill, *NORMS),
        "g_time (ms)": ms(decode.time_ns),
        "g_matmul": of(decode, "score", "context", "attention"),
        "g_fc": ms(decode.fc.time_ns),
        "g_comm": ms(decode.communication.time_ns),
        "g_etc": ms(decode.other.time_ns),
        "g_qkv_time": of(decode, "qkv"),
        "g_prj_time": of(decode, "projection"),
        "g_ff_time": of(decode, *FEED_FORWARD),
        "g2g_comm": of(decode, "all_reduce1", "all_reduce2"),
        "c2g_comm": of(decode, "qkv_transfer", "context_transfer"),
        "g_softmax": of(decode, "softmax"),
        "g_act": of(decode, "activation"),
        "g_lnorm": of(decode, *NORMS),
    }


def energies_nj(run: PublishedRun) -> dict[str, float]:
    """Energies of the mean decode step of a system of GPUs, in the published accounting."""
    decode = decode_of(run, {})
    total, fc, attention, other = (
        decode.energy,
        decode.fc.energy,
        decode.attention.energy,
        decode.other.energy,
    )
    picojoules = {
        "g_energy (nJ)": total.total_pj,
        "g_dram_energy": total.dram_pj,
        "g_l2_energy": total.l2_pj,
        "g_l1_energy": total.l1_pj,
        "g_reg_energy": total.register_pj,
        "g_alu_energy": total.alu_pj,
        "g_fc_mem_energy": fc.dram_pj,
        "g_fc_comp_energy": beyond_dram(fc),
        "g_attn_mem_energy": attention.dram_pj,
        "g_attn_comp_energy": beyond_dram(attention),
        "g_etc_mem_energy": other.dram_pj,
        "g_etc_comp_energy": beyond_dram(other),
        "g_comm_energy": total.link_pj,
    }
    return {column: value / 1e3 for column, value in picojoules.items()}


def of(cost: StepCost, *names: str) -> float:
    return ms(sum(op.runs * op.time_ns for op in cost.operators if op.name in names))


def ms(time_ns: float) -> float:
    return time_ns / NS_PER_S * 1e3


def beyond_dram(energy: EnergyBreakdown) -> float:
    return energy.total_pj - energy.dram_pj
