"""A tiny model with random weights, as the files that real inference servers load.

    python -m tests.inference.model FOLDER

The same Llama of 2 layers is written twice, from one seed and by nothing but Python: as a folder of Hugging Face
(`config.json`, `model.safetensors`, `tokenizer.json`) and as `model.gguf`. Nothing is downloaded. It says syllables
without sense, and it never ends by itself: only max_tokens, a stop sequence or a hang-up ends an answer.
"""

from __future__ import annotations

import json
import random
import struct
import sys
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 7
LAYERS, WIDTH, HEADS, INNER = 2, 64, 4, 128
CONTEXT_TOKENS = 3072
NORM_EPSILON = 1e-5

END, ROLES = "<|end|>", ("system", "user", "assistant", "tool")
SPECIAL = (END, *(f"<|{role}|>" for role in ROLES))
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

GGUF_VERSION, GGUF_ALIGNMENT, GGUF_FLOAT32 = 3, 32, 0
GGUF_NORMAL, GGUF_CONTROL = 1, 3  # Kinds of tokens.


@dataclass(frozen=True, slots=True)
class Tensor:
    shape: tuple[int, ...]
    values: array[float]

    @property
    def data(self) -> bytes:
        return self.values.tobytes()


SPACE = "\u0120"  # GPT-2's letter for it.


def byte_letters() -> list[str]:
    """GPT-2's letter for each byte: the byte itself where it can be seen, else a letter from 256 on."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    unseen = iter(range(0x100, 0x200))
    return [chr(byte if byte in seen else next(unseen)) for byte in range(256)]


def merges() -> list[tuple[str, str]]:
    """Two letters become a syllable, and a space goes with the syllable behind it."""
    syllables = [(first, second) for first in "bcdfghjklmnpqrstvwxyz" for second in "aeiou"]
    return syllables + [(SPACE, first + second) for first, second in syllables]


def vocabulary() -> list[str]:
    return [*SPECIAL, *byte_letters(), *(first + second for first, second in merges())]


def weights() -> dict[str, Tensor]:
    """By the names of Hugging Face."""
    chance = random.Random(SEED)
    words = vocabulary()

    def matrix(rows: int, columns: int, spread: float) -> Tensor:
        return Tensor((rows, columns), array("f", (chance.gauss(0, spread) for _ in range(rows * columns))))

    ones = Tensor((WIDTH,), array("f", [1.0] * WIDTH))
    found = {"model.embed_tokens.weight": matrix(len(words), WIDTH, 1)}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        for part in "qkvo":
            found[f"{name}.self_attn.{part}_proj.weight"] = matrix(WIDTH, WIDTH, WIDTH**-0.5)
        for part in ("gate", "up"):
            found[f"{name}.mlp.{part}_proj.weight"] = matrix(INNER, WIDTH, WIDTH**-0.5)
        found[f"{name}.mlp.down_proj.weight"] = matrix(WIDTH, INNER, INNER**-0.5)
        found |= {f"{name}.input_layernorm.weight": ones, f"{name}.post_attention_layernorm.weight": ones}
    head = matrix(len(words), WIDTH, 0.5)
    for row, word in enumerate(words):
        # It says nothing that is not text, and never that it is done.
        if word in SPECIAL or not word.removeprefix(SPACE).isascii():
            head.values[row * WIDTH : (row + 1) * WIDTH] = array("f", bytes(4 * WIDTH))
    return found | {"model.norm.weight": ones, "lm_head.weight": head}


def write(folder: Path) -> None:
    """Both forms of the model, into a folder that exists."""
    tensors = weights()
    documents: dict[str, Any] = {
        "config.json": _config(),
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
        },
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document))
    (folder / "model.safetensors").write_bytes(_safetensors(tensors))
    (folder / "model.gguf").write_bytes(_gguf(tensors))


def _config() -> dict[str, Any]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": WIDTH // HEADS,
        "vocab_size": len(vocabulary()),
        "max_position_embeddings": CONTEXT_TOKENS,
        "rms_norm_eps": NORM_EPSILON,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "eos_token_id": 0,
    }


def _tokenizer() -> dict[str, Any]:
    kind = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bytes_as_letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": word, **kind} for number, word in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": bytes_as_letters,
        "post_processor": None,
        "decoder": bytes_as_letters,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {word: number for number, word in enumerate(vocabulary())},
            "merges": [list(pair) for pair in merges()],
        },
    }


def _safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, tensor in tensors.items():
        end = at + len(tensor.data)
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(tensor.data for tensor in tensors.values())


def _gguf(tensors: Mapping[str, Tensor]) -> bytes:
    """The names and the order of rows are llama.cpp's."""
    facts = _gguf_facts()
    head = b"GGUF" + struct.pack("<IQQ", GGUF_VERSION, len(tensors), len(facts))
    for name, value in facts.items():
        head += _gguf_text(name) + _gguf_value(value)
    data = b""
    for name, tensor in tensors.items():
        shape = tensor.shape[::-1]
        head += _gguf_text(_gguf_name(name)) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", GGUF_FLOAT32, len(data))
        data += _aligned(_in_pairs(tensor).data if name.endswith(("q_proj.weight", "k_proj.weight")) else tensor.data)
    return _aligned(head) + data


def _gguf_facts() -> dict[str, Any]:
    words = vocabulary()
    return {
        "general.architecture": "llama",
        "general.name": "tiny",
        "llama.context_length": CONTEXT_TOKENS,
        "llama.embedding_length": WIDTH,
        "llama.block_count": LAYERS,
        "llama.feed_forward_length": INNER,
        "llama.attention.head_count": HEADS,
        "llama.attention.layer_norm_rms_epsilon": NORM_EPSILON,
        "llama.rope.dimension_count": WIDTH // HEADS,
        "llama.vocab_size": len(words),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": [GGUF_CONTROL if word in SPECIAL else GGUF_NORMAL for word in words],
        "tokenizer.ggml.merges": [f"{first} {second}" for first, second in merges()],
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def _gguf_name(name: str) -> str:
    parts = {
        "model.layers": "blk",
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "self_attn.o_proj": "attn_output",
        "self_attn.": "attn_",
        "mlp.": "ffn_",
        "_proj": "",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for theirs, ours in parts.items():
        name = name.replace(theirs, ours)
    return name


def _in_pairs(tensor: Tensor) -> Tensor:
    """What turns with the position: Hugging Face has the two halves of a head one after the other, GGUF in pairs."""
    half = WIDTH // HEADS // 2
    rows = [head * 2 * half + side * half + row for head in range(HEADS) for row in range(half) for side in (0, 1)]
    return Tensor(tensor.shape, array("f", (tensor.values[row * WIDTH + at] for row in rows for at in range(WIDTH))))


def _gguf_value(value: Any) -> bytes:
    kind, data = _gguf_typed(value)
    return struct.pack("<I", kind) + data


def _gguf_typed(value: Any) -> tuple[int, bytes]:
    """The number of the value's type, and the value."""
    match value:
        case bool():
            return 7, struct.pack("<?", value)
        case int():
            return 4, struct.pack("<I", value)
        case float():
            return 6, struct.pack("<f", value)
        case str():
            return 8, _gguf_text(value)
        case [int(), *_]:
            return 9, struct.pack(f"<IQ{len(value)}i", 5, len(value), *value)
        case [str(), *_]:
            return 9, struct.pack("<IQ", 8, len(value)) + b"".join(map(_gguf_text, value))
        case _:
            raise TypeError(value)


def _gguf_text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % GGUF_ALIGNMENT)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
