"""What a training will take, before it is started: time, memory, disk and volumes per second, from counted operations and a rate.

A step of the method itself runs once in full size with its matrix products left out (their results are zeros of the right shape), so the count
knows every option of a recipe, and takes seconds where the step would take minutes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from asapkit.checkpoint import make_method, trained_state
from asapkit.config import Config
from asapkit.language import TextEncoder
from asapkit.train import recipe_module
from asapkit.types import FINDINGS, ORGANS, Batch

aten = torch.ops.aten
REACHED = 0.5
"""Share of a device's matrix-product rate that a step is taken to reach where only that rate is known."""
CHEST_MM = (360.0, 360.0, 330.0)
"""Field of a chest CT, for the size of a store."""
PACKED = 0.45
"""Bytes on disk per byte of int16 voxels (LZ4HC with bit shuffle, 240 x 240 x 120 voxels of a real chest: 6.2 of 13.8 MB)."""
GIB = 2**30


@dataclass(frozen=True)
class Cost:
    """One step of a batch: floating-point operations of its matrix products (2 per multiply-add), bytes kept for the backward pass."""

    flops: float
    kept: int


class Products(TorchDispatchMode):
    """Counts matrix products and leaves them out: what they return is zeros. Everything else is computed.

    Attention counts two products forward and four backward, as plain mathematics does; what a fused kernel computes again is not counted.
    """

    def __init__(self):
        super().__init__()
        self.flops = 0.0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, packet = kwargs or {}, function._overloadpacket
        if packet not in flop_registry and packet not in ATTENTION:
            return function(*args, **kwargs)
        shapes = tree_map_only(Tensor, lambda x: x.to("meta"), (args, kwargs))
        out = function(*shapes[0], **shapes[1])
        if packet in ATTENTION:
            query, key = (args[n].shape for n in ATTENTION[packet][1:])
            self.flops += ATTENTION[packet][0] * 2 * math.prod(query) * key[2]
        else:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=out)
        return tree_map_only(Tensor, lambda x: torch.zeros(x.shape, dtype=x.dtype), out)


ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: (2, 0, 1),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (4, 1, 2),
}
"""How many products each has, and which arguments are query and key (B, heads, N, width)."""


def count(method: nn.Module, batch: Batch, *, weights: dict[str, float] | None = None, precision: str = "fp32") -> Cost:
    """Forward and backward of one step on the CPU. Gradients are dropped again.

    weights: of the losses, each 1 unless given; a loss of weight 0 has no backward.
    """
    own = {p.untyped_storage().data_ptr() for p in method.parameters()}
    kept: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    half = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")
    with Products() as products:
        with half, torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            losses = method(batch)
            loss = sum((weights or {}).get(name, 1.0) * value for name, value in losses.items())
        loss.backward()
    method.zero_grad(set_to_none=True)
    return Cost(products.flops, sum(kept.values()))


def mean_count(method: nn.Module, batch: Batch, *, weights: dict[str, float], precision: str) -> Cost:
    """`count`, averaged over the steps that a method's `draws` says there are (chunks of so many lengths); bytes of the largest."""
    draws = getattr(method, "draws", 1)
    orders = [batch.patch_order] if draws == 1 else [torch.full_like(batch.patch_order, (n + 0.5) / draws) for n in range(draws)]
    found = [count(method, replace(batch, patch_order=order), weights=weights, precision=precision) for order in orders]
    return Cost(sum(cost.flops for cost in found) / draws, max(cost.kept for cost in found))


def example(config: Config, *, volumes: int = 1, words: int = 310, findings: int = 270, sentences: int = 15, seed: int = 0) -> Batch:
    """A batch of random numbers in the shape of `config`: reports of `words` tokens, `findings` of them in `sentences` sentences; no padding."""
    g = torch.Generator().manual_seed(seed)
    words, findings = min(words, config.max_tokens), min(findings, config.max_tokens)
    sentences = min(sentences, config.max_sentences)
    report = torch.randint(1996, 29000, (volumes, words), generator=g)
    special = torch.zeros(volumes, words, dtype=torch.bool)
    special[:, 0] = special[:, -1] = True
    share = torch.rand(volumes, config.patches, len(ORGANS) + 3, generator=g).pow(8)
    share = share / share.sum(-1, keepdim=True)
    share = share.masked_fill(share < 0.25, 0.0)  # an organ lies in few patches: recipes that pool organs compute no others
    place = torch.arange(findings).expand(volumes, findings)
    return Batch(
        ids=tuple(f"example_{n}" for n in range(volumes)),
        image=torch.rand(volumes, 1, *config.crop, generator=g) * 2 - 1,
        patch_order=torch.rand(volumes, config.patches, generator=g),
        in_body=torch.ones(volumes, config.patches, dtype=torch.bool),
        organs=share[..., : len(ORGANS)],
        has_organs=torch.ones(volumes, dtype=torch.bool),
        lesions=share[..., len(ORGANS)],
        has_lesions=torch.ones(volumes, dtype=torch.bool),
        labels=torch.randint(0, 2, (volumes, len(FINDINGS)), generator=g).float(),
        findings_tokens=torch.randint(1996, 29000, (volumes, findings), generator=g),
        findings_real=torch.ones(volumes, findings, dtype=torch.bool),
        findings_sentence=torch.where(place == 0, -1, (place - 1) * sentences // (findings - 1)),
        sentence_real=torch.ones(volumes, sentences, dtype=torch.bool),
        sentence_meaning=torch.arange(volumes * sentences).reshape(volumes, sentences),
        sentence_positive=torch.ones(volumes, sentences, dtype=torch.bool),
        sentence_organs=torch.eye(len(ORGANS), dtype=torch.bool)[torch.arange(sentences) % len(ORGANS)].expand(volumes, -1, -1),
        report_tokens=report,
        report_real=torch.ones(volumes, words, dtype=torch.bool),
        report_special=special,
        report_order=torch.rand(volumes, words, generator=g),
    )


def paper_text(method: nn.Module) -> nn.Module:
    """The method with a text encoder of the paper's size (BERT-base) and random weights: for counting and timing, with nothing downloaded."""
    from transformers import BertConfig, BertModel

    from asapkit.language import Projection

    bert = BertModel(BertConfig(hidden_dropout_prob=0.25, attention_probs_dropout_prob=0.25), add_pooling_layer=False)
    width = bert.config.hidden_size
    for module in list(method.modules()):
        if isinstance(module, TextEncoder):
            module.bert, module.width = bert.requires_grad_(False), width
        for name, reader in module.named_children():  # what reads the text encoder is called after it, or after what is read
            if name == "text" and isinstance(reader, Projection):
                module.text = Projection(width, reader.dense_to_output.out_features)
            elif isinstance(reader, nn.Linear) and (name == "report" or (name == "text" and isinstance(module, nn.ModuleDict))):
                module._modules[name] = nn.Linear(width, reader.out_features, bias=reader.bias is not None)
    return method.train()


def matmul_rate(
    *, seconds: float = 1.0, dtype: torch.dtype = torch.float32, device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> float:
    """Floating-point operations per second of a device's matrix products, over about `seconds`: on a CPU in the shape of an MLP at `base`, on a
    CUDA card with square matrices that fill it.
    """
    cuda = device == "cuda"
    n, inside, m = (8192, 8192, 8192) if cuda else (2745, 768, 3072)
    a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((n, inside), (inside, m)))
    wait = torch.cuda.synchronize if cuda else lambda: None
    done, _ = 0, (a @ b, wait())
    start = clock()
    while clock() - start < seconds:
        for _ in range(20 if cuda else 1):
            a @ b
            done += 1
        wait()
    return done * 2 * n * inside * m / (clock() - start)


@dataclass(frozen=True)
class Estimate:
    """A training of `volumes` x `epochs` on `gpus` devices. `rate`: sustained operations per second of one device."""

    recipe: str
    scale: str
    precision: str
    volumes: int
    epochs: int
    gpus: int
    batch: int  # volumes per device and step
    tflop: float  # per volume
    rate: float
    measured: bool
    volumes_per_second: float
    hours: float
    memory_gib: float  # per device
    store_gib: float
    run_gib: float
    short: int  # volumes that a step of the configuration lacks to give every device as many
    text_encoder: str  # empty where none is read

    def __str__(self) -> str:
        days = f" ({self.hours / 24:.1f} days)" if self.hours > 48 else ""
        source = f"{REACHED:.0%} of what this machine's matrix products reach" if self.measured else "as given"
        text = f", text encoder {self.text_encoder}" if self.text_encoder else ""
        return "\n".join([
            f"{self.recipe} at {self.scale}, {self.precision}: {self.volumes} volumes x {self.epochs} epochs on {self.gpus} device(s)",
            f"operations         {self.tflop:.3g} TFLOP per volume, forward and backward{text}",
            f"rate               {self.rate / 1e12:.3g} TFLOP/s sustained per device, {source}",
            f"time               {self.hours:.4g} h{days}",
            f"volumes per second {self.volumes_per_second:.3g}: what the loaders must deliver",
            f"memory             {self.memory_gib:.3g} GiB per device of {self.batch} volume(s): weights, gradients, AdamW, activations",
            f"disk               {self.store_gib:.4g} GiB store, {self.run_gib:.3g} GiB run folder",
            *([f"note               for {self.gpus} devices: --set batch_size={self.batch * self.gpus} (it is {self.batch * self.gpus - self.short})"]
              if self.short else []),
        ])  # fmt: skip


def against(predicted: Estimate, *, volumes: int, seconds: float) -> str:
    """One line of a training that saw `volumes` in `seconds`: what its counted operations let expect, and what it took, loading included."""
    expected, reached = volumes / predicted.volumes_per_second, volumes * predicted.tflop / max(seconds, 1e-9) / predicted.gpus
    how = f"at {predicted.rate / 1e12:.3g} TFLOP/s{f', {REACHED:.0%} of the matrix products of this machine' if predicted.measured else ''}"
    return f"{volumes} volumes in {seconds:.0f} s, start-up included, {reached:.3g} TFLOP/s per device; predicted {expected:.0f} s {how}"


def training(
    recipe: str, config: Config, *, volumes: int, epochs: int, gpus: int = 1, tflops: float | None = None, options: dict | None = None
) -> Estimate:
    """Predicts a training.  tflops: what one device sustains in training; without it, `REACHED` of this machine's rate, measured for a second.

    text_encoder "cxr-bert" is counted by its size alone. Not counted: data loading, where it cannot keep up; communication; evaluation.
    Raises: ValueError for numbers that are not positive.
    """
    for name, value in (("volumes", volumes), ("epochs", epochs), ("gpus", gpus), ("tflops", 1 if tflops is None else tflops)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} {value}: give a number above 0")
    method = counted_method(recipe, config, options or {})
    cost = mean_count(method, example(config), weights=recipe_module(recipe).WEIGHTS, precision=config.precision)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    rate = tflops * 1e12 if tflops else REACHED * matmul_rate(dtype=dtype)
    batch = math.ceil(config.batch_size / gpus)  # `pretrain` wants a batch that the devices share evenly
    per_second = gpus * rate / cost.flops
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in method.parameters() if not p.requires_grad)
    saved = 4 * sum(t.numel() for t in trained_state(method).values())
    voxels = math.prod(round(f / s) for f, s in zip(CHEST_MM, config.spacing_mm, strict=True))
    return Estimate(
        recipe, config.scale, config.precision, volumes, epochs, gpus, batch, cost.flops / 1e12, rate, tflops is None, per_second,
        hours=volumes * epochs / per_second / 3600,
        memory_gib=(16 * trained + 4 * frozen + batch * cost.kept) / GIB,
        store_gib=volumes * voxels * 2 * PACKED / GIB,
        run_gib=(2 * saved + 8 * trained) / GIB,
        short=batch * gpus - config.batch_size,
        text_encoder=config.text_encoder if any(isinstance(module, TextEncoder) for module in method.modules()) else "",
    )  # fmt: skip


def counted_method(recipe: str, config: Config, options: dict) -> nn.Module:
    """The method to be counted, in training mode; every word of the tokenizer in its word head."""
    if config.text_encoder != "cxr-bert":
        return make_method(recipe, config, options).train()
    method = make_method(recipe, replace(config, text_encoder="minilm"), options).train()
    return paper_text(method)
