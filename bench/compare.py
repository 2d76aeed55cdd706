# SPDX-License-Identifier: BSD-3-Clause
"""What the benchmarks that compare with a baseline share: visits in turn, ratios, tables."""
import os
import platform
import re
import statistics
import subprocess

import report  # bench/ is in the path of whoever imports this

LONGEST_VISIT = 120  # seconds


def output(command, **more):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          timeout=LONGEST_VISIT, check=False, **more)
    if done.returncode != 0:
        raise RuntimeError(f'{" ".join(map(str, command))}: {done.stderr.strip()}')
    return done.stdout


def measure(row, rounds):
    """A row: name, against, unit, ours, theirs (the best of them counts), goal, whether less is better.

    A round visits all sides forwards and backwards (A B B A), so that whatever else the machine does
    meets all of them; it gives one ratio, that of the medians of its visits."""
    name, against, unit, ours, others, goal, is_less_better = row
    best = min if is_less_better else max
    ratios, mine, theirs = [], [], []
    for _ in range(rounds):
        visits = [[], *([] for _ in others)]
        order = [*range(len(visits)), *reversed(range(len(visits)))]
        for i in order:
            visits[i].append((ours if i == 0 else others[i - 1])())
        medians = [statistics.median(v) for v in visits]
        mine.append(medians[0])
        theirs.append(best(medians[1:]))
        ratios.append(mine[-1] / theirs[-1])
    ratio = statistics.median(ratios)
    return {'name': name, 'against': against, 'unit': unit, 'ours': statistics.median(mine),
            'other': statistics.median(theirs), 'ratio': ratio, 'low': min(ratios), 'high': max(ratios),
            'goal': goal, 'at_most': is_less_better, 'reached': ratio <= goal if is_less_better else ratio >= goal}


def number(value):
    for limit, unit in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
        if value >= limit:
            return f'{value / limit:.2f}{unit}'
    return f'{value:.0f}'


def verdict(row):
    return 'reached' if row['reached'] else 'missed'


def cells(row):
    """Of a result of measure()."""
    sign = '<=' if row['at_most'] else '>='
    return [row['name'], row['against'], f'{number(row["ours"])} {row["unit"]}', f'{number(row["other"])} {row["unit"]}',
            f'{row["ratio"]:.2f}', f'{row["low"]:.2f} to {row["high"]:.2f}', f'{sign} {row["goal"]:.2f}', verdict(row)]


def table(rows, ours):
    """Markdown; `ours` heads the column of what is measured."""
    head = ['measure', 'compared with', ours, 'other', 'ratio', 'lowest to highest', 'goal', '']
    return report.markdown_table([head, *map(cells, rows)])


def origin(result):
    """Markdown: where and how it was measured."""
    m = result['machine']
    return [f'- Linux {m["kernel"]}, {m["processors"]} processors ({m["model"]}); load before: {m["load_before"]}.',
            f'- Measured on {result["date"]} with `{result["command"]}`.', '']


def renew(path, title, text):
    """The file with its section replaced, or added at the end."""
    before = ''
    if os.path.exists(path):
        with open(path) as f:
            before = f.read()
    parts = re.split(r'(?m)^(?=## )', before)
    kept = [part for part in parts if not part.startswith(title + '\n')]
    at = next((i for i, part in enumerate(parts) if part.startswith(title + '\n')), len(kept))
    kept.insert(at, text + ('\n' if at < len(kept) else ''))
    joined = ''.join(part if part.endswith('\n\n') or i == len(kept) - 1 else part.rstrip('\n') + '\n\n'
                     for i, part in enumerate(kept))
    with open(path, 'w') as f:
        f.write(joined)


def machine():
    with open('/proc/cpuinfo') as f:
        model = re.search(r'model name\s*: (.*)', f.read())
    return {'kernel': platform.release(), 'processors': os.cpu_count(),
            'model': model.group(1) if model else platform.machine(), 'load_before': round(os.getloadavg()[0], 2)}
