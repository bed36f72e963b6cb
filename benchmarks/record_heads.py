"""Records keys, values and queries of a model that runs, for `attacc accuracy --data FILE.npz`.

    python benchmarks/record_heads.py MODEL TEXT --out FILE.npz [--tokens N] [--gguf NAME]

MODEL is a folder that transformers loads (with --gguf, the file of that name in it), TEXT a file of
plain text. Needs torch and transformers. Heads of all layers, after rotary embedding, in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer


def main(
    model: Annotated[Path, typer.Argument(help="Folder of the model.")],
    text: Annotated[Path, typer.Argument(help="Text that it reads.")],
    out: Annotated[Path, typer.Option(help="The .npz file.")],
    tokens: Annotated[int, typer.Option(help="Tokens that it reads.", min=1)] = 2048,
    gguf: Annotated[str | None, typer.Option(help="Name of a GGUF file in the folder.")] = None,
) -> None:
    """Run a model on a text, and record what its attention sees."""
    import torch as torch_
    import transformers as transformers_

    torch: Any = torch_
    transformers: Any = transformers_
    recorded: dict[str, list[Any]] = {"keys": [], "values": [], "queries": []}
    attend: Any = transformers.AttentionInterface()["sdpa"]

    def record(module: Any, query: Any, key: Any, value: Any, *others: Any, **options: Any) -> Any:
        heads, length, head_dim = key.shape[1:]
        shape = (heads, query.shape[1] // heads, length, head_dim)
        for name, one in (("keys", key), ("values", value), ("queries", query)):
            held = one[0].float().numpy().copy()
            recorded[name].append(held.reshape(shape) if name == "queries" else held)
        return attend(module, query, key, value, *others, **options)

    transformers.AttentionInterface.register("recorded", record)
    transformers.AttentionMaskInterface.register("recorded", transformers.masking_utils.sdpa_mask)
    source: dict[str, Any] = {} if gguf is None else {"gguf_file": gguf}
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, **source)
    network = transformers.AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, attn_implementation="recorded", **source
    )
    read = tokenizer(text.read_text(encoding="utf-8"), return_tensors="pt")["input_ids"]
    if read.shape[1] < tokens:
        raise SystemExit(f"the text has {read.shape[1]} tokens, fewer than {tokens}")
    with torch.inference_mode():
        network(read[:, :tokens], use_cache=False, logits_to_keep=1)
    keys, values, queries = (np.concatenate(held) for held in recorded.values())
    np.savez(out, keys=keys, values=values, queries=queries)
    print(f"{len(recorded['keys'])} layers, {tokens} tokens: {out}")


if __name__ == "__main__":
    typer.run(main)
