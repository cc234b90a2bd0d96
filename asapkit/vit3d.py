"""3-D vision transformer: patches, sin-cos positions for any grid, encoder, image decoder. Parameter names follow MAE's where they mean the same.

Source: ASAP (arXiv 2606.00602) section 3.1 and 4.1; He et al., Masked Autoencoders (2111.06377) for the asymmetric encoder and decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod

import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from asapkit.config import Config
from asapkit.slices import apart, in_turn, looks, slices_by_block, together
from asapkit.stem import StatisticsStem

Turning = Callable[[Tensor, Tensor | None], Tensor]
"""Queries or keys (B, heads, N, d) of all tokens, or of those in `rows`, turned by the places of their tokens (`rotary`)."""


def patchify(image: Float[Tensor, "B 1 X Y Z"], patch: tuple[int, int, int]) -> Float[Tensor, "B N P"]:
    """Non-overlapping patches in row-major x, y, z order; voxels inside a patch likewise."""
    px, py, pz = patch
    return rearrange(
        image,
        "b 1 (gx px) (gy py) (gz pz) -> b (gx gy gz) (px py pz)",
        px=px,
        py=py,
        pz=pz,
    )


def patches_at(
    image: Float[Tensor, "B 1 X Y Z"],
    patch: tuple[int, int, int],
    index: Int[Tensor, "B V"],
) -> Float[Tensor, "B V P"]:
    """Some patches of each volume by its own indices: rows of `patchify`, the others never laid out."""
    px, py, pz = patch
    grid = rearrange(image, "b 1 (gx px) (gy py) (gz pz) -> b gx gy gz px py pz", px=px, py=py, pz=pz)
    gy, gz = grid.shape[2:4]
    volume = torch.arange(len(image), device=image.device).unsqueeze(1)
    return grid[volume, index // (gy * gz), index // gz % gy, index % gz].flatten(2)


def unpatchify(
    patches: Float[Tensor, "B N P"],
    grid: tuple[int, int, int],
    patch: tuple[int, int, int],
) -> Float[Tensor, "B 1 X Y Z"]:
    """Inverse of `patchify`."""
    (gx, gy, gz), (px, py, pz) = grid, patch
    return rearrange(
        patches,
        "b (gx gy gz) (px py pz) -> b 1 (gx px) (gy py) (gz pz)",
        gx=gx,
        gy=gy,
        gz=gz,
        px=px,
        py=py,
        pz=pz,
    ).contiguous()


def sincos_positions(grid: tuple[int, int, int], width: int) -> Float[Tensor, "N D"]:
    """Fixed sin-cos code of every patch: `width // 6` frequencies per axis, [sin x, cos x, sin y, cos y, sin z, cos z], then zeros.

    Source: the released model's code at a 14 x 14 x 14 grid; here for any grid.
    """
    n = width // 6
    omega = 1.0 / 10000 ** (torch.arange(n, dtype=torch.float64) / n)
    axes = torch.meshgrid(*(torch.arange(g, dtype=torch.float64) for g in grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * omega for axis in axes]
    code = torch.cat([part for a in angles for part in (a.sin(), a.cos())], dim=1)
    return F.pad(code, (0, width - code.shape[1])).float()


def is_sincos(table: Float[Tensor, "N D"], grid: tuple[int, int, int]) -> bool:
    """Whether positions are `sincos_positions` of a grid, as far as the narrowest type that holds the table exactly can say it."""
    code = sincos_positions(grid, table.shape[1])
    if table.is_meta or table.shape != code.shape:
        return False
    table = table.float()
    narrow = (kind for kind in (torch.bfloat16, torch.float16) if torch.equal(table.to(kind).float(), table))
    step = torch.finfo(next(narrow, torch.float32)).eps
    return torch.allclose(table, code, rtol=0.0, atol=max(1e-4, step / 2))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B N D"], rows: Int[Tensor, "B V"] | None = None, turn: Turning | None = None) -> Float[Tensor, "B _ D"]:
        """All tokens, or the ones in `rows` alone: these ask, all are looked at."""
        if rows is None:
            q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        else:
            (of_q, of_kv), (q_bias, kv_bias) = (p.tensor_split([x.shape[-1]]) for p in (self.qkv.weight, self.qkv.bias))
            q = rearrange(F.linear(take(x, rows), of_q, q_bias), "b n (h d) -> b h n d", h=self.heads)
            k, v = rearrange(F.linear(x, of_kv, kv_bias), "b n (two h d) -> two b h n d", two=2, h=self.heads)
        if turn is not None:
            q, k = turn(q, rows), turn(k, None)
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)"))


class Mlp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)

    def forward(self, x: Float[Tensor, "B N D"], rows: Int[Tensor, "B V"] | None = None, turn: Turning | None = None) -> Float[Tensor, "B _ D"]:
        """All tokens, or the ones in `rows` alone, the same numbers as without: what follows a last block may need no others."""
        x = (x if rows is None else take(x, rows)) + self.attn(self.norm1(x), rows, turn)
        return x + self.mlp(self.norm2(x))

    @torch.no_grad()
    def soften(self, factor: float) -> None:
        """Scales what both branches add: a small factor lets a deep network start close to the identity and keep what the patches say."""
        self.attn.proj.weight.mul_(factor)
        self.mlp.fc2.weight.mul_(factor)


class Encoder(nn.Module):
    """ViT over CT patches with a class token and fixed positions; hidden patches are never computed.

    `tokens` and `hidden` are what the rest of the house asks of every encoder. With `config.attend` "slices" most blocks attend within a slice of
    patches (one layer of the grid along z) and its copy of the class token.
    `config.pool` voxels along each axis are averaged before a patch is embedded; the image that comes in, the patch and the grid stay the same.

    Raises: ValueError for a configuration that names another encoder, a patch that is no multiple of `pool`, or one too small for its stem then.
    """

    def __init__(self, config: Config):
        if config.encoder != "vit":
            raise ValueError(f"encoder {config.encoder!r}: this recipe needs the patches, layers or slices of 'vit'; set encoder=vit")
        super().__init__()
        self.config, pool = config, config.pool
        self.grid, self.patch, self.width, self.contract = (
            config.grid,
            config.patch,
            config.width,
            config.contract,
        )
        self.embedded = tuple(p // pool for p in config.patch)  # voxels of a patch after averaging
        least = pool * (2 if config.stem == "statistics" else 1)
        if any(p % pool for p in config.patch) or min(config.patch) < least:
            raise ValueError(
                f"patch {config.patch}: give multiples of {pool}, of at least {least}: the encoder averages {pool} voxels along each axis"
            )
        self.embed = nn.Linear(prod(self.embedded), config.width)
        self.stem = StatisticsStem(patch=self.embedded, width=config.width, window_hu=config.window_hu) if config.stem == "statistics" else None
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.slices = slices_by_block(config.depth, config.grid[2]) if config.attend == "slices" else (1,) * config.depth
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.register_buffer(
            "positions",
            sincos_positions(config.grid, config.width) * config.position_scale,
            persistent=False,
        )
        self.apply(initialise)
        nn.init.normal_(self.cls_token, std=0.02)
        for block in self.blocks:
            block.soften(config.residual_init)

    def stem_tokens(
        self,
        image: Float[Tensor, "B 1 X Y Z"],
        visible: Int[Tensor, "B V"] | None = None,
    ) -> Float[Tensor, "B V D"]:
        """Patch-local embedding with positions, before any attention; of the `visible` patches only, or of all.

        Raises: ValueError for blocks within slices and visible patches that do not take the slices in turn.
        """
        if visible is not None and max(self.slices) > 1 and not in_turn(visible, self.config.grid[2]):
            raise ValueError("attend 'slices' needs as many visible patches in every slice (masking.visible_in_slices); attend 'volume' takes any")
        positions = self.positions.expand(len(image), -1, -1)
        image = image if self.config.pool == 1 else F.avg_pool3d(image, self.config.pool)
        if visible is None:
            patches = patchify(image, self.embedded)
        else:
            patches, positions = patches_at(image, self.embedded, visible), take(positions, visible)
        x = self.embed(patches)
        return positions + (x if self.stem is None else x + self.stem(patches))

    def forward(
        self,
        image: Float[Tensor, "B 1 X Y Z"],
        visible: Int[Tensor, "B V"] | None = None,
    ) -> Float[Tensor, "B M D"]:
        """Class token and visible (or all) patch tokens after the final norm: (B, 1 + V, D)."""
        return self.norm(self.layers(image, visible)[-1])

    def layers(
        self,
        image: Float[Tensor, "B 1 X Y Z"],
        visible: Int[Tensor, "B V"] | None = None,
    ) -> list[Tensor]:
        """Class and patch tokens before the first block and after each block: depth + 1 tensors (B, 1 + V, D)."""
        return self.deepen(self.stem_tokens(image, visible))

    def deepen(self, x: Float[Tensor, "B V D"]) -> list[Tensor]:
        """Stem tokens through the blocks: what `layers` gives."""
        return [together(rows, slices) for rows, slices in self.steps(x)]

    def steps(self, x: Float[Tensor, "B V D"]) -> Iterator[tuple[Float[Tensor, "S m D"], int]]:
        """What each block is given, and at the end what the last one gives: rows of one slice each, and how many slices (1: whole volumes)."""
        x, parted = torch.cat([self.cls_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1), 1
        for block, slices in zip(self.blocks, self.slices, strict=True):
            if slices != parted:
                x, parted = apart(together(x, parted), slices), slices
            yield x, slices
            x = block(x)
        yield x, parted

    def tokens(self, image: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B N D"]:
        """Patch tokens of the last block after the final norm, nothing hidden."""
        return self(image)[:, 1:]

    def attention_outputs(self, image: Float[Tensor, "B 1 X Y Z"]) -> list[Float[Tensor, "B N D"]]:
        """What each attention module adds to the patch tokens, after its projection and before the residual (for effective ranks)."""
        outputs: list[Tensor] = []
        hooks = [
            block.attn.register_forward_hook(lambda _m, _x, y, slices=slices: outputs.append(together(y, slices)[:, 1:]))
            for block, slices in zip(self.blocks, self.slices, strict=True)
        ]
        try:
            self.layers(image)
        finally:
            for hook in hooks:
                hook.remove()
        return outputs

    def attention(self, image: Float[Tensor, "B 1 X Y Z"], *, patches: Sequence[int]) -> Float[Tensor, "B L H Q N"]:
        """How much each of `patches` looks at every patch, by block and head, nothing hidden: one pass for all of them.

        Softmax over the class token and all patches, the class token's share left out: sums to at most 1. Blocks within slices look at no other.

        Raises: IndexError for a patch that is not there.
        """
        if strange := [p for p in patches if not 0 <= p < len(self.positions)]:
            raise IndexError(f"patch {strange[0]}: there are {len(self.positions)}, from 0")
        asked, found = torch.tensor(patches, device=image.device), []
        for block, (x, slices) in zip(self.blocks, self.steps(self.stem_tokens(image)), strict=False):
            q, k, _ = rearrange(block.attn.qkv(block.norm1(x)), "b n (three h d) -> three b h n d", three=3, h=block.attn.heads)
            if slices > 1:
                found.append(looks(q, k, asked, slices=slices))
                continue
            scores = q[:, :, asked + 1] @ k.mT / q.shape[-1] ** 0.5  # the class token is row 0
            found.append(scores.softmax(-1)[..., 1:])
        return torch.stack(found, dim=1)

    def hidden(self, image: Float[Tensor, "B 1 X Y Z"], layers: tuple[int, ...]) -> list[Float[Tensor, "B N D"]]:
        """Patch tokens of the residual stream after the given blocks (0-based; -1 is the last)."""
        states = self.layers(image)[1:]
        return [states[i][:, 1:] for i in layers]


class Decoder(nn.Module):
    """Image decoder over visible tokens and mask tokens; also gives the token state after each block (AKI reads the second).

    width: of the tokens that it reads, the encoder's unless given.   Source: ASAP section 3.1; released model: 4 blocks, 16 heads.
    """

    def __init__(self, config: Config, *, width: int | None = None):
        super().__init__()
        self.embed = nn.Linear(width or config.width, config.decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_width))
        self.blocks = nn.ModuleList(Block(config.decoder_width, config.decoder_heads) for _ in range(config.decoder_depth))
        self.norm = nn.LayerNorm(config.decoder_width, eps=1e-6)
        self.pred = nn.Linear(config.decoder_width, prod(config.patch))
        self.register_buffer(
            "positions",
            sincos_positions(config.grid, config.decoder_width),
            persistent=False,
        )
        self.apply(initialise)
        nn.init.normal_(self.mask_token, std=0.02)
        for block in self.blocks:
            block.soften(config.decoder_init)
        with torch.no_grad():
            self.pred.weight.mul_(config.decoder_init)

    def placed(self, latent: Float[Tensor, "B M D"], visible: Int[Tensor, "B V"]) -> Float[Tensor, "B _ E"]:
        """What the first block gets: the class token, then every patch at its position, a mask token where it is hidden."""
        x = self.embed(latent)
        full = self.mask_token.to(x.dtype).expand(len(x), len(self.positions), -1)
        full = full.scatter(1, visible.unsqueeze(-1).expand(-1, -1, x.shape[-1]), x[:, 1:])
        return torch.cat([x[:, :1], full + self.positions], dim=1)

    def forward(
        self, latent: Float[Tensor, "B M D"], visible: Int[Tensor, "B V"], *, only: Int[Tensor, "B H"] | None = None
    ) -> tuple[Float[Tensor, "B _ P"], list[Tensor]]:
        """Predicted patches, and patch states (B, N, decoder width) after each block. `latent` starts with the class token.

        only: predict these patches alone; the last block works for no others, and the last state holds no others.
        """
        x, states = self.placed(latent, visible), []
        for block in self.blocks[:-1]:
            x = block(x)
            states.append(x[:, 1:])
        states.append(self.blocks[-1](x)[:, 1:] if only is None else self.blocks[-1](x, only + 1))  # the class token is row 0
        return self.pred(self.norm(states[-1])), states


def take(x: Shaped[Tensor, "B N D"], index: Int[Tensor, "B V"]) -> Shaped[Tensor, "B V D"]:
    """Rows of each volume by its own indices."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def initialise(module: nn.Module) -> None:
    """Xavier-uniform linears with zero bias, as MAE."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def load_mae_blocks(encoder: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """Copies `blocks.*` and `norm.*` of a 2-D MAE ViT (ImageNet) into the encoder; returns the keys of `state` that were not used.

    Raises: ValueError naming the first key that is missing or of another shape. Nothing is copied then.
    Source: methods.md E1 (only blocks and norm transfer from 2-D; patch embedding, positions and decoder start fresh).
    """
    wanted = {k: v for k, v in encoder.state_dict().items() if k.startswith(("blocks.", "norm."))}
    for key, value in wanted.items():
        if key not in state:
            raise ValueError(f"MAE weights lack {key}")
        if state[key].shape != value.shape:
            raise ValueError(f"MAE weights: {key} is {tuple(state[key].shape)}, the encoder wants {tuple(value.shape)}")
    encoder.load_state_dict({k: state[k] for k in wanted}, strict=False)
    return sorted(set(state) - set(wanted))
