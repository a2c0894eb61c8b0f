"""The network of the published code (Qrange-group/SUR-adapter), so that its checkpoints can be used and its training compared.

    h = TransformerEncoder(x)        A = softmax(Wq(h) Wk(x)ᵀ / √d)        u = A x + x
    r = u + MLP(u)                   c' = eta·fc(r) + (1 − eta)·x

x, h, c' [B, L, d]; the encoder is post-norm, 8 heads, feed-forward 2048, ReLU, dropout 0.1 while it is trained; h is the query.
Attributes are named as in the checkpoints (published.py). Dead there and not here: `encoder_layer`, a template, and `value_layer`.

**published_attention.** The published code left out batch_first, so its encoder attends over the first axis of [B, L, d]: over
the prompts, not the tokens. It was trained with one prompt at a time, so what its weights know is each token attending to itself
alone. published_attention=True (what a converted checkpoint gets) does that for every prompt of any batch, and equals the published
forward pass of one prompt in evaluation mode; the heads' queries and keys then play no part. The published pipeline with guidance
puts [negative; positive] through in one batch of two, so that there each token also sees the one at its place in the negative
prompt: that is not repeated here, the negative prompt stays as the base model knows it. Training anew takes token attention.
"""

from torch import Tensor, nn

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig

FEED_FORWARD = 2048  # at every width, as published


class OfficialAdapter(SURAdapter):
    def _build(self, config: AdapterConfig) -> None:
        d = config.width
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
        """h [B, L, d]: what the teacher's knowledge is distilled into."""
        if self.config.published_attention:
            return self.transformer_encoder(x.flatten(0, 1)[:, None]).view_as(x)  # (B·L, 1, d): every token alone
        return self.transformer_encoder(x)

    def adapt(self, x: Tensor, q: Tensor, strength: float | None = None) -> Tensor:
        """c' from x and the h already computed, [B, L, d] each."""
        eta = self.config.strength if strength is None else strength
        query, key, mlp = (self.attention[name] for name in ("query_layer", "key_layer", "output_layer"))
        u = nn.functional.scaled_dot_product_attention(query(q), key(x), x) + x  # A x + x
        return eta * self.fc(u + mlp(u)) + (1 - eta) * x
