"""SigVLP: chunks of a scan, as long as the step draws, against what the report says of the organs inside them; a sigmoid for every pair.

Source: arXiv 2602.21735 and its vision code, in github WongJiayi/ReciproVox at 892a8ec; chunks and their texts as methods.md B gives them. Differs:
this house's ViT of `scale` in place of SigLIP2's large tower, its places turned as `rotary` says (the released layout is read with the released
weights alone); the text encoder is the frozen one, at [CLS], in place of SigLIP2's; the contract's spacing and window; a scan shorter than the
contract's crop is reflected by it, and only a depth that is no multiple of the patch is padded here. Volumes of one report, chunks of one scan and
equal texts are no negatives. Cost: every patch of a chunk is computed: 4.5 of the 14 patch layers of a scan at `base`, on average.
Result (2026-11-23, `benchmarks.recipes`, one seed, 800 volumes seen at `small`): probe .575 (.522 to .625), untrained .556.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from asapkit import objectives
from asapkit.config import Config
from asapkit.language import CrossAttention, chosen_sentences, tokenizer
from asapkit.pairing import Pair, alone, same_report
from asapkit.rotary import RotaryEncoder, filled
from asapkit.types import Batch, Losses
from asapkit.vit3d import Mlp, initialise

WEIGHTS = {"contrast": 1.0}


class Pool(nn.Module):
    """One learned question to all tokens, whatever their number: SigLIP's pooling."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.look, self.norm, self.mlp = CrossAttention(width, heads), nn.LayerNorm(width, eps=1e-6), Mlp(width)
        self.apply(initialise)
        nn.init.normal_(self.probe, std=0.02)

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B D"]:
        x = self.look(self.probe.expand(len(tokens), -1, -1).to(tokens.dtype), tokens)
        return (x + self.mlp(self.norm(x)))[:, 0]


class Method(nn.Module):
    """longest: patch layers along z of a chunk, at most; a step draws 1 to `longest` of them.   whole: share of the steps that take whole scans.

    chunks: of one scan in a step.   inside: share of an organ's extent along z that must lie in a chunk for its sentences to belong to it.
    rope: axial | videorope.   rope_base: of its ladder of angles; 1000 and 10000 were tried.   text_memory: keep the text features of texts seen
    before, a few for every report.
    """

    frozen = ("pair.text.",)
    optimiser, adamw = "muon", ("pair.",)

    def __init__(
        self, config: Config, *, longest: int = 8, whole: float = 0.0, chunks: int = 1, inside: float = 0.5, rope: str = "axial",
        rope_base: float = 1000.0, text_memory: bool = False,
    ):  # fmt: skip
        if config.encoder not in ("vit", "rotary"):
            raise ValueError(f"encoder {config.encoder!r}: this recipe turns its places and has an encoder of its own; leave encoder as it is")
        if longest < 1 or not 1 <= chunks < config.patches:
            raise ValueError(f"longest {longest}, chunks {chunks}: give whole numbers of at least 1 (of chunks fewer than {config.patches})")
        if not (0 <= whole <= 1 and 0 < inside <= 1):
            raise ValueError(f"whole {whole}, inside {inside}: give shares from 0 to 1 (inside above 0)")
        super().__init__()
        config = replace(config, encoder="rotary")
        self.config, self.gather = config, alone
        self.longest, self.whole, self.chunks, self.inside = longest, whole, chunks, inside
        self.encoder = RotaryEncoder(config, base=rope_base, mode=rope)
        self.pool = Pool(config.width, config.heads)
        self.pair = Pair(config, scale=10.0, bias=-10.0, text_memory=text_memory)
        words = tokenizer(config.text_encoder)
        self.marks = {"cls": words.cls_token_id, "sep": words.sep_token_id}

    @property
    def draws(self) -> int:
        """Lengths that a step may have: what it costs is a mean over them."""
        return 1 if self.whole == 1 else min(self.longest, self.config.grid[2])

    def feature(self, image: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B D"]:
        """What is contrasted of a volume, before `pair` projects it."""
        return self.pool(self.encoder.tokens(image))

    def embed(self, batch: Batch) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B E"]]:
        """Whole volumes, of any depth, and reports in one space, unit length."""
        return self.pair(self.feature(batch.image), batch.report_tokens, batch.report_real)

    def forward(self, batch: Batch) -> Losses:
        start, length = self.drawn(batch)
        tokens, real = self.texts(batch, start, length)
        chunks = self.encoder.tokens(self.cut(batch.image, start, length))
        volume, text = map(self.gather, self.pair(self.pool(chunks), tokens, real))
        scan = [x.repeat_interleave(self.chunks, 0) for x in (batch.report_tokens, batch.report_real)]
        same = same_report(*scan, gather=self.gather) | same_report(tokens, real, gather=self.gather)
        return {"contrast": objectives.sigmoid_contrast(self.pair.logits(volume, text), same)}

    def drawn(self, batch: Batch) -> tuple[Int[Tensor, "B C"], int]:
        """The first patch layer of every chunk, and how many layers each has: equal over the step, so that chunks stack, and over all ranks.

        Drawn from the volumes' own random numbers; the first volume of the joined batch decides the length.
        """
        layers = -(-batch.image.shape[-1] // self.config.patch[2])
        one = float(self.gather(batch.patch_order[:, 0])[0])
        longest = min(self.longest, layers)
        length = layers if one < self.whole else min(longest, 1 + int((one - self.whole) / (1 - self.whole) * longest))
        free = layers - length
        return (batch.patch_order[:, 1 : 1 + self.chunks] * (free + 1)).long().clamp(max=free), length

    def cut(self, image: Float[Tensor, "B 1 X Y Z"], start: Int[Tensor, "B C"], length: int) -> Float[Tensor, "L 1 X Y Z2"]:
        """The chunks from the layers `start` on, volume by volume; a layer that the scan does not fill is padded as the encoder would."""
        depth = self.config.patch[2]
        image = filled(image, depth, padding=self.encoder.padding)
        return torch.stack([volume[..., depth * s : depth * (s + length)] for volume, row in zip(image, start.tolist(), strict=True) for s in row])

    def texts(self, batch: Batch, start: Int[Tensor, "B C"], length: int) -> tuple[Int[Tensor, "L T"], Bool[Tensor, "L T"]]:
        """What the report says of the organs in each chunk, volume by volume; the whole report of a whole scan, and where nothing is said of them."""
        x, y = self.config.grid[:2]
        held = rearrange(batch.organs > 0, "b (x y z) o -> b z o (x y)", x=x, y=y).any(-1).float()
        named = batch.sentence_organs & batch.names_organs.unsqueeze(-1) & batch.sentence_real.unsqueeze(-1)
        chosen = organs_inside(held, start, length=length, share=self.inside).float() @ named.float().mT > 0
        if length == held.shape[1]:
            chosen = torch.zeros_like(chosen)
        findings, sentence, report, report_real = (
            t.repeat_interleave(self.chunks, 0) for t in (batch.findings_tokens, batch.findings_sentence, batch.report_tokens, batch.report_real)
        )
        tokens, real = chosen_sentences(findings, sentence, chosen.flatten(0, 1), **self.marks, longest=self.config.max_tokens)
        none, wide = ~real.any(1, keepdim=True), max(tokens.shape[1], report.shape[1])
        both = ((F.pad(a, (0, wide - a.shape[1])), F.pad(b, (0, wide - b.shape[1]))) for a, b in ((report, tokens), (report_real, real)))
        tokens, real = (torch.where(none, of_report, of_chunk) for of_report, of_chunk in both)
        used = int(real.sum(1).max())
        return tokens[:, :used], real[:, :used]


def organs_inside(held: Float[Tensor, "B Z O"], start: Int[Tensor, "B C"], *, length: int, share: float) -> Bool[Tensor, "B C O"]:
    """Organs of whose layers (`held`: 1 where a layer of patches holds some) at least `share` lie in a chunk. One that is nowhere is in none."""
    below = F.pad(held.cumsum(1), (0, 0, 1, 0))
    first, last = (below.gather(1, at.unsqueeze(-1).expand(-1, -1, held.shape[-1])) for at in (start, start + length))
    inside = last - first
    return (inside >= share * held.sum(1, keepdim=True)) & (inside > 0)
