# SPDX-License-Identifier: BSD-3-Clause
"""How bench/alloc/run shows its result. Pure functions."""
import report

COLUMNS = ['btd', 'pmemobj', 'mimalloc', 'jemalloc', 'tcmalloc', 'glibc', 'btd_pool', 'pmemobj_pool']
TITLES = {'btd': 'libbtd R', 'btd_pool': 'libbtd P', 'pmemobj': 'libpmemobj, OID in DRAM',
          'pmemobj_pool': 'libpmemobj, OID in pool'}


def figure(value):
    if value is None:
        return ''
    if abs(value) >= 1000:
        return report.number(value)
    return f'{value:.2f}' if abs(value) >= 1 or value == 0 else f'{value:.3g}'


def rate(value):
    return '' if value is None else report.number(value)


def counts(of):
    return '' if of is None else f'{figure(of["lines"])}, {figure(of["fences"])}'


def cells(row):
    goal = '' if row['goal'] is None else f'{"<=" if row["at_most"] else ">="} {figure(row["goal"])}'
    return [row['name'], row['against'], rate(row['ours']), rate(row['other']), figure(row['ratio']),
            f'{figure(row["low"])} to {figure(row["high"])}', counts(row['our_counts']),
            counts(row['other_counts']), goal, report.verdict(row)]


def line(row):
    goal = '' if row['goal'] is None else (f', goal {"<=" if row["at_most"] else ">="} '
                                           f'{figure(row["goal"])}: {report.verdict(row).upper()}')
    against = f' of {row["against"]}' if row['against'] else f' {row["unit"]}'
    return (f'{row["name"]}: {figure(row["ratio"])} ({figure(row["low"])} to {figure(row["high"])})'
            f'{against}{goal}')


def shows(row):
    """Rates that nothing has to reach are in the table of rates, figures in that of figures."""
    return row['goal'] is not None or (row['against'] != '' and not row['name'].startswith('R, '))


def by_allocator(title, rows):
    """Rows of (name, {allocator: text}) as a table with a column for each allocator seen."""
    seen = [c for c in COLUMNS if any(c in cells_of for _, cells_of in rows)]
    head = [title] + [TITLES.get(c, c) for c in seen]
    table = [[name] + [cells_of.get(c, '') for c in seen] for name, cells_of in rows]
    return [[head] + table] if rows else []


def more_tables(result):
    rates = [(name, {c: f'{value / 1e6:.2f}' for c, value in of.items()})
             for name, of in result['rates'].items()]
    figures = {}
    for row in result['rows']:
        if row['allocator']:
            name = row['figure'] + (f', {row["unit"]}' if row['unit'] else '')
            figures.setdefault(name, {})[row['allocator']] = figure(row['ratio'])
    return (by_allocator('million operations a second', rates) +
            by_allocator('figures', list(figures.items())))


def machine_line(result):
    m = result['machine']
    return (f'Linux {m["kernel"]}, {m["processors"]} processors ({m["model"]}), pools on '
            f'{m["pool_file_system"]}; {result["seconds"]} s in all.')


LONGEST_BAR = 4


def bars(result):
    """What has a goal, as a multiple of it: 1 is reached, more is better."""
    shown = []
    for row in (r for r in result['rows'] if r['goal'] is not None):
        share = (lambda v: row['goal'] / v if v else LONGEST_BAR) if row['at_most'] else (
            lambda v: v / row['goal'])
        value, low, high = (min(LONGEST_BAR, share(row[k])) for k in ('ratio', 'low', 'high'))
        label = f'{row["name"]} / {row["against"]}' if row['against'] else row['name']
        shown.append((label, value, min(low, high), max(low, high), None,
                      report.verdict(row) == 'missed'))
    return shown


ALLOCATORS = report.Sheet(
    section='## Allocators',
    about=['A round visits all allocators of a case forwards and backwards, each for a moment, and gives one',
           'ratio; shown are the median of the rounds, the lowest and the highest. An operation is an',
           'allocation with its free. R: `btd_malloc` and `btd_free`; P: `btd_malloc_to` and `btd_free_from`;',
           'T: transactions. libpmemobj runs with PMEM_IS_PMEM_FORCE=1, else it would call msync on tmpfs.',
           'Lines flushed and fences are those of an operation.'],
    head=['measure', 'compared with', 'ours /s', 'other /s', 'ratio or figure', 'lowest to highest',
          'our lines, fences', "other's", 'goal', ''],
    cells=cells, machine_line=machine_line, bars=bars, more_tables=more_tables, shows=shows,
    plot_title='libbtd: how often each goal is reached (1 is the goal, 4 or more is cut off)',
    plot_legend='dashed: the goal')
