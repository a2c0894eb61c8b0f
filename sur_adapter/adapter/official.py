"""The network of the published code (Qrange-group/SUR-adapter), to use its checkpoints and to compare its training.

    h = TransformerEncoder(x)        A = softmax(Wq(h) Wk(x)ᵀ / √d)        u = A x + x
    r = u + MLP(u)                   c' = eta·fc(r) + (1 − eta)·x

x, h, c' (B, L, d); the encoder is post-norm with 8 heads, feed-forward 2048, ReLU, and dropout 0.1 in training; h is the query.
Attributes have the names of the checkpoints (conversion.py). Left out, since the published code never runs them: `encoder_layer`, a
template, and `attention.value_layer`.

**published_attention.** The published code leaves out batch_first, so its encoder attends over the first axis of (B, L, d): over the
prompts instead of the tokens. It was trained with one prompt at a time, so its weights know only a token that attends to itself.
published_attention=True (set for converted checkpoints) does that for every prompt of any batch, and equals the published forward pass
of one prompt in evaluation mode; queries and keys of the encoder's heads then have no effect. With guidance, the published pipeline
passes [negative; positive] in one batch of two, so each token also sees the token at the same place of the negative prompt. That is not
repeated here: the negative prompt stays as the base model encodes it. A new training uses attention over tokens.
"""

from torch import Tensor, nn

from sur_adapter.adapter.config import AdapterConfig

FEED_FORWARD = 2048  # at every width, as published


class OfficialBlock(nn.Module):
    """The published network."""

    def __init__(self, config: AdapterConfig):
        super().__init__()
        d = config.width
        self.published_attention = config.published_attention
        layer = nn.TransformerEncoderLayer(d, config.heads, FEED_FORWARD, dropout=0.1, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, config.depth, enable_nested_tensor=False)
        self.attention = nn.ModuleDict(
            {
                "query_layer": nn.Linear(d, d),
                "key_layer": nn.Linear(d, d),
                "output_layer": nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d)),
            }
        )
        self.fc = nn.Linear(d, d)
        nn.init.zeros_(self.fc.weight)

    def query(self, x: Tensor) -> Tensor:
        """Computes h, (B, L, d)."""
        if self.published_attention:
            return self.transformer_encoder(x.flatten(0, 1)[:, None]).view_as(x)  # (B·L, 1, d): each token alone
        return self.transformer_encoder(x)

    def adapt(self, x: Tensor, q: Tensor, scale: float) -> Tensor:
        """Computes c' from x and h, (B, L, d) each; scale is eta."""
        query, key, mlp = (self.attention[name] for name in ("query_layer", "key_layer", "output_layer"))
        u = nn.functional.scaled_dot_product_attention(query(q), key(x), x) + x  # A x + x
        return scale * self.fc(u + mlp(u)) + (1 - scale) * x
