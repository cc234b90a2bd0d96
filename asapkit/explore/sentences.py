"""Ask a trained method where it sees a sentence: the map, the patches that the selector takes, what lies there, and how right that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from asapkit import examples
from asapkit.explore import layers
from asapkit.explore.answers import Answers, check, evidence_voxel
from asapkit.explore.panel import Report, Slices, chooser, note, report_of, windows
from asapkit.explore.sheet import Look, Sheet, crop_of
from asapkit.planes import WINDOWS
from asapkit.types import Refused

COLUMNS = "Selected patches, best first: where the middle lies, what fills most of it. Click a row to go there."


def sentence_view(method, store, id: str, *, sentence: str, k: int = 0, window: str = "lung", organs: bool = False, rank: int = 1, caption: str = ""):
    """Where the method sees a sentence in a volume, nothing hidden, as a PIL image: three planes through the selected patch of that `rank`.

    k: how many patches are selected; 0 leaves it to the selector. Raises: ValueError for an unknown window, k below 0 or rank below 1; Refused
    for a sentence without a word to look for, an unknown volume, a method that aligns no sentences, or a store of another contract.
    """
    if window not in WINDOWS:
        raise ValueError(f"unknown window {window!r}; there are {', '.join(WINDOWS)}")
    if k < 0 or rank < 1:
        raise ValueError(f"k {k}, rank {rank}: give k of at least 0 (0: the selector's own) and rank of at least 1 (1: the best patch)")
    answers = Answers(method, store)
    answer = answers.ask(id, sentence, k=k)
    page = Sheet(answers.crop(id)).image(answer.voxel(min(rank, len(answer.top))), Look(window, organs), found=answer)
    return layers.titled(page, f"“{answer.sentence}”", *filter(None, (f"{id} · {answer.told()}", answer.remark, caption)))


def compare_view(methods: Mapping[str, object], store, *, ids: Sequence[str], sentence: str, window: str = "lung"):
    """`sentence_view` of every method and volume, one below the other: the static twin of `compare`."""
    from PIL import Image

    if not methods or not ids:
        raise Refused("nothing to compare; give at least one run and one volume")
    for name, method in methods.items():
        try:
            check(method, store)
        except Refused as error:
            raise Refused(f"run {name}: {error}") from None
    pages = [sentence_view(m, store, id, sentence=sentence, window=window, caption=f"run: {name}") for name, m in methods.items() for id in ids]
    whole = Image.new("RGB", (max(p.width for p in pages), sum(p.height + 12 for p in pages) - 12), "white")
    top = 0
    for page in pages:
        whole.paste(page, (0, top))
        top += page.height + 12
    return whole


class Explorer:
    """The widget of one method and one volume at a time; `box` is what is shown.

    `asked(sentence)` and `moved(voxel)` are called when the reader asks or moves here, so that another panel can follow.
    """

    def __init__(self, method, store, *, id: str = "", name: str = "", sentence: str = ""):
        import ipywidgets

        self.store, self.answer, self.crop = store, None, None
        self.asked, self.moved = (lambda _: None), (lambda _: None)
        self.volume, self.window, self.told, self.numbers = chooser(store, id or examples.first(store)), windows(), note(), ipywidgets.HTML()
        self.organs = ipywidgets.Checkbox(value=False, description="organs", indent=False, layout={"width": "90px"})
        self.k = ipywidgets.IntText(value=0, description="K (0: selector)", layout={"width": "190px"}, style={"description_width": "110px"})
        self.typed = ipywidgets.Text(description="sentence", placeholder="type and press Enter", continuous_update=False, layout={"width": "98%"})
        self.patches = ipywidgets.Select(options=[], rows=6, layout={"width": "98%"})
        self.typed.add_class("asapkit-typed")
        self.patches.add_class("asapkit-patches")
        self.numbers.add_class("asapkit-numbers")
        self.slices = Slices(lambda: Look(self.window.value, self.organs.value), moved=self._moved)
        self.report = Report(self.ask, height="520px")
        self.evidence = ipywidgets.Button(description="go to the truth", icon="crosshairs", disabled=True, layout={"width": "98%"})
        self.evidence.add_class("asapkit-evidence")
        self.answers, self.unfit = None, ""
        try:
            self.answers = Answers(method, store)
        except Refused as error:
            self.unfit = str(error)
        self._jumping = False
        self.box = self._arranged(name)
        self.open()
        if sentence:
            self.typed.value = sentence
        self.volume.observe(self.open, "value")
        self.typed.observe(self._ask, "value")
        self.k.observe(self._ask, "value")
        self.patches.observe(self._jump, "index")
        self.evidence.on_click(lambda _: self.slices.move(evidence_voxel(self.answer.truth)))
        for control in (self.window, self.organs):
            control.observe(lambda _: self.slices.draw(), "value")
        self._ask()

    def _arranged(self, name: str):
        import ipywidgets

        top = ipywidgets.HBox([self.volume, self.window, self.organs, self.k])
        left = ipywidgets.VBox(
            [self.numbers, self.told, self.slices.box, ipywidgets.Label(COLUMNS), self.patches], layout={"flex": "3 1 0%", "min_width": "0"}
        )
        right = ipywidgets.VBox([self.report.box, self.evidence], layout={"flex": "1 1 0%", "min_width": "240px", "margin": "0 0 0 8px"})
        title = [ipywidgets.HTML(f"<b>{escape(name)}</b>")] if name else []
        return ipywidgets.VBox([*title, top, self.typed, ipywidgets.HBox([left, right])])

    def open(self, _=None) -> None:
        """Another volume: its report, its planes, and the first sentence that says something, best one with a known truth."""
        self.answer = None
        try:
            self.crop = self.answers.crop(self.volume.value) if self.answers else crop_of(self.store, self.volume.value)
            parts = report_of(self.store, self.volume.value)
        except Refused as error:
            self._say(str(error), crop=None)
            self.report.fill([])
            return
        self.report.fill(parts or [("no report: type a sentence above", ())])
        said = [pair for _, sentences in parts for pair in sentences]
        best = next((s for s, known in said if known), said[0][0] if said else "")
        if best == self.typed.value:
            self._ask()
        else:
            self.typed.value = best
        if not best:
            self._say("This volume has no report. Type a sentence to look for it.", crop=self.crop)

    def ask(self, sentence: str) -> None:
        """Looks for a sentence; the same one is not looked for again."""
        self.typed.value = sentence

    def _ask(self, _=None) -> None:
        if self.crop is None or not self.typed.value.strip():
            return
        self.report.highlight(self.typed.value)
        if self.answers is None:
            self._say(self.unfit, crop=self.crop)
            return
        try:
            self.answer = self.answers.ask(self.volume.value, self.typed.value, k=max(self.k.value, 0))
        except Refused as error:
            self._say(str(error), crop=self.crop)
            return
        self.told.value = escape(self.answer.remark)
        self.numbers.value = f"<i>“{escape(self.answer.sentence)}”</i><br>{escape(self.answer.told())}"
        self._list()
        self.slices.show(self.crop, voxel=self.answer.voxel(), found=self.answer)
        self.evidence.disabled = self.answer.truth is None
        self.asked(self.typed.value)

    def _say(self, why: str, *, crop) -> None:
        """No answer: the planes alone, and why."""
        self.answer, self.crop = None, crop
        self.told.value, self.numbers.value = escape(why), ""
        self.evidence.disabled = True
        self._list()
        self.slices.show(crop)

    def _list(self) -> None:
        self._jumping = True
        self.patches.options = [] if self.answer is None else [row_text(row) for row in self.answer.rows.itertuples()]
        self.patches.index = 0 if self.patches.options else None
        self._jumping = False

    def _jump(self, change) -> None:
        if not self._jumping and self.answer is not None and change["new"] is not None:
            self.slices.move(self.answer.voxel(change["new"] + 1))

    def _moved(self) -> None:
        """Marks the row of the patch that the crosshair has entered, or none."""
        if self.answer is not None:
            rank = self.answer.rank_at(self.slices.voxel)
            self._jumping = True
            self.patches.index = rank - 1 if rank else None
            self._jumping = False
        self.moved(self.slices.voxel)


def row_text(row) -> str:
    """A selected patch in one line: rank, similarity, organ that fills most of it, where its middle lies."""
    organ = f"{row.organ.replace('_', ' ')} {row.share:.0%}" if row.organ else "no organ"
    return f"{row.rank:>3}   cosine {row.similarity:5.2f}   x {row.x_mm:z4.0f}   y {row.y_mm:z4.0f}   z {row.z_mm:z4.0f} mm   {organ}"


def sentence_explorer(method, store, *, id: str = "", sentence: str = ""):
    """A widget to ask where a sentence is seen: click one of the report, or type one and press Enter.

    The map lies over three linked planes, the selected patches are framed there and listed (rank, similarity, organ, mm); a click on a row
    jumps to the patch. Where the truth is known it is outlined and scored. Its static twin is `sentence_view`. What cannot be shown says why
    inside the widget.
    """
    return Explorer(method, store, id=id, sentence=sentence).box


def compare(methods: Mapping[str, object], store, *, ids: Sequence[str] = ("",), sentence: str = ""):
    """Runs (name -> method) or volumes beside each other: a sentence asked in one panel is asked in all, planes of the same volume move together.

    Its static twin is `compare_view`.
    """
    import ipywidgets

    panels = [Explorer(m, store, id=id, name=name, sentence=sentence) for name, m in methods.items() for id in ids]
    busy = {"now": False}

    def follow(leader: Explorer, act) -> None:
        """The others do what one did, and what they do in turn is not followed."""
        if busy["now"]:
            return
        busy["now"] = True
        for panel in panels:
            if panel is not leader:
                act(panel)
        busy["now"] = False

    def same_place(leader: Explorer, panel: Explorer, voxel) -> None:
        if panel.volume.value == leader.volume.value:
            panel.slices.move(voxel)

    for panel in panels:
        panel.asked = lambda text, leader=panel: follow(leader, lambda other: other.ask(text))
        panel.moved = lambda voxel, leader=panel: follow(leader, lambda other: same_place(leader, other, voxel))
        if not sentence and panel is not panels[0]:
            panel.ask(panels[0].typed.value)
    return ipywidgets.VBox([panel.box for panel in panels])
