"""Statements of a ``config.json`` that its family would not follow.

A family is read by the keys that decide its size. Others may be in the file: most of them change
nothing (dropout, token ids, rotary scaling). Some would change what the model computes or stores
if they were followed: experts in a dense family, windows, low-rank keys and values, heads under
another name, state of recurrent layers, modules for drafting. They are refused by name, unless
their value says that they are not in use. What a key is about is told by its name, so that keys
of families to come are refused too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final, cast

from attacc.errors import DocumentError
from attacc.models.architecture import AS_DOCUMENT

_OUT: Final = f"{AS_DOCUMENT}, or remove the key if it has no effect on the model"

_CHANGES: Final = re.compile(
    "|".join(
        (
            # Experts.
            r"expert|moe|first_k_dense|mlp_only_layers|sparse",
            # Which keys a query sees.
            r"window|sliding|attention_chunk|attn_type|attention_type|^index(er)?_|compress",
            # What is stored of a key and value, and for how many heads.
            r"lora_rank|latent|(^|_)mla(_|$)|qk_(nope|rope)|head_dim|head_type|multi_?query",
            r"(kv|key_value)_heads?|heads?_kv|kv_n_heads|(attention|query)_groups?|group_num",
            r"new_decoder_architecture|pruned_heads|shared_kv|kv_shar|kv_cache|cache_dtype",
            # Layers that differ from one another, or run more than once.
            r"per_layer|layer_type|layers?_block|block_config|(layer|override)_pattern|hybrid",
            r"num_loops|recursi",
            # Recurrent layers.
            r"(^|_)(ssm|mamba\d?|conv\d*d?|state|rwkv|recurrent|retention|linear_attn)(_|$)",
            r"^linear_(num|key|value|conv|attn)|full_attention_interval",
            # Modules besides the layers.
            r"draft|mtp|nextn|medusa|eagle|specul|lookahead|cross_attention|is_encoder_decoder",
            r"(text|vision|audio|speech|video|encoder|decoder|language|llm)_(config|tower)|^mm_",
            # Parameters of a layer.
            r"(attention|attn|qkv|mlp)_bias|qk_(layer)?norm|parallel_(attn|residual)",
            r"alibi|position_embedding_type",
            # Element types.
            r"quant|quip|gptq|awq|(^|_)[wn]?_?bits?(_|$)|load_in_",
        )
    )
)
_HARMLESS: Final = frozenset(
    {
        "_pre_quantization_dtype",
        "context_window",
        "max_window_layers",  # says nothing without sliding_window
        "output_router_logits",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "use_kv_cache",
    }
)
# One expert, visited by every token, is a dense block.
_ONE_IS_NONE: Final = re.compile(r"(num_|n_)?((local|routed)_)?experts|(num_)?experts_per_tok(en)?")
_LAYER_NUMBERS: Final = re.compile(r"layers?(_(idx|ids|indices))?$")
_NEUTRAL_TEXT: Final = {
    "attention_head_type": ("multihead",),
    "position_embedding_type": ("absolute", "learned", "learned_absolute", "rope", "rotary"),
}

_SAME: Final = {
    "layers": ("num_hidden_layers", "num_layers", "n_layers", "n_layer"),
    "hidden_size": ("hidden_size", "d_model", "n_embd", "n_embed"),
    "heads": ("num_attention_heads", "num_heads", "n_heads", "n_head"),
    "kv_heads": (
        "num_key_value_heads",
        "num_key_value_heads_per_layer",
        "num_kv_heads",
        "n_kv_heads",
        "n_kv_head",
        "n_head_kv",
        "kv_n_heads",
        "num_query_groups",
        "num_attention_groups",
        "multi_query_group_num",
    ),
    "head_dim": (
        "head_dim",
        "v_head_dim",
        "qk_head_dim",
        "attention_head_dim",
        "attention_head_size",
        "kv_channels",
    ),
    "intermediate_size": ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner"),
}
"""Keys of other families that mean a size of a layer."""

_ALIASES: Final = frozenset(key for keys in _SAME.values() for key in keys)
CLASS_ENDS: Final = (
    r"(Config|(PreTrained)?Model|ForCausalLM|LMHeadModel|DoubleHeadsModel"
    r"|For(Sequence|Token)Classification|ForQuestionAnswering|ForConditionalGeneration)"
)
_NO_MODEL: Final = re.compile("Tokenizer|Processor|FeatureExtractor")


def refuse_foreign_parts(
    document: Mapping[str, object],
    *,
    family: str,
    classes: str,
    read: Collection[str],
    where: str,
) -> None:
    """Refuse what a family does not have: another family's class, and keys that change it.

    Args:
        document: the parsed ``config.json``.
        family: the ``model_type`` that it is read as.
        classes: what the names of the family's classes begin with, as in "Llama".
        read: the keys that are read elsewhere.
        where: the file, for messages.

    Raises:
        DocumentError: names the first key that contradicts the family, and its value.
    """
    for key, name in _named_classes(document):
        if not re.fullmatch(classes + CLASS_ENDS, name, re.IGNORECASE):
            raise DocumentError(
                f"{key} names the class {name!r:.80}, which is none of the family {family!r}",
                where=where,
                hint=AS_DOCUMENT,
            )
    known = {*read, *_ALIASES, *_HARMLESS}
    for key, value in document.items():
        if key in known or not _CHANGES.search(key) or _is_neutral(key, value, document):
            continue
        raise DocumentError(
            f"{key} = {value!r:.80} is not read for the family {family!r}, and may change what "
            "the model computes or stores",
            where=where,
            hint=_OUT,
        )


def refuse_sizes(
    document: Mapping[str, object],
    sizes: Mapping[str, Collection[int]],
    *,
    family: str,
    read: Collection[str],
    where: str,
) -> None:
    """Refuse sizes that another family's keys state otherwise than the layers as they were read.

    Args:
        document: the parsed ``config.json``, or its language part.
        sizes: every value of each size that occurs in the layers.
        family: the ``model_type`` that it was read as.
        read: the keys that it was read from.
        where: the file, for messages.

    Raises:
        DocumentError: names the first such key, its value and the sizes that were read.
    """
    for field, keys in _SAME.items():
        for key in keys:
            value = document.get(key)
            stated = cast(list[object], value) if isinstance(value, list) else [value]
            if key in read or value is None:
                continue
            if all(type(item) is int and item in sizes[field] for item in stated):
                continue
            found = " and ".join(map(str, sorted(sizes[field]))) or "none"
            raise DocumentError(
                f"{key} = {value!r:.80} contradicts the family {family!r}, by whose keys the model "
                f"has {field} = {found}",
                where=where,
                hint=_OUT,
            )


def _is_neutral(key: str, value: object, document: Mapping[str, object]) -> bool:
    """Say whether a value means that what the key is about is not in use."""
    if not value or value in _NEUTRAL_TEXT.get(key, ()):
        return True
    if type(value) is int and value == 1 and _ONE_IS_NONE.fullmatch(key):
        return True
    if isinstance(value, list):
        items = cast(list[object], value)
        # In a list of layers, 0 is the first one; in a list of settings it is none.
        return all(not item or item == "full_attention" for item in items) and not (
            0 in items and _LAYER_NUMBERS.search(key)
        )
    return key == "sliding_window" and document.get("use_sliding_window") is False


def _named_classes(document: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield the classes that the file names, and the key that does."""
    architectures = document.get("architectures")
    if isinstance(architectures, list):
        for name in cast(list[object], architectures):
            yield "architectures", str(name)
    elif architectures:
        yield "architectures", str(architectures)
    auto_map = document.get("auto_map")
    if isinstance(auto_map, dict):
        for use, target in cast(dict[str, object], auto_map).items():
            if not _NO_MODEL.search(use):
                yield f"auto_map.{use}", str(target).rsplit(".", 1)[-1]
    elif auto_map:
        yield "auto_map", str(auto_map)
