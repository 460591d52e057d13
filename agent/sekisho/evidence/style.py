"""The report's look: print and screen, no outside font, verdicts told by word and not by colour."""

from __future__ import annotations

CSS = """
:root{--ink:#1b1f24;--quiet:#6a737d;--line:#d8dde3;--paper:#fff;--band:#f6f8fa}
*{box-sizing:border-box}
body{margin:0 auto;max-width:78rem;padding:2rem 2.2rem 4rem;color:var(--ink);
background:var(--paper);
font:15px/1.5 system-ui,"Noto Sans","Noto Sans CJK JP","Hiragino Sans","Yu Gothic",sans-serif}
header{border-bottom:3px double var(--ink);padding-bottom:1rem;margin-bottom:1.5rem}
.brand{letter-spacing:.2em;color:var(--quiet);margin:0;font-size:.85rem}
h1{font-size:1.7rem;margin:.2rem 0 .4rem}
h2{font-size:1.2rem;margin:2.2rem 0 .7rem;border-bottom:1px solid var(--line);padding-bottom:.25rem}
h3{font-size:1rem;margin:0 0 .3rem}
.overall{font-size:1.1rem;margin:.3rem 0 1rem}
.partial{border:1px solid #7a5200;background:#fff4d6;padding:.35rem .7rem;font-weight:600}
header h2{margin-top:1.1rem}
.ja{color:var(--quiet);font-size:.92em}
.quiet,.small{color:var(--quiet)}.small{font-size:.85em}
.none{color:#7a5200}
code{font:.86em/1.4 ui-monospace,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere;
background:var(--band);padding:.05em .3em;border-radius:3px}
dl{display:grid;gap:.25rem;margin:.4rem 0}
dl>div{display:grid;grid-template-columns:16rem 1fr;gap:1rem}
dt{color:var(--quiet)}dd{margin:0;min-width:0;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;font-size:.93em}
th,td{border:1px solid var(--line);padding:.4rem .55rem;text-align:left;vertical-align:top}
thead th{background:var(--band);font-weight:600}
tbody th{white-space:nowrap;font-weight:600}
td{overflow-wrap:anywhere}
td ul{margin:0;padding-left:1.1rem}
.wide{overflow-x:auto}
.v{display:inline-block;border:1px solid;border-radius:3px;padding:0 .45em;font-weight:600;
white-space:nowrap;font-size:.93em}
.v.pass{color:#0a5c2b;background:#e6f4ea}.v.fail{color:#fff;background:#a4161a;border-color:#a4161a}
.v.error{color:#6b4a00;background:#fff4d6}
.v.not_applicable{color:var(--quiet);background:var(--band)}
.v.waived{color:#0b4a6f;background:#e3f1fb}
.tally{margin-right:.7rem;white-space:nowrap}
.reason{min-width:22rem}
.matrix td.cell{text-align:center;font-weight:600;white-space:nowrap}
td.cell.pass{background:#e6f4ea}td.cell.fail{background:#a4161a;color:#fff}
td.cell.error{background:#fff4d6}
td.cell.not_applicable{background:var(--band);color:var(--quiet)}
td.cell.waived{background:#e3f1fb}
.finding{border:1px solid var(--line);border-left:5px solid #a4161a;padding:.7rem 1rem;
margin:.8rem 0;break-inside:avoid}
.finding dl>div{grid-template-columns:9rem 1fr}
@media print{body{max-width:none;padding:0;font-size:11px}
tr,.finding{break-inside:avoid}}
@media (max-width:50rem){dl>div,.finding dl>div{grid-template-columns:1fr}}
"""
