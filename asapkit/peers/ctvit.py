"""CT-ViT, the image encoder of CT-CLIP: attention within slices of patches, then along z at every place of a slice, then a codebook.

Source: GenerateCT (2305.16037) and CT-CLIP (2403.17834); github ibrahimethemhamamci/CT-CLIP, commit a2a155c, `ctvit.py` and `attention.py`. Kept as
the weights were trained: keys and values come from tokens before the norm; along z the depthwise convolution reads the tokens of (place, z) as if
they were (z, place). The source's axes are z, x, y.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from asapkit.peers.building import Built, State, rows, sized
from asapkit.peers.frame import Geometry, Peer, Triple
from asapkit.types import Refused

SCALE = 8  # of the cosine between a query and a key


class Attention(nn.Module):
    """Cosine attention with learned scales of each feature of a head."""

    def __init__(self, width: int, *, heads: int, head_width: int):
        super().__init__()
        self.heads, inner = heads, heads * head_width
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, inner, bias=False)
        self.key_value = nn.Linear(width, 2 * inner, bias=False)
        self.query_scale = nn.Parameter(torch.ones(head_width))
        self.key_scale = nn.Parameter(torch.ones(head_width))
        self.out = nn.Linear(inner, width, bias=False)

    def forward(self, x: Float[Tensor, "B N D"], bias: Float[Tensor, "H N N"] | None = None) -> Float[Tensor, "B N D"]:
        parts = (self.query(self.norm(x)), *self.key_value(x).chunk(2, dim=-1))
        q, k, v = (rearrange(part, "b n (h d) -> b h n d", h=self.heads) for part in parts)
        q, k = F.normalize(q, dim=-1) * self.query_scale, F.normalize(k, dim=-1) * self.key_scale
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=float(SCALE))
        return self.out(rearrange(mixed, "b h n d -> b n (h d)"))


class FeedForward(nn.Module):
    """Norm, then gelu(gate) times values, then back."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        values, gate = self.up(self.norm(x)).chunk(2, dim=-1)
        return self.down(F.gelu(gate) * values)


class Layer(nn.Module):
    """Depthwise convolution that tells places (causal along z), attention, feed-forward; each is added."""

    def __init__(self, width: int, *, heads: int, head_width: int, inner: int):
        super().__init__()
        self.place = nn.Conv3d(width, width, 3, groups=width)
        self.attend = Attention(width, heads=heads, head_width=head_width)
        self.feed = FeedForward(width, inner)

    def forward(self, x: Float[Tensor, "B N D"], shape: tuple[int, int, int, int], bias: Tensor | None = None) -> Float[Tensor, "B N D"]:
        """shape: scans, z, x, y as which the convolution reads the rows of x in memory order."""
        volume = F.pad(x.reshape(*shape, -1).permute(0, 4, 1, 2, 3), (1, 1, 1, 1, 2, 0))
        x = x + self.place(volume).permute(0, 2, 3, 4, 1).reshape(x.shape)
        x = x + self.attend(x, bias)
        return x + self.feed(x)


class PositionBias(nn.Module):
    """Attention bias of two patches of a slice from their distance, log-scaled, through a small network.  Source: Swin v2 (2111.09883)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(2, width), nn.Linear(width, width), nn.Linear(width, heads)

    def forward(self, rows: int, columns: int) -> Float[Tensor, "H N N"]:
        device = self.first.weight.device
        grid = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
        at = torch.stack(grid, dim=-1).reshape(-1, 2).to(self.first.weight.dtype)
        apart = at[:, None] - at[None]
        x = apart.sign() * (apart.abs() + 1).log()
        x = F.leaky_relu(self.second(F.leaky_relu(self.first(x), 0.1)), 0.1)
        return self.last(x).permute(2, 0, 1)


class CTViT(Peer):
    """Tokens are entries of the codebook, as CT-CLIP reads them; `hidden` gives what is before."""

    def __init__(self, geometry: Geometry, *, width: int, spatial: int, temporal: int, heads: int, head_width: int, inner: int, codes: int):
        super().__init__(geometry, width=width)
        voxels = geometry.patch[0] * geometry.patch[1] * geometry.patch[2]
        self.embed_in, self.embed_linear, self.embed_out = nn.LayerNorm(voxels), nn.Linear(voxels, width), nn.LayerNorm(width)
        options = {"heads": heads, "head_width": head_width, "inner": inner}
        self.spatial = nn.ModuleList(Layer(width, **options) for _ in range(spatial))
        self.temporal = nn.ModuleList(Layer(width, **options) for _ in range(temporal))
        self.spatial_norm, self.temporal_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.bias = PositionBias(width, heads)
        self.register_buffer("codebook", torch.zeros(codes, width))

    def embed(self, own: Float[Tensor, "B 1 U V W"]) -> Float[Tensor, "B N D"]:
        """Patch tokens in z, x, y order."""
        pt, ph, pw = self.geometry.frame.own(self.patch)
        patches = rearrange(own, "b 1 (t pt) (h ph) (w pw) -> b (t h w) (pt ph pw)", pt=pt, ph=ph, pw=pw)
        return self.embed_out(self.embed_linear(self.embed_in(patches)))

    def states(self, own: Float[Tensor, "B 1 U V W"]) -> list[Tensor]:
        t, h, w = self.own_grid
        shape, states = (len(own), t, h, w), []
        x = rearrange(self.embed(own), "b (t n) d -> (b t) n d", t=t)
        bias = self.bias(h, w)
        for layer in self.spatial:
            x = layer(x, shape, bias)
            states.append(rearrange(x, "(b t) n d -> b (t n) d", t=t))
        x = rearrange(self.spatial_norm(x), "(b t) n d -> (b n) t d", t=t)
        for layer in self.temporal:
            x = layer(x, shape)
            states.append(rearrange(x, "(b n) t d -> b (t n) d", n=h * w))
        return states

    def finish(self, state: Tensor) -> Tensor:
        """The codebook entry of the smallest angle to each token."""
        nearest = F.normalize(self.temporal_norm(state), dim=-1) @ F.normalize(self.codebook, dim=-1).T
        return F.embedding(nearest.argmax(-1), self.codebook)


def build(state: State, *, geometry: Geometry, crop: Triple | None = None) -> Built:
    """Sizes from the tensors. A patch is twice as long in x and y as in z, and as many voxels as its norm has weights."""
    voxels, width = len(state["embed_in.weight"]), len(state["embed_out.weight"])
    pz = round((voxels / 4) ** (1 / 3))
    if 4 * pz**3 != voxels:
        raise Refused(f"a patch of {voxels} voxels is not 2n x 2n x n")
    state["codebook"] = rows(state, "codebook", width)
    head_width = len(state["spatial.0.attend.query_scale"])
    settings = {
        "width": width, "head_width": head_width, "heads": len(state["spatial.0.attend.query.weight"]) // head_width,
        "inner": state["spatial.0.feed.down.weight"].shape[1], "codes": len(state["codebook"]),
    }  # fmt: skip
    for stage in ("spatial", "temporal"):
        settings[stage] = len({n.split(".")[1] for n in state if n.startswith(f"{stage}.")})
    wanted = sized(geometry, crop=crop, patch=(2 * pz, 2 * pz, pz))
    return Built("ctvit", {"geometry": wanted.to_dict()} | settings, state)
