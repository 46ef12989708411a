"""The style of the page: light and dark, wide and narrow screens, paper."""

CSS = """
:root{color-scheme:light dark;--back:#fff;--panel:#f5f7f9;--text:#1b2026;--faint:#5a6570;--line:#d3dae1;
--idle:#9aa5b1;--survived:#0b61b8;--fatal:#c4281d;--ongoing:#8a5a00;--closed:#5a6570;--predicted:#7434c4;--range:#f2b84b66}
@media (prefers-color-scheme:dark){:root{--back:#0e1217;--panel:#171d24;--text:#e4e9ee;--faint:#98a3ae;--line:#343d47;
--idle:#66717d;--survived:#5fa8ff;--fatal:#ff7468;--ongoing:#e0a63a;--closed:#98a3ae;--predicted:#bf93ff;
--range:#d9992a59}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:64rem;padding:1.5rem 1rem 3rem;background:var(--back);color:var(--text);
font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif;overflow-wrap:anywhere;
font-variant-numeric:tabular-nums}
h1{margin:0;font-size:1.9rem;line-height:1.2}
h2{margin:2.5rem 0 .25rem;font-size:1.3rem;line-height:1.3}
h3{margin:0;font-size:1rem}
p,ul,dl,dd{margin:0}
ul{padding-left:1.1rem}
.lead{font-size:1.15rem}
.numbers,.note,dt,caption{color:var(--faint);font-size:.85rem}
dl{display:flex;flex-wrap:wrap;gap:.5rem 2rem;margin-top:1rem}
.missing{padding:.75rem 1rem;border-left:4px solid var(--ongoing);background:var(--panel)}
.cards{columns:19rem 3;column-gap:1rem;margin-top:.75rem}
.cards section{margin-bottom:1rem;break-inside:avoid}
.cards section,.advice{padding:.75rem 1rem;border:1px solid var(--line);border-radius:6px;background:var(--panel)}
.advice{margin-top:.75rem}
li{margin-top:.25rem}
code{padding:.1em .3em;border-radius:3px;background:var(--back);font:.85em/1.4 ui-monospace,monospace;
border:1px solid var(--line);white-space:pre-wrap}
.steps code{display:block;margin:.2rem 0;padding:.3rem .5rem}
b.fatal{color:var(--fatal)}b.survived{color:var(--survived)}
b.ongoing{color:var(--ongoing)}b.closed{color:var(--closed)}
.row{display:grid;grid-template-columns:minmax(0,21rem) minmax(0,1fr);gap:.25rem 1.25rem;align-items:center;
padding:.5rem 0;border-top:1px solid var(--line);font-size:.9rem;line-height:1.4}
.row.axis{border:0;padding:.5rem 0 0;color:var(--faint);font-size:.8rem}
.row.lane{padding:.1rem 0}
svg{display:block;width:100%;overflow:visible}
svg.defs{position:absolute;width:0;height:0}
svg text{fill:var(--faint);font-size:11px;text-anchor:middle}
svg text.start{text-anchor:start}svg text.end{text-anchor:end}
line{stroke:var(--line)}line.origin{stroke:var(--faint)}
line.tick{stroke:var(--back);stroke-width:1.5}
line.window{stroke:var(--predicted);stroke-width:2}
rect.idle{fill:var(--idle)}rect.fatal{fill:var(--fatal)}rect.survived{fill:var(--survived)}
rect.ongoing{fill:var(--ongoing)}rect.closed{fill:var(--closed)}
.lane rect{opacity:.75}
rect.range{fill:var(--range);stroke:var(--ongoing);stroke-width:1}
rect.open,rect.contradiction{fill:var(--range);stroke:var(--ongoing);stroke-width:1;stroke-dasharray:4 3}
#survived *{fill:var(--survived);stroke:var(--back)}
#fatal *{fill:none;stroke:var(--fatal);stroke-width:2.5}#fatal .halo{stroke:var(--back);stroke-width:6}
#predicted *{fill:var(--predicted);stroke:var(--back);stroke-width:.5}
#ongoing *{fill:var(--ongoing)}#closed *{fill:var(--closed);stroke:var(--back)}
.legend{display:flex;flex-wrap:wrap;gap:.15rem 1.25rem;margin:.35rem 0;padding:0;list-style:none;font-size:.85rem;
color:var(--faint)}
.legend li{margin:0}
.legend svg{display:inline-block;width:16px;height:16px;vertical-align:-3px}
table{width:100%;table-layout:fixed;margin-top:.75rem;border-collapse:collapse;font-size:.85rem;line-height:1.4}
caption{text-align:left;padding-bottom:.35rem}
th,td{padding:.35rem .75rem .35rem 0;border-top:1px solid var(--line);text-align:left;vertical-align:top}
th:nth-child(1){width:14%}th:nth-child(2){width:22%}th:nth-child(4){width:14%}th:nth-child(5){width:19%}
footer{margin-top:2.5rem;border-top:1px solid var(--line);padding-top:.75rem}
@media (max-width:46rem){h1{font-size:1.5rem}.row{grid-template-columns:minmax(0,1fr)}.row.axis{position:sticky;top:0;
background:var(--back);z-index:1}thead{display:none}table,caption,tbody,tr,td{display:block}tr{padding:.5rem 0;
border-top:1px solid var(--line)}td{border:0;padding:.1rem 0}td::before{color:var(--faint)}%(labels)s}
@media print{:root{color-scheme:light;--back:#fff;--panel:#fff;--text:#000;--faint:#444;--line:#bbb;--idle:#888;
--survived:#0b61b8;--fatal:#c4281d;--ongoing:#8a5a00;--closed:#5a6570;--predicted:#7434c4;--range:#f2b84b66}
body{max-width:none;padding:0;font-size:9pt}*{-webkit-print-color-adjust:exact;print-color-adjust:exact}
.row,.cards section,li,tr{break-inside:avoid}h2,h3{break-after:avoid}thead{display:table-header-group}}
"""
