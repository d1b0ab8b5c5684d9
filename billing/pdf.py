"""A paper as a PDF: pages of A4 with selectable text, made by ReportLab alone.

Noto Sans is embedded (Latin, Greek, Cyrillic); Chinese, Japanese and Korean name fonts of Adobe's, for which readers
take what their system has. What neither has is printed as a question mark.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from xml.sax.saxutils import escape

import fontpkg
from reportlab.lib import colors
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Flowable, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from billing.paper import Paper

FONT = "NotoSans"
MARGIN = 18 * mm
WIDTH = A4[0] - 2 * MARGIN
GREY = colors.HexColor("#5a6472")
LINE = colors.HexColor("#c8ced6")

TEXT = ParagraphStyle("text", fontName=FONT, fontSize=9, leading=13)
NUMBER = ParagraphStyle("number", parent=TEXT, alignment=TA_RIGHT)
SMALL = ParagraphStyle("small", parent=TEXT, fontSize=8, leading=11, textColor=GREY)
SMALL_NUMBER = ParagraphStyle("small number", parent=SMALL, alignment=TA_RIGHT)
TITLE = ParagraphStyle("title", parent=TEXT, fontSize=20, leading=26)
TOTAL = ParagraphStyle("total", parent=NUMBER, fontSize=12, leading=17)
_RULES = TableStyle([("LINEBELOW", (0, 0), (-1, -1), 0.4, LINE), ("VALIGN", (0, 0), (-1, -1), "TOP")])
_BARE = TableStyle([("LEFTPADDING", (0, 0), (-1, -1), 0), ("VALIGN", (0, 0), (-1, -1), "TOP")])

# By the first code point of the block: Adobe's fonts for what Noto Sans lacks.
_BLOCKS = [
    (0x1100, 0x11FF, "HYSMyeongJo-Medium"),
    (0x3000, 0x303F, "STSong-Light"),
    (0x3040, 0x30FF, "HeiseiMin-W3"),
    (0x3130, 0x318F, "HYSMyeongJo-Medium"),
    (0x4E00, 0x9FFF, "STSong-Light"),
    (0xAC00, 0xD7A3, "HYSMyeongJo-Medium"),
    (0xFF00, 0xFFEF, "STSong-Light"),
]


def render(paper: Paper) -> bytes:
    _letters()
    buffer = io.BytesIO()
    name = f"{paper.title} {paper.number}"
    document = SimpleDocTemplate(
        buffer, pagesize=A4, leftMargin=MARGIN, rightMargin=MARGIN, topMargin=MARGIN, bottomMargin=MARGIN,
        title=name, author=paper.seller[0] if paper.seller else "",
    )  # fmt: skip

    def decorate(canvas: Canvas, _document: object) -> None:
        _decorate(canvas, paper, name)

    document.build(_body(paper), onFirstPage=decorate, onLaterPages=decorate)
    return buffer.getvalue()


def _body(paper: Paper) -> list[Flowable]:
    head = [[_text(f"{paper.title} {paper.number}", TITLE), [_text(line, SMALL_NUMBER) for line in paper.seller]]]
    facts = [[_text(label, SMALL), _text(value)] for label, value in paper.facts]
    parties = [
        [[_text("For", SMALL), *(_text(line) for line in paper.buyer)], Table(facts, [25 * mm, None], style=_BARE)]
    ]
    return [
        Table(head, [WIDTH * 0.6, WIDTH * 0.4], style=_BARE),
        Spacer(0, 10 * mm),
        Table(parties, [WIDTH / 2, WIDTH / 2], style=_BARE),
        Spacer(0, 8 * mm),
        _rows(paper),
        Spacer(0, 5 * mm),
        Table([[_text(label, NUMBER), _text(amount, TOTAL)] for label, amount in paper.totals],
              [WIDTH - 50 * mm, 50 * mm], style=[("VALIGN", (0, 0), (-1, -1), "MIDDLE")]),
        Spacer(0, 5 * mm),
        *(_text(note, SMALL) for note in paper.notes),
    ]  # fmt: skip


def _rows(paper: Paper) -> Table:
    """The columns of numbers are as wide as their longest, what words get is shared."""
    words = paper.table.words
    rows: list[list[Flowable]] = [
        [_text(cell, SMALL if at < words else SMALL_NUMBER) for at, cell in enumerate(paper.table.header)]
    ]
    rows += [[_text(cell, TEXT if at < words else NUMBER) for at, cell in enumerate(row)] for row in paper.table.rows]
    widths = [_widest(paper, at) for at in range(len(paper.table.header))]
    # The last column of words takes what is left, and breaks its lines.
    widths[words - 1] = WIDTH - sum(widths) + widths[words - 1]
    return Table(rows, widths, repeatRows=1, style=_RULES)


def _widest(paper: Paper, at: int) -> float:
    cells = [paper.table.header[at], *(row[at] for row in paper.table.rows)]
    return max(pdfmetrics.stringWidth(cell, FONT, TEXT.fontSize) for cell in cells) + 13


def _decorate(canvas: Canvas, paper: Paper, name: str) -> None:
    canvas.setFont(FONT, 8)
    canvas.setFillColor(GREY)
    canvas.drawRightString(A4[0] - MARGIN, 10 * mm, f"{name}, page {canvas.getPageNumber()}")
    if paper.watermark:
        canvas.saveState()
        canvas.setFillColor(colors.HexColor("#b42318"), alpha=0.16)
        canvas.translate(A4[0] / 2, A4[1] / 2)
        canvas.rotate(45)
        canvas.setFont(FONT, 52)
        canvas.drawCentredString(0, 0, paper.watermark)
        canvas.restoreState()


def _text(text: str, style: ParagraphStyle = TEXT) -> Paragraph:
    return Paragraph("".join(_runs(text)), style)


def _runs(text: str) -> Sequence[str]:
    marked = []
    for font, letters in groupby(text, key=_font_of):
        run = escape("".join(letters))
        if font is None:
            marked.append("?" * len(run))
        else:
            marked.append(run if font == FONT else f'<font name="{font}">{run}</font>')
    return marked


def _font_of(letter: str) -> str | None:
    if letter in _letters():
        return FONT
    return next((font for first, last, font in _BLOCKS if first <= ord(letter) <= last), None)


@cache
def _letters() -> frozenset[str]:
    """Register the fonts, once in a process; the letters that are embedded."""
    font = TTFont(FONT, str(fontpkg.path("Noto Sans")))
    pdfmetrics.registerFont(font)
    for name in {name for *_, name in _BLOCKS}:
        pdfmetrics.registerFont(UnicodeCIDFont(name))
    return frozenset(map(chr, font.face.charToGlyph))
