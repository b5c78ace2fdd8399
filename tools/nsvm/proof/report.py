# SPDX-License-Identifier: GPL-2.0
"""What make run found, for programs: results.json, and junit.xml for GitLab and Jenkins"""
import datetime
import json
import re
import xml.etree.ElementTree as ET

from lib import ktap
from lib.base import Base, put, read
from lib.ktap import Case, Row
from lib.settings import settings
from machine import bochs, boot
from proof.vmruns import Check

FILES = ('results.json', 'junit.xml')
# whatever a machine says
NO_XML = re.compile('[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]')


def machine(versions: dict[str, str]) -> dict:
    if settings.MACHINE == 'bochs':
        return {'name': f'Bochs of {bochs.SUITE}', 'cpu': bochs.CPU, 'cpus': 1,
                'memory': bochs.MEMORY}
    accel = boot.accelerator(False)
    return {'name': versions['qemu'], 'accelerator': accel,
            'cpu': 'host' if accel == 'kvm' else settings.CPU, 'cpus': settings.number('SMP'),
            'memory': settings.number('MEMORY')}


def as_json(base: str, good: bool, results: dict[str, list[Case]], logs: dict[str, str],
            checks: dict[str, Check | None], view_text: str, on: dict,
            versions: dict[str, str]) -> dict:
    """results, logs, checks: of the stock kernel and of the series; view_text: of VMRUNs"""
    def vmruns(r: Row) -> dict[str, int]:
        seen = {label: c.economy.get(f'{r.test} {r.case}'.strip()) for label, c in checks.items()
                if c}
        return {label: e.vmruns for label, e in seen.items() if e}

    rows = ktap.rows(results['stock'], results['series'])
    release = {label: re.search(r'^# nsvm: kernel (.*)', log, re.M) for label, log in logs.items()}
    now = datetime.datetime.now(datetime.timezone.utc)
    return {'format': 1, 'date': now.isoformat(timespec='seconds'), 'passed': good, 'base': base,
            'kernels': {label: m[1] for label, m in release.items() if m}, 'machine': on,
            'summary': ktap.count(rows),
            'milliseconds': {label: {c.test: c.ms for c in cases if not c.case}
                             for label, cases in results.items()},
            'vmruns': {label: {'seen': c.vmruns, 'accesses': c.accesses, 'errors': c.bad.total()}
                       for label, c in checks.items() if c}, 'said': view_text.splitlines(),
            'cases': [{'test': r.test, 'case': r.case, 'stock': r.stock or None,
                       'series': r.series.verdict, 'reason': NO_XML.sub('?', r.series.reason),
                       'vmruns': vmruns(r)} for r in rows], 'versions': versions}


def as_junit(run: dict, reason: str) -> str:
    """A case is what it is on the series.  reason: why the run failed, if no case did"""
    suites = ET.Element('testsuites', name=run['base'])
    more = {'test': 'VMRUNs', 'case': '', 'stock': None, 'series': 'not ok', 'reason': reason}
    cases = run['cases'] + [more] * bool(reason)
    for test in dict.fromkeys(c['test'] for c in cases):
        mine, ms = [c for c in cases if c['test'] == test], run['milliseconds']['series'].get(test,
                                                                                              0)
        count = {key: str(sum(c['series'] == verdict for c in mine))
                 for key, verdict in (('failures', 'not ok'), ('skipped', 'skip'))}
        suite = ET.SubElement(suites, 'testsuite', name=test, timestamp=run['date'],
                              time=f'{ms / 1000:.3f}', tests=str(len(mine)), errors='0', **count)
        for c in mine:
            one = ET.SubElement(suite, 'testcase', classname=f'{run["base"]}.{test}', name=c['case']
                                or test)
            tag = {'not ok': 'failure', 'skip': 'skipped'}.get(c['series'])
            if tag:
                ET.SubElement(one, tag, message=c['reason'])
            ET.SubElement(one, 'system-out').text = f'on the stock kernel: {c["stock"] or "was not run"}'
    ET.indent(suites)
    return ET.tostring(suites, encoding='unicode', xml_declaration=True) + '\n'


def write(base: Base, prefix: str, good: bool, cases: dict[str, list[Case]],
          checks: dict[str, Check | None], view_text: str, versions: dict[str, str]) -> None:
    """results/<prefix>FILES"""
    logs = {label: read(base.results / f'{prefix}{label}.log') for label in cases}
    run = as_json(base.name, good, cases, logs, checks, view_text, machine(versions), versions)
    seen, judged = checks['series'], run['summary']
    reason = seen.text() if seen else view_text
    if good or judged['not ok'] or not judged['ok']:
        reason = ''		# the cases say it
    for name, text in zip(FILES, (json.dumps(run, indent=1) + '\n', as_junit(run, reason))):
        put(base.results / f'{prefix}{name}', text)
