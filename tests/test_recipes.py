"""What every recipe must hold, and ASAP's switches one by one."""

import inspect
from dataclasses import replace

import pytest
import torch
from made import made_batch

from asapkit import objectives
from asapkit.config import Config
from asapkit.masking import hidden_patches
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
    {"selector": "soft_topk"}, {"fusion": "paper"}, {"organ_groups": "grouped"}, {"organ_targets": "one_hot"}, {"organ_layer": -1},
    {"fidelity": "official"}, {"restore": 1, "align_over": "batch"},
    {"restore": 1, "align_over": "batch", "align_from": "stem", "align_only": "positive"},
    {"restore": 2, "align_over": "batch", "align_from": "stem", "align_on": "all", "organ_gate": True}, {"align_from": "stem", "align_on": "all"},
    {"restore": 2, "align_over": "batch", "align_from": "stem_and_last", "align_on": "all", "organ_gate": True}, {"align_from": "stem_and_last"},
    {"positive_weight": 4.0}, {"positive_weight": 4.0, "align_over": "batch"},
]  # fmt: skip
SIMCROP = [
    {"align_over": "batch", "align_from": "stem_and_last", "align_on": "all", "organ_gate": True, "restore": 2, "align_only": "positive"},
    {"fixed_k": 3, "align_from": "early", "encode": "sentence", "positive_weight": 4.0},
]
FORMS = [(r, {}) for r in recipes()] + [("asap", o) for o in ASAP[1:]] + [("simcrop", o) for o in SIMCROP] + [("m3ae", {"whole_words": False})]


@pytest.mark.parametrize(("recipe", "options"), FORMS)
def test_a_gradient_reaches_every_trainable_parameter(recipe, options):
    method = make(recipe, **options)
    sum(method(made_batch(CONFIG)).values()).backward()
    silent = [name for name, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)]
    # a key bias adds the same number to a softmax row, so its gradient is zero in exact arithmetic
    assert [name for name in silent if not name.endswith("key.bias")] == []


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


@pytest.mark.parametrize(("recipe", "options"), [(r, {}) for r in recipes()] + [("asap", {"align_over": "batch"}), ("asap", {"encode": "sentence"})])
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
    for name in set(joined) - {"match"}:  # which asks for another volume's report
        assert joined[name].item() == pytest.approx(sum(p[name].item() for p in parts) / 3, rel=1e-4), name


@pytest.mark.parametrize("recipe", ["asap", "simcrop"])
def test_exchanging_the_images_changes_the_contrast_over_images(recipe):
    method, batch = make(recipe, align_over="batch"), made_batch(CONFIG)
    swapped = replace(batch, image=batch.image.roll(1, 0), patch_order=batch.patch_order.roll(1, 0), in_body=batch.in_body.roll(1, 0))
    assert abs(method(batch)["align"].item() - method(swapped)["align"].item()) > 1e-4


@pytest.mark.parametrize("switch", sorted(asap.CORRECT))
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


@pytest.mark.parametrize("options", [{}, {"restore": 1}, {"ssa": False}, {"f_sim": "all_slots"}, {"align_from": "stem_and_last"}])
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
