"""Attention of transformers' models on a device, against the models' own eager attention."""

import contextlib
import functools
from inspect import signature
from typing import Any, cast

import pytest

from tests.integrations import models as small

torch = small.torch

from attacc.errors import CapacityError, InputError
from attacc.integrations.generation import threads_of_host
from attacc.integrations.huggingface_attention import attach
from attacc.integrations.huggingface_cache import DeviceCache
from attacc.integrations.huggingface_session import Session
from attacc.models.precision import ElementType
from attacc.pim.host.costs import AppendCost
from attacc.pim.host.device import HostDevice
from attacc.pim.numerics.arithmetic import Arithmetic
from tests.integrations.models import device_of, model_of, tokens_of

TOLERANCES = {"fp32 sums": (small.WIDE, 0.01), "fp16": (Arithmetic(), 0.02)}
"""Arithmetic, and how far scores of tokens may be off, in units of their standard deviation.

With sums in fp32, keys, values, queries, scores, probabilities and contexts are rounded to fp16:
by 2**-12 of their size, each. Scores of attention reach 8 here, so that a probability is off by up
to 8 * 2**-11 = 0.4 %, in each of three layers. Sums in fp16 round in every of their 5 to 20 steps.
"""


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    """One thread, because threads of small models wait for each other most of the time."""
    with torch.inference_mode(), threads_of_host(1):
        yield


def scores_of(model: Any, tokens: Any) -> Any:
    return model(tokens, use_cache=False).logits


def scored(session: Session, tokens: Any, cache: DeviceCache) -> Any:
    return session.forward(tokens, cache).logits


def off(scores: Any, reference: Any) -> float:
    """Return the largest difference, in standard deviations of the reference."""
    return float((scores - reference).abs().max() / reference.std())


@pytest.mark.parametrize("family", [one for one in small.SIZES if one not in small.OUTSIDE])
@pytest.mark.parametrize("sums", list(TOLERANCES))
def test_scores_are_those_of_eager_attention(family: str, sums: str) -> None:
    """Heads in another order, a query scaled twice, keys of the wrong token or row, a position
    counted twice: any of them moves scores by whole standard deviations."""
    arithmetic, tolerance = TOLERANCES[sums]
    model, tokens = model_of(family), tokens_of(2, 18)
    expected = scores_of(model, tokens)
    with attach(model, device_of(arithmetic)) as session:
        cache = session.cache()
        parts = [tokens[:, :11], tokens[:, 11:12], tokens[:, 12:]]
        got = torch.cat([scored(session, part, cache) for part in parts], dim=1)
    assert off(got[:, :11], expected[:, :11]) < 1e-5  # prefill is the host's
    assert off(got, expected) < tolerance
    assert off(got[:, 11:], expected[:, 11:]) > 0  # and this is not


def test_the_name_is_registered() -> None:
    """A model loaded with attn_implementation="attacc" that another attention serves."""
    model, tokens = model_of(attention="attacc"), tokens_of(1, 5)
    with pytest.raises(InputError, match="attached to no device"):
        scores_of(model, tokens)
    with attach(model, device_of()) as session:
        session.generate(tokens, max_new_tokens=2, do_sample=False)
        assert len(session.steps) == 1
    assert model.config._attn_implementation == "sdpa"


def test_the_host_keeps_no_keys_and_values() -> None:
    """Decode that reads a cache of the host beside, or in place of, the device."""
    model, tokens = model_of(), tokens_of(1, 9)
    with attach(model, device_of()) as session:
        cache = session.cache()
        scored(session, tokens, cache)
        held: list[Any] = [
            value
            for layer in cache.layers
            for value in cast("dict[str, Any]", vars(layer)).values()
            if isinstance(value, torch.Tensor)
        ]
        assert cache.get_seq_length() == 9
        assert not held


def test_decode_attends_to_what_the_device_holds() -> None:
    """Keys and values from anywhere else: those of the device are changed, behind the host."""

    class Distorting(HostDevice):
        def append(self, request: int, layer: int, keys: Any, values: Any = None) -> AppendCost:
            return super().append(request, layer, keys, values[:, ::-1])

    model, tokens = model_of(), tokens_of(1, 10)
    expected = scores_of(model, tokens)
    with attach(model, Distorting(device_of().hardware)) as session:
        cache = session.cache()
        prefilled = scored(session, tokens[:, :9], cache)
        decoded = scored(session, tokens[:, 9:], cache)
    assert off(prefilled, expected[:, :9]) < 1e-5
    assert off(decoded, expected[:, 9:]) > 0.1


def test_several_tokens_are_attended_to_one_by_one() -> None:
    """A pass of several tokens after others that lets a token see later ones, or no earlier."""
    model, tokens = model_of(), tokens_of(2, 12)
    with attach(model, device_of()) as session:
        at_once, singly = session.cache(), session.cache()
        together = [scored(session, part, at_once) for part in (tokens[:, :4], tokens[:, 4:])]
        apart = [scored(session, tokens[:, :4], singly)]
        apart += [scored(session, tokens[:, i : i + 1], singly) for i in range(4, 12)]
        assert len(session.steps) == 16
        assert session.steps[:8] == session.steps[8:]
    difference = off(torch.cat(together, dim=1), torch.cat(apart, dim=1))
    # The host's sums differ in their last bits, by which values round to another fp16.
    assert difference < TOLERANCES["fp32 sums"][1]


AT_ONCE = ["Llama", "GPT2", "Mistral", "Gemma3Text", "Gemma4Text", "GptOss", "DeepseekV3"]


@pytest.mark.parametrize("family", AT_ONCE)
@pytest.mark.parametrize("sums", list(TOLERANCES))
def test_tokens_at_once_are_those_of_eager_attention(family: str, sums: str) -> None:
    """A token that sees those behind it, or none of those beside it; a ring in which a later token
    overwrites what an earlier one sees; contexts that are mixed up between tokens and heads."""
    arithmetic, tolerance = TOLERANCES[sums]
    model, tokens = model_of(family), tokens_of(2, 18)
    expected = scores_of(model, tokens)
    device = device_of(arithmetic, queries_per_read=3)
    with attach(model, device, latents="one_copy", query_tokens=3) as session:
        cache = session.cache()
        parts = [tokens[:, :9], tokens[:, 9:10], tokens[:, 10:]]
        got = torch.cat([scored(session, part, cache) for part in parts], dim=1)
        # Nine tokens, eight of them in one pass: 1, 3, 3 and 2 at once.
        assert [step.tokens for step in session.steps] == [1, 3, 3, 2]
        assert [step.keys for step in session.steps] == [
            2 * sum(lengths) for lengths in ([10], [11, 12, 13], [14, 15, 16], [17, 18])
        ]
        session.check_room(100)
    assert off(got[:, :9], expected[:, :9]) < 1e-5
    assert 0 < off(got[:, 9:], expected[:, 9:]) < tolerance


def test_tokens_at_once_read_keys_once() -> None:
    """Costs of several tokens that are those of one, or of each by itself."""
    model, tokens = model_of(), tokens_of(1, 18)
    costs: list[Any] = []
    for at_once in (1, 4):
        with attach(model, device_of(queries_per_read=16), query_tokens=at_once) as session:
            cache = session.cache()
            scored(session, tokens[:, :14], cache)
            scored(session, tokens[:, 14:], cache)
            costs.append(session.steps)
    singly, (together,) = costs
    assert together.keys == sum(step.keys for step in singly)
    assert together.link.queries == sum(step.link.queries for step in singly)
    assert together.link.keys_values == sum(step.link.keys_values for step in singly)
    assert together.attention.bank_read_bytes == singly[-1].attention.bank_read_bytes
    with pytest.raises(InputError, match="query_tokens: 0 is out of range"):
        attach(model, device_of(), query_tokens=0)


def test_without_a_prefill() -> None:
    """A first token by itself that is not written to the device, or attends to nothing."""
    model, tokens = model_of(), tokens_of(1, 4)
    expected = scores_of(model, tokens)
    with attach(model, device_of()) as session:
        cache = session.cache()
        got = torch.cat([scored(session, tokens[:, i : i + 1], cache) for i in range(4)], dim=1)
        assert [step.keys for step in session.steps] == [1, 2, 3, 4]
        assert not session.prefills
    assert off(got, expected) < TOLERANCES["fp32 sums"][1]


def test_ragged_batches() -> None:
    """Padding that is stored and attended to, or a row that gets the length of another."""
    model, tokens = model_of(), tokens_of(3, 12)
    padding = [0, 5, 9]
    mask = torch.ones_like(tokens)
    for row, count in enumerate(padding):
        mask[row, :count] = 0
    asked = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = model.generate(tokens, attention_mask=mask, **asked)
    with attach(model, device_of()) as session:
        together = session.generate(tokens, attention_mask=mask, **asked)
        assert session.prefills[0].tokens == 36 - 14
        assert [step.keys for step in session.steps] == [36 - 14 + 3 * i for i in range(1, 6)]
        for row, count in enumerate(padding):
            alone = session.generate(tokens[row : row + 1, count:], **asked)
            assert torch.equal(alone[0], together[row, count:])
    assert torch.equal(together, expected)


def test_generations_share_a_device_and_leave_it_empty() -> None:
    """A request that stays, or that finds keys of the one before it."""
    model, device, tokens = model_of(), device_of(), tokens_of(1, 8)
    with attach(model, device) as session:
        asked = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
        first = session.generate(tokens, **asked)
        assert device.requests == ()
        assert device.free_bytes == device.capacity_bytes
        other = session.cache()
        scored(session, tokens_of(1, 8, seed=1), other)
        assert len(device.requests) == 1
        again = session.generate(tokens, **asked)
        assert torch.equal(first, again)
        assert len(device.requests) == 1
        session.reset()
        assert device.requests == ()
        assert not session.steps
        scored(session, tokens, session.cache())
    assert device.requests == ()
    assert len(session.prefills) == 1  # what was counted remains


def test_what_is_counted() -> None:
    """Bytes of a layer or of a token that are forgotten, or counted twice; costs of one layer."""
    model, tokens = model_of(), tokens_of(2, 10)
    device = device_of()
    with attach(model, device) as session:
        session.generate(tokens, max_new_tokens=4, do_sample=False, eos_token_id=None)
        (prefill,), steps = session.prefills, session.steps
        kv = 2 * 2 * 16 * 2 * small.LAYERS  # of a token: keys and values of 2 heads of 16 fp16
        queries = 8 * 16 * 2 * small.LAYERS
        assert (prefill.requests, prefill.tokens) == (2, 20)
        assert prefill.appended.link.total == 20 * kv
        assert [step.keys for step in steps] == [22, 24, 26]
        for step in steps:
            assert step.requests == 2
            assert (step.link.queries, step.link.contexts) == (2 * queries, 2 * queries)
            assert step.link.keys_values == 2 * kv
            assert step.attention.bank_read_bytes >= step.keys * kv * 4  # 4 queries share a head
            assert step.link_ns > 0
            assert step.link_pj > 0
        total = prefill.appended.link
        for step in steps:
            total += step.link
        assert device.traffic == total
        layer = device.attend  # one layer costs a third of the step
        cache = session.cache()
        scored(session, tokens, cache)
        scored(session, tokens[:, :1], cache)
        queries_of_layer = torch.zeros(2, 8, 16).numpy()
        one = layer(0, cache.requests, queries_of_layer).cost
        assert steps[0].attention.cycles == small.LAYERS * one.cycles


@pytest.mark.parametrize(
    ("element", "tolerance"),
    [(ElementType.BF16, 0.1), (ElementType.INT8, 0.5), (ElementType.FP8, 1.0)],
)
def test_other_formats(element: ElementType, tolerance: float) -> None:
    """A format that does not reach the banks, or a scale that is lost. Eight bits of values with
    a random model's spread leave scores that are off by a fraction of their deviation."""
    model, tokens = model_of(), tokens_of(1, 16)
    expected = scores_of(model, tokens)
    with attach(model, device_of(None), element=element) as session:
        cache = session.cache()
        scored(session, tokens[:, :12], cache)
        got = scored(session, tokens[:, 12:], cache)
    assert 1e-4 < off(got, expected[:, 12:]) < tolerance


def decoded(model: Any, tokens: Any, prompt: int) -> Any:
    """Scores of the tokens behind a prompt."""
    with attach(model, device_of()) as session:
        cache = session.cache()
        scored(session, tokens[:, :prompt], cache)
        return scored(session, tokens[:, prompt:], cache)


@pytest.mark.parametrize(
    ("family", "plain"),
    [
        ("Mistral", {"sliding_window": None}),
        ("Gemma3Text", {"layer_types": ["full_attention"] * small.LAYERS}),
        ("Phimoe", {"sliding_window": None}),
    ],
)
def test_windows_matter(family: str, plain: dict[str, Any]) -> None:
    """Models whose windows are too wide here for the table above to notice that they are lost."""
    tokens = tokens_of(2, 18)
    windowed, whole = (model_of(family, **others) for others in ({}, plain))
    whole.load_state_dict(windowed.state_dict())
    assert off(decoded(windowed, tokens, 11), decoded(whole, tokens, 11)) > 0.1


def test_sinks_matter_and_are_those_of_their_head() -> None:
    """Sinks that are left out, or counted for another head, in prefill or in decode."""
    model, tokens = model_of("GptOss"), tokens_of(2, 18)
    for layer in model.model.layers:
        layer.self_attn.sinks.copy_(torch.linspace(-2, 6, 8))
    expected = scores_of(model, tokens)
    assert off(decoded(model, tokens, 11), expected[:, 11:]) < TOLERANCES["fp32 sums"][1]
    for layer in model.model.layers:
        layer.self_attn.sinks.copy_(layer.self_attn.sinks.flip(0))
    assert off(decoded(model, tokens, 11), expected[:, 11:]) > 0.1
    with attach(model, device_of()) as session:
        prefilled = scored(session, tokens[:, :11], session.cache())
    assert off(prefilled, scores_of(model, tokens)[:, :11]) < 1e-5


def test_sinks_and_windows_of_padded_rows() -> None:
    """Windows that are counted from the padding, and rows of padding that give no number."""
    model, tokens = model_of("GptOss"), tokens_of(2, 12)
    mask = torch.ones_like(tokens)
    mask[1, :8] = 0
    asked = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = model.generate(tokens, attention_mask=mask, **asked)
    with attach(model, device_of()) as session:
        together = session.generate(tokens, attention_mask=mask, **asked)
    assert torch.equal(together, expected)


def test_windows_store_no_more_than_they_show() -> None:
    """A ring that grows with the text, in place of one whose places are used in turn."""
    model, device, tokens = model_of("Gemma3Text"), device_of(), tokens_of(1, 18)
    with attach(model, device) as session:
        cache = session.cache()
        scored(session, tokens, cache)
        (request,) = cache.requests
        assert [device.length(request, layer) for layer in range(3)] == [5, 18, 5]
        kv = 2 * 2 * 16 * 2  # of a token: keys and values of 2 heads of 16 fp16
        assert session.prefills[0].appended.link.total == (5 + 18 + 5) * kv
        session.check_room(1000)


def with_own_cache(model: Any, parts: list[Any]) -> Any:
    name = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"
    cache = small.transformers.DynamicCache(config=model.config)
    return torch.cat([model(part, **{name: cache}).logits for part in parts], dim=1)


@pytest.mark.parametrize("family", list(small.HYBRIDS))
def test_layers_without_keys_stay_on_the_host(family: str) -> None:
    """Layers that are counted as layers of the device, or whose states are lost between tokens.

    The reference has the model's own cache, token by token: transformers' plain code for some of
    these layers computes other numbers with a state than without."""
    model, device, tokens = model_of(family), device_of(), tokens_of(2, 18)
    parts = [tokens[:, :11], *(tokens[:, at : at + 1] for at in range(11, 18))]
    expected = with_own_cache(model, parts)
    with attach(model, device) as session:
        cache = session.cache()
        got = torch.cat([scored(session, part, cache) for part in parts], dim=1)
        assert device.shape.layers == 1
        assert [step.keys for step in session.steps] == [2 * length for length in range(12, 19)]
        cache.free()
        scored(session, tokens_of(1, 5), cache)
    assert off(got[:, :11], expected[:, :11]) < 1e-4
    assert 0 < off(got, expected) < TOLERANCES["fp32 sums"][1]


def test_a_hybrid_writes_what_it_writes_by_itself() -> None:
    """A state that transformers' ``generate`` expects elsewhere, or that a second text finds."""
    model, tokens = model_of("Qwen3Next"), tokens_of(1, 8)
    asked = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    expected = model.generate(tokens, **asked)
    with attach(model, device_of()) as session:
        for _ in range(2):
            assert torch.equal(session.generate(tokens, **asked), expected)
        assert len(session.steps) == 8


def test_latents_are_expanded_by_the_host() -> None:
    """A device that is sent latents in place of keys and values, or a module that changes keys
    after it has expanded them."""
    model, device, tokens = model_of("DeepseekV3"), device_of(), tokens_of(1, 8)
    own: Any = model.model.layers[1].self_attn
    expand, added = own.expand_kv, iter(range(9))

    def changing(*latents: Any) -> Any:
        keys, values = expand(*latents)
        return keys + next(added), values

    with attach(model, device) as session:
        cache = session.cache()
        scored(session, tokens, cache)
        shape = device.shape
        assert (shape.head_dim, shape.value_dim, shape.kv_heads) == (192, 128, 2)
        own.expand_kv = changing
        with pytest.raises(InputError, match="do not come from a cache"):
            scored(session, tokens[:, :1], cache)


@pytest.mark.parametrize("family", ["DeepseekV3", "DeepseekV2", "MiniCPM3"])
@pytest.mark.parametrize("sums", list(TOLERANCES))
def test_latents_in_one_copy_are_those_of_eager_attention(family: str, sums: str) -> None:
    """A matrix that is absorbed twice or not at all, a rotated part that is left out, a latent of
    another token, contexts that are not expanded, and keys and values that are stored as well."""
    arithmetic, tolerance = TOLERANCES[sums]
    model, device, tokens = model_of(family), device_of(arithmetic), tokens_of(2, 18)
    expected = scores_of(model, tokens)
    with attach(model, device, latents="one_copy") as session:
        cache = session.cache()
        parts = [tokens[:, :11], tokens[:, 11:12], tokens[:, 12:]]
        got = torch.cat([scored(session, part, cache) for part in parts], dim=1)
        config, shape = model.config, device.shape
        width = config.kv_lora_rank + config.qk_rope_head_dim
        assert (shape.kv_heads, shape.queries_per_kv_head) == (1, 2)
        assert (shape.head_dim, shape.value_dim, shape.one_copy) == (width, 32, True)
        assert session.prefills[0].appended.link.total == 2 * 11 * small.LAYERS * width * 2
        session.check_room(10)
    assert off(got[:, :11], expected[:, :11]) < 1e-5
    assert 0 < off(got[:, 11:], expected[:, 11:]) < tolerance


def test_other_models_attend_alike_with_latents_in_one_copy() -> None:
    """A model without latents that is refused, or whose keys serve as values."""
    model, tokens = model_of(), tokens_of(1, 12)
    texts: list[Any] = []
    for latents in ("expanded", "one_copy"):
        with attach(model, device_of(), latents=latents) as session:
            texts.append(session.generate(tokens, max_new_tokens=4, do_sample=False))
            assert not session.device.shape.one_copy
    assert torch.equal(*texts)
    with pytest.raises(InputError, match="latents: unknown"):
        attach(model, device_of(), latents="two")


def test_latents_that_no_matrix_expands_are_refused() -> None:
    """An expansion with a bias, which absorbed queries do not know."""
    model = model_of("DeepseekV3")
    own: Any = model.model.layers[1].self_attn
    expand = own.expand_kv

    def shifted(*latents: Any) -> Any:
        return tuple(one + 1 for one in expand(*latents))

    own.expand_kv = shifted
    with (
        pytest.raises(InputError, match="do not expand by matrices alone"),
        attach(model, device_of(), latents="one_copy"),
    ):
        pass
    assert model.config._attn_implementation == "eager"


def test_layers_have_heads_of_their_own() -> None:
    """A layer that is laid out, or counted, like another; a scale of scores of another layer.

    The first layer has two heads of 16 elements in a ring of 5, the others a head of 32.
    """
    model, device, tokens = model_of("Gemma4Text"), device_of(), tokens_of(1, 18)
    with attach(model, device) as session:
        cache = session.cache()
        scored(session, tokens[:, :17], cache)
        scored(session, tokens[:, 17:], cache)
        shapes = [(s.kv_heads, s.queries_per_kv_head, s.head_dim, s.windows) for s in device.shapes]
        assert shapes == [(2, 4, 16, (5,)), *[(1, 8, 32, (None,))] * 2]
        with pytest.raises(InputError, match="layers of the model differ"):
            _ = device.shape
        (request,) = cache.requests
        assert [device.length(request, layer) for layer in range(3)] == [5, 18, 18]
        kv = 2 * 2 * 16 * 2  # of a token: two heads of 16, or one of 32, keys and values, fp16
        assert session.prefills[0].appended.link.total == (5 + 17 + 17) * kv
        assert session.steps[0].appended.link.total == 3 * kv
        queries = 8 * 2 * (16 + 32 + 32)
        assert session.steps[0].link.queries == queries
        session.check_room(1000)
        with pytest.raises(CapacityError):
            session.check_room(10**9)


def test_layers_have_scales_of_their_own() -> None:
    """Scores of all layers with the scale of the first."""
    model, tokens = model_of("GPT2", scale_attn_by_inverse_layer_idx=True), tokens_of(2, 18)
    expected = scores_of(model, tokens)
    assert off(decoded(model, tokens, 11), expected[:, 11:]) < TOLERANCES["fp32 sums"][1]
    plain = model_of("GPT2")
    plain.load_state_dict(model.state_dict())
    assert off(scores_of(plain, tokens), expected) > 0.1


def test_a_shape_that_changes_is_refused() -> None:
    """A layer whose keys are read with the scale of an earlier pass."""
    model, tokens = model_of(), tokens_of(1, 6)
    with attached(model) as (session, cache):
        scored(session, tokens[:, :5], cache)
        model.model.layers[1].self_attn.scaling *= 2
        with pytest.raises(InputError, match="change between passes"):
            scored(session, tokens[:, 5:], cache)


def test_the_pass_that_learns_shapes_leaves_nothing() -> None:
    """A token on the device, a step, or a mode of the model that is left from before the first."""
    model, device = model_of().train(), device_of()
    with attach(model, device) as session:
        assert model.training
        assert (session.steps, session.prefills) == ([], [])
        with pytest.raises(InputError, match="no model is set"):
            _ = device.state
    model.eval()
    with attach(model, device):
        assert not model.training


FULL = {"layer_types": ["full_attention"] * small.LAYERS}
WITHOUT_ATTENTION = {"layer_types": ["conv"] * small.LAYERS}
SHARED = {
    "num_kv_shared_layers": 1, "laurel_rank": 8, "altup_num_inputs": 2,
    "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": small.VOCABULARY,
    "activation_sparsity_pattern": None,
}  # fmt: skip
CHUNKS = {
    "layer_types": ["chunked_attention"] * small.LAYERS, "attention_chunk_size": 4,
    "num_local_experts": 2, "no_rope_layers": [1] * small.LAYERS,
}  # fmt: skip
INDEXED = {"index_topk": 4, "index_n_heads": 2, "index_head_dim": 64}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    r"soft-capped scores \(softcap = 50.0\)": ("Gemma2", FULL | {"attn_logit_softcapping": 50.0}),
    r"another layer \(num_kv_shared_layers = 1\)": ("Gemma3nText", small.ALTERNATING | SHARED),
    "within chunks of 4 tokens": ("Llama4Text", CHUNKS),
    "layers of the type hybrid, as layer 0": ("FalconH1", {}),
    "a model in which no layer attends": ("Lfm2", WITHOUT_ATTENTION),
    "layers of the type indexed_attention": ("DeepseekV32", small.EXPANDED | INDEXED),
    "a mask that was made elsewhere": ("Doge", {}),
    "BloomForCausalLM": ("Bloom", {"n_head": 4}),
    "MptForCausalLM": ("Mpt", {}),
    "FalconForCausalLM": ("Falcon", {"alibi": True}),
}
"""What the message names -> a family that has it, and its configuration. The way out that each
message tells is an attention of the host."""


@pytest.mark.parametrize("named", list(REFUSED))
def test_models_with_other_attention_are_refused(named: str) -> None:
    """A model that gets plain attention where it has another."""
    family, others = REFUSED[named]
    model = model_of(family, **others)
    device = device_of()
    with (
        pytest.raises(InputError, match=named) as caught,
        attach(model, device) as session,
    ):
        session.generate(tokens_of(1, 12), max_new_tokens=2)
    assert "attn_implementation" in str(caught.value)
    assert model.config._attn_implementation == "eager"


def test_a_window_that_the_config_does_not_state_is_refused() -> None:
    """A layer with a mask, or a window of its own, of which the device knows nothing."""
    model, tokens = model_of("Mistral"), tokens_of(1, 12)
    model.config.layer_types = ["full_attention"] * small.LAYERS
    with (
        attach(model, device_of()) as session,
        pytest.raises(InputError, match="a mask of the model's own"),
    ):
        scored(session, tokens, session.cache())
    # Shorter than the window: the mask shows the same keys as any.
    with (
        attach(model, device_of()) as session,
        pytest.raises(InputError, match=r"sliding_window = 5\) in layer 0, for which .* has None"),
    ):
        scored(session, tokens[:, :4], session.cache())
    model = model_of("Gemma3Text")
    with attach(model, device_of()) as session:
        model.config.layer_types = ["sliding_attention", *FULL["layer_types"][1:]]
        with pytest.raises(InputError, match=r"layer 2 with another mask than .*window \(5\)"):
            scored(session, tokens, session.cache())


def test_a_layer_with_keys_and_a_state_is_refused() -> None:
    """A state that is lost, where the config does not say that the layer has one."""
    with attach(model_of(), device_of()) as session:
        cache = session.cache()
        state = torch.zeros(1)
        for refused in (
            lambda: cache.get_conv_state(1),
            lambda: cache.get_recurrent_state(1),
            lambda: cache.update_conv_state(state, 1),
            lambda: cache.update_recurrent_state(state, 1),
        ):
            with pytest.raises(InputError, match="layer 1, which has keys and another state, too"):
                refused()
        with pytest.raises(InputError, match=r"selected keys .layer 2 has an indexer"):
            cache.update_indexer(state, 2)


def test_encoder_and_decoder_are_refused() -> None:
    torch.manual_seed(0)
    config = small.transformers.T5Config(
        d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=50
    )
    model = small.transformers.T5ForConditionalGeneration(config)
    with pytest.raises(InputError, match="encoder and a decoder"), attach(model, device_of()):
        pass


@contextlib.contextmanager
def attached(model: Any) -> Any:
    with attach(model, device_of()) as session:
        yield session, session.cache()


def test_masks_of_ones_own_are_refused() -> None:
    """A mask that the device ignores."""
    model, tokens = model_of(), tokens_of(1, 6)
    own = torch.zeros(1, 1, 6, 6)
    with attached(model) as (session, cache), pytest.raises(InputError, match="made elsewhere"):
        session.forward(tokens, cache, attention_mask=own)
    with attached(model) as (session, cache):
        scored(session, tokens, cache)
        with pytest.raises(InputError, match="made elsewhere"):
            session.forward(tokens[:, :1], cache, attention_mask=torch.zeros(1, 1, 1, 7))


@pytest.mark.parametrize(
    ("hidden", "message"),
    [([5], "not at the start"), ([2], "not at the start"), (range(6), "nothing but padding")],
)
def test_padding_must_be_on_the_left(hidden: Any, message: str) -> None:
    """Tokens behind padding whose place on the device is another than their position."""
    model, tokens = model_of(), tokens_of(2, 6)
    mask = torch.ones_like(tokens)
    mask[1, list(hidden)] = 0
    with attached(model) as (session, cache), pytest.raises(InputError, match=message):
        session.forward(tokens, cache, attention_mask=mask)


def test_padding_that_changes_is_refused() -> None:
    model, tokens = model_of(), tokens_of(2, 6)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 0] = 0
    with attached(model) as (session, cache):
        session.forward(tokens, cache, attention_mask=mask[:, :6])
        with pytest.raises(InputError, match="had 2 with 1 before"):
            session.forward(tokens[:, :1], cache)


def test_beams_and_other_copies_are_refused() -> None:
    """Beams that go on with the keys of another."""
    model, tokens = model_of(), tokens_of(1, 6)
    with attach(model, device_of()) as session:
        with pytest.raises(InputError, match="beam search"):
            session.generate(tokens, num_beams=2, max_new_tokens=3, do_sample=False)
        cache = session.cache()
        scored(session, tokens, cache)
        cache.crop(0)
        for refused in (
            lambda: cache.crop(-1),
            lambda: cache.batch_repeat_interleave(2),
            lambda: cache.batch_select_indices(torch.tensor([0])),
        ):
            with pytest.raises(InputError, match="does not compute"):
                refused()


@pytest.mark.parametrize("use_cache", [True, False])
def test_other_caches_are_refused(use_cache: bool) -> None:
    """A cache of the host, whose rows may be others than the device's."""
    model, tokens = model_of(), tokens_of(1, 6)
    with attached(model), pytest.raises(InputError, match=r"call session\.forward"):
        model(tokens, use_cache=use_cache)


class _Newer(torch.nn.Module):
    def forward(self, input_ids: Any, cache: Any = None, **others: Any) -> None: ...


class _Older(torch.nn.Module):
    def forward(self, input_ids: Any, past_key_values: Any = None, **others: Any) -> None: ...


class _Both(torch.nn.Module):
    def forward(self, input_ids: Any, past_key_values: Any = None, cache: Any = None) -> None: ...


@pytest.mark.parametrize(
    ("kind", "name"), [(_Newer, "cache"), (_Older, "past_key_values"), (_Both, "cache")]
)
def test_the_cache_goes_by_the_name_that_the_model_has_for_it(kind: Any, name: str) -> None:
    """A name fixed for one version of transformers: the others warn, or lose the cache among
    arguments that they do not know."""
    model = model_of()
    seen: dict[str, Any] = {}
    model.forward = functools.wraps(kind.forward)(lambda *_, **given: seen.update(given))
    session = attach(model, device_of())
    cache = session.cache()
    session.forward(tokens_of(1, 2), cache)
    assert seen == {name: cache}


def test_a_model_without_a_cache_is_refused() -> None:
    """An encoder, to which a cache is an argument that it does not know."""
    config = small.transformers.DistilBertConfig(dim=16, hidden_dim=16, n_layers=1, n_heads=2)
    with pytest.raises(InputError, match="DistilBertModel takes no key/value cache"):
        attach(small.transformers.DistilBertModel(config), device_of())


def test_training_is_refused() -> None:
    """Gradients that stop at the device, and dropout that it does not have."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        model, tokens = model_of(attention_dropout=0.1), tokens_of(1, 6)
        with attached(model) as (session, cache), pytest.raises(InputError, match="gradients"):
            scored(session, tokens, cache)
    model.train()
    with attached(model) as (session, cache), pytest.raises(InputError, match=r"model.eval\(\)"):
        scored(session, tokens, cache)


def test_probabilities_are_no_output() -> None:
    model, tokens = model_of(), tokens_of(1, 6)
    with (
        attached(model) as (session, cache),
        pytest.raises(InputError, match="attention probabilities"),
    ):
        session.forward(tokens, cache, output_attentions=True)


def test_a_pass_that_broke_off() -> None:
    """Layers that hold different tokens, and are attended to all the same."""

    class Broken(HostDevice):
        def append(self, request: int, layer: int, keys: Any, values: Any = None) -> AppendCost:
            if layer == 1:
                raise InputError("on purpose")
            return super().append(request, layer, keys, values)

    model, tokens = model_of(), tokens_of(1, 6)
    with attach(model, Broken(device_of().hardware)) as session:
        cache = session.cache()
        with pytest.raises(InputError, match="on purpose"):
            scored(session, tokens, cache)
        with pytest.raises(InputError, match="broke off"):
            scored(session, tokens[:, :1], cache)
        cache.free()
        with pytest.raises(InputError, match="on purpose"):
            scored(session, tokens, cache)


def test_a_pass_that_broke_off_is_not_counted_with_the_next() -> None:
    """Costs of a pass that broke off in its first layer, which the next of its shape takes over."""

    class Broken(HostDevice):
        left = 1

        def attend(self, layer: int, requests: Any, queries: Any, sinks: Any = None) -> Any:
            self.left -= 1
            if self.left == -1:
                raise InputError("on purpose")
            return super().attend(layer, requests, queries, sinks)

    model, tokens = model_of(), tokens_of(1, 6)
    with attach(model, Broken(device_of().hardware)) as session:
        first, second, third = (session.cache() for _ in range(3))
        for cache in (first, second, third):
            scored(session, tokens[:, :4], cache)
        with pytest.raises(InputError, match="on purpose"):
            scored(session, tokens[:, 4:], first)
        for cache in (second, third):
            scored(session, tokens[:, 4:], cache)
        assert session.steps[:2] == session.steps[2:]


def test_keys_of_a_layer_that_has_none_by_the_config() -> None:
    """A layer that the device would count as another."""
    model = model_of("Qwen3Next")
    model.config.layer_types = ["linear_attention"] * 2 + ["full_attention"]
    with (
        pytest.raises(InputError, match="keys of layer 1, which has none by the config"),
        attach(model, device_of()),
    ):
        pass


def test_a_model_is_attached_once() -> None:
    model = model_of()
    with (
        attach(model, device_of()),
        pytest.raises(InputError, match="attached to a device already"),
        attach(model, device_of()),
    ):
        pass
    assert model.config._attn_implementation == "eager"


def test_room() -> None:
    """Tokens that are refused in the middle of a text."""
    model = model_of()
    with attach(model, device_of()) as session:
        scored(session, tokens_of(1, 4), session.cache())
        session.check_room(1000)
        with pytest.raises(CapacityError, match="memory of the AttAccs"):
            session.check_room(2**40)


def test_values_beyond_the_format_are_refused() -> None:
    """Infinity in the banks, and a context of NaN that a model turns into some token."""
    model, tokens = model_of(), tokens_of(1, 6)
    model.model.layers[1].self_attn.v_proj.weight.mul_(1e6)
    with attached(model) as (session, cache), pytest.raises(InputError, match="layer 1"):
        scored(session, tokens, cache)


def test_types_are_exported() -> None:
    """Names that annotations of users need."""
    assert issubclass(DeviceCache, small.transformers.Cache)
    assert isinstance(attach(model_of(), device_of()), Session)
