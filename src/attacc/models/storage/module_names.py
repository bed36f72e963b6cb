"""Names of weights as checkpoints spell them, and the patterns by which files choose some of them.

Checkpoints name modules in their own ways. One table (`_BLOCKS`, `_LEAVES`) has the spellings of
each name of `attacc.models.weights`; lists of modules are matched against all of them.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from attacc.errors import DocumentError
from attacc.models.architecture import AS_DOCUMENT
from attacc.models.layers import LayeredModel
from attacc.models.storage.formats import EMBEDDING, may_be_narrow
from attacc.models.weights import Weight

OUT: Final = (
    f"{AS_DOCUMENT}, or remove the statement and give the types in the precision of the study "
    "(--weights, --kv)"
)

_MIXERS: Final = ("self_attn", "attn", "self_attention", "attention", "mixer")
_FEED_FORWARD: Final = ("mlp", "ffn", "feed_forward", "block_sparse_moe", "moe", "mixer")
_BLOCKS: Final[Mapping[str, tuple[str, ...]]] = {
    "self_attn": _MIXERS,
    "attn": _MIXERS,
    "linear_attn": ("linear_attn",),
    "mixer": ("mixer", "mamba"),
    "mlp": _FEED_FORWARD,
}
"""First part of a weight's name -> how checkpoints spell it."""
_LEAVES: Final[Mapping[str, tuple[str, ...]]] = {
    "gate_proj": ("gate_proj", "w1", "gate_up_proj"),
    "up_proj": ("up_proj", "w3", "gate_up_proj", "fc1", "c_fc", "dense_h_to_4h", "fc_in"),
    "down_proj": ("down_proj", "w2", "fc2", "c_proj", "dense_4h_to_h", "fc_out"),
    "gate": ("gate", "router", "router.proj", "router.layer", "gate.wg"),
    "q_proj": ("q_proj", "qkv_proj", "query_key_value", "c_attn", "wq", "W_pack"),
    "k_proj": ("k_proj", "qkv_proj", "query_key_value", "c_attn", "wk", "W_pack"),
    "v_proj": ("v_proj", "qkv_proj", "query_key_value", "c_attn", "wv", "W_pack"),
    "o_proj": ("o_proj", "out_proj", "dense", "c_proj", "wo"),
    "q_a_proj": ("q_a_proj", "fused_qkv_a_proj_with_mqa", "wq_a"),
    "q_b_proj": ("q_b_proj", "wq_b"),
    "kv_a_proj_with_mqa": ("kv_a_proj_with_mqa", "fused_qkv_a_proj_with_mqa", "wkv_a"),
    "kv_b_proj": ("kv_b_proj", "wkv_b"),
    # GLM's lists lack ".weight" in the middle of this one.
    "indexer.weights_proj": ("indexer.weights_proj", "indexers_proj"),
    "wq_a": ("wq_a", "q_a_proj"),
    "wq_b": ("wq_b", "q_b_proj"),
    "wkv": ("wkv", "kv_proj"),
    "wo_a": ("wo_a", "o_a_proj"),
    "wo_b": ("wo_b", "o_b_proj"),
    "in_proj_qkv": ("in_proj_qkv", "in_proj_qkvz"),
    "in_proj_z": ("in_proj_z", "in_proj_qkvz"),
    "in_proj_b": ("in_proj_b", "in_proj_ba"),
    "in_proj_a": ("in_proj_a", "in_proj_ba"),
    "latent_in": ("latent_in", "fc1_latent_proj"),
    "latent_out": ("latent_out", "fc2_latent_proj"),
}
"""The rest of a weight's name -> how checkpoints spell it."""
_EXPERTS: Final = ("experts.0", "experts")
"""The experts of a layer: each by a number, for which 0 stands here, or all in one tensor."""
MLX_EXPERTS: Final = "mlp.switch_mlp"
"""MLX's name of all experts of a layer in one tensor."""
_SHARED: Final = ("shared_experts", "shared_expert", "share_expert")
_JOINED: Final[Mapping[str, str]] = {
    "gate_up_proj": "gate_up",
    "qkv_proj": "qkv",
    "query_key_value": "query_key",
    "c_attn": "c_attn",
    "W_pack": "W_pack",
    "fused_qkv_a_proj_with_mqa": "qkv",
    "in_proj_qkvz": "qkvz",
    "in_proj_ba": "in_proj_ba",
}
"""Spellings of several weights in one tensor -> what a pattern must contain to mean them: a pattern
for "gate" does not mean the matrix beside it."""
_KDA: Final[Mapping[str, tuple[str, ...]]] = {
    "in_proj_qkv": ("q_proj", "k_proj", "v_proj"),
    "in_proj_z": ("g_proj",),
    "in_proj_b": ("b_proj",),
    "out_proj": ("o_proj",),
}
"""Kimi's names of the matrices of its delta attention, which it calls self_attn as well."""
_KDA_MARK: Final = "linear_attn.f_a_proj"
_OUTSIDE: Final[Mapping[str, tuple[str, ...]]] = {
    "lm_head": (
        "lm_head", "language_model.lm_head", "model.lm_head", "head", "output", "embed_out",
    ),
    EMBEDDING: (
        "model.embed_tokens", "embed_tokens", "language_model.model.embed_tokens",
        "model.language_model.embed_tokens", "embed", "model.embed", "backbone.embeddings",
        "transformer.wte", "wte", "word_embeddings",
    ),
}  # fmt: skip
_PREFIXES: Final = (
    "model.layers.",
    "layers.",
    "language_model.model.layers.",
    "model.language_model.layers.",
    "backbone.layers.",
)
_IN_LAYER: Final = re.compile(
    r"(?:(?:model|language_model|text_model|transformer|decoder|backbone|gpt_neox)\.)*"
    r"(?:layers|h|blocks)\.(?:(\d{1,6})|\*)(?:\.(.*))?"
)
_NUMBERED: Final = re.compile(r"(?:layers|h|blocks)\\?\.(\d{1,6})(?!\d)")
_EXPERT_NUMBER: Final = re.compile(r"(?<=experts\.)\d{1,6}(?=\.|$)")
_ELSEWHERE: Final = re.compile(
    r"visual|vision|vit\b|projector|patch_m|patch_e|embed_vision|embed_audio|audio|image|speech"
    r"|mtp|nextn|eagle|draft|eh_proj|enorm|hnorm|shared_head|mm_"
)
"""Names of parts that are counted apart: of pictures and sound, and of layers for drafting."""
_NOT_LINEAR: Final = re.compile(
    r"(.*[._])?(\w*norm\w*|ln_\w+|bias|\w*_bias|conv1d|\w+_conv|A_log|D|sinks?|attn_sink|ape|scale"
    r"|rotary_emb|inv_freq|act_fn|e_score_correction\w*|wpe|embed_positions|position_embeddings)"
)
"""Names of what is no linear layer, and is not quantised anyway."""
_MOST_DRAFT_LAYERS: Final = 16
_MOST_CHARACTERS: Final = 500
_TOKEN: Final = re.compile(r"\\[dw.\-/]|\[\^?[\w.\-\\]+\]|\(\?:|[\w\-/:,]|[()|^$]|\.\*|\.\+|[.+*?]")
_QUANTIFIED: Final = ("\\d", "\\w", ".")
_MOST_QUANTIFIED: Final = 3
_PLAIN_REGEX: Final = re.compile(r"\^?(?:[\w\-]|\\[.\-]|\.\*|\.(?![*+?]))*\$?")

Key = tuple[int | None, str]
_Test = Callable[[str], bool]


def _spellings(weights: Iterable[Weight]) -> list[tuple[str, str, str | None]]:
    """Return how the weights of a layer are spelt, whose they are, and which share of it it is."""
    names = [weight.name for weight in weights]
    found: list[tuple[str, str, str | None]] = []
    for name in names:
        block, _, rest = name.partition(".")
        start, _, leaf = rest.rpartition(".")
        blocks = _BLOCKS.get(block, (block,))
        if start == "experts.*":
            rests = [f"{one}.{last}" for one in _EXPERTS for last in _LEAVES.get(leaf, (leaf,))]
        elif start == "shared_experts":
            rests = [f"{one}.{last}" for one in _SHARED for last in _LEAVES.get(leaf, (leaf,))]
        else:
            rests = list(_LEAVES.get(rest, (rest,)))
        found += [(f"{one}.{last}", name, None) for one in blocks for last in rests]
        if start == "experts.*" or rest == "gate":
            # Gemma has its experts and their router beside the block, and not inside.
            found += [(last, name, None) for last in rests]
        if block == "linear_attn" and _KDA_MARK in names:
            shares = _KDA.get(rest, (rest,))
            found += [
                (f"{one}.{share}", name, share if len(shares) > 1 else None)
                for one in ("self_attn", "linear_attn")
                for share in shares
            ]
    return found


class Names:
    """The weights of a model that may be quantised, found by the names of checkpoints."""

    def __init__(self, model: LayeredModel) -> None:
        self.weights: dict[Key, Weight] = {
            (None, weight.name): weight for weight in model.outside() if may_be_narrow(weight)
        }
        self._kinds: list[list[tuple[str, str, str | None]]] = []
        self._kind_of: list[int] = []
        self._found: dict[tuple[int, str], tuple[tuple[str, str | None], ...]] = {}
        for first, layer in model.each_layer():
            weights = [weight for weight in model.of_layer(layer) if weight.linear]
            for number in range(first, first + layer.repeat):
                self.weights |= {(number, weight.name): weight for weight in weights}
            spelt = _spellings(weights)
            if spelt not in self._kinds:
                self._kinds.append(spelt)
            self._kind_of += [self._kinds.index(spelt)] * layer.repeat

    @property
    def layers(self) -> int:
        """All layers."""
        return len(self._kind_of)

    def chosen(self, patterns: Iterable[str], where: str) -> tuple[set[Key], list[str]]:
        """Return the weights that some patterns name, and those patterns that name none.

        Raises:
            DocumentError: a pattern is not understood, names weights of a layer that are not
                known, or patterns name a share of matrices that have one format here.
        """
        shares: dict[Key, set[str] | None] = {}
        idle: list[str] = []
        for pattern in patterns:
            found = self._named(pattern, where)
            if not found and not self._is_known(pattern, where):
                idle.append(pattern)
            for key, share in found:
                if share is None:
                    shares[key] = None
                elif (so_far := shares.setdefault(key, set())) is not None:
                    so_far.add(share)
        for (layer, name), some in shares.items():
            if some is None:
                continue
            whole = self.weights[layer, name].count
            whole = len(_KDA["in_proj_qkv"]) if whole == 1 and not _is_number(some) else whole
            if len(some) < whole:
                raise DocumentError(
                    f"names {len(some)} of the {whole} matrices of {name} in layer {layer} "
                    f"({', '.join(sorted(some)[:3])}), which have one format here",
                    where=where,
                    hint=OUT,
                )
        return set(shares), idle

    def _named(self, pattern: str, where: str) -> list[tuple[Key, str | None]]:
        """Return the weights that one pattern names, each with the share of it."""
        if len(pattern) > _MOST_CHARACTERS:
            raise DocumentError(f"names {pattern!r:.80}, which is no name", where=where, hint=OUT)
        text = pattern.strip().removesuffix(".weight")
        if text.startswith("re:"):
            return self._by_regex(text.removeprefix("re:"), where)
        return self._by_name(text)

    def _by_regex(self, regex: str, where: str) -> list[tuple[Key, str | None]]:
        if _PLAIN_REGEX.fullmatch(regex):
            return self._by_name(_as_glob(regex))
        test = re.compile(_safe_regex(regex, where)).match
        same = regex.startswith(".*") and not re.search(r"[0-9\[]|\\d(?!\+)", regex)
        return self._everywhere(lambda name: test(name) is not None, f"*{regex}", same=same)

    def _by_name(self, text: str) -> list[tuple[Key, str | None]]:
        if inside := _IN_LAYER.fullmatch(text):
            number, rest = inside.groups()
            if number is not None and int(number) >= self.layers:
                return []
            layers = range(self.layers) if number is None else (int(number),)
            return [
                ((layer, name), share)
                for layer in layers
                for name, share in self._in_kind(self._kind_of[layer], rest or "*")
            ]
        outside: list[tuple[Key, str | None]] = []
        if not _has_wildcard(text):
            outside = [(key, None) for key in self._outside(lambda name: name == text)]
            return outside + [
                ((layer, name), share)
                for layer, kind in enumerate(self._kind_of)
                for name, share in self._in_kind(kind, text, anywhere=True)
            ]
        return self._everywhere(
            _glob(text), text, same=text.startswith("*") and not re.search(r"[0-9\[?]", text)
        )

    def _outside(self, test: _Test) -> Iterator[Key]:
        for layer, name in self.weights:
            if layer is None and any(test(one) for one in _OUTSIDE.get(name, (name,))):
                yield None, name

    def _meant(self, kind: int, text: str) -> Iterator[tuple[str, str, str | None]]:
        """Yield the spellings of a kind of layer that a pattern may mean."""
        for entry in self._kinds[kind]:
            joined = _JOINED.get(entry[0].rpartition(".")[2])
            if joined is None or joined in text:
                yield entry

    def _everywhere(self, test: _Test, text: str, *, same: bool) -> list[tuple[Key, str | None]]:
        """Return all whose whole name meets a test.

        Args:
            test: of a name.
            text: the pattern that it tests for.
            same: the test does not look at prefixes and at numbers of layers.
        """
        found: list[tuple[Key, str | None]] = [(key, None) for key in self._outside(test)]
        prefixes = _PREFIXES[:1] if same else _PREFIXES
        known: dict[int, list[tuple[str, str | None]]] = {}
        for layer, kind in enumerate(self._kind_of):
            starts = [f"{prefix}{layer}" for prefix in prefixes]
            starts = [one for one in starts if _fits(f"{one}.", text)]
            if kind not in known or not same:
                known[kind] = [
                    (name, share)
                    for spelling, name, share in self._meant(kind, text)
                    if any(test(f"{start}.{spelling}") for start in starts)
                ]
            found += [((layer, name), share) for name, share in known[kind]]
        return found

    def _in_kind(
        self, kind: int, rest: str, *, anywhere: bool = False
    ) -> list[tuple[str, str | None]]:
        """Return the weights of a kind of layer that the rest of a name means.

        Args:
            kind: of layer.
            rest: of the name, behind the number of the layer.
            anywhere: the rest may be a part in the middle of a name.
        """
        number = _EXPERT_NUMBER.search(rest)
        if number is not None:
            rest = _EXPERT_NUMBER.sub("0", rest)
        place = (kind, f".{rest}" if anywhere else rest)
        if place not in self._found:
            if _has_wildcard(rest):
                test = _glob(rest)
            elif anywhere:
                test: _Test = lambda name: f".{rest}." in f".{name}."  # noqa: E731
            else:
                test = lambda name: name == rest or name.startswith(f"{rest}.")  # noqa: E731
            self._found[place] = tuple(
                (name, share) for spelling, name, share in self._meant(kind, rest) if test(spelling)
            )
        if number is None:
            return list(self._found[place])
        return [(name, number.group()) for name, _ in self._found[place]]

    def _is_known(self, pattern: str, where: str) -> bool:
        """Say whether a pattern that names none of the weights has a reason for it.

        Raises:
            DocumentError: it names weights of a layer, and they are not known.
        """
        text = pattern.strip().removesuffix(".weight").removeprefix("re:")
        if _ELSEWHERE.search(text) or _NOT_LINEAR.fullmatch(text.rstrip("*.$")):
            return True
        if any(text in spellings for spellings in _OUTSIDE.values()):
            return True  # a tied output head
        if _has_wildcard(text) and "layers" not in text:
            return False
        number = _NUMBERED.search(text)
        if number is None:
            return False
        layer = int(number.group(1))
        if self.layers <= layer < self.layers + _MOST_DRAFT_LAYERS:
            return True
        inside = _IN_LAYER.fullmatch(text)
        rest = inside.group(2) if inside else None
        kinds = range(len(self._kinds)) if layer < self.layers and rest else ()
        if any(self._in_kind(kind, rest or "") for kind in kinds):
            return False
        raise DocumentError(
            f"names {pattern!r}, which is none of the weights of the model of {self.layers} layers",
            where=where,
            hint=f"correct the name, or {AS_DOCUMENT}",
        )


def _is_number(shares: set[str]) -> bool:
    return all(share.isdigit() for share in shares)


def _has_wildcard(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _fits(start: str, text: str) -> bool:
    """Say whether names that start so may be meant by a pattern with stars."""
    literal = re.split(r"[*?\[]", text, maxsplit=1)[0]
    return start.startswith(literal) or literal.startswith(start)


def _glob(text: str) -> _Test:
    """Return the test whether a name, or a module around it, is meant by a pattern with stars."""
    own = re.compile(fnmatch.translate(text))
    around = re.compile(fnmatch.translate(f"{text}.*"))
    return lambda name: own.match(name) is not None or around.match(name) is not None


def _as_glob(regex: str) -> str:
    """Return a regular expression of literal characters and ``.*`` as a pattern with stars."""
    end = "" if regex.endswith(("$", ".*")) else "*"
    text = regex.removeprefix("^").removesuffix("$").replace(".*", "*").replace("\\.", "\0")
    return text.replace(".", "?").replace("\0", ".").replace("\\-", "-") + end


def _safe_regex(regex: str, where: str) -> str:
    """Return an equal regular expression that takes little time on any name.

    Wildcards outside of parentheses are satisfied by the first match of what follows, which
    excludes that a match takes exponential time.

    Raises:
        DocumentError: it has other things than characters, classes, alternatives and wildcards.
    """
    marks = _TOKEN.findall(regex)
    depth = quantified = 0
    pieces, piece, fault = list[str](), "", "".join(marks) != regex
    for before, mark in zip(["", *marks], marks, strict=False):
        depth += mark.startswith("(") - (mark == ")")
        if mark in ("+", "*", ".+"):
            quantified += 1
            fault |= mark != ".+" and before not in _QUANTIFIED and not before.startswith("[")
        fault |= depth < 0 or (mark == ".*" and depth > 0) or (mark == "|" and depth == 0)
        fault |= mark == "?" and before in ("", "*", "+", "?", ".*", ".+", "(", "|")
        if mark == ".*":
            pieces.append(piece)
            piece = ""
        else:
            piece += mark
    pieces.append(piece)
    if fault or depth or quantified > _MOST_QUANTIFIED:
        raise DocumentError(
            f"names modules by {'re:' + regex!r:.80}, a regular expression that is not read",
            where=where,
            hint=f"use names, * and alternatives in parentheses, or {AS_DOCUMENT}",
        )
    return pieces[0] + "".join(f"(?>.*?{one})" for one in pieces[1:] if one)
