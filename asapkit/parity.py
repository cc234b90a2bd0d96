"""Number-by-number comparison of ASAP in `official` mode with the outputs of the released implementation on generated weights.

A folder holds manifest.json (names, shapes and the rule that generates every weight), inputs.npz, outputs.npz, encoder_only.npz and grads.json.
Everything is computed through the functions that training uses. Put in from outside are what the released run drew at random (noise, hidden words,
padding hidden too, ties among padded slots). The number of heads is the released one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from asapkit import objectives, released
from asapkit.config import Config
from asapkit.masking import hidden_patches, visible_patches
from asapkit.recipes import asap
from asapkit.types import FINDINGS, Batch, Refused
from asapkit.vit3d import patchify, sincos_positions

FLOATS, LOSSES, GRADIENTS = 1e-5, 5e-6, 1e-5
SLICED = (4, 7, 10)
"""The blocks whose outputs a folder holds, counted from 1, where an encoder has as many."""
LOSS_NAMES = ("reconstruct", "organs", "words", "align")
"""In the order of the stored losses."""


@dataclass(frozen=True)
class Row:
    """One compared array: largest absolute error over the array's largest magnitude (integers: share of differing values), and what is allowed."""

    name: str
    error: float
    allowed: float

    @property
    def good(self) -> bool:
        return self.error <= self.allowed


def compare(folder: Path | str) -> list[Row]:
    """Every stored array and gradient beside ours.

    Raises: Refused for a folder that lacks a file or an array, arrays that do not fit one another, or weights that the rule does not give.
    """
    try:
        return compared(Path(folder))
    except (RuntimeError, TypeError, IndexError) as error:  # what torch and numpy say of shapes and types that do not fit
        raise Refused(f"{folder}: its arrays do not fit one another ({' '.join(str(error).split())[:160]}); fetch the folder again") from error


def compared(folder: Path) -> list[Row]:
    if missing := [n for n in ("manifest.json", "inputs.npz", "outputs.npz", "encoder_only.npz", "grads.json") if not (folder / n).exists()]:
        raise Refused(f"{folder}: lacks {', '.join(missing)}; give a folder of reference outputs")
    manifest, norms = (read(folder / name) for name in ("manifest.json", "grads.json"))
    inputs, outputs, whole = (read(folder / f"{name}.npz") for name in ("inputs", "outputs", "encoder_only"))
    if missing := [e["name"] for e in manifest["tensors"] if e["kind"] == "generated" and e["name"] not in norms]:
        raise Refused(f"{norms.file}: lacks the gradient norm of {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}")
    method = build(manifest, inputs, outputs)
    with torch.no_grad():
        rows = [*encoder_rows(method, inputs, whole)]
        batch = make_batch(inputs, outputs, patch=method.encoder.patch)
        visible = torch.from_numpy(outputs["ids_keep"]).long()
        method.visible = lambda _batch: visible  # in the released order
        method.report.blanks.shown = lambda _batch: torch.from_numpy(inputs["masked_ids"]).long()
        rows += forward_rows(method, batch, inputs, outputs)
        rows += loss_rows(method, batch, outputs["lowtie_losses"], prefix="lowtie_")
        chosen = stored_selection(outputs)
        method.alignment.select = lambda *_args, **_kwargs: chosen
        rows += loss_rows(method, batch, outputs["losses"])
    rows += gradient_rows(method, batch, norms)
    return rows + [excerpt_row(outputs, norms)]


class Arrays(dict):
    """The arrays of a file by name. Raises: Refused, naming the file, for one that is not there."""

    def __init__(self, values: Mapping, *, file: Path):
        super().__init__(values)
        self.file = file

    def __missing__(self, name: str):
        raise Refused(f"{self.file}: lacks {name}")


def read(file: Path) -> Arrays:
    """A json object or npz file. Raises: Refused for a file that is damaged or of another kind."""
    try:
        values = json.loads(file.read_text()) if file.suffix == ".json" else dict(np.load(file))
        return Arrays(values, file=file)
    except (OSError, EOFError, ValueError, TypeError, BadZipFile) as error:
        raise Refused(f"{file}: cannot be read as reference outputs ({error})") from error


# --- the model and its input


def generated(entry: Mapping, seed: int) -> np.ndarray:
    """A tensor by the manifest's rule, float32. Raises: Refused where its first values or sum are not the manifest's."""
    z = np.random.Generator(np.random.Philox(key=[seed, crc32(entry["name"].encode())])).standard_normal(entry["shape"])
    value = (entry["mean"] + entry["std"] * z).astype(np.float32)
    if not np.allclose(value.ravel()[:3], entry["first3"][:3], rtol=1e-6) or not np.isclose(value.sum(dtype=np.float64), entry["sum"], rtol=1e-6):
        raise Refused(f"{entry['name']}: the rule gives other values with numpy {np.__version__}")
    return value


def build(manifest: Arrays, inputs: Mapping, outputs: Mapping) -> asap.Method:
    """ASAP in official mode at the stored size, with every weight generated and loaded through its released name; eval mode.

    Raises: Refused where a tensor is missing, has no place here or another shape. Numbers of heads are in no tensor: the released ones are taken.
    """
    shapes = Arrays({entry["name"]: entry["shape"] for entry in manifest["tensors"]}, file=manifest.file)
    try:
        config = stored_config(shapes, inputs, outputs)
    except ValueError as error:
        raise Refused(f"{manifest.file}: not of the released model's form ({error})") from error
    state = {e["name"]: torch.from_numpy(generated(e, manifest["seed"])) for e in manifest["tensors"] if e["kind"] == "generated"}
    with tempfile.TemporaryDirectory() as folder:
        write_text_encoder(Path(folder), shapes)
        method = asap.Method(replace(config, text_encoder=folder), fidelity="official", dropout=0.0)
    ours, own = released.translate(state), method.state_dict()
    if odd := [f"{k} {tuple(v.shape)} beside {tuple(own[k].shape)}" for k, v in ours.items() if k in own and v.shape != own[k].shape]:
        raise Refused(f"{manifest.file}: tensors of other shapes than the released model's: {', '.join(odd[:3])}")
    result = method.load_state_dict(ours, strict=False)
    left = [name for name in result.missing_keys if name not in ("report.words.vocabulary",)]
    if left or result.unexpected_keys:
        raise Refused(f"not filled: {', '.join(left) or 'nothing'}; without a place: {', '.join(result.unexpected_keys) or 'nothing'}")
    return method.eval()


def stored_config(shapes: Mapping, inputs: Mapping, outputs: Mapping) -> Config:
    """The configuration that tensors and inputs have the shapes of. Raises: ValueError for one that no model can have."""
    patch = tuple(shapes["patch_embed.proj.weight"][2:])
    crop = inputs["image"].shape[2:]
    patches = int(np.prod([c // p for c, p in zip(crop, patch, strict=True)]))
    return Config.at(
        "base", crop=crop, patch=patch, hide=1 - outputs["ids_keep"].shape[1] / patches, depth=released.blocks(shapes, "blocks"),
        decoder_depth=released.blocks(shapes, "decoder_blocks"), word_depth=released.blocks(shapes, "bert_decoder.bert.encoder.layer"),
        max_tokens=inputs["ids"].shape[1],
        **{name: shapes[tensor][0] for name, tensor in released.WIDTHS.items()},
    )  # fmt: skip


def write_text_encoder(folder: Path, shapes: Mapping) -> None:
    """A BERT of the stored size with a vocabulary of placeholders: its own weights are overwritten, its tokenizer only gives special ids."""
    from transformers import BertConfig, BertModel

    root = "bert_encoder.bert."
    size, width = shapes[root + "embeddings.word_embeddings.weight"]
    BertModel(
        BertConfig(
            vocab_size=size,
            hidden_size=width,
            num_hidden_layers=released.blocks(shapes, root + "encoder.layer"),
            num_attention_heads=12,
            intermediate_size=shapes[root + "encoder.layer.0.intermediate.dense.weight"][0],
            max_position_embeddings=shapes[root + "embeddings.position_embeddings.weight"][0],
        ),
        add_pooling_layer=False,
    ).save_pretrained(folder)
    special = {0: "[PAD]", 1: "[UNK]", 2: "[CLS]", 3: "[SEP]", 4: "[MASK]"}
    (folder / "vocab.txt").write_text("\n".join(special.get(n, f"[unused{n}]") for n in range(size)) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}\n')


def make_batch(inputs: Mapping, outputs: Mapping, *, patch: tuple[int, int, int]) -> Batch:
    """The stored inputs as a batch. Organ classes 0 to 8 become the nine shares that `organ_background` folds back into them."""
    image, count = torch.from_numpy(inputs["image"].astype(np.float32)), torch.from_numpy(inputs["sentence_mask_f"]).amax(1)
    n, patches = len(image), inputs["masking_noise"].shape[1]
    share = torch.stack([patchify(torch.from_numpy(inputs["organ_labels"] == c).float(), patch).mean(-1) for c in range(9)], dim=-1)
    organs = torch.cat([share[..., 1:7], torch.zeros_like(share[..., :1]), share[..., 7:]], dim=-1)
    sentence = torch.from_numpy(inputs["sentence_mask_f"]).long() - 1
    sentence[:, 0] = -1  # the class token is left out of its sentence's mean
    slots = outputs["k"].shape[1]
    real = torch.arange(slots) < count[:, None]
    tokens = {name: torch.from_numpy(inputs[name]).long() for name in ("ids_f", "ids")}
    return Batch(
        ids=tuple(map(str, range(n))), image=image, patch_order=torch.from_numpy(inputs["masking_noise"]), in_body=torch.ones(n, patches, dtype=bool),
        organs=organs, has_organs=torch.ones(n, dtype=bool), lesions=torch.zeros(n, patches), has_lesions=torch.zeros(n, dtype=bool),
        labels=-torch.ones(n, len(FINDINGS)), findings_tokens=tokens["ids_f"],
        findings_real=torch.from_numpy(inputs["attention_mask_f"]).bool(), findings_sentence=sentence, sentence_real=real,
        sentence_meaning=torch.arange(slots).expand(n, -1), sentence_positive=real, sentence_organs=torch.ones(n, slots, 9, dtype=bool),
        report_tokens=tokens["ids"], report_real=torch.from_numpy(inputs["attention_mask"]).bool(),
        report_special=torch.zeros_like(tokens["ids"]).bool(),
        report_order=torch.zeros(tokens["ids"].shape),
    )  # fmt: skip


def stored_selection(outputs: Mapping) -> Float[Tensor, "B S V"]:
    """Weights 1 / K on the patches that the released run took, padded slots included."""
    taken = members(outputs["selected_visible"], outputs["ids_keep"].shape[1]).float()
    return taken / taken.sum(-1, keepdim=True)


def members(stored: Int[np.ndarray, "B S K"], size: int) -> Int[Tensor, "B S N"]:
    """1 at the indices that a padded list (-1) names, else 0."""
    index = torch.from_numpy(stored).long()
    return torch.zeros(*index.shape[:2], size + 1, dtype=torch.long).scatter(2, index.where(index >= 0, size), 1)[..., :-1]


# --- what is compared


def row(name: str, ours: Tensor | np.ndarray, stored: np.ndarray, *, allowed: float = FLOATS) -> Row:
    ours = np.asarray(ours.detach() if isinstance(ours, Tensor) else ours)
    if ours.shape != stored.shape:
        return Row(f"{name} (shape {ours.shape} beside {stored.shape})", float("inf"), allowed)
    if np.issubdtype(ours.dtype, np.integer) or np.issubdtype(stored.dtype, np.integer):
        return Row(name, float((ours != stored).mean()), 0.0)
    if stored.size == 0:
        return Row(name, 0.0, allowed)
    largest = np.abs(stored).max()
    return Row(name, float(np.abs(ours.astype(np.float64) - stored).max() / (largest if largest > 0 else 1.0)), allowed)


def encoder_rows(method: asap.Method, inputs: Mapping, whole: Mapping) -> Iterator[Row]:
    """The encoder alone, nothing hidden; and the released segmentation encoder: no class token, positions of its own."""
    encoder, image = method.encoder, torch.from_numpy(inputs["image"].astype(np.float32))
    states = encoder.layers(image)
    yield row("encoder_only/final_norm", encoder.norm(states[-1]), whole["final_norm"])
    yield row("encoder_only/classification_cls", encoder.norm(states[-1])[:, 0], whole["classification_cls"])
    x = encoder.embed(patchify(image, encoder.patch)) + torch.from_numpy(whole["seg_pos_embed"])
    for number, block in enumerate(encoder.blocks, start=1):
        x = block(x)
        for name, state in ((f"block{number:02d}_slice", states[number]), (f"seg_block{number:02d}_slice", x)):
            if number in SLICED:
                yield row(f"encoder_only/{name}", state[..., : whole[name].shape[-1]], whole[name])


def forward_rows(method: asap.Method, batch: Batch, inputs: Mapping, outputs: Mapping) -> Iterator[Row]:
    """Encoder, AKI head, decoder, alignment with ties broken lowest index first, fusion and words with the stored selection."""
    visible = method.visible(batch)
    positions = sincos_positions(method.encoder.grid, method.config.width)
    yield row("pos_embed", torch.cat([torch.zeros_like(positions[:1]), positions])[None], outputs["pos_embed"])
    noise = torch.from_numpy(inputs["masking_noise"])
    kept = visible_patches(noise, visible=visible.shape[1])
    yield row("ids_keep (sorted)", kept, np.sort(outputs["ids_keep"], axis=1))
    yield row("ids_restore", noise.argsort(dim=1).argsort(dim=1), outputs["ids_restore"])
    yield row("mask", hidden_patches(kept, noise.shape[1]).float(), outputs["mask"])

    latent = method.encoder(batch.image, visible)
    predicted, decoded = method.decoder(latent, visible)
    yield row("latent", latent, outputs["latent"])
    yield row("aki_logits", method.organ_head(decoded[method.organ_layer]), outputs["aki_logits"])
    yield row("recon_slice", predicted[..., : outputs["recon_slice"].shape[-1]], outputs["recon_slice"])

    words = method.text(batch.findings_tokens, batch.findings_real)
    masked = method.text(method.report.blanks.shown(batch), batch.report_real)
    patches = method.alignment.image(latent[:, 1:])
    sentence = method.alignment.sentences(method.text, batch)
    yield row("finding_token_features", words, outputs["finding_token_features"])
    yield row("report_token_features", masked, outputs["report_token_features"])
    yield row("projected_finding_token_features", method.alignment.text(words)[:, 1:], outputs["projected_finding_token_features"])
    yield row("projected_image_features", patches, outputs["projected_image_features"])
    yield row("sentence_features", sentence, outputs["sentence_features"])
    yield from selection_rows(method, batch, outputs, sentence=sentence, patches=patches)
    yield from word_rows(method, batch, Arrays(inputs | outputs, file=outputs.file), masked=masked, latent=latent, patches=patches)


def selection_rows(method: asap.Method, batch: Batch, outputs: Mapping, *, sentence: Tensor, patches: Tensor) -> Iterator[Row]:
    alignment, selector = method.alignment, method.alignment.selector
    mixture = selector(sentence)
    similarity = objectives.unit(sentence) @ objectives.unit(patches).mT
    weights = alignment.select(sentence, patches, mixture=mixture, gate=None)
    yield row("sentence_count", batch.sentence_real.sum(1), outputs["sentence_count"])
    yield row("k_logit", sentence @ selector.projection + selector.bias, outputs["k_logit"])
    yield row("k", selector.budget(mixture).round().long(), outputs["k"])
    yield row("similarity", similarity, outputs["similarity"])
    real = batch.sentence_real & torch.from_numpy(outputs["selection_gap"] > 1e-6)  # a tie is nobody's fault
    yield row("selected_visible (real sentences)", (weights > 0)[real].long(), members(outputs["selected_visible"], patches.shape[1])[real].numpy())
    grid = torch.zeros(*weights.shape[:2], method.config.patches).scatter(2, method.visible(batch)[:, None].expand_as(weights), weights)
    yield row("selected_grid (real sentences)", (grid > 0)[real].long(), members(outputs["selected_grid"], grid.shape[2])[real].numpy())
    ranked = similarity.sort(dim=-1, descending=True).values
    k = selector.budget(mixture).round().long().unsqueeze(-1)
    gap = ranked.gather(-1, k - 1) - ranked.gather(-1, k.clamp(max=ranked.shape[-1] - 1))
    apart = np.abs(gap.squeeze(-1).double().numpy() - outputs["selection_gap"]).max()  # of the similarities that it is a difference of
    yield Row("selection_gap", float(apart / np.abs(outputs["similarity"]).max()), FLOATS)
    for prefix, chosen in (("lowtie_", weights), ("", stored_selection(outputs))):
        evidence = chosen @ patches
        yield row(f"{prefix}sentence_visual_features", evidence, outputs[f"{prefix}sentence_visual_features"])
        logits = objectives.unit(sentence) @ objectives.unit(evidence).mT / alignment.temperature
        yield row(f"{prefix}align_logits", logits, outputs[f"{prefix}align_logits"])
        token = method.similarity_token(batch, patches, patches, weights=chosen)[:, 0]
        yield row(f"{prefix}f_sim", token, outputs[f"{prefix}f_sim"])


def word_rows(method: asap.Method, batch: Batch, stored: Mapping, *, masked: Tensor, latent: Tensor, patches: Tensor) -> Iterator[Row]:
    report, (keys, whole) = method.report, method.report.keys(latent)
    yield row("gap_token", whole, stored["gap_token"])
    token = method.similarity_token(batch, keys, patches, weights=stored_selection(stored))
    fused = report.fusion(report.text(masked), batch.report_real, torch.cat([token, keys], dim=1), global_image=whole)
    yield row("fused_text_features", fused, stored["fused_text_features"])
    logits = report.words(fused, batch.report_real, torch.ones_like(batch.report_real)).view(*batch.report_real.shape, -1)
    yield row("mlm_logits_slice", logits[..., torch.from_numpy(stored["mlm_vocab_columns"]).long()], stored["mlm_logits_slice"])
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch.report_tokens.flatten(), reduction="none").view_as(batch.report_tokens)
    yield row("mlm_token_loss", loss, stored["mlm_token_loss"])


def loss_rows(method: asap.Method, batch: Batch, stored: Float[np.ndarray, " 4"], *, prefix: str = "") -> Iterator[Row]:
    """The four losses of a training step."""
    losses = method(batch)
    for name, value in zip(LOSS_NAMES, stored, strict=True):
        yield Row(f"{prefix}losses/{name}", abs(float(losses[name]) - float(value)) / max(abs(float(value)), 1e-6), LOSSES)


def gradient_rows(method: asap.Method, batch: Batch, norms: Mapping[str, float | None]) -> Iterator[Row]:
    """L2 norms of the gradient of the plain sum of the losses: one row per released parameter, and one for those that must have none."""
    sum(method(batch).values()).backward()
    parameters = dict(method.named_parameters())
    reached = []
    for name, norm in norms.items():
        where = released.place(name)
        gradient = None if where is None or where[0] not in parameters else parameters[where[0]].grad
        if norm is None:
            reached += [name] if gradient is not None and gradient.abs().sum() > 0 else []
        elif gradient is None:
            yield Row(f"gradient/{name} (none here)", float("inf"), GRADIENTS)
        else:
            part = gradient if where[1] is None else gradient.chunk(3)[released.THIRDS.index(where[1])]
            scale = norms[name.removesuffix("bias") + "weight"] if name.endswith("key.bias") else norm  # a key bias has none in exact arithmetic
            yield Row(f"gradient/{name}", abs(float(part.double().norm()) - norm) / max(scale, 1e-12), GRADIENTS)
    yield Row(f"gradients where there are none{': ' + ', '.join(reached) if reached else ''}", float(len(reached)), 0.0)


def excerpt_row(outputs: Mapping, norms: Mapping[str, float | None]) -> Row:
    """The gradient norms that stand in outputs.npz as well: share of them that grads.json says otherwise."""
    said = dict(zip(outputs["grad_names"].tolist(), outputs["grad_norms"].tolist(), strict=True)) | dict.fromkeys(outputs["grad_none_names"].tolist())
    there = np.array([[norm, norms[name]] for name, norm in said.items()], float)  # none is NaN
    other = [name for name, (one, two) in zip(said, there, strict=True) if not np.isclose(one, two, rtol=GRADIENTS, equal_nan=True)]
    return Row(f"grad_norms beside grads.json{': ' + ', '.join(other[:3]) if other else ''}", len(other) / max(len(said), 1), 0.0)


def report(rows: list[Row]) -> str:
    """A table of all arrays, the gradients summed up in their worst, and every row that is over what is allowed."""
    gradients = sorted((r for r in rows if r.name.startswith("gradient/")), key=lambda r: r.error)
    shown = [r for r in rows if r not in gradients] + gradients[-1:]
    shown += [r for r in gradients[:-1] if not r.good]
    lines = [f"{r.name:48s} {r.error:10.2e}  {'<=' if r.good else '> '} {r.allowed:.0e}" for r in shown]
    bad = sum(not r.good for r in rows)
    return "\n".join([*lines, f"{len(rows)} arrays compared, {len(gradients)} of them gradient norms: {f'{bad} differ' if bad else 'all equal'}"])
