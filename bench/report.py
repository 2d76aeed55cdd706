# SPDX-License-Identifier: BSD-3-Clause
"""The results of a benchmark as text, JSON, Markdown and a plot. Pure functions of the result.

What a benchmark's table says about itself is a Sheet; MOUNT is that of bench/run."""
import dataclasses
import json
import typing


def number(value):
    for limit, unit in ((1e6, 'M'), (1e3, 'k')):
        if value >= limit:
            return f'{value / limit:.2f}{unit}'
    return f'{value:.0f}'


def reached(row):
    """A goal is a least value, or where the row says so a greatest."""
    return row['ratio'] <= row['goal'] if row.get('at_most') else row['ratio'] >= row['goal']


def verdict(row):
    if row['goal'] is None:
        return ''
    return 'reached' if reached(row) else 'missed'


def cells(row):
    return [row['name'], row['against'], number(row['mount']), number(row['other']),
            f'{row["ratio"]:.2f}', f'{row["low"]:.2f} to {row["high"]:.2f}',
            '' if row['goal'] is None else f'{row["goal"]:.2f}', verdict(row)]


HEAD = ['measure', 'compared with', 'mount /s', 'other /s', 'ratio', 'lowest to highest', 'goal', '']


def aligned(table, left=2):
    """Lines of text; the first `left` columns are words, the others figures."""
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    return ['  '.join(c.ljust(w) if i < left else c.rjust(w)
                      for i, (c, w) in enumerate(zip(line, widths))).rstrip() for line in table]


def markdown_table(table):
    head, *rows = table
    return ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head),
            *('| ' + ' | '.join(row) + ' |' for row in rows)]


def machine_line(result):
    m = result['machine']
    return (f'Linux {m["kernel"]}, {m["processors"]} processors ({m["model"]}), pool on '
            f'{m["pool_file_system"]}, made durable by {result["persist_method"]}; passthrough '
            f'{"on" if result["passthrough"] else "off"}, transport {result["transport"]}; '
            f'{result["seconds"]} s in all.')


def as_json(result):
    return json.dumps(result, indent=2) + '\n'


INTRODUCTION = """# Performance

The last table of every benchmark, its command and its machine. Rates depend on the machine, and on
what else it does, ratios much less; so every table compares within one run.
"""


def bars(result):
    """Of the plot: label, value, lowest, highest, goal or None, missed."""
    return [(f'{r["name"]} / {r["against"]}', r['ratio'], r['low'], r['high'], r['goal'],
             verdict(r) == 'missed') for r in result['rows']]


@dataclasses.dataclass
class Sheet:
    """How one benchmark shows its result."""
    section: str                  # its heading in docs/performance.md
    about: list                   # lines below the heading
    head: list                    # of the table
    cells: typing.Callable        # row -> strings
    machine_line: typing.Callable  # result -> sentence
    bars: typing.Callable         # result -> see bars()
    plot_title: str
    plot_legend: str
    more_tables: typing.Callable = lambda result: []  # result -> further tables, heads included
    shows: typing.Callable = lambda row: True  # which rows the table has; JSON has all


MOUNT = Sheet(
    section='## Mount, raw pool, passthrough_hp',
    about=['A round visits mount, other, other, mount and so on, each for a moment, and gives one ratio;',
           'shown are the median of the rounds, the lowest and the highest. passthrough_hp is the example',
           'server of libfuse: the same requests reach the same file system, without a journal.'],
    head=HEAD, cells=cells, machine_line=machine_line, bars=bars,
    plot_title='bartender: mount / other, median of the rounds',
    plot_legend='dashed: equal; orange: goal')


def tables(result, sheet):
    return [[sheet.head] + [sheet.cells(r) for r in result['rows'] if sheet.shows(r)], *sheet.more_tables(result)]


def text(result, sheet=MOUNT):
    lines = []
    for table in tables(result, sheet):
        lines += [*aligned(table), '']
    return '\n'.join(lines[:-1] + result['notes'] + [sheet.machine_line(result)])


def section(result, sheet):
    lines = [sheet.section, '', *sheet.about, '']
    for table in tables(result, sheet):
        lines += [*markdown_table(table), '']
    lines += [f'- {note}' for note in result['notes']]
    lines += [f'- {sheet.machine_line(result)}',
              f'- Load average when it began: {result["machine"]["load_before"]}.',
              f'- Measured on {result["date"]} with `{result["command"].strip()}`.', '']
    return '\n'.join(lines)


def markdown(result, before, sheet=MOUNT):
    """The text of docs/performance.md with this section new; `before` is its text so far."""
    kept = before or INTRODUCTION + '\n'
    start = kept.find(sheet.section)
    if start < 0:
        return kept.rstrip('\n') + '\n\n' + section(result, sheet)
    end = kept.find('\n## ', start)
    return kept[:start] + section(result, sheet) + (kept[end:] if end >= 0 else '')


def svg(result, sheet=MOUNT):
    """Bars, whiskers from the lowest to the highest, a tick at the goal."""
    rows = sheet.bars(result)
    left, width, step, top = 360, 420, 26, 50
    longest = max([1.2] + [row[3] for row in rows])
    x = lambda value: left + width * value / longest
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 80}" '
           f'height="{top + step * len(rows) + 40}" font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="10" y="22" font-size="15">{sheet.plot_title}</text>',
           f'<line x1="{x(1):.1f}" y1="{top - 8}" x2="{x(1):.1f}" y2="{top + step * len(rows)}" '
           'stroke="#888" stroke-dasharray="4 3"/>']
    for i, (label, value, low, high, goal, missed) in enumerate(rows):
        y = top + step * i
        label = label.replace('&', '&amp;').replace('<', '&lt;')
        out += [f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{label}</text>',
                f'<rect x="{left}" y="{y + 2}" width="{x(value) - left:.1f}" height="14" '
                f'fill="{"#c44e52" if missed else "#4c72b0"}"/>',
                f'<line x1="{x(low):.1f}" y1="{y + 9}" x2="{x(high):.1f}" y2="{y + 9}" '
                'stroke="black"/>',
                f'<text x="{x(max(value, high)) + 6:.1f}" y="{y + 13}">'
                f'{value:.2f}</text>']
        if goal is not None:
            out.append(f'<line x1="{x(goal):.1f}" y1="{y - 1}" x2="{x(goal):.1f}" '
                       f'y2="{y + 19}" stroke="#dd8452" stroke-width="3"/>')
    out.append(f'<text x="10" y="{top + step * len(rows) + 24}" fill="#555">{sheet.plot_legend}; '
               f'{sheet.machine_line(result).split(",")[0]}</text></svg>')
    return '\n'.join(out) + '\n'
