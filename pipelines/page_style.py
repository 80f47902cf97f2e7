"""The style sheet of a report: light and dark, wide and narrow, and on paper."""

STYLE = """
:root{--ink:#1c2330;--soft:#5b6675;--line:#dde2e8;--back:#fff;--card:#f6f8fa;--kept:#2f6db3;--kept2:#8fb4dc;
--lost:#d9822b;--lost2:#efc08d;--rest:#e6edf5;--link:#1f5fa8}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--soft:#9aa5b4;--line:#333c48;--back:#14181e;
--card:#1c222a;
--kept:#5b9bdf;--kept2:#36618f;--lost:#e69a4c;--lost2:#8d5d2c;--rest:#26303c;--link:#7fb4ec}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;padding:1.5rem 1.25rem 4rem;max-width:60rem;background:var(--back);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Noto Sans CJK SC","PingFang SC",
"Microsoft YaHei",sans-serif}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 .4rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.6rem 0 .5rem;padding-top:.6rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.6rem 0 .3rem;overflow-wrap:anywhere}
p{margin:.3rem 0 .7rem;max-width:46rem}
a{color:var(--link)}
.soft,.meta{color:var(--soft)}
nav{margin:1rem 0;display:flex;flex-wrap:wrap;gap:.3rem 1.1rem}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.7rem;margin:1.2rem 0;
padding:0}
.facts div{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.7rem .9rem}
.facts dt{color:var(--soft);font-size:.85rem}
.facts dd{margin:0;font-size:1.35rem;font-weight:600;font-variant-numeric:tabular-nums}
.facts small{display:block;font-size:.8rem;font-weight:400;color:var(--soft)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;margin:.4rem 0 .8rem}
th,td{padding:.38rem .55rem;text-align:right;vertical-align:top;border-bottom:1px solid var(--line);
font-variant-numeric:tabular-nums;white-space:nowrap}
thead th{color:var(--soft);font-weight:500;font-size:.82rem;border-bottom-width:2px;vertical-align:bottom}
th:first-child{text-align:left;padding-left:0;width:100%;min-width:9rem;white-space:normal;font-weight:400;
overflow-wrap:anywhere}
td:last-child,thead th:last-child{padding-right:0}
tr.strong th,tr.strong td{font-weight:600}
tr.strong small{font-weight:400}
td small{display:block;color:var(--soft);font-weight:400;line-height:1.2}
.name small{color:var(--soft);margin-left:.5em}
.name small.place{display:block;margin:0}
.bar{display:block;width:100%;height:9px;margin-top:.3rem}
.bar.two{height:15px}
.kept{fill:var(--kept);background:var(--kept)}.kept2{fill:var(--kept2);background:var(--kept2)}
.lost{fill:var(--lost);background:var(--lost)}.lost2{fill:var(--lost2);background:var(--lost2)}
.rest{fill:var(--rest);background:var(--rest)}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.3rem;color:var(--soft);font-size:.85rem}
.legend span{display:inline-flex;gap:.4rem;align-items:center}
.legend i{width:.85rem;height:.85rem;border-radius:2px}
details{margin:.5rem 0}
summary{cursor:pointer;color:var(--link);overflow-wrap:anywhere}
.example{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.6rem .9rem;
margin:.5rem 0}
.example pre{margin:.2rem 0 .4rem;white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:plaintext;
max-height:15rem;
overflow-y:auto;font:13.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"Noto Sans Mono",
"Noto Sans CJK SC",monospace}
.segment{border-left:3px solid var(--kept2);padding-left:.6rem;margin:.6rem 0}
.example pre.tokens{max-height:24rem}
.tokens{line-height:1.9}
.tokens span,.tokens u{border-left:1px solid var(--line);text-decoration:none}
.tokens .target{border-left-color:var(--kept2);background:var(--rest);
text-decoration:underline 2px var(--kept);text-underline-offset:4px}
.tokens .special{border:1px solid var(--lost);border-radius:4px;padding:0 .15em;font-size:.85em}
.tokens .name{color:var(--soft);font-size:.75em;border:1px dotted var(--soft);border-radius:3px;
padding:0 .15em}
.meta{font-size:.82rem;margin:0;overflow-wrap:anywhere}
code{font-size:.88em;overflow-wrap:anywhere}
@media(max-width:32rem){body{padding:1rem .8rem 3rem;font-size:14px}th,td{padding:.35rem .35rem}
td{white-space:normal}td small{white-space:nowrap}
table,thead,tbody{display:block}tr{display:flex;flex-wrap:wrap;border-bottom:1px solid var(--line)}
th,td{border:0!important}td,th+th{flex:1 1 0}th:first-child{flex:1 0 100%}th:first-child:empty{display:none}
th:first-child{min-width:5.5rem}.name small{display:block;margin:0}thead th{white-space:normal}
.facts{grid-template-columns:1fr 1fr}.facts dd{font-size:1.15rem}}
@media print{body{max-width:none}.example pre{max-height:none}}
""".strip()
"""Part of the page, allowed there by its hash."""
