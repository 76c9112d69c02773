"""A lineage as a picture: boxes from left to right, as SVG of our own; the same bytes for the same chain."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from html import escape

from harness.lineage.chain import Chain
from harness.lineage.steps import Stage

CHARACTERS = 24  # that a line of a box has room for
CHARACTER = 6.7  # how wide one is, in a fixed pitch of 11 px
MARGIN, PAD, LINE, TITLE, GAP, COLUMN_GAP, TOP = 24, 10, 15, 24, 18, 34, 76
WIDTH = int(CHARACTERS * CHARACTER) + 2 * PAD
OUTSIDE, MADE, DECIDES, WRONG = (
    ("#f2f4f6", "#9aa5b1"),
    ("#e8f1fb", "#3f7cbf"),
    ("#e9f7ef", "#2f855a"),
    ("#fde8e8", "#c53030"),
)
STYLE = (
    'text{font-family:system-ui,-apple-system,"Segoe UI","Helvetica Neue",Arial,"DejaVu Sans",sans-serif}'
    ".h{font-size:17px;font-weight:600;fill:#1f2933} .s{font-size:12px;fill:#5b6770}"
    # In a fixed pitch, so that what fits is known: a name may be all W.
    ' .t,.n,.d{font-size:11px;font-family:ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace}'
    " .t{font-size:12.5px;font-weight:600;fill:#1f2933}"
    " .n{fill:#334155} .d{fill:#7b8794} .w{font-size:12px;fill:#c53030}"
)


@dataclass
class _Box:
    title: str
    colours: tuple[str, str]
    lines: list[tuple[str, str]] = field(default_factory=list)  # class and text
    before: list[_Box] = field(default_factory=list)
    column: int = 0
    x: int = 0
    y: int = 0

    @property
    def height(self) -> int:
        return TITLE + LINE * len(self.lines) + PAD


def drawn(chain: Chain) -> str:
    """The picture as SVG."""
    boxes = _boxes(chain)
    for box in boxes:  # each after those that it follows
        box.column = max((each.column + 1 for each in box.before), default=0)
    width, height = _placed(boxes)
    wrong = [f"{each.where}: {each.what}" for each in chain.troubles]
    width = max(width, 640)
    bottom = height + (LINE + 4) * len(wrong)
    title = chain.pilot if chain.model is None else f"{chain.pilot}: model {chain.model.digest[:12]}"
    parts = [
        "<!-- Made by `pilot lineage`. -->",
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom}" width="{width}" '
        f'height="{bottom}" role="img" aria-labelledby="title">',
        f'<title id="title">{escape(title)}, from the sources on</title>',
        f"<style>{STYLE}</style>",
        '<defs><marker id="to" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#8a97a3"/></marker></defs>',
        f'<rect width="{width}" height="{bottom}" rx="12" fill="#ffffff"/>',
        _text(MARGIN, 32, "h", shortened(title, (width - 2 * MARGIN) // 16)),
        _text(MARGIN, 50, "s", shortened(_made_of(chain), (width - 2 * MARGIN) // 8)),
    ]
    parts += [_arrow(each, box) for box in boxes for each in box.before]
    parts += [line for box in boxes for line in _drawn(box)]
    parts += [
        _text(MARGIN, height + (LINE + 4) * number, "w", shortened(each, (width - 2 * MARGIN) // 8))
        for number, each in enumerate(wrong)
    ]
    return "\n".join([*parts, "</svg>", ""])


def shortened(text: str, room: int = CHARACTERS) -> str:
    """A text that fits, its middle left out; a character of double width takes the room of two."""
    shown = "".join(each if each.isprintable() else "?" for each in text)
    if _wide(shown) <= room:
        return shown
    head = _cut(shown, (room - 1) // 2)
    tail = _cut(shown[::-1], room - 1 - _wide(head))[::-1]
    return f"{head}…{tail}"


def _cut(text: str, room: int) -> str:
    taken = ""
    for each in text:
        if _wide(taken + each) > room:
            break
        taken += each
    return taken


def _wide(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)


def _made_of(chain: Chain) -> str:
    run = chain.run
    if run is None:
        return "the run is not on record here"
    where = {"here": "evidence/run.json", "commit": f"commit {run.name[:12]}", "mlflow": "MLflow"}[run.place]
    trees = ", ".join(f"{name} {tree[:8]}" for name, tree in sorted(run.trees.items()))
    return f"{run.origin} data; run of {run.at or 'an unknown time'} ({where}); git trees: {trees}"


def _boxes(chain: Chain) -> list[_Box]:
    """Every box after those that it follows."""
    sources: dict[str, _Box] = {}
    for each in chain.sources:
        title = f"{each.system or 'unknown system'}{f' ({each.kind})' if each.kind else ''}"
        box = sources.setdefault(each.system, _Box(title, OUTSIDE))
        box.lines += [("n", each.table), ("d", f"{each.rows:,} rows")]
    stages: dict[str, _Box] = {}
    reached: dict[str, set[str]] = {}
    for stage in chain.stages:
        above = {each.name for each in chain.stages if each.name in stages and {*each.outs} & {*stage.ins}}
        reached[stage.name] = above.union(*(reached[each] for each in above))
        # An arrow that another way tells as well would only cross the picture.
        direct = above - {far for each in above for far in reached[each]}
        before = [stages[name] for name in stages if name in direct]
        stages[stage.name] = _Box(stage.name, MADE, _lines(stage), before or [*sources.values()])
    found = [*sources.values(), *stages.values()]
    if chain.model is not None:
        packaged = stages.get("package") or (found[-1] if found else None)
        roles = ", ".join(chain.model.roles) or "decides nothing now"
        in_force = f"{chain.in_force.stage}: {roles}" if chain.in_force else "no control state"
        lines = [
            ("d", f"sha256 {chain.model.digest[:12]}"),
            ("n", f"{len(chain.model.features)} features" if chain.model.package else "package not here"),
            ("n", in_force),
        ]
        colours = DECIDES if chain.model.package else WRONG
        found.append(_Box("model", colours, lines, [packaged] if packaged else []))
    if chain.decided is not None:
        lines = [
            ("d", chain.decided.id),
            ("d", chain.decided.at[:19]),
            ("n", f"by the {chain.decided.served_by}"),
            ("n", f"{chain.decided.stage}, revision {chain.decided.revision}"),
        ]
        found.append(_Box("decision", DECIDES, lines, [found[-1]] if chain.model is not None else []))
    return found


def _lines(stage: Stage) -> list[tuple[str, str]]:
    lines = []
    for path, md5 in sorted(stage.outs.items()):
        lines += [("n", path), ("d", f"md5 {md5[:12]}")]
    if stage.params:
        lines.append(("n", "1 parameter" if len(stage.params) == 1 else f"{len(stage.params)} parameters"))
    return lines


def _placed(boxes: list[_Box]) -> tuple[int, int]:
    """Give each box its place; the size that all of them need."""
    columns = [
        [box for box in boxes if box.column == number]
        for number in range(1 + max((box.column for box in boxes), default=0))
    ]
    heights = [sum(box.height + GAP for box in column) for column in columns]
    tallest = max(heights, default=0)
    for number, column in enumerate(columns):
        y = TOP + (tallest - heights[number]) // 2
        for box in column:
            box.x, box.y = MARGIN + number * (WIDTH + COLUMN_GAP), y
            y += box.height + GAP
    return 2 * MARGIN + len(columns) * (WIDTH + COLUMN_GAP) - COLUMN_GAP, TOP + tallest + MARGIN


def _arrow(start: _Box, end: _Box) -> str:
    x1, y1 = start.x + WIDTH, start.y + start.height // 2
    x2, y2 = end.x, end.y + end.height // 2
    middle = (x1 + x2) // 2
    path = f"M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}"
    return f'<path d="{path}" fill="none" stroke="#8a97a3" stroke-width="1.5" marker-end="url(#to)"/>'


def _drawn(box: _Box) -> list[str]:
    fill, stroke = box.colours
    x, y = box.x + PAD, box.y + TITLE - 6
    parts = [
        f'<rect x="{box.x}" y="{box.y}" width="{WIDTH}" height="{box.height}" rx="8" fill="{fill}" '
        f'stroke="{stroke}" stroke-width="1.5"/>',
        _text(x, y, "t", shortened(box.title, CHARACTERS - 4)),
    ]
    parts += [
        _text(x, y + LINE * (at + 1), kind, shortened(text)) for at, (kind, text) in enumerate(box.lines)
    ]
    return parts


def _text(x: int, y: int, kind: str, text: str) -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(text)}</text>'
