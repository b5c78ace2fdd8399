# SPDX-License-Identifier: GPL-2.0
"""What make run found, for programs: results.json, and junit.xml for GitLab and Jenkins"""
import datetime
import json
import re
import xml.etree.ElementTree as ET

from lib import ktap
from lib.base import Base, put
from lib.ktap import Case
from proof.vmruns import Check

FILES = ('results.json', 'junit.xml')
# whatever a machine says
NO_XML = re.compile('[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]')


def as_json(base: str, good: bool, results: dict[str, list[Case]],
            checks: dict[str, Check | None], versions: dict[str, str]) -> dict:
    """All of a run; results, checks: of the kernels "stock" and "series"."""
    now = datetime.datetime.now(datetime.timezone.utc)
    rows = ktap.rows(results['stock'], results['series'])
    return {'format': 1, 'date': now.isoformat(timespec='seconds'), 'passed': good, 'base': base,
            'summary': ktap.count(rows),
            'milliseconds': {label: {c.test: c.ms for c in cases if not c.case}
                             for label, cases in results.items()},
            'vmruns': {label: {'seen': c.vmruns, 'accesses': c.accesses, 'errors': c.bad.total()}
                       for label, c in checks.items() if c},
            'cases': [{'test': r.test, 'case': r.case, 'stock': r.stock or None,
                       'series': r.series.verdict, 'reason': NO_XML.sub('?', r.series.reason)}
                      for r in rows], 'versions': versions}


def as_junit(run: dict, reason: str) -> str:
    """A case is what it is on the series.  reason: why the run failed, if no case did"""
    suites = ET.Element('testsuites', name=run['base'])
    cases = list(run['cases'])
    if reason:
        cases.append({'test': 'VMRUNs', 'case': '', 'stock': None, 'series': 'not ok',
                      'reason': reason})
    for test in dict.fromkeys(c['test'] for c in cases):
        mine = [c for c in cases if c['test'] == test]
        verdicts = [c['series'] for c in mine]
        ms = run['milliseconds']['series'].get(test, 0)
        suite = ET.SubElement(suites, 'testsuite', name=test, timestamp=run['date'],
                              time=f'{ms / 1000:.3f}', tests=str(len(mine)), errors='0',
                              failures=str(verdicts.count('not ok')),
                              skipped=str(verdicts.count('skip')))
        for c in mine:
            case = ET.SubElement(suite, 'testcase', classname=f'{run["base"]}.{test}',
                                 name=c['case'] or test)
            tag = {'not ok': 'failure', 'skip': 'skipped'}.get(c['series'])
            if tag:
                ET.SubElement(case, tag, message=c['reason'])
            output = ET.SubElement(case, 'system-out')
            output.text = f'on the stock kernel: {c["stock"] or "was not run"}'
    ET.indent(suites)
    return ET.tostring(suites, encoding='unicode', xml_declaration=True) + '\n'


def write(base: Base, prefix: str, good: bool, results: dict[str, list[Case]],
          checks: dict[str, Check | None], view_text: str, versions: dict[str, str]) -> None:
    """Write results/<prefix>FILES; view_text: what was said of VMRUNs."""
    run = as_json(base.name, good, results, checks, versions)
    seen, summary = checks['series'], run['summary']
    reason = ''		# if cases say why, nothing else has to
    if not good and summary['ok'] and not summary['not ok']:
        reason = seen.text() if seen else view_text
    put(base.results / f'{prefix}{FILES[0]}', json.dumps(run, indent=1) + '\n')
    put(base.results / f'{prefix}{FILES[1]}', as_junit(run, reason))
