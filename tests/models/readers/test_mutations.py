"""Damaged files: random changes of the ``config.json`` files of models that people serve.

A change removes a key, adds one from a file of another family, or changes a value. Whatever comes
of it is refused by a key of the file, or counted as the transformers library counts the same file.
Families that the library does not know are counted here by the formulas of
reference/model-architectures.md, sections 1 and 4.1.
"""

from __future__ import annotations

import copy
import json
import random
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from attacc.errors import InputError
from attacc.models.layers import LayeredModel
from attacc.models.readers.registry import TEXT, read_layers
from tests import share

Config = Mapping[str, Any]
Place = tuple[str | int, ...]

SEED = 20_261_130
EVERY, FEW = 1000, 60
FEW_BUILT = 24
"""Files that the library builds by default, for the sake of time."""
CONFIG = Path("config.json")
ASIDE = ("quantization_config", "auto_map", "generation_config", "id2label", "label2id")
"""Tables that other tests are about, or that no reader looks into."""
TEXTS = ("", "none", "1", "full_attention")
LARGE = (2**24, 10**9, 10**30)


class Mutation(NamedTuple):
    """A damaged file.

    Attributes:
        name: the published file.
        what: removed, added or changed.
        place: keys on the way to the one that it is about, that one included.
        document: the damaged file.
    """

    name: str
    what: str
    place: Place
    document: dict[str, Any]

    def __str__(self) -> str:
        value: Any = self.document
        try:
            for step in self.place:
                value = value[step]
        except (KeyError, IndexError, TypeError):
            value = "(none)"
        return f"{self.name}: {self.what} {'.'.join(map(str, self.place))} = {value!r:.90}"


def tables(value: object, place: Place = ()) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The tables of a file, with the way to each of them."""
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        yield place, table
        for key, inner in table.items():
            if key not in ASIDE:
                yield from tables(inner, (*place, key))
    elif isinstance(value, list):
        for i, inner in enumerate(cast("list[object]", value)):
            yield from tables(inner, (*place, i))


def text_of(document: Config) -> Config:
    """The language part of a file."""
    inner = document.get(TEXT)
    return cast("Config", inner) if isinstance(inner, dict) else document


def changed(value: Any, rng: random.Random, others: Sequence[Any]) -> Any:
    """Another value in place of one.

    Args:
        value: the one of the file.
        rng: chooses.
        others: the values of the same key in other files.
    """
    same = [other for other in others if other != value]
    found: list[Callable[[], Any]] = [lambda: None, lambda: rng.choice(TEXTS)]
    if same:
        found.append(lambda: rng.choice(same))
    if isinstance(value, bool):
        found += [lambda: not value] * 4 + [lambda: int(value), lambda: str(value).lower()]
    elif isinstance(value, int):
        found += [
            lambda: 0, lambda: -1, lambda: rng.choice(LARGE), lambda: value + 1, lambda: value - 1,
            lambda: 2 * value, lambda: value // 2, lambda: float(value), lambda: value + 0.5,
            lambda: str(value), lambda: True, lambda: [value], dict, lambda: 1,
        ]  # fmt: skip
    elif isinstance(value, float):
        found += [lambda: 0, lambda: -value, lambda: 1e300, lambda: 2 * value, lambda: float("inf")]
    elif isinstance(value, str):
        found += [lambda: value[:-1], lambda: value + "2", value.upper, lambda: 7]
        if value:
            found.append(lambda: value[: (i := rng.randrange(len(value)))] + value[i + 1 :])
    elif isinstance(value, list):
        entries = cast("list[Any]", value)
        found += [list, lambda: entries[:-1], lambda: [*entries, *entries[-1:]], lambda: 1]
        if entries:
            found += [lambda: one_changed(entries, rng)] * 3
    elif isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        found += [dict, list, lambda: [table], lambda: 1]
    else:
        found += [lambda: 0, lambda: 1, lambda: 2, lambda: True, lambda: False, list, dict]
    return rng.choice(found)()


def one_changed(entries: list[Any], rng: random.Random) -> list[Any]:
    """A list with another value, or that of another entry, in place of one."""
    i = rng.randrange(len(entries))
    kinds = [other for other in entries if other != entries[i]]
    entry = rng.choice(kinds) if kinds and rng.random() < 0.5 else changed(entries[i], rng, kinds)
    return [*entries[:i], entry, *entries[i + 1 :]]


def mutate(name: str, documents: Mapping[str, Config], rng: random.Random) -> Mutation:
    """A damaged copy of one of the files; two draws in three are of its language part."""
    document = cast("dict[str, Any]", copy.deepcopy(documents[name]))
    found = dict(tables(document))
    text: Place = (TEXT,) if (TEXT,) in found else ()
    place = text if rng.random() < 0.67 else rng.choice(list(found))
    table = found[place] or document
    place = place if found[place] else ()
    kind = rng.choice(("removed", "added", "changed", "changed"))
    if kind == "added":
        family = document.get("model_type")
        other = rng.choice([d for d in documents.values() if d.get("model_type") != family])
        source: Config = text_of(other)
        if not place and text:
            source = other
        elif place not in ((), text):
            source = rng.choice(list(dict(tables(other)).values())) or source
        keys = [key for key in source if key not in table] or list(source)
        key = rng.choice(keys)
        table[key] = copy.deepcopy(source[key])
        return Mutation(name, kind, (*place, key), document)
    key = rng.choice(list(table))
    if kind == "removed":
        del table[key]
        return Mutation(name, kind, (*place, key), document)
    others = [
        one[key]
        for document in documents.values()
        for one in (document, text_of(document))
        if key in one
    ]
    table[key] = copy.deepcopy(changed(table[key], rng, others))
    return Mutation(name, kind, (*place, key), document)


def mutations(documents: Mapping[str, Config], count: int, seed: int = SEED) -> list[Mutation]:
    """So many damaged files; each file has its turn."""
    rng = random.Random(seed)  # noqa: S311 - the same files on every machine
    names: list[str] = []
    found: list[Mutation] = []
    while len(found) < count:
        if not names:
            names = sorted(documents)
            rng.shuffle(names)
        found.append(mutate(names.pop(), documents, rng))
    return found


# What the library does not know, or reads by fewer keys, is counted by the page's formulas.


def gated(hidden: int, width: int) -> int:
    """Three matrices: gate, up and down."""
    return 3 * hidden * width


def of_attention(
    hidden: int, heads: int, kv_heads: int, dim: int, values: int | None = None
) -> int:
    """Queries, keys, values and the output."""
    values = dim if values is None else values
    return hidden * (heads * dim + kv_heads * (dim + values)) + heads * values * hidden


def of_blocks(c: Config) -> int:
    """Layers of Llama-Nemotron (section 1.11)."""
    hidden, heads = c["hidden_size"], c["num_attention_heads"]
    found = 0
    for block in c["block_configs"]:
        at, ffn = block["attention"], block["ffn"]
        if at.get("replace_with_linear"):
            found += hidden + hidden * hidden
        elif not at.get("no_op"):
            dim = c.get("head_dim") or hidden // heads
            kv_heads = heads // at["n_heads_in_group"]
            found += hidden + of_attention(hidden, heads, kv_heads, dim)
            if c.get("attention_bias"):
                found += (heads + 2 * kv_heads) * dim + hidden
        if ffn.get("replace_with_linear"):
            found += hidden + hidden * hidden
        elif not ffn.get("no_op"):
            width = -(-int(2 * ffn["ffn_mult"] * hidden / 3) // 256) * 256
            found += hidden + gated(hidden, width)
            if c.get("mlp_bias"):
                found += 2 * width + hidden
    return found


def of_step(c: Config) -> int:
    """Layers of Step 3.7 (sections 1.1 and 2)."""
    hidden, heads = c["hidden_size"], c["num_attention_heads"]
    dim = c.get("head_dim") or hidden // heads
    kv_heads = c["num_key_value_heads"] or heads
    layers, dense = c["num_hidden_layers"], c["first_k_dense_replace"]
    each = of_attention(hidden, heads, kv_heads, dim) + hidden * heads + 2 * dim + 2 * hidden
    experts = c["num_experts"] * (gated(hidden, c["moe_intermediate_size"]) + hidden)
    experts += gated(hidden, c["share_expert_dim"])
    blocks = dense * gated(hidden, c["intermediate_size"]) + (layers - dense) * experts
    return layers * each + blocks


def of_latent(c: Config) -> int:
    """Latent attention (section 4.1)."""
    hidden, heads, latent = c["hidden_size"], c["num_attention_heads"], c["kv_lora_rank"]
    nope, rope, values = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
    rank, queries = c.get("q_lora_rank"), heads * (nope + rope)
    found = hidden * queries if rank is None else rank * (hidden + 1 + queries)
    found += hidden * (latent + rope) + latent + latent * heads * (nope + values)
    return found + heads * values * hidden * (2 if c.get("mla_use_output_gate") else 1)


def of_kimi(c: Config) -> int:
    """Layers of Kimi K3, and what joins its kept streams (section 4.1)."""
    hidden, layers, table = c["hidden_size"], c["num_hidden_layers"], c["linear_attn_config"]
    heads, dim, conv = table["num_heads"], table["head_dim"], table.get("short_conv_kernel_size", 4)
    inner = heads * dim
    delta = 4 * hidden * inner + 3 * conv * inner + dim * hidden + inner * dim
    delta += hidden * heads + heads + inner + dim
    delta += hidden * inner if table.get("use_full_rank_gate") else hidden * dim + dim * inner
    width, inputs = c["moe_intermediate_size"], c.get("routed_expert_hidden_size")
    experts = c["num_experts"] * (gated(inputs or hidden, width) + hidden)
    experts += c["num_shared_experts"] * gated(hidden, width)
    if inputs is not None:
        experts += 2 * hidden * inputs + (inputs if c.get("latent_moe_use_norm") else 0)
    dense = gated(hidden, c["intermediate_size"])
    first, each = c.get("first_k_dense_replace", 1), c.get("moe_layer_freq", 1)
    found = 0
    for i in range(layers):
        found += of_latent(c) if i + 1 in table["full_attn_layers"] else delta
        found += experts if i >= first and i % each == 0 else dense
        found += 2 * hidden
    if c.get("attn_res_block_size") is not None:
        found += (4 * layers + 2) * hidden
    return found


def of_mimo(c: Config) -> int:
    """Layers of MiMo V2 by its lists, which the library does not read (section 3.2)."""
    hidden = c["hidden_size"]
    found = 0
    for window, experts in zip(c["hybrid_layer_pattern"], c["moe_layer_freq"], strict=True):
        own = "swa_" if window else ""
        heads, kv_heads = c[f"{own}num_attention_heads"], c[f"{own}num_key_value_heads"]
        dim, values = c[f"{own}head_dim"], c[f"{own}v_head_dim"]
        found += of_attention(hidden, heads, kv_heads or heads, dim, values) + 2 * hidden
        if c.get("attention_bias"):
            found += heads * dim + kv_heads * (dim + values)
        found += heads if c[f"add_{'swa' if window else 'full'}_attention_sink_bias"] else 0
        if experts:
            width = gated(hidden, c["moe_intermediate_size"])
            found += c["n_routed_experts"] * (width + hidden)
        else:
            found += gated(hidden, c["intermediate_size"])
    return found


FORMULAS: Mapping[str, Callable[[Config], int]] = {
    "nemotron-nas": of_blocks, "step3p7": of_step, "kimi_linear": of_kimi, "mimo_v2_flash": of_mimo,
}  # fmt: skip
"""Model types of the language part -> parameters of its layers."""
NAMES = {
    "kimi_k2": "deepseek_v3", "deepseek_ref": "deepseek_v4", "mimo": "qwen2",
    "minimax_m3": "minimax_m3_vl_text", "minimax_m3_vl": "minimax_m3_vl_text",
    "kimi_k25": "deepseek_v3",
}  # fmt: skip
"""Model types that the library calls otherwise."""
TIED = ("gemma4", "kimi_k25")
"""Model types of files whose output head is the embedding table where they do not say."""
NOT_BUILT = {
    r"even rotary dimension": "heads of an odd size have no rotary positions",
    r"Padding_idx must be": "the padding token is not in a small vocabulary",
    r"'num_key_value_heads' expected int, got NoneType": "null is the number of query heads",
    r"'n_shared_experts' expected int, got NoneType": "null is none",
}
"""Why the library does not build a file whose number of parameters is certain nevertheless."""


def family_of(document: Config, original: Config) -> str:
    """The model type of the language part, by the published file where the damaged one is mute."""
    for one in (text_of(document), text_of(original), original):
        if isinstance(one.get("model_type"), str):
            return str(one["model_type"])
    raise AssertionError("a published file without model_type")


def is_tied(document: Config, original: Config) -> bool:
    """Whether the output head is the embedding table (section 3.1, item 2)."""
    for one in (document, text_of(document)):
        if isinstance(one.get("tie_word_embeddings"), bool):
            return bool(one["tie_word_embeddings"])
    return original["model_type"] in TIED


def by_formula(mutation: Mutation, original: Config) -> int:
    """Parameters of a file that the library does not know."""
    text = text_of(mutation.document)
    rows = 1 if is_tied(mutation.document, original) else 2
    outside = rows * text["vocab_size"] * text["hidden_size"] + text["hidden_size"]
    return outside + FORMULAS[family_of(mutation.document, original)](text)


BUILT: dict[str, int | str] = {}
"""Language parts as text -> parameters of the model that was built, or why there is none."""


def built(mutation: Mutation, original: Config) -> int | str:
    """Parameters of the model that the library builds, tied ones once, or why it refuses a file."""
    name = family_of(mutation.document, original)
    text = {k: v for k, v in text_of(mutation.document).items() if k not in (*ASIDE, "model_type")}
    if TEXT in original:
        text["tie_word_embeddings"] = is_tied(mutation.document, original)
    key = json.dumps([name, text], sort_keys=True)
    if key not in BUILT:
        try:
            BUILT[key] = _build(NAMES.get(name, name), json.loads(json.dumps(text)))
        except Exception as error:  # whatever stops the library, at any depth
            BUILT[key] = f"{type(error).__name__}: {error}"
    return BUILT[key]


def _build(name: str, text: dict[str, Any]) -> int:
    torch: Any = pytest.importorskip("torch")
    transformers: Any = pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = transformers.AutoConfig.for_model(name, **text)
        headed = type(config) in transformers.AutoModelForCausalLM._model_mapping
        auto = transformers.AutoModelForCausalLM if headed else transformers.AutoModel
        with torch.device("meta"):
            model = auto.from_config(config)
    found = sum(cast("int", one.numel()) for one in model.parameters())
    # The language parts of Qwen3-VL have no output head of their own.
    alone = not headed and not text.get("tie_word_embeddings")
    return found + (config.vocab_size * config.hidden_size if alone else 0)


def words(document: object) -> set[str]:
    """All keys of a file."""
    found: set[str] = set()
    for _, table in tables(document):
        found |= set(table)
    return found


def names_a_key(error: InputError, *documents: Config) -> bool:
    """Whether a message, or its place, names a key of one of the files, or one that it misses."""
    said = set(re.findall(r"\w+", str(error)))
    missed = re.search(r"missing key '\w+'|\w+ is missing", str(error))
    return missed is not None or any(said & words(document) for document in documents)


def read(mutation: Mutation, original: Config) -> LayeredModel | None:
    """The model of a damaged file; None where it is refused by a key."""
    try:
        model = read_layers(mutation.document, CONFIG)
        counts = (model.active_parameters, model.parameters, model.draft_parameters)
    except InputError as error:
        if not names_a_key(error, mutation.document, original):
            raise AssertionError(f"{mutation}: no key in {error}") from error
        return None
    except Exception as error:  # the message must tell which file it was
        raise AssertionError(f"{mutation}: {error!r}") from error
    assert 0 < counts[0] <= counts[1], str(mutation)
    assert counts[2] >= 0, str(mutation)
    return model


SMALL: Mapping[str, Config] = {
    "dense": {
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "vocab_size": 40,
        "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 20, "sliding_window": None,
        "use_sliding_window": False, "tie_word_embeddings": True, "rope_theta": 10000,
    },
    "experts": {
        "model_type": "deepseek_v3", "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 12, "kv_lora_rank": 16,
        "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 10, "intermediate_size": 48,
        "moe_intermediate_size": 20, "n_routed_experts": 8, "num_experts_per_tok": 3,
        "n_shared_experts": 2, "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 1,
    },
    "blocks": {
        "model_type": "nemotron_h", "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 5,
        "hybrid_override_pattern": "ME*-M", "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "mamba_num_heads": 6, "mamba_head_dim": 4, "ssm_state_size": 7,
        "n_groups": 3, "conv_kernel": 3, "intermediate_size": 48, "n_routed_experts": 8,
        "num_experts_per_tok": 3, "moe_intermediate_size": 20, "mlp_hidden_act": "relu2",
        "moe_shared_expert_intermediate_size": 24, "tie_word_embeddings": False,
    },
    "pictures": {
        "model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"],
        "tie_word_embeddings": False,
        "text_config": {
            "model_type": "qwen3_5_text", "vocab_size": 40, "hidden_size": 32,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 6,
            "linear_key_head_dim": 4, "linear_value_head_dim": 5, "intermediate_size": 48,
            "attn_output_gate": True, "mtp_num_hidden_layers": 1, "hidden_act": "silu",
        },
    },
    "queries": {
        "model_type": "qwen3_moe", "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 4,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 5,
        "num_experts_per_tok": 2, "moe_intermediate_size": 14, "norm_topk_prob": True,
    },
    "norms": {
        "model_type": "minimax_m2", "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 4,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 20,
        "num_local_experts": 5, "num_experts_per_tok": 2, "use_qk_norm": True,
    },
    "widths": {
        "model_type": "gemma4", "text_config": {
            "model_type": "gemma4_text", "vocab_size": 40, "hidden_size": 24,
            "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
            "head_dim": 8, "global_head_dim": 16, "intermediate_size": 20, "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "hidden_size_per_layer_input": 0,
        },
    },
}  # fmt: skip
"""Small files, written by hand."""


def test_damaged_small_files_are_refused_by_key() -> None:
    """Catches a damaged file that no message names a key of, or that ends in another error.

    It needs no published files.
    """
    kept = 0
    for mutation in mutations(SMALL, 400):
        kept += read(mutation, SMALL[mutation.name]) is not None
    assert 0 < kept < 400


IGNORED: Mapping[str, tuple[str, Config]] = {
    "attn_output_gate": ("pictures", {"attn_output_gate": False}),
    "use_qk_norm": ("norms", {"use_qk_norm": False}),
    "moe_layer_freq": ("experts", {"moe_layer_freq": 2}),
    "tie_word_embeddings": ("blocks", {"tie_word_embeddings": True}),
}
"""Keys that transformers ignores, and that name another model."""
REFUSED: Mapping[str, tuple[str, Config]] = {
    "tie_word_embeddings": ("dense", {"tie_word_embeddings": None}),
    "head_dim": ("widths", {"head_dim": None}),
    "global_head_dim": ("widths", {"global_head_dim": None}),
    "attention_head_dim": ("blocks", {"head_dim": None, "attention_head_dim": 6}),
    "num_key_value_heads": ("blocks", {"num_key_value_heads": None}),
    "hidden_act": ("experts", {"hidden_act": "sil"}),
    "mlp_hidden_act": ("blocks", {"mlp_hidden_act": "relu"}),
}
"""Keys whose value transformers refuses, or has another default for."""


@pytest.mark.parametrize(
    ("key", "case"),
    [*IGNORED.items(), *REFUSED.items(), ("head_dim", ("queries", {"head_dim": None}))],
)
def test_keys_that_the_library_would_not_follow_are_refused(
    key: str, case: tuple[str, Config]
) -> None:
    """Catches a file that is read as a model which transformers would not make of it."""
    name, changes = case
    document = copy.deepcopy(dict(SMALL[name]))
    cast("dict[str, Any]", text_of(document)).update(changes)
    read_layers(SMALL[name], CONFIG)
    with pytest.raises(InputError, match=rf"\b{key}\b"):
        read_layers(document, CONFIG)


def test_a_file_around_a_language_part_is_known_by_its_class() -> None:
    """Catches a multimodal file without model_type that is taken for its language part."""
    document = {key: value for key, value in SMALL["pictures"].items() if key != "model_type"}
    assert read_layers(document, CONFIG) == read_layers(SMALL["pictures"], CONFIG)


@pytest.fixture(scope="module")
def published(reference: Path) -> Mapping[str, Config]:
    """The published files by their names."""
    folder = reference / "data" / "model_configs"
    return {
        path.name.removesuffix("_config.json"): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*_config.json"))
        if not path.name.endswith("_hf_quant_config.json")
    }


PARTS = 8 if share.is_full(__name__) else 1
"""Parts that the damaged files are played in."""


def part_of(published: Mapping[str, Config], part: int) -> list[Mutation]:
    """One part of the damaged files."""
    return mutations(published, share.examples(__name__, EVERY, FEW))[part::PARTS]


@pytest.mark.parametrize("part", range(PARTS))
def test_damaged_files_are_refused_by_key_or_counted_by_formula(
    published: Mapping[str, Config], part: int
) -> None:
    """Catches a damaged file that no message names a key of, or that ends in another error.

    Also one of a family that transformers does not know, which is counted otherwise than by the
    formulas.
    """
    for mutation in part_of(published, part):
        original = published[mutation.name]
        model = read(mutation, original)
        if model is not None and family_of(mutation.document, original) in FORMULAS:
            assert model.parameters == by_formula(mutation, original), str(mutation)


@pytest.mark.untraced
@pytest.mark.parametrize("part", range(PARTS))
def test_damaged_files_are_counted_as_transformers_counts_them(
    published: Mapping[str, Config], part: int
) -> None:
    """Catches a damaged file that is another model for transformers.

    Where transformers refuses the file, the number of parameters must be that of the published one,
    or certain nevertheless.
    """
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    counts = {name: read_layers(one, CONFIG).parameters for name, one in published.items()}
    found: list[tuple[Mutation, int]] = []
    for mutation in part_of(published, part):
        original = published[mutation.name]
        model = read(mutation, original)
        if model is not None and family_of(mutation.document, original) not in FORMULAS:
            found.append((mutation, model.parameters))
    # Where few are built, first those that are read as other models than the published ones.
    found.sort(key=lambda one: one[1] == counts[one[0].name])
    for mutation, parameters in found[: share.examples(__name__, EVERY, FEW_BUILT)]:
        expected = built(mutation, published[mutation.name])
        if isinstance(expected, int):
            assert parameters == expected, str(mutation)
        elif not any(re.search(why, expected) for why in NOT_BUILT):
            assert parameters == counts[mutation.name], f"{mutation}: {expected}"


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_count_what_the_page_counts(published: Mapping[str, Config], name: str) -> None:
    """Catches a formula of this module that is wrong, and would pass damaged files at random."""
    totals = {
        "nemotron-nas": 49_867_145_216, "step3p7": 195_844_496_640,
        "kimi_linear": 2_779_484_393_568, "mimo_v2_flash": 308_778_768_832,
    }  # fmt: skip
    for file, document in published.items():
        if family_of(document, document) == name:
            found = by_formula(Mutation(file, "changed", (), dict(document)), document)
            assert found == totals[name]
            break
    else:
        raise AssertionError(f"no file of {name}")
