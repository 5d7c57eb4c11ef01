"""Rows of measurements and their limits, as a table, as JSON and as an SVG chart."""

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
        """The used share of the limit: 1 is the limit, less is better."""
        if self.limit is None:
            return None
        if not self.limit:
            return 2.0 if self.median else 0.0
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


def chart(title, notes, rows):
    """Bars of the share of its limit that each row uses; the line at 1 is the limit."""
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


# One for each participant: dark for the first, which is measured; the others by where their code runs.
COLOURS = ["#1f5f3b", "#7a869a", "#9aa5b5", "#b9c1cd", "#d9a15b", "#e0b47c", "#e6c79d", "#ecd9be"]


def seconds(value):
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def groups_table(title, notes, names, measured):
    """Medians in seconds: a line for each workload, a column for each participant."""
    cells = [("", *names)]
    for (workload, state), figures in measured.items():
        medians = [statistics.median(figures[name]) if name in figures else None for name in names]
        cells.append((f"{workload}, {state}", *("" if median is None else seconds(median) for median in medians)))
    widths = [max(len(line[column]) for line in cells) for column in range(len(names) + 1)]
    lines = [title, machine(), *notes, ""]
    for line in cells:
        lines.append("  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))).rstrip())
    return "\n".join(lines) + "\n"


def groups_chart(title, notes, names, measured):
    """One panel for each workload: a bar for each participant, cut off at six times the first one's."""
    columns, width, name_width, bar, gap = 3, 390, 130, 13, 3
    panels = [(f"{workload}, {state}", figures) for (workload, state), figures in measured.items()]
    panel_height = 30 + len(names) * (bar + gap) + 14
    rows = -(-len(panels) // columns)
    total, top = 16 + columns * width, 40 + 18 * (len(notes) + 1)
    height = top + rows * panel_height + 8
    text = lambda x, y, words, extra="": f'<text x="{x:.1f}" y="{y:.1f}" {extra}>{html.escape(words)}</text>'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{height}" viewBox="0 0 {total} {height}" '
        'font-family="sans-serif" font-size="11" fill="#222">',
        f'<rect width="{total}" height="{height}" fill="#fff"/>',
        text(16, 26, title, 'font-size="17" font-weight="bold"'),
    ]
    out += [text(16, 46 + 18 * index, line, 'fill="#666" font-size="12"') for index, line in enumerate([machine(), *notes])]
    for index, (heading, figures) in enumerate(panels):
        left, y = 16 + index % columns * width, top + index // columns * panel_height
        out.append(text(left, y + 18, heading, 'font-size="13" font-weight="bold"'))
        medians = {name: statistics.median(figures[name]) for name in names if name in figures}
        most = min(max(medians.values()), 6 * medians.get(names[0], max(medians.values())))
        room = width - name_width - 80
        for place, name in enumerate(name for name in names if name in medians):
            at, median = y + 26 + place * (bar + gap), medians[name]
            length = max(min(median / most, 1) * room, 1)
            colour = COLOURS[names.index(name) % len(COLOURS)]
            weight = 'font-weight="bold"' if name == names[0] else ""
            out.append(text(left + name_width - 6, at + 10, name, f'text-anchor="end" {weight}'))
            out.append(f'<rect x="{left + name_width}" y="{at}" width="{length:.1f}" height="{bar}" fill="{colour}"/>')
            if median > most:
                # A cut: the bar would be longer than its panel.
                out.append(f'<path d="M{left + name_width + length - 9:.1f} {at + bar + 2} l5 {-bar - 4}" stroke="#fff" stroke-width="3"/>')
            out.append(text(left + name_width + length + 5, at + 10, seconds(median), weight))
    out.append("</svg>")
    return "\n".join(out) + "\n"


def write_groups(directory, name, title, notes, names, measured, shown=None):
    """`measured`: (workload, state) -> participant -> seconds of each round. The chart has the workloads in `shown`, or all."""
    os.makedirs(directory, exist_ok=True)
    in_chart = {each: measured[each] for each in shown or measured if each in measured}
    figures = {"title": title, "machine": machine(), "notes": notes, "seconds": {", ".join(each): figures for each, figures in measured.items()}}
    text = groups_table(title, notes, names, measured)
    for ending, content in ("txt", text), ("svg", groups_chart(title, notes, names, in_chart)), ("json", json.dumps(figures, indent=1) + "\n"):
        with open(os.path.join(directory, f"{name}.{ending}"), "w") as file:
            file.write(content)
    print(text)
    print(f"written to {directory}/{name}.txt, .svg and .json")


def write(directory, name, title, notes, rows):
    os.makedirs(directory, exist_ok=True)
    text = table(title, notes, rows)
    figures = {"title": title, "machine": machine(), "notes": notes, "rows": [dataclasses.asdict(row) for row in rows]}
    for ending, content in ("txt", text), ("svg", chart(title, notes, rows)), ("json", json.dumps(figures, indent=1) + "\n"):
        with open(os.path.join(directory, f"{name}.{ending}"), "w") as file:
            file.write(content)
    print(text)
    print(f"written to {directory}/{name}.txt, .svg and .json")
