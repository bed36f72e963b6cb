"""What sees pictures: the parameters of the vision parts of multimodal files.

A vision part is a tower of blocks over patches of a picture, and a projector (also: merger) from
the tower's width to that of the language part. Each family's file is a closed table here: its
fields are the keys that decide the sizes, under their own names. The sizes of a tower must be in
the file. Other keys have the defaults of the transformers library. The counts are those of the
library's modules, as in reference/model-architectures.md, table 4.2. Buffers and rotary tables are
no parameters.

The equations name h for the width of the tower, i for that of its MLPs, L for its blocks, P for the
side of a patch, C for the channels of a picture, m for the side of a square of merged patches, and
t for the width of the language part. All norms and biases are counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Final, Generic, Literal, Self, TypeVar

from pydantic import AliasChoices, ConfigDict, Field, model_validator

from attacc.documents import Spec, keys_of, parse_document
from attacc.models.layers import MAX_LAYERS
from attacc.models.mixers import Size
from attacc.models.readers.base import LayerCount, head_size

VISION: Final = "vision_config"
"""The key of a multimodal file that holds what sees pictures."""

BlockIndex = Annotated[int, Field(ge=-MAX_LAYERS, le=MAX_LAYERS)]
"""The place of a block in a tower; one below zero is counted from the end."""


def linear(inputs: int, outputs: int, *, bias: bool = True) -> int:
    """Return the parameters of a matrix, with its bias if it has one."""
    return inputs * outputs + (outputs if bias else 0)


def plain_mlp(hidden: int, width: int) -> int:
    """Return the parameters of an MLP of two matrices with biases: 2hi + i + h."""
    return linear(hidden, width) + linear(width, hidden)


def encoder_block(hidden: int, width: int) -> int:
    """Return the parameters of a block as in CLIP: 4(h^2 + h) + (2hi + i + h) + 4h.

    It has four square projections with biases, an MLP of two matrices with biases, and two norms
    of a weight and a bias each.

    Args:
        hidden: width of the tower.
        width: width of the MLP.
    """
    attention = 4 * linear(hidden, hidden)
    norms = 2 * 2 * hidden
    return attention + plain_mlp(hidden, width) + norms


class _Table(Spec):
    """A table of a ``config.json``, whose other keys decide no size."""

    # The files have keys such as model_type, in a namespace that pydantic protects.
    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class _Text(_Table):
    """The language part, as far as a projector needs it."""

    hidden_size: Size


class _Pictured(_Table, ABC):
    """A multimodal file, as far as its vision part needs it.

    Attributes:
        text_config: the language part.
    """

    text_config: _Text

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Parameters of what sees pictures, with its projector."""


def _refuse_other_width(key: str, width: int, text: _Text) -> None:
    """Refuse a vision part that puts out other vectors than the language part takes in.

    Raises:
        ValueError: the widths differ.
    """
    if width != text.hidden_size:
        raise ValueError(
            f"{VISION}.{key} = {width}, and text_config.hidden_size = {text.hidden_size}: "
            "give both the same width"
        )


class QwenTower(_Table):
    """The tower of Qwen3-VL with its mergers.

    Attributes:
        out_hidden_size: width of what the mergers put out.
        num_position_embeddings: rows of the table of positions.
        temporal_patch_size: frames of a patch.
        deepstack_visual_indexes: blocks whose outputs go to the first language layers, each
            through a merger of its own.
    """

    hidden_size: Size
    intermediate_size: Size
    depth: LayerCount
    patch_size: Size
    num_position_embeddings: Size
    out_hidden_size: Size
    in_channels: Size = 3
    temporal_patch_size: Size = 2
    spatial_merge_size: Size = 2
    deepstack_visual_indexes: tuple[BlockIndex, ...] = (8, 16, 24)

    @property
    def parameters(self) -> int:
        """Parameters of the tower and its mergers.

        With D deepstack mergers, N positions, T frames of a patch and o numbers put out: patches
        C T P^2 h + h, positions N h, blocks L (`encoder_block`), and mergers. A merger has a norm
        and two matrices with biases. The norm of the last merger is over h; that of a deepstack
        merger is over m^2 h.
        """
        h, merged = self.hidden_size, self.spatial_merge_size**2 * self.hidden_size
        patches = linear(self.in_channels * self.temporal_patch_size * self.patch_size**2, h)
        positions = self.num_position_embeddings * h
        blocks = self.depth * encoder_block(h, self.intermediate_size)
        mlp = linear(merged, merged) + linear(merged, self.out_hidden_size)
        merger = 2 * h + mlp
        deepstack = len(self.deepstack_visual_indexes) * (2 * merged + mlp)
        return patches + positions + blocks + merger + deepstack


class Qwen35Tower(QwenTower):
    """The tower of Qwen3.5: that of Qwen3-VL without deepstack mergers.

    Attributes:
        deepstack_visual_indexes: absent or empty, as the family has no deepstack mergers.
    """

    deepstack_visual_indexes: tuple[BlockIndex, ...] = Field(default=(), max_length=0)


Q = TypeVar("Q", bound=QwenTower)


class Qwen(_Pictured, Generic[Q]):
    """A file of Qwen3-VL, Qwen3.5 or Qwen3.6."""

    vision_config: Q

    @model_validator(mode="after")
    def _check_width(self) -> Self:
        """Compare the mergers with the language part."""
        _refuse_other_width("out_hidden_size", self.vision_config.out_hidden_size, self.text_config)
        return self

    @property
    def parameters(self) -> int:
        """Parameters of what sees pictures: those of the tower, which holds the mergers."""
        return self.vision_config.parameters


class Gemma4Tower(_Table):
    """The tower of Gemma 4, whose blocks are like those of its language part.

    Attributes:
        position_embedding_size: rows of each of the two tables of positions.
    """

    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: LayerCount
    num_attention_heads: Size
    num_key_value_heads: Size
    head_dim: Size
    patch_size: Size
    position_embedding_size: Size = 10240

    @property
    def parameters(self) -> int:
        """Parameters of the tower, which has no biases.

        With H heads, Hk KV heads of size d, and N rows in each table of positions: patches
        3 P^2 h, positions 2 N h, and for each block attention 2hd(H + Hk), a norm of the queries
        and one of the keys 2d, a gated MLP 3hi, and four norms 4h. The library adds no biases,
        whatever attention_bias says.
        """
        h, d = self.hidden_size, self.head_dim
        patches = linear(3 * self.patch_size**2, h, bias=False)
        positions = 2 * self.position_embedding_size * h
        attention = 2 * h * d * (self.num_attention_heads + self.num_key_value_heads) + 2 * d
        mlp = 3 * h * self.intermediate_size
        return patches + positions + self.num_hidden_layers * (attention + mlp + 4 * h)


class Gemma4Audio(_Table):
    """The tower of Gemma 4 that hears: convolutions, then Conformer blocks.

    Attributes:
        subsampling_conv_channels: what the two convolutions before the blocks put out.
        conv_kernel_size: width of the convolution in a block.
        output_proj_dims: width of what the tower puts out.
    """

    hidden_size: Size
    num_hidden_layers: LayerCount
    num_attention_heads: Size
    output_proj_dims: Size
    subsampling_conv_channels: tuple[Size, Size] = (128, 32)
    conv_kernel_size: Size = 5

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        """Refuse heads that do not divide the width."""
        head_size(self.hidden_size, self.num_attention_heads)
        return self

    @property
    def parameters(self) -> int:
        """Parameters of the tower.

        With convolutions of a and b channels, heads of size d, a kernel of k and o numbers put out:
        convolutions of 3 x 3 with a norm each 9a + a + 9ab + b, their projection floor(a/4) b h,
        the output ho + o, and for each block two MLPs 2(8h^2 + 2h), attention with relative
        positions 5h^2 + d, a convolution 3h^2 + kh + 2h, and three norms 3h.
        """
        h = self.hidden_size
        first, second = self.subsampling_conv_channels
        convolutions = 9 * first + first + 9 * first * second + second
        projection = linear(first // 4 * second, h, bias=False)
        mlps = 2 * (8 * h**2 + 2 * h)
        attention = 5 * h**2 + head_size(h, self.num_attention_heads)
        convolution = 3 * h**2 + self.conv_kernel_size * h + 2 * h
        blocks = self.num_hidden_layers * (mlps + attention + convolution + 3 * h)
        return convolutions + projection + blocks + linear(h, self.output_proj_dims)


class Gemma4(_Pictured):
    """A file of Gemma 4.

    Attributes:
        audio_config: what hears; null where the model hears nothing.
    """

    vision_config: Gemma4Tower
    audio_config: Gemma4Audio | None = None

    @property
    def parameters(self) -> int:
        """Parameters of what sees and what hears, each with a projector: tower + ht."""
        t, sees, hears = self.text_config.hidden_size, self.vision_config, self.audio_config
        total = sees.parameters + linear(sees.hidden_size, t, bias=False)
        if hears is not None:
            total += hears.parameters + linear(hears.output_proj_dims, t, bias=False)
        return total


class SiglipTower(_Table):
    """The tower of Gemma 3: SigLIP.

    Attributes:
        model_type: kind of the tower; no other one is counted.
        vision_use_head: whether the tower has a block that makes one vector of a picture.
    """

    model_type: Literal["siglip_vision_model"] = "siglip_vision_model"
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: LayerCount
    image_size: Size
    patch_size: Size
    num_channels: Size = 3
    vision_use_head: bool = True

    @property
    def parameters(self) -> int:
        """Parameters of the tower.

        For pictures of S x S points: patches C P^2 h + h, positions floor(S/P)^2 h, blocks
        L (`encoder_block`), a norm 2h, and, if there is a head, a query h, attention 4(h^2 + h), a
        norm 2h and an MLP 2hi + i + h.
        """
        h, i = self.hidden_size, self.intermediate_size
        patches = linear(self.num_channels * self.patch_size**2, h)
        positions = (self.image_size // self.patch_size) ** 2 * h
        blocks = self.num_hidden_layers * encoder_block(h, i)
        head = h + 4 * linear(h, h) + 2 * h + plain_mlp(h, i) if self.vision_use_head else 0
        return patches + positions + blocks + 2 * h + head


class Gemma3(_Pictured):
    """A file of Gemma 3."""

    vision_config: SiglipTower

    @property
    def parameters(self) -> int:
        """Parameters of the tower and its projector: tower + ht, and a norm h."""
        h = self.vision_config.hidden_size
        return self.vision_config.parameters + h * self.text_config.hidden_size + h


class Llama4Tower(_Table):
    """The tower of Llama 4 with the adapter after it.

    The sizes that the library takes for a file without them are those of no published model.

    Attributes:
        projector_input_dim: what the adapter's first matrix puts out.
        projector_output_dim: width of the adapter's second matrix.
        vision_output_dim: what the projector takes in.
    """

    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: LayerCount
    image_size: Size
    patch_size: Size
    projector_input_dim: Size
    projector_output_dim: Size
    vision_output_dim: Size
    num_channels: Size = 3

    @property
    def parameters(self) -> int:
        """Parameters of the tower and its adapter.

        For pictures of S x S points, and an adapter of widths a and b: patches C P^2 h, positions
        (floor(S/P)^2 + 1) h and a vector h for the whole picture, blocks L (`encoder_block`), a
        norm before and one after them 4h, and the adapter ia + b^2. The adapter takes in groups of
        merged patches, which are as wide as an MLP.
        """
        h = self.hidden_size
        patches = linear(self.num_channels * self.patch_size**2, h, bias=False)
        positions = ((self.image_size // self.patch_size) ** 2 + 1) * h
        whole, norms = h, 2 * 2 * h
        blocks = self.num_hidden_layers * encoder_block(h, self.intermediate_size)
        adapter = self.intermediate_size * self.projector_input_dim + self.projector_output_dim**2
        return patches + positions + whole + norms + blocks + adapter


class Llama4(_Pictured):
    """A file of Llama 4."""

    vision_config: Llama4Tower

    @property
    def parameters(self) -> int:
        """Parameters of the tower and its projector: tower + vt, for a projector input of v."""
        projector = self.vision_config.vision_output_dim * self.text_config.hidden_size
        return self.vision_config.parameters + projector


class KimiTower(_Table):
    """The tower of Kimi K2.5: MoonViT.

    The published files write ``vt_hidden_size``; the library writes ``hidden_size``, and so on.
    Either is read.

    Attributes:
        vt_hidden_size: width of the tower.
        vt_intermediate_size: width of its MLPs.
        vt_num_hidden_layers: its blocks.
        init_pos_emb_height: rows of the grid of positions.
        init_pos_emb_width: columns of the grid.
        merge_kernel_size: patches that are merged into one, by rows and columns.
        mm_hidden_size: width that the projector takes in; null for that of the tower.
        mm_projector_type: kind of the projector; no other one is counted.
        pos_emb_type: kind of the positions; those of frames are fixed and hold no parameters.
        text_hidden_size: width that the projector puts out; null for that of the language part.
    """

    vt_hidden_size: Size = Field(validation_alias=AliasChoices("vt_hidden_size", "hidden_size"))
    vt_intermediate_size: Size = Field(
        validation_alias=AliasChoices("vt_intermediate_size", "intermediate_size")
    )
    vt_num_hidden_layers: LayerCount = Field(
        validation_alias=AliasChoices("vt_num_hidden_layers", "num_hidden_layers")
    )
    init_pos_emb_height: Size = Field(
        validation_alias=AliasChoices("init_pos_emb_height", "pos_emb_height")
    )
    init_pos_emb_width: Size = Field(
        validation_alias=AliasChoices("init_pos_emb_width", "pos_emb_width")
    )
    patch_size: Size
    merge_kernel_size: tuple[Size, Size] = (2, 2)
    mm_hidden_size: Size | None = None
    mm_projector_type: Literal["patchmerger"] = "patchmerger"
    pos_emb_type: Literal["divided_fixed"] = "divided_fixed"
    text_hidden_size: Size | None = None

    @model_validator(mode="after")
    def _check_projector(self) -> Self:
        """Refuse a projector that cannot take in what the tower puts out."""
        if self.mm_hidden_size not in (None, self.vt_hidden_size):
            raise ValueError(
                f"mm_hidden_size = {self.mm_hidden_size}, and vt_hidden_size = "
                f"{self.vt_hidden_size}: give both the same width"
            )
        return self

    @property
    def parameters(self) -> int:
        """Parameters of the tower.

        With a grid of R x S positions: patches 3 P^2 h + h, positions RSh, blocks
        L (`encoder_block`), and a norm 2h.
        """
        h = self.vt_hidden_size
        patches = linear(3 * self.patch_size**2, h)
        positions = self.init_pos_emb_height * self.init_pos_emb_width * h
        blocks = self.vt_num_hidden_layers * encoder_block(h, self.vt_intermediate_size)
        return patches + positions + blocks + 2 * h


class KimiK25(_Pictured):
    """A file of Kimi K2.5, K2.6 or K2.7."""

    vision_config: KimiTower

    @model_validator(mode="after")
    def _check_width(self) -> Self:
        """Compare the projector with the language part."""
        if self.vision_config.text_hidden_size is not None:
            _refuse_other_width(
                "text_hidden_size", self.vision_config.text_hidden_size, self.text_config
            )
        return self

    @property
    def parameters(self) -> int:
        """Parameters of the tower and its projector.

        For q merged patches, the projector has a norm 2h and two matrices with biases
        (qh)^2 + qh and qht + t.
        """
        tower = self.vision_config
        rows, columns = tower.merge_kernel_size
        merged = rows * columns * tower.vt_hidden_size
        mlp = linear(merged, merged) + linear(merged, self.text_config.hidden_size)
        return tower.parameters + 2 * tower.vt_hidden_size + mlp


class _Compression(_Table):
    """How MiniMax M3 merges patches and frames."""

    spatial_merge_size: Size = 2
    temporal_patch_size: Size = 2


class MiniMaxTower(_Table):
    """The tower of MiniMax M3.

    The published files hold how patches are merged in a table of its own; the library writes its
    keys beside the others. The table decides where there is one.

    Attributes:
        img_token_compression_config: how patches and frames are merged.
    """

    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: LayerCount
    patch_size: Size
    num_channels: Size = 3
    spatial_merge_size: Size = 2
    temporal_patch_size: Size = 2
    img_token_compression_config: _Compression | None = None

    @property
    def merged(self) -> int:
        """Patches that are merged into one: m^2."""
        return (self.img_token_compression_config or self).spatial_merge_size ** 2

    @property
    def parameters(self) -> int:
        """Parameters of the tower, which has no table of positions.

        With T frames of a patch: patches C T P^2 h, a norm 2h, and blocks L (`encoder_block`).
        """
        h = self.hidden_size
        frames = (self.img_token_compression_config or self).temporal_patch_size
        patches = linear(self.num_channels * frames * self.patch_size**2, h, bias=False)
        return patches + 2 * h + self.num_hidden_layers * encoder_block(h, self.intermediate_size)


class MiniMaxM3(_Pictured):
    """A file of MiniMax M3 with its vision part.

    Attributes:
        projector_hidden_size: width of the two MLPs of the projector.
        multimodal_projector_bias: whether their matrices have biases.
    """

    vision_config: MiniMaxTower
    projector_hidden_size: Size
    multimodal_projector_bias: bool = True

    @property
    def parameters(self) -> int:
        """Parameters of the tower and its projector.

        For a projector of width w, an MLP projects every patch, (hw + w) + (wt + t), and another
        one merges m^2 of them, (m^2 t w + w) + (wt + t).
        """
        t, tower = self.text_config.hidden_size, self.vision_config
        inputs = (tower.hidden_size, tower.merged * t)
        projector = sum(
            linear(width, self.projector_hidden_size, bias=self.multimodal_projector_bias)
            + linear(self.projector_hidden_size, t, bias=self.multimodal_projector_bias)
            for width in inputs
        )
        return tower.parameters + projector


class PixtralTower(_Table):
    """The tower of Mistral 3: Pixtral, which has no biases and no table of positions.

    Attributes:
        model_type: kind of the tower; no other one is counted.
    """

    model_type: Literal["pixtral"] = "pixtral"
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: LayerCount
    patch_size: Size
    num_channels: Size = 3

    @property
    def parameters(self) -> int:
        """Parameters of the tower: patches C P^2 h, a norm h, and blocks L(4h^2 + 3hi + 2h)."""
        h = self.hidden_size
        patches = linear(self.num_channels * self.patch_size**2, h, bias=False)
        block = 4 * h**2 + 3 * h * self.intermediate_size + 2 * h
        return patches + h + self.num_hidden_layers * block


class Mistral3(_Pictured):
    """A file of Mistral Small 3 with its vision part.

    Attributes:
        spatial_merge_size: side of a square of patches that are merged into one.
        vision_feature_layer: the block, or the blocks, whose outputs the projector takes in.
        multimodal_projector_bias: whether the projector's matrices have biases.
    """

    vision_config: PixtralTower
    spatial_merge_size: Size = 2
    vision_feature_layer: BlockIndex | Annotated[tuple[BlockIndex, ...], Field(min_length=1)] = -1
    multimodal_projector_bias: bool = False

    @property
    def parameters(self) -> int:
        """Parameters of the tower and its projector.

        For the outputs of f blocks, the projector has a norm h, a merger m^2 h^2, and two matrices
        fht and t^2, with biases 2t where the file says so.
        """
        h, t = self.vision_config.hidden_size, self.text_config.hidden_size
        layers = self.vision_feature_layer
        features = 1 if isinstance(layers, int) else len(layers)
        merger = self.spatial_merge_size**2 * h**2
        matrices = sum(
            linear(width, t, bias=self.multimodal_projector_bias) for width in (features * h, t)
        )
        return self.vision_config.parameters + h + merger + matrices


FAMILIES: Final[dict[str, type[_Pictured]]] = {
    "qwen3_vl": Qwen[QwenTower],
    "qwen3_vl_moe": Qwen[QwenTower],
    "qwen3_5": Qwen[Qwen35Tower],
    "qwen3_5_moe": Qwen[Qwen35Tower],
    "gemma3": Gemma3,
    "gemma4": Gemma4,
    "llama4": Llama4,
    "kimi_k25": KimiK25,
    "minimax_m3_vl": MiniMaxM3,
    "mistral3": Mistral3,
}
"""Model types of multimodal files -> what reads their vision part. Kimi K3 is not among them: the
modules of its vision part are not established."""


def vision_parameters(family: str, document: Mapping[str, object], where: str) -> int | None:
    """Return the parameters of what sees pictures, with its projector.

    Gemma 4 may hear, too: what hears is counted with what sees.

    Args:
        family: model type of the whole file.
        document: the parsed ``config.json``.
        where: the file, for messages.

    Returns:
        The parameters; None where the file has no vision part, or where that of the family is not
        counted, as that of Kimi K3.

    Raises:
        DocumentError: the file lacks a key that decides a size, or holds a value that cannot be.
    """
    reader = FAMILIES.get(family)
    if reader is None or document.get(VISION) is None:
        return None
    # Faults elsewhere in the file are not the vision part's.
    own = {key: document[key] for key in keys_of(reader) if key in document}
    return parse_document(reader, own, where=where).parameters
