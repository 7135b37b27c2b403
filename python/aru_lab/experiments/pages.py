"""HTML pages of reports: one file with its style, pictures and remarks inside."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from aru_lab.experiments.pictures import Picture
from aru_lab.experiments.tables import made_by

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #111; }
img { display: block; width: 100%; max-width: 44rem; margin: 1rem auto; background: #fff; }
table { border-collapse: collapse; width: 100%; font-size: 0.85rem; }
th, td { text-align: left; vertical-align: top; padding: 0.3rem 0.5rem; border-bottom: 1px solid #ccc; }
td.verdict { font-weight: 600; }
.holds { color: #0072B2; } .fails { color: #D55E00; } .open { color: #555; }
.small, figcaption { font-size: 0.9rem; color: #333; }
"""


def page(title: str, parts: Iterable[str], remarks: Sequence[str], command: str) -> str:
    """A page of HTML parts, then the remarks and how it was made; title and remarks are text."""
    told = f"<h2>Remarks</h2><ul>{''.join(f'<li>{escape(remark)}</li>' for remark in remarks)}</ul>"
    lines = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        *parts,
        *([told] if remarks else []),
        f'<p class="small">{escape(made_by(command))}</p></body></html>\n',
    ]
    return "\n".join(lines)


def figures_of(pictures: Iterable[Picture]) -> list[str]:
    """The HTML of figures with headings and captions; where one is missing, the reason."""
    parts = []
    for picture in pictures:
        parts.append(f'<h2 id="figure-{escape(picture.number)}">{escape(picture.heading)}</h2>')
        if picture.file is None:
            parts.append(f"<p>Not drawn: {escape(picture.reason)}</p>")
            continue
        content, caption = base64.b64encode(picture.file.read_bytes()).decode(), escape(picture.caption)
        parts.append(f'<figure><img alt="{caption}" src="data:image/png;base64,{content}">')
        parts.append(f"<figcaption>{caption}</figcaption></figure>")
    return parts
