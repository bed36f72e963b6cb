"""The twins of the engines' schedulers give the event logs of the engines themselves."""

from typing import Any

import pytest

from tests.oracle.serving import disaggregated, sarathi, sglang, static, vllm_v0, vllm_v1
from tests.oracle.serving.common import Job, Step, Time, drive
from tests.serving import golden_vectors as golden
from tests.serving.golden_vectors import STEP_PS, Asked, Vector


def takes(ps: int) -> Time:
    """Every step takes the same time."""

    def time(step: Step) -> int:
        return ps

    return time


constant = takes(STEP_PS)


def jobs_of(asked: tuple[Asked, ...]) -> list[Job]:
    """Jobs of a vector."""
    return [Job(i, *one) for i, one in enumerate(asked)]


def simulated(vector: Vector) -> str:
    """The twin's log of a vector."""
    settings: dict[str, Any] = dict(vector.settings)
    jobs = jobs_of(vector.jobs)
    match vector.policy:
        case "vllm_v1":
            return vllm_v1.simulate(jobs, vllm_v1.Settings(**settings), constant)
        case "vllm_v0":
            return vllm_v0.simulate(jobs, vllm_v0.Settings(**settings), constant)
        case "sarathi":
            return sarathi.simulate(jobs, sarathi.Settings(**settings), constant)
        case "sglang":
            return sglang.simulate(jobs, sglang.Settings(**settings), constant)
        case _:
            raise ValueError(vector.policy)


@pytest.mark.parametrize("vector", golden.V1, ids=lambda vector: vector.name)
def test_vllm_v1_schedules_as_the_engine_did(vector: Vector) -> None:
    """Catches another order of admission, preemption or eviction, and a block too many."""
    assert golden.differences(vector, simulated(vector)) == []


@pytest.mark.parametrize("vector", golden.V0, ids=lambda vector: vector.name)
def test_vllm_v0_schedules_as_the_engine_did(vector: Vector) -> None:
    """Catches a decode that needs no free block, and an admission after a preemption."""
    assert golden.differences(vector, simulated(vector)) == []


@pytest.mark.parametrize("vector", golden.SARATHI, ids=lambda vector: vector.name)
def test_sarathi_schedules_as_vidur_did(vector: Vector) -> None:
    """Catches blocks that are taken chunk by chunk, and a chunk that decodes do not count in."""
    assert golden.differences(vector, simulated(vector)) == []


@pytest.mark.parametrize("vector", golden.SGLANG, ids=lambda vector: vector.name)
def test_sglang_schedules_as_the_engine_did(vector: Vector) -> None:
    """Catches a flag that clears too soon, another order of retraction, and duplicates kept."""
    assert golden.differences(vector, simulated(vector)) == []


@pytest.mark.parametrize(
    ("vector", "stated"), [(golden.SG_B, golden.SG_B_RATIO), (golden.SG_F, golden.SG_F_RATIO)]
)
def test_sglang_foresees_outputs_as_the_engine_did(
    vector: Vector, stated: tuple[int, float]
) -> None:
    """Catches a ratio that falls in prefills, too, or that a retraction does not raise.

    The page cuts the ratio to four digits, so that it may lie 0.0001 above.
    """
    settings: dict[str, Any] = dict(vector.settings)
    scheduler = sglang.Scheduler(sglang.Settings(**settings))
    ratios: list[float] = []

    def time(step: Step) -> int:
        ratios.append(scheduler.ratio)
        return STEP_PS

    drive(scheduler, jobs_of(vector.jobs), time, takes(0))
    step, ratio = stated
    assert ratio <= ratios[step] < ratio + 0.0001


def test_a_static_batch_keeps_its_memory_until_all_have_finished() -> None:
    """Catches a successor that starts before the longest request of a batch has ended."""
    jobs = [Job(0, 0, ((0, 20),), 1), Job(1, 0, ((1, 5),), 3), Job(2, 10, ((2, 7),), 1)]
    jobs += [Job(3, 20, ((3, 30),), 3), Job(4, 20, ((4, 30),), 2)]
    settings = static.Settings(blocks=5, batch_size=8, max_tokens=32)
    assert static.simulate(jobs, settings, constant, takes(1)).splitlines() == [
        "S 0 @0 run 0:20 1:5 free 1",
        "U 0 @1001 emit 0 1 finish 0 free 1",
        "reject 3 @1001 reason=long",
        "S 1 @1001 run 1:1 wait 2 4 free 1",
        "U 1 @2002 emit 1 free 1",
        "S 2 @2002 run 1:1 wait 2 4 free 1",
        "U 2 @3003 emit 1 finish 1 free 5",
        "S 3 @3003 run 2:7 4:30 free 1",
        "U 3 @4004 emit 2 4 finish 2 free 1",
        "S 4 @4004 run 4:1 free 1",
        "U 4 @5005 emit 4 finish 4 free 5",
    ]


def test_blocks_are_freed_from_the_tail_and_taken_from_the_front() -> None:
    """Catches a free queue in another order, by which another block would be evicted."""
    vector = golden.V1_D
    settings = vllm_v1.Settings(blocks=7, asynchronous=False, max_num_batched_tokens=64)
    pool = vllm_v1.run(jobs_of(vector.jobs), settings, constant).pool
    assert tuple(pool.queue) == golden.V1_D_QUEUE
    assert tuple(block for block in pool.queue if pool.key[block] is None) == golden.V1_D_PLAIN

    engine = vllm_v1.Engine(jobs_of((*vector.jobs, golden.V1_D_AGAIN)), settings, constant)
    queues: list[tuple[int, ...]] = []
    while engine.next_ps() is not None:
        engine.turn()
        if engine.now >= golden.V1_D_AGAIN.arrival_ps:
            queues.append(tuple(engine.pool.queue))
    running, finished = golden.V1_D_QUEUES_AGAIN
    assert queues == [running] * 3 + [finished] * 2
    assert "run 2:1 hit 2:32" in engine.log.text()


def test_a_host_that_is_slower_than_the_device_sets_the_pace() -> None:
    """Catches two launches at once: with overlap a step takes max(device, host), not their half."""
    settings = vllm_v1.Settings(blocks=64)
    job = [Job(0, 0, ((0, 16),), 6)]
    slow = vllm_v1.simulate(job, settings, takes(100), takes(1000))
    assert [line.split()[2] for line in slow.splitlines() if line[0] == "U"] == [
        *("@2000", "@3000", "@4000", "@5000", "@6000", "@6100")
    ]
    quick = vllm_v1.simulate(job, settings, takes(1000), takes(100))
    assert [line.split()[2] for line in quick.splitlines() if line[0] == "U"] == [
        *("@1100", "@2100", "@3100", "@4100", "@5100", "@6100")
    ]


def by_the_token(tokens: int) -> int:
    """Time of a transfer."""
    return 10 * tokens


def test_a_decode_pool_pulls_what_it_lacks_and_computes_the_last_token() -> None:
    """Catches a first token from P, a transfer of what D has, and a step that a transfer takes."""
    v1 = vllm_v1.Settings(blocks=64, asynchronous=False)
    jobs = [Job(0, 0, ((0, 32),), 2), Job(1, 5000, ((0, 32),), 1)]
    settings = disaggregated.Settings(v1, v1, by_the_token)
    assert disaggregated.simulate(jobs, settings, constant).splitlines() == [
        "P S 0 @0 run 0:32 free 61",
        "P U 0 @1000 emit 0 finish 0 free 61",
        "P S 1 @5000 run 1:16 hit 1:16 free 61",
        "P U 1 @6000 emit 1 finish 1 free 61",
        "D S 0 @1000 run wait 0 free 61",
        "D S 1 @1320 run 0:1 free 61",
        "D U 1 @2320 emit 0 free 61",
        "D S 2 @2320 run 0:1 free 60",
        "D U 2 @3320 emit 0 finish 0 free 63",
        "D S 3 @6000 run hit 1:16 wait 1 free 61",
        "D S 4 @6160 run 1:1 free 61",
        "D U 4 @7160 emit 1 finish 1 free 63",
    ]


def test_a_prefill_pool_keeps_blocks_until_they_are_read() -> None:
    """Catches blocks that P frees at the end of a prefill, and a waiting head that is given up."""
    p = vllm_v1.Settings(blocks=3, asynchronous=False)
    d = vllm_v1.Settings(blocks=64, asynchronous=False)
    jobs = [Job(i, 0, ((i, 32),), 1) for i in range(2)]
    log = disaggregated.simulate(jobs, disaggregated.Settings(p, d, by_the_token), constant)
    assert log.splitlines() == [
        "P S 0 @0 run 0:32 wait 1 free 0",
        "P U 0 @1000 emit 0 finish 0 free 0",
        "P S 1 @1000 run wait 1 free 0",
        "P S 2 @1320 run 1:32 free 0",
        "P U 2 @2320 emit 1 finish 1 free 0",
        "D S 0 @1000 run wait 0 free 61",
        "D S 1 @1320 run 0:1 free 61",
        "D U 1 @2320 emit 0 finish 0 free 63",
        "D S 2 @2320 run wait 1 free 61",
        "D S 3 @2640 run 1:1 free 61",
        "D U 3 @3640 emit 1 finish 1 free 63",
    ]
