"""Event logs of the twins keep what no policy may break, on random workloads."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.oracle.serving import disaggregated, sarathi, sglang, static, vllm_v0, vllm_v1
from tests.oracle.serving.common import Job
from tests.serving import workloads
from tests.serving.golden_vectors import Asked, event
from tests.serving.logs import Rules, check
from tests.serving.workloads import Cost

Options = dict[str, Any]


def jobs_of(asked: tuple[Asked, ...]) -> list[Job]:
    """Jobs of a workload."""
    return [Job(i, *one) for i, one in enumerate(asked)]


def rules_of(jobs: list[Job], longest: int | None = None, **bounds: Any) -> Rules:
    """What the logs of these jobs must keep, with outputs cut at the longest sequence."""
    prompts = {job.index: job.tokens for job in jobs}
    return Rules(
        prompts=prompts,
        outputs={
            job.index: job.outputs if longest is None else min(job.outputs, longest - job.tokens)
            for job in jobs
        },
        arrivals={job.index: job.arrival_ps for job in jobs},
        **bounds,
    )


def v1_rules(jobs: list[Job], s: vllm_v1.Settings, **bounds: Any) -> Rules:
    """What a log of vLLM V1 must keep."""
    return rules_of(
        jobs,
        s.max_model_len,
        capacity=s.blocks - 1,
        tokens=s.max_num_batched_tokens,
        seqs=s.max_num_seqs,
        in_flight=2 if s.asynchronous else 1,
        **bounds,
    )


@given(workloads.asked(), workloads.vllm_v1(), workloads.costs())
def test_vllm_v1(asked: tuple[Asked, ...], options: Options, cost: Cost) -> None:
    """Catches lost requests and tokens, steps over a bound, leaked blocks, livelocks."""
    jobs, settings = jobs_of(asked), vllm_v1.Settings(**options)
    log = vllm_v1.simulate(jobs, settings, cost.duration_ps, cost.host_ps)
    check(log, v1_rules(jobs, settings))


@given(workloads.asked(), workloads.vllm_v0(), workloads.costs())
def test_vllm_v0(asked: tuple[Asked, ...], options: Options, cost: Cost) -> None:
    """Catches lost requests and tokens, steps over a bound, leaked blocks, livelocks."""
    jobs, settings = jobs_of(asked), vllm_v0.Settings(**options)
    log = vllm_v0.simulate(jobs, settings, cost.duration_ps, cost.host_ps)
    rules = rules_of(
        jobs, settings.max_model_len, capacity=settings.blocks, seqs=settings.max_num_seqs
    )
    check(log, rules)


@given(workloads.asked(), workloads.sarathi(), workloads.costs())
def test_sarathi(asked: tuple[Asked, ...], options: Options, cost: Cost) -> None:
    """Catches lost requests and tokens, batches over the cap, leaked blocks, livelocks."""
    jobs, settings = jobs_of(asked), sarathi.Settings(**options)
    log = sarathi.simulate(jobs, settings, cost.duration_ps, cost.host_ps)
    check(log, rules_of(jobs, capacity=settings.blocks, seqs=settings.batch_size_cap))


@given(workloads.asked(), workloads.sglang(), workloads.costs())
def test_sglang(asked: tuple[Asked, ...], options: Options, cost: Cost) -> None:
    """Catches lost requests and tokens, batches over a bound, leaked slots, a flag that stays."""
    jobs, settings = jobs_of(asked), sglang.Settings(**options)
    scheduler = sglang.Scheduler(settings)
    log = sglang.drive(scheduler, jobs, cost.duration_ps, cost.host_ps)
    rules = rules_of(
        jobs, capacity=settings.pool_tokens, seqs=settings.max_running_requests, empty=False
    )
    check(log, rules)
    assert scheduler.slots + scheduler.tree.evictable() == settings.pool_tokens


@given(workloads.asked(), workloads.static(), workloads.costs())
def test_static(asked: tuple[Asked, ...], options: Options, cost: Cost) -> None:
    """Catches lost requests and tokens, batches over the size, leaked blocks."""
    jobs, settings = jobs_of(asked), static.Settings(**options)
    log = static.simulate(jobs, settings, cost.duration_ps, cost.host_ps)
    check(log, rules_of(jobs, capacity=settings.blocks, seqs=settings.batch_size))


@given(
    workloads.asked(),
    workloads.vllm_v1(),
    workloads.vllm_v1(),
    workloads.costs(),
    st.sampled_from([0, 1, 50]),
)
def test_disaggregated(
    asked: tuple[Asked, ...], first: Options, second: Options, cost: Cost, link: int
) -> None:
    """Catches lost requests, a request that D sees before P has finished, and leaked blocks."""
    jobs = jobs_of(asked)
    p, d = vllm_v1.Settings(**first), vllm_v1.Settings(**second)

    def transfer_ps(tokens: int) -> int:
        return link * tokens

    log = disaggregated.simulate(
        jobs, disaggregated.Settings(p, d, transfer_ps), cost.duration_ps, cost.host_ps
    )
    lines = {pool: [line[2:] for line in log.splitlines() if line[0] == pool] for pool in "PD"}
    given_p = [Job(job.index, job.arrival_ps, job.prompt, 1) for job in jobs]
    replay = check("\n".join(lines["P"]), v1_rules(given_p, p, empty=False))
    finished = {
        int(index): int(one.fields["@"][0])
        for one in map(event, lines["P"])
        for index in one.fields.get("finish", [])
    }
    assert set(finished) == {job.index for job in jobs} - set(replay.rejected)
    given_d = [
        Job(job.index, finished[job.index], job.prompt, job.outputs)
        for job in jobs
        if job.index in finished
    ]
    check("\n".join(lines["D"]), v1_rules(given_d, d, loaded=True))
