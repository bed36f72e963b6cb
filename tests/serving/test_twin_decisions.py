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


def test_vllm_v1_hits_no_block_that_was_taken_again() -> None:
    """Catches an evicted block that keeps its hash; of a freed prompt the tail is evicted first."""
    jobs = [
        Job(0, 0, ((0, 32),), 1),
        Job(1, 1000, ((1, 32),), 1),
        Job(2, 2000, ((0, 33),), 1),
    ]
    settings = vllm_v1.Settings(blocks=4, asynchronous=False)
    log = vllm_v1.simulate(jobs, settings, second)
    assert "S 2 @2000 run 2:17 hit 2:16 free 0" in log


def test_vllm_v1_hits_the_older_of_two_equal_blocks() -> None:
    """Catches a hit of the running request's duplicate, which would leave one more block free."""
    jobs = [Job(0, 0, ((0, 32),), 1), Job(1, 0, ((0, 32),), 9), Job(2, 1000, ((0, 40),), 1)]
    settings = vllm_v1.Settings(blocks=10, asynchronous=False)
    assert vllm_v1.simulate(jobs, settings, second).splitlines()[:3] == [
        "S 0 @0 run 0:32 1:16 hit 1:16 free 6",
        "U 0 @1000 emit 0 1 finish 0 free 7",
        "S 1 @1000 run 1:1 2:8 hit 2:32 free 4",
    ]


def test_vllm_v1_with_overlap_ends_at_the_longest_length_without_another_row() -> None:
    """Catches a row for a token behind the longest sequence."""
    settings = vllm_v1.Settings(blocks=64, max_model_len=20)
    assert vllm_v1.simulate([Job(0, 0, ((0, 17),), 10)], settings, second).splitlines() == [
        "S 0 @0 run 0:17 free 61",
        "S 1 @0 run 0:1 free 61",
        "U 0 @1000 emit 0 free 61",
        "S 2 @1000 run 0:1 free 61",
        "U 1 @2000 emit 0 free 61",
        "S 3 @2000 run free 61",
        "U 2 @3000 emit 0 finish 0 free 63",
    ]


def test_vllm_v1_counts_hits_in_the_free_queue_for_the_gate_of_full_prompts() -> None:
    """Catches a gate that takes cached blocks for free and for hit at once."""
    jobs = [
        Job(0, 0, ((0, 32),), 1),
        Job(1, 1000, ((1, 16),), 1),
        Job(2, 1000, ((0, 80),), 1),
    ]
    settings = vllm_v1.Settings(
        blocks=6, asynchronous=False, max_num_batched_tokens=48, reserve_full_isl=True
    )
    log = vllm_v1.simulate(jobs, settings, second).splitlines()
    assert log[2:5] == [
        "S 1 @1000 run 1:16 wait 2 free 4",
        "U 1 @2000 emit 1 finish 1 free 5",
        "S 2 @2000 run 2:48 hit 2:32 free 0",
    ]


def test_vllm_v1_keeps_a_watermark_while_something_runs() -> None:
    """Catches a watermark that a lone request has to keep, or that no request keeps."""
    jobs = [
        Job(0, 0, ((0, 160),), 1),
        Job(1, 1000, ((1, 64),), 2),
        Job(2, 1000, ((2, 80),), 1),
    ]
    settings = vllm_v1.Settings(blocks=11, asynchronous=False, watermark=0.2)
    log = vllm_v1.simulate(jobs, settings, second).splitlines()
    assert [line for line in log if line.startswith("S")] == [
        "S 0 @0 run 0:160 free 0",
        "S 1 @1000 run 1:64 wait 2 free 6",
        "S 2 @2000 run 1:1 wait 2 free 5",
        "S 3 @3000 run 2:80 free 5",
    ]


def test_vllm_v0_never_admits_into_its_watermark() -> None:
    """Catches a prompt that takes the last block of a hundred."""
    jobs = [Job(0, 0, ((0, 1585),), 1), Job(1, 0, ((1, 1584),), 1)]
    log = vllm_v0.simulate(jobs, vllm_v0.Settings(blocks=100), second)
    assert log.splitlines() == [
        "reject 0 @0 reason=never",
        "S 0 @0 run 1:1584 free 1",
        "U 0 @1000 emit 1 finish 1 free 100",
    ]


def test_sarathi_puts_victims_back_in_their_order() -> None:
    """Catches victims at the end of the queue, or in the order in which they were preempted."""
    jobs = [Job(i, 0, ((i, 16),), 5) for i in range(4)]
    log = sarathi.simulate(jobs, sarathi.Settings(blocks=4), second)
    assert "S 1 @1000 run 0:1 1:1 preempt 3 2 wait 2 3 free 0" in log


def test_sglang_puts_a_victim_behind_those_that_wait() -> None:
    """Catches a victim at the front of the queue."""
    prompts = [(12, 14), (10, 14), (8, 14), (4, 3)]
    jobs = [Job(i, 1000 * i, ((i, p),), o) for i, (p, o) in enumerate(prompts)]
    jobs.append(Job(4, 8500, ((4, 30),), 14))
    settings = sglang.Settings(pool_tokens=48, conservativeness=0.1, insert_outputs=False)
    log = sglang.simulate(jobs, settings, second)
    assert "S 10 @10000 run 2:1 1:1 preempt 0 wait 4 0 free 16" in log


def test_sglang_bounds_the_tokens_of_a_prefill_batch() -> None:
    """Catches a second prompt above the bound, and a bound that holds for a lone prompt."""
    jobs = [Job(0, 0, ((0, 40),), 2), Job(1, 0, ((1, 60),), 1)]
    settings = sglang.Settings(pool_tokens=1000, max_prefill_tokens=50)
    log = sglang.simulate(jobs, settings, second).splitlines()
    assert [line.split(" free")[0] for line in log if line[0] == "S"] == [
        "S 0 @0 run 0:40 wait 1",
        "S 1 @1000 run 1:60",
        "S 2 @2000 run 0:1",
    ]


def test_sglang_evicts_what_was_matched_longest_ago() -> None:
    """Catches an eviction by age, of more leaves than asked for, or of the missing slots alone."""
    contents = [0, 1, 0, 2, 0]
    tokens = [20, 20, 20, 21, 20]
    jobs = [
        Job(i, 1000 * i, ((content, n),), 1)
        for i, (content, n) in enumerate(zip(contents, tokens, strict=True))
    ]
    log = sglang.simulate(jobs, sglang.Settings(pool_tokens=60), second).splitlines()
    assert [line for line in log if line[0] == "S"][2:] == [
        "S 2 @2000 run 2:1 hit 2:19 free 19",
        "S 3 @3000 run 3:21 free 20",
        "S 4 @4000 run 4:1 hit 4:19 free 19",
    ]
