"""What every recipe must hold, and ASAP's switches one by one."""

import inspect
from dataclasses import replace

import pytest
import torch
from made import made_batch

from asapkit import objectives
from asapkit.config import Config
from asapkit.masking import hidden_patches, visible_of
from asapkit.recipes import asap
from asapkit.train import recipe_module, recipes
from asapkit.vit3d import patchify, unpatchify

CONFIG = Config.at("toy")
VOCABULARY = torch.arange(1996, 2600)


def make(recipe: str, **options):
    torch.manual_seed(0)
    known = inspect.signature(recipe_module(recipe).Method.__init__).parameters
    extra = {name: value for name, value in {"vocabulary": VOCABULARY, "dropout": 0.0}.items() if name in known}
    return recipe_module(recipe).Method(CONFIG, **(extra | options))


@pytest.mark.parametrize("recipe", recipes())
def test_losses_are_finite_scalars_named_as_the_weights(recipe):
    losses = make(recipe)(made_batch(CONFIG))
    assert set(losses) == set(recipe_module(recipe).WEIGHTS)
    assert all(v.ndim == 0 and torch.isfinite(v) for v in losses.values())


ASAP = [
    {}, {"align_over": "batch"}, {"align_over": "batch", "align_from": "stem", "organ_gate": True, "encode": "sentence"}, {"align_from": "early"},
    {"selector": "soft_topk"}, {"fusion": "paper"}, {"organ_classes": "grouped"}, {"organ_targets": "one_hot"}, {"organ_layer": -1},
    {"fidelity": "official"}, {"restore": 1, "align_over": "batch"}, {"organ_classes": "heart+aorta,esophagus,lesion"}, {"organ_classes": "lesion"},
    {"restore": 1, "align_over": "batch", "align_from": "stem", "align_only": "positive"},
    {"restore": 2, "align_over": "batch", "align_from": "stem", "align_on": "all", "organ_gate": True}, {"align_from": "stem", "align_on": "all"},
    {"restore": 2, "align_over": "batch", "align_from": "stem_and_last", "align_on": "all", "organ_gate": True}, {"align_from": "stem_and_last"},
    {"positive_weight": 4.0}, {"positive_weight": 4.0, "align_over": "batch"}, {"align_negatives": "exchanged"}, {"align_positions": "left_out"},
    {"align_negatives": "exchanged", "align_positions": "left_out", "align_from": "stem", "organ_gate": True}, {"selector": "random"},
    {"align_positions": "left_out", "align_from": "stem_and_last", "align_on": "all", "restore": 1, "align_over": "batch"},
]  # fmt: skip
SIMCROP = [
    {"align_over": "batch", "align_from": "stem_and_last", "align_on": "all", "organ_gate": True, "restore": 2, "align_only": "positive"},
    {"fixed_k": 3, "align_from": "early", "encode": "sentence", "positive_weight": 4.0},
    {"align_negatives": "exchanged", "align_positions": "left_out", "align_from": "early"},
]
PADDED = [{"align_over": "batch"}, {"encode": "sentence"}, {"align_negatives": "exchanged"}, {"selector": "random"}]
FORMS = [(r, {}) for r in recipes()] + [("asap", o) for o in ASAP[1:]] + [("simcrop", o) for o in SIMCROP] + [("m3ae", {"whole_words": False})]
FORMS += [("scale_vlp", {"knowledge": "ontology"}), ("scale_vlp", {"knowledge": "ontology", "mode": "official"})]


@pytest.mark.parametrize(
    ("recipe", "options"), [(recipe, options) if not options else pytest.param(recipe, options, marks=pytest.mark.slow) for recipe, options in FORMS]
)
def test_a_gradient_reaches_every_trainable_parameter(recipe, options):
    method = make(recipe, **options)
    sum(method(made_batch(CONFIG)).values()).backward()
    silent = [name for name, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)]
    # a key bias adds the same number to a softmax row, so its gradient is zero in exact arithmetic
    assert [name for name in silent if not name.endswith("key.bias")] == []


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "options"), FORMS)
def test_a_step_in_bf16_is_near_the_one_in_fp32(recipe, options):
    method, batch = make(recipe, **options), made_batch(CONFIG)
    torch.manual_seed(1)  # the released form leaves dropout on
    whole = method(batch)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = method(batch)
    sum(half.values()).backward()
    for name, value in whole.items():
        assert half[name].item() == pytest.approx(value.item(), rel=0.1, abs=0.02), name
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize(("recipe", "options"), [(r, {}) for r in recipes()] + [("asap", o) for o in PADDED])
def test_padding_of_a_neighbour_never_changes_a_loss(recipe, options):
    method, batch = make(recipe, **options), made_batch(CONFIG)
    padded = replace(
        batch,
        **{n: torch.nn.functional.pad(getattr(batch, n), (0, 9)) for n in ("findings_tokens", "findings_real", "report_tokens", "report_real")},
        findings_sentence=torch.nn.functional.pad(batch.findings_sentence, (0, 9), value=-1),
        report_special=torch.nn.functional.pad(batch.report_special, (0, 9)),
        report_order=torch.nn.functional.pad(batch.report_order, (0, 9), value=2.0),
        sentence_real=torch.nn.functional.pad(batch.sentence_real, (0, 3)),
        sentence_meaning=torch.nn.functional.pad(batch.sentence_meaning, (0, 3), value=-1),
        sentence_positive=torch.nn.functional.pad(batch.sentence_positive, (0, 3)),
        sentence_organs=torch.nn.functional.pad(batch.sentence_organs, (0, 0, 0, 3)),
    )
    longer = method(padded)
    for name, value in method(batch).items():
        assert longer[name].item() == pytest.approx(value.item(), rel=2e-5), name


@pytest.mark.parametrize("recipe", ["asap", "simcrop", "m3ae", "mrm", "mae"])
def test_within_a_report_the_other_volumes_do_not_matter(recipe):
    method, batch = make(recipe), made_batch(CONFIG)
    joined = method(batch)
    parts = [method(batch[n : n + 1]) for n in range(3)]
    shares = [method.counts(batch[n : n + 1]) for n in range(3)]
    for name in set(joined) - {"match"}:  # which asks for another volume's report
        total = sum(share[name].item() * part[name].item() for share, part in zip(shares, parts, strict=True))
        assert joined[name].item() == pytest.approx(total / sum(share[name].item() for share in shares), rel=1e-4), name


@pytest.mark.parametrize("recipe", ["asap", "simcrop"])
def test_exchanging_the_images_changes_the_contrast_over_images(recipe):
    method, batch = make(recipe, align_over="batch"), made_batch(CONFIG)
    swapped = replace(batch, image=batch.image.roll(1, 0), patch_order=batch.patch_order.roll(1, 0), in_body=batch.in_body.roll(1, 0))
    assert abs(method(batch)["align"].item() - method(swapped)["align"].item()) > 1e-4


@pytest.mark.parametrize("switch", sorted(asap.CORRECT))
@pytest.mark.slow
def test_each_switch_alone_changes_what_it_names_and_nothing_else(switch):
    other = asap.OFFICIAL[switch] if switch != "fusion" else "paper"
    batch = made_batch(CONFIG)
    batch.sentence_real[1:, 2:] = False
    batch.findings_sentence[1:][batch.findings_sentence[1:] >= 2] = -1
    touched = {
        "reconstruct_on": {"reconstruct"}, "words_on": {"words"}, "text_dropout": {"align", "words"}, "pad_columns": {"align"},
        "align_mean": {"align"}, "f_sim": {"words"}, "organ_reduction": {"organs"}, "organ_background": {"organs"},
        "selector": {"align", "words"}, "fusion": {"words"},
    }[switch]  # fmt: skip
    plain, flipped = make("asap"), make("asap", **{switch: other})
    flipped.load_state_dict(plain.state_dict(), strict=False)
    if switch == "selector":  # the frozen rule picks another K for some sentence
        flipped.alignment.selector.projection.mul_(100)
    a, b = plain(batch), flipped(batch)
    changed = {name for name in a if abs(a[name].item() - b[name].item()) > 1e-7 * max(1, abs(a[name].item()))}
    assert changed == touched


def test_parts_switched_off_leave_no_trace():
    assert make("asap", ssa=False)(made_batch(CONFIG))["align"].item() == 0
    assert make("asap", aki=False)(made_batch(CONFIG))["organs"].item() == 0
    assert make("asap", aki=False).organ_head is None and make("asap", slf=False).similarity_gain is None
    assert make("asap", gf=False).report.fusion.global_feature is None


def test_reconstruction_of_the_release_is_the_hidden_share_of_ours():
    batch = made_batch(CONFIG)
    ours, released = make("asap"), make("asap", reconstruct_on="all")
    share = 1 - CONFIG.visible / CONFIG.patches
    assert released(batch)["reconstruct"].item() == pytest.approx(share * ours(batch)["reconstruct"].item(), rel=1e-5)


def test_a_pad_or_visible_word_has_no_effect_on_the_words_loss_target():
    method, batch = make("asap"), made_batch(CONFIG)
    counted = method.report.blanks.counted(batch)
    assert not (counted & (batch.report_special | ~batch.report_real)).any()
    assert counted.sum(1).tolist() == [round(0.75 * int((batch.report_real & ~batch.report_special)[0].sum()))] * 3


def test_match_gives_one_row_and_one_budget_per_sentence():
    method = make("asap", encode="sentence").eval()
    image = made_batch(CONFIG).image[:1]
    similarity, k = method.match(method.aligned(image)[0], ["A nodule in the left lung.", "No effusion."])
    assert similarity.shape == (2, CONFIG.patches) and similarity.abs().max() <= 1 + 1e-5
    scaled = {round(k * CONFIG.patches / CONFIG.visible) for k in CONFIG.top_k}
    assert set(k.tolist()) <= scaled


def test_the_budget_of_a_map_is_that_of_training_where_every_patch_could_be_selected():
    method = make("asap", align_from="stem", align_on="all").eval()
    _, k = method.match(method.aligned(made_batch(CONFIG).image[:1])[0], ["A nodule in the left lung."])
    assert set(k.tolist()) <= set(CONFIG.top_k)


@pytest.mark.parametrize(
    "options", [{}, {"restore": 1}, {"ssa": False}, {"f_sim": "all_slots"}, {"align_from": "stem_and_last"}, {"align_positions": "left_out"}]
)
@pytest.mark.slow
def test_hidden_voxels_reach_no_restored_word_even_where_sentences_may_select_them(options):
    method = make("asap", **({"align_from": "stem", "align_on": "all"} | options)).eval()
    batch = made_batch(CONFIG)
    hidden = hidden_patches(method.visible(batch), CONFIG.patches).unsqueeze(-1)
    patches = patchify(batch.image, CONFIG.patch)
    other = replace(batch, image=unpatchify(torch.where(hidden, -patches, patches), CONFIG.grid, CONFIG.patch))
    one, two = method(batch), method(other)
    assert torch.equal(one["words"], two["words"]) and torch.equal(one["organs"], two["organs"])
    assert not torch.equal(one["reconstruct"], two["reconstruct"])
    if method.ssa:
        assert not torch.equal(one["align"], two["align"])


@pytest.mark.parametrize("organ_gate", [True, False])
def test_what_a_sentence_may_choose_in_training_is_what_grounding_lets_it_choose(organ_gate):
    batch = made_batch(CONFIG)
    batch.in_body[:, ::3] = False
    batch.has_organs[1] = False
    batch.sentence_organs[:] = False
    batch.sentence_organs[0, :, 2] = True
    batch.sentence_organs[1, :, 7] = True
    batch.sentence_organs[2] = True  # names none
    batch.organs[0, :, 2] = torch.linspace(-1, 1, CONFIG.patches).clamp(min=0)
    batch.organs[..., 2] *= batch.in_body  # an organ lies in the body
    method = make("asap", align_over="batch", align_from="stem", align_on="all", organ_gate=organ_gate)
    patches, named = method.alignment.gate(batch, None)
    for sentence in range(3):
        for volume in range(3):
            allowed = (patches[volume].float() @ named[sentence, 0].float()) > 0
            free = not organ_gate or sentence == 2 or volume == 1
            expected = batch.in_body[volume] if free else batch.organs[volume, :, (2, 7)[sentence]] > 0
            assert torch.equal(allowed, expected), (sentence, volume)


def test_unknown_options_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="selecter.*switches are"):
        make("asap", selecter="fixed")
    with pytest.raises(ValueError, match="align_over 'all': there are report, batch"):
        make("asap", align_over="all")
    with pytest.raises(ValueError, match="unknown fidelity"):
        make("asap", fidelity="exact")


GOLDEN = {"reconstruct": 0.4352496564388275, "organs": 6.277266025543213, "align": 2.362438917160034, "words": 6.622631549835205}


def test_golden_first_step():
    losses = {k: v.item() for k, v in make("asap")(made_batch(CONFIG)).items()}
    for name, value in GOLDEN.items():
        assert losses[name] == pytest.approx(value, rel=1e-4), (
            f"loss {name} of the first step moved: {losses}. A refactor must not move it; if you meant to change the mathematics, "
            "write the new numbers into GOLDEN and say why in LOG.md"
        )


def test_the_losses_of_the_recipe_are_those_of_the_objectives():
    method, batch = make("mae"), made_batch(CONFIG)
    from asapkit.masking import hidden_patches, visible_patches
    from asapkit.vit3d import patchify

    visible = visible_patches(batch.patch_order, visible=CONFIG.visible)
    predicted, _ = method.decoder(method.encoder(batch.image, visible), visible)
    expected = objectives.reconstruction(predicted, patchify(batch.image, CONFIG.patch), hidden_patches(visible, CONFIG.patches))
    assert method(batch)["reconstruct"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_batch_that_states_nothing_leaves_the_graph_whole():
    method, batch = make("asap", align_over="batch", align_from="stem_and_last", align_on="all", align_only="positive"), made_batch(CONFIG)
    batch.sentence_positive[:] = False
    losses = method(batch)
    assert losses["align"].item() == pytest.approx(
        method.alignment.prior(method.alignment.selector(torch.zeros(3, 1, 48)), torch.zeros(3, 1).bool()).item(), abs=1e-6
    )
    sum(losses.values()).backward()
    aligning = ("alignment.image", "alignment.last", "alignment.text")
    assert all(p.grad is not None for n, p in method.named_parameters() if n.startswith(aligning))


@pytest.mark.parametrize(
    ("option", "says"), [({"restore": -1}, "restore -1"), ({"temperature": 0.0}, "temperature 0"), ({"organ_layer": 7}, "organ_layer 7")]
)
def test_options_out_of_range_are_named(option, says):
    with pytest.raises(ValueError, match=says):
        make("asap", **option)


def test_simcrop_is_asap_without_organs_a_token_of_the_selected_patches_and_a_learned_k():
    batch = made_batch(CONFIG)
    simcrop, asap_ = make("simcrop"), make("asap", aki=False, slf=False, selector="fixed", fixed_k=CONFIG.top_k[1], prior=0.0)
    simcrop.load_state_dict(asap_.state_dict())
    ours, theirs = simcrop(batch), asap_(batch)
    assert {name: value.item() for name, value in ours.items()} == {name: theirs[name].item() for name in ours}
    similarity, k = simcrop.match(simcrop.aligned(batch.image[:1])[0], ["A nodule in the left lung."])
    assert similarity.shape == (1, CONFIG.patches) and k.tolist() == [round(CONFIG.top_k[1] * CONFIG.patches / CONFIG.visible)]


@pytest.mark.parametrize("align_over", ["report", "batch"])
def test_a_positive_sentence_that_weighs_more_moves_the_loss_towards_its_own(align_over):
    batch = made_batch(CONFIG)
    batch.sentence_positive[:, 1:] = False
    by_weight = [make("simcrop", align_over=align_over, positive_weight=w)(batch)["align"].item() for w in (1e-4, 1.0, 3.0, 1e4)]
    others, alone = by_weight[0], by_weight[-1]
    assert abs(others - alone) > 1e-2
    assert by_weight[1] == pytest.approx((3 * others + alone) / 4, rel=1e-2) and by_weight[2] == pytest.approx((others + alone) / 2, rel=1e-2)


def test_mrm_sees_half_the_resolution_that_it_restores():
    method, batch = make("mrm", norm_pixels=False).eval(), made_batch(CONFIG)
    fine = torch.ones(1, 1, 2, 2, 2)
    fine[..., 1::2] = -1  # adds nothing to the mean of any 2 x 2 x 2 voxels
    other = replace(batch, image=batch.image + 0.3 * fine.repeat(1, 1, *(n // 2 for n in CONFIG.crop)))
    assert torch.allclose(method.encoder.tokens(other.image), method.encoder.tokens(batch.image), atol=1e-4)
    one, two = method(batch), method(other)
    assert one["words"].item() == pytest.approx(two["words"].item(), rel=1e-4)
    assert two["reconstruct"].item() == pytest.approx(one["reconstruct"].item() + 0.3**2, abs=0.01), "what is restored has the whole resolution"


def test_mrm_words_stand_on_the_mean_of_the_visible_patches_and_hidden_ones_are_not_told():
    method, batch = make("mrm").eval(), made_batch(CONFIG)
    hidden = method.blanks.hidden(batch)
    assert hidden.sum(1).tolist() == [12, 12, 12]  # half of 24
    other = replace(batch, report_tokens=torch.where(hidden, batch.report_tokens.flip(0), batch.report_tokens))
    assert torch.equal(method.told(batch), method.told(other))
    latent = method.encoder(batch.image, visible_of(batch, CONFIG))
    keys = torch.stack([method.image(latent[:, 1 + n]) for n in range(CONFIG.visible)]).mean(0)
    logits = method.words(method.told(batch) + keys[:, None], batch.report_real, hidden)
    expected = torch.nn.functional.cross_entropy(logits, batch.report_tokens[hidden] - 1996)
    assert method(batch)["words"].item() == pytest.approx(expected.item(), rel=1e-5)
    outside = replace(batch, report_tokens=torch.full_like(batch.report_tokens, 29_000))  # words that the corpus did not have
    assert torch.isfinite(method.told(outside)).all() and method(outside)["words"].item() == 0


def test_m3ae_restores_patches_with_the_report_and_words_with_the_volume():
    method, batch = make("m3ae").eval(), made_batch(CONFIG)
    visible = visible_of(batch, CONFIG)
    other_report = replace(batch, report_tokens=batch.report_tokens.roll(1, 0))
    patches = patchify(batch.image, CONFIG.patch)
    unseen = hidden_patches(visible, CONFIG.patches).unsqueeze(-1)
    other_image = replace(batch, image=unpatchify(torch.where(unseen, -patches, patches), CONFIG.grid, CONFIG.patch))
    latent = method.latent(batch, visible)
    assert torch.equal(latent, method.latent(other_image, visible)), "what is hidden is not seen"
    assert not torch.allclose(latent, method.latent(other_report, visible), atol=1e-4)
    assert method(batch)["words"].item() != method(other_image)["words"].item(), "words see the whole volume"


def test_m3ae_never_calls_two_volumes_of_one_report_a_mismatch():
    method, batch = make("m3ae"), made_batch(CONFIG, volumes=6)
    batch.report_order[:, 0] = torch.tensor([0.0, 0.9, 0.0, 0.9, 0.0, 0.9])
    batch.report_tokens[4:] = batch.report_tokens[0]
    tokens, _, own = method.shown(batch)
    assert own.tolist() == [False, True, False, True, False, True]
    for n in range(6):
        assert torch.equal(tokens[n], batch.report_tokens[n]) == bool(own[n])
    batch.report_tokens[:] = batch.report_tokens[0].clone()
    assert method.shown(batch)[2].all()
    with pytest.raises(ValueError, match="exchange 1"):
        make("m3ae", exchange=1.0)
    with pytest.raises(ValueError, match="word_share 0"):
        make("m3ae", word_share=0.0)


@pytest.mark.slow
def test_whether_an_image_and_a_report_match_can_be_learned():
    """With volumes as different as their reports, the loss falls well below a coin's, .69."""
    method, batch = make("m3ae", text_memory=True), made_batch(CONFIG, volumes=6)
    batch.image[:] = batch.image * 0.1 + torch.linspace(-0.9, 0.9, 6).view(6, 1, 1, 1, 1)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=2e-3)
    g, losses = torch.Generator().manual_seed(0), []
    for _ in range(120):
        batch.report_order[:, 0] = torch.rand(6, generator=g)
        tokens, real, own = method.shown(batch)
        image, text = method.entered("image", method.encoder(batch.image)), method.entered("text", method.text(tokens, real))
        loss = objectives.matching(method.judged(text, real, image), own)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[:10]) / 10 > 0.6 > 0.45 > sum(losses[-20:]) / 20
