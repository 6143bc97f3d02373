"""Style sheet of the report page."""

from xopd.report.palette import PAGE_INK, PAGE_LINE, PAGE_QUIET, PAGE_RETENTION, PAGE_SPEECH, PAGE_TEACHER, PAGE_TEXT

CSS = f"""
:root {{ color-scheme: light; }}
body {{ margin: 0; background: #fcfcfa; color: {PAGE_INK};
  font: 16px/1.5 "Inter", "Helvetica Neue", "Segoe UI", "DejaVu Sans", sans-serif; }}
main {{ max-width: 1080px; margin: 0 auto; padding: 44px 40px 60px; }}
header .name {{ color: {PAGE_QUIET}; font-size: 14px; letter-spacing: .02em; margin: 0 0 14px; }}
h1 {{ font-size: 34px; line-height: 1.22; font-weight: 650; letter-spacing: -.015em; margin: 0 0 14px; }}
.lead {{ font-size: 18px; color: #3c3c3c; max-width: 860px; margin: 0 0 30px; }}
h2 {{ font-size: 20px; font-weight: 650; margin: 46px 0 6px; padding-top: 18px; border-top: 1px solid {PAGE_LINE}; }}
h3 {{ font-size: 15px; font-weight: 600; margin: 0 0 2px; }}
p.note {{ color: {PAGE_QUIET}; font-size: 13.5px; margin: 0 0 14px; max-width: 960px; }}
.speech {{ color: {PAGE_SPEECH}; }} .text {{ color: {PAGE_TEXT}; }} .retention {{ color: {PAGE_RETENTION}; }}
.teacher {{ color: {PAGE_TEACHER}; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }}
th, td {{ text-align: right; padding: 9px 14px; border-bottom: 1px solid {PAGE_LINE}; white-space: nowrap;
  vertical-align: top; }}
th:first-child, td:first-child {{ text-align: left; padding-left: 0; }}
td:last-child, th:last-child {{ padding-right: 0; }}
th {{ font-size: 13px; font-weight: 600; color: {PAGE_QUIET}; }}
th.speech {{ color: {PAGE_SPEECH}; }} th.text {{ color: {PAGE_TEXT}; }} th.retention {{ color: {PAGE_RETENTION}; }}
td small {{ display: block; color: {PAGE_QUIET}; font-size: 12px; line-height: 1.3; }}
tr.final td {{ font-weight: 650; }} tr.final td small {{ font-weight: 400; }}
.figures {{ display: grid; grid-template-columns: 1fr 1fr; gap: 30px 36px; margin-top: 20px; }}
figure {{ margin: 0; min-width: 0; }}
figure svg {{ width: 100%; height: auto; display: block; }}
.facts {{ display: grid; grid-template-columns: repeat(5, 1fr); gap: 20px 26px; margin: 18px 0 8px; }}
.facts div b {{ display: block; font-size: 23px; font-weight: 620; font-variant-numeric: tabular-nums; }}
.facts div span {{ color: {PAGE_QUIET}; font-size: 13px; }}
.stagebar {{ display: flex; height: 20px; border-radius: 3px; overflow: hidden; margin: 16px 0 8px; }}
.legend {{ font-size: 13.5px; color: #3c3c3c; }}
.legend span {{ margin-right: 20px; white-space: nowrap; }}
.legend i {{ display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }}
dl {{ display: grid; grid-template-columns: 190px 1fr; gap: 5px 20px; margin: 14px 0; font-size: 14.5px; }}
dt {{ color: {PAGE_QUIET}; }} dd {{ margin: 0; overflow-wrap: anywhere; }}
details {{ margin-top: 20px; }} summary {{ cursor: pointer; color: {PAGE_QUIET}; font-size: 14px; }}
pre {{ background: #f3f3ef; padding: 18px; font-size: 12.5px; line-height: 1.45; overflow: auto; border-radius: 4px; }}
.gap {{ margin: 6px 0 4px; }}
@media (max-width: 820px) {{ .figures {{ grid-template-columns: 1fr; }}
  .facts {{ grid-template-columns: repeat(2, 1fr); }}
  main {{ padding: 24px 18px; }} table {{ display: block; overflow-x: auto; }} }}
@media print {{ details {{ display: none; }} h2 {{ break-after: avoid; }} figure {{ break-inside: avoid; }} }}
"""
