"""A batch made of random numbers, for tests of networks that need no volume."""

import torch

from asapkit.config import Config
from asapkit.types import FINDINGS, ORGANS, Batch


def made_batch(config: Config, *, volumes: int = 3, sentences: int = 4, seed: int = 0) -> Batch:
    """Distinct sentences of five tokens each; nothing is padded. No sentence of the first volume names the esophagus."""
    g = torch.Generator().manual_seed(seed)
    tokens, report = 1 + 5 * sentences, 2 + 6 * sentences
    order = torch.arange(tokens).expand(volumes, tokens)
    special = torch.zeros(volumes, report, dtype=torch.bool)
    special[:, 0] = special[:, -1] = True
    organs = torch.rand(volumes, config.patches, len(ORGANS), generator=g) * (torch.rand(volumes, config.patches, len(ORGANS), generator=g) > 0.6)
    words = torch.randint(1996, 2600, (volumes, tokens), generator=g)
    words[:, 0] = 101
    whole = torch.randint(1996, 2600, (volumes, report), generator=g)
    whole[:, 0], whole[:, -1] = 101, 102
    batch = Batch(
        ids=tuple(f"made_{seed}_{n}" for n in range(volumes)),
        image=torch.rand(volumes, 1, *config.crop, generator=g) * 2 - 1,
        patch_order=torch.rand(volumes, config.patches, generator=g),
        in_body=torch.rand(volumes, config.patches, generator=g) > 0.2,
        organs=organs / organs.sum(-1, keepdim=True).clamp(min=1),
        has_organs=torch.ones(volumes, dtype=torch.bool),
        lesions=torch.rand(volumes, config.patches, generator=torch.Generator().manual_seed(seed + 1)).pow(4),
        has_lesions=torch.ones(volumes, dtype=torch.bool),
        labels=torch.randint(0, 2, (volumes, len(FINDINGS)), generator=g).float(),
        findings_tokens=words,
        findings_real=torch.ones(volumes, tokens, dtype=torch.bool),
        findings_sentence=torch.where(order == 0, -1, (order - 1) // 5),
        sentence_real=torch.ones(volumes, sentences, dtype=torch.bool),
        sentence_meaning=torch.arange(volumes * sentences).reshape(volumes, sentences) + 100 * seed,
        sentence_positive=torch.ones(volumes, sentences, dtype=torch.bool),
        sentence_organs=torch.rand(volumes, sentences, len(ORGANS), generator=g) > 0.5,
        report_tokens=whole,
        report_real=torch.ones(volumes, report, dtype=torch.bool),
        report_special=special,
        report_order=torch.rand(volumes, report, generator=g),
    )
    batch.sentence_organs[0, :, ORGANS.index("esophagus")] = False  # hence normal there
    return batch
