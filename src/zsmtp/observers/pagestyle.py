"""The style sheet of a trace's page. Contrast of texts is 4.5 to 1 or better, light and dark (WCAG 2.2, 1.4.3)."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #57606a; --line: #d8dee4; --track: #f3f5f7;
  --good: #116329; --warn: #7d4e00; --bad: #b3261e; --hover: #f0f4f9; --lookup: #2f81d6; --connect: #8250df;
  --session: #7d8793; --security: #2a9d55; --envelope: #0f8b8d; --content: #d9730d; --final: #b8860b; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #12161c; --ink: #e3e8ee; --soft: #9aa5b1; --line: #303842; --track: #1b2129; --good: #56d364;
    --warn: #e3b341; --bad: #ff7b72; --hover: #1c232c; --lookup: #58a6ff; --connect: #bc8cff; --session: #8b949e;
    --security: #3fb950; --envelope: #39c5cf; --content: #f0883e; --final: #e3b341; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
main, footer { max-width: 76rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .2rem 0; } h2 { font-size: 1.15rem; margin: 1.8rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .2rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
p { margin: .2rem 0; } footer, .about, dt { color: var(--soft); }
dl { display: flex; flex-wrap: wrap; gap: .4rem 2rem; margin: .6rem 0; } dt { font-size: .8rem; } dd { margin: 0; }
.fate { font-weight: 600; } .good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0; border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--soft); font-weight: 500; font-size: .85rem; } tbody th { font-weight: 500; }
tr > :nth-child(2), tr > :nth-child(3) { white-space: nowrap; } th:first-child { min-width: 11rem; }
summary { cursor: pointer; border-radius: 4px; } summary:hover { background: var(--hover); }
summary:focus-visible, .wide:focus-visible { outline: 2px solid var(--lookup); outline-offset: 1px; }
pre { margin: .2rem 0 .6rem; padding: .5rem .7rem; background: var(--track); border-left: 3px solid var(--line);
  white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.4 ui-monospace, monospace; }
.row { display: grid; grid-template-columns: 15rem minmax(6rem, 1fr) 5.2rem minmax(0, 22rem); gap: 0 .7rem;
  align-items: center; padding: .12rem 0; }
summary.row { list-style: none; } summary.row::-webkit-details-marker { display: none; }
.label { overflow-wrap: anywhere; padding-left: .9rem; position: relative; }
.label::before { content: "▸"; position: absolute; left: 0; color: var(--soft); font-size: .8rem; top: .1rem; }
details[open] > summary .label::before { content: "▾"; }
.took { text-align: right; font-variant-numeric: tabular-nums; color: var(--soft); }
.note { font-size: .85rem; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.note.plain { color: var(--soft); }
.track { position: relative; display: block; height: 1rem; background: var(--track); border-radius: 3px; }
.bar { position: absolute; top: 2px; bottom: 2px; border-radius: 2px; }
.before { position: absolute; left: .3rem; font-size: .75rem; line-height: 1rem; color: var(--soft); }
.axis .track { background: none; height: 1.2rem; border-bottom: 1px solid var(--line); }
.axis .track span { position: absolute; font-size: .75rem; color: var(--soft); padding-left: 3px; white-space: nowrap;
  border-left: 1px solid var(--line); height: 1.2rem; }
.lookup { background: var(--lookup); } .connect { background: var(--connect); } .session { background: var(--session); }
.security { background: var(--security); } .envelope { background: var(--envelope); }
.content { background: var(--content); } .final { background: var(--final); }
.bar.bad, .key.bad { background: repeating-linear-gradient(45deg, var(--bad) 0 4px, var(--paper) 4px 6px); }
.bar.open { opacity: .55; } .tag { font-size: .75rem; color: var(--soft); border: 1px solid var(--line);
  border-radius: 3px; padding: 0 .25rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; padding: 0; margin: .3rem 0 .8rem; list-style: none;
  font-size: .85rem; } .key { display: inline-block; width: .9rem; height: .7rem; border-radius: 2px;
  margin-right: .35rem; }
.words { font-size: .9rem; padding: .1rem 0 .1rem 1rem; position: relative; }
.words::before { content: "◆"; position: absolute; left: 0; font-size: .7rem; top: .25rem; color: var(--soft); }
.words.plain { color: var(--soft); } .words b { font-weight: 600; }
@media (max-width: 64rem) { .row { grid-template-columns: 15rem 1fr 5.2rem; }
  .note { grid-column: 2 / 4; white-space: normal; overflow-wrap: anywhere; } }
@media (max-width: 40rem) { .row { grid-template-columns: 1fr 5.2rem; } .label { grid-column: 1; }
  .took { grid-column: 2; grid-row: 1; } .track { grid-column: 1 / 3; } .note { grid-column: 1 / 3; }
  .axis > span:first-child { display: none; } thead { display: none; } tr { display: block; padding: .4rem 0;
  border-top: 1px solid var(--line); } tbody th, td { display: block; border: 0; padding: .05rem 0; } }
"""
