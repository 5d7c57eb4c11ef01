"""Rows of measurements against what they may cost, as a table, as JSON and as an SVG picture."""

import dataclasses
import html
import json
import os
import platform
import statistics


@dataclasses.dataclass
class Row:
    """One measured quantity. `values` has one figure for each round; the median counts.

    `limit` is what it may be: at most, or with `at_least` at least. Without a limit the row only informs.
    """

    name: str
    unit: str
    values: list
    limit: float | None = None
    at_least: bool = False

    @property
    def median(self):
        return statistics.median(self.values)

    @property
    def holds(self):
        if self.limit is None:
            return None
        return self.median >= self.limit if self.at_least else self.median <= self.limit

    @property
    def share(self):
        """How much of what is allowed is used: 1 is the limit, less is better."""
        if self.limit is None:
            return None
        return self.limit / self.median if self.at_least else self.median / self.limit


def number(value):
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine():
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "CPU")
    return f"{os.cpu_count()} cores of {model}, Linux {platform.release()}"


def table(title, notes, rows):
    lines = [title, machine(), *notes, ""]
    cells = [("", "median", "spread", "allowed", "")]
    for row in rows:
        allowed = "" if row.limit is None else f"{'>=' if row.at_least else '<='} {number(row.limit)} {row.unit}"
        verdict = {None: "", True: "holds", False: "MISSES"}[row.holds]
        spread = f"{number(min(row.values))} to {number(max(row.values))}" if len(row.values) > 1 else ""
        cells.append((row.name, f"{number(row.median)} {row.unit}", spread, allowed, verdict))
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    for line in cells:
        lines.append("  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))).rstrip())
    return "\n".join(lines) + "\n"


def picture(title, notes, rows):
    """Bars of the share that each row uses of what is allowed; the line at 1 is the limit."""
    limited = [row for row in rows if row.limit is not None]
    left, right, width, bar, gap, top = 430, 150, 520, 20, 12, 84
    most = max([1.25] + [min(row.share, 2.0) for row in limited])
    height = top + len(limited) * (bar + gap) + 40
    total = left + width + right
    text = lambda x, y, words, extra="": f'<text x="{x}" y="{y}" {extra}>{html.escape(words)}</text>'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{height}" viewBox="0 0 {total} {height}" '
        'font-family="sans-serif" font-size="13" fill="#222">',
        f'<rect width="{total}" height="{height}" fill="#fff"/>',
        text(16, 26, title, 'font-size="17" font-weight="bold"'),
        text(16, 48, f"{machine()}. {'; '.join(notes)}", 'fill="#666" font-size="12"'),
    ]
    for index, row in enumerate(limited):
        y = top + index * (bar + gap)
        length = min(row.share, most) / most * width
        colour = "#3b7d4f" if row.holds else "#b3372f"
        allowed = f"{number(row.median)} {row.unit} of {'at least' if row.at_least else 'at most'} {number(row.limit)}"
        out.append(text(left - 10, y + 15, row.name, 'text-anchor="end"'))
        out.append(f'<rect x="{left}" y="{y}" width="{max(length, 1):.1f}" height="{bar}" fill="{colour}"/>')
        out.append(text(f"{left + max(length, 1) + 6:.1f}", y + 15, allowed, 'fill="#444" font-size="12"'))
    limit = left + width / most
    bottom = top + len(limited) * (bar + gap)
    out.append(f'<line x1="{limit:.1f}" y1="{top - 10}" x2="{limit:.1f}" y2="{bottom}" stroke="#222" stroke-dasharray="4 3"/>')
    out.append(text(f"{limit:.1f}", bottom + 18, "allowed", 'text-anchor="middle"'))
    out.append("</svg>")
    return "\n".join(out) + "\n"


def write(directory, name, title, notes, rows):
    os.makedirs(directory, exist_ok=True)
    text = table(title, notes, rows)
    figures = {"title": title, "machine": machine(), "notes": notes, "rows": [dataclasses.asdict(row) for row in rows]}
    for ending, content in ("txt", text), ("svg", picture(title, notes, rows)), ("json", json.dumps(figures, indent=1) + "\n"):
        with open(os.path.join(directory, f"{name}.{ending}"), "w") as file:
            file.write(content)
    print(text)
    print(f"written to {directory}/{name}.txt, .svg and .json")
