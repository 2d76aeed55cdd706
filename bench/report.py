# SPDX-License-Identifier: BSD-3-Clause
"""The results of bench/run as text, JSON, Markdown and a plot. Pure functions of the result."""
import json


def number(value):
    for limit, unit in ((1e6, 'M'), (1e3, 'k')):
        if value >= limit:
            return f'{value / limit:.2f}{unit}'
    return f'{value:.0f}'


def verdict(row):
    if row['goal'] is None:
        return ''
    return 'reached' if row['ratio'] >= row['goal'] else 'missed'


def cells(row):
    return [row['name'], row['against'], number(row['mount']), number(row['other']),
            f'{row["ratio"]:.2f}', f'{row["low"]:.2f} to {row["high"]:.2f}',
            '' if row['goal'] is None else f'{row["goal"]:.2f}', verdict(row)]


HEAD = ['measure', 'compared with', 'mount /s', 'other /s', 'ratio', 'lowest to highest', 'goal', '']


def text(result):
    table = [HEAD] + [cells(r) for r in result['rows']]
    widths = [max(len(line[i]) for line in table) for i in range(len(HEAD))]
    lines = []
    for line in table:
        lines.append('  '.join(c.ljust(w) if i < 2 else c.rjust(w)
                               for i, (c, w) in enumerate(zip(line, widths))).rstrip())
    return '\n'.join(lines + result['notes'] + [machine_line(result)])


def machine_line(result):
    m = result['machine']
    return (f'Linux {m["kernel"]}, {m["processors"]} processors ({m["model"]}), pool on '
            f'{m["pool_file_system"]}, made durable by {result["persist_method"]}; passthrough '
            f'{"on" if result["passthrough"] else "off"}, transport {result["transport"]}; '
            f'{result["seconds"]} s in all.')


def as_json(result):
    return json.dumps(result, indent=2) + '\n'


SECTION = '## Mount, raw pool, passthrough_hp'
INTRODUCTION = """# Performance

The last table of every benchmark, its command and its machine. Rates depend on the machine, and on
what else it does, ratios much less; so every table compares within one run.
"""


def section(result):
    lines = [SECTION, '',
             'A round visits mount, other, other, mount and so on, each for a moment, and gives one ratio;',
             'shown are the median of the rounds, the lowest and the highest. passthrough_hp is the example',
             'server of libfuse: the same requests reach the same file system, without a journal.', '',
             '| ' + ' | '.join(HEAD) + ' |', '|' + '---|' * len(HEAD)]
    lines += ['| ' + ' | '.join(cells(r)) + ' |' for r in result['rows']]
    lines += [''] + [f'- {note}' for note in result['notes']]
    lines += [f'- {machine_line(result)}',
              f'- Load average when it began: {result["machine"]["load_before"]}.',
              f'- Measured on {result["date"]} with `{result["command"].strip()}`.', '']
    return '\n'.join(lines)


def markdown(result, before):
    """The text of docs/performance.md with this section new; `before` is its text so far."""
    kept = before or INTRODUCTION + '\n'
    start = kept.find(SECTION)
    if start < 0:
        return kept.rstrip('\n') + '\n\n' + section(result)
    end = kept.find('\n## ', start)
    return kept[:start] + section(result) + (kept[end:] if end >= 0 else '')


def svg(result):
    """Bars of the ratios, whiskers from the lowest to the highest, a tick at the goal."""
    rows = result['rows']
    left, width, step, top = 360, 420, 26, 50
    longest = max([1.2] + [r['high'] for r in rows])
    x = lambda value: left + width * value / longest
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 80}" '
           f'height="{top + step * len(rows) + 40}" font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="white"/>',
           '<text x="10" y="22" font-size="15">bartender: mount / other, median of the rounds</text>',
           f'<line x1="{x(1):.1f}" y1="{top - 8}" x2="{x(1):.1f}" y2="{top + step * len(rows)}" '
           'stroke="#888" stroke-dasharray="4 3"/>']
    for i, row in enumerate(rows):
        y = top + step * i
        missed = row['goal'] is not None and row['ratio'] < row['goal']
        label = f'{row["name"]} / {row["against"]}'.replace('&', '&amp;')
        out += [f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{label}</text>',
                f'<rect x="{left}" y="{y + 2}" width="{x(row["ratio"]) - left:.1f}" height="14" '
                f'fill="{"#c44e52" if missed else "#4c72b0"}"/>',
                f'<line x1="{x(row["low"]):.1f}" y1="{y + 9}" x2="{x(row["high"]):.1f}" y2="{y + 9}" '
                'stroke="black"/>',
                f'<text x="{x(max(row["ratio"], row["high"])) + 6:.1f}" y="{y + 13}">'
                f'{row["ratio"]:.2f}</text>']
        if row['goal'] is not None:
            out.append(f'<line x1="{x(row["goal"]):.1f}" y1="{y - 1}" x2="{x(row["goal"]):.1f}" '
                       f'y2="{y + 19}" stroke="#dd8452" stroke-width="3"/>')
    out.append(f'<text x="10" y="{top + step * len(rows) + 24}" fill="#555">dashed: equal; '
               f'orange: goal; {machine_line(result).split(",")[0]}</text></svg>')
    return '\n'.join(out) + '\n'
