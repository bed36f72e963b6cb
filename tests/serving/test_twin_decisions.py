"""Cases that no executed log covers, worked out by hand from the rules of each policy."""

from tests.oracle.serving import sarathi, sglang, vllm_v0, vllm_v1
from tests.oracle.serving.common import Job, Step


def second(step: Step) -> int:
    """Every step takes as long."""
    return 1000


def test_vllm_v1_gives_up_a_request_that_fits_no_memory() -> None:
    """Catches the livelock of a lone request that preempts itself, and a prompt of full length."""
    jobs = [Job(0, 0, ((0, 30),), 10), Job(1, 0, ((1, 5),), 1), Job(2, 0, ((2, 100),), 1)]
    settings = vllm_v1.Settings(
        blocks=3,
        asynchronous=False,
        max_model_len=100,
        max_num_batched_tokens=16,
        prefix_caching=False,
    )
    assert vllm_v1.simulate(jobs, settings, second).splitlines() == [
        "reject 2 @0 reason=long",
        "S 0 @0 run 0:16 wait 1 free 1",
        "U 0 @1000 free 1",
        "S 1 @1000 run 0:14 wait 1 free 0",
        "U 1 @2000 emit 0 free 0",
        "S 2 @2000 run 0:1 wait 1 free 0",
        "U 2 @3000 emit 0 free 0",
        "S 3 @3000 run 0:1 wait 1 free 0",
        "U 3 @4000 emit 0 free 0",
        "S 4 @4000 run preempt 0 wait 0 1 free 2",
        "reject 0 @4000 reason=never",
        "S 5 @4000 run 1:5 free 1",
        "U 5 @5000 emit 1 finish 1 free 2",
    ]


def test_vllm_v1_with_overlap_gives_up_a_request_after_its_last_update() -> None:
    """Catches the livelock with a step in flight, whose token is still delivered."""
    jobs = [Job(0, 0, ((0, 30),), 10), Job(1, 0, ((1, 5),), 1)]
    settings = vllm_v1.Settings(blocks=3, max_num_batched_tokens=16, prefix_caching=False)
    assert vllm_v1.simulate(jobs, settings, second).splitlines()[-6:] == [
        "S 4 @3000 run preempt 0 wait 0 1 free 2",
        "U 3 @4000 emit 0 free 2",
        "reject 0 @4000 reason=never",
        "S 5 @4000 run 1:5 free 1",
        "S 6 @4000 run free 1",
        "U 5 @5000 emit 1 finish 1 free 2",
    ]


def test_vllm_v1_with_overlap_delivers_the_token_of_a_preempted_request() -> None:
    """Catches a token in flight that a preemption loses: the resumed request hits and goes on."""
    jobs = [Job(0, 0, ((0, 32),), 3), Job(1, 0, ((1, 31),), 3)]
    settings = vllm_v1.Settings(blocks=5)
    assert vllm_v1.simulate(jobs, settings, second).splitlines() == [
        "S 0 @0 run 0:32 1:31 free 0",
        "S 1 @0 run 0:1 preempt 1 wait 1 free 1",
        "U 0 @1000 emit 0 1 free 1",
        "S 2 @1000 run 0:1 wait 1 free 1",
        "U 1 @2000 emit 0 free 1",
        "S 3 @2000 run wait 1 free 1",
        "U 2 @3000 emit 0 finish 0 free 4",
        "S 4 @3000 run 1:16 hit 1:16 free 2",
        "S 5 @3000 run 1:1 free 1",
        "U 4 @4000 emit 1 free 1",
        "S 6 @4000 run free 1",
        "U 5 @5000 emit 1 finish 1 free 4",
    ]


def test_vllm_v0_prefills_a_lone_victim_until_it_fits_no_more() -> None:
    """Catches a victim that is given up although its prefill emits tokens; N is NEVER's bound."""
    jobs = [Job(0, 0, ((0, 62),), 30), Job(1, 0, ((1, 100),), 1), Job(2, 0, ((2, 60),), 1)]
    settings = vllm_v0.Settings(blocks=4, max_num_batched_tokens=70)
    assert vllm_v0.simulate(jobs, settings, second).splitlines() == [
        "reject 1 @0 reason=long",
        "S 0 @0 run 0:62 wait 2 free 0",
        "U 0 @1000 emit 0 free 0",
        "S 1 @1000 run preempt 0 wait 0 2 free 4",
        "S 2 @1000 run 0:63 wait 2 free 0",
        "U 2 @2000 emit 0 free 0",
        "S 3 @2000 run preempt 0 wait 0 2 free 4",
        "S 4 @2000 run 0:64 wait 2 free 0",
        "U 4 @3000 emit 0 free 0",
        "S 5 @3000 run preempt 0 wait 0 2 free 4",
        "reject 0 @3000 reason=never",
        "S 6 @3000 run 2:60 free 0",
        "U 6 @4000 emit 2 finish 2 free 4",
    ]


def test_sarathi_restarts_a_victim_at_once_with_its_whole_prompt() -> None:
    """Catches a prefill that a restart cuts short, and a decode that needs no free block."""
    jobs = [Job(0, 0, ((0, 15),), 4), Job(1, 0, ((1, 40),), 2)]
    settings = sarathi.Settings(blocks=4, chunk_size=20)
    assert sarathi.simulate(jobs, settings, second).splitlines() == [
        "S 0 @0 run 0:15 1:5 free 0",
        "U 0 @1000 emit 0 free 0",
        "S 1 @1000 run 0:1 1:19 preempt 1 free 0",
        "U 1 @2000 emit 0 free 0",
        "S 2 @2000 run 0:1 preempt 1 wait 1 free 2",
        "U 2 @3000 emit 0 free 2",
        "S 3 @3000 run 0:1 wait 1 free 2",
        "U 3 @4000 emit 0 finish 0 free 4",
        "S 4 @4000 run 1:20 free 1",
        "U 4 @5000 free 1",
        "S 5 @5000 run 1:20 free 1",
        "U 5 @6000 emit 1 free 1",
        "S 6 @6000 run 1:1 free 1",
        "U 6 @7000 emit 1 finish 1 free 4",
    ]


def test_sglang_gives_up_a_request_that_the_pool_cannot_hold() -> None:
    """Catches a flag that stays set on an empty running batch, where nothing starts any more."""
    jobs = [Job(0, 0, ((0, 20),), 50), Job(1, 0, ((1, 20),), 1), Job(2, 0, ((2, 20),), 1)]
    assert sglang.simulate(jobs, sglang.Settings(pool_tokens=40), second).splitlines() == [
        "S 0 @0 run wait 0 1 2 free 40",
        "reject 0 @0 reason=never",
        "S 1 @0 run 1:20 wait 2 free 20",
        "U 1 @1000 emit 1 finish 1 free 20",
        "S 2 @1000 run 2:20 free 0",
        "U 2 @2000 emit 2 finish 2 free 0",
    ]


def test_sglang_keeps_outputs_in_the_tree() -> None:
    """Catches a finished request that leaves its prompt alone, or its last output, too."""
    jobs = [Job(0, 0, ((0, 20),), 3), Job(1, 9000, ((0, 20),), 1)]
    logs = [
        sglang.simulate(jobs, sglang.Settings(pool_tokens=100, insert_outputs=entered), second)
        for entered in (True, False)
    ]
    assert [log.splitlines()[5] for log in logs] == [
        "U 2 @3000 emit 0 finish 0 free 78",
        "U 2 @3000 emit 0 finish 0 free 80",
    ]
    assert [log.splitlines()[6] for log in logs] == [
        "S 3 @9000 run 1:1 hit 1:19 free 77",
        "S 3 @9000 run 1:1 hit 1:19 free 79",
    ]
