"""Sensitivities: grouped queries, length, number of stacks, link bandwidth."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from attacc.hardware.link import LINKS
from attacc.study.papers.asplos2024 import Case, sensitivity
from attacc.study.papers.exhibits import Column, Exhibit, Form
from attacc.study.papers.platforms import Load, Subject
from attacc.study.papers.setting import LONG, OWN_STACK, PUBLISHED_STACK, Setting

GROUPS: Final = (1, 2, 4, 8)
KEYS: Final = (2048, 4096, 8192, 16384, 32768, 65536, 131072)
STACKS: Final = (1, 2, 3, 4, 5, 6, 8, 10)
LINK_NAMES: Final = ("pcie4-x16", "pcie5-x16", "nvlink3", "nvlink4")


def groups(setting: Setting) -> Exhibit:
    """Query heads that share keys and values, read for one or for all of them at a time."""
    cases: list[Case] = []
    for group in GROUPS:
        spec = setting.llama.spec
        shared = spec.model_copy(update={"kv_heads": spec.heads // group})
        subject = Subject(f"LLaMA-65B, group {group}", shared)
        together = replace(
            OWN_STACK,
            label="AttAcc, own, one read for a group",
            queries_per_read=group,
        )
        platforms = (
            setting.base,
            setting.large,
            setting.attacc(OWN_STACK),
            setting.attacc(together),
        )
        cases += [Case(group, platform, subject, LONG) for platform in platforms]
    return sensitivity(
        setting,
        cases,
        name="gqa",
        title="Grouped queries",
        conditions="LLaMA-65B with 64, 32, 16 and 8 key/value heads, (2,048, 2,048), largest "
        "feasible batch; AttAcc with both optimisations",
        x=Column("group", "query heads per key/value head", form=Form.COUNT),
        notes=(
            (
                "The papers' unit serves one query per read of keys and values, and so reads them "
                "once for every query head of a group; GPUs read them once. One read for a group "
                "is an extension of this project (docs/model/gqa.md)."
            ),
        ),
    )


def length(setting: Setting) -> Exhibit:
    """Length of the cache, up to 131,072 tokens."""
    platforms = (
        setting.base,
        setting.large,
        setting.attacc(PUBLISHED_STACK),
        setting.attacc(OWN_STACK),
    )
    cases = [
        Case(keys, platform, setting.llama, Load(keys - 1, 2))
        for keys in KEYS
        for platform in platforms
    ]
    return sensitivity(
        setting,
        cases,
        name="length",
        title="Length of the cache",
        conditions="LLaMA-65B in fp16, one decode step with every request at the length, largest "
        "feasible batch; AttAcc with both optimisations",
        x=Column("length_tokens", "length", "tokens", Form.COUNT),
        notes=("The model is stretched beyond its trained context of 2,048 tokens.",),
    )


def stacks(setting: Setting) -> Exhibit:
    """Number of stacks of each AttAcc."""
    cases = [
        Case(number, setting.attacc(replace(variant, stacks_per_device=number)), setting.gpt3, LONG)
        for number in STACKS
        for variant in (PUBLISHED_STACK, OWN_STACK)
    ]
    return sensitivity(
        setting,
        cases,
        name="stacks",
        title="Number of stacks",
        conditions="GPT-3 175B in fp16, (2,048, 2,048), 8 AttAccs of so many stacks of 16 GB, "
        "largest feasible batch, both optimisations",
        x=Column("stacks_per_attacc", "stacks per AttAcc", form=Form.COUNT),
        notes=("The papers have 5.",),
        logarithmic=False,
    )


def links(setting: Setting) -> Exhibit:
    """Bandwidth of the link between GPUs and AttAccs."""
    cases = [
        Case(
            LINKS.load(name).bytes_per_s / 1e9,
            setting.attacc(replace(variant, link=name)),
            setting.gpt3,
            LONG,
        )
        for name in LINK_NAMES
        for variant in (PUBLISHED_STACK, OWN_STACK)
    ]
    return sensitivity(
        setting,
        cases,
        name="link",
        title="Bandwidth of the link to AttAcc",
        conditions="GPT-3 175B in fp16, (2,048, 2,048), PCIe 4 and 5 x16, NVLink 3 and 4 between "
        "GPUs and AttAccs, largest feasible batch, both optimisations",
        x=Column("link_gb_per_s", "one direction", "GB/s"),
        notes=("The papers have NVLink 3. The GPUs stay joined by NVLink 3.",),
        logarithmic=False,
    )
