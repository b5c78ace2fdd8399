# SPDX-License-Identifier: GPL-2.0
"""Memory types: what a trace says, and what it must say"""
import re
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lib import pat
from lib.say import Fatal
from lib.settings import place
from machine import bochs
from proof import types

WINDOWS = '0007010600070106'
VMCB = '[CPU0 RD]: PHY 0x000005075668 (len=8, INVALID): 0x00070106 0x00070106\t; VMCS'
EARLIER = VMCB.replace('0x00070106', '0x00070406')
OTHER = '[CPU0 RD]: PHY 0x000003a5f038 (len=8, WB): 0x00000000 0x0011E0FB\t; PTE'
LOG = (f'# trace npt_on.loaded.windows vmrun {WINDOWS}\n'
       f'# trace npt_on.loaded.windows L2 {WINDOWS} {WINDOWS}\n')


def access(rw: str, mtrr: int, i: int, used: str) -> str:
    return (f'[CPU0 {rw}]: LIN 0x0000{mtrr:x}000000{i}000 PHY 0x0000032e1000 (len=8, {used}): '
            '0x00000000 0x00000001')


def touched(pat: str = WINDOWS) -> list[str]:
    return [access(rw, page, i, types.combined(t, mtrr)) for page, mtrr in types.PAGES.items()
            for i, t in enumerate(types.fields(pat)) for rw in ('WR', 'RD')]


def debugger(*traces: list[str]) -> list[str]:
    """What Bochs' debugger prints of them"""
    out = ['Please choose one', OTHER]
    for n, lines in enumerate(traces, 1):
        out += ['(0) Magic breakpoint', f'Next at t={n}00', 'Memory-Tracing enabled for CPU0',
                OTHER, *lines, '(0) Magic breakpoint', f'Next at t={n}50',
                'Memory-Tracing disabled for CPU0', VMCB]
    return out


class Types(unittest.TestCase):
    def parts(self, lines: list[str], log: str = LOG) -> list[types.Part]:
        return types.parts(log, bochs.parts(debugger([EARLIER, VMCB], lines)))

    def test_all_is_right(self) -> None:
        vmrun, l2 = self.parts(touched())
        self.assertEqual((vmrun.g_pat, vmrun.tick, l2.tick), (WINDOWS, 100, 200))
        self.assertEqual(l2.types['WB'], 'WB WC UC UC WB WC UC UC'.split())
        self.assertEqual(l2.types['UC'], 'UC WC UC UC UC WC UC UC'.split())

    def test_faults(self) -> None:
        reset = '0007040600070406'
        read_differs = touched()
        read_differs[1] = access('RD', 0x10, 0, 'UC')
        for lines, log, fault in (
                (touched(), LOG, '^$'),
                (touched(reset), LOG,
                 r'^field 1 is WC, its page is WT, and not WC \(MTRR type WB\)$'),
                (read_differs, LOG, 'its page is WB/UC'),
                (touched()[2:], LOG, 'its page is none'),
                (touched(), LOG.replace(f'{WINDOWS} {WINDOWS}', f'{WINDOWS} {reset}'),
                 f'RDMSR returned {reset}')):
            self.assertRegex(types.fault(self.parts(lines, log)[1]), fault)

    def test_trace_that_is_missing(self) -> None:
        with self.assertRaisesRegex(Fatal, 'speaks of 3 traces, and there are 2'):
            self.parts(touched(), LOG + f'# trace npt_on.loaded.windows L1 {WINDOWS} {WINDOWS}\n')

    def test_table_marks_what_is_wrong(self) -> None:
        base, series = self.parts(touched('0007040600070406')), self.parts(touched())
        self.assertIn('WB WT! UC UC WB WT! UC UC ', types.table(base, series))
        self.assertIn(' WB WC UC UC WB WC UC UC\n', types.table(base, series))
        self.assertEqual(types.svg(base, series).count('stroke='), 2)


class Names(unittest.TestCase):
    def test_the_program_has_the_same(self) -> None:
        c = (place.overlay / 'svm_nested_pat_types.c').read_text()
        table = dict(re.findall(r'^\t\{ "(\w+)", (\w+) \},$', c, re.M))
        defined = dict(re.findall(r'^#define (\w+_PAT)\s+0x(\w{16})ull', c, re.M))
        named = {name: defined.get(value, value[2:18]) for name, value in table.items()
                 if name != 'all_types'}
        self.assertEqual({**named, 'linux': defined['L1_PAT']},
                         {name.lower(): p for p, name in pat.NAMES.items()})


class Sections(unittest.TestCase):
    def test_each_load_begins_one(self) -> None:
        log = ('# nsvm: begin a\n# nsvm: end a\n# nsvm: begin load\nok 1 k.ko\n# nsvm: end load\n'
               '# nsvm: begin b\n')
        first, second = bochs.sections(log)
        self.assertNotIn('begin b', first)
        self.assertIn('begin b', second)

    def test_load_that_failed(self) -> None:
        with self.assertRaisesRegex(Fatal, 'not loaded: rmmod: busy'):
            bochs.sections('# nsvm: begin load\nrmmod: busy\n')
