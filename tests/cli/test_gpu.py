"""``attacc gpu``: fit to measurements, check against them."""

from importlib.resources import files
from pathlib import Path

import pytest

from attacc.calibration import problems
from attacc.gpu.calibrated.kernels import CalibratedGpu
from tests.calibration.gpu_tables import gemm_csv, nccl_csv
from tests.cli.console import answer, document, invoke


def test_check(tmp_path: Path) -> None:
    """Catches a key that is missing from the answer, or a GPU that needs naming."""
    rows = document("gpu", "check", gemm_csv(tmp_path / "gemm.csv"), "--json")
    assert [row["size_class"] for row in rows] == [
        "all",
        "m <= 16",
        "m 17-256",
        "m 257-2048",
        "m > 2048",
    ]
    assert (
        rows[0].items()
        >= {
            "operator": "gemm",
            "gpu": "h100-sxm-80gb",
            "dtype": "bfloat16",
            "framework": "VLLM",
            "points": 400,
            "out_of_range": 0,
        }.items()
    )
    assert set(rows[0]) >= {"mape", "median_ape", "p90_ape", "bias"}
    named = document("gpu", "check", tmp_path / "gemm.csv", "--gpu", "h100-sxm-80gb", "--json")
    assert named == rows
    text = answer("gpu", "check", tmp_path / "gemm.csv", "--gpu", "h200")
    assert "gemm, h100-sxm-80gb, bfloat16, VLLM 0.24.0" in text
    assert "m > 2048" in text


def test_figure(tmp_path: Path) -> None:
    """Catches a figure that is not drawn, or drawn into a kind of file that is none."""
    table, figure = gemm_csv(tmp_path / "gemm.csv", rows=50), tmp_path / "gemm.png"
    answer("gpu", "check", table, "--figure", figure)
    assert figure.read_bytes().startswith(b"\x89PNG")
    refused = invoke("gpu", "check", table, "--figure", tmp_path / "gemm.gif")
    assert refused.exit_code == 2
    assert "use one of .svg" in refused.stderr


def test_a_fit_to_a_gpu_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, the calibration named the GPU as if it were a preset, and could not be read."""
    monkeypatch.setattr(problems, "EVALUATIONS", 10)
    text = (files("attacc.hardware") / "presets/gpu/h100.toml").read_text(encoding="utf-8")
    (tmp_path / "sheets").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "sheets" / "own.toml").write_text(text.replace('name = "h100"', 'name = "own"'))
    table = nccl_csv(tmp_path / "nccl.csv")
    monkeypatch.chdir(tmp_path)
    fit = ("gpu", "fit", table, "--gpu", "sheets/own.toml", "--folds", "0")
    answer(*fit, "-o", "out/mine.toml")
    assert CalibratedGpu.load(str(tmp_path / "out" / "mine.toml")).gpu.name == "own"


def test_fit_and_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a document that is written, and cannot be read or used."""
    monkeypatch.setattr(problems, "EVALUATIONS", 10)
    table, out = nccl_csv(tmp_path / "nccl.csv"), tmp_path / "mine.toml"
    rows = document("gpu", "fit", table, "--gpu", "h100", "-o", out, "--folds", "2", "--json")
    assert rows[0]["predicted_by"] == "the other folds"
    checked = document("gpu", "check", table, "--gpu", out, "--json")
    assert checked[0]["calibration"] == "mine"
    assert checked[0]["mape"] < 0.05
    assert 'name = "mine"' in out.read_text()
    assert "mape" not in answer("gpu", "fit", table, "--gpu", "h100", "-o", out, "--folds", "0")


def test_rows_that_cannot_be_fitted_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches one time of 1e308 ms that ends in a traceback, or that is passed over silently."""
    monkeypatch.setattr(problems, "EVALUATIONS", 5)
    table, out = nccl_csv(tmp_path / "nccl.csv"), tmp_path / "mine.toml"
    header, first, *rest = table.read_text().splitlines()
    fields = first.split(",")
    bad = ",".join([*fields[:-1], "1e308"])
    table.write_text("\n".join([header, bad, *rest]) + "\n")
    row = document("gpu", "fit", table, "--gpu", "h100", "-o", out, "--folds", "0", "--json")[0]
    assert row["points"] == len(rest)
    assert row["outside"] == [{"reason": "latency_ms is above 1e+08", "rows": 1}]
    table.write_text(f"{header}\n{bad}\n")
    refused = invoke("gpu", "fit", table, "--gpu", "h100", "-o", tmp_path / "other.toml")
    assert "no row can be fitted: latency_ms is above 1e+08" in refused.stderr.replace("\n", " ")
    assert not (tmp_path / "other.toml").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("check", "absent.parquet"), "no such file"),
        (("check", "t.csv", "--gpu", "h1000"), "unknown calibration preset 'h1000'"),
        (("fit", "t.csv", "--gpu", "h100", "-o", "t.csv"), "is also read"),
        (("fit", "t.csv", "-o", "o.toml"), "--gpu: is missing"),
        (("fit", "absent.csv", "-o", "noext"), "name it noext.toml"),
        (("fit", "absent.csv", "-o", "o.json"), "'.json' is no ending of a document's name"),
        (("fit", "t.csv", "--gpu", "h100", "-o", "o.toml"), "the largest series has 3"),
        (("fit", "t.csv", "--gpu", "gtx", "-o", "o.toml"), "unknown GPU preset 'gtx'"),
        (("fit", "t.csv", "--gpu", "h100", "--measured-as", "x", "-o", "o.toml"), "measured are"),
    ],
)
def test_input_that_cannot_be_used(
    args: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a traceback, or a file that is written over."""
    monkeypatch.chdir(tmp_path)
    gemm_csv(tmp_path / "t.csv", rows=3)
    result = invoke("gpu", *args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr.replace("\n", " ")


SERVING = """\
id,backend,backend_version,model_path,system,precision,isl,osl,gemm_quant_mode,batch_size,\
tp_size,ttft_ms,tpot_ms
a,vllm,0.12.0,Qwen/Qwen3-32B,h100_sxm,,1024,128,,16.0,4.0,400.0,14.0
b,vllm,0.12.0,openai/gpt-oss-120b,h100_sxm,fp4,1024,128,nvfp4,16.0,4.0,400.0,14.0
c,vllm,0.12.0,Qwen/Qwen3-32B,h100_sxm,,4096,8192,,128.0,2.0,400.0,14.0
"""


def test_serving_runs(tmp_path: Path) -> None:
    """Catches a mixture of experts, or a batch that does not fit, predicted all the same."""
    table = tmp_path / "runs.csv"
    table.write_text(SERVING)
    rows = document("gpu", "check", table, "--json")
    whole = {(r["operator"], r["dtype"]): r for r in rows if r["size_class"] == "all"}
    assert (whole["tpot", "bfloat16"]["points"], whole["tpot", "bfloat16"]["out_of_range"]) == (
        1,
        1,
    )
    assert (whole["ttft", "nvfp4"]["points"], whole["ttft", "nvfp4"]["out_of_range"]) == (0, 1)
    refused = invoke("gpu", "check", table, "--gpu", "h100")
    assert "predicted with the presets of their GPUs" in refused.stderr.replace("\n", " ")
    reasons = {entry["reason"] for row in whole.values() for entry in row["outside"]}
    assert reasons == {
        "the memory does not hold all requests at full length",
        "openai/gpt-oss-120b is no dense model with a preset",
    }


def test_serving_runs_are_fitted(tmp_path: Path) -> None:
    """Catches coefficients that are written, and cannot be used for one's own framework."""
    header = "backend,backend_version,model_path,system,isl,osl,gemm_quant_mode,batch_size,tp_size"
    lines = [f"{header},ttft_ms,tpot_ms"]
    for tp in (1, 2, 4):
        for requests in (1, 4, 16, 64):
            first, token = 30 + 60 * requests**0.5 / tp, (8 + requests / 8) / tp + 1
            lines.append(
                f"mine,1.0,meta-llama/Llama-3.1-8B-Instruct,h100_sxm,1024,128,,{requests},{tp},"
                f"{first:.3f},{token:.3f}"
            )
    table, out = tmp_path / "runs.csv", tmp_path / "mine.toml"
    table.write_text("\n".join(lines) + "\n")
    refused = invoke("gpu", "fit", table, "-o", out)
    assert "nothing is known of the operators of mine" in refused.stderr.replace("\n", " ")
    rows = document("gpu", "fit", table, "--kernels", "VLLM", "-o", out, "--json")
    assert {(row["operator"], row["points"]) for row in rows if row["size_class"] == "all"} == {
        ("tpot", 12),
        ("ttft", 12),
    }
    unknown = document("gpu", "check", table, "--json")
    assert unknown[0]["outside"] == [{"reason": "nothing was fitted for 'mine'", "rows": 12}]
    checked = document("gpu", "check", table, "--serving", out, "--json")
    assert checked[0]["predicted_by"] == "mine 1.0 bf16"
    assert checked[0]["mape"] < 0.15
    both = invoke("gpu", "fit", table, gemm_csv(tmp_path / "g.csv", rows=3), "-o", out)
    assert "fit one after the other" in both.stderr.replace("\n", " ")
    assert "--framework" in invoke("gpu", "fit", table, "--framework", "x", "-o", out).stderr


def test_extrapolate(tmp_path: Path) -> None:
    """Catches a command that predicts nothing, or does not say from what."""
    table = gemm_csv(tmp_path / "gemm.csv")
    rows = document("gpu", "extrapolate", table, "--rows", "512", "--json")
    assert rows[0]["seen"] == "m <= 512"
    assert "h100-sxm-80gb" in answer("gpu", "extrapolate", table, "--rows", "512")
    refused = invoke("gpu", "extrapolate", table, "--unseen", "h200")
    assert "give unseen with seen, or rows" in refused.stderr.replace("\n", " ")
    absent = invoke("gpu", "extrapolate", table, "--unseen", "h200", "--seen", "h100")
    assert "h200 was not measured" in absent.stderr.replace("\n", " ")
