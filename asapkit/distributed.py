"""Several processes as one: the accelerator, the method that every rank trains, tensors joined over ranks with gradient, an orderly end."""

from __future__ import annotations

import atexit
import weakref

import torch
import torch.distributed as dist
from torch import Tensor, nn

from asapkit.config import Config

PRECISIONS = {"fp32": "no", "bf16": "bf16"}
_WRAPPED: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # what holds the group of processes


def make_accelerator(config: Config, *, device: str = "auto"):
    """accelerate on the CPU, on one GPU, or in every process that was started.  device: auto | cpu | cuda."""
    import torch.distributed.nn  # before a group is open: what its functions take by default is the group of that moment, held for good
    from accelerate import Accelerator

    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device {device!r}: there are auto, cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda': torch sees no GPU here; say device='cpu' or 'auto'")
    if config.precision not in PRECISIONS:
        raise ValueError(f"precision {config.precision!r}: there are {', '.join(PRECISIONS)}")
    on_cpu = device == "cpu" or not torch.accelerator.is_available()  # said, or accelerate takes the processes that were started for one each
    return Accelerator(mixed_precision=PRECISIONS[config.precision], cpu=on_cpu)


def over_ranks(method: nn.Module, accelerator, weights: dict[str, float]) -> nn.Module:
    """The method as every rank trains it. A loss of weight 0, or a recipe that says `partial`, leaves parameters without gradient: DDP must ask."""
    if accelerator.num_processes == 1:
        return method
    from accelerate import DistributedDataParallelKwargs

    partial_graph = getattr(method, "partial", False) or not all(weights.values())
    accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=partial_graph)
    wrapped = accelerator.prepare_model(method)
    _WRAPPED.add(wrapped)
    return wrapped


def gather(x: Tensor, *, accelerator) -> Tensor:
    """Joins a tensor over ranks along the first axis, with gradient; shorter later axes are zero-padded (integers with -1)."""
    if accelerator.num_processes == 1:
        return x
    shape = torch.tensor(x.shape, device=x.device)
    shapes = [torch.zeros_like(shape) for _ in range(accelerator.num_processes)]
    dist.all_gather(shapes, shape)
    largest = torch.stack(shapes).amax(0)
    padding = [p for size, want in reversed(list(zip(x.shape, largest.tolist(), strict=True))) for p in (0, want - size)]
    padded = nn.functional.pad(x.int() if x.dtype == torch.bool else x, padding, value=0 if x.is_floating_point() or x.dtype == torch.bool else -1)
    joined = torch.cat([part[: int(s[0])] for part, s in zip(_Gather.apply(padded), shapes, strict=True)])
    return joined.bool() if x.dtype == torch.bool else joined


class _Gather(torch.autograd.Function):
    """A tensor of every rank, stacked. Every rank's loss reads this rank's part, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]


def random_states(accelerator) -> Tensor:
    """The state of every rank's generator of the CPU, (ranks, bytes); every rank must ask."""
    state = torch.get_rng_state().unsqueeze(0)
    return gather(state.int().to(accelerator.device), accelerator=accelerator).to("cpu", torch.uint8)


def finish(accelerator) -> None:
    """Waits for every rank; the group of processes is then left when this one exits, as a script may train again before."""
    accelerator.wait_for_everyone()
    if accelerator.num_processes > 1:
        atexit.register(_leave, accelerator)


def _leave(accelerator) -> None:
    """Leaves the group and waits for its threads: one that lets go of a tensor while the interpreter ends aborts a process whose work is done
    (pytorch issue 190489). They are joined where the last owner of the group lets go of it, so every owner has to."""
    for wrapped in _WRAPPED:
        for name in ("reducer", "logger", "process_group"):
            vars(wrapped).pop(name, None)
    accelerator.end_training()
