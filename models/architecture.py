"""A decoder-only transformer: its shape, and the parameters and the cache that this adds up to.

Counts are of scalar weights as the published checkpoints store them: biases, norm weights and
attention sinks included, rotary tables and other constants not, no multi-token-prediction module.
"""

from __future__ import annotations

from dataclasses import dataclass

from .shape import Shape

STATE_BYTES = 4  # states of linear attention are kept and passed on in fp32 (Linear-MoE, its lasp2 code)


@dataclass(frozen=True, slots=True)
class Transformer(Shape):
    """A language model, counted part by part.

    Parameters
    ----------
    **shape
        Those of `Shape`.
    """

    # -- parameters of one part -------------------------------------------------------------------

    def embedding_parameters(self) -> int:
        """Token embedding and learned positions."""
        return (self.vocab + self.positions) * self.hidden

    def head_parameters(self) -> int:
        """Output projection; 0 when it is the token embedding."""
        return 0 if self.tied_embeddings else self.vocab * self.hidden

    def attention_parameters(self) -> int:
        """Attention of one layer: projections, biases, sinks, and norms inside it."""
        projections = self._latent_inputs() if self.attention == "mla" else self._head_inputs()
        output = self._matrix(self.heads * self.v_head_dim, self.hidden, self.attention_out_bias)
        sinks = self.heads if self.attention_sinks else 0
        return projections + output + sinks

    def feed_forward_parameters(self, width: int, outer: int | None = None) -> int:
        """One MLP, or one expert, of inner width `width`; `outer` where it does not work on the residual stream."""
        outer = self.hidden if outer is None else outer
        up = self._matrix(outer, width, self.mlp_bias)
        return (2 if self.gated else 1) * up + self._matrix(width, outer, self.mlp_bias)

    @property
    def expert_width(self) -> int:
        """Width of a token on its way to routed experts and inside their first product."""
        return self.bottleneck or self.hidden

    @property
    def shared_width(self) -> int:
        """Inner width of all shared experts together."""
        return self.shared_experts * (self.shared_ffn or self.expert_ffn)

    def expert_parameters(self) -> int:
        """One routed expert of one layer; 0 without experts."""
        return self.feed_forward_parameters(self.expert_ffn, self.expert_width) if self.experts else 0

    def shared_parameters(self) -> int:
        """Shared experts of one layer."""
        return self.shared_experts * self.feed_forward_parameters(self.shared_ffn or self.expert_ffn)

    def projection_parameters(self) -> int:
        """Shared projections of one layer, down to the experts' bottleneck and back; 0 without one."""
        return 2 * self.hidden * self.bottleneck

    def mlp_parameters(self, layer: int) -> int:
        """MLP of `layer`: the dense one, or all routed and shared experts and projections without the router."""
        return self._mlp(self.experts) if self.is_moe(layer) else self.feed_forward_parameters(self.ffn)

    def active_mlp_parameters(self, layer: int) -> int:
        """Part of `mlp_parameters` that one token multiplies with."""
        return self._mlp(self.experts_per_token) if self.is_moe(layer) else self.feed_forward_parameters(self.ffn)

    def router_parameters(self, layer: int) -> int:
        """Router of `layer`; 0 in a dense layer."""
        if not self.is_moe(layer):
            return 0
        return self._matrix(self.hidden, self.experts, self.router_bias)

    def norm_parameters(self) -> int:
        """Norms of one layer on the residual stream."""
        return self.norms_per_layer * self.final_norm_parameters()

    def final_norm_parameters(self) -> int:
        """Norm before the output projection."""
        return self.hidden * (2 if self.norm == "layernorm" else 1)

    def layer_parameters(self, layer: int) -> int:
        """Everything in `layer` (from 0)."""
        return (
            self.attention_parameters()
            + self.mlp_parameters(layer)
            + self.router_parameters(layer)
            + self.norm_parameters()
        )

    # -- parameters of the model ------------------------------------------------------------------

    def breakdown(self) -> dict[str, int]:
        """Parameters of the whole model by part; the values add up to `parameters()`."""
        layers = range(self.layers)
        return {
            "embedding": self.embedding_parameters(),
            "attention": self.layers * self.attention_parameters(),
            "mlp": sum(map(self.mlp_parameters, layers)),
            "router": sum(map(self.router_parameters, layers)),
            "norm": self.layers * self.norm_parameters() + self.final_norm_parameters(),
            "head": self.head_parameters(),
        }

    def parameters(self) -> int:
        """All parameters of the model."""
        return sum(self.breakdown().values())

    def active_parameters(self, input_embedding: bool = True) -> int:
        """Parameters that one token passes through.

        Parameters
        ----------
        input_embedding : bool
            Count the whole embedding table although a token reads one row of it. Published counts
            differ: Qwen3's "A22B" does, gpt-oss's 5.1 B does not. A tied table always counts,
            as it is the output projection too.
        """
        parts = self.breakdown()
        parts["mlp"] = sum(map(self.active_mlp_parameters, range(self.layers)))
        if not input_embedding:
            parts["embedding"] = self.vocab * self.hidden if self.tied_embeddings else 0
        return sum(parts.values())

    # -- cache ------------------------------------------------------------------------------------

    def kv_values_per_token(self) -> int:
        """Numbers one layer caches for one token.

        Latent attention caches the latent and the one rotary key that all heads share.
        """
        if self.attention == "mla":
            return self.kv_lora_rank + self.qk_rope_head_dim
        return self.kv_heads * (self.head_dim + self.v_head_dim)

    def state_values(self) -> int:
        """Numbers one linear layer keeps for one sequence, however long."""
        return self.kv_heads * self.head_dim * self.v_head_dim

    def kv_bytes_per_token(self, dtype_bytes: float = 2, layer: int | None = None) -> float:
        """Cache of one token [B], in one layer or, by default, in all; none where attention is linear.

        Parameters
        ----------
        dtype_bytes : float
            Size of one number [B].
        layer : int, optional
            Layer (from 0). A window does not change it: it bounds how many tokens are kept.
        """
        which = range(self.layers) if layer is None else (layer,)
        return self.kv_values_per_token() * dtype_bytes * sum(not self.is_linear(index) for index in which)

    def kv_cache_bytes(self, tokens: int, dtype_bytes: float = 2) -> float:
        """Cache of one sequence of `tokens` tokens in all layers [B]; a window keeps its last.

        A linear layer keeps its state, in fp32.
        """
        found = 0.0
        for layer in range(self.layers):
            found += self.kv_bytes_per_token(dtype_bytes, layer) * min(tokens, self.window(layer) or tokens)
            found += STATE_BYTES * self.state_values() * self.is_linear(layer)
        return found

    # -- helpers ----------------------------------------------------------------------------------

    @staticmethod
    def _matrix(inputs: int, outputs: int, bias: bool) -> int:
        return inputs * outputs + (outputs if bias else 0)

    def _mlp(self, routed: int) -> int:
        return routed * self.expert_parameters() + self.shared_parameters() + self.projection_parameters()

    def _head_inputs(self) -> int:
        """Query, key and value projections, with the norms on queries and keys."""
        width = (self.heads + self.kv_heads) * self.head_dim + self.kv_heads * self.v_head_dim
        norms = 2 * self.head_dim if self.qk_norm else 0
        return self._matrix(self.hidden, width, self.attention_bias) + norms

    def _latent_inputs(self) -> int:
        """Down- and up-projections of latent attention, with the norms on the latents."""
        queries = self.heads * (self.qk_nope_head_dim + self.qk_rope_head_dim)
        if self.q_lora_rank is None:
            query = self.hidden * queries
        else:
            down = self._matrix(self.hidden, self.q_lora_rank, self.attention_bias)
            query = down + self.q_lora_rank + self.q_lora_rank * queries
        latent = self.kv_lora_rank + self.qk_rope_head_dim
        keys_and_values = self.heads * (self.qk_nope_head_dim + self.v_head_dim)
        return (
            query
            + self._matrix(self.hidden, latent, self.attention_bias)
            + self.kv_lora_rank
            + self.kv_lora_rank * keys_and_values
        )
