"""ASAP as it was released, restated plainly: what `make bench` measures ours against. Parameter names are the released ones.

Written from the description of the released code (arXiv 2606.00602; github ToniChopp/ASAP, commit 6918832), in own words and without its speed in
mind or against it: every patch goes through a convolution before three quarters are dropped, both texts are padded to `max_tokens` and go through
a text encoder with its word head, words are predicted at every position, volumes are rebuilt and compared voxel by voxel, organs arrive as voxel
labels, the alignment gathers from expanded features. Given the same weights and random numbers it gives the losses of `fidelity="official"`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from asapkit.config import Config
from asapkit.types import Batch, Losses
from asapkit.vit3d import sincos_positions

CLASSES = 9
"""Background and eight organs: the released labels are 0 to 8, the left atrial appendage counted as heart."""


def released_labels(labels: Int[Tensor, "*B X Y Z"]) -> Int[Tensor, "*B X Y Z"]:
    """A store's organ labels (0 background, 1 to 9) as the released model knows them, int64."""
    return torch.tensor([0, 1, 2, 3, 4, 5, 6, 6, 7, 8], device=labels.device)[labels.long()]


class Block(nn.Module):
    """Pre-norm transformer block with fused attention, as in timm."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        b, n, d = x.shape
        q, k, v = self.attn["qkv"](self.norm1(x)).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.attn["proj"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class TextAttention(nn.Module):
    """BERT's attention, before its output layer."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B R D"], keys: Float[Tensor, "B M D"], mask: Tensor | None = None) -> Float[Tensor, "B R D"]:
        b, n, d = x.shape
        q, k, v = (
            f(y).reshape(b, -1, self.heads, d // self.heads).transpose(1, 2) for f, y in ((self.query, x), (self.key, keys), (self.value, keys))
        )
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0)
        return a.transpose(1, 2).reshape(b, n, d)


class Residual(nn.Module):
    """Linear, dropout, LayerNorm with the residual."""

    def __init__(self, inside: int, width: int, dropout: float):
        super().__init__()
        self.dense, self.LayerNorm, self.dropout = nn.Linear(inside, width), nn.LayerNorm(width, eps=1e-12), nn.Dropout(dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class TextLayer(nn.Module):
    """A BERT layer whose inner width is twice its own."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.attention = nn.ModuleDict({"self": TextAttention(width, heads, dropout), "output": Residual(width, width, dropout)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, 2 * width)})
        self.output = Residual(2 * width, width, dropout)

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.attention["output"](self.attention["self"](x, x, mask), x)

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.output(F.gelu(self.intermediate["dense"](x)), x)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.feed_forward(self.attend(x, mask))


class FusionLayer(TextLayer):
    """Text attends to itself, then to the image; the mean image feature is added before the output layer."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__(width, heads, dropout)
        self.cross_self_attention = TextAttention(width, heads, 0.0)
        self.gap_mlp, self.out_layer = nn.Linear(width, width), Residual(width, width, dropout)

    def forward(self, x: Tensor, mask: Tensor, image: Tensor, gap: Tensor) -> Tensor:
        a = self.attend(x, mask)
        return self.feed_forward(self.out_layer(self.cross_self_attention(a, image) + self.gap_mlp(gap).unsqueeze(1), a))


class ReportDecoder(nn.Module):
    """Fusion layer, BERT layers and a word head over the whole vocabulary."""

    def __init__(self, config: Config, words: int, dropout: float):
        super().__init__()
        width, heads = config.word_width, config.word_heads
        layers = nn.ModuleList(TextLayer(width, heads, dropout) for _ in range(config.word_depth))
        self.bert = nn.ModuleDict({"fusion_layer": FusionLayer(width, heads, dropout), "encoder": nn.ModuleDict({"layer": layers})})
        self.cls = nn.ModuleDict({"predictions": WordHead(width, words)})

    def forward(self, x: Tensor, mask: Tensor, image: Tensor, gap: Tensor) -> Float[Tensor, "B R W"]:
        x = self.bert["fusion_layer"](x, mask, image, gap)
        for layer in self.bert["encoder"]["layer"]:
            x = layer(x, mask)
        return self.cls["predictions"](x)


class WordHead(nn.Module):
    def __init__(self, width: int, words: int):
        super().__init__()
        self.transform = nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)})
        self.decoder, self.bias = nn.Linear(width, words, bias=False), nn.Parameter(torch.zeros(words))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform["LayerNorm"](F.gelu(self.transform["dense"](x)))) + self.bias


class Projection(nn.Module):
    def __init__(self, width: int, out: int):
        super().__init__()
        self.dense_to_hidden, self.LayerNorm, self.dense_to_output = nn.Linear(width, out), nn.LayerNorm(out, eps=1e-12), nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense_to_output(self.LayerNorm(F.gelu(self.dense_to_hidden(x))))


class Reference(nn.Module):
    """The released model. `text` is the configuration of its text encoder (transformers' BertConfig); dropout that of the report decoder."""

    def __init__(self, config: Config, text, *, dropout: float = 0.1):
        super().__init__()
        from transformers import BertForMaskedLM

        self.config = config
        width, inside, voxels = config.width, config.decoder_width, config.patch[0] * config.patch[1] * config.patch[2]
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(1, width, config.patch, stride=config.patch)})
        self.cls_token, self.mask_token = nn.Parameter(torch.randn(1, 1, width) * 0.02), nn.Parameter(torch.randn(1, 1, inside) * 0.02)
        for name, size in (("pos_embed", width), ("decoder_pos_embed", inside)):  # the class token's position is zero
            self.register_buffer(name, F.pad(sincos_positions(config.grid, size), (0, 0, 1, 0)).unsqueeze(0), persistent=False)
        self.blocks, self.norm = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth)), nn.LayerNorm(width, eps=1e-6)
        self.decoder_embed = nn.Linear(width, inside)
        self.decoder_blocks = nn.ModuleList(Block(inside, config.decoder_heads) for _ in range(config.decoder_depth))
        self.decoder_norm, self.decoder_pred_layer = nn.LayerNorm(inside, eps=1e-6), nn.Linear(inside, voxels)
        self.decoder_injection_pred_layer_0 = nn.Linear(inside, CLASSES)
        self.decoder_injection_pred_norm = nn.LayerNorm(CLASSES, eps=1e-6)
        self.decoder_injection_pred_layer_1 = nn.Linear(CLASSES, CLASSES)
        self.bert_encoder = BertForMaskedLM(text).requires_grad_(False)
        self.bert_feature_proj = Projection(text.hidden_size, config.word_width)
        self.align_text_mlp = Projection(text.hidden_size, config.align_width)
        self.finding_align_img_mlp = Projection(width, config.align_width)
        self.regression_head, self.bert_mlp = nn.Linear(config.align_width, 1), nn.Linear(width, config.word_width)
        self.bert_decoder = ReportDecoder(config, text.vocab_size, dropout)

    def forward(self, batch: Batch, organs: Int[Tensor, "B X Y Z"], masked: Int[Tensor, "B R"]) -> Losses:
        """organs: voxel labels 0 to 8.   masked: the report's tokens with hidden words replaced, padded like the report or not at all."""
        latent, restore, hidden = self.encode(batch.image, batch.patch_order)
        predicted, injected = self.decode(latent, restore)
        words, real = self.text(batch.findings_tokens, batch.findings_real)
        sentence = self.sentences(words, pad(batch.findings_sentence, self.config.max_tokens, fill=-1), batch.sentence_real.shape[1])
        patches = self.finding_align_img_mlp(latent[:, 1:])
        evidence = self.evidence(sentence, patches)
        masked, real = self.text(masked, batch.report_real)
        image = self.bert_mlp(latent[:, 1:])
        token = 0.2 * evidence.mean(1, keepdim=True)
        attended = real[:, None, None, :].bool()
        logits = self.bert_decoder(self.bert_feature_proj(masked), attended, torch.cat([token, image], dim=1), image.mean(1))
        return {
            "reconstruct": self.reconstruction(predicted, batch.image, hidden),
            "organs": self.organ_loss(injected, organs),
            "align": self.alignment(sentence, evidence, batch.sentence_real),
            "words": F.cross_entropy(logits.flatten(0, 1).float(), pad(batch.report_tokens, self.config.max_tokens).flatten()),
        }

    # --- the image

    def embed(self, image: Float[Tensor, "B 1 X Y Z"], noise: Float[Tensor, "B N"]) -> tuple[Tensor, Tensor, Tensor]:
        """Visible tokens in shuffled order, the permutation back, and 1 where a patch is hidden."""
        x = self.patch_embed["proj"](image).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        shuffle = noise.argsort(dim=1)
        restore = shuffle.argsort(dim=1)
        x = x.gather(1, shuffle[:, : self.config.visible, None].expand(-1, -1, x.shape[-1]))
        hidden = torch.ones_like(noise)
        hidden[:, : self.config.visible] = 0
        return x, restore, hidden.gather(1, restore)

    def encode(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, restore, hidden = self.embed(image, noise)
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x), restore, hidden

    def decode(self, latent: Tensor, restore: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted patches (B, N, P), and the state after the second block (B, N, D)."""
        x = self.decoder_embed(latent)
        tokens = torch.cat([x[:, 1:], self.mask_token.expand(len(x), restore.shape[1] + 1 - x.shape[1], -1).to(x.dtype)], dim=1)
        tokens = tokens.gather(1, restore.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        x = torch.cat([x[:, :1], tokens], dim=1) + self.decoder_pos_embed
        for number, block in enumerate(self.decoder_blocks):
            x = block(x)
            if number == 1:
                injected = x[:, 1:]
        return self.decoder_pred_layer(self.decoder_norm(x))[:, 1:], injected

    def volume(self, patches: Float[Tensor, "B N P"]) -> Float[Tensor, "B 1 X Y Z"]:
        (gx, gy, gz), (px, py, pz) = self.config.grid, self.config.patch
        x = patches.reshape(len(patches), gx, gy, gz, px, py, pz)
        return x.permute(0, 1, 4, 2, 5, 3, 6).reshape(len(patches), 1, *self.config.crop)

    def reconstruction(self, predicted: Tensor, image: Tensor, hidden: Tensor) -> Tensor:
        """Both volumes times the voxel mask, mean over all voxels."""
        voxels = self.config.patch[0] * self.config.patch[1] * self.config.patch[2]
        mask = self.volume(hidden.unsqueeze(-1).repeat(1, 1, voxels))
        return F.mse_loss(self.volume(predicted).float() * mask, image * mask)

    def organ_loss(self, injected: Tensor, organs: Int[Tensor, "B X Y Z"]) -> Tensor:
        x = self.decoder_injection_pred_norm(self.decoder_injection_pred_layer_0(injected))
        return self.organ_entropy(self.decoder_injection_pred_layer_1(F.relu(x)), organs)

    def organ_entropy(self, logits: Float[Tensor, "B N 9"], organs: Int[Tensor, "B X Y Z"]) -> Tensor:
        """Voxel labels as one-hot int64, averaged over patches."""
        (gx, gy, gz), (px, py, pz) = self.config.grid, self.config.patch
        one_hot = F.one_hot(organs, CLASSES).reshape(len(organs), gx, px, gy, py, gz, pz, CLASSES).permute(0, 1, 3, 5, 2, 4, 6, 7)
        share = one_hot.reshape(len(organs), gx * gy * gz, px * py * pz, CLASSES).float().mean(2)
        return F.binary_cross_entropy_with_logits(logits.float(), share)

    # --- the text

    def text(self, tokens: Int[Tensor, "B T"], real: Tensor) -> tuple[Tensor, Tensor]:
        """Last hidden state of the padded text, and what is real. The word head runs too; nobody reads it."""
        real = pad(real.long(), self.config.max_tokens)
        with torch.no_grad():
            out = self.bert_encoder(input_ids=pad(tokens, self.config.max_tokens), attention_mask=real, output_hidden_states=True)
        return out.hidden_states[-1], real

    def sentences(self, words: Tensor, index: Int[Tensor, "B T"], count: int) -> Float[Tensor, "B S E"]:
        """Mean projected token feature of every sentence, zeros in empty slots."""
        projected = self.align_text_mlp(words)
        own = (index.unsqueeze(1) == torch.arange(count, device=index.device).unsqueeze(1)).to(projected.dtype)
        return own @ projected / own.sum(-1, keepdim=True).clamp(min=1)

    def evidence(self, sentence: Float[Tensor, "B S E"], patches: Float[Tensor, "B V E"]) -> Float[Tensor, "B S E"]:
        """Mean of the K patches most similar to each sentence, gathered from features expanded over sentences. Ties: lowest index."""
        candidates = self.config.top_k
        z = torch.sigmoid(self.regression_head(sentence)).squeeze(-1)
        k = torch.tensor(candidates, device=z.device)[(len(candidates) * z).long().clamp(max=len(candidates) - 1)]
        similarity = unit(sentence) @ unit(patches).transpose(1, 2)
        most = min(max(candidates), patches.shape[1])
        index = similarity.argsort(dim=-1, descending=True, stable=True)[..., :most]
        expanded = patches.unsqueeze(1).expand(-1, sentence.shape[1], -1, -1)
        chosen = expanded.gather(2, index.unsqueeze(-1).expand(-1, -1, -1, patches.shape[-1]))
        counted = (torch.arange(most, device=k.device) < k.unsqueeze(-1)).unsqueeze(-1)
        return (chosen * counted).sum(2) / counted.sum(2)

    def alignment(self, sentence: Tensor, evidence: Tensor, real: Tensor) -> Tensor:
        """Both directions; empty slots stay as columns, their rows are dropped; mean over all sentences of the batch."""
        logits = unit(sentence) @ unit(evidence).transpose(1, 2) / 0.07
        target = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[:2])
        loss = F.cross_entropy(logits.transpose(1, 2), target, reduction="none") + F.cross_entropy(logits, target, reduction="none")
        return (loss * real).sum() / real.sum()


def unit(x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=-1, eps=1e-6)


def pad(x: Tensor, length: int, *, fill: int = 0) -> Tensor:
    """(B, T) filled up to `length` columns."""
    return F.pad(x, (0, length - x.shape[1]), value=fill)
