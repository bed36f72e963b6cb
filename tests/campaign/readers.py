"""The readers: valid inputs of theirs, made here, and what must hold of what they read."""

from __future__ import annotations

import io
import tomllib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any, Final, cast

import numpy as np
import tomli_w
import typer
from typer import BadParameter

from attacc.attention import parse_lengths, read_lengths
from attacc.calibration.measured import read_table
from attacc.calibration.series import MeasuredTable
from attacc.calibration.serving import read_runs
from attacc.cli.main import app
from attacc.documents import Presets, Spec
from attacc.errors import AttaccError
from attacc.gpu.calibrated.coefficients import CALIBRATIONS, CPU_CALIBRATIONS, CalibrationSpec
from attacc.gpu.calibrated.kernels import CalibratedGpu, GemmShapes, matmul_ns
from attacc.gpu.frameworks import SERVING
from attacc.hardware.cpu import CPUS
from attacc.hardware.dram import DRAMS, DramDevice
from attacc.hardware.gpu import GPUS, GpuSpec
from attacc.hardware.link import LINKS
from attacc.hardware.placement import Placement
from attacc.hardware.system import SYSTEMS, SystemSpec, resolve_system
from attacc.models.architecture import MODELS, ModelSpec
from attacc.models.huggingface import load_model
from attacc.models.parameters import count_parameters, kv_bytes_per_token, weight_bytes
from attacc.models.precision import ElementType
from attacc.models.steps import decode_step
from attacc.pim.audit.legality import check
from attacc.pim.log import CommandLog, read_log
from attacc.pim.program.program import Program
from attacc.pim.program.trace import format_trace, parse_trace, read_trace
from attacc.pim.program.traffic import Traffic, read_traffic
from attacc.pim.timing.engine import run
from attacc.pim.timing.tables import TimingTables, resolve_timing
from attacc.study.accuracy import RecordedHeads
from attacc.study.compare import compare_study
from attacc.study.specification import StudySpec, WorkloadTable, load_study
from attacc.units import MAX_SIZE, UNITS, parse_quantity
from attacc.workload.requests import Workload
from attacc.workload.synthetic import WORKLOADS, synthetic
from attacc.workload.traces import load_workload
from tests.campaign import request_files
from tests.campaign.mutations import (
    LEAVES,
    NUMBERS,
    WORDS,
    as_json,
    damaged,
    damaged_tree,
)
from tests.campaign.runner import Reader, check_finite, require
from tests.campaign.specified import document_of, respecified
from tests.models.test_huggingface import EXAMPLES

Document = dict[str, object]

REFERENCE_DEVICE: Final = "hbm3-5.2-asplos24"

# --- documents


def _shipped(presets: Presets[Any]) -> list[Document]:
    folder = files(presets.package) / presets.folder
    return [tomllib.loads((folder / f"{name}.toml").read_text()) for name in presets.names()]


def _as_toml(document: Document) -> bytes:
    def without_null(value: object) -> object:
        if isinstance(value, dict):
            table = cast(dict[str, object], value)
            return {key: without_null(inner) for key, inner in table.items() if inner is not None}
        if isinstance(value, list):
            return [without_null(inner) for inner in cast(list[object], value) if inner is not None]
        return value

    text = tomli_w.dumps(cast(dict[str, object], without_null(document)))
    return text.encode("utf-8", "surrogatepass")


def _documents(
    spec: type[Spec], seeds: Sequence[Document]
) -> Callable[[Random], Mapping[str, bytes]]:
    """Return what makes documents: damaged ones, damaged text, and ones made from their fields."""
    texts = [_as_toml(seed) for seed in seeds]
    jsons = [as_json(seed, Random(0)) for seed in seeds]

    def make(random: Random) -> Mapping[str, bytes]:
        toml = random.random() < 0.2  # plain Python writes and reads it, which takes its time
        draw = random.random()
        if draw < 0.35:
            texts_of_kind = texts if toml else jsons
            data = damaged(random.choice(texts_of_kind), texts_of_kind, random)
            return {"a.toml" if toml else "a.json": data}
        if draw < 0.6:
            document = damaged_tree(random.choice(seeds), random)
        elif draw < 0.9:
            share = random.choice((0.05, 0.2, 0.5))
            document = respecified(spec, random.choice(seeds), share, random)
        else:
            document = document_of(spec, random)
        if toml:
            return {"a.toml": _as_toml(document)}
        return {"a.json": as_json(document, random)}

    return make


def _presets(
    name: str,
    presets: Presets[Any],
    follow: Callable[[Any, Path, Random], None] | None = None,
    every: int = 1,
    extra: Sequence[Document] = (),
) -> Reader:
    seeds = [*_shipped(presets), *extra]
    return Reader(
        name,
        _documents(presets.spec, seeds),
        lambda path: presets.load_name_or_file(str(path)),
        follow,
        every,
    )


def _follow_model(found: object, path: Path, random: Random) -> None:
    model = cast(ModelSpec, found)
    counts = count_parameters(model)
    require(0 < counts.active <= counts.total, f"parameters {counts}")
    for number in (weight_bytes(model), kv_bytes_per_token(model)):
        check_finite(number, "bytes")
    require(weight_bytes(model) > 0, "no bytes")
    # A model of windows alone stores nothing without end.
    require(kv_bytes_per_token(model) >= 0, "negative bytes")
    check_finite(decode_step(model, batch=2, kv_length=1, tensor_parallel=1), "step")
    if random.random() < 0.01:
        _compared(StudySpec(model=str(path), workload=_FEW, batch=1, systems=_TWO))


_FEW: Final = WorkloadTable(prompt=64, output=8)
_TWO: Final = ("dgx-base", "dgx-attacc-bank")


def _compared(study: StudySpec) -> None:
    comparison = compare_study(study)
    for system in comparison.systems:
        if system.performance is not None:
            check_finite(system.performance)


def _follow_device(found: object, path: Path, random: Random) -> None:
    device = cast(DramDevice, found)
    check_finite([device.external_bytes_per_s, device.pins])
    require(device.external_bytes_per_s > 0 and device.pins > 0, "no bandwidth")
    for placement in Placement:
        rate = device.internal_bytes_per_s(placement, power_limited=True)
        check_finite(rate)
        require(rate > 0, "no bandwidth")
    tables = resolve_timing(device, random.choice([*Placement]), power_limited=True)
    check_finite(tables)
    if random.random() < 0.1:
        data = b"PIM_WR_GB 0x0\nPIM_MAC_AB 0x0\nPIM_MAC_AB 0x20\n"
        program = parse_trace(data, device.organization, where="mine")
        bank = resolve_timing(device, Placement.BANK, power_limited=False)
        timed = run(program, bank)
        check_finite(timed.time_ns)
        require(timed.time_ns > 0, "no time")


_SHAPES: Final = GemmShapes.of([1.0, 4096.0], [4096.0, 4096.0], [4096.0, 128.0])


def _follow_gpu(found: object, path: Path, random: Random) -> None:
    gpu = cast(GpuSpec, found)
    for element in ElementType:
        rate = gpu.peak_flops_per_s(element)
        check_finite(rate)
        require(rate > 0, "no rate")
    h100 = CalibratedGpu.load("h100").on(gpu)
    times = matmul_ns(h100.gemm(ElementType.BF16), gpu, _SHAPES)
    check_finite(times, "time of a product")
    require((times > 0).all(), "a product takes no time")


def _follow_system(found: object, path: Path, random: Random) -> None:
    system = resolve_system(cast(SystemSpec, found))
    check_finite(system.gpu_memory_bytes, "memory")
    require(system.gpu_memory_bytes > 0, "no memory")
    if random.random() < 0.02:
        _compared(StudySpec(model="opt-66b", workload=_FEW, batch=1, systems=(str(path),)))


def _follow_calibration(found: object, path: Path, random: Random) -> None:
    spec = cast(CalibrationSpec, found)
    calibrated = CalibratedGpu.of(spec)
    for series in calibrated.calibration.gemm:
        check_finite(series.coefficients.vector(), "coefficients")
        times = matmul_ns(series, calibrated.gpu, _SHAPES)
        check_finite(times, "time of a product")
        require((times > 0).all(), "a product takes no time")


def _follow_synthetic(found: object, path: Path, random: Random) -> None:
    _follow_workload(synthetic(str(path), 100), path, random)


def _follow_study(found: object, path: Path, random: Random) -> None:
    study = cast(StudySpec, found)
    if random.random() < 0.01:
        _compared(study.model_copy(update={"systems": study.systems[:1]}))


STUDIES: Final[list[Document]] = [
    {},
    {"model": "llama-2-7b", "systems": ["dgx-base", "dgx-attacc-bank"], "batch": 8},
    {
        "model": "mixtral-8x7b",
        "precision": {"weights": "int4", "activations": "fp16", "kv": "fp8"},
        "workload": {"prompt": 128, "output": 32},
        "systems": ["dgx-large"],
        "batch": "max",
        "slo_ms": 50.0,
        "gpu_model": "published",
    },
    {"workload": {"synthetic": "azure-conv-2023", "seed": 3}, "systems": ["2xdgx"], "batch": 4},
]
CPU: Final[Document] = {
    "name": "mine",
    "peak": "3 TFLOPS",
    "memory_bandwidth": "300 GB/s",
    "memory": "1 TiB",
    "memory_energy": "100 pJ/B",
}

# --- config.json, with files beside it

_TABLES: Final[list[Document]] = [
    {"quant_method": "fp8", "activation_scheme": "dynamic", "ignored_layers": ["lm_head"]},
    {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
    {"quant_method": "awq", "bits": 4, "zero_point": True, "modules_to_not_convert": None},
    {
        "quant_method": "compressed-tensors",
        "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float"}}
        },
        "kv_cache_scheme": {"num_bits": 8, "type": "float"},
        "ignore": ["lm_head"],
    },
    {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
    {"bits": 4, "group_size": 64, "mode": "affine", "model.embed_tokens": {"bits": 8}},
]
_BESIDE: Final[dict[str, Document]] = {
    "hf_quant_config.json": {
        "producer": {"name": "modelopt"},
        "quantization": {"quant_algo": "INT4_AWQ", "kv_cache_quant_algo": "FP8"},
    },
    "quantize_config.json": {"bits": 4, "group_size": 128, "desc_act": True},
    "quant_config.json": {"w_bit": 4, "q_group_size": 128, "zero_point": True},
    "quantization_config.json": {"quant_method": "fp8"},
}
_CONFIGS: Final[list[Document]] = [
    *EXAMPLES.values(),
    *(EXAMPLES["llama"] | {"quantization_config": table} for table in _TABLES),
    EXAMPLES["qwen2"] | {"layer_types": ["full_attention"] * 28},
    EXAMPLES["mistral"] | {"architectures": ["MistralForCausalLM"], "rope_parameters": {"a": 1}},
]
_CONFIG_TEXTS: Final = [as_json(config, Random(0)) for config in _CONFIGS]
_KEYS: Final = sorted({key for config in _CONFIGS for key in config})


def _config(random: Random) -> Mapping[str, bytes]:
    if random.random() < 0.3:
        data = damaged(random.choice(_CONFIG_TEXTS), _CONFIG_TEXTS, random)
    else:
        config = random.choice(_CONFIGS)
        if random.random() < 0.3:  # keys of other families, and values at their ends
            for key in random.sample(_KEYS, 3):
                other = random.choice(_CONFIGS)
                value = random.choice([other.get(key), random.choice(LEAVES), 2**24, 1, 64])
                config = config | {key: value}
        else:
            config = damaged_tree(config, random)
        data = as_json(config, random)
    found = {"config.json" if random.random() < 0.8 else "a.json": data}
    if random.random() < 0.2:
        name = random.choice([*_BESIDE])
        beside = _BESIDE[name]
        if random.random() < 0.7:
            found[name] = as_json(damaged_tree(beside, random), random)
        else:
            text = as_json(beside, random)
            found[name] = damaged(text, [text], random)
    return found


# --- traces, logs, lists of lengths


def _texts(
    name: str,
    seeds: Sequence[bytes],
    nonsense: Callable[[Random], bytes],
    share: float = 0.25,
    names: Sequence[str] = (),
) -> Callable[[Random], Mapping[str, bytes]]:
    def make(random: Random) -> Mapping[str, bytes]:
        chosen = random.choice(names) if names and random.random() < 0.2 else name
        if random.random() < share:
            return {chosen: nonsense(random)}
        return {chosen: damaged(random.choice(seeds), seeds, random)}

    return make


def _cell(random: Random, usual: Sequence[bytes]) -> bytes:
    draw = random.random()
    if draw < 0.9:
        return random.choice(usual)
    return random.choice(NUMBERS if draw < 0.97 else WORDS)


def _rows(
    random: Random,
    columns: Sequence[Sequence[bytes]],
    between: bytes,
    head: bytes = b"",
    most: int = 12,
) -> bytes:
    """Return lines of random cells; the fewer the lines, the more often none is wrong."""
    count = random.choice((0, 1, 1, 2, 3, most))
    lines = [between.join(_cell(random, usual) for usual in columns) for _ in range(count)]
    end = random.choice((b"\n", b"\n", b"\r\n", b"\n\n"))
    return head + end.join(lines) + random.choice((end, b""))


_AZURE_HEAD: Final = b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
_TIMES: Final = (b"2023-11-16 18:15:46.6805900", b"2024-05-10 00:00:00.009930+00:00", b"2023-11-16")
_TOKENS: Final = (b"1", b"374", b"44", b"16777216", b" 8 ", b'"12"')
AZURE: Final = (
    _AZURE_HEAD + b"2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n",
    b"\xef\xbb\xbf" + _AZURE_HEAD + b"2024-05-10 00:00:00.009930+00:00,2162,5\n",
    b'GeneratedTokens,TIMESTAMP,ContextTokens,x\n7,"2023-11-16 18:17:03",9,""\n',
)
MOONCAKE: Final = (
    (
        b'{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}\n'
        b'{"timestamp": 27482, "input_length": 7322, "output_length": 490, "hash_ids": [0, 5]}\n'
    ),
    b'{"timestamp": 1.5, "output_length": 1, "input_length": 1, "more": {"a": null}}\n',
)


def _azure_rows(random: Random) -> bytes:
    return _rows(random, (_TIMES, _TOKENS, _TOKENS), b",", head=_AZURE_HEAD)


def _mooncake_rows(random: Random) -> bytes:
    lines = [
        b'{"timestamp": %s, "input_length": %s, "output_length": %s%s}'
        % (
            _cell(random, (b"0", b"12.5", b"3052")),
            _cell(random, (b"1", b"6758", b"16777216")),
            _cell(random, (b"1", b"500")),
            random.choice((b"", b', "hash_ids": []', b', "hash_ids": [1, null]', b', "x": NaN')),
        )
        for _ in range(random.choice((1, 2, 8)))
    ]
    return b"\n".join(lines)


def _follow_workload(found: object, path: Path, random: Random) -> None:
    workload = cast(Workload, found)
    require(workload.total_requests > 0, "no requests")
    for request in workload.requests:
        for tokens in (request.prompt_tokens, request.output_tokens):
            require(type(tokens) is int and 1 <= tokens <= MAX_SIZE, f"{tokens!r} tokens")


_REQUESTS: Final = (b"PIM_WR_GB", b"PIM_MAC_AB", b"PIM_MV_SB", b"PIM_SFM", b"PIM_MV_GB")
_MORE: Final = (*_REQUESTS, b"PIM_BARRIER", b"PIM_MAC_SB", b"LD", b"ST", b"", b"pim_mac_ab")
_ADDRESSES: Final = (b"0x0", b"0x40000000", b"0x00000020", b"0x3ffffffff", b"64", b"0X20", b"0x1f")
TRACES: Final = (
    b"PIM_WR_GB 0x0\nPIM_MAC_AB 0x0\nPIM_MAC_AB 0x20\nPIM_MV_SB 0x0\nPIM_BARRIER 0x0\n",
    b"PIM_WR_GB 0x00000000\nPIM_WR_GB 0x40000000\nPIM_SFM 0x0\nPIM_MV_GB 0x40000000\n\n",
    b"PIM_MAC_AB 0x0\n" * 40,
)


def _trace_rows(random: Random) -> bytes:
    return _rows(random, (random.choice((_REQUESTS, _MORE)), _ADDRESSES), b" ", most=200)


@cache
def _reference_device() -> DramDevice:
    return DRAMS.load(REFERENCE_DEVICE)


@cache
def _tables(placement: Placement) -> TimingTables:
    return resolve_timing(_reference_device(), placement, power_limited=True)


def _follow_trace(found: object, path: Path, random: Random) -> None:
    program = cast(Program, found)
    text = format_trace(program)
    again = parse_trace(text.encode(), program.organization, where="again")
    require(format_trace(again) == text, "a trace that reads otherwise when it is written again")
    timed = run(program, _tables(Placement.BANK))
    require(timed.cycles >= 0, "negative time")


TRAFFIC: Final = (
    b"LD 0x0 0\nST 0x40 7\nLD 0x80\nLD 0x40000040 1200\n",
    b"LD 0x40000000 1200\nLD 0x40000020\nST 0x40000040 99999\n",
)


def _traffic_rows(random: Random) -> bytes:
    arrivals = (b"0", b"0", b"5", b"1200", b"", b"99999999999")
    return _rows(random, ((b"LD", b"ST", b"LD", b"PIM_MAC_AB"), _ADDRESSES, arrivals), b" ")


def _follow_traffic(found: object, path: Path, random: Random) -> None:
    traffic = cast(Traffic, found)
    require((np.diff(traffic.arrival) >= 0).all(), "arrivals that fall")
    require(len(traffic.requests) == len(traffic.arrival), "arrivals of other requests")


LOGS: Final = (
    (
        b"0, ACTAB, 0, 0, 0, 0, 0, 8192, 0\n19, MACAB, 0, 0, 0, 0, 0, 8192, 0\n"
        b"25, MACAB, 0, 0, 0, 0, 0, 8192, 1\n70, PREAB, 0, 0, 0, 0, 0, -1, -1\n"
    ),
    b"1,WRGB,3,0,-1,-1,-1,-1,0\n3,MVSB,3,1,0,1,2,-1,-1\n5,REFab,3,0,-1,-1,-1,-1,-1\n",
)
_COMMANDS: Final = (b"ACTAB", b"MACAB", b"PREAB", b"WRGB", b"MVSB", b"MVGB", b"REFab", b"PREA")
_FIELDS: Final = (b"0", b"0", b"1", b"-1", b"3")


def _log_rows(random: Random) -> bytes:
    cycles = (b"0", b"1", b"19", b"40", b"5070", b"999999999999999999")
    columns = (cycles, _COMMANDS, *(_FIELDS,) * 7)
    return _rows(random, columns, random.choice((b", ", b",", b" , ")), most=40)


def _follow_log(found: object, path: Path, random: Random) -> None:
    log = cast(CommandLog, found)
    report = check(
        log, _reference_device(), placement=random.choice([*Placement]), power_limited=True
    )
    require(report.commands == len(log), "commands that the audit left out")


LENGTHS: Final = (b"512\n1024\n2048\n", b"1\n" * 30, b"16777216\n\n  64  \n")


def _length_rows(random: Random) -> bytes:
    return _rows(random, ((b"1", b"512", b"16777216", b" 7 ", b""),), b"", most=100)


def _follow_lengths(found: object, path: Path, random: Random) -> None:
    lengths = cast(list[int], found)
    require(lengths and all(type(n) is int and 1 <= n <= MAX_SIZE for n in lengths), "no lengths")


# --- tables of measurements, recorded data

_GEMM_HEAD: Final = b"gpu,framework,version,dtype,m,n,k,latency_ms,power_w\n"
_GEMM_ROW: Final = b"h100-sxm-80gb,VLLM,0.24.0,bfloat16,128,4096,4096,0.0123,400\n"
TABLES: Final = (
    _GEMM_HEAD + _GEMM_ROW * 3 + b"a100,VLLM,0.10,fp8,1,64,64,0.002,\n",
    (
        b"gpu,framework,version,batch_size,num_heads,num_key_value_heads,head_dim,kv_length,"
        b"kv_cache_dtype,latency_ms\nh100-sxm-80gb,VLLM,0.24.0,8,32,8,128,4096,bfloat16,0.05\n"
    ),
    (
        b"gpu,framework,version,batch_size,num_heads,num_key_value_heads,head_dim,prompt_length,"
        b"kv_cache_dtype,latency_ms\nh100-sxm-80gb,VLLM,0.24.0,1,32,8,128,512,float16,0.5\n"
    ),
    b"gpu,op_name,num_gpus,message_elements,latency_ms\nh100-sxm-80gb,all_reduce,8,1024,0.02\n",
)
RUNS: Final = (
    (
        b"backend,backend_version,model_path,system,isl,osl,gemm_quant_mode,batch_size,tp_size,"
        b"ttft_ms,tpot_ms\nVLLM,0.10.1,Qwen/Qwen3-32B,h100_sxm,1024,128,,8,4,123.4,15.6\n"
        b"TRTLLM,1.0,meta-llama/Llama-3.1-70B,h200_sxm,4000,500,fp8,64,8,800,22\n"
    ),
)


def _tables_of(
    seeds: Sequence[bytes], nonsense: Callable[[Random], bytes]
) -> Callable[[Random], Mapping[str, bytes]]:
    """Return what makes CSV; a file that begins as Parquet would start a process of its own."""
    make = _texts("a.csv", seeds, nonsense)

    def csv(random: Random) -> Mapping[str, bytes]:
        return {name: data.removeprefix(b"PAR1") for name, data in make(random).items()}

    return csv


def _gemm_rows(random: Random) -> bytes:
    sizes = (b"1", b"64", b"4096", b"4096.0")
    columns = (
        (b"h100-sxm-80gb", b"a100"),
        (b"VLLM", b"TRTLLM"),
        (b"0.24.0", b"0.10", b""),
        (b"bfloat16", b"fp8", b"float16", b"int4"),
        *(sizes,) * 3,
        (b"0.0123", b"1e-3", b"5"),
        (b"400", b""),
    )
    return _rows(random, columns, b",", head=_GEMM_HEAD)


def _run_rows(random: Random) -> bytes:
    sizes = (b"1", b"128", b"4096")
    columns = (
        (b"VLLM", b"TRTLLM", b""),
        (b"0.10.1", b""),
        (b"Qwen/Qwen3-32B", b"mine", b""),
        (b"h100_sxm", b"x"),
        *(sizes,) * 2,
        (b"fp8", b""),
        *(sizes,) * 2,
        *((b"12.5", b"800"),) * 2,
    )
    return _rows(random, columns, b",", head=RUNS[0].split(b"\n")[0] + b"\n")


def _follow_table(found: object, path: Path, random: Random) -> None:
    for series in cast(MeasuredTable, found).series:
        require(series.count > 0, "a series without rows")
        check_finite(series.time_ns, "time")
        check_finite(series.shapes, "shapes")
        require((series.time_ns > 0).all(), "a time that is not positive")


def _npz(heads: int, group: int, length: int, dim: int, dtype: str, *, packed: bool) -> bytes:
    generator = np.random.default_rng(0)
    buffer = io.BytesIO()
    save = np.savez_compressed if packed else np.savez
    keys, values = (generator.standard_normal((heads, length, dim)).astype(dtype) for _ in "kv")
    queries = generator.standard_normal((heads, group, length, dim)).astype(dtype)
    save(buffer, keys=keys, values=values, queries=queries)
    return buffer.getvalue()


RECORDED: Final = (
    _npz(1, 1, 2, 4, "float32", packed=False),
    _npz(2, 2, 3, 4, "float16", packed=True),
    _npz(1, 1, 1, 2, "float64", packed=False),
)


def _recorded_rows(random: Random) -> bytes:
    """Return a file of arrays of any types and shapes, with some values that are not finite."""
    buffer = io.BytesIO()
    if random.random() < 0.1:  # headers that promise what is not there
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in ("keys", "values", "queries"):
                size = random.choice((0, 1, 2, -1, 2**20, 2**40, 2**63, 10**30, True, None))
                kind = random.choice(("'<f4'", "'<f8'", "'|O'", "'<f4000'", "[('a', '<f4')]", "1"))
                header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': (1, {size}, 2)}}\n"
                data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
                archive.writestr(f"{name}.npy", data + header.encode() + bytes(16))
        return buffer.getvalue()
    sizes = [random.choice((1, 1, 2, 3) if random.random() < 0.9 else (0,)) for _ in range(4)]
    strange = (">f4", "f16", "i4", "u1", "c8", "?", "S3", "M8[s]")
    dtype = random.choice(("f2", "f4", "f8") if random.random() < 0.8 else strange)
    arrays: dict[str, Any] = {}
    for name in ("keys", "values", "queries", "more")[: random.choice((2, 3, 3, 3, 4))]:
        shape = [sizes[0], sizes[2], sizes[3]] if name != "queries" else sizes
        shape = shape if random.random() < 0.9 else [*shape, random.choice((1, 2))]
        array = np.zeros(shape, dtype=dtype)
        if array.size and array.dtype.kind == "f" and random.random() < 0.3:
            with np.errstate(over="ignore"):
                array.flat[0] = random.choice((np.nan, np.inf, 1e300, -1e-300, 3e38, 1.0))
        arrays[name] = array
    np.savez(buffer, **arrays)
    return buffer.getvalue()


# --- quantities and options: text, without a file

_DIMENSIONS: Final = [*UNITS]


def _quantity(random: Random) -> Mapping[str, bytes]:
    dimension = random.choice(_DIMENSIONS)
    units = UNITS[dimension if random.random() < 0.9 else random.choice(_DIMENSIONS)]
    number = random.choice(NUMBERS) if random.random() < 0.4 else b"%d" % random.getrandbits(40)
    between = random.choice((b" ", b" ", b"", b"  ", b"\t", b"\xc2\xa0"))
    text = number + between + random.choice([*units]).encode()
    if random.random() < 0.3:
        text = damaged(text, [text], random)
    # Which dimension it should have travels in front.
    return {"quantity": dimension.encode() + b":" + text}


def _read_quantity(text: str) -> object:
    dimension, _, quantity = text.partition(":")
    return parse_quantity(quantity, dimension)


def _options() -> list[tuple[list[str], Any, Any]]:
    """Return every option of every command that takes a value: path, command, option."""
    found: list[tuple[list[str], Any, Any]] = []

    def visit(command: Any, path: list[str]) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            visit(inner, [*path, name])
        found.extend(
            (path, command, option)
            for option in command.params
            if option.param_type_name == "option" and not option.is_flag and path
        )

    visit(typer.main.get_command(app), [])
    return found


_OPTIONS: Final = _options()
_VALUES: Final = (
    *(b"1", b"16", b"0.5", b"8,16x2", b"1,2,3", b"fp16", b"bank", b"max", b"a100", b"16777216"),
    *(b"-1", b"0", b"16777217", b"1e3", b"8x", b"x8", b",", b"1048576", b"100000000000000000000"),
)


def _option(random: Random) -> Mapping[str, bytes]:
    value = random.choice(NUMBERS) if random.random() < 0.4 else random.choice(_VALUES)
    if random.random() < 0.4:
        value = damaged(value, _VALUES, random)
    # Which option it is for travels in front; no operating system passes on a null byte.
    return {"option": b"%d:" % random.randrange(len(_OPTIONS)) + value.replace(b"\0", b"")}


def _read_option(text: str) -> object:
    number, _, value = text.partition(":")
    path, command, option = _OPTIONS[int(number)]
    context = command.make_context(path[-1], [], resilient_parsing=True)
    values = [value] if option.multiple or option.nargs == -1 else value
    return option.process_value(context, values)


def _lengths_text(random: Random) -> Mapping[str, bytes]:
    entries = (b"512", b"1024x8", b"1", b" 7 ", b"1x1", b"16777216", b"2x1048577", b"3x")
    if random.random() < 0.5:
        return {"lengths": b",".join(_cell(random, entries) for _ in range(random.randint(1, 5)))}
    return {"lengths": damaged(b"512,1024x8,3", entries, random)}


def _warm_kernels() -> None:
    program = parse_trace(TRACES[0], _reference_device().organization, where="warm")
    run(program, _tables(Placement.BANK))


def _warm_compare() -> None:
    _compared(StudySpec(model="opt-66b", workload=_FEW, batch=1, systems=_TWO))


def _warm_products() -> None:
    _follow_gpu(GPUS.load("a100"), Path(), Random(0))


WARM: Final[dict[str, Callable[[], None]]] = {
    "model config.json": _warm_compare,
    "model document": _warm_compare,
    "system document": _warm_compare,
    "study document": _warm_compare,
    "DRAM device document": _warm_kernels,
    "command trace": _warm_kernels,
    "ordinary traffic": _warm_kernels,
    "GPU document": _warm_products,
    "calibration document": _warm_products,
}
"""What compiles the kernels that a reader and its follow-up use, so that no input is charged."""
READERS: Final = (
    Reader("model config.json", _config, lambda path: load_model(str(path)), _follow_model),
    Reader(
        "model document",
        _documents(ModelSpec, _shipped(MODELS)),
        lambda path: load_model(str(path)),
        _follow_model,
    ),
    _presets("system document", SYSTEMS, _follow_system),
    _presets("DRAM device document", DRAMS, _follow_device),
    _presets("GPU document", GPUS, _follow_gpu),
    _presets("link document", LINKS),
    _presets("CPU document", CPUS, extra=[CPU]),
    _presets("workload document", WORKLOADS, _follow_synthetic, every=4),
    Reader("study document", _documents(StudySpec, STUDIES), load_study, _follow_study),
    _presets("calibration document", CALIBRATIONS, _follow_calibration, every=4),
    _presets("CPU calibration document", CPU_CALIBRATIONS),
    _presets("serving document", SERVING),
    Reader(
        "request trace (Azure)",
        _texts("a.csv", AZURE, _azure_rows, names=("a.csv.gz", "a.txt")),
        load_workload,
        _follow_workload,
    ),
    Reader(
        "request trace (Mooncake)",
        _texts("a.jsonl", MOONCAKE, _mooncake_rows, names=("a.jsonl.gz", "a")),
        load_workload,
        _follow_workload,
    ),
    Reader(
        "request file (table)",
        _texts("a.csv", request_files.TABLES, request_files.rows, names=("a.csv.gz", "a.txt")),
        load_workload,
        _follow_workload,
    ),
    Reader(
        "request file (objects)",
        _texts("a.jsonl", request_files.OBJECTS, request_files.objects, names=("a.json", "a")),
        load_workload,
        _follow_workload,
    ),
    Reader(
        "command trace",
        _texts("a.trace", TRACES, _trace_rows, names=("a.trace.gz",)),
        lambda path: read_trace(path, _reference_device().organization),
        _follow_trace,
    ),
    Reader(
        "ordinary traffic",
        _texts("a.trace", TRAFFIC, _traffic_rows, names=("a.trace.gz",)),
        lambda path: read_traffic(path, _reference_device().organization),
        _follow_traffic,
    ),
    Reader(
        "command log",
        _texts("a.log", LOGS, _log_rows, names=("a.log.gz",)),
        read_log,
        _follow_log,
    ),
    Reader(
        "lengths file",
        _texts("a.txt", LENGTHS, _length_rows),
        read_lengths,
        _follow_lengths,
    ),
    Reader(
        "measured table (CSV)",
        _tables_of(TABLES, _gemm_rows),
        read_table,
        _follow_table,
        finite=False,  # power that was not measured is not a number
    ),
    Reader("serving runs (CSV)", _tables_of(RUNS, _run_rows), read_runs),
    Reader(
        "recorded heads (.npz)",
        _texts("a.npz", RECORDED, _recorded_rows),
        RecordedHeads.load,
    ),
    Reader(
        "quantity",
        _quantity,
        Path,
        in_memory=_read_quantity,
        refusals=(ValueError,),
    ),
    Reader(
        "option of the command line",
        _option,
        Path,
        in_memory=_read_option,
        # Typer refuses what its own types cannot be: an enumeration, a number, a path.
        refusals=(AttaccError, BadParameter),
    ),
    Reader("list of lengths", _lengths_text, Path, in_memory=parse_lengths),
)
"""Every reader of the campaign."""
