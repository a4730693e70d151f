"""A small language model of mixtures of experts, as large ones are made: what `train_moe` trains."""

from __future__ import annotations

import re
import sys
import sysconfig
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention, silu

_PIECES = re.compile(r" ?[A-Za-z]+|[0-9]|\n *| +|.", re.DOTALL)
_BYTES = 256


@dataclass(frozen=True)
class Shape:
    """Shape of the model.

    Parameters
    ----------
    vocabulary, width, heads, layers, experts, top_k, expert_width, context : int
    """

    vocabulary: int = 2048
    width: int = 96
    heads: int = 4
    layers: int = 8
    experts: int = 16
    top_k: int = 2
    expert_width: int = 96
    context: int = 256


class Attention(nn.Module):
    """Causal attention with rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        half = shape.width // shape.heads // 2
        angle = torch.arange(shape.context)[:, None] * 10_000.0 ** (-torch.arange(half) / half)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, tokens, width), as comes."""
        batch, tokens, width = x.shape
        parts = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k = (self._turned(part) for part in parts[:2].unbind())
        mixed = scaled_dot_product_attention(q, k, parts[2], is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return out

    def _turned(self, x: Tensor) -> Tensor:
        one, two = x.chunk(2, dim=-1)
        cos, sin = self.get_buffer("cos")[: x.shape[-2]], self.get_buffer("sin")[: x.shape[-2]]
        return torch.cat([one * cos - two * sin, one * sin + two * cos], dim=-1)


class Experts(nn.Module):
    """Experts behind a router of softmax and top-k; gates of the chosen sum to 1."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.top_k = shape.top_k
        self.gate = nn.Linear(shape.width, shape.experts, bias=False)
        size = shape.experts, shape.width, shape.expert_width
        self.up = nn.Parameter(torch.randn(size) * shape.width**-0.5)
        self.down = nn.Parameter(torch.randn(size).transpose(1, 2).contiguous() * shape.expert_width**-0.5)
        self.balance = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """Shape (tokens, width), as comes."""
        chance = self.gate(x).softmax(dim=-1)
        gates, chosen = chance.topk(self.top_k, dim=-1)
        gates = gates / gates.sum(dim=-1, keepdim=True)
        experts = chance.shape[-1]
        share = torch.bincount(chosen.flatten(), minlength=experts) / chosen.numel()
        # The auxiliary loss of Switch Transformer (arXiv 2101.03961, equation 4): 1 where the load is even.
        self.balance = experts * (share * chance.mean(dim=0)).sum()
        # Tokens in the order of their experts; each expert works on its own.
        order = chosen.flatten().argsort(stable=True)
        rows, counts = order // self.top_k, torch.bincount(chosen.flatten(), minlength=experts).tolist()
        parts = zip(torch.split(x[rows], counts), self.up.unbind(), self.down.unbind(), strict=True)
        done = torch.cat([silu(part @ up) @ down for part, up, down in parts])
        return torch.zeros_like(x).index_add(0, rows, done * gates.flatten()[order, None])


class Block(nn.Module):
    """Attention, then experts, each beside a residual."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.before, self.attention = nn.RMSNorm(shape.width), Attention(shape)
        self.after, self.experts = nn.RMSNorm(shape.width), Experts(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, tokens, width), as comes."""
        x = x + self.attention(self.before(x))
        out: Tensor = x + self.experts(self.after(x).flatten(0, 1)).view_as(x)
        return out


class SmallMoe(nn.Module):
    """Decoder-only transformer whose every layer has experts.

    Parameters
    ----------
    shape : Shape
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.top_k = shape.top_k
        self.embed = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width)
        nn.init.normal_(self.embed.weight, std=shape.width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token, shape (batch, tokens, vocabulary)."""
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.norm(x) @ self.embed.weight.T
        return logits

    def losses(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Cross entropy of each token but the first [nats], and the mean balance loss of the layers."""
        logits = self(tokens[:, :-1])
        balance = torch.stack([module.balance for module in self.modules() if isinstance(module, Experts)]).mean()
        return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()), balance


class Pieces:
    """Tokens of text: its commonest words, and bytes for all else.

    Parameters
    ----------
    text : str
    vocabulary : int
    """

    def __init__(self, text: str, vocabulary: int) -> None:
        common = Counter(piece for piece in _PIECES.findall(text) if len(piece.encode()) > 1)
        # By count, then by name: the same on every machine.
        ranked = sorted(common, key=lambda piece: (-common[piece], piece))[: vocabulary - _BYTES]
        self.ids = {piece: _BYTES + place for place, piece in enumerate(ranked)}

    def encode(self, text: str) -> Tensor:
        """Token ids, shape (tokens,)."""
        found: list[int] = []
        for piece in _PIECES.findall(text):
            known = self.ids.get(piece)
            found.extend(piece.encode() if known is None else (known,))
        return torch.tensor(found)


def library_text() -> tuple[str, str]:
    """Text that ships with Python, its standard library and language reference: to train on, and held out.

    Every eighth file, by name, is held out.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    skip = ("site-packages", "test", "tests", "idle_test", "lib2to3", "encodings")
    files = [path for path in sorted(folder.rglob("*.py")) if not set(skip) & set(path.relative_to(folder).parts)]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    kept = ["".join(text for number, text in enumerate(texts) if (number % 8 == 7) == held) for held in (False, True)]
    return kept[0], kept[1]


def python_version() -> str:
    """Version of the Python whose library this is."""
    return ".".join(map(str, sys.version_info[:3]))
