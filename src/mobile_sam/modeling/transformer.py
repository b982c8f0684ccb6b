"""The two-way transformer of Segment Anything (Kirillov et al. 2023, arXiv 2304.02643, appendix A).

Prompt tokens attend to the image and the image attends to the tokens, twice.
"""

from torch import Tensor, nn

from .common import MLPBlock, attend, split_heads


class TwoWayTransformer(nn.Module):
    """Exchange between prompt tokens and an image embedding.

    Args:
        depth: number of blocks.
        embedding_dim: channels C.
        num_heads: attention heads.
        mlp_dim: hidden width of the MLPs on the tokens.
        activation: their activation.
        attention_downsample_rate: C over the width of the attention between tokens and image.
    """

    def __init__(
        self,
        depth: int,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int,
        activation: type[nn.Module] = nn.ReLU,
        attention_downsample_rate: int = 2,
    ) -> None:
        super().__init__()
        self.depth = depth
        self.embedding_dim = embedding_dim
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(
                embedding_dim, num_heads, mlp_dim, activation, attention_downsample_rate, skip_first_layer_pe=index == 0
            )
            for index in range(depth)
        )
        self.final_attn_token_to_image = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.norm_final_attn = nn.LayerNorm(embedding_dim)

    def forward(self, image_embedding: Tensor, image_pe: Tensor, point_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Run all blocks, then let the tokens attend to the image once more.

        Args:
            image_embedding: (B, C, H, W).
            image_pe: (B, C, H, W) or (1, C, H, W), the position of each pixel.
            point_embedding: (B, N, C) tokens, which serve as their own positions.

        Returns:
            Tokens (B, N, C) and image (B, H * W, C).
        """
        keys = image_embedding.flatten(2).transpose(1, 2)  # (B, H * W, C)
        key_pe = image_pe.flatten(2).transpose(1, 2)  # (B or 1, H * W, C)
        queries = point_embedding
        for layer in self.layers:
            queries, keys = layer(queries, keys, point_embedding, key_pe)
        update = self.final_attn_token_to_image(queries + point_embedding, keys + key_pe, keys)
        return self.norm_final_attn(queries + update), keys


class TwoWayAttentionBlock(nn.Module):
    """Self-attention of tokens, tokens to image, MLP on tokens, image to tokens; each followed by a LayerNorm.

    Args:
        embedding_dim, num_heads, mlp_dim, activation, attention_downsample_rate: see `TwoWayTransformer`.
        skip_first_layer_pe: the first block, where tokens equal their positions: self-attention without positions, and
            without the residual around it.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int = 2048,
        activation: type[nn.Module] = nn.ReLU,
        attention_downsample_rate: int = 2,
        skip_first_layer_pe: bool = False,
    ) -> None:
        super().__init__()
        self.self_attn = Attention(embedding_dim, num_heads)
        self.norm1 = nn.LayerNorm(embedding_dim)
        self.cross_attn_token_to_image = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.norm2 = nn.LayerNorm(embedding_dim)
        self.mlp = MLPBlock(embedding_dim, mlp_dim, activation)
        self.norm3 = nn.LayerNorm(embedding_dim)
        self.norm4 = nn.LayerNorm(embedding_dim)
        self.cross_attn_image_to_token = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.skip_first_layer_pe = skip_first_layer_pe

    def attend_to_tokens(self, queries: Tensor, query_pe: Tensor) -> Tensor:
        """Self-attention of the tokens: (B, N, C) -> (B, N, C)."""
        if self.skip_first_layer_pe:
            mixed: Tensor = self.self_attn(queries, queries, queries)
            return mixed
        placed = queries + query_pe
        residual: Tensor = self.self_attn(placed, placed, queries)
        return queries + residual

    def forward(self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, C) and image (B, H * W, C) with their positions -> the same two, updated."""
        queries = self.norm1(self.attend_to_tokens(queries, query_pe))
        queries = self.norm2(queries + self.cross_attn_token_to_image(queries + query_pe, keys + key_pe, keys))
        queries = self.norm3(queries + self.mlp(queries))
        keys = self.norm4(keys + self.cross_attn_image_to_token(keys + key_pe, queries + query_pe, queries))
        return queries, keys


class Attention(nn.Module):
    """Attention between two sets of tokens, in a width that may be narrower than theirs.

    Args:
        embedding_dim: channels C of the tokens.
        num_heads: attention heads.
        downsample_rate: C over the width of the attention.
    """

    def __init__(self, embedding_dim: int, num_heads: int, downsample_rate: int = 1) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.internal_dim = embedding_dim // downsample_rate
        self.num_heads = num_heads
        if self.internal_dim % num_heads:
            raise ValueError(f"num_heads={num_heads} must divide the width of the attention, {self.internal_dim}")
        self.q_proj = nn.Linear(embedding_dim, self.internal_dim)
        self.k_proj = nn.Linear(embedding_dim, self.internal_dim)
        self.v_proj = nn.Linear(embedding_dim, self.internal_dim)
        self.out_proj = nn.Linear(self.internal_dim, embedding_dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, Lq, C), (B, Lk, C), (B, Lk, C) -> (B, Lq, C)."""
        q = split_heads(self.q_proj(q), self.num_heads)
        k = split_heads(self.k_proj(k), self.num_heads)
        v = split_heads(self.v_proj(v), self.num_heads)
        mixed = attend(q, k, v)  # (B, heads, Lq, D)
        projected: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))  # (B, Lq, C)
        return projected
