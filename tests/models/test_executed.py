"""Executed reference: small models built from torch modules, run on one token, and counted."""

from __future__ import annotations

import pytest

from commlens.models.huggingface import read_config

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

SMALL = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 50}  # fmt: skip
LLAMA = {"model_type": "llama", **SMALL, "attention_bias": True}
MIXTRAL = {"model_type": "mixtral", **SMALL, "num_local_experts": 5, "num_experts_per_tok": 2}
GPT2 = {"model_type": "gpt2", "n_embd": 24, "n_layer": 2, "n_head": 4, "vocab_size": 50,
        "n_positions": 7}  # fmt: skip


class Mlp(nn.Module):
    """Gated or plain MLP."""

    def __init__(self, hidden: int, width: int, gated: bool, bias: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden, width, bias) if gated else None
        self.up, self.down = nn.Linear(hidden, width, bias), nn.Linear(width, hidden, bias)

    def forward(self, x):
        if self.gate is None:
            return self.down(F.gelu(self.up(x)))
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Mixture(nn.Module):
    """Router and experts; a token visits the top k."""

    def __init__(self, hidden: int, width: int, experts: int, k: int) -> None:
        super().__init__()
        self.k, self.router = k, nn.Linear(hidden, experts, bias=False)
        self.experts = nn.ModuleList(Mlp(hidden, width, True, False) for _ in range(experts))

    def forward(self, x):
        weights, chosen = self.router(x).softmax(-1).topk(self.k)
        visits = zip(weights[0], chosen[0].tolist(), strict=True)
        return sum(weight * self.experts[i](x) for weight, i in visits)


class Layer(nn.Module):
    """Attention of one token to itself and to nothing else, then the MLP; keeps its cache."""

    def __init__(self, hidden, heads, kv_heads, bias, out_bias, norm, mlp) -> None:
        super().__init__()
        self.head, self.groups = hidden // heads, heads // kv_heads
        self.first, self.second, self.mlp = norm(hidden), norm(hidden), mlp
        self.q = nn.Linear(hidden, hidden, bias)
        self.k = nn.Linear(hidden, kv_heads * self.head, bias)
        self.v = nn.Linear(hidden, kv_heads * self.head, bias)
        self.o = nn.Linear(hidden, hidden, out_bias)

    def forward(self, x):
        y = self.first(x)
        queries = self.q(y).unflatten(-1, (-1, self.head))
        self.cache = (self.k(y), self.v(y))
        keys, values = (c.unflatten(-1, (-1, self.head)).repeat_interleave(self.groups, 1) for c in self.cache)
        # A null score beside the token's own: the softmax passes gradient to queries and keys.
        share = torch.sigmoid((queries * keys).sum(-1, keepdim=True))
        x = x + self.o((share * values).flatten(1))
        return x + self.mlp(self.second(x))


class Model(nn.Module):
    """Embedding, layers, final norm, output projection."""

    def __init__(self, layers, hidden, vocab, positions, norm, tied) -> None:
        super().__init__()
        self.tokens, self.norm = nn.Embedding(vocab, hidden), norm(hidden)
        self.layers = nn.ModuleList(layers)
        self.positions = nn.Embedding(positions, hidden) if positions else None
        self.head = nn.Linear(hidden, vocab, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, token):
        x = self.tokens(token)
        if self.positions is not None:
            x = x + self.positions(torch.zeros_like(token))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def build(config: dict) -> Model:
    """The model a config describes, written down without looking at the code under test."""
    torch.manual_seed(0)
    if config["model_type"] == "gpt2":
        hidden = config["n_embd"]
        layers = [
            Layer(hidden, config["n_head"], config["n_head"], True, True, nn.LayerNorm,
                  Mlp(hidden, 4 * hidden, False, True))
            for _ in range(config["n_layer"])
        ]  # fmt: skip
        vocab, positions = config["vocab_size"], config["n_positions"]
        return Model(layers, hidden, vocab, positions, nn.LayerNorm, True)
    hidden, width = config["hidden_size"], config["intermediate_size"]
    bias = config.get("attention_bias", False)

    def mlp() -> nn.Module:
        if config["model_type"] == "mixtral":
            experts, visited = config["num_local_experts"], config["num_experts_per_tok"]
            return Mixture(hidden, width, experts, visited)
        return Mlp(hidden, width, True, False)

    layers = [
        Layer(hidden, config["num_attention_heads"], config["num_key_value_heads"], bias, bias,
              nn.RMSNorm, mlp())
        for _ in range(config["num_hidden_layers"])
    ]  # fmt: skip
    return Model(layers, hidden, config["vocab_size"], 0, nn.RMSNorm, False)


@pytest.mark.parametrize("config", [LLAMA, MIXTRAL, GPT2], ids=lambda c: c["model_type"])
def test_counts_are_those_of_the_modules(config: dict) -> None:
    executed, model = build(config), read_config(config)
    assert model.parameters() == sum(p.numel() for p in executed.parameters())


@pytest.mark.parametrize("config", [LLAMA, MIXTRAL, GPT2], ids=lambda c: c["model_type"])
def test_active_are_those_that_receive_gradient(config: dict) -> None:
    executed, model = build(config), read_config(config)
    executed(torch.tensor([3])).square().sum().backward()
    touched = sum(p.numel() for p in executed.parameters() if p.grad is not None)
    assert model.active_parameters() == touched


@pytest.mark.parametrize("config", [LLAMA, MIXTRAL, GPT2], ids=lambda c: c["model_type"])
def test_cache_is_what_the_layers_keep(config: dict) -> None:
    executed, model = build(config), read_config(config)
    executed(torch.tensor([3]))
    kept = sum(c.numel() * c.element_size() for layer in executed.layers for c in layer.cache)
    assert model.kv_bytes_per_token(4) == kept
