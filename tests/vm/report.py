# SPDX-License-Identifier: BSD-3-Clause
"""What a guest reports on its second serial port: lines "@btd KIND REST".

  fact NAME VALUE      a figure of the case
  at PLACE             how far it is
  ack LOAD COUNT       so many operations of a load have returned
  ack ENGINE SLOT VERSION, found ENGINE SLOT OLDEST NEWEST   of node_reset.py
  verdict pass|fail|skip REASON
"""
import dataclasses

PREFIX = '@btd '
KINDS = ('fact', 'at', 'ack', 'found', 'verdict')


@dataclasses.dataclass
class Report:
    kind: str
    name: str
    rest: str


def parse(line):
    """The report in a line of bytes, or None: a line that was cut or disturbed is no report."""
    text = line.decode(errors='replace').strip()
    if not text.startswith(PREFIX):
        return None
    words = text[len(PREFIX):].split(' ', 2)
    if len(words) < 2 or words[0] not in KINDS:
        return None
    return Report(words[0], words[1], words[2] if len(words) > 2 else '')
