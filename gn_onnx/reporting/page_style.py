"""How the report looks: one style sheet, for phone and desk, by day and by night, and on paper."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2024;--quiet:#5b616b;--line:#8883;--card:#8881;--good:#18794e;
--bad:#c62a2f;--accent:#3e63dd;--plain:#8b8f9c}
@media(prefers-color-scheme:dark){:root{--paper:#121212;--ink:#edeef0;--quiet:#b0b4ba;--good:#4cc38a;--bad:#ff8589;
--accent:#8da4ef;--plain:#8b8f9c}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;padding:1.5rem 1rem 3rem;max-width:60rem;overflow-wrap:anywhere;
background:var(--paper);color:var(--ink)}
h1{font-size:clamp(1.5rem,5vw,2.1rem);line-height:1.2;margin:0 0 .5rem}
h2{font-size:1.2rem;margin:2.75rem 0 .75rem}
p{margin:.5rem 0}.above{color:var(--quiet);font-size:.85rem;letter-spacing:.04em;margin:0 0 .25rem}
.lead{font-size:1.1rem}.quiet{color:var(--quiet);font-size:.9rem}
.ok{color:var(--good)}.bad{color:var(--bad)}
.verdict{display:inline-block;border:1px solid currentColor;border-radius:2rem;padding:.2rem .9rem;margin:.25rem 0 1rem;
font-weight:600}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.6rem,1fr));gap:.75rem}
.facts div{background:var(--card);border-radius:10px;padding:.7rem .8rem;color:var(--quiet);font-size:.9rem}
.facts b{display:block;font-size:1.2rem;line-height:1.5;white-space:nowrap;color:var(--ink)}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}
td,th{text-align:left;padding:.4rem;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--quiet);font-weight:600}td{min-width:6.5rem}
td:empty,th:empty{min-width:0;padding:0}
td.n,td.short{min-width:0;overflow-wrap:normal}td.short{white-space:nowrap}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
details{border:1px solid var(--line);border-radius:10px;padding:.5rem .9rem;margin:.5rem 0}
details details{border-width:1px 0 0;border-radius:0;padding:.5rem 0;margin:0}
details details:first-of-type{margin-top:.5rem}
summary{cursor:pointer}summary span{font-size:.9rem}
code{font:.85em/1.5 ui-monospace,monospace;color:var(--quiet)}
ul{margin:.5rem 0;padding-left:1.2rem}
.pair{display:flex;flex-wrap:wrap;gap:1rem;justify-content:center;align-items:flex-start}
.pair figure{margin:.5rem 0;flex:1 1 16rem;min-width:0;text-align:center}
figcaption{font-weight:600;margin-bottom:.25rem}
.hero{border:1px solid var(--line);border-radius:10px;padding:.75rem}
svg{width:100%;height:auto}svg rect{fill:var(--paper);stroke:var(--plain)}svg rect.value{stroke:none;fill:#8883}
svg rect.fused{fill:#3e63dd;stroke:none}svg rect.fused+text{fill:#fff}
svg text{font:12px system-ui,sans-serif;text-anchor:middle;fill:currentColor}
svg .arrow{fill:none;stroke:currentColor;opacity:.55}svg .tip{fill:currentColor;opacity:.7}
.time{margin:.9rem 0}.time .words{display:flex;flex-wrap:wrap;justify-content:space-between;column-gap:1rem}
.time b{font-variant-numeric:tabular-nums}
.bar{display:flex;height:1.1rem;margin:.15rem 0;border-radius:4px;overflow:hidden;min-width:4px}
.bar i{background:var(--plain);opacity:.45}.bar i.gn{opacity:1}
.ours .bar i{background:var(--accent)}
.key i{display:inline-block;width:.8rem;height:.8rem;border-radius:2px;background:var(--plain);margin:0 .2rem 0 .6rem}
.key i:last-of-type{opacity:.45}
footer{margin-top:3rem;border-top:1px solid var(--line);padding-top:.75rem;color:var(--quiet);font-size:.85rem}
@media print{details,.facts div{break-inside:avoid}}
"""
